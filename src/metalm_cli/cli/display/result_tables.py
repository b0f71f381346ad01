"""Pages of result files: one with its cluster means, or two beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from metalm_cli.cli.display.tables import Block, Page

if TYPE_CHECKING:
    from metalm_cli.evaluation.metrics.bootstrap import Estimate
    from metalm_cli.evaluation.results.comparison import Comparison, MeanDifference, TaskComparison
    from metalm_cli.evaluation.results.result_reader import ResultRecord, SettingRecord, TaskRecord

# -- one file ---------------------------------------------------------------------------------------------------------


def result_table(record: ResultRecord) -> Page:
    """A result file as a page: a block for each number of demonstrations, with its cluster means."""
    from metalm_cli.evaluation.results.comparison import record_cluster_means

    named = [f"results  {record.name}"] if record.name else []
    page = Page([*named, f"model    {record.source}", f"asked    {_how(record)}"])
    for shots in record.shots:
        tasks = [(name, task, setting) for name, task in record.tasks.items() if (setting := task.at(shots))]
        several = any(len(setting.templates) > 1 for _, _, setting in tasks)
        heads = [
            "task",
            "seen",
            "metric",
            "score",
            "95% interval",
            "chance",
            *(["spread", "oracle"] if several else ["n"]),
        ]
        block = Block(f"{shots}-shot", heads, left=(0, 1, 2))
        for name, task, setting in tasks:
            block.rows.append(_task_row(name, task, setting, several))
            page.facts.append(_task_facts(record, name, task, setting))
        block.tasks = len(block.rows)
        for name, (mean, of) in record_cluster_means(record, shots).items():
            cells = [f"mean {name}", "", f"of {len(of)}", _pm(mean.value, mean.error), _interval(mean.interval), ""]
            block.rows.append(cells + [""] * (len(heads) - len(cells)))
            page.facts.append(_mean_facts(record, shots, name, mean, of))
        page.blocks.append(block)
    page.notes += _notes(record)
    return page


def _how(record: ResultRecord) -> str:
    settings = record.settings
    count = settings.get("limit")
    return ", ".join(
        [
            record.protocol,
            f"templates {settings.get('templates', '?')} ({settings.get('template', '?')})",
            "all examples" if count is None else f"{count} examples of each task",
        ]
    )


def _task_row(name: str, task: TaskRecord, setting: SettingRecord, several: bool) -> list[str]:
    levels = [one for one in (setting.chance.uniform, setting.chance.majority) if one is not None]
    cells = [
        name,
        "leak" if task.seen.label == "leak partner" else task.seen.label,
        task.metric,
        "–" if setting.score is None else _pm(setting.score, setting.error),
        _interval(setting.interval),
        f"{max(levels):.1f}" if levels else "",
    ]
    if not several:
        cells.append(str(setting.n))
    else:
        cells.append("" if setting.spread is None else f"{setting.spread:.1f}")
        cells.append("" if setting.oracle is None else f"{setting.oracle.score:.1f}")
    return cells


def _task_facts(record: ResultRecord, name: str, task: TaskRecord, setting: SettingRecord) -> dict[str, Any]:
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
        "spread": setting.spread,
        "oracle": None if best is None else best.score,
        "oracle_template": None if best is None else best.template,
        "templates": [one.template for one in setting.templates],
        "template_scores": [one.score for one in setting.templates],
        "cut": max((one.cut for one in setting.templates), default=0),
        "skipped": max((one.skipped for one in setting.templates), default=0),
        "extra": setting.extra,
    }


def _mean_facts(record: ResultRecord, shots: int, name: str, mean: Estimate, of: Sequence[str]) -> dict[str, Any]:
    from metalm_cli.evaluation.results.comparison import OVER

    low, high = mean.interval or (None, None)
    return {
        "file": record.name,
        "model": record.source,
        "protocol": record.protocol,
        "kind": "mean over clusters" if name == OVER else "cluster mean",
        "shots": shots,
        "cluster": None if name == OVER else name,
        "score": mean.value,
        "error": mean.error,
        "low": low,
        "high": high,
        "of": list(of),
    }


def _notes(record: ResultRecord) -> list[str]:
    notes = []
    settings = [(name, one) for name, task in record.tasks.items() for one in task.settings]
    most = max((len(one.templates) for _, one in settings), default=0)
    if most > 1:
        notes.append(f"mean over up to {most} templates; the oracle is the best, chosen on the scored examples")
    for label in ("seen", "leak partner"):
        names = [name for name, task in record.tasks.items() if task.seen.label == label]
        if names:
            what = (
                "trained on" if label == "seen" else "not new: something that shares their data was trained on (leak)"
            )
            notes.append(f"{what}: {', '.join(names)}")
    for what, why in (("cut", "have long inputs cut"), ("skipped", "do not fit the model, and are in no score")):
        counts: dict[str, int] = {}
        for name, one in settings:
            # A note says what demonstrations leave no room for.
            found = (getattr(wording, what) for wording in one.templates if what == "cut" or not wording.note)
            counts[name] = max([counts.get(name, 0), *found])
        named = [f"{name} {count}" for name, count in counts.items() if count]
        if named:
            notes.append(f"examples that {why}: {', '.join(named)}")
    if record.missing:
        notes.append(f"missing, and in no mean: {', '.join(record.missing)}")
    if not record.complete:
        notes.append("NOT COMPLETE: the evaluation was interrupted, and means are over what is there")
    said: dict[str, list[str]] = {}
    for name, one in settings:
        for note in dict.fromkeys(wording.note for wording in one.templates if wording.note):
            said.setdefault(note, []).append(f"{name} ({one.shots}-shot)")
    return notes + [f"{', '.join(names)}: {note}" for note, names in said.items()]


# -- two files --------------------------------------------------------------------------------------------------------


def comparison_table(found: Comparison) -> Page:
    """A comparison as a page: a block for each number of demonstrations, with cluster means."""
    page = Page(
        [f"{letter}  {one.name}: {one.source}" for letter, one in (("A", found.first), ("B", found.second))],
    )
    for shots in dict.fromkeys(one.shots for one in found.tasks):
        heads = ["task", "metric", "A", "B", "A-B", "95% of A-B", "p", "n", "better"]
        block = Block(f"{shots}-shot", heads, left=(0, 1, 8))
        for one in (one for one in found.tasks if one.shots == shots):
            block.rows.append(_difference_row(one))
            page.facts.append(_files(found) | _difference_facts(one))
        block.tasks = len(block.rows)
        for mean in (mean for mean in found.means if mean.shots == shots):
            block.rows.append(_mean_row(mean))
            page.facts.append(_files(found) | _mean_difference_facts(mean))
        page.blocks.append(block)
    for why, of in found.obstacles.items():
        page.warnings.append(f"NOT COMPARABLE: {why} [{'all' if len(of) == len(found.tasks) > 1 else ', '.join(of)}]")
    for one in found.tasks:
        if one.test is not None and any(one.test.only):
            ours, theirs = one.test.only
            where = f"{one.test.both} rows are in both, {ours} in A alone, {theirs} in B alone"
            page.notes.append(f"{one.task} ({one.shots}-shot): {where}")
    for letter, names in (("A", found.only_first), ("B", found.only_second)):
        if names:
            page.notes.append(f"in {letter} alone: {', '.join(names)}")
    for letter, record in (("A", found.first), ("B", found.second)):
        if not record.complete:
            page.warnings.append(f"{letter} is NOT COMPLETE: its evaluation was interrupted")
    return page


def _files(found: Comparison) -> dict[str, Any]:
    return {"file_a": found.first.name, "file_b": found.second.name}


BETTER = ("–", "A", "B")
"""What is said of 0, 1 and 2."""


def _difference_row(one: TaskComparison) -> list[str]:
    scores = ["–" if score is None else f"{_tenths(score):.1f}" for score in (one.first, one.second)]
    if one.test is None or one.obstacles:
        return [one.task, one.metric, *scores, "", "", "", "", "INVALID"]
    low, high = one.test.interval
    return [
        one.task,
        one.metric,
        *scores,
        f"{_tenths(100 * one.test.difference):+.1f}",
        _ends(100 * low, 100 * high),
        _p(one.test.p),
        str(one.test.both),
        BETTER[one.winner],
    ]


def _mean_row(mean: MeanDifference) -> list[str]:
    return [
        f"mean {mean.name}",
        f"of {len(mean.of)}",
        f"{_tenths(mean.first):.1f}",
        f"{_tenths(mean.second):.1f}",
        f"{_tenths(mean.first - mean.second):+.1f}",
        _ends(*mean.interval),
        _p(mean.p),
        "",
        BETTER[mean.winner],
    ]


def _difference_facts(one: TaskComparison) -> dict[str, Any]:
    test = None if one.obstacles else one.test
    low, high = (None, None) if test is None else (100 * end for end in test.interval)
    only_a, only_b = (None, None) if one.test is None else one.test.only
    return {
        "kind": "task",
        "shots": one.shots,
        "cluster": one.cluster,
        "task": one.task,
        "core": one.core,
        "metric": one.metric,
        "a": one.first,
        "b": one.second,
        "difference": None if test is None else 100 * test.difference,
        "low": low,
        "high": high,
        "p": None if test is None else test.p,
        "mcnemar_p": None if test is None else test.mcnemar,
        "both": None if one.test is None else one.test.both,
        "only_a": only_a,
        "only_b": only_b,
        "better": (None, "A", "B")[one.winner],
        "not_comparable": list(one.obstacles),
    }


def _mean_difference_facts(mean: MeanDifference) -> dict[str, Any]:
    from metalm_cli.evaluation.results.comparison import OVER

    low, high = mean.interval
    return {
        "kind": "mean over clusters" if mean.name == OVER else "cluster mean",
        "shots": mean.shots,
        "cluster": None if mean.name == OVER else mean.name,
        "a": mean.first,
        "b": mean.second,
        "difference": mean.first - mean.second,
        "low": low,
        "high": high,
        "p": mean.p,
        "better": (None, "A", "B")[mean.winner],
        "of": list(mean.of),
    }


def _pm(value: float, error: float | None) -> str:
    return f"{_tenths(value):.1f}" + ("" if error is None else f" ±{error:.1f}")


def _interval(ends: Sequence[float] | None) -> str:
    return "" if ends is None else _ends(ends[0], ends[1], sign="")


def _ends(low: float, high: float, sign: str = "+") -> str:
    return f"{_tenths(low):{sign}.1f}, {_tenths(high):{sign}.1f}"


def _tenths(value: float) -> float:
    """Rounded, and 0 without a sign."""
    return round(round(value, 6), 1) + 0.0


def _p(value: float) -> str:
    return "<.001" if value < 0.001 else f"{value:.3f}"
