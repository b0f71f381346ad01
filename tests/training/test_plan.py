"""Plans: sample statistics match the rows of a run, totals match manual sums, and making a plan changes nothing."""

from __future__ import annotations

import io
import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

from metalm_cli.config import resolve
from metalm_cli.data.documents.open_corpus import open_corpus
from metalm_cli.data.sampling.row_slots import RowSlot
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.models.assembly import build_encoder, build_metalm
from metalm_cli.objectives import make_objective
from metalm_cli.training.optim import schedule
from metalm_cli.training.planning.memory import MemoryEstimate, estimate_memory, human_bytes, rows_per_micro_batch
from metalm_cli.training.planning.plan import make_plan, plan_text, steps_from_epochs
from metalm_cli.training.planning.sample_stats import compute_sample_stats

WORLD = ["data.sources.0.world.documents=300", "data.validation.documents=20", "data.validation.hold_out_every=10"]
SMALL = [
    *WORLD,
    "model.decoder.tokenizer.new.vocab_size=400",
    "data.sequence_length=64",
    "model.decoder.config.hidden_size=16",
    "model.encoders.text.config.hidden_size=16",
    "objective.span_length=[4, 8]",
]
ENCODER = [
    *WORLD,
    "data.sources.0.hub=null",
    "data.sources.0.exclude={}",
    "model.encoders.text.tokenizer.new.vocab_size=400",
    "model.encoders.text.config.hidden_size=16",
    "data.sequence_length=32",
]


class PlanInputs:
    """A recipe with its corpus, model and objective."""

    def __init__(self, name: str, overrides: list[str]) -> None:
        self.resolved = resolve("pretrain", name, overrides)
        self.recipe = self.resolved.recipe
        self.corpus = open_corpus(self.recipe.data, seed=0)
        options = {"seed": 0, "sample": lambda count: self.corpus.sample(count, 0)}
        if self.recipe.objective.name in ("mlm", "rtd"):
            self.assembly = build_encoder(self.recipe.model, self.recipe.objective.name, **options)
        else:
            self.assembly = build_metalm(self.recipe.model, **options)
        self.objective = make_objective(self.recipe, self.assembly)

    def plan(self, *, num_processes: int = 1, steps: int | None = None, **options):
        return make_plan(
            self.recipe, self.corpus, self.assembly, self.objective, num_processes=num_processes, steps=steps, **options
        )

    def with_train(self, **train):
        """Return the recipe with other values of ``train``."""
        return self.recipe.model_copy(update={"train": self.recipe.train.model_copy(update=train)})


@pytest.fixture(scope="module")
def small() -> PlanInputs:
    return PlanInputs("small", SMALL)


@pytest.fixture(scope="module")
def rtd() -> PlanInputs:
    return PlanInputs("encoder-rtd", ENCODER)


def printed(plan, resolved=None, width: int = 100, **options) -> str:
    out = io.StringIO()
    Console(file=out, width=width, highlight=False).print(plan_text(plan, resolved, **options))
    return out.getvalue()


def test_origins_of_values_at_the_start_of_a_run(small, tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("extends: small\ntrain:\n  batch_size: 8\n\n  learning_rate: 1e-3\n")
    resolved = resolve("pretrain", str(path), ["train.steps=77"])
    lines = printed(small.plan(), resolved, 200, all_values=False).splitlines()
    assert [line.split()[-2:] for line in lines if "own.yaml" in line] == [["train", "3-5"]]
    assert [line.split()[2:] for line in lines if "command line" in line] == [["train.steps:", "77"]]
    assert len([line for line in lines if "small.yaml" in line]) == 1
    assert not any("defaults" in line for line in lines)


def test_epochs_that_end_before_the_warm_up_shorten_it(small):
    recipe = small.with_train(steps=None, epochs=0.1, warmup_steps=1000)
    plan = make_plan(recipe, small.corpus, small.assembly, small.objective, num_processes=1, steps=None)
    warmup = plan.steps // 10
    assert 0 < warmup < plan.steps < 1000
    assert f"train.warmup_steps is {warmup} instead of 1000: train.epochs gives {plan.steps:,} steps" in plan.notes
    rates = [schedule(recipe.train, step, plan.steps) for step in range(plan.steps)]
    assert rates[warmup - 1] == max(rates) == 1.0


# -- sample statistics ------------------------------------------------------------------------------------------------


def test_sample_stats_match_the_rows_of_a_run(small):
    writer = small.objective.writer(small.recipe.data, 0)
    sample_stats = compute_sample_stats(small.corpus, writer, documents=10_000, seconds=30)
    slot = RowSlot(0, 1, small.corpus.reader(lambda _: True), writer)
    rows = [slot.next_row() for _ in range(sample_stats.rows)]
    assert sample_stats.sampled == small.corpus.sources[0].usable < 300
    for name in ("source_tokens", "trained_tokens", "docked_positions", "documents"):
        mean = sum(row.counts.get(name, 0) for row in rows) / len(rows)
        assert sample_stats.per_row(name) == pytest.approx(mean, rel=0.02), name
    assert sample_stats.fill == pytest.approx(sum(map(len, rows)) / len(rows) / 64, abs=1e-3)


def test_sample_stats_by_hand(small):
    writer = small.objective.writer(small.recipe.data, 0)
    sample_stats = compute_sample_stats(small.corpus, writer, documents=5, seconds=30)
    reader, texts, number = small.corpus.reader(lambda _: True), [], 0
    while len(texts) < 5:
        document = reader.get(number)
        texts += [document.text] if document is not None else []
        number += 1
    consumed = [texts[index % 5] for index in range(sample_stats.documents)]
    tokens = sum(len(small.assembly.decoder_tokenizer.encode_document(text)) for text in consumed)
    assert sample_stats.sampled == 5
    assert sample_stats.tokens == tokens
    assert sample_stats.text_bytes == sum(len(text.encode()) for text in consumed)
    assert sample_stats.bytes_per_token == sample_stats.text_bytes / tokens
    assert sample_stats.positions_per_document == pytest.approx(
        tokens / sample_stats.documents * sample_stats.rows * 64 / sample_stats.counts["source_tokens"]
    )


def test_a_document_longer_than_the_time_is_measured(small, monkeypatch):
    class Long:
        def get(self, number):
            return type("Document", (), {"text": "The dog barked. " * 500, "source": "documents"})

    corpus = open_corpus(small.recipe.data, seed=0)
    monkeypatch.setattr(corpus, "reader", lambda owns: Long())
    sample_stats = compute_sample_stats(corpus, small.objective.writer(small.recipe.data, 0), documents=5, seconds=0)
    assert (sample_stats.rows, sample_stats.documents) == (1, 1)
    assert sample_stats.tokens == len(small.assembly.decoder_tokenizer.encode_document("The dog barked. " * 500))
    assert sample_stats.text_bytes == 8000


def test_steps_from_epochs_match_the_formula_and_the_measured_steps(small):
    writer = small.objective.writer(small.recipe.data, 0)
    sample_stats = compute_sample_stats(small.corpus, writer, documents=10_000, seconds=30)
    steps = steps_from_epochs(2.0, small.corpus, sample_stats, 4)
    documents = small.corpus.sources[0].usable
    assert steps == math.ceil(2.0 * documents * sample_stats.positions_per_document / (4 * 64))
    slot, rows = RowSlot(0, 1, small.corpus.reader(lambda _: True), writer), 0
    while slot.state.number < 2 * documents:
        slot.next_row()
        rows += 1
    assert steps == pytest.approx(rows / 4, rel=0.03)


def test_epochs_of_a_stream_are_an_error(small):
    sample_stats = compute_sample_stats(small.corpus, small.objective.writer(small.recipe.data, 0), documents=3)
    corpus = open_corpus(small.recipe.data, seed=0)
    opened = corpus._sources[0]
    corpus._sources = [replace(opened, info=replace(opened.info, rows=None, usable=None, streamed=True))]
    with pytest.raises(MetalmError, match="documents is read as a stream") as caught:
        steps_from_epochs(1.0, corpus, sample_stats, 4)
    assert caught.value.exit_code == Exit.USAGE
    assert "train.steps" in caught.value.remedy


def test_epochs_become_steps_in_the_plan(small):
    recipe = small.with_train(steps=None, epochs=1.5)
    plan = make_plan(recipe, small.corpus, small.assembly, small.objective, num_processes=1, steps=None)
    assert plan.batch_shape.steps_are_estimated
    assert plan.sources[0].epochs == pytest.approx(1.5, rel=0.05)
    assert "an estimate" in printed(plan)


def test_steps_from_epochs_do_not_depend_on_the_clock(small, monkeypatch):
    recipe = small.with_train(steps=None, epochs=1.5)
    clock = iter(range(0, 10**9, 1000))
    slow = type("Clock", (), {"monotonic": staticmethod(lambda: next(clock))})
    first = make_plan(recipe, small.corpus, small.assembly, small.objective, num_processes=1, steps=None)
    monkeypatch.setattr("metalm_cli.training.planning.sample_stats.time", slow)
    again = make_plan(recipe, small.corpus, small.assembly, small.objective, num_processes=1, steps=None)
    assert (again.steps, again.sample_stats) == (first.steps, first.sample_stats)
    assert small.plan().sample_stats.sampled == 1  # with steps given, the sample is cut short


def test_sources_of_several_kinds(small, tmp_path):
    path = tmp_path / "more.jsonl"
    path.write_text('{"text": "A short one."}\n' * 50)
    sources = [*small.recipe.data.sources, small.recipe.data.sources[0].model_copy()]
    sources[0] = sources[0].model_copy(update={"weight": 1.0})
    sources[1] = type(sources[1])(name="more", path=str(path), weight=3.0)
    data = small.recipe.data.model_copy(update={"sources": sources})
    recipe = small.recipe.model_copy(update={"data": data})
    corpus = open_corpus(data, seed=0, cache=tmp_path)
    plan = make_plan(recipe, corpus, small.assembly, small.objective, num_processes=1, steps=10)
    world, more = plan.sources
    assert (world.info.share, more.info.share) == (0.25, 0.75)
    assert more.documents / world.documents == pytest.approx(3)
    total = (world.documents + more.documents) * plan.sample_stats.positions_per_document
    assert total == pytest.approx(10 * plan.batch_shape.positions)


# -- the plan ---------------------------------------------------------------------------------------------------------


def test_parameters_are_counted_once(small):
    plan = small.plan()
    model = small.assembly.model
    unique = {id(parameter): parameter.numel() for parameter in model.parameters()}
    assert plan.total == sum(unique.values()) == plan.trained
    assert [part.name for part in plan.parts] == ["decoder", "encoders.text", "connectors.text"]
    table = model.get_input_embeddings().weight
    assert model.get_output_embeddings().weight is table
    assert plan.parts[0].total == sum(parameter.numel() for parameter in model.decoder.parameters())


def test_the_generator_shares_its_embeddings(rtd):
    plan = rtd.plan()
    root = rtd.objective.step_module()
    real = rtd.plan(root=root)
    assert [part.name for part in plan.parts] == ["encoders.text", "generator"]
    assert plan.parts == real.parts
    assert plan.total == real.total == sum(parameter.numel() for parameter in root.parameters())
    assert plan.total < sum(part.total for part in plan.parts)
    assert plan.memory == real.memory
    assert "shared counted once" in printed(plan)
    assert plan.special_tokens is None


def test_batch_shape_of_several_processes(small):
    recipe = small.with_train(batch_size=12, micro_batch_size=2)
    plan = make_plan(recipe, small.corpus, small.assembly, small.objective, num_processes=3, steps=7)
    shape = plan.batch_shape
    assert (shape.steps, shape.micro_batch_size, shape.micro_batches, shape.processes) == (7, 2, 2, 3)
    assert shape.positions == 12 * 64
    assert plan.per_step("source_tokens") == plan.sample_stats.per_row("source_tokens") * 12
    text = printed(plan)
    assert "12 rows: 3 processes x 2 passes x 2 rows" in text
    assert "do not divide" not in text
    uneven = make_plan(recipe, small.corpus, small.assembly, small.objective, num_processes=5, steps=7)
    assert "12 rows do not divide among 5 processes" in printed(uneven)


def test_validation_counts_are_bounds_before_reading_and_exact_after(small):
    assert "up to 20 documents held out" in printed(small.plan())
    assert "17 documents held out, in 41 windows" in printed(small.plan(validation=(17, 41)))
    assert "there is no validation" not in printed(small.plan(validation=(17, 41)))
    assert "there is no validation: no text" in printed(small.plan(validation=(17, 0)))


@pytest.mark.parametrize("width", [60, 100])
def test_the_plan_displays_the_essentials(small, width):
    plan = small.plan()
    text = printed(plan, width=width)
    assert max(map(len, text.splitlines())) <= width
    flat = " ".join(text.split())
    for text_part in (
        "LlamaForCausalLM" if width == 100 else "LlamaFor",
        f"{plan.parts[0].total:,} {plan.parts[0].trained:,} all 0.002",
        f"from a sample of {plan.sample_stats.sampled:,} document",
        f"tokens, {plan.sample_stats.bytes_per_token:.2f} bytes each",
        "'</s>' ends a document",
        "world",
        f"{plan.sources[0].epochs:.2f}",
        "400",
        "512 positions",
        "fp32",
        human_bytes(plan.memory.total),
        "held out",
    ):
        assert text_part in flat, text_part


def test_provenance_of_every_value(small):
    text = printed(small.plan(), small.resolved, 160)
    lines = [line.split() for line in text.splitlines()]
    assert ["hidden_size:", "16", "command", "line"] in lines
    assert any(line[:2] == ["batch_size:", "8"] and line[2].startswith("small.yaml:") for line in lines)
    assert any(line[:2] == ["gradient_clip:", "1.0"] and line[2].startswith("base.yaml:") for line in lines)
    assert "train.epsilon" not in text
    assert "epsilon 1.0e-08" in text
    assert "max_time" not in text


def test_making_a_plan_changes_nothing(small, rtd):
    for case in (small, rtd):
        before = {name: tensor.clone() for name, tensor in case.assembly.model.state_dict().items()}
        modes = [module.training for module in case.assembly.model.modules()]
        states = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
        reader = case.corpus.reader(lambda _: True)
        first = [reader.get(number) for number in range(20)]
        case.plan()
        assert torch.equal(torch.get_rng_state(), states[0])
        assert (random.getstate(), str(np.random.get_state())) == states[1:]
        assert [module.training for module in case.assembly.model.modules()] == modes
        after = case.assembly.model.state_dict()
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
        again = case.corpus.reader(lambda _: True)
        assert [again.get(number) for number in range(20)] == first


# -- memory -----------------------------------------------------------------------------------------------------------


def test_exact_memory_by_hand(small):
    memory = estimate_memory(small.recipe, small.assembly)
    sizes = {id(parameter): parameter.numel() * 4 for parameter in small.assembly.model.parameters()}
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in small.assembly.model.buffers())
    assert memory.weights == sum(sizes.values()) + buffers
    assert memory.gradients == sum(sizes.values())
    assert memory.optimizer == 2 * sum(sizes.values())
    assert memory.total == memory.weights + memory.gradients + memory.optimizer + memory.activations


def test_the_optimizer_state_matches_the_estimate(small):
    from metalm_cli.training.optim import make_optimizer, trained_parts

    root = small.objective.step_module()
    optimizer = make_optimizer(*trained_parts(small.objective, root), small.recipe.train)
    for parameter in root.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.param_groups[0]["lr"] = 0.0
    for group in optimizer.param_groups:
        group["lr"] = group["weight_decay"] = 0.0
    optimizer.step()
    state = [
        value
        for state_of_parameter in optimizer.state.values()
        for key, value in state_of_parameter.items()
        if key != "step"
    ]
    root.zero_grad(set_to_none=True)
    estimated = estimate_memory(small.recipe, small.assembly).optimizer
    assert estimated == sum(value.numel() * value.element_size() for value in state)


def test_frozen_parts_need_less(small):
    full = estimate_memory(small.recipe, small.assembly)
    encoder = small.assembly.model.encoders["text"]
    encoder.requires_grad_(False)
    try:
        frozen = estimate_memory(small.recipe, small.assembly)
    finally:
        encoder.requires_grad_(True)
    num_frozen = sum(parameter.numel() for parameter in encoder.parameters())
    assert full.gradients - frozen.gradients == 4 * num_frozen
    assert frozen.activations < full.activations


@pytest.mark.parametrize(
    "changes", [{"micro_batch_size": 1}, {"checkpoint_activations": True}], ids=["rows", "checkpointing"]
)
def test_what_an_error_advises_lowers_the_estimate(small, changes):
    full = estimate_memory(small.recipe, small.assembly).activations
    assert estimate_memory(small.with_train(**changes), small.assembly).activations < full


def test_the_activations_are_of_the_right_order(small):
    """Compare with the tensors that autograd saves for the probe's batch, without head and weights."""
    from metalm_cli.models.loss import CHUNK_ELEMENTS
    from metalm_cli.training.planning.probe import probe_batch

    root = small.objective.step_module().train()
    batch = probe_batch(small.objective, small.recipe, 8)
    saved, parameter_storages = {}, {parameter.untyped_storage().data_ptr() for parameter in root.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameter_storages:
            saved[storage.data_ptr()] = storage.nbytes(), tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        root(batch)
    measured = sum(size for size, _ in saved.values())
    estimated = estimate_memory(small.recipe, small.assembly).activations - 12 * CHUNK_ELEMENTS
    assert 0.6 < estimated / measured < 1.7


def test_rows_of_a_forward_pass(small):
    assert rows_per_micro_batch(small.recipe, 1) == 8
    assert rows_per_micro_batch(small.recipe, 3) == 3
    assert rows_per_micro_batch(small.with_train(micro_batch_size=2), 1) == 2


def test_sizes_are_readable():
    assert str(MemoryEstimate(2**30, 0, 1024, 0)) == (
        "1.0 GiB (weights 1.0 GiB, gradients 0 bytes, optimizer 1.0 KiB, activations 0 bytes)"
    )
