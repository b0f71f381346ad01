"""Docks with fewer positions than outputs: scores, texts and saved models are those of the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import metalm_cli as metalm
from metalm_cli.config.schema.model import ModelConfig
from metalm_cli.inference.batch_generation import generate_in_batches
from metalm_cli.inference.language_model import LanguageModel
from metalm_cli.inference.loading import load
from metalm_cli.inference.scoring.option_scorer import Scorer
from metalm_cli.inference.scoring.question_rows import OptionQuestion
from metalm_cli.models.assembly import build_metalm
from metalm_cli.models.checkpoint_io import save_model
from metalm_cli.models.lora.adapter_files import save_adapter
from metalm_cli.sessions import Causal, Docked, Session, build_row
from metalm_cli.sessions.row_display import positions_of
from metalm_cli.sessions.spans import Span
from model_families import noise_image
from tiny_language_models import DOCKED_SPANS, Reference, endless_language_model, tiny_language_model

KINDS: list[dict[str, Any]] = [
    {"kind": "stack", "factor": 4},
    {"kind": "mean", "factor": 4},
    {"kind": "queries", "length": 3, "layers": 2, "heads": 2},
]
OPTIONS = (" yes", " no", " the dog ran")
DEMONSTRATIONS: list[Span] = [
    Docked("text", "A cat sat in the sun all day."),
    Causal(" animal", end=True),
    Docked("vision", noise_image(3)),
    Causal(" weather", end=True),
]
PROMPTS: list[list[Span]] = [
    [Docked("text", "the dog barked at a girl and ran")],
    [Docked("vision", noise_image(0)), Docked("text", "It rained."), Causal(" so")],
    [Causal("Is it cold?"), Docked("text", "A cat sat in the sun all day."), Causal(":")],
]

kinds = pytest.mark.parametrize("connector", KINDS, ids=lambda record: record["kind"])


def option_ids(language_model: LanguageModel, text: str) -> np.ndarray:
    return np.array(language_model.decoder_tokenizer.encode_continuation(text), dtype=np.int64)


@kinds
def test_scores_are_those_of_each_session_alone(connector) -> None:
    language_model = tiny_language_model("gpt2", "text", "vision", connector=connector)
    reference = Reference(language_model)
    expected = [reference.score(spans) for spans in DOCKED_SPANS.values()]
    scores = language_model.log_likelihood([Session(spans) for spans in DOCKED_SPANS.values()])
    assert scores.tolist() == pytest.approx(expected, abs=1e-3)
    shared = language_model.tokenise(Session(DEMONSTRATIONS))
    options = tuple(option_ids(language_model, text) for text in OPTIONS)
    questions = [
        OptionQuestion(language_model.tokenise(Session(spans), is_continuation=True), options, shared)
        for spans in PROMPTS
    ]
    scorer = Scorer(language_model)
    results = scorer.score(questions)
    for spans, result in zip(PROMPTS, results, strict=True):
        alone = [
            reference.score([*DEMONSTRATIONS, *spans, Causal(tuple(ids.tolist()), trained=True)]) for ids in options
        ]
        np.testing.assert_allclose(result.log_likelihood, alone, atol=1e-3)
    assert scorer.docks.encoded == 5, "the text of the demonstration and of the last question is encoded once"
    positions = sum(dock.positions for _, dock in shared.docks)
    counts = [len(dock.output_positions) for _, dock in shared.docks]
    assert positions == sum(3 if "length" in connector else -(-count // 4) for count in counts) < sum(counts)


@kinds
def test_texts_are_those_of_each_session_alone(connector) -> None:
    language_model = endless_language_model("gpt2", "text", "vision", connector=connector)
    reference = Reference(language_model)
    expected = [reference.greedy(spans, 4) for spans in PROMPTS]
    sessions = [Session(spans) for spans in PROMPTS]
    texts = [language_model.decode(ids) for ids in expected]
    assert language_model.generate(sessions, max_new_tokens=4) == texts
    batches = generate_in_batches(
        language_model, [language_model.tokenise(session) for session in sessions], [4] * 3, batch_size=3, budget=500
    )
    generated = {index: text for batch in batches for index, text in batch}
    assert [generated[index] for index in range(3)] == texts
    conversation = language_model.start(Session(PROMPTS[0])).extend(PROMPTS[1])
    assert conversation.reply(4) == language_model.decode(reference.greedy([*PROMPTS[0], *PROMPTS[1]], 4))


@kinds
def test_a_saved_model_tokenises_and_scores_alike(connector, tmp_path: Path) -> None:
    language_model = tiny_language_model("gpt2", "text", connector=connector)
    spans: list[Span] = [Docked("text", "the dog barked at a girl and ran"), Causal(" yes", trained=True)]
    tokenised = language_model.tokenise(Session(spans))
    expected = language_model.log_likelihood([Session(spans)])
    base = tmp_path / "model"
    base.mkdir()
    save_model(base, language_model.model, language_model.decoder_tokenizer, language_model.processors)
    loaded = load(base, offline=True)
    assert loaded.model.config.connectors["text"] == connector
    assert loaded.tokenise(Session(spans)).ids.tolist() == tokenised.ids.tolist()
    torch.testing.assert_close(loaded.log_likelihood([Session(spans)]), expected)
    recipe = ModelConfig.model_validate({"checkpoint": str(base), "lora": {"rank": 2}})
    assembly = build_metalm(recipe, seed=0, sample=lambda count: iter(()), offline=True)
    with torch.no_grad():
        for parameter in assembly.model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    adapted = LanguageModel(assembly.model.eval(), assembly.decoder_tokenizer, assembly.processors)
    expected = adapted.log_likelihood([Session(spans)])
    (tmp_path / "adapter").mkdir()
    assert assembly.lora_targets is not None
    save_adapter(tmp_path / "adapter", assembly.parts(), assembly.lora_targets)
    loaded = metalm.load(tmp_path / "adapter", offline=True)
    assert loaded.tokenise(Session(spans)).ids.tolist() == tokenised.ids.tolist()
    torch.testing.assert_close(loaded.log_likelihood([Session(spans)]), expected)


@kinds
def test_the_text_of_a_dock_is_shown_in_its_positions(connector) -> None:
    session = Session([Docked("text", "the dog barked at a girl and ran"), Causal(" yes", trained=True)])
    texts = []
    for record in (None, connector):
        language_model = tiny_language_model("gpt2", "text", connector=record)
        row = build_row([language_model.tokenise(session)])
        positions = positions_of(row, language_model.tokenizer, language_model.processors)
        texts.append([position.text for position in positions if position.dock is not None])
    each_output, docked = texts
    assert len(docked) == row.docks[0][1].positions < len(each_output)
    assert "".join(docked) == "".join(each_output)
    if "factor" in connector:
        assert all(docked)
