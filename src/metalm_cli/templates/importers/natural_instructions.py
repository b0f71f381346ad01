"""Natural Instructions: a task's definition and examples as templates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from metalm_cli.tasks import Card
from metalm_cli.templates.importers.draft import ImportRefused, TemplateDraft, TemplateDraftFile, as_jinja_string, slug

SHOWN = 2
"""Positive examples that the second template shows, as Tk-Instruct does by default."""
INPUT = "{{ input }}"
QUOTED = ("doubled-punctuation", "loose-punctuation", "lone-brace")
"""Rules that texts of others, quoted as they are, may break."""


def read(text: str, cards: Mapping[str, Card], source: str) -> list[TemplateDraftFile]:
    """Two templates of a task: its definition, and its definition with examples (after Tk-Instruct's encoding).

    Raises:
        Refused: The file is no task.
    """
    try:
        task = json.loads(text)
    except (ValueError, RecursionError, MemoryError) as error:
        raise ImportRefused(f"it is no JSON: {error}") from error
    if not isinstance(task, dict) or "Definition" not in task:
        raise ImportRefused("it is no task: it has no Definition")
    definition = _one_text(task["Definition"])
    if not definition:
        raise ImportRefused("its Definition is empty")
    name = slug(source.removesuffix(".json"), "_")
    file = TemplateDraftFile(name, source, cards.get(name))
    asked = f"Input: {INPUT}\nOutput:"
    file.drafts.append(
        TemplateDraft("definition", f"{as_jinja_string(definition)}\n\n{asked}", "{{ answer }}", allow=[*QUOTED])
    )
    shown = [_example(at, one) for at, one in enumerate(_examples(task), start=1)]
    if shown:
        parts = [definition, *shown, "Now complete this one."]
        whole = "\n\n".join(as_jinja_string(part) for part in parts)
        file.drafts.append(
            TemplateDraft("definition-and-examples", f"{whole}\n{asked}", "{{ answer }}", allow=[*QUOTED])
        )
    return [file]


def _examples(task: dict[str, Any]) -> list[dict[str, Any]]:
    found = task.get("Positive Examples", [])
    whole = [one for one in found if isinstance(one, dict) and one.get("input") and one.get("output")] if found else []
    return whole[:SHOWN]


def _example(at: int, one: dict[str, Any]) -> str:
    lines = [f"Example {at}", f"Input: {_one_text(one['input'])}", f"Output: {_one_text(one['output'])}"]
    why = _one_text(one.get("explanation", ""))
    return "\n".join([*lines, f"Why: {why}"] if why else lines)


def _one_text(value: Any) -> str:
    """A text, or the first of a list, its lines kept and its spaces squeezed."""
    if isinstance(value, list):
        value = value[0] if value else ""
    if not isinstance(value, str):
        raise ImportRefused(f"got {type(value).__name__}, expected a text")
    return "\n".join(" ".join(line.split()) for line in value.strip().splitlines())
