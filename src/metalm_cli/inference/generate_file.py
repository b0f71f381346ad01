"""Continuing the lines of a JSONL file: answers are appended as they come, and a killed run goes on from them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import metalm_cli
from metalm_cli.errors import MetalmError
from metalm_cli.inference.append_only_jsonl import OutputFile
from metalm_cli.inference.generation import (
    DecodingOptions,
    PromptRoute,
    generate_answers,
    image_encoder,
    open_image,
    text_to_session,
)
from metalm_cli.inference.language_model import LanguageModel
from metalm_cli.sessions import Causal, Docked, Session, Span, TokenisedSession

SHOWN = 8
"""Wrong lines that are named."""
WINDOW = 512
"""Lines that are tokenised ahead; those of similar length among them stand together."""
SHAPES = ("text", "input", "session")


@dataclass(frozen=True)
class InputLine:
    """A line of the input.

    Args:
        number: From 1; blank lines count.
        id: Its own name, if it has one.
        text: What is to be read; empty where ``spans`` are given.
        spans: The session, span by span: ``{"docked": ..., "encoder": ...}`` or ``{"causal": ...}``.
        image: Path of an image.
    """

    number: int
    id: str | int | None
    text: str
    spans: tuple[Mapping[str, Any], ...]
    image: str | None


@dataclass(frozen=True)
class InputFile:
    """An input file, checked.

    Args:
        path: The file.
        sha256: Of its bytes.
        lines: Its lines that are not blank.
    """

    path: Path
    sha256: str
    lines: tuple[InputLine, ...]

    def place(self, image: str) -> Path:
        """The file of an image; a relative path begins at the input file's folder."""
        return self.path.parent / Path(image).expanduser()


def read_requests(path: Path) -> InputFile:
    """Read and check an input file.

    Args:
        path: JSON lines, plain, ``.gz`` or ``.zst``: objects with ``text`` (or ``input``) or ``session``, and perhaps
            ``image`` and ``id``; what else is in them is left alone.

    Raises:
        MetalmError: It cannot be read, or lines in it do not fit; the first of them are named.
    """
    from metalm_cli.common.jsonl_files import lines

    found: list[InputLine] = []
    wrong: list[str] = []
    for number, raw in lines(path):
        try:
            found.append(_line(number, raw))
        except ValueError as error:
            wrong.append(f"line {number}: {error}")
    requests = InputFile(path, _sha256(path), tuple(found))
    for line in found:
        wrong += [f"line {line.number}: {one}" for one in _missing_images(line, requests)]
    if wrong:
        more = f"\n    and {len(wrong) - SHOWN:,} more" if len(wrong) > SHOWN else ""
        raise MetalmError(
            f"{len(wrong):,} lines cannot be read" if len(wrong) > 1 else "a line cannot be read",
            where=str(path),
            why="\n    ".join(sorted(wrong, key=_number)[:SHOWN]) + more,
            remedy='write each line as {"text": ...} or {"session": [{"docked": ...}, {"causal": ...}]}, with "image" '
            'and "id" if there are such',
        )
    if not found:
        raise MetalmError("the input file holds no line", where=str(path))
    return requests


def _number(wrong: str) -> int:
    return int(wrong.split()[1].rstrip(":"))


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _line(number: int, raw: bytes) -> InputLine:
    """A line.

    Raises:
        ValueError: It does not fit.
    """
    try:
        row = json.loads(raw)
    except RecursionError as error:
        raise ValueError("its JSON is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"it is no JSON ({error})") from error
    if not isinstance(row, dict):
        raise ValueError(f"expected an object, got {type(row).__name__}")
    shapes = [name for name in SHAPES if row.get(name) is not None]
    image, name = row.get("image"), row.get("id")
    if len(shapes) > 1:
        raise ValueError(f"it has {' and '.join(shapes)}: one of them is read")
    if not shapes and image is None:
        raise ValueError(f"it has none of {', '.join(SHAPES)}, image")
    if name is not None and (not isinstance(name, str | int) or isinstance(name, bool)):
        raise ValueError(f"its id is {type(name).__name__}, not a text or a whole number")
    if isinstance(name, str):
        _check_text(name, "id")
    if shapes == ["session"]:
        if image is not None:
            raise ValueError("it has a session and an image: dock the image in the session")
        spans = row["session"]
        if not isinstance(spans, list) or not spans:
            raise ValueError("its session is no list of spans")
        return InputLine(number, name, "", tuple(_span(at, span) for at, span in enumerate(spans, 1)), None)
    text = row[shapes[0]] if shapes else ""
    _check_text(text, shapes[0] if shapes else "")
    if image is not None:
        _check_text(image, "image")
    if image is None and not text.strip():
        raise ValueError(f"its {shapes[0]} is empty")
    return InputLine(number, name, text, (), image)


def _span(at: int, span: Any) -> Mapping[str, Any]:
    """A span of a session.

    Raises:
        ValueError: It does not fit.
    """
    kinds = [kind for kind in ("docked", "causal") if isinstance(span, dict) and kind in span]
    if len(kinds) != 1:
        raise ValueError(f'span {at} is neither {{"docked": ...}} nor {{"causal": ...}}')
    unknown = sorted(set(span) - {kinds[0], "encoder"} | (set(span) & {"encoder"} if kinds == ["causal"] else set()))
    if unknown:
        raise ValueError(f"span {at} has {', '.join(unknown)}, which a {kinds[0]} span has not")
    content = span[kinds[0]]
    if kinds == ["docked"]:
        _check_text(span.get("encoder", "text"), f"encoder of span {at}")
        if isinstance(content, dict) and content.get("image") is not None and set(content) <= {"image", "text"}:
            for key, value in content.items():
                _check_text(value, f"{key} of span {at}")
            return span
    _check_text(content, f"span {at}")
    if not content:
        raise ValueError(f"span {at} is empty")
    return span


def _check_text(value: Any, what: str) -> None:
    if not isinstance(value, str):
        raise ValueError(f"its {what} is {type(value).__name__}, not a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"its {what} holds half of a character (a lone surrogate)") from error


def _images(line: InputLine) -> Iterator[str]:
    """Images that a line certainly names; a docked text may be one, too, if its encoder reads images."""
    if line.image is not None:
        yield line.image
    for span in line.spans:
        if isinstance(span.get("docked"), dict):
            yield span["docked"]["image"]


def _missing_images(line: InputLine, requests: InputFile) -> Iterator[str]:
    for image in _images(line):
        if not requests.place(image).is_file():
            yield f"there is no image {requests.place(image)}"


def line_to_session(
    language_model: LanguageModel, line: InputLine, layout: PromptRoute, requests: InputFile
) -> Session:
    """The session of a line, its images read.

    Raises:
        MetalmError: An image cannot be read.
    """
    name = f"line {line.number}"
    if not line.spans:
        image = None if line.image is None else open_image(requests.place(line.image))
        return text_to_session(language_model, line.text, image, layout, name)
    spans: list[Span] = []
    for span in line.spans:
        if "causal" in span:
            spans.append(Causal(span["causal"]))
            continue
        encoder, content = span.get("encoder", "text"), span["docked"]
        if isinstance(content, dict):
            content = {**content, "image": open_image(requests.place(content["image"]))}
        elif encoder in language_model.model.adapters and language_model.model.adapters[encoder].kind == "vision":
            content = open_image(requests.place(content))
        spans.append(Docked(encoder, content))
    return Session(spans, name)


def check_encoders(language_model: LanguageModel, requests: InputFile) -> None:
    """Refuse an input that docks into encoders which the model does not have.

    Raises:
        MetalmError: The first such line.
    """
    has = set(language_model.model.adapters)
    for line in requests.lines:
        where = f"{requests.path}:{line.number}"
        if line.image is not None:
            try:
                image_encoder(language_model)
            except MetalmError as error:
                raise MetalmError(error.what, where=where, why=error.why, remedy=error.remedy) from error
        for span in line.spans:
            wanted = span.get("encoder", "text")
            lowered = not has and isinstance(span.get("docked"), str)
            if "docked" in span and wanted not in has and not lowered:
                raise MetalmError(
                    f"the model has no encoder {wanted!r}",
                    where=where,
                    why=f"its encoders: {', '.join(has)}" if has else "it is a decoder without encoders",
                    remedy="name an encoder that the model has, or use another model",
                )


def output_header(
    source: str, language_model: LanguageModel, requests: InputFile, layout: PromptRoute, decoding: DecodingOptions
) -> dict[str, Any]:
    """What stands in the first line of the answers: the model, the settings and the input, and a hash of them."""
    from metalm_cli.models.weights_hash import weights_sha256

    model = {"weights_sha256": weights_sha256(language_model.model), "reads_sha256": _reads_sha256(language_model)}
    settings = {**asdict(decoding), "place": layout.place, "prompt": layout.prompt}
    known = json.loads(json.dumps({"model": model, "settings": settings, "input": {"sha256": requests.sha256}}))
    key = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
    known["model"]["source"] = source
    known["input"].update(file=str(requests.path), lines=len(requests.lines))
    return {"format": 1, "metalm": metalm_cli.__version__, "hash": key, **known}


def _reads_sha256(language_model: LanguageModel) -> str:
    """A hash of how texts become tokens: tokenizers, token rules, and limits and kinds of the docks."""
    state = hashlib.sha256(json.dumps(language_model.decoder_tokenizer.rules.to_dict(), sort_keys=True).encode())
    state.update(json.dumps(getattr(language_model.model.config, "docking", None) or {}, sort_keys=True).encode())
    state.update(language_model.tokenizer.backend_tokenizer.to_str().encode())
    for name, processor in sorted(language_model.processors.items()):
        tokenizer = getattr(processor, "tokenizer", None)
        state.update(f"{name} {'' if tokenizer is None else tokenizer.backend_tokenizer.to_str()}".encode())
    return state.hexdigest()


def answer_file(
    source: str,
    language_model: LanguageModel,
    requests: InputFile,
    path: Path,
    layout: PromptRoute,
    decoding: DecodingOptions,
    *,
    budget: int | None = None,
    watch: Callable[[int], None] = lambda done: None,
) -> OutputFile:
    """Continue the lines that have no answer yet, and append each batch of answers.

    What an answer is depends on its line alone, not on what stands in the same batch or came before. A line that the
    model cannot read gets an ``error`` instead of a ``text``.

    Args:
        source: What the model is called.
        language_model: The model.
        requests: The input.
        path: Where answers are appended.
        layout: Where the texts of lines go.
        decoding: How they are continued; draws follow from the seed and the line's number.
        budget: Decoder positions of a forward pass; None: by the device.
        watch: Told how many lines are done, those of earlier runs included.

    Returns:
        The file, closed: which lines are done, and how many of them have an error.

    Raises:
        MetalmError: An encoder that the input names is missing, the answers there are of something else, memory ends,
            or the answers cannot be written.
    """
    check_encoders(language_model, requests)
    header = output_header(source, language_model, requests, layout, decoding)
    names = {line.number: line.id for line in requests.lines}
    with OutputFile(path, header, names.keys()) as out:
        watch(len(out.done))
        left = [line for line in requests.lines if line.number not in out.done]
        for at in range(0, len(left), WINDOW):
            ready, failed = _prepared(language_model, left[at : at + WINDOW], layout, requests)
            out.append([_record(number, names[number], "error", why) for number, why in failed])
            for batch in generate_answers(language_model, ready, decoding, budget):
                out.append([_record(number, names[number], "text", text) for number, text in batch])
                watch(len(out.done))
        watch(len(out.done))
    return out


def _record(number: int, name: str | int | None, key: str, value: str) -> dict[str, Any]:
    return {"line": number, **({} if name is None else {"id": name}), key: value}


def _prepared(
    language_model: LanguageModel, lines: Sequence[InputLine], layout: PromptRoute, requests: InputFile
) -> tuple[dict[int, tuple[Session, TokenisedSession]], list[tuple[int, str]]]:
    """Sessions by line number, and what is wrong with the others."""
    ready: dict[int, tuple[Session, TokenisedSession]] = {}
    failed: list[tuple[int, str]] = []
    for line in lines:
        try:
            session = line_to_session(language_model, line, layout, requests)
            made = language_model.tokenise(session)
            language_model.positions_left(made)
        except MetalmError as error:
            failed.append((line.number, "; ".join(one for one in (error.what, error.where, error.why) if one)))
        else:
            ready[line.number] = session, made
    return ready, failed
