"""Answers and sessions as the page shows them: spans with their kinds, and whether the answer is right."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from metalm_cli.reports.reading.evaluation_summary import AnswerSample, EvaluationSummary
from metalm_cli.reports.reading.run_summary import RunSummary
from metalm_cli.reports.reading.session_spans import DOCKED, READ, TRAINED

View = dict[str, Any]
TASKS = 60
"""Tasks of an evaluation of which answers are shown."""
TOLD = {DOCKED: "docked: read by an encoder", READ: "causal: read by the decoder", TRAINED: "trained: predicted"}


def answer_views(scored: Sequence[tuple[str, EvaluationSummary]], each: int, characters: int) -> list[View]:
    """Some right and some wrong answers of each task, in its first template.

    Args:
        scored: Evaluations under their names.
        each: So many right ones and as many wrong ones.
        characters: Of an input.
    """
    found = []
    for label, evaluation in scored:
        tasks = list(dict.fromkeys(one.task for one in evaluation.answers))[:TASKS]
        for task in tasks:
            mine = [one for one in evaluation.answers if one.task == task]
            first = [one for one in mine if (one.template, one.shots) == (mine[0].template, mine[0].shots)]
            for right in (False, True):
                alike = [one for one in first if _right(one) is right]
                found += [_answer(one, label, evaluation, characters) for one in alike[:each]]
    return found


def _right(one: AnswerSample) -> bool:
    """Whether an answer counts as right: what is scored by degrees, from half on."""
    return one.score >= 0.5 if one.score is not None else one.said.strip() == one.target.strip()


def _answer(one: AnswerSample, label: str, evaluation: EvaluationSummary, characters: int) -> View:
    degrees = one.score is not None and one.score not in (0.0, 1.0)
    verdict = "right" if _right(one) else "wrong"
    meta = f"{one.task}, row {one.row} · {one.template} · {one.shots}-shot · {label}"
    return {
        "task": one.task,
        "verdict": verdict,
        "mark": ("✓ right" if verdict == "right" else "✗ wrong") + (f" ({one.score:.2f})" if degrees else ""),
        "meta": meta,
        "target": cut(one.target, 300),
        "parts": [
            _part(_given(evaluation), cut(one.given, characters)),
            _part("gap", " "),
            _part(TRAINED, one.said[:300] or "(nothing)"),
        ],
    }


def _given(evaluation: EvaluationSummary) -> str:
    """What an input is to the model: docked, unless it has no encoders or was told to read all by its decoder."""
    route = evaluation.settings.get("style", {}).get("route")
    return DOCKED if evaluation.model.get("encoders") and route != "decoder" else READ


def row_views(runs: Iterable[RunSummary], characters: int) -> list[View]:
    """The first rows that runs trained on."""
    found = []
    for run in runs:
        for one in run.sessions.get("rows", []):
            parts: list[View] = []
            last, left = None, 2 * characters
            for session, kind, encoder, text, positions in one["spans"]:
                if left <= 0:
                    break
                if last not in (None, session):
                    parts.append(_part("break", ""))
                last, shown = session, cut(text, left)
                left -= len(shown)
                of = f" ({encoder})" if encoder else ""
                parts.append(_part(kind, _lines(shown), f"{TOLD[kind]}{of}, {positions} positions"))
            if parts:
                found.append({"title": f"{run.name} · trained on: {one.get('title', '')}", "parts": parts})
    return found


def said_views(runs: Iterable[RunSummary], characters: int) -> list[View]:
    """What models went on with at their last validation."""
    found = []
    for run in runs:
        docked = bool(run.recipe.get("model", {}).get("encoders")) or _docks(run)
        for given, more in run.sessions.get("said", []):
            start = _part(DOCKED if docked else READ, cut(given, characters))
            parts = [start, _part("gap", " "), _part(TRAINED, cut(more, characters))]
            found.append({"title": f"{run.name} · goes on with held-out text, at its last validation", "parts": parts})
    return found


def _docks(run: RunSummary) -> bool:
    return any(span[1] == DOCKED for one in run.sessions.get("rows", []) for span in one["spans"])


def _lines(text: str) -> str:
    """Text with its line ends to be seen, and empty lines closed up: a row is looked at for its spans."""
    return re.sub(r"\n+", lambda ends: "↵" * len(ends[0]) + "\n", text)


def _part(kind: str, text: str, title: str = "") -> View:
    return {"kind": kind, "text": text, "title": title or TOLD.get(kind, "")}


def cut(text: str, most: int) -> str:
    """A text's beginning and end, if it is longer: questions tend to stand at the end."""
    if len(text) <= most:
        return text
    head = most * 2 // 3
    return f"{text[:head]} […] {text[-(most - head) :]}"
