"""Views of answers and sessions for the page: spans with their kinds, and whether an answer is right."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from metalm_cli.evaluation.results.schema import SampleRecord
from metalm_cli.reports.reading.evaluation_summary import EvaluationSummary
from metalm_cli.reports.reading.run_summary import RunSummary
from metalm_cli.reports.reading.session_spans import CAUSAL, DOCKED, TRAINED

View = dict[str, Any]
MAX_TASKS = 60
"""Tasks per evaluation whose answers are shown."""
SPAN_TITLES = {
    DOCKED: "docked: read by an encoder",
    CAUSAL: "causal: read by the decoder",
    TRAINED: "trained: predicted",
}


def answer_views(scored: Sequence[tuple[str, EvaluationSummary]], per_verdict: int, max_characters: int) -> list[View]:
    """Views of some right and some wrong answers of each task, in its first template.

    Args:
        scored: Evaluations with their labels.
        per_verdict: Number of right answers, and of wrong answers, per task.
        max_characters: Length of an input.
    """
    views = []
    for label, evaluation in scored:
        tasks = list(dict.fromkeys(answer.task for answer in evaluation.answers))[:MAX_TASKS]
        for task in tasks:
            task_answers = [answer for answer in evaluation.answers if answer.task == task]
            template_answers = [
                answer
                for answer in task_answers
                if (answer.template, answer.shots) == (task_answers[0].template, task_answers[0].shots)
            ]
            for is_right in (False, True):
                matching = [answer for answer in template_answers if _is_right(answer) is is_right]
                views += [_answer_view(answer, label, evaluation, max_characters) for answer in matching[:per_verdict]]
    return views


def _is_right(answer: SampleRecord) -> bool:
    """Whether an answer counts as right: with a score of at least 0.5, or else if it equals the target."""
    return answer.score >= 0.5 if answer.score is not None else answer.prediction.strip() == answer.target.strip()


def _answer_view(answer: SampleRecord, label: str, evaluation: EvaluationSummary, max_characters: int) -> View:
    graded = answer.score is not None and answer.score not in (0.0, 1.0)
    verdict = "right" if _is_right(answer) else "wrong"
    meta = f"{answer.task}, row {answer.row} · {answer.template} · {answer.shots}-shot · {label}"
    return {
        "task": answer.task,
        "verdict": verdict,
        "mark": ("✓ right" if verdict == "right" else "✗ wrong") + (f" ({answer.score:.2f})" if graded else ""),
        "meta": meta,
        "target": shorten(answer.target, 300),
        "parts": [
            _part(_input_kind(evaluation), shorten(answer.input, max_characters)),
            _part("gap", " "),
            _part(TRAINED, answer.prediction[:300] or "(empty)"),
        ],
    }


def _input_kind(evaluation: EvaluationSummary) -> str:
    """Span kind of an input: docked, unless the model has no encoders or its decoder reads the input."""
    route = evaluation.record.settings.get("style", {}).get("route")
    return DOCKED if evaluation.record.model.get("encoders") and route != "decoder" else CAUSAL


def row_views(runs: Iterable[RunSummary], max_characters: int) -> list[View]:
    """Views of the first rows that runs were trained on."""
    views = []
    for run in runs:
        for row in run.sessions.get("rows", []):
            parts: list[View] = []
            last_session, remaining = None, 2 * max_characters
            for session, kind, encoder, text, positions in row["spans"]:
                if remaining <= 0:
                    break
                if last_session not in (None, session):
                    parts.append(_part("break", ""))
                last_session, excerpt = session, shorten(text, remaining)
                remaining -= len(excerpt)
                encoder_note = f" ({encoder})" if encoder else ""
                parts.append(
                    _part(kind, _mark_line_ends(excerpt), f"{SPAN_TITLES[kind]}{encoder_note}, {positions} positions")
                )
            if parts:
                views.append({"title": f"{run.name} · trained on: {row.get('title', '')}", "parts": parts})
    return views


def continuation_views(runs: Iterable[RunSummary], max_characters: int) -> list[View]:
    """Views of the continuations that models generated at their last validation."""
    views = []
    for run in runs:
        docked = bool(run.recipe.get("model", {}).get("encoders")) or _reads_docked_text(run)
        for prompt, continuation in run.sessions.get("continuations", []):
            prompt_part = _part(DOCKED if docked else CAUSAL, shorten(prompt, max_characters))
            parts = [prompt_part, _part("gap", " "), _part(TRAINED, shorten(continuation, max_characters))]
            views.append(
                {"title": f"{run.name} · continuation of held-out text at the last validation", "parts": parts}
            )
    return views


def _reads_docked_text(run: RunSummary) -> bool:
    return any(span[1] == DOCKED for row in run.sessions.get("rows", []) for span in row["spans"])


def _mark_line_ends(text: str) -> str:
    """Text with a mark for each line end and without empty lines."""
    return re.sub(r"\n+", lambda match: "↵" * len(match[0]) + "\n", text)


def _part(kind: str, text: str, title: str = "") -> View:
    return {"kind": kind, "text": text, "title": title or SPAN_TITLES.get(kind, "")}


def shorten(text: str, max_characters: int) -> str:
    """Shorten a text to its beginning and end: questions tend to be at the end."""
    if len(text) <= max_characters:
        return text
    head_length = max_characters * 2 // 3
    return f"{text[:head_length]} […] {text[-(max_characters - head_length) :]}"
