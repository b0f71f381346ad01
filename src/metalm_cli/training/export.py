"""Export of a run's model, a part of it or its adapter to a new folder, and upload to the hub."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from metalm_cli.common.atomic_files import explain_write_errors, fsync_folder, fsync_tree, temporary_path
from metalm_cli.common.checkpoints.local_paths import drop_path_keys, without_local_folders, without_local_paths
from metalm_cli.common.hub import explain_hub_error
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.models.assembly import Assembly
from metalm_cli.models.checkpoint_checks.config_files import check_config_files
from metalm_cli.models.checkpoint_checks.loading_errors import model_errors
from metalm_cli.models.checkpoint_io import find_adapter_base, find_model_folder, load_model, save_model
from metalm_cli.models.families.decoder_only import PROCESSORS_FOLDER
from metalm_cli.models.lora.adapter_files import SavedAdapter, adapter_in, read_adapter, write_description
from metalm_cli.models.lora.inject import merge
from metalm_cli.models.standalone.write import (
    check_part,
    check_standalone,
    drop_modeling_file,
    write_part,
    write_standalone,
)
from metalm_cli.provenance.lineage import LINEAGE, read_lineage
from metalm_cli.runs.part_changes import TITLE
from metalm_cli.training.model_card import (
    base_models,
    card_head,
    how_to_load,
    part_card,
    part_table,
    standalone_section,
)
from metalm_cli.training.parts.combine import read_sources, write_combined

MODEL_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")
DOCUMENT_FILES = ("README.md", "LICENSE*", "NOTICE*")
RUN_ONLY = ("trainer_state.json", "metrics.json", "*_results.json", "data.json", "environment.json", "seeds.json")
"""Files that training programs write to a model's folder and that are not needed to load the model."""
NESTED_FOLDERS = (PROCESSORS_FOLDER, "decoder", "encoders", "seq2seq")
CARD_FILE = "README.md"
REPO_PATTERN = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def export(
    source: str,
    out: Path,
    *,
    merged: bool = False,
    standalone: bool = False,
    part: str | None = None,
    base: str | None = None,
    offline: bool = False,
) -> tuple[Path, str]:
    """Write a finished model, a part of it, or an adapter into a new folder, atomically.

    Args:
        source: A run folder, a model or adapter folder, or a hub id.
        out: The new folder.
        merged: Add adapters to the weights of their base, which gives an ordinary model folder in fp32.
        standalone: Add a modelling file, so that transformers loads the model without metalm.
        part: Write only this part, ``decoder`` or ``encoders.NAME``, in fp32, as a model that transformers loads.
        base: Path or hub id of an adapter's base; default: the base recorded by its run.
        offline: Open no connection.

    Returns:
        The folder that was read, and a description of what was written.

    Raises:
        MetalmError: The new folder exists, the source is not a model, there is nothing to merge, the base is missing or
            has other weights, the model has no such part, or transformers does not have the types of the parts.
    """
    _check_new(out)
    folder = find_model_folder(source, offline=offline)
    adapter = adapter_in(folder)
    _check_options(folder, adapter, merged=merged, standalone=standalone, part=part, base=base)
    saved = None if adapter is None else read_adapter(adapter)
    if saved is not None:
        base_folder = find_adapter_base(saved, base, offline=offline)
        _check_parts(base_folder, standalone=standalone, part=part)
        if not merged:
            saved = _relocate(saved, base_folder, out, explicit=base is not None)
    with _new_folder(out, standalone) as temporary:
        if part is not None:
            _write_part(temporary, folder, source, part, base, offline)
        elif merged:
            _write_merged(temporary, folder, source, base, offline)
        else:
            copy_model(folder, temporary)
            if saved is not None:
                write_description(temporary, saved)
    if part is not None:
        return folder, part
    return folder, "adapters merged into a model" if merged else "a model" if saved is None else "an adapter"


def export_combined(
    sources: Sequence[str], out: Path, *, standalone: bool = False, offline: bool = False
) -> tuple[list[str], list[str]]:
    """Write one decoder with the encoders of several models into a new folder, atomically.

    Args:
        sources: Run folders, models or hub ids, each with ``NAME=`` before it or without (:func:`read_sources`).
        out: The new folder.
        standalone: As for :func:`export`.
        offline: Open no connection.

    Returns:
        The names of the encoders, and notes for the user.

    Raises:
        MetalmError: The new folder exists, or the models do not fit: other decoders, token rules or tokenizers, equal
            names of encoders, a model without encoders.
    """
    _check_new(out)
    read = read_sources(sources, offline=offline)
    for each in read:
        _check_parts(each.config_folder, standalone=standalone, part=None)
    with _new_folder(out, standalone) as temporary:
        notes = write_combined(temporary, read, offline=offline)
    return [name for each in read for name in each.names.values()], notes


def _check_new(out: Path) -> None:
    if os.path.lexists(out):
        raise MetalmError(
            "the folder exists already", where=str(out), remedy="choose another --out; nothing is overwritten"
        )


@contextmanager
def _new_folder(out: Path, standalone: bool) -> Iterator[Path]:
    """Context manager with a temporary folder, which is completed and renamed if the block succeeds, else removed."""
    with explain_write_errors(out, "cannot write the export", Exit.FAILED):
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_path(out)
        temporary.mkdir()
        try:
            yield temporary
            if standalone:
                write_standalone(temporary)
                _append_to_card(temporary, standalone_section(temporary))
            _drop_local_paths(temporary)
            fsync_tree(temporary)
            os.rename(temporary, out)
            fsync_folder(out.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _check_options(
    folder: Path, adapter: Path | None, *, merged: bool, standalone: bool, part: str | None, base: str | None
) -> None:
    if merged and adapter is None:
        raise MetalmError(
            "there is nothing to merge", where=str(folder), why="the model is not an adapter", remedy="omit --merge"
        )
    if base is not None and adapter is None:
        raise MetalmError("only an adapter has a base", where=str(folder), remedy="omit --base")
    if adapter is not None and not merged and (standalone or part is not None):
        raise MetalmError(
            "an adapter alone does not load without its base",
            where=str(folder),
            why=f"{'--standalone' if standalone else '--part'} writes a complete model",
            remedy="add --merge",
        )
    if adapter is None:
        _check_parts(folder, standalone=standalone, part=part)


def _check_parts(folder: Path, *, standalone: bool, part: str | None) -> None:
    """Check that what shall load without metalm can; ``folder`` has the config of the complete model."""
    if not standalone and part is None:
        return
    with model_errors(folder):
        check_config_files(folder)
        if standalone:
            check_standalone(folder)
        if part is not None:
            check_part(folder, part)


def _relocate(saved: SavedAdapter, base: Path, out: Path, *, explicit: bool) -> SavedAdapter:
    """Return the description of an adapter in another folder, where the relative path of its base differs."""
    if saved.relative is None and not explicit:
        return saved
    relative = os.path.relpath(base.resolve(), out.absolute())
    return replace(saved, checkpoint=str(base) if explicit else saved.checkpoint, relative=relative)


def copy_model(source: Path, target: Path) -> None:
    """Copy the files of a model: weights, configs, tokenizers, processors, card and lineage.

    Raises:
        MetalmError: There are no weights in safetensors.
    """
    if not any(source.glob("*.safetensors")) and adapter_in(source) != source:
        raise MetalmError(
            "the model has no weights in safetensors", where=str(source), remedy="save it with save_pretrained first"
        )
    for file in _files(source):
        target_file = target / file.relative_to(source)
        target_file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target_file)
    with model_errors(source):
        drop_modeling_file(target)


def _files(source: Path) -> Iterator[Path]:
    skipped = {file for pattern in RUN_ONLY for file in source.glob(pattern)}
    for folder, patterns in [
        (source, (*MODEL_FILES, *DOCUMENT_FILES)),
        *((source / name, MODEL_FILES) for name in NESTED_FOLDERS),
    ]:
        files = {file for pattern in patterns for file in (folder.rglob if folder != source else folder.glob)(pattern)}
        yield from sorted(file for file in files - skipped if file.is_file() and not file.name.startswith("."))


def _write_merged(target: Path, adapter: Path, source: str, base: str | None, offline: bool) -> None:
    model, tokenizer, processors = load_model(source, base=base, offline=offline)
    merge(model)
    save_model(target, model, tokenizer, processors)
    if (adapter / LINEAGE).is_file():
        shutil.copyfile(adapter / LINEAGE, target / LINEAGE)
    text = (adapter / CARD_FILE).read_text(encoding="utf-8") if (adapter / CARD_FILE).is_file() else ""
    (target / CARD_FILE).write_text(merged_card(Assembly(model, tokenizer, processors), text), encoding="utf-8")


def _write_part(target: Path, folder: Path, source: str, part: str, base: str | None, offline: bool) -> None:
    loaded = load_model(source, base=base, offline=offline)
    if adapter_in(folder) is not None:
        merge(loaded[0])
    auto_class = write_part(target, loaded, part)
    if (folder / LINEAGE).is_file():
        shutil.copyfile(folder / LINEAGE, target / LINEAGE)
    lineage = read_lineage(folder)
    bases = base_models(lineage) if lineage else []
    (target / CARD_FILE).write_text(part_card(part, auto_class, bases), encoding="utf-8")


def _drop_local_paths(folder: Path) -> None:
    """Remove paths of this machine from the configs, the lineage and the card of an export."""
    drop_path_keys(folder)
    if (lineage := folder / LINEAGE).is_file():
        content = without_local_paths(json.loads(lineage.read_text(encoding="utf-8")))
        lineage.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if (card := folder / CARD_FILE).is_file():
        try:
            text = card.read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise MetalmError(
                "the model card is not UTF-8", where=CARD_FILE, why=str(error), remedy="restore it, or delete it"
            ) from error
        card.write_text(without_local_folders(text), encoding="utf-8")


def _append_to_card(folder: Path, section: str) -> None:
    card = folder / CARD_FILE
    text = card.read_text(encoding="utf-8").rstrip() if card.is_file() else "# MetaLM"
    card.write_text(f"{text}\n\n{section}\n", encoding="utf-8")


def merged_card(assembly: Assembly, card: str) -> str:
    """Write the card of a merged model: data, metrics and recipe from the adapter's card, with the merged parts.

    Args:
        assembly: The merged model.
        card: The adapter's card.
    """
    title = re.search(r"^# .+$", card, flags=re.MULTILINE)
    trained = re.search(r"^Trained with .+$", card, flags=re.MULTILINE)
    sections = {name: _section(card, name) for name in (TITLE, "Data", "Held-out text", "Licence", "Recipe")}
    head = re.match(r"---\n.*?\n---(?=\n)", card, flags=re.DOTALL)
    parts = [
        head[0] if head else card_head(),
        title[0] if title else "# MetaLM",
        f"{trained[0] if trained else 'Trained with metalm.'} Low-rank adapters are merged into the weights.",
        part_table(assembly),
        sections[TITLE],
        sections["Data"],
        sections["Held-out text"],
        f"## Use\n\n{how_to_load(assembly)}",
        sections["Licence"],
        sections["Recipe"],
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(card: str, name: str) -> str:
    match = re.search(rf"^## {name}\n.*?(?=^## |\Z)", card, flags=re.MULTILINE | re.DOTALL)
    return match[0].strip() if match else ""


# -- the hub ----------------------------------------------------------------------------------------------------------


def check_push(repo: str, offline: bool) -> None:
    """Check an upload before work begins.

    Raises:
        MetalmError: The name is invalid, ``offline`` is set, or the user is not logged in.
    """
    from huggingface_hub import get_token

    if not REPO_PATTERN.fullmatch(repo) or ".." in repo:
        raise MetalmError(f"{repo!r} is not a valid hub repository name", remedy="write it as --push OWNER/NAME")
    if offline:
        raise MetalmError("--push and --offline exclude each other", remedy="omit one of them")
    if not get_token():
        raise MetalmError(
            f"cannot push {repo}: not logged in to the Hugging Face hub",
            remedy="log in with `hf auth login`, or set HF_TOKEN; then run again",
        )


def check_pushable(source: str, offline: bool = False) -> None:
    """Reject an upload of adapters whose base is not on the hub.

    Raises:
        MetalmError: The base is a local folder.
    """
    adapter = adapter_in(find_model_folder(source, offline=offline))
    if adapter is not None and (saved := read_adapter(adapter)).relative is not None:
        raise MetalmError(
            "the base of this adapter is a local folder: others could not load the adapter from the hub",
            where=f"{adapter}: {saved.checkpoint}",
            remedy="push a merged model: add --merge",
        )


def push(folder: Path, repo: str, *, private: bool = False) -> str:
    """Upload a folder to a new or empty repository of the hub.

    Args:
        folder: Folder written by :func:`export`.
        repo: ``owner/name``.
        private: Make the repository private.

    Returns:
        URL of the repository.

    Raises:
        MetalmError: The repository is not empty, or public although ``private`` is set, or the hub reports an error.
    """
    from huggingface_hub import HfApi

    api: Any = HfApi()
    try:
        address = str(api.create_repo(repo, private=private, exist_ok=True))
        repository = api.model_info(repo)
        existing_files = sorted(
            sibling.rfilename for sibling in repository.siblings or [] if sibling.rfilename != ".gitattributes"
        )
        if existing_files:
            raise MetalmError(
                f"{repo} is not empty",
                where=address,
                why=f"{', '.join(existing_files[:4])}{', …' if len(existing_files) > 4 else ''}",
                remedy="choose another name; nothing is overwritten",
                exit_code=Exit.FAILED,
            )
        if private and not repository.private:
            raise MetalmError(
                f"{repo} exists and is public",
                where=address,
                remedy="make it private on its settings page, or choose another name",
                exit_code=Exit.FAILED,
            )
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Upload with metalm export")
    except Exception as error:
        hub_error = explain_hub_error(error, repo)
        hub_error.exit_code = Exit.FAILED
        raise hub_error from error
    return address
