"""How fast options are scored: beside lm-evaluation-harness's ``hf`` backend, and beside one option at a time.

The same decoder of GPT-2 small's shape (random weights, fp32), the same requests (lm_eval's own, over METALM_DATA), the
same scores. lm_eval runs at the best of a few batch sizes. Timed is its model's ``loglikelihood(requests)`` and ours,
tokenising included, building the task left out. The ways take turns; printed are medians and middle halves.

The work ratio is counted, not timed: matrix products of one pass an option with the head at every position (as lm_eval
computes it, options that differ in their last token alone being one), over those of shared prefixes with the head where
an option's token is predicted. The token ratio counts positions alone.

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
    Wanted,
    Work,
    apart,
    data_root,
    lm_eval_is_there,
    measured,
    requests_of,
    save_gpt2_small,
    spread,
    token_ratio,
)

from common import arguments, build, ratio, report, small_recipe
from metalm_cli.inference import LanguageModel
from metalm_cli.inference.scoring.option_scorer import OptionQuestion, Scorer
from metalm_cli.sessions import Causal, Docked, Session

TASKS = {
    "HellaSwag": Wanted("hellaswag/hellaswag.yaml", "hellaswag", 30, 3),
    "ARC easy": Wanted("arc/arc_easy.yaml", "arc_easy", 40, 6),
    "ARC challenge": Wanted("arc/arc_challenge.yaml", "arc_challenge", 24, 4),
    "PIQA": Wanted("piqa/piqa.yaml", "piqa", 40, 6),
    "BoolQ, options of one token": Wanted("super_glue/boolq/default.yaml", "boolq", 24, 3, goal=1.3),
    "HellaSwag, 5 shots": Wanted("hellaswag/hellaswag.yaml", "hellaswag", 24, 2, 5, (1, 4), goal=8.0),
}
SHARE = 0.85
"""Of the work ratio, that a task must reach."""
SAME = 1e-4
"""Largest difference of log-likelihoods, in nats."""
Turns = dict[str, list[tuple[float, float]]]


def turns(ways: dict[str, Callable[[], Any]], repeats: int) -> Turns:
    """Seconds and MiB of each repetition; the ways take turns."""
    found: Turns = {name: [] for name in ways}
    for turn in range(repeats):
        names = list(ways) if turn % 2 == 0 else list(reversed(ways))
        for name in names:
            found[name].append(measured(ways[name]))
    return found


def told(found: Turns, ours: str, peer: str) -> dict[str, Any]:
    """Medians, the ratio with its middle half, and peak memory."""
    seconds = {name: [second for second, _ in runs] for name, runs in found.items()}
    median, low, high = ratio(seconds, ours, peer)
    figures: dict[str, Any] = {f"  {name}: seconds": statistics.median(runs) for name, runs in seconds.items()}
    figures["  times as fast"] = median
    figures["  ... middle half"] = f"{low:.2f} to {high:.2f}"
    figures.update({f"  {name}: peak MiB": round(max(most for _, most in runs)) for name, runs in found.items()})
    return figures


def worst(one: list[Any], other: list[Any]) -> float:
    """Largest difference of two ways' log-likelihoods."""
    return max(abs(a[0] - b[0]) for a, b in zip(one, other, strict=True))


def against_lm_eval(root: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Every task by both."""
    from lm_eval.models.huggingface import HFLM

    from metalm_cli.harness.model import HarnessModel

    figures: dict[str, Any] = {}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        save_gpt2_small(folder, root)
        ours = HarnessModel(folder, device=device)
        theirs = HFLM(folder, device=device, dtype="float32")
    for name, wanted in TASKS.items():
        if options.only not in (None, name):
            continue
        requests = requests_of(wanted, wanted.few if options.quick else wanted.items, root)
        found = one_task(name, wanted, requests, ours, theirs, 1 if options.quick else 3)
        print(f"{name}: {found[f'{name}: times as fast']:.2f} times as fast", flush=True)
        figures |= found
    return figures


def one_task(name: str, wanted: Wanted, requests: list[Any], ours: Any, theirs: Any, repeats: int) -> dict[str, Any]:
    """A task by both ways."""

    def metalm() -> list[Any]:
        ours.scorer = scorers.pop()
        return ours.loglikelihood(requests, disable_tqdm=True)

    def lm_eval() -> list[Any]:
        return theirs.loglikelihood(requests, disable_tqdm=True)

    scorers = [Scorer(ours.language_model) for _ in range(repeats + 1)]  # nothing is kept from one to the next
    best = best_size(theirs, requests, wanted.sizes[:1] if repeats == 1 else wanted.sizes)
    theirs.batch_size_per_gpu = best
    ours.scorer = scorers.pop()
    ours.loglikelihood(requests[:2], disable_tqdm=True)  # warms up, as the search for a batch size did for the other
    results: dict[str, list[Any]] = {}
    ways = {
        "metalm": lambda: results.update(metalm=metalm()),
        "lm_eval": lambda: results.update(lm_eval=lm_eval()),
    }
    found = turns(ways, repeats)
    pairs = ours.continuation_tokenizer.encode_pairs([one.args for one in requests])
    decoder, scorer = ours.language_model.model.decoder, ours.scorer
    read = Work(scorer.positions, scorer.projected)
    padded = Work(scorer.positions, scorer.projected, scorer.padding)
    bound = apart(pairs).flops(decoder) / read.flops(decoder)
    difference = worst(results["metalm"], results["lm_eval"])
    figures = {
        f"{name}": f"{len({pair.context for pair in pairs})} items, {len(pairs)} options",
        "  tokens of an option": statistics.mean(len(pair.continuation) for pair in pairs),
        "  token ratio (n·c + Σo) / (c + Σo)": token_ratio(pairs),
        "  work ratio, counted": bound,
        "  ... with our padding": apart(pairs).flops(decoder) / padded.flops(decoder),
        "  lm_eval: batch size": best,
        **told(found, "metalm", "lm_eval"),
        "  goal": wanted.goal or SHARE * bound,
        "  largest difference, nats": f"{difference:.1e}" + ("" if difference <= SAME else " TOO LARGE"),
    }
    reached = figures["  times as fast"] >= figures["  goal"]
    figures["  goal reached"] = "yes" if reached else "NO"
    return {key if key == name else f"{name}:{key[1:]}": value for key, value in figures.items()}


def best_size(theirs: Any, requests: list[Any], sizes: tuple[int, ...]) -> int:
    """lm_eval's fastest batch size on some of the requests, from all over them."""
    some = requests[:: max(1, len(requests) // max(8, sizes[-1]))]
    seconds = {}
    for size in sizes:
        theirs.batch_size_per_gpu = size
        theirs.loglikelihood(some[:2], disable_tqdm=True)
        seconds[size] = measured(lambda: theirs.loglikelihood(some, disable_tqdm=True))[0]
    return min(seconds, key=lambda size: seconds[size])


def docked(root: Path, options: argparse.Namespace) -> dict[str, Any]:
    """A MetaLM: each question docked once, against one option at a time."""
    import json

    _, made, _ = build(small_recipe())
    language_model = LanguageModel(made.model.eval(), made.tokenizer, made.processors)
    if torch.cuda.is_available():
        language_model.to("cuda")
    items = [
        json.loads(line) for line in spread(root / "hellaswag" / "validation.jsonl.gz", 8 if options.quick else 60)
    ]
    asked = [(f"{one['activity_label']}: {one['ctx']}", one["endings"]) for one in items]
    sessions = [
        Session([Docked("text", text), Causal(" " + ending, trained=True)])
        for text, endings in asked
        for ending in endings
    ]
    scorers = [Scorer(language_model) for _ in range(8)]
    results: dict[str, list[float]] = {}
    used = scorers[:1]

    def shared() -> None:
        own, reader = language_model.decoder_tokenizer, language_model.tokenise
        questions = [
            OptionQuestion(reader(Session([Docked("text", text)])), tuple(map(own_ids(own), endings)))
            for text, endings in asked
        ]
        scorer = used[0] = scorers.pop()
        results["shared"] = [float(value) for one in scorer.score(questions) for value in one.log_likelihood]

    ways = {
        "metalm": shared,
        "one option at a time": lambda: results.update(naive=language_model.log_likelihood(sessions, 1).tolist()),
        "16 options at a time": lambda: language_model.log_likelihood(sessions, 16),
    }
    found = turns(ways, 2 if options.quick else 5)
    figures = told(found, "metalm", "one option at a time")
    difference = max(abs(a - b) for a, b in zip(results["shared"], results["naive"], strict=True))
    figures["  times fewer decoder positions"] = (
        sum(len(language_model.tokenise(one)) for one in sessions) / used[0].positions
    )
    figures["  times fewer contents encoded"] = len(sessions) / used[0].docks.encoded
    figures["  times 16 at a time"] = ratio(
        {k: [s for s, _ in v] for k, v in found.items()}, "metalm", "16 options at a time"
    )[0]
    figures["  largest difference, nats"] = f"{difference:.1e}" + ("" if difference <= SAME else " TOO LARGE")
    name = "HellaSwag docked into a MetaLM"
    return {name: f"{len(asked)} items, {len(sessions)} options", **{f"{name}:{k[1:]}": v for k, v in figures.items()}}


def own_ids(tokenizer: Any) -> Callable[[str], Any]:
    """Token ids of an option after the delimiter."""
    import numpy as np

    return lambda ending: np.array(tokenizer.encode_continuation(" " + ending), dtype=np.int64)


def main() -> None:
    options = arguments(__doc__ or "", only={"choices": list(TASKS), "help": "of the tasks beside lm_eval, this alone"})
    root = data_root()
    if root is None:
        print("METALM_DATA holds no hellaswag: nothing to score")
        return
    load = os.getloadavg()[0]
    if load > 0.7:
        print(f"warning: other programs are at work (load {load:.1f}); these are no figures to keep")
    figures: dict[str, Any] = {"load before": round(load, 2)}
    if options.only is None:
        figures |= docked(root, options)
    if lm_eval_is_there():
        figures |= against_lm_eval(root, options)
    else:
        print(INSTALL)
    report("Scoring options", figures, options)


if __name__ == "__main__":
    main()
