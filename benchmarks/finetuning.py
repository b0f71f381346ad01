"""Finetuning a GPT-2-shaped decoder: examples per second of the program, of plain loops, and of TRL's SFTTrainer.

Every way trains the same model from the same weights on the same sessions (RTE, BoolQ and SST-2, the first flan
template, 16 sessions a step, bf16 autocast), in a process of its own. The processes take their steps in turn, as many
of them at a time as memory holds (--together); the program's default way is in every such group, and each way is
compared with it there. Losses are put beside those of the padded loop with full logits: they must agree to --tolerance
nats wherever the batches are the same. Only TRL's packing and grouping by length choose other batches.

Rates are examples over seconds, of all steps. Peak memory is what a way's process takes on top of the loaded model.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from datasets import disable_progress_bars
from finetuning_trl import INSTALL, available
from finetuning_trl import train as train_trl
from finetuning_ways import LEARNING_RATE, Given, Memory, compact_loss, full_loss, ours, plain
from transformers.utils import logging

from common import machine

DEFAULT = "ours: default (pack)"
"""What the program does by itself on either device."""
REFERENCE = "loop: padded, full logits"
TASKS = ["rte", "boolq", "sst2"]
SHAPES: dict[str, dict[str, Any]] = {
    "cpu": {"n_embd": 256, "n_layer": 6, "n_head": 4, "vocabulary": 16_384, "length": 512, "width": 512, "batch": 16},
    "cuda": {
        "n_embd": 1024,
        "n_layer": 24,
        "n_head": 16,
        "vocabulary": 16_384,
        "length": 2048,
        "width": 2048,
        "batch": 256,
    },
    "tiny": {"n_embd": 64, "n_layer": 2, "n_head": 2, "vocabulary": 1024, "length": 256, "width": 256, "batch": 8},
}
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    DEFAULT: ("ours", {"row_packing": "auto"}),
    "ours: pad": ("ours", {"row_packing": "pad"}),
    REFERENCE: ("plain", {"loss_of": full_loss}),
    "loop: padded, compact": ("plain", {"loss_of": compact_loss}),
    "loop: sorted by 8, compact": ("plain", {"loss_of": compact_loss, "size": 8}),
    "loop: sorted by 4, compact": ("plain", {"loss_of": compact_loss, "size": 4}),
    "loop: sorted by 2, compact": ("plain", {"loss_of": compact_loss, "size": 2}),
    "loop: packed, compact": ("plain", {"loss_of": compact_loss, "width": 0}),
    "trl: stock, padded": ("trl", {}),
    "trl: stock, padding-free": ("trl", {"padding_free": True}),
    "trl: stock, grouped by length": ("trl", {"train_sampling_strategy": "group_by_length"}),
    "trl: stock, packing": ("trl", {"packing": True}),
    "trl: compact forced, padded": ("trl", {"compact": True}),
    "trl: compact forced, grouped by length": ("trl", {"compact": True, "train_sampling_strategy": "group_by_length"}),
    "trl: compact forced, packing": ("trl", {"compact": True, "packing": True}),
}
OTHER_BATCHES = ("packing", "train_sampling_strategy")
WAITING, WORKING = 1.75, 4.0
"""GiB that a process keeps between its steps on a CPU, and takes in one, at most."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="4 steps each, for a first look")
    parser.add_argument("--tiny", action="store_true", help="a tiny model and the GPU's list of ways, on a CPU")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--attention", default="sdpa", help="of the program and of plain loops")
    parser.add_argument("--trl-attention", default="sdpa", help="of TRL; its packing wants flash_attention_2 on a GPU")
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    parser.add_argument("--steps", type=int, default=15, help="measured steps of each way, after --warm")
    parser.add_argument("--warm", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--processor-time", action="store_true", help="count it alone (a CPU that others use, too)")
    parser.add_argument("--tolerance", type=float, default=0.03, help="nats between losses of the same step")
    parser.add_argument("--together", type=int, help="ways that take turns, more than one (default: as memory holds)")
    parser.add_argument("--ways", default="", help="only ways whose names hold one of these, by commas")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    chosen = parser.parse_args()
    if chosen.quick or chosen.tiny:
        chosen.steps = 4
    return chosen


def recipe_of(options: argparse.Namespace, shape: dict[str, Any], model: str) -> dict[str, Any]:
    """The program's recipe; real tasks where METALM_DATA has them, else the miniature world's."""
    root = Path(os.environ.get("METALM_DATA", "-"))
    tasks = TASKS if all((root / name).is_dir() for name in TASKS) else ["world"]
    return {
        "command": "finetune",
        "model": {
            "decoder": {"checkpoint": model, "dropout": 0.0, "attention": options.attention},
        },
        "data": {
            "tasks": tasks,
            "templates": {"collection": "flan", "template_sampling": "first"},
            "mixture": {"strategy": "equal", "cap_examples": None},
            "sequence_length": shape["length"],
            "validation": {"examples": 0},
        },
        "train": {
            "steps": options.warm + options.steps,
            "batch_size": shape["batch"],
            "learning_rate": LEARNING_RATE,
            "weight_decay": 0.0,
            "schedule": "constant",
            "warmup_steps": 0,
            "precision": options.precision,
        },
    }


def begin(options: argparse.Namespace, shape: dict[str, Any], folder: Path) -> Given:
    """Train the tokenizer, write the model, and make the sessions of every step."""
    from metalm_cli.config.schema.model import Model
    from metalm_cli.config.schema.recipes import FinetuneRecipe
    from metalm_cli.data.examples.session_writer import SessionBuilder
    from metalm_cli.data.examples.task_selection import open_training_tasks
    from metalm_cli.data.examples.truncation import LengthLimits
    from metalm_cli.models.assembly import build_metalm
    from metalm_cli.models.checkpoint_io import save_model
    from metalm_cli.sessions import SessionTokeniser

    recipe = recipe_of(options, shape, str(folder / "model"))
    corpus, _ = open_training_tasks(FinetuneRecipe.model_validate(recipe).data, seed=0)
    config = {"model_type": "gpt2", **{key: shape[key] for key in ("n_embd", "n_layer", "n_head")}}
    config |= {"n_positions": max(shape["length"], 512)}
    tokenizer = {"new": {"vocab_size": shape["vocabulary"], "documents": 6_000}}
    parts = Model.model_validate({"decoder": {"config": config, "tokenizer": tokenizer, "dropout": 0.0}})
    made = build_metalm(parts, seed=0, sample=lambda count: corpus.sample(count, 0))
    save_model(folder / "model", made.model, made.decoder_tokenizer, made.processors)
    tokenise = SessionTokeniser(made.decoder_tokenizer, {})
    writer = SessionBuilder(corpus, tokenise, LengthLimits.of(tokenise, shape["length"]))
    batch, count = shape["batch"], options.warm + options.steps
    steps = []
    for step in range(count):
        sessions = [writer.session(number).session for number in range(step * batch, (step + 1) * batch)]
        steps.append([(one.ids.tolist(), int(one.trained.argmax())) for one in sessions])
    sizes = [len(ids) for step in steps for ids, _ in step]
    total = sum(one.numel() for one in made.model.parameters())
    print(
        f"{total / 1e6:.1f}M parameters; {', '.join(recipe['data']['tasks'])}: {len(sizes)} sessions of "
        f"{statistics.mean(sizes):.0f} tokens (most {max(sizes)}), {batch} a step"
    )
    width = max(shape["width"], max(sizes))
    return Given(
        folder / "model",
        recipe,
        steps,
        options.device,
        options.precision,
        options.attention,
        width,
        options.threads,
        options.processor_time,
    )


def quiet() -> None:
    """Nothing but figures."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    warnings.simplefilter("ignore")
    disable_progress_bars()
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def serve(given: Given, kind: str, how: dict[str, Any], pipe: Any) -> None:
    """A way's process: a step at each turn."""
    clock = time.process_time if given.processor_time else time.perf_counter
    quiet()
    torch.set_num_threads(given.threads)
    began, memory = 0.0, None

    def turn() -> None:
        nonlocal began, memory
        memory = memory or Memory(given.device)
        if pipe.recv() is None:
            pipe.send(memory.peak())
            sys.exit()
        began = clock()

    def done(loss: float, examples: float) -> None:
        if given.device == "cuda":
            torch.cuda.synchronize()
        pipe.send((clock() - began, loss, examples))

    if kind == "trl":
        train_trl(given, turn, done, **how)
        return
    if "width" in how:
        how = {**how, "width": given.width}
    step = ours(given, **how) if kind == "ours" else plain(given, **how)
    for number in range(len(given.steps) + 1):
        turn()
        done(step(number), len(given.steps[number]))


def groups_of(names: list[str], together: int | None, device: str) -> list[list[str]]:
    """Ways that take turns; the default is in every group. What memory does not hold, the system would kill."""
    size = together or len(names)
    try:
        lines = Path("/proc/meminfo").read_text().splitlines() if together is None and device == "cpu" else []
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("MemAvailable"):
            size = int((int(line.split()[1]) / 2**20 - WORKING) / WAITING)
    others = [name for name in names if name != DEFAULT]
    leader = [DEFAULT] if DEFAULT in names else []
    count = max(1, -(-len(others) // max(1, size - len(leader))))
    size = -(-len(others) // count)
    return [[*leader, *others[at : at + size]] for at in range(0, len(others), size)] if others else [leader]


def measure(given: Given, groups: list[list[str]], warm: int, trl_attention: str) -> dict[str, Any]:
    """The figures of all ways; the default's are of all groups, and its memory the most of them."""
    found: dict[str, Any] = {}
    for group in groups:
        made = _in_turn(given, group, warm, trl_attention)
        base = made.pop(DEFAULT, None)
        for one in made.values():
            if isinstance(base, dict) and isinstance(one, dict):
                one["base rates"], one["base examples/s"] = base["rates"], base["examples/s"]
        before = found.get(DEFAULT)
        if isinstance(base, dict) and isinstance(before, dict):
            base["seconds"] += before["seconds"]
            base["examples"] += before["examples"]
            base["examples/s"] = base["examples"] / base["seconds"]
            base["peak MiB"] = max(base["peak MiB"], before["peak MiB"])
        if base is not None:
            found[DEFAULT] = base
        found.update(made)
    return found


def _in_turn(given: Given, names: list[str], warm: int, trl_attention: str) -> dict[str, Any]:
    """The figures of a group's ways, taken step by step in turn; a word where one failed."""
    context = get_context("spawn")
    pipes: dict[str, Any] = {}
    processes: dict[str, Any] = {}
    for name in names:
        here, there = context.Pipe()
        own = replace(given, attention=trl_attention) if WAYS[name][0] == "trl" else given
        process = context.Process(target=serve, args=(own, *WAYS[name], there), daemon=True)
        process.start()
        there.close()
        pipes[name], processes[name] = here, process
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in names}
    failed: dict[str, str] = {}

    def ask(name: str, word: Any) -> Any:
        try:
            pipes[name].send(word)
            return pipes[name].recv()
        except (EOFError, OSError):
            processes[name].join(10)
            failed[name] = _why(processes[name].exitcode)
            return None

    for step in range(len(given.steps)):
        order = names[step % len(names) :] + names[: step % len(names)]
        for name in order:
            if name not in failed and (answer := ask(name, step)) is not None:
                found[name].append(answer)
    peaks = {name: ask(name, None) for name in names if name not in failed}
    for process in processes.values():
        process.join(10)
    return {name: failed.get(name) or _figures(found[name], warm, peaks[name]) for name in names}


def _why(code: int | None) -> str:
    if code is not None and -code == signal.SIGKILL:
        return "killed by the system, as it does where memory runs out: lower --together"
    return "failed; its error stands above"


def _figures(steps: list[tuple[float, float, float]], warm: int, peak: float) -> dict[str, Any]:
    kept = steps[warm:]
    seconds = sum(one for one, _, _ in kept)
    examples = sum(one for _, _, one in kept)
    return {
        "examples/s": examples / seconds,
        "seconds": seconds,
        "examples": examples,
        "peak MiB": peak,
        "losses": [loss for _, loss, _ in steps],
        "rates": [count / one for one, _, count in kept],
    }


def report(found: dict[str, Any], options: argparse.Namespace) -> list[str]:
    """Print the figures; returns the ways whose losses are not the reference's."""
    reference = found.get(REFERENCE)
    wrong = []
    print(
        f"\n{'way':<40}{'examples/s':>11}{'default is':>14}{'middle half':>14}{'peak MiB':>10}{'loss differs by':>17}"
    )
    for name, one in found.items():
        if isinstance(one, str):
            print(f"{name:<40}{one}")
            continue
        apart = ""
        if any(key in WAYS[name][1] for key in OTHER_BATCHES):
            apart = "other batches"
        elif isinstance(reference, dict):
            most = max(abs(a - b) for a, b in zip(one["losses"], reference["losses"], strict=True))
            apart = f"{most:.4f}"
            if not most <= options.tolerance:
                wrong.append(name)
        times, half = "", ""
        if "base rates" in one:
            pairs = sorted(a / b for a, b in zip(one["base rates"], one["rates"], strict=True))
            quarter = len(pairs) // 4
            times = f"{one['base examples/s'] / one['examples/s']:.2f}x"
            half = f"{pairs[quarter]:.2f}-{pairs[-1 - quarter]:.2f}"
        print(f"{name:<40}{one['examples/s']:>11.2f}{times:>14}{half:>14}{one['peak MiB']:>10.0f}{apart:>17}")
    return wrong


def main() -> None:
    options = arguments()
    quiet()
    torch.set_num_threads(options.threads)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no GPU here; --tiny checks the script on a CPU")
    shape = SHAPES["tiny" if options.tiny else options.device]
    words = [word for word in options.ways.split(",") if word]
    names = [name for name in WAYS if not words or any(word in name for word in words)]
    if not available() and any(WAYS[name][0] == "trl" for name in names):
        print(INSTALL)
        names = [name for name in names if WAYS[name][0] != "trl"]
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    with tempfile.TemporaryDirectory() as folder:
        given = begin(options, shape, Path(folder))
        groups = groups_of(names, options.together, options.device)
        if len(groups) > 1:
            print(f"{len(groups)} groups of up to {len(groups[0])} ways take turns among themselves")
        found = measure(given, groups, options.warm, options.trl_attention)
    wrong = report(found, options)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "ways": found}, indent=2) + "\n")
    if wrong:
        raise SystemExit(f"losses differ by more than {options.tolerance} nats: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
