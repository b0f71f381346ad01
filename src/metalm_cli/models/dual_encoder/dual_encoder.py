"""Dual encoder: an image encoder and a text encoder that embed into one space (CLIP, arXiv 2103.00020, section 2.3).

The outputs of an encoder are pooled into one vector, projected to the shared width by the encoder's connector, and
divided by their L2 norm. The logit of an image and a text is the cosine of their embeddings times the logit scale.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from metalm_cli.errors import MetalmError
from metalm_cli.models.dual_encoder.docked_encoders import DockedEncoders, EncoderRecords
from metalm_cli.models.encoders import in_slices, patches_of
from metalm_cli.sessions import DockTable

START_TEMPERATURE = 0.07
"""Temperature of a new model: its logit scale is 1 / 0.07 (section 2.3 of CLIP)."""
MAX_LOGIT_SCALE = 100.0
"""Maximum logit scale, clipped after every optimiser step (section 2.5 of CLIP)."""
PROJECTION_DIM = 512
"""Width of the embeddings of a new model, if the recipe does not set it."""


class DualEncoderConfig(EncoderRecords, PreTrainedConfig):
    """Configuration of a :class:`DualEncoder`.

    Args:
        encoder_configs: Config of each encoder, by name; one reads images, the other texts.
        connectors: ``{"kind", ...}`` of each encoder's projection, with the settings of its kind.
        docking: ``{"kind", "max_length", "keep_special", "pooling"}`` of each encoder, and ``adapter`` and ``layer`` if
            the recipe named one.
        projection_dim: Width of the embeddings.
        training: ``{"train", "learning_rate"}`` of each part as last trained, inherited by runs that continue.
    """

    model_type = "metalm-dual-encoder"

    def __init__(
        self,
        encoder_configs: dict[str, dict[str, Any]] | None = None,
        connectors: dict[str, dict[str, Any]] | None = None,
        docking: dict[str, dict[str, Any]] | None = None,
        projection_dim: int = PROJECTION_DIM,
        training: dict[str, dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        self.encoder_configs = encoder_configs or {}
        self.connectors = connectors or {}
        self.docking = docking or {}
        self.projection_dim = projection_dim
        self.training = training or {}
        kwargs.setdefault("tie_word_embeddings", False)
        super().__init__(**kwargs)

    def pooling_of(self, name: str) -> str:
        """Return how the outputs of an encoder become one vector: ``mean``, ``class`` or ``pooler``."""
        return str(self._docking_of(name).get("pooling", "mean"))


class LogitScale(nn.Module):
    """The factor of the cosines, the inverse of the temperature; its logarithm is learned."""

    def __init__(self) -> None:
        super().__init__()
        # One element and not a scalar: sharded training divides the first dimension.
        self.log_scale = nn.Parameter(torch.tensor([math.log(1 / START_TEMPERATURE)]))

    def forward(self) -> Tensor:
        """Return the factor, a scalar."""
        return self.log_scale.exp().squeeze(0)

    @torch.no_grad()
    def clip(self) -> None:
        """Limit the factor to :data:`MAX_LOGIT_SCALE`, in place."""
        self.log_scale.clamp_(max=math.log(MAX_LOGIT_SCALE))


class DualEncoder(DockedEncoders):
    """An image encoder and a text encoder with projections to one space.

    Args:
        config: Configuration of the model.
        encoders: Encoders to use as they are, by name; default: built from the config.

    Attributes:
        logit_scale: Factor of the cosines in the loss.
        family: Name of the model family.
        max_positions: None: sessions have two positions.
    """

    family = "dual-encoder"
    max_positions = None
    config_class = DualEncoderConfig
    config: DualEncoderConfig

    def __init__(self, config: DualEncoderConfig, encoders: dict[str, Any] | None = None) -> None:
        super().__init__(config)
        self.add_encoders(encoders, config.projection_dim)
        self.logit_scale = LogitScale()
        self.post_init()

    @property
    def image_encoder(self) -> str:
        """Name of the encoder that reads images."""
        return self._encoder_of("vision")

    @property
    def text_encoder(self) -> str:
        """Name of the encoder that reads texts."""
        return self._encoder_of("text")

    def _encoder_of(self, kind: str) -> str:
        return next(name for name, encoder_io in self.encoder_ios.items() if encoder_io.kind == kind)

    def embed(self, name: str, table: DockTable) -> Tensor:
        """Embed the distinct contents of an encoder.

        Args:
            name: Name of the encoder.
            table: Table of u contents.

        Returns:
            Vectors of L2 norm 1, in fp32 or more. ``[u, d]``
        """
        return normalize(_at_least_fp32(self.connectors[name](self.pool(name, table))), dim=-1)

    def pool(self, name: str, table: DockTable) -> Tensor:
        """Pool the outputs of an encoder for each distinct content, before the projection: ``[u, width]``.

        Raises:
            MetalmError: The encoder has no pooled output of its own (pooling ``pooler``).
        """
        pooling = self.config.pooling_of(name)
        if pooling == "pooler":
            return self._pooler_outputs(name, table)
        outputs, contents = self.docked_outputs(name, table), len(next(iter(table.inputs.values())))
        if pooling == "class":
            numbers = torch.arange(len(outputs), device=outputs.device)
            first = numbers.new_full((contents,), len(outputs)).scatter_reduce(0, table.rows, numbers, "amin")
            return outputs[first]
        outputs = _at_least_fp32(outputs)
        counts = outputs.new_zeros(contents).index_add(0, table.rows, torch.ones_like(outputs[:, 0]))
        return outputs.new_zeros(contents, outputs.shape[-1]).index_add(0, table.rows, outputs) / counts[:, None]

    def used_outputs(self, name: str, table: DockTable) -> Tensor:
        return self.pool(name, table)

    def _pooler_outputs(self, name: str, table: DockTable) -> Tensor:
        encoder, encoder_io = self.encoders[name], self.encoder_ios[name]
        pooled: list[Any] = []
        hook = encoder.register_forward_hook(
            lambda _module, _args, outputs: pooled.append(getattr(outputs, "pooler_output", None))
        )
        slices = in_slices(table.inputs, self.pass_positions(table.rows.device), patches_of(encoder_io, encoder.config))
        trains = any(parameter.requires_grad for parameter in encoder.parameters())
        try:
            with torch.set_grad_enabled(trains and torch.is_grad_enabled()):
                for _, inputs in slices:
                    encoder_io.outputs(encoder, inputs)
        finally:
            hook.remove()
        if any(vectors is None for vectors in pooled):
            raise MetalmError(
                f"the encoder {name!r} has no pooled output of its own",
                where=f"model.encoders.{name}.pooling: pooler",
                why=f"{type(encoder).__name__} gives no pooler_output",
                remedy="set pooling to mean or class",
            )
        order = torch.tensor([index for indices, _ in slices for index in indices], device=table.rows.device)
        return torch.cat(pooled)[order.argsort()]


def _at_least_fp32(vectors: Tensor) -> Tensor:
    return vectors.float() if vectors.dtype in (torch.bfloat16, torch.float16) else vectors


def register() -> None:
    """Register the dual encoder with ``AutoConfig`` and ``AutoModel``."""
    AutoConfig.register(DualEncoderConfig.model_type, DualEncoderConfig, exist_ok=True)
    AutoModel.register(DualEncoderConfig, DualEncoder, exist_ok=True)
