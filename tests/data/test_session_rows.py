"""Rows for language model pretraining: every token once, complete docks, counted cuts, resumable at every row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metalm_cli.data.documents.session_rows import SPANS_PURPOSE, SessionWriter, join_segments
from metalm_cli.data.sampling.row_slots import RowSlot, numpy_generator, text_bytes
from metalm_cli.sessions import TokenisedSession
from row_fixtures import RowChecker, Shelf, assert_same_rows, rows_of_slot
from tiny_models import texts
from writer_fixtures import DOCUMENTS, UNREAD, decoder, make_writer, processor, writers

quick = settings(max_examples=60, deadline=None, derandomize=True)


# -- every token, exactly once ----------------------------------------------------------------------------------------


@given(options=writers, encoder=st.booleans(), slot=st.integers(0, 2))
@quick
def test_every_token_is_used_exactly_once_and_counted(options, encoder, slot):
    writer = make_writer(encoder=encoder, **options)
    shelf = Shelf(DOCUMENTS)
    rows, states = rows_of_slot(RowSlot(slot, 3, shelf, writer), 24)
    read_back = RowChecker(writer, shelf)
    read_back.check_rows(rows)
    numbers = sorted(read_back.offsets)
    assert numbers == [slot + 3 * index for index in range(len(numbers))]
    assert read_back.finished == numbers[: len(read_back.finished)]
    assert len(read_back.finished) >= len(numbers) - 1
    for number in read_back.finished:
        document = writer.tokenizer.encode_document(shelf.get(number).text)
        assert len(read_back.covered[number]) == len(document)
    if options["objective"] == "causal":
        marks = {mark for marks in read_back.covered.values() for mark in marks}
        assert marks <= {"trained", "unpredicted" if options["start"] == "never" else "trained"}
    if options["isolate"] and not options["packs"]:
        assert all(len(row.parents) == 1 for row in rows)
    if not options["isolate"]:
        assert all(len(row.parents) == 1 for row in rows)
        assert all(len(row) == writer.length for row in rows)
    assert states[0] == (slot, 0)


@given(options=writers, encoder=st.booleans())
@settings(quick, max_examples=20)
def test_a_row_slot_restarted_at_any_row_gives_the_same_rows(options, encoder):
    shelf = Shelf([*DOCUMENTS[:5], *DOCUMENTS[9:]])
    rows, states = rows_of_slot(RowSlot(1, 2, shelf, make_writer(encoder=encoder, **options)), 12)
    for restart in range(12):
        later_rows, later_states = rows_of_slot(
            RowSlot(1, 2, shelf, make_writer(encoder=encoder, **options), states[restart]), 12 - restart
        )
        assert_same_rows(later_rows, rows[restart:])
        assert later_states == states[restart:]


@pytest.mark.parametrize("isolate", [True, False])
def test_docked_text_does_not_occur_in_the_decoder(isolate):
    words = [f"word{index}" for index in range(400)]
    writer = make_writer(length=100, span=(8, 16), isolate=isolate)
    rows, _ = rows_of_slot(RowSlot(0, 1, Shelf([" ".join(words)]), writer), 12)
    assert sum(row.counts.get("docked_spans", 0) for row in rows) > 8
    tokenizer = writer.processor.tokenizer
    for row in rows:
        for position, dock in row.docks:
            docked = tokenizer.decode(dock.arrays["input_ids"], skip_special_tokens=True).replace(" ##", "")
            numbers = [int(word) for word in docked.replace("word", " ").split() if word.isdigit()]
            assert numbers
            after = decoded(writer, row.ids[position + dock.positions : position + dock.positions + 30])
            before = decoded(writer, row.ids[max(0, position - 30) : position])
            for number in numbers:
                assert f"word{number} " not in f"{after} {before} "


def decoded(writer: SessionWriter, ids: np.ndarray) -> str:
    return writer.tokenizer.decode(ids[ids > 1].tolist())


def test_no_dock_crosses_a_document():
    writer = make_writer(length=200, span=(8, 16), isolate=False)
    shelf = Shelf(DOCUMENTS)
    rows, _ = rows_of_slot(RowSlot(0, 1, shelf, writer), 10)
    seen = 0
    for row in rows:
        keys = {
            segment.dock.key: number
            for number in row.numbers
            for segment in writer.read(shelf.get(number).text, number).segments
            if segment.dock is not None
        }
        for _, dock in row.docks:
            assert dock.key in keys
            seen += 1
    assert seen > 20


# -- segments ---------------------------------------------------------------------------------------------------------


@given(options=writers, encoder=st.booleans(), document_index=st.integers(0, len(DOCUMENTS) - 1))
@quick
def test_segments_partition_a_document_and_docks_do_not_touch(options, encoder, document_index):
    writer = make_writer(encoder=encoder, **options)
    read = writer.read(DOCUMENTS[document_index], 5)
    position = 0
    for segment in read.segments:
        assert segment.first == position < segment.last
        position = segment.last
    assert position == len(read.document)
    for segment_before, segment_after in zip(read.segments, read.segments[1:], strict=False):
        assert _is_span(segment_before) != _is_span(segment_after)
    for segment in read.segments:
        if segment.dock is not None:
            expected = writer.processor.prepare(read.document.slice(segment.first, segment.last))
            assert segment.dock.key == expected.key
            assert segment.trained
        assert segment.trained or writer.processor is None
    again = writer.read(DOCUMENTS[document_index], 5)
    assert [(u.first, u.last, u.trained, u.reject_reason) for u in again.segments] == [
        (u.first, u.last, u.trained, u.reject_reason) for u in read.segments
    ]


def _is_span(segment: Any) -> bool:
    return segment.dock is not None or not segment.trained or bool(segment.reject_reason)


def test_spans_follow_the_seed_and_the_number():
    text = " ".join(texts()[:3])

    def spans(seed: int, number: int) -> list[tuple[int, int]]:
        return [(u.first, u.last) for u in make_writer(seed=seed).read(text, number).segments if u.dock is not None]

    assert spans(0, 1) == spans(0, 1)
    assert spans(0, 1) != spans(0, 2)
    assert spans(0, 1) != spans(1, 1)


def test_no_docked_text_begins_or_ends_inside_a_word():
    writer = make_writer(span=(8, 16))
    docked, before, after = 0, 0, 0
    for number in range(200):
        text = DOCUMENTS[number % 12]
        read = writer.read(text, number)
        drawn = writer.draw_spans(len(read.document), numpy_generator(0, SPANS_PURPOSE, number))
        spans = [segment for segment in read.segments if _is_span(segment)]
        assert len(spans) == len(drawn)
        docked += len(spans)
        before += sum(end - begin for begin, end in drawn)
        after += sum(segment.last - segment.first for segment in spans)
        for segment in spans:
            for edge in read.document.character_span(segment.first, segment.last):
                assert edge in (0, len(text)) or not (text[edge - 1].isalnum() and text[edge].isalnum())
    assert docked > 400
    assert before < after < before + 2 * docked  # words have two to three tokens here


# -- cuts and refusals ------------------------------------------------------------------------------------------------


def fixed_spans(*spans: tuple[int, int]) -> Any:
    """A span drawer that always draws the same spans."""
    return lambda tokens, rng: [(first, last) for first, last in spans if last <= tokens]


def short_writer(length: int, *spans: tuple[int, int], max_encoder_tokens: int = 40, **options: Any) -> SessionWriter:
    return SessionWriter(
        decoder("byte", "auto"), processor(max_encoder_tokens, False), fixed_spans(*spans), length, **options
    )


TEN = "a b c d e f g h i k"
"""Ten decoder tokens, and ten encoder tokens."""


def test_ten_tokens():
    assert len(decoder("byte", "auto").encode_document(TEN)) == 10
    assert processor(40, False).prepare(TEN).positions == 10


def test_a_worked_row():
    writer = short_writer(16, (2, 5))
    (row,), _ = rows_of_slot(RowSlot(0, 1, Shelf([TEN, "l m"]), writer), 1)
    ids = writer.tokenizer.encode_document(TEN).ids.tolist()
    second_ids = writer.tokenizer.encode_document("l m").ids.tolist()
    start = end = writer.tokenizer.document_end_id
    assert row.ids.tolist() == [start, *ids[:2], 0, 0, 0, *ids[5:], end, start, *second_ids, end]
    assert row.segments.tolist() == [0] * 12 + [1] * 4
    assert [position for position, _ in row.docks] == [3]
    assert row.targets.tolist() == [*ids[:2], *ids[5:], end, *second_ids, end]
    assert row.predict_at.tolist() == [0, 1, 5, 6, 7, 8, 9, 10, 12, 13, 14]
    assert row.numbers == (0, 1)
    assert row.counts == {
        "source_tokens": 12,
        "docked_positions": 3,
        "docked_tokens": 3,
        "docked_spans": 1,
        "special_tokens": 4,
        "documents": 2,
        "trained_bytes": len("a b" + " f g h i k" + "l m"),
        "trained_tokens": 11,
    }


def test_a_worked_row_that_is_not_isolated():
    writer = short_writer(16, (2, 5), isolate=False)
    (row,), _ = rows_of_slot(RowSlot(0, 1, Shelf([TEN, "l m"]), writer), 1)
    ids = writer.tokenizer.encode_document(TEN).ids.tolist()
    second_ids = writer.tokenizer.encode_document("l m").ids.tolist()
    end = writer.tokenizer.document_end_id
    assert row.ids.tolist() == [end, *ids[:2], 0, 0, 0, *ids[5:], end, *second_ids, end, ids[0]]
    assert row.segments.tolist() == [0] * 16
    assert row.positions.tolist() == list(range(16))
    assert row.targets.tolist() == [*ids[:2], *ids[5:], end, *second_ids, end, ids[0]]


def test_a_document_that_begins_with_a_dock_has_no_start_token_and_predicts_from_it():
    (row,), _ = rows_of_slot(RowSlot(0, 1, Shelf([TEN]), short_writer(16, (0, 4), packs=False)), 1)
    assert [position for position, _ in row.docks] == [0]
    assert row.predict_at[0] == 3
    assert row.counts["special_tokens"] == 1


def test_a_span_that_a_row_cuts_is_causal_and_counted_once():
    writer = short_writer(8, (4, 9))
    rows, _ = rows_of_slot(RowSlot(0, 1, Shelf([TEN]), writer), 2)
    assert not rows[0].docks
    assert rows[0].counts["cut_spans"] == 1
    assert "cut_spans" not in rows[1].counts
    ids = writer.tokenizer.encode_document(TEN).ids.tolist()
    start = writer.tokenizer.start_id
    assert rows[0].ids.tolist() == [start, *ids[:7]]
    assert rows[0].targets.tolist() == ids[:7]
    # The document continues as a session of its own, whose first token is trained.
    assert rows[1].ids[:4].tolist() == [start, *ids[7:]]
    assert rows[1].targets[:3].tolist() == ids[7:]


def test_a_span_that_a_row_leaves_whole_is_docked_in_the_next():
    writer = short_writer(8, (7, 10))
    rows, _ = rows_of_slot(RowSlot(0, 1, Shelf([TEN]), writer), 2)
    assert [position for position, _ in rows[1].docks] == [0]
    assert rows[1].ids[3] == rows[1].targets[0] == writer.tokenizer.document_end_id
    assert not rows[0].docks
    assert "cut_spans" not in rows[0].counts


def test_an_end_token_for_which_there_is_no_room():
    document, end = decoder("byte", "auto").encode_document(TEN), decoder("byte", "auto").document_end_id
    rows, states = rows_of_slot(RowSlot(0, 1, Shelf([TEN]), short_writer(11, isolate=False)), 2)
    assert (len(rows[0]), states[1]) == (11, (0, 10))
    assert "documents" not in rows[0].counts
    assert rows[1].targets.tolist()[:2] == [end, document.ids[0]]
    assert rows[1].counts["documents"] == 1
    # A session of an end token only would teach that documents are empty: it is omitted, and counted.
    rows, states = rows_of_slot(RowSlot(0, 1, Shelf([TEN]), short_writer(11)), 2)
    assert (len(rows[0]), states[1]) == (11, (1, 0))
    assert rows[0].targets.tolist() == document.ids.tolist()
    assert (rows[0].counts["cut_ends"], rows[0].counts["documents"]) == (1, 1)


def test_a_token_that_nothing_predicts_is_counted():
    writer = SessionWriter(decoder("byte", "never"), None, fixed_spans(), 16)
    (row,), _ = rows_of_slot(RowSlot(0, 1, Shelf([TEN]), writer), 1)
    assert row.counts["unpredicted_tokens"] == len(row.parents) == 2
    assert row.counts["trained_tokens"] == len(row) - 2
    document = writer.tokenizer.encode_document(TEN)
    assert row.targets[0] == document.ids[1]
    # The second session fills the free positions; neither counts the bytes of its first token.
    first_length, second_length = len(document), int(np.count_nonzero(row.segments == 1))
    predicted_text = document.slice(1, first_length) + document.slice(1, second_length)
    assert row.counts["trained_bytes"] == len(predicted_text.encode())


@pytest.mark.parametrize("kind", ["byte", "llama"])
def test_bytes_of_what_is_not_predicted_are_not_counted(kind):
    text = "日本語 and more."
    for start, first in (("always", 0), ("never", 1)):
        writer = SessionWriter(decoder(kind, start), None, fixed_spans(), 64)
        document = writer.tokenizer.encode_document(text)
        ((session, counts),) = writer.validation_windows([text])
        assert counts["trained_bytes"] == text_bytes(document, first, len(document))
        assert counts.get("unpredicted_tokens", 0) == first
        assert session.trained.sum() == len(document) - first + 1
    assert text_bytes(document, 0, len(document)) == len(text.encode())


def test_no_session_is_an_end_alone_whatever_the_length():
    end = decoder("byte", "auto").document_end_id
    cut = 0
    for length in range(4, 26):
        rows, _ = rows_of_slot(RowSlot(0, 1, Shelf([TEN, "l m"]), short_writer(length)), 8)
        for row in rows:
            for segment in range(len(row.parents)):
                assert row.targets[row.target_segments == segment].tolist() != [end]
        cut += sum(row.counts.get("cut_ends", 0) for row in rows)
        finished = sum(row.counts.get("documents", 0) for row in rows)
        ends = sum(int((row.targets == end).sum()) for row in rows)
        assert ends == finished - sum(row.counts.get("cut_ends", 0) for row in rows)
    assert cut > 10


@pytest.mark.parametrize(
    ("text", "max_encoder_tokens", "reason"), [(f"a {UNREAD} b", 40, "empty"), ("a b c d e f", 4, "too_long")]
)
def test_a_span_that_its_encoder_rejects_is_causal_trained_and_counted(text, max_encoder_tokens, reason):
    tokens = len(decoder("byte", "auto").encode_document(text))
    writer = short_writer(200, (1, tokens - 2), max_encoder_tokens=max_encoder_tokens, packs=False)
    (row,), _ = rows_of_slot(RowSlot(0, 1, Shelf([text]), writer), 1)
    assert not row.docks
    assert row.counts[f"{reason}_spans"] == 1
    assert row.targets.tolist() == [
        *writer.tokenizer.encode_document(text).ids.tolist(),
        writer.tokenizer.document_end_id,
    ]


def test_a_continued_document_is_a_new_session_only_when_isolated():
    text = " ".join(TEN.split() * 4)
    for isolate in (True, False):
        writer = short_writer(16, isolate=isolate, packs=False)
        rows, _ = rows_of_slot(RowSlot(0, 1, Shelf([text]), writer), 3)
        assert [row.ids[0] == writer.tokenizer.start_id for row in rows] == [True] * 3
        assert [row.positions[0] for row in rows] == [0] * 3
        assert sum(len(row.targets) for row in rows) == sum(map(len, rows)) - 3


# -- rows are full ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("isolate", "min_share"), [(True, 0.97), (False, 1.0)])
def test_rows_are_nearly_full(isolate, min_share):
    writer = make_writer(length=128, span=(8, 16), isolate=isolate)
    rows, _ = rows_of_slot(RowSlot(0, 1, Shelf(texts()), writer), 60)
    filled = sum(map(len, rows)) / (60 * 128)
    assert filled >= min_share
    assert min(map(len, rows)) >= 126


def test_documents_are_not_packed_where_the_decoder_cannot():
    writer = make_writer(length=256, packs=False)
    rows, _ = rows_of_slot(RowSlot(0, 1, Shelf(texts()), writer), 20)
    assert all(len(row.numbers) == 1 for row in rows)


def test_a_document_of_no_tokens_is_a_start_and_an_end():
    writer = short_writer(8)
    assert writer.read("", 0).segments == ()
    (row,), _ = rows_of_slot(RowSlot(0, 1, Shelf(["", TEN]), writer), 1)
    assert row.counts["documents"] == 1
    assert row.targets[0] == writer.tokenizer.document_end_id


def test_joined_sessions_continue_each_other():
    dock = processor(40, False).prepare("a b")
    session = TokenisedSession(np.array([5, -1, -1, 6]), np.array([0, 0, 0, 1], dtype=bool), ((1, dock),))
    both = join_segments([session, session])
    assert both.ids.tolist() == [5, -1, -1, 6] * 2
    assert both.trained.tolist() == [False, False, False, True] * 2
    assert [position for position, _ in both.docks] == [1, 5]
