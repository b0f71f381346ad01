"""Validation of lm_eval's ``--model_args``."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence

import torch

from metalm_cli.common.registry import did_you_mean
from metalm_cli.errors import MetalmError
from metalm_cli.inference import LanguageModel, load

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
AUTO_BATCH_SIZE = 16
"""Batch size of generation for ``batch_size=auto`` on a CPU; on a GPU four times as many to begin with."""


def reject_unknown(unknown: Iterable[str], known: Sequence[str]) -> None:
    """Reject unknown arguments.

    Raises:
        MetalmError: There is an unknown argument.
    """
    for name in unknown:
        raise MetalmError(
            f"--model_args: unknown argument {name}",
            why=f"the arguments are {', '.join(known)}",
            remedy=f"{did_you_mean(name, known)} correct the name, or leave the argument out".strip(),
        )


def load_language_model(pretrained: str, base: str | None, remote_code: bool) -> LanguageModel:
    """Load the model that the arguments name.

    Raises:
        MetalmError: No model is named, the model cannot be loaded, or there are several processes.
    """
    if not pretrained:
        raise MetalmError("no model is named", where="--model_args", remedy="--model_args pretrained=runs/latest")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise MetalmError(
            "metalm evaluates in a single process",
            why="WORLD_SIZE is greater than 1",
            remedy="run it without a launcher",
        )
    offline = os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")
    return load(pretrained, base=base, offline=offline, trust_remote_code=remote_code)


def parse_dtype(name: str) -> torch.dtype:
    """Return the dtype of a name.

    Raises:
        MetalmError: The name is not one of :data:`DTYPES`.
    """
    if name not in DTYPES:
        raise MetalmError(f"got dtype={name}, expected {', '.join(DTYPES)}", where="--model_args")
    return DTYPES[name]


def choose_device(name: str | None) -> torch.device:
    """Return the device to run on. Without ``--device`` lm_eval passes the first GPU, even if there is none."""
    has_gpu = torch.cuda.is_available()
    if name is None:
        return torch.device("cuda" if has_gpu else "cpu")
    if name.startswith("cuda") and not has_gpu:
        logger.info("no GPU is available, running on the CPU")
        return torch.device("cpu")
    return torch.device(name)


def parse_batch_size(batch_size: int | str | None, max_batch_size: int | None) -> int:
    """Return the batch size of generation.

    Args:
        batch_size: A number, ``auto`` or ``auto:N``; None: 1.
        max_batch_size: Upper bound.

    Raises:
        MetalmError: ``batch_size`` is invalid.
    """
    text = str(batch_size if batch_size is not None else 1).partition(":")[0]
    if text != "auto" and not (text.isdecimal() and int(text) > 0):
        raise MetalmError(f"got batch_size={batch_size}, expected auto or a number")
    size = AUTO_BATCH_SIZE * (4 if torch.cuda.is_available() else 1) if text == "auto" else int(text)
    return min(size, int(max_batch_size)) if max_batch_size else size
