"""Warnings of a plan about examples that do not fit, by task and reason, with the setting to change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from metalm_cli.data.examples.pack_examples import TaskSession
from metalm_cli.data.examples.session_writer import SessionBuilder


def fit_warnings(builder: SessionBuilder, sessions: Sequence[TaskSession]) -> list[str]:
    """Warn of sampled examples that do not fit even after truncation, and are replaced by others of their task.

    Args:
        builder: Builder of the sessions.
        sessions: A sample of sessions.

    Returns:
        A warning for each task with such examples: their number, the reasons, and what to change.
    """
    sampled = Counter(sample.task for sample in sessions)
    reasons: dict[int, Counter[tuple[str, str]]] = {}
    for sample in sessions:
        if sample.counts.get("too_long_examples"):
            planned = builder.corpus.get(sample.number)
            session = builder.prompts_of(planned.task, planned.template).session(planned.example, with_answer=True)
            reasons.setdefault(sample.task, Counter())[builder.limits.obstacle(session)] += 1
    return [_warning(builder, task, sampled[task], counts) for task, counts in reasons.items()]


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
