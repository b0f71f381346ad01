"""Answers to sessions: decoding options, streaming, and many sessions in batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import LogitsProcessorList, StoppingCriteriaList

from metalm_cli.errors import MetalmError
from metalm_cli.inference.batch_generation import generate_batch, generate_in_batches, out_of_memory_error
from metalm_cli.inference.language_model import LanguageModel
from metalm_cli.inference.sampling import GumbelSampler, SamplingOptions
from metalm_cli.inference.text_sessions import answer_delimiter
from metalm_cli.inference.text_streaming import TokenStreamer, VisibleText, stop_position
from metalm_cli.sessions import Session, TokenisedSession

CPU_BUDGET = 4096
"""Decoder positions of a forward pass on a CPU, padding and new tokens included."""
GPU_BUDGET = 1 << 16
"""Decoder positions of a forward pass on a GPU, where a batch that exceeds the memory is halved."""
MAX_BEAMS = 256
"""Maximum width of the beam search: each beam takes the memory and time of a sequence of its own."""


@dataclass(frozen=True)
class DecodingOptions:
    """Decoding options.

    Args:
        max_new_tokens: Maximum number of new tokens.
        beams: Width of the beam search; 1: greedy decoding.
        length_penalty: Exponent of the length by which the log-probability of a beam is divided.
        sampling: Sampling options; None: no sampling.
        stop: Stop strings; they are not part of the answer.

    Raises:
        MetalmError: Both beams and sampling are set, there are more than 256 beams, or a stop string is empty.
    """

    max_new_tokens: int = 128
    beams: int = 1
    length_penalty: float = 1.0
    sampling: SamplingOptions | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.beams <= MAX_BEAMS:
            raise MetalmError(
                f"got {self.beams:,} beams, expected 1 to {MAX_BEAMS}", remedy="use fewer beams, such as 4"
            )
        if self.beams > 1 and self.sampling is not None:
            raise MetalmError("beam search and sampling cannot be combined", remedy="use only one of them")
        if not math.isfinite(self.length_penalty):
            raise MetalmError(f"got length penalty {self.length_penalty}, expected a finite number")
        if "" in self.stop:
            raise MetalmError("a stop string is empty: it would end every answer before it begins")

    def generate_options(self) -> dict[str, Any]:
        """Return the options for transformers' ``generate``."""
        return {"num_beams": self.beams, "length_penalty": self.length_penalty} if self.beams > 1 else {}


@dataclass(frozen=True)
class Generation:
    """Generated text with its finish reason.

    Args:
        text: The answer.
        tokens: Number of generated tokens, the end token included.
        finish_reason: What ended the text: a token that ends it (``end``), a ``stop`` string, the ``limit`` of new
            tokens, or the ``positions`` of the decoder.
    """

    text: str
    tokens: int
    finish_reason: Literal["end", "stop", "limit", "positions"]


def visible_answer(language_model: LanguageModel, session: Session, decoding: DecodingOptions) -> VisibleText:
    """Return the filter of the visible text.

    After a dock the delimiter and the space around the answer are removed; other continuations stay complete.
    """
    return VisibleText(decoding.stop, answer_delimiter(language_model, session))


def stream_answer(
    language_model: LanguageModel,
    session: Session,
    decoding: DecodingOptions = DecodingOptions(),
    on_text: Callable[[str], None] = lambda piece: None,
    key: int = 1,
) -> Generation:
    """Continue a session and stream the text.

    Args:
        language_model: The model.
        session: The prompt.
        decoding: Decoding options; with beam search the whole text comes at the end.
        on_text: Called with each piece of text that later tokens cannot change; the pieces form the answer.
        key: Second seed of the samples, such as a line number.

    Raises:
        MetalmError: The session cannot be tokenised or fills all positions of the decoder, or memory is exhausted.
    """
    tokenised = language_model.tokenise(session)
    positions_left = language_model.positions_left(tokenised)
    max_new_tokens = min(decoding.max_new_tokens, positions_left)
    streamer = TokenStreamer(
        language_model.decoder_tokenizer, visible_answer(language_model, session, decoding), on_text
    )
    generate_options = decoding.generate_options()
    if decoding.sampling is not None:
        generate_options["logits_processor"] = LogitsProcessorList([GumbelSampler(decoding.sampling, [(key,)])])
    if decoding.beams == 1:
        generate_options["stopping_criteria"] = StoppingCriteriaList([streamer])
    try:
        ids = generate_batch(language_model, [tokenised], max_new_tokens, generate_options)[0].tolist()
    except torch.OutOfMemoryError as error:
        raise out_of_memory_error(tokenised, max_new_tokens, decoding.beams) from error
    text = language_model.decode(ids)
    answer = streamer.visible.of_finished_text(text)
    streamer.emit(answer)
    if stop_position(text, decoding.stop, streamer.visible.delimiter or "") is not None:
        return Generation(answer, len(ids), "stop")
    if not language_model.decoder_tokenizer.end_ids.isdisjoint(ids):
        return Generation(answer, len(ids), "end")
    return Generation(answer, len(ids), "limit" if max_new_tokens == decoding.max_new_tokens else "positions")


def generate_answers(
    language_model: LanguageModel,
    sessions: Mapping[int, tuple[Session, TokenisedSession]],
    decoding: DecodingOptions = DecodingOptions(),
    budget: int | None = None,
) -> Iterator[list[tuple[int, str]]]:
    """Continue many sessions, with the same answers as :func:`stream_answer` with the number as the key.

    Args:
        language_model: The model.
        sessions: Sessions by number, each with its tokenised form.
        decoding: Decoding options.
        budget: Decoder positions of a forward pass, padding and new tokens included; None: chosen for the device.

    Yields:
        Batches of (number, answer), each when it is finished.

    Raises:
        MetalmError: A session fills all positions of the decoder, or memory is exhausted.
    """
    numbers = list(sessions)
    batches = generate_in_batches(
        language_model,
        [sessions[number][1] for number in numbers],
        [decoding.max_new_tokens] * len(numbers),
        batch_size=None,
        budget=budget or (GPU_BUDGET if language_model.device.type == "cuda" else CPU_BUDGET),
        stop=decoding.stop,
        delimiters=[
            visible_answer(language_model, sessions[number][0], decoding).delimiter or "" for number in numbers
        ],
        sampling=decoding.sampling,
        keys=[(number,) for number in numbers],
        **decoding.generate_options(),
    )
    for batch in batches:
        numbered_texts: Sequence[tuple[int, str]] = [(numbers[index], text) for index, text in batch]
        yield [
            (number, visible_answer(language_model, sessions[number][0], decoding).of_finished_text(text))
            for number, text in numbered_texts
        ]
