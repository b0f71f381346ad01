"""Files that a run writes before its first step and reads again on resume."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metalm_cli.common.atomic_files import TEMPORARY_MARKER, explain_write_errors, fsync_tree, replace_folder
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.models.assembly import Assembly
from metalm_cli.provenance.lineage import describe_checkpoints
from metalm_cli.runs import checkpoint
from metalm_cli.runs.data_record import DATA_FILE, data_record, read_data_record
from metalm_cli.runs.folder import RunFolder, environment
from metalm_cli.runs.metrics_log import MetricsLog, NullLog, missing_records_note
from metalm_cli.runs.resume_check import check_recipe, is_recorded, recipe_record
from metalm_cli.training.parts.weight_changes import parts_of_run, write_start_weights

if TYPE_CHECKING:
    from metalm_cli.training.run import Run
    from metalm_cli.training.trainer import Trainer

RECIPE_KEY = "recipe"
"""Key of the recipe in the state of a checkpoint."""

TOKENIZERS = "tokenizers"
"""Folder of a run's tokenizers (``decoder/``, ``encoders/<name>/``), so that a resumed run uses the same tokens."""

BASE_FILE = "base.json"
"""Hash of the base weights of a run's adapters, which its checkpoints do not contain."""


@dataclass(frozen=True)
class RunStart:
    """Where a run starts.

    Attributes:
        checkpoint: Folder of the checkpoint to resume from; None at step 0.
        record: Recipe that the checkpoint or the start of the run recorded; None for a run of an earlier version.
    """

    checkpoint: Path | None = None
    record: dict[str, Any] | None = None

    def restore(self, trainer: Trainer) -> None:
        """Restore the state of the checkpoint.

        Raises:
            MetalmError: The checkpoint is damaged, or that of another model.
        """
        assert self.checkpoint is not None
        tensors, state = checkpoint.load(self.checkpoint, verify=False)
        state.pop(RECIPE_KEY, None)
        trainer.restore(tensors, state)

    def clean_up(self, folder: RunFolder, step: int, steps: int) -> None:
        """Remove leftovers of interrupted saves, and set the result aside if the run continues.

        Raises:
            MetalmError: The folder cannot be written.
        """
        if self.checkpoint is not None and step < steps:
            folder.set_result_aside()
        checkpoint.check_root(folder.checkpoints)
        checkpoint.remove_interrupted(folder.checkpoints)


def find_start(run: Run, folder: RunFolder) -> RunStart:
    """Find the checkpoint to resume from, and compare the recipe with the recorded one; print what is unusual.

    Raises:
        MetalmError: The recipe differs in keys that must not change, or the checkpoints cannot be read.
    """

    def find() -> tuple[RunStart, list[str]]:
        checkpoint.check_root(folder.checkpoints)
        path, damaged = checkpoint.find_latest(folder.checkpoints)
        state = {} if path is None else checkpoint.read_state(path)
        record = state.get(RECIPE_KEY) if path is not None else _start_record(folder)
        start = RunStart(path, record if isinstance(record, dict) else None)
        is_known = start.record is not None or folder.recipe.exists()
        notes = check_recipe(folder, recipe, start.record) if is_known else []
        notes += [f"not used: {damage}" for damage in damaged]
        if isinstance(step := state.get("step"), int):
            log_every = (start.record or {}).get("train", {}).get("log_every", recipe.train.log_every)
            notes.append(missing_records_note(folder.metrics, step, log_every))
        if folder.recipe.exists() and not (folder.path / TOKENIZERS).is_dir():
            notes.append(f"the run has no copy of its tokenizers ({TOKENIZERS}/), so they are made or loaded again")
        return start, [note for note in notes if note]

    recipe = run.recipe
    start, notes = run.collectives.on_rank_zero(find)
    for note in notes:
        run.callbacks.print_note(note)
    run.options.name = recipe_name(folder) or run.options.name
    return start


def _start_record(folder: RunFolder) -> dict[str, Any] | None:
    """Recipe that a run without a checkpoint started with."""
    record = read_data_record(folder)
    return None if record is None else record.get("recipe")


def resume_command(run: Run, folder: RunFolder) -> str:
    """Command that resumes a run; a run that has not written its recipe yet needs the name of the recipe."""
    if run.options.stage is not None:
        return run.options.stage.resume_command
    recipe = "" if folder.recipe.is_file() else " RECIPE"
    return f"metalm {run.recipe.command}{recipe} --resume --out {folder.path}"


def open_log(run: Run, folder: RunFolder, step: int) -> MetricsLog | NullLog:
    """Open the metrics log after a step in rank zero; the other ranks have none."""
    opened: list[MetricsLog] = []

    def open_it() -> None:
        opened.append(MetricsLog(folder.metrics))
        opened[0].remove_steps_after(step)

    run.collectives.on_rank_zero(open_it)
    return opened[0] if opened else NullLog()


def describe_end(run: Run, folder: RunFolder, result: Exit) -> str:
    """Describe where the result of a run is, or how a stopped run is resumed."""
    if result == Exit.DONE:
        return f"{run.result_name}: {folder.path / run.result_name}"
    return f"stopped; resume with: {resume_command(run, folder)}"


def describe_interrupt(run: Run, folder: RunFolder) -> str:
    """Describe what remains of a run that was stopped at once."""
    step = checkpoint.newest_step(folder.checkpoints)
    state = "before the first checkpoint" if step is None else f"and the last checkpoint is that of step {step}"
    return f"stopped at once, {state}; resume with: {resume_command(run, folder)}"


def write_start(run: Run, folder: RunFolder, device: str) -> None:
    """Write the files that a resumed run needs; ``recipe.yaml`` last, so that its presence implies all others.

    Of a run that has them, only ``recipe.yaml`` is written, if its values differ.

    Raises:
        MetalmError: The folder cannot be written.
    """
    assembly = run.assembly
    with explain_write_errors(folder.path, "cannot start the run", Exit.FAILED):
        if not folder.recipe.exists():
            folder.write_json("environment.json", {"recipe": run.options.name, **environment(device)})
            _write_tokenizers(folder, assembly)
            start = {"recipe": recipe_record(run.recipe), "start": describe_checkpoints(run.ancestors)}
            folder.write_json(DATA_FILE, {**data_record(run.corpus), **start})
            write_start_weights(folder, parts_of_run(run, run.root, assembly))
            if assembly.lora_targets is not None and assembly.lora_targets.base is not None:
                folder.write_json(BASE_FILE, {"sha256": assembly.lora_targets.base.sha256})
        elif is_recorded(folder, run.recipe):
            return
        folder.write_text("recipe.yaml", run.recipe_yaml)


def _write_tokenizers(folder: RunFolder, assembly: Assembly) -> None:
    temporary = folder.path / f".{TOKENIZERS}{TEMPORARY_MARKER}"
    try:
        for name, tokenizer in assembly.family.tokenizers(assembly).items():
            tokenizer.save_pretrained(temporary / name)
        fsync_tree(temporary)
        replace_folder(temporary, folder.path / TOKENIZERS)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_adapter_base(folder: RunFolder | None, assembly: Assembly) -> None:
    """Reject resuming adapters on a base with other weights.

    Raises:
        MetalmError: The base has changed.
    """
    if folder is None or assembly.lora_targets is None or assembly.lora_targets.base is None:
        return
    base = assembly.lora_targets.base
    saved_base = folder.read_json(BASE_FILE, "the record of the adapter's base cannot be read", "start a new run")
    if saved_base is None:
        return
    if saved_base.get("sha256") != base.sha256:
        raise MetalmError(
            "the base model's weights have changed since this run started",
            where=str(base.folder),
            why=f"sha256 is {base.sha256[:16]}…, and was {str(saved_base.get('sha256'))[:16]}…",
            remedy="restore the base, or start a new run",
        )


def recipe_name(folder: RunFolder) -> str | None:
    """Name of the recipe that a run started with, which its own copy of the recipe does not contain."""
    try:
        record = json.loads(folder.environment.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    name = record.get("recipe") if isinstance(record, dict) else None
    return name if isinstance(name, str) else None
