"""Modules shared by the paper's two stacks: the DeepNorm layer, its initialisation and its attention.

Both stacks are post-layer-norm Transformers whose residual branch is up-scaled and whose branch weights start
small (DeepNet, arXiv 2203.00555). For a stack of one kind, encoder only or decoder only, of ``N`` layers::

    x_{l+1} = LayerNorm(alpha * x_l + G_l(x_l)),    alpha = (2N)^(1/4),    beta = (8N)^(-1/4)

``beta`` is the Xavier gain of the value, output and both feed-forward matrices; query and key keep gain 1.

Shapes: ``b`` rows of a batch, ``s`` positions, ``t`` positions attended to (cache included), ``h`` heads,
``d`` width (``hidden_size``), ``v`` vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel

from metalm_cli.errors import MetalmError

PAPER_VOCABULARY = 61_952
"""About 62k, as the encoder's stated 366M parameters imply, rounded to a multiple of 128. Ours, not the paper's."""


def deepnorm_alpha(layers: int) -> float:
    """Weight of the residual branch, ``(2N)^(1/4)`` (DeepNet, figure 2: encoder only and decoder only).

    >>> round(deepnorm_alpha(24), 4)
    2.6321
    """
    return (2 * layers) ** 0.25


def deepnorm_beta(layers: int) -> float:
    """Xavier gain of value, output and feed-forward matrices, ``(8N)^(-1/4)`` (DeepNet, figure 2).

    >>> round(deepnorm_beta(24), 4)
    0.2686
    """
    return (8 * layers) ** -0.25


def check_shape(config: Any, model_type: str) -> None:
    """Check that width, heads, layers and activation are valid.

    Raises:
        MetalmError: ``hidden_size`` is not a multiple of ``num_attention_heads``, a size is below 1, or
            ``hidden_act`` is unknown.
    """
    for key in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"):
        if getattr(config, key) < 1:
            raise MetalmError(
                f"{key} must be at least 1", where=f"config of {model_type}", why=f"got {getattr(config, key)}"
            )
    if config.hidden_size % config.num_attention_heads:
        raise MetalmError(
            "hidden_size is not a multiple of num_attention_heads",
            where=f"config of {model_type}",
            why=f"got {config.hidden_size} and {config.num_attention_heads}",
            remedy="choose a width that the heads divide evenly",
        )
    if config.hidden_act not in ACT2FN:
        raise MetalmError(
            "unknown hidden_act",
            where=f"config of {model_type}",
            why=f"got {config.hidden_act}; known: {', '.join(sorted(ACT2FN))}",
        )


def check_single_input(input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None) -> None:
    """Check that there is exactly one kind of input.

    Raises:
        MetalmError: Both of ``input_ids`` and ``inputs_embeds`` are given, or neither.
    """
    if (input_ids is None) == (inputs_embeds is None):
        got = "neither" if input_ids is None else "both"
        raise MetalmError("exactly one of input_ids and inputs_embeds is required", why=f"got {got}")


class GainLinear(nn.Linear):
    """Linear layer with the Xavier gain of its initialisation: 1, or DeepNorm's ``beta``."""

    def __init__(self, inputs: int, outputs: int, gain: float = 1.0, bias: bool = True) -> None:
        super().__init__(inputs, outputs, bias=bias)
        self.gain = gain


def eager_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute attention in plain tensor operations; the only implementation that returns its weights.

    Args:
        module: The attention layer, for its training mode.
        query: ``[b, h, s, d / h]``.
        key: ``[b, h, t, d / h]``.
        value: ``[b, h, t, d / h]``.
        attention_mask: ``[b | 1, h | 1, s, t]``: added to the scores, or, if boolean, true where attended.
        scaling: Factor of the scores.
        dropout: Rate on the weights.
        **kwargs: Arguments of other implementations, unused.

    Returns:
        Output ``[b, s, h, d / h]`` and weights ``[b, h, s, t]``.
    """
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        if attention_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
        else:
            scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class DeepNormAttention(nn.Module):
    """Multi-head self-attention, causal or bidirectional, through transformers' attention functions."""

    def __init__(self, config: Any, layer_idx: int, is_causal: bool) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = is_causal
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        width, beta = config.hidden_size, deepnorm_beta(config.num_hidden_layers)
        self.q_proj = GainLinear(width, width)
        self.k_proj = GainLinear(width, width)
        self.v_proj = GainLinear(width, width, gain=beta)
        self.out_proj = GainLinear(width, width, gain=beta)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: Any = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend from ``hidden_states`` ``[b, s, d]`` to itself and to the cached positions.

        Returns:
            Output ``[b, s, d]``, and weights ``[b, h, s, t]`` if the implementation has them.
        """
        rows, length = hidden_states.shape[:2]
        by_head = (rows, length, -1, self.head_dim)
        query = self.q_proj(hidden_states).view(by_head).transpose(1, 2)
        key = self.k_proj(hidden_states).view(by_head).transpose(1, 2)
        value = self.v_proj(hidden_states).view(by_head).transpose(1, 2)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend: Callable[..., tuple[torch.Tensor, torch.Tensor | None]] = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention
        )
        dropout = self.attention_dropout if self.training else 0.0
        output, weights = attend(
            self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
        )
        return self.out_proj(output.reshape(rows, length, -1)), weights


class DeepNormLayer(GradientCheckpointingLayer):
    """``x = LN(alpha x + attention(x))``, then ``x = LN(alpha x + W_2 gelu(W_1 x))``."""

    def __init__(self, config: Any, layer_idx: int, is_causal: bool) -> None:
        super().__init__()
        layers, width = config.num_hidden_layers, config.hidden_size
        self.alpha = deepnorm_alpha(layers)
        self.self_attn = DeepNormAttention(config, layer_idx, is_causal)
        self.self_attn_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.fc1 = GainLinear(width, config.intermediate_size, gain=deepnorm_beta(layers))
        self.fc2 = GainLinear(config.intermediate_size, width, gain=deepnorm_beta(layers))
        self.fc_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.activation = ACT2FN[config.hidden_act]
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden_states: torch.Tensor, attention_mask: Any = None, **kwargs: Any) -> torch.Tensor:
        """Apply the layer to ``hidden_states`` ``[b, s, d]``; ``kwargs`` are passed to the attention."""
        branch, _ = self.self_attn(hidden_states, attention_mask=attention_mask, **kwargs)
        hidden_states = self.self_attn_norm(self.alpha * hidden_states + self.dropout(branch))
        branch = self.fc2(self.activation(self.fc1(hidden_states)))
        return self.fc_norm(self.alpha * hidden_states + self.dropout(branch))


class DeepNormPreTrainedModel(PreTrainedModel):
    """Base class of the decoder and the encoder: settings for transformers, and weight initialisation."""

    config: PreTrainedConfig
    supports_gradient_checkpointing = True
    _no_split_modules = ["DeepNormLayer"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_sdpa = True
    _can_compile_fullgraph = True
    _can_record_outputs = {  # noqa: RUF012
        "hidden_states": DeepNormLayer,
        "attentions": DeepNormAttention,
    }

    def _init_weights(self, module: nn.Module) -> None:
        """Xavier with each matrix's own gain, normal embeddings, zero biases, unit norms."""
        if isinstance(module, nn.Linear):
            init.xavier_normal_(module.weight, gain=getattr(module, "gain", 1.0))
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, mean=0.0, std=self.config.initializer_range)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)


def sinusoidal_positions(position_ids: torch.Tensor, width: int) -> torch.Tensor:
    """Compute the fixed positions of Vaswani et al. (arXiv 1706.03762, section 3.5), without a table.

    ``PE(p, 2i) = sin(p / 10000^(2i/d))`` and ``PE(p, 2i + 1) = cos(p / 10000^(2i/d))``.

    Args:
        position_ids: ``[b | 1, s]`` integers, of any size.
        width: ``d``, even.

    Returns:
        ``[b | 1, s, d]`` in float32.
    """
    pairs = torch.arange(width // 2, dtype=torch.float32, device=position_ids.device)
    frequencies = torch.exp(pairs * (-2.0 * math.log(10_000.0) / width))
    angles = position_ids.to(torch.float32).unsqueeze(-1) * frequencies
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)
