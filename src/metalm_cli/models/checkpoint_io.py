"""Saving and loading finished models: ordinary Hugging Face folders.

A docked model is saved as ``metalm`` with its decoder's tokenizer beside the weights and each encoder's processor in
``processors/<name>/``. A model without encoders is saved as its decoder's own class, and any causal language model
loads as a MetaLM without encoders. Adapters are loaded on their base.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from metalm_cli.common.hub import model_folder
from metalm_cli.errors import MetalmError
from metalm_cli.models.encoders import first_line, load_tokenizer
from metalm_cli.models.lora.adapter_files import SavedAdapter, adapter_in, attach, check_base, read_adapter
from metalm_cli.models.metalm import MetaLM, MetaLMConfig
from metalm_cli.models.part_loader import UNLOADABLE, check_whole
from metalm_cli.sessions import DecoderTokenizer, Processor, TokenRules

PROCESSORS = "processors"
NAME = re.compile(r"[A-Za-z0-9_-]+")


Loaded = tuple[MetaLM, DecoderTokenizer, dict[str, Processor]]


def load_model(
    source: str | Path, *, base: str | Path | None = None, offline: bool = False, remote_code: bool = False
) -> Loaded:
    """Load a finished model in evaluation mode.

    Args:
        source: A run folder, a model or adapter folder, or a hub id.
        base: Where the base of an adapter lies; default where its run found it.
        offline: Open no socket.
        remote_code: Run Python code that the model brings along.

    Raises:
        MetalmError: Nothing is there, or it is no causal language model, or it is damaged; an adapter's base is not
            there or has other weights.
    """
    folder = locate(source, offline=offline, remote_code=remote_code)
    if adapter_in(folder) is None:
        if base is not None:
            raise MetalmError(
                "a base is given for a model that is no adapter", where=str(folder), remedy="leave out the base"
            )
        return _load_whole(folder, remote_code)
    saved = read_adapter(folder)
    loaded = _load_whole(find_adapter_base(saved, base, offline=offline, remote_code=remote_code), remote_code)
    attach(loaded[0], saved)
    loaded[0].eval()
    return loaded


def locate(source: str | Path, *, offline: bool = False, remote_code: bool = False) -> Path:
    """The folder that holds a finished model or an adapter.

    Raises:
        MetalmError: Nothing is there.
    """
    path = Path(source).expanduser()
    return _model_in(path) or _named(str(source), offline, remote_code)


def find_adapter_base(
    saved: SavedAdapter, given: str | Path | None = None, *, offline: bool = False, remote_code: bool = False
) -> Path:
    """The folder of an adapter's base, with the weights that it was trained on.

    Args:
        saved: The adapter.
        given: Where to look; default where its run found it, also relative to the adapter's folder.
        offline: Open no socket.
        remote_code: Run Python code that the base brings along.

    Raises:
        MetalmError: It is not there, or has other weights.
    """
    relative = [] if saved.relative is None else [(saved.folder.resolve() / saved.relative).resolve()]
    places = [Path(given)] if given is not None else [Path(saved.checkpoint), *relative]
    here = [one for one in (_model_in(place.expanduser()) for place in places) if one is not None]
    found = list({one.resolve(): one for one in here}.values())
    if not found:
        try:
            if saved.relative is not None and given is None:
                raise MetalmError("no such folder", where=saved.checkpoint)
            found = [_named(str(given or saved.checkpoint), offline, remote_code)]
        except MetalmError as error:
            raise MetalmError(
                "the base of this adapter is not there",
                where=str(saved.folder),
                why=f"it was trained on {saved.checkpoint}: {error.what}",
                remedy="say where the base lies: metalm.load(…, base=FOLDER), metalm export … --base FOLDER",
            ) from error
    for folder in found[:-1]:
        try:
            check_base(saved, folder)
        except MetalmError:
            continue
        return folder
    check_base(saved, found[-1])
    return found[-1]


def _load_whole(folder: Path, remote_code: bool) -> Loaded:
    """A model folder."""
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=remote_code)
        with silence_transformers():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                trust_remote_code=remote_code,
            )
    except (*UNLOADABLE, RuntimeError) as error:
        raise MetalmError(
            "this is not a model that can be loaded",
            where=str(folder),
            why=first_line(error),
            remedy="name a run folder with a finished model/, or a folder of a causal language model",
        ) from error
    model, info = loaded
    check_whole(info["missing_keys"], str(folder))
    tokenizer = load_tokenizer(folder, remote_code)
    processors: dict[str, Processor] = {}
    if isinstance(model, MetaLM):
        rules = TokenRules(**config.tokens)
        check_names(model.encoders, folder)
        processors = {
            name: model.adapters[name].processor(name, folder / PROCESSORS / name, encoder, config.docking[name])
            for name, encoder in model.encoders.items()
        }
    else:
        saved = getattr(config, "metalm", None) or {}
        rules = TokenRules(**saved.get("tokens", {}))
        model = MetaLM(
            MetaLMConfig(decoder_config=config.to_dict(), tokens=rules.to_dict(), training=saved.get("training", {})),
            model,
            {},
        )
    if not model.traits.causal:
        raise MetalmError(
            f"{type(model.decoder).__name__} is not a causal language model: its outputs depend on later tokens",
            where=str(folder),
            remedy="dock it as an encoder: model.encoders.text.checkpoint in a recipe",
        )
    return model.eval(), DecoderTokenizer(tokenizer, rules), processors


def check_names(names: Iterable[str], folder: Path) -> None:
    """Refuse encoder names of a foreign config that would lead out of its folder.

    Raises:
        MetalmError: A name is no plain word.
    """
    for name in names:
        if not NAME.fullmatch(name):
            raise MetalmError(
                f"{name!r} cannot be the name of an encoder",
                where=str(folder / "config.json"),
                remedy="names are letters, digits, hyphens and underscores",
            )


@contextmanager
def silence_transformers() -> Iterator[None]:
    """Without transformers' progress bars."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _model_in(folder: Path) -> Path | None:
    """A run folder's model or adapter, or the folder itself if it holds one."""
    for candidate in (folder / "model", folder):
        if (candidate / "config.json").is_file():
            return candidate
    return adapter_in(folder)


def _named(source: str, offline: bool, code: bool) -> Path:
    """The folder of a model that is not a folder with a model by itself; says so where it cannot be had."""
    absolute = Path(source).expanduser().absolute()
    if (absolute / "recipe.yaml").is_file():
        raise MetalmError(
            "this run has not finished, and has no model yet",
            where=str(absolute),
            remedy=f"finish it: metalm pretrain --resume --out {source}",
        )
    try:
        return model_folder(source, offline=offline, code=code)
    except MetalmError as error:
        if error.where == str(absolute):
            raise
        taken = f"there is no folder {absolute}, so this was taken for a hub id"
        raise MetalmError(
            error.what,
            where=error.where,
            why=f"{taken}; {error.why}" if error.why else taken,
            remedy=f"correct the path; or, for a hub id: {error.remedy}",
            exit_code=error.exit_code,
        ) from error


def save_model(folder: Path, model: Any, tokenizer: DecoderTokenizer, processors: dict[str, Processor]) -> None:
    """Write a model with all that is needed to load it again.

    Args:
        folder: A new folder.
        model: A MetaLM; without encoders it is saved as its decoder's own class.
        tokenizer: The decoder's.
        processors: The encoders'.
    """
    if model.encoders:
        model.save_pretrained(folder)
    else:
        model.decoder.config.metalm = {"tokens": tokenizer.rules.to_dict(), "training": model.config.training}
        model.decoder.save_pretrained(folder)
    tokenizer.tokenizer.save_pretrained(folder)
    for name, processor in processors.items():
        processor.save_pretrained(folder / PROCESSORS / name)
