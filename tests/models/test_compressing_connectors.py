"""Connectors with fewer vectors than outputs: explicit loops over one content at a time give the same vectors."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, gelu

from connector_reference import vectors_of_content
from metalm_cli.errors import MetalmError
from metalm_cli.models.compressing_connectors import QueryConnector, connector_flops
from metalm_cli.models.connectors import make_connector, root_mean_square
from metalm_cli.models.metalm import MetaLM
from metalm_cli.objectives.longest_rows import docked_row
from metalm_cli.sessions import DockInput, TextProcessor, TokenisedSession, build_row, collate
from metalm_cli.sessions.batch import dock_table
from metalm_cli.sessions.compression import Compression, compression_of
from model_families import (
    VOCABULARY,
    IdProcessor,
    assert_same,
    gradients,
    make_decoder,
    make_encoder,
    make_metalm,
)
from tiny_models import tokenizer_of

KINDS: list[dict[str, Any]] = [
    {"kind": "stack", "factor": 1},
    {"kind": "stack", "factor": 4},
    {"kind": "mean", "factor": 4},
    {"kind": "mean", "factor": 9},
    {"kind": "queries", "length": 3, "layers": 1, "heads": 1},
    {"kind": "queries", "length": 5, "layers": 2, "heads": 2},
]
WIDTH, TARGET = 6, 10


@pytest.mark.parametrize("grid", [None, (3, 5)])
@pytest.mark.parametrize("record", KINDS, ids=str)
def test_vectors_are_those_of_each_content_alone(record, grid) -> None:
    torch.manual_seed(0)
    connector = make_connector(record, WIDTH, TARGET)
    compression = compression_of(record, grid, "here")
    assert compression is not None
    sizes = [17] * 3 if grid else [1, 4, 17, 8]  # two class vectors before the patches
    contents = [torch.randn(size, WIDTH) for size in sizes]
    padded = torch.full((len(sizes), max(sizes), WIDTH), 7.0)
    mask = torch.zeros(len(sizes), max(sizes), dtype=torch.bool)
    for index, content in enumerate(contents):
        padded[index, : len(content)], mask[index, : len(content)] = content, True
    vectors = connector(padded, mask, grid)
    assert vectors.shape == (len(sizes), compression.positions(max(sizes)), TARGET)
    for index, content in enumerate(contents):
        expected = vectors_of_content(connector, record, content, grid)
        assert compression.positions(len(content)) == len(expected)
        torch.testing.assert_close(vectors[index, : len(expected)], expected, atol=1e-6, rtol=1e-5)
    connector.rescale(padded, 0.02, mask, grid)
    with torch.no_grad():
        vectors = connector(padded, mask, grid)
    assert root_mean_square(vectors) == pytest.approx(0.02, rel=0.01)


def test_a_compression_can_be_pickled_and_is_described() -> None:
    compression = pickle.loads(pickle.dumps(Compression("stack", {"factor": 8})))
    assert [compression.positions(count) for count in (1, 8, 9)] == [1, 1, 2]
    assert "8 outputs" in str(compression)
    assert "zeros" in str(compression)
    assert "2 x 2 patches" in str(Compression("mean", {"factor": 4}, (14, 14)))
    assert "32 positions" in str(Compression("queries", {"length": 32}))
    assert compression_of({"kind": "mlp", "layers": 2}, None, "here") is None


# -- several kinds in one row -----------------------------------------------------------------------------------------

ENCODERS_OF_ROW: dict[str, dict[str, Any]] = {
    "text": {"kind": "stack", "factor": 3},
    "notes": {"kind": "queries", "length": 4, "layers": 1, "heads": 2},
    "parts": {"kind": "mean", "factor": 4},
    "plain": {"kind": "mlp", "layers": 2},
    "vision": {"kind": "stack", "factor": 4},
    "photos": {"kind": "mean", "factor": 4},
    "frames": {"kind": "queries", "length": 2, "layers": 1, "heads": 1},
}
IMAGES = ("vision", "photos", "frames")


class NoiseProcessor:
    """Processor of images that are arrays already."""

    def collate(self, inputs: Any) -> dict[str, np.ndarray]:
        return {"pixel_values": np.stack([dock_input.arrays["pixel_values"] for dock_input in inputs])}


PROCESSORS: Any = {name: NoiseProcessor() if name in IMAGES else IdProcessor() for name in ENCODERS_OF_ROW}


@pytest.fixture(scope="module")
def model() -> MetaLM:
    encoders = {name: make_encoder("vit" if name in IMAGES else "bert") for name in ENCODERS_OF_ROW}
    return make_metalm(make_decoder("gpt2", n_positions=256), encoders, connectors=ENCODERS_OF_ROW)


def dock_of(model: MetaLM, name: str, rng: np.random.Generator) -> DockInput:
    compression = model.compressions[name]
    if name in IMAGES:
        config = model.encoders[name].config
        arrays = {"pixel_values": rng.standard_normal((3, config.image_size, config.image_size)).astype(np.float32)}
        docked = np.arange(1, 1 + (config.image_size // config.patch_size) ** 2)
    else:
        arrays = {"input_ids": rng.integers(3, VOCABULARY, int(rng.integers(3, 13)))}
        docked = np.arange(1, len(arrays["input_ids"]) - 1)
    compressed = None if compression is None else compression.positions(len(docked))
    return DockInput(name, arrays, docked, rng.bytes(8), {}, compressed)


def sessions_of(model: MetaLM, count: int = 3) -> list[TokenisedSession]:
    """Build sessions with docks of every encoder in random order, some of them repeated, and tokens between them."""
    rng = np.random.default_rng(3)
    repeated = {name: dock_of(model, name, rng) for name in model.encoders}
    sessions = []
    for _ in range(count):
        ids: list[int] = []
        docks = []
        for name in rng.permutation(list(model.encoders)):
            dock = repeated[name] if rng.random() < 0.3 else dock_of(model, name, rng)
            docks.append((len(ids), dock))
            ids += [-1] * dock.positions + rng.integers(3, VOCABULARY, int(rng.integers(1, 4))).tolist()
        tokens = np.array(ids)
        sessions.append(TokenisedSession(tokens, tokens >= 0, tuple(docks)))
    return sessions


def loss_of_session(model: MetaLM, session: TokenisedSession) -> torch.Tensor:
    """Compute the loss of each trained token of a session alone, with each dock alone and full logits."""
    vectors = model.decoder.get_input_embeddings()(torch.from_numpy(np.maximum(session.ids, 0)))
    pieces, position = [], 0
    for start, dock in session.docks:
        inputs = {key: torch.from_numpy(array)[None] for key, array in dock.arrays.items()}
        outputs = model.encoders[dock.encoder](**inputs).last_hidden_state[0][dock.output_positions]
        connector, record = model.connectors[dock.encoder], ENCODERS_OF_ROW[dock.encoder]
        if record["kind"] == "mlp":
            docked = connector[2](gelu(connector[0](outputs)))
        else:
            grid = {4: (2, 2), 9: (3, 3), 16: (4, 4)}[len(outputs)] if dock.encoder in IMAGES else None
            docked = vectors_of_content(connector, record, outputs, grid)
        pieces += [vectors[position:start], docked]
        position = start + len(docked)
    inputs_embeds = torch.cat([*pieces, vectors[position:]])
    assert len(inputs_embeds) == len(session)
    logits = model.decoder(inputs_embeds=inputs_embeds[None]).logits[0]
    predicted = np.flatnonzero(session.trained[1:])
    return cross_entropy(logits[predicted], torch.from_numpy(session.ids[predicted + 1]), reduction="none")


@pytest.mark.parametrize("rows", [(3,), (1, 2)], ids=["one-row", "two-rows"])
@pytest.mark.parametrize("bound", [None, 24], ids=["whole", "slices"])
def test_packed_rows_equal_each_session_alone(model, rows, bound, monkeypatch) -> None:
    monkeypatch.setattr(model, "encoder_positions", bound)
    sessions = sessions_of(model)
    model.zero_grad()
    expected = torch.cat([loss_of_session(model, session) for session in sessions])
    expected.sum().backward()
    expected_gradients = gradients(model)
    model.zero_grad()
    parts = np.split(np.arange(3), np.cumsum(rows)[:-1])
    batch = collate([build_row([sessions[index] for index in part]) for part in parts], PROCESSORS)
    total, each = model.losses(batch)
    total.backward()
    torch.testing.assert_close(each, expected.detach(), atol=1e-5, rtol=1e-5)
    actual = gradients(model)
    assert {name for name in expected_gradients if name.startswith("connectors.")} == {
        name for name, _ in model.named_parameters() if name.startswith("connectors.")
    }
    assert_same(actual, expected_gradients)


def test_neighbours_of_docks_do_not_affect_each_other(model) -> None:
    sessions = sessions_of(model)
    changed = [sessions[0], sessions_of(model, 5)[4], sessions[2]]
    with torch.no_grad():
        batches = [collate([build_row(each)], PROCESSORS) for each in (sessions, changed)]
        losses = [model.losses(batch)[1] for batch in batches]
    for segment in (0, 2):
        original, other = (
            loss[batch.decoder.target_segments == segment] for loss, batch in zip(losses, batches, strict=True)
        )
        torch.testing.assert_close(original, other, atol=1e-5, rtol=1e-5)


# -- slices -----------------------------------------------------------------------------------------------------------


class Calls:
    """Encoder inputs and outputs that record the shapes of their inputs."""

    def __init__(self, encoder_io: Any) -> None:
        self.encoder_io, self.shapes = encoder_io, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.encoder_io, name)

    def outputs(self, encoder: Any, inputs: Any) -> Any:
        self.shapes.append(tuple(next(iter(inputs.values())).shape))
        return self.encoder_io.outputs(encoder, inputs)


@pytest.mark.parametrize("name", ["text", "plain", "vision"])
def test_slices_are_bounded_and_change_nothing(model, name, monkeypatch) -> None:
    rng = np.random.default_rng(0)
    docks = [(index, dock_of(model, name, rng)) for index in range(11)]
    table = dock_table(docks, PROCESSORS[name])
    results = []
    for bound in (None, 40, 1):
        calls = Calls(model.encoder_ios[name])
        monkeypatch.setitem(model.encoder_ios, name, calls)
        monkeypatch.setattr(model, "encoder_positions", bound)
        model.zero_grad()
        vectors = model.dock_vectors(name, table)
        (vectors * torch.arange(vectors.numel()).view_as(vectors).cos()).sum().backward()
        results.append((vectors.detach(), gradients(model)))
        positions = len(docks[0][1].output_positions) if name == "vision" else table.inputs["input_ids"].shape[1]
        assert sum(shape[0] for shape in calls.shapes) == 11
        if bound is None:
            assert len(calls.shapes) == 1
        else:
            lengths = [positions if name == "vision" else shape[1] for shape in calls.shapes]
            sizes = [shape[0] for shape in calls.shapes]
            full = [max(1, bound // longest) for longest in lengths]
            assert sizes[:-1] == full[:-1]
            assert sizes[-1] <= full[-1]
            assert lengths == sorted(lengths, reverse=True)
            assert lengths[0] == positions
            assert len(calls.shapes) <= math.ceil(11 / max(1, bound // positions))
    for vectors, slice_gradients in results[1:]:
        torch.testing.assert_close(vectors, results[0][0], atol=1e-6, rtol=1e-5)
        assert_same(slice_gradients, results[0][1])


def test_slices_with_dropout_depend_on_the_seed_only(monkeypatch) -> None:
    encoder = make_encoder("bert", hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3)
    model = make_metalm(make_decoder("gpt2"), {"text": encoder}, connectors={"text": {"kind": "mean", "factor": 2}})
    monkeypatch.setattr(model, "encoder_positions", 20)
    rng = np.random.default_rng(0)
    table = dock_table([(index, dock_of(model, "text", rng)) for index in range(6)], PROCESSORS["text"])
    model.train()
    vectors = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        vectors.append(model.dock_vectors("text", table))
    assert torch.equal(vectors[0], vectors[1])
    assert not torch.equal(vectors[0], vectors[2])


# -- counts and errors ------------------------------------------------------------------------------------------------


def test_flops_are_two_for_each_weight_and_use() -> None:
    stack = make_connector({"kind": "stack", "factor": 4}, WIDTH, TARGET)
    assert connector_flops(stack, outputs=9, vectors=3) == 2 * 4 * WIDTH * TARGET * 3
    queries = make_connector({"kind": "queries", "length": 5, "layers": 2, "heads": 2}, WIDTH, TARGET)
    assert isinstance(queries, QueryConnector)
    outputs, vectors = 2 * 9, 2 * 5
    uses = outputs * (WIDTH * TARGET + 2 * 2 * TARGET**2) + vectors * (2 * (2 + 8) * TARGET**2 + TARGET**2)
    attention = 2 * 2 * (5 * TARGET * outputs) * 2
    assert connector_flops(queries, outputs=outputs, vectors=vectors) == 2 * uses + attention


def test_the_longest_rows_are_full_of_compressed_docks() -> None:
    processor = TextProcessor("text", tokenizer_of("wordpiece"), 32)
    processor.compression = Compression("stack", {"factor": 4})
    row = docked_row(65, False, 12, processor, 300, np.random.default_rng(0))
    assert [len(dock.output_positions) for _, dock in row.docks] == [12] * 16
    assert [start for start, _ in row.docks] == list(range(0, 64, 4)), "three positions and a trained token each"
    assert len(row) == 65
    processor.compression = Compression("queries", {"length": 65})
    assert not docked_row(65, False, 12, processor, 300, np.random.default_rng(0)).docks


INVALID: list[tuple[dict[str, Any], Any, str, str]] = [
    ({"kind": "stack", "factor": 0}, None, "got factor 0", "model.connector.factor"),
    ({"kind": "mean", "factor": -3}, None, "got factor -3", "model.connector.factor"),
    ({"kind": "stack", "factor": 2.0}, None, "got factor 2.0", "model.connector.factor"),
    ({"kind": "stack", "factor": 8}, (4, 4), "got factor 8", "model.connector.factor"),
    ({"kind": "queries", "length": 0}, None, "got length 0", "model.connector.length"),
    ({"kind": "stak", "factor": 2}, None, "no connector is named stak", "model.connector"),
    ({"kind": "stack", "length": 2}, None, "number of positions", "model.connector"),
]


@pytest.mark.parametrize(("record", "grid", "what", "where"), INVALID, ids=lambda value: str(value)[:40])
def test_settings_that_are_not_valid_are_named(record, grid, what, where) -> None:
    with pytest.raises(MetalmError, match=what) as caught:
        compression_of(record, grid, "model.connector")
    assert caught.value.where == where
    if record["kind"] == "stak":
        assert "did you mean stack?" in caught.value.remedy
    if grid:
        assert "4 or 9" in caught.value.remedy


def test_fewer_outputs_than_patches_are_refused() -> None:
    with pytest.raises(MetalmError, match="got 1 outputs of an image, expected at least its 3 x 3 patches"):
        Compression("stack", {"factor": 4}, (3, 3)).positions(1)
    assert Compression("queries", {"length": 4}, (3, 3)).positions(1) == 4


def test_docks_of_another_connector_are_refused(model) -> None:
    dock = dock_of(model, "text", np.random.default_rng(0))
    for name, compressed in (("text", None), ("plain", dock.compressed)):
        other = DockInput(name, dock.arrays, dock.output_positions, dock.key, {}, compressed)
        table = dock_table([(0, other)], PROCESSORS[name])
        with pytest.raises(MetalmError, match="does not give one vector for each position") as caught:
            model.dock_vectors(name, table)
        assert caught.value.where == f"connectors.{name}"
    wrong = DockInput("text", dock.arrays, dock.output_positions, dock.key, {}, dock.positions + 1)
    with pytest.raises(MetalmError, match="does not give one vector for each position"):
        model.dock_vectors("text", dock_table([(0, wrong)], PROCESSORS["text"]))
