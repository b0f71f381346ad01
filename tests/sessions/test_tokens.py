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
    """Slices between any cuts, joined, are the text; nothing is lost or told twice."""
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
    check_slices(decoder(kind).document(text), cuts)
    check_slices(decoder(kind, paragraph="." if "llama" not in kind else "▁the").document(text), cuts)


@kinds
def test_single_token_slices_partition_a_story(kind):
    document = decoder(kind).document(STORY)
    check_slices(document, list(range(len(document))))


@pytest.mark.parametrize("name", ["stories260k-llama", "tinystories-656k"])
def test_slices_of_real_tokenizers(name, checkpoints):
    tokenizer = DecoderTokenizer(AutoTokenizer.from_pretrained(checkpoints(name)), TokenRules())
    for text in (STORY, *texts()[:10]):
        document = tokenizer.document(text)
        check_slices(document, list(range(len(document))))
        check_slices(document, [3, 10, 11, 40])


@kinds
def test_a_document_is_tokenised_as_its_tokenizer_does_without_marks(kind):
    tokenizer = tokenizer_of(kind)
    document = decoder(kind).document(STORY)
    assert document.ids.tolist() == tokenizer(STORY, add_special_tokens=False).input_ids
    assert document.ids.dtype == np.int64
    assert decoder(kind).start_id not in document.ids


@kinds
def test_the_text_of_a_slice_is_what_its_tokens_decode_to(kind):
    # Ascii alone: a byte token alone decodes to nothing readable. "byte-trim" tells where spaces are only by ends.
    text = "Once upon a time there was a little girl named Lily. She had a red ball.\nThe dog barked twice."
    document = decoder(kind).document(text)
    for first in range(0, len(document), 3):
        last = min(first + 3, len(document))
        decoded = tokenizer_of(kind).decode(document.ids[first:last].tolist(), clean_up_tokenization_spaces=False)
        assert decoded.strip() == document.slice(first, last).strip()


@kinds
@pytest.mark.parametrize("text", ["a </s> b", "<s>", "x<|endoftext|>y", "end <unk>"])
def test_control_tokens_spelled_out_are_text(kind, text):
    tokenizer = decoder(kind)
    special = {tokenizer.start_id, tokenizer.document_id}
    assert not special & set(tokenizer.document(text).ids.tolist())
    assert not special & set(tokenizer.first(text))
    assert not special & set(tokenizer.continuation(" " + text))


@kinds
def test_truncation_and_padding_of_the_given_tokenizer_do_not_reach_documents(kind):
    tokenizer = tokenizer_of(kind)
    made = DecoderTokenizer(tokenizer, TokenRules())
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=9)
    again = DecoderTokenizer(tokenizer, TokenRules())
    for one in (made, again):
        assert one.document(STORY).ids.tolist() == decoder(kind).document(STORY).ids.tolist()
        assert one.first("a") == decoder(kind).first("a")


# -- paragraphs -------------------------------------------------------------------------------------------------------


@kinds
def test_a_paragraph_token_stands_for_each_newline(kind):
    tokenizer = DecoderTokenizer(tokenizer_of(kind), TokenRules(paragraph="x"))
    text = "One line.\nTwo 日本 lines.\n\nAfter an empty one.\n"
    document = tokenizer.document(text)
    x = tokenizer_of(kind).get_vocab()["x"]
    at = np.flatnonzero(document.ids == x)
    newlines = [index for index, character in enumerate(text) if character == "\n"]
    assert [(int(document.starts[i]), int(document.ends[i])) for i in at] == [(n, n + 1) for n in newlines]
    assert [document.slice(i, i + 1) for i in at.tolist()] == ["\n"] * 4
    check_slices(document, list(range(len(document))))
    lines = [tokenizer_of(kind)(line, add_special_tokens=False).input_ids for line in text.split("\n")]
    assert document.ids.tolist() == [one for line in lines for one in (*line, x)][:-1]


PARAGRAPHS = ("One line.\nTwo lines.\n\nAfter an empty one.", "\nOnce", "Once\n", "\n", "\n\n", "No newline.", "")


@kinds
@pytest.mark.parametrize("token", ["z", "<s>"])
def test_documents_and_sessions_tokenise_newlines_alike(kind, token):
    tokenizer = decoder(kind, paragraph=token)
    alone = tokenizer.document("\n").ids.tolist()
    assert alone == [tokenizer.paragraph_id]
    for text in PARAGRAPHS:
        whole = tokenizer.document(text).ids.tolist()
        assert whole.count(tokenizer.paragraph_id) == text.count("\n")
        assert tokenizer.first(text) == whole
        # Cut before a space, or before or after a newline: first part and continuation are the whole again.
        for at in range(1, len(text)):
            if text[at] in " \n" and not text[at - 1].isspace():
                assert [*tokenizer.first(text[:at]), *tokenizer.continuation(text[at:])] == whole, (text, at)
        made = SessionTokeniser(tokenizer, {})(Session([Causal("Yes!"), Causal(text, trained=True, end=True)]))
        assert made.ids[made.trained].tolist() == [*tokenizer.continuation(text), tokenizer.document_id]
        assert (made.ids == tokenizer.paragraph_id).sum() - tokenizer.adds_start * (token == "<s>") == text.count("\n")


@kinds
@pytest.mark.parametrize("token", ["z", "<s>"])
def test_decoding_gives_newlines_back(kind, token):
    tokenizer = decoder(kind, paragraph=token)
    for text in PARAGRAPHS:
        assert tokenizer.decode(tokenizer.document(text).ids.tolist()) == text
        assert tokenizer.decode([*tokenizer.document(text).ids.tolist(), tokenizer.document_id]) == text
    plain = decoder(kind)
    for text in PARAGRAPHS[:1]:
        assert plain.decode(plain.document(text).ids.tolist()) == text


def test_a_trained_decoder_tokenizer_can_name_its_newline():
    tokenizer = decoder("byte", paragraph="Ċ")
    assert tokenizer.document("a\nb").ids.tolist() == decoder("byte").document("a\nb").ids.tolist()


@pytest.mark.parametrize("key", ["document", "paragraph"])
def test_a_token_that_is_not_in_the_vocabulary_is_an_error(key):
    with pytest.raises(MetalmError, match="'nowhere' is not in the decoder's vocabulary of 420") as caught:
        DecoderTokenizer(tokenizer_of("byte"), TokenRules(**{key: "nowhere"}))
    assert caught.value.where == f"model.special_tokens.{key}"
    assert caught.value.remedy


def test_a_document_token_may_be_named():
    tokenizer = DecoderTokenizer(tokenizer_of("byte"), TokenRules(document="<s>"))
    assert tokenizer.document_id == 1


def test_no_end_token_is_an_error():
    tokenizer = tokenizer_of("byte")
    tokenizer.eos_token = None
    with pytest.raises(MetalmError, match="no end token"):
        DecoderTokenizer(tokenizer, TokenRules())


def test_a_slow_tokenizer_is_an_error():
    class Slow:
        is_fast = False

    with pytest.raises(MetalmError, match="Slow gives no character offsets"):
        DecoderTokenizer(Slow(), TokenRules())


# -- snapping ---------------------------------------------------------------------------------------------------------


@kinds
@given(text=anything | worded.map("".join), data=st.data())
@quick
def test_snapped_spans_widen_and_split_neither_words_nor_characters(kind, text, data):
    document = decoder(kind).document(text)
    if not len(document):
        return
    first = data.draw(st.integers(0, len(document) - 1))
    last = data.draw(st.integers(first + 1, len(document)))
    begin, end = document.expand_to_word_boundaries(first, last, 0, len(document))
    assert 0 <= begin <= first < last <= end <= len(document)
    for token, inner in ((begin, first), (end, last)):
        assert token in (0, len(document)) or document.word_boundary(token)
        assert not any(document.word_boundary(one) for one in range(min(token, inner) + 1, max(token, inner)))
    low, high = document.characters(begin, end)
    for at in (low, high):
        if 0 < at < len(text):
            before, after = text[at - 1], text[at]
            assert not (before.isascii() and before.isalnum() and after.isascii() and after.isalnum())


@kinds
def test_no_span_of_a_story_splits_a_word(kind):
    document = decoder(kind).document(STORY)
    words = [(at, at + len(word)) for at, word in _words(STORY)]
    for first in range(len(document)):
        for last in range(first + 1, min(first + 6, len(document))):
            low, high = document.characters(*document.expand_to_word_boundaries(first, last, 0, len(document)))
            for begin, end in words:
                assert not begin < low < end
                assert not begin < high < end


def _words(text: str) -> list[tuple[int, str]]:
    found, at = [], 0
    for word in text.replace("\n", " ").replace("\t", " ").split(" "):
        if word.isalpha() and max(map(ord, word), default=9999) < 0x0E00:
            found.append((at, word))
        at += len(word) + 1
    assert len(found) > 25
    return found


@kinds
def test_writing_without_spaces_is_not_swallowed(kind):
    text = "これは長い文章でありまして空白というものがありません。" * 4
    document = decoder(kind).document(text)
    middle = len(document) // 2
    begin, end = document.expand_to_word_boundaries(middle, middle + 6, 0, len(document))
    assert end - begin <= 12
    assert document.slice(begin, end) in text


@kinds
def test_characters_of_several_tokens_are_never_split(kind):
    text = "🙂🙂👩‍👩‍👧é日本🙂"
    document = decoder(kind).document(text)
    assert len(document) > len(text)  # byte tokens
    for first in range(len(document)):
        begin, end = document.expand_to_word_boundaries(first, first + 1, 0, len(document))
        ids = document.ids[begin:end].tolist()
        assert "\ufffd" not in tokenizer_of(kind).decode(ids)
        assert document.slice(begin, end).strip()


def test_snap_stays_within_its_limits():
    text = "the internationalisation of it"
    document = decoder("byte").document(text)
    words = [at for at in range(len(document) + 1) if document.word_boundary(at)]
    assert [document.characters(0, at)[1] if at else 0 for at in words] == [0, 3, 24, 27, 30]
    the, long, of, _, end = words
    assert of - long > 6
    inside = long + 2
    assert document.expand_to_word_boundaries(inside, inside + 1, 0, end) == (long, of)
    assert document.expand_to_word_boundaries(inside, inside + 1, inside - 1, inside + 2) == (inside, inside + 1)
    assert document.expand_to_word_boundaries(inside, end, inside - 1, end) == (of, end)
    assert document.expand_to_word_boundaries(the, of - 1, 0, of - 1) == (the, long)
    assert document.expand_to_word_boundaries(the, of - 1, 0, of) == (the, of)


# -- continuations ----------------------------------------------------------------------------------------------------


def sentences(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Texts cut before a space, as (context, continuation)."""
    rng = random.Random(seed)
    found = []
    for text in texts()[:100]:
        for line in text.split("\n"):
            spaces = [at for at, character in enumerate(line) if character == " " and 0 < at < len(line) - 1]
            if spaces:
                at = rng.choice(spaces)
                found.append((line[:at], line[at:]))
    assert len(found) >= count
    return found[:count]


@kinds
def test_a_continuation_is_what_joint_tokenisation_gives_at_a_space(kind):
    tokenizer = decoder(kind)
    for context, rest in sentences(400):
        joint = tokenizer.document(context + rest).ids.tolist()
        assert [*tokenizer.first(context), *tokenizer.continuation(rest)] == joint


def test_tokenising_apart_is_wrong_for_dummy_prefixes_alone():
    wrong = {
        kind: sum(decoder(kind).continuation(rest) != decoder(kind).first(rest) for _, rest in sentences(400))
        for kind in TOKENIZERS
    }
    assert wrong == {"byte": 0, "byte-bos": 0, "byte-trim": 0, "llama": 400, "metaspace": 0}


@kinds
def test_a_continuation_without_a_space_gets_none(kind):
    tokenizer = decoder(kind)
    ids = [*tokenizer.first("It was wonder"), *tokenizer.continuation("ful")]
    assert tokenizer_of(kind).decode(ids).removeprefix(" ") == "It was wonderful"


@kinds
@pytest.mark.parametrize("text", ["\n", "\n\nx", " ", "  two", "\nOnce", "", "日本", "🙂", ".", "a", "\t x", "1"])
def test_a_continuation_says_its_text_and_nothing_else(kind, text):
    tokenizer = decoder(kind)
    ids = tokenizer.continuation(text)
    joint = tokenizer_of(kind).decode([*tokenizer.first("Yes!"), *ids], clean_up_tokenization_spaces=False)
    assert joint.removeprefix(" ") == "Yes!" + text


def slowly_continued(tokenizer: DecoderTokenizer, text: str) -> list[int]:
    """The tokens that end after the sentinel, where the first of them begins after it; all offsets looked at."""
    for sentinel in SENTINELS if text else ():
        encoding = backend_without_truncation(tokenizer.tokenizer).encode(sentinel + text, add_special_tokens=False)
        after = [index for index, (_, end) in enumerate(encoding.offsets) if end > len(sentinel)]
        if after and encoding.offsets[after[0]][0] >= len(sentinel):
            return encoding.ids[after[0] :]
    return tokenizer.first(text)


@kinds
@quick
@given(text=st.one_of(anything, worded.map("".join), worded.map(lambda words: 9 * "".join(words))))
def test_continuations_are_those_of_all_offsets_also_when_they_come_again(kind, text):
    tokenizer = decoder(kind)
    for _ in range(2):
        found = tokenizer.continuation(text)
        assert found == slowly_continued(tokenizer, text)
        found.append(0)  # what is handed out is nobody else's


def test_a_continuation_is_right_where_the_sentinel_would_join_it():
    tokenizer = DecoderTokenizer(make_sentencepiece_tokenizer(newlines=True), TokenRules())
    assert any("\n\n" in token for token in tokenizer.tokenizer.get_vocab())
    for text in ("\n", "\n\n", "\nOnce", "\n\n\nx", "a", ".", "\n a"):
        decoded = tokenizer.tokenizer.decode([*tokenizer.first("Yes!"), *tokenizer.continuation(text)])
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
        context = tokenizer.first(row["ctx"])
        for ending in row["endings"]:
            joint = tokenizer.document(f"{row['ctx']} {ending}").ids.tolist()
            plain += [*context, *tokenizer.first(" " + ending)] != joint
            continued += [*context, *tokenizer.continuation(" " + ending)] != joint
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
    assert tokenizer.starts_with(False, False) is docked
    assert tokenizer.starts_with(True, False) is untrained
    assert tokenizer.starts_with(True, True) is trained


def test_the_start_token_is_the_tokenizers_own_or_the_document_end():
    assert decoder("llama").start_id == tokenizer_of("llama").bos_token_id == 1
    assert decoder("byte-bos").start_id == 1
    tokenizer = tokenizer_of("byte")
    tokenizer.bos_token = None
    assert DecoderTokenizer(tokenizer, TokenRules()).start_id == tokenizer.eos_token_id


def test_padding_uses_a_token_of_the_vocabulary():
    assert decoder("byte").pad_id == decoder("byte").document_id
    tokenizer = tokenizer_of("llama")
    tokenizer.pad_token = "<unk>"
    assert DecoderTokenizer(tokenizer, TokenRules()).pad_id == 0


def test_rules_survive_a_configuration():
    rules = TokenRules(start="never", document="</s>", paragraph="x", target_delimiter="")
    assert TokenRules(**json.loads(json.dumps(rules.to_dict()))) == rules
