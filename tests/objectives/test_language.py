"""Spans of the objectives, the writers that recipes make, and the language model's loss terms."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metalm_cli.config.schema.objectives import CausalLM, PrefixLM, SemiCausal
from metalm_cli.config.schema.recipes import PretrainRecipe
from metalm_cli.data.sampling.row_slots import RowSlot
from metalm_cli.errors import MetalmError
from metalm_cli.objectives import make_objective
from metalm_cli.objectives.language import LanguageObjective, prefix_span, semi_causal_spans, span_drawer_of
from objective_fixtures import assembly, data_of
from row_fixtures import Shelf, rows_of_slot
from tiny_models import texts

quick = settings(max_examples=150, deadline=None, derandomize=True)
SEMI_CAUSAL = SemiCausal(name="semi_causal", span_length=[4, 8], span_fraction=0.3)


def spans_of(tokens: int, seed: int = 0, **options: Any) -> list[tuple[int, int]]:
    chosen = {"low": 64, "high": 128, "fraction": 0.25, **options}
    return semi_causal_spans(tokens, np.random.default_rng(seed), **chosen)


# -- semi-causal spans ------------------------------------------------------------------------------------------------


@given(
    tokens=st.integers(0, 900),
    low=st.integers(1, 70),
    more=st.integers(0, 70),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 9),
)
@quick
def test_spans_are_apart_in_order_inside_and_of_lengths_in_range(tokens, low, more, fraction, seed):
    spans = spans_of(tokens, seed, low=low, high=low + more, fraction=fraction)
    assert spans == spans_of(tokens, seed, low=low, high=low + more, fraction=fraction)
    end = -1
    for first, last in spans:
        assert first > end
        assert low <= last - first <= low + more
        assert last <= tokens
        end = last
    assert all(isinstance(bound, int) for span in spans for bound in span)
    total = sum(last - first for first, last in spans)
    assert total < fraction * tokens + low + more
    if spans:
        assert total < tokens
    if tokens < low + 2:
        assert spans == []


@pytest.mark.parametrize(
    ("tokens", "low", "high", "fraction", "draws"),
    [
        (20_000, 64, 128, 0.25, 400),
        (2_048, 64, 128, 0.25, 6_000),
        (300, 64, 128, 0.25, 20_000),
        (300, 8, 16, 0.5, 8_000),
        (140, 64, 128, 0.25, 100_000),
    ],
)
def test_the_expected_share_is_the_fraction(tokens, low, high, fraction, draws):
    rng = np.random.default_rng(7)
    total = 0
    for _ in range(draws):
        spans = semi_causal_spans(tokens, rng, low=low, high=high, fraction=fraction)
        total += sum(last - first for first, last in spans)
    assert total / (draws * tokens) == pytest.approx(fraction, rel=0.01)


def test_lengths_are_uniform():
    rng = np.random.default_rng(3)
    lengths = [
        last - first
        for _ in range(300)
        for first, last in semi_causal_spans(20_000, rng, low=64, high=128, fraction=0.25)
    ]
    _, counts = np.unique(lengths, return_counts=True)
    assert len(counts) == 65
    assert np.abs(counts / len(lengths) * 65 - 1).max() < 0.25
    assert np.mean(lengths) == pytest.approx(96, rel=0.01)


def test_positions_are_uniform():
    """One span of one token is uniform over all positions, two are uniform over all pairs with a gap."""
    rng = np.random.default_rng(5)
    single_spans = [semi_causal_spans(12, rng, low=1, high=1, fraction=1 / 12) for _ in range(12_000)]
    counts = np.bincount([spans[0][0] for spans in single_spans], minlength=12)
    assert np.abs(counts / 1000 - 1).max() < 0.15
    span_pairs = [tuple(semi_causal_spans(6, rng, low=1, high=1, fraction=2 / 6)) for _ in range(10_000)]
    pairs = {(first, second): 0 for first in range(6) for second in range(first + 2, 6)}
    for (first, _), (second, _) in span_pairs:
        pairs[first, second] += 1
    assert len(pairs) == 10
    assert np.abs(np.array(list(pairs.values())) / 1000 - 1).max() < 0.15


def test_short_documents_stay_causal():
    assert all(spans_of(tokens, seed) == [] for tokens in range(66) for seed in range(5))
    assert any(spans_of(66, seed, fraction=0.99) for seed in range(200))


def test_a_document_is_never_docked_whole():
    for seed in range(300):
        for tokens in (10, 11, 12, 20):
            total = sum(last - first for first, last in spans_of(tokens, seed, low=8, high=20, fraction=0.99))
            assert total < tokens


# -- prefixes ---------------------------------------------------------------------------------------------------------


@given(tokens=st.integers(0, 300), low=st.integers(1, 70), more=st.integers(0, 70), seed=st.integers(0, 9))
@quick
def test_a_prefix_begins_the_document_and_leaves_a_token(tokens, low, more, seed):
    spans = prefix_span(tokens, np.random.default_rng(seed), low=low, high=low + more)
    if tokens < low + 2:
        assert spans == []
    else:
        ((first, last),) = spans
        assert first == 0
        assert low <= last <= min(low + more, tokens - 1)


def test_prefix_lengths_are_uniform():
    rng = np.random.default_rng(0)
    lengths = [prefix_span(500, rng, low=3, high=7)[0][1] for _ in range(10_000)]
    assert np.abs(np.bincount(lengths)[3:] / 2000 - 1).max() < 0.1
    short = [prefix_span(10, rng, low=3, high=40)[0][1] for _ in range(500)]
    assert (min(short), max(short)) == (3, 9)


def test_span_drawers_of_objectives():
    rng = np.random.default_rng
    assert span_drawer_of(CausalLM(name="causal"))(500, rng(0)) == []
    assert span_drawer_of(SEMI_CAUSAL)(500, rng(0)) == spans_of(500, low=4, high=8, fraction=0.3)
    prefix = span_drawer_of(PrefixLM(name="prefix", prefix_length=[5, 9]))
    assert prefix(500, rng(0)) == prefix_span(500, rng(0), low=5, high=9)
    default = span_drawer_of(SemiCausal(name="semi_causal"))
    assert default(3000, rng(1)) == spans_of(3000, seed=1)


# -- writers from recipes ---------------------------------------------------------------------------------------------


def recipe_of(objective: dict[str, Any], **data: Any) -> PretrainRecipe:
    return PretrainRecipe(
        model={"decoder": {"checkpoint": "x"}, "encoders": {"text": {"checkpoint": "y"}}},
        data={"sources": [{"name": "world", "world": {}}], **data},
        objective=objective,
    )


@pytest.mark.parametrize(
    ("objective", "docked"),
    [
        ({"name": "semi_causal", "span_length": [4, 8], "span_fraction": 0.3}, True),
        ({"name": "prefix", "prefix_length": [4, 8]}, True),
        ({"name": "causal"}, False),
    ],
)
def test_rows_of_a_recipe(objective, docked):
    recipe = recipe_of(objective, sequence_length=96)
    language_objective = make_objective(recipe, assembly())
    assert isinstance(language_objective, LanguageObjective)
    writer = language_objective.writer(recipe.data, seed=0)
    rows, _ = rows_of_slot(RowSlot(0, 1, Shelf(texts()), writer), 12)
    assert all(bool(row.docks) <= docked for row in rows)
    assert any(row.docks for row in rows) == docked
    assert min(map(len, rows)) >= 94
    batch = language_objective.collate(rows[:2], length=96)
    assert batch.decoder.input_ids.shape == (2, 96)
    assert language_objective.counts(batch) == {"loss": len(batch.decoder.targets)}
    if objective["name"] == "prefix":
        starts = [position for row in rows for position, _ in row.docks]
        assert all(row.positions[position] == 0 for row in rows for position, _ in row.docks)
        assert starts


def test_the_realised_fraction_of_a_corpus_is_near_the_span_fraction():
    objective = LanguageObjective(SEMI_CAUSAL, assembly())
    rows, _ = rows_of_slot(RowSlot(0, 1, Shelf(texts()), objective.writer(data_of(512), 0)), 40)
    tokens = sum(row.counts["source_tokens"] for row in rows)
    spanned = sum(row.counts.get("docked_tokens", 0) for row in rows)
    # Widening to words adds less than two tokens to a span of six; the ends of rows cut some spans.
    assert 0.27 < spanned / tokens < 0.42
    assert sum(row.counts.get("cut_spans", 0) for row in rows) <= len(rows)


def test_documents_are_isolated_or_not_as_the_recipe_says():
    for isolate in (True, False):
        writer = LanguageObjective(SEMI_CAUSAL, assembly()).writer(data_of(isolate_documents=isolate), 0)
        assert writer.isolate is isolate
        assert writer.packs


def test_several_text_encoders_need_one_named_text():
    with pytest.raises(MetalmError, match="several text encoders: a, b") as caught:
        LanguageObjective(SEMI_CAUSAL, assembly(encoders=("a", "b")))
    assert caught.value.where == "model.encoders"
    objective = LanguageObjective(SEMI_CAUSAL, assembly(encoders=("a", "text")))
    assert objective.processor.encoder == "text"
    assert LanguageObjective(SEMI_CAUSAL, assembly(encoders=())).processor is None
    assert LanguageObjective(SEMI_CAUSAL, assembly(encoders=("other",))).processor.encoder == "other"


def test_validation_is_divided_by_its_own_objective():
    twin = LanguageObjective(CausalLM(name="causal"), assembly(encoders=()))
    plain = LanguageObjective(SEMI_CAUSAL, assembly())
    validation_data = data_of(validation={"objective": SEMI_CAUSAL.model_dump()})
    rows, twin_rows = plain.validation_rows(data_of(), texts()[:8]), twin.validation_rows(validation_data, texts()[:8])
    assert len(rows) == len(twin_rows)
    for own_row, twin_row in zip(rows, twin_rows, strict=True):
        assert own_row.targets.tolist() == twin_row.targets.tolist()
        assert own_row.counts["trained_bytes"] == twin_row.counts["trained_bytes"]
        assert len(own_row.parents) == 1
    assert any(row.docks for row in rows)
    assert sum(len(row.targets) for row in twin.validation_rows(data_of(), texts()[:8])) > sum(
        len(row.targets) for row in rows
    )


# -- loss terms -------------------------------------------------------------------------------------------------------


def rows_of(count: int = 6, **options: Any) -> tuple[LanguageObjective, list]:
    objective = LanguageObjective(SEMI_CAUSAL, assembly(**options))
    return objective, rows_of_slot(RowSlot(0, 1, Shelf(texts()), objective.writer(data_of(64), 0)), count)[0]


def test_the_loss_is_the_sum_over_trained_tokens_however_rows_are_batched():
    objective, rows = rows_of()
    step = objective.step_module().eval()
    single_batch = step(objective.collate(rows))["loss"]
    small_batches = [step(objective.collate(rows[start : start + 2]))["loss"] for start in (0, 2, 4)]
    assert single_batch.coefficient == 1.0
    torch.testing.assert_close(sum(term.sum for term in small_batches), single_batch.sum, rtol=1e-5, atol=1e-3)
    mean = single_batch.sum.item() / objective.counts(objective.collate(rows))["loss"]
    assert mean == pytest.approx(math.log(420), rel=0.05)  # nothing is learned yet


def test_an_unused_encoder_can_be_touched_without_a_trace():
    objective, _ = rows_of()
    causal = LanguageObjective(CausalLM(name="causal"), objective.assembly)
    rows, _ = rows_of_slot(RowSlot(0, 1, Shelf(texts()), causal.writer(data_of(64), 0)), 2)
    step, batch = causal.step_module(), causal.collate(rows)
    encoder = step.model.encoders["text"]
    step.train()
    plain = step(batch)["loss"].sum
    before = torch.get_rng_state()
    step.touch_unused = True
    torch.set_rng_state(before)
    touched = step(batch)["loss"].sum
    assert torch.equal(plain, touched)
    assert torch.equal(torch.get_rng_state(), before)
    assert encoder.training
    step.zero_grad()
    touched.backward()
    gradients = [gradient.grad for gradient in encoder.parameters() if gradient.grad is not None]
    assert gradients
    assert all((gradient == 0).all() for gradient in gradients)
    step.eval()


def test_the_objective_of_the_contributing_page_docks_the_first_half():
    page = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python file=half_objective.py\n(.*?)```", page, re.DOTALL)
    namespace: dict[str, Any] = {"__name__": "example"}
    exec(compile(example, "CONTRIBUTING.md", "exec"), namespace)
    objective = namespace["FirstHalfObjective"](SEMI_CAUSAL, assembly())
    read = objective.writer(data_of(), 0).read("The girl took a red ball to the old school.", 0)
    docked, causal = read.segments
    assert docked.dock is not None
    assert causal.dock is None
    assert (docked.first, docked.last, causal.last) == (0, causal.first, len(read.document))
    assert docked.last == pytest.approx(len(read.document) / 2, abs=6)  # spans end at the ends of words


def test_metrics_are_nats_a_token_and_bits_a_byte():
    objective, _ = rows_of(1)
    metrics = objective.metrics({"loss": 200.0}, {"loss": 50, "trained_bytes": 100}, [])
    assert metrics["loss"] == 4.0
    assert metrics["bits_per_byte"] == pytest.approx(2.0 / math.log(2))
    assert objective.metrics({"loss": 0.0}, {"loss": 0}, []) == {"loss": 0.0}
