"""Batches: rows side by side; each distinct content occurs once."""

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
    DOCKED_ID,
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
    for encoder, text_index in contents:
        dock = PROCESSORS[encoder].prepare(TEXTS[text_index])
        ids = [DOCKED_ID] * dock.positions + [10 + offset for offset in range(trained)]
        trained_mask = [False] * dock.positions + [True] * trained
        sessions.append(TokenisedSession(np.array(ids), np.array(trained_mask), ((0, dock),)))
    if not sessions:
        sessions = [TokenisedSession(np.array([5, 6, 7]), np.array([False, True, True]))]
    return build_row(sessions, **details)


contents = st.lists(
    st.lists(st.tuples(st.sampled_from(["text", "other"]), st.integers(0, 2)), max_size=4), min_size=1, max_size=4
)


@given(contents, st.integers(0, 5))
@quick
def test_equal_docks_are_encoded_once_and_gathered_at_their_positions(row_contents, extra):
    rows = [row_of(docks) for docks in row_contents]
    size = max(map(len, rows)) + extra
    batch = collate(rows, PROCESSORS, length=size)
    for encoder in ("text", "other"):
        used = {text_index for docks in row_contents for name, text_index in docks if name == encoder}
        if not used:
            assert encoder not in batch.docks
            continue
        table = batch.docks[encoder]
        assert len(table.inputs["input_ids"]) == len(used)
        assert len(table.rows) == len(table.columns) == sum(len(content(text_index)) for text_index in used)
        # Each output is the token at its position, so that it can be recognised.
        outputs = table.inputs["input_ids"][table.rows, table.columns]
        flat = torch.full((len(rows) * size,), -1)
        flat[table.positions] = outputs[table.content_index]
        assert len(set(table.positions.tolist())) == len(table.positions)
        expected = np.full((len(rows), size), -1)
        for index, row in enumerate(rows):
            for start, dock in row.docks:
                if dock.encoder == encoder:
                    expected[index, start : start + dock.positions] = dock.arrays["input_ids"][dock.output_positions]
        assert flat.view(len(rows), size).tolist() == expected.tolist()


def content(text_index: int) -> list[int]:
    return PROCESSORS["text"].prepare(TEXTS[text_index]).output_positions.tolist()


@given(contents, st.integers(0, 5))
@quick
def test_flat_indices_find_their_rows_again(row_contents, extra):
    rows = [row_of(docks, numbers=(index,), counts={"documents": index}) for index, docks in enumerate(row_contents)]
    size = max(map(len, rows)) + extra
    batch = collate(rows, PROCESSORS, length=size, pad_id=3)
    packed = batch.decoder
    assert packed.input_ids.shape == packed.position_ids.shape == packed.segment_ids.shape == (len(row_contents), size)
    target_start = 0
    for index, row in enumerate(rows):
        n, m = len(row), len(row.targets)
        assert packed.input_ids[index, :n].tolist() == row.ids.tolist()
        assert (packed.input_ids[index, n:] == 3).all()
        assert packed.position_ids[index, :n].tolist() == row.positions.tolist()
        assert (packed.position_ids[index] < max(size, 1)).all()
        padding = packed.position_ids[index, n:]
        assert (padding >= min(row.positions[-1] + 1, size - 1)).all()
        assert (torch.diff(padding) >= 0).all()
        assert packed.segment_ids[index, :n].tolist() == row.segments.tolist()
        assert (packed.segment_ids[index, n:] == ROOT).all()
        segment_count = packed.parent_segments.shape[1]
        assert (packed.predict_at[target_start : target_start + m] - index * size).tolist() == row.predict_at.tolist()
        assert (
            packed.target_segments[target_start : target_start + m] - index * segment_count
        ).tolist() == row.target_segments.tolist()
        assert packed.targets[target_start : target_start + m].tolist() == row.targets.tolist()
        target_start += m
    assert target_start == len(packed.targets)
    totals = Counter()
    for row in rows:
        totals.update(row.counts)
    totals["padded_positions"] = len(row_contents) * size - sum(map(len, rows))
    assert batch.counts == dict(totals)
    assert batch.numbers == tuple(range(len(row_contents)))
    assert packed.plain == all(len(row.parents) == 1 for row in rows)
    assert packed.depth == 0


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
    values = [value for record in (*moved.streams.values(), *moved.docks.values()) for value in tensors(record)]
    assert len(values) == 7 + 2 + 4
    assert {value.device.type for value in values} == {"meta"}
    assert {value.device.type for value in tensors(batch.decoder)} == {"cpu"}


def tensors(record: PackedTokens | DockTable) -> list[torch.Tensor]:
    values: list[torch.Tensor] = []
    for dataclass_field in fields(record):
        value = getattr(record, dataclass_field.name)
        values += [value] if isinstance(value, torch.Tensor) else []
        values += value.values() if isinstance(value, dict) else []
    return values


def same(a: PackedTokens | DockTable, b: PackedTokens | DockTable) -> None:
    for dataclass_field in fields(a):
        expected, actual = getattr(a, dataclass_field.name), getattr(b, dataclass_field.name)
        if isinstance(expected, torch.Tensor):
            assert torch.equal(expected, actual)
            assert expected.dtype == actual.dtype
        elif isinstance(expected, dict):
            assert expected.keys() == actual.keys()
            assert all(torch.equal(expected[key], actual[key]) for key in expected)
        else:
            assert expected == actual


def test_types():
    batch = collate([row_of([("text", 0)])], PROCESSORS)
    assert isinstance(batch, Batch)
    for record in (batch.decoder, batch.docks["text"]):
        assert {value.dtype for value in tensors(record)} == {torch.int64}


# -- processors -------------------------------------------------------------------------------------------------------


def test_texts_of_different_lengths_are_padded_and_masked():
    processor = PROCESSORS["text"]
    docks = [processor.prepare(text) for text in TEXTS]
    collated = processor.collate(docks)
    for row, dock in enumerate(docks):
        n = len(dock.arrays["input_ids"])
        assert collated["input_ids"][row, :n].tolist() == dock.arrays["input_ids"].tolist()
        assert (collated["input_ids"][row, n:] == processor.pad_id).all()
        assert collated["attention_mask"][row].tolist() == [1] * n + [0] * (collated["input_ids"].shape[1] - n)
        assert dock.cost == {"text": n}


def test_keys_differ_by_encoder_and_content():
    keys = {PROCESSORS[name].prepare(text).key for name in PROCESSORS for text in TEXTS}
    assert len(keys) == 6
    assert PROCESSORS["text"].prepare(TEXTS[0]).key == PROCESSORS["text"].prepare(TEXTS[0]).key


def test_a_dummy_is_a_valid_input():
    dummy = PROCESSORS["text"].dummy()
    assert isinstance(dummy, DockInput)
    assert dummy.positions == 1
    assert PROCESSORS["text"].collate([dummy])["attention_mask"].tolist() == [[1]]


def test_targets_are_counted_by_task():
    rows = [build_row([tokens(5, 6, 7), tokens(8, 9)], task_ids=[2, 0]), build_row([tokens(4, 5)], task_ids=[2])]
    assert collate(rows, {}).task_targets == {2: 3, 0: 1}
    assert collate([build_row([tokens(5, 6)])], {}).task_targets == {}
