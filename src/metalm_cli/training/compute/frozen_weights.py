"""Frozen weights in the compute dtype while a run trains; their originals are on disk.

With ``precision: bf16``, autocast would cast the weights of a frozen part again in every pass, and keep them in fp32
beside. Instead, they are bf16 while the run trains. Weights that bf16 cannot represent exactly are written to a file
of the run first, and everything that is saved or evaluated has the original values, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from torch import Tensor, nn

from metalm_cli.common.atomic_files import explain_write_errors
from metalm_cli.config.schema.recipes import Recipe
from metalm_cli.errors import Exit
from metalm_cli.models.trainable import LORA_PARAMETER_MARK
from metalm_cli.runs.checkpoint_files import write_tensors

if TYPE_CHECKING:
    from metalm_cli.runs.folder import RunFolder
    from metalm_cli.training.run import Run

ORIGINALS_FILE = "frozen_weights.safetensors"
"""File of a run folder with the originals, which the run removes at its end."""

COMPUTE_DTYPE = torch.bfloat16


def frozen_weights(recipe: Recipe, parts: Mapping[str, nn.Module], shards: int) -> list[nn.Parameter]:
    """Return the weights that are held in bf16: those of parts of which nothing trains, or only adapters.

    Args:
        recipe: The recipe.
        parts: Parts of the model by key path, with the parameters that train set.
        shards: Processes that the model is sharded over. A sharded model holds no weights in bf16: its shards have one
            dtype, and are cast before they are gathered.
    """
    if recipe.train.precision != "bf16" or shards > 1:
        return []
    weights: dict[int, nn.Parameter] = {}
    for part in parts.values():
        trained = [name for name, weight in part.named_parameters() if weight.requires_grad]
        if all(LORA_PARAMETER_MARK in name for name in trained):
            weights |= {id(weight): weight for weight in part.parameters() if not weight.requires_grad}
    return [weight for weight in weights.values() if weight.dtype == torch.float32]


class FrozenWeights:
    """Frozen weights of a run, held in bf16 from :meth:`hold` to :meth:`release`.

    Args:
        root: The module that trains; its names of the weights are those of checkpoints.
        weights: The weights, in fp32.
    """

    def __init__(self, root: nn.Module | None = None, weights: list[nn.Parameter] | None = None) -> None:
        self._weights = {id(weight): weight for weight in weights or []}
        self._names: dict[int, list[str]] = {}
        for name, weight in root.named_parameters(remove_duplicate=False) if root is not None else ():
            if id(weight) in self._weights:
                self._names.setdefault(id(weight), []).append(name)
        self._originals: dict[int, Callable[[], Tensor]] = {}
        self._is_held = False

    def inexact(self) -> dict[str, Tensor]:
        """Return the weights, in fp32, that bf16 does not represent exactly, by their first name."""
        return {
            names[0]: self._weights[key].detach()
            for key, names in self._names.items()
            if not torch.equal(self._weights[key].detach().to(COMPUTE_DTYPE).float(), self._weights[key].detach())
        }

    def hold(self, originals: Mapping[str, Callable[[], Tensor]]) -> None:
        """Cast the weights.

        Args:
            originals: Reads the original of each weight of :meth:`inexact`.
        """
        for key, names in self._names.items():
            if names[0] in originals:
                self._originals[key] = originals[names[0]]
        self._cast()

    def _cast(self) -> None:
        for weight in self._weights.values():
            weight.data = weight.data.to(COMPUTE_DTYPE)
        self._is_held = bool(self._weights)

    def release(self) -> None:
        """Give the weights their original values and dtype."""
        if self._is_held:
            for key, weight in self._weights.items():
                weight.data = self._original(key).to(weight.device)
        self._is_held = False

    @contextmanager
    def released(self) -> Iterator[None]:
        """Context manager in which the weights have their original values; they must not be changed in it."""
        was_held = self._is_held
        self.release()
        try:
            yield
        finally:
            if was_held:
                self._cast()

    @contextmanager
    def held_in_memory(self) -> Iterator[None]:
        """Context manager in which the weights are held, with their originals in memory."""
        originals = {name: weight.cpu() for name, weight in self.inexact().items()}
        self.hold({name: partial(torch.Tensor.detach, weight) for name, weight in originals.items()})
        try:
            yield
        finally:
            self.release()
            self._originals.clear()

    def put_originals(self, tensors: dict[str, Tensor]) -> None:
        """Replace the weights in a gathered state, by name, by their originals."""
        if not self._is_held:
            return
        for key, names in self._names.items():
            saved = [name for name in names if name in tensors]
            if saved:
                original = self._original(key).cpu()
                tensors.update(dict.fromkeys(saved, original))

    def _original(self, key: int) -> Tensor:
        """Return the original of a weight, in fp32."""
        read = self._originals.get(key)
        return self._weights[key].data.float() if read is None else read()


@contextmanager
def hold_frozen_weights(run: Run, folder: RunFolder) -> Iterator[None]:
    """Context manager of the training loop, in which a run's frozen weights are held in bf16.

    Raises:
        MetalmError: The originals cannot be written.
    """
    path, originals = folder.path / ORIGINALS_FILE, run.frozen_weights.inexact()
    try:
        if originals:
            run.collectives.on_rank_zero(lambda: _write(path, originals))
        names = list(originals)
        originals.clear()
        run.frozen_weights.hold(_readers(path, names))
        yield
    finally:
        if run.is_main:
            path.unlink(missing_ok=True)


def _write(path: Path, weights: dict[str, Tensor]) -> None:
    with explain_write_errors(path, "cannot write the original values of the frozen weights", Exit.FAILED):
        path.unlink(missing_ok=True)  # left by a run that was killed
        write_tensors(path, weights)


def _readers(path: Path, names: list[str]) -> dict[str, Callable[[], Tensor]]:
    """Return a function for each name that reads its weight from the file."""

    def read(name: str) -> Tensor:
        with safe_open(path, "pt") as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor

    return {name: partial(read, name) for name in names}
