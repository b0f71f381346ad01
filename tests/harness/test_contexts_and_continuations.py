"""Requests as token ids: boundaries, start tokens, truncation and windows."""

from __future__ import annotations

import numpy as np
import pytest

from metalm_cli.errors import MetalmError
from metalm_cli.harness.contexts_and_continuations import (
    ContextAndContinuation,
    ContinuationTokenizer,
    group_by_context,
)
from tiny_language_models import tiny_language_model

CONTEXT, REST = "The girl had a red ball", " and a dog"


def test_each_text_is_split_where_its_context_ends() -> None:
    reader = ContinuationTokenizer(tiny_language_model("gpt2"))
    whole, context = (reader.tokenizer(text).input_ids for text in (CONTEXT + REST, CONTEXT))
    assert reader.encode_pairs([(CONTEXT, REST)]) == [
        ContextAndContinuation(tuple(context), tuple(whole[len(context) :]))
    ]


def test_spaces_that_end_a_context_belong_to_the_continuation() -> None:
    reader = ContinuationTokenizer(tiny_language_model("gpt2"))
    assert reader.encode_pairs([(CONTEXT + " ", REST[1:])]) == reader.encode_pairs([(CONTEXT, REST)])


def test_llama_reads_its_start_token_once() -> None:
    reader = ContinuationTokenizer(tiny_language_model("llama"))
    bos = reader.tokenizer.bos_token_id
    plain, written = reader.encode_pairs([(CONTEXT, REST), ("<s>" + CONTEXT, REST)])
    assert plain.context[0] == bos
    assert plain.context.count(bos) == 1
    assert written.context.count(bos) == 1
    assert bos not in plain.continuation


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_without_context_the_prefix_token_comes_first(family: str) -> None:
    reader = ContinuationTokenizer(tiny_language_model(family))
    (pair,) = reader.encode_pairs([("", "A dog")])
    assert pair == ContextAndContinuation(
        (reader.tokenizer.bos_token_id,), tuple(reader.tokenizer("A dog", add_special_tokens=False).input_ids)
    )
    (written,) = reader.encode_pairs([("", reader.tokenizer.bos_token + "A dog")])
    assert written.context == pair.context
    assert reader.tokenizer.bos_token_id not in written.continuation


def test_a_prefix_token_and_a_start_token_can_be_requested() -> None:
    language_model = tiny_language_model("gpt2")
    assert ContinuationTokenizer(language_model, prefix_token_id=9).encode_pairs([("", "A dog")])[0].context == (9,)
    never = ContinuationTokenizer(tiny_language_model("llama"), add_start=False).encode_pairs([(CONTEXT, REST)])[0]
    assert (
        never.context[0]
        != ContinuationTokenizer(tiny_language_model("llama")).encode_pairs([(CONTEXT, REST)])[0].context[0]
    )


def test_the_token_rules_of_the_model_apply() -> None:
    language_model = tiny_language_model("gpt2", rules={"start": "always", "paragraph": "Ġ"})
    paragraph = language_model.decoder_tokenizer.paragraph_id
    (pair,) = ContinuationTokenizer(language_model).encode_pairs([("One.\nTwo.", " Three")])
    assert pair.context[0] == language_model.decoder_tokenizer.start_id
    assert paragraph in pair.context


def test_long_contexts_lose_their_beginning() -> None:
    reader = ContinuationTokenizer(tiny_language_model("gpt2"), max_length=10)
    full = ContinuationTokenizer(tiny_language_model("gpt2"))
    (long,) = full.encode_pairs([(CONTEXT * 3, REST)])
    (cut,) = reader.encode_pairs([(CONTEXT * 3, REST)])
    assert cut.continuation == long.continuation
    assert len(cut.context) + len(cut.continuation) == 11  # the last token is predicted, not read
    assert cut.context == long.context[-len(cut.context) :]
    assert cut.tokens_cut == len(long.context) - len(cut.context) > 0
    assert long.tokens_cut == 0


@pytest.mark.parametrize(
    ("request_", "says"), [((CONTEXT, ""), "no token of its own"), ((CONTEXT, REST * 9), "tokens, the model reads 10")]
)
def test_continuations_that_cannot_be_scored_are_errors(request_: tuple[str, str], says: str) -> None:
    with pytest.raises(MetalmError, match=says):
        ContinuationTokenizer(tiny_language_model("gpt2"), max_length=10).encode_pairs([request_])


@pytest.mark.parametrize("length", [2, 3, 7, 64])
def test_windows_cover_a_text_once_with_the_longest_context(length: int) -> None:
    reader = ContinuationTokenizer(tiny_language_model("gpt2"), max_length=length)
    ids = reader.tokenizer(CONTEXT + REST).input_ids
    windows = list(reader.rolling_windows(CONTEXT + REST))
    assert [token for window in windows for token in window.continuation] == ids
    known = [reader.prefix_token_id, *ids]
    end = 1
    for window in windows:
        assert list(window.context) == known[end - len(window.context) : end]
        end += len(window.continuation)
        assert len(window.context) + len(window.continuation) == min(length + 1, end)
    assert list(reader.rolling_windows("")) == []


def test_equal_contexts_are_one_question_and_common_beginnings_are_shared_prefixes() -> None:
    shots = tuple(range(40))
    pairs = [
        ContextAndContinuation((*shots, 5), (1, 2)),
        ContextAndContinuation((*shots, 6), (3,)),
        ContextAndContinuation((*shots, 5), (4,)),
        ContextAndContinuation((9, 9), (7,)),
    ]
    questions, pair_indices = group_by_context(pairs)
    assert pair_indices == [[0, 2], [1], [3]]
    assert [[option.tolist() for option in question.options] for question in questions] == [[[1, 2], [4]], [[3]], [[7]]]
    assert [question.prefix.ids.tolist() for question in questions] == [[5], [6], [9, 9]]
    assert questions[0].shared_prefix is questions[1].shared_prefix
    assert questions[0].shared_prefix is not None
    assert np.array_equal(questions[0].shared_prefix.ids, shots)
    assert questions[2].shared_prefix is None


@pytest.mark.parametrize("length", [1, 10_000])
def test_an_invalid_maximum_length_is_an_error(length: int) -> None:
    with pytest.raises(MetalmError, match=f"max_length={length}"):
        ContinuationTokenizer(tiny_language_model("gpt2"), max_length=length)
