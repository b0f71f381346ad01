"""MetaLM: encoders docked through connectors into a causal decoder (section 2 of the paper).

The decoder reads one sequence of vectors: its own token embeddings, and the connector's projection of an encoder's
outputs, one position each. There is no cross-attention. A model without encoders is a plain causal language model.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from metalm_cli.models.connectors import Connector
from metalm_cli.models.decoders import DecoderTraits, full_logits, head_of, hidden_states, measure_decoder
from metalm_cli.models.encoders import encoder_io_for, without_pooler
from metalm_cli.models.loss import linear_cross_entropy
from metalm_cli.sessions import Batch, DockTable


class MetaLMConfig(PreTrainedConfig):
    """Configuration of a :class:`MetaLM`.

    Args:
        decoder_config: The decoder's config, as a dict with ``model_type``.
        encoder_configs: Each encoder's, by name.
        connectors: ``{"kind", "layers"}`` of each encoder's connector.
        docking: ``{"kind", "max_length", "keep_special"}`` of each encoder.
        tokens: Token rules (:class:`metalm_cli.sessions.TokenRules`).
        training: ``{"train", "learning_rate"}`` of each part as last trained; a run that goes on inherits it.
    """

    model_type = "metalm"

    def __init__(
        self,
        decoder_config: dict[str, Any] | None = None,
        encoder_configs: dict[str, dict[str, Any]] | None = None,
        connectors: dict[str, dict[str, Any]] | None = None,
        docking: dict[str, dict[str, Any]] | None = None,
        tokens: dict[str, str] | None = None,
        training: dict[str, dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        self.decoder_config = decoder_config or {}
        self.encoder_configs = encoder_configs or {}
        self.connectors = connectors or {}
        self.docking = docking or {}
        self.tokens = tokens or {}
        self.training = training or {}
        kwargs.setdefault("tie_word_embeddings", False)  # the decoder ties its own
        super().__init__(**kwargs)

    @staticmethod
    def part(config: dict[str, Any]) -> PreTrainedConfig:
        """A part's config object."""
        fields = copy.deepcopy(config)
        return AutoConfig.for_model(fields.pop("model_type"), **fields)


class Parts(nn.ModuleDict):
    """Encoders by name; hands their tied weights up to the whole model."""

    @property
    def all_tied_weights_keys(self) -> dict[str, str]:
        tied = {}
        for name, part in self.items():
            for key, source in (getattr(part, "all_tied_weights_keys", None) or {}).items():
                tied[f"{name}.{key}"] = f"{name}.{source}"
        return tied


def build_encoder(config: PreTrainedConfig) -> Any:
    """An encoder with fresh weights, without a pooler."""
    auto = encoder_io_for(config).load_class(config)
    model_class = auto._model_mapping[type(config)]
    return auto.from_config(config, trust_remote_code=False, **without_pooler(model_class))


class MetaLM(PreTrainedModel):
    """A decoder, its encoders and their connectors.

    Args:
        config: What to build.
        decoder: A causal language model to use as it is; default: built from the config.
        encoders: Encoders to use as they are, by name; default: built from the config.

    Attributes:
        decoder: The causal language model (the universal task layer).
        encoders: Encoders by name.
        connectors: Connectors by encoder name.
        adapted: Low-rank adapters stand in its parts.
    """

    adapted = False
    config_class = MetaLMConfig
    config: MetaLMConfig
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True

    def __init__(
        self, config: MetaLMConfig, decoder: Any = None, encoders: dict[str, PreTrainedModel] | None = None
    ) -> None:
        super().__init__(config)
        part = MetaLMConfig.part
        if decoder is None:
            # Said, because a config that names code of its own would be asked about on the terminal.
            decoder = AutoModelForCausalLM.from_config(part(config.decoder_config), trust_remote_code=False)
        self.decoder = decoder
        if encoders is None:
            encoders = {name: build_encoder(part(one)) for name, one in config.encoder_configs.items()}
        self.encoders = Parts(encoders)
        target = self.decoder.get_input_embeddings().embedding_dim
        self.connectors = nn.ModuleDict()
        for name, encoder in encoders.items():
            width = encoder_io_for(encoder.config).width(encoder.config)
            shape = config.connectors[name]
            self.connectors[name] = Connector(shape["kind"], width, target, shape.get("layers", 1))
        self.adapters = {name: encoder_io_for(encoder.config) for name, encoder in encoders.items()}
        self._traits: DecoderTraits | None = None
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        pass  # parts and connectors initialise themselves

    @property
    def traits(self) -> DecoderTraits:
        """What the decoder was measured to do (once)."""
        if self._traits is None:
            self._traits = measure_decoder(self.decoder)
        return self._traits

    @property
    def positions(self) -> int | None:
        """Most positions that the decoder reads; None if it computes them, for any length."""
        config = self.decoder.config
        return None if config.model_type == "metalm-decoder" else getattr(config, "max_position_embeddings", None)

    def get_input_embeddings(self) -> nn.Module:
        return self.decoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.decoder.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.decoder.get_output_embeddings()

    # -- input vectors ------------------------------------------------------------------------------------------------

    def dock_vectors(self, name: str, table: DockTable) -> Tensor:
        """Connector outputs of every distinct content: ``[t, d]``."""
        encoder = self.encoders[name]
        trains = any(parameter.requires_grad for parameter in encoder.parameters())
        with torch.set_grad_enabled(trains and torch.is_grad_enabled()):
            outputs = self.adapters[name].outputs(encoder, table.inputs)[table.rows, table.columns]
        return self.connectors[name](outputs)

    def embed(self, input_ids: Tensor, docks: dict[str, DockTable] | None = None) -> Tensor:
        """The decoder's input vectors, without positions.

        Args:
            input_ids: ``[b, s]``; anything at docked positions.
            docks: Docked contents by encoder.

        Returns:
            ``[b, s, d]``
        """
        embeds = self.decoder.get_input_embeddings()(input_ids)
        if not docks:
            return embeds
        flat = embeds.reshape(-1, embeds.shape[-1])
        for name, table in docks.items():
            vectors = self.dock_vectors(name, table)[table.content_index]
            flat = flat.index_copy(0, table.positions, vectors.to(flat.dtype))
        return flat.view_as(embeds)

    # -- losses -------------------------------------------------------------------------------------------------------

    def losses(self, batch: Batch, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the batch's trained tokens.

        Args:
            batch: Rows, with docks.
            weights: Weight of each target, or None for 1. ``[m]``

        Returns:
            The weighted sum in nats (differentiable), and each target's without gradient ``[m]``.
        """
        stream = batch.decoder
        embeds = self.embed(stream.input_ids, batch.docks)
        if not self.traits.own_head:
            logits = full_logits(self.decoder, embeds, stream).flatten(0, 1)[stream.predict_at].float()
            each = nn.functional.cross_entropy(logits, stream.targets, reduction="none")
            return (each if weights is None else each * weights).sum(), each.detach()
        hidden = hidden_states(self.decoder, embeds, stream).flatten(0, 1)[stream.predict_at]
        return linear_cross_entropy(hidden, head_of(self.decoder), stream.targets, weights)

    # -- the ordinary signature ---------------------------------------------------------------------------------------

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        docks: dict[str, DockTable] | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """A causal language model's forward pass, with docks.

        Args:
            input_ids: ``[b, s]``; anything at docked positions.
            docks: Docked contents by encoder, placed by flat position (row * s + position).
            labels: As for any causal language model: -100 where nothing is predicted. ``[b, s]``

        Other arguments go to the decoder as they are.
        """
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("give input_ids or inputs_embeds")
            inputs_embeds = self.embed(input_ids, docks)
        return self.decoder(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            labels=labels,
            **kwargs,
        )

    @torch.no_grad()
    def generate(self, input_ids: Tensor, docks: dict[str, DockTable] | None = None, **kwargs: Any) -> Tensor:
        """Continue sequences, as the decoder's own ``generate`` does.

        Args:
            input_ids: Prompts, all of one length or padded on the left with an ``attention_mask``. ``[b, s]``
            docks: Docked contents by encoder.

        Returns:
            The new tokens alone. ``[b, n]``
        """
        kwargs.setdefault("attention_mask", torch.ones_like(input_ids))
        return self.decoder.generate(inputs_embeds=self.embed(input_ids, docks), **kwargs)

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Any = None, **_kwargs: Any) -> None:
        options = gradient_checkpointing_kwargs or {"use_reentrant": False}
        for part in (self.decoder, *self.encoders.values()):
            if part.supports_gradient_checkpointing:
                # The newer name first: in transformers 5.23 the older one warns.
                newer = getattr(part, "activation_checkpointing_enable", None)
                (newer or part.gradient_checkpointing_enable)(options)

    def train(self, mode: bool = True) -> MetaLM:
        """Training mode, in which wholly frozen parts stay in evaluation mode."""
        super().train(mode)
        if mode:
            for part in (self.decoder, *self.encoders.values(), *self.connectors.values()):
                if not any(parameter.requires_grad for parameter in part.parameters()):
                    part.train(False)
        return self


def register() -> None:
    """Make ``AutoConfig`` and ``AutoModelForCausalLM`` know MetaLM."""
    AutoConfig.register("metalm", MetaLMConfig, exist_ok=True)
    AutoModelForCausalLM.register(MetaLMConfig, MetaLM, exist_ok=True)
