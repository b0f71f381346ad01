"""Runs of the real command with a tiny recipe, which take a second or two, in this process or in forked processes."""

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

MODEL = """model:
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
"""
RECIPE = (
    "command: pretrain\n"
    + MODEL
    + """data:
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
)
ENCODER_ONLY = ["model.decoder=null", "data.validation.documents=2"]
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
    "FSDP_OFFLOAD_PARAMS": "false",
}
"""Environment variables with which a launcher shards a model over processes."""
CLOCK_FIELDS = ("tokens_per_second", "memory_bytes")
"""Fields of records that depend on time or memory and differ between equal runs."""


def write_recipe(folder: Path, text: str = RECIPE, name: str = "micro.yaml") -> Path:
    """Write a recipe and return its path."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def metalm(*arguments: object) -> int:
    """Run a command line in this process and return the exit code."""
    from metalm_cli.cli import console
    from metalm_cli.cli.app import run

    reset_accelerator()
    for cached in (console.stdout, console.stderr):
        cached.cache_clear()
    return run([str(argument) for argument in arguments])


def reset_accelerator() -> None:
    """Reset Accelerate, which otherwise keeps the settings of the first run in a process."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def records(run: Path, split: str = "train") -> list[dict[str, Any]]:
    """Metrics records of a run, without the clock fields; without a split, those of all steps."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    return [
        {key: value for key, value in record.items() if key not in CLOCK_FIELDS}
        for record in records
        if record["split"] == split or (not split and record["split"] != "parts")
    ]


def losses(run: Path) -> list[float]:
    """Logged training losses of a run."""
    return [record["loss"] for record in records(run)]


def checkpoint(run: Path, step: int) -> dict[str, Any]:
    """Content of a checkpoint: tensors by group, and the state without the clock and the recipe."""
    folder = run / "checkpoints" / f"step-{step:08d}"
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    return {
        "model": load_file(folder / "model.safetensors"),
        "optimizer": load_file(folder / "optimizer.safetensors"),
        "state": {key: value for key, value in state.items() if key not in ("seconds", "recipe")},
    }


def difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """Maximum absolute difference between two groups of tensors of the same names."""
    assert first.keys() == second.keys()
    return max(float((tensor.double() - second[name].double()).abs().max()) for name, tensor in first.items())


def assert_same_run(first_run: Path, second_run: Path, step: int, *, same_settings: bool = True) -> None:
    """Assert that two finished runs are equal bit for bit, except for the clock.

    Args:
        first_run: A run folder.
        second_run: Another run folder.
        step: Last step of both runs.
        same_settings: The runs have the same settings, so that their model cards are equal as well.
    """
    first, second = checkpoint(first_run, step), checkpoint(second_run, step)
    assert first["state"] == second["state"]
    for group in ("model", "optimizer"):
        assert difference(first[group], second[group]) == 0.0, group
    assert records(first_run, "") == records(second_run, "")
    for name in sorted(path.relative_to(first_run) for path in (first_run / "model").rglob("*") if path.is_file()):
        if same_settings or name.name != "README.md":
            assert (first_run / name).read_bytes() == (second_run / name).read_bytes(), name


# -- processes --------------------------------------------------------------------------------------------------------


class ForkedCommand:
    """A command line in a process forked from this one, where the libraries are already imported.

    Args:
        arguments: The command line.
        log: File for its output.
        environment: Environment variables to set.
        before: Called in the process before the command.
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
        process = multiprocessing.get_context("fork").Process(
            target=_forked, args=(list(arguments), log, environment or {}, before), daemon=False
        )
        process.start()
        self.process = process

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def wait(self, seconds: float = 120) -> int | None:
        """Exit code; negative for a signal; None if the process is still running."""
        self.process.join(seconds)
        return self.process.exitcode

    def printed(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


@functools.cache
def _import_once() -> None:
    """Import the lazy imports of a run once, so that forked processes need not repeat them."""
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
    """Make a patch of the trainer that writes a line per step: the numbers that it read, and the changed encoders."""

    def patch() -> None:
        from metalm_cli.training.trainer import Trainer

        step, update = Trainer.step, Trainer.update

        def stepped(self: Any, batches: Any, counts: Any, used_encoders: Any, *arguments: Any) -> Any:
            self.seen = {
                "numbers": [list(batch.numbers) for batch in batches],
                "docked": [bool(batch.docks) for batch in batches],
                "used": sorted(used_encoders),
                "counts": counts,
            }
            return step(self, batches, counts, used_encoders, *arguments)

        def updated(self: Any, norm: Any, bad: Any) -> Any:
            before = {name: _local_parameters(part) for name, part in self.encoders.items()}
            bad_step = update(self, norm, bad)
            moved = [
                name for name, part in self.encoders.items() if not torch.equal(before[name], _local_parameters(part))
            ]
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps({**self.seen, "moved": moved}) + "\n")
            return bad_step

        Trainer.step, Trainer.update = stepped, updated  # type: ignore[method-assign]

    return patch


def _local_parameters(module: torch.nn.Module) -> torch.Tensor:
    """Parameters of a module on this process, in one vector."""
    vectors = [getattr(parameter, "_local_tensor", parameter).detach().flatten() for parameter in module.parameters()]
    return torch.cat(vectors).clone()


def watched_steps(path: Path) -> list[dict[str, Any]]:
    """Lines written by :func:`watch_steps`."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def interrupted_copy(run: Path, copy: Path, step: int) -> Path:
    """Copy a finished run in the state of a run killed after the checkpoint of a step; later metrics stay."""
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "model")
    for folder in (copy / "checkpoints").iterdir():
        if int(folder.name.removeprefix("step-")) > step:
            shutil.rmtree(folder)
    assert (copy / "checkpoints" / f"step-{step:08d}").is_dir()
    return copy


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
    """Run a command line in several processes as a launcher does, over gloo on the loopback interface.

    Returns:
        The exit codes and the outputs.
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
        rank_environment = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        runs.append(ForkedCommand(arguments, log, rank_environment, before(rank)))
    codes = [run.wait(seconds) for run in runs]
    for run in runs:
        if run.process.is_alive():
            run.process.kill()
            run.wait()
    return codes, [run.printed() for run in runs]


def with_sections(text: str, **values: Any) -> str:
    """Return a recipe with top-level sections replaced."""
    return yaml.safe_dump({**yaml.safe_load(text), **values})
