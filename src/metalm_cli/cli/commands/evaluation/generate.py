"""``metalm generate``: generation for one text, or for each line of a file."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from metalm_cli.cli import console
from metalm_cli.cli.options import generate as options
from metalm_cli.cli.options.evaluate import Model
from metalm_cli.cli.options.groups import expand_groups
from metalm_cli.cli.options.shared import Offline, parse_end_tokens
from metalm_cli.common.signals import StopSignals
from metalm_cli.errors import Exit, MetalmError

if TYPE_CHECKING:
    from metalm_cli.inference import LanguageModel
    from metalm_cli.inference.generation import DecodingOptions, Generation
    from metalm_cli.inference.text_sessions import Place, PromptRoute

PROGRESS_INTERVAL_S = 5.0
"""Time between two progress lines if standard error is not a terminal."""
TRUNCATION_NOTES = {
    "limit": "cut off after {tokens} tokens (--max-new-tokens)",
    "positions": "cut off after {tokens} tokens: the decoder has no position left",
}


@expand_groups
def generate(
    model: Model = None,
    text: options.Text = None,
    route: options.TextRouteOption = None,
    encoder: options.Encoder = None,
    chat: options.Chat = False,
    prompt: options.Prompt = None,
    image: options.Image = None,
    *,
    flags: options.DecodingFlags,
    files: options.FileOptions,
    offline: Offline = False,
) -> None:
    """Generate an answer to a text, or to every line of a file.

    A single argument is the model if it is a folder, a local checkpoint or OWNER/NAME; otherwise it is the text.

    Lines of --input are {"text": ...}, optionally with "image" and "id",
    or {"session": [{"docked": ...}, {"causal": ...}]}.
    If the command is interrupted, running it again continues it.
    """
    from metalm_cli.cli.commands.evaluation.evaluate import model_to_evaluate
    from metalm_cli.cli.silence_libraries import silence_libraries

    _check_decoding_flags(flags)
    if text is None and model is not None and files.source is None and not _names_model(model):
        model, text = None, model
    _check_files(files.source, files.out, text=text, image=image, batch_tokens=files.batch_tokens)
    text_to_read = "" if files.source is not None else _read_text(text, image is not None or prompt is not None)
    _check_utf8(prompt or "", "--prompt")
    if files.source is None and image is not None:
        _check_image(image)

    place = _place_of_text(route, chat, encoder)
    name = model_to_evaluate(model)
    if files.source is not None and files.out is not None:
        _answer_lines(name, files.source, files.out, (place, prompt or "", encoder), flags, files.batch_tokens, offline)
        return
    silence_libraries(offline)
    from metalm_cli.inference.text_sessions import PromptRoute

    _answer(name, text_to_read, image, PromptRoute(place, prompt or "", encoder), flags, offline)


def _place_of_text(route: options.TextRoute | None, chat: bool, encoder: str | None) -> Place:
    """Return where the text is read.

    Raises:
        MetalmError: A chat cannot be docked, or an encoder is named for a text that is not docked.
    """
    if chat and route is options.TextRoute.docked:
        raise MetalmError(
            "--chat and --as docked exclude each other",
            why="the decoder reads a chat",
            remedy="omit one of them",
        )
    if encoder is not None and (chat or route is options.TextRoute.causal):
        option = "--chat" if chat else "--as causal"
        raise MetalmError(f"--encoder does nothing with {option}", why="the decoder reads the text", remedy="omit one")
    return "chat" if chat else (route or options.TextRoute.docked).value


def _decoding_options(flags: options.DecodingFlags) -> DecodingOptions:
    from metalm_cli.inference.generation import DecodingOptions
    from metalm_cli.inference.sampling import SamplingOptions

    values = {"temperature": flags.temperature, "top_p": flags.top_p, "seed": flags.seed}
    used = {name: value for name, value in values.items() if value is not None}
    sampling = SamplingOptions(**used) if flags.sample else None  # type: ignore[arg-type]
    penalty = 1.0 if flags.length_penalty is None else flags.length_penalty
    return DecodingOptions(flags.max_new_tokens, flags.beams or 1, penalty, sampling, tuple(flags.stop or ()))


def _check_decoding_flags(flags: options.DecodingFlags) -> None:
    """Check that no option is without effect.

    Raises:
        MetalmError: An option is used without the option that it needs.
    """
    required = {"temperature": "--sample", "top_p": "--sample", "seed": "--sample", "length_penalty": "--beams"}
    active = {"--sample": flags.sample, "--beams": (flags.beams or 1) > 1}
    for name, needed in required.items():
        if getattr(flags, name) is not None and not active[needed]:
            option = "--" + name.replace("_", "-")
            raise MetalmError(
                f"{option} does nothing without {needed}",
                remedy=f"add {needed}{' 4' if needed == '--beams' else ''}, or omit {option}",
            )


def _names_model(argument: str) -> bool:
    """Whether a single argument is a model: a folder, a local checkpoint, or an owner and a name."""
    import re

    from metalm_cli.common.checkpoints.find import names_local_checkpoint

    if argument == "-" or not argument.strip():
        return False
    if names_local_checkpoint(argument):
        return True
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*|(/|~/|\.\.?/)\S*", argument) is not None


def _check_files(
    source: Path | None, out: Path | None, *, text: str | None, image: Path | None, batch_tokens: int | None
) -> None:
    """Check ``--input`` and ``--out``, and the options that depend on them.

    Raises:
        MetalmError: The options exclude each other, or one is missing.
    """
    if (source is None) != (out is None):
        missing_option = "--out" if out is None else "--input"
        raise MetalmError(f"{missing_option} is missing", remedy="pass --input FILE and --out FILE together")
    if source is None or out is None:
        if batch_tokens is not None:
            raise MetalmError("--batch-tokens does nothing without --input", remedy="omit --batch-tokens")
        return
    for name, value in (("TEXT", text), ("--image", image)):
        if value is not None:
            raise MetalmError(
                f"{name} and --input are both given", remedy="put texts and images into the lines of the input"
            )
    if out.exists() and source.exists() and out.samefile(source):
        raise MetalmError("--out is the same file as --input", where=str(out), remedy="choose another --out")
    if out.is_dir():
        raise MetalmError("--out is a folder", where=str(out), remedy="name a file")


def _read_text(argument: str | None, optional: bool) -> str:
    """Return the text, reading it from standard input if there is no argument or the argument is ``-``.

    Raises:
        MetalmError: The text is empty or is not UTF-8.
    """
    if argument is None and optional:
        return ""
    if argument is not None and argument != "-":
        _check_utf8(argument, "TEXT")
        text = argument
    else:
        if argument is None and sys.stdin.isatty():
            raise MetalmError(
                "no text is given", remedy='pass one: metalm generate MODEL "some text", or - for standard input'
            )
        if sys.stdin.isatty():
            _note("reading the text from the terminal; Ctrl-D ends it")
        try:
            text = sys.stdin.buffer.read().decode()
        except UnicodeDecodeError as error:
            raise MetalmError(
                "standard input is not UTF-8", why=str(error), remedy="convert it: iconv -t UTF-8"
            ) from error
        text = text.removesuffix("\n").removesuffix("\r")
    if not text.strip() and not optional:
        raise MetalmError("the text is empty", remedy="pass a text for the model to read")
    return text


def _check_utf8(text: str, source: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise MetalmError(
            f"{source} is not UTF-8", why=str(error), remedy="set a UTF-8 locale, or convert it"
        ) from error


def _check_image(image: Path) -> None:
    if not os.path.isfile(image):
        raise MetalmError("the image does not exist", where=str(image), remedy="correct the path of --image")


def _load(source: str, flags: options.DecodingFlags, offline: bool) -> LanguageModel:
    import torch

    from metalm_cli.inference import load

    end_tokens = parse_end_tokens(flags.end_tokens)
    with console.stderr().status(f"loading {source}"):
        return load(source, offline=offline, end_tokens=end_tokens).to("cuda" if torch.cuda.is_available() else "cpu")


def _answer(
    source: str,
    text: str,
    image: Path | None,
    prompt_route: PromptRoute,
    flags: options.DecodingFlags,
    offline: bool,
) -> None:
    """Generate the answer to one text, streamed to standard output."""
    from metalm_cli.inference.generation import stream_answer
    from metalm_cli.inference.text_sessions import check_reads_images, text_encoder, text_to_session
    from metalm_cli.sessions.images import read_image

    decoding = _decoding_options(flags)
    loaded_image = None if image is None else read_image(image)
    if image is not None:
        check_reads_images(source, offline)
    language_model = _load(source, flags, offline)
    session = text_to_session(language_model, text, loaded_image, prompt_route, "the text")
    if text and prompt_route.place == "docked" and text_encoder(language_model, prompt_route.encoder) is None:
        _note("the model has no text encoder: the decoder reads the text")
    write_piece = _piece_writer()
    try:
        generation = stream_answer(language_model, session, decoding, write_piece)
        write_piece("\n")
    except KeyboardInterrupt:
        write_piece("\n")
        raise
    except BrokenPipeError:
        _discard_output()
        return
    if not generation.text.strip():
        _note(_why_empty(generation))
    if generation.finish_reason in TRUNCATION_NOTES:
        _note(TRUNCATION_NOTES[generation.finish_reason].format(tokens=generation.tokens))


def _why_empty(generation: Generation) -> str:
    """Say why an answer has no text, and what to change."""
    if generation.finish_reason == "stop":
        return "the answer is empty: it begins with a --stop text"
    if generation.finish_reason == "end" and generation.tokens == 1:
        return "the answer is empty: the model ends it with its first token; --prompt TEXT begins it for the model"
    return f"the answer is empty: its {generation.tokens} tokens are spaces, or tokens without text"


def _piece_writer() -> Callable[[str], None]:
    """Return a function that writes text pieces to standard output; on a terminal, control characters are escaped."""
    is_terminal = sys.stdout.isatty()

    def write_piece(piece: str) -> None:
        console.write(console.escape_markup(piece) if is_terminal else piece)

    return write_piece


def _discard_output() -> None:
    """Discard further output after the reader of the pipe has ended, so that closing the stream raises no error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _answer_lines(
    model: str,
    source: Path,
    out: Path,
    prompt_route: tuple[Place, str, str | None],
    flags: options.DecodingFlags,
    batch_tokens: int | None,
    offline: bool,
) -> None:
    """Generate answers to the lines of a file.

    Raises:
        MetalmError: The input, the model or the content of ``out`` does not fit.
        typer.Exit: 1 if lines have errors, 75 if the command was stopped.
    """
    from metalm_cli.cli.silence_libraries import silence_libraries

    signals = StopSignals(at_once=True)  # all answers so far are in the file
    answered = count = 0
    try:
        with signals:
            silence_libraries(offline)
            from metalm_cli.inference.generate_file import generate_file, has_images, read_input_file
            from metalm_cli.inference.text_sessions import PromptRoute, check_reads_images
            from metalm_cli.models.checkpoint_io import find_model_folder

            decoding = _decoding_options(flags)
            find_model_folder(model, offline=offline, weights=False)
            requests = read_input_file(source)
            if has_images(requests):
                check_reads_images(model, offline)
            language_model = _load(model, flags, offline)
            count = len(requests.lines)
            with _progress(count) as progress:

                def on_progress(finished: int) -> None:
                    nonlocal answered
                    answered = finished
                    progress.done(finished)

                answers = generate_file(
                    model,
                    language_model,
                    requests,
                    out,
                    PromptRoute(*prompt_route),
                    decoding,
                    budget=batch_tokens,
                    on_progress=on_progress,
                )
    except KeyboardInterrupt:
        state = f"{answered:,} of {count:,} lines are answered" if count else "no line was answered by this command"
        _note(f"stopped by {signals.pending}: {state}; the same command continues")
        raise typer.Exit(int(Exit.STOPPED)) from None
    _note(f"answers  {out} ({count:,} lines)")
    if answers.errors:
        _note(f'{answers.errors:,} of {count:,} lines could not be read; the reason is in "error" of each answer')
        raise typer.Exit(int(Exit.FAILED))


class _Progress:
    """Progress of answered lines: a bar on a terminal, otherwise a line every few seconds."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.count = 0
        self._bar: Any = None
        self._last = time.monotonic()
        self._last_count: int | None = None
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
        """Update the number of answered lines."""
        self.count = count
        if self._bar is not None:
            self._bar.update(self._task, completed=count)
        elif self._last_count is None or time.monotonic() - self._last >= PROGRESS_INTERVAL_S:
            self._print_count()

    def _print_count(self) -> None:
        if self.count != self._last_count:
            _note(f"{self.count:,} of {self.total:,} lines")
            self._last, self._last_count = time.monotonic(), self.count

    def close(self) -> None:
        """Print the final state."""
        if self._bar is not None:
            self._bar.stop()
        elif self._last_count is not None:
            self._print_count()


@contextmanager
def _progress(total: int) -> Iterator[_Progress]:
    progress = _Progress(total)
    try:
        yield progress
    finally:
        progress.close()


def _note(text: str) -> None:
    """Print a line to standard error; a closed terminal or a full disk does not end the command."""
    with suppress(OSError):
        console.stderr().print(console.escape_markup(text), markup=False, soft_wrap=True)
