"""The result of a run: the model or adapter of its last or best step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metalm_cli.errors import Exit, MetalmError
from metalm_cli.models.assembly import Assembly
from metalm_cli.runs import checkpoint
from metalm_cli.runs.folder import RunFolder
from metalm_cli.runs.metrics_log import last_validation, read_metrics
from metalm_cli.runs.part_changes import warnings_of
from metalm_cli.training.model_card import write_model
from metalm_cli.training.parts.weight_changes import change_record, changes_since_start, parts_of_run
from metalm_cli.training.run_start import TOKENIZERS
from metalm_cli.training.trainer import Trainer

if TYPE_CHECKING:
    from metalm_cli.training.run import Run


def write_result(run: Run, folder: RunFolder, trainer: Trainer, log: Any) -> list[str]:
    """Write ``model/`` or ``adapter/`` of a run that has ended, and what moved, in rank zero.

    Args:
        run: The run.
        folder: Its folder.
        trainer: Its trainer.
        log: Metrics log.

    Returns:
        Warnings about parts that have not moved, or should not have.

    Raises:
        MetalmError: The result cannot be written, or the checkpoint of the best step is missing or damaged.
    """
    facts = {
        "name": run.options.name,
        "recipe": run.recipe_yaml,
        "steps": trainer.state.step,
        "best": trainer.state.best_step,
        "tokens": trainer.totals.get("source_tokens", 0),
        "validation": last_validation(folder.metrics),
        "lineage": run.lineage(),
    }
    step = trainer.state.best_step if trainer.keep_best else None
    is_loaded = run.num_processes == 1 and step in (None, trainer.state.step)
    root, assembly = (run.root, run.assembly) if is_loaded else _load_whole_model(run, folder, step)
    if is_loaded:
        run.frozen_weights.release()
    folder.check_in_place()
    changes = changes_since_start(folder, parts_of_run(run, root, assembly))
    facts["changes"] = changes
    record = change_record(trainer.state.step, changes)
    if changes and record not in read_metrics(folder.metrics)[0]:  # a finished run that is resumed has it
        log.write(record)
    with folder.write_result(run.result_name) as model_folder:
        write_model(
            model_folder, run.objective.extra_parts(root), assembly, run.corpus, run.recipe, facts, run.ancestors
        )
    return warnings_of(changes)


def _load_whole_model(run: Run, folder: RunFolder, step: int | None) -> tuple[Any, Assembly]:
    """Load the unsharded model from the checkpoint of a step (default: the last).

    Raises:
        MetalmError: The checkpoint is missing or damaged.
    """
    assembly = run.assemble(folder.path / TOKENIZERS)
    root = run.make_objective(assembly).step_module()
    checkpoint_path = (
        checkpoint.find_latest(folder.checkpoints)[0]
        if step is None
        else checkpoint.load_step(folder.checkpoints, step)
    )
    if checkpoint_path is None:
        raise MetalmError(
            f"the checkpoint of {'the last step' if step is None else f'the best step, {step},'} is missing",
            where=str(folder.checkpoints),
            why="it was removed while the run was writing its folder",
            remedy="start a new run",
            exit_code=Exit.FAILED,
        )
    tensors, _state = checkpoint.load(checkpoint_path, verify=False)
    root.load_state_dict(tensors["model"], strict=assembly.lora_targets is None)
    return root, assembly
