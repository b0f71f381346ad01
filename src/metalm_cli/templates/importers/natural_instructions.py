"""Importer of Natural Instructions: a task's definition and examples become templates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from metalm_cli.tasks import Card
from metalm_cli.templates.importers.draft import (
    ImportRefused,
    TemplateDraft,
    TemplateDraftFile,
    TemplateImporter,
    as_jinja_string,
    short_name,
)

MAX_EXAMPLES = 2
"""Number of positive examples in the second template, Tk-Instruct's default."""
INPUT_EXPRESSION = "{{ input }}"
ALLOWED_RULES = ("doubled-punctuation", "loose-punctuation", "lone-brace")
"""Linter rules that quoted texts may break."""


def read(text: str, cards: Mapping[str, Card], source: str) -> list[TemplateDraftFile]:
    """Read the two templates of a task: its definition, and its definition with examples (as Tk-Instruct encodes them).

    Raises:
        ImportRefused: The file is not a task.
    """
    try:
        task = json.loads(text)
    except (ValueError, RecursionError, MemoryError) as error:
        raise ImportRefused(f"not valid JSON: {error}") from error
    if not isinstance(task, dict) or "Definition" not in task:
        raise ImportRefused("missing: Definition")
    definition = _one_text(task["Definition"])
    if not definition:
        raise ImportRefused("the Definition is empty")
    name = short_name(source.removesuffix(".json"), "_")
    file = TemplateDraftFile(name, source, cards.get(name))
    query = f"Input: {INPUT_EXPRESSION}\nOutput:"
    file.drafts.append(
        TemplateDraft("definition", f"{as_jinja_string(definition)}\n\n{query}", "{{ answer }}", allow=[*ALLOWED_RULES])
    )
    examples = [_format_example(number, example) for number, example in enumerate(_positive_examples(task), start=1)]
    if examples:
        parts = [definition, *examples, "Now complete this one."]
        instruction = "\n\n".join(as_jinja_string(part) for part in parts)
        file.drafts.append(
            TemplateDraft("definition-and-examples", f"{instruction}\n{query}", "{{ answer }}", allow=[*ALLOWED_RULES])
        )
    return [file]


def _positive_examples(task: dict[str, Any]) -> list[dict[str, Any]]:
    examples = task.get("Positive Examples")
    complete = [
        example
        for example in (examples if isinstance(examples, list) else [])
        if isinstance(example, dict) and example.get("input") and example.get("output")
    ]
    return complete[:MAX_EXAMPLES]


def _format_example(number: int, example: dict[str, Any]) -> str:
    lines = [f"Example {number}", f"Input: {_one_text(example['input'])}", f"Output: {_one_text(example['output'])}"]
    explanation = _one_text(example.get("explanation", ""))
    return "\n".join([*lines, f"Why: {explanation}"] if explanation else lines)


def _one_text(value: Any) -> str:
    """Return a text, or the first text of a list; keep its lines and collapse its spaces."""
    if isinstance(value, list):
        value = value[0] if value else ""
    if not isinstance(value, str):
        raise ImportRefused(f"got {type(value).__name__}, expected a text")
    return "\n".join(" ".join(line.split()) for line in value.strip().splitlines())


IMPORTER = TemplateImporter(".json", read)
