"""Several processes: other data or recipes, an error at the start, and a process that is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import tiny_runs as micro

UNWANTED = ("this is a bug in metalm", "Traceback", "frame #", "GLHF")


def documents(path: Path, first: int, count: int = 60) -> Path:
    from metalm_cli.miniworld import generate_document

    path.parent.mkdir(exist_ok=True)
    lines = [json.dumps({"text": generate_document(0, first + number).text}) + "\n" for number in range(count)]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def outputs(printed: list[str], errors: int = 1) -> str:
    """Joined outputs, which hold ``errors`` messages of errors and nothing that looks like a crash."""
    output = "".join(printed)
    assert output.count("error:") == errors, output
    assert not [text for text in UNWANTED if text in output], output
    return " ".join(output.split())


def in_rank(rank: int, action: Callable[[], None]) -> Callable[[int], Callable[[], None] | None]:
    return lambda number: action if number == rank else None


@pytest.mark.parametrize("streaming", ["false", "true"])
def test_processes_with_different_data_do_not_train(tmp_path: Path, streaming: str) -> None:
    """The files have the same names and sizes on both machines."""
    for machine in ("first", "second"):
        documents(tmp_path / machine / "rows.jsonl", 0)
    rows = tmp_path / "second" / "rows.jsonl"
    rows.write_bytes(rows.read_bytes().replace(b"the ", b"teh "))
    source = f"data.sources=[{{name: own, path: rows.jsonl, streaming: {streaming}, weight: 1}}]"
    arguments = ["pretrain", micro.write_recipe(tmp_path), source, "--out", tmp_path / "run"]

    def other_machine() -> None:
        os.environ["METALM_DATA"] = str(tmp_path / "second")

    codes, printed = micro.run_processes(
        arguments, tmp_path, environment={"METALM_DATA": str(tmp_path / "first")}, before=in_rank(1, other_machine)
    )
    assert codes == [2, 2], printed
    output = outputs(printed)
    assert "the processes of the run read different data" in output
    assert ("the content of rows.jsonl" if streaming == "false" else "the first texts are others") in output
    assert not (tmp_path / "run").exists()


def test_processes_with_different_recipes_do_not_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both recipes have the same path, on two machines."""
    for machine, rate in (("first", "3e-3"), ("second", "1e-3")):
        (tmp_path / machine).mkdir()
        micro.write_recipe(tmp_path / machine, micro.RECIPE.replace("3e-3", rate))
    monkeypatch.chdir(tmp_path / "first")
    codes, printed = micro.run_processes(
        ["pretrain", "./micro.yaml", "--out", tmp_path / "run"],
        tmp_path,
        before=in_rank(1, lambda: os.chdir(tmp_path / "second")),
    )
    assert codes == [2, 2], printed
    output = outputs(printed)
    assert "the processes of the run have different recipes" in output
    assert "train.learning_rate: 0.003 and 0.001" in output
    assert not (tmp_path / "run").exists()


def test_processes_with_different_weights_do_not_train(tmp_path: Path) -> None:
    """One value of the decoder differs between the copies of a checkpoint on two machines."""
    recipe = micro.write_recipe(tmp_path)
    assert micro.metalm("pretrain", recipe, "train.steps=1", "train.warmup_steps=0", "--out", tmp_path / "base") == 0
    for machine in ("first", "second"):
        shutil.copytree(tmp_path / "base" / "model", tmp_path / machine / "base")
    file = tmp_path / "second" / "base" / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.startswith("decoder") and name.endswith("c_fc.weight"))
    tensors[name][3, 5] += 1e-3
    save_file(tensors, file, {"format": "pt"})
    micro.write_recipe(tmp_path, micro.RECIPE.replace(micro.MODEL, "model: {checkpoint: base}\n"))
    arguments = ["pretrain", recipe, "--offline", "--out", tmp_path / "run"]

    def other_machine() -> None:
        os.environ["METALM_CHECKPOINTS"] = str(tmp_path / "second")

    codes, printed = micro.run_processes(
        arguments,
        tmp_path,
        environment={"METALM_CHECKPOINTS": str(tmp_path / "first")},
        before=in_rank(1, other_machine),
    )
    assert codes == [2, 2], printed
    output = outputs(printed)
    assert "the processes of the run have different models" in output
    assert output.count("CRC-32 of the weights of decoder: ") == 1
    assert "encoders" not in output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("fault", ["recipe", "data"])
@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_of_one_process_at_the_start_is_the_error_of_all(tmp_path: Path, rank: int, fault: str) -> None:
    recipe = micro.write_recipe(tmp_path)
    documents(tmp_path / "data" / "rows.jsonl", 0)
    source = "data.sources=[{name: own, path: rows.jsonl}]"

    def break_start() -> None:
        if fault == "data":
            os.environ["METALM_DATA"] = str(tmp_path / "missing")
            return
        import metalm_cli.config as config
        from metalm_cli.errors import MetalmError

        def resolve(*arguments: Any) -> Any:
            raise MetalmError("the recipe is another", where="train.steps")

        config.resolve = resolve  # type: ignore[assignment]

    codes, printed = micro.run_processes(
        ["pretrain", recipe, source, "--out", tmp_path / "run"],
        tmp_path,
        environment={"METALM_DATA": str(tmp_path / "data")},
        before=in_rank(rank, break_start),
    )
    assert codes == [2, 2], printed
    assert ("the recipe is another" if fault == "recipe" else "the data folder does not exist") in outputs(printed)
    assert "error:" in printed[0], "rank zero prints the errors that all processes share"


@pytest.mark.parametrize("moment", ["start", "step", "model"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_others_with_a_clear_message(tmp_path: Path, rank: int, moment: str) -> None:
    recipe = micro.write_recipe(tmp_path)

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def killed() -> None:
        from metalm_cli.training import run, trainer

        step, parts = trainer.Trainer.step, run.Run._make_parts

        def dying_step(self: Any, *arguments: Any) -> Any:
            if self.state.step == (2 if moment == "step" else 5):
                die()
            return step(self, *arguments)

        def dying_parts(self: Any) -> None:
            parts(self)
            die()

        if moment == "start":
            run.Run._make_parts = dying_parts  # type: ignore[method-assign]
        elif moment == "model" and rank == 0:
            run.write_result = lambda *arguments: die()  # type: ignore[assignment]
        else:
            trainer.Trainer.step = dying_step  # type: ignore[method-assign]

    codes, printed = micro.run_processes(
        ["pretrain", recipe, "--out", tmp_path / "run"], tmp_path, before=in_rank(rank, killed), seconds=60
    )
    assert codes[rank] == -signal.SIGKILL
    assert codes[1 - rank] == 1
    output = outputs(printed, errors=0 if rank == 0 else 1)
    assert "another process of this run has ended" in output
    assert "continue with --resume" in output


def test_seeds_are_trained_by_several_processes(tmp_path: Path) -> None:
    arguments = ["pretrain", micro.write_recipe(tmp_path), "train.steps=2", "--seeds", "0,1", "--out", tmp_path / "run"]
    codes, printed = micro.run_processes(arguments, tmp_path)
    assert codes == [0, 0], printed
    assert (tmp_path / "run" / "seed-1" / "model").is_dir()
    assert (tmp_path / "run" / "seeds.json").is_file()


def test_a_checkpoint_that_cannot_be_written_is_the_error_of_all(tmp_path: Path) -> None:
    recipe, out = micro.write_recipe(tmp_path), tmp_path / "run"

    def blocked() -> None:
        from metalm_cli.training.trainer import Trainer

        step = Trainer.step

        def blocking_step(self: Any, *arguments: Any) -> Any:
            (out / "checkpoints").touch()
            return step(self, *arguments)

        Trainer.step = blocking_step  # type: ignore[method-assign]

    codes, printed = micro.run_processes(["pretrain", recipe, "--out", out], tmp_path, before=in_rank(0, blocked))
    assert codes == [1, 1], printed
    assert "the checkpoint of step 6 was not written" in outputs(printed)


def test_processes_that_cannot_be_connected(tmp_path: Path) -> None:
    variables = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "x"}
    arguments = ["pretrain", micro.write_recipe(tmp_path), "--out", tmp_path / "run"]
    run = micro.ForkedCommand(arguments, tmp_path / "log", {**variables, "ACCELERATE_USE_CPU": "true"})
    assert run.wait() == 1
    output = outputs([run.printed()])
    assert "the processes of the run cannot be connected" in output
    assert "MASTER_PORT" in output


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_under_torchrun(tmp_path: Path, rank: int) -> None:
    recipe = micro.write_recipe(tmp_path)
    program = tmp_path / "program.py"
    program.write_text(
        "import os, signal, sys\n"
        "from metalm_cli.training.trainer import Trainer\n"
        "step = Trainer.step\n"
        "def dying(self, *arguments):\n"
        f"    if self.state.step == 2 and os.environ['RANK'] == '{rank}':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return step(self, *arguments)\n"
        "Trainer.step = dying\n"
        "from metalm_cli.cli import main\n"
        "main()\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_addr", "127.0.0.1"]
    command += ["--master_port", str(micro.free_port()), str(program), "pretrain", str(recipe)]
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "run")], capture_output=True, text=True, env=environment, timeout=240
    )
    own_output = done.stderr.partition("torch.distributed.elastic")[0] or done.stderr
    assert done.returncode != 0
    assert "this is a bug in metalm" not in done.stderr
    assert "another process of this run has ended" in done.stderr, own_output
    assert done.stderr.count("error: ") == 1
