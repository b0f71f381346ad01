"""Atomic checkpoints: ``checkpoints/step-00000100/``, safetensors and JSON only, nothing pickled.

A checkpoint is written into a temporary folder beside its final path. ``manifest.json`` (size and sha256 of every file,
and of itself) is written last; every file and the folder are synced, then the folder is renamed and its parent synced.
So a folder named ``step-*`` is complete unless something damages it later, which its manifest reveals.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from metalm_cli.common.atomic_files import (
    TEMPORARY_MARKER,
    fsync_folder,
    replace_folder,
    restore_folder,
    temporary_path,
    write_error,
)
from metalm_cli.common.file_hash import file_sha256
from metalm_cli.errors import Exit, MetalmError

MANIFEST = "manifest.json"
STATE = "state.json"
SHARD_BYTES = 5_000_000_000
_MANIFEST_FORMAT = 1
_STEP_FOLDER = re.compile(r"step-(\d{8,})$")
_REPLACED_FOLDER = re.compile(r"\.(step-\d{8,})\.replaced$")
_GROUP_NAME = re.compile(r"[A-Za-z0-9][\w.-]*$")
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}

Tensors = dict[str, dict[str, torch.Tensor]]
"""Group (``model``, ``optimizer``, …) -> name -> tensor of any shape."""


@dataclass(frozen=True)
class DamagedCheckpoint:
    """A folder under ``checkpoints/`` that cannot be used, with the reason."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def step_folder(root: Path, step: int) -> Path:
    """Path of the checkpoint of an optimiser step."""
    return root / f"step-{step:08d}"


def save(root: Path, step: int, tensors: Tensors, state: dict[str, Any], *, shard_bytes: int = SHARD_BYTES) -> Path:
    """Write the checkpoint of ``step`` atomically and return its folder. Only one process may call this.

    Args:
        root: The run's ``checkpoints/``; created if missing.
        step: Optimiser steps done.
        tensors: Groups of named, full tensors (not DTensors) on any device, contiguous or not. Names that share one
            tensor (tied weights) are stored once; views that overlap otherwise are each stored in full.
        state: A JSON object with string keys; tuples are read back as lists, NaN and infinity unchanged.
        shard_bytes: Largest size of a tensor file; a larger group is split, with an index of its names.

    Raises:
        MetalmError: No space is left or the folder cannot be written. The message names the last complete checkpoint;
            the partial new one is removed.
        TypeError: A tensor or a state cannot be saved; raised before anything is written.
    """
    encoded_state = _encode_state(state)
    plans = {group: _plan_group(group, group_tensors, shard_bytes) for group, group_tensors in tensors.items()}
    temporary = temporary_path(step_folder(root, step))
    try:
        root.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        files: dict[str, dict[str, Any]] = {}
        for group, plan in plans.items():
            for name, members in plan.shards.items():
                files[name] = _write_tensors(temporary / name, {key: tensors[group][key] for key in members})
            if len(plan.shards) > 1:
                name = f"{group}.safetensors.index.json"
                files[name] = _write_chunks(temporary / name, [_json(plan.index())])
        files[STATE] = _write_chunks(temporary / STATE, [encoded_state])
        manifest = {
            "format": _MANIFEST_FORMAT,
            "step": step,
            "groups": {group: {"files": list(plan.shards), "aliases": plan.aliases} for group, plan in plans.items()},
            "files": files,
        }
        _write_chunks(temporary / MANIFEST, [_encode_manifest(manifest)])
        fsync_folder(temporary)
        replace_folder(temporary, step_folder(root, step))
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise _write_error(error, root, step) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return step_folder(root, step)


def find_latest(root: Path) -> tuple[Path | None, list[DamagedCheckpoint]]:
    """Find the newest complete checkpoint under ``root``, every byte of it verified; changes nothing.

    Returns:
        Its folder, or None; and the damaged checkpoints that are newer, with the temporary folders of interrupted
        saves. Older checkpoints are not read.
    """
    damaged = [DamagedCheckpoint(path, "left by a save that was interrupted") for path in _leftovers(root)]
    for step, path in sorted(_checkpoints_by_step(root).items(), reverse=True):
        reason = find_damage(path, step=step)
        if reason is None:
            return path, damaged
        damaged.append(DamagedCheckpoint(path, reason))
    return None, damaged


def load(path: Path, device: str | torch.device = "cpu", *, verify: bool = True) -> tuple[Tensors, dict[str, Any]]:
    """Read a checkpoint: the groups of named tensors and the state, as passed to :func:`save`.

    Tensors are copies, so the folder may be removed afterwards. Names that shared one tensor share it again.

    Args:
        path: Folder of the checkpoint.
        device: Device to load the tensors to.
        verify: Check every byte first; False right after :func:`find_latest`, which has done so.

    Raises:
        MetalmError: The checkpoint is damaged.
    """
    reason = find_damage(path) if verify else None
    if reason is not None:
        raise MetalmError(
            "the checkpoint is damaged",
            where=str(path),
            why=reason,
            remedy="use an earlier checkpoint: --resume takes the newest complete one by itself",
            exit_code=Exit.FAILED,
        )
    manifest = json.loads((path / MANIFEST).read_bytes())
    tensors: Tensors = {}
    for group, entry in manifest["groups"].items():
        group_tensors: dict[str, torch.Tensor] = {}
        for name in entry["files"]:
            with safe_open(path / name, framework="pt", device="cpu") as file:
                for key in file.keys():  # noqa: SIM118
                    group_tensors[key] = file.get_tensor(key).clone().to(device)
        for alias, name in entry["aliases"].items():
            group_tensors[alias] = group_tensors[name]
        tensors[group] = group_tensors
    return tensors, json.loads((path / STATE).read_bytes())


def find_damage(path: Path, *, hashes: bool = True, step: int | None = None) -> str | None:
    """Describe why a checkpoint cannot be used; None if it is complete.

    Args:
        path: Folder of the checkpoint.
        hashes: Compare every byte; False compares only the manifest and the sizes.
        step: The step in the folder's name, if the manifest must agree with it.
    """
    try:
        manifest = _decode_manifest((path / MANIFEST).read_bytes())
        if manifest is None:
            return f"{MANIFEST} was altered or truncated"
        if manifest["format"] != _MANIFEST_FORMAT:
            return f"the format is {manifest['format']}, this program reads {_MANIFEST_FORMAT}"
        if step is not None and manifest["step"] != step:
            return f"the manifest is of step {manifest['step']}, the folder's name of step {step}"
        for name in [name for group in manifest["groups"].values() for name in group["files"]] + [STATE]:
            if name not in manifest["files"]:
                return f"{MANIFEST} lacks the size and hash of {name!r}"
        for name, entry in manifest["files"].items():
            if Path(name).name != name:
                return f"{MANIFEST} names {name!r}, which is not a file of this folder"
            file = path / name
            if not file.is_file():
                return f"{name} is missing"
            size = file.stat().st_size
            if size != entry["size"]:
                return f"{name} has {size:,} bytes, not {entry['size']:,}"
            if hashes and file_sha256(file) != entry["sha256"]:
                return f"{name} was altered: its sha256 differs"
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except OSError as error:
        return f"the folder cannot be read: {error.strerror or error}"
    return None


def load_step(root: Path, step: int) -> Path | None:
    """Path of the checkpoint of a step; None if there is none."""
    path = root / f"step-{step:08d}"
    return path if path.is_dir() else None


def remove_old(root: Path, keep: int, best: int | None = None) -> list[Path]:
    """Remove old checkpoints, except the newest ``keep`` complete ones and that of step ``best``.

    Completeness is judged by manifest and sizes, because bytes are hashed as they are written. Checkpoints newer than
    the newest complete one stay; older damaged ones are removed. Without a complete checkpoint nothing is removed.

    Returns:
        The removed folders.
    """
    candidates = _checkpoints_by_step(root)
    intact = [step for step in sorted(candidates, reverse=True) if find_damage(candidates[step], hashes=False) is None]
    if not intact:
        return []
    retained = {*intact[: max(keep, 1)], best}
    removed = []
    for step in sorted(step for step in candidates if step < intact[0] and step not in retained):
        # Renamed first: an interrupted removal leaves a temporary folder, not a checkpoint that looks damaged.
        temporary = temporary_path(step_folder(root, step))
        os.rename(candidates[step], temporary)
        shutil.rmtree(temporary, ignore_errors=True)
        removed.append(candidates[step])
    return removed


def remove_interrupted(root: Path) -> list[Path]:
    """Remove leftovers of interrupted saves and removals, and undo interrupted replacements.

    Only the process that holds the run's lock may call this.

    Returns:
        The removed folders.
    """
    leftovers = _leftovers(root)
    for path in leftovers:
        shutil.rmtree(path, ignore_errors=True)
    for path in list(root.iterdir()) if root.is_dir() else ():
        match = _REPLACED_FOLDER.match(path.name)
        if match:
            restore_folder(root / match[1])
    return leftovers


@dataclass(frozen=True)
class _GroupPlan:
    shards: dict[str, list[str]]
    """File name -> names of its tensors."""
    aliases: dict[str, str]
    """Name -> the name under which the same tensor is stored."""
    sizes: dict[str, int]

    def index(self) -> dict[str, Any]:
        weight_map = {key: name for name, members in self.shards.items() for key in members}
        return {"metadata": {"total_size": sum(self.sizes.values())}, "weight_map": weight_map}


def _plan_group(group: str, tensors: dict[str, torch.Tensor], shard_bytes: int) -> _GroupPlan:
    if not _GROUP_NAME.match(group):
        raise TypeError(f"{group!r} is not a valid name of a tensor group")
    first_names: dict[tuple[Any, ...], str] = {}
    aliases: dict[str, str] = {}
    sizes: dict[str, int] = {}
    for key, tensor in tensors.items():
        if type(tensor).__name__ == "DTensor" or tensor.layout != torch.strided or tensor.dtype not in _DTYPES:
            raise TypeError(f"{group}: {key} cannot be saved: {type(tensor).__name__}, {tensor.dtype}")
        if tensor.numel():
            storage = (tensor.data_ptr(), tensor.device, tensor.dtype, tuple(tensor.shape), tensor.stride())
            stored_name = first_names.setdefault(storage, key)
            if stored_name != key:
                aliases[key] = stored_name
                continue
        sizes[key] = tensor.numel() * tensor.element_size()
    # Widest dtype first, as safetensors' own writer does: every tensor then starts at a multiple of its width.
    order = sorted(sizes, key=lambda key: (-tensors[key].element_size(), key))
    shards: list[list[str]] = [[]]
    shard_size = 0
    for key in order:
        if shards[-1] and shard_size + sizes[key] > shard_bytes:
            shards.append([])
            shard_size = 0
        shards[-1].append(key)
        shard_size += sizes[key]
    if len(shards) == 1:
        return _GroupPlan({f"{group}.safetensors": shards[0]}, aliases, sizes)
    names = [f"{group}-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    return _GroupPlan(dict(zip(names, shards, strict=True)), aliases, sizes)


def _write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Write a safetensors file with one tensor on the CPU at a time, hashed while it is written."""
    header: dict[str, Any] = {}
    start = 0
    for key, tensor in tensors.items():
        end = start + tensor.numel() * tensor.element_size()
        header[key] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    header_bytes = json.dumps({"__metadata__": {"format": "pt"}, **header}, ensure_ascii=False).encode()
    header_bytes += b" " * (-len(header_bytes) % 8)

    def chunks() -> Iterator[Any]:
        yield len(header_bytes).to_bytes(8, "little")
        yield header_bytes
        for tensor in tensors.values():
            if tensor.numel():
                flat = tensor.detach().cpu().contiguous().reshape(-1)
                yield flat.view(torch.uint8).numpy().data

    return _write_chunks(path, chunks())


def _write_chunks(path: Path, chunks: Any) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    with open(path, "xb") as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        file.flush()
        os.fsync(file.fileno())
    return {"size": size, "sha256": digest.hexdigest()}


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=True) + "\n").encode()


def _encode_manifest(manifest: dict[str, Any]) -> bytes:
    return _json({**manifest, "sha256": hashlib.sha256(_json(manifest)).hexdigest()})


def _decode_manifest(data: bytes) -> dict[str, Any] | None:
    try:
        manifest = json.loads(data)
        manifest.pop("sha256")
    except (ValueError, KeyError, AttributeError, TypeError):
        return None
    return manifest if _encode_manifest(manifest) == data else None


def _encode_state(state: dict[str, Any]) -> bytes:
    def check(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                if not isinstance(key, str):
                    raise TypeError(f"{path} has the key {key!r}: JSON would turn it into a string")
                check(item, f"{path}.{key}")
        elif isinstance(value, list | tuple):
            for index, item in enumerate(value):
                check(item, f"{path}.{index}")

    check(state, "state")
    return _json(state)


def _checkpoints_by_step(root: Path) -> dict[int, Path]:
    """Step -> folder; a checkpoint set aside by an interrupted replacement counts while its final path is empty."""
    checkpoints: dict[int, Path] = {}
    for path in root.iterdir() if root.is_dir() else ():
        match = _STEP_FOLDER.match(path.name) or _REPLACED_FOLDER.match(path.name)
        if match and path.is_dir():
            step = int(match[1].removeprefix("step-"))
            if path.name.startswith("step-") or not step_folder(root, step).exists():
                checkpoints[step] = path
    return checkpoints


def _leftovers(root: Path) -> list[Path]:
    return sorted(root.glob(f".step-*{TEMPORARY_MARKER}*"))


def _write_error(error: OSError, root: Path, step: int) -> MetalmError:
    last_checkpoint, _ = find_latest(root)
    fallback = (
        f"the last checkpoint {last_checkpoint} is complete" if last_checkpoint else "there is no earlier checkpoint"
    )
    message = f"the checkpoint of step {step} was not written; {fallback}"
    remedy = "free some space (train.keep_checkpoints: 1 keeps fewer checkpoints), then continue with --resume"
    return write_error(error, message, root, Exit.FAILED, remedy)
