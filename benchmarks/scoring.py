"""Speed of option scoring, compared with lm-evaluation-harness's ``hf`` backend and with one option at a time.

Both sides have the same decoder of GPT-2 small's shape (random weights, fp32), the same requests (lm_eval's own, over
METALM_DATA) and the same scores. lm_eval runs at the best of a few batch sizes. The ``loglikelihood`` calls are timed,
including tokenisation, without building the task. The methods take turns; medians and middle halves are printed.

The work ratio is counted, not timed: matrix products of one pass per option with the head at every position (as in
lm_eval, which shares a pass between options that differ only in their last token), over those of shared prefixes with
the head only where an option's token is predicted. The token ratio counts positions only.

Run it on a quiet machine: ``METALM_DATA=DIR python benchmarks/scoring.py``. Two cores need about twelve minutes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from scoring_ways import (
    INSTALL,
    TaskSpec,
    Work,
    data_root,
    lm_eval_is_there,
    measure,
    requests_of,
    save_gpt2_small,
    spread,
    token_ratio,
    work_of_lm_eval,
)

from common import arguments, build, ratio, report, small_recipe
from metalm_cli.inference import LanguageModel
from metalm_cli.inference.scoring.option_scorer import OptionQuestion, Scorer
from metalm_cli.sessions import Causal, Docked, Session

TASKS = {
    "HellaSwag": TaskSpec("hellaswag/hellaswag.yaml", "hellaswag", 30, 3),
    "ARC easy": TaskSpec("arc/arc_easy.yaml", "arc_easy", 40, 6),
    "ARC challenge": TaskSpec("arc/arc_challenge.yaml", "arc_challenge", 24, 4),
    "PIQA": TaskSpec("piqa/piqa.yaml", "piqa", 40, 6),
    "BoolQ, options of one token": TaskSpec("super_glue/boolq/default.yaml", "boolq", 24, 3, goal=1.3),
    "HellaSwag, 5 shots": TaskSpec("hellaswag/hellaswag.yaml", "hellaswag", 24, 2, 5, (1, 4), goal=8.0),
}
GOAL_SHARE = 0.85
"""Share of the work ratio that the speed-up on a task must reach."""
MAX_DIFFERENCE = 1e-4
"""Maximum difference of log-likelihoods, in nats."""
Measurements = dict[str, list[tuple[float, float]]]


def measure_in_turn(methods: dict[str, Callable[[], Any]], repeats: int) -> Measurements:
    """Seconds and MiB of each repetition of each method; the methods take turns."""
    measurements: Measurements = {name: [] for name in methods}
    for repetition in range(repeats):
        names = list(methods) if repetition % 2 == 0 else list(reversed(methods))
        for name in names:
            measurements[name].append(measure(methods[name]))
    return measurements


def summarise(measurements: Measurements, ours: str, peer: str) -> dict[str, Any]:
    """Figures: median times, the speed-up with its middle half, and peak memory."""
    seconds = {name: [second for second, _ in runs] for name, runs in measurements.items()}
    median, low, high = ratio(seconds, ours, peer)
    figures: dict[str, Any] = {f"  {name}: seconds": statistics.median(runs) for name, runs in seconds.items()}
    figures["  times as fast"] = median
    figures["  ... middle half"] = f"{low:.2f} to {high:.2f}"
    figures.update(
        {f"  {name}: peak MiB": round(max(memory for _, memory in runs)) for name, runs in measurements.items()}
    )
    return figures


def max_difference(first: list[Any], second: list[Any]) -> float:
    """Largest difference between the log-likelihoods of two methods."""
    return max(abs(a[0] - b[0]) for a, b in zip(first, second, strict=True))


def against_lm_eval(root: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Compare with lm_eval on every task."""
    from lm_eval.models.huggingface import HFLM

    from metalm_cli.harness.model import HarnessModel

    figures: dict[str, Any] = {}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        save_gpt2_small(folder, root)
        metalm_model = HarnessModel(folder, device=device)
        lm_eval_model = HFLM(folder, device=device, dtype="float32")
    for name, spec in TASKS.items():
        if options.only not in (None, name):
            continue
        requests = requests_of(spec, spec.few if options.quick else spec.items, root)
        figures_of_task = measure_task(name, spec, requests, metalm_model, lm_eval_model, 1 if options.quick else 3)
        print(f"{name}: {figures_of_task[f'{name}: times as fast']:.2f} times as fast", flush=True)
        figures |= figures_of_task
    return figures


def measure_task(
    name: str, spec: TaskSpec, requests: list[Any], metalm_model: Any, lm_eval_model: Any, repeats: int
) -> dict[str, Any]:
    """Compare with lm_eval on one task."""

    def metalm() -> list[Any]:
        metalm_model.scorer = scorers.pop()
        return metalm_model.loglikelihood(requests, disable_tqdm=True)

    def lm_eval() -> list[Any]:
        return lm_eval_model.loglikelihood(requests, disable_tqdm=True)

    scorers = [
        Scorer(metalm_model.language_model) for _ in range(repeats + 1)
    ]  # a new one per repetition, with an empty cache
    batch_size = best_batch_size(lm_eval_model, requests, spec.sizes[:1] if repeats == 1 else spec.sizes)
    lm_eval_model.batch_size_per_gpu = batch_size
    metalm_model.scorer = scorers.pop()
    metalm_model.loglikelihood(requests[:2], disable_tqdm=True)  # warm-up
    results: dict[str, list[Any]] = {}
    methods = {
        "metalm": lambda: results.update(metalm=metalm()),
        "lm_eval": lambda: results.update(lm_eval=lm_eval()),
    }
    measurements = measure_in_turn(methods, repeats)
    pairs = metalm_model.continuation_tokenizer.encode_pairs([request.args for request in requests])
    decoder, scorer = metalm_model.language_model.model.decoder, metalm_model.scorer
    work = Work(scorer.positions, scorer.projected)
    padded_work = Work(scorer.positions, scorer.projected, scorer.padding)
    work_ratio = work_of_lm_eval(pairs).flops(decoder) / work.flops(decoder)
    difference = max_difference(results["metalm"], results["lm_eval"])
    figures = {
        f"{name}": f"{len({pair.context for pair in pairs})} items, {len(pairs)} options",
        "  tokens of an option": statistics.mean(len(pair.continuation) for pair in pairs),
        "  token ratio (n·c + Σo) / (c + Σo)": token_ratio(pairs),
        "  work ratio, counted": work_ratio,
        "  ... with our padding": work_of_lm_eval(pairs).flops(decoder) / padded_work.flops(decoder),
        "  lm_eval: batch size": batch_size,
        **summarise(measurements, "metalm", "lm_eval"),
        "  goal": spec.goal or GOAL_SHARE * work_ratio,
        "  largest difference, nats": f"{difference:.1e}" + ("" if difference <= MAX_DIFFERENCE else " TOO LARGE"),
    }
    reached = figures["  times as fast"] >= figures["  goal"]
    figures["  goal reached"] = "yes" if reached else "NO"
    return {key if key == name else f"{name}:{key[1:]}": value for key, value in figures.items()}


def best_batch_size(lm_eval_model: Any, requests: list[Any], sizes: tuple[int, ...]) -> int:
    """Fastest batch size of lm_eval on a sample of the requests."""
    sample = requests[:: max(1, len(requests) // max(8, sizes[-1]))]
    seconds = {}
    for size in sizes:
        lm_eval_model.batch_size_per_gpu = size
        lm_eval_model.loglikelihood(sample[:2], disable_tqdm=True)
        seconds[size] = measure(lambda: lm_eval_model.loglikelihood(sample, disable_tqdm=True))[0]
    return min(seconds, key=lambda size: seconds[size])


def measure_docked(root: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Compare scoring by a MetaLM, which encodes each question once, with one option at a time."""
    import json

    _, assembly, _ = build(small_recipe())
    language_model = LanguageModel(assembly.model.eval(), assembly.tokenizer, assembly.processors)
    if torch.cuda.is_available():
        language_model.to("cuda")
    items = [
        json.loads(line) for line in spread(root / "hellaswag" / "validation.jsonl.gz", 8 if options.quick else 60)
    ]
    questions = [(f"{item['activity_label']}: {item['ctx']}", item["endings"]) for item in items]
    sessions = [
        Session([Docked("text", text), Causal(" " + ending, trained=True)])
        for text, endings in questions
        for ending in endings
    ]
    scorers = [Scorer(language_model) for _ in range(8)]
    results: dict[str, list[float]] = {}
    last_scorer = scorers[:1]

    def shared() -> None:
        tokenizer, tokenise = language_model.decoder_tokenizer, language_model.tokenise
        option_questions = [
            OptionQuestion(tokenise(Session([Docked("text", text)])), tuple(map(own_ids(tokenizer), endings)))
            for text, endings in questions
        ]
        scorer = last_scorer[0] = scorers.pop()
        results["shared"] = [
            float(value) for result in scorer.score(option_questions) for value in result.log_likelihood
        ]

    methods = {
        "metalm": shared,
        "one option at a time": lambda: results.update(naive=language_model.log_likelihood(sessions, 1).tolist()),
        "16 options at a time": lambda: language_model.log_likelihood(sessions, 16),
    }
    measurements = measure_in_turn(methods, 2 if options.quick else 5)
    figures = summarise(measurements, "metalm", "one option at a time")
    difference = max(abs(a - b) for a, b in zip(results["shared"], results["naive"], strict=True))
    figures["  times fewer decoder positions"] = (
        sum(len(language_model.tokenise(session)) for session in sessions) / last_scorer[0].positions
    )
    figures["  times fewer contents encoded"] = len(sessions) / last_scorer[0].docks.encoded
    figures["  times 16 at a time"] = ratio(
        {method: [run_seconds for run_seconds, _ in runs] for method, runs in measurements.items()},
        "metalm",
        "16 options at a time",
    )[0]
    figures["  largest difference, nats"] = f"{difference:.1e}" + ("" if difference <= MAX_DIFFERENCE else " TOO LARGE")
    name = "HellaSwag docked into a MetaLM"
    return {
        name: f"{len(questions)} items, {len(sessions)} options",
        **{f"{name}:{key[1:]}": value for key, value in figures.items()},
    }


def own_ids(tokenizer: Any) -> Callable[[str], Any]:
    """Token ids of an option after the delimiter."""
    import numpy as np

    return lambda ending: np.array(tokenizer.encode_continuation(" " + ending), dtype=np.int64)


def main() -> None:
    options = arguments(
        __doc__ or "", only={"choices": list(TASKS), "help": "only this task of the comparison with lm_eval"}
    )
    root = data_root()
    if root is None:
        print("METALM_DATA holds no hellaswag: nothing to score")
        return
    load = os.getloadavg()[0]
    if load > 0.7:
        print(f"warning: other programs are running (load {load:.1f}); the figures are not reliable")
    figures: dict[str, Any] = {"load before": round(load, 2)}
    if options.only is None:
        figures |= measure_docked(root, options)
    if lm_eval_is_there():
        figures |= against_lm_eval(root, options)
    else:
        print(INSTALL)
    report("Scoring options", figures, options)


if __name__ == "__main__":
    main()
