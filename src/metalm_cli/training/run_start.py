"""What a run writes before its first step, and what a resumed run reads of it."""

from __future__ import annotations

import json
import shutil
from typing import Any

from metalm_cli.common.atomic_files import TEMPORARY, explain_write_errors, fsync_tree, replace_folder
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.models.assembly import Assembly
from metalm_cli.runs.data_record import DATA, DataSource, data_record
from metalm_cli.runs.folder import RunFolder, environment

TOKENIZERS = "tokenizers"
"""Where a run keeps its tokenizers, so that a resumed run reads the same tokens: ``decoder/``, ``encoders/<name>/``."""

BASE = "base.json"
"""Hash of the weights that a run's adapters stand on: its checkpoints leave them out."""


def write_start(folder: RunFolder, name: str, text: str, device: str, corpus: DataSource, assembly: Assembly) -> None:
    """Write what a resumed run needs; ``recipe.yaml`` last, so that a run that has it has all.

    Args:
        folder: The run's.
        name: Of its recipe.
        text: The recipe as YAML.
        device: Where it trains.
        corpus: What it reads.
        assembly: Its tokenizers.

    Raises:
        MetalmError: The folder cannot be written.
    """
    with explain_write_errors(folder.path, "cannot begin the run", Exit.FAILED):
        folder.write_json("environment.json", {"recipe": name, **environment(device)})
        _write_tokenizers(folder, assembly)
        folder.write_json(DATA, data_record(corpus))
        if assembly.adaptation is not None:
            folder.write_json(BASE, {"sha256": assembly.adaptation.base.sha256})
        folder.write_text("recipe.yaml", text)


def _write_tokenizers(folder: RunFolder, assembly: Assembly) -> None:
    place = folder.path / f".{TOKENIZERS}{TEMPORARY}"
    try:
        if not assembly.is_encoder_only:
            assembly.decoder_tokenizer.tokenizer.save_pretrained(place / "decoder")
        for name, processor in assembly.processors.items():
            processor.save_pretrained(place / "encoders" / name)
        fsync_tree(place)
        replace_folder(place, folder.path / TOKENIZERS)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def check_adapter_base(folder: RunFolder | None, assembly: Assembly) -> None:
    """Refuse to resume adapters on other weights than they began on.

    Raises:
        MetalmError: The base has changed.
    """
    if folder is None or assembly.adaptation is None or not (folder.path / BASE).is_file():
        return
    base = assembly.adaptation.base
    began: dict[str, Any] = json.loads((folder.path / BASE).read_text(encoding="utf-8"))
    if began.get("sha256") != base.sha256:
        raise MetalmError(
            "the base has other weights than when this run began",
            where=str(base.folder),
            why=f"sha256 {base.sha256[:16]}…, it began with {str(began.get('sha256'))[:16]}…",
            remedy="put them back, or start a new run",
        )


def recipe_name(folder: RunFolder) -> str | None:
    """The name of the recipe that a run began with: its own copy has none."""
    try:
        facts: dict[str, Any] = json.loads(folder.environment.read_text(encoding="utf-8"))
        return facts.get("recipe")
    except (OSError, ValueError):
        return None
