"""Files that a run writes before its first step and reads again on resume."""

from __future__ import annotations

import json
import shutil
from typing import Any

from metalm_cli.common.atomic_files import TEMPORARY_MARKER, explain_write_errors, fsync_tree, replace_folder
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.models.assembly import Assembly
from metalm_cli.runs.data_record import DATA_FILE, DataSource, data_record
from metalm_cli.runs.folder import RunFolder, environment

TOKENIZERS = "tokenizers"
"""Folder of a run's tokenizers (``decoder/``, ``encoders/<name>/``), so that a resumed run uses the same tokens."""

BASE_FILE = "base.json"
"""Hash of the base weights of a run's adapters, which its checkpoints do not contain."""


def write_start(folder: RunFolder, name: str, text: str, device: str, corpus: DataSource, assembly: Assembly) -> None:
    """Write the files that a resumed run needs; ``recipe.yaml`` last, so that its presence implies all others.

    Args:
        folder: The run folder.
        name: Name of the recipe.
        text: The recipe as YAML.
        device: Training device.
        corpus: The training data.
        assembly: The model with its tokenizers.

    Raises:
        MetalmError: The folder cannot be written.
    """
    with explain_write_errors(folder.path, "cannot start the run", Exit.FAILED):
        folder.write_json("environment.json", {"recipe": name, **environment(device)})
        _write_tokenizers(folder, assembly)
        folder.write_json(DATA_FILE, data_record(corpus))
        if assembly.lora_targets is not None:
            folder.write_json(BASE_FILE, {"sha256": assembly.lora_targets.base.sha256})
        folder.write_text("recipe.yaml", text)


def _write_tokenizers(folder: RunFolder, assembly: Assembly) -> None:
    temporary = folder.path / f".{TOKENIZERS}{TEMPORARY_MARKER}"
    try:
        if not assembly.is_encoder_only:
            assembly.decoder_tokenizer.tokenizer.save_pretrained(temporary / "decoder")
        for name, processor in assembly.processors.items():
            processor.save_pretrained(temporary / "encoders" / name)
        fsync_tree(temporary)
        replace_folder(temporary, folder.path / TOKENIZERS)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_adapter_base(folder: RunFolder | None, assembly: Assembly) -> None:
    """Reject resuming adapters on a base with other weights.

    Raises:
        MetalmError: The base has changed.
    """
    if folder is None or assembly.lora_targets is None or not (folder.path / BASE_FILE).is_file():
        return
    base = assembly.lora_targets.base
    saved_base: dict[str, Any] = json.loads((folder.path / BASE_FILE).read_text(encoding="utf-8"))
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
        record: dict[str, Any] = json.loads(folder.environment.read_text(encoding="utf-8"))
        return record.get("recipe")
    except (OSError, ValueError):
        return None
