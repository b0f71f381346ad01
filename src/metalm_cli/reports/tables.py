"""The tables of a report: the page and the terminal show the same ones."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metalm_cli.reports.reading.evaluation_summary import EvaluationSummary, as_number, clusters_of_tasks
from metalm_cli.reports.reading.run_summary import Record, RunSummary


@dataclass(frozen=True)
class Table:
    """Rows of text under heads.

    Args:
        title: What it is.
        heads: Names of the columns.
        rows: As many cells each.
        note: What has to be known to read it.
        words: Columns that hold words; all others hold numbers, and stand at the right.
    """

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    words: frozenset[int] = field(default_factory=lambda: frozenset({0}))


NONE = "–"
"""Stands where there is no value."""
SOURCES = 40
"""Sources of a mixture that are listed."""


def count(value: Any) -> str:
    """A whole number with commas."""
    plain = as_number(value)
    return NONE if plain is None else f"{plain:,.0f}"


def decimal(value: Any, digits: int = 3) -> str:
    """A number with so many decimals; large ones with none, tiny ones by their power."""
    plain = as_number(value)
    if plain is None:
        return NONE
    if plain and abs(plain) < 10**-digits:
        return f"{plain:.2g}"
    return f"{plain:,.{0 if abs(plain) >= 1000 else digits}f}"


def interval(low: float | None, high: float | None) -> str:
    """The ends of an interval."""
    return NONE if low is None or high is None else f"{low:.1f} to {high:.1f}"


def tables(runs: Sequence[RunSummary]) -> Iterator[Table]:
    """All tables that the runs have facts for."""
    yield overview(runs)
    trained = [run for run in runs if run.training]
    if trained:
        yield token_table(trained)
    for name in ("cluster_loss", "task_loss"):
        table = loss_table(runs, name)
        if table is not None:
            yield table
    for run in runs:
        if run.data.get("sources"):
            yield mixture_table(run)
    scored = series_of(runs)
    if any(one.clusters for _, one in scored):
        yield cluster_table(scored)
    if any(one.tasks for _, one in scored):
        yield task_table(scored)
    if any(len(task.templates) > 1 for _, one in scored for task in one.tasks):
        yield template_table(scored)
    if any(run.environment for run in runs):
        yield environment_table(runs)


def series_of(runs: Sequence[RunSummary]) -> list[tuple[str, EvaluationSummary]]:
    """Evaluations under the names that figures and tables have for them."""
    several = len(runs) > 1
    found = []
    for run in runs:
        for one in run.evaluations:
            model = _other_model(run, one)
            label = f"{model or run.name}, {one.label}" if several or model else one.label
            found.append((label, one))
    labels = [label for label, _ in found]
    return [
        (label if labels.count(label) == 1 else f"{label} ({labels[:at].count(label) + 1})", one)
        for at, (label, one) in enumerate(found)
    ]


def _other_model(run: RunSummary, one: EvaluationSummary) -> str:
    """The model of an evaluation that lies in a run's folder and is not of the run; empty if it is the run's."""
    source = _source(one)
    if run.state == "evaluated":
        return source
    if one in run.elsewhere:
        return ""
    # The folder may have been renamed since: what most files are about is the run's own; nothing is in a tie.
    weights = Counter(str(each.model.get("weights_sha256")) for each in run.evaluations)
    most = [each for each, many in weights.items() if many == max(weights.values())]
    own = {run.path.name, run.path.resolve().name}
    named = [str(each.model.get("weights_sha256")) for each in run.evaluations if _source(each) in own]
    ours = named[0] if named else most[0] if len(most) == 1 else ""
    return "" if str(one.model.get("weights_sha256")) == ours else source


def _source(one: EvaluationSummary) -> str:
    return Path(str(one.model.get("source", ""))).name


def overview(runs: Sequence[RunSummary]) -> Table:
    """What each run is and where it has got to."""
    facts = [_overview_of(run) for run in runs]
    rows = [(key, *(one[key] for one in facts)) for key in facts[0]]
    shown = [row for row in rows if any(cell != NONE for cell in row[1:])]
    words = frozenset(range(len(runs) + 1))
    return Table("Runs" if len(runs) > 1 else "The run", ("", *(run.name for run in runs)), tuple(shown), words=words)


def _overview_of(run: RunSummary) -> dict[str, str]:
    last, held = run.last, run.validation[-1] if run.validation else {}
    train, about = run.recipe.get("train", {}), (*run.evaluations, *run.elsewhere)
    speeds = [speed for one in run.training if (speed := as_number(one.get("tokens_per_second"))) is not None]
    model = next((one.model for one in about if not _other_model(run, one)), {})
    return {
        "command": str(run.recipe.get("command") or NONE),
        "recipe": str(run.environment.get("recipe") or NONE),
        "state": run.state_text,
        "steps": count(last.get("step")) + (f" of {run.steps:,}" if run.steps else ""),
        "source tokens": count(last.get("tokens")),
        "examples or documents": count(last.get("examples")),
        "training loss": decimal(last.get("loss")),
        "held-out loss": decimal(held.get("loss")),
        "held-out bits per byte": decimal(held.get("bits_per_byte")),
        "tokens a second, median": count(statistics.median(speeds)) if speeds else NONE,
        "parameters": count(model.get("parameters")),
        "mean score": _means(run),
        "seed": str(train.get("seed", NONE)),
        "device": str(run.environment.get("device") or NONE),
    }


def _means(run: RunSummary) -> str:
    """Mean scores of a run with the fewest demonstrations. Of results of several models none: they are the models'."""
    if run.state == "evaluated" and len({_source(one) for one in run.evaluations}) > 1:
        return NONE
    said = []
    for one in (*run.evaluations, *run.elsewhere):
        model = "" if run.state == "evaluated" else _other_model(run, one)
        label = ", ".join(filter(None, (model, one.label)))
        fewest = min(one.means, key=lambda mean: mean.shots, default=None)
        said += [f"{fewest.value:.1f} ({label}, {fewest.shots}-shot)"] if fewest is not None else []
    return "; ".join(said) or NONE


def token_shares(record: Mapping[str, Any]) -> dict[str, float]:
    """Source tokens of a run by what became of them: docked, read causally and not trained, trained."""
    total, docked = as_number(record.get("tokens")) or 0.0, as_number(record.get("docked_tokens")) or 0.0
    trained = as_number(record.get("trained_tokens")) or 0.0
    # Trained tokens count end tokens, which are no source tokens.
    return {"docked": docked, "causal": max(0.0, total - docked - trained), "trained": trained}


def token_table(runs: Sequence[RunSummary]) -> Table:
    """What became of the tokens that each run has read."""
    rows = []
    for run in runs:
        shares = token_shares(run.last)
        whole = sum(shares.values()) or 1.0
        cells = [f"{count(value)} ({value / whole:.0%})" for value in shares.values()]
        rows.append(
            (run.name, *cells, count(run.last.get("docked_positions")), count(run.last.get("padded_positions")))
        )
    heads = ("run", "docked", "causal only", "trained", "docked positions", "padded positions")
    note = "Tokens of the text: read by an encoder, read by the decoder alone, or predicted and trained on."
    return Table("Tokens", heads, tuple(rows), note)


def per_task_losses(run: RunSummary, key: str) -> list[tuple[int, Mapping[str, float]]]:
    """Losses by cluster or task at each step: of held-out data, or of training where that is not told apart.

    Losses that were not finite are left out, and so is a step that has no others.
    """
    return _told_apart(run.validation, key) or _told_apart(run.training, key)


def _told_apart(records: Sequence[Record], key: str) -> list[tuple[int, Mapping[str, float]]]:
    found: list[tuple[int, Mapping[str, float]]] = []
    for record in records:
        losses = {name: loss for name, one in record.get(key, {}).items() if (loss := as_number(one)) is not None}
        found += [(int(record["step"]), losses)] if losses else []
    return found


def loss_table(runs: Sequence[RunSummary], key: str) -> Table | None:
    """First and last losses told apart, the lowest of the last run first; None where no run tells."""
    told = [(run, per_task_losses(run, key)) for run in runs]
    told = [(run, found) for run, found in told if found]
    if not told:
        return None
    names = dict.fromkeys(name for _, found in told for _, each in found for name in each)
    heads = [head for run, found in told for head in _ends(run.name if len(runs) > 1 else "", found)]
    rows: list[tuple[str, list[float | None]]] = []
    for name in names:
        values: list[float | None] = []
        for _, found in told:
            mine = [each[name] for _, each in found if name in each]
            values += [mine[0] if mine else None] if len(found) > 1 else []
            values.append(mine[-1] if mine else None)
        rows.append((name, values))
    rows.sort(key=lambda row: math.inf if row[1][-1] is None else row[1][-1])
    what = "cluster" if key == "cluster_loss" else "task"
    whose, note = whose_losses([run for run, _ in told], key)
    lines = tuple((name, *map(decimal, values)) for name, values in rows)
    return Table(f"{whose} by {what}", (what, *heads), lines, f"{note}, in nats a token.")


def whose_losses(runs: Sequence[RunSummary], key: str) -> tuple[str, str]:
    """What the losses told apart of some runs are called, and what they are of."""
    held = [run.name for run in runs if _told_apart(run.validation, key)]
    since = "training, since the step logged before"
    if len(held) == len(runs):
        return "Held-out loss", "Of held-out examples"
    if not held:
        return "Training loss", f"Of {since}"
    return "Loss", f"Of held-out examples ({', '.join(held)}); of the other runs of {since}"


def _ends(run: str, found: Sequence[tuple[int, Mapping[str, float]]]) -> list[str]:
    """Heads of a run's columns: the first and the last step, if all stand there; of a single step one."""
    (first, began), (last, ended) = found[0], found[-1]
    steps = [f"step {first:,}", f"step {last:,}"][: len(found)]
    whole = set(began) == set(ended) == {name for _, each in found for name in each}
    heads = steps if whole or len(found) == 1 else [f"first, from {steps[0]}", f"last, by {steps[1]}"]
    return [", ".join(filter(None, (run, head))) for head in heads]


def cluster_of_source(name: str) -> str:
    """A source's cluster, if it is a shipped task; else empty."""
    return clusters_of_tasks().get(name, "")


def mixture_rows(run: RunSummary) -> list[tuple[str, str, float | None, float | None, str]]:
    """Name, cluster, share, rows and place of each source, the largest share first."""
    found = [
        (
            str(one.get("name", "?")),
            cluster_of_source(str(one.get("name", ""))),
            as_number(one.get("share")),
            as_number(one.get("rows")),
            f"{one.get('kind', '')} {one.get('location', '')}"
            + (f" at {one['revision']}" if one.get("revision") else ""),
        )
        for one in run.data.get("sources", [])
    ]
    return sorted(found, key=lambda one: -(one[2] or 0.0))


def mixture_table(run: RunSummary) -> Table:
    """What a run draws its data from."""
    found = mixture_rows(run)
    told = any(cluster for _, cluster, *_ in found)
    rows = [
        (name, *([cluster or NONE] if told else []), NONE if share is None else f"{share:.1%}", count(rows), place)
        for name, cluster, share, rows, place in found[:SOURCES]
    ]
    heads = ("source", *(["cluster"] if told else []), "share", "rows", "from")
    more = f" {len(found) - SOURCES} more sources are not listed." if len(found) > SOURCES else ""
    words = {0, len(heads) - 1, *([1] if told else [])}
    note = f"Share of what is drawn.{more}"
    return Table(f"Mixture of {run.name}", heads, tuple(rows), note, frozenset(words))


def cluster_table(scored: Sequence[tuple[str, EvaluationSummary]]) -> Table:
    """Means of clusters, a row for each evaluation."""
    rows = [
        (
            one.cluster or "all clusters",
            label,
            str(one.shots),
            f"{one.value:.1f}",
            interval(one.low, one.high),
            str(len(one.of)),
        )
        for label, evaluation in scored
        for one in (*evaluation.clusters, *evaluation.means)
    ]
    rows.sort(key=lambda row: (row[0] == "all clusters", row[0], row[2]))
    heads = ("cluster", "model", "shots", "score", "95% interval", "of")
    note = "Means of the core tasks, 0 to 100. The interval of one task is its own; of several it is normal: "
    note += "1.96 standard errors, as if scores were independent, which may reach below 0."
    return Table("Scores by cluster", heads, tuple(rows), note, frozenset({0, 1}))


def task_table(scored: Sequence[tuple[str, EvaluationSummary]]) -> Table:
    """Scores of tasks."""
    rows = [
        (
            task.task,
            label,
            task.metric,
            str(task.shots),
            decimal(task.score, 1),
            interval(task.low, task.high),
            decimal(task.chance, 1),
            count(task.n),
            task.seen,
        )
        for label, evaluation in scored
        for task in evaluation.tasks
    ]
    rows.sort(key=lambda row: (row[0], row[3]))
    heads = ("task", "model", "metric", "shots", "score", "95% interval", "chance", "examples", "seen")
    note = "Mean over templates, 0 to 100; intervals by resampling examples. "
    note += "Chance: the better of guessing and of always saying the most frequent answer."
    return Table("Scores by task", heads, tuple(rows), note, frozenset({0, 1, 2, 8}))


def template_table(scored: Sequence[tuple[str, EvaluationSummary]]) -> Table:
    """Spread over templates."""
    rows = []
    for label, evaluation in scored:
        for task in evaluation.tasks:
            scores = [(one.score, one.template) for one in task.templates if one.score is not None]
            if len(scores) > 1:
                low, high = min(scores), max(scores)
                ends = (f"{low[0]:.1f} {low[1]}", f"{high[0]:.1f} {high[1]}")
                rows.append((task.task, label, str(task.shots), str(len(scores)), *ends, decimal(task.spread, 1)))
    rows.sort(key=lambda row: (row[0], row[2]))
    heads = ("task", "model", "shots", "templates", "lowest", "highest", "deviation")
    return Table(
        "Spread over templates", heads, tuple(rows), "Standard deviation over templates.", frozenset({0, 1, 4, 5})
    )


def environment_table(runs: Sequence[RunSummary]) -> Table:
    """Versions and machines."""
    keys = dict.fromkeys(key for run in runs for key in run.environment if key != "recipe")
    rows = tuple((key, *(str(run.environment.get(key, NONE)) for run in runs)) for key in keys)
    return Table("Environment", ("", *(run.name for run in runs)), rows, words=frozenset(range(len(runs) + 1)))


def difference_table(runs: Sequence[RunSummary]) -> Table | None:
    """Recipe keys whose values differ between runs; None for one run, or where nothing does."""
    flat = [dict(_flat(run.recipe)) for run in runs]
    keys = dict.fromkeys(key for one in flat for key in one)
    rows = [(key, *(one.get(key, NONE) for one in flat)) for key in keys]
    differ = tuple(row for row in rows if len(set(row[1:])) > 1)
    if len(runs) < 2 or not differ:
        return None
    return Table("What differs", ("key", *(run.name for run in runs)), differ, words=frozenset(range(len(runs) + 1)))


def _flat(value: Any, above: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{above}.{key}" if above else str(key))
    elif isinstance(value, list) and any(isinstance(one, dict) for one in value):
        for at, inner in enumerate(value):
            yield from _flat(inner, f"{above}.{at}")
    else:
        yield above, "null" if value is None else str(value)
