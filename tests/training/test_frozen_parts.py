"""Steps that use nothing that trains, for every choice of trained parts and adapters, in one and in two processes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import tiny_runs as micro
from task_fixtures import write_task

PARTS = ("decoder", "encoders", "connectors")
FULL = [
    dict(zip(PARTS, choice, strict=True))
    for choice in itertools.product(("all", "none"), repeat=3)
    if set(choice) != {"none"}
]
ADAPTED = [
    {"lora": lora, "connectors": connectors}
    for lora in (["decoder"], ["encoders"], ["encoders", "decoder"])
    for connectors in ("all", "none")
]
CHOICES = {json.dumps(choice): choice for choice in [*FULL, *ADAPTED]}
DOCKS_OF_STEPS = [(False, False), (True, True), (False, False), (True, False), (False, True), (False, False)]
"""Whether the two rows of each step have a dock. With two processes, each reads one of the rows."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model."""
    from metalm_cli.config import resolve
    from metalm_cli.models.checkpoint_io import save_model
    from metalm_cli.training.first_rows import prepare

    folder = tmp_path_factory.mktemp("base")
    _, assembly = prepare(resolve("pretrain", str(micro.write_recipe(folder))).recipe, None, True)
    (folder / "model").mkdir()
    save_model(folder / "model", assembly.model, assembly.decoder_tokenizer, assembly.processors)
    return folder / "model"


def trained_parts(choice: dict[str, Any]) -> set[str]:
    """Kinds of parts of which a choice trains the weights or the adapters."""
    if "lora" in choice:
        return set(choice["lora"]) | ({"connectors"} if choice["connectors"] == "all" else set())
    return {part for part in PARTS if choice[part] == "all"}


def make_trainer(base: Path, choice: dict[str, Any]) -> Any:
    from metalm_cli.config.schema.model import ModelConfig
    from metalm_cli.config.schema.objectives import SemiCausal
    from metalm_cli.config.schema.training import TrainingConfig
    from metalm_cli.models.assembly import build_metalm
    from metalm_cli.objectives.language import LanguageObjective
    from metalm_cli.training.distributed.accelerator import make_accelerator
    from metalm_cli.training.trainer import Trainer

    adapters = {"lora": {"parts": choice["lora"], "rank": 2}} if "lora" in choice else {}
    trains = {part: choice[part] for part in PARTS if part in choice}
    model = ModelConfig.model_validate({"checkpoint": str(base), "trains": trains, **adapters})
    options = TrainingConfig(
        steps=6,
        batch_size=2,
        micro_batch_size=1,
        warmup_steps=0,
        learning_rate=1e-2,
        weight_decay=0.1,
        precision="fp32",
    )
    micro.reset_accelerator()
    accelerator = make_accelerator(SimpleNamespace(train=options))  # type: ignore[arg-type]
    objective = LanguageObjective(
        SemiCausal(name="semi_causal"), build_metalm(model, seed=0, sample=lambda _: iter(()))
    )
    return Trainer(options, 6, objective, objective.step_module(), accelerator)


def kinds_changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> list[str]:
    """Kinds of parts of which a parameter changed."""
    return sorted({name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])})


def local_parameters(model: Any) -> dict[str, torch.Tensor]:
    """Copies of the parameters, or of this process's shards of them."""
    return {
        name: getattr(parameter, "_local_tensor", parameter).detach().clone()
        for name, parameter in model.named_parameters()
    }


def run_steps(base: Path, choice: dict[str, Any]) -> dict[str, Any]:
    """Train six steps; return the kinds of parts that each changed, and the norms of the gradients."""
    from metalm_cli.data.sampling.loader import StepRows
    from metalm_cli.sessions import Causal, Docked, Session, SessionTokeniser, build_row
    from metalm_cli.training.step_metrics import StepMetrics

    trainer = make_trainer(base, choice)
    tokenise = SessionTokeniser(trainer.objective.assembly.decoder_tokenizer, trainer.objective.assembly.processors)
    metrics = StepMetrics(trainer.collectives)
    changed, norms = [], []
    bad_step = torch.zeros((), dtype=torch.float64)
    for docks in DOCKS_OF_STEPS:
        rows = []
        for number, has_dock in enumerate(docks):
            spans = [Docked("text", "It rained.")] if has_dock else [Causal("So:")]
            spans.append(Causal(f" the day {number} was long", trained=True, end=True))
            rows.append(build_row([tokenise(Session(spans))], counts={"source_tokens": 1}))
        own_rows = rows[trainer.collectives.rank :: trainer.collectives.num_processes]
        batches = trainer.micro_batches(StepRows(own_rows, {}))
        counts, used_encoders, passes, _ = trainer.reduce_counts(batches, False)
        before = local_parameters(trainer.root.model)
        norm = trainer.step(batches, counts, used_encoders, passes, metrics)
        bad_step = trainer.update(norm, bad_step)
        changed.append(kinds_changed(before, local_parameters(trainer.root.model)))
        norms.append(float(norm))
        trainer.state.step += 1
    assert float(bad_step) == 0
    return {"changed": changed, "norms": norms, "loss": metrics.pop_record()["loss"]}


def expected_changes(choice: dict[str, Any]) -> list[list[str]]:
    trained = trained_parts(choice)
    return [sorted(trained if any(docks) else trained & {"decoder"}) for docks in DOCKS_OF_STEPS]


@pytest.fixture(scope="module")
def single(base: Path) -> Callable[[str], dict[str, Any]]:
    results: dict[str, dict[str, Any]] = {}

    def run(choice: str) -> dict[str, Any]:
        if choice not in results:
            results[choice] = run_steps(base, CHOICES[choice])
        return results[choice]

    return run


@pytest.mark.parametrize("choice", CHOICES)
def test_a_step_changes_exactly_the_used_parts_that_train(choice: str, single: Callable[..., dict[str, Any]]) -> None:
    result = single(choice)
    assert result["changed"] == expected_changes(CHOICES[choice])
    assert [norm > 0 for norm in result["norms"]] == [bool(kinds) for kinds in result["changed"]]


@pytest.fixture(scope="module")
def two_processes(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[dict[str, Any]]]:
    """Results of both processes for every choice, sharded or not; one pair of processes runs all choices."""
    folder = tmp_path_factory.mktemp("two")
    results: dict[str, list[dict[str, Any]]] = {}

    def run(launch: str) -> list[dict[str, Any]]:
        def run_all(rank: int) -> Callable[[], None]:
            def run_choices() -> None:
                outcomes = {name: run_steps(base, choice) for name, choice in CHOICES.items()}
                (folder / f"{launch}-{rank}.json").write_text(json.dumps(outcomes))

            return run_choices

        if launch not in results:
            codes, printed = micro.run_processes(
                ["--version"], folder, 2, micro.FSDP if launch == "fsdp" else {}, run_all
            )
            assert codes == [0, 0], "\n".join(printed)
            results[launch] = [json.loads((folder / f"{launch}-{rank}.json").read_text()) for rank in (0, 1)]
        return results[launch]

    return run


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("launch", ["two", "fsdp"])
def test_two_processes_make_the_same_steps(
    choice: str,
    launch: str,
    single: Callable[..., dict[str, Any]],
    two_processes: Callable[[str], list[dict[str, Any]]],
) -> None:
    expected = single(choice)
    for outcomes in two_processes(launch):
        assert outcomes[choice]["changed"] == expected["changed"]
        assert outcomes[choice]["norms"] == pytest.approx(expected["norms"], abs=1e-5)
        assert outcomes[choice]["loss"] == pytest.approx(expected["loss"], abs=1e-5)


# -- the commands -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_processes", [1, 2])
def test_a_connector_alone_is_trained_on_rows_of_which_few_have_docks(tmp_path: Path, num_processes: int) -> None:
    recipe = micro.write_recipe(tmp_path)
    line = ["model.decoder.trains=none", "model.encoders.text.trains=none", "objective.span_fraction=0.05"]
    line += ["train.batch_size=2", "train.micro_batch_size=1", "train.steps=8", "train.warmup_steps=0"]
    codes, printed = micro.run_processes(
        ["pretrain", recipe, *line, "--out", tmp_path / "run"],
        tmp_path,
        num_processes,
        before=lambda rank: micro.watch_steps(tmp_path / f"steps.{rank}"),
    )
    assert codes == [0] * num_processes, "\n".join(printed)
    ranks = [micro.watched_steps(tmp_path / f"steps.{rank}") for rank in range(num_processes)]
    assert {any(share["docked"]) for shares in zip(*ranks, strict=True) for share in shares} == {True, False}
    assert all(loss > 0 for loss in micro.losses(tmp_path / "run"))
    assert micro.records(tmp_path / "run", "validation")


def test_a_run_in_which_nothing_can_train_is_rejected(base: Path, tmp_path: Path, capsys: Any) -> None:
    recipe = micro.write_recipe(tmp_path)
    line = ["--model", base, "objective.name=causal", "model.trains.decoder=none", "--out", tmp_path / "run"]
    assert micro.metalm("pretrain", recipe, *line) == 2
    assert "nothing would train" in capsys.readouterr().err
    card = write_task(tmp_path, "parity", 24)
    line = ["--model", base, "--encoder-only", f"data.tasks=[{card}]", "data.templates.input_route=decoder"]
    line += [f"data.templates.collection={tmp_path / 'words'}", "data.sequence_length=64", "--out", tmp_path / "run"]
    assert micro.metalm("finetune", "world", *line) == 2
    assert "nothing would train" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
