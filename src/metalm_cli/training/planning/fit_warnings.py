"""Warnings of a plan about examples that are replaced, by task and reason, with the setting to change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from metalm_cli.data.examples.pack_examples import TaskSession
from metalm_cli.data.examples.session_writer import EMPTY, TOO_LONG, SessionBuilder

SHOWN_TEMPLATES = 3
"""Templates that a warning names."""


def fit_warnings(builder: SessionBuilder, sessions: Sequence[TaskSession]) -> list[str]:
    """Warn of sampled examples that are replaced by others of their task.

    They do not fit even after truncation, or their template renders an empty input or target.

    Args:
        builder: Builder of the sessions.
        sessions: A sample of sessions.

    Returns:
        Warnings for each task with such examples: their number, the reasons or templates, and what to change.
    """
    sampled = Counter(sample.task for sample in sessions)
    reasons: dict[int, Counter[tuple[str, str]]] = {}
    empty_templates: dict[int, Counter[str]] = {}
    for sample in sessions:
        if sample.counts.get(EMPTY):
            template = builder.corpus.get(sample.number).template
            empty_templates.setdefault(sample.task, Counter())[template.name] += 1
        if sample.counts.get(TOO_LONG):
            planned = builder.corpus.get(sample.number)
            session = builder.prompts_of(planned.task, planned.template).session(planned.example, with_answer=True)
            reasons.setdefault(sample.task, Counter())[builder.limits.obstacle(session)] += 1
    return [
        *(_warning(builder, task, sampled[task], counts) for task, counts in reasons.items()),
        *(_empty_warning(builder, task, sampled[task], counts) for task, counts in empty_templates.items()),
    ]


def _warning(builder: SessionBuilder, task: int, sampled: int, reasons: Counter[tuple[str, str]]) -> str:
    card = builder.corpus.tasks[task].card
    limits = ", ".join(
        reason if len(reasons) == 1 else f"{reason} ({count})" for (reason, _), count in reasons.most_common()
    )
    remedies = list(dict.fromkeys(remedy for _, remedy in reasons if remedy))
    if card.long_inputs is None:
        remedies.append("name the field to truncate in the card (long_inputs)")
    return (
        f"warning: {card.name}: {sum(reasons.values()):,} of {sampled:,} sampled examples do not fit: {limits}; "
        f"others of the task replace them; {', or '.join(remedies) or 'leave the task out'}"
    )


def _empty_warning(builder: SessionBuilder, task: int, sampled: int, templates: Counter[str]) -> str:
    names = ", ".join(f"{name} ({count})" for name, count in templates.most_common(SHOWN_TEMPLATES))
    more = f" and {len(templates) - SHOWN_TEMPLATES} more" if len(templates) > SHOWN_TEMPLATES else ""
    return (
        f"warning: {builder.corpus.tasks[task].card.name}: {templates.total():,} of {sampled:,} sampled examples are "
        f"left out by their template, which renders an empty input or target: {names}{more}; others of the task "
        "replace them"
    )
