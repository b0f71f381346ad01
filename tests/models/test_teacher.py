"""The teacher is a plain causal run of the same decoder, and the divergence from it is that of a slow reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import kl_div

from metalm_cli.config.schema.model import Lora
from metalm_cli.models import MetaLM
from metalm_cli.models import loss as loss_module
from metalm_cli.models.lora.inject import inject, linear_targets, peft_config
from metalm_cli.sessions import Batch, DockTable, TaughtRows, TokenisedSession, collate
from model_families import (
    VOCABULARY,
    IdProcessor,
    assert_same,
    gradients,
    make_decoder,
    make_encoder,
    make_metalm,
    random_session,
)

KINDS = ("gpt2", "llama", "gemma2", "mistral", "bloom")
ROWS = TaughtRows(256)


def model_of(kind: str = "gpt2", **changes: Any) -> MetaLM:
    return make_metalm(make_decoder(kind, **changes), {"text": make_encoder("bert")})


def taught_sessions(same_length: bool = False, seed: int = 0) -> list[TokenisedSession]:
    """Sessions of which two have docks, with texts of other lengths than the docks."""
    rng = np.random.default_rng(seed)
    sessions = []
    for length, docks in ((23, 2), (9, 0), (31, 3)):
        session = random_session(rng, length, docks=docks)
        texts = [
            rng.integers(3, VOCABULARY, dock.positions if same_length else 3 + 4 * index)
            for index, (_, dock) in enumerate(session.docks)
        ]
        docks_with_text = [
            (start, replace(dock, text_ids=text)) for (start, dock), text in zip(session.docks, texts, strict=True)
        ]
        sessions.append(replace(session, docks=tuple(docks_with_text)))
    return sessions


def batch_of(
    rows: Sequence[Sequence[TokenisedSession]], packs: bool = True, pass_positions: int | None = 64, row_format=ROWS
) -> Batch:
    built = [row_format.row(sessions) for sessions in rows]
    batch = collate(built, {"text": IdProcessor()})  # type: ignore[dict-item]
    teacher = row_format.teacher_tokens(built, packs=packs, pass_positions=pass_positions)
    return replace(batch, teacher=teacher)


def text_of(session: TokenisedSession) -> list[int]:
    """Tokens of a session with its docks read as text, one by one."""
    docks, ids, position = dict(session.docks), [], 0
    while position < len(session):
        if position in docks:
            ids += docks[position].text_ids.tolist()
            position += docks[position].positions
        else:
            ids.append(int(session.ids[position]))
            position += 1
    return ids


def predicted(session: TokenisedSession) -> list[tuple[int, int]]:
    """Positions that predict a trained token after a dock: in the session, and in its text, counted from the end."""
    if not session.docks:
        return []
    pairs = []
    text = text_of(session)
    for position in range(1, len(session)):
        if session.trained[position] and position > session.docks[0][0]:
            later = sum(dock.positions - len(dock.text_ids) for start, dock in session.docks if start > position)
            pairs.append((position - 1, len(text) - (len(session) - position) + later - 1))
    return pairs


def reference(model: MetaLM, sessions: Sequence[TokenisedSession]) -> torch.Tensor:
    """Sum of the divergences, session by session, with the full logits of plain forward passes."""
    total = torch.zeros(())
    for session in sessions:
        pairs = predicted(session)
        if not pairs:
            continue
        batch = batch_of([[session]])
        student = model(input_ids=batch.decoder.input_ids, docks=batch.docks, use_cache=False).logits[0]
        with torch.no_grad():
            teacher = model.decoder(input_ids=torch.tensor([text_of(session)]), use_cache=False).logits[0]
        for own, other in pairs:
            total = total + kl_div(student[own].log_softmax(0), teacher[other].softmax(0), reduction="sum")
    return total


# -- the teacher ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pass_positions", [1, 64, None])
def test_the_teacher_is_a_plain_causal_run(kind: str, pass_positions: int | None) -> None:
    model, sessions = model_of(kind), taught_sessions()
    batch = batch_of([sessions], model.traits.supports_packing, pass_positions)
    states = model.teacher_states(batch.teacher)
    actual = loss_module.Head(model.get_output_embeddings().weight).logits(states)
    if kind == "gemma2":
        actual = 2.0 * torch.tanh(actual / 2.0)
    with torch.no_grad():
        plain = [model.decoder(input_ids=torch.tensor([text_of(session)])).logits[0] for session in sessions]
    expected = [plain[index][other] for index, session in enumerate(sessions) for _, other in predicted(session)]
    torch.testing.assert_close(actual, torch.stack(expected), atol=1e-5, rtol=1e-5)
    targets = torch.cat([tokens.targets for tokens in batch.teacher.passes])
    assert torch.equal(targets, batch.decoder.targets[batch.teacher.student_targets])
    assert len(batch.teacher.passes) == {1: 2, None: 1}.get(pass_positions, len(batch.teacher.passes))


def test_the_teacher_drops_nothing_out_and_modes_come_back() -> None:
    model, batch = model_of("gpt2", resid_pdrop=0.5, embd_pdrop=0.5), batch_of([taught_sessions()])
    expected = model.eval().teacher_states(batch.teacher)
    model.train()
    before = torch.get_rng_state()
    assert torch.equal(model.teacher_states(batch.teacher), expected)
    assert torch.equal(torch.get_rng_state(), before), "the teacher consumes no random numbers"
    assert all(module.training for module in model.decoder.modules())


def test_a_teacher_without_adapters_is_the_base() -> None:
    model, batch = model_of("llama"), batch_of([taught_sessions()])
    base = model.teacher_states(batch.teacher)
    lora = Lora(rank=2)
    inject(model.decoder, peft_config(lora, linear_targets("decoder", model.decoder, lora.targets), "base"))
    adapters = {name: weight for name, weight in model.decoder.named_parameters() if "lora_" in name}
    for weight in adapters.values():
        torch.nn.init.normal_(weight, std=0.3)
    assert (model.teacher_states(batch.teacher) - base).abs().max() > 0.01
    assert torch.equal(model.teacher_states(batch.teacher, adapted=False), base)
    assert all(weight.requires_grad for weight in adapters.values())
    assert (model.teacher_states(batch.teacher) - base).abs().max() > 0.01, "the adapters act again"


# -- the divergence ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("known_head", [True, False])
def test_value_and_gradients_are_those_of_the_reference(kind: str, known_head: bool, monkeypatch) -> None:
    monkeypatch.setattr(loss_module, "CHUNK_ELEMENTS", 16 * VOCABULARY)  # several chunks
    model, sessions = model_of(kind), taught_sessions()
    model._traits = replace(model.traits, has_known_head=model.traits.has_known_head and known_head)
    packs = model.traits.supports_packing
    batch = batch_of([sessions[:2], sessions[2:]] if packs else [[session] for session in sessions], packs)
    expected = reference(model, sessions)
    expected.backward()
    expected_gradients = gradients(model)
    model.zero_grad()
    _, losses, divergence = model.distilled_losses(batch)
    divergence.backward()
    torch.testing.assert_close(divergence, expected, atol=1e-4, rtol=1e-5)
    # The reference has the teacher's logits without gradient: nothing flows into the teacher.
    assert_same(gradients(model), expected_gradients, 1e-4)
    assert torch.equal(losses, model.losses(batch)[1])


def test_docks_that_are_the_embeddings_of_their_text_diverge_by_nothing() -> None:
    model, sessions = model_of(), taught_sessions(same_length=True)
    batch = batch_of([sessions])
    texts = np.concatenate([dock.text_ids for session in sessions for _, dock in session.docks])
    embeddings = model.get_input_embeddings()(torch.from_numpy(texts)).detach()
    table = batch.docks["text"]

    def divergence(vectors: torch.Tensor) -> float:
        docks = {
            "text": DockTable({}, table.rows, table.columns, table.positions, torch.arange(len(texts)), None, vectors)
        }
        return float(model.distilled_losses(replace(batch, docks=docks))[2].detach())

    assert abs(divergence(embeddings)) < 1e-5
    assert divergence(embeddings.flip(0)) > 0.01


@pytest.mark.parametrize("layout", [[[0], [1], [2]], [[0, 1, 2]], [[2], [0, 1]]])
def test_packed_equals_unpacked(layout: list[list[int]]) -> None:
    model, sessions = model_of("llama"), taught_sessions()
    expected, total = [], 0.0
    for session in sessions:
        model.zero_grad()
        divergence = model.distilled_losses(batch_of([[session]], packs=False))[2]
        if divergence.requires_grad:
            divergence.backward()
        expected.append(gradients(model))
        total += float(divergence.detach())
    summed = {
        name: sum(part[name] for part in expected if name in part)
        for name in dict.fromkeys(n for p in expected for n in p)
    }
    model.zero_grad()
    packed = model.distilled_losses(batch_of([[sessions[index] for index in row] for row in layout]))[2]
    packed.backward()
    assert float(packed.detach()) == pytest.approx(total, abs=1e-4)
    assert_same(gradients(model), summed, 1e-4)


def test_a_frozen_decoder_gets_no_gradient_and_the_connector_the_same() -> None:
    model, batch = model_of(), batch_of([taught_sessions()])
    model.distilled_losses(batch)[2].backward()
    trained = gradients(model)
    model.zero_grad()
    model.decoder.requires_grad_(False)
    model.distilled_losses(batch)[2].backward()
    frozen = gradients(model)
    assert not any(name.startswith("decoder.") for name in frozen)
    assert_same(frozen, {name: value for name, value in trained.items() if not name.startswith("decoder.")}, 1e-6)


def test_under_autocast_every_weight_keeps_its_gradient() -> None:
    """Autocast keeps the casts of weights; those made in a pass without gradient would have none."""
    model, batch = model_of("llama"), batch_of([taught_sessions()])
    total, _, divergence = model.distilled_losses(batch)
    (total + divergence).backward()
    expected = gradients(model)
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(2):  # the second batch of a step finds the casts of the first
            total, _, divergence = model.distilled_losses(batch)
            ((total + divergence) / 2).backward()
    actual = gradients(model)
    assert actual.keys() == expected.keys()
    for name in filter(lambda name: name.startswith("decoder."), actual):
        gradient = actual[name]
        assert torch.cosine_similarity(gradient.flatten(), expected[name].flatten(), 0) > 0.97, name


# -- what is read -----------------------------------------------------------------------------------------------------


def test_sessions_that_a_teacher_cannot_read_are_counted_and_left_out() -> None:
    sessions = taught_sessions()
    lengths = [len(text_of(session)) for session in sessions]
    targets = [len(predicted(session)) for session in sessions]
    row = ROWS.row(sessions)
    assert {name: row.counts[name] for name in ("distilled_tokens", "teacher_positions", "untaught_sessions")} == {
        "distilled_tokens": sum(targets),
        "teacher_positions": lengths[0] + lengths[2],
        "untaught_sessions": 0,
    }
    short = TaughtRows(lengths[2] - 1)
    assert short.row(sessions).counts["untaught_sessions"] == 1
    batch = batch_of([sessions], row_format=short)
    assert len(batch.teacher.student_targets) == targets[0]
    images = [
        replace(sessions[2], docks=tuple((start, replace(dock, text_ids=None)) for start, dock in sessions[2].docks))
    ]
    assert ROWS.row(images).counts["untaught_sessions"] == 1
    assert ROWS.row(sessions[1:2]).counts["untaught_sessions"] == 0, "without docks there is nothing to teach"


def test_without_anything_to_read_the_divergence_is_nothing() -> None:
    model, batch = model_of(), batch_of([taught_sessions()[1:2]])
    total, _, divergence = model.distilled_losses(batch)
    assert float(divergence) == 0.0
    (total + divergence).backward()
    sharded = batch_of([taught_sessions()[1:2]], pass_positions=None)
    assert len(sharded.teacher.passes) == 1, "sharded processes run equally many passes"
    assert float(model.distilled_losses(sharded)[2]) == 0.0


def test_padding_stays_within_the_positions_of_the_decoder() -> None:
    sessions = taught_sessions()
    longest = max(len(text_of(session)) for session in sessions)
    model = model_of("gpt2", n_positions=longest)
    batch = batch_of([[*sessions, *sessions, *sessions]], row_format=TaughtRows(longest), pass_positions=4 * longest)
    widths = [tokens.input_ids.shape for tokens in batch.teacher.passes]
    assert any(rows > 1 for rows, _ in widths)
    assert all(int(tokens.position_ids.max()) < longest for tokens in batch.teacher.passes)
    assert torch.isfinite(model.teacher_states(batch.teacher)).all()


def test_tasks_without_a_teacher() -> None:
    rows = TaughtRows(256, (1,))
    sessions = taught_sessions()
    row = rows.row(sessions, task_ids=[0, 0, 1])
    assert row.counts["distilled_tokens"] == len(predicted(sessions[0]))
