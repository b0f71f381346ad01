"""Exporting what a run has made: a folder of its own, adapters merged where that is asked for, and the hub."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from metalm_cli.common.atomic_files import TEMPORARY, explain_write_errors, fsync_folder, fsync_tree
from metalm_cli.common.hub import explain
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.models.assembly import Assembly
from metalm_cli.models.checkpoint_io import PROCESSORS, find_adapter_base, load_model, locate, save_model
from metalm_cli.models.lora.adapter_files import SavedAdapter, adapter_in, read_adapter, write_description
from metalm_cli.models.lora.inject import merge
from metalm_cli.provenance.lineage import LINEAGE
from metalm_cli.training.model_card import how_to_load, part_table

MODEL_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")
PAPERS = ("README.md", "LICENSE*", "NOTICE*")
RUN_ONLY = ("trainer_state.json", "metrics.json", "*_results.json", "data.json", "environment.json", "seeds.json")
"""What training programs leave in a model's folder and no reader of the model wants."""
NESTED = (PROCESSORS, "decoder", "encoders")
CARD = "README.md"
REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def export(
    source: str, out: Path, *, merged: bool = False, base: str | None = None, offline: bool = False
) -> tuple[Path, str]:
    """Write a finished model or adapter into a new folder, whole or not at all.

    Args:
        source: A run folder, a model or adapter folder, or a hub id.
        out: The new folder.
        merged: Add adapters to the weights of their base: an ordinary model folder comes out, in fp32.
        base: Where the base of an adapter lies; default where its run found it.
        offline: Open no socket.

    Returns:
        The folder that was read, and what was written, in words.

    Raises:
        MetalmError: The new folder exists, the source is none, there is nothing to merge, or the base is not there or
            has other weights.
    """
    if os.path.lexists(out):
        raise MetalmError(
            "the folder exists already", where=str(out), remedy="choose another --out; nothing is overwritten"
        )
    folder = locate(source, offline=offline)
    adapter = adapter_in(folder)
    if merged and adapter is None:
        raise MetalmError(
            "there is nothing to merge", where=str(folder), why="it is a whole model", remedy="leave out --merge"
        )
    if base is not None and adapter is None:
        raise MetalmError("a base is given for a model that is no adapter", where=str(folder), remedy="leave it out")
    saved = None if adapter is None else read_adapter(adapter)
    if saved is not None and not merged:
        found = find_adapter_base(saved, base, offline=offline)
        saved = _moved(saved, found, out, given=base is not None)
    with explain_write_errors(out, "cannot write the export", Exit.FAILED):
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = out.parent / f".{out.name}{TEMPORARY}{secrets.token_hex(4)}"
        temporary.mkdir()
        try:
            if merged:
                _write_merged(temporary, folder, source, base, offline)
            else:
                copy_model(folder, temporary)
                if saved is not None:
                    write_description(temporary, saved)
            fsync_tree(temporary)
            os.rename(temporary, out)
            fsync_folder(out.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder, "adapters merged into a model" if merged else "a model" if saved is None else "an adapter"


def _moved(saved: SavedAdapter, base: Path, out: Path, *, given: bool) -> SavedAdapter:
    """An adapter as it is described in another folder."""
    if saved.relative is None and not given:
        return saved
    relative = os.path.relpath(base.resolve(), out.absolute())
    return replace(saved, checkpoint=str(base) if given else saved.checkpoint, relative=relative)


def copy_model(source: Path, target: Path) -> None:
    """Copy the files that a model is made of: weights, configs, tokenizers, processors, card and lineage.

    Raises:
        MetalmError: There are no weights in safetensors.
    """
    if not any(source.glob("*.safetensors")) and adapter_in(source) != source:
        raise MetalmError(
            "the model has no weights in safetensors", where=str(source), remedy="save it with save_pretrained first"
        )
    for file in _files(source):
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)


def _files(source: Path) -> Iterator[Path]:
    skipped = {file for pattern in RUN_ONLY for file in source.glob(pattern)}
    for folder, patterns in [(source, (*MODEL_FILES, *PAPERS)), *((source / one, MODEL_FILES) for one in NESTED)]:
        found = {file for pattern in patterns for file in (folder.rglob if folder != source else folder.glob)(pattern)}
        yield from sorted(file for file in found - skipped if file.is_file() and not file.name.startswith("."))


def _write_merged(target: Path, adapter: Path, source: str, base: str | None, offline: bool) -> None:
    model, tokenizer, processors = load_model(source, base=base, offline=offline)
    merge(model)
    save_model(target, model, tokenizer, processors)
    if (adapter / LINEAGE).is_file():
        shutil.copyfile(adapter / LINEAGE, target / LINEAGE)
    text = (adapter / CARD).read_text(encoding="utf-8") if (adapter / CARD).is_file() else ""
    (target / CARD).write_text(merged_card(Assembly(model, tokenizer, processors), text), encoding="utf-8")


def merged_card(assembly: Assembly, card: str) -> str:
    """The card of a merged model: what the adapter's says of data, measures and recipe, with its own parts and use.

    Args:
        assembly: The merged model.
        card: The adapter's card.
    """
    title = re.search(r"^# .+$", card, flags=re.MULTILINE)
    trained = re.search(r"^Trained with .+$", card, flags=re.MULTILINE)
    sections = {name: _section(card, name) for name in ("Data", "Held-out text", "Recipe")}
    pieces = [
        "---\nlibrary_name: transformers\ntags: [metalm]\n---",
        title[0] if title else "# MetaLM",
        f"{trained[0] if trained else 'Trained with metalm.'} Low-rank adapters are merged into the weights.",
        part_table(assembly),
        sections["Data"],
        sections["Held-out text"],
        f"## Use\n\n```python\n{how_to_load(assembly)}\n```",
        sections["Recipe"],
    ]
    return "\n\n".join(piece for piece in pieces if piece) + "\n"


def _section(card: str, name: str) -> str:
    found = re.search(rf"^## {name}\n.*?(?=^## |\Z)", card, flags=re.MULTILINE | re.DOTALL)
    return found[0].strip() if found else ""


# -- the hub ----------------------------------------------------------------------------------------------------------


def check_push(repo: str, offline: bool) -> None:
    """What can be told of an upload before work begins.

    Raises:
        MetalmError: The name is none, nothing may be connected to, or nobody is logged in.
    """
    from huggingface_hub import get_token

    if not REPO.fullmatch(repo) or ".." in repo:
        raise MetalmError(f"{repo!r} is no repository of the hub", remedy="write it as --push OWNER/NAME")
    if offline:
        raise MetalmError("--push and --offline exclude each other", remedy="leave one of them out")
    if not get_token():
        raise MetalmError(
            f"nobody is logged in to push {repo}", remedy="log in with `hf auth login`, or set HF_TOKEN; then run again"
        )


def check_pushable(source: str, offline: bool = False) -> None:
    """Refuse to upload adapters of a base that others cannot get.

    Raises:
        MetalmError: The base lies on this machine.
    """
    adapter = adapter_in(locate(source, offline=offline))
    if adapter is not None and (saved := read_adapter(adapter)).relative is not None:
        raise MetalmError(
            "the base of this adapter lies on this machine: others could not load it from the hub",
            where=f"{adapter}: {saved.checkpoint}",
            remedy="push a merged model: add --merge",
        )


def push(folder: Path, repo: str, *, private: bool = False) -> str:
    """Upload a folder to a new, or empty, repository of the hub.

    Args:
        folder: What :func:`export` wrote.
        repo: ``owner/name``.
        private: Make the repository private.

    Returns:
        Its address.

    Raises:
        MetalmError: It holds something, is public where a private one is asked for, or the hub refuses.
    """
    from huggingface_hub import HfApi

    api: Any = HfApi()
    try:
        address = str(api.create_repo(repo, private=private, exist_ok=True))
        about = api.model_info(repo)
        held = sorted(one.rfilename for one in about.siblings or [] if one.rfilename != ".gitattributes")
        if held:
            raise MetalmError(
                f"{repo} holds something already",
                where=address,
                why=f"{', '.join(held[:4])}{', …' if len(held) > 4 else ''}",
                remedy="choose another name; nothing is overwritten",
                exit_code=Exit.FAILED,
            )
        if private and not about.private:
            raise MetalmError(
                f"{repo} exists and is public",
                where=address,
                remedy="make it private on its settings page, or choose another name",
                exit_code=Exit.FAILED,
            )
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Upload with metalm export")
    except Exception as error:
        problem = explain(error, repo)
        problem.exit_code = Exit.FAILED
        raise problem from error
    return address
