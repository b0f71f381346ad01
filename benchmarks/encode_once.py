"""Encoding once: an epoch with cached outputs of a frozen encoder, and many questions on one passage.

*epoch*: steps of the program with a frozen MiniLM beside a small decoder on the same sessions, in turn: outputs from
the cache, and encoded in every step. Their losses must agree. The decoder decides how much of a step the encoder takes,
so the time of the encoder alone is given as well.

*questions*: a long passage of squad with many questions, or a text of the miniature world, in turn: the passage encoded
once and read once (``metalm_cli.Prefix``), encoded once (``metalm_cli.encode``), and docked as text in every session.
The texts must be equal.
"""

from __future__ import annotations

import gzip
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

import metalm_cli as metalm
from common import alternate, arguments, optimiser_step, ratio, report
from metalm_cli.config.schema.recipes import FinetuneRecipe
from metalm_cli.inference.loading import language_model_of
from metalm_cli.miniworld import generate_document
from metalm_cli.models.encoder_cache.cached_encoder import CachedEncoder
from metalm_cli.training.finetuning import Finetuning, RunCallbacks, RunOptions
from metalm_cli.training.step_metrics import StepMetrics
from metalm_cli.training.trainer import Trainer

ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
MAX_DIFFERENCE = 1e-4
"""Maximum difference of the losses of a step, in nats: the cache encodes each content alone."""


def recipe_of(tiny: bool, connector: dict[str, Any], steps: int, batch: int) -> FinetuneRecipe:
    """Recipe of a task with long inputs: boolq if METALM_DATA has it, else the miniature world."""
    has_data = (Path(os.environ.get("METALM_DATA", "-")) / "boolq").is_dir()
    new = {"new": {"vocab_size": 4096, "documents": 500}}
    shape = {"n_embd": 256, "n_layer": 4, "n_head": 4, "n_positions": 1024}
    encoder: dict[str, Any] = {"checkpoint": ENCODER}
    if tiny:
        encoder = {"config": {"model_type": "bert", **SMALL}, "tokenizer": new}
    return FinetuneRecipe.model_validate(
        {
            "command": "finetune",
            "model": {
                "decoder": {"config": {"model_type": "gpt2", **shape}, "tokenizer": new, "dropout": 0.0},
                "encoders": {"text": {**encoder, "trains": "none"}},
                "connector": connector,
            },
            "data": {
                "tasks": ["boolq" if has_data else "world"],
                "templates": {"collection": "flan", "template_sampling": "first"},
                "mixture": {"strategy": "equal"},
                "sequence_length": 512,
                "validation": {"examples": 0},
            },
            "train": {"steps": steps, "batch_size": batch, "precision": "fp32", "learning_rate": 1e-12},
        }
    )


def prepared_run(options: Any, steps: int) -> Finetuning:
    """Return a run with its data and model."""
    callbacks = RunCallbacks(lambda *_: None, lambda *_: [], lambda _: None)
    recipe = recipe_of(options.tiny, {"kind": "stack", "factor": options.factor}, steps, options.batch)
    run = Finetuning(recipe, "", RunOptions("benchmark", offline=True), callbacks)
    run.prepare()
    return run


def epoch(run: Finetuning, folder: Path) -> dict[str, Any]:
    """Compare steps with cached outputs and without."""
    recipe, model = run.recipe, run.assembly.model
    trainer = Trainer(recipe.train, recipe.train.steps, run.objective, run.root, run.accelerator, run.padded_length)
    dataset = run.make_dataset(trainer)
    numbers = dataset.steps(dataset.slot_indices)
    rows = [dataset.join(next(numbers)) for _ in range(recipe.train.steps)]
    parts = model.encoders["text"], model.encoder_ios["text"], run.assembly.processors["text"]
    cached = CachedEncoder("text", *parts, 1 << 36, folder=folder)
    meter, bad = StepMetrics(trainer.collectives), torch.zeros((), dtype=torch.float64)
    losses: dict[str, list[float]] = {"cached": [], "encoded": []}
    used: dict[str, list[float]] = {"cached": [], "encoded": []}

    def step(name: str, number: int) -> None:
        model.cached_encoders = {"text": cached} if name == "cached" else {}
        start = time.perf_counter()
        for table in (batch.docks["text"] for batch in trainer.micro_batches(rows[number])):
            cached.outputs(table) if name == "cached" else model.encoder_outputs("text", table)
        used[name].append(time.perf_counter() - start)

    def whole_epoch(name: str) -> Callable[[], None]:
        def steps() -> None:
            model.cached_encoders = {"text": cached} if name == "cached" else {}
            for step_rows in rows:
                optimiser_step(trainer, step_rows, meter, bad)
                losses[name].append(float(meter.pop_record()["loss"]))

        return steps

    start = time.perf_counter()
    for number in range(len(rows)):
        step("cached", number)
    first = time.perf_counter() - start
    used["cached"].clear()
    times = alternate({name: whole_epoch(name) for name in losses}, repeats=2, warmup=0)
    for number in range(len(rows)):
        step("cached", number)
        step("encoded", number)
    model.cached_encoders = {}
    difference = max(abs(a - b) for a, b in zip(losses["cached"], losses["encoded"], strict=True))
    if not difference <= MAX_DIFFERENCE:
        raise SystemExit(f"losses differ by {difference:.1e}")
    encode, read = statistics.median(used["encoded"]), statistics.median(used["cached"])
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    return {
        "epoch: cached against encoded (x, median)": ratio(times, "cached", "encoded")[0],
        "epoch: seconds with cached outputs": statistics.median(times["cached"]),
        "epoch: seconds with encoding": statistics.median(times["encoded"]),
        "epoch: seconds to encode and write once": first,
        "encoder: cached against encoded (x)": encode / read,
        "encoder: ms a step encoded": encode * 1e3,
        "encoder: ms a step from the cache": read * 1e3,
        "cache: MB of an epoch": size / 1e6,
        "largest difference of the losses": f"{difference:.1e}",
    }


def passage_and_questions(tokens: int, encoder_length: Callable[[str], int]) -> tuple[str, list[str]]:
    """Return a passage that fits the encoder, with questions."""
    folder = Path(os.environ.get("METALM_DATA", "-")) / "squad"
    files = sorted(folder.glob("validation.jsonl.gz")) if folder.is_dir() else []
    by_passage: dict[str, list[str]] = {}
    for file in files[:1]:
        for line in gzip.decompress(file.read_bytes()).splitlines():
            row = json.loads(line)
            if isinstance(row.get("context"), str):
                by_passage.setdefault(row["context"], []).append(row["question"])
    fitting = {text: its_questions for text, its_questions in by_passage.items() if encoder_length(text) <= tokens}
    if fitting:
        text = max(fitting, key=lambda passage: len(fitting[passage]) * encoder_length(passage))
        return text, fitting[text]
    text = " ".join(generate_document(0, number).text for number in range(3))
    while encoder_length(text) > tokens:
        text = text.rpartition(" ")[0]
    return text, [f"What is said about word {number}?" for number in range(12)]


def questions(run: Finetuning, repeats: int) -> dict[str, Any]:
    """Compare ways to ask many questions on one passage."""
    assembly = run.assembly
    assembly.model.eval()
    model = language_model_of(assembly.model, assembly.decoder_tokenizer, assembly.processors)
    processor: Any = assembly.processors["text"]
    passage, its_questions = passage_and_questions(processor.max_length, lambda text: len(processor.encode(text).ids))
    docks = metalm.encode(model, [passage])
    rest = [metalm.Session([metalm.Causal(f"\n{question}\n")]) for question in its_questions]
    texts: dict[str, list[str]] = {}

    def after(content: Any) -> list[metalm.Session]:
        return [metalm.Session([metalm.Docked("text", content), *session]) for session in rest]

    def shared() -> None:
        prefix = metalm.Prefix(model, metalm.Session([metalm.Docked("text", passage)]))
        texts["prefix"] = prefix.generate(rest, max_new_tokens=1)

    def docked() -> None:
        texts["docks"] = model.generate(after(docks[0]), max_new_tokens=1)

    def as_text() -> None:
        texts["text"] = model.generate(after(passage), max_new_tokens=1)

    times = alternate({"prefix": shared, "docks": docked, "text": as_text}, repeats)
    if not texts["prefix"] == texts["docks"] == texts["text"]:
        raise SystemExit("the texts differ")
    return {
        f"{len(its_questions)} questions: prefix against text (x, median)": ratio(times, "prefix", "text")[0],
        f"{len(its_questions)} questions: encoded docks against text (x)": ratio(times, "docks", "text")[0],
        "ms a question with a prefix": statistics.median(times["prefix"]) / len(its_questions) * 1e3,
        "ms a question with encoded docks": statistics.median(times["docks"]) / len(its_questions) * 1e3,
        "ms a question with the passage docked as text": statistics.median(times["text"]) / len(its_questions) * 1e3,
        "encoder tokens of the passage": len(processor.encode(passage).ids),
        "decoder positions of the passage": len(docks[0]),
    }


def main() -> None:
    options = arguments(
        __doc__ or "",
        steps={"type": int, "default": 12, "help": "steps of an epoch"},
        batch={"type": int, "default": 8, "help": "sessions of a step"},
        factor={"type": int, "default": 8, "help": "encoder outputs of a decoder position"},
        tiny={"action": "store_true", "help": "a tiny encoder from random weights, to check the script"},
    )
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    run = prepared_run(options, 3 if options.quick else options.steps)
    with tempfile.TemporaryDirectory() as folder:
        figures = epoch(run, Path(folder))
    figures |= questions(run, repeats=2 if options.quick else 5)
    report("encode once", figures, options)


if __name__ == "__main__":
    main()
