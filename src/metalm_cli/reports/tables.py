"""Tables of a report, shown on the page and in the terminal."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from metalm_cli.common.table import Table
from metalm_cli.reports.aggregate_table import aggregate_table
from metalm_cli.reports.reading.evaluation_summary import EvaluationSummary, TaskScore, as_number, clusters_of_tasks
from metalm_cli.reports.reading.run_summary import Record, RunSummary

NO_VALUE = "–"
"""Cell without a value."""
MAX_SOURCES = 40
"""Sources of a mixture that a table lists."""


def format_count(value: Any) -> str:
    """Format a whole number with thousands separators."""
    plain = as_number(value)
    return NO_VALUE if plain is None else f"{plain:,.0f}"


def format_decimal(value: Any, digits: int = 3) -> str:
    """Format a number with ``digits`` decimals; large numbers without decimals, tiny ones with an exponent."""
    plain = as_number(value)
    if plain is None:
        return NO_VALUE
    if plain and abs(plain) < 10**-digits:
        return f"{plain:.2g}"
    return f"{plain:,.{0 if abs(plain) >= 1000 else digits}f}"


def format_interval(low: float | None, high: float | None) -> str:
    """Format the ends of an interval."""
    return NO_VALUE if low is None or high is None else f"{low:.1f} to {high:.1f}"


def report_tables(runs: Sequence[RunSummary]) -> Iterator[Table]:
    """All tables that the runs have data for."""
    yield overview_table(runs)
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
    scored = named_evaluations(runs)
    aggregates = aggregate_table(scored)
    if aggregates is not None:
        yield aggregates
    if any(evaluation.clusters for _, evaluation in scored):
        yield cluster_table(scored)
    if any(evaluation.tasks for _, evaluation in scored):
        yield task_table(scored)
    if any(len(task.templates) > 1 for _, evaluation in scored for task in evaluation.tasks):
        yield template_table(scored)
    if any(task.messages for _, evaluation in scored for task in evaluation.tasks):
        yield message_table(scored)
    if any(run.environment for run in runs):
        yield environment_table(runs)


def named_evaluations(runs: Sequence[RunSummary]) -> list[tuple[str, EvaluationSummary]]:
    """Evaluations with their labels in figures and tables."""
    several = len(runs) > 1
    named = []
    for run in runs:
        for evaluation in run.evaluations:
            model = _other_model(run, evaluation)
            label = f"{model or run.name}, {evaluation.label}" if several or model else evaluation.label
            named.append((label, evaluation))
    labels = [label for label, _ in named]
    return [
        (label if labels.count(label) == 1 else f"{label} ({labels[:index].count(label) + 1})", evaluation)
        for index, (label, evaluation) in enumerate(named)
    ]


def _other_model(run: RunSummary, evaluation: EvaluationSummary) -> str:
    """Model of an evaluation that is in a run's folder but not of the run's model; empty if it is the run's model."""
    source = _model_name(evaluation)
    if run.state == "evaluated":
        return source
    if evaluation in run.external_evaluations:
        return ""
    # The folder may have been renamed: then the model of most files is the run's own, unless there is a tie.
    weights = Counter(other.record.weights_sha256 for other in run.evaluations)
    most_common = [weights_hash for weights_hash, number in weights.items() if number == max(weights.values())]
    names = {run.path.name, run.path.resolve().name}
    named_hashes = [other.record.weights_sha256 for other in run.evaluations if _model_name(other) in names]
    own_hash = named_hashes[0] if named_hashes else most_common[0] if len(most_common) == 1 else ""
    return "" if evaluation.record.weights_sha256 == own_hash else source


def _model_name(evaluation: EvaluationSummary) -> str:
    return Path(str(evaluation.record.model.get("source", ""))).name


def overview_table(runs: Sequence[RunSummary]) -> Table:
    """Table of the runs with their progress and main results."""
    facts = [_overview_facts(run) for run in runs]
    rows = [(key, *(run_facts[key] for run_facts in facts)) for key in facts[0]]
    filled = [row for row in rows if any(cell != NO_VALUE for cell in row[1:])]
    words = frozenset(range(len(runs) + 1))
    return Table(
        "Runs" if len(runs) > 1 else "The run",
        ("", *(run.name for run in runs)),
        tuple(filled),
        text_columns=words,
    )


def _overview_facts(run: RunSummary) -> dict[str, str]:
    last, validation = run.last_record, run.validation[-1] if run.validation else {}
    train, evaluations = run.recipe.get("train", {}), (*run.evaluations, *run.external_evaluations)
    speeds = [speed for record in run.training if (speed := as_number(record.get("tokens_per_second"))) is not None]
    model = next((evaluation.record.model for evaluation in evaluations if not _other_model(run, evaluation)), {})
    return {
        "command": str(run.recipe.get("command") or NO_VALUE),
        "recipe": str(run.environment.get("recipe") or NO_VALUE),
        "state": run.state_text,
        "steps": format_count(last.get("step")) + (f" of {run.steps:,}" if run.steps else ""),
        "source tokens": format_count(last.get("tokens")),
        "examples or documents": format_count(last.get("examples")),
        "training loss": format_decimal(last.get("loss")),
        "held-out loss": format_decimal(validation.get("loss")),
        "held-out bits per byte": format_decimal(validation.get("bits_per_byte")),
        "median tokens per second": format_count(statistics.median(speeds)) if speeds else NO_VALUE,
        "parameters": format_count(model.get("parameters")),
        "mean score": _mean_scores(run),
        "seed": str(train.get("seed", NO_VALUE)),
        "device": str(run.environment.get("device") or NO_VALUE),
    }


def _mean_scores(run: RunSummary) -> str:
    """Mean scores of a run with the fewest demonstrations; no value for results of several models."""
    if run.state == "evaluated" and len({_model_name(evaluation) for evaluation in run.evaluations}) > 1:
        return NO_VALUE
    parts = []
    for evaluation in (*run.evaluations, *run.external_evaluations):
        model = "" if run.state == "evaluated" else _other_model(run, evaluation)
        label = ", ".join(filter(None, (model, evaluation.label)))
        fewest = min(evaluation.means, key=lambda mean: mean.shots, default=None)
        parts += [f"{fewest.value:.1f} ({label}, {fewest.shots}-shot)"] if fewest is not None else []
    return "; ".join(parts) or NO_VALUE


def token_shares(record: Mapping[str, Any]) -> dict[str, float]:
    """Source tokens of a run by kind of span: docked, causal without training, trained."""
    total, docked = as_number(record.get("tokens")) or 0.0, as_number(record.get("docked_tokens")) or 0.0
    trained = as_number(record.get("trained_tokens")) or 0.0
    # Trained tokens include end tokens, which do not come from the source.
    return {"docked": docked, "causal": max(0.0, total - docked - trained), "trained": trained}


def token_table(runs: Sequence[RunSummary]) -> Table:
    """Table of each run's tokens by kind of span."""
    rows = []
    for run in runs:
        shares = token_shares(run.last_record)
        total = sum(shares.values()) or 1.0
        cells = [f"{format_count(value)} ({value / total:.0%})" for value in shares.values()]
        rows.append(
            (
                run.name,
                *cells,
                format_count(run.last_record.get("docked_positions")),
                format_count(run.last_record.get("padded_positions")),
            )
        )
    headers = ("run", "docked", "causal only", "trained", "docked positions", "padded positions")
    note = "Source tokens: read by an encoder (docked), by the decoder without loss (causal), or predicted (trained)."
    return Table("Tokens", headers, tuple(rows), note)


def per_task_losses(run: RunSummary, key: str) -> list[tuple[int, Mapping[str, float]]]:
    """Losses by cluster or task at each step: of held-out data, or of training data if there are none.

    Losses that are not finite are dropped, and so are steps without finite losses.
    """
    return _losses_by_step(run.validation, key) or _losses_by_step(run.training, key)


def _losses_by_step(records: Sequence[Record], key: str) -> list[tuple[int, Mapping[str, float]]]:
    losses_by_step: list[tuple[int, Mapping[str, float]]] = []
    for record in records:
        losses = {name: loss for name, value in record.get(key, {}).items() if (loss := as_number(value)) is not None}
        losses_by_step += [(int(record["step"]), losses)] if losses else []
    return losses_by_step


def loss_table(runs: Sequence[RunSummary], key: str) -> Table | None:
    """Table of the first and last loss of each cluster or task, lowest first; None if no run has such losses."""
    run_losses = [(run, per_task_losses(run, key)) for run in runs]
    run_losses = [(run, losses) for run, losses in run_losses if losses]
    if not run_losses:
        return None
    names = dict.fromkeys(name for _, losses in run_losses for _, step_losses in losses for name in step_losses)
    headers = [
        header for run, losses in run_losses for header in _loss_headers(run.name if len(runs) > 1 else "", losses)
    ]
    rows: list[tuple[str, list[float | None]]] = []
    for name in names:
        values: list[float | None] = []
        for _, losses in run_losses:
            task_losses = [step_losses[name] for _, step_losses in losses if name in step_losses]
            values += [task_losses[0] if task_losses else None] if len(losses) > 1 else []
            values.append(task_losses[-1] if task_losses else None)
        rows.append((name, values))
    rows.sort(key=lambda row: math.inf if row[1][-1] is None else row[1][-1])
    kind = "cluster" if key == "cluster_loss" else "task"
    label, note = loss_labels([run for run, _ in run_losses], key)
    lines = tuple((name, *map(format_decimal, values)) for name, values in rows)
    return Table(f"{label} by {kind}", (kind, *headers), lines, f"{note}, in nats per token.")


def loss_labels(runs: Sequence[RunSummary], key: str) -> tuple[str, str]:
    """Title and note for losses by cluster or task: whether they are of held-out or training data."""
    validated = [run.name for run in runs if _losses_by_step(run.validation, key)]
    training_period = "training examples, since the previous logged step"
    if len(validated) == len(runs):
        return "Held-out loss", "On held-out examples"
    if not validated:
        return "Training loss", f"On {training_period}"
    return "Loss", f"On held-out examples ({', '.join(validated)}); other runs: on {training_period}"


def _loss_headers(run: str, losses: Sequence[tuple[int, Mapping[str, float]]]) -> list[str]:
    """Headers of a run's columns: first and last step, or one header for a single step."""
    (first, first_losses), (last, last_losses) = losses[0], losses[-1]
    steps = [f"step {first:,}", f"step {last:,}"][: len(losses)]
    complete = set(first_losses) == set(last_losses) == {name for _, step_losses in losses for name in step_losses}
    headers = steps if complete or len(losses) == 1 else [f"first, from {steps[0]}", f"last, up to {steps[1]}"]
    return [", ".join(filter(None, (run, header))) for header in headers]


def cluster_of_source(name: str) -> str:
    """Cluster of a source if it is a shipped task; else empty."""
    return clusters_of_tasks().get(name, "")


def mixture_rows(run: RunSummary) -> list[tuple[str, str, float | None, float | None, str]]:
    """Name, cluster, share, rows and location of each source, the largest share first."""
    rows = [
        (
            str(source.get("name", "?")),
            cluster_of_source(str(source.get("name", ""))),
            as_number(source.get("share")),
            as_number(source.get("usable") or source.get("rows")),
            f"{source.get('kind', '')} {source.get('location', '')}"
            + (f" at {source['revision']}" if source.get("revision") else ""),
        )
        for source in run.data.get("sources", [])
    ]
    return sorted(rows, key=lambda row: -(row[2] or 0.0))


def mixture_table(run: RunSummary) -> Table:
    """Table of the sources of a run's data."""
    sources = mixture_rows(run)
    has_clusters = any(cluster for _, cluster, *_ in sources)
    rows = [
        (
            name,
            *([cluster or NO_VALUE] if has_clusters else []),
            NO_VALUE if share is None else f"{share:.1%}",
            format_count(rows),
            location,
        )
        for name, cluster, share, rows, location in sources[:MAX_SOURCES]
    ]
    headers = ("source", *(["cluster"] if has_clusters else []), "share", "rows", "from")
    more = f" {len(sources) - MAX_SOURCES} more sources are not listed." if len(sources) > MAX_SOURCES else ""
    columns = {0, len(headers) - 1, *([1] if has_clusters else [])}
    note = f"Share of the sampled data.{more}"
    return Table(f"Mixture of {run.name}", headers, tuple(rows), note, frozenset(columns))


def cluster_table(scored: Sequence[tuple[str, EvaluationSummary]]) -> Table:
    """Table of cluster means, a row for each evaluation."""
    rows = [
        (
            mean.cluster or "all clusters",
            label,
            str(mean.shots),
            f"{mean.value:.1f}",
            format_interval(mean.low, mean.high),
            str(len(mean.members)),
        )
        for label, evaluation in scored
        for mean in (*evaluation.clusters, *evaluation.means)
    ]
    rows.sort(key=lambda row: (row[0] == "all clusters", row[0], row[2]))
    headers = ("cluster", "model", "shots", "score", "95% interval", "of")
    note = "Means of the core tasks, 0 to 100. A single task keeps its own interval; several have the one that follows "
    note += "from their intervals, as the scores are independent."
    return Table("Scores by cluster", headers, tuple(rows), note, frozenset({0, 1}))


def _ordered_tasks(scored: Sequence[tuple[str, EvaluationSummary]]) -> list[tuple[str, TaskScore]]:
    """Scores of tasks with their labels, by cluster, task and number of demonstrations, as figures order them."""
    tasks = [(label, task) for label, evaluation in scored for task in evaluation.tasks]
    return sorted(tasks, key=lambda entry: (entry[1].cluster, entry[1].task, entry[1].shots))


def task_table(scored: Sequence[tuple[str, EvaluationSummary]]) -> Table:
    """Table of task scores."""
    rows = [
        (
            task.task,
            label,
            task.metric,
            str(task.shots),
            format_decimal(task.score, 1),
            format_interval(task.low, task.high),
            format_decimal(task.chance, 1),
            format_count(task.n),
            task.seen,
        )
        for label, task in _ordered_tasks(scored)
    ]
    headers = ("task", "model", "metric", "shots", "score", "95% interval", "chance", "examples", "seen")
    note = "Mean over templates, 0 to 100; intervals of accuracies are Wilson's, others by resampling examples. "
    note += "Chance: the better of guessing and of always giving the most frequent answer."
    return Table("Scores by task", headers, tuple(rows), note, frozenset({0, 1, 2, 8}))


def message_table(scored: Sequence[tuple[str, EvaluationSummary]]) -> Table:
    """Table of what limits scores: examples that are not scored, options and answers that the model cannot give."""
    rows = [
        (task.task, label, str(task.shots), message)
        for label, task in _ordered_tasks(scored)
        for message in task.messages
    ]
    headers, note = ("task", "model", "shots", "limit"), "What these scores cannot show."
    return Table("Limits of the scores", headers, tuple(rows), note, frozenset({0, 1, 3}))


def template_table(scored: Sequence[tuple[str, EvaluationSummary]]) -> Table:
    """Table of the spread of scores over templates."""
    rows = []
    for label, task in _ordered_tasks(scored):
        scores = [(template.score, template.template) for template in task.templates if template.score is not None]
        if len(scores) > 1:
            low, high = min(scores), max(scores)
            ends = (f"{low[0]:.1f} {low[1]}", f"{high[0]:.1f} {high[1]}")
            rows.append((task.task, label, str(task.shots), str(len(scores)), *ends, format_decimal(task.spread, 1)))
    headers = ("task", "model", "shots", "templates", "lowest", "highest", "deviation")
    return Table(
        "Spread over templates", headers, tuple(rows), "Standard deviation over templates.", frozenset({0, 1, 4, 5})
    )


def environment_table(runs: Sequence[RunSummary]) -> Table:
    """Table of versions and machines."""
    keys = dict.fromkeys(key for run in runs for key in run.environment if key != "recipe")
    rows = tuple((key, *(str(run.environment.get(key, NO_VALUE)) for run in runs)) for key in keys)
    return Table("Environment", ("", *(run.name for run in runs)), rows, text_columns=frozenset(range(len(runs) + 1)))


def difference_table(runs: Sequence[RunSummary]) -> Table | None:
    """Table of recipe keys whose values differ between runs; None if there are none."""
    flattened = [dict(_flatten(run.recipe)) for run in runs]
    keys = dict.fromkeys(key for recipe in flattened for key in recipe)
    rows = [(key, *(recipe.get(key, NO_VALUE) for recipe in flattened)) for key in keys]
    differing = tuple(row for row in rows if len(set(row[1:])) > 1)
    if len(runs) < 2 or not differing:
        return None
    return Table(
        "Differences between recipes",
        ("key", *(run.name for run in runs)),
        differing,
        text_columns=frozenset(range(len(runs) + 1)),
    )


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for index, inner in enumerate(value):
            yield from _flatten(inner, f"{prefix}.{index}")
    else:
        yield prefix, "null" if value is None else str(value)
