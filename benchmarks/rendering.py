"""Rendering, tokenising and packing of task examples on one core, compared with the tokenizers alone.

*ours*: read rows, apply cards and templates, check the length limits of both models, tokenise docks with the encoder's
tokenizer and answers with the decoder's, pack sessions into rows. *bare, both*: the two tokenizers on the same rendered
texts, prompts with the encoder's, prompts and answers with the decoder's (what a MetaLM and its twin need). *bare,
docked*: only the texts of the final sessions, prompts with the encoder's tokenizer and answers with the decoder's.

*Cold*: slices of examples that were not read before, measured by the methods in turn; it is checked that no session
comes from the cache. *Cached*: the same slice again, with every session from the cache. Then two epochs, as in a run:
the cache's key is example and template, so the second epoch hits where the template is the same. Times are processor
seconds. Peak memory is the memory of the first epoch above the opened tasks and tokenizers.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

from finetuning_ways import Memory

from common import arguments, report
from metalm_cli.config.schema.recipes import FinetuneRecipe
from metalm_cli.data.examples.pack_examples import RowPacking
from metalm_cli.data.examples.session_writer import SessionBuilder
from metalm_cli.data.examples.task_corpus import TaskCorpus
from metalm_cli.data.examples.task_selection import open_training_tasks
from metalm_cli.data.examples.truncation import LengthLimits
from metalm_cli.models.tokenizer_training import train_tokenizer
from metalm_cli.sessions import DecoderTokenizer, Docked, SessionTokeniser, TextProcessor, TokenRules
from metalm_cli.sessions.decoder_tokenizer import backend_without_truncation

VOCABULARY = 16_384
ENCODER_LENGTH = 512
SESSIONS_PER_STEP = 64
"""Number of sessions that are packed together."""


def corpus_of(length: int, rows: int, choose: str) -> TaskCorpus:
    """Corpus of RTE, BoolQ and SST-2 with ``rows`` rows in total; without METALM_DATA, of miniature world tasks."""
    has_local_data = "METALM_DATA" in os.environ
    data = {
        "tasks": ["rte", "boolq", "sst2"] if has_local_data else ["world"],
        "templates": {"template_sampling": choose, "inverted": False},
        "mixture": {"strategy": "equal", "cap_examples": rows // 3},
        "sequence_length": length,
    }
    return open_training_tasks(FinetuneRecipe.model_validate({"data": data}).data, seed=0)[0]


def tokeniser_of(corpus: TaskCorpus, length: int) -> SessionTokeniser:
    """Session tokeniser with an encoder and a decoder tokenizer that are trained on the tasks."""
    decoder, encoder = (train_tokenizer(corpus.sample(3000, 0), VOCABULARY, role) for role in ("decoder", "encoder"))
    processors = {"text": TextProcessor("text", encoder, min(length, ENCODER_LENGTH))}
    return SessionTokeniser(DecoderTokenizer(decoder, TokenRules()), processors)


def writer_of(corpus: TaskCorpus, tokenise: SessionTokeniser, length: int) -> SessionBuilder:
    return SessionBuilder(corpus, tokenise, LengthLimits.of(tokenise, length))


def texts_of(writer: SessionBuilder, number: int) -> tuple[list[str], list[str]]:
    """Prompts and answers of a session."""
    sampled_example = writer.corpus.get(number)
    fitted = writer.prompts_of(sampled_example.task, sampled_example.template).fit(sampled_example.example)
    spans = list(fitted.session) if fitted is not None else []
    docked = [str(span.content) for span in spans if isinstance(span, Docked)]
    return docked, [str(span.content) for span in spans if not isinstance(span, Docked)]


def seconds(function: Callable[[], Any]) -> float:
    """Processor seconds of a call."""
    gc.collect()
    start = time.process_time()
    function()
    return time.process_time() - start


def release_memory() -> None:
    """Return freed memory to the system, so that it does not hide a peak."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # not every C library has malloc_trim
        ctypes.CDLL(None).malloc_trim(0)


def main() -> None:
    options = arguments(__doc__ or "")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    slices, size = (4, 300) if options.quick else (10, 480)
    figures: dict[str, Any] = {}
    for length in (1024, 512):
        figures.update(_measure(length, slices, size))
    for choose in ("first", "index"):
        figures.update(_measure_epochs(choose, slices * size))
    report("rendering, one core", figures, options)


def _measure(length: int, slices: int, size: int) -> dict[str, Any]:
    corpus = corpus_of(length, 2 * (slices + 1) * size, "first")
    tokenise = tokeniser_of(corpus, length)
    writer, layout = writer_of(corpus, tokenise, length), RowPacking(True, length)
    text_writer = writer_of(corpus, tokeniser_of(corpus, length), length)
    encoder = backend_without_truncation(tokenise.processors["text"].tokenizer)  # type: ignore[attr-defined]
    decoder = backend_without_truncation(tokenise.tokenizer.tokenizer)
    tokens: list[int] = []

    def ours(numbers: range) -> None:
        sessions = [writer.session(number) for number in numbers]
        for start in range(0, len(sessions), SESSIONS_PER_STEP):
            layout.rows(sessions[start : start + SESSIONS_PER_STEP])
        tokens.extend(len(session.tokenised) for session in sessions)

    def bare(texts: list[tuple[list[str], list[str]]], both: bool) -> None:
        for docked, answers in texts:
            for text in docked:
                _ = encoder.encode(text).ids
            for text in [*docked, *answers] if both else answers:
                _ = decoder.encode(text).ids

    times: dict[str, list[float]] = {"ours": [], "cached": [], "both": [], "docked": []}
    for repetition in range(slices + 1):
        numbers = range(repetition * size, (repetition + 1) * size)
        texts = [texts_of(text_writer, number) for number in numbers]
        methods = {
            "ours": lambda n=numbers: ours(n),
            "both": lambda t=texts: bare(t, True),
            "docked": lambda t=texts: bare(t, False),
        }
        order = [*methods][repetition % 3 :] + [*methods][: repetition % 3]
        slice_seconds = {name: seconds(methods[name]) for name in order}
        if writer.hits != repetition * size:  # hits of the earlier cached repetitions
            raise SystemExit("a session of the cold slices came from the cache: too few examples")
        slice_seconds["cached"] = seconds(methods["ours"])
        if writer.hits != (repetition + 1) * size:
            raise SystemExit("a session of the cached slice did not come from the cache")
        for name, method_seconds in slice_seconds.items() if repetition else ():
            times[name].append(method_seconds)
    return _figures(f"{length} positions", times, size, tokens)


def _figures(name: str, times: dict[str, list[float]], size: int, tokens: list[int]) -> dict[str, Any]:
    rates = {method: size / statistics.median(method_seconds) for method, method_seconds in times.items()}
    figures: dict[str, Any] = {
        f"{name}: tokens of a session": statistics.mean(tokens),
        f"{name}: ours, cold (no hits), examples/s": rates["ours"],
        f"{name}: ours, cached (all hits), examples/s": rates["cached"],
        f"{name}: bare, both, examples/s": rates["both"],
        f"{name}: bare, docked, examples/s": rates["docked"],
    }
    for method, label in (("ours", "cold"), ("cached", "cached")):
        for peer in ("both", "docked"):
            shares = sorted(b / a for a, b in zip(times[method], times[peer], strict=True))
            quarter = len(shares) // 4
            goal = " (goal 0.6)" if (method, peer) == ("ours", "both") else ""
            figures[f"{name}: {label} as a share of bare, {peer}{goal}"] = statistics.median(shares)
            figures[f"{name}: ... {label}, {peer}, middle half"] = f"{shares[quarter]:.2f}-{shares[-1 - quarter]:.2f}"
    return figures


def _measure_epochs(choose: str, rows: int) -> dict[str, Any]:
    corpus = corpus_of(1024, rows, choose)
    writer = writer_of(corpus, tokeniser_of(corpus, 1024), 1024)
    epoch = sum(task.row_count for task in corpus.tasks)
    release_memory()
    memory = Memory("cpu")
    figures: dict[str, Any] = {}
    for epoch_name, numbers in (("first", range(epoch)), ("second", range(epoch, 2 * epoch))):
        writer.hits = writer.misses = 0
        epoch_seconds = seconds(lambda: [writer.session(number) for number in numbers])  # noqa: B023
        name = f"templates: {choose}: {epoch_name} epoch"
        figures[f"{name}, examples/s"] = epoch / epoch_seconds
        figures[f"{name}, from the cache"] = f"{writer.hits / (writer.hits + writer.misses):.1%}"
        if epoch_name == "first":
            figures[f"{name}, peak MiB"] = memory.peak()
    return figures


if __name__ == "__main__":
    main()
