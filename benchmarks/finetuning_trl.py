"""TRL's SFTTrainer on the same sessions. Needs what benchmarks/requirements.txt names."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

from finetuning_ways import BETAS, IGNORED, LEARNING_RATE, Given

INSTALL = "TRL is left out: it is not installed (python -m pip install -r benchmarks/requirements.txt)"


def available() -> bool:
    """Whether TRL can be imported."""
    try:
        import trl  # noqa: F401
    except ImportError:
        return False
    return True


def train(given: Given, turn: Callable[[], None], done: Callable[[float, float], None], **how: Any) -> None:
    """Train; a step is taken at each turn, its loss and examples told after it.

    Args:
        given: What every way gets.
        turn: Waits for the next turn.
        done: Takes a step's loss and its number of examples.
        how: ``compact``: its fused head on trained positions alone, as where Triton runs; ``packing``; any other
            option of SFTConfig.
    """
    import trl.trainer.utils
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
    from trl import SFTTrainer

    if how.pop("compact", False):
        trl.trainer.utils._use_triton = lambda _device: True  # it decides on the compact path alone
    model = AutoModelForCausalLM.from_pretrained(given.model, attn_implementation=given.attention)
    sessions = [one for step in given.steps for one in step]
    data = Dataset.from_list([{"input_ids": ids, "labels": [IGNORED] * first + ids[first:]} for ids, first in sessions])
    size = len(given.steps[0])
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=model,
            args=_options(given, folder, size, how),
            train_dataset=data,
            processing_class=AutoTokenizer.from_pretrained(given.model),
        )
        each = 1.0
        if how.get("packing"):
            rows = [len(lengths) for lengths in trainer.train_dataset["seq_lengths"]]
            each = sum(rows) / len(rows)
        per_step = trainer.args.per_device_train_batch_size * trainer.args.gradient_accumulation_steps * each
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(_callback(turn, lambda loss: done(loss, per_step)))
        trainer.train()


def _options(given: Given, folder: str, size: int, how: dict[str, Any]) -> Any:
    from trl import SFTConfig

    options: dict[str, Any] = {
        "output_dir": folder,
        "per_device_train_batch_size": size,
        "max_steps": len(given.steps) + 1,  # the turn after the last ends it
        "max_length": None,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "adam_beta1": BETAS[0],
        "adam_beta2": BETAS[1],
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "optim": "adamw_torch_fused",
        "bf16": given.precision == "bf16",
        "use_cpu": given.device == "cpu",
        "gradient_checkpointing": False,
        "dataloader_pin_memory": given.device != "cpu",
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    if how.get("packing"):
        tokens = sum(len(ids) for ids, _ in given.steps[0])
        options |= {"max_length": given.width, "per_device_train_batch_size": max(1, round(tokens / given.width))}
    return SFTConfig(**{**options, **how})


def _callback(turn: Callable[[], None], done: Callable[[float], None]) -> Any:
    from transformers import TrainerCallback

    class Turns(TrainerCallback):
        """Tells of a step when the next begins, so that logging and collating are part of it."""

        loss: float | None = None

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if self.loss is not None:
                done(self.loss)
            turn()

        def on_log(self, _args: Any, _state: Any, _control: Any, logs: Any = None, **__: Any) -> None:
            self.loss = (logs or {}).get("loss", self.loss)

    return Turns()
