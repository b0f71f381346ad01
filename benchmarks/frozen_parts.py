"""A training step whose decoder is frozen, compared with a bare PyTorch loop, and with another version of the program.

An encoder (MiniLM) and its connector train through a frozen decoder (SmolLM2, 135 million parameters); with
``--images``, DeiT-tiny through a decoder of 260 thousand parameters. Each way has a process of its own; the processes
take their steps in turn, on the same sessions, and each is compared with the program's step of the same turn.

*ours*: the program.
*bare*: only the same modules, freezing and dtype (with bf16: autocast, and the decoder in bf16): the step's sessions
packed into short rows, all in one pass, embeddings with docked vectors inserted, the decoder with SDPA and a dense
mask, the head at trained positions, cross-entropy, clipping, fused AdamW.
*before*: the program from the source tree of another version (``--before DIR``).

Memory is the resident memory of a process after its last step, and its peak, less what it had before the run opened its
data and its model.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import torch
from image_road import recipe as recipe_of_images
from transformers.utils import logging

from common import interval, optimiser_step

DECODER, ENCODER = "smollm2-135m-instruct-q4_1", "sentence-transformers/all-MiniLM-L6-v2"
LEARNING_RATE = 1e-6
"""A small rate: at first the loss is that of random docks, and a larger one would let differences of rounding grow."""
MAX_DIFFERENCE = {"fp32": 1e-5, "bf16": 0.05}
"""Maximum difference of the losses of a step, as a share of the loss. In bf16, each way differs from fp32 by up to a
fiftieth after two steps, because the connector is new (docs/LOG.md); the equality of the ways is that of fp32."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--steps", type=int, default=12, help="measured steps of each way, after --warm steps")
    parser.add_argument("--warm", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8, help="sessions of a step")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--processor-time", action="store_true", help="measure processor time (on a machine that other programs use)"
    )
    parser.add_argument("--before", type=Path, help="folder of the source tree (src) of another version")
    parser.add_argument("--quick", action="store_true", help="4 steps of each way, for a first look")
    parser.add_argument("--images", action="store_true", help="captions: DeiT-tiny and 260 thousand parameters instead")
    parser.add_argument("--tiny", action="store_true", help="tiny models from random weights, to check the script")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.steps = 4
    return options


def recipe_of(options: argparse.Namespace) -> dict[str, Any]:
    """Recipe of the program: SST-2 if METALM_DATA has it, else tasks of the miniature world."""
    if options.images:
        values = recipe_of_images(options.warm + options.steps)
        values["model"]["decoder"] |= {"trains": "none", "dropout": 0.0}
        values["model"]["encoders"]["vision"] |= {"trains": "all", "dropout": 0.0}
        values["train"] |= {"batch_size": options.batch, **settings_of(options)}
        return values
    has_data = (Path(os.environ.get("METALM_DATA", "-")) / "sst2").is_dir()
    decoder: dict[str, Any] = {"checkpoint": DECODER}
    encoder: dict[str, Any] = {"checkpoint": ENCODER}
    if options.tiny:
        new = {"new": {"vocab_size": 512, "documents": 200}}
        shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
        decoder = {"config": {"model_type": "llama", **shape}, "tokenizer": new}
        encoder = {"config": {"model_type": "bert", **shape}, "tokenizer": new}
    return {
        "command": "finetune",
        "model": {
            "decoder": {**decoder, "trains": "none", "dropout": 0.0},
            "encoders": {"text": {**encoder, "dropout": 0.0}},
        },
        "data": {
            "tasks": ["sst2" if has_data else "world"],
            "templates": {"collection": "flan", "template_sampling": "first"},
            "mixture": {"strategy": "equal", "cap_examples": None},
            "sequence_length": 256,
            "validation": {"examples": 0},
        },
        "train": {"steps": options.warm + options.steps, "batch_size": options.batch, **settings_of(options)},
    }


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """Settings of training, the same for all models."""
    return {
        "learning_rate": LEARNING_RATE,
        "weight_decay": 0.0,
        "schedule": "constant",
        "warmup_steps": 0,
        "precision": options.precision,
    }


# -- a process for each way -------------------------------------------------------------------------------------------


def serve(options: argparse.Namespace) -> None:
    """Process of a way: takes a step for each line that it reads, and writes seconds, loss and memory."""
    from metalm_cli.config.schema.recipes import FinetuneRecipe
    from metalm_cli.training.finetuning import Finetuning, RunCallbacks, RunOptions
    from metalm_cli.training.trainer import Trainer

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    process = psutil.Process()
    begin = process.memory_info().rss
    callbacks = RunCallbacks(lambda *_: None, lambda *_: [], lambda _: None)
    recipe = FinetuneRecipe.model_validate(recipe_of(options))
    run = Finetuning(recipe, "", RunOptions("benchmark", offline=True), callbacks)
    run.prepare()
    if options.serve == "bare":
        run.__dict__["packing"] = replace(run.packing, one_row=False)
    trainer = Trainer(recipe.train, recipe.train.steps, run.objective, run.root, run.accelerator, run.padded_length)
    dataset = run.make_dataset(trainer)
    step_rows = dataset.steps(dataset.slot_indices)
    rows = [dataset.join(next(step_rows)) for _ in range(recipe.train.steps)]
    with tempfile.TemporaryDirectory() as folder:
        step = bare_loop(run, options.precision) if options.serve == "bare" else program(run, trainer, Path(folder))
        clock = time.process_time if options.processor_time else time.perf_counter
        for number, _ in enumerate(sys.stdin):
            start = clock()
            loss = step(rows[number])
            seconds = clock() - start
            memory = [(size - begin) / 2**20 for size in (process.memory_info().rss, peak_bytes())]
            print(json.dumps({"seconds": seconds, "loss": loss, "memory": memory}), flush=True)


def program(run: Any, trainer: Any, folder: Path) -> Callable[[Any], float]:
    """Step of the program, which holds the frozen weights as its training loop does."""
    from metalm_cli.training.step_metrics import StepMetrics

    if hasattr(run, "frozen_weights"):  # not in versions before it
        from metalm_cli.training.compute.frozen_weights import hold_frozen_weights

        hold_frozen_weights(run, SimpleNamespace(path=folder)).__enter__()
    meter, bad = StepMetrics(trainer.collectives), torch.zeros((), dtype=torch.float64)

    def step(rows: Any) -> float:
        optimiser_step(trainer, rows, meter, bad)
        trainer.state.step += 1
        return float(meter.pop_record()["loss"])

    return step


def bare_loop(run: Any, precision: str) -> Callable[[Any], float]:
    """Step of a bare loop."""
    from training_step import bare_loss

    model = run.assembly.model
    model.decoder.set_attn_implementation("sdpa")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    if precision == "bf16":
        for parameter in model.decoder.parameters():
            parameter.data = parameter.data.bfloat16()

    def step(rows: Any) -> float:
        batch = run.objective.collate(rows.rows)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = bare_loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def peak_bytes() -> int:
    """Peak resident memory of this process; 0 where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


# -- taking turns -----------------------------------------------------------------------------------------------------


def measure(options: argparse.Namespace, ways: dict[str, str]) -> dict[str, list[dict[str, Any]]]:
    """Answers of each way's process to every step.

    Args:
        options: The options.
        ways: PYTHONPATH of each way.
    """
    processes = {}
    for way, path in ways.items():
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(options.threads)}
        command = [sys.executable, *sys.argv, "--serve", way]
        processes[way] = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
    answers: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    try:
        for step in range(options.warm + options.steps):
            order = list(ways)[step % len(ways) :] + list(ways)[: step % len(ways)]
            for way in order:
                stdin, stdout = processes[way].stdin, processes[way].stdout
                assert stdin is not None
                assert stdout is not None
                stdin.write("\n")
                while not (line := stdout.readline()).startswith("{"):
                    if not line:
                        raise SystemExit(f"{way}: the process has ended; see its error above")
                answers[way].append(json.loads(line))
    finally:
        for process in processes.values():
            process.terminate()
    return answers


def main() -> None:
    options = arguments()
    if options.serve:
        serve(options)
        return
    source = Path(__file__).resolve().parents[1] / "src"
    ways = {"ours": str(source), "bare": str(source)}
    if options.before is not None:
        ways["before"] = str(options.before.resolve())
    answers = measure(options, ways)
    figures: dict[str, Any] = {}
    print(f"{options.precision}, {options.batch} sessions a step, {options.threads} threads, {options.steps} steps")
    print(
        f"{'way':<10}{'seconds':>9}{'ours is':>9}{'95% interval':>16}{'MiB':>8}{'peak MiB':>10}{'loss differs by':>17}"
    )
    for way, way_answers in answers.items():
        seconds = [answer["seconds"] for answer in way_answers[options.warm :]]
        ours = [answer["seconds"] for answer in answers["ours"][options.warm :]]
        ratios = [other / own for other, own in zip(seconds, ours, strict=True)]
        pairs = zip(way_answers, answers["ours"], strict=True)
        difference = max(abs(first["loss"] - second["loss"]) / second["loss"] for first, second in pairs)
        low, high = interval(ratios)
        resident, peak = way_answers[-1]["memory"]
        figures[way] = {"seconds": seconds, "ratios": ratios, "MiB": resident, "peak MiB": peak, "loss": difference}
        figures[way]["losses"] = [answer["loss"] for answer in way_answers]
        print(
            f"{way:<10}{statistics.median(seconds):>9.3f}{statistics.median(ratios):>8.2f}x{f'{low:.2f}-{high:.2f}':>16}"
            f"{resident:>8.0f}{peak:>10.0f}{difference:>17.1e}"
        )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    differing = [way for way, values in figures.items() if not values["loss"] <= MAX_DIFFERENCE[options.precision]]
    if differing:
        share = MAX_DIFFERENCE[options.precision]
        raise SystemExit(f"losses differ by more than the share {share} of the loss: {', '.join(differing)}")


if __name__ == "__main__":
    main()
