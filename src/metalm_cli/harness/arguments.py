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
SEQUENCES = 16
"""Sequences that are continued together with ``batch_size=auto`` on a CPU; four times as many first on a GPU."""


def reject_unknown(unknown: Iterable[str], known: Sequence[str]) -> None:
    """Refuse arguments that nobody reads.

    Raises:
        MetalmError: There is one.
    """
    for name in unknown:
        near = difflib.get_close_matches(name, known, 1)
        raise MetalmError(
            f"--model_args: metalm knows no {name}" + (f"; did you mean {near[0]}?" if near else ""),
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


def dtype_of(wanted: str) -> torch.dtype:
    """The type of the weights.

    Raises:
        MetalmError: It is not one of :data:`DTYPES`.
    """
    if wanted not in DTYPES:
        raise MetalmError(f"got dtype={wanted}, expected {', '.join(DTYPES)}", where="--model_args")
    return DTYPES[wanted]


def device_of(wanted: str | None) -> torch.device:
    """Where to run. lm_eval asks for the first GPU where nothing is said."""
    there = torch.cuda.is_available()
    if wanted is None:
        return torch.device("cuda" if there else "cpu")
    if wanted.startswith("cuda") and not there:
        logger.info("no GPU is found: the CPU works")
        return torch.device("cpu")
    return torch.device(wanted)


def sequences_of(wanted: int | str | None, most: int | None) -> int:
    """Sequences that are continued together.

    Args:
        wanted: A number, ``auto`` or ``auto:N``; None: one.
        most: No more than these.

    Raises:
        MetalmError: It is none of these.
    """
    text = str(wanted if wanted is not None else 1).partition(":")[0]
    if text != "auto" and not (text.isdecimal() and int(text) > 0):
        raise MetalmError(f"got batch_size={wanted}, expected auto or a number")
    size = SEQUENCES * (4 if torch.cuda.is_available() else 1) if text == "auto" else int(text)
    return min(size, int(most)) if most else size
