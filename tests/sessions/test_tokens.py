"""The decoder's tokeniser: whole documents, slices that partition the text, continuations, token rules."""

from __future__ import annotations

import gzip
import itertools
import json
import random
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from metalm_cli.errors import MetalmError
from metalm_cli.sessions import Causal, DecoderTokenizer, Session, SessionTokeniser, TokenisedDocument, TokenRules
from metalm_cli.sessions.decoder_tokenizer import SENTINELS, backend_without_truncation
from tiny_models import STORY, TOKENIZERS, make_sentencepiece_tokenizer, texts, tokenizer_of

quick = settings(max_examples=60, deadline=None, derandomize=True)
kinds = pytest.mark.parametrize("kind", TOKENIZERS)
anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
worded = st.lists(st.sampled_from(["the", " dog", "\n", "  ", "日本", "é", "🙂", "naïve", "<s>", "."]), max_size=12)


@lru_cache(maxsize=16)
def decoder(kind: str, **rules: str) -> DecoderTokenizer:
    return DecoderTokenizer(tokenizer_of(kind), TokenRules(**rules))


def check_slices(document: TokenisedDocument, cuts: list[int]) -> None:
    """Check that the slices between any cuts join to the text."""
    bounds = [0, *sorted(min(cut, len(document)) for cut in cuts), len(document)]
    assert len(document.ids) == len(document.starts) == len(document.ends)
    if len(document):
        spans = [(first, last) for first, last in itertools.pairwise(bounds) if last > first]
        assert "".join(document.slice(first, last) for first, last in spans) == document.text
    assert (np.diff(document.ends) >= 0).all()


# -- documents --------------------------------------------------------------------------------------------------------


@kinds
@given(text=anything | worded.map("".join), cuts=st.lists(st.integers(0, 60), max_size=6))
@quick
def test_slices_partition_the_text(kind, text, cuts):
    check_slices(decoder(kind).encode_document(text), cuts)
    check_slices(decoder(kind, paragraph="." if "llama" not in kind else "▁the").encode_document(text), cuts)


@kinds
def test_single_token_slices_partition_a_story(kind):
    document = decoder(kind).encode_document(STORY)
    check_slices(document, list(range(len(document))))


@pytest.mark.parametrize("name", ["stories260k-llama", "tinystories-656k"])
def test_slices_of_real_tokenizers(name, checkpoints):
    tokenizer = DecoderTokenizer(AutoTokenizer.from_pretrained(checkpoints(name)), TokenRules())
    for text in (STORY, *texts()[:10]):
        document = tokenizer.encode_document(text)
        check_slices(document, list(range(len(document))))
        check_slices(document, [3, 10, 11, 40])


@kinds
def test_a_document_is_tokenised_as_its_tokenizer_does_without_marks(kind):
    tokenizer = tokenizer_of(kind)
    document = decoder(kind).encode_document(STORY)
    assert document.ids.tolist() == tokenizer(STORY, add_special_tokens=False).input_ids
    assert document.ids.dtype == np.int64
    assert decoder(kind).start_id not in document.ids


@kinds
def test_the_text_of_a_slice_equals_its_decoded_tokens(kind):
    # ASCII only: a single byte token has no readable text. "byte-trim" marks spaces only by the ends of tokens.
    text = "Once upon a time there was a little girl named Lily. She had a red ball.\nThe dog barked twice."
    document = decoder(kind).encode_document(text)
    for first in range(0, len(document), 3):
        last = min(first + 3, len(document))
        decoded = tokenizer_of(kind).decode(document.ids[first:last].tolist(), clean_up_tokenization_spaces=False)
        assert decoded.strip() == document.slice(first, last).strip()


@kinds
@pytest.mark.parametrize("text", ["a </s> b", "<s>", "x<|endoftext|>y", "end <unk>"])
def test_control_tokens_spelled_out_are_text(kind, text):
    tokenizer = decoder(kind)
    special = {tokenizer.start_id, tokenizer.document_end_id}
    assert not special & set(tokenizer.encode_document(text).ids.tolist())
    assert not special & set(tokenizer.encode_start(text))
    assert not special & set(tokenizer.encode_continuation(" " + text))


@kinds
def test_truncation_and_padding_of_the_original_tokenizer_do_not_reach_documents(kind):
    tokenizer = tokenizer_of(kind)
    before = DecoderTokenizer(tokenizer, TokenRules())
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=9)
    after = DecoderTokenizer(tokenizer, TokenRules())
    for decoder_tokenizer in (before, after):
        assert (
            decoder_tokenizer.encode_document(STORY).ids.tolist() == decoder(kind).encode_document(STORY).ids.tolist()
        )
        assert decoder_tokenizer.encode_start("a") == decoder(kind).encode_start("a")


# -- paragraphs -------------------------------------------------------------------------------------------------------


@kinds
def test_a_paragraph_token_replaces_each_newline(kind):
    tokenizer = DecoderTokenizer(tokenizer_of(kind), TokenRules(paragraph="x"))
    text = "One line.\nTwo 日本 lines.\n\nAfter an empty one.\n"
    document = tokenizer.encode_document(text)
    paragraph_id = tokenizer_of(kind).get_vocab()["x"]
    paragraph_positions = np.flatnonzero(document.ids == paragraph_id)
    newlines = [index for index, character in enumerate(text) if character == "\n"]
    assert [(int(document.starts[i]), int(document.ends[i])) for i in paragraph_positions] == [
        (n, n + 1) for n in newlines
    ]
    assert [document.slice(i, i + 1) for i in paragraph_positions.tolist()] == ["\n"] * 4
    check_slices(document, list(range(len(document))))
    lines = [tokenizer_of(kind)(line, add_special_tokens=False).input_ids for line in text.split("\n")]
    assert document.ids.tolist() == [token for line in lines for token in (*line, paragraph_id)][:-1]


PARAGRAPHS = ("One line.\nTwo lines.\n\nAfter an empty one.", "\nOnce", "Once\n", "\n", "\n\n", "No newline.", "")


@kinds
@pytest.mark.parametrize("token", ["z", "<s>"])
def test_documents_and_sessions_tokenise_newlines_alike(kind, token):
    tokenizer = decoder(kind, paragraph=token)
    newline_ids = tokenizer.encode_document("\n").ids.tolist()
    assert newline_ids == [tokenizer.paragraph_id]
    for text in PARAGRAPHS:
        expected = tokenizer.encode_document(text).ids.tolist()
        assert expected.count(tokenizer.paragraph_id) == text.count("\n")
        assert tokenizer.encode_start(text) == expected
        # Cut before a space, or before or after a newline: first part and continuation join to the whole text.
        for cut in range(1, len(text)):
            if text[cut] in " \n" and not text[cut - 1].isspace():
                assert [*tokenizer.encode_start(text[:cut]), *tokenizer.encode_continuation(text[cut:])] == expected, (
                    text,
                    cut,
                )
        session = SessionTokeniser(tokenizer, {})(Session([Causal("Yes!"), Causal(text, trained=True, end=True)]))
        assert session.ids[session.trained].tolist() == [
            *tokenizer.encode_continuation(text),
            tokenizer.document_end_id,
        ]
        assert (session.ids == tokenizer.paragraph_id).sum() - tokenizer.adds_start_token * (
            token == "<s>"
        ) == text.count("\n")


@kinds
@pytest.mark.parametrize("token", ["z", "<s>"])
def test_decoding_gives_newlines_back(kind, token):
    tokenizer = decoder(kind, paragraph=token)
    for text in PARAGRAPHS:
        assert tokenizer.decode(tokenizer.encode_document(text).ids.tolist()) == text
        assert tokenizer.decode([*tokenizer.encode_document(text).ids.tolist(), tokenizer.document_end_id]) == text
    plain = decoder(kind)
    for text in PARAGRAPHS[:1]:
        assert plain.decode(plain.encode_document(text).ids.tolist()) == text


def test_a_trained_decoder_tokenizer_can_name_its_newline():
    tokenizer = decoder("byte", paragraph="Ċ")
    assert tokenizer.encode_document("a\nb").ids.tolist() == decoder("byte").encode_document("a\nb").ids.tolist()


@pytest.mark.parametrize("key", ["document", "paragraph"])
def test_a_token_that_is_not_in_the_vocabulary_is_an_error(key):
    with pytest.raises(MetalmError, match="'nowhere' is not in the decoder's vocabulary of 420") as caught:
        DecoderTokenizer(tokenizer_of("byte"), TokenRules(**{key: "nowhere"}))
    assert caught.value.where == f"model.special_tokens.{key}"
    assert caught.value.remedy


def test_a_document_token_may_be_named():
    tokenizer = DecoderTokenizer(tokenizer_of("byte"), TokenRules(document="<s>"))
    assert tokenizer.document_end_id == 1


def test_no_end_token_is_an_error():
    tokenizer = tokenizer_of("byte")
    tokenizer.eos_token = None
    with pytest.raises(MetalmError, match="no end token") as caught:
        DecoderTokenizer(tokenizer, TokenRules())
    assert "tokenizer_config.json" in caught.value.remedy


def test_an_end_token_of_the_checkpoint_stands_for_that_of_its_tokenizer():
    tokenizer = tokenizer_of("byte")
    tokenizer.eos_token = None
    assert DecoderTokenizer(tokenizer, TokenRules(), end_ids=[5, 3]).document_end_id == 5


def test_a_slow_tokenizer_is_an_error():
    class Slow:
        is_fast = False

    with pytest.raises(MetalmError, match="Slow gives no character offsets"):
        DecoderTokenizer(Slow(), TokenRules())


# -- word boundaries --------------------------------------------------------------------------------------------------


@kinds
@given(text=anything | worded.map("".join), data=st.data())
@quick
def test_expanded_spans_split_neither_words_nor_characters(kind, text, data):
    document = decoder(kind).encode_document(text)
    if not len(document):
        return
    first = data.draw(st.integers(0, len(document) - 1))
    last = data.draw(st.integers(first + 1, len(document)))
    begin, end = document.expand_to_word_boundaries(first, last, 0, len(document))
    assert 0 <= begin <= first < last <= end <= len(document)
    for token, inner in ((begin, first), (end, last)):
        assert token in (0, len(document)) or document.is_word_boundary(token)
        assert not any(document.is_word_boundary(index) for index in range(min(token, inner) + 1, max(token, inner)))
    low, high = document.character_span(begin, end)
    for boundary in (low, high):
        if 0 < boundary < len(text):
            before, after = text[boundary - 1], text[boundary]
            assert not (before.isascii() and before.isalnum() and after.isascii() and after.isalnum())


@kinds
def test_no_span_of_a_story_splits_a_word(kind):
    document = decoder(kind).encode_document(STORY)
    words = [(start, start + len(word)) for start, word in _words(STORY)]
    for first in range(len(document)):
        for last in range(first + 1, min(first + 6, len(document))):
            low, high = document.character_span(*document.expand_to_word_boundaries(first, last, 0, len(document)))
            for begin, end in words:
                assert not begin < low < end
                assert not begin < high < end


def _words(text: str) -> list[tuple[int, str]]:
    words, start = [], 0
    for word in text.replace("\n", " ").replace("\t", " ").split(" "):
        if word.isalpha() and max(map(ord, word), default=9999) < 0x0E00:
            words.append((start, word))
        start += len(word) + 1
    assert len(words) > 25
    return words


@kinds
def test_text_without_spaces_is_not_one_word(kind):
    text = "これは長い文章でありまして空白というものがありません。" * 4
    document = decoder(kind).encode_document(text)
    middle = len(document) // 2
    begin, end = document.expand_to_word_boundaries(middle, middle + 6, 0, len(document))
    assert end - begin <= 12
    assert document.slice(begin, end) in text


@kinds
def test_characters_of_several_tokens_are_never_split(kind):
    text = "🙂🙂👩‍👩‍👧é日本🙂"
    document = decoder(kind).encode_document(text)
    assert len(document) > len(text)  # byte tokens
    for first in range(len(document)):
        begin, end = document.expand_to_word_boundaries(first, first + 1, 0, len(document))
        ids = document.ids[begin:end].tolist()
        assert "\ufffd" not in tokenizer_of(kind).decode(ids)
        assert document.slice(begin, end).strip()


def test_expanded_spans_stay_within_their_limits():
    text = "the internationalisation of it"
    document = decoder("byte").encode_document(text)
    words = [index for index in range(len(document) + 1) if document.is_word_boundary(index)]
    assert [document.character_span(0, index)[1] if index else 0 for index in words] == [0, 3, 24, 27, 30]
    the, long, of, _, end = words
    assert of - long > 6
    token = long + 2
    assert document.expand_to_word_boundaries(token, token + 1, 0, end) == (long, of)
    assert document.expand_to_word_boundaries(token, token + 1, token - 1, token + 2) == (token, token + 1)
    assert document.expand_to_word_boundaries(token, end, token - 1, end) == (of, end)
    assert document.expand_to_word_boundaries(the, of - 1, 0, of - 1) == (the, long)
    assert document.expand_to_word_boundaries(the, of - 1, 0, of) == (the, of)


# -- continuations ----------------------------------------------------------------------------------------------------


def sentences(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Texts cut before a space, as (context, continuation)."""
    rng = random.Random(seed)
    pairs = []
    for text in texts()[:100]:
        for line in text.split("\n"):
            spaces = [index for index, character in enumerate(line) if character == " " and 0 < index < len(line) - 1]
            if spaces:
                cut = rng.choice(spaces)
                pairs.append((line[:cut], line[cut:]))
    assert len(pairs) >= count
    return pairs[:count]


@kinds
def test_a_continuation_equals_joint_tokenisation_at_a_space(kind):
    tokenizer = decoder(kind)
    for context, ending in sentences(400):
        joint = tokenizer.encode_document(context + ending).ids.tolist()
        assert [*tokenizer.encode_start(context), *tokenizer.encode_continuation(ending)] == joint


def test_separate_tokenising_is_wrong_only_for_dummy_prefixes():
    wrong = {
        kind: sum(
            decoder(kind).encode_continuation(ending) != decoder(kind).encode_start(ending)
            for _, ending in sentences(400)
        )
        for kind in TOKENIZERS
    }
    assert wrong == {"byte": 0, "byte-bos": 0, "byte-trim": 0, "llama": 400, "metaspace": 0}


@kinds
def test_a_continuation_without_a_space_gets_no_space(kind):
    tokenizer = decoder(kind)
    ids = [*tokenizer.encode_start("It was wonder"), *tokenizer.encode_continuation("ful")]
    assert tokenizer_of(kind).decode(ids).removeprefix(" ") == "It was wonderful"


@kinds
@pytest.mark.parametrize("text", ["\n", "\n\nx", " ", "  two", "\nOnce", "", "日本", "🙂", ".", "a", "\t x", "1"])
def test_a_continuation_decodes_to_exactly_its_text(kind, text):
    tokenizer = decoder(kind)
    ids = tokenizer.encode_continuation(text)
    joint = tokenizer_of(kind).decode([*tokenizer.encode_start("Yes!"), *ids], clean_up_tokenization_spaces=False)
    assert joint.removeprefix(" ") == "Yes!" + text


def reference_continuation(tokenizer: DecoderTokenizer, text: str) -> list[int]:
    """Return the tokens after the sentinel, by comparing all offsets."""
    for sentinel in SENTINELS if text else ():
        encoding = backend_without_truncation(tokenizer.tokenizer).encode(sentinel + text, add_special_tokens=False)
        after = [index for index, (_, end) in enumerate(encoding.offsets) if end > len(sentinel)]
        if after and encoding.offsets[after[0]][0] >= len(sentinel):
            return encoding.ids[after[0] :]
    return tokenizer.encode_start(text)


@kinds
@quick
@given(text=st.one_of(anything, worded.map("".join), worded.map(lambda words: 9 * "".join(words))))
def test_cached_continuations_equal_the_reference(kind, text):
    tokenizer = decoder(kind)
    for _ in range(2):
        ids = tokenizer.encode_continuation(text)
        assert ids == reference_continuation(tokenizer, text)
        ids.append(0)  # the returned list is not shared with the cache


def test_a_continuation_is_right_where_the_sentinel_would_join_it():
    tokenizer = DecoderTokenizer(make_sentencepiece_tokenizer(newlines=True), TokenRules())
    assert any("\n\n" in token for token in tokenizer.tokenizer.get_vocab())
    for text in ("\n", "\n\n", "\nOnce", "\n\n\nx", "a", ".", "\n a"):
        decoded = tokenizer.tokenizer.decode([*tokenizer.encode_start("Yes!"), *tokenizer.encode_continuation(text)])
        assert decoded == "Yes!" + text


@pytest.mark.parametrize(("name", "apart"), [("stories260k-llama", 800), ("byte", 0), ("llama", 800)])
def test_hellaswag_options(name, apart, data_root, request):
    path = data_root / "hellaswag" / "validation.jsonl.gz"
    if not path.is_file():
        pytest.skip("METALM_DATA holds no hellaswag/validation.jsonl.gz")
    if name in TOKENIZERS:
        tokenizer = decoder(name)
    else:
        folder = request.getfixturevalue("checkpoints")(name)
        tokenizer = DecoderTokenizer(AutoTokenizer.from_pretrained(folder), TokenRules())
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line, _ in zip(file, range(200), strict=False)]
    plain = continued = 0
    for row in rows:
        context = tokenizer.encode_start(row["ctx"])
        for ending in row["endings"]:
            joint = tokenizer.encode_document(f"{row['ctx']} {ending}").ids.tolist()
            plain += [*context, *tokenizer.encode_start(" " + ending)] != joint
            continued += [*context, *tokenizer.encode_continuation(" " + ending)] != joint
    assert (continued, plain) == (0, apart)


# -- start tokens -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "start", "docked", "untrained", "trained"),
    [
        ("byte", "auto", False, False, True),
        ("byte", "always", True, True, True),
        ("byte", "never", False, False, False),
        ("byte-bos", "auto", True, True, True),
        ("byte-bos", "never", False, False, False),
        ("llama", "auto", True, True, True),
        ("llama", "always", True, True, True),
        ("llama", "never", False, False, False),
    ],
)
def test_when_a_session_gets_a_start_token(kind, start, docked, untrained, trained):
    tokenizer = decoder(kind, start=start)
    assert tokenizer.needs_start_token(False, False) is docked
    assert tokenizer.needs_start_token(True, False) is untrained
    assert tokenizer.needs_start_token(True, True) is trained


def test_the_start_token_is_the_tokenizers_own_or_the_document_end():
    assert decoder("llama").start_id == tokenizer_of("llama").bos_token_id == 1
    assert decoder("byte-bos").start_id == 1
    tokenizer = tokenizer_of("byte")
    tokenizer.bos_token = None
    assert DecoderTokenizer(tokenizer, TokenRules()).start_id == tokenizer.eos_token_id


def test_padding_uses_a_token_of_the_vocabulary():
    assert decoder("byte").pad_id == decoder("byte").document_end_id
    tokenizer = tokenizer_of("llama")
    tokenizer.pad_token = "<unk>"
    assert DecoderTokenizer(tokenizer, TokenRules()).pad_id == 0


def test_rules_survive_a_configuration():
    rules = TokenRules(start="never", document="</s>", paragraph="x", target_delimiter="")
    assert TokenRules(**json.loads(json.dumps(rules.to_dict()))) == rules
