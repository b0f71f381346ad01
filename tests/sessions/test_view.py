"""What a reader of ``metalm show`` is told about every position."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

import tiny_models as tiny
from metalm_cli.data.documents.session_rows import SessionWriter
from metalm_cli.data.sampling.lanes import RowSlot
from metalm_cli.sessions import (
    Causal,
    DecoderTokenizer,
    Docked,
    ImageProcessor,
    Row,
    Session,
    SessionTokeniser,
    TextProcessor,
    TokenRules,
    build_row,
)
from metalm_cli.sessions.row_display import RowView, escape_controls, legend, positions_of, token_texts

TEXT = "The dog barked.\nNaïve café 🙂 日本 ends it."


def printed(thing, *, width=100, colour=False) -> str:
    out = io.StringIO()
    options = {"force_terminal": True, "color_system": "standard"} if colour else {}
    Console(file=out, width=width, highlight=False, **options).print(thing)
    return out.getvalue()


@pytest.fixture
def encoder_tokenizer():
    from tokenizers import decoders

    tokenizer = tiny.tokenizer_of("wordpiece")
    tokenizer.backend_tokenizer.decoder = decoders.WordPiece()
    return tokenizer


@pytest.fixture
def processors(encoder_tokenizer):
    return {"text": TextProcessor("text", encoder_tokenizer, 32)}


@pytest.fixture
def row(byte_tokenizer, processors):
    reader = DecoderTokenizer(byte_tokenizer, TokenRules())
    tokenise = SessionTokeniser(reader, processors)
    first = Session([Docked("text", "The dog barked twice"), Causal(" at Lily", trained=True, end=True)])
    second = Session([Causal("Lily said"), Causal(" play", trained=True)])
    return build_row([tokenise(first), tokenise(second)], numbers=[7, 9])


@pytest.mark.parametrize("kind", tiny.TOKENIZERS)
def test_pieces_put_a_text_together_again(kind):
    tokenizer = tiny.tokenizer_of(kind)
    ids = tokenizer(TEXT, add_special_tokens=False).input_ids
    found = token_texts(tokenizer, ids)
    assert len(found) == len(ids)
    assert "".join(found) == tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    if kind != "llama":
        assert "".join(found).strip() == TEXT
    assert "�" not in "".join(found)


def test_pieces_name_special_tokens_and_join_words(encoder_tokenizer):
    ids = encoder_tokenizer("Lily barked twice").input_ids
    found = token_texts(encoder_tokenizer, ids)
    assert (found[0], found[-1]) == ("[CLS]", "[SEP]")
    assert "".join(found[1:-1]) == "lily barked twice"


def test_every_position_is_what_the_row_says(row, byte_tokenizer, processors):
    found = positions_of(row, byte_tokenizer, processors)
    assert [one.at for one in found] == list(range(len(row)))
    docked = [one for one in found if one.dock is not None]
    assert [one.dock[2] for one in docked] == list(range(row.docks[0][1].positions))
    assert "".join(one.text for one in docked) == "the dog barked twice"
    answer = [one for one in found if one.segment == 0 and one.dock is None]
    assert "".join(one.text for one in answer[:-1]) == " at Lily"
    assert (answer[-1].text, answer[-1].special, answer[-1].trained) == ("<|endoftext|>", True, True)
    second = [one for one in found if one.segment == 1]
    assert "".join(one.text for one in second if not one.trained) == "Lily said"
    assert "".join(one.text for one in second if one.trained) == " play"


def test_predictions_are_the_next_trained_tokens(row, byte_tokenizer, processors):
    found = positions_of(row, byte_tokenizer, processors)
    at = dict(zip(row.predict_at.tolist(), row.targets.tolist(), strict=True))
    for one in found:
        assert bool(one.predicts) == (one.at in at)
        if one.predicts:
            assert found[one.at + 1].trained
            assert row.ids[one.at + 1] == at[one.at]
            assert one.predicts == (found[one.at + 1].text,)
    last = max(one.at for one in found if one.dock is not None)
    assert found[last].predicts == (found[last + 1].text,)


def test_branches_are_predicted_where_their_parent_ends(byte_tokenizer):
    tokenise = SessionTokeniser(DecoderTokenizer(byte_tokenizer, TokenRules()), {})
    parent = tokenise(Session([Causal("Lily has a")]))
    options = [tokenise(Session([Causal(word, trained=True)])) for word in ("ball", "dog")]
    options = [type(one)(one.ids[1:], one.trained[1:]) for one in options]  # without the start token
    row = build_row([parent, *options], [-1, 0, 0])
    found = positions_of(row, byte_tokenizer, {})
    firsts = tuple(next(one.text for one in found if one.segment == segment) for segment in (1, 2))
    assert found[len(parent) - 1].predicts == firsts
    assert all(one.trained for one in found if one.segment > 0)
    assert "goes on from session 1" in printed(RowView(row, byte_tokenizer, {}, plain=True).text())


def test_plain_text_marks_every_kind(row, byte_tokenizer, processors):
    view = RowView(row, byte_tokenizer, processors, plain=True, where="file.jsonl:{}".format)
    text = printed(view.text())
    count = row.docks[0][1].positions
    assert f"[text {count}: the dog barked twice] at Lily‹<|endoftext|>›" in text
    assert "{Lily said} play" in text
    assert "session 1 · positions 0-" in text
    assert "file.jsonl:7" in text
    assert "file.jsonl:9" in text
    assert "\x1b" not in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_colours_mark_every_kind(row, byte_tokenizer, processors):
    text = printed(RowView(row, byte_tokenizer, processors).text(), colour=True)
    assert "\x1b[37;44m the dog barked twice " in text
    assert "\x1b[32m at Lily" in text
    assert "\x1b[1;32m‹<|endoftext|>›" in text
    assert "\x1b[2mLily said" in text
    assert "[text" not in text


@pytest.mark.parametrize("width", [20, 60, 120])
def test_narrow_terminals_are_kept_to(row, byte_tokenizer, processors, width):
    view = RowView(row, byte_tokenizer, processors, plain=True, where=str)
    for thing in (view.text(), legend(["text"], objective="semi_causal", plain=True), view.table(narrow=True)):
        assert max(map(len, printed(thing, width=width).splitlines())) <= width


def test_the_table_has_a_line_for_every_position(row, byte_tokenizer, processors):
    view = RowView(row, byte_tokenizer, processors, plain=True)
    lines = printed(view.table()).splitlines()
    assert len(lines) == 1 + len(row) + 1  # the titles, and a line between the sessions
    count = row.docks[0][1].positions
    (first,) = [line for line in lines if f"text 1/{count}" in line]
    assert "'the'" in first
    assert first.rstrip().endswith("-")
    (last,) = [line for line in lines if f"text {count}/{count}" in line]
    assert last.rstrip().endswith("' at'")
    assert [line for line in lines if " 2:0 " in line]


def test_text_cannot_steer_the_terminal():
    assert escape_controls("a\x1b[31mb\nc\td") == "a\\x1b[31mb↵\nc⇥ d"


def test_a_text_that_spells_a_special_token_is_not_one(byte_tokenizer):
    tokenise = SessionTokeniser(DecoderTokenizer(byte_tokenizer, TokenRules()), {})
    row = build_row([tokenise(Session([Causal("x"), Causal("<|endoftext|>", trained=True, end=True)]))])
    assert "{x}<|endoftext|>‹<|endoftext|>›" in printed(RowView(row, byte_tokenizer, {}, plain=True).text())


@pytest.mark.parametrize("kind", ["wordpiece", "roberta-like"])
def test_masked_rows_show_what_is_read_and_what_stood_there(kind, encoder_tokenizer):
    ids = np.array(encoder_tokenizer("the dog barked at lily").input_ids)
    chosen = np.array([2, 3])
    masked = ids.copy()
    masked[2] = encoder_tokenizer.mask_token_id
    if kind != "wordpiece":
        masked[3] = ids[1]
    zeros = np.zeros(len(ids), dtype=np.int64)
    row = Row(masked, np.arange(len(ids)), zeros, np.array([-1]), (), chosen, ids[chosen], zeros[:2])
    found = positions_of(row, encoder_tokenizer, {}, masked=True)
    assert [one.at for one in found if one.trained] == [2, 3]
    assert found[2].text == "[MASK]"
    assert found[2].predicts[0].strip() == token_texts(encoder_tokenizer, [ids[2]])[0]
    text = printed(RowView(row, encoder_tokenizer, {}, masked=True, plain=True).text())
    assert f"(‹[MASK]›={found[2].predicts[0].strip()})" in text
    assert f"({found[3].text}={found[3].predicts[0].strip()})" in text
    whole = "".join(one.predicts[0] if one.trained else one.text for one in found if not one.special or one.trained)
    assert whole == "the dog barked at lily"


def test_an_image_is_named_by_its_shape(byte_tokenizer):
    from PIL import Image

    def read(images, return_tensors):
        return {"pixel_values": np.zeros((1, 3, 8, 8), dtype=np.float32)}

    vision = {"vision": ImageProcessor("vision", read, np.arange(1, 5), (3, 8, 8))}
    tokenise = SessionTokeniser(DecoderTokenizer(byte_tokenizer, TokenRules()), vision)
    session = Session([Docked("vision", Image.new("RGB", (8, 8))), Causal("dog", trained=True)])
    view = RowView(build_row([tokenise(session)]), byte_tokenizer, vision, plain=True)
    assert "[vision 4: image 3 x 8 x 8]dog" in printed(view.text())
    assert "vision 4/4" in printed(view.table())


def test_lost_documents_are_told(byte_tokenizer, processors):
    reader = DecoderTokenizer(byte_tokenizer, TokenRules())
    writer = SessionWriter(reader, processors["text"], lambda count, _rng: [(2, 30)] if count > 30 else [], 20)

    class Source:
        def get(self, number):
            return type("Document", (), {"text": "The dog barked twice and Lily said something. " * 5})

    view = RowView(RowSlot(0, 1, Source(), writer).next_row(), byte_tokenizer, processors, plain=True)
    assert "1 span cut by the row's end" in view.summary()


def test_the_legend_explains_what_is_used():
    assert "docked" in printed(legend(["text", "vision"], objective="semi_causal", plain=True))
    assert "docked" not in printed(legend([], objective="causal", plain=True))
    assert "generator" in printed(legend([], objective="rtd", plain=True))
    assert "(read=original)" in printed(legend([], objective="mlm", plain=True))


def test_it_is_imported_without_torch():
    code = (
        "import sys, metalm_cli.sessions.row_display; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
