"""Tables and sentences of a study's results: claims with verdicts, and scores of models side by side."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

from metalm_cli.common.table import counted
from metalm_cli.errors import MetalmError
from metalm_cli.studies.claims import Difference
from metalm_cli.studies.results import ClaimResult, StudyResults, TaskResult

Rows = tuple[list[str], list[list[str]]]
"""Headers and rows of a table."""


def difference_text(difference: Difference) -> str:
    """Format a difference with its interval."""
    low, high = difference.interval
    return f"{difference.value:+.1f} ({low:+.1f} to {high:+.1f})"


def _score_text(score: float | None) -> str:
    return "–" if score is None else f"{score:.1f}"


# -- claims -----------------------------------------------------------------------------------------------------------


def headline(results: Sequence[ClaimResult]) -> str:
    """One or two sentences: which model is better, where and how sure; then the number of claims by verdict."""
    judged = [result for result in results if result.verdict is not None]
    if not judged:
        return "No claim has a result yet."
    sentences = [headline_sentence(judged[0])]
    if len(results) > 1:
        verdicts: list[str | None] = [result.verdict for result in judged]
        words = {"agrees": "agree", "disagrees": "disagree", "undecided": "undecided"}
        counts = [f"{verdicts.count(verdict)} {word}" for verdict, word in words.items()]
        missing = len(results) - len(judged)
        counts += [f"{missing} without a result"] if missing else []
        sentences.append(f"Of {len(results)} claims, {', '.join(counts)}.")
    return " ".join(sentences)


def headline_sentence(result: ClaimResult) -> str:
    """One sentence on a claim: which model is better, where and how sure."""
    claim = result.claim
    if result.ratios:
        return f"{result.first} against {result.second}, {claim.measure} of an example: {ratio_text(result)}."
    where = f"{_tasks_text(result)}, {counted(result.seeds, 'seed')}"
    if result.difference is not None:
        value, (low, high) = result.difference.value, result.difference.interval
        first, second = result.first, result.second
        if value < 0:
            first, second, value, low, high = second, first, -value, -high, -low
        sure = "clear of 0" if low > 0 else "so the difference may be chance"
        return (
            f"{first} is ahead of {second} by {value:.1f} points on {where} (95% interval {low:+.1f} to {high:+.1f}, "
            f"{sure})."
        )
    agreeing = sum(task.verdict == "agrees" for task in result.tasks)
    behind = f", or at most {claim.margin:g} points behind," if claim.margin > 0 else ""
    if len(result.tasks) == 1:
        task = result.tasks[0]
        certainty = "is" if task.verdict == "agrees" else "is not reliably"
        return (
            f"{result.first} {certainty} {claim.direction} {result.second}{behind} on {where}: "
            f"{task.difference.first:.1f} against {task.difference.second:.1f}, difference "
            f"{difference_text(task.difference)} (95%)."
        )
    return (
        f"{result.first} is {claim.direction} {result.second}{behind} by a 95% interval on {agreeing} of {where} "
        f"(at least {result.at_least} needed)."
    )


def _tasks_text(result: ClaimResult) -> str:
    """Tasks of a claim in words: their names, or the mean that is compared."""
    names = [short_name(task.task) for task in result.tasks]
    if len(names) == 1:
        return names[0]
    if result.claim.over == "each":
        return f"{len(names)} tasks"
    if result.claim.over == "tasks":
        return f"the mean of {len(names)} tasks"
    return f"the mean of {len({task.cluster for task in result.tasks})} clusters ({len(names)} tasks)"


CLAIM_HEADERS = ["claim", "ours (95%)", "the paper", "verdict", "expected", "held"]


def claim_table(results: Sequence[ClaimResult]) -> Rows:
    """Headers and rows of the claims with their verdicts and expectations."""
    return CLAIM_HEADERS, [claim_row(result) for result in results]


def claim_row(result: ClaimResult) -> list[str]:
    """Cells of a claim."""
    held = {True: "yes", False: "no", None: "–"}[result.expectation_held]
    return [
        result.claim.name,
        ours_text(result),
        paper_text(result),
        result.verdict or "–",
        result.claim.expected,
        held,
    ]


def ours_text(result: ClaimResult) -> str:
    """Our result of a claim: scores and difference, or the number of tasks that agree."""
    if result.verdict is None:
        return result.missing
    if result.ratios:
        return ratio_text(result)
    if result.difference is not None:
        difference = result.difference
        return f"{difference.first:.1f} − {difference.second:.1f} = {difference_text(difference)}"
    if len(result.tasks) == 1:
        difference = result.tasks[0].difference
        return f"{difference.first:.1f} − {difference.second:.1f} = {difference_text(difference)}"
    agreeing = [short_name(task.task) for task in result.tasks if task.verdict == "agrees"]
    names = f" ({', '.join(agreeing)})" if agreeing else ""
    return f"{len(agreeing)} of {len(result.tasks)} tasks{names}; needed: {result.at_least}"


def ratio_text(result: ClaimResult) -> str:
    """Result of a claim about a cost: first divided by second, with its range over seeds, and the limit."""
    mean = sum(result.ratios) / len(result.ratios)
    over = f" ({min(result.ratios):.2f} to {max(result.ratios):.2f})" if len(result.ratios) > 1 else ""
    return f"{mean:.2f} times{over}; at most {result.claim.at_most:g} claimed"


COST_HEADERS = ["model", "decoder positions", "encoder positions", "ms", "GFLOPs", "peak memory, MiB"]


def cost_table(results: StudyResults) -> Rows:
    """Headers and rows of the cost of an example of each model, as means over seeds."""
    models = dict.fromkeys(model for _, names in results.evaluations.values() for model in names)
    rows = []
    for model in models:
        costs = results.costs(model)
        if not costs:
            continue
        count = len(costs)
        flops = [cost.flops for cost in costs if cost.flops is not None]
        memory = [cost.memory for cost in costs if cost.memory is not None]
        rows.append(
            [
                results.labels[model],
                f"{sum(cost.positions for cost in costs) / count:.1f}",
                f"{sum(cost.encoder_positions for cost in costs) / count:.1f}",
                f"{sum(cost.milliseconds for cost in costs) / count:.1f}",
                f"{sum(flops) / len(flops) / 1e9:.2f}" if flops else "–",
                f"{max(memory) / 2**20:,.0f}" if memory else "–",
            ]
        )
    return COST_HEADERS, rows


def paper_text(result: ClaimResult) -> str:
    """The paper's figures for a claim."""
    paper = result.claim.paper
    if paper is None:
        return "–"
    scores = ""
    if paper.first is not None and paper.second is not None:
        scores = f"{paper.first:.1f} − {paper.second:.1f} = {paper.first - paper.second:+.1f}"
    elif paper.first is not None:
        scores = f"{paper.first:.1f}"
    return "; ".join(filter(None, [scores, paper.text, paper.where]))


# -- scores -----------------------------------------------------------------------------------------------------------


def pair_table(results: StudyResults, evaluation: str, first: str, second: str | None) -> Rows:
    """Headers and rows of the scores of two models by task, with the means over clusters if there are several.

    A star marks held-out tasks, unless all tasks are held out. A single model has no column for the difference.
    """
    rows = results.task_results(evaluation, first, second or first)
    all_shots = results.shots(evaluation)
    with_shots = len(all_shots) > 1
    stars = not all(row.held_out for row in rows)
    label = results.labels[first]
    headers = ["task", *(["shots"] if with_shots else []), "chance"]
    headers += [f"{label} (95%)"] if second is None else [label, results.labels[second], "difference (95%)"]

    def cells(name: str, shots: int, chance: float | None, difference: Difference) -> list[str]:
        start = [name, *([str(shots)] if with_shots else []), _score_text(chance)]
        if second is None:
            low, high = difference.first_interval
            return [*start, f"{difference.first:.1f} ({low:.1f} to {high:.1f})"]
        return [*start, _score_text(difference.first), _score_text(difference.second), difference_text(difference)]

    table = [
        cells(short_name(row.task) + (" *" if row.held_out and stars else ""), row.shots, row.chance, row.difference)
        for row in rows
    ]
    for shots in all_shots:
        of_shots = [row for row in rows if row.shots == shots]
        clusters = len({row.cluster for row in of_shots})
        if clusters > 1 and second is not None:
            mean = results.mean_difference(evaluation, first, second, shots=shots)
            table.append(cells(f"mean of {clusters} clusters", shots, None, mean))
    return headers, table


def conclusions(results: StudyResults, evaluation: str, first: str, second: str) -> list[str]:
    """Sentences with the conclusions that the intervals support."""
    rows = results.task_results(evaluation, first, second)
    if not rows:
        return []
    with_shots = len({row.shots for row in rows}) > 1
    label, other = results.labels[first], results.labels[second]

    def names(selected: Iterable[TaskResult]) -> str:
        shots_by_task: dict[str, list[str]] = {}
        for row in selected:
            shots_by_task.setdefault(short_name(row.task), []).append(str(row.shots))
        parts = (f"{task} ({', '.join(counts)}-shot)" if with_shots else task for task, counts in shots_by_task.items())
        return ", ".join(parts) or "none"

    with_chance = [row for row in rows if row.chance is not None]
    above = [
        [row for row in with_chance if _interval_of(row, side)[0] > (row.chance or 0.0)] for side in ("first", "second")
    ]
    better = [row for row in rows if row.difference.interval[0] > 0]
    worse = [row for row in rows if row.difference.interval[1] < 0]
    equal = [row for row in rows if row.difference.is_zero]
    undecided = len(rows) - len(better) - len(worse) - len(equal)
    seeds = len(rows[0].difference.by_seed)
    over = "examples and seeds" if seeds > 1 else "examples only"
    return [
        f"Above chance (95% interval), of {len(with_chance)}: {label} {names(above[0])}; {other} {names(above[1])}.",
        f"Different (95% interval), of {len(rows)}: {label} better on {names(better)}; {other} better on {names(worse)}"
        + (f"; equal on {names(equal)}" if equal else "")
        + (f"; on the other {undecided} the difference may be chance." if undecided else "."),
        f"{counted(seeds, 'seed')}, intervals over {over}: of {len(rows)} intervals, about "
        f"{max(round(len(rows) / 20, 1), 0.1):g} would exclude 0 by chance.",
    ]


def _interval_of(row: TaskResult, side: str) -> tuple[float, float]:
    return row.difference.first_interval if side == "first" else row.difference.second_interval


def short_name(task: str) -> str:
    """Name of a task without the prefix of the miniature world."""
    return task.removeprefix("world_")


# -- decoder hash -----------------------------------------------------------------------------------------------------


MAX_HEADER_BYTES = 100_000_000
"""Largest header of a safetensors file in bytes, by its format."""


def decoder_hash(model: Path) -> str:
    """SHA-256 of names, shapes, types and bytes of the decoder's tensors in a model file.

    Raises:
        MetalmError: The file cannot be read.
    """
    path = model / "model.safetensors"
    state = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(size, MAX_HEADER_BYTES)))
            names = sorted(name for name in header if name.startswith("decoder."))
            if not names:
                raise ValueError("the file has no decoder tensors")
            for name in names:
                begin, end = header[name]["data_offsets"]
                state.update(f"{name} {header[name]['shape']} {header[name]['dtype']}\n".encode())
                file.seek(8 + size + begin)
                state.update(file.read(end - begin))
    except (OSError, ValueError, KeyError, struct.error) as error:
        raise MetalmError("the model cannot be read", where=str(path), why=str(error)) from error
    return state.hexdigest()
