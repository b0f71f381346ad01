"""Rendering task examples, tokenising them and packing them on one core, beside the tokenizers alone.

*ours*: rows read, cards and templates applied, limits of the session checked in both arms, docks read by the encoder's
tokenizer, answers by the decoder's, sessions packed into rows. *bare, both*: the two tokenizers on the same rendered
texts, prompts by the encoder's, prompts and answers by the decoder's (what a MetaLM and its twin need). *bare, docked*:
only what stands in the sessions at last, prompts by the encoder's and answers by the decoder's.

*Cold*: slices of examples that were never read before, each once, taken by the ways in turn; that no session comes from
the cache is checked. *Cached*: the same slice again, every session from the cache. Then two epochs, as a run meets
them: the cache's key is example and template, so that the second epoch finds what it has the same template for.
Processor seconds are counted. Peak memory is what the first epoch takes on top of the opened tasks and tokenizers.
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
from metalm_cli.data.examples.fit_prompt import build_session
from metalm_cli.data.examples.pack_examples import RowPacking
from metalm_cli.data.examples.session_writer import SessionBuilder
from metalm_cli.data.examples.task_corpus import TaskCorpus
from metalm_cli.data.examples.task_selection import open_training_tasks
from metalm_cli.data.examples.truncation import LengthLimits
from metalm_cli.models.tokenizer_training import train_tokenizer
from metalm_cli.sessions import DecoderTokenizer, Docked, SessionTokeniser, TextProcessor, TokenRules
from metalm_cli.sessions.decoder_tokenizer import backend_without_truncation

VOCABULARY = 16_384
ENCODER = 512
STEP = 64
"""Sessions that are packed together."""


def corpus_of(length: int, rows: int, choose: str) -> TaskCorpus:
    """RTE, BoolQ and SST-2, so many rows in all; without METALM_DATA tasks of the miniature world."""
    here = "METALM_DATA" in os.environ
    data = {
        "tasks": ["rte", "boolq", "sst2"] if here else ["world"],
        "templates": {"template_sampling": choose, "inverted": False},
        "mixture": {"strategy": "equal", "cap_examples": rows // 3},
        "sequence_length": length,
    }
    return open_training_tasks(FinetuneRecipe.model_validate({"data": data}).data, seed=0)[0]


def tokeniser_of(corpus: TaskCorpus, length: int) -> SessionTokeniser:
    """Both tokenizers, trained on the tasks."""
    decoder, encoder = (train_tokenizer(corpus.sample(3000, 0), VOCABULARY, role) for role in ("decoder", "encoder"))
    processors = {"text": TextProcessor("text", encoder, min(length, ENCODER))}
    return SessionTokeniser(DecoderTokenizer(decoder, TokenRules()), processors)


def writer_of(corpus: TaskCorpus, tokenise: SessionTokeniser, length: int) -> SessionBuilder:
    return SessionBuilder(corpus, tokenise, LengthLimits.of(tokenise, length))


def texts_of(writer: SessionBuilder, number: int) -> tuple[list[str], list[str]]:
    """Prompts and answers of a session."""
    asked = writer.corpus.get(number)
    card, style = writer.corpus.tasks[asked.task].card, writer.corpus.style
    found = build_session(card, asked.example, asked.template, (), style, writer.delimiter, writer.limits)
    spans = list(found[0]) if found is not None else []
    docked = [str(span.content) for span in spans if isinstance(span, Docked)]
    return docked, [str(span.content) for span in spans if not isinstance(span, Docked)]


def seconds(way: Callable[[], Any]) -> float:
    """Processor seconds."""
    gc.collect()
    began = time.process_time()
    way()
    return time.process_time() - began


def given_back() -> None:
    """Memory that was freed goes back to the system, so that a peak is not hidden in it."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # not every C library has it
        ctypes.CDLL(None).malloc_trim(0)


def main() -> None:
    options = arguments(__doc__ or "")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    slices, size = (4, 300) if options.quick else (10, 480)
    figures: dict[str, Any] = {}
    for length in (1024, 512):
        figures.update(_measured(length, slices, size))
    for choose in ("first", "index"):
        figures.update(_epochs(choose, slices * size))
    report("rendering, one core", figures, options)


def _measured(length: int, slices: int, size: int) -> dict[str, Any]:
    corpus = corpus_of(length, 2 * (slices + 1) * size, "first")
    tokenise = tokeniser_of(corpus, length)
    writer, layout = writer_of(corpus, tokenise, length), RowPacking(True, length)
    spare = writer_of(corpus, tokeniser_of(corpus, length), length)
    encoder = backend_without_truncation(tokenise.processors["text"].tokenizer)  # type: ignore[attr-defined]
    decoder = backend_without_truncation(tokenise.tokenizer.tokenizer)
    tokens: list[int] = []

    def ours(numbers: range) -> None:
        made = [writer.session(number) for number in numbers]
        for at in range(0, len(made), STEP):
            layout.rows(made[at : at + STEP])
        tokens.extend(len(one.session) for one in made)

    def bare(texts: list[tuple[list[str], list[str]]], both: bool) -> None:
        for docked, answers in texts:
            for text in docked:
                _ = encoder.encode(text).ids
            for text in [*docked, *answers] if both else answers:
                _ = decoder.encode(text).ids

    times: dict[str, list[float]] = {"ours": [], "cached": [], "both": [], "docked": []}
    for turn in range(slices + 1):
        numbers = range(turn * size, (turn + 1) * size)
        texts = [texts_of(spare, number) for number in numbers]
        ways = {
            "ours": lambda n=numbers: ours(n),
            "both": lambda t=texts: bare(t, True),
            "docked": lambda t=texts: bare(t, False),
        }
        order = [*ways][turn % 3 :] + [*ways][: turn % 3]
        found = {name: seconds(ways[name]) for name in order}
        if writer.hits != turn * size:  # of the cached repetitions before
            raise SystemExit("a session of the cold slices came from the cache: there are too few examples")
        found["cached"] = seconds(ways["ours"])
        if writer.hits != (turn + 1) * size:
            raise SystemExit("a session of the cached slice did not come from the cache")
        for name, one in found.items() if turn else ():
            times[name].append(one)
    return _figures(f"{length} positions", times, size, tokens)


def _figures(name: str, times: dict[str, list[float]], size: int, tokens: list[int]) -> dict[str, Any]:
    rates = {way: size / statistics.median(found) for way, found in times.items()}
    figures: dict[str, Any] = {
        f"{name}: tokens of a session": statistics.mean(tokens),
        f"{name}: ours, cold (no hits), examples/s": rates["ours"],
        f"{name}: ours, cached (all hits), examples/s": rates["cached"],
        f"{name}: bare, both, examples/s": rates["both"],
        f"{name}: bare, docked, examples/s": rates["docked"],
    }
    for way, said in (("ours", "cold"), ("cached", "cached")):
        for peer in ("both", "docked"):
            shares = sorted(b / a for a, b in zip(times[way], times[peer], strict=True))
            quarter = len(shares) // 4
            goal = " (goal 0.6)" if (way, peer) == ("ours", "both") else ""
            figures[f"{name}: {said} is so much of bare, {peer}{goal}"] = statistics.median(shares)
            figures[f"{name}: ... {said}, {peer}, middle half"] = f"{shares[quarter]:.2f}-{shares[-1 - quarter]:.2f}"
    return figures


def _epochs(choose: str, rows: int) -> dict[str, Any]:
    corpus = corpus_of(1024, rows, choose)
    writer = writer_of(corpus, tokeniser_of(corpus, 1024), 1024)
    epoch = sum(task.rows for task in corpus.tasks)
    given_back()
    memory = Memory("cpu")
    figures: dict[str, Any] = {}
    for said, numbers in (("first", range(epoch)), ("second", range(epoch, 2 * epoch))):
        writer.hits = writer.misses = 0
        found = seconds(lambda: [writer.session(number) for number in numbers])  # noqa: B023
        name = f"templates: {choose}: {said} epoch"
        figures[f"{name}, examples/s"] = epoch / found
        figures[f"{name}, from the cache"] = f"{writer.hits / (writer.hits + writer.misses):.1%}"
        if said == "first":
            figures[f"{name}, peak MiB"] = memory.peak()
    return figures


if __name__ == "__main__":
    main()
