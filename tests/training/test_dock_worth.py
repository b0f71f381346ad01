"""What docks are worth: values of an independent computation, and runs that it does not change."""

from __future__ import annotations

import contextlib
import io
import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tiny_runs as micro
from metalm_cli.evaluation.metrics.bootstrap import interval
from metalm_cli.objectives.language import LanguageModelStep
from metalm_cli.objectives.supervised import SupervisedStep
from metalm_cli.sessions import DockInput, Row, TokenisedSession, build_row, collate
from metalm_cli.sessions.processors import digest
from metalm_cli.training.validation.dock_exchange import DockExchange
from metalm_cli.training.validation.dock_worth import DockComparison
from metalm_cli.training.validation.validator import Validator
from model_families import IdProcessor, dock, make_decoder, make_encoder, make_metalm
from task_fixtures import TASK_SECTIONS, write_task

KINDS = ("exchanged", "mean_vector")


class PixelProcessor:
    """Processor of docks from :func:`picture`."""

    def collate(self, inputs: Any) -> dict[str, np.ndarray]:
        return {"pixel_values": np.stack([dock_input.arrays["pixel_values"] for dock_input in inputs])}


class TokenObjective:
    """Objective of rows without a tokenizer."""

    def collate(self, rows: list[Row], length: int | None = None) -> Any:
        processors: Any = {"text": IdProcessor(), "picture": PixelProcessor()}
        return collate(rows, processors, length=length)

    def counts(self, batch: Any) -> dict[str, int]:
        return {"loss": batch.counts["trained_tokens"]}

    def metrics(self, sums: dict[str, float], counts: dict[str, int], outputs: list[Any]) -> dict[str, float]:
        assert not outputs, "losses of targets are not collected for the metrics"
        return {"loss": sums["loss"] / counts["loss"]}


class SingleProcess:
    rank, num_processes = 0, 1
    sum_ints = sum_floats = staticmethod(lambda values: values)
    gather_objects = staticmethod(lambda value: [value])


def picture(rng: np.random.Generator) -> DockInput:
    pixels = rng.standard_normal((3, 8, 8)).astype(np.float32)
    return DockInput("picture", {"pixel_values": pixels}, np.arange(1, 5), digest("picture", pixels), {"vision": 4})


def text(rng: np.random.Generator, positions: int, is_compressed: bool = False) -> DockInput:
    whole = dock(*rng.integers(3, 400, positions + 2).tolist())
    return replace(whole, compressed=(positions + 1) // 2) if is_compressed else whole


def session(rng: np.random.Generator, *docks: DockInput, causal: int = 3) -> Row:
    """A row of one session: before each dock and after the last some causal tokens, the last of which are trained."""
    ids: list[int] = []
    placed = []
    for dock_input in docks:
        ids += rng.integers(3, 400, 2).tolist()
        placed.append((len(ids), dock_input))
        ids += [-1] * dock_input.positions
    start = len(ids) + 1
    ids += rng.integers(3, 400, causal + 1).tolist()
    trained = np.arange(len(ids)) >= start
    return build_row([TokenisedSession(np.array(ids), trained, tuple(placed))], task_ids=[0])


def model_of(kind: str = "gpt2", connectors: dict[str, Any] | None = None) -> Any:
    encoders = {"text": make_encoder("bert"), "picture": make_encoder("vit")}
    return make_metalm(make_decoder(kind), encoders, connectors=connectors)


def examples(is_compressed: bool = False) -> tuple[list[Row], list[Row], DockExchange]:
    """Sessions of one and two encoders with docks of different lengths, all rows, and an exchange of four of them."""
    rng = np.random.default_rng(0)
    docked = [
        session(rng, text(rng, 5, is_compressed), text(rng, 2, is_compressed), causal=4),
        session(rng, text(rng, 3, is_compressed)),
        session(rng, picture(rng), text(rng, 2, is_compressed), causal=1),
        session(rng, text(rng, 7, is_compressed), picture(rng), causal=6),
    ]
    other = [session(rng, text(rng, 4, is_compressed)), session(rng, causal=5)]
    rows = [other[0], docked[2], docked[0], other[1], docked[1], docked[3]]
    return docked, rows, DockExchange((2, 4, 1, 5), (1, 0, 3, 2), 0.05)


# -- a reference that shares no code -----------------------------------------------------------------------------------


def vectors_of(model: Any, row: Row) -> dict[str, list[torch.Tensor]]:
    """Dock vectors of a session, content by content."""
    vectors: dict[str, list[torch.Tensor]] = {}
    for _, dock_input in row.docks:
        name = dock_input.encoder
        inputs = {key: torch.from_numpy(array)[None] for key, array in dock_input.arrays.items()}
        outputs = model.encoders[name](**inputs).last_hidden_state[0]
        (connector,) = (module for module in model.connectors[name].modules() if isinstance(module, nn.Linear))
        inner = outputs[1:5] if name == "picture" else outputs[1:-1]
        if dock_input.compressed is not None:
            inner = torch.stack([group.mean(0) for group in inner.split(2)])
        vectors.setdefault(name, []).append(inner @ connector.weight.T + connector.bias)
    return vectors


def loss_of(model: Any, row: Row, vectors: dict[str, list[torch.Tensor]]) -> float:
    """Loss of a session whose docked positions have some vectors."""
    embeds = model.decoder.get_input_embeddings()(torch.from_numpy(row.ids))
    counts = {"text": 0, "picture": 0}
    for start, dock_input in row.docks:
        name = dock_input.encoder
        embeds[start : start + dock_input.positions] = vectors[name][counts[name]]
        counts[name] += 1
    logits = model.decoder(inputs_embeds=embeds[None], use_cache=False).logits[0]
    losses = nn.functional.cross_entropy(
        logits[torch.from_numpy(row.predict_at)], torch.from_numpy(row.targets), reduction="none"
    )
    return float(losses.double().mean())


@torch.no_grad()
def reference(model: Any, docked: list[Row], donors: tuple[int, ...]) -> dict[str, list[float]]:
    """Loss of each session as it is, with docks exchanged, and with mean vectors."""
    vectors = [vectors_of(model, row) for row in docked]
    means = {
        name: torch.cat([torch.cat(own[name]) for own in vectors if name in own]).mean(0)
        for name in ("text", "picture")
    }
    losses: dict[str, list[float]] = {"loss": [], **{kind: [] for kind in KINDS}}
    for index, row in enumerate(docked):
        own, donor = vectors[index], vectors[donors[index]]
        exchanged: dict[str, list[torch.Tensor]] = {}
        for name, docks in own.items():
            for number, dock_vectors in enumerate(docks):
                taken = donor[name][number % len(donor[name])]
                places = [taken[place % len(taken)] for place in range(len(dock_vectors))]
                exchanged.setdefault(name, []).append(torch.stack(places))
        averaged = {name: [means[name].expand(len(part), -1) for part in docks] for name, docks in own.items()}
        losses["loss"].append(loss_of(model, row, own))
        losses["exchanged"].append(loss_of(model, row, exchanged))
        losses["mean_vector"].append(loss_of(model, row, averaged))
    return losses


def measure(model: Any, rows_per_pass: int, step: Any = None, is_compressed: bool = False) -> dict[str, Any]:
    docked, rows, exchange = examples(is_compressed)
    objective: Any = TokenObjective()
    collectives: Any = SingleProcess()
    connectors = dict(model.connectors.items())
    comparison = DockComparison(exchange, docked, rows_per_pass, connectors, objective, collectives)
    validator = Validator(objective, rows, rows_per_pass, collectives, comparison)
    return validator(step or LanguageModelStep(model, {}), torch.device("cpu"))


@pytest.mark.parametrize("is_compressed", [False, True])
@pytest.mark.parametrize("rows_per_pass", [1, 3, 8])
def test_figures_equal_a_computation_session_by_session(rows_per_pass: int, is_compressed: bool) -> None:
    model = model_of(connectors={"text": {"kind": "mean", "factor": 2}} if is_compressed else None)
    docked, rows, exchange = examples(is_compressed)
    metrics = measure(model, rows_per_pass, is_compressed=is_compressed)
    losses = {kind: np.array(values) for kind, values in reference(model, docked, exchange.donors).items()}
    worth = metrics["dock_worth"]
    assert worth["sessions"] == 4
    assert worth["loss"] == pytest.approx(losses["loss"].mean(), abs=1e-5)
    for kind in KINDS:
        differences = losses[kind] - losses["loss"]
        assert np.abs(differences).min() > 1e-3, "vectors matter in each session"
        low, high = interval(differences)
        assert worth[f"{kind}_loss"] == pytest.approx(losses[kind].mean(), abs=1e-5)
        assert worth[kind] == pytest.approx({"difference": differences.mean(), "low": low, "high": high}, abs=1e-5)
    plain: Any = Validator(TokenObjective(), rows, rows_per_pass, SingleProcess())  # type: ignore[arg-type]
    unmeasured = plain(LanguageModelStep(model, {}), torch.device("cpu"))
    assert unmeasured.keys() == {"loss"}
    assert metrics["loss"] == pytest.approx(unmeasured["loss"], abs=5e-6)


@pytest.mark.parametrize("average", ["token", "example", "task"])
def test_figures_of_finetuning_do_not_depend_on_the_average(average: str) -> None:
    model = model_of()

    class Supervised(TokenObjective):
        def counts(self, batch: Any) -> dict[str, int]:
            return dict.fromkeys(("loss", "task_loss.rte", f"{average}_average"), batch.counts["trained_tokens"])

    supervised = measure(model, 3, SupervisedStep(model, {}, ["rte"], average))
    assert supervised["dock_worth"] == measure(model, 3)["dock_worth"]


def test_docks_that_the_decoder_does_not_need_are_worth_exactly_nothing() -> None:
    model = model_of()
    with torch.no_grad():
        for connector in model.connectors.values():
            connector[0].weight.zero_()  # every vector is the bias
    worth = measure(model, 3)["dock_worth"]
    assert [worth[kind] for kind in KINDS] == [{"difference": 0.0, "low": 0.0, "high": 0.0}] * 2
    assert worth["loss"] == worth["exchanged_loss"] == worth["mean_vector_loss"]


def test_docks_that_the_decoder_needs_are_worth_something() -> None:
    torch.manual_seed(0)
    model = model_of()
    docked, *_ = examples()
    step, objective = LanguageModelStep(model, {}), TokenObjective()
    for row in docked[1:]:  # the same question, so that only the dock says which answer is right
        row.ids[-1] = 0
    batch = objective.collate(docked)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        (step(batch)["loss"].sum / len(batch.decoder.targets)).backward()
        optimizer.step()
    worth = measure(model.eval(), 8)["dock_worth"]
    assert worth["loss"] < 1.0
    assert worth["exchanged"]["low"] > 0.0
    assert worth["mean_vector"]["low"] > 0.0


def test_a_dock_that_is_not_measured_leaves_no_vectors_behind() -> None:
    """The hooks of the measured batches are removed, and a second measurement gives the same figures."""
    model = model_of()
    first, second = measure(model, 2), measure(model, 2)
    assert first == second
    assert not any(connector._forward_hooks for connector in model.connectors.values())


# -- through the command ----------------------------------------------------------------------------------------------

RECIPE = "command: finetune\n" + (
    micro.MODEL.replace("n_positions: 64", "n_positions: 128").replace("embeddings: 64", "embeddings: 96")
    + TASK_SECTIONS.replace("sample_continuations: 1", "sample_continuations: 0")
    .replace("examples: 4", "examples: 40")
    .replace(", FOLDER/long.yaml", "")
    .replace("validate_every: 0", "validate_every: 2")
    .replace("checkpoint_every: 0", "checkpoint_every: 2")
)
VARIANTS: dict[str, tuple[list[str], int, dict[str, str]]] = {
    "one": ([], 1, {}),
    "off": (["train.dock_worth_sessions=0"], 1, {}),
    "two": ([], 2, {}),
    "sharded": ([], 2, micro.FSDP),
    "encoder only": (["model.trains.decoder=none"], 1, {}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tasks")
    write_task(root, "parity", 120, cluster="nli")
    write_task(root, "other", 120, cluster="misc", words=1)
    micro.write_recipe(root, RECIPE.replace("FOLDER", str(root)))
    return root


@pytest.fixture(scope="module")
def runs(folder: Path) -> Any:
    """``runs(variant)``: run folder, trained once; ``outputs`` has what a single process printed."""
    outputs: dict[str, str] = {}

    def run(variant: str) -> Path:
        out = folder / variant.replace(" ", "-")
        if not out.exists():
            arguments, world, environment = VARIANTS[variant]
            line = ["finetune", folder / "micro.yaml", *arguments, "--out", out]
            if world > 1:
                codes, printed = micro.run_processes(line, folder, world, environment)
                assert codes == [0] * world, "\n".join(printed)
            else:
                with contextlib.redirect_stderr(io.StringIO()) as stream:
                    assert micro.metalm(*line) == 0, stream.getvalue()
                outputs[variant] = stream.getvalue()
        return out

    run.outputs = outputs  # type: ignore[attr-defined]
    return run


def worths(run: Path) -> list[dict[str, Any]]:
    return [record["dock_worth"] for record in micro.records(run, "validation")]


def test_training_is_the_same_bit_for_bit(runs: Any) -> None:
    measured, unmeasured = runs("one"), runs("off")
    assert micro.records(measured) == micro.records(unmeasured)
    first, second = micro.checkpoint(measured, 4), micro.checkpoint(unmeasured, 4)
    for group in ("model", "optimizer"):
        assert micro.difference(first[group], second[group]) == 0.0
    assert all("dock_worth" not in record for record in micro.records(unmeasured, "validation"))
    for with_docks, without in zip(
        micro.records(measured, "validation"), micro.records(unmeasured, "validation"), strict=True
    ):
        assert with_docks["loss"] == pytest.approx(without["loss"], abs=1e-6)


@pytest.mark.parametrize("variant", ["two", pytest.param("sharded", marks=pytest.mark.slow)])
def test_figures_are_the_same_in_several_processes(runs: Any, variant: str) -> None:
    expected, actual = worths(runs("one")), worths(runs(variant))
    assert len(expected) == 2
    for single, other in zip(expected, actual, strict=True):
        assert single["sessions"] == other["sessions"] >= 2
        for kind in KINDS:
            assert other[kind] == pytest.approx(single[kind], abs=1e-5)
            assert other[f"{kind}_loss"] == pytest.approx(single[f"{kind}_loss"], abs=1e-4)
            assert single[kind]["low"] <= single[kind]["difference"] <= single[kind]["high"]


def test_a_resumed_run_has_the_figures_of_the_uninterrupted(runs: Any, tmp_path: Path) -> None:
    resumed = micro.interrupted_copy(runs("one"), tmp_path / "resumed", 2)
    assert micro.metalm("finetune", "--resume", "--out", resumed) == 0
    assert micro.records(resumed, "") == micro.records(runs("one"), "")


def test_a_run_whose_decoder_is_frozen_measures_as_well(runs: Any) -> None:
    assert all(worth["sessions"] >= 2 for worth in worths(runs("encoder only")))


def test_log_card_and_report_have_the_figures(runs: Any) -> None:
    run = runs("one")
    worth, text = worths(run)[-1], runs.outputs["one"]
    note = re.search(r"is measured on (\d+) of 60 validation sessions, which adds (\d+\.\d)% to the computation", text)
    assert note is not None
    assert int(note[1]) == worth["sessions"]
    assert float(note[2]) <= 10.0
    exchanged, mean = (f"{worth[kind]['difference']:+.3f}" for kind in KINDS)
    assert f"| docks exchanged {exchanged} (" in text
    assert f"| mean dock vector {mean} (" in text
    card = (run / "model" / "README.md").read_text(encoding="utf-8")
    assert f"exchanging docks between sessions changes the loss by {exchanged} (" in card
    assert "dock_worth" not in card.partition("## Recipe")[0]
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "What docks are worth" in page
    assert f"exchanging docks between sessions changes the loss by {exchanged} (" in page


def test_too_few_sessions_give_a_reason_and_no_figure(folder: Path, tmp_path: Path, capsys: Any) -> None:
    few = ["data.validation.examples=3", "train.steps=1", "train.warmup_steps=0"]
    assert micro.metalm("finetune", folder / "micro.yaml", *few, "--out", tmp_path / "run") == 0
    (record,) = micro.records(tmp_path / "run", "validation")
    reason = "two of 6 validation sessions would take more than 10% of the validation"
    assert record["dock_worth"] == {"why": reason}
    assert f"what docks are worth is not measured: {reason}" in capsys.readouterr().err
    assert f"what docks are worth is not measured: {reason}" in (tmp_path / "run" / "report.html").read_text()
    assert math.isfinite(record["loss"])


def test_models_without_docks_are_not_measured() -> None:
    from metalm_cli.training.validation.make_validator import make_validator

    def trainer(encoders: Any, gives: bool) -> Any:
        options = SimpleNamespace(micro_batch_size=2, batch_size=2, dock_worth_sessions=9)
        root = SimpleNamespace(gives_target_losses=gives)
        parts = {"objective": TokenObjective(), "collectives": SingleProcess(), "encoders": encoders, "root": root}
        return SimpleNamespace(options=options, **parts)

    rows = examples()[1]
    for encoders, gives in (({}, True), ({"text": None}, False)):
        validator = make_validator(trainer(encoders, gives), rows)
        assert validator.docks is None
        assert validator.notes == []
