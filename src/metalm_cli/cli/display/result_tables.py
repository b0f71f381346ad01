"""Pages for result files: one file with its cluster means, or a comparison of two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from metalm_cli.cli.display import aggregate_rows, chance_notes, seen_notes
from metalm_cli.cli.display.tables import Page
from metalm_cli.common.table import Table

if TYPE_CHECKING:
    from metalm_cli.evaluation.metrics.bootstrap import Estimate
    from metalm_cli.evaluation.results.comparison import Comparison, MeanDifference, TaskComparison
    from metalm_cli.evaluation.results.schema import AggregateRecord, ResultRecord, SettingRecord, TaskRecord

SHORT_LABELS = {
    "leak partner": "leak",
    "seen by the encoder": "encoder",
    "seen by the decoder": "decoder",
}
"""Labels of tasks in the column "seen" that are shorter there."""

# -- one file ---------------------------------------------------------------------------------------------------------


def result_table(record: ResultRecord) -> Page:
    """Page of a result file: a table with cluster means for each number of demonstrations."""
    from metalm_cli.evaluation.results.comparison import OVER_CLUSTERS, record_cluster_means

    name_lines = [f"results  {record.name}"] if record.name else []
    suite_lines = [aggregate_rows.suite_line(record.suite)] if record.suite is not None else []
    page = Page([*name_lines, f"model    {record.source}", *suite_lines, f"settings {_describe_settings(record)}"])
    for shots in record.shots:
        tasks = [(name, task, setting) for name, task in record.tasks.items() if (setting := task.with_shots(shots))]
        several_templates = any(len(setting.templates) > 1 for _, _, setting in tasks)
        headers = [
            "task",
            "seen",
            "metric",
            "score",
            "95% interval",
            "chance",
            *(["spread", "oracle"] if several_templates else ["n"]),
        ]
        rows = [_task_row(*task, several_templates) for task in tasks]
        page.data_rows += [_task_data(record, *task) for task in tasks]
        means = record_cluster_means(record, shots) if aggregate_rows.shows_clusters(record) else {}
        aggregates = aggregate_rows.aggregates_of(record, shots)
        if aggregates:
            means.pop(OVER_CLUSTERS, None)
        for name, (mean, members) in means.items():
            cells = [
                f"mean {name}",
                "",
                f"of {len(members)}",
                _format_with_error(mean.value, mean.error),
                _format_interval(mean.interval),
                "",
            ]
            rows.append(cells + [""] * (len(headers) - len(cells)))
            page.data_rows.append(_mean_data(record, shots, name, mean, members))
        for aggregate in aggregates:
            cells = _aggregate_cells(record, aggregate)
            rows.append(cells + [""] * (len(headers) - len(cells)))
            page.data_rows.append(aggregate_rows.aggregate_data(record, shots, aggregate))
        page.tables.append(
            Table(
                f"{shots}-shot",
                headers,
                rows,
                text_columns=frozenset({0, 1, 2}),
                mean_rows=len(means) + len(aggregates),
            )
        )
        page.notes += chance_notes.above_chance(shots, {"": {name: setting for name, _, setting in tasks}})
    page.notes += _notes(record)
    return page


def _aggregate_cells(record: ResultRecord, aggregate: AggregateRecord) -> list[str]:
    assert record.suite is not None
    return [
        f"{record.suite.name}: {aggregate.name}",
        "",
        aggregate_rows.describe_count(record.suite, aggregate),
        "–" if aggregate.value is None else _format_with_error(aggregate.value, aggregate.error),
        _format_interval(aggregate.interval),
    ]


def _describe_settings(record: ResultRecord) -> str:
    settings = record.settings
    count = settings.get("limit")
    return ", ".join(
        [
            record.protocol,
            f"templates {settings.get('templates', '?')} ({settings.get('template', '?')})",
            "all examples" if count is None else f"{count} examples of each task",
            *([f"docks exchanged: {settings['exchange_docks']}"] if settings.get("exchange_docks") else []),
        ]
    )


def _task_row(name: str, task: TaskRecord, setting: SettingRecord, several_templates: bool) -> list[str]:
    level = setting.chance.level
    cells = [
        name,
        SHORT_LABELS.get(task.seen.label, task.seen.label),
        task.metric,
        "–" if setting.score is None else _format_with_error(setting.score, setting.error),
        _format_interval(setting.interval),
        "" if level is None else f"{level:.1f}",
    ]
    if not several_templates:
        cells.append(str(setting.n))
    else:
        cells.append("" if setting.spread is None else f"{setting.spread:.1f}")
        cells.append("" if setting.oracle is None else f"{setting.oracle.score:.1f}")
    return cells


def _task_data(record: ResultRecord, name: str, task: TaskRecord, setting: SettingRecord) -> dict[str, Any]:
    low, high = setting.interval or (None, None)
    best = setting.oracle
    return {
        "file": record.name,
        "model": record.source,
        "protocol": record.protocol,
        "kind": "task",
        "shots": setting.shots,
        "cluster": task.cluster,
        "task": name,
        "core": task.core,
        "metric": task.metric,
        "seen": task.seen.label,
        "split": task.split,
        "n": setting.n,
        "score": setting.score,
        "error": setting.error,
        "low": low,
        "high": high,
        "guess": setting.chance.uniform,
        "constant": setting.chance.majority,
        "above_chance": setting.is_above_chance,
        "spread": setting.spread,
        "oracle": None if best is None else best.score,
        "oracle_template": None if best is None else best.template,
        "templates": [template.template for template in setting.templates],
        "template_scores": [template.score for template in setting.templates],
        "cut": max((template.cut for template in setting.templates), default=0),
        "skipped": max((template.skipped for template in setting.templates), default=0),
        "empty": max((template.empty for template in setting.templates), default=0),
        "at_limit": max((template.at_limit for template in setting.templates), default=0),
        "extra": setting.extra,
    }


def _mean_data(record: ResultRecord, shots: int, name: str, mean: Estimate, members: Sequence[str]) -> dict[str, Any]:
    from metalm_cli.evaluation.results.comparison import OVER_CLUSTERS

    low, high = mean.interval or (None, None)
    return {
        "file": record.name,
        "model": record.source,
        "protocol": record.protocol,
        "kind": "mean over clusters" if name == OVER_CLUSTERS else "cluster mean",
        "shots": shots,
        "cluster": None if name == OVER_CLUSTERS else name,
        "score": mean.value,
        "error": mean.error,
        "low": low,
        "high": high,
        "of": list(members),
    }


def _notes(record: ResultRecord) -> list[str]:
    notes = []
    settings = [(name, setting) for name, task in record.tasks.items() for setting in task.settings]
    template_count = max((len(setting.templates) for _, setting in settings), default=0)
    if template_count > 1:
        notes.append(
            f"mean over up to {template_count} templates; the oracle is the best, chosen on the scored examples"
        )
    for part, block_type in (record.model.get("dequantised_from") or {}).items():
        notes.append(f"weights dequantised from {block_type}: {part}")
    notes += seen_notes.not_held_out(record)
    for field, description in (
        ("cut", "have truncated inputs"),
        ("skipped", "do not fit the model, and are not scored"),
        ("empty", "templates render empty, and are not scored"),
    ):
        counts: dict[str, int] = {}
        for name, setting in settings:
            # Examples without room for their demonstrations are counted in a note.
            field_counts = (
                getattr(template, field) for template in setting.templates if field != "skipped" or not template.note
            )
            counts[name] = max([counts.get(name, 0), *field_counts])
        entries = [f"{name} {count}" for name, count in counts.items() if count]
        if entries:
            notes.append(f"examples that {description}: {', '.join(entries)}")
    if record.suite is not None:
        notes += aggregate_rows.suite_notes(record.suite)
    if record.missing:
        notes.append(f"missing, and not in any mean: {', '.join(record.missing)}")
    if not record.complete:
        notes.append("NOT COMPLETE: the evaluation was interrupted, and means include only the tasks above")
    tasks_by_note: dict[str, list[str]] = {}
    for name, setting in settings:
        for note in setting.messages:
            tasks_by_note.setdefault(note, []).append(f"{name} ({setting.shots}-shot)")
    return notes + [f"{', '.join(names)}: {note}" for note, names in tasks_by_note.items()]


# -- two files --------------------------------------------------------------------------------------------------------


def comparison_table(comparison: Comparison) -> Page:
    """Page of a comparison: a table with cluster means and aggregates for each number of demonstrations."""
    from metalm_cli.evaluation.results.aggregation import aggregate_differences
    from metalm_cli.evaluation.results.comparison import OVER_CLUSTERS
    from metalm_cli.evaluation.results.matching import command_to_match

    page = Page(
        [
            f"{letter}  {result.name}: {result.source}"
            for letter, result in (("A", comparison.first), ("B", comparison.second))
        ],
    )
    all_aggregates = aggregate_differences(comparison)
    shows_clusters = not all_aggregates or aggregate_rows.shows_clusters(comparison.first)
    for shots in dict.fromkeys(task.shots for task in comparison.tasks):
        headers = ["task", "metric", "A", "B", "A-B", "95% of A-B", "p", "n", "better"]
        tasks = [task for task in comparison.tasks if task.shots == shots]
        aggregates = [mean for mean in all_aggregates if mean.shots == shots]
        means = [mean for mean in comparison.means if mean.shots == shots and shows_clusters]
        if aggregates:
            means = [mean for mean in means if mean.name != OVER_CLUSTERS] + aggregates
        rows = [*map(_difference_row, tasks), *map(_mean_row, means)]
        data_rows = [*map(_difference_data, tasks), *map(_mean_difference_data, means)]
        page.data_rows += [_file_names(comparison) | data_row for data_row in data_rows]
        settings_by_letter = {
            letter: {task.task: record.tasks[task.task].with_shots(shots) for task in tasks}
            for letter, record in (("A", comparison.first), ("B", comparison.second))
        }
        page.notes += chance_notes.above_chance(shots, settings_by_letter)
        page.tables.append(
            Table(f"{shots}-shot", headers, rows, text_columns=frozenset({0, 1, 8}), mean_rows=len(means))
        )
    for reason, task_names in comparison.obstacles.items():
        page.warnings.append(
            f"NOT COMPARABLE: {reason} "
            f"[{'all' if len(task_names) == len(comparison.tasks) > 1 else ', '.join(task_names)}]"
        )
    cases = [(task.task, task.shots) for task in comparison.tasks if task.obstacles]
    if cases and (command := command_to_match(comparison.first, comparison.second, cases)):
        page.warnings.append(f"to compare B with A: {command}")
    page.notes += aggregate_rows.comparison_notes(comparison)
    for task in comparison.tasks:
        if task.test is not None and any(task.test.exclusive):
            only_first, only_second = task.test.exclusive
            coverage = f"{task.test.common} rows are in both, {only_first} in A alone, {only_second} in B alone"
            page.notes.append(f"{task.task} ({task.shots}-shot): {coverage}")
    page.notes += seen_notes.not_held_out(comparison.first, "A") + seen_notes.not_held_out(comparison.second, "B")
    for letter, names in (("A", comparison.only_first), ("B", comparison.only_second)):
        if names:
            page.notes.append(f"in {letter} alone: {', '.join(names)}")
    for letter, record in (("A", comparison.first), ("B", comparison.second)):
        if not record.complete:
            page.warnings.append(f"{letter} is NOT COMPLETE: its evaluation was interrupted")
    return page


def _file_names(comparison: Comparison) -> dict[str, Any]:
    return {"file_a": comparison.first.name, "file_b": comparison.second.name}


WINNER_LABELS = ("–", "A", "B")
"""Labels of the winners 0 (neither), 1 and 2."""


def _difference_row(task: TaskComparison) -> list[str]:
    scores = ["–" if score is None else f"{_round_to_tenths(score):.1f}" for score in (task.first, task.second)]
    if task.test is None or task.obstacles:
        return [task.task, task.metric, *scores, "", "", "", "", "INVALID"]
    low, high = task.test.interval
    return [
        task.task,
        task.metric,
        *scores,
        f"{_round_to_tenths(100 * task.test.difference):+.1f}",
        _format_bounds(100 * low, 100 * high),
        _format_p(task.test.p),
        str(task.test.common),
        WINNER_LABELS[task.winner],
    ]


def _mean_row(mean: MeanDifference) -> list[str]:
    return [
        f"{mean.name}: {mean.aggregate}" if mean.aggregate else f"mean {mean.name}",
        f"of {len(mean.of)}",
        f"{_round_to_tenths(mean.first):.1f}",
        f"{_round_to_tenths(mean.second):.1f}",
        f"{_round_to_tenths(mean.first - mean.second):+.1f}",
        _format_bounds(*mean.interval),
        _format_p(mean.p),
        "",
        WINNER_LABELS[mean.winner],
    ]


def _difference_data(task: TaskComparison) -> dict[str, Any]:
    test = None if task.obstacles else task.test
    low, high = (None, None) if test is None else (100 * bound for bound in test.interval)
    only_a, only_b = (None, None) if task.test is None else task.test.exclusive
    return {
        "kind": "task",
        "shots": task.shots,
        "cluster": task.cluster,
        "task": task.task,
        "core": task.core,
        "metric": task.metric,
        "a": task.first,
        "b": task.second,
        "difference": None if test is None else 100 * test.difference,
        "low": low,
        "high": high,
        "p": None if test is None else test.p,
        "mcnemar_p": None if test is None else test.mcnemar,
        "both": None if task.test is None else task.test.common,
        "only_a": only_a,
        "only_b": only_b,
        "better": (None, "A", "B")[task.winner],
        "not_comparable": list(task.obstacles),
    }


def _mean_difference_data(mean: MeanDifference) -> dict[str, Any]:
    from metalm_cli.evaluation.results.comparison import OVER_CLUSTERS

    low, high = mean.interval
    if mean.aggregate:
        members: dict[str, Any] = {"kind": "aggregate", "suite": mean.name, "aggregate": mean.aggregate}
    else:
        is_overall = mean.name == OVER_CLUSTERS
        members = {
            "kind": "mean over clusters" if is_overall else "cluster mean",
            "cluster": None if is_overall else mean.name,
        }
    return {
        **members,
        "shots": mean.shots,
        "a": mean.first,
        "b": mean.second,
        "difference": mean.first - mean.second,
        "low": low,
        "high": high,
        "p": mean.p,
        "better": (None, "A", "B")[mean.winner],
        "of": list(mean.of),
    }


def _format_with_error(value: float, error: float | None) -> str:
    return f"{_round_to_tenths(value):.1f}" + (f" ±{error:.1f}" if error else "")


def _format_interval(bounds: Sequence[float] | None) -> str:
    return "" if bounds is None else _format_bounds(bounds[0], bounds[1], sign="")


def _format_bounds(low: float, high: float, sign: str = "+") -> str:
    return f"{_round_to_tenths(low):{sign}.1f}, {_round_to_tenths(high):{sign}.1f}"


def _round_to_tenths(value: float) -> float:
    """Round to one decimal; zero has no sign."""
    return round(round(value, 6), 1) + 0.0


def _format_p(value: float) -> str:
    return "<.001" if value < 0.001 else f"{value:.3f}"
