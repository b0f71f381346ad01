"""``metalm generate``: text in, text out; and the lines of a file."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from metalm_cli.cli import console
from metalm_cli.cli.options import generate as options
from metalm_cli.cli.options.evaluate import Model
from metalm_cli.errors import Exit, MetalmError

if TYPE_CHECKING:
    from metalm_cli.inference import LanguageModel
    from metalm_cli.inference.generation import DecodingOptions, PromptRoute
    from metalm_cli.inference.sampling import SamplingOptions

EVERY = 5.0
"""Seconds between two lines of progress where there is no terminal."""
ENDINGS = {
    "limit": "cut off after {tokens} tokens (--max-new-tokens)",
    "positions": "cut off after {tokens} tokens: the decoder has no position left",
}


def generate(
    model: Model = None,
    text: options.Text = None,
    place: options.As = options.Place.docked,
    prompt: options.Prompt = None,
    image: options.Image = None,
    max_new_tokens: options.MaxNewTokens = 128,
    beams: options.Beams = None,
    length_penalty: options.LengthPenalty = None,
    sample: options.Sample = False,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    seed: options.Seed = None,
    stop: options.Stop = None,
    source: options.Source = None,
    out: options.Out = None,
    batch_tokens: options.BatchTokens = None,
    offline: options.Offline = False,
) -> None:
    """Let a model answer a text, or every line of a file.

    With one argument alone, a folder, a checkpoint at hand or OWNER/NAME is the model, and all else is the text.

    --input takes lines {"text": ...}, with "image" and "id" if there are such, or {"session": [{"docked": ...},
    {"causal": ...}]}. A command that was killed goes on when it is run again.
    """
    from metalm_cli.cli.silence_libraries import silence_libraries

    _fitting(sample, beams, temperature=temperature, top_p=top_p, seed=seed, length_penalty=length_penalty)
    if text is None and model is not None and source is None and not _names_model(model):
        model, text = None, model
    _files(source, out, text=text, image=image, batch_tokens=batch_tokens)
    given = "" if source is not None else _text(text, image is not None or prompt is not None)
    _encodable(prompt or "", "--prompt")
    if source is None and image is not None:
        _readable(image)

    name = model or _newest()
    silence_libraries(offline)
    from metalm_cli.inference.generation import DecodingOptions, PromptRoute

    drawn = _sampling(temperature, top_p, seed) if sample else None
    penalty = 1.0 if length_penalty is None else length_penalty
    decoding = DecodingOptions(max_new_tokens, beams or 1, penalty, drawn, tuple(stop or ()))
    layout = PromptRoute(place.value, prompt or "")
    if source is not None and out is not None:
        _answer_lines(name, source, out, layout, decoding, batch_tokens, offline)
    else:
        _answer(name, given, image, layout, decoding, offline)


def _sampling(temperature: float | None, top_p: float | None, seed: int | None) -> SamplingOptions:
    from metalm_cli.inference.sampling import SamplingOptions

    given = {"temperature": temperature, "top_p": top_p, "seed": seed}
    return SamplingOptions(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


def _fitting(sample: bool, beams: int | None, **values: Any) -> None:
    """Refuse options that would do nothing.

    Raises:
        MetalmError: One needs another that is not there.
    """
    needs = {"temperature": "--sample", "top_p": "--sample", "seed": "--sample", "length_penalty": "--beams"}
    has = {"--sample": sample, "--beams": (beams or 1) > 1}
    for name, value in values.items():
        if value is not None and not has[needs[name]]:
            option = "--" + name.replace("_", "-")
            raise MetalmError(
                f"{option} does nothing without {needs[name]}",
                remedy=f"add {needs[name]}{' 4' if needs[name] == '--beams' else ''}, or leave it out",
            )


def _names_model(given: str) -> bool:
    """Whether a single argument is the model: a folder, a checkpoint at hand, or an owner and a name."""
    import re

    root = os.environ.get("METALM_CHECKPOINTS")
    if given == "-" or not given.strip():
        return False
    try:
        if Path(given).expanduser().is_dir() or (root and (Path(root).expanduser() / given).is_dir()):
            return True
    except OSError:  # a text that is too long for a name
        return False
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*|(/|~/|\.\.?/)\S*", given) is not None


def _files(
    source: Path | None, out: Path | None, *, text: str | None, image: Path | None, batch_tokens: int | None
) -> None:
    """Check what goes with ``--input`` and ``--out``.

    Raises:
        MetalmError: They do not go together, or not with the rest.
    """
    if (source is None) != (out is None):
        lacks = "--out" if out is None else "--input"
        raise MetalmError(f"{lacks} is missing", remedy="give --input FILE and --out FILE together")
    if source is None or out is None:
        if batch_tokens is not None:
            raise MetalmError("--batch-tokens does nothing without --input", remedy="leave it out")
        return
    for name, value in (("TEXT", text), ("--image", image)):
        if value is not None:
            raise MetalmError(
                f"{name} and --input are both given", remedy="put texts and images into the lines of the input"
            )
    if out.exists() and source.exists() and out.samefile(source):
        raise MetalmError("--out is the input itself", where=str(out), remedy="choose another --out")
    if out.is_dir():
        raise MetalmError("--out is a folder", where=str(out), remedy="name a file")


def _text(given: str | None, optional: bool) -> str:
    """The text, read from standard input where it stands for it.

    Raises:
        MetalmError: There is none, or it is no text.
    """
    if given is None and optional:
        return ""
    if given is not None and given != "-":
        _encodable(given, "TEXT")
        found = given
    else:
        if given is None and sys.stdin.isatty():
            raise MetalmError(
                "there is no text to read", remedy='give it: metalm generate MODEL "some text", or - for standard input'
            )
        if sys.stdin.isatty():
            _note("reading the text; Ctrl-D ends it")
        try:
            found = sys.stdin.buffer.read().decode()
        except UnicodeDecodeError as error:
            raise MetalmError(
                "standard input is no UTF-8", why=str(error), remedy="convert it: iconv -t UTF-8"
            ) from error
        found = found.removesuffix("\n").removesuffix("\r")
    if not found.strip() and not optional:
        raise MetalmError("the text is empty", remedy="give the model something to read")
    return found


def _encodable(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise MetalmError(f"{what} is no UTF-8", why=str(error), remedy="set a UTF-8 locale, or convert it") from error


def _readable(image: Path) -> None:
    if not image.is_file():
        raise MetalmError("there is no such image", where=str(image), remedy="correct the path of --image")


def _newest() -> str:
    from metalm_cli.cli.commands.evaluation.evaluate import newest_metalm

    return newest_metalm()


def _load(source: str, offline: bool) -> LanguageModel:
    import torch

    from metalm_cli.inference import load

    with console.stderr().status(f"loading {source}"):
        return load(source, offline=offline).to("cuda" if torch.cuda.is_available() else "cpu")


def _answer(
    source: str, text: str, image: Path | None, layout: PromptRoute, decoding: DecodingOptions, offline: bool
) -> None:
    """Answer one text, on standard output, as it is said."""
    from metalm_cli.inference.generation import open_image, stream_answer, text_encoder, text_to_session

    opened = None if image is None else open_image(image)
    language_model = _load(source, offline)
    session = text_to_session(language_model, text, opened, layout, "the text")
    if text and layout.place == "docked" and text_encoder(language_model) is None:
        _note("the model has no encoder for texts: the decoder reads the text")
    tell = _teller()
    try:
        said = stream_answer(language_model, session, decoding, tell)
        tell("\n")
    except KeyboardInterrupt:
        tell("\n")
        raise
    except BrokenPipeError:
        _nobody_reads()
        return
    if said.ended in ENDINGS:
        _note(ENDINGS[said.ended].format(tokens=said.tokens))


def _teller() -> Callable[[str], None]:
    """What writes pieces: exactly, or on a terminal without characters that steer it."""
    terminal = sys.stdout.isatty()

    def tell(piece: str) -> None:
        console.write(console.escape_markup(piece) if terminal else piece)

    return tell


def _nobody_reads() -> None:
    """The reader of a pipe has gone: end without a word, also when Python closes the stream."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _answer_lines(
    model: str,
    source: Path,
    out: Path,
    layout: PromptRoute,
    decoding: DecodingOptions,
    budget: int | None,
    offline: bool,
) -> None:
    """Answer the lines of a file.

    Raises:
        MetalmError: The input does not fit, or the model, or what stands in ``out``.
        typer.Exit: 1 if lines have errors, 75 if it was stopped.
    """
    from metalm_cli.inference.generate_file import answer_file, read_requests

    requests = read_requests(source)
    language_model = _load(model, offline)
    count = len(requests.lines)
    with _stopping(), _progress(count) as progress:
        try:
            answers = answer_file(
                model, language_model, requests, out, layout, decoding, budget=budget, watch=progress.done
            )
        except KeyboardInterrupt:
            progress.close()
            _note(f"stopped: {progress.count:,} of {count:,} lines are answered; the same command goes on")
            raise typer.Exit(int(Exit.STOPPED)) from None
    _note(f"answers  {out} ({count:,} lines)")
    if answers.errors:
        _note(f'{answers.errors:,} of {count:,} lines could not be read; their "error" says why')
        raise typer.Exit(int(Exit.FAILED))


@contextmanager
def _stopping() -> Iterator[None]:
    """SIGTERM stops like Ctrl-C: at once, as all that is answered is in the file."""
    earlier = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


class _Progress:
    """How many lines are answered: a bar on a terminal, else a line now and then."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.count = 0
        self._bar: Any = None
        self._last = time.monotonic()
        self._told: int | None = None
        if console.stderr().is_terminal:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("answering"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=console.stderr(),
            )
            self._task = self._bar.add_task("", total=total)
            self._bar.start()

    def done(self, count: int) -> None:
        """Lines that are answered now."""
        self.count = count
        if self._bar is not None:
            self._bar.update(self._task, completed=count)
        elif self._told is None or time.monotonic() - self._last >= EVERY:
            self._tell()

    def _tell(self) -> None:
        if self.count != self._told:
            _note(f"{self.count:,} of {self.total:,} lines")
            self._last, self._told = time.monotonic(), self.count

    def close(self) -> None:
        """Show the last state."""
        if self._bar is not None:
            self._bar.stop()
        elif self._told is not None:
            self._tell()


@contextmanager
def _progress(total: int) -> Iterator[_Progress]:
    made = _Progress(total)
    try:
        yield made
    finally:
        made.close()


def _note(text: str) -> None:
    console.stderr().print(console.escape_markup(text), markup=False, soft_wrap=True)
