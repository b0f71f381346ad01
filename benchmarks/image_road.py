"""Road of images: read, scale, normalise, pack; and an epoch whose towers' outputs are cached.

Times are processor time, so that other programs on the machine matter little.

*road*: rows of captioning (flickr8k below METALM_DATA, else the miniature world's pictures) up to the batch, on one
core, compared with Pillow alone (decode to RGB, scale to the tower's size) on the same files, in turns.
*memory*: resident memory over 2,000 images.
*cache*: DeiT-tiny, frozen, beside a decoder of 260 thousand parameters (both below METALM_CHECKPOINTS): the seconds of
the second epoch with cached outputs and without: runs of two epochs less runs of one, each with a cache of its own.

A training step beside a bare loop over the same modules: ``benchmarks/frozen_parts.py --images``.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from common import alternate, arguments, interval, ratio, report

TOWER, DECODER = "deit-tiny-patch16-224", "stories260k-llama"
SIZE = 224
BATCH = 16


def recipe(steps: int) -> dict[str, Any]:
    """Recipe of captions: the tower and the decoder of METALM_CHECKPOINTS, else random weights of small shapes."""
    has_data = (Path(os.environ.get("METALM_DATA", "-")) / "flickr8k").is_dir()
    decoder: dict[str, Any] = {"checkpoint": DECODER}
    tower: dict[str, Any] = {"checkpoint": TOWER, "trains": "none"}
    if not (Path(os.environ.get("METALM_CHECKPOINTS", "-")) / TOWER).is_dir():
        shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
        new = {"new": {"vocab_size": 512, "documents": 200}}
        decoder = {"config": {"model_type": "llama", "max_position_embeddings": 512, **shape}, "tokenizer": new}
        tower = {"config": {"model_type": "vit", "image_size": SIZE, "patch_size": 16, **shape}, "trains": "none"}
    return {
        "command": "finetune",
        "model": {"decoder": decoder, "encoders": {"vision": tower}},
        "data": {
            "tasks": ["flickr8k" if has_data else "world_captions"],
            "templates": {"collection": "flan", "template_sampling": "first"},
            "mixture": {"strategy": "equal", "cap_examples": None},
            "sequence_length": 512,
            "validation": {"examples": 0},
        },
        "train": {"steps": steps, "batch_size": BATCH, "warmup_steps": 0, "precision": "fp32"},
    }


def open_road(steps: int) -> tuple[Callable[[], Any], list[Path]]:
    """Return a function that makes the next batch, and the files of the images."""
    from metalm_cli.config.schema.recipes import FinetuneRecipe
    from metalm_cli.training.finetuning import Finetuning, RunCallbacks, RunOptions
    from metalm_cli.training.trainer import Trainer

    callbacks = RunCallbacks(lambda *_: None, lambda *_: [], lambda _: None)
    run = Finetuning(FinetuneRecipe.model_validate(recipe(steps)), "", RunOptions("benchmark", offline=True), callbacks)
    run.prepare()
    trainer = Trainer(run.recipe.train, steps, run.objective, run.root, run.accelerator, run.padded_length)
    dataset = run.make_dataset(trainer)
    step_rows = dataset.steps(dataset.slot_indices)
    folder = Path(os.environ.get("METALM_DATA", "-")) / "flickr8k" / "images" / "train"
    return lambda: run.objective.collate(dataset.join(next(step_rows)).rows), sorted(folder.glob("*.jpg"))


def pillow_alone(files: Iterator[Path]) -> None:
    """Decode a batch of images and scale them to the size of the tower."""
    from PIL import Image

    for file in itertools.islice(files, BATCH):
        with Image.open(file) as image:
            image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def measure_road(repeats: int) -> dict[str, Any]:
    """Seconds of a batch of the road, and of Pillow alone on as many of the same files."""
    next_batch, files = open_road(10 * repeats + 100)
    if not files:
        start = time.perf_counter()
        for _ in range(repeats):
            next_batch()
        return {"road, images/s (drawn, not read)": repeats * BATCH / (time.perf_counter() - start)}
    cycle = itertools.cycle(files)
    times = alternate({"road": next_batch, "pillow": lambda: pillow_alone(cycle)}, repeats, clock=time.process_time)
    low, high = interval([b / a for a, b in zip(times["road"], times["pillow"], strict=True)])
    return {
        "road, images/s": repeats * BATCH / sum(times["road"]),
        "Pillow alone, images/s": repeats * BATCH / sum(times["pillow"]),
        "road against Pillow alone (x; goal 0.8)": ratio(times, "road", "pillow")[0],
        "... 95% interval": f"{low:.2f}-{high:.2f}",
    }


def measure_memory(images: int) -> dict[str, Any]:
    """Resident memory while images are read."""
    steps = images // BATCH
    next_batch, _ = open_road(steps + 20)
    process = psutil.Process()
    sizes = []
    for step in range(steps + 10):
        next_batch()
        if step >= 10:
            sizes.append(process.memory_info().rss / 2**20)
    quarter = len(sizes) // 4
    return {
        f"{images} images: resident MiB, most of the first quarter": max(sizes[:quarter]),
        "... most of the last quarter": max(sizes[-quarter:]),
    }


def measure_cache(steps: int) -> dict[str, Any]:
    """Seconds of the second epoch with cached outputs of the tower and without."""
    seconds = {
        mode: _seconds_of_run(2 * steps, steps, mode) - _seconds_of_run(steps, steps, mode) for mode in ("on", "off")
    }
    return {
        "second epoch with cached outputs, s": seconds["on"],
        "second epoch without a cache, s": seconds["off"],
        "cached against uncached (x; goal 5)": seconds["off"] / seconds["on"],
    }


def _seconds_of_run(steps: int, steps_of_epoch: int, mode: str) -> float:
    values: dict[str, Any] = recipe(steps)
    values["train"] |= {"cache_encoders": mode, "validate_every": 0, "sample_continuations": 0}
    values["data"]["mixture"] = {"strategy": "equal", "cap_examples": steps_of_epoch * BATCH}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(json.dumps(values), encoding="utf-8")  # JSON is YAML
        command = [sys.executable, "-m", "metalm_cli.cli", "finetune", str(path), "--out", f"{folder}/run", "--offline"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            command,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "XDG_CACHE_HOME": f"{folder}/cache"},
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    options = arguments(__doc__ or "")
    figures = measure_road(5 if options.quick else 25)
    figures |= measure_memory(200 if options.quick else 2000)
    figures |= measure_cache(4 if options.quick else 50)
    report("road of images", figures, options)


if __name__ == "__main__":
    main()
