"""Generation for the lines of a JSONL file. Answers are appended batch by batch; a killed run continues from them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import metalm_cli
from metalm_cli.common.file_hash import file_sha256
from metalm_cli.common.paths import expand_user
from metalm_cli.errors import MetalmError
from metalm_cli.inference.append_only_jsonl import OutputFile
from metalm_cli.inference.generation import DecodingOptions, generate_answers
from metalm_cli.inference.language_model import LanguageModel
from metalm_cli.inference.text_sessions import PromptRoute, image_encoder, text_to_session
from metalm_cli.sessions import Causal, Docked, Session, Span, TokenisedSession
from metalm_cli.sessions.images import read_image

MAX_LISTED = 8
"""Maximum number of invalid lines that an error lists."""
TOKENISE_AHEAD = 512
"""Lines that are tokenised ahead, so that sessions of similar length can share a batch."""
INPUT_KEYS = ("text", "input", "session")


@dataclass(frozen=True)
class InputLine:
    """Line of the input file.

    Args:
        number: Line number, from 1; blank lines count.
        id: Value of its ``id`` key, if present.
        text: Prompt text; empty if the line has ``spans``.
        spans: Spans of the session: ``{"docked": ..., "encoder": ...}`` or ``{"causal": ...}``.
        image: Path of an image.
    """

    number: int
    id: str | int | None
    text: str
    spans: tuple[Mapping[str, Any], ...]
    image: str | None


@dataclass(frozen=True)
class InputFile:
    """Validated input file.

    Args:
        path: The file.
        sha256: Hash of its bytes.
        lines: Lines that are not blank.
    """

    path: Path
    sha256: str
    lines: tuple[InputLine, ...]

    def image_path(self, image: str) -> Path:
        """Return the path of an image; relative paths are resolved against the folder of the input file."""
        return self.path.parent / expand_user(image)


def read_input_file(path: Path) -> InputFile:
    """Read and validate an input file.

    Args:
        path: JSON lines, plain, ``.gz`` or ``.zst``: objects with ``text`` (or ``input``) or ``session``, and
            optionally ``image`` and ``id``; other keys are ignored.

    Raises:
        MetalmError: The file cannot be read, or lines are invalid; the error lists the first of them.
    """
    from metalm_cli.common.jsonl_files import read_lines

    input_lines: list[InputLine] = []
    problems: list[str] = []
    for number, raw_line in read_lines(path):
        try:
            input_lines.append(_parse_line(number, raw_line))
        except ValueError as error:
            problems.append(f"line {number}: {error}")
    input_file = InputFile(path, file_sha256(path), tuple(input_lines))
    for line in input_lines:
        problems += [f"line {line.number}: {problem}" for problem in _missing_images(line, input_file)]
    if problems:
        omitted = f"\n    and {len(problems) - MAX_LISTED:,} more" if len(problems) > MAX_LISTED else ""
        raise MetalmError(
            f"{len(problems):,} lines are invalid" if len(problems) > 1 else "a line is invalid",
            where=str(path),
            why="\n    ".join(sorted(problems, key=_problem_line)[:MAX_LISTED]) + omitted,
            remedy='write each line as {"text": ...} or {"session": [{"docked": ...}, {"causal": ...}]}, optionally '
            'with "image" and "id"',
        )
    if not input_lines:
        raise MetalmError("the input file has no lines", where=str(path))
    return input_file


def _problem_line(problem: str) -> int:
    return int(problem.split()[1].rstrip(":"))


def _parse_line(number: int, raw_line: bytes) -> InputLine:
    """Parse a line.

    Raises:
        ValueError: The line is invalid.
    """
    try:
        row = json.loads(raw_line)
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"invalid JSON ({error})") from error
    if not isinstance(row, dict):
        raise ValueError(f"expected an object, got {type(row).__name__}")
    keys = [name for name in INPUT_KEYS if row.get(name) is not None]
    image, line_id = row.get("image"), row.get("id")
    if len(keys) > 1:
        raise ValueError(f"the line has {' and '.join(keys)}, expected only one of them")
    if not keys and image is None:
        raise ValueError(f"the line has none of {', '.join(INPUT_KEYS)}, image")
    if line_id is not None and (not isinstance(line_id, str | int) or isinstance(line_id, bool)):
        raise ValueError(f"the id is {type(line_id).__name__}, expected a string or an integer")
    if isinstance(line_id, str):
        _check_text(line_id, "id")
    if keys == ["session"]:
        if image is not None:
            raise ValueError("the line has a session and an image: dock the image in the session")
        spans = row["session"]
        if not isinstance(spans, list) or not spans:
            raise ValueError("the session is not a list of spans")
        return InputLine(
            number, line_id, "", tuple(_check_span(index, span) for index, span in enumerate(spans, 1)), None
        )
    text = row[keys[0]] if keys else ""
    _check_text(text, keys[0] if keys else "")
    if image is not None:
        _check_text(image, "image")
    if image is None and not text.strip():
        raise ValueError(f"the {keys[0]} is empty")
    return InputLine(number, line_id, text, (), image)


def _check_span(number: int, span: Any) -> Mapping[str, Any]:
    """Return a span of a session.

    Raises:
        ValueError: The span is invalid.
    """
    span_kinds = [kind for kind in ("docked", "causal") if isinstance(span, dict) and kind in span]
    if len(span_kinds) != 1:
        raise ValueError(f'span {number} is neither {{"docked": ...}} nor {{"causal": ...}}')
    unknown = sorted(
        set(span) - {span_kinds[0], "encoder"} | (set(span) & {"encoder"} if span_kinds == ["causal"] else set())
    )
    if unknown:
        raise ValueError(f"span {number} has {', '.join(unknown)}, which a {span_kinds[0]} span does not take")
    content = span[span_kinds[0]]
    if span_kinds == ["docked"]:
        _check_text(span.get("encoder", "text"), f"encoder of span {number}")
        if isinstance(content, dict) and content.get("image") is not None and set(content) <= {"image", "text"}:
            for key, value in content.items():
                _check_text(value, f"{key} of span {number}")
            return span
    _check_text(content, f"content of span {number}")
    if not content:
        raise ValueError(f"span {number} is empty")
    return span


def _check_text(value: Any, name: str) -> None:
    if not isinstance(value, str):
        raise ValueError(f"the {name} is {type(value).__name__}, expected a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the {name} contains half of a character (a lone surrogate)") from error


def _named_images(line: InputLine) -> Iterator[str]:
    """Yield the image paths of a line that are recognisable without a model.

    A docked string is also an image path if its encoder reads images.
    """
    if line.image is not None:
        yield line.image
    for span in line.spans:
        if isinstance(span.get("docked"), dict):
            yield span["docked"]["image"]


def _missing_images(line: InputLine, input_file: InputFile) -> Iterator[str]:
    for image in _named_images(line):
        path = input_file.image_path(image)
        if not os.path.isfile(path):  # False even for names that no file can have
            yield f"the image {path!s:.200} does not exist"


def has_images(input_file: InputFile) -> bool:
    """Whether a line names an image, as far as this is known without a model."""
    return any(list(_named_images(line)) for line in input_file.lines)


def line_to_session(
    language_model: LanguageModel, line: InputLine, route: PromptRoute, input_file: InputFile
) -> Session:
    """Return the session of a line, with its images loaded.

    Raises:
        MetalmError: An image cannot be read.
    """
    name = f"line {line.number}"
    if not line.spans:
        image = None if line.image is None else read_image(input_file.image_path(line.image))
        return text_to_session(language_model, line.text, image, route, name)
    spans: list[Span] = []
    for span in line.spans:
        if "causal" in span:
            spans.append(Causal(span["causal"]))
            continue
        encoder, content = span.get("encoder", "text"), span["docked"]
        if isinstance(content, dict):
            content = {**content, "image": read_image(input_file.image_path(content["image"]))}
        elif encoder in language_model.model.encoder_ios and language_model.model.encoder_ios[encoder].kind == "vision":
            content = read_image(input_file.image_path(content))
        spans.append(Docked(encoder, content))
    return Session(spans, name)


def check_encoders(language_model: LanguageModel, input_file: InputFile) -> None:
    """Check that the model has all encoders that the input docks into.

    Raises:
        MetalmError: An encoder is missing; the error names the first such line.
    """
    encoders = set(language_model.model.encoder_ios)
    for line in input_file.lines:
        where = f"{input_file.path}:{line.number}"
        if line.image is not None:
            try:
                image_encoder(language_model)
            except MetalmError as error:
                raise MetalmError(error.what, where=where, why=error.why, remedy=error.remedy) from error
        for span in line.spans:
            encoder = span.get("encoder", "text")
            is_lowered = not encoders and isinstance(span.get("docked"), str)
            if "docked" in span and encoder not in encoders and not is_lowered:
                raise MetalmError(
                    f"the model has no encoder {encoder!r}",
                    where=where,
                    why=f"its encoders: {', '.join(encoders)}"
                    if encoders
                    else "the model is a decoder without encoders",
                    remedy="name an encoder that the model has, or use another model",
                )


def output_header(
    source: str, language_model: LanguageModel, input_file: InputFile, route: PromptRoute, decoding: DecodingOptions
) -> dict[str, Any]:
    """Return the first line of the output file: the model, the settings and the input, and a hash of them.

    Raises:
        MetalmError: The texts are chats, and the tokenizer has no chat template.
    """
    from metalm_cli.inference.configuration_hash import configuration_sha256
    from metalm_cli.inference.text_sessions import check_chat_template
    from metalm_cli.models.weights_hash import weights_sha256

    model_settings = {
        "weights_sha256": weights_sha256(language_model.model),
        "configuration_sha256": configuration_sha256(language_model),
        "reads_sha256": _tokenisation_sha256(language_model),
    }
    settings = {**asdict(decoding), "place": route.place, "prompt": route.prompt}
    if route.encoder is not None:
        settings["encoder"] = route.encoder
    if route.place == "chat":
        template = check_chat_template(language_model)
        settings["chat_template_sha256"] = hashlib.sha256(template.encode()).hexdigest()
    identity = json.loads(
        json.dumps({"model": model_settings, "settings": settings, "input": {"sha256": input_file.sha256}})
    )
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    # The hash of the configuration also contains the end tokens.
    identity["model"].update(source=source, end_ids=sorted(language_model.decoder_tokenizer.end_ids))
    identity["input"].update(file=str(input_file.path), lines=len(input_file.lines))
    return {"format": 1, "metalm": metalm_cli.__version__, "hash": digest, **identity}


def _tokenisation_sha256(language_model: LanguageModel) -> str:
    """Return a hash of all that determines tokenisation: tokenizers, token rules, and limits and kinds of docks."""
    hasher = hashlib.sha256(json.dumps(language_model.decoder_tokenizer.rules.to_dict(), sort_keys=True).encode())
    hasher.update(json.dumps(getattr(language_model.model.config, "docking", None) or {}, sort_keys=True).encode())
    hasher.update(language_model.tokenizer.backend_tokenizer.to_str().encode())
    for name, processor in sorted(language_model.processors.items()):
        tokenizer = getattr(processor, "tokenizer", None)
        hasher.update(f"{name} {'' if tokenizer is None else tokenizer.backend_tokenizer.to_str()}".encode())
    return hasher.hexdigest()


def generate_file(
    source: str,
    language_model: LanguageModel,
    input_file: InputFile,
    output_path: Path,
    route: PromptRoute,
    decoding: DecodingOptions,
    *,
    budget: int | None = None,
    on_progress: Callable[[int], None] = lambda done: None,
) -> OutputFile:
    """Generate answers for the lines that have none yet, and append them batch by batch.

    An answer depends only on its line, not on its batch or on other lines. A line that the model cannot read gets an
    ``error`` instead of a ``text``.

    Args:
        source: Name of the model, recorded in the header.
        language_model: The model.
        input_file: The input.
        output_path: File to which answers are appended.
        route: Whether the texts are docked or causal, and the beginning of the answers.
        decoding: Decoding options; samples depend on the seed and the line number.
        budget: Decoder positions of a forward pass; None: chosen for the device.
        on_progress: Called with the number of finished lines, those of earlier runs included.

    Returns:
        The closed output file, with its finished lines and its number of errors.

    Raises:
        MetalmError: An encoder that the input names is missing, the output file holds answers of another run, memory
            is exhausted, or the answers cannot be written.
    """
    check_encoders(language_model, input_file)
    header = output_header(source, language_model, input_file, route, decoding)
    line_ids = {line.number: line.id for line in input_file.lines}
    with OutputFile(output_path, header, line_ids.keys()) as output_file:
        on_progress(len(output_file.done))
        remaining = [line for line in input_file.lines if line.number not in output_file.done]
        for start in range(0, len(remaining), TOKENISE_AHEAD):
            prepared, failed = _tokenise_lines(
                language_model, remaining[start : start + TOKENISE_AHEAD], route, input_file
            )
            output_file.append([_record(number, line_ids[number], "error", why) for number, why in failed])
            for batch in generate_answers(language_model, prepared, decoding, budget):
                output_file.append([_record(number, line_ids[number], "text", text) for number, text in batch])
                on_progress(len(output_file.done))
        on_progress(len(output_file.done))
    return output_file


def _record(number: int, line_id: str | int | None, key: str, value: str) -> dict[str, Any]:
    return {"line": number, **({} if line_id is None else {"id": line_id}), key: value}


def _tokenise_lines(
    language_model: LanguageModel, lines: Sequence[InputLine], route: PromptRoute, input_file: InputFile
) -> tuple[dict[int, tuple[Session, TokenisedSession]], list[tuple[int, str]]]:
    """Return the sessions by line number, and the errors of lines that cannot be read."""
    prepared: dict[int, tuple[Session, TokenisedSession]] = {}
    failed: list[tuple[int, str]] = []
    for line in lines:
        try:
            session = line_to_session(language_model, line, route, input_file)
            tokenised = language_model.tokenise(session)
            language_model.positions_left(tokenised)
        except MetalmError as error:
            failed.append((line.number, "; ".join(part for part in (error.what, error.where, error.why) if part)))
        else:
            prepared[line.number] = session, tokenised
    return prepared, failed
