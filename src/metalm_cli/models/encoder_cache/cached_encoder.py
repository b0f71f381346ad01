"""Outputs of a frozen encoder, from a cache on disk or computed for each content alone.

In floating point, the outputs for a content depend in their last bits on the contents beside it in a forward pass, and
on its padding. With a cache each content is therefore encoded alone, whether or not the cache has it: what is computed
never depends on what the cache contains.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

import metalm_cli
from metalm_cli.common.atomic_files import open_atomically
from metalm_cli.common.cache import cache_folder
from metalm_cli.errors import MetalmError
from metalm_cli.models.encoder_cache.output_store import OutputStore
from metalm_cli.models.weights_hash import weights_sha256
from metalm_cli.sessions import DockTable, Processor
from metalm_cli.sessions.processors import DockInput

FOLDER = "encoder_outputs"
"""Folder of the outputs of all encoders in the cache of metalm."""
RECORD = "encoder.json"
"""File of an encoder's section with what its outputs depend on."""
OTHER_KEYS = ("_name_or_path", "transformers_version")
"""Keys of an encoder's config that do not change its outputs."""


class CachedEncoder:
    """A frozen encoder with a cache of its docked outputs.

    Args:
        name: Name of the encoder.
        encoder: The encoder, frozen and in evaluation mode, on its device.
        encoder_io: Its inputs and outputs.
        processor: Processor of its contents.
        max_bytes: Maximum size of the cache of all encoders; 0: each content is encoded alone, without a cache.
        autocast: Dtype of autocast in the passes that the cache serves; None: without autocast.
        compiled: Whether the layers of the encoder are compiled.
        folder: Folder of the cache; default: in the cache of metalm.

    Attributes:
        read: Number of contents read from the cache.
        encoded: Number of contents that the encoder has read.

    Raises:
        MetalmError: The encoder has parameters that train, or modules in training mode, whose dropout is random.
    """

    def __init__(
        self,
        name: str,
        encoder: Any,
        encoder_io: Any,
        processor: Processor,
        max_bytes: int,
        *,
        autocast: torch.dtype | None = None,
        compiled: bool = False,
        folder: Path | None = None,
    ) -> None:
        if not is_fixed(encoder):
            raise MetalmError(
                f"the outputs of encoder {name!r} cannot be cached",
                where="train.cache_encoders",
                why="the encoder trains, or is in training mode, so that its outputs change or its dropout is random",
                remedy=f"freeze it (model.encoders.{name}.trains=none), or set train.cache_encoders=off",
            )
        parameter = next(encoder.parameters())
        self.encoder, self.encoder_io, self.processor = encoder, encoder_io, processor
        self.device, self.dtype, self.autocast = parameter.device, parameter.dtype, autocast
        self.read = self.encoded = 0
        self.record = _dependencies(encoder, encoder_io, self.device, autocast, compiled)
        section = hashlib.sha256(json.dumps(self.record, sort_keys=True).encode()).hexdigest()[:32]
        self.store = OutputStore(folder or cache_folder() / FOLDER, section, max_bytes)

    def serves(self, table: DockTable) -> bool:
        """Whether the cache has been made for passes like the present one: mode, dtype and device of the encoder."""
        parameter = next(self.encoder.parameters())
        device = self.device.type
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        state = (parameter.device, parameter.dtype, autocast)
        return bool(table.contents) and state == (self.device, self.dtype, self.autocast) and is_fixed(self.encoder)

    @torch.no_grad()
    def outputs(self, table: DockTable) -> Tensor:
        """Return the docked outputs of the contents of a table, ``[t, width]``."""
        return torch.cat([self.outputs_of(content) for content in table.contents])

    @torch.no_grad()
    def outputs_of(self, content: DockInput) -> Tensor:
        """Return the docked outputs of a content, ``[p, width]``, on the device of the encoder."""
        key = _key_of(content)
        outputs = self.store.get(key)
        if outputs is not None:
            self.read += 1
            return outputs.to(self.device)
        outputs = self.encode(content)
        self.encoded += 1
        self._write_record()
        self.store.put(key, outputs)
        return outputs

    @torch.no_grad()
    def encode(self, content: DockInput) -> Tensor:
        """Encode a content alone; as :meth:`outputs_of`, without the cache."""
        arrays = self.processor.collate([content])
        inputs = {name: torch.from_numpy(array).to(self.device) for name, array in arrays.items()}
        columns = torch.from_numpy(content.output_positions.astype(np.int64)).to(self.device)
        return self.encoder_io.outputs(self.encoder, inputs)[0, columns]

    def contains(self, content: DockInput) -> bool:
        """Whether the cache has the outputs of a content."""
        return self.store.get(_key_of(content)) is not None

    def _write_record(self) -> None:
        path = self.store.section / RECORD
        if self.encoded == 1 and self.store.max_bytes and not path.exists():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with open_atomically(path) as file:
                    file.write((json.dumps(self.record, indent=2) + "\n").encode())
            except OSError as error:
                self.store.problem = f"{error.strerror or error}: {self.store.folder}"


def is_fixed(encoder: Any) -> bool:
    """Whether no parameter of an encoder trains, and no module is in training mode."""
    is_frozen = not any(parameter.requires_grad for parameter in encoder.parameters())
    return is_frozen and not any(module.training for module in encoder.modules())


def _key_of(content: DockInput) -> str:
    """Hash of the arrays that the encoder reads, and of the docked positions."""
    state = hashlib.sha256()
    for name, array in sorted({**content.arrays, "output_positions": content.output_positions}.items()):
        state.update(f"{name} {array.shape} {array.dtype.str} ".encode())
        state.update(np.ascontiguousarray(array).data)
    return state.hexdigest()


def _dependencies(
    encoder: Any, encoder_io: Any, device: torch.device, autocast: torch.dtype | None, compiled: bool
) -> dict[str, Any]:
    """Everything besides the content that determines an encoder's outputs to the last bit."""
    cpu = {"capability": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads()}
    config: Mapping[str, Any] = encoder.config.to_dict()
    return {
        "weights_sha256": weights_sha256(encoder),
        "class": f"{type(encoder).__module__}.{type(encoder).__qualname__}",
        "config": json.loads(
            json.dumps({key: value for key, value in config.items() if key not in OTHER_KEYS}, default=str)
        ),
        "attention": str(getattr(encoder.config, "_attn_implementation", None)),
        "outputs": f"{type(encoder_io).__module__}.{type(encoder_io).__qualname__}",
        "layer": getattr(encoder_io, "layer", None),
        "autocast": str(autocast),
        "compiled": compiled,
        "device": cpu if device.type == "cpu" else {"name": torch.cuda.get_device_name(device)},
        "versions": {
            "metalm": metalm_cli.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
