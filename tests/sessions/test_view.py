"""Display of rows, as ``metalm show`` prints them."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

import tiny_models as tiny
from metalm_cli.data.documents.session_rows import SessionWriter
from metalm_cli.data.sampling.row_slots import RowSlot
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
def test_token_texts_join_to_the_text(kind):
    tokenizer = tiny.tokenizer_of(kind)
    ids = tokenizer(TEXT, add_special_tokens=False).input_ids
    pieces = token_texts(tokenizer, ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    if kind != "llama":
        assert "".join(pieces).strip() == TEXT
    assert "�" not in "".join(pieces)


def test_token_texts_name_special_tokens_and_join_words(encoder_tokenizer):
    ids = encoder_tokenizer("Lily barked twice").input_ids
    pieces = token_texts(encoder_tokenizer, ids)
    assert (pieces[0], pieces[-1]) == ("[CLS]", "[SEP]")
    assert "".join(pieces[1:-1]) == "lily barked twice"


def test_positions_match_the_row(row, byte_tokenizer, processors):
    positions = positions_of(row, byte_tokenizer, processors)
    assert [position.row_position for position in positions] == list(range(len(row)))
    docked = [position for position in positions if position.dock is not None]
    assert [position.dock[2] for position in docked] == list(range(row.docks[0][1].positions))
    assert "".join(position.text for position in docked) == "the dog barked twice"
    answer = [position for position in positions if position.segment == 0 and position.dock is None]
    assert "".join(position.text for position in answer[:-1]) == " at Lily"
    assert (answer[-1].text, answer[-1].special, answer[-1].trained) == ("<|endoftext|>", True, True)
    second = [position for position in positions if position.segment == 1]
    assert "".join(position.text for position in second if not position.trained) == "Lily said"
    assert "".join(position.text for position in second if position.trained) == " play"


def test_predictions_are_the_next_trained_tokens(row, byte_tokenizer, processors):
    positions = positions_of(row, byte_tokenizer, processors)
    targets = dict(zip(row.predict_at.tolist(), row.targets.tolist(), strict=True))
    for position in positions:
        assert bool(position.predicts) == (position.row_position in targets)
        if position.predicts:
            assert positions[position.row_position + 1].trained
            assert row.ids[position.row_position + 1] == targets[position.row_position]
            assert position.predicts == (positions[position.row_position + 1].text,)
    last = max(position.row_position for position in positions if position.dock is not None)
    assert positions[last].predicts == (positions[last + 1].text,)


def test_children_are_predicted_where_their_parent_ends(byte_tokenizer):
    tokenise = SessionTokeniser(DecoderTokenizer(byte_tokenizer, TokenRules()), {})
    parent = tokenise(Session([Causal("Lily has a")]))
    options = [tokenise(Session([Causal(word, trained=True)])) for word in ("ball", "dog")]
    options = [type(option)(option.ids[1:], option.trained[1:]) for option in options]  # without the start token
    row = build_row([parent, *options], [-1, 0, 0])
    positions = positions_of(row, byte_tokenizer, {})
    firsts = tuple(next(position.text for position in positions if position.segment == segment) for segment in (1, 2))
    assert positions[len(parent) - 1].predicts == firsts
    assert all(position.trained for position in positions if position.segment > 0)
    assert "continues session 1" in printed(RowView(row, byte_tokenizer, {}, plain=True).text())


def test_plain_text_marks_every_kind(row, byte_tokenizer, processors):
    view = RowView(row, byte_tokenizer, processors, plain=True, document_name="file.jsonl:{}".format)
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
def test_output_fits_narrow_terminals(row, byte_tokenizer, processors, width):
    view = RowView(row, byte_tokenizer, processors, plain=True, document_name=str)
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


def test_text_cannot_control_the_terminal():
    assert escape_controls("a\x1b[31mb\nc\td") == "a\\x1b[31mb↵\nc⇥ d"


def test_a_text_that_spells_a_special_token_is_not_one(byte_tokenizer):
    tokenise = SessionTokeniser(DecoderTokenizer(byte_tokenizer, TokenRules()), {})
    row = build_row([tokenise(Session([Causal("x"), Causal("<|endoftext|>", trained=True, end=True)]))])
    assert "{x}<|endoftext|>‹<|endoftext|>›" in printed(RowView(row, byte_tokenizer, {}, plain=True).text())


@pytest.mark.parametrize("kind", ["wordpiece", "roberta-like"])
def test_masked_rows_show_input_and_original_tokens(kind, encoder_tokenizer):
    ids = np.array(encoder_tokenizer("the dog barked at lily").input_ids)
    masked_positions = np.array([2, 3])
    masked = ids.copy()
    masked[2] = encoder_tokenizer.mask_token_id
    if kind != "wordpiece":
        masked[3] = ids[1]
    zeros = np.zeros(len(ids), dtype=np.int64)
    row = Row(
        masked, np.arange(len(ids)), zeros, np.array([-1]), (), masked_positions, ids[masked_positions], zeros[:2]
    )
    positions = positions_of(row, encoder_tokenizer, {}, masked=True)
    assert [position.row_position for position in positions if position.trained] == [2, 3]
    assert positions[2].text == "[MASK]"
    assert positions[2].predicts[0].strip() == token_texts(encoder_tokenizer, [ids[2]])[0]
    text = printed(RowView(row, encoder_tokenizer, {}, masked=True, plain=True).text())
    assert f"(‹[MASK]›={positions[2].predicts[0].strip()})" in text
    assert f"({positions[3].text}={positions[3].predicts[0].strip()})" in text
    original = "".join(
        position.predicts[0] if position.trained else position.text
        for position in positions
        if not position.special or position.trained
    )
    assert original == "the dog barked at lily"


def test_an_image_is_named_by_its_shape(byte_tokenizer):
    from PIL import Image

    def read(images, return_tensors):
        return {"pixel_values": np.zeros((1, 3, 8, 8), dtype=np.float32)}

    vision = {"vision": ImageProcessor("vision", read, np.arange(1, 5), (3, 8, 8))}
    tokenise = SessionTokeniser(DecoderTokenizer(byte_tokenizer, TokenRules()), vision)
    session = Session([Docked("vision", Image.new("RGB", (8, 8))), Causal("dog", trained=True)])
    view = RowView(build_row([tokenise(session)]), byte_tokenizer, vision, plain=True)
    assert "[vision 4: image 8 x 8]dog" in printed(view.text())
    assert "vision 4/4" in printed(view.table())


def test_cut_spans_are_counted_in_the_summary(byte_tokenizer, processors):
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


def test_row_display_imports_without_torch():
    code = (
        "import sys, metalm_cli.sessions.row_display; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
