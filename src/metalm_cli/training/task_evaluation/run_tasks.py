"""The evaluation on tasks of a run: opened with its training data and model, and named in its plan."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from metalm_cli.config.schema.recipes import Recipe
from metalm_cli.models.assembly import Assembly
from metalm_cli.objectives.base import StepModule
from metalm_cli.provenance.lineage import make_lineage
from metalm_cli.provenance.model_history import history_of_lineage
from metalm_cli.training.planning.plan import RunPlan
from metalm_cli.training.run_start import TOKENIZERS
from metalm_cli.training.task_evaluation.evaluated_tasks import EvaluatedTasks, RequestedTasks, open_evaluated_tasks
from metalm_cli.training.task_evaluation.task_evaluator import TaskEvaluator, evaluated_model

if TYPE_CHECKING:
    from metalm_cli.training.run import Run


def open_tasks_of_run(run: Run, requested: RequestedTasks) -> EvaluatedTasks:
    """Open the tasks with the history that the trained model will have, and check that the model reads them.

    Raises:
        MetalmError: A task has no data, cannot be evaluated or does not fit, or ``best_by`` names no score.
    """
    facts = {"name": run.options.name, "steps": 0, "tokens": 0, "lineage": run.lineage()}
    history = history_of_lineage(make_lineage(run.corpus, run.recipe, facts, run.ancestors), "this run")
    tasks = open_evaluated_tasks(requested, history, data_root=run.options.data_root, offline=run.options.offline)
    tasks.check_model(evaluated_model(run.assembly))
    return tasks


def make_task_evaluator(run: Run, tasks: EvaluatedTasks) -> TaskEvaluator:
    """Make the evaluator of a run."""

    def make_copy() -> tuple[Assembly, StepModule]:
        assembly = run.assemble(run.folder_path / TOKENIZERS)
        return assembly, run.make_objective(assembly).step_module()

    return TaskEvaluator(tasks, run.assembly, run.root, run.collectives, make_copy if run.shards > 1 else None)


def plan_with_evaluation(plan: RunPlan, recipe: Recipe, tasks: EvaluatedTasks) -> RunPlan:
    """Return the plan with notes about the evaluation.

    Raises:
        MetalmError: The first evaluation would be after the last step.
    """
    tasks.check_steps(recipe, plan.steps)
    return replace(plan, notes=(*plan.notes, *tasks.notes()))
