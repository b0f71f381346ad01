"""A training command whose recipe has stages: one run for each, in the folder of the whole run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metalm_cli.cli import console
from metalm_cli.cli.options.training import TrainOptions
from metalm_cli.errors import Exit

if TYPE_CHECKING:
    from metalm_cli.common.signals import StopSignals
    from metalm_cli.config.resolution import ResolvedRecipe
    from metalm_cli.runs.folder import RunFolder
    from metalm_cli.training.parts.stages import StageContext

RunStage = Callable[["ResolvedRecipe", TrainOptions, Path | None, "StageContext | None"], Exit]
"""Trains a recipe as a stage; without a context, plans it."""


def run_stages(
    resolved: ResolvedRecipe,
    options: TrainOptions,
    out: Path | None,
    signals: StopSignals,
    run_stage: RunStage,
    note: Callable[[str], None],
) -> Exit:
    """Train the stages of a recipe one after the other, or with ``dry_run`` display the plan of each.

    A new run displays the plan of every later stage first, so that a stage that cannot run is known before the first
    one trains. A resumed run continues in the stage that has not finished.

    Args:
        resolved: A recipe with stages.
        options: Options of the command.
        out: Folder of the whole run.
        signals: Stop signals.
        run_stage: Plans or trains one recipe.
        note: Prints a line.
    """
    from metalm_cli.runs.folder import RunFolder

    is_new = _on_rank_zero(lambda: RunFolder.starts_new_run(out, resolved.name, options.resume))
    if options.dry_run:
        for stage in resolved.stages:
            _print_heading(stage.name)
            run_stage(stage.resolved, options, None, None)
        return Exit.DONE
    if is_new:
        for stage in resolved.stages[1:]:
            note(f"plan of stage {stage.name}, which begins with the model of the former stage:")
            run_stage(stage.resolved, replace(options, dry_run=True), None, None)
    with _open_folder(resolved, options, out) as folder:
        _on_rank_zero(lambda: _write_recipe(resolved, options, folder))
        for index in range(len(resolved.stages)):
            if signals.pending:
                note(f"stopped by {signals.pending}; the same command with --resume continues")
                return Exit.STOPPED
            code = _run_stage(resolved, index, options, folder, run_stage, note)
            if code != Exit.DONE:
                return code
        from metalm_cli.training.parts.stages import link_result

        last = resolved.stages[-1].name
        note(f"{_on_rank_zero(lambda: str(link_result(folder, last)))}: the result of stage {last}")
    return Exit.DONE


def _write_recipe(resolved: ResolvedRecipe, options: TrainOptions, folder: RunFolder) -> None:
    """Write the recipe of the whole run, after the stages that have begun are compared with it."""
    from metalm_cli.runs.folder import RunFolder
    from metalm_cli.runs.resume_check import check_recipe
    from metalm_cli.training.parts.stages import is_stage_finished, stage_folder

    for index, stage in enumerate(resolved.stages):
        begun = RunFolder(stage_folder(folder.path, stage.name))
        if not begun.recipe.exists():
            break
        recipe, context = _stage(resolved, index, options, folder)
        if not is_stage_finished(folder.path, stage.name, recipe.recipe, is_last=context.is_last):
            check_recipe(begun, recipe.recipe)
    folder.write_text("recipe.yaml", resolved.stages_yaml)


def _stage(
    resolved: ResolvedRecipe, index: int, options: TrainOptions, folder: RunFolder
) -> tuple[ResolvedRecipe, StageContext]:
    """Return the recipe of a stage whose former one has finished, and its context."""
    from metalm_cli.training.parts import stages

    stage, is_last = resolved.stages[index], index == len(resolved.stages) - 1
    recipe, inherited = stage.resolved, None
    if index:
        former = resolved.stages[index - 1].name
        recipe = recipe.continued_from(stages.base_of_stage(folder.path, stage.name, former))
        inherited = stages.saved_training(resolved.recipe.model.checkpoint, options.offline)
    return recipe, stages.StageContext(folder.path, resolved.command, is_last, inherited)


def _run_stage(
    resolved: ResolvedRecipe,
    index: int,
    options: TrainOptions,
    folder: RunFolder,
    run_stage: RunStage,
    note: Callable[[str], None],
) -> Exit:
    """Train a stage unless it has finished."""
    from metalm_cli.training.parts.stages import is_stage_finished, stage_folder

    name = resolved.stages[index].name
    recipe, context = _on_rank_zero(lambda: _stage(resolved, index, options, folder))
    if _on_rank_zero(lambda: is_stage_finished(folder.path, name, recipe.recipe, is_last=context.is_last)):
        note(f"stage {name}: finished")
        return Exit.DONE
    note(f"stage {name}, {index + 1} of {len(resolved.stages)}")
    out = stage_folder(folder.path, name)
    return run_stage(recipe, replace(options, resume=_on_rank_zero(out.exists)), out, context)


@contextmanager
def _open_folder(resolved: ResolvedRecipe, options: TrainOptions, out: Path | None) -> Iterator[RunFolder]:
    """Create or resume the folder of the whole run, locked; rank zero creates it, and the other ranks attach to it."""
    from metalm_cli.runs.folder import RunFolder

    created: list[RunFolder] = []

    def create() -> str:
        created.append(RunFolder.create(out, resolved.name, options.resume))
        return str(created[0].path)

    path = _on_rank_zero(create)
    folder = created[0] if created else RunFolder.attach(Path(path))
    with folder:
        yield folder


def _on_rank_zero(function: Callable[[], Any]) -> Any:
    """Call a function in rank zero and return its result in all processes."""
    from metalm_cli.training.distributed.rank_zero import is_launched

    if not is_launched():
        return function()
    from metalm_cli.training.distributed.accelerator import connect_processes

    return connect_processes().on_rank_zero(function)


def _print_heading(name: str) -> None:
    from metalm_cli.training.distributed.rank_zero import is_rank_zero

    if is_rank_zero():
        console.stdout().print(f"stage {name}", style="bold", highlight=False, markup=False)
