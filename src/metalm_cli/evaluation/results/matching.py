"""Matching of result files: which of two runs are comparable, and the options that would make others so."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.results.comparison import DRAW_SETTINGS, incomparable_because
from metalm_cli.evaluation.results.result_reader import read_result, result_files
from metalm_cli.evaluation.results.schema import ResultRecord
from metalm_cli.templates import PromptStyle

DEFAULTS: dict[str, Any] = {
    "limit": None,
    "demonstrations": "frozen",
    "seed": 0,
    "sequence_length": None,
    "max_answer_tokens": None,
    "samples": 1,
    "temperature": None,
}
"""Settings that an evaluation has without their option; others follow the training of the model."""
OPTIONS = {
    "templates": "--templates",
    "template": "--template",
    **{name: f"--{name.replace('_', '-')}" for name in DEFAULTS},
    "samples": "--sampled-answers",
}
"""Options of ``metalm evaluate`` with a value, by the setting in a result file."""
STYLE_OPTIONS = {"layout": "--demonstration-layout", "route": "--input-route", "encoder": "--encoder"}
"""Options with a value, by the field of the style."""
STYLE_SWITCHES = {"options": "show-options", "rationale": "rationales"}
"""Switches, by the field of the style."""
MAX_NAMED_FILES = 8
"""Maximum number of files that an error names."""


@dataclass(frozen=True)
class FilePair:
    """Two result files.

    Args:
        first: Path and record of the first file.
        second: Path and record of the second file.
        common: Tasks with numbers of demonstrations that both have.
        comparable: Those whose scores are comparable.
    """

    first: tuple[Path, ResultRecord]
    second: tuple[Path, ResultRecord]
    common: tuple[tuple[str, int], ...]
    comparable: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, first: tuple[Path, ResultRecord], second: tuple[Path, ResultRecord]) -> FilePair:
        """Build the pair of two files."""
        common = [case for case in _cases(first[1]) if case in set(_cases(second[1]))]
        comparable = [case for case in common if not incomparable_because(first[1], second[1], *case)]
        return cls(first, second, tuple(common), tuple(comparable))

    @property
    def has_one_name(self) -> bool:
        """Whether both files have the same name in their folders."""
        return self.first[0].name == self.second[0].name


def comparable_pair(first: Path, second: Path) -> FilePair:
    """Find the result files of two arguments: the pair with the most comparable scores.

    Of equally many, a pair of files with the same name is preferred, then the newest files.

    Args:
        first: A result file, or a run folder.
        second: A result file, or a run folder.

    Raises:
        MetalmError: No scores are comparable though a folder has several files, both arguments are the same file, or a
            file cannot be read.
    """
    candidates = [[(path, read_result(path)) for path in result_files(source)] for source in (first, second)]
    pairs = [
        FilePair.of(left, right)
        for left in candidates[0]
        for right in candidates[1]
        if left[0].resolve() != right[0].resolve()
    ]
    if not pairs:
        raise MetalmError("both arguments are the same file", where=str(first), remedy="pass two different files")
    best = max(enumerate(pairs), key=lambda item: (len(item[1].comparable), item[1].has_one_name, item[0]))[1]
    if best.comparable or len(pairs) == 1:
        return best
    best = max(enumerate(pairs), key=lambda item: (len(item[1].common), item[0]))[1]
    index = max((0, 1), key=lambda side: len(candidates[side]))
    names = [path.name for path, _ in candidates[index]]
    command = command_to_match(best.first[1], best.second[1], best.common)
    raise MetalmError(
        f"no result file of {second} is comparable with one of {first}",
        why=f"{(first, second)[index]} has {len(names)} result files: {', '.join(names[-MAX_NAMED_FILES:])}",
        remedy=f"run {command}, or name two files" if command else "name two files, to see why",
    )


def command_to_match(first: ResultRecord, second: ResultRecord, cases: Sequence[tuple[str, int]]) -> str:
    """Return the command that scores the second model as the first one was; empty if no option makes them comparable.

    Args:
        first: The first file.
        second: The second file.
        cases: Tasks with numbers of demonstrations whose scores are not comparable; none: all of the first file.
    """
    wanted = list(cases) or _cases(first)
    shots = list(dict.fromkeys(number for _, number in wanted))
    draws = any(shots) or any((record.settings.get("samples") or 1) > 1 for record in (first, second))
    ignored = () if draws else DRAW_SETTINGS
    options = [
        [_options(record, ignored) for record in (first, second)],
        [_splits(first, second), _splits(second, first)],
    ]
    if cases and all(ours == theirs for ours, theirs in options):
        return ""
    tasks = [word for name in dict.fromkeys(name for name, _ in wanted) for word in ("--task", name)]
    numbers = [] if shots == [0] else ["--shots", ",".join(map(str, shots))]
    splits = options[1][0] if options[1][0] != options[1][1] else []
    return shlex.join(["metalm", "eval", second.source, *tasks, *numbers, *options[0][0], *splits])


def _options(record: ResultRecord, ignored: Sequence[str]) -> list[str]:
    """Options with which a model is evaluated as in a result file, apart from tasks, demonstrations and split."""
    options = ["--protocol", record.protocol]
    for key, option in OPTIONS.items():
        value = record.settings.get(key)
        if value is not None and value != DEFAULTS.get(key) and key not in ignored:
            options += [option, str(value)]
    options += ["--normalise"] if record.settings.get("normalise") else []
    exchanged = record.settings.get("exchange_docks")
    options += ["--exchange-docks", exchanged] if exchanged else []
    style = record.settings.get("style") or {}
    for field, value in asdict(PromptStyle()).items():
        if style.get(field, value) == value:
            continue
        if field in STYLE_OPTIONS:
            options += [STYLE_OPTIONS[field], str(style[field])]
        elif field in STYLE_SWITCHES:
            options.append(f"--{'' if style[field] else 'no-'}{STYLE_SWITCHES[field]}")
    return options


def _splits(record: ResultRecord, other: ResultRecord) -> list[str]:
    """Option of the split of the tasks that another file has, if it is a single one."""
    splits = {task.split for name, task in record.tasks.items() if name in other.tasks}
    return ["--split", *splits] if len(splits) == 1 else []


def _cases(record: ResultRecord) -> list[tuple[str, int]]:
    return [(name, setting.shots) for name, task in record.tasks.items() for setting in task.settings]
