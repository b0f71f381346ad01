"""Change of the weights of each part since the start of a run.

At its start, a run writes :data:`START_FILE`: the SHA-256 of the weights of each part that do not train, and of each
tensor that trains its values, or those at :data:`MAX_SAMPLE` random places if it is larger. Norms are sums over the
tensors, each sampled one scaled to its size. The file is small, stays in the run folder and is read again by a resumed
run, and nothing but a sample of one tensor at a time is held in memory.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from metalm_cli.common.atomic_files import write_atomically
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.models.assembly import Assembly
from metalm_cli.runs.part_changes import SPLIT, UNMOVED, PartChange

if TYPE_CHECKING:
    from metalm_cli.runs.folder import RunFolder
    from metalm_cli.training.run import Run

START_FILE = "start_weights.safetensors"
"""File of a run folder with samples and hashes of the weights at its start."""

MAX_SAMPLE = 16_384
"""Largest number of values of a tensor that are compared. The standard error of a norm is below 1% of it."""

CHECK_STEP = 20
"""Step after which a part that trains and has not moved is reported."""

FROZEN_KEY = "frozen"
"""Key of the file's metadata with the SHA-256 of the frozen weights by part."""


def parts_of_run(run: Run, root: Any, assembly: Assembly) -> dict[str, nn.Module]:
    """Return the parts of a model of a run by key path, with those that the objective adds."""
    return {**assembly.parts(), **run.objective.extra_parts(root)}


def trained_weights(part: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of a part that train, by name."""
    return {name: parameter for name, parameter in part.named_parameters() if parameter.requires_grad}


def frozen_hash(part: nn.Module) -> tuple[int, str]:
    """Return number and SHA-256 of the weights and buffers of a part that do not train; no hash without any.

    The hash covers name, shape, dtype and content of each tensor, sorted by name.
    """
    trained = {id(parameter) for parameter in part.parameters() if parameter.requires_grad}
    tensors = dict(part.state_dict(keep_vars=True))
    frozen = {name: tensor for name, tensor in tensors.items() if id(tensor) not in trained}
    count = sum(parameter.numel() for parameter in part.parameters() if not parameter.requires_grad)
    if not count:
        return 0, ""
    digest = hashlib.sha256()
    for name, tensor in sorted(frozen.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return count, digest.hexdigest()


def sample(tensor: Tensor) -> Tensor:
    """Return all values of a tensor, or those at :data:`MAX_SAMPLE` random places, which its size determines.

    Returns:
        ``[min(n, MAX_SAMPLE)]`` fp32 on the CPU.
    """
    flat = tensor.detach().reshape(-1)
    if flat.numel() > MAX_SAMPLE:
        places = torch.randint(flat.numel(), (MAX_SAMPLE,), generator=torch.Generator().manual_seed(0))
        flat = flat[places.to(flat.device)]
    return flat.to("cpu", torch.float32, copy=True)


def write_start_weights(folder: RunFolder, parts: Mapping[str, nn.Module]) -> None:
    """Write :data:`START_FILE`; the weights are those of the start of the run, and not sharded."""
    from safetensors.torch import save

    samples = {
        f"{name}:{key}": sample(parameter)
        for name, part in parts.items()
        for key, parameter in trained_weights(part).items()
    }
    hashes = {name: frozen_hash(part)[1] for name, part in parts.items()}
    write_atomically(folder.path / START_FILE, save(samples, {FROZEN_KEY: json.dumps(hashes)}))


def changes_since_start(folder: RunFolder, parts: Mapping[str, nn.Module]) -> dict[str, PartChange]:
    """Compare the weights of a model, which is not sharded, with those of the start of its run.

    Returns:
        Changes by part; empty for a run of an earlier version, which has no :data:`START_FILE`.

    Raises:
        MetalmError: The file cannot be read, or is that of another model.
    """
    path = folder.path / START_FILE
    if not path.is_file():
        return {}
    with _StartWeights(path) as start:
        return {name: _change(name, part, start) for name, part in parts.items()}


def _change(name: str, part: nn.Module, start: _StartWeights) -> PartChange:
    trained = trained_weights(part)
    relative = _relative_change(name, part, start)
    count, digest = frozen_hash(part)
    return PartChange(
        trained=sum(parameter.numel() for parameter in trained.values()),
        change=relative if math.isfinite(relative) else None,
        frozen=count,
        sha256_before=start.hashes.get(name, ""),
        sha256_after=digest,
        estimated=any(parameter.numel() > MAX_SAMPLE for parameter in trained.values()),
    )


def _relative_change(name: str, part: nn.Module, start: _StartWeights) -> float:
    """Norm of the change of the weights that train, divided by their norm at the start; infinite from a norm of 0."""
    changed = norm = 0.0
    for key, parameter in trained_weights(part).items():
        before, after = start.sample(f"{name}:{key}").double(), sample(_whole(parameter)).double()
        scale = parameter.numel() / max(1, len(before))
        changed += scale * float((after - before).square().sum())
        norm += scale * float(before.square().sum())
    return math.sqrt(changed / norm) if norm else 0.0 if not changed else math.inf


def change_record(step: int, changes: Mapping[str, PartChange]) -> dict[str, Any]:
    """Return the metrics record of the changes."""
    return {"step": step, "split": SPLIT, SPLIT: {name: change.record() for name, change in changes.items()}}


def unmoved_notes(run: Run, folder: RunFolder) -> list[str]:
    """Sentences on parts that train and have not moved; all processes call this, and rank zero gets the sentences.

    Raises:
        MetalmError: See :func:`changes_since_start`.
    """
    path = folder.path / START_FILE
    parts = parts_of_run(run, run.root, run.assembly)
    if not (run.is_main and path.is_file()):
        for part in parts.values():
            for parameter in trained_weights(part).values():
                _whole(parameter)
        return []
    notes = []
    with _StartWeights(path) as start:
        changes = {name: _relative_change(name, part, start) for name, part in parts.items() if trained_weights(part)}
    for name in (name for name, change in changes.items() if change < UNMOVED):
        policy = run.assembly.policy.get(name)
        rate = (policy.learning_rate if policy is not None else None) or run.recipe.train.learning_rate
        notes.append(
            f"warning: {name} trains, but its weights have not moved in {CHECK_STEP} steps: no row has used it, or its "
            f"learning rate ({rate:g}) is too low"
        )
    return notes


def _whole(parameter: Tensor) -> Tensor:
    """Return a parameter that may be sharded as a whole; all processes call this."""
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter


class _StartWeights:
    """Reader of a :data:`START_FILE`.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> _StartWeights:
        from safetensors import SafetensorError, safe_open

        try:
            self._file = safe_open(self.path, "pt").__enter__()
            self.hashes: dict[str, str] = json.loads((self._file.metadata() or {})[FROZEN_KEY])
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            raise self._error(error) from error
        return self

    def __exit__(self, *arguments: object) -> None:
        self._file.__exit__(*arguments)

    def sample(self, name: str) -> Tensor:
        """Return the sample of a tensor.

        Raises:
            MetalmError: The file has no such tensor.
        """
        from safetensors import SafetensorError

        try:
            tensor: Tensor = self._file.get_tensor(name)
        except SafetensorError as error:
            raise self._error(error) from error
        return tensor

    def _error(self, error: Exception) -> MetalmError:
        return MetalmError(
            "the weights of the start of the run cannot be read",
            where=str(self.path),
            why=str(error),
            remedy="remove the file to continue without the report of what moved",
            exit_code=Exit.FAILED,
        )
