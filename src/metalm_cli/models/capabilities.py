"""Capabilities of models, measured on a few tokens.

There is no list of supported families: each function runs a model in evaluation mode, without gradients, and compares
its outputs. A model that lacks a capability takes a slower path: full logits, one session per row, no shared caches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metalm_cli.errors import MetalmError
from metalm_cli.models.attention import SEGMENTED, register_attention
from metalm_cli.models.decoders import expand_cache, full_logits, head_of, hidden_states, plain_generation
from metalm_cli.models.families.encoder_only import encode
from metalm_cli.models.mlm_heads import masked_head
from metalm_cli.sessions import PackedTokens, TokenisedSession, build_row, collate

TOLERANCE = 1e-4
"""Largest difference of outputs that count as equal, as a share of the largest output if that is above 1."""
SWITCH_TOLERANCE = 1e-5
"""Largest difference of outputs that is rounding, as a share of the largest output."""
REJECTIONS = (AttributeError, IndexError, RuntimeError, TypeError, ValueError)
"""Exceptions of families that reject masks, positions, embeddings or caches, or combine their modules differently."""


@contextmanager
def measuring(model: Any) -> Iterator[None]:
    """Set evaluation mode, without gradients; restore the mode of every module and the random state."""
    modes = [(module, module.training) for module in model.modules()]
    device = next(model.parameters()).device
    try:
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            model.eval()
            yield
    finally:
        for module, training in modes:
            module.training = training


def agree(compute: Callable[[], tuple[Tensor, Tensor]], *, relative: bool = True) -> bool:
    """Return whether two computed outputs are equal; False if the model rejects the inputs."""
    try:
        actual, expected = compute()
        scale = max(1.0, float(expected.abs().max())) if relative else 1.0
        return bool((actual - expected).abs().max() <= TOLERANCE * scale)
    except REJECTIONS:
        return False


def token_ids(model: Any, count: int) -> Tensor:
    """Return distinct token ids, ``[1, count]``."""
    device = next(model.parameters()).device
    return ((torch.arange(count, device=device) * 7 + 3) % model.get_input_embeddings().num_embeddings)[None]


def _pack(*documents: Tensor) -> PackedTokens:
    """Pack documents ``[1, n]`` into a row, each as a root segment."""
    sessions = [TokenisedSession(ids[0].cpu().numpy(), np.zeros(ids.shape[1], dtype=bool)) for ids in documents]
    return collate([build_row(sessions)], {}).to(documents[0].device).decoder


# -- decoders ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DecoderTraits:
    """Measured properties of a decoder.

    Args:
        causal: No position attends to a later one.
        has_known_head: :func:`~metalm_cli.models.decoders.head_of` gives its logits; otherwise its own forward pass
            computes full logits.
        supports_packing: Packed rows with a block mask give the logits of unpacked rows.
        length_switch: Length up to which sessions are computed in one way, and longer ones in another
            (:func:`measure_length_switch`); None: all lengths are computed in the same way.
    """

    causal: bool
    has_known_head: bool
    supports_packing: bool
    length_switch: int | None = None

    def packs_rows_of(self, length: int) -> bool:
        """Return whether packed rows of a length are exact: a packed row may not mix sessions of the two kinds."""
        return self.supports_packing and (self.length_switch is None or length <= self.length_switch)

    def notes(self) -> list[str]:
        """Return notes for the user."""
        notes = []
        if not self.has_known_head:
            notes.append("the decoder's output head is unknown: full logits are computed, which takes more memory")
        if not self.supports_packing:
            notes.append("packing is not exact for this decoder: one session per row")
        if self.length_switch is not None:
            notes.append(
                f"this decoder computes sessions of more than {self.length_switch:,} positions in another way: they "
                "are neither packed nor batched with shorter ones"
            )
        return notes


def measure_decoder(decoder: Any, max_positions: int | None = None) -> DecoderTraits:
    """Measure whether a decoder is causal, has a known output head and supports packing, and its length switch.

    Args:
        decoder: A causal language model.
        max_positions: Maximum number of its positions; None: no limit.

    Raises:
        MetalmError: The decoder's outputs are not finite.
    """
    attention = decoder.config._attn_implementation
    if attention == "flex_attention":
        # SDPA has the same masks; flex attention would first be compiled, for minutes on a CPU.
        decoder.set_attn_implementation("sdpa")
    try:
        with measuring(decoder):
            traits = _decoder_traits(decoder)
            return replace(traits, length_switch=measure_length_switch(decoder, max_positions))
    finally:
        if attention == "flex_attention":
            decoder.set_attn_implementation(attention)


def _decoder_traits(decoder: Any) -> DecoderTraits:
    first, second = token_ids(decoder, 11).split([6, 5], dim=1)
    logits = decoder(input_ids=first, use_cache=False).logits
    start_logits = decoder(input_ids=first[:, :4], use_cache=False).logits
    check_outputs(decoder, logits)
    causal = agree(lambda: (start_logits, logits[:, :4]))

    def from_head() -> tuple[Tensor, Tensor]:
        hidden = decoder.base_model(input_ids=first, use_cache=False).last_hidden_state
        return head_of(decoder).logits(hidden), logits

    def packed() -> tuple[Tensor, Tensor]:
        embeds = decoder.get_input_embeddings()(torch.cat([first, second], 1))
        unpacked = torch.cat([logits, decoder(input_ids=second, use_cache=False).logits], 1)
        return full_logits(decoder, embeds, _pack(first, second)), unpacked

    return DecoderTraits(causal, agree(from_head), causal and agree(packed))


def use_segmented_attention(decoder: Any) -> bool:
    """Compute the segments of packed rows apart, if that gives the logits of unpacked rows; return whether it does.

    Args:
        decoder: A causal language model; one whose attention is not SDPA is left as it is.
    """
    attention = decoder.config._attn_implementation
    if attention != "sdpa":
        return bool(attention == SEGMENTED)
    documents = token_ids(decoder, 11).split([6, 5], dim=1)

    def packed() -> tuple[Tensor, Tensor]:
        embeds = decoder.get_input_embeddings()(torch.cat(documents, 1))
        unpacked = torch.cat([decoder(input_ids=ids, use_cache=False).logits for ids in documents], 1)
        return full_logits(decoder, embeds, _pack(*documents)), unpacked

    register_attention()
    try:
        decoder.set_attn_implementation(SEGMENTED)
        with measuring(decoder):
            is_exact = decoder.config._attn_implementation == SEGMENTED and agree(packed)
    except REJECTIONS:
        is_exact = False
    if not is_exact:
        decoder.set_attn_implementation(attention)
    return is_exact


def check_outputs(model: Any, outputs: Tensor) -> None:
    if not bool(torch.isfinite(outputs).all()):
        raise MetalmError(
            f"the outputs of {type(model).__name__} are not finite",
            where=model.config.name_or_path,
            why="its weights are finite, but too large for its config or for their dtype",
            remedy="use a checkpoint whose weights belong to its config",
        )


def measure_length_switch(decoder: Any, max_positions: int | None) -> int | None:
    """Measure the length above which a session changes how shorter sessions of its batch are computed.

    LongRoPE has one set of frequencies up to a length and another beyond it, chosen by the largest position of the
    batch. The switch is found by bisection, with a short row beside a row whose positions end at some length.

    Args:
        decoder: A causal language model.
        max_positions: Maximum number of its positions; None: no limit, and the result is None.

    Returns:
        The largest length that does not change shorter sessions; None if the decoder computes all lengths alike.
    """
    size = 6
    if max_positions is None or max_positions <= size:
        return None
    embeds = decoder.get_input_embeddings()(token_ids(decoder, size).expand(2, -1))
    positions = torch.arange(size, device=embeds.device)

    def beside(length: int) -> Tensor:
        """Return the logits of the short row beside a row that ends at a length."""
        position_ids = torch.stack([positions, positions + length - size])
        return decoder(inputs_embeds=embeds, position_ids=position_ids, use_cache=False).logits[0]

    def changes(length: int) -> bool:
        difference = (beside(length) - expected).abs().max()
        return bool(difference > SWITCH_TOLERANCE * expected.abs().max())

    with measuring(decoder):
        try:
            expected = beside(size)
            if not changes(max_positions):
                return None
            low, high = size, max_positions
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (low, middle) if changes(middle) else (middle, high)
            return low
        except REJECTIONS:
            return None


def measure_left_padding(decoder: Any) -> bool:
    """Measure whether a decoder generates from embeddings with the same logits with and without padding on the left."""
    embedding = decoder.get_input_embeddings()
    long_ids, short_ids = token_ids(decoder, 14).split([9, 5], dim=1)
    padded_ids = torch.cat([torch.zeros_like(long_ids[:, :4]), short_ids], 1)
    batch_ids = torch.cat([long_ids, padded_ids])
    mask = torch.ones_like(batch_ids)
    mask[1, :4] = 0

    def first_logits(ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the logits of three forced tokens, so that the comparison includes steps with a cache."""
        outputs = decoder.generate(
            inputs_embeds=embedding(ids),
            attention_mask=attention_mask,
            max_new_tokens=3,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            prefix_allowed_tokens_fn=lambda *_: [5],
            output_logits=True,
            return_dict_in_generate=True,
        )
        return torch.stack(outputs.logits)

    def padded() -> tuple[Tensor, Tensor]:
        unpadded = [first_logits(ids, torch.ones_like(ids)) for ids in (long_ids, short_ids)]
        return first_logits(batch_ids, mask), torch.cat(unpadded, 1)

    with measuring(decoder), plain_generation(decoder):
        return agree(padded)


def measure_cache_reuse(decoder: Any) -> bool:
    """Check whether the rest of a row on a cached prefix has the hidden states of the full row without a cache."""
    from transformers import DynamicCache

    embedding = decoder.get_input_embeddings()
    ids = token_ids(decoder, 9)
    packed = _pack(ids)
    suffixes = replace(
        packed,
        position_ids=packed.position_ids[:, 5:].expand(2, -1),
        segment_ids=packed.segment_ids[:, 5:].expand(2, -1),
        parent_segments=packed.parent_segments.expand(2, -1),
    )

    def after_cache() -> tuple[Tensor, Tensor]:
        expected = decoder.base_model(input_ids=ids, use_cache=False).last_hidden_state
        cache = DynamicCache()
        decoder.base_model(inputs_embeds=embedding(ids[:, :5]), past_key_values=cache, use_cache=True)
        embeds = embedding(ids[:, 5:].expand(2, -1))
        actual = hidden_states(decoder, embeds, suffixes, expand_cache(cache, 2))
        return torch.cat([expected[:, :5].expand(2, -1, -1), actual], 1), expected

    with measuring(decoder):
        return agree(after_cache)


# -- encoders ---------------------------------------------------------------------------------------------------------


def measure_bidirectionality(encoder: Any) -> bool:
    """Measure whether a text encoder's first output depends on later tokens."""
    ids = token_ids(encoder, 8)
    changed = ids.clone()
    changed[0, -1] = (changed[0, -1] + 1) % encoder.get_input_embeddings().num_embeddings
    with measuring(encoder):
        first, second = (encoder(input_ids=token_ids).last_hidden_state[0, 0] for token_ids in (ids, changed))
        check_outputs(encoder, first)
        return bool((first - second).abs().max() > 0)


def measure_encoder_packing(model: Any) -> bool:
    """Measure whether packed rows of an encoder with a block mask give the outputs of unpacked rows.

    An explicit mask would also replace local windows, so encoders that have them are not packed.
    """
    if getattr(model.config, "local_attention", None) or getattr(model.config, "sliding_window", None):
        return False
    ids = token_ids(model, 9)
    ids[ids == model.config.pad_token_id] += 1  # RoBERTa does not count padding when it numbers positions
    documents = ids.split([5, 4], dim=1)

    def packed() -> tuple[Tensor, Tensor]:
        unpacked = [model.base_model(input_ids=document).last_hidden_state for document in documents]
        return encode(model, ids, _pack(*documents)), torch.cat(unpacked, 1)

    with measuring(model):
        return agree(packed, relative=False)  # a relative limit could change the rows of a run that is resumed


def measure_masked_head(model: Any) -> bool:
    """Measure whether :func:`~metalm_cli.models.mlm_heads.masked_head` gives the model's own logits."""
    parts = masked_head(model)
    if parts is None:
        return False
    transform, head = parts
    ids = token_ids(model, 6)
    with measuring(model):
        expected = model(input_ids=ids).logits
        return agree(lambda: (head.logits(transform(model.base_model(input_ids=ids).last_hidden_state)), expected))
