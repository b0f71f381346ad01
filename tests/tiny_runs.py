"""Runs of the real command that take a second or two: a tiny recipe, in this process or in forked ones."""

from __future__ import annotations

import functools
import importlib
import json
import multiprocessing
import os
import shutil
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file

RECIPE = """
command: pretrain
model:
  decoder:
    config: {model_type: gpt2, n_embd: 32, n_layer: 2, n_head: 2, n_positions: 64}
    tokenizer: {new: {vocab_size: 400, documents: 100}}
    dropout: 0.0
  encoders:
    text:
      config:
        model_type: electra
        embedding_size: 16
        hidden_size: 32
        num_hidden_layers: 2
        num_attention_heads: 2
        intermediate_size: 48
        max_position_embeddings: 64
      tokenizer: {new: {vocab_size: 400, documents: 100}}
      dropout: 0.0
data:
  sources: [{name: world, world: {documents: 200, seed: 0}}]
  validation: {documents: 2, hold_out_every: 20}
  sequence_length: 64
objective: {name: semi_causal, span_length: [4, 8], span_fraction: 0.25}
train:
  steps: 6
  batch_size: 4
  learning_rate: 3e-3
  warmup_steps: 2
  precision: fp32
  log_every: 1
  validate_every: 0
  checkpoint_every: 0
  sample_continuations: 0
"""
ENCODER_ONLY = ["model.decoder=null", "data.validation.documents=2"]
CLOCK_FIELDS = ("tokens_per_second", "memory_bytes")
"""Fields of records that tell the time, and what the process holds."""


def write_recipe(folder: Path, text: str = RECIPE, name: str = "micro.yaml") -> Path:
    """Writes a recipe and returns its path."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def metalm(*arguments: object) -> int:
    """Runs a command line in this process; returns the exit code."""
    from metalm_cli.cli import console
    from metalm_cli.cli.app import run

    reset_accelerator()
    for cached in (console.stdout, console.stderr):
        cached.cache_clear()
    return run([str(argument) for argument in arguments])


def reset_accelerator() -> None:
    """Accelerate keeps the settings of a process's first run; several runs in one process each want their own."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def records(run: Path, split: str = "train") -> list[dict[str, Any]]:
    """A run's records, without those fields that are never twice the same."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    return [{k: v for k, v in one.items() if k not in CLOCK_FIELDS} for one in found if split in ("", one["split"])]


def losses(run: Path) -> list[float]:
    """A run's logged training losses."""
    return [record["loss"] for record in records(run)]


def checkpoint(run: Path, step: int) -> dict[str, Any]:
    """All that a checkpoint holds: tensors by group, and the state without the clock."""
    folder = run / "checkpoints" / f"step-{step:08d}"
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    return {
        "model": load_file(folder / "model.safetensors"),
        "optimizer": load_file(folder / "optimizer.safetensors"),
        "state": {key: value for key, value in state.items() if key != "seconds"},
    }


def difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """Greatest absolute difference between two groups of tensors of the same names."""
    assert first.keys() == second.keys()
    return max(float((one.double() - second[name].double()).abs().max()) for name, one in first.items())


def assert_same_run(one: Path, other: Path, step: int, *, described: bool = True) -> None:
    """Two finished runs are equal, bit for bit, but for the clock.

    Args:
        one: A run folder.
        other: Another.
        step: Their last step.
        described: They have the same settings, so that the model's card and lineage are equal, too.
    """
    first, second = checkpoint(one, step), checkpoint(other, step)
    assert first["state"] == second["state"]
    for group in ("model", "optimizer"):
        assert difference(first[group], second[group]) == 0.0, group
    assert records(one, "") == records(other, "")
    for name in sorted(path.relative_to(one) for path in (one / "model").rglob("*") if path.is_file()):
        if described or name.name != "README.md":
            assert (one / name).read_bytes() == (other / name).read_bytes(), name


# -- processes --------------------------------------------------------------------------------------------------------


class ForkedCommand:
    """A command line in a process of its own, forked from this one: its libraries are imported already.

    Args:
        arguments: The command line.
        log: File that takes what it prints.
        environment: Variables to set.
        before: Called in it first.
    """

    def __init__(
        self,
        arguments: Sequence[object],
        log: Path,
        environment: dict[str, str] | None = None,
        before: Callable[[], None] | None = None,
    ) -> None:
        _import_once()
        self.log = log
        body = multiprocessing.get_context("fork").Process(
            target=_forked, args=(list(arguments), log, environment or {}, before), daemon=False
        )
        body.start()
        self.process = body

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def wait(self, seconds: float = 120) -> int | None:
        """Its exit code; negative for a signal; None if it is still running."""
        self.process.join(seconds)
        return self.process.exitcode

    def printed(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


@functools.cache
def _import_once() -> None:
    """What a run imports on its way, so that forked processes need not, each anew."""
    for name in (
        "accelerate",
        "datasets",
        "torch._dynamo",
        "torch.distributed.fsdp",
        "transformers.models.auto.modeling_auto",
        "transformers.models.electra.modeling_electra",
        "transformers.models.gpt2.modeling_gpt2",
        "metalm_cli.inference.preview",
        "metalm_cli.training.pretraining",
    ):
        importlib.import_module(name)


def _forked(arguments: list[object], log: Path, environment: dict[str, str], before: Callable[[], None] | None) -> None:
    os.environ.update(environment)
    with open(log, "a", buffering=1, encoding="utf-8") as file:
        for stream in (sys.__stdout__, sys.__stderr__):
            os.dup2(file.fileno(), stream.fileno() if stream is not None else 2)
        sys.stdout = sys.stderr = file
        if before is not None:
            before()
        code = metalm(*arguments)
        file.flush()
    os._exit(code)


def watch_steps(path: Path) -> Callable[[], None]:
    """Makes a patch of the trainer that writes a line for every step: what it read, and which parts moved."""

    def patch() -> None:
        from metalm_cli.training.trainer import Trainer

        step, update = Trainer.step, Trainer.update

        def stepped(self: Any, batches: Any, counts: Any, used: Any, *rest: Any) -> Any:
            self.seen = {
                "numbers": [list(batch.numbers) for batch in batches],
                "docked": [bool(batch.docks) for batch in batches],
                "used": sorted(used),
                "counts": counts,
            }
            return step(self, batches, counts, used, *rest)

        def updated(self: Any, norm: Any, bad: Any) -> Any:
            before = {name: _local_parameters(part) for name, part in self.encoders.items()}
            found = update(self, norm, bad)
            moved = [
                name for name, part in self.encoders.items() if not torch.equal(before[name], _local_parameters(part))
            ]
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps({**self.seen, "moved": moved}) + "\n")
            return found

        Trainer.step, Trainer.update = stepped, updated  # type: ignore[method-assign]

    return patch


def _local_parameters(module: torch.nn.Module) -> torch.Tensor:
    """All of a module's parameters that this process holds, in one vector."""
    whole = [getattr(one, "_local_tensor", one).detach().flatten() for one in module.parameters()]
    return torch.cat(whole).clone()


def watched_steps(path: Path) -> list[dict[str, Any]]:
    """The lines of :func:`watch`."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def interrupted_copy(run: Path, to: Path, step: int) -> Path:
    """A copy of a finished run as a kill after a step's checkpoint would have left it: later metrics and all."""
    shutil.copytree(run, to)
    shutil.rmtree(to / "model")
    for folder in (to / "checkpoints").iterdir():
        if int(folder.name.removeprefix("step-")) > step:
            shutil.rmtree(folder)
    assert (to / "checkpoints" / f"step-{step:08d}").is_dir()
    return to


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_processes(
    arguments: Sequence[object],
    folder: Path,
    num_processes: int = 2,
    environment: dict[str, str] | None = None,
    before: Callable[[int], Callable[[], None] | None] = lambda rank: None,
    seconds: float = 120,
) -> tuple[list[int | None], list[str]]:
    """Runs a command line in several processes, as a launcher starts them, over gloo on the loopback interface.

    Returns:
        Their exit codes, and what each printed.
    """
    shared = {
        "WORLD_SIZE": str(num_processes),
        "LOCAL_WORLD_SIZE": str(num_processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "GLOO_SOCKET_IFNAME": "lo",
        "ACCELERATE_USE_CPU": "true",
        **(environment or {}),
    }
    runs = []
    for rank in range(num_processes):
        log = folder / f"rank-{rank}.log"
        log.unlink(missing_ok=True)
        own = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        runs.append(ForkedCommand(arguments, log, own, before(rank)))
    codes = [run.wait(seconds) for run in runs]
    for run in runs:
        if run.process.is_alive():
            run.process.kill()
            run.wait()
    return codes, [run.printed() for run in runs]


def with_sections(text: str, **values: Any) -> str:
    """The recipe with top-level sections replaced."""
    return yaml.safe_dump({**yaml.safe_load(text), **values})
