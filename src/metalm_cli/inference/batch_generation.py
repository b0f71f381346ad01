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
UNCONSTRAINED_OPTIONS = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
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
    embedding = decoder.get_input_embeddings()
    ids = (torch.arange(16, device=embedding.weight.device) * 7 + 3) % embedding.num_embeddings
    long_ids, short_ids = ids[None, :9], ids[None, 11:]
    padded_ids = torch.cat([torch.zeros_like(ids[None, :4]), short_ids], 1)
    mask = torch.ones_like(torch.cat([long_ids, padded_ids]))
    mask[1, :4] = 0
    try:
        short_logits = _first_logits(decoder, embedding(short_ids), torch.ones_like(short_ids))
        long_logits = _first_logits(decoder, embedding(long_ids), torch.ones_like(long_ids))
        batch_logits = _first_logits(decoder, embedding(torch.cat([long_ids, padded_ids])), mask)
    except (TypeError, ValueError, RuntimeError, IndexError):
        return False
    expected = torch.cat([long_logits, short_logits], 1)
    return bool((batch_logits - expected).abs().max() <= TOLERANCE * max(1.0, float(expected.abs().max())))


def _first_logits(decoder: Any, embeds: Tensor, mask: Tensor) -> Tensor:
    """Logits of three generated tokens, the same for every input, so that steps with a cache are compared too."""
    outputs = decoder.generate(
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
    return torch.stack(outputs.logits)


def plan_batches(
    lengths: Sequence[int],
    limits: Sequence[int],
    positions_left: Sequence[int],
    batch_size: int,
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
        candidate = [*batch, index]
        new_tokens = max(limits[member] for member in candidate)
        fits = len(candidate) <= batch_size and new_tokens <= min(positions_left[member] for member in candidate)
        fits = fits and (
            budget is None or len(candidate) * (max(lengths[member] for member in candidate) + new_tokens) <= budget
        )
        fits = fits and not (equal_lengths and lengths[index] != lengths[candidate[0]])
        fits = fits and not (equal_limits and limits[index] != limits[candidate[0]])
        if batch and not fits:
            yield batch
            candidate = [index]
        batch = candidate
    if batch:
        yield batch


def generate_all(
    language_model: LanguageModel,
    sessions: Sequence[Session | TokenisedSession],
    limits: Sequence[int],
    *,
    batch_size: int | None = 16,
    budget: int | None = None,
    on_progress: Callable[[int], None] = lambda done: None,
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
    for batch in generate_in_batches(language_model, sessions, limits, batch_size=batch_size, budget=budget, **options):
        for index, text in batch:
            texts[index] = text
        done += len(batch)
        on_progress(done)
    return texts


def sample_all(
    language_model: LanguageModel,
    sessions: Sequence[Session | TokenisedSession],
    limits: Sequence[int],
    num_samples: int,
    temperature: float = 0.7,
    seed: int = 0,
    batch_size: int | None = 16,
    *,
    top_p: float = 1.0,
    keys: Sequence[int] | None = None,
    budget: int | None = None,
    stop: Sequence[str] = (),
    on_progress: Callable[[int], None] = lambda done: None,
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
    if num_samples < 1:
        raise MetalmError(f"got {num_samples} samples of each session, expected at least one")
    tokenised = [
        session if isinstance(session, TokenisedSession) else language_model.tokenise(session) for session in sessions
    ]
    session_keys = range(len(tokenised)) if keys is None else keys
    texts = generate_all(
        language_model,
        [session for session in tokenised for _ in range(num_samples)],
        [limit for limit in limits for _ in range(num_samples)],
        batch_size=batch_size,
        budget=budget,
        on_progress=on_progress,
        stop=stop,
        sampling=SamplingOptions(temperature, top_p, seed),
        keys=[(key, sample) for key in session_keys for sample in range(num_samples)],
        **options,
    )
    return [texts[start : start + num_samples] for start in range(0, len(texts), num_samples)]


def generate_in_batches(
    language_model: LanguageModel,
    sessions: Sequence[Session | TokenisedSession],
    limits: Sequence[int],
    *,
    batch_size: int | None = 16,
    budget: int | None = None,
    stop: Sequence[str] = (),
    delimiters: Sequence[str] | None = None,
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
    tokenised = [
        session if isinstance(session, TokenisedSession) else language_model.tokenise(session) for session in sessions
    ]
    positions_left = [language_model.positions_left(session) for session in tokenised]
    token_limits = [min(limit, room) for limit, room in zip(limits, positions_left, strict=True)]
    num_beams = options.get("num_beams", 1)
    session_delimiters = [""] * len(tokenised) if delimiters is None else delimiters
    sampling_keys = [(index,) for index in range(len(tokenised))] if keys is None else keys
    batches = plan_batches(
        [len(session) for session in tokenised],
        token_limits,
        positions_left,
        max(1, (batch_size or sys.maxsize) // num_beams),
        budget=None if budget is None else budget // num_beams,
        equal_lengths=batch_size != 1 and len(tokenised) > 1 and not measure_left_padding(language_model.model.decoder),
        equal_limits=num_beams > 1,
    )
    pending = list(batches)[::-1]
    while pending:
        batch = pending.pop()
        generate_options = dict(options)
        if sampling is not None:
            generate_options["logits_processor"] = LogitsProcessorList(
                [GumbelSampler(sampling, [sampling_keys[index] for index in batch])]
            )
        if stop and num_beams == 1:
            stop_criterion = StopStrings(language_model, stop, [session_delimiters[index] for index in batch])
            generate_options["stopping_criteria"] = StoppingCriteriaList([stop_criterion])
        longest = max(token_limits[index] for index in batch)
        new_ids = None
        try:
            new_ids = generate_batch(language_model, [tokenised[index] for index in batch], longest, generate_options)
        except torch.OutOfMemoryError as error:
            if len(batch) == 1:
                raise out_of_memory_error(tokenised[batch[0]], longest, num_beams) from error
        if new_ids is None:
            torch.cuda.empty_cache()
            pending += [batch[len(batch) // 2 :], batch[: len(batch) // 2]]
            continue
        batch_ids = zip(batch, new_ids.tolist(), strict=True)
        yield [
            (
                index,
                cut_at_stop(language_model.decode(session_ids[: token_limits[index]]), stop, session_delimiters[index]),
            )
            for index, session_ids in batch_ids
        ]


def out_of_memory_error(session: TokenisedSession, new_tokens: int, num_beams: int) -> MetalmError:
    """The error of a session that memory does not hold."""
    beams_text = f" with {num_beams} beams" if num_beams > 1 else ""
    return MetalmError(
        f"memory does not hold {session.name or 'a session'}, alone in its batch",
        why=f"it takes {len(session)} positions and up to {new_tokens} new tokens{beams_text}",
        remedy="allow fewer new tokens or beams, shorten it, or use a larger device",
        exit_code=Exit.FAILED,
    )


@torch.no_grad()
def generate_batch(
    language_model: LanguageModel, sessions: Sequence[TokenisedSession], max_new_tokens: int, options: Any
) -> Tensor:
    """New tokens of a batch: ``[b, n]``; what follows a document end is padding."""
    batch = language_model.collate(sessions)
    embeds = language_model.model.embed(batch.decoder.input_ids, batch.docks)
    width = embeds.shape[1]
    padding = torch.tensor([width - len(session) for session in sessions], device=embeds.device)[:, None]
    positions = torch.arange(width, device=embeds.device)[None] - padding
    left_padded = embeds.gather(1, (positions % width)[:, :, None].expand_as(embeds))
    mask = (positions >= 0).long()
    return language_model.model.decoder.generate(
        inputs_embeds=left_padded,
        attention_mask=mask,
        max_new_tokens=max_new_tokens,
        **{
            "do_sample": False,
            "eos_token_id": language_model.decoder_tokenizer.document_end_id,
            "pad_token_id": language_model.decoder_tokenizer.pad_id,
            **options,
        },
    )
