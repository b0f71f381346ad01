"""Base."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator


class InconsistentValues(ValueError):
    """Values that are right one by one and wrong together.

    Args:
        message: What was got and what was expected.
        key: Key of the section that the user should look at; empty: the section itself.
        remedy: What to change.
    """

    def __init__(self, message: str, *, key: str = "", remedy: str = "") -> None:
        super().__init__(message)
        self.key = key
        self.remedy = remedy


class Section(BaseModel):
    """A mapping in a recipe. Unknown keys are errors; values are checked, never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=False, allow_inf_nan=False)

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Groups of keys of which at most one may be set. Setting one in a later layer drops the others."""

    excludes: ClassVar[dict[str, tuple[str, ...]]] = {}
    """Keys that go when another is set in a later layer, besides those of ``one_of``."""

    companions: ClassVar[dict[str, tuple[str, ...]]] = {}
    """Keys that mean nothing without another, and go when a later layer drops or replaces it."""

    renamed: ClassVar[dict[str, str]] = {}
    """Keys by the names that earlier versions gave them."""

    renamed_values: ClassVar[dict[str, dict[str, str]]] = {}
    """Values by the names that earlier versions gave them, for each key that has such values."""

    @model_validator(mode="after")
    def _at_most_one(self) -> Section:
        for group in self.one_of:
            given = [key for key in group if getattr(self, key) is not None]
            if len(given) > 1:
                raise InconsistentValues(
                    f"expected only one of {', '.join(group)}, got {' and '.join(given)}",
                    key=given[-1],
                    remedy=f"remove {' or '.join(given)}",
                )
        return self


class Dangerous(Section):
    """Options that can harm this machine."""

    trust_remote_code: bool = Field(
        default=False, description="Run Python code that a checkpoint brings along. It can do anything you can."
    )
