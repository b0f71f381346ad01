"""Batched generation: the same texts as one session at a time, with sessions of similar length in a batch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList, StoppingCriteriaList

from metalm_cli.errors import Exit, MetalmError
from metalm_cli.inference.language_model import LanguageModel
from metalm_cli.inference.sampling import GumbelSampler, SamplingOptions
from metalm_cli.inference.text_streaming import StopStrings, cut_at_stop
from metalm_cli.sessions import Session, TokenisedSession


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
    """Group sessions into batches, the longest first.

    Args:
        lengths: Positions of each session.
        limits: Maximum number of new tokens of each session.
        positions_left: Positions that the decoder has left after each session.
        batch_size: Maximum number of sessions in a batch.
        budget: Maximum number of positions of a batch, padding and new tokens included; a single session may exceed it.
        equal_lengths: Put only sessions of the same length into a batch, so that none is padded.
        equal_limits: Put only sessions with the same limit into a batch, because beam search depends on the limit.

    Yields:
        Indices of the sessions of a batch. The largest limit in a batch never exceeds its smallest ``positions_left``.

    Example:
        >>> list(plan_batches([3, 9, 4, 8], [2, 2, 5, 2], [9, 3, 8, 4], batch_size=2))
        [[1, 3], [2, 0]]
        >>> list(plan_batches([3, 9, 4, 8], [2, 2, 2, 2], [9, 3, 8, 4], batch_size=4, budget=20))
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
    on_cut: Callable[[int], None] = lambda index: None,
    **options: Any,
) -> list[str]:
    """Continue many sessions.

    Args:
        language_model: The model.
        sessions: Prompts.
        limits: Maximum number of new tokens of each session; the decoder's positions may end a session earlier.
        batch_size: Sequences in a forward pass; each beam counts as one. None: as many as the budget allows.
        budget: Positions of a forward pass, padding and new tokens included. None: limited by ``batch_size`` only.
        on_progress: Called with the number of finished sessions.
        on_cut: As in :func:`generate_in_batches`.
        options: Options of :func:`generate_in_batches`; greedy decoding by default.

    Returns:
        The texts, up to the first token that ends them, in the order of ``sessions``; the same texts as those of
        :meth:`~metalm_cli.inference.language_model.LanguageModel.generate`.

    Raises:
        MetalmError: A session cannot be tokenised or fills all positions of the decoder, or memory is exhausted.
    """
    texts = [""] * len(sessions)
    done = 0
    batching: dict[str, Any] = {"batch_size": batch_size, "budget": budget, "on_cut": on_cut}
    for batch in generate_in_batches(language_model, sessions, limits, **batching, **options):
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
    on_cut: Callable[[int], None] = lambda index: None,
    **options: Any,
) -> list[list[str]]:
    """Sample several continuations of each session; the texts do not depend on the batches.

    A sample depends only on the seed, the key of its session and its number.

    Args:
        language_model: The model.
        sessions: Prompts.
        limits: Maximum number of new tokens of each session.
        num_samples: Samples of each session.
        temperature: Divisor of the logits; 0.7 as in self-consistency (Wang et al. 2022).
        seed: Random seed, 0 or more.
        batch_size: Sequences in a forward pass; each sample counts as one. None: as many as the budget allows.
        top_p: Probability of the nucleus: tokens outside it are never drawn.
        keys: A number for each session, 0 or more, that does not change when other sessions are left out; by default
            the index of the session.
        budget: Positions of a forward pass, padding and new tokens included.
        stop: Stop strings.
        on_progress: Called with the number of finished samples.
        on_cut: Called with the index of a session for each of its samples that met the limit before a document end.
        options: Options of transformers' ``generate``.

    Returns:
        ``num_samples`` texts for each session, in the order of ``sessions``.

    Raises:
        MetalmError: As in :func:`generate_all`; or ``num_samples``, the temperature, ``top_p`` or the seed is out of
            range.
    """
    if num_samples < 1:
        raise MetalmError(f"got {num_samples} samples of each session, expected at least one")
    tokenised = _tokenise_all(language_model, sessions)
    session_keys = range(len(tokenised)) if keys is None else keys
    texts = generate_all(
        language_model,
        [session for session in tokenised for _ in range(num_samples)],
        [limit for limit in limits for _ in range(num_samples)],
        batch_size=batch_size,
        budget=budget,
        on_progress=on_progress,
        on_cut=lambda index: on_cut(index // num_samples),
        stop=stop,
        sampling=SamplingOptions(temperature, top_p, seed),
        keys=[(key, sample) for key in session_keys for sample in range(num_samples)],
        **options,
    )
    return [texts[start : start + num_samples] for start in range(0, len(texts), num_samples)]


def _tokenise_all(
    language_model: LanguageModel, sessions: Sequence[Session | TokenisedSession]
) -> list[TokenisedSession]:
    return [
        session if isinstance(session, TokenisedSession) else language_model.tokenise(session) for session in sessions
    ]


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
    on_cut: Callable[[int], None] = lambda index: None,
    **options: Any,
) -> Iterator[list[tuple[int, str]]]:
    """Continue many sessions and yield each batch when it is finished.

    Args:
        language_model: The model.
        sessions: Prompts.
        limits: Maximum number of new tokens of each session.
        batch_size: Sequences in a forward pass; each beam counts as one. None: as many as the budget allows.
        budget: Positions of a forward pass, padding and new tokens included. A batch that exceeds the memory is halved.
        stop: Stop strings; they are not part of the text.
        delimiters: Delimiter with which each text may begin, and in which stop strings are ignored. Default: none.
        sampling: Sample with these options instead of greedy decoding.
        keys: Seeds of each session beside the global seed; by default the index of the session.
        on_cut: Called with the index of each session that met its limit before a document end or a stop string.
        options: Options of transformers' ``generate``, without sampling: its samples would depend on the batches.

    Yields:
        Batches of (index of the session, text), the longest sessions first.

    Raises:
        MetalmError: As in :func:`generate_all`.
    """
    tokenised = _tokenise_all(language_model, sessions)
    positions_left = [language_model.positions_left(session) for session in tokenised]
    token_limits = [min(limit, room) for limit, room in zip(limits, positions_left, strict=True)]
    num_beams = options.get("num_beams", 1)
    session_delimiters = delimiters or [""] * len(tokenised)
    sampling_keys = keys or [(index,) for index in range(len(tokenised))]
    planned = plan_batches(
        [len(session) for session in tokenised],
        token_limits,
        positions_left,
        max(1, (batch_size or sys.maxsize) // num_beams),
        budget=None if budget is None else budget // num_beams,
        equal_lengths=batch_size != 1 and _needs_equal_lengths(language_model, tokenised, token_limits),
        equal_limits=num_beams > 1,
    )

    def generate(batch: list[int]) -> Tensor | None:
        sampler = None if sampling is None else GumbelSampler(sampling, [sampling_keys[index] for index in batch])
        stop_strings = None
        if stop and num_beams == 1:
            stop_strings = StopStrings(language_model, stop, [session_delimiters[index] for index in batch])
        longest = max(token_limits[index] for index in batch)
        batch_sessions = [tokenised[index] for index in batch]
        return _generate_if_it_fits(language_model, batch_sessions, longest, options, sampler, stop_strings)

    for batch, new_ids in _halve_where_memory_ends(list(planned), generate):
        texts = []
        for index, ids in zip(batch, new_ids.tolist(), strict=True):
            text, is_cut = _finished_text(language_model, ids, token_limits[index], stop, session_delimiters[index])
            texts.append((index, text))
            if is_cut:
                on_cut(index)
        yield texts


def _halve_where_memory_ends(
    batches: list[list[int]], generate: Callable[[list[int]], Tensor | None]
) -> Iterator[tuple[list[int], Tensor]]:
    """Yield each batch with its new tokens; a batch for which ``generate`` returns None is halved.

    Example:
        >>> def generate(batch):
        ...     return torch.tensor(batch) if len(batch) < 3 else None
        >>> [batch for batch, _ in _halve_where_memory_ends([[0, 1, 2], [3]], generate)]
        [[0], [1, 2], [3]]
    """
    pending = batches[::-1]
    while pending:
        batch = pending.pop()
        new_ids = generate(batch)
        if new_ids is None:
            pending += [batch[len(batch) // 2 :], batch[: len(batch) // 2]]
        else:
            yield batch, new_ids


def _generate_if_it_fits(
    language_model: LanguageModel,
    sessions: Sequence[TokenisedSession],
    limit: int,
    options: Mapping[str, Any],
    sampler: GumbelSampler | None,
    stop_strings: StopStrings | None,
) -> Tensor | None:
    """Generate a batch; None if the memory of the device holds fewer sessions than these.

    Raises:
        MetalmError: The memory does not hold a single session.
    """
    batch_options = dict(options)
    if sampler is not None:
        batch_options["logits_processor"] = LogitsProcessorList([sampler])
    if stop_strings is not None:
        batch_options["stopping_criteria"] = StoppingCriteriaList([stop_strings])
    try:
        return generate_batch(language_model, sessions, limit, batch_options)
    except torch.OutOfMemoryError as error:
        if len(sessions) == 1:
            raise out_of_memory_error(sessions[0], limit, options.get("num_beams", 1)) from error
    torch.cuda.empty_cache()
    return None


def _finished_text(
    language_model: LanguageModel, ids: list[int], limit: int, stop: Sequence[str], delimiter: str
) -> tuple[str, bool]:
    """Return the text of generated tokens, and whether it met its limit before an end token or a stop string."""
    ids = ids[:limit]
    whole_text = language_model.decode(ids)
    text = cut_at_stop(whole_text, stop, delimiter)
    has_end = text != whole_text or not language_model.decoder_tokenizer.end_ids.isdisjoint(ids)
    return text, len(ids) == limit and not has_end


def _needs_equal_lengths(
    language_model: LanguageModel, sessions: Sequence[TokenisedSession], limits: Sequence[int]
) -> bool:
    """Return whether the texts of a batch are exact only if its sessions have the same length.

    Such sessions reach the length at which a decoder computes in another way at the same token.
    """
    if len(sessions) < 2:
        return False
    switch = language_model.model.traits.length_switch
    crosses_switch = switch is not None and any(
        len(session) + limit > switch for session, limit in zip(sessions, limits, strict=True)
    )
    return crosses_switch or not language_model.batches_unequal_lengths()


def out_of_memory_error(session: TokenisedSession, new_tokens: int, num_beams: int) -> MetalmError:
    """Return the error for a session that exceeds the memory."""
    beams_text = f" with {num_beams} beams" if num_beams > 1 else ""
    return MetalmError(
        f"out of memory: {session.name or 'a session'}, even as a batch of one",
        why=f"it takes {len(session)} positions and up to {new_tokens} new tokens{beams_text}",
        remedy="allow fewer new tokens or beams, shorten the session, or use a device with more memory",
        exit_code=Exit.FAILED,
    )


@torch.no_grad()
def generate_batch(
    language_model: LanguageModel, sessions: Sequence[TokenisedSession], max_new_tokens: int, options: Any
) -> Tensor:
    """Return the new tokens of a batch: ``[b, n]``; tokens after one that ends the text are padding."""
    return language_model.new_tokens(sessions, max_new_tokens, {**language_model.default_options(), **options})
