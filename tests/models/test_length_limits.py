"""What the model of a recipe reads, from its configs alone, is what the built model reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tiny_runs as micro
from metalm_cli.config import resolve
from metalm_cli.models import assembly, part_loader
from metalm_cli.models.families.length_limits import lengths_of_recipe
from tiny_models import make_byte_tokenizer, make_decoder, make_encoder, texts
from tiny_seq2seq import save_seq2seq

SEQ2SEQ = (
    "model={seq2seq: {config: {model_type: bart, d_model: 32, encoder_layers: 1, decoder_layers: 1, "
    "encoder_attention_heads: 4, decoder_attention_heads: 4, encoder_ffn_dim: 48, decoder_ffn_dim: 48, "
    "max_position_embeddings: 160}, tokenizer: {new: {vocab_size: 400, documents: 100}}}}"
)
DEEPNORM = (
    "{model_type: metalm-decoder, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 4, "
    "intermediate_size: 48, max_position_embeddings: 64}"
)
ROBERTA = (
    "{model_type: roberta, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 4, intermediate_size: 48, "
    "max_position_embeddings: 100, pad_token_id: 5}"
)
PREFIX = "objective={name: prefix, prefix_length: [4, 16]}"
NO_DECODER = ["model.decoder=null", "objective={name: mlm}"]


def saved(model: Any, tokenizer: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("overrides", "limit"),
    [
        ([], 64),
        ([f"model.decoder.config={DEEPNORM}", "model.encoders=null", "objective={name: causal}"], None),
        (["model.decoder={checkpoint: FOLDER/gpt2}"], 72),
        (["model.decoder=null", "model.encoders=null", "model.checkpoint=FOLDER/gpt2", "objective={name: causal}"], 72),
        ([SEQ2SEQ, PREFIX], 159),
        (["model={checkpoint: FOLDER/bart}", PREFIX], 126),
        (["model={checkpoint: FOLDER/t5}", PREFIX], None),
        (NO_DECODER, 64),
        ([*NO_DECODER, f"model.encoders.text.config={ROBERTA}"], 94),
    ],
)
def test_the_limit_is_that_of_the_built_model(overrides: list[str], limit: int | None, tmp_path: Path) -> None:
    tokenizer = make_byte_tokenizer()
    saved(make_decoder("gpt2", len(tokenizer), n_positions=72), tokenizer, tmp_path / "gpt2")
    for kind in ("bart", "t5"):
        if any(kind in override for override in overrides):
            save_seq2seq(kind, tmp_path / kind, **({"max_position_embeddings": 128} if kind == "bart" else {}))
    path = micro.write_recipe(tmp_path)
    line = [override.replace("FOLDER", str(tmp_path)) for override in overrides]
    recipe = resolve("pretrain", str(path), ["data.sequence_length=32", *line]).recipe
    lengths = lengths_of_recipe(recipe, offline=True)
    built = assembly.build_from_recipe(recipe, lambda count: iter(texts()[:count]), offline=True)
    assert (lengths.positions, lengths.kind) == built.family.length_limit(built)
    assert lengths.positions == limit


def test_encoders_read_what_their_processors_allow(tmp_path: Path) -> None:
    tokenizer = make_byte_tokenizer()
    saved(make_encoder("roberta", len(tokenizer), max_position_embeddings=130), tokenizer, tmp_path / "roberta")
    path = micro.write_recipe(tmp_path)
    roberta = f"checkpoint: {tmp_path / 'roberta'}"
    line = f"model.encoders={{text: {{max_length: 60}}, other: {{{roberta}, max_length: 100}}, free: {{{roberta}}}}}"
    recipe = resolve("pretrain", str(path), [line]).recipe
    assert lengths_of_recipe(recipe, offline=True).encoders == {"text": 64, "other": 129}


def test_nothing_is_built_and_no_weights_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = make_byte_tokenizer()
    folder = saved(make_decoder("gpt2", len(tokenizer), n_positions=72), tokenizer, tmp_path / "gpt2")
    (folder / "model.safetensors").unlink()

    def refuse(*_: Any, **__: Any) -> Iterator[str]:
        raise AssertionError("tokenizers are not trained, and parts are not built")

    monkeypatch.setattr(part_loader.PartLoader, "build", refuse)
    monkeypatch.setattr(part_loader, "train_tokenizer", refuse)
    recipe = resolve("pretrain", str(micro.write_recipe(tmp_path)), [f"model.decoder.checkpoint={folder}"]).recipe
    assert lengths_of_recipe(recipe, offline=True).positions == 72
    assert lengths_of_recipe(recipe, str(folder), offline=True).positions == 72
