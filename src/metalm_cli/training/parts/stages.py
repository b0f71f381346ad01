"""Runs with stages: folders, what a stage inherits, and the result of the whole run.

Each stage is a run of its own in ``stages/NAME/`` of the run folder, and begins with the model of the former one. The
result of the last stage is that of the whole run, to which ``model`` (or ``adapter``) of the run folder links.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metalm_cli.common.atomic_files import explain_write_errors, temporary_path
from metalm_cli.config.schema.recipes import Recipe
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.models.checkpoint_checks.config_files import load_config
from metalm_cli.models.checkpoint_io import find_adapter_base, find_model_folder
from metalm_cli.models.lora.adapter_files import adapter_in, read_adapter
from metalm_cli.runs.find import RESULTS, STAGES_FOLDER, is_finished
from metalm_cli.runs.folder import RunFolder
from metalm_cli.runs.resume_check import SCHEDULE_KEYS, check_recipe, read_recipe


@dataclass(frozen=True)
class StageContext:
    """What a stage knows of the run that it belongs to.

    Args:
        run: Folder of the whole run.
        command: Command of the whole run, which resumes it.
        is_last: Whether it is the last stage; an earlier one writes a model, with its adapters merged.
        inherited: Training settings saved in the checkpoint that the first stage begins with, by part; None for the
            first stage, which reads them itself. What a former stage has set is not inherited.
    """

    run: Path
    command: str
    is_last: bool
    inherited: Mapping[str, Mapping[str, Any]] | None = None

    @property
    def resume_command(self) -> str:
        """Command that continues the whole run."""
        return f"metalm {self.command} --resume --out {self.run}"


def stage_folder(run: Path, name: str) -> Path:
    """Folder of a stage."""
    return run / STAGES_FOLDER / name


def stage_result(run: Path, name: str) -> Path:
    """Model or adapter of a finished stage."""
    return next(path for path in (stage_folder(run, name) / result for result in RESULTS) if path.is_dir())


def base_of_stage(run: Path, name: str, former: str) -> str:
    """Model that a stage begins with, by the path that the stage has recorded if it has begun."""
    result = stage_result(run, former)
    recipe = read_recipe(RunFolder(stage_folder(run, name))) or {}
    recorded = (recipe.get("model") or {}).get("checkpoint")
    if isinstance(recorded, str) and Path(recorded).exists() and os.path.samefile(recorded, result):
        return recorded
    return str(result)


def is_stage_finished(run: Path, name: str, recipe: Recipe, *, is_last: bool) -> bool:
    """Whether a stage has finished with the values of a recipe; the last one may continue to more steps.

    Raises:
        MetalmError: The recipe differs from that of the finished stage.
    """
    folder = RunFolder(stage_folder(run, name))
    if not is_finished(folder.path):
        return False
    changed = [note for note in check_recipe(folder, recipe) if note.startswith(SCHEDULE_KEYS)]
    if changed and not is_last:
        raise MetalmError(
            f"stage {name} has finished, and the next one has begun with its model",
            where=str(folder.path),
            why="; ".join(changed),
            remedy="restore the values, or start a new run",
        )
    return not changed


def saved_training(checkpoint: str | None, offline: bool) -> dict[str, Any]:
    """Training settings that a checkpoint has saved, by part; empty without any.

    Raises:
        MetalmError: The checkpoint is missing.
    """
    if checkpoint is None:
        return {}
    folder = find_model_folder(checkpoint, offline=offline)
    if (adapter := adapter_in(folder)) is not None:
        folder = find_adapter_base(read_adapter(adapter), offline=offline)
    if not (folder / "config.json").is_file():  # a GGUF file
        return {}
    config = load_config(folder, False)
    saved = getattr(config, "training", None) or (getattr(config, "metalm", None) or {}).get("training")
    return saved if isinstance(saved, dict) else {}


def link_result(run: RunFolder, name: str) -> Path:
    """Make the result of the last stage that of the run: a relative link, or a copy if the file system has no links.

    Returns:
        Path of the link.

    Raises:
        MetalmError: The folder cannot be written.
    """
    result = stage_result(run.path, name)
    link = run.path / result.name
    with explain_write_errors(link, f"cannot write {link.name}", Exit.FAILED):
        if link.is_symlink() and link.exists():
            return link
        temporary = temporary_path(link)
        try:
            temporary.symlink_to(result.relative_to(run.path), target_is_directory=True)
        except OSError:  # a file system without links
            shutil.rmtree(link, ignore_errors=True)
            shutil.copytree(result, temporary)
        os.replace(temporary, link)
    return link
