"""Atomic checkpoints: ``checkpoints/step-00000100/``, safetensors and JSON only, nothing pickled.

A checkpoint is written in a temporary folder beside its place, ``manifest.json`` (size and sha256 of every file, and
of itself) last; every file and the folder are synced, then it is renamed and its parent synced. So a folder named
``step-*`` is whole unless something has damaged it later, and then its manifest tells.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from metalm_cli.common.atomic_files import TEMPORARY, fsync_folder, replace_folder, restore_folder, write_error
from metalm_cli.errors import Exit, MetalmError

MANIFEST = "manifest.json"
STATE = "state.json"
SHARD_BYTES = 5_000_000_000
_FORMAT = 1
_STEP = re.compile(r"step-(\d{8,})$")
_REPLACED = re.compile(r"\.(step-\d{8,})\.replaced$")
_GROUP = re.compile(r"[A-Za-z0-9][\w.-]*$")
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
    """A folder under ``checkpoints/`` that cannot be used, and why."""

    path: Path
    why: str

    def __str__(self) -> str:
        return f"{self.path}: {self.why}"


def step_folder(root: Path, step: int) -> Path:
    """Where the checkpoint of an optimiser step stands."""
    return root / f"step-{step:08d}"


def save(root: Path, step: int, tensors: Tensors, state: dict[str, Any], *, shard_bytes: int = SHARD_BYTES) -> Path:
    """Writes the checkpoint of ``step`` atomically and returns its folder; by one process alone.

    Args:
        root: The run's ``checkpoints/``; made where missing.
        step: Optimiser steps done.
        tensors: Groups of named, whole tensors (no DTensor) on any device, contiguous or not. Names of one and the
            same tensor (tied weights) are stored once; views that overlap otherwise are stored each in full.
        state: What JSON can hold, with string keys; tuples come back as lists, NaN and infinity as they are.
        shard_bytes: Largest file of tensors; a larger group is split, and gets an index of its names.

    Raises:
        MetalmError: No space is left or the folder cannot be written. Names the last whole checkpoint; what was
            written of this one is gone.
        TypeError: A tensor or a state that no checkpoint can hold; found before anything is written.
    """
    text = _state_text(state)
    plans = {group: _plan_group(group, named, shard_bytes) for group, named in tensors.items()}
    temporary = root / f".step-{step:08d}{TEMPORARY}{secrets.token_hex(4)}"
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
        files[STATE] = _write_chunks(temporary / STATE, [text])
        manifest = {
            "format": _FORMAT,
            "step": step,
            "groups": {g: {"files": list(p.shards), "aliases": p.aliases} for g, p in plans.items()},
            "files": files,
        }
        _write_chunks(temporary / MANIFEST, [_sealed(manifest)])
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
    """The newest whole checkpoint under ``root``, its every byte checked, and what is damaged.

    Returns:
        The folder, None where there is none; and the damaged checkpoints newer than it with the temporary folders
        that an interrupted save has left. Older checkpoints are not read. Changes nothing.
    """
    damaged = [DamagedCheckpoint(path, "left by a save that was interrupted") for path in _leftovers(root)]
    for step, path in sorted(_candidates(root).items(), reverse=True):
        why = damage(path, step=step)
        if why is None:
            return path, damaged
        damaged.append(DamagedCheckpoint(path, why))
    return None, damaged


def load(path: Path, device: str | torch.device = "cpu", *, verify: bool = True) -> tuple[Tensors, dict[str, Any]]:
    """Reads a checkpoint: the groups of named tensors and the state, as :func:`save` was given them.

    Tensors are copies: removing the folder later does not touch them. Names that shared one tensor share it again.

    Args:
        path: A checkpoint's folder.
        device: Where the tensors go.
        verify: Check every byte first; False right after :func:`find_latest`, which has done so.

    Raises:
        MetalmError: The checkpoint is damaged.
    """
    why = damage(path) if verify else None
    if why is not None:
        raise MetalmError(
            "the checkpoint is damaged",
            where=str(path),
            why=why,
            remedy="use an earlier checkpoint: --resume takes the newest whole one by itself",
            exit_code=Exit.FAILED,
        )
    manifest = json.loads((path / MANIFEST).read_bytes())
    tensors: Tensors = {}
    for group, entry in manifest["groups"].items():
        named: dict[str, torch.Tensor] = {}
        for name in entry["files"]:
            with safe_open(path / name, framework="pt", device="cpu") as file:
                for key in file.keys():  # noqa: SIM118
                    named[key] = file.get_tensor(key).clone().to(device)
        for alias, name in entry["aliases"].items():
            named[alias] = named[name]
        tensors[group] = named
    return tensors, json.loads((path / STATE).read_bytes())


def damage(path: Path, *, hashes: bool = True, step: int | None = None) -> str | None:
    """Why a checkpoint cannot be used, or None if it is whole.

    Args:
        path: Its folder.
        hashes: Compare every byte; False compares the manifest and the sizes alone.
        step: The step that the folder's name gives, if it must agree.
    """
    try:
        manifest = _unsealed((path / MANIFEST).read_bytes())
        if manifest is None:
            return f"{MANIFEST} was altered or cut"
        if manifest["format"] != _FORMAT:
            return f"its format is {manifest['format']}, this program reads {_FORMAT}"
        if step is not None and manifest["step"] != step:
            return f"it is of step {manifest['step']}, its name says {step}"
        for name in [name for group in manifest["groups"].values() for name in group["files"]] + [STATE]:
            if name not in manifest["files"]:
                return f"{MANIFEST} lacks the size and hash of {name!r}"
        for name, facts in manifest["files"].items():
            if Path(name).name != name:
                return f"{MANIFEST} names {name!r}, which is not a file of this folder"
            file = path / name
            if not file.is_file():
                return f"{name} is missing"
            size = file.stat().st_size
            if size != facts["size"]:
                return f"{name} has {size:,} bytes, not {facts['size']:,}"
            if hashes and _hash(file) != facts["sha256"]:
                return f"{name} was altered: its sha256 differs"
    except FileNotFoundError:
        return f"it has no {MANIFEST}"
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"
    return None


def load_step(root: Path, step: int) -> Path | None:
    """The checkpoint of a step; None if there is none."""
    found = root / f"step-{step:08d}"
    return found if found.is_dir() else None


def remove_old(root: Path, keep: int, best: int | None = None) -> list[Path]:
    """Removes old checkpoints: the newest ``keep`` whole ones stay, and that of step ``best``.

    Removes nothing unless a newest one is whole (manifest and sizes; its bytes were hashed as they were written),
    and never one newer than it. Damaged ones older than it go.

    Returns:
        The folders removed.
    """
    candidates = _candidates(root)
    whole = [step for step in sorted(candidates, reverse=True) if damage(candidates[step], hashes=False) is None]
    if not whole:
        return []
    stay = {*whole[: max(keep, 1)], best}
    removed = []
    for step in sorted(step for step in candidates if step < whole[0] and step not in stay):
        # Renamed first: an interrupted removal leaves a temporary, not a checkpoint that looks damaged.
        doomed = root / f".step-{step:08d}{TEMPORARY}{secrets.token_hex(4)}"
        os.rename(candidates[step], doomed)
        shutil.rmtree(doomed, ignore_errors=True)
        removed.append(candidates[step])
    return removed


def remove_interrupted(root: Path) -> list[Path]:
    """Removes what interrupted saves and removals have left, puts back what a cut replacement moved aside.

    Only for the process that holds the run's lock.

    Returns:
        The folders removed.
    """
    leftovers = _leftovers(root)
    for path in leftovers:
        shutil.rmtree(path, ignore_errors=True)
    for path in list(root.iterdir()) if root.is_dir() else ():
        match = _REPLACED.match(path.name)
        if match:
            restore_folder(root / match[1])
    return leftovers


@dataclass(frozen=True)
class _Plan:
    shards: dict[str, list[str]]
    """File name -> names of its tensors."""
    aliases: dict[str, str]
    """Name -> the name under which the same tensor is stored."""
    sizes: dict[str, int]

    def index(self) -> dict[str, Any]:
        where = {key: name for name, members in self.shards.items() for key in members}
        return {"metadata": {"total_size": sum(self.sizes.values())}, "weight_map": where}


def _plan_group(group: str, named: dict[str, torch.Tensor], shard_bytes: int) -> _Plan:
    if not _GROUP.match(group):
        raise TypeError(f"{group!r} cannot name a file of tensors")
    first: dict[tuple[Any, ...], str] = {}
    aliases: dict[str, str] = {}
    sizes: dict[str, int] = {}
    for key, tensor in named.items():
        if type(tensor).__name__ == "DTensor" or tensor.layout != torch.strided or tensor.dtype not in _DTYPES:
            raise TypeError(f"{group}: {key} cannot be saved: {type(tensor).__name__}, {tensor.dtype}")
        if tensor.numel():
            place = (tensor.data_ptr(), tensor.device, tensor.dtype, tuple(tensor.shape), tensor.stride())
            stored = first.setdefault(place, key)
            if stored != key:
                aliases[key] = stored
                continue
        sizes[key] = tensor.numel() * tensor.element_size()
    # Widest first, as the format's own writer does it: every tensor then starts at a multiple of its width.
    order = sorted(sizes, key=lambda key: (-named[key].element_size(), key))
    parts: list[list[str]] = [[]]
    filled = 0
    for key in order:
        if parts[-1] and filled + sizes[key] > shard_bytes:
            parts.append([])
            filled = 0
        parts[-1].append(key)
        filled += sizes[key]
    if len(parts) == 1:
        return _Plan({f"{group}.safetensors": parts[0]}, aliases, sizes)
    names = [f"{group}-{i:05d}-of-{len(parts):05d}.safetensors" for i in range(1, len(parts) + 1)]
    return _Plan(dict(zip(names, parts, strict=True)), aliases, sizes)


def _write_tensors(path: Path, named: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Writes a safetensors file tensor by tensor: one is on the CPU at a time, and it is hashed on the way."""
    header: dict[str, Any] = {}
    start = 0
    for key, tensor in named.items():
        end = start + tensor.numel() * tensor.element_size()
        header[key] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)

    def chunks() -> Iterator[Any]:
        yield len(text).to_bytes(8, "little")
        yield text
        for tensor in named.values():
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


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=True) + "\n").encode()


def _sealed(manifest: dict[str, Any]) -> bytes:
    return _json({**manifest, "sha256": hashlib.sha256(_json(manifest)).hexdigest()})


def _unsealed(data: bytes) -> dict[str, Any] | None:
    try:
        manifest = json.loads(data)
        manifest.pop("sha256")
    except (ValueError, KeyError, AttributeError, TypeError):
        return None
    return manifest if _sealed(manifest) == data else None


def _state_text(state: dict[str, Any]) -> bytes:
    def check(value: Any, where: str) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                if not isinstance(key, str):
                    raise TypeError(f"{where} has the key {key!r}: JSON would make it a string")
                check(item, f"{where}.{key}")
        elif isinstance(value, list | tuple):
            for index, item in enumerate(value):
                check(item, f"{where}.{index}")

    check(state, "state")
    return _json(state)


def _candidates(root: Path) -> dict[int, Path]:
    """Step -> folder; a checkpoint that a cut replacement moved aside counts while its place is empty."""
    found: dict[int, Path] = {}
    for path in root.iterdir() if root.is_dir() else ():
        match = _STEP.match(path.name) or _REPLACED.match(path.name)
        if match and path.is_dir():
            step = int(match[1].removeprefix("step-"))
            if path.name.startswith("step-") or not step_folder(root, step).exists():
                found[step] = path
    return found


def _leftovers(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if path.name.startswith(".step-") and TEMPORARY in path.name)


def _write_error(error: OSError, root: Path, step: int) -> MetalmError:
    last, _ = find_latest(root)
    rest = f"the last checkpoint {last} is whole" if last else "there is no earlier checkpoint"
    what = f"the checkpoint of step {step} was not written; {rest}"
    remedy = "make room (train.keep_checkpoints: 1 keeps fewer checkpoints), then go on with --resume"
    return write_error(error, what, root, Exit.FAILED, remedy)
