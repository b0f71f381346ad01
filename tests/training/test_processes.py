"""Micro-batches and processes: a step does not depend on how its rows are divided."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tiny_runs as micro

REPOSITORY = Path(__file__).parents[2]
LANGUAGE = ["train.batch_size=8"]
ENCODER = ["model.decoder=null", "model.encoders.text.config.max_position_embeddings=64"]
SETTINGS = {
    "semi_causal": LANGUAGE,
    "mlm": [*LANGUAGE, *ENCODER, "objective={name: mlm}"],
    "rtd": [*LANGUAGE, *ENCODER, "objective={name: rtd, generator_size: 0.5}"],
    "mixed": [
        *LANGUAGE,
        "objective={name: mixed, continuation: {name: semi_causal, span_length: [4, 8], span_fraction: 0.3}, "
        "reconstruction: {span_length: [4, 8]}, reconstruction_share: 0.5}",
        "model.connector={kind: stack, factor: 2}",
        "train.distill={weight: 3.0}",
        "train.dock_worth_sessions=0",
    ],
    # One short span in a few documents, one row per process: some steps have no dock in one process or in both.
    "seldom": [
        "train.batch_size=2",
        "train.steps=10",
        "objective.span_fraction=0.05",
        "model.connector={kind: queries, length: 3, layers: 1, heads: 2}",
        "train.weight_decay=0.1",
        "train.warmup_steps=0",
    ],
}
LAUNCHED = {"fsdp": micro.FSDP, "two": {}, "one": {}, "micro": {}}

Runs = Callable[..., Path]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """``runs(setting, launch)``: run folder, trained once; ``<folder>.<rank>`` lists what each process read."""
    folder = tmp_path_factory.mktemp("runs")
    recipe = micro.write_recipe(folder)

    def run(setting: str, launch: str) -> Path:
        out = folder / f"{setting}-{launch}"
        if not out.exists():
            arguments = ["pretrain", recipe, *SETTINGS[setting], "--out", out]
            arguments += [f"train.micro_batch_size={1 if setting == 'seldom' else 2}"] if launch == "micro" else []
            arguments += ["train.checkpoint_every=5", "train.keep_checkpoints=4"] if setting == "seldom" else []
            codes, printed = micro.run_processes(
                arguments,
                folder,
                2 if launch in ("two", "fsdp") else 1,
                LAUNCHED[launch],
                lambda rank: micro.watch_steps(Path(f"{out}.{rank}")),
            )
            assert codes == [0] * len(codes), "\n".join(printed)
            assert all(not text for text in printed[1:]), "only the first process prints"
        return out

    return run


def read_by(out: Path, ranks: int = 1) -> list[list[int]]:
    """Sorted numbers that each step read, over micro-batches and processes."""
    watched = [micro.watched_steps(Path(f"{out}.{rank}")) for rank in range(ranks)]
    return [
        sorted(number for share in step for numbers in share["numbers"] for number in numbers)
        for step in zip(*watched, strict=True)
    ]


def last_step(out: Path) -> int:
    return max(int(path.name.removeprefix("step-")) for path in (out / "checkpoints").iterdir())


@pytest.mark.parametrize("setting", list(SETTINGS))
@pytest.mark.parametrize("launch", ["micro", "two"])
def test_a_step_is_the_same_however_it_is_cut(runs: Runs, setting: str, launch: str) -> None:
    single, other = runs(setting, "one"), runs(setting, launch)
    assert micro.losses(other) == pytest.approx(micro.losses(single), abs=1e-5)
    step = last_step(single)
    first, second = micro.checkpoint(single, step), micro.checkpoint(other, step)
    # Adam divides by the size of a gradient, so that rounding moves parameters whose gradients are near zero.
    assert micro.difference(first["model"], second["model"]) < 5e-5
    assert first["state"]["lanes"] == second["state"]["lanes"]
    for state in (first["state"], second["state"]):
        state["meter"]["totals"].pop("padded_positions", None)  # rows that are not full are padded by the pass
    assert first["state"]["meter"] == second["state"]["meter"]
    assert read_by(single) == read_by(other, 2 if launch == "two" else 1)
    single_record, other_record = (micro.records(run, "validation")[0] for run in (single, other))
    assert other_record.pop("dock_worth", None) == single_record.pop("dock_worth", None)
    assert (
        other_record.keys()
        == single_record.keys()
        >= ({"auc", "accuracy", "base_rate"} if setting == "rtd" else {"loss"})
    )
    assert other_record == pytest.approx(single_record, abs=1e-3 if setting == "rtd" else 1e-5)


def test_a_resumed_run_is_cut_at_the_states_of_the_uninterrupted(runs: Runs, tmp_path: Path) -> None:
    uninterrupted = runs("seldom", "two")
    resumed = micro.interrupted_copy(uninterrupted, tmp_path / "resumed", 5)
    codes, printed = micro.run_processes(["pretrain", "--resume", "--out", resumed], tmp_path)
    assert codes == [0, 0], "\n".join(printed)
    states = [micro.checkpoint(run, 10)["state"] for run in (resumed, uninterrupted)]
    assert states[0]["lanes"] == states[1]["lanes"]


@pytest.mark.parametrize("setting", ["semi_causal", "mixed", "seldom"])
def test_sharded_training_gives_the_same_curve(runs: Runs, setting: str) -> None:
    single, sharded = runs(setting, "one"), runs(setting, "fsdp")
    assert micro.losses(sharded) == pytest.approx(micro.losses(single), abs=1e-4)
    step = last_step(single)
    for group in ("model", "optimizer"):
        first, second = micro.checkpoint(single, step), micro.checkpoint(sharded, step)
        assert micro.difference(first[group], second[group]) < 1e-4
    assert read_by(single) == read_by(sharded, 2)


@pytest.mark.parametrize("launch", ["two", "fsdp"])
def test_docks_in_both_processes_in_one_and_in_none(runs: Runs, launch: str) -> None:
    out = runs("seldom", launch)
    steps = list(zip(*(micro.watched_steps(Path(f"{out}.{rank}")) for rank in (0, 1)), strict=True))
    docked = {tuple(any(share["docked"]) for share in step) for step in steps}
    assert {(True, False), (False, True), (False, False)} <= docked
    for step in steps:
        used_encoders = ["text"] if any(any(share["docked"]) for share in step) else []
        assert [share["used"] for share in step] == [used_encoders, used_encoders]
        assert [share["moved"] for share in step] == [used_encoders, used_encoders], "an unused encoder does not change"


@pytest.mark.parametrize("launch", ["one", "micro"])
def test_an_encoder_that_is_not_used_stays_as_it_is(runs: Runs, launch: str) -> None:
    steps = micro.watched_steps(Path(f"{runs('seldom', launch)}.0"))
    assert all(step["moved"] == step["used"] for step in steps)
    assert {tuple(step["used"]) for step in steps[1:]} == {("text",), ()}, (
        "the encoder has momentum in steps that do not use it"
    )


@pytest.mark.parametrize(("begun", "resumed"), [("fsdp", "one"), ("one", "fsdp"), ("fsdp", "two")])
def test_a_checkpoint_is_resumed_by_another_number_of_processes(
    runs: Runs, tmp_path: Path, begun: str, resumed: str
) -> None:
    single = runs("seldom", "one")
    out = micro.interrupted_copy(runs("seldom", begun), tmp_path / "run", 5)
    num_processes = 1 if resumed == "one" else 2
    codes, printed = micro.run_processes(
        ["pretrain", "--out", out, "--resume"], tmp_path, num_processes, LAUNCHED[resumed]
    )
    assert codes == [0] * num_processes, "\n".join(printed)
    assert "resumed after step 5" in printed[0]
    assert micro.losses(out) == pytest.approx(micro.losses(single), abs=1e-4)
    first, second = micro.checkpoint(single, 10), micro.checkpoint(out, 10)
    assert micro.difference(first["model"], second["model"]) < 1e-4


def test_the_model_of_a_sharded_run_is_an_ordinary_folder(runs: Runs) -> None:
    from safetensors.torch import load_file

    import metalm_cli as metalm

    plain, sharded = (
        load_file(runs("semi_causal", launch) / "model" / "model.safetensors") for launch in ("one", "fsdp")
    )
    assert micro.difference(plain, sharded) < 1e-4
    configs = [(runs("semi_causal", launch) / "model" / "config.json").read_text() for launch in ("one", "fsdp")]
    assert configs[0] == configs[1]
    model = metalm.load(runs("semi_causal", "fsdp"))
    session = metalm.Session([metalm.Docked("text", "It rained."), metalm.Causal(" All day.", trained=True)])
    assert float(model.log_likelihood([session])[0]) < 0


def test_a_batch_that_does_not_divide_among_processes(tmp_path: Path) -> None:
    recipe = micro.write_recipe(tmp_path)
    codes, printed = micro.run_processes(
        ["pretrain", recipe, "train.batch_size=3", "--out", tmp_path / "run"], tmp_path
    )
    assert codes == [2, 2]
    output = "".join(printed)
    assert output.count("error:") == 1
    assert "train.batch_size" in output
    assert "multiple of 2" in output
    assert not (tmp_path / "run").exists()


def test_a_wrong_recipe_is_reported_once(tmp_path: Path) -> None:
    recipe = micro.write_recipe(tmp_path)
    codes, printed = micro.run_processes(["pretrain", recipe, "train.stepps=3", "--out", tmp_path / "run"], tmp_path)
    assert codes == [2, 2]
    assert "train.stepps" in printed[0]
    assert not printed[1]


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_in_one_process_ends_both_with_one_message(tmp_path: Path, failing: int) -> None:
    from metalm_cli.errors import Exit, MetalmError
    from metalm_cli.training.trainer import Trainer

    def fail() -> None:
        step = Trainer.step

        def failing_step(self: Any, *arguments: Any) -> Any:
            if self.state.step == 2:
                raise MetalmError("the tape tore", where="drive 0", remedy="mend it", exit_code=Exit.FAILED)
            return step(self, *arguments)

        Trainer.step = failing_step  # type: ignore[method-assign]

    recipe = micro.write_recipe(tmp_path)
    codes, printed = micro.run_processes(
        ["pretrain", recipe, "--out", tmp_path / "run"], tmp_path, before=lambda rank: fail if rank == failing else None
    )
    assert codes == [1, 1]
    assert "".join(printed).count("error:") == 1
    assert "the tape tore" in printed[failing]
    assert "Traceback" not in "".join(printed)


@pytest.mark.slow
def test_launched_with_the_shipped_sharding_configuration(tmp_path: Path, runs: Runs) -> None:
    recipe = micro.write_recipe(tmp_path)
    out = tmp_path / "run"
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(REPOSITORY / "recipes" / "accelerate" / "fsdp2.yml"), "--num_processes", "2"]
    command += ["--main_process_port", str(micro.free_port()), "-m", "metalm_cli.cli"]
    command += ["pretrain", str(recipe), *SETTINGS["semi_causal"], "--out", str(out)]
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert micro.losses(out) == pytest.approx(micro.losses(runs("semi_causal", "one")), abs=1e-4)
    assert json.loads((out / "model" / "config.json").read_text())["model_type"] == "metalm"
    assert done.stderr.count("step 1/6") == 1
    assert "sharded over 2" in done.stderr
