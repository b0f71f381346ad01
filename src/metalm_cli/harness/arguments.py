"""What ``--model_args`` says about a model, checked."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Iterable, Sequence

import torch

from metalm_cli.errors import MetalmError
from metalm_cli.inference import LanguageModel, load

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
AUTO_BATCH_SIZE = 16
"""Sequences that are continued together with ``batch_size=auto`` on a CPU; four times as many first on a GPU."""


def reject_unknown(unknown: Iterable[str], known: Sequence[str]) -> None:
    """Refuse arguments that nobody reads.

    Raises:
        MetalmError: There is one.
    """
    for name in unknown:
        similar = difflib.get_close_matches(name, known, 1)
        raise MetalmError(
            f"--model_args: metalm knows no {name}" + (f"; did you mean {similar[0]}?" if similar else ""),
            why=f"it knows {', '.join(known)}",
            remedy="correct it, or leave it out",
        )


def load_language_model(pretrained: str, base: str | None, remote_code: bool) -> LanguageModel:
    """The model that is named.

    Raises:
        MetalmError: None is named, or it cannot be loaded, or several processes want to share the work.
    """
    if not pretrained:
        raise MetalmError("no model is named", where="--model_args", remedy="--model_args pretrained=runs/latest")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise MetalmError(
            "metalm evaluates in one process", why="WORLD_SIZE says that there are more", remedy="start it plainly"
        )
    offline = os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")
    return load(pretrained, base=base, offline=offline, trust_remote_code=remote_code)


def parse_dtype(name: str) -> torch.dtype:
    """The type of the weights.

    Raises:
        MetalmError: It is not one of :data:`DTYPES`.
    """
    if name not in DTYPES:
        raise MetalmError(f"got dtype={name}, expected {', '.join(DTYPES)}", where="--model_args")
    return DTYPES[name]


def choose_device(name: str | None) -> torch.device:
    """Where to run. lm_eval asks for the first GPU where nothing is said."""
    has_gpu = torch.cuda.is_available()
    if name is None:
        return torch.device("cuda" if has_gpu else "cpu")
    if name.startswith("cuda") and not has_gpu:
        logger.info("no GPU is found: the CPU works")
        return torch.device("cpu")
    return torch.device(name)


def parse_batch_size(batch_size: int | str | None, max_batch_size: int | None) -> int:
    """Sequences that are continued together.

    Args:
        wanted: A number, ``auto`` or ``auto:N``; None: one.
        most: No more than these.

    Raises:
        MetalmError: It is none of these.
    """
    text = str(batch_size if batch_size is not None else 1).partition(":")[0]
    if text != "auto" and not (text.isdecimal() and int(text) > 0):
        raise MetalmError(f"got batch_size={batch_size}, expected auto or a number")
    size = AUTO_BATCH_SIZE * (4 if torch.cuda.is_available() else 1) if text == "auto" else int(text)
    return min(size, int(max_batch_size)) if max_batch_size else size
