"""What a user asks of an evaluation: tasks and settings, from arguments and a suite, before a model is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, get_args

from metalm_cli.data.examples.truncation import EncoderLimit
from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.select_tasks import TaskSelection, select_tasks
from metalm_cli.evaluation.settings import PROTOCOLS, EvaluationSettings
from metalm_cli.templates.render import DemonstrationLayout, Route

AUTO = "auto"
"""Protocol that the training of the model decides."""
LEAST_VALUES = {"limit": 1, "length": 16, "batch_size": 1, "max_answer_tokens": 1, "samples": 1, "seed": 0}
"""Least value of each number."""


class Suite(Protocol):
    """Tasks with their settings; None or empty where the suite leaves a setting open."""

    @property
    def tasks(self) -> Sequence[str]:
        """Names of tasks, clusters and groups."""

    @property
    def shots(self) -> Sequence[int] | None:
        """Numbers of demonstrations."""

    @property
    def protocol(self) -> str | None:
        """Protocol."""

    @property
    def templates(self) -> str | None:
        """Collection of templates."""

    @property
    def aggregate(self) -> str | None:
        """Name of the aggregate of the scores."""


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
    draw_per_example: bool = False
    max_answer_tokens: int | None = None
    normalise: bool = False
    samples: int = 1
    temperature: float = 0.7
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            MetalmError: A value is unknown or out of range.
        """
        for name, value, allowed in (
            ("protocol", self.protocol, (None, AUTO, *PROTOCOLS)),
            ("layout", self.style.get("layout"), (None, *get_args(DemonstrationLayout))),
            ("route", self.style.get("route"), (None, *get_args(Route))),
        ):
            check_choice(name, value, allowed)
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

    def with_suite(self) -> EvaluationRequest:
        """Return the request with the settings of its suite where it leaves them open.

        Raises:
            MetalmError: The suite is unknown or invalid, or tasks are selected beside it.
        """
        if self.suite is None:
            return self
        suite = find_suite(self.suite)
        if self.tasks or self.clusters:
            raise MetalmError(
                "a suite and tasks are selected", remedy="select either a suite, or tasks and clusters by name"
            )
        return replace(
            self,
            suite=None,
            tasks=tuple(suite.tasks),
            protocol=self.protocol if self.protocol not in (None, AUTO) else suite.protocol,
            shots=self.shots if self.shots is not None or suite.shots is None else tuple(suite.shots),
            templates=self.templates if self.templates is not None else suite.templates,
        )

    def select(self) -> TaskSelection:
        """Select the tasks.

        Raises:
            MetalmError: No tasks are selected, or a name is unknown.
        """
        request = self.with_suite()
        return select_tasks(
            request.tasks, request.clusters, card_folders=request.card_folders, all_cards=request.all_cards
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
            draw_per_example=self.draw_per_example,
            max_answer_tokens=self.max_answer_tokens,
            normalise=self.normalise,
            samples=self.samples,
            temperature=self.temperature,
            seed=self.seed,
        )


def find_suite(suite: str | Path | Suite) -> Suite:
    """Return a suite, by name or file if it is not one.

    Raises:
        MetalmError: There is no such suite.
    """
    if not isinstance(suite, str | Path):
        return suite
    # Suites by name are loaded here: metalm_cli.evaluation.suites.load_suite(suite).
    raise MetalmError(f"no suite is named {suite}", remedy="select tasks and clusters by name")


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
