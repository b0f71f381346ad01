"""Finetuning a GPT-2-shaped decoder: examples per second of the program, of plain loops, and of TRL's SFTTrainer.

Every method trains the same model from the same weights on the same sessions (RTE, BoolQ and SST-2, the first flan
template, 16 sessions per step, bf16 autocast), in its own process. The processes take their steps in turn, in groups
that fit into memory (--together); the program's default method is in every group, and each method is compared with it
there. Losses are compared with those of the padded loop with full logits, or else of the first loop: they must agree to
--tolerance nats wherever the batches are the same. Only TRL's packing and grouping by length choose other batches.

Rates are examples over seconds, of all steps; ratios are medians over the steps. Peak memory is the memory of a process
above the loaded model.
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
from finetuning_ways import LEARNING_RATE, BenchmarkSetup, Memory, compact_loss, full_loss, ours, plain
from transformers.utils import logging

from common import interval, machine

DEFAULT_METHOD = "ours: default (pack)"
"""The program's default on both devices."""
REFERENCE_METHOD = "loop: padded, full logits"
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
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    DEFAULT_METHOD: ("ours", {"row_packing": "auto"}),
    "ours: pad": ("ours", {"row_packing": "pad"}),
    REFERENCE_METHOD: ("plain", {"loss_of": full_loss}),
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
OPTIONS_THAT_CHANGE_BATCHES = ("packing", "train_sampling_strategy")
IDLE_GIB, STEP_GIB = 1.75, 4.0
"""Maximum memory of a process on a CPU, between its steps and during a step, in GiB."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="4 steps per method, for a first look")
    parser.add_argument("--tiny", action="store_true", help="a tiny model with all methods, on a CPU")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--attention", default="sdpa", help="attention of plain loops; and of the program, unless it is sdpa"
    )
    parser.add_argument(
        "--trl-attention", default="sdpa", help="attention of TRL; its packing needs flash_attention_2 on a GPU"
    )
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    parser.add_argument("--steps", type=int, default=15, help="measured steps per method, after --warm steps")
    parser.add_argument("--warm", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--processor-time", action="store_true", help="measure processor time (on a CPU that other programs use)"
    )
    parser.add_argument(
        "--tolerance", type=float, default=0.03, help="maximum difference of losses of the same step, in nats"
    )
    parser.add_argument(
        "--together", type=int, help="methods per group, at least 2 (default: as many as fit into memory)"
    )
    parser.add_argument(
        "--ways", default="", help="only methods whose names contain one of these words (comma-separated)"
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    if options.quick or options.tiny:
        options.steps = 4
    return options


def recipe_of(options: argparse.Namespace, shape: dict[str, Any], model: str) -> dict[str, Any]:
    """Recipe of the program, with real tasks if METALM_DATA has them, else those of the miniature world."""
    root = Path(os.environ.get("METALM_DATA", "-"))
    tasks = TASKS if all((root / name).is_dir() for name in TASKS) else ["world"]
    return {
        "command": "finetune",
        "model": {
            # The program chooses its own attention where the loops have the default.
            "decoder": {
                "checkpoint": model,
                "dropout": 0.0,
                "attention": "auto" if options.attention == "sdpa" else options.attention,
            },
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
            "pretrained_learning_rate": {"decoder": LEARNING_RATE},
            "weight_decay": 0.0,
            "schedule": "constant",
            "warmup_steps": 0,
            "precision": options.precision,
        },
    }


def make_setup(options: argparse.Namespace, shape: dict[str, Any], folder: Path) -> BenchmarkSetup:
    """Train the tokenizer, save the model, and build the sessions of every step."""
    from metalm_cli.config.schema.model import ModelConfig
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
    parts = ModelConfig.model_validate({"decoder": {"config": config, "tokenizer": tokenizer, "dropout": 0.0}})
    assembly = build_metalm(parts, seed=0, sample=lambda count: corpus.sample(count, 0))
    save_model(folder / "model", assembly.model, assembly.decoder_tokenizer, assembly.processors)
    tokenise = SessionTokeniser(assembly.decoder_tokenizer, {})
    session_builder = SessionBuilder(corpus, tokenise, LengthLimits.of(tokenise, shape["length"]))
    batch, count = shape["batch"], options.warm + options.steps
    steps = []
    for step in range(count):
        sessions = [session_builder.session(number).tokenised for number in range(step * batch, (step + 1) * batch)]
        steps.append([(tokenised.ids.tolist(), int(tokenised.trained.argmax())) for tokenised in sessions])
    sizes = [len(ids) for step in steps for ids, _ in step]
    total = sum(parameter.numel() for parameter in assembly.model.parameters())
    print(
        f"{total / 1e6:.1f}M parameters; {', '.join(recipe['data']['tasks'])}: {len(sizes)} sessions of "
        f"{statistics.mean(sizes):.0f} tokens on average (maximum {max(sizes)}), {batch} per step"
    )
    width = max(shape["width"], max(sizes))
    return BenchmarkSetup(
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


def silence_libraries() -> None:
    """Silence the libraries, so that only figures are printed."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    warnings.simplefilter("ignore")
    disable_progress_bars()
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def serve(setup: BenchmarkSetup, kind: str, method_options: dict[str, Any], pipe: Any) -> None:
    """Process of a method: takes a step at each turn."""
    clock = time.process_time if setup.processor_time else time.perf_counter
    silence_libraries()
    torch.set_num_threads(setup.threads)
    start, memory = 0.0, None

    def wait_for_turn() -> None:
        nonlocal start, memory
        memory = memory or Memory(setup.device)
        if pipe.recv() is None:
            pipe.send(memory.peak())
            sys.exit()
        start = clock()

    def report_step(loss: float, examples: float) -> None:
        if setup.device == "cuda":
            torch.cuda.synchronize()
        pipe.send((clock() - start, loss, examples))

    if kind == "trl":
        train_trl(setup, wait_for_turn, report_step, **method_options)
        return
    if "width" in method_options:
        method_options = {**method_options, "width": setup.width}
    step = ours(setup, **method_options) if kind == "ours" else plain(setup, **method_options)
    for number in range(len(setup.steps) + 1):
        wait_for_turn()
        report_step(step(number), len(setup.steps[number]))


def groups_of(names: list[str], together: int | None, device: str) -> list[list[str]]:
    """Groups of methods that fit into memory together, each with the default method."""
    size = together or len(names)
    try:
        lines = Path("/proc/meminfo").read_text().splitlines() if together is None and device == "cpu" else []
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("MemAvailable"):
            size = int((int(line.split()[1]) / 2**20 - STEP_GIB) / IDLE_GIB)
    other_methods = [name for name in names if name != DEFAULT_METHOD]
    default_group = [DEFAULT_METHOD] if DEFAULT_METHOD in names else []
    count = max(1, -(-len(other_methods) // max(1, size - len(default_group))))
    size = -(-len(other_methods) // count)
    return (
        [[*default_group, *other_methods[start : start + size]] for start in range(0, len(other_methods), size)]
        if other_methods
        else [default_group]
    )


def measure(setup: BenchmarkSetup, groups: list[list[str]], warm: int, trl_attention: str) -> dict[str, Any]:
    """Figures of all methods; those of the default are over all groups, its memory is the maximum."""
    figures: dict[str, Any] = {}
    for group in groups:
        group_figures = _measure_group(setup, group, warm, trl_attention)
        default_figures = group_figures.pop(DEFAULT_METHOD, None)
        for method_figures in group_figures.values():
            if isinstance(default_figures, dict) and isinstance(method_figures, dict):
                method_figures["base rates"], method_figures["base examples/s"] = (
                    default_figures["rates"],
                    default_figures["examples/s"],
                )
        previous_figures = figures.get(DEFAULT_METHOD)
        if isinstance(default_figures, dict) and isinstance(previous_figures, dict):
            default_figures["seconds"] += previous_figures["seconds"]
            default_figures["examples"] += previous_figures["examples"]
            default_figures["examples/s"] = default_figures["examples"] / default_figures["seconds"]
            default_figures["peak MiB"] = max(default_figures["peak MiB"], previous_figures["peak MiB"])
        if default_figures is not None:
            figures[DEFAULT_METHOD] = default_figures
        figures.update(group_figures)
    return figures


def _measure_group(setup: BenchmarkSetup, names: list[str], warm: int, trl_attention: str) -> dict[str, Any]:
    """Figures of a group's methods, which take their steps in turn; a message for a method that failed."""
    context = get_context("spawn")
    pipes: dict[str, Any] = {}
    processes: dict[str, Any] = {}
    for name in names:
        parent_end, child_end = context.Pipe()
        method_setup = replace(setup, attention=trl_attention) if METHODS[name][0] == "trl" else setup
        process = context.Process(target=serve, args=(method_setup, *METHODS[name], child_end), daemon=True)
        process.start()
        child_end.close()
        pipes[name], processes[name] = parent_end, process
    steps: dict[str, list[tuple[float, float, float]]] = {name: [] for name in names}
    failures: dict[str, str] = {}

    def send_and_receive(name: str, message: Any) -> Any:
        try:
            pipes[name].send(message)
            return pipes[name].recv()
        except (EOFError, OSError):
            processes[name].join(10)
            failures[name] = _describe_exit(processes[name].exitcode)
            return None

    for step in range(len(setup.steps)):
        order = names[step % len(names) :] + names[: step % len(names)]
        for name in order:
            if name not in failures and (answer := send_and_receive(name, step)) is not None:
                steps[name].append(answer)
    peaks = {name: send_and_receive(name, None) for name in names if name not in failures}
    for process in processes.values():
        process.join(10)
    return {name: failures.get(name) or _figures(steps[name], warm, peaks[name]) for name in names}


def _describe_exit(code: int | None) -> str:
    if code is not None and -code == signal.SIGKILL:
        return "killed by the system, probably for lack of memory: lower --together"
    return "failed; see its error above"


def _figures(steps: list[tuple[float, float, float]], warm: int, peak: float) -> dict[str, Any]:
    measured_steps = steps[warm:]
    seconds = sum(step_seconds for step_seconds, _, _ in measured_steps)
    examples = sum(step_examples for _, _, step_examples in measured_steps)
    return {
        "examples/s": examples / seconds,
        "seconds": seconds,
        "examples": examples,
        "peak MiB": peak,
        "losses": [loss for _, loss, _ in steps],
        "rates": [step_examples / step_seconds for step_seconds, _, step_examples in measured_steps],
    }


def report(figures: dict[str, Any], options: argparse.Namespace) -> list[str]:
    """Print the figures; return the methods whose losses differ from the reference's."""
    loops = [name for name in figures if METHODS[name][0] == "plain"]
    reference = figures.get(REFERENCE_METHOD) or (figures[loops[0]] if loops else None)
    differing = []
    print(
        f"\n{'way':<40}{'examples/s':>11}{'default is':>14}{'95% interval':>14}{'peak MiB':>10}{'loss differs by':>17}"
    )
    for name, method_figures in figures.items():
        if isinstance(method_figures, str):
            print(f"{name:<40}{method_figures}")
            continue
        loss_difference = ""
        if any(key in METHODS[name][1] for key in OPTIONS_THAT_CHANGE_BATCHES):
            loss_difference = "other batches"
        elif isinstance(reference, dict):
            max_difference = max(abs(a - b) for a, b in zip(method_figures["losses"], reference["losses"], strict=True))
            loss_difference = f"{max_difference:.4f}"
            if not max_difference <= options.tolerance:
                differing.append(name)
        ratio, spread = "", ""
        if "base rates" in method_figures:
            pairs = [a / b for a, b in zip(method_figures["base rates"], method_figures["rates"], strict=True)]
            ratio, spread = f"{statistics.median(pairs):.2f}x", "{:.2f}-{:.2f}".format(*interval(pairs))
        print(
            f"{name:<40}{method_figures['examples/s']:>11.2f}{ratio:>14}{spread:>14}"
            f"{method_figures['peak MiB']:>10.0f}{loss_difference:>17}"
        )
    return differing


def main() -> None:
    options = arguments()
    silence_libraries()
    torch.set_num_threads(options.threads)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no GPU available; --tiny checks the script on a CPU")
    shape = SHAPES["tiny" if options.tiny else options.device]
    words = [word for word in options.ways.split(",") if word]
    names = [name for name in METHODS if not words or any(word in name for word in words)]
    if not available() and any(METHODS[name][0] == "trl" for name in names):
        print(INSTALL)
        names = [name for name in names if METHODS[name][0] != "trl"]
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    with tempfile.TemporaryDirectory() as folder:
        setup = make_setup(options, shape, Path(folder))
        groups = groups_of(names, options.together, options.device)
        if len(groups) > 1:
            print(f"{len(groups)} groups of up to {len(groups[0])} methods, each group in turn")
        figures = measure(setup, groups, options.warm, options.trl_attention)
    differing = report(figures, options)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "ways": figures}, indent=2) + "\n")
    if differing:
        raise SystemExit(f"losses differ by more than {options.tolerance} nats: {', '.join(differing)}")


if __name__ == "__main__":
    main()
