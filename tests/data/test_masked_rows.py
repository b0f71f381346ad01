"""Masked rows for encoder pretraining: the masked positions, their replacements, and that no token is lost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metalm_cli.data.documents.masked_rows import MIN_FREE_POSITIONS, EncoderWriter
from metalm_cli.data.sampling.row_slots import RowSlot
from metalm_cli.sessions import ROOT, Row, TextProcessor
from row_fixtures import Shelf, assert_same_rows, rows_of_slot
from tiny_models import STORY, texts, tokenizer_of

CLS, SEP, MASK = 2, 3, 4
DOCUMENTS = (*texts()[:10], STORY, "A dog.")
PROCESSOR = TextProcessor("text", tokenizer_of("wordpiece"), 512)
BYTE = TextProcessor("text", tokenizer_of("byte-bos"), 512)
BYTE.tokenizer.mask_token = "<|endoftext|>"
quick = settings(max_examples=40, deadline=None, derandomize=True)


def make_writer(length: int = 64, processor: TextProcessor = PROCESSOR, **options: Any) -> EncoderWriter:
    return EncoderWriter(processor, length, **{"mask_rate": 0.15, **options})


def original(row: Row) -> np.ndarray:
    ids = row.ids.copy()
    ids[row.predict_at] = row.targets
    return ids


def make_rows(count: int = 60, **options: Any) -> tuple[list[Row], EncoderWriter]:
    writer = make_writer(128, **options)
    return rows_of_slot(RowSlot(0, 1, Shelf(texts()), writer), count)[0], writer


# -- masking ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.05, 0.15, 0.4])
def test_the_masking_rate(rate):
    rows, _ = make_rows(mask_rate=rate)
    for row in rows:
        content = row.counts["source_tokens"]
        assert len(row.targets) == max(1, round(rate * content))
        assert row.counts["trained_tokens"] == len(row.targets)


@pytest.mark.parametrize(("keep", "random"), [(0.1, 0.1), (0.0, 0.5), (0.6, 0.0), (1.0, 0.0), (0.0, 0.0)])
def test_the_shares_of_unchanged_and_random_tokens(keep, random):
    rows, writer = make_rows(200, mask_rate=0.4, keep_rate=keep, random_rate=random)
    read = np.concatenate([row.ids[row.predict_at] for row in rows])
    targets = np.concatenate([row.targets for row in rows])
    count = len(targets)
    assert count > 8_000
    masked = (read == MASK).mean()
    unchanged = (read == targets).mean()
    # A random token is the original again by chance, or where a special token was drawn.
    again = random * (1 + len(writer.special_ids)) / writer.vocabulary_size
    margin = 4 * np.sqrt(0.25 / count)
    assert masked == pytest.approx(1 - keep - random, abs=margin)
    assert unchanged == pytest.approx(keep + again, abs=margin)
    others = read[(read != MASK) & (read != targets)]
    assert not np.isin(others, writer.special_ids).any()
    if random == 0.5:
        assert len(np.unique(others)) > 0.95 * (writer.vocabulary_size - len(writer.special_ids))


def test_special_tokens_are_never_chosen():
    rows, _ = make_rows(mask_rate=0.9)
    for row in rows:
        marks = np.isin(original(row), [CLS, SEP])
        assert marks.sum() == row.counts["special_tokens"]
        assert not marks[row.predict_at].any()
        assert (row.ids[marks] == original(row)[marks]).all()


def test_positions_are_chosen_evenly():
    rows, _ = make_rows(400)
    hits = np.zeros(128)
    for row in rows:
        hits[row.predict_at] += 1
    thirds = hits.reshape(-1, 32).sum(1) / hits.sum()
    assert np.abs(thirds - 0.25).max() < 0.02


def test_uniforms_are_one_a_target_and_spread_over_the_unit_interval():
    rows, _ = make_rows(100)
    uniforms = np.concatenate([row.uniforms for row in rows])
    assert all(len(row.uniforms) == len(row.targets) for row in rows)
    assert uniforms.dtype == np.float32
    assert uniforms.min() >= 0
    assert uniforms.max() < 1
    assert np.histogram(uniforms, 10, (0, 1))[0].min() > 0.07 * len(uniforms)


def test_masks_differ_between_rows_seeds_and_epochs():
    def chosen(seed: int, start: int) -> list[int]:
        shelf = Shelf([DOCUMENTS[0]])
        writer = make_writer(64, seed=seed)
        document = writer.read(shelf.get(start).text, start)
        piece = writer.take(document, 0, 64, True)
        return writer.write([piece], piece.counts, [start]).predict_at.tolist()

    assert chosen(0, 0) == chosen(0, 0)
    assert chosen(0, 0) != chosen(1, 0)
    assert chosen(0, 0) != chosen(0, 1)
    long = rows_of_slot(RowSlot(0, 1, Shelf([" ".join(texts()[:5])]), make_writer(64)), 4)[0]
    assert len({row.numbers for row in long}) == 1
    assert len({tuple(row.predict_at) for row in long}) == 4


# -- layout -----------------------------------------------------------------------------------------------------------


@given(length=st.sampled_from([8, 24, 64, 200]), isolate=st.booleans(), packs=st.booleans(), seed=st.integers(0, 3))
@quick
def test_every_token_of_every_document_occurs_once_in_order(length, isolate, packs, seed):
    writer = make_writer(length, isolate=isolate, packs=packs, seed=seed)
    shelf = Shelf(DOCUMENTS)
    rows, states = rows_of_slot(RowSlot(0, 1, shelf, writer), 20)
    content: dict[int, list[int]] = {}
    for row in rows:
        ids = original(row)
        assert len(row) <= length
        assert (row.parents == ROOT).all()
        groups = np.split(ids, np.flatnonzero(np.diff(row.segments)) + 1)
        assert len(groups) == (len(row.numbers) if isolate else 1)
        if not isolate:
            assert ids[0] == CLS
            assert (ids[1:] != CLS).all()
            groups = np.split(ids[1:], np.flatnonzero(ids[1:-1] == SEP) + 1)
            assert row.positions.tolist() == list(range(len(ids)))
        else:
            sizes = [len(group) for group in groups]
            assert row.positions.tolist() == [position for size in sizes for position in range(size)]
            assert all(group[0] == CLS for group in groups)
            groups = [group[1:] for group in groups]
        assert len(groups) == len(row.numbers)
        for number, group in zip(row.numbers, groups, strict=True):
            assert group[-1] == SEP
            content.setdefault(number, []).extend(group[:-1].tolist())
        assert row.counts["encoder_tokens"] == len(ids)
        assert row.counts["source_tokens"] + row.counts["special_tokens"] == len(ids)
        if isolate and not packs:
            assert len(row.numbers) == 1
    numbers = sorted(content)
    assert numbers == list(range(len(numbers)))
    for number in numbers:
        expected = PROCESSOR.prepare(shelf.get(number).text).arrays["input_ids"][1:-1].tolist()
        assert content[number] == expected[: len(content[number])]
        assert len(content[number]) == len(expected) or number == numbers[-1]
    assert sum(row.counts["documents"] for row in rows) >= len(numbers) - 1
    for restart in (1, 7, 19):
        restarted = RowSlot(0, 1, shelf, make_writer(length, isolate=isolate, packs=packs, seed=seed), states[restart])
        assert_same_rows(rows_of_slot(restarted, 20 - restart)[0], rows[restart:])


def test_a_worked_row():
    writer = make_writer(20, mask_rate=0.5)
    ids = PROCESSOR.prepare("a b c d").arrays["input_ids"].tolist()
    assert len(ids) == 6
    row = rows_of_slot(RowSlot(0, 1, Shelf(["a b c d", "c d"]), writer), 1)[0][0]
    # 6 positions, then 14 left, which is fewer than the minimum to begin a document
    assert MIN_FREE_POSITIONS == 16
    assert original(row).tolist() == ids
    assert len(row.targets) == 2
    assert (row.ids[row.predict_at] == MASK).all()
    assert row.target_segments.tolist() == [0, 0]
    assert row.counts == {
        "source_tokens": 4,
        "special_tokens": 2,
        "documents": 1,
        "trained_tokens": 2,
        "encoder_tokens": 6,
    }


@pytest.mark.parametrize("packs", [True, False])
def test_a_document_that_the_encoder_reads_as_empty_trains_nothing(packs):
    writer = make_writer(32, packs=packs)
    rows, _ = rows_of_slot(RowSlot(0, 1, Shelf(["\u200b", "a b c d"]), writer), 2)
    assert original(rows[0])[:2].tolist() == [CLS, SEP]
    assert rows[0].counts["trained_tokens"] == (1 if packs else 0)
    assert sum(row.counts["documents"] for row in rows) >= 2


def test_targets_belong_to_their_documents():
    rows, _ = make_rows(20, mask_rate=0.3)
    for row in rows:
        assert row.target_segments.tolist() == row.segments[row.predict_at].tolist()


def test_rows_are_nearly_full():
    for isolate in (True, False):
        rows, writer = make_rows(60, isolate=isolate)
        assert sum(map(len, rows)) / (len(rows) * writer.length) > 0.95


def test_an_encoder_without_an_end_token():
    writer = make_writer(32, BYTE)
    assert (writer.prefix.tolist(), writer.suffix.tolist()) == ([1], [])
    rows, _ = rows_of_slot(RowSlot(0, 1, Shelf(["The dog barked twice."] * 2), writer), 1)
    assert original(rows[0])[0] == 1


def test_special_tokens_spelled_out_are_text():
    writer = make_writer(64)
    document = writer.read("a [MASK] b [SEP] c", 0)
    assert not np.isin(document.ids, [CLS, SEP, MASK]).any()


# -- validation -------------------------------------------------------------------------------------------------------


def test_validation_rows_are_alike_for_every_seed_and_layout():
    rows = make_writer(64, seed=0).validation_rows(DOCUMENTS)
    for options in ({"seed": 5}, {"isolate": False}, {"packs": False}):
        assert_same_rows(make_writer(64, **options).validation_rows(DOCUMENTS), rows)


def test_validation_rows_hold_every_document_in_windows():
    rows = make_writer(64).validation_rows(DOCUMENTS)
    ids = [original(row) for row in rows]
    assert all(len(row.parents) == 1 and len(row) <= 64 for row in rows)
    content = np.concatenate([row_ids[1:-1] for row_ids in ids]).tolist()
    expected = [PROCESSOR.prepare(text).arrays["input_ids"][1:-1].tolist() for text in DOCUMENTS]
    assert content == [token for document_tokens in expected for token in document_tokens]
    assert sum(row.counts["documents"] for row in rows) == len(DOCUMENTS)
    assert len({tuple(row.predict_at) for row in rows if len(row) == 64}) > 1
