"""The models, requests and ways that benchmarks/scoring.py compares."""

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
"""Rows of GPT-2's head."""
TRAINED_ON = 24_000_000
"""Characters that the tokenizer is trained on, at most."""
INSTALL = "lm_eval is left out: it is not installed (python -m pip install 'metalm[harness]')"


@dataclass(frozen=True)
class Wanted:
    """A task of lm_eval.

    Args:
        file: Its file inside lm_eval.
        rows: Folder of its rows below METALM_DATA.
        items: How many are scored.
        few: ... in the quick form.
        shots: Demonstrations from all over the training rows, the same for all items.
        sizes: Batch sizes that lm_eval is tried with.
        goal: Least speed ratio; None: 85% of the work ratio.
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
    """Where real data lies."""
    value = os.environ.get("METALM_DATA")
    return Path(value) if value and (Path(value) / "hellaswag").is_dir() else None


def lines(path: Path) -> Iterator[str]:
    """Lines of a gzipped file."""
    with gzip.open(path, "rt", encoding="utf-8") as read:
        yield from read


def spread(path: Path, count: int) -> list[str]:
    """Lines from all over a gzipped file: files are ordered by source, and sources differ in length."""
    found = list(lines(path))
    return [found[at * len(found) // count] for at in range(count)]


def requests_of(wanted: Wanted, items: int, root: Path) -> list[Any]:
    """lm_eval's own requests of a task over local rows, one an option.

    Args:
        wanted: The task.
        items: How many of its rows.
        root: Where rows lie.
    """
    import lm_eval.tasks
    from lm_eval.tasks import TaskManager

    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for path in sorted((root / wanted.rows).glob("*.jsonl.gz")):
            split = path.name.partition(".")[0]
            files[split] = str(Path(folder) / f"{split}.jsonl")
            count = wanted.shots if split == "train" and wanted.shots else items
            Path(files[split]).write_text("".join(spread(path, count)), encoding="utf-8")
        changes = {
            "include": str(Path(lm_eval.tasks.__file__).parent / wanted.file),
            "task": "local",
            "tag": None,
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": files, "cache_dir": folder},
            "validation_split": "validation" if "validation" in files else None,
            "num_fewshot": wanted.shots,
            "fewshot_split": "train",
            "fewshot_config": {"sampler": "first_n"},
        }
        import yaml

        place = Path(folder) / "local.yaml"
        place.write_text(yaml.safe_dump(changes), encoding="utf-8")
        loaded = TaskManager(include_path=folder, include_defaults=False).load(["local"])
        (task,) = loaded["tasks"].values()
        task.build_all_requests(limit=items, rank=0, world_size=1)
        return list(task.instances)


def train_tokenizer(root: Path) -> Any:
    """A byte-level BPE tokenizer of GPT-2's kind, on the Pile sample."""
    import json

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    def texts() -> Iterator[str]:
        read = 0
        for path in sorted((root / "pile_sample").rglob("*.jsonl*")):
            for line in lines(path):
                text = json.loads(line)["text"][:20_000]
                read += len(text)
                if read > TRAINED_ON:
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
    """A decoder of GPT-2 small's shape with random weights, and its tokenizer."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = train_tokenizer(root)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0, pad_token_id=0))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@dataclass
class Work:
    """Decoder positions, and how many of them meet the head.

    Args:
        positions: Read.
        projected: Projected to the vocabulary.
        padding: Read, and of no use.
    """

    positions: int
    projected: int
    padding: int = 0

    def flops(self, model: Any) -> float:
        """Multiplications and additions of the matrix products, attention's scores left out."""
        head = VOCABULARY * model.config.n_embd
        blocks = sum(one.numel() for one in model.transformer.h.parameters())
        return 2.0 * ((self.positions + self.padding) * blocks + self.projected * head)


def apart(pairs: Sequence[Any]) -> Work:
    """What lm_eval computes: every pair that differs before its last token, with the head at every position."""
    heads = {(*pair.context, *pair.continuation[:-1]) for pair in pairs}
    count = sum(map(len, heads))
    return Work(count, count)


def token_ratio(pairs: Sequence[Any]) -> float:
    """(n·c + Σo) / (c + Σo), summed over questions."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for pair in pairs:
        groups.setdefault(pair.context, []).append(len(pair.continuation))
    one_by_one = sum(len(context) * len(options) + sum(options) for context, options in groups.items())
    return one_by_one / sum(len(context) + sum(options) for context, options in groups.items())


@contextmanager
def peak_memory(found: list[float]) -> Iterator[None]:
    """Append by how much the process grew meanwhile at most, in MiB; sampled, on a GPU its own account."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield
        found.append((torch.cuda.max_memory_allocated() - before) / 2**20)
        return
    import ctypes
    import gc

    import psutil

    gc.collect()
    if hasattr(ctypes.CDLL(None), "malloc_trim"):  # what the way before left in the allocator
        ctypes.CDLL(None).malloc_trim(0)
    process, done = psutil.Process(), threading.Event()
    before = most = process.memory_info().rss

    def sample() -> None:
        nonlocal most
        while not done.is_set():
            most = max(most, process.memory_info().rss)
            time.sleep(0.002)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    found.append((most - before) / 2**20)


def measured(way: Callable[[], Any]) -> tuple[float, float]:
    """Seconds and MiB of one call."""
    memory: list[float] = []
    with peak_memory(memory):
        began = time.perf_counter()
        way()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    return seconds, memory[0]
