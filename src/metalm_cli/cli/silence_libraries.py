"""Silencing of libraries that print over the program's own output."""

from __future__ import annotations

import os
import warnings


def silence_libraries(offline: bool = False) -> None:
    """Silence progress bars and notices of the Hugging Face libraries; errors are still printed.

    Args:
        offline: Set the libraries to offline mode. Must happen before they are imported.
    """
    silence_environment(offline)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*torch.utils.data.*")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def silence_environment(offline: bool = False) -> None:
    """Set the environment variables of :func:`silence_libraries`, which child processes inherit; imports nothing."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # its warnings about connections are stack traces
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
