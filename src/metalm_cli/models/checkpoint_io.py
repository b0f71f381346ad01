"""Saving and loading finished models: ordinary Hugging Face folders.

A docked model is saved as ``metalm`` with its decoder's tokenizer beside the weights and each encoder's processor in
``processors/<name>/``. A model without encoders is saved as its decoder's own class, and any causal language model
loads as a MetaLM without encoders. An encoder–decoder is saved as its own class. An adapter is loaded together with
its base.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from metalm_cli.common.checkpoints.find import find_checkpoint, names_local_checkpoint
from metalm_cli.common.checkpoints.origin import Checkpoint, Origin
from metalm_cli.common.hub import no_connections
from metalm_cli.common.paths import expand_user
from metalm_cli.errors import MetalmError
from metalm_cli.models.checkpoint_checks.config_files import load_config
from metalm_cli.models.checkpoint_checks.finite_weights import check_finite
from metalm_cli.models.checkpoint_checks.loading_errors import model_errors
from metalm_cli.models.encoders import load_tokenizer
from metalm_cli.models.families import family_of_config, family_of_model
from metalm_cli.models.families.base import ModelParts
from metalm_cli.models.lora.adapter_files import SavedAdapter, adapter_in, attach, check_base, read_adapter
from metalm_cli.models.part_loader import check_no_missing_weights
from metalm_cli.sessions import DecoderTokenizer, Processor
from metalm_cli.sessions.end_tokens import EndToken, end_token_ids

LoadedModel = tuple[Any, DecoderTokenizer, dict[str, Processor]]
"""Model, tokenizer and processors by encoder name."""


def load_model(
    source: str | Path,
    *,
    base: str | Path | None = None,
    offline: bool = False,
    remote_code: bool = False,
    end_tokens: Sequence[EndToken] = (),
) -> LoadedModel:
    """Load a finished model in evaluation mode.

    Args:
        source: A run folder, a model or adapter folder, a GGUF file, or a name (:func:`find_checkpoint`).
        base: Location of an adapter's base; default: the one recorded in the adapter.
        offline: Do not access the network.
        remote_code: Run Python code of the checkpoint.
        end_tokens: Further tokens that end a generated text; if the tokenizer has no end token, the first of them is
            the document-end token.

    Raises:
        MetalmError: The source is missing, damaged or not a causal language model; an adapter's base is missing or
            has different weights; or an end token is not a token of the decoder.
    """
    folder = find_model_folder(source, offline=offline, remote_code=remote_code)
    if adapter_in(folder) is None:
        if base is not None:
            raise MetalmError(
                "a base is set for a model that is not an adapter", where=str(folder), remedy="leave out the base"
            )
        return _load_folder(folder, remote_code, end_tokens)
    saved = read_adapter(folder)
    base_folder = find_adapter_base(saved, base, offline=offline, remote_code=remote_code)
    model, tokenizer, processors = _load_folder(base_folder, remote_code, end_tokens)
    attach(model, saved)
    model.eval()
    # The adapted model is trained to end with the document-end token.
    tokenizer.end_ids = frozenset((tokenizer.document_end_id, *end_token_ids(tokenizer.tokenizer, end_tokens)))
    return model, tokenizer, processors


def find_model_folder(
    source: str | Path, *, offline: bool = False, remote_code: bool = False, weights: bool = True
) -> Path:
    """Return the folder of :func:`find_model`, with the same arguments and errors."""
    return find_model(source, offline=offline, remote_code=remote_code, weights=weights).folder


def find_model(
    source: str | Path, *, offline: bool = False, remote_code: bool = False, weights: bool = True
) -> Checkpoint:
    """Find a finished model or an adapter.

    Args:
        source: A run folder, a model or adapter folder, a GGUF file, or a name (:func:`find_checkpoint`).
        offline: Do not access the network.
        remote_code: Also download Python code of the checkpoint.
        weights: Weights are required; False: none are downloaded.

    Raises:
        MetalmError: No model is found.
    """
    folder = _model_in(expand_user(source))
    if folder is not None:
        return Checkpoint(str(source), folder, Origin("folder", str(folder)))
    return _find_by_name(str(source), offline, remote_code, weights)


def find_config_folder(source: str | Path, *, offline: bool = False, remote_code: bool = False) -> Path:
    """Find the folder with the config of a finished model, without its weights; that of an adapter is its base's.

    Raises:
        MetalmError: No model is found, or the base of an adapter is missing.
    """
    folder = find_model_folder(source, offline=offline, remote_code=remote_code, weights=False)
    if adapter_in(folder) is None:
        return folder
    return find_adapter_base(read_adapter(folder), offline=offline, remote_code=remote_code)


def find_adapter_base(
    saved: SavedAdapter, base: str | Path | None = None, *, offline: bool = False, remote_code: bool = False
) -> Path:
    """Find the folder of an adapter's base, with the weights that the adapter was trained on.

    Args:
        saved: The adapter.
        base: Location of the base; default: the one recorded in the adapter, absolute or relative to its folder.
        offline: Do not access the network.
        remote_code: Run Python code of the base.

    Raises:
        MetalmError: The base is missing, or has different weights.
    """
    relative = [] if saved.relative is None else [(saved.folder.resolve() / saved.relative).resolve()]
    locations = [Path(base)] if base is not None else [Path(saved.checkpoint), *relative]
    existing = [folder for folder in (_model_in(expand_user(location)) for location in locations) if folder is not None]
    folders = list({folder.resolve(): folder for folder in existing}.values())
    if not folders:
        try:
            if saved.relative is not None and base is None:
                raise MetalmError("no such folder", where=saved.checkpoint)
            folders = [_find_by_name(str(base or saved.checkpoint), offline, remote_code).folder]
        except MetalmError as error:
            raise MetalmError(
                "the base of the adapter is missing",
                where=str(saved.folder),
                why=f"it was trained on {saved.checkpoint}: {error.what}",
                remedy="pass the location of the base: metalm.load(…, base=FOLDER), metalm export … --base FOLDER",
            ) from error
    for folder in folders[:-1]:
        try:
            check_base(saved, folder)
        except MetalmError:
            continue
        return folder
    check_base(saved, folders[-1])
    return folders[-1]


def _load_folder(folder: Path, remote_code: bool, end_tokens: Sequence[EndToken] = ()) -> LoadedModel:
    """Load a model folder."""
    with model_errors(folder), no_connections(not remote_code):
        return _load_folder_unchecked(folder, remote_code, end_tokens)


def _load_folder_unchecked(folder: Path, remote_code: bool, end_tokens: Sequence[EndToken]) -> LoadedModel:
    import transformers

    config = load_config(folder, remote_code)
    family = family_of_config(config)
    with silence_transformers():
        loaded: Any = getattr(transformers, family.auto_class).from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=remote_code,
        )
    model, info = loaded
    check_no_missing_weights(info["missing_keys"], str(folder))
    check_finite(model.state_dict().items(), str(folder))
    model, tokenizer, processors = family.wrap(model, config, load_tokenizer(folder, remote_code), folder, end_tokens)
    assert tokenizer is not None, "both families continue texts"
    return model, tokenizer, processors


@contextmanager
def silence_transformers() -> Iterator[None]:
    """Disable the progress bars of transformers inside the context."""
    from transformers.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


def _model_in(folder: Path) -> Path | None:
    """Return the model or adapter of a run folder, or the folder itself if it holds one."""
    for candidate in (folder / "model", folder):
        if (candidate / "config.json").is_file():
            return candidate
    return adapter_in(folder)


def _find_by_name(source: str, offline: bool, code: bool, weights: bool = True) -> Checkpoint:
    """Find a model by its name; the error distinguishes unfinished runs and wrong paths."""
    absolute = expand_user(source).absolute()
    recipe = absolute / "recipe.yaml"
    if recipe.is_file():
        named = re.search(r"^command: (\w+)$", recipe.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
        raise MetalmError(
            "the run is not finished and has no model yet",
            where=str(absolute),
            remedy=f"finish it: metalm {named[1] if named else 'pretrain'} --resume --out {source}",
        )
    try:
        return find_checkpoint(source, offline=offline, code=code, weights=weights)
    except MetalmError as error:
        if error.where == str(absolute) or names_local_checkpoint(source):
            raise
        explanation = f"there is no folder {absolute}, so the name was taken for a hub id"
        raise MetalmError(
            error.what,
            where=error.where,
            why=f"{explanation}; {error.why}" if error.why else explanation,
            remedy=f"correct the path; or, for a hub id: {error.remedy}",
            exit_code=error.exit_code,
        ) from error


def save_model(folder: Path, model: Any, tokenizer: DecoderTokenizer, processors: dict[str, Processor]) -> None:
    """Save a model that continues texts, with its tokenizer and processors.

    Args:
        folder: A new folder.
        model: The model; without encoders it is saved as its decoder's own class.
        tokenizer: Tokenizer of its texts.
        processors: Processors by encoder name.
    """
    family_of_model(model).save(folder, ModelParts(model, tokenizer, processors))
