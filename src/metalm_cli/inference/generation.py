"""From a text, an image, or both, to what a model says: the session that is made of them, and how it is continued."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import LogitsProcessorList, StoppingCriteriaList

from metalm_cli.errors import MetalmError
from metalm_cli.inference.batch_generation import (
    UNCONSTRAINED_OPTIONS,
    generate_batch,
    generate_in_batches,
    out_of_memory_error,
)
from metalm_cli.inference.language_model import LanguageModel
from metalm_cli.inference.sampling import GumbelSampler, SamplingOptions
from metalm_cli.inference.text_streaming import TokenStreamer, VisibleText, stop_position
from metalm_cli.sessions import Causal, Docked, Session, Span, TokenisedSession

CPU_BUDGET = 4096
"""Decoder positions of a forward pass on a CPU, padding and new tokens included."""
GPU_BUDGET = 1 << 16
"""... on a GPU, where a batch that does not fit is halved."""

Place = Literal["docked", "causal"]


@dataclass(frozen=True)
class DecodingOptions:
    """How a session is continued.

    Args:
        max_new_tokens: Most new tokens.
        beams: Width of a beam search; 1: the likeliest token each time.
        length_penalty: Exponent of the length by which a beam's log-probability is divided.
        sampling: Draw tokens instead.
        stop: Texts that end an answer, and are not part of it.

    Raises:
        MetalmError: Beams and sampling are both asked for, or a stop text is empty.
    """

    max_new_tokens: int = 128
    beams: int = 1
    length_penalty: float = 1.0
    sampling: SamplingOptions | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.beams > 1 and self.sampling is not None:
            raise MetalmError("beams are searched, samples are drawn: not both", remedy="leave one of them out")
        if "" in self.stop:
            raise MetalmError("a stop text is empty: it would end every answer before it begins")

    def generate_options(self) -> dict[str, Any]:
        """For transformers' ``generate``."""
        beams = {"num_beams": self.beams, "length_penalty": self.length_penalty} if self.beams > 1 else {}
        return {**UNCONSTRAINED_OPTIONS, **beams}


@dataclass(frozen=True)
class Generation:
    """What a model has said.

    Args:
        text: The answer.
        tokens: Tokens generated, the document end included.
        ended: By what: the document's ``end``, a ``stop`` text, the ``limit`` of new tokens, or the decoder's
            ``positions``.
    """

    text: str
    tokens: int
    finish_reason: Literal["end", "stop", "limit", "positions"]


@dataclass(frozen=True)
class PromptRoute:
    """How a text becomes a session.

    Args:
        place: ``docked`` into the text encoder (a model without one reads it as causal text), or read as ``causal``
            text.
        prompt: Beginning of the answer, behind the target delimiter.
    """

    place: Place = "docked"
    prompt: str = ""


def text_to_session(
    language_model: LanguageModel, text: str, image: Any = None, route: PromptRoute = PromptRoute(), name: str = ""
) -> Session:
    """The session of a text, an image, or both.

    The image stands first. A fused encoder reads image and text in one dock.

    Args:
        language_model: The model.
        text: The text, or nothing.
        image: Path or PIL image, or None.
        layout: Where the text goes.
        name: What errors call the session.

    Raises:
        MetalmError: There is nothing to read, or no encoder for an image.
    """
    spans: list[Span] = []
    if image is not None:
        encoder, fused = image_encoder(language_model)
        content: Any = {"image": image} if fused else image
        if fused and text and route.place == "docked":
            content, text = {**content, "text": text}, ""
        spans.append(Docked(encoder, content))
    if text:
        encoder = text_encoder(language_model) or ""
        spans.append(Docked(encoder, text) if route.place == "docked" and encoder else Causal(text))
    if route.prompt:
        delimiter = language_model.decoder_tokenizer.rules.target_delimiter if spans else ""
        spans.append(Causal(delimiter + route.prompt))
    if not spans:
        raise MetalmError(f"{name or 'the session'} has no text", remedy="give a text, an image or a prompt")
    return Session(spans, name)


def text_encoder(language_model: LanguageModel) -> str | None:
    """The encoder that texts are docked into: ``text``, or the first one for texts.

    A model without encoders has ``text``, too, as its sessions are lowered; None: the model's encoders read no text.
    """
    if not language_model.processors:
        return "text"
    return _first_encoder_of_kind(language_model, "text")


def image_encoder(language_model: LanguageModel) -> tuple[str, bool]:
    """The encoder that images are docked into, and whether it is fused.

    Raises:
        MetalmError: The model has none.
    """
    for kind in ("vision", "fused"):
        encoder = _first_encoder_of_kind(language_model, kind)
        if encoder is not None:
            return encoder, kind == "fused"
    encoders = ", ".join(f"{name} ({encoder_io.kind})" for name, encoder_io in language_model.model.encoder_ios.items())
    raise MetalmError(
        "the model has no encoder that reads images",
        why=f"its encoders: {encoders}" if encoders else "it is a decoder without encoders",
        remedy="use a model with a vision encoder, or leave the image out",
    )


def _first_encoder_of_kind(language_model: LanguageModel, kind: str) -> str | None:
    names = [name for name, encoder_io in language_model.model.encoder_ios.items() if encoder_io.kind == kind]
    return kind if kind in names else next(iter(names), None)


def open_image(path: Path) -> Any:
    """Read an image file whole: a PIL image.

    Raises:
        MetalmError: It is not there, or no image.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError as error:
        why = error.strerror or str(error)
    except Exception as error:  # the decoders of damaged files raise all kinds
        why = f"{type(error).__name__}: {error}"
    raise MetalmError("an image cannot be read", where=str(path), why=why, remedy="check the path and the file")


def visible_answer(language_model: LanguageModel, session: Session, decoding: DecodingOptions) -> VisibleText:
    """What is shown: an answer after a dock without the delimiter and space around it, all of other continuations."""
    docked = bool(session.spans) and isinstance(session.spans[-1], Docked)
    delimiter = language_model.decoder_tokenizer.rules.target_delimiter if docked else None
    return VisibleText(decoding.stop, delimiter)


def stream_answer(
    language_model: LanguageModel,
    session: Session,
    decoding: DecodingOptions = DecodingOptions(),
    on_text: Callable[[str], None] = lambda piece: None,
    key: int = 1,
) -> Generation:
    """Continue a session, and tell the text as it is said.

    Args:
        language_model: The model.
        session: What to continue.
        decoding: How; with beams nothing is told before the end.
        tell: Given each piece of text that no later token can change; together they are the answer.
        key: What draws follow from, beside the seed: a line's number.

    Raises:
        MetalmError: The session cannot be tokenised, or fills all positions of the decoder, or memory ends.
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
    if language_model.decoder_tokenizer.document_end_id in ids:
        return Generation(answer, len(ids), "end")
    return Generation(answer, len(ids), "limit" if max_new_tokens == decoding.max_new_tokens else "positions")


def generate_answers(
    language_model: LanguageModel,
    sessions: Mapping[int, tuple[Session, TokenisedSession]],
    decoding: DecodingOptions = DecodingOptions(),
    budget: int | None = None,
) -> Iterator[list[tuple[int, str]]]:
    """Continue many sessions: each as :func:`stream_answer` does with its number as the key.

    Args:
        language_model: The model.
        sessions: Sessions, also tokenised, by number.
        decoding: How.
        budget: Decoder positions of a forward pass, padding and new tokens included; None: by the device.

    Returns:
        Batches of (number, answer), as they are done.

    Raises:
        MetalmError: A session fills all positions of the decoder, or memory ends.
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
