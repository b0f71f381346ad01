"""Models with encoders and a connector for each: what MetaLM and dual encoders share."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from metalm_cli.models.checkpoint_checks.config_files import reset_implementations
from metalm_cli.models.connectors import check_record, make_connector
from metalm_cli.models.encoder_cache.cached_encoder import CachedEncoder
from metalm_cli.models.encoders import (
    LAST_LAYER,
    EncoderIO,
    encoder_io_for,
    grid_of,
    outputs_in_slices,
    without_pooler,
)
from metalm_cli.sessions import DockTable
from metalm_cli.sessions.compression import Compression

ENCODER_POSITIONS = 8192
"""Maximum positions of a forward pass of an encoder, or of a teacher, padding included. In an encoder of width 768, the
largest tensor of a pass, inside a feed-forward network, then takes 8,192 x 3,072 x 4 bytes = 96 MiB in fp32."""
CPU_ENCODER_POSITIONS = 2048
"""The same on a CPU. Measured with 64 texts of 256 tokens in a frozen encoder of MiniLM's size, on one core: 5.2 s and
113 MiB at 2,048; 5.9 s and 263 MiB at 8,192; 5.8 s and 371 MiB in one pass."""


class EncoderRecords:
    """Base class of configs that record encoders: ``encoder_configs``, ``connectors`` and ``docking`` by name."""

    def adapter_of(self, name: str) -> str | None:
        """Return the name of the adapter of an encoder; None: by its config."""
        return self._docking_of(name).get("adapter")

    def layer_of(self, name: str) -> int:
        """Return the layer of an encoder whose outputs are docked."""
        return int(self._docking_of(name).get("layer", LAST_LAYER))

    def _docking_of(self, name: str) -> dict[str, Any]:
        docking: dict[str, dict[str, Any]] = getattr(self, "docking", {})
        return docking.get(name, {})

    @staticmethod
    def part_config(config: dict[str, Any]) -> PreTrainedConfig:
        """Build the config object of a part."""
        fields = copy.deepcopy(config)
        return reset_implementations(AutoConfig.for_model(fields.pop("model_type"), **fields))


class EncoderDict(nn.ModuleDict):
    """Encoders by name, with their tied weights as the whole model needs them."""

    @property
    def all_tied_weights_keys(self) -> dict[str, str]:
        tied = {}
        for name, part in self.items():
            for key, source in (getattr(part, "all_tied_weights_keys", None) or {}).items():
                tied[f"{name}.{key}"] = f"{name}.{source}"
        return tied


def build_encoder(config: PreTrainedConfig, adapter: str | None = None) -> Any:
    """Build an encoder with new weights, without a pooler."""
    auto = encoder_io_for(config, adapter).load_class(config)
    model_class = auto._model_mapping[type(config)]
    return auto.from_config(config, trust_remote_code=False, **without_pooler(model_class))


class DockedEncoders(PreTrainedModel):
    """Base class of models with encoders and a connector for each.

    Attributes:
        encoders: Encoders by name.
        connectors: Connectors by encoder name.
        encoder_ios: Inputs and outputs by encoder name.
        compressions: Number of positions of a content by encoder name; None: one for each docked output.
        cached_encoders: Frozen encoders whose outputs are read from a cache, by encoder name.
        encoder_positions: Maximum positions of a forward pass of an encoder; None: no bound.
        adapted: Whether its parts have LoRA adapters.
    """

    adapted = False
    encoder_positions: int | None = ENCODER_POSITIONS
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True

    def add_encoders(self, encoders: dict[str, Any] | None, width: int) -> None:
        """Add the encoders with their connectors; called once, when the model is made.

        Args:
            encoders: Encoders to use as they are, by name; None: built from the config.
            width: Width of the connectors' vectors.
        """
        config: Any = self.config
        if encoders is None:
            encoders = {
                name: build_encoder(config.part_config(record), config.adapter_of(name))
                for name, record in config.encoder_configs.items()
            }
        self.encoders = EncoderDict(encoders)
        self.connectors = nn.ModuleDict()
        self.encoder_ios: dict[str, EncoderIO] = {}
        self.compressions: dict[str, Compression | None] = {}
        self.cached_encoders: dict[str, CachedEncoder] = {}
        for name, encoder in encoders.items():
            encoder_io = encoder_io_for(encoder.config, config.adapter_of(name), config.layer_of(name))
            self.encoder_ios[name] = encoder_io
            record, where = config.connectors[name], f"connectors.{name} (config.json of the model)"
            self.compressions[name] = check_record(record, width, grid_of(encoder_io, encoder.config), where)
            self.connectors[name] = make_connector(record, encoder_io.width(encoder.config), width)

    def _init_weights(self, module: nn.Module) -> None:
        pass  # parts and connectors initialise themselves

    @property
    def stacks(self) -> list[Any]:
        """The models of transformers of which it consists."""
        return list(self.encoders.values())

    def pass_positions(self, device: torch.device) -> int | None:
        """Maximum positions of a forward pass of an encoder or a teacher on a device; None: no bound."""
        if self.encoder_positions is not None and device.type == "cpu":
            return min(self.encoder_positions, CPU_ENCODER_POSITIONS)
        return self.encoder_positions

    def docked_outputs(self, name: str, table: DockTable) -> Tensor:
        """Return the docked outputs of all distinct contents, from the cache if the encoder has one: ``[t, width]``."""
        cached = self.cached_encoders.get(name)
        if cached is None or not cached.serves(table):
            return self.encoder_outputs(name, table)
        return cached.outputs(table)

    def encoder_outputs(self, name: str, table: DockTable) -> Tensor:
        """Compute the docked outputs of all distinct contents, in slices: ``[t, width]``."""
        encoder = self.encoders[name]
        trains = any(parameter.requires_grad for parameter in encoder.parameters())
        with torch.set_grad_enabled(trains and torch.is_grad_enabled()):
            bound = self.pass_positions(table.rows.device)
            return outputs_in_slices(self.encoder_ios[name], encoder, table, bound)

    def used_outputs(self, name: str, table: DockTable) -> Tensor:
        """Compute what the model reads of an encoder's outputs, without the cache."""
        return self.encoder_outputs(name, table)

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Any = None, **_kwargs: Any) -> None:
        options = gradient_checkpointing_kwargs or {"use_reentrant": False}
        for part in self.stacks:
            if part.supports_gradient_checkpointing:
                # The newer name first: in transformers 5.23 the older one warns.
                newer = getattr(part, "activation_checkpointing_enable", None)
                (newer or part.gradient_checkpointing_enable)(options)

    def train(self, mode: bool = True) -> Any:
        """Set the training mode; fully frozen parts stay in evaluation mode."""
        super().train(mode)
        if mode:
            for part in (*self.stacks, *self.connectors.values()):
                if not any(parameter.requires_grad for parameter in part.parameters()):
                    part.train(False)
        return self
