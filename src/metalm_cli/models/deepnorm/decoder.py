"""The paper's decoder: a causal DeepNorm stack with sinusoidal positions (paper section 3.1, appendix A).

Shapes as in :mod:`metalm_cli.models.deepnorm.layers`.
"""

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from metalm_cli.errors import MetalmError
from metalm_cli.models.deepnorm.layers import (
    PAPER_VOCABULARY,
    DeepNormLayer,
    DeepNormPreTrainedModel,
    check_shape,
    check_single_input,
    sinusoidal_positions,
)


@strict
class MetaLMDecoderConfig(PreTrainedConfig):
    """Configuration of a decoder; the defaults are the paper's language model, about 1.3B parameters.

    Args:
        vocab_size: Entries of the vocabulary. The paper does not state it; ours.
        hidden_size: Width; even, and a multiple of ``num_attention_heads``.
        num_hidden_layers: Layers; also sets DeepNorm's ``alpha`` and ``beta``.
        num_attention_heads: Attention heads.
        intermediate_size: Width of the feed-forward layer; default four times ``hidden_size``.
        hidden_act: Activation of the feed-forward layer.
        max_position_embeddings: Longest sequence trained on. Sinusoids set no limit themselves.
        dropout: Rate on the embeddings and on both branches of a layer.
        attention_dropout: Rate on the attention weights.
        layer_norm_eps: Epsilon of every layer norm.
        initializer_range: Standard deviation of the token embeddings; default ``hidden_size ** -0.5``.
        scale_embedding: Multiply token embeddings by ``sqrt(hidden_size)``, so that they start at the scale of
            the sinusoids. ``get_input_embeddings()`` returns them multiplied; ``inputs_embeds`` are used
            unchanged. With a tied output, an untrained decoder then predicts the token it has just read: the
            first loss is about ``0.8 * sqrt(hidden_size)`` nats, so warm up.
        tie_word_embeddings: The output matrix is the embedding matrix.
        use_cache: Return keys and values.
    """

    model_type = "metalm-decoder"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012

    vocab_size: int = PAPER_VOCABULARY
    hidden_size: int = 2048
    num_hidden_layers: int = 24
    num_attention_heads: int = 32
    intermediate_size: int | None = None
    hidden_act: str = "gelu"
    max_position_embeddings: int = 2048
    dropout: float | int = 0.0
    attention_dropout: float | int = 0.0
    layer_norm_eps: float = 1e-5
    initializer_range: float | None = None
    scale_embedding: bool = True
    tie_word_embeddings: bool = True
    use_cache: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        if self.initializer_range is None and self.hidden_size > 0:
            self.initializer_range = self.hidden_size**-0.5
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Check widths, heads and layers.

        Raises:
            MetalmError: The width is odd or not a multiple of the heads, or a size is below 1.
        """
        check_shape(self, self.model_type)
        if self.hidden_size % 2:
            raise MetalmError(
                "hidden_size must be even: sinusoidal positions come in pairs of sine and cosine",
                where=f"config of {self.model_type}",
                why=f"got {self.hidden_size}",
            )


class ScaledEmbedding(nn.Embedding):
    """Token embeddings times a constant; the tied output matrix is not multiplied."""

    def __init__(self, entries: int, width: int, scale: float) -> None:
        super().__init__(entries, width)
        self.scale = scale

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Embed ids ``[b, s]`` as ``[b, s, d]``."""
        return super().forward(input) * self.scale


class MetaLMDecoderPreTrainedModel(DeepNormPreTrainedModel):
    config: MetaLMDecoderConfig
    config_class = MetaLMDecoderConfig
    base_model_prefix = "model"
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True


class MetaLMDecoderModel(MetaLMDecoderPreTrainedModel):
    """The decoder without its output matrix.

    The sum of token embeddings (or input vectors) and sinusoids passes through the layers. Post-norm: the last layer
    ends in a layer norm, so none follows.
    """

    def __init__(self, config: MetaLMDecoderConfig) -> None:
        super().__init__(config)
        scale = config.hidden_size**0.5 if config.scale_embedding else 1.0
        self.embed_tokens = ScaledEmbedding(config.vocab_size, config.hidden_size, scale)
        self.layers = nn.ModuleList(
            DeepNormLayer(config, index, is_causal=True) for index in range(config.num_hidden_layers)
        )
        self.dropout = nn.Dropout(config.dropout)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: Any = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Run the stack.

        Args:
            input_ids: ``[b, s]``.
            attention_mask: ``[b, t]``, 1 for tokens and 0 for padding; or a complete mask: additive
                ``[b, 1, s, t]`` or a flex ``BlockMask``.
            position_ids: ``[b, s]``. By default counted from the left, over the tokens of a two-dimensional mask.
                Positions that restart, without a mask, isolate the packed sessions.
            past_key_values: Keys and values of earlier positions.
            inputs_embeds: ``[b, s, d]`` in place of ``input_ids``: token embeddings or connector outputs.
            use_cache: Return ``past_key_values``.
            **kwargs: Passed to the attention function.

        Returns:
            ``last_hidden_state`` ``[b, s, d]``, and the other requested outputs.

        Raises:
            MetalmError: Both of ``input_ids`` and ``inputs_embeds`` are given, or neither.
        """
        check_single_input(input_ids, inputs_embeds)
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        # The mask comes before the cache: with a cache, even an empty one, packed positions would not be detected.
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            position_ids = _default_positions(inputs_embeds, attention_mask, past_key_values)

        positions = sinusoidal_positions(position_ids, self.config.hidden_size)
        hidden_states = self.dropout(inputs_embeds + positions.to(inputs_embeds.dtype))
        for layer in self.layers:
            hidden_states = layer(
                hidden_states,
                attention_mask=mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
                **kwargs,
            )
        return BaseModelOutputWithPast(last_hidden_state=hidden_states, past_key_values=past_key_values)


def _default_positions(inputs_embeds: torch.Tensor, attention_mask: Any, past_key_values: Cache | None) -> torch.Tensor:
    """Return positions ``[b | 1, s]`` after the cached ones; padding does not count.

    With a mask ``0 0 1 1 1`` the five positions are ``0 0 0 1 2``: left padding does not move a text.
    """
    length = inputs_embeds.shape[1]
    if isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2:
        return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]
    cached_length = past_key_values.get_seq_length() if past_key_values is not None else 0
    return (torch.arange(length, device=inputs_embeds.device) + cached_length).unsqueeze(0)


class MetaLMDecoderForCausalLM(MetaLMDecoderPreTrainedModel, GenerationMixin):
    """The universal task layer: the decoder and a softmax over the vocabulary, tied to its embeddings."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: MetaLMDecoderConfig) -> None:
        super().__init__(config)
        self.model = MetaLMDecoderModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: Any = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Predict each next token; arguments as :meth:`MetaLMDecoderModel.forward`, and:

        Args:
            labels: ``[b, s]``, shifted inside; -100 is not trained.
            logits_to_keep: Number of last positions to compute (0: all), or an index tensor of positions.

        Returns:
            ``logits`` ``[b, s, v]``, ``loss`` if ``labels`` are given, ``past_key_values`` if requested.

        Raises:
            MetalmError: Both of ``input_ids`` and ``inputs_embeds`` are given, or neither.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        positions = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        hidden_states: torch.Tensor = outputs.last_hidden_state
        logits = self.lm_head(hidden_states[:, positions])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
