"""Base class of all sections of the schema, and the error for values that do not fit together."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_LEARNING_RATE = 10.0
"""Greatest learning rate of a recipe; AdamW changes a weight by about the learning rate in every step."""
TrainableLayers = Annotated[str, Field(pattern=r"^(all|none|last_[1-9][0-9]*)$", examples=["all", "none", "last_2"])]
"""Value of a key ``trains``."""
TRAINS_OF_A_PART = (
    "Trainable parameters: all, none, or last_N (the last N layers). Default: all; with model.checkpoint, the setting "
    "saved in it."
)
"""Description of ``trains`` of a part with one stack of layers."""


class InconsistentValues(ValueError):
    """Values that are valid individually but inconsistent with each other.

    Args:
        message: The values and what was expected.
        key: Key of the section that the user should look at; empty: the section itself.
        remedy: What to change.
        is_missing: The key needs a value and has none; a base recipe may leave it out.
        depends_on: Keys of the section whose values the problem follows from; it is left out if one is invalid.
    """

    def __init__(
        self,
        message: str,
        *,
        key: str = "",
        remedy: str = "",
        is_missing: bool = False,
        depends_on: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.depends_on = depends_on
        self.is_missing = is_missing
        self.key = key
        self.remedy = remedy


class Section(BaseModel):
    """A mapping of a recipe, card or template file. Unknown keys are errors; values are validated, never converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=False, allow_inf_nan=False)

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Groups of keys of which at most one may be set. Setting one in a later layer drops the others."""

    excludes: ClassVar[dict[str, tuple[str, ...]]] = {}
    """Keys that are dropped when a later layer sets another key, besides the groups of ``one_of``."""

    companions: ClassVar[dict[str, tuple[str, ...]]] = {}
    """Keys that are meaningless without another key, and are dropped when a later layer drops or replaces it."""

    renamed: ClassVar[dict[str, str]] = {}
    """Current names of keys by the names that earlier versions used."""

    renamed_values: ClassVar[dict[str, dict[str, str]]] = {}
    """Current names of values by the names that earlier versions used, for each key with renamed values."""

    unrecorded: ClassVar[dict[str, Any]] = {}
    """Values of keys in the records of earlier versions, which did not have these keys, where they are not the
    defaults."""

    @classmethod
    def takes_part_in_exclusion(cls, key: str, value: Any) -> bool:
        """Return whether a value of ``excludes`` drops other keys, and is dropped by them.

        Args:
            key: The key.
            value: Its value, as plain data; not None.
        """
        return True

    @model_validator(mode="after")
    def _at_most_one(self) -> Section:
        for group in self.one_of:
            set_keys = [key for key in group if getattr(self, key) is not None]
            if len(set_keys) > 1:
                raise InconsistentValues(
                    f"expected only one of {', '.join(group)}, got {' and '.join(set_keys)}",
                    key=set_keys[-1],
                    remedy=f"remove {' or '.join(set_keys)}",
                )
        return self


class DangerousOptions(Section):
    """Options that can harm your machine."""

    trust_remote_code: bool = Field(
        default=False, description="Run Python code that is part of a checkpoint. Such code has all your permissions."
    )
