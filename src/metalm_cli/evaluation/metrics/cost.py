"""Cost of the answers to a task: time, positions, FLOPs and memory of an example.

FLOPs are those of a forward pass over the prompt, apart from other prompts: 2 for each weight in a matrix product and
position of encoders, connectors and decoder, attention scores and values (half of them in the decoder), and the output
head once. Not counted: answers, embeddings, norms and padding.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from metalm_cli.inference.language_model import LanguageModel
from metalm_cli.models.compressing_connectors import connector_flops
from metalm_cli.models.metalm import MetaLM
from metalm_cli.models.trainable import attention_flops, matrix_weights, transformer_layers
from metalm_cli.sessions import TokenisedSession

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESETS_PEAK = "5"
"""Value for :data:`CLEAR_REFS` that sets the peak of the resident memory to its present size."""


@dataclass(frozen=True)
class Cost:
    """Cost of an example, as a mean over the examples that the model answered.

    Args:
        examples: Number of examples that the model answered; others were answered before and cached.
        milliseconds: Time of encoding, prefill and answer, by the clock, without tokenising.
        positions: Decoder positions of a prompt.
        encoder_positions: Encoder positions of a prompt.
        flops: FLOPs of a prompt; None for an encoder–decoder or an image.
        memory: Peak of the memory in bytes above that at the start, resident or of the GPU, for all examples; None if
            the machine does not tell.
    """

    examples: int
    milliseconds: float
    positions: float
    encoder_positions: float
    flops: float | None
    memory: int | None


class CostMeter:
    """Context manager that measures the answers of a model to prompts.

    Args:
        language_model: The model.
        may_reset: Whether the peak of a GPU's memory may be reset; not while a model trains.
    """

    def __init__(self, language_model: LanguageModel, *, may_reset: bool = True) -> None:
        self.language_model, self.may_reset = language_model, may_reset
        self.on_gpu = language_model.device.type == "cuda"

    def __enter__(self) -> CostMeter:
        if self.on_gpu and self.may_reset:
            torch.cuda.reset_peak_memory_stats(self.language_model.device)
        if not self.on_gpu:
            with suppress(OSError):
                CLEAR_REFS.write_text(RESETS_PEAK)
        self._before, self._peak_before = self._memory()
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start
        self._peak = self._memory()[1]

    def _memory(self) -> tuple[int | None, int | None]:
        """Memory in use and its peak, in bytes."""
        if self.on_gpu:
            device = self.language_model.device
            return torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
        with suppress(OSError, ValueError):
            lines = STATUS.read_text().splitlines()
            values = {line.partition(":")[0]: line.split()[1] for line in lines if line.startswith(("VmRSS", "VmHWM"))}
            if len(values) == 2:
                return int(values["VmRSS"]) * 1024, int(values["VmHWM"]) * 1024
        return None, None

    def cost(self, sessions: Sequence[TokenisedSession], answered: int) -> Cost | None:
        """Return the cost of an example; None if all answers were cached.

        Args:
            sessions: The prompts, tokenised.
            answered: Number of prompts that the model answered.
        """
        if answered <= 0 or not sessions:
            return None
        model, count = self.language_model.model, len(sessions)
        flops = [session_flops(model, session) for session in sessions]
        known = [value for value in flops if value is not None]
        return Cost(
            answered,
            1e3 * self.seconds / answered,
            sum(map(len, sessions)) / count,
            sum(dock.cost.get(dock.encoder, 0) for session in sessions for _, dock in session.docks) / count,
            sum(known) / count if len(known) == count else None,
            self._peak_above_start(),
        )

    def _peak_above_start(self) -> int | None:
        if self._before is None or self._peak is None:
            return None
        if self.on_gpu and not self.may_reset and self._peak == self._peak_before:
            return None
        return max(0, self._peak - self._before)


def session_flops(model: Any, session: TokenisedSession) -> float | None:
    """Return the FLOPs of a forward pass over a prompt; None for an encoder–decoder or an image.

    Args:
        model: The model.
        session: The prompt.
    """
    if not isinstance(model, MetaLM):
        return None
    head = model.decoder.get_output_embeddings().weight
    total = 2.0 * head.numel() + _stack_flops(
        model.decoder, model.decoder.config.hidden_size, len(session), causal=True
    )
    for _, dock in session.docks:
        if dock.vectors is not None:
            continue
        if "input_ids" not in dock.arrays:
            return None
        encoder = model.encoders[dock.encoder]
        width = model.encoder_ios[dock.encoder].width(encoder.config)
        total += _stack_flops(encoder, width, len(dock.arrays["input_ids"]), causal=False)
        total += connector_flops(model.connectors[dock.encoder], len(dock.output_positions), dock.positions)
    return total


def _stack_flops(module: nn.Module, width: int, length: int, *, causal: bool) -> float:
    attention = attention_flops(length, width, causal=causal)
    return sum(length * (2.0 * matrix_weights(layer) + attention) for layer in transformer_layers(module))
