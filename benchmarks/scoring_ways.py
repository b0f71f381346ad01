"""Models, requests and measurements of benchmarks/scoring.py."""

from __future__ import annotations

import gzip
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

VOCABULARY = 50_257
"""Vocabulary size of GPT-2."""
MAX_TOKENIZER_CHARACTERS = 24_000_000
"""Maximum number of characters that the tokenizer is trained on."""
INSTALL = "lm_eval is left out: it is not installed (python -m pip install 'metalm[harness]')"


@dataclass(frozen=True)
class TaskSpec:
    """A task of lm_eval.

    Args:
        file: File of the task inside lm_eval.
        rows: Folder of its rows in METALM_DATA.
        items: Number of items to score.
        few: Number of items with ``--quick``.
        shots: Number of demonstrations, spread over the training rows, the same for all items.
        sizes: Batch sizes to try with lm_eval.
        goal: Minimum speed-up; None: 85% of the work ratio.
    """

    file: str
    rows: str
    items: int
    few: int
    shots: int = 0
    sizes: tuple[int, ...] = (4, 16, 32)
    goal: float | None = None


def lm_eval_is_there() -> bool:
    """Whether lm_eval can be imported."""
    try:
        import lm_eval  # noqa: F401
    except ImportError:
        return False
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    logging.getLogger("datasets").setLevel(logging.ERROR)
    return True


def data_root() -> Path | None:
    """Folder of real data."""
    value = os.environ.get("METALM_DATA")
    return Path(value) if value and (Path(value) / "hellaswag").is_dir() else None


def lines(path: Path) -> Iterator[str]:
    """Lines of a gzipped file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from file


def spread(path: Path, count: int) -> list[str]:
    """Evenly spaced lines of a gzipped file: files are ordered by source, and sources differ in length."""
    all_lines = list(lines(path))
    return [all_lines[index * len(all_lines) // count] for index in range(count)]


def requests_of(spec: TaskSpec, items: int, root: Path) -> list[Any]:
    """Requests of lm_eval for a task over local rows, one per option.

    Args:
        spec: The task.
        items: Number of rows.
        root: Folder of the data.
    """
    import lm_eval.tasks
    from lm_eval.tasks import TaskManager

    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for path in sorted((root / spec.rows).glob("*.jsonl.gz")):
            split = path.name.partition(".")[0]
            files[split] = str(Path(folder) / f"{split}.jsonl")
            count = spec.shots if split == "train" and spec.shots else items
            Path(files[split]).write_text("".join(spread(path, count)), encoding="utf-8")
        changes = {
            "include": str(Path(lm_eval.tasks.__file__).parent / spec.file),
            "task": "local",
            "tag": None,
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": files, "cache_dir": folder},
            "validation_split": "validation" if "validation" in files else None,
            "num_fewshot": spec.shots,
            "fewshot_split": "train",
            "fewshot_config": {"sampler": "first_n"},
        }
        import yaml

        task_file = Path(folder) / "local.yaml"
        task_file.write_text(yaml.safe_dump(changes), encoding="utf-8")
        loaded = TaskManager(include_path=folder, include_defaults=False).load(["local"])
        (task,) = loaded["tasks"].values()
        task.build_all_requests(limit=items, rank=0, world_size=1)
        return list(task.instances)


def train_tokenizer(root: Path) -> Any:
    """Train a byte-level BPE tokenizer like GPT-2's on the Pile sample."""
    import json

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    def texts() -> Iterator[str]:
        character_count = 0
        for path in sorted((root / "pile_sample").rglob("*.jsonl*")):
            for line in lines(path):
                text = json.loads(line)["text"][:20_000]
                character_count += len(text)
                if character_count > MAX_TOKENIZER_CHARACTERS:
                    return
                yield text

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts(), trainer)
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|endoftext|>", bos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )


def save_gpt2_small(folder: str, root: Path) -> None:
    """Save a decoder of GPT-2 small's shape with random weights, and a tokenizer."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = train_tokenizer(root)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0, pad_token_id=0))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@dataclass
class Work:
    """Amount of work, in decoder positions.

    Args:
        positions: Positions in the decoder.
        projected: Positions projected to the vocabulary.
        padding: Positions of padding.
    """

    positions: int
    projected: int
    padding: int = 0

    def flops(self, model: Any) -> float:
        """Multiplications and additions of the matrix products, without attention scores."""
        head = VOCABULARY * model.config.n_embd
        blocks = sum(parameter.numel() for parameter in model.transformer.h.parameters())
        return 2.0 * ((self.positions + self.padding) * blocks + self.projected * head)


def work_of_lm_eval(pairs: Sequence[Any]) -> Work:
    """Work of lm_eval: every pair that differs before its last token, with the head at every position."""
    prefixes = {(*pair.context, *pair.continuation[:-1]) for pair in pairs}
    count = sum(map(len, prefixes))
    return Work(count, count)


def token_ratio(pairs: Sequence[Any]) -> float:
    """Token ratio (n·c + Σo) / (c + Σo), summed over questions."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for pair in pairs:
        groups.setdefault(pair.context, []).append(len(pair.continuation))
    separate_tokens = sum(len(context) * len(options) + sum(options) for context, options in groups.items())
    return separate_tokens / sum(len(context) + sum(options) for context, options in groups.items())


@contextmanager
def peak_memory(peaks: list[float]) -> Iterator[None]:
    """Context manager that appends the peak growth of memory in MiB: sampled on a CPU, as counted by CUDA on a GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield
        peaks.append((torch.cuda.max_memory_allocated() - before) / 2**20)
        return
    import ctypes
    import gc

    import psutil

    gc.collect()
    if hasattr(ctypes.CDLL(None), "malloc_trim"):  # returns memory that the previous method has freed
        ctypes.CDLL(None).malloc_trim(0)
    process, stop = psutil.Process(), threading.Event()
    before = peak = process.memory_info().rss

    def sample() -> None:
        nonlocal peak
        while not stop.is_set():
            peak = max(peak, process.memory_info().rss)
            time.sleep(0.002)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    peaks.append((peak - before) / 2**20)


def measure(function: Callable[[], Any]) -> tuple[float, float]:
    """Seconds and MiB of one call."""
    memory: list[float] = []
    with peak_memory(memory):
        start = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    return seconds, memory[0]
