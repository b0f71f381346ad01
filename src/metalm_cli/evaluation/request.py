"""What a user asks of an evaluation: tasks and settings, from arguments and a suite, before a model is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from metalm_cli.common.slug import slug
from metalm_cli.data.examples.truncation import EncoderLimit
from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.resolve_settings import RECIPE_KEYS
from metalm_cli.evaluation.select_tasks import (
    TaskSelection,
    cards_of_run,
    files_of_cards,
    select_suite,
    select_tasks,
)
from metalm_cli.evaluation.settings import PROTOCOLS, EvaluationSettings
from metalm_cli.evaluation.suites import Suite, load_suite
from metalm_cli.evaluation.suites.settings import request_settings
from metalm_cli.tasks.registry import card_name, is_path
from metalm_cli.templates import PromptStyle
from metalm_cli.templates.render import STYLE_CHOICES, STYLE_NUMBERS, STYLE_TEXTS, is_style_value

AUTO = "auto"
"""Protocol that the training of the model decides."""
OPEN_SETTINGS = ("protocol", "split", "limit", "templates", "template", "draw_per_example", "normalise")
"""Settings of a request that a suite may leave open."""
STYLE_FIELDS = tuple(style_field.name for style_field in fields(PromptStyle))
"""Fields of a prompt style."""
LEAST_VALUES = {"limit": 1, "length": 16, "batch_size": 1, "max_answer_tokens": 1, "samples": 1, "seed": 0}
"""Least value of each number."""


@dataclass(frozen=True)
class EvaluationRequest:
    """Tasks and settings of an evaluation; None: the suite decides, else the model's training, else the default.

    Args:
        suite: Name or file of a suite, or a suite.
        tasks: Names of tasks, and paths of cards.
        clusters: Names of clusters and groups.
        card_folders: Folders of user cards.
        all_cards: Clusters also select cards that are not core.
        templates: Collection of templates.
        template: See :class:`~metalm_cli.evaluation.settings.EvaluationSettings`, as for all further settings.
        style: Fields of :class:`~metalm_cli.templates.PromptStyle` that are set.
        protocol: ``auto`` or None: as the model was trained.
    """

    suite: str | Path | Suite | None = None
    tasks: tuple[str, ...] = ()
    clusters: tuple[str, ...] = ()
    card_folders: tuple[Path, ...] = ()
    all_cards: bool = False
    templates: str | None = None
    template: str | None = None
    style: Mapping[str, Any] = field(default_factory=dict)
    protocol: str | None = None
    shots: tuple[int, ...] | None = None
    split: str | None = None
    limit: int | None = None
    length: int | None = None
    batch_size: int = 16
    also_fit: tuple[EncoderLimit, ...] = ()
    draw_per_example: bool | None = None
    max_answer_tokens: int | None = None
    end_tokens: tuple[str | int, ...] = ()
    normalise: bool | None = None
    samples: int = 1
    temperature: float = 0.7
    seed: int = 0
    exchange_docks: str = ""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            MetalmError: A value is unknown or out of range.
        """
        check_choice("protocol", self.protocol, (None, AUTO, *PROTOCOLS))
        self._check_style()
        numbers = {name: getattr(self, name) for name in LEAST_VALUES}
        for name, number, least in (
            *((name, number, LEAST_VALUES[name]) for name, number in numbers.items() if number is not None),
            *(("shots", number, 0) for number in self.shots or ()),
        ):
            if not isinstance(number, int) or isinstance(number, bool) or number < least:
                raise MetalmError(f"got {name} {number!r}, expected a whole number of at least {least}")
        if self.shots == ():
            raise MetalmError("shots has no numbers of demonstrations", remedy="pass shots=0, or several: shots=(0, 4)")
        if self.samples > 1 and self.temperature <= 0:
            raise MetalmError(f"got temperature {self.temperature}, expected a number above 0 for sampled answers")

    def _check_style(self) -> None:
        """Check the fields of the prompt style.

        Raises:
            MetalmError: A field or its value is unknown.
        """
        if not isinstance(self.style, Mapping):
            raise MetalmError(f"got style {self.style!r}, expected a mapping such as {{'options': False}}")
        for name, value in self.style.items():
            if name not in STYLE_FIELDS:
                raise MetalmError(f"style has no field {name}", why=f"its fields are {', '.join(STYLE_FIELDS)}")
            if name in STYLE_CHOICES:
                check_choice(name, value, STYLE_CHOICES[name])
            elif not is_style_value(name, value):
                kinds = {
                    **dict.fromkeys(STYLE_NUMBERS, "a whole number of at least 1"),
                    **dict.fromkeys(STYLE_TEXTS, "a name"),
                }
                expected = kinds.get(name, "True or False")
                raise MetalmError(f"got {name} {value!r} in style, expected {expected}")

    def with_suite(self) -> EvaluationRequest:
        """Return the request with its suite read, and with the settings of the suite where it leaves them open.

        Raises:
            MetalmError: The suite is unknown or invalid, or tasks are selected beside it.
        """
        if self.suite is None:
            return self
        others = [*self.tasks, *self.clusters, *(["all cards"] if self.all_cards else [])]
        if others:
            raise MetalmError(
                "a suite and tasks are selected",
                why=f"suite {getattr(self.suite, 'name', self.suite)}; {', '.join(others)}",
                remedy="select either a suite, or tasks and clusters by name",
            )
        suite = self.suite if isinstance(self.suite, Suite) else load_suite(self.suite)
        values, style = request_settings(suite)
        open_values = {name: value for name, value in values.items() if self._is_open(name)}
        return replace(self, suite=suite, style={**style, **self.style}, **open_values)

    def name_parts(self) -> tuple[str, ...]:
        """Parts of the name of a result file: the settings that are set, as ``limit-100`` and ``4-shot``."""
        parts = {
            "templates": self.templates,
            "template": self.template,
            "split": self.split,
            "limit": self.limit,
        }
        named = [f"{name}-{slug(str(value), '-', 24)}" for name, value in parts.items() if value is not None]
        shots = [f"{'-'.join(map(str, self.shots))}-shot"] if self.shots is not None else []
        samples = [f"{self.samples}-samples"] if self.samples > 1 else []
        exchanged = [f"exchanged-{slug(self.exchange_docks, '-', 24)}"] if self.exchange_docks else []
        return (*shots, *named, *samples, *(["normalised"] if self.normalise else []), *exchanged)

    def _is_open(self, name: str) -> bool:
        """Whether the request leaves a setting open."""
        return getattr(self, name) is None or (name == "protocol" and self.protocol == AUTO)

    def with_cards_of_run(self, source: str) -> EvaluationRequest:
        """Return the request with the cards that a run was trained with and that it names; its own take precedence.

        Args:
            source: The model, which has cards if it is a run folder, or a folder in one.
        """
        own = [*self.card_folders, *(Path(name) for name in self.tasks if is_path(name))]
        known = {card_name(file) for path in own for file in files_of_cards(path)}
        names = {name for name in self.tasks if not is_path(name)} - known
        run_cards = cards_of_run(source, names) if names else []
        return replace(self, card_folders=(*self.card_folders, *run_cards)) if run_cards else self

    def select(self, data_root: Path | None = None, offline: bool = False) -> TaskSelection:
        """Select the tasks.

        Args:
            data_root: Folder of local data sets, in which hub data sets are looked up first.
            offline: Open no connection.

        Raises:
            MetalmError: No tasks are selected, or a name is unknown.
        """
        request = self.with_suite()
        if isinstance(request.suite, Suite):
            return select_suite(request.suite, request.card_folders, request.changed_settings())
        return select_tasks(
            request.tasks,
            request.clusters,
            card_folders=request.card_folders,
            all_cards=request.all_cards,
            data_root=data_root,
            offline=offline,
        )

    def changed_settings(self) -> tuple[str, ...]:
        """Settings of the suite that the request replaces, as ``shots 4 instead of 0``."""
        if not isinstance(self.suite, Suite):
            return ()
        values, style = request_settings(self.suite)
        pairs = [(name, getattr(self, name), values.get(name)) for name in (*values, *OPEN_SETTINGS)]
        pairs += [(RECIPE_KEYS.get(name, name), value, style.get(name)) for name, value in self.style.items()]
        changes = {name: (mine, value) for name, mine, value in pairs if mine not in (None, AUTO, value)}
        return tuple(
            f"{'demonstrations' if name == 'draw_per_example' else name} {_describe(name, mine)} instead of "
            f"{_describe(name, value)}"
            for name, (mine, value) in changes.items()
        )

    @property
    def prompt_options(self) -> dict[str, Any]:
        """Template collection and fields of the prompt style that are set."""
        return {**({} if self.templates is None else {"collection": self.templates}), **self.style}

    def settings(self) -> EvaluationSettings:
        """Settings as far as the request decides them; protocol and template may be open."""
        return EvaluationSettings(
            template=self.template or "",
            split=self.split,
            limit=self.limit,
            length=self.length,
            batch_size=self.batch_size,
            also_fit=self.also_fit,
            protocol=self.protocol or AUTO,  # type: ignore[arg-type]
            shots=tuple(dict.fromkeys(self.shots or (0,))),
            draw_per_example=bool(self.draw_per_example),
            max_answer_tokens=self.max_answer_tokens,
            end_tokens=tuple(self.end_tokens),
            normalise=bool(self.normalise),
            samples=self.samples,
            temperature=self.temperature,
            seed=self.seed,
            exchange_docks=self.exchange_docks,
        )


def _describe(name: str, value: Any) -> str:
    if value is None:
        return "all" if name == "limit" else "the default"
    if name == "draw_per_example":
        return "drawn" if value else "frozen"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def check_choice(name: str, value: str | None, allowed: Sequence[str | None]) -> None:
    """Check a value that is a name.

    Args:
        name: Option or argument, for the message.
        value: Its value.
        allowed: Allowed values.

    Raises:
        MetalmError: The value is none of these.
    """
    if value not in allowed:
        raise MetalmError(
            f"unknown value {value} for {name}",
            why=f"expected one of {', '.join(filter(None, allowed))}",
            remedy="choose one of these",
        )
