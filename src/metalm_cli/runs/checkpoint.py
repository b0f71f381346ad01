"""Atomic checkpoints: ``checkpoints/step-00000100/``, safetensors and JSON only, nothing pickled.

A checkpoint is written into a temporary folder beside its final path. ``manifest.json`` (size and sha256 of every file,
and of itself) is written last; every file and the folder are synced, then the folder is renamed and its parent synced.
So a folder named ``step-*`` is complete unless something damages it later, which its manifest reveals.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from metalm_cli.common.atomic_files import (
    TEMPORARY_MARKER,
    explain_write_errors,
    fsync_folder,
    is_disk_full,
    replace_folder,
    restore_folder,
    temporary_path,
    write_error,
)
from metalm_cli.common.file_hash import file_sha256
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.runs.checkpoint_files import (
    decode_manifest,
    encode_json,
    encode_manifest,
    encode_state,
    plan_group,
    write_chunks,
    write_tensors,
)

MANIFEST = "manifest.json"
STATE = "state.json"
SHARD_BYTES = 5_000_000_000
_MANIFEST_FORMAT = 1
_STEP_FOLDER = re.compile(r"step-(\d{8,})$")
_REPLACED_FOLDER = re.compile(r"\.(step-\d{8,})\.replaced$")

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
    encoded_state = encode_state(state)
    plans = {group: plan_group(group, group_tensors, shard_bytes) for group, group_tensors in tensors.items()}
    temporary = temporary_path(step_folder(root, step))
    try:
        root.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        files: dict[str, dict[str, Any]] = {}
        for group, plan in plans.items():
            for name, members in plan.shards.items():
                files[name] = write_tensors(temporary / name, {key: tensors[group][key] for key in members})
            if len(plan.shards) > 1:
                name = f"{group}.safetensors.index.json"
                files[name] = write_chunks(temporary / name, [encode_json(plan.index())])
        files[STATE] = write_chunks(temporary / STATE, [encoded_state])
        manifest = {
            "format": _MANIFEST_FORMAT,
            "step": step,
            "groups": {group: {"files": list(plan.shards), "aliases": plan.aliases} for group, plan in plans.items()},
            "files": files,
        }
        write_chunks(temporary / MANIFEST, [encode_manifest(manifest)])
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

    Raises:
        MetalmError: ``root`` cannot be read.
    """
    damaged = [DamagedCheckpoint(path, "left by a save that was interrupted") for path in _leftovers(root)]
    for step, path in sorted(_checkpoints_by_step(root).items(), reverse=True):
        reason = find_damage(path, step=step)
        if reason is None:
            return path, damaged
        damaged.append(DamagedCheckpoint(path, reason))
    return None, damaged


def check_root(root: Path) -> None:
    """Check that nothing is in the way of checkpoints under ``root``.

    Raises:
        MetalmError: ``root`` or an entry with the name of a checkpoint is not a folder.
    """
    obstacle = _obstacle(root)
    if obstacle is not None:
        raise MetalmError(
            "checkpoints cannot be read or written here",
            where=str(obstacle),
            why="this is not a folder",
            remedy="remove or rename it",
        )


def newest_step(root: Path) -> int | None:
    """Step of the newest checkpoint that is complete by its manifest and sizes; None if there is none."""
    steps = _checkpoints_by_step(root)
    return next((step for step in sorted(steps, reverse=True) if find_damage(steps[step], hashes=False) is None), None)


def read_state(path: Path) -> dict[str, Any]:
    """Read the state of a checkpoint that :func:`find_latest` has verified.

    Raises:
        MetalmError: The state cannot be read.
    """
    with _explain_damage(path):
        state = json.loads((path / STATE).read_bytes())
        if not isinstance(state, dict):
            raise ValueError(f"{STATE} is not an object")
    return state


def load(path: Path, device: str | torch.device = "cpu", *, verify: bool = True) -> tuple[Tensors, dict[str, Any]]:
    """Read a checkpoint: the groups of named tensors and the state, as passed to :func:`save`.

    Tensors are copies, so the folder may be removed afterwards. Names that shared one tensor share it again.

    Args:
        path: Folder of the checkpoint.
        device: Device to load the tensors to.
        verify: Check every byte first; False right after :func:`find_latest`, which has done so: then only sizes.

    Raises:
        MetalmError: The checkpoint is damaged.
    """
    reason = find_damage(path, hashes=verify)
    if reason is not None:
        raise _damage_error(path, reason)
    tensors: Tensors = {}
    with _explain_damage(path):
        manifest = json.loads((path / MANIFEST).read_bytes())
        for group, entry in manifest["groups"].items():
            group_tensors: dict[str, torch.Tensor] = {}
            for name in entry["files"]:
                with safe_open(path / name, framework="pt", device="cpu") as file:
                    for key in file.keys():  # noqa: SIM118
                        group_tensors[key] = file.get_tensor(key).clone().to(device)
            for alias, name in entry["aliases"].items():
                group_tensors[alias] = group_tensors[name]
            tensors[group] = group_tensors
    return tensors, read_state(path)


@contextmanager
def _explain_damage(path: Path) -> Iterator[None]:
    """Context manager that turns errors of reading a checkpoint into a :class:`MetalmError`."""
    try:
        yield
    except (OSError, SafetensorError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _damage_error(path, f"{type(error).__name__}: {error}".splitlines()[0]) from error


def _damage_error(path: Path, reason: str) -> MetalmError:
    return MetalmError(
        "the checkpoint is damaged",
        where=str(path),
        why=reason,
        remedy="remove its folder: --resume then takes the newest complete checkpoint by itself",
        exit_code=Exit.FAILED,
    )


def find_damage(path: Path, *, hashes: bool = True, step: int | None = None) -> str | None:
    """Describe why a checkpoint cannot be used; None if it is complete.

    Args:
        path: Folder of the checkpoint.
        hashes: Compare every byte; False compares only the manifest and the sizes.
        step: The step in the folder's name, if the manifest must agree with it.
    """
    try:
        manifest = decode_manifest((path / MANIFEST).read_bytes())
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
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        return f"{MANIFEST} is not a manifest: {type(error).__name__}: {error}"
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

    Raises:
        MetalmError: A folder cannot be removed.
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
        with explain_write_errors(candidates[step], "cannot remove an old checkpoint", Exit.FAILED):
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
    for path in _entries(root):
        match = _REPLACED_FOLDER.match(path.name)
        if match:
            with explain_write_errors(path, "cannot restore a checkpoint", Exit.FAILED):
                restore_folder(root / match[1])
    return leftovers


def _checkpoints_by_step(root: Path) -> dict[int, Path]:
    """Step -> folder; a checkpoint set aside by an interrupted replacement counts while its final path is empty."""
    checkpoints: dict[int, Path] = {}
    for path in _entries(root):
        match = _STEP_FOLDER.match(path.name) or _REPLACED_FOLDER.match(path.name)
        if match and path.is_dir():
            step = int(match[1].removeprefix("step-"))
            if path.name.startswith("step-") or not step_folder(root, step).exists():
                checkpoints[step] = path
    return checkpoints


def _entries(root: Path) -> list[Path]:
    """Entries of the folder of checkpoints; none if it does not exist.

    Raises:
        MetalmError: The folder cannot be read.
    """
    try:
        return list(root.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise MetalmError(
            "the checkpoints cannot be read",
            where=str(root),
            why=error.strerror or str(error),
            remedy="make the folder readable, or remove it to start again at step 0",
        ) from error


def _obstacle(root: Path) -> Path | None:
    """``root``, or an entry with the name of a checkpoint, that is not a folder; None if all are folders."""
    if os.path.lexists(root) and not os.path.isdir(root):
        return root
    return next((path for path in _entries(root) if _STEP_FOLDER.match(path.name) and not os.path.isdir(path)), None)


def _leftovers(root: Path) -> list[Path]:
    return sorted(path for path in _entries(root) if path.name.startswith(".step-") and TEMPORARY_MARKER in path.name)


def _write_error(error: OSError, root: Path, step: int) -> MetalmError:
    obstacle = _obstacle(root)
    last_checkpoint = None if obstacle == root else find_latest(root)[0]
    fallback = (
        f"the last checkpoint {last_checkpoint} is complete" if last_checkpoint else "there is no earlier checkpoint"
    )
    message = f"the checkpoint of step {step} was not written; {fallback}"
    if obstacle is not None:
        return MetalmError(
            message,
            where=str(obstacle),
            why="this is not a folder",
            remedy="remove or rename it, then continue with --resume",
            exit_code=Exit.FAILED,
        )
    remedy = (
        "free some space (train.keep_checkpoints: 1 keeps fewer checkpoints), then continue with --resume"
        if is_disk_full(error)
        else "make the folder writable again, then continue with --resume"
    )
    return write_error(error, message, root, Exit.FAILED, remedy)
