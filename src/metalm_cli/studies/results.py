"""Results of a study: scores of its evaluations for all seeds, and its claims with their verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from metalm_cli.config.locate import display
from metalm_cli.errors import MetalmError
from metalm_cli.studies.claims import (
    Difference,
    TaskScores,
    compare_models,
    verdict_of,
    verdict_of_each,
    weights_over,
)
from metalm_cli.studies.expand import evaluations_of, stages_of_arms
from metalm_cli.studies.load import Study
from metalm_cli.studies.schema import CHANCE, RECORDED, Claim, StudyEvaluation, Verdict
from metalm_cli.studies.stages import Layout, result_paths

if TYPE_CHECKING:
    from metalm_cli.evaluation.results.schema import CostRecord, ResultRecord, SettingRecord


@dataclass(frozen=True)
class TaskResult:
    """Scores of two models on a task with a number of demonstrations, 0 to 100, as means over seeds.

    Args:
        task: Name of the task.
        cluster: Its cluster.
        shots: Number of demonstrations.
        chance: The better of guessing and the best constant answer; None if unknown.
        difference: First minus second model.
        held_out: Whether the first model was trained neither on the task nor on a task that leaks into it.
        verdict: Verdict of a claim about the task.
    """

    task: str
    cluster: str
    shots: int
    chance: float | None
    difference: Difference
    held_out: bool
    verdict: Verdict


@dataclass(frozen=True)
class ClaimResult:
    """A claim with its result.

    Args:
        claim: The claim.
        first: Label of the first model.
        second: Label of the second model, of the recorded scores, or ``chance``.
        seeds: Number of seeds.
        difference: Difference of the means over tasks; None for a claim about each task, or without results.
        tasks: Results by task.
        verdict: The verdict; None without results.
        missing: Reason for a missing result; empty otherwise.
        ratios: Of a claim about a cost, first divided by second for each seed.
    """

    claim: Claim
    first: str
    second: str
    seeds: int = 0
    difference: Difference | None = None
    tasks: tuple[TaskResult, ...] = ()
    verdict: Verdict | None = None
    missing: str = ""
    ratios: tuple[float, ...] = ()

    @property
    def at_least(self) -> int:
        """Number of tasks that must agree."""
        return self.claim.at_least or len(self.tasks)

    @property
    def expectation_held(self) -> bool | None:
        """Whether the verdict is the expected one; None without a verdict."""
        if self.verdict is None:
            return None
        if self.claim.expected == "not agrees":
            return self.verdict != "agrees"
        return self.verdict == self.claim.expected


class StudyResults:
    """Results of a study in its folder, for all seeds that have them.

    Args:
        study: The study.
        scale: Name of the scale.
        out: Folder of the study.
    """

    def __init__(self, study: Study, scale: str, out: Path) -> None:
        self.study, self.scale, self.out = study, scale, out
        self.layout = Layout.of(study.scale(scale), out)
        self.labels = {stage.name: stage.label for stage in stages_of_arms(study.file, scale)}
        self.labels |= {checkpoint.name: checkpoint.label for checkpoint in study.file.checkpoints}
        self.labels[CHANCE] = CHANCE

    @cached_property
    def evaluations(self) -> dict[str, tuple[StudyEvaluation, list[str]]]:
        """Evaluations of the scale with the names of their models, by name."""
        return {
            evaluation.name: (evaluation, models) for evaluation, models in evaluations_of(self.study.file, self.scale)
        }

    @cached_property
    def records(self) -> dict[str, dict[int, list[ResultRecord]]]:
        """Complete results of each evaluation: for each seed, those of its models in order.

        Raises:
            MetalmError: A result file is damaged.
        """
        from metalm_cli.evaluation.results.result_reader import read_result

        records: dict[str, dict[int, list[ResultRecord]]] = {}
        for name, (evaluation, models) in self.evaluations.items():
            records[name] = {}
            for seed in self._seeds():
                paths = result_paths(self.layout.folder(seed), evaluation, models)
                if all(path.is_file() for path in paths):
                    results = [read_result(path) for path in paths]
                    if all(result.complete for result in results):
                        records[name][seed] = results
        return records

    def _seeds(self) -> list[int]:
        """Seeds of the scale, and other seeds with a folder."""
        others = [path.name.removeprefix("seed-") for path in self.out.glob("seed-*")]
        return sorted({*self.layout.scale.all_seeds, *(int(name) for name in others if name.isdecimal())})

    def claims(self) -> list[ClaimResult]:
        """The claims of the scale with their verdicts, in the order of the file.

        Raises:
            MetalmError: A result file is damaged, or a claim names a task that the evaluation does not have.
        """
        claims = [claim for claim in self.study.file.claims if claim.scales is None or self.scale in claim.scales]
        return [self._judge(claim) for claim in claims]

    def _judge(self, claim: Claim) -> ClaimResult:
        second = claim.recorded.label if claim.recorded is not None else self.labels.get(claim.second, claim.second)
        if claim.second_evaluation is not None and claim.second_evaluation in self.evaluations:
            second += f" ({self.evaluations[claim.second_evaluation][0].title})"
        labels = (self.labels.get(claim.first, claim.first), second)
        sides = [(claim.first, claim.evaluation), (claim.second, claim.second_evaluation or claim.evaluation)]
        for name, evaluation in sides:
            _, models = self.evaluations.get(evaluation, (None, []))
            if name not in (CHANCE, RECORDED, *models):
                return ClaimResult(claim, *labels, missing=f"the scale {self.scale} has no {name}")
        missing = [evaluation for _, evaluation in sides if not self.records[evaluation]]
        if missing:
            return ClaimResult(claim, *labels, missing=f"no results yet of the evaluation {missing[0]}")
        seeds = len(self._common_seeds(claim.evaluation, claim))
        if claim.measure != "score":
            return self._judge_cost(claim, labels)
        results = self.task_results(claim.evaluation, claim.first, claim.second, claim)
        if not results:
            return ClaimResult(claim, *labels, missing="no task of the claim has both scores")
        if claim.over == "each":
            verdict = verdict_of_each([result.verdict for result in results], claim.at_least or len(results))
            return ClaimResult(claim, *labels, seeds, None, tuple(results), verdict)
        difference = self.mean_difference(claim.evaluation, claim.first, claim.second, claim)
        verdict = verdict_of(difference.interval, claim.margin, claim.direction)
        return ClaimResult(claim, *labels, seeds, difference, tuple(results), verdict)

    def _judge_cost(self, claim: Claim, labels: tuple[str, str]) -> ClaimResult:
        first, second = (
            [value for cost in self.costs(name) if (value := getattr(cost, claim.measure)) is not None]
            for name in (claim.first, claim.second)
        )
        if not first or not second:
            return ClaimResult(claim, *labels, missing=f"no {claim.measure} of an example of both models")
        paired = (
            zip(first, second, strict=True) if len(first) == len(second) else ((value, second[0]) for value in first)
        )
        ratios = tuple(mine / other for mine, other in paired)
        limit = claim.at_most or 1.0
        verdict: Verdict = "agrees" if max(ratios) <= limit else "disagrees" if min(ratios) > limit else "undecided"
        return ClaimResult(claim, *labels, len(ratios), verdict=verdict, ratios=ratios)

    def best_evaluation(self, model: str) -> str | None:
        """The evaluation that has a model with the most seeds; None if no evaluation with results has it."""
        names = [name for name, (_, models) in self.evaluations.items() if model in models and self.records[name]]
        return max(names, key=lambda name: len(self.records[name]), default=None)

    def costs(self, model: str) -> list[CostRecord]:
        """Cost of an example of a model, by seed, from the evaluation in which the model answered and read no cache."""
        costs: dict[int, CostRecord] = {}
        for name, (_, models) in self.evaluations.items():
            for seed, results in self.records[name].items() if model in models else ():
                for task in results[models.index(model)].tasks.values():
                    cost = task.settings[0].templates[0].cost
                    if cost is not None and (seed not in costs or cost.examples > costs[seed].examples):
                        costs[seed] = cost
        return [costs[seed] for seed in sorted(costs)]

    def task_results(
        self, evaluation: str, first: str, second: str, claim: Claim | None = None, shots: int | None = None
    ) -> list[TaskResult]:
        """Results of two models on each task of an evaluation (or of a claim) that both have scores for.

        Args:
            evaluation: Name of the evaluation.
            first: First model.
            second: Second model, ``chance`` or ``recorded``; tasks without such a level are then left out.
            claim: Claim whose tasks, demonstrations and margin apply.
            shots: Number of demonstrations; default: those of the claim, else all.
        """
        results = []
        for scores, setting, held_out in self._pairs(evaluation, first, second, claim, shots):
            difference = compare_models([scores], [1.0])
            verdict = verdict_of(
                difference.interval, *((0.0, "above") if claim is None else (claim.margin, claim.direction))
            )
            results.append(
                TaskResult(
                    scores.name, scores.cluster, setting.shots, setting.chance.level, difference, held_out, verdict
                )
            )
        return results

    def mean_difference(
        self, evaluation: str, first: str, second: str, claim: Claim | None = None, shots: int | None = None
    ) -> Difference:
        """Difference of two models in the mean over clusters, or over the tasks of a claim."""
        tasks = [scores for scores, *_ in self._pairs(evaluation, first, second, claim, shots)]
        return compare_models(tasks, weights_over(tasks, claim.over if claim is not None else "clusters"))

    def shots(self, evaluation: str) -> list[int]:
        """Numbers of demonstrations of an evaluation, ascending; empty without results."""
        return sorted(
            {shots for results in self.records[evaluation].values() for result in results for shots in result.shots}
        )

    def _common_seeds(self, evaluation: str, claim: Claim | None) -> list[int]:
        """Seeds with results of an evaluation, and of the second evaluation of a claim."""
        other = evaluation if claim is None or claim.second_evaluation is None else claim.second_evaluation
        return [seed for seed in self.records[evaluation] if seed in self.records[other]]

    def _records_of(self, model: str, evaluation: str, seeds: Sequence[int]) -> list[ResultRecord]:
        _, models = self.evaluations[evaluation]
        return [self.records[evaluation][seed][models.index(model)] for seed in seeds]

    def _pairs(
        self, evaluation: str, first: str, second: str, claim: Claim | None, shots: int | None
    ) -> Iterator[tuple[TaskScores, SettingRecord, bool]]:
        """Yield the scores of two models on each task and number of demonstrations, with the first model's record."""
        seeds = self._common_seeds(evaluation, claim)
        if not seeds:
            return
        first_records = self._records_of(first, evaluation, seeds)
        other = evaluation if claim is None or claim.second_evaluation is None else claim.second_evaluation
        second_records = None if second in (CHANCE, RECORDED) else self._records_of(second, other, seeds)
        if claim is not None:
            _check_tasks(claim, first_records[0], self.study)
            shots = claim.shots if claim.shots is not None else min(first_records[0].shots)
        for name, record in first_records[0].tasks.items():
            if claim is not None and claim.tasks and name not in claim.tasks:
                continue
            for setting in record.settings:
                if shots is not None and setting.shots != shots:
                    continue
                key = (name, setting.shots)
                ours = [result.observations.get(key, []) for result in first_records]
                theirs: Sequence[Sequence[object]] | float
                if second_records is None:
                    recorded = None if claim is None or claim.recorded is None else claim.recorded.scores
                    constant = setting.chance.level if recorded is None else recorded.get(name)
                    if constant is None or not all(ours):
                        continue
                    theirs = constant / 100
                else:
                    theirs = [result.observations.get(key, []) for result in second_records]
                    if not all(ours) or not all(theirs):
                        continue
                scores = TaskScores(name, record.cluster, ours, theirs)  # type: ignore[arg-type]
                yield scores, setting, record.seen.label == "held out"


def _check_tasks(claim: Claim, record: ResultRecord, study: Study) -> None:
    named = [*claim.tasks, *(claim.recorded.scores if claim.recorded is not None else ())]
    unknown = [task for task in named if task not in record.tasks and task not in record.missing]
    if unknown:
        raise MetalmError(
            f"the claim {claim.name} is about the task {unknown[0]}, which its evaluation does not have",
            where=display(study.path),
            why=f"tasks of {claim.evaluation}: {', '.join(record.tasks)}",
            remedy="correct the tasks of the claim, or the options of the evaluation",
        )
