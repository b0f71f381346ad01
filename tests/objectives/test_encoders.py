"""Masked language modelling and replaced token detection against slow references."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers import AutoModelForMaskedLM, AutoModelForPreTraining

from metalm_cli.config.schema.objectives import MaskedLM, ReplacedTokenDetection
from metalm_cli.config.schema.recipes import PretrainRecipe
from metalm_cli.data.sampling.row_slots import RowSlot
from metalm_cli.models.assembly import Assembly
from metalm_cli.models.mlm_heads import masked_head
from metalm_cli.objectives import make_objective
from metalm_cli.objectives.masked_lm import MaskedLMObjective, masked_loss
from metalm_cli.objectives.replaced_token_detection import ReplacedTokenObjective, area_under_curve
from metalm_cli.sessions import Row, TextProcessor
from row_fixtures import Shelf, rows_of_slot
from tiny_models import config_of, texts, tokenizer_of

# -- the area under the ROC curve -------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), max_size=40))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_the_area_is_the_share_of_pairs_in_order(pairs):
    scores = np.array([score for score, _ in pairs], dtype=np.float64)
    labels = np.array([label for _, label in pairs], dtype=bool)
    area = area_under_curve(scores, labels)
    positives, negatives = scores[labels], scores[~labels]
    if not len(positives) or not len(negatives):
        assert math.isnan(area)
        return
    wins = sum((positive > negative) + (positive == negative) / 2 for positive in positives for negative in negatives)
    assert area == pytest.approx(wins / (len(positives) * len(negatives)), abs=1e-12)


def test_a_constant_answer_has_an_area_of_one_half():
    assert area_under_curve(np.zeros(100), np.arange(100) < 15) == 0.5
    assert area_under_curve(np.arange(100.0), np.arange(100) >= 85) == 1.0


# -- writers from recipes ---------------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def assembly(kind: str, family: str = "electra") -> Assembly:
    torch.manual_seed(0)
    auto = AutoModelForMaskedLM if kind == "mlm" else AutoModelForPreTraining
    model = auto.from_config(config_of(family, 400)).eval()
    return Assembly(model, None, {"text": TextProcessor("text", tokenizer_of("wordpiece"), 64)})


def recipe_of(**objective: Any) -> PretrainRecipe:
    return PretrainRecipe(
        model={"encoders": {"text": {"checkpoint": "x"}}},
        data={"sources": [{"name": "world", "world": {}}], "sequence_length": 64},
        objective=objective,
    )


def rows_of(objective: Any, data: Any, count: int = 4) -> list[Row]:
    return rows_of_slot(RowSlot(0, 1, Shelf([text[:60] for text in texts()]), objective.writer(data, 0)), count)[0]


def test_recipe_options_of_the_writer():
    recipe = recipe_of(name="mlm", mask_rate=0.2, keep_rate=0.3, random_rate=0.4)
    objective = make_objective(recipe, assembly("mlm"))
    assert isinstance(objective, MaskedLMObjective)
    writer = objective.writer(recipe.data, 5)
    assert (writer.rates, writer.seed, writer.length, writer.isolate) == ((0.2, 0.3, 0.4), 5, 64, True)
    recipe = recipe_of(name="rtd", mask_rate=0.2)
    objective = make_objective(recipe, assembly("rtd"))
    assert isinstance(objective, ReplacedTokenObjective)
    assert objective.writer(recipe.data, 0).rates == (0.2, 0.0, 0.0)
    assert objective.stream == "text"


def test_validation_rows_are_alike_for_every_seed():
    recipe = recipe_of(name="mlm")
    objective = make_objective(recipe, assembly("mlm"))
    rows = objective.validation_rows(recipe.data, texts()[:3])
    assert len(rows) >= 3
    assert all(len(row.parents) == 1 for row in rows)


# -- masked language modelling ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["electra", "bert", "roberta"])
def test_the_masked_loss_equals_the_familys_own_loss_per_document(family):
    recipe = recipe_of(name="mlm")
    objective = make_objective(recipe, assembly("mlm", family))
    rows = rows_of(objective, recipe.data)
    assert any(len(row.parents) > 1 for row in rows)
    batch = objective.collate(rows)
    loss = objective.step_module().eval()(batch)["loss"]
    expected = 0.0
    for row in rows:
        for segment in range(len(row.parents)):
            positions = np.flatnonzero(row.segments == segment)
            target_indices = np.flatnonzero(row.target_segments == segment)
            logits = objective.assembly.model(input_ids=torch.from_numpy(row.ids[positions])[None]).logits[0]
            masked_positions = torch.from_numpy(row.predict_at[target_indices] - positions[0])
            targets = torch.from_numpy(row.targets[target_indices])
            expected += float(cross_entropy(logits[masked_positions], targets, reduction="sum").detach())
    assert loss.sum.item() == pytest.approx(expected, rel=1e-5)
    assert objective.counts(batch) == {"loss": sum(len(row.targets) for row in rows)}
    assert objective.metrics({"loss": 6.0}, {"loss": 4}, []) == {"loss": 1.5}


# -- replaced token detection -----------------------------------------------------------------------------------------


@pytest.fixture
def detection() -> tuple[ReplacedTokenObjective, Any, list[Row]]:
    recipe = recipe_of(name="rtd", mask_rate=0.3)
    objective = make_objective(recipe, assembly("rtd"))
    torch.manual_seed(1)
    return objective, objective.step_module().eval(), rows_of(objective, recipe.data)


def reference(step: Any, row: Row, segment: int) -> tuple[float, float, np.ndarray, np.ndarray]:
    """Both losses of one document, its labels and scores, as described in ELECTRA's paper."""
    positions = np.flatnonzero(row.segments == segment)
    target_indices = np.flatnonzero(row.target_segments == segment)
    masked_positions = row.predict_at[target_indices] - positions[0]
    logits = step.generator(input_ids=torch.from_numpy(row.ids[positions])[None]).logits[0][masked_positions]
    targets = torch.from_numpy(row.targets[target_indices])
    masked = float(cross_entropy(logits, targets, reduction="sum").detach())
    totals = torch.softmax(logits, -1).cumsum(-1).detach().numpy()
    uniforms = row.uniforms[target_indices]
    sampled = [
        int(np.searchsorted(cumulative, uniform * cumulative[-1], "right"))
        for cumulative, uniform in zip(totals, uniforms, strict=True)
    ]
    ids = row.ids[positions].copy()
    ids[masked_positions] = sampled
    labels = np.zeros(len(positions), dtype=bool)
    labels[masked_positions] = np.array(sampled) != row.targets[target_indices]
    scores = step.model(input_ids=torch.from_numpy(ids)[None]).logits[0].detach()
    detected = binary_cross_entropy_with_logits(scores, torch.from_numpy(labels).float(), reduction="sum")
    return masked, float(detected), labels, scores.numpy()


def test_both_losses_match_the_paper_per_document(detection):
    objective, step, rows = detection
    batch = objective.collate(rows)
    terms = step(batch)
    documents = [reference(step, row, segment) for row in rows for segment in range(len(row.parents))]
    assert terms["generator"].sum.item() == pytest.approx(sum(document[0] for document in documents), rel=1e-5)
    assert terms["detector"].sum.item() == pytest.approx(sum(document[1] for document in documents), rel=1e-5)
    assert (terms["generator"].coefficient, terms["detector"].coefficient) == (1.0, 50.0)
    positions = sum(map(len, rows))
    assert objective.counts(batch) == {"generator": sum(len(row.targets) for row in rows), "detector": positions}
    scores, labels = observed(step, batch)
    assert labels.tolist() == np.concatenate([document[2] for document in documents]).tolist()
    np.testing.assert_allclose(scores, np.concatenate([document[3] for document in documents]), atol=1e-4)


def test_sampling_does_not_depend_on_the_micro_batch(detection):
    objective, step, rows = detection
    together = step(objective.collate(rows))
    separate = [step(objective.collate([row])) for row in rows]
    for name in ("generator", "detector"):
        assert together[name].sum.item() == pytest.approx(sum(terms[name].sum.item() for terms in separate), rel=1e-5)


def test_tokens_are_drawn_from_the_generators_distribution(detection):
    objective, step, rows = detection
    stream = objective.collate(rows[:1]).streams["text"]
    count = 40_000
    states = torch.randn(1, 16).expand(count, -1) * 3
    repeated = replace(
        stream,
        targets=torch.zeros(count, dtype=torch.long),
        uniforms=torch.rand(count, generator=torch.Generator().manual_seed(0)),
    )
    sampled = step._sample(states, repeated)
    _, head = masked_head(step.generator)
    expected = torch.softmax(head.logits(states[:1]).float(), -1)[0]
    shares = torch.bincount(sampled, minlength=len(expected)) / count
    assert (shares - expected).abs().max().item() < 4 * math.sqrt(0.25 / count)
    assert sampled.max() < len(expected)
    edge = step._sample(
        states[:2], replace(repeated, targets=repeated.targets[:2], uniforms=torch.tensor([0.0, 0.9999999]))
    )
    assert 0 <= int(edge.min()) <= int(edge.max()) < len(expected)


def test_a_token_without_probability_is_never_drawn(detection):
    objective, step, rows = detection
    stream = objective.collate(rows[:1]).streams["text"]
    uniforms = torch.tensor([0.0, 1 - 2**-24])
    edges = replace(stream, targets=torch.zeros(2, dtype=torch.long), uniforms=uniforms)
    bias = step.generator.generator_lm_head.bias
    before = bias.detach().clone()
    with torch.no_grad():
        bias[[0, -1]] = -1e9
        sampled = step._sample(torch.zeros(2, 16)[:, : masked_head(step.generator)[1].weight.shape[1]], edges)
        bias.copy_(before)
    assert sampled.tolist() == [1, len(bias) - 2]


def observed(step, batch):
    """Scores and labels of all token positions in evaluation mode."""
    step.eval()
    with torch.no_grad():
        return (output.numpy() for output in step(batch)["detector"].outputs)


def test_only_validation_has_outputs(detection):
    objective, step, rows = detection
    batch = objective.collate(rows)
    for training in (True, False):
        terms = step.train(training)(batch)
        assert (terms["detector"].outputs is None) == training
        assert terms["generator"].outputs is None


def test_a_correctly_sampled_token_is_not_replaced(detection):
    objective, step, rows = detection
    batch = objective.collate(rows)
    stream = batch.streams["text"]
    _, labels = observed(step, batch)
    assert 0.5 * len(stream.targets) < labels.sum() <= len(stream.targets)
    _, states = masked_loss(step.generator, stream, True)
    sampled = step._sample(states.detach(), stream)
    batch.streams["text"] = replace(stream, targets=sampled)
    _, labels = observed(step, batch)
    assert not labels.any()


def test_the_generator_learns_from_its_own_loss_alone(detection):
    objective, step, rows = detection
    step.zero_grad()
    step(objective.collate(rows))["detector"].sum.backward()
    shared = {id(parameter) for parameter in step.model.get_input_embeddings().parameters()}
    generator_parameters = [parameter for parameter in step.generator.parameters() if id(parameter) not in shared]
    assert generator_parameters
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in generator_parameters)
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in step.model.parameters())


def test_detection_metrics():
    objective = ReplacedTokenObjective(ReplacedTokenDetection(name="rtd", discriminator_weight=10.0), assembly("rtd"))
    outputs = [
        (np.array([2.0, -1.0]), np.array([True, False])),
        (np.array([-3.0, 1.0]), np.array([False, False])),
    ]
    metrics = objective.metrics({"generator": 8.0, "detector": 3.0}, {"generator": 4, "detector": 6}, outputs)
    assert metrics == {
        "loss": 2.0 + 10 * 0.5,
        "generator_loss": 2.0,
        "detector_loss": 0.5,
        "accuracy": 0.75,
        "base_rate": 0.75,
        "auc": 1.0,
    }
    assert set(objective.metrics({"generator": 8.0, "detector": 3.0}, {"generator": 4, "detector": 6}, [])) == {
        "loss",
        "generator_loss",
        "detector_loss",
    }


def test_options_are_the_recipes():
    masked = MaskedLMObjective(MaskedLM(name="mlm", mask_rate=0.4), assembly("mlm"))
    assert masked.options.mask_rate == 0.4
    assert masked.packs
