"""Cost of stages against counts by hand, and the hours of a budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from metalm_cli.studies.budget import planned_seconds
from metalm_cli.studies.cost import training_costs
from metalm_cli.studies.load import load_study
from metalm_cli.studies.stages import Stage, study_stages

WIDTH, FEED_FORWARD, VOCABULARY = 128, 384, 2048
DECODER_LAYERS = 3 * (4 * WIDTH**2 + 3 * WIDTH * FEED_FORWARD)  # Llama: four projections, three of the feed-forward
HEAD = VOCABULARY * WIDTH
ENCODER_LAYERS = 2 * (4 * WIDTH**2 + 3 * WIDTH * 256)  # ModernBERT: a gated feed-forward of width 256
CONNECTOR = WIDTH * WIDTH


@pytest.fixture(scope="module")
def costs():
    return training_costs(study_stages(load_study("world"), "quick", Path("runs/demo")))


def test_a_decoder_alone(costs):
    cost = costs["gpt"]
    norms = 7 * WIDTH
    assert cost.parameters == cost.trained == DECODER_LAYERS + HEAD + norms
    assert (cost.steps, cost.positions, cost.is_bound) == (40, 40 * 8 * 256, False)
    assert cost.flops == 6 * cost.positions * (DECODER_LAYERS + HEAD)
    assert cost.disk == 4 * 4 * cost.parameters


def test_an_encoder_reads_its_share_of_the_positions(costs):
    cost = costs["metalm"]
    assert cost.flops == 6 * cost.positions * (DECODER_LAYERS + HEAD + 0.25 * (ENCODER_LAYERS + CONNECTOR))


def test_a_gradient_passes_through_a_frozen_decoder(costs):
    cost = costs["frozen"]
    assert cost.is_bound  # no mean of positions is known
    assert cost.positions == 10 * 16 * 256
    assert cost.flops == cost.positions * (6 * (ENCODER_LAYERS + CONNECTOR) + 4 * DECODER_LAYERS)
    assert cost.trained < cost.parameters == costs["metalm"].parameters


@pytest.mark.parametrize(
    ("connector", "of_output", "of_vector", "vectors"),
    [
        ("{kind: stack, factor: 4}", 0, 4 * CONNECTOR, 5),
        ("{kind: mean, factor: 4}", 0, CONNECTOR, 5),
        ("{kind: queries, length: 2, layers: 1}", 3 * CONNECTOR, (2 + 8 + 1) * CONNECTOR, 2),
    ],
)
def test_a_compressing_connector_counts_each_output_and_each_vector(connector, of_output, of_vector, vectors):
    """A quarter of the tokens is docked in spans of 20 on average, so that a row has more tokens than positions."""
    stages = study_stages(load_study("world"), "quick", Path("runs/demo"))
    values = (f"model.connector={connector}", "objective.span_length=[8, 32]")
    stages = [
        replace(stage, arguments=(*stage.arguments, *values)) if stage.name == "metalm" else stage for stage in stages
    ]
    cost = training_costs(stages)["metalm"]
    tokens = 1 / (0.75 + 0.25 * vectors / 20)  # in each position of a row
    outputs, positions = 0.25 * tokens, 0.25 * tokens * vectors / 20
    per_position = DECODER_LAYERS + HEAD + outputs * (ENCODER_LAYERS + of_output) + positions * of_vector
    assert cost.flops == pytest.approx(6 * cost.positions * per_position, rel=1e-12)


@pytest.mark.parametrize(
    ("is_recorded", "flops", "speed", "seconds"),
    [(True, 1e12, 1e9, 7.0), (False, 1e12, 1e9, 1000.0), (False, 1e12, None, None), (False, 0.0, 1e9, None)],
)
def test_hours_are_recorded_or_come_from_flops(is_recorded, flops, speed, seconds):
    stage = Stage("a", "", "", ("pretrain",), (Path("a"),), cost=7.0, is_recorded=is_recorded)
    assert planned_seconds(stage, flops, speed) == seconds


def test_adapters_leave_the_weights_frozen_and_let_gradients_pass():
    stages = study_stages(load_study("world"), "quick", Path("runs/demo"))
    values = ("model.lora={parts: [decoder]}", "model.trains={decoder: null, encoders: null, connectors: null}")
    stages = [
        replace(stage, arguments=(*stage.arguments, *values)) if stage.name == "gpt" else stage for stage in stages
    ]
    cost = training_costs(stages)["gpt"]
    assert cost.trained == 0
    assert cost.flops == 4 * cost.positions * (DECODER_LAYERS + HEAD)


def test_docked_outputs_of_tasks_are_those_of_the_study():
    stages = study_stages(load_study("world"), "quick", Path("runs/demo"))
    stages = [
        replace(stage, positions=50.0, docked_outputs=120.0) if stage.name == "frozen" else stage for stage in stages
    ]
    cost = training_costs(stages)["frozen"]
    assert cost.positions == 10 * 16 * 50
    per_position = 6 * 120 / 50 * (ENCODER_LAYERS + CONNECTOR) + 4 * DECODER_LAYERS
    assert cost.flops == pytest.approx(cost.positions * per_position, rel=1e-12)
