"""Checkpoints that list several end tokens: each of them ends a text, unless metalm trained the model."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

import metalm_cli as metalm
from metalm_cli.errors import MetalmError
from metalm_cli.inference.batch_generation import generate_all
from metalm_cli.inference.configuration_hash import configuration_sha256
from metalm_cli.inference.generation import DecodingOptions, stream_answer
from metalm_cli.models.checkpoint_io import save_model
from tiny_language_models import endless_language_model

PROMPT = metalm.Session([metalm.Causal("Once upon a time")])
NEW_TOKENS = 24


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    language_model = endless_language_model("llama")
    language_model.model.decoder.save_pretrained(tmp_path)
    language_model.tokenizer.save_pretrained(tmp_path)
    return tmp_path


def mute(loaded: metalm.LanguageModel) -> metalm.LanguageModel:
    """Keep a loaded model from generating the document-end token, as the saved one."""
    end = loaded.decoder_tokenizer.document_end_id
    loaded.model.decoder.get_output_embeddings().register_forward_hook(
        lambda _head, _inputs, logits: logits.index_fill(-1, torch.tensor([end]), -1e4)
    )
    return loaded


def greedy_ids(folder: Path) -> list[int]:
    """Return the tokens that transformers generates, by the checkpoint's own generation settings."""
    loaded = mute(metalm.load(folder))
    ids = torch.tensor([loaded.tokenise(PROMPT).ids.tolist()])
    return loaded.model.decoder.generate(ids, max_new_tokens=NEW_TOKENS, do_sample=False)[0, ids.shape[1] :].tolist()


def list_end_token(folder: Path, file: str, token: int) -> None:
    path = folder / file
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "eos_token_id": [content["eos_token_id"], token]}))


@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_each_listed_token_ends_a_text(folder: Path, file: str) -> None:
    long_ids = greedy_ids(folder)
    assert len(long_ids) == NEW_TOKENS
    token = next(token for index, token in enumerate(long_ids) if index > 3 and token not in long_ids[:index])
    list_end_token(folder, file, token)
    if file == "config.json":
        (folder / "generation_config.json").unlink()
    ids = greedy_ids(folder)
    assert ids == long_ids[: long_ids.index(token) + 1]
    loaded = mute(metalm.load(folder))
    text = loaded.decoder_tokenizer.decode(ids[:-1])
    assert loaded.generate([PROMPT], NEW_TOKENS) == [text]
    assert loaded.generate([PROMPT], NEW_TOKENS, num_beams=1, do_sample=False) == [text]
    other = metalm.Session([metalm.Causal("So")])
    cut: list[int] = []
    assert generate_all(loaded, [PROMPT, other], [NEW_TOKENS] * 2, batch_size=2, on_cut=cut.append)[0] == text
    assert 0 not in cut
    generate_all(loaded, [PROMPT], [len(ids)], on_cut=cut.append)
    assert cut.count(0) == 0, "the end token is the last token that the limit allows"
    generate_all(loaded, [PROMPT], [len(ids) - 1], on_cut=cut.append)
    assert cut.count(0) == 1
    pieces: list[str] = []
    answer = stream_answer(loaded, PROMPT, DecodingOptions(NEW_TOKENS), pieces.append)
    assert (answer.text, answer.tokens, answer.finish_reason) == (text, len(ids), "end")
    assert "".join(pieces) == text
    assert loaded.start(PROMPT).reply(NEW_TOKENS) == text


def test_named_end_tokens_end_texts(folder: Path, tmp_path: Path) -> None:
    """A token is named by its entry of the vocabulary or its id, for checkpoints and for models of metalm alike."""
    long_ids = greedy_ids(folder)
    token = next(token for index, token in enumerate(long_ids) if index > 3 and token not in long_ids[:index])
    loaded = metalm.load(folder)
    entry = loaded.tokenizer.convert_ids_to_tokens(token)
    trained = tmp_path / "trained"
    save_model(trained, loaded.model, loaded.decoder_tokenizer, loaded.processors)
    for source in (folder, trained):
        plain = mute(metalm.load(source))
        assert plain.generate([PROMPT], NEW_TOKENS) == [plain.decoder_tokenizer.decode(long_ids)]
        for named in (entry, token):
            language_model = mute(metalm.load(source, end_tokens=[named]))
            text = language_model.decoder_tokenizer.decode(long_ids[: long_ids.index(token)])
            assert language_model.decoder_tokenizer.document_end_id == plain.decoder_tokenizer.document_end_id
            assert language_model.generate([PROMPT], NEW_TOKENS) == [text]
            assert generate_all(language_model, [PROMPT], [NEW_TOKENS]) == [text]
            assert stream_answer(language_model, PROMPT, DecodingOptions(NEW_TOKENS)).finish_reason == "end"
            assert configuration_sha256(language_model) != configuration_sha256(plain), "cached answers differ"


def test_a_named_token_is_the_end_where_the_tokenizer_has_none(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token": None}))
    for file in ("config.json", "generation_config.json"):
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**content, "eos_token_id": None}))
    with pytest.raises(MetalmError) as raised:
        metalm.load(folder)
    assert "--end-token" in raised.value.remedy
    loaded = metalm.load(folder, end_tokens=[7, 9])
    assert (loaded.decoder_tokenizer.document_end_id, loaded.decoder_tokenizer.end_ids) == (7, {7, 9})


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (100_000, "the end token 100000 is not a token id of the decoder"),
        (-1, "the end token -1 is not a token id"),
        ("once upon a time", "the end token 'once upon a time' is not a token of the decoder"),
        ("", "the end token '' is not a token of the decoder"),
        (True, "the end token True is neither a text nor a token id"),
    ],
)
def test_what_is_no_single_token_is_refused(folder: Path, named: str | int, message: str) -> None:
    with pytest.raises(MetalmError, match=re.escape(message)) as raised:
        metalm.load(folder, end_tokens=[named])
    assert raised.value.remedy


def test_a_model_that_metalm_trained_ends_with_its_document_end(folder: Path, tmp_path: Path) -> None:
    long_ids = greedy_ids(folder)
    loaded = metalm.load(folder)
    trained = tmp_path / "trained"
    save_model(trained, loaded.model, loaded.decoder_tokenizer, loaded.processors)
    list_end_token(trained, "generation_config.json", long_ids[4])
    loaded = mute(metalm.load(trained))
    assert loaded.decoder_tokenizer.end_ids == {loaded.decoder_tokenizer.document_end_id}
    assert loaded.generate([PROMPT], NEW_TOKENS) == [loaded.decoder_tokenizer.decode(long_ids)]
