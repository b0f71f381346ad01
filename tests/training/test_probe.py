"""Probe: its worst-case batch, its results, and that it changes nothing, bit for bit."""

from __future__ import annotations

import random
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from metalm_cli.config import resolve
from metalm_cli.data.documents.open_corpus import open_corpus
from metalm_cli.data.sampling.loader import StepRowDataset, loader
from metalm_cli.data.sampling.row_slots import RowSlot
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.models.assembly import build_encoder, build_metalm
from metalm_cli.objectives import make_objective
from metalm_cli.sessions import DECODER
from metalm_cli.training.planning import probe as module
from metalm_cli.training.planning.memory import rows_per_micro_batch
from metalm_cli.training.planning.probe import probe, probe_batch
from metalm_cli.training.trainer import Trainer
from metalm_cli.training.trainer_callbacks import TrainerCallbacks

WORLD = ["data.sources.0.world.documents=200", "data.validation.documents=0", "train.batch_size=4"]
SMALL = [
    *WORLD,
    "model.decoder.tokenizer.new.vocab_size=400",
    "data.sequence_length=64",
    "model.decoder.config.hidden_size=16",
    "model.encoders.text.config.hidden_size=16",
    "model.encoders.text.dropout=0.1",
    "objective.span_length=[4, 8]",
    "train.micro_batch_size=2",
]
ENCODER = [
    *WORLD,
    "data.sources.0.hub=null",
    "data.sources.0.exclude={}",
    "model.encoders.text.tokenizer.new.vocab_size=400",
    "model.encoders.text.config.hidden_size=16",
    "data.sequence_length=32",
    "train.warmup_steps=1",
]
TWIN = [override for override in SMALL if "encoders" not in override and "span" not in override]
CASES = {
    "small": ("small", SMALL),
    "bf16": ("small", [*SMALL, "train.precision=bf16"]),
    "twin": ("small-gpt-same-decoder", TWIN),
    "prefix": ("small", [*SMALL[:-2], "objective={name: prefix, prefix_length: [4, 9]}"]),
    "open": ("small", [*SMALL, "data.isolate_documents=false", "model.encoders.text.trains=none"]),
    "kept": ("small", [*SMALL, "model.encoders.text.keep_special=true", "model.encoders.text.max_length=8"]),
    "mlm": ("encoder-mlm", ENCODER),
    "rtd": ("encoder-rtd", ENCODER),
}


def run_probe(objective, root, recipe, device, **options):
    rows = rows_per_micro_batch(recipe, options.get("num_processes", 1))
    return probe(objective, root, recipe, device, partial(probe_batch, objective, recipe, rows), **options)


def make(case_name: str) -> SimpleNamespace:
    name, overrides = CASES[case_name]
    recipe = resolve("pretrain", name, overrides).recipe
    corpus = open_corpus(recipe.data, seed=0)
    options = {"seed": 0, "sample": lambda count: corpus.sample(count, 0)}
    if recipe.objective.name in ("mlm", "rtd"):
        assembly = build_encoder(recipe.model, recipe.objective.name, **options)
    else:
        assembly = build_metalm(recipe.model, **options)
    objective = make_objective(recipe, assembly)
    return SimpleNamespace(recipe=recipe, corpus=corpus, objective=objective, root=objective.step_module())


@pytest.fixture(params=CASES)
def case(request):
    return make(request.param)


@pytest.fixture
def small():
    return make("small")


# -- the worst case ---------------------------------------------------------------------------------------------------


def test_language_rows_are_full_of_the_longest_docks():
    for name, longest in (("small", 8), ("prefix", 9), ("kept", 8)):
        case = make(name)
        batch = probe_batch(case.objective, case.recipe, 2)
        stream = batch.streams[DECODER]
        assert stream.input_ids.shape == (2, 64)
        assert (stream.segment_ids >= 0).all()
        assert not stream.plain
        table = batch.docks["text"]
        docked = len(table.positions)
        sizes = torch.bincount(table.rows)
        assert sizes.max() == longest
        assert int((sizes == longest).sum()) >= 2 * 2 * (32 // (longest + 1))
        # All other positions are trained, except the first of a session, which is never predicted.
        untrained = 2 * 64 - docked - len(stream.targets)
        assert 0 <= untrained <= 4
        assert len(table.inputs["input_ids"]) == len(sizes)
        assert len({tuple(row) for row in table.inputs["input_ids"].tolist()}) == len(sizes)
        limit = case.objective.processor.max_length
        assert table.inputs["attention_mask"].sum(1).max() <= limit


def test_twins_train_every_position():
    case = make("twin")
    batch = probe_batch(case.objective, case.recipe, 2)
    assert not batch.docks
    assert len(batch.streams[DECODER].targets) == 2 * 64 - 4


def test_a_row_of_joined_documents_is_plain():
    case = make("open")
    assert probe_batch(case.objective, case.recipe, 2).streams[DECODER].plain


def test_encoder_rows_are_full_and_masked():
    case = make("mlm")
    batch = probe_batch(case.objective, case.recipe, 4)
    stream = batch.streams["text"]
    assert stream.input_ids.shape == (4, 32)
    assert (stream.segment_ids >= 0).all()
    assert len(stream.targets) == 4 * round(0.15 * 28)
    assert len(torch.unique(stream.targets)) > 4


def test_no_real_row_costs_more():
    case = make("small")
    worst = probe_batch(case.objective, case.recipe, 1)
    writer = case.objective.writer(case.recipe.data, 0)
    slot = RowSlot(0, 1, case.corpus.reader(lambda _: True), writer)
    for _ in range(60):
        batch = case.objective.collate([slot.next_row()], 64)
        if batch.docks:
            assert len(batch.docks["text"].positions) <= len(worst.docks["text"].positions)


# -- unchanged state --------------------------------------------------------------------------------------------------


def snapshot(root):
    return {
        "state": {name: tensor.clone() for name, tensor in root.state_dict().items()},
        "buffers": {name: (id(buffer), buffer.clone()) for name, buffer in root.named_buffers(remove_duplicate=False)},
        "modes": [child.training for child in root.modules()],
        "grads": [parameter.grad for parameter in root.parameters()],
        "needs": [parameter.requires_grad for parameter in root.parameters()],
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": str(np.random.get_state()),
    }


def assert_same(before, after):
    for name, tensor in before["state"].items():
        assert torch.equal(tensor, after["state"][name]), name
    for name, (address, tensor) in before["buffers"].items():
        assert after["buffers"][name][0] == address, name
        assert torch.equal(tensor, after["buffers"][name][1]), name
    assert torch.equal(before["torch"], after["torch"])
    for name in ("modes", "grads", "needs", "python", "numpy"):
        assert before[name] == after[name], name


def test_a_probe_changes_nothing(case):
    case.root.eval()
    next(iter(case.root.children())).train()
    torch.manual_seed(5)
    before = snapshot(case.root)
    result = run_probe(case.objective, case.root, case.recipe, "cpu")
    assert_same(before, snapshot(case.root))
    assert before["grads"] == [None] * len(before["grads"])
    assert result.seconds > 0
    assert result.peak_bytes is None
    assert result.notes == ()


class Restless(torch.nn.Module):
    """Module that draws from every random generator, counts in one buffer and replaces another."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.model = inner, inner.model
        self.register_buffer("count", torch.zeros(3))
        self.register_buffer("table", torch.ones(2), persistent=False)
        self.modes = []

    def forward(self, batch):
        torch.rand(7), random.random(), np.random.rand()
        self.count += 1
        self.table = torch.zeros(5)
        self.modes.append(self.training)
        return self.inner(batch)


def test_the_state_of_random_modules_is_restored(small):
    root = Restless(small.root).eval()
    parameter = next(root.parameters())
    parameter.grad = torch.full_like(parameter, 3.0)
    before = snapshot(root)
    run_probe(small.objective, root, small.recipe, "cpu")
    assert root.modes == [True]
    assert_same(before, snapshot(root))
    assert torch.equal(parameter.grad, torch.full_like(parameter, 3.0))


def test_state_is_restored_after_an_error(small, monkeypatch):
    before = snapshot(small.root)

    def broken(batch):
        torch.rand(3)
        raise ValueError("broken")

    monkeypatch.setattr(small.root, "forward", broken)
    with pytest.raises(ValueError, match="broken"):
        run_probe(small.objective, small.root, small.recipe, "cpu")
    assert_same(before, snapshot(small.root))


def trained(case_name: str, probed: bool) -> tuple[dict[str, torch.Tensor], list[float]]:
    case = make(case_name)
    torch.manual_seed(11)
    if probed:
        run_probe(case.objective, case.root, case.recipe, "cpu")
    trainer = Trainer(case.recipe.train, 3, case.objective, case.root, Accelerator(cpu=True), 64)
    losses = []
    no_signals = SimpleNamespace(pending=None)
    callbacks = TrainerCallbacks(
        log=lambda record: losses.append(record["loss"]),
        validate=lambda *_: {},
        log_validation=lambda record: None,
        save=lambda tensors, state: None,
        locate_document=str,
        advance=lambda step: None,
    )
    writer = case.objective.writer(case.recipe.data, 0)
    stream = StepRowDataset(
        range(4), lambda index, _: RowSlot(index, 4, case.corpus.reader(lambda _number: True), writer)
    )
    trainer.run(loader(stream, 0), callbacks, no_signals)
    return {name: tensor.clone() for name, tensor in case.root.state_dict().items()}, losses


def test_a_run_after_a_probe_is_the_run_without(monkeypatch):
    with_probe, losses = trained("small", True)
    without, expected = trained("small", False)
    assert losses == expected
    assert all(torch.equal(with_probe[name], tensor) for name, tensor in without.items())


# -- lack of memory ---------------------------------------------------------------------------------------------------

FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:119] . DefaultCPUAllocator: not enough memory: you tried to allocate"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: 12 bytes"),
    MemoryError(),
]


@pytest.mark.parametrize("error", FULL, ids=["cuda", "cpu", "allocate", "python"])
def test_out_of_memory_names_the_keys_to_change(small, monkeypatch, error):
    def full(batch):
        raise error

    monkeypatch.setattr(small.root, "forward", full)
    before = snapshot(small.root)
    with pytest.raises(MetalmError) as caught:
        run_probe(small.objective, small.root, small.recipe, "cpu")
    assert caught.value.exit_code == Exit.USAGE
    message = str(caught.value)
    for advice in (
        "train.micro_batch_size=1 (now 2)",
        "data.sequence_length (now 64)",
        "train.checkpoint_activations=true (now false)",
        "train.precision=bf16 (now fp32)",
        "estimated need",
        "activations",
    ):
        assert advice in message
    assert_same(before, snapshot(small.root))


def test_real_lack_of_memory(small, monkeypatch):
    monkeypatch.setattr(small.root, "forward", lambda batch: torch.empty(1 << 55, dtype=torch.uint8))
    with pytest.raises(MetalmError, match="does not fit"):
        run_probe(small.objective, small.root, small.recipe, "cpu")


def test_keys_at_their_limit_are_not_advised(small):
    train = small.recipe.train.model_copy(
        update={"micro_batch_size": 1, "precision": "bf16", "checkpoint_activations": True}
    )
    recipe = small.recipe.model_copy(update={"train": train})
    memory = module.estimate_memory(recipe, small.objective.assembly)
    remedy = module.out_of_memory_error(recipe, "full", memory, 1).remedy
    assert "train.precision (now bf16)" in remedy
    assert "train.checkpoint_activations (now true)" in remedy
    assert "now 1, the minimum" in remedy


def test_the_optimizer_must_fit_beside_the_peak(small, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=2**20))
    state = 8 * sum(parameter.numel() for parameter in small.root.parameters())
    fits, _ = 2**20 - state, None
    check = module._explain_lack_of_memory
    assert check(small.objective, small.root, fits, torch.device("cuda")) is None
    assert "optimizer" in check(small.objective, small.root, fits + 1, torch.device("cuda"))
    assert check(small.objective, small.root, fits + state // 2, torch.device("cuda"), 2) is None


def test_a_sharded_model_may_not_fit_unsharded(small, monkeypatch):
    def full(batch):
        raise FULL[0]

    monkeypatch.setattr(small.root, "forward", full)
    result = run_probe(small.objective, small.root, small.recipe, "cpu", num_processes=2, shards=2)
    assert (result.seconds, result.peak_bytes) == (None, None)
    (note,) = result.notes
    assert "sharded over 2 processes" in note
    assert "2.00 GiB" in note
    unsharded, sharded = (
        module.estimate_memory(small.recipe, small.objective.assembly, {}, 2, shards) for shards in (1, 2)
    )
    for name in ("weights", "gradients", "optimizer"):
        assert getattr(sharded, name) == getattr(unsharded, name) // 2
    assert sharded.activations == unsharded.activations
    assert "sharded over 2" in str(sharded)
    assert "sharded" not in str(unsharded)


def test_other_errors_are_not_taken_for_lack_of_memory(small, monkeypatch):
    def wrong(batch):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(small.root, "forward", wrong)
    with pytest.raises(RuntimeError, match="mat1"):
        run_probe(small.objective, small.root, small.recipe, "cpu")


def test_a_loss_that_is_not_finite_is_a_note(small):
    with torch.no_grad():
        small.objective.assembly.model.get_input_embeddings().weight.fill_(float("nan"))
    (note,) = run_probe(small.objective, small.root, small.recipe, "cpu").notes
    assert "not finite" in note
