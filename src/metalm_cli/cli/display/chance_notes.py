"""Notes on the tasks of result files whose scores are above the chance level."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metalm_cli.evaluation.results.schema import SettingRecord

MAX_NAMED_TASKS = 12
"""Maximum number of tasks that a note names."""


def above_chance(shots: int, files: Mapping[str, Mapping[str, SettingRecord | None]]) -> list[str]:
    """Name the tasks whose 95% interval is above the chance level, for each file by its letter."""
    above: list[str] = []
    known: set[str] = set()
    for letter, settings in files.items():
        flags = {name: setting.is_above_chance for name, setting in settings.items() if setting is not None}
        known.update(name for name, flag in flags.items() if flag is not None)
        names = [name for name, flag in flags.items() if flag]
        listed = ", ".join(names) or "none"
        above.append(f"{letter} {listed if len(names) <= MAX_NAMED_TASKS else f'{len(names)} tasks'}".strip())
    if not known:
        return []
    count = f"of {len(known)} task{'s' * (len(known) > 1)} with a chance level"
    return [f"above chance by the 95% interval ({shots}-shot, {count}): {'; '.join(above)}"]
