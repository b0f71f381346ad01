"""Which validation sessions exchange docks: chosen by counts, and none takes contents that it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from metalm_cli.models.compressing_connectors import connector_weights, query_connector, stack_connector
from metalm_cli.sessions import DockInput, Row, TokenisedSession, build_row
from metalm_cli.sessions.processors import digest
from metalm_cli.training.validation.dock_exchange import PassCost, assign_donors, choose_exchange
from model_families import make_decoder, make_encoder, make_metalm

COST = PassCost(decoder=10, head=7, encoders={"text": 30, "picture": 5})


def dock(content: int, positions: int, encoder: str = "text") -> DockInput:
    ids = np.full(positions + 2, content, dtype=np.int64)
    key, cost = digest(encoder, ids[:1]), {encoder: positions + 2}
    return DockInput(encoder, {"input_ids": ids}, np.arange(1, positions + 1), key, cost)


def row(*docks: DockInput, task: int | None = None, targets: int = 2) -> Row:
    """A row of docks, a causal token and trained tokens."""
    starts = np.cumsum([0, *(dock_input.positions for dock_input in docks)]).tolist()
    ids = np.array([-1] * starts[-1] + [5] * (1 + targets), dtype=np.int64)
    trained = np.arange(len(ids)) > starts[-1]
    session = TokenisedSession(ids, trained, tuple(zip(starts[:-1], docks, strict=True)))
    return build_row([session], task_ids=None if task is None else [task])


def received(
    rows: Sequence[Row], chosen: Sequence[int], donors: Sequence[int]
) -> list[tuple[list[bytes], list[bytes]]]:
    """Contents of each session, and those that it takes."""
    keys = [[dock_input.key for _, dock_input in rows[index].docks] for index in chosen]
    return [
        (own, [keys[donor][number % len(keys[donor])] for number in range(len(own))])
        for own, donor in zip(keys, donors, strict=True)
    ]


@pytest.mark.parametrize("seed", range(4))
def test_the_further_passes_take_at_most_a_tenth(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [row(dock(number, int(rng.integers(1, 30))), targets=int(rng.integers(1, 9))) for number in range(80)]
    exchange = choose_exchange(rows, COST, 1000)
    whole = sum(10 * len(r.ids) + 7 * len(r.targets) + 30 * sum(d.cost["text"] for _, d in r.docks) for r in rows)
    further = [2 * (10 * len(r.ids) + 7 * len(r.targets)) for r in rows]
    count = len(exchange.rows)
    assert exchange.rows == tuple(range(count)), "the first sessions"
    assert exchange.share == pytest.approx(sum(further[:count]) / whole)
    assert sum(further[:count]) <= 0.1 * whole < sum(further[: count + 1]), "as many as fit"
    assert sorted(exchange.donors) == list(range(count))
    assert all(own != taken for own, taken in received(rows, exchange.rows, exchange.donors))
    assert choose_exchange(rows, COST, 3).rows == (0, 1, 2)
    assert choose_exchange(rows, COST, 1000) == exchange


def test_costs_are_the_weights_of_matrix_products() -> None:
    model = make_metalm(make_decoder("gpt2"), {"text": make_encoder("bert")})
    width, inner = 32, 128
    cost = PassCost.of(model)
    assert cost.decoder == 2 * (4 * width * width + 2 * width * inner)
    assert cost.head == width * 400
    assert cost.encoders == {"text": 2 * (4 * width * width + 2 * width * 48)}
    assert cost.connectors == {"text": (0, width * width)}
    example = row(dock(1, 3), targets=2)
    assert cost.decoder_pass(example) == cost.decoder * 6 + cost.head * 2
    connector = width * width * 3
    assert cost.whole_pass(example) == cost.decoder_pass(example) + cost.encoders["text"] * 5 + connector


def test_a_compressing_connector_multiplies_by_its_vectors_and_queries_also_by_outputs() -> None:
    width, factor, length, layers = 32, 3, 4, 2
    stack, queries = stack_connector(width, width, factor), query_connector(width, width, length, layers, 2)
    assert connector_weights(stack) == (0, factor * width * width)
    of_vectors = layers * (2 + 2 * 4) * width * width + width * width  # query and joined, feed-forward; output
    assert connector_weights(queries) == ((1 + 2 * layers) * width * width, of_vectors)
    assert connector_weights(queries.requires_grad_(False), trained_only=True) == (0, 0)
    cost = PassCost(10, 7, {"text": 30}, {"text": connector_weights(stack)})
    plain = PassCost(10, 7, {"text": 30})
    example = row(replace(dock(1, 7), compressed=3), targets=1)
    assert cost.whole_pass(example) - plain.whole_pass(example) == 3 * factor * width * width


def test_tasks_take_turns_and_sessions_without_docks_or_targets_do_not_count() -> None:
    rows = [
        row(dock(0, 2), task=0),
        row(task=0),
        row(dock(1, 2), task=0),
        row(dock(2, 2), task=0),
        row(dock(3, 2), task=1, targets=0),
        row(dock(4, 2), task=1),
        row(dock(5, 2), task=1),
    ]
    cheap = PassCost(decoder=1, head=0, encoders={"text": 1000})
    assert choose_exchange(rows, cheap, 4).rows == (0, 5, 2, 6)
    assert set(choose_exchange(rows, cheap, 100).rows) == {0, 2, 3, 5, 6}


def test_donors_are_of_the_same_task_and_of_similar_length_where_possible() -> None:
    rows = [row(dock(number, size), task=0) for number, size in enumerate([9, 2, 8, 3])]
    assert assign_donors(rows) == ([0, 1, 2, 3], [2, 3, 0, 1])
    rows = [row(dock(number, size), task=number // 2) for number, size in enumerate([9, 2, 9, 2])]
    assert assign_donors(rows) == ([0, 1, 2, 3], [1, 0, 3, 2])
    rows = [row(dock(number, 2), task=number) for number in range(3)]
    assert sorted(assign_donors(rows)[1]) == [0, 1, 2], "across tasks if a task has one session"


def test_equal_contents_are_a_sessions_own() -> None:
    same, other = [row(dock(7, 4)) for _ in range(3)], [row(dock(number, 4)) for number in range(3)]
    chosen, donors = assign_donors([*same, *other])
    assert chosen == list(range(6))
    assert all(own != taken for own, taken in received([*same, *other], chosen, donors))
    chosen, donors = assign_donors([*same, other[0]])
    assert len(chosen) == 2
    assert 3 in chosen, "sessions that none can give other contents are left out"
    assert donors == [1, 0]
    assert assign_donors(same) == ([], [])
    # The dock that a session would take is its own, although the donor has a further dock.
    assert assign_donors([row(dock(1, 3)), row(dock(1, 3), dock(2, 3))]) == ([], [])


def test_sessions_exchange_docks_of_the_same_encoders() -> None:
    pictures = [row(dock(number, 4, "picture"), dock(0, 3)) for number in range(2)]
    texts = [row(dock(number, 3)) for number in range(2)]
    assert assign_donors([pictures[0], texts[0], pictures[1], texts[1]]) == ([0, 1, 2, 3], [2, 3, 0, 1])
    assert assign_donors([pictures[0], *texts]) == ([1, 2], [1, 0])


@pytest.mark.parametrize(
    ("rows", "sessions", "reason"),
    [
        ([row(), row(dock(1, 2))], 100, "fewer than two validation sessions have docks"),
        ([row(dock(number, 2)) for number in range(9)], 100, "would take more than 10% of the validation"),
        ([row(dock(1, 2)) for _ in range(90)], 100, "have no docks to exchange"),
        ([row(dock(number, 2)) for number in range(90)], 1, "train.dock_worth_sessions is 1"),
    ],
)
def test_without_two_sessions_there_is_a_reason(rows: list[Row], sessions: int, reason: str) -> None:
    exchange: Any = choose_exchange(rows, COST, sessions)
    assert exchange.rows == exchange.donors == ()
    assert reason in exchange.reason
