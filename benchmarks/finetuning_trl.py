"""TRL's SFTTrainer on the same sessions. Needs the packages in benchmarks/requirements.txt."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

from finetuning_ways import BETAS, IGNORED, LEARNING_RATE, BenchmarkSetup

INSTALL = "TRL is left out: it is not installed (python -m pip install -r benchmarks/requirements.txt)"


def available() -> bool:
    """Whether TRL can be imported."""
    try:
        import trl  # noqa: F401
    except ImportError:
        return False
    return True


def train(
    setup: BenchmarkSetup,
    wait_for_turn: Callable[[], None],
    report_step: Callable[[float, float], None],
    **method_options: Any,
) -> None:
    """Train with SFTTrainer, one step at each turn.

    Args:
        setup: Model, sessions and settings, shared by all methods.
        wait_for_turn: Waits for the next turn.
        report_step: Receives a step's loss and its number of examples.
        method_options: ``compact``: compute logits at trained positions only, as TRL does where Triton runs;
            ``packing``; any other option of SFTConfig.
    """
    import trl.trainer.utils
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
    from trl import SFTTrainer

    if method_options.pop("compact", False):
        trl.trainer.utils._use_triton = lambda _device: True  # this only switches the compact path on
    model = AutoModelForCausalLM.from_pretrained(setup.model, attn_implementation=setup.attention)
    sessions = [session for step in setup.steps for session in step]
    data = Dataset.from_list([{"input_ids": ids, "labels": [IGNORED] * first + ids[first:]} for ids, first in sessions])
    size = len(setup.steps[0])
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=model,
            args=_options(setup, folder, size, method_options),
            train_dataset=data,
            processing_class=AutoTokenizer.from_pretrained(setup.model),
        )
        sessions_per_row = 1.0
        if method_options.get("packing"):
            rows = [len(lengths) for lengths in trainer.train_dataset["seq_lengths"]]
            sessions_per_row = sum(rows) / len(rows)
        per_step = (
            trainer.args.per_device_train_batch_size * trainer.args.gradient_accumulation_steps * sessions_per_row
        )
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(_callback(wait_for_turn, lambda loss: report_step(loss, per_step)))
        trainer.train()


def _options(setup: BenchmarkSetup, folder: str, size: int, method_options: dict[str, Any]) -> Any:
    from trl import SFTConfig

    options: dict[str, Any] = {
        "output_dir": folder,
        "per_device_train_batch_size": size,
        "max_steps": len(setup.steps) + 1,  # the turn after the last step ends the process
        "max_length": None,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "adam_beta1": BETAS[0],
        "adam_beta2": BETAS[1],
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "optim": "adamw_torch_fused",
        "bf16": setup.precision == "bf16",
        "use_cpu": setup.device == "cpu",
        "gradient_checkpointing": False,
        "dataloader_pin_memory": setup.device != "cpu",
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    if method_options.get("packing"):
        tokens = sum(len(ids) for ids, _ in setup.steps[0])
        options |= {"max_length": setup.width, "per_device_train_batch_size": max(1, round(tokens / setup.width))}
    return SFTConfig(**{**options, **method_options})


def _callback(wait_for_turn: Callable[[], None], report_loss: Callable[[float], None]) -> Any:
    from transformers import TrainerCallback

    class StepCallback(TrainerCallback):
        """Callback that reports a step when the next begins, so that logging and collating are timed as well."""

        loss: float | None = None

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if self.loss is not None:
                report_loss(self.loss)
            wait_for_turn()

        def on_log(self, _args: Any, _state: Any, _control: Any, logs: Any = None, **__: Any) -> None:
            self.loss = (logs or {}).get("loss", self.loss)

    return StepCallback()
