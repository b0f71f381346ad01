"""Continuing many sessions at once: the same texts as one by one, with sessions of similar length together."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList, StoppingCriteriaList

from metalm_cli.errors import Exit, MetalmError
from metalm_cli.inference.language_model import LanguageModel
from metalm_cli.inference.sampling import GumbelSampler, SamplingOptions
from metalm_cli.inference.text_streaming import StopStrings, cut_at_stop
from metalm_cli.sessions import Session, TokenisedSession

TOLERANCE = 1e-4
"""Largest relative difference of logits that is taken for equal."""
UNCONSTRAINED = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
"""Options of an unconstrained answer; set, because a checkpoint may bring constraints in its
``generation_config.json``."""


@torch.no_grad()
def measure_left_padding(decoder: Any) -> bool:
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


def plan_batches(
    lengths: Sequence[int],
    limits: Sequence[int],
    rooms: Sequence[int],
    size: int,
    *,
    budget: int | None = None,
    equal_lengths: bool = False,
    equal_limits: bool = False,
) -> Iterator[list[int]]:
    """Which sessions are continued together, the longest first.

    Args:
        lengths: Positions of each session.
        limits: Most new tokens of each.
        rooms: Positions that the decoder has left after each.
        size: Sessions of a batch.
        budget: Positions of a batch, padding and new tokens included; one session alone may take more.
        equal_lengths: Together only what needs no padding.
        equal_limits: Together only what ends at the same number of tokens: beams depend on it.

    Returns:
        Indices; in no batch do the most new tokens exceed the least room.

    Example:
        >>> list(plan_batches([3, 9, 4, 8], [2, 2, 5, 2], [9, 3, 8, 4], size=2))
        [[1, 3], [2, 0]]
        >>> list(plan_batches([3, 9, 4, 8], [2, 2, 2, 2], [9, 3, 8, 4], size=4, budget=20))
        [[1], [3, 2], [0]]
    """
    order = sorted(range(len(lengths)), key=lambda index: (-limits[index] if equal_limits else 0, -lengths[index]))
    batch: list[int] = []
    for index in order:
        grown = [*batch, index]
        most = max(limits[one] for one in grown)
        fits = len(grown) <= size and most <= min(rooms[one] for one in grown)
        fits = fits and (budget is None or len(grown) * (max(lengths[one] for one in grown) + most) <= budget)
        fits = fits and not (equal_lengths and lengths[index] != lengths[grown[0]])
        fits = fits and not (equal_limits and limits[index] != limits[grown[0]])
        if batch and not fits:
            yield batch
            grown = [index]
        batch = grown
    if batch:
        yield batch


def generate_all(
    language_model: LanguageModel,
    sessions: Sequence[Session | TokenisedSession],
    limits: Sequence[int],
    *,
    batch_size: int | None = 16,
    budget: int | None = None,
    watch: Callable[[int], None] = lambda done: None,
    **options: Any,
) -> list[str]:
    """Continue many sessions.

    Args:
        language_model: The model.
        sessions: What to continue.
        limits: Most new tokens of each; the decoder's positions may end one earlier.
        batch_size: Sequences of a forward pass; each beam is one. None: as many as the budget holds.
        budget: Positions of a forward pass, padding and new tokens included. None: as many as ``batch_size`` makes.
        watch: Told how many sessions are done.
        options: As for :func:`generate_in_batches`; default greedy.

    Returns:
        The texts, up to the document-end token, in the order given: those of :meth:`Interface.generate`.

    Raises:
        MetalmError: A session cannot be tokenised, or fills all positions of the decoder, or memory ends.
    """
    texts = [""] * len(sessions)
    done = 0
    for group in generate_in_batches(language_model, sessions, limits, batch_size=batch_size, budget=budget, **options):
        for index, text in group:
            texts[index] = text
        done += len(group)
        watch(done)
    return texts


def sample_all(
    language_model: LanguageModel,
    sessions: Sequence[Session | TokenisedSession],
    limits: Sequence[int],
    n: int,
    temperature: float = 0.7,
    seed: int = 0,
    batch_size: int | None = 16,
    *,
    top_p: float = 1.0,
    keys: Sequence[int] | None = None,
    budget: int | None = None,
    stop: Sequence[str] = (),
    watch: Callable[[int], None] = lambda done: None,
    **options: Any,
) -> list[list[str]]:
    """Continue each session several times by sampling: equal texts whatever stands together.

    What is drawn follows from the seed, the session's key and the number of the sample alone.

    Args:
        language_model: The model.
        sessions: What to continue.
        limits: Most new tokens of each.
        n: Samples of each.
        temperature: Divides the logits; 0.7 as in self-consistency (Wang et al. 2022).
        seed: Of all that is drawn, 0 or more.
        batch_size: Sequences of a forward pass; each sample is one. None: as many as the budget holds.
        top_p: Only the likeliest tokens that together have this probability can be drawn.
        keys: A number of each session, 0 or more, that stays the same when others are left out; default its place.
        budget: Positions of a forward pass, padding and new tokens included.
        stop: Texts that end a continuation.
        watch: Told how many samples are done.
        options: For transformers' ``generate``.

    Returns:
        The texts: ``n`` for each session, in the order given.

    Raises:
        MetalmError: As :func:`generate_all`; or ``n``, the temperature, ``top_p`` or the seed is out of range.
    """
    if n < 1:
        raise MetalmError(f"got {n} samples of each session, expected at least one")
    made = [one if isinstance(one, TokenisedSession) else language_model.tokenise(one) for one in sessions]
    names = range(len(made)) if keys is None else keys
    texts = generate_all(
        language_model,
        [one for one in made for _ in range(n)],
        [limit for limit in limits for _ in range(n)],
        batch_size=batch_size,
        budget=budget,
        watch=watch,
        stop=stop,
        sampling=SamplingOptions(temperature, top_p, seed),
        keys=[(name, at) for name in names for at in range(n)],
        **options,
    )
    return [texts[at : at + n] for at in range(0, len(texts), n)]


def generate_in_batches(
    language_model: LanguageModel,
    sessions: Sequence[Session | TokenisedSession],
    limits: Sequence[int],
    *,
    batch_size: int | None = 16,
    budget: int | None = None,
    stop: Sequence[str] = (),
    leads: Sequence[str] | None = None,
    sampling: SamplingOptions | None = None,
    keys: Sequence[tuple[int, ...]] | None = None,
    **options: Any,
) -> Iterator[list[tuple[int, str]]]:
    """Continue many sessions, and give out each batch as it is done.

    Args:
        language_model: The model.
        sessions: What to continue.
        limits: Most new tokens of each.
        batch_size: Sequences of a forward pass; each beam is one. None: as many as the budget holds.
        budget: Positions of a forward pass, padding and new tokens included. A batch that memory does not hold is
            halved.
        stop: Texts that end a continuation; they are not part of it.
        leads: What each says first, and where no stop text counts: the delimiter before an answer. None: nothing.
        sampling: Draw tokens instead of taking the likeliest.
        keys: What each session's draws follow from, beside the seed; default its place.
        options: For transformers' ``generate``. No sampling: its own would depend on the batches.

    Returns:
        Batches of (place of the session, its text), the longest sessions first.

    Raises:
        MetalmError: As :func:`generate_all`.
    """
    made = [one if isinstance(one, TokenisedSession) else language_model.tokenise(one) for one in sessions]
    rooms = [language_model.positions_left(one) for one in made]
    most = [min(limit, room) for limit, room in zip(limits, rooms, strict=True)]
    beams = options.get("num_beams", 1)
    first = [""] * len(made) if leads is None else leads
    names = [(index,) for index in range(len(made))] if keys is None else keys
    groups = plan_batches(
        [len(one) for one in made],
        most,
        rooms,
        max(1, (batch_size or sys.maxsize) // beams),
        budget=None if budget is None else budget // beams,
        equal_lengths=batch_size != 1 and len(made) > 1 and not measure_left_padding(language_model.model.decoder),
        equal_limits=beams > 1,
    )
    waiting = list(groups)[::-1]
    while waiting:
        group = waiting.pop()
        chosen = dict(options)
        if sampling is not None:
            chosen["logits_processor"] = LogitsProcessorList([GumbelSampler(sampling, [names[one] for one in group])])
        if stop and beams == 1:
            ends = StopStrings(language_model, stop, [first[one] for one in group])
            chosen["stopping_criteria"] = StoppingCriteriaList([ends])
        length = max(most[one] for one in group)
        ids = None
        try:
            ids = _continued(language_model, [made[one] for one in group], length, chosen)
        except torch.OutOfMemoryError as error:
            if len(group) == 1:
                raise generation_out_of_memory(made[group[0]], length, beams) from error
        if ids is None:
            torch.cuda.empty_cache()
            waiting += [group[len(group) // 2 :], group[: len(group) // 2]]
            continue
        rows = zip(group, ids.tolist(), strict=True)
        yield [
            (index, cut_at_stop(language_model.decode(row[: most[index]]), stop, first[index])) for index, row in rows
        ]


def generation_out_of_memory(session: TokenisedSession, new: int, beams: int) -> MetalmError:
    """The error of a session that memory does not hold."""
    wide = f" with {beams} beams" if beams > 1 else ""
    return MetalmError(
        f"memory does not hold {session.name or 'a session'}, alone in its batch",
        why=f"it takes {len(session)} positions and up to {new} new tokens{wide}",
        remedy="allow fewer new tokens or beams, shorten it, or use a larger device",
        exit_code=Exit.FAILED,
    )


@torch.no_grad()
def _continued(language_model: LanguageModel, sessions: Sequence[TokenisedSession], most: int, options: Any) -> Tensor:
    """New tokens of a batch: ``[b, n]``; what follows a document end is padding."""
    batch = language_model.collate(sessions)
    embeds = language_model.model.embed(batch.decoder.input_ids, batch.docks)
    size = embeds.shape[1]
    padding = torch.tensor([size - len(one) for one in sessions], device=embeds.device)[:, None]
    at = torch.arange(size, device=embeds.device)[None] - padding
    moved = embeds.gather(1, (at % size)[:, :, None].expand_as(embeds))
    mask = (at >= 0).long()
    return language_model.model.decoder.generate(
        inputs_embeds=moved,
        attention_mask=mask,
        max_new_tokens=most,
        **{
            "do_sample": False,
            "eos_token_id": language_model.decoder_tokenizer.document_id,
            "pad_token_id": language_model.decoder_tokenizer.pad_id,
            **options,
        },
    )
