"""Reconstruction and mixed objectives: every token is docked and predicted once, and what a teacher reads of rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from metalm_cli.config.schema.objectives import Mixed, Reconstruct, SemiCausal
from metalm_cli.config.schema.training import Distillation
from metalm_cli.data.documents.reconstruction_rows import mark_ids
from metalm_cli.data.sampling.row_slots import RowSlot
from metalm_cli.errors import MetalmError
from metalm_cli.objectives.language import LanguageObjective
from metalm_cli.objectives.reconstruction import MixedObjective, ReconstructionObjective
from metalm_cli.sessions import Causal, DecoderTokenizer, Docked, Session, SessionTokeniser, TextProcessor, TokenRules
from objective_fixtures import assembly, data_of
from row_fixtures import Shelf, assert_same_rows, rows_of_slot
from tiny_models import TOKENIZERS, texts, tokenizer_of

RECONSTRUCT = Reconstruct(name="reconstruct", span_length=[6, 12])
SEMI_CAUSAL = {"name": "semi_causal", "span_length": [4, 8], "span_fraction": 0.4}
MIXED = Mixed.model_validate(
    {
        "name": "mixed",
        "continuation": SEMI_CAUSAL,
        "reconstruction": {"span_length": [6, 12]},
        "reconstruction_share": 0.4,
    }
)
NO = Causal("\nno", trained=True)


def rows_of(objective: Any, count: int = 12, length: int = 64) -> list:
    return rows_of_slot(RowSlot(0, 1, Shelf(texts()), objective.writer(data_of(length), 0)), count)[0]


def sessions_of(row: Any) -> list[dict[str, Any]]:
    """Ids, docks and targets of each session of a row."""
    sessions = []
    for segment in range(len(row.parents)):
        positions = np.flatnonzero(row.segments == segment)
        own = row.target_segments == segment
        sessions.append(
            {
                "ids": row.ids[positions],
                "docks": [
                    (start - positions[0], dock) for start, dock in row.docks if positions[0] <= start <= positions[-1]
                ],
                "targets": row.targets[own],
                "first": int(row.predict_at[own].min()) + 1 - positions[0] if own.any() else None,
            }
        )
    return sessions


# -- rows of reconstruction -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [32, 64])
def test_every_token_of_a_document_is_docked_and_predicted_once_in_order(length: int) -> None:
    objective = ReconstructionObjective(RECONSTRUCT, assembly())
    tokenizer = objective.assembly.decoder_tokenizer
    mark, rebuilt = mark_ids(tokenizer, RECONSTRUCT.mark), []
    rows = rows_of(objective, 30, length)
    for row in rows:
        assert len(row) <= length
        for session in sessions_of(row):
            ((start, dock),) = session["docks"]
            assert start == 0
            after = session["ids"][dock.positions :]
            assert after[: len(mark)].tolist() == mark
            assert session["first"] == dock.positions + len(mark)
            assert session["targets"][-1] == tokenizer.document_end_id
            tokens = session["targets"][:-1]
            assert after[len(mark) :].tolist() == session["targets"].tolist()
            text = tokenizer.tokenizer.decode(tokens)
            assert dock.key == objective.processor.prepare(text).key, "the dock holds the predicted text"
            rebuilt += tokens.tolist()
    expected = np.concatenate([tokenizer.encode_document(text).ids for text in texts()[:12]])
    assert rebuilt == expected[: len(rebuilt)].tolist()
    counts = sum((Counter(row.counts) for row in rows), Counter())
    assert counts["source_tokens"] == counts["docked_tokens"] == len(rebuilt)
    assert counts["trained_tokens"] == len(rebuilt) + counts["docked_spans"]


def test_lengths_are_in_the_range_but_for_the_last_one_and_words_stay_whole() -> None:
    objective = ReconstructionObjective(RECONSTRUCT, assembly())
    divided = objective.writer(data_of(128), 0).read(texts()[0], 0)
    sizes = [piece.last - piece.first for piece in divided.pieces]
    assert all(6 <= size <= 20 for size in sizes[:-1]), "12 tokens and the rest of a word"
    assert all(divided.document.is_word_boundary(piece.first) for piece in divided.pieces)


def test_a_text_that_is_too_long_for_its_encoder_or_a_row_is_halved() -> None:
    for options in ({"max_length": 8}, {}):
        objective = ReconstructionObjective(Reconstruct(name="reconstruct", span_length=[30, 30]), assembly(**options))
        writer = objective.writer(data_of(128 if options else 40), 0)
        divided = writer.read(texts()[0], 0)
        assert [piece.first for piece in divided.pieces[1:]] == [piece.last for piece in divided.pieces[:-1]]
        assert all(piece.dock is not None for piece in divided.pieces)
        assert max(piece.last - piece.first for piece in divided.pieces) < 30


def test_a_text_that_its_encoder_reads_as_empty_is_left_out() -> None:
    objective = ReconstructionObjective(RECONSTRUCT, assembly())
    writer = objective.writer(data_of(), 0)
    shelf = Shelf(["\x00" * 40, "The girl took a red ball."])
    rows, _ = rows_of_slot(RowSlot(0, 1, shelf, writer), 2)
    counts = sum((Counter(row.counts) for row in rows), Counter())
    assert counts["empty_spans"] > 0
    assert counts["docked_spans"] > 0


def test_a_row_continues_where_a_checkpoint_left_off() -> None:
    for objective in (ReconstructionObjective(RECONSTRUCT, assembly()), MixedObjective(MIXED, assembly())):
        writer = objective.writer(data_of(), 0)
        rows, states = rows_of_slot(RowSlot(0, 1, Shelf(texts()), writer), 9)
        again, _ = rows_of_slot(RowSlot(0, 1, Shelf(texts()), writer, states[4]), 5)
        assert_same_rows(rows[4:], again)


def test_a_decoder_that_is_not_packed_has_one_session_a_row() -> None:
    objective = ReconstructionObjective(RECONSTRUCT, assembly())
    writer = objective.writer(data_of(), 0)
    writer.writer.packs = False
    rows, _ = rows_of_slot(RowSlot(0, 1, Shelf(texts()), writer), 9)
    assert {len(row.parents) for row in rows} == {1}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_mark_is_a_text_or_a_token(kind: str) -> None:
    tokenizer = DecoderTokenizer(tokenizer_of(kind), TokenRules())
    ids = mark_ids(tokenizer, "\nRepeat:")
    assert "Repeat:" in tokenizer.tokenizer.decode(ids)
    token = tokenizer.tokenizer.convert_ids_to_tokens(7)
    assert mark_ids(tokenizer, token) == [7]
    assert mark_ids(tokenizer, tokenizer.tokenizer.eos_token) == [tokenizer.tokenizer.eos_token_id]


def test_a_mark_that_is_read_as_empty() -> None:
    class Silent:
        tokenizer = tokenizer_of("byte")

        def encode_continuation(self, text: str) -> list[int]:
            return []

    with pytest.raises(MetalmError, match="reads the mark '~~' as empty") as caught:
        mark_ids(Silent(), "~~")  # type: ignore[arg-type]
    assert caught.value.where == "objective.mark"


# -- mixed ------------------------------------------------------------------------------------------------------------


def test_the_share_of_documents_is_reconstructed_and_losses_are_those_of_the_kinds() -> None:
    objective = MixedObjective(MIXED, assembly())
    writer = objective.writer(data_of(), 0)
    kinds = [writer.read("The girl took a red ball.", number).kind for number in range(2000)]
    assert np.mean(kinds) == pytest.approx(0.4, abs=0.03)
    rows = rows_of(objective)
    step, batch = objective.step_module().eval(), objective.collate(rows)
    terms, counts = step(batch), objective.counts(batch)
    losses = step(replace(batch, keep_target_losses=True))["loss"].outputs[0]
    of_targets = np.concatenate([row.task_ids[row.target_segments] for row in rows])
    for kind, name in enumerate(("continuation", "reconstruction")):
        assert counts[name] == (of_targets == kind).sum() > 0
        assert terms[name].coefficient == 0.0
        expected = float(losses[torch.from_numpy(of_targets == kind)].sum())
        assert float(terms[name].sum) == pytest.approx(expected, rel=1e-5)
    total = float(terms["loss"].sum.detach())
    assert total == pytest.approx(float(terms["continuation"].sum + terms["reconstruction"].sum), rel=1e-5)
    assert counts["loss"] == counts["continuation"] + counts["reconstruction"]


def test_continued_documents_are_those_of_the_continuation_alone() -> None:
    """A mixed run with a share of almost 0 has the rows of its continuation."""
    alone = LanguageObjective(SemiCausal.model_validate(SEMI_CAUSAL), assembly())
    mixed = MixedObjective(MIXED.model_copy(update={"reconstruction_share": 1e-12}), assembly())
    for row, other in zip(rows_of(alone), rows_of(mixed), strict=True):
        assert row.ids.tolist() == other.ids.tolist()
        assert row.targets.tolist() == other.targets.tolist()


def test_validation_continues_and_reconstructs_every_document() -> None:
    objective = MixedObjective(MIXED, assembly())
    rows = objective.validation_rows(data_of(), texts()[:6])
    alone = LanguageObjective(SemiCausal.model_validate(SEMI_CAUSAL), assembly())
    continued = [row for row in rows if row.task_ids[0] == 0]
    for row, other in zip(continued, alone.validation_rows(data_of(), texts()[:6]), strict=True):
        assert row.targets.tolist() == other.targets.tolist()
    assert sum(row.counts["documents"] for row in rows if row.task_ids[0] == 1) == 6
    prefix = data_of(validation={"objective": {"name": "prefix", "prefix_length": [4, 8]}})
    assert all(row.task_ids is None for row in objective.validation_rows(prefix, texts()[:6]))
    assert "continuation" not in objective.step_module()(
        objective.collate(objective.validation_rows(prefix, texts()[:2]))
    )


# -- teachers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_teacher_reads_what_a_decoder_without_encoders_reads(kind: str) -> None:
    tokenizer = DecoderTokenizer(tokenizer_of(kind), TokenRules())
    processors = {"text": TextProcessor("text", tokenizer_of("wordpiece"), 64)}
    sessions = [
        [Docked("text", "The girl took a ball."), Causal(" a red one", trained=True, end=True)],
        [Causal("So:"), Docked("text", "Foxes."), Causal(" yes", trained=True), Docked("text", " Two."), NO],
        [Causal("Who?", trained=True), Docked("text", "Lily said so."), Causal(" she", trained=True, end=True)],
    ]  # fmt: skip
    objective = LanguageObjective(SemiCausal.model_validate(SEMI_CAUSAL), assembly())
    objective.distill(Distillation())
    assert objective.teacher is not None
    for spans in map(Session, sessions):
        plain = SessionTokeniser(tokenizer, {})(spans)
        row = objective.teacher.rows.row([SessionTokeniser(tokenizer, processors, tokenise_docks=True)(spans)])
        (reading,) = objective.teacher.rows.read_as_text(row)
        assert reading is not None
        assert reading.session.ids.tolist() == plain.ids.tolist()
        first_dock = next(index for index, span in enumerate(spans) if isinstance(span, Docked))
        after = reading.session.trained.nonzero()[0]
        if first_dock < 2 and not getattr(spans.spans[0], "trained", False):
            assert after.tolist() == plain.trained.nonzero()[0].tolist()
        assert plain.ids[after].tolist() == row.targets[reading.targets].tolist()


@pytest.mark.parametrize("options", [MIXED, SemiCausal.model_validate(SEMI_CAUSAL)], ids=["mixed", "semi_causal"])
def test_a_teacher_reads_documents_as_running_text(options: Any) -> None:
    objective = (MixedObjective if isinstance(options, Mixed) else LanguageObjective)(options, assembly())
    objective.distill(Distillation(weight=3.0))
    tokenizer = objective.assembly.decoder_tokenizer
    documents = [tokenizer.encode_document(text).ids.tolist() for text in texts()]
    rows, taught = rows_of(objective), 0
    for row in rows:
        for reading in objective.teacher.rows.read_as_text(row):
            ids = reading.session.ids.tolist()
            ids = ids[1:] if ids[0] == tokenizer.start_id else ids
            ids = ids[:-1] if ids[-1] == tokenizer.document_end_id else ids
            assert any(
                ids == document[start : start + len(ids)] for document in documents for start in range(len(document))
            )
            taught += len(reading.targets)
    batch = objective.collate(rows)
    counts = objective.counts(batch)
    assert counts["kl"] == taught == batch.counts["distilled_tokens"] > 0
    terms = objective.step_module().eval()(batch)
    assert (terms["kl"].coefficient, terms["kl"].metric) == (3.0, "kl")
    assert float(terms["kl"].sum.detach()) > 0
    metrics = objective.metrics({"loss": 8.0, "kl": 5.0}, {"loss": 4, "kl": 10}, [])
    assert metrics["kl"] == 0.5
    assert "kl" not in objective.metrics({"loss": 8.0}, {"loss": 4}, [])


def test_the_longest_rows_have_a_teacher_within_the_decoders_positions() -> None:
    objective = LanguageObjective(SemiCausal(name="semi_causal", span_length=[4, 40]), assembly())
    objective.distill(Distillation())
    rows = objective.longest_rows(data_of(128), 2)
    limit = objective.assembly.model.max_positions
    for row in rows:
        assert row.counts["untaught_sessions"] == 0
        assert row.counts["distilled_tokens"] > 0
        assert all(len(reading.session) <= limit for reading in objective.teacher.rows.read_as_text(row))


def test_what_has_no_teacher() -> None:
    with pytest.raises(MetalmError, match="no encoder that reads text") as caught:
        LanguageObjective(SemiCausal.model_validate(SEMI_CAUSAL), assembly(encoders=())).distill(Distillation())
    assert caught.value.where == "train.distill"
    with pytest.raises(MetalmError, match="has no adapters") as caught:
        MixedObjective(MIXED, assembly()).distill(Distillation(teacher="base"))
    assert caught.value.where == "train.distill.teacher: base"
    with pytest.raises(MetalmError, match="objective reconstruct has no teacher"):
        ReconstructionObjective(RECONSTRUCT, assembly()).distill(Distillation())
    with pytest.raises(MetalmError, match="needs a text encoder") as caught:
        ReconstructionObjective(RECONSTRUCT, assembly(encoders=()))
    assert caught.value.where == "objective.name"
    objective = MixedObjective(MIXED, assembly())
    objective.distill(Distillation())
    for untaught, why in ((0, "trained tokens after a dock"), (3, "longer than the decoder reads")):
        with pytest.raises(MetalmError, match="nothing can be distilled") as caught:
            objective.teacher.check_sample(0, untaught)
        assert why in str(caught.value.why)
