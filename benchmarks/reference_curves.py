"""Reference curves of the shipped recipes (recipes/reference/): the losses of the first steps of three seeds.

Each recipe runs with the real command and is stopped once it has logged the last step of its curve, so its schedule is
that of the whole recipe. Some recipes start from the model of another one, which is trained to its end with seed 0.
Recipes of pretrained checkpoints need `make checkpoints`. The curves are written beside the recipes; with --quick, that
of 10 steps of small goes to a temporary folder.

    python benchmarks/reference_curves.py                  all curves, about a minute of one core each
    python benchmarks/reference_curves.py small world      these curves
"""

from __future__ import annotations

import argparse
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from metalm_cli.config.locate import REFERENCE, find_recipe, shipped_root
from metalm_cli.config.resolution import command_of
from metalm_cli.runs.metrics_log import read_metrics
from metalm_cli.runs.reference_curves.curve import curve_names, write_curve
from metalm_cli.runs.reference_curves.record import record_curve
from metalm_cli.runs.reference_curves.run_losses import read_run_losses

SEEDS = (0, 1, 2)
WORLD = "data.sources=[{name: documents, world: {documents: 20000, seed: 0}}]"
REVIEWS = ("--task", "world_reviews", "data.sequence_length=256")
PACKAGES = (
    "model.decoder.checkpoint=smollm2-135m-instruct-q4_1",
    "model.encoders.text.checkpoint=sentence-transformers/all-MiniLM-L6-v2",
)


@dataclass(frozen=True)
class Recording:
    """A curve to record.

    Args:
        recipe: Name of the recipe.
        steps: Last step of the curve.
        arguments: Further arguments of the command; ``{base}`` is the model of the base.
        base: Recording whose model, trained to its end, the runs start from.
    """

    recipe: str
    steps: int
    arguments: tuple[str, ...] = ()
    base: str = ""


RECORDINGS = (
    Recording("small", 100),
    Recording("small-gpt-same-decoder", 100),
    Recording("world", 40, ("--model", "{base}"), "small"),
    Recording("world-flan", 40, ("--model", "{base}"), "small"),
    Recording("single", 40, ("--model", "{base}", *REVIEWS), "small"),
    Recording("demo/gpt", 60, ("train.steps=200",)),
    Recording("demo/lexical", 20, ("model.decoder.checkpoint={base}",), "demo/gpt"),
    Recording("demo/lexical-gpt", 20, ("model.decoder.checkpoint={base}",), "demo/gpt"),
    Recording("docked", 5),
    Recording("align", 5),
    Recording(
        "connector-only",
        5,
        (*PACKAGES, WORLD, "data.sequence_length=128", "train.batch_size=8", "train.micro_batch_size=8"),
    ),
    Recording("encoder-mlm", 20, (WORLD,)),
    Recording("encoder-rtd", 20, (WORLD,)),
    Recording("demo/encoder", 50),
    Recording("demo/metalm", 60),
    Recording("families/gpt", 40),
    Recording("families/metalm", 40),
    Recording("families/encoder-decoder", 40),
    Recording("single-gpt", 40, ("--model", "{base}", *REVIEWS), "small-gpt-same-decoder"),
    Recording("small-gpt-same-total", 60),
    Recording("demo/instruct", 40, ("--model", "{base}"), "small"),
    Recording("demo/multitask", 40, ("--model", "{base}"), "small"),
    Recording("demo/single", 40, ("--model", "{base}"), "small"),
)
BY_RECIPE = {recording.recipe: recording for recording in RECORDINGS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help="default: all")
    parser.add_argument("--missing", action="store_true", help="only the curves that do not exist yet")
    parser.add_argument("--runs", type=Path, help="folder of the runs, which are kept; runs that are there are used")
    parser.add_argument("--quick", action="store_true", help="10 steps of small, into a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        runs = options.runs or Path(temporary)
        recordings = [BY_RECIPE[name] for name in options.recipes] or list(RECORDINGS)
        if options.missing:
            recordings = [recording for recording in recordings if recording.recipe not in curve_names()]
        if options.quick:
            recordings = [Recording("small", 10)]
        for recording in recordings:
            before = _cpu_seconds()
            folders = [_run(recording, seed, runs) for seed in SEEDS]
            curve = record_curve([read_run_losses(folder) for folder in folders], recording.steps)
            target = Path(temporary) if options.quick else shipped_root("recipes") / REFERENCE
            write_curve(target / f"{recording.recipe}.yaml", curve)
            print(f"{recording.recipe}: {_cpu_seconds() - before:.0f} s of CPU time", flush=True)


def _cpu_seconds() -> float:
    """CPU time of the commands that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _command(recording: Recording, seed: int, runs: Path, out: Path) -> list[str]:
    base = "" if not recording.base else str(_base(BY_RECIPE[recording.base], runs) / "model")
    arguments = [argument.replace("{base}", base) for argument in recording.arguments]
    command = command_of(find_recipe(recording.recipe))
    metalm = [sys.executable, "-m", "metalm_cli.cli", command, recording.recipe, *arguments]
    log_every = 1 if recording.steps <= 10 else 5
    return [*metalm, f"train.seed={seed}", f"train.log_every={log_every}", "--out", str(out)]


def _base(recording: Recording, runs: Path) -> Path:
    """Run of a recording to the end of its recipe, with seed 0."""
    out = runs / "bases" / recording.recipe
    if not (out / "model").is_dir():
        subprocess.run(
            _command(recording, 0, runs, out), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    return out


def _run(recording: Recording, seed: int, runs: Path) -> Path:
    """Run of a recording, stopped after its last step."""
    out = runs / recording.recipe / f"seed-{seed}"
    if _last_step(out) >= recording.steps:
        return out
    shutil.rmtree(out, ignore_errors=True)
    command = _command(recording, seed, runs, out)
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        while process.poll() is None and _last_step(out) < recording.steps:
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        process.wait()
        if _last_step(out) < recording.steps:
            log.seek(0)
            raise SystemExit(f"{' '.join(command)}\n{log.read().decode(errors='replace')[-3000:]}")
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    return out


def _last_step(run: Path) -> int:
    records = read_metrics(run / "metrics.jsonl")[0]
    return max((record["step"] for record in records if record.get("split") == "train"), default=0)


if __name__ == "__main__":
    main()
