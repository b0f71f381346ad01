"""The paper's text encoder: a bidirectional DeepNorm stack (paper section 3.1, appendix A).

Learnable absolute positions at the input, T5's relative position bias (arXiv 1910.10683, section 2.1) in every
layer, one table for all of them. Heads for masked tokens and for replaced tokens (ELECTRA, arXiv 2003.10555).

Shapes as in :mod:`metalm_cli.models.deepnorm.layers`; ``e`` is the width of the token embeddings (``embedding_size``).
"""

from collections.abc import Callable
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput, TokenClassifierOutput
from transformers.utils import ModelOutput, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from metalm_cli.errors import MetalmError
from metalm_cli.models.deepnorm.layers import (
    PAPER_VOCABULARY,
    DeepNormLayer,
    DeepNormPreTrainedModel,
    GainLinear,
    check_shape,
    check_single_input,
)


@strict
class MetaLMEncoderConfig(PreTrainedConfig):
    """Configuration of an encoder; the defaults are the paper's, about 366M parameters.

    Args:
        vocab_size: Entries of the vocabulary. The paper does not state it; ours.
        hidden_size: Width; a multiple of ``num_attention_heads``.
        embedding_size: Width of token and position embeddings; default ``hidden_size``. A small ELECTRA
            generator has that of its discriminator, to share the embeddings.
        num_hidden_layers: Layers; also sets DeepNorm's ``alpha`` and ``beta``.
        num_attention_heads: Attention heads.
        intermediate_size: Width of the feed-forward layer; default four times ``hidden_size``.
        hidden_act: Activation of the feed-forward layer and of the heads.
        max_position_embeddings: Learnable positions; no input may be longer.
        relative_attention_num_buckets: Buckets of the relative bias, half for each direction.
        relative_attention_max_distance: Larger distances share the last bucket of their direction.
        dropout: Rate on the embeddings and on both branches of a layer.
        attention_dropout: Rate on the attention weights.
        layer_norm_eps: Epsilon of every layer norm.
        initializer_range: Standard deviation of embeddings and of the relative bias.
        tie_word_embeddings: The output matrix for masked tokens is the embedding matrix.
    """

    model_type = "metalm-encoder"

    vocab_size: int = PAPER_VOCABULARY
    hidden_size: int = 1024
    embedding_size: int | None = None
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    intermediate_size: int | None = None
    hidden_act: str = "gelu"
    max_position_embeddings: int = 512
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    dropout: float | int = 0.1
    attention_dropout: float | int = 0.1
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        if self.embedding_size is None:
            self.embedding_size = self.hidden_size
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Check widths, heads, layers and buckets.

        Raises:
            MetalmError: The width is not a multiple of the heads, a size is below 1, the buckets are not a
                multiple of 4, or the distance is not above a quarter of them.
        """
        check_shape(self, self.model_type)
        buckets, distance = self.relative_attention_num_buckets, self.relative_attention_max_distance
        if buckets < 4 or buckets % 4 or distance <= buckets // 4:
            raise MetalmError(
                "relative position buckets do not fit their largest distance",
                where=f"config of {self.model_type}",
                why=f"got {buckets} buckets and distance {distance}",
                remedy="buckets: a multiple of 4; distance: more than a quarter of the buckets",
            )


def bucket_thresholds(exact: int, max_distance: int) -> list[int]:
    """Return the first distances of T5's logarithmic buckets, in integers, without rounding errors.

    A direction has ``2 * exact`` buckets: one for each distance below ``exact``, then ``exact`` buckets that grow as
    ``exact * (max_distance / exact) ** (k / exact)``, ``k = 1 ... exact - 1``.

    >>> bucket_thresholds(8, 128)
    [12, 16, 23, 32, 46, 64, 91]
    """
    thresholds = []
    distance = exact
    for k in range(1, exact):
        while distance**exact * exact**k < exact**exact * max_distance**k:
            distance += 1
        thresholds.append(distance)
    return thresholds


def relative_buckets(max_distance: int, buckets: int, device: torch.device | None = None) -> torch.Tensor:
    """Return T5's bidirectional bucket of each relative position (key minus query), up to ``max_distance``.

    Args:
        max_distance: Farther positions share the last bucket of their direction.
        buckets: Number of buckets; the lower half for keys at or before the query, the upper for those after.
        device: Device of the result.

    Returns:
        ``[2 * max_distance + 1]`` integers; relative position ``r`` has index ``r + max_distance``.
    """
    half = buckets // 2
    exact = half // 2
    relative = torch.arange(-max_distance, max_distance + 1, device=device)
    distance = relative.abs()
    bucket = distance.clamp(max=exact)
    for threshold in bucket_thresholds(exact, max_distance):
        bucket = bucket + (distance >= threshold)
    return bucket + half * (relative > 0)


class RelativePositionBias(nn.Module):
    """Relative position bias: a learned value per distance bucket and head, added to the attention scores."""

    def __init__(self, config: MetaLMEncoderConfig) -> None:
        super().__init__()
        self.max_distance = config.relative_attention_max_distance
        self.table = nn.Embedding(config.relative_attention_num_buckets, config.num_attention_heads)

    def forward(self, position_ids: torch.Tensor) -> torch.Tensor:
        """Compute the bias ``[b | 1, h, s, s]`` of ``position_ids`` ``[b | 1, s]``.

        The bias depends only on differences of positions, so a packed text has the same bias as an unpacked one.
        """
        relative = position_ids[:, None, :] - position_ids[:, :, None]
        index = relative.clamp(-self.max_distance, self.max_distance) + self.max_distance
        buckets = relative_buckets(self.max_distance, self.table.num_embeddings, position_ids.device)
        return self.table(buckets[index]).permute(0, 3, 1, 2)


def add_mask(bias: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Add a mask to the relative bias.

    Args:
        bias: ``[b | 1, h, s, s]``.
        attention_mask: ``[b, s]``, 1 for tokens and 0 for padding; or ``[b, 1 | h, s, s]``, additive, or boolean
            with true where attended.

    Returns:
        ``[b | 1, h, s, s]``, to add to the scores.

    Raises:
        MetalmError: The mask has neither two nor four dimensions.
    """
    if attention_mask is None:
        return bias
    if attention_mask.ndim == 2:
        attention_mask = attention_mask[:, None, None, :].bool()
    if attention_mask.ndim != 4:
        raise MetalmError(
            "an attention mask has two or four dimensions", why=f"got shape {tuple(attention_mask.shape)}"
        )
    if attention_mask.dtype == torch.bool:
        return bias.masked_fill(~attention_mask, torch.finfo(bias.dtype).min)
    return bias + attention_mask.to(bias.dtype)


class MetaLMEncoderEmbeddings(nn.Module):
    """Sum of token and learnable position embeddings, layer norm, dropout, and a projection if the widths differ."""

    def __init__(self, config: MetaLMEncoderConfig) -> None:
        super().__init__()
        width = config.embedding_size or config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, width)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, width)
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.projection = GainLinear(width, config.hidden_size) if width != config.hidden_size else None

    def forward(self, inputs_embeds: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        """Map token embeddings ``[b, s, e]`` to ``[b, s, d]``."""
        embedded = self.dropout(self.norm(inputs_embeds + self.position_embeddings(position_ids)))
        return embedded if self.projection is None else self.projection(embedded)


class MetaLMEncoderPreTrainedModel(DeepNormPreTrainedModel):
    config: MetaLMEncoderConfig
    config_class = MetaLMEncoderConfig
    base_model_prefix = "encoder"
    _input_embed_layer = "word_embeddings"


class MetaLMEncoderModel(MetaLMEncoderPreTrainedModel):
    """The encoder without a head."""

    def __init__(self, config: MetaLMEncoderConfig) -> None:
        super().__init__(config)
        self.embeddings = MetaLMEncoderEmbeddings(config)
        self.relative_bias = RelativePositionBias(config)
        self.layers = nn.ModuleList(
            DeepNormLayer(config, index, is_causal=False) for index in range(config.num_hidden_layers)
        )
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """Run the encoder.

        Args:
            input_ids: ``[b, s]``.
            attention_mask: ``[b, s]``, 1 for tokens and 0 for padding; or, for packed texts, ``[b, 1, s, s]``,
                additive (0, and the dtype's lowest value) or boolean.
            position_ids: ``[b, s]``, by default counted from the left, padding included. The relative bias
                follows them.
            inputs_embeds: ``[b, s, e]`` in place of ``input_ids``.
            **kwargs: Passed to the attention function.

        Returns:
            ``last_hidden_state`` ``[b, s, d]``, and the other requested outputs.

        Raises:
            MetalmError: Both of ``input_ids`` and ``inputs_embeds`` are given, or neither; or the input is
                longer than the learnable positions.
        """
        check_single_input(input_ids, inputs_embeds)
        if inputs_embeds is None:
            inputs_embeds = self.embeddings.word_embeddings(input_ids)
        if position_ids is None:
            position_ids = self._count_positions(inputs_embeds)
        hidden_states = self.embeddings(inputs_embeds, position_ids)
        mask = add_mask(self.relative_bias(position_ids).to(hidden_states.dtype), attention_mask)
        for layer in self.layers:
            hidden_states = layer(hidden_states, attention_mask=mask, **kwargs)
        return BaseModelOutput(last_hidden_state=hidden_states)

    def _count_positions(self, inputs_embeds: torch.Tensor) -> torch.Tensor:
        """Return positions ``[1, s]`` from 0.

        Raises:
            MetalmError: The input is longer than the learnable positions.
        """
        length, max_positions = inputs_embeds.shape[1], self.config.max_position_embeddings
        if length > max_positions:
            raise MetalmError(
                "input is longer than the encoder's positions",
                why=f"got {length} tokens, max_position_embeddings is {max_positions}",
                remedy="cut the text, or set the encoder's max_length",
            )
        return torch.arange(length, device=inputs_embeds.device).unsqueeze(0)


class MetaLMEncoderWithHead(MetaLMEncoderPreTrainedModel):
    """The encoder with a head: a dense layer of some width, an activation, and the layers of a subclass."""

    output_class: type[ModelOutput]
    logits: Callable[[torch.Tensor], torch.Tensor]
    loss: Callable[..., torch.Tensor]

    def __init__(self, config: MetaLMEncoderConfig, width: int) -> None:
        super().__init__(config)
        self.encoder = MetaLMEncoderModel(config)
        self.dense = GainLinear(config.hidden_size, width)
        self.activation = ACT2FN[config.hidden_act]

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> ModelOutput:
        """Compute logits and loss; arguments as :meth:`MetaLMEncoderModel.forward`, and:

        Args:
            labels: ``[b, s]``; -100 where no loss is computed.

        Returns:
            ``logits``, and ``loss`` if ``labels`` are given.

        Raises:
            MetalmError: See :meth:`MetaLMEncoderModel.forward`.
        """
        outputs = self.encoder(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        logits = self.logits(outputs.last_hidden_state)
        loss = None if labels is None else self.loss(logits, labels, attention_mask, **kwargs)
        return self.output_class(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class MetaLMEncoderForMaskedLM(MetaLMEncoderWithHead):
    """The encoder with a head that predicts masked tokens; also ELECTRA's generator. Labels are original ids."""

    output_class = MaskedLMOutput
    _tied_weights_keys = {"lm_head.weight": "encoder.embeddings.word_embeddings.weight"}  # noqa: RUF012

    def __init__(self, config: MetaLMEncoderConfig) -> None:
        width = config.embedding_size or config.hidden_size
        super().__init__(config, width)
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.lm_head = nn.Linear(width, config.vocab_size)
        self.post_init()

    def transform(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map hidden states ``[..., d]`` to the input of the output matrix, ``[..., e]``."""
        return self.norm(self.activation(self.dense(hidden)))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Compute logits ``[b, s, v]``."""
        return self.lm_head(self.transform(hidden))

    def loss(self, logits: torch.Tensor, labels: torch.Tensor, _mask: torch.Tensor | None, **kwargs: Any) -> Any:
        """Compute the mean cross-entropy of the labels."""
        return self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)


class MetaLMEncoderForPreTraining(MetaLMEncoderWithHead):
    """The encoder with ELECTRA's head, which detects replaced tokens. Labels: 1 replaced, 0 original."""

    output_class = TokenClassifierOutput

    def __init__(self, config: MetaLMEncoderConfig) -> None:
        super().__init__(config, config.hidden_size)
        self.classifier = GainLinear(config.hidden_size, 1)
        self.post_init()

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Compute logits ``[b, s]``, above 0 where a token looks replaced."""
        return self.classifier(self.activation(self.dense(hidden))).squeeze(-1)

    def loss(self, logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor | None, **_kwargs: Any) -> Any:
        """Compute the mean binary cross-entropy of labelled positions, without padding."""
        trained = labels != -100
        if mask is not None and mask.ndim == 2:
            trained = trained & mask.bool()
        return nn.functional.binary_cross_entropy_with_logits(logits[trained], labels[trained].to(logits.dtype))
