"""Encoder–decoders: pairs of source and target, and losses and gradients equal to those of transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from metalm_cli.errors import MetalmError
from metalm_cli.models.checkpoint_io import load_model
from metalm_cli.models.families.seq2seq_model import Seq2SeqModel
from metalm_cli.sessions import (
    Causal,
    Docked,
    PairTokenizer,
    Session,
    SessionTokeniser,
    TokenRules,
    build_row,
)
from tiny_seq2seq import KINDS, make_seq2seq, save_seq2seq, tokenizer_of

PAIRS = [
    ("Where did Anna go after the long rain?", "to the old mill"),
    ("Is it wet? OPTIONS: yes, no", "yes"),
    ("A story.", "Tom had a red boat, and a dog that barked."),
]


def pair_tokenizer(kind: str, packs: bool = False) -> PairTokenizer:
    start = 2 if kind == "bart" else 0
    return PairTokenizer(tokenizer_of(kind), TokenRules(), decoder_start_id=start, packs=packs)


def sessions_of(pairs: list[tuple[str, str]]) -> list[Session]:
    return [
        Session([Docked("text", source), Causal(target, trained=True, end=True)], f"pair {index}")
        for index, (source, target) in enumerate(pairs)
    ]


def batch_of(kind: str, sessions: list[Session], packs: bool) -> Any:
    tokenizer = pair_tokenizer(kind, packs)
    tokenise = SessionTokeniser(tokenizer, {})
    tokenised = [tokenise(session, require_targets=True) for session in sessions]
    rows = [tokenizer.format.row(tokenised)] if packs else [tokenizer.format.row([session]) for session in tokenised]
    return tokenizer.format.collate(rows, {}, pad_id=tokenizer.pad_id)


def their_labels(kind: str, pairs: list[tuple[str, str]]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Inputs and labels as the examples of transformers make them; BART's ``<s>`` before a target is not scored."""
    tokenizer = tokenizer_of(kind)
    sources, targets = zip(*pairs, strict=True)
    encoded = tokenizer(list(sources), text_target=list(targets), padding=True, return_tensors="pt")
    labels = encoded["labels"].masked_fill(encoded["labels"] == tokenizer.pad_token_id, -100)
    return {key: encoded[key] for key in ("input_ids", "attention_mask")}, labels


def without_bos(kind: str, labels: torch.Tensor) -> torch.Tensor:
    if kind == "bart":
        labels = labels.clone()
        labels[:, 0] = -100
    return labels


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_tokens_are_those_of_the_tokenizer(kind: str) -> None:
    """Special tokens are added once, and source and target are those of ``tokenizer(text, text_target=…)``."""
    tokenizer, start = tokenizer_of(kind), 2 if kind == "bart" else 0
    for source, target in [*PAIRS, ("  two  spaces\nand a line ", " a leading space"), ("naïve café", "München")]:
        expected = tokenizer(source, text_target=target)
        row = batch_of(kind, sessions_of([(source, target)]), packs=False)
        assert row.streams["encoder"].input_ids[0].tolist() == expected["input_ids"]
        decoder = [*row.decoder.input_ids[0].tolist(), row.decoder.targets[-1].item()]
        assert decoder == [start, *expected["labels"]]


@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_equal_those_of_transformers(kind: str, packs: bool) -> None:
    model = make_seq2seq(kind)
    wrapped = Seq2SeqModel(model)
    assert wrapped.traits.has_known_head
    assert wrapped.traits.causal
    assert wrapped.traits.supports_padding
    assert wrapped.traits.supports_packing == (kind != "bart")
    if packs and not wrapped.traits.supports_packing:
        pytest.skip("absolute positions: pairs that share a row would have those of their neighbours")
    inputs, labels = their_labels(kind, PAIRS)
    labels = without_bos(kind, labels)
    # The start token is part of the labels of BART only as an input, so the decoder's inputs are given.
    decoder_input_ids = model.prepare_decoder_input_ids_from_labels(labels=their_labels(kind, PAIRS)[1])
    expected = model(**inputs, decoder_input_ids=decoder_input_ids, labels=labels).loss
    expected.backward()
    expected_gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    batch = batch_of(kind, sessions_of(PAIRS), packs)
    assert batch.decoder.input_ids.shape[0] == (1 if packs else len(PAIRS))
    total, each = wrapped.losses(batch)
    assert batch.counts["trained_tokens"] == (labels != -100).sum() == len(each)
    loss = total / batch.counts["trained_tokens"]
    assert float(loss) == pytest.approx(float(expected), abs=1e-5)
    assert float(each.mean()) == pytest.approx(float(expected), abs=1e-5)
    loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected_gradients[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_the_head_is_used_only_if_it_gives_the_models_logits(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_seq2seq(kind)
    expected = Seq2SeqModel(model).losses(batch_of(kind, sessions_of(PAIRS), False))
    head = Seq2SeqModel.head
    monkeypatch.setattr(Seq2SeqModel, "head", lambda self: type(head(self))(head(self).weight, scale=0.5))
    wrapped = Seq2SeqModel(model)
    assert not wrapped.traits.has_known_head
    assert "output head is unknown" in wrapped.traits.notes()[0]
    total, each = wrapped.losses(batch_of(kind, sessions_of(PAIRS), False))
    torch.testing.assert_close(total, expected[0], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(each, expected[1], rtol=1e-5, atol=1e-4)


def test_each_trained_span_is_an_example() -> None:
    """The source of a span is all text before it, docked or causal, in order; targets before it are read."""
    tokenizer = tokenizer_of("t5")
    spans = [
        Docked("text", "Is it wet?"),
        Causal("yes", trained=True, end=True),
        Causal("Why"),
        Docked("text", "so?"),
        Causal("rain", trained=True),
        Causal("snow", trained=True),
    ]
    batch = batch_of("t5", [Session(spans)], packs=False)
    ids = {text: tokenizer(text, add_special_tokens=False).input_ids for text in ("Is it wet?", "yes", "rain", "snow")}
    first, end = ids["Is it wet?"], tokenizer.eos_token_id
    why = SessionTokeniser(pair_tokenizer("t5"), {})(Session([Causal("Whyso?")]), is_continuation=True).ids.tolist()
    second = [*first, *ids["yes"], end, *why]
    sources = [
        row[mask >= 0].tolist()
        for row, mask in zip(batch.streams["encoder"].input_ids, batch.streams["encoder"].segment_ids, strict=True)
    ]
    assert sources == [[*first, end], [*second, end], [*second, *ids["rain"], end]]
    assert batch.decoder.targets.tolist() == [*ids["yes"], end, *ids["rain"], *ids["snow"]]
    assert batch.decoder.input_ids[:, 0].tolist() == [0, 0, 0]


def test_a_session_may_begin_with_its_target() -> None:
    batch = batch_of("t5", [Session([Causal("rain", trained=True, end=True)])], packs=False)
    assert batch.streams["encoder"].input_ids.tolist() == [[1]]
    expected = tokenizer_of("t5")(text_target="rain")["input_ids"]
    assert batch.decoder.targets.tolist() == expected


def test_an_image_is_refused_with_its_span() -> None:
    tokenise = SessionTokeniser(pair_tokenizer("t5"), {})
    session = Session([Causal("See"), Docked("vision", Image.new("RGB", (4, 4))), Causal("a", trained=True)], "row 3")
    with pytest.raises(MetalmError, match="row 3 docks Image content into an encoder–decoder") as raised:
        tokenise(session)
    assert "span 2 of 3" in str(raised.value)
    assert "vision" in str(raised.value)


def test_a_session_without_targets_is_refused() -> None:
    with pytest.raises(MetalmError, match="has no trained token"):
        SessionTokeniser(pair_tokenizer("t5"), {})(Session([Causal("See")]), require_targets=True)


def test_rows_count_the_positions_of_their_sources() -> None:
    tokenizer = pair_tokenizer("t5")
    tokenised = SessionTokeniser(tokenizer, {})(sessions_of(PAIRS[:1])[0])
    row = tokenizer.format.row([tokenised])
    assert len(row) == len(tokenised) + 1  # the source's end token and the start token, without the last target
    assert len(build_row([tokenised])) == len(tokenised)
    assert np.array_equal(row.source.ids[:-1], tokenised.ids[: len(row.source.ids) - 1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_is_loaded_and_saved_as_its_own_class(kind: str, tmp_path: Any) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    from metalm_cli.models.checkpoint_io import save_model

    original = save_seq2seq(kind, tmp_path / "theirs")
    model, tokenizer, processors = load_model(tmp_path / "theirs")
    assert isinstance(model, Seq2SeqModel)
    assert not processors
    save_model(tmp_path / "ours", model, tokenizer, processors)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "ours")
    assert type(again) is type(original)
    for name, tensor in original.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    text = AutoTokenizer.from_pretrained(tmp_path / "ours")("one two").input_ids
    assert text == tokenizer_of(kind)("one two").input_ids
    assert load_model(tmp_path / "ours")[0].traits == model.traits


def test_a_checkpoint_without_a_start_token_is_refused(tmp_path: Any) -> None:
    save_seq2seq("t5", tmp_path, decoder_start_token_id=None)
    with pytest.raises(MetalmError, match="does not say with which token its decoder begins"):
        load_model(tmp_path)
