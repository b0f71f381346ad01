"""Batches: rows side by side, every distinct content once."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metalm_cli.sessions import (
    DECODER,
    DOCKED,
    ROOT,
    Batch,
    DockInput,
    DockTable,
    PackedTokens,
    Row,
    TextProcessor,
    TokenisedSession,
    build_row,
    collate,
)
from tiny_models import tokenizer_of

quick = settings(max_examples=60, deadline=None, derandomize=True)
TEXTS = ["A dog.", "It rained all day", "The ball was red and the dog was not."]
PROCESSORS = {name: TextProcessor(name, tokenizer_of("wordpiece"), 32) for name in ("text", "other")}


def row_of(contents: list[tuple[str, int]], trained: int = 2, **details: Any) -> Row:
    """Docks, each followed by trained tokens; every dock begins a session of its own."""
    sessions = []
    for encoder, which in contents:
        dock = PROCESSORS[encoder].prepare(TEXTS[which])
        ids = [DOCKED] * dock.positions + [10 + at for at in range(trained)]
        marks = [False] * dock.positions + [True] * trained
        sessions.append(TokenisedSession(np.array(ids), np.array(marks), ((0, dock),)))
    if not sessions:
        sessions = [TokenisedSession(np.array([5, 6, 7]), np.array([False, True, True]))]
    return build_row(sessions, **details)


contents = st.lists(
    st.lists(st.tuples(st.sampled_from(["text", "other"]), st.integers(0, 2)), max_size=4), min_size=1, max_size=4
)


@given(contents, st.integers(0, 5))
@quick
def test_equal_docks_are_encoded_once_and_gathered_where_they_stand(rows, extra):
    made = [row_of(one) for one in rows]
    size = max(map(len, made)) + extra
    batch = collate(made, PROCESSORS, length=size)
    for encoder in ("text", "other"):
        used = {which for one in rows for name, which in one if name == encoder}
        if not used:
            assert encoder not in batch.docks
            continue
        table = batch.docks[encoder]
        assert len(table.inputs["input_ids"]) == len(used)
        assert len(table.rows) == len(table.columns) == sum(len(content(which)) for which in used)
        # Outputs that say what they encode: the token at each position.
        outputs = table.inputs["input_ids"][table.rows, table.columns]
        flat = torch.full((len(made) * size,), -1)
        flat[table.positions] = outputs[table.content_index]
        assert len(set(table.positions.tolist())) == len(table.positions)
        expected = np.full((len(made), size), -1)
        for index, row in enumerate(made):
            for at, dock in row.docks:
                if dock.encoder == encoder:
                    expected[index, at : at + dock.positions] = dock.arrays["input_ids"][dock.docked]
        assert flat.view(len(made), size).tolist() == expected.tolist()


def content(which: int) -> list[int]:
    return PROCESSORS["text"].prepare(TEXTS[which]).docked.tolist()


@given(contents, st.integers(0, 5))
@quick
def test_flat_indices_find_their_rows_again(rows, extra):
    made = [row_of(one, numbers=(index,), counts={"documents": index}) for index, one in enumerate(rows)]
    size = max(map(len, made)) + extra
    batch = collate(made, PROCESSORS, length=size, pad_id=3)
    stream = batch.decoder
    assert stream.input_ids.shape == stream.position_ids.shape == stream.segment_ids.shape == (len(rows), size)
    at = 0
    for index, row in enumerate(made):
        n, m = len(row), len(row.targets)
        assert stream.input_ids[index, :n].tolist() == row.ids.tolist()
        assert (stream.input_ids[index, n:] == 3).all()
        assert stream.position_ids[index, :n].tolist() == row.positions.tolist()
        assert (stream.position_ids[index] < max(size, 1)).all()
        padding = stream.position_ids[index, n:]
        assert (padding >= min(row.positions[-1] + 1, size - 1)).all()
        assert (torch.diff(padding) >= 0).all()
        assert stream.segment_ids[index, :n].tolist() == row.segments.tolist()
        assert (stream.segment_ids[index, n:] == ROOT).all()
        groups = stream.parent_segments.shape[1]
        assert (stream.predict_at[at : at + m] - index * size).tolist() == row.predict_at.tolist()
        assert (stream.target_segments[at : at + m] - index * groups).tolist() == row.owners.tolist()
        assert stream.targets[at : at + m].tolist() == row.targets.tolist()
        at += m
    assert at == len(stream.targets)
    totals = Counter()
    for row in made:
        totals.update(row.counts)
    totals["padded_positions"] = len(rows) * size - sum(map(len, made))
    assert batch.counts == dict(totals)
    assert batch.numbers == tuple(range(len(rows)))
    assert stream.plain == all(len(row.parents) == 1 for row in made)
    assert stream.depth == 0


def test_worked_example():
    rows = [
        build_row([tokens(5, 6), tokens(8)], numbers=[4, 1]),
        build_row([tokens(9, 9)], numbers=[1]),
    ]
    batch = collate(rows, {})
    assert batch.decoder.segment_ids.tolist() == [[0, 0, 1], [0, 0, -1]]
    assert batch.decoder.position_ids.tolist() == [[0, 1, 0], [0, 1, 2]]
    assert batch.decoder.parent_segments.tolist() == [[-1, -1], [-1, -1]]
    assert batch.decoder.predict_at.tolist() == [0, 3]
    assert batch.decoder.targets.tolist() == [6, 9]
    assert batch.numbers == (1, 4)
    assert not batch.decoder.plain
    assert batch.counts["padded_positions"] == 1


def tokens(*ids: int) -> TokenisedSession:
    return TokenisedSession(np.array(ids), np.array([False] + [True] * (len(ids) - 1)))


def test_depth_is_the_longest_chain_of_any_row():
    forest = build_row([tokens(1), tokens(2), tokens(3), tokens(4)], [ROOT, 0, 1, ROOT])
    assert collate([forest, build_row([tokens(1, 2)])], {}).decoder.depth == 2
    assert collate([build_row([tokens(1), tokens(2)], [ROOT, 0])], {}).decoder.depth == 1
    assert collate([build_row([tokens(1, 2)])], {}).decoder.plain


def test_an_encoders_stream_and_its_uniforms():
    row = replace(build_row([tokens(1, 2, 3)]), uniforms=np.array([0.25, 0.5], dtype=np.float32))
    batch = collate([row, row], {}, stream="text", pad_id=9)
    assert list(batch.streams) == ["text"]
    assert batch.streams["text"].uniforms.tolist() == [0.25, 0.5, 0.25, 0.5]
    assert collate([build_row([tokens(1, 2)])], {}).decoder.uniforms is None


# -- moving -----------------------------------------------------------------------------------------------------------


def test_moving_keeps_everything():
    rows = [row_of([("text", 0), ("other", 1)], counts={"documents": 2}, numbers=(7,)), row_of([])]
    batch = collate(rows, PROCESSORS)
    batch.streams["extra"] = replace(batch.decoder, uniforms=torch.rand(6))
    for moved in (batch.to("cpu"), batch._map(torch.clone)):
        assert set(moved.streams) == {DECODER, "extra"}
        assert set(moved.docks) == {"text", "other"}
        assert (moved.counts, moved.numbers) == (batch.counts, batch.numbers)
        for name in batch.streams:
            same(batch.streams[name], moved.streams[name])
        for name in batch.docks:
            same(batch.docks[name], moved.docks[name])


def test_every_tensor_is_moved():
    batch = collate([row_of([("text", 0)])], PROCESSORS)
    moved = batch.to("meta")
    seen = [value for record in (*moved.streams.values(), *moved.docks.values()) for value in tensors(record)]
    assert len(seen) == 7 + 2 + 4
    assert {value.device.type for value in seen} == {"meta"}
    assert {value.device.type for value in tensors(batch.decoder)} == {"cpu"}


def tensors(record: PackedTokens | DockTable) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    for one in fields(record):
        value = getattr(record, one.name)
        found += [value] if isinstance(value, torch.Tensor) else []
        found += value.values() if isinstance(value, dict) else []
    return found


def same(a: PackedTokens | DockTable, b: PackedTokens | DockTable) -> None:
    for one in fields(a):
        left, right = getattr(a, one.name), getattr(b, one.name)
        if isinstance(left, torch.Tensor):
            assert torch.equal(left, right)
            assert left.dtype == right.dtype
        elif isinstance(left, dict):
            assert left.keys() == right.keys()
            assert all(torch.equal(left[key], right[key]) for key in left)
        else:
            assert left == right


def test_types():
    batch = collate([row_of([("text", 0)])], PROCESSORS)
    assert isinstance(batch, Batch)
    for record in (batch.decoder, batch.docks["text"]):
        assert {value.dtype for value in tensors(record)} == {torch.int64}


# -- processors -------------------------------------------------------------------------------------------------------


def test_texts_of_different_lengths_are_padded_and_masked():
    processor = PROCESSORS["text"]
    docks = [processor.prepare(text) for text in TEXTS]
    joined = processor.collate(docks)
    for row, dock in enumerate(docks):
        n = len(dock.arrays["input_ids"])
        assert joined["input_ids"][row, :n].tolist() == dock.arrays["input_ids"].tolist()
        assert (joined["input_ids"][row, n:] == processor.pad_id).all()
        assert joined["attention_mask"][row].tolist() == [1] * n + [0] * (joined["input_ids"].shape[1] - n)
        assert dock.cost == {"text": n}


def test_a_key_tells_encoder_and_content_apart():
    keys = {PROCESSORS[name].prepare(text).key for name in PROCESSORS for text in TEXTS}
    assert len(keys) == 6
    assert PROCESSORS["text"].prepare(TEXTS[0]).key == PROCESSORS["text"].prepare(TEXTS[0]).key


def test_a_dummy_is_a_valid_input():
    dummy = PROCESSORS["text"].dummy()
    assert isinstance(dummy, DockInput)
    assert dummy.positions == 1
    assert PROCESSORS["text"].collate([dummy])["attention_mask"].tolist() == [[1]]
