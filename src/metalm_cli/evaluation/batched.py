"""Continuing many sessions at once: the same texts as one by one, with sessions of similar length together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from metalm_cli.evaluation.interface import Interface
from metalm_cli.sessions import Session, TokenisedSession

TOLERANCE = 1e-4
"""Largest relative difference of logits that is taken for equal."""


@torch.no_grad()
def pads_left(decoder: Any) -> bool:
    """Whether a decoder continues a sequence that is padded on the left as it does without padding: measured.

    Args:
        decoder: A causal language model in evaluation mode.

    Returns:
        False also where generating from embeddings, or with a mask, fails.
    """
    table = decoder.get_input_embeddings()
    ids = (torch.arange(16, device=table.weight.device) * 7 + 3) % table.num_embeddings
    long, short = ids[None, :9], ids[None, 11:]
    padded = torch.cat([torch.zeros_like(ids[None, :4]), short], 1)
    mask = torch.ones_like(torch.cat([long, padded]))
    mask[1, :4] = 0
    try:
        alone = _first_logits(decoder, table(short), torch.ones_like(short))
        first = _first_logits(decoder, table(long), torch.ones_like(long))
        together = _first_logits(decoder, table(torch.cat([long, padded])), mask)
    except (TypeError, ValueError, RuntimeError, IndexError):
        return False
    wanted = torch.cat([first, alone], 1)
    return bool((together - wanted).abs().max() <= TOLERANCE * max(1.0, float(wanted.abs().max())))


def _first_logits(decoder: Any, embeds: Tensor, mask: Tensor) -> Tensor:
    """Logits of three generated tokens, the same for every input, so that steps with a cache are compared too."""
    said = decoder.generate(
        inputs_embeds=embeds,
        attention_mask=mask,
        max_new_tokens=3,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        prefix_allowed_tokens_fn=lambda *_: [5],
        output_logits=True,
        return_dict_in_generate=True,
    )
    return torch.stack(said.logits)


def batches(
    lengths: Sequence[int],
    limits: Sequence[int],
    rooms: Sequence[int],
    size: int,
    *,
    equal_lengths: bool = False,
    equal_limits: bool = False,
) -> Iterator[list[int]]:
    """Which sessions are continued together, the longest first.

    Args:
        lengths: Positions of each session.
        limits: Most new tokens of each.
        rooms: Positions that the decoder has left after each.
        size: Sessions of a batch.
        equal_lengths: Together only what needs no padding.
        equal_limits: Together only what ends at the same number of tokens: beams depend on it.

    Returns:
        Indices; in no batch do the most new tokens exceed the least room.

    Example:
        >>> list(batches([3, 9, 4, 8], [2, 2, 5, 2], [9, 3, 8, 4], size=2))
        [[1, 3], [2, 0]]
    """
    order = sorted(range(len(lengths)), key=lambda index: (-limits[index] if equal_limits else 0, -lengths[index]))
    batch: list[int] = []
    for index in order:
        grown = [*batch, index]
        fits = len(grown) <= size and max(limits[one] for one in grown) <= min(rooms[one] for one in grown)
        fits = fits and not (equal_lengths and lengths[index] != lengths[grown[0]])
        fits = fits and not (equal_limits and limits[index] != limits[grown[0]])
        if batch and not fits:
            yield batch
            grown = [index]
        batch = grown
    if batch:
        yield batch


@torch.no_grad()
def continuations(
    interface: Interface,
    sessions: Sequence[Session | TokenisedSession],
    limits: Sequence[int],
    *,
    batch_size: int = 16,
    watch: Callable[[int], None] = lambda done: None,
    **options: Any,
) -> list[str]:
    """Continue many sessions.

    Args:
        interface: The model.
        sessions: What to continue.
        limits: Most new tokens of each; the decoder's positions may end one earlier.
        batch_size: Sequences of a forward pass; each beam is one.
        watch: Told how many sessions are done.
        options: For transformers' ``generate``; default greedy. No sampling: it would depend on the batches.

    Returns:
        The texts, up to the document-end token, in the order given: those of :meth:`Interface.generate`.

    Raises:
        MetalmError: A session cannot be tokenised, or fills all positions of the decoder.
    """
    made = [one if isinstance(one, TokenisedSession) else interface.tokenise(one) for one in sessions]
    rooms = [interface._room(one) for one in made]
    most = [min(limit, room) for limit, room in zip(limits, rooms, strict=True)]
    beams = options.get("num_beams", 1)
    groups = batches(
        [len(one) for one in made],
        most,
        rooms,
        max(1, batch_size // beams),
        equal_lengths=batch_size > 1 and not pads_left(interface.model.decoder),
        equal_limits=beams > 1,
    )
    texts = [""] * len(made)
    done = 0
    for group in groups:
        ids = _continued(interface, [made[index] for index in group], max(most[index] for index in group), options)
        for index, row in zip(group, ids.tolist(), strict=True):
            texts[index] = interface._text(row[: most[index]])
        done += len(group)
        watch(done)
    return texts


def _continued(interface: Interface, sessions: Sequence[TokenisedSession], most: int, options: Any) -> Tensor:
    """New tokens of a batch: ``[b, n]``."""
    batch = interface._batch(sessions)
    embeds = interface.model.embed(batch.decoder.input_ids, batch.docks)
    size = embeds.shape[1]
    padding = torch.tensor([size - len(one) for one in sessions], device=embeds.device)[:, None]
    at = torch.arange(size, device=embeds.device)[None] - padding
    moved = embeds.gather(1, (at % size)[:, :, None].expand_as(embeds))
    mask = (at >= 0).long()
    return interface.model.decoder.generate(
        inputs_embeds=moved,
        attention_mask=mask,
        max_new_tokens=most,
        **{
            "do_sample": False,
            "eos_token_id": interface.decoder_tokenizer.document_id,
            "pad_token_id": interface.decoder_tokenizer.pad_id,
            **options,
        },
    )
