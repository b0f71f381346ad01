"""The page of a study: its claims first, then tables and curves of all runs."""

from __future__ import annotations

from pathlib import Path

from metalm_cli.common.table import Table, counted
from metalm_cli.reports.figures.score_curve_figure import score_curve_figure
from metalm_cli.reports.figures.training_figures import Figure
from metalm_cli.reports.lead import ClaimView, Lead
from metalm_cli.studies.load import Study, load_study
from metalm_cli.studies.results import ClaimResult, StudyResults
from metalm_cli.studies.score_tables import (
    cost_table,
    headline,
    ours_text,
    pair_table,
    paper_text,
    short_name,
)
from metalm_cli.studies.state import STATE_FILE, STUDY_FILE, claims_note, read_state

RULE = (
    "A claim agrees with the paper if the 95% interval of first minus second is clear of 0 (of the dashed line) in the "
    "claimed direction, disagrees if it is clear of 0 in the other direction, and is undecided otherwise. The interval "
    "resamples examples and seeds together, the same ones for both models; with one seed it covers examples only."
)

COST_NOTE = (
    "Means over the examples that were answered and over seeds. Time: encoding, prefill and answer by the clock, in "
    "fp32. FLOPs: a forward pass over the prompt, apart from others. Memory: the highest peak above the loaded model."
)


def is_study_folder(path: Path) -> bool:
    """Whether a folder is that of a study."""
    return (path / STATE_FILE).is_file() and (path / STUDY_FILE).is_file()


def study_lead(folder: Path) -> Lead:
    """First view of the page of a study in its folder, with the results so far.

    Raises:
        MetalmError: The state, the study or a result file is damaged.
    """
    state = read_state(folder) or {}
    study = load_copy(folder)
    results = StudyResults(study, state["scale"], folder)
    claims = results.claims()
    file = study.file
    source = f" · the paper's {file.source}" if file.source else ""
    return Lead(
        title=f"Study {file.name}, scale {state['scale']}",
        subtitle=f"{file.description}{source}",
        headline=headline(claims) if claims else "The study has no claims at this scale.",
        claims=[_view(claim) for claim in claims],
        notes=[RULE, claims_note(state, study)] if claims else [],
        tables=_tables(results),
        figures=study_figures(results),
    )


def study_figures(results: StudyResults) -> list[Figure]:
    """Figures of a study, of the models that have results."""
    figures = []
    for figure in results.study.file.figures:
        if figure.scales is not None and results.scale not in figure.scales:
            continue
        curves = {
            line.label: [
                (int(number), *score)
                for number, model in sorted(line.points.items(), key=lambda point: int(point[0]))
                if (score := _score(results, model))
            ]
            for line in figure.lines
        }
        levels = {
            level.label: score
            for level in figure.levels
            if (score := (level.score,) * 3 if level.score is not None else _score(results, level.model or ""))
        }
        drawn = score_curve_figure(figure.name, figure.title, figure.axis, curves, levels)
        figures += [drawn] if drawn is not None else []
    return figures


def _score(results: StudyResults, model: str) -> tuple[float, float, float] | None:
    """Mean score of a model over tasks and seeds with its 95% interval; None without results."""
    evaluation = results.best_evaluation(model)
    if evaluation is None or not results.task_results(evaluation, model, model):
        return None
    difference = results.mean_difference(evaluation, model, model)
    return (difference.first, *difference.first_interval)


def load_copy(folder: Path) -> Study:
    """Read the copy of a study in its folder.

    Raises:
        MetalmError: The copy is damaged.
    """
    return load_study(folder / STUDY_FILE)


def _view(result: ClaimResult) -> ClaimView:
    claim = result.claim
    held = {True: ": this was the result", False: ": it was not the result", None: ""}[result.expectation_held]
    seeds = f" · {counted(result.seeds, 'seed')}" if result.seeds else ""
    facts = [
        ("compared", f"{result.first} minus {result.second}, evaluation {claim.evaluation}{seeds}"),
        ("ours", ours_text(result)),
        ("the paper", paper_text(result)),
        ("expected", f"{claim.expected}, because {claim.reason}{held}"),
    ]
    differences = [
        (short_name(task.task), task.difference.value, *task.difference.interval)
        for task in (result.tasks if claim.over == "each" or len(result.tasks) <= 12 else ())
    ]
    if result.difference is not None:
        mean = ("mean", result.difference.value, *result.difference.interval)
        differences = [mean, *differences] if len(result.tasks) > 1 else [mean]
    limit = -claim.margin if claim.direction == "above" else claim.margin
    return ClaimView(claim.name, claim.statement, result.verdict or "", facts, differences, limit)


def _tables(results: StudyResults) -> list[Table]:
    tables = []
    for name, (evaluation, (first, *others)) in results.evaluations.items():
        if not results.records[name]:
            continue
        for other in (*others,) or (None,):
            headers, rows = pair_table(results, name, first, other)
            title = evaluation.title[:1].upper() + evaluation.title[1:]
            tables.append(Table(title, headers, rows, "Scores 0 to 100, means over seeds; * held out."))
    headers, rows = cost_table(results)
    return [*tables, Table("Cost of an example", headers, rows, COST_NOTE)] if rows else tables
