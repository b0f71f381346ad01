"""Choosing among options by their log-probability (paper section 3.6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from metalm_cli.evaluation.answer_cache import AnswerCache, AnswerKey
from metalm_cli.evaluation.prompts import EncodedPrompt
from metalm_cli.inference.scoring.option_scorer import OptionScores, Scorer
from metalm_cli.inference.scoring.question_rows import OptionQuestion, session_digest
from metalm_cli.sessions import DecoderTokenizer, TokenisedSession


@dataclass(frozen=True)
class OptionRanking:
    """An example's options, ranked.

    Args:
        log_likelihood: Of each option, in nats. ``[o]``
        chosen: Option of the highest; the first of equals.
        otherwise: Option chosen in each other way: by log-probability ``per_token``, ``per_char``
            (lm-evaluation-harness: ``acc_norm``) or ``per_byte`` (UTF-8) of the option, or ``unconditional``: less its
            log-probability without the input.
    """

    log_likelihood: tuple[float, ...]
    chosen: int
    alternatives: dict[str, int]


def rank(
    scorer: Scorer,
    prompts: Sequence[EncodedPrompt],
    names: Sequence[str],
    kept: AnswerCache,
    *,
    ended: bool,
    watch: Callable[[int], None] = lambda done: None,
) -> list[OptionRanking]:
    """Rank the options of examples.

    Args:
        scorer: Who scores.
        prompts: The examples.
        names: What each is called in what is kept.
        kept: Answers that are there already; takes the new ones after each forward pass.
        ended: An option's end token counts.
        watch: Told how many are done.
    """
    tokenizer = scorer.language_model.decoder_tokenizer
    questions = [OptionQuestion(one.prefix, option_ids(tokenizer, one, ended), one.before) for one in prompts]
    how = "ranked, ended" if ended else "ranked"
    scores = _scores(scorer, questions, names, how, kept, watch)
    # Options without the input: often the same for a whole task, and then scored once.
    distinct = {tuple(map(bytes, one.options)): one.options for one in questions}
    start = unconditional_session(tokenizer)
    bare = _scores(
        scorer,
        [OptionQuestion(start, options, name="options without an input") for options in distinct.values()],
        [f"{names[0] if names else ''} without an input"] * len(distinct),
        how,
        kept,
    )
    alone = dict(zip(distinct, bare, strict=True))
    return [
        _ranked(tokenizer, one, question, score, alone[tuple(map(bytes, question.options))])
        for one, question, score in zip(prompts, questions, scores, strict=True)
    ]


def option_ids(tokenizer: DecoderTokenizer, prompt: EncodedPrompt, ended: bool) -> tuple[np.ndarray, ...]:
    """Token ids of an example's options, as they go on after its prompt."""
    delimiter, end = tokenizer.rules.target_delimiter, [tokenizer.document_id] if ended else []
    return tuple(
        np.array([*tokenizer.continuation(delimiter + option), *end], dtype=np.int64) for option in prompt.right.options
    )


def unconditional_session(tokenizer: DecoderTokenizer) -> TokenisedSession:
    """A session without an input: its start token, or the end of another document."""
    return TokenisedSession(np.array([tokenizer.start_id], dtype=np.int64), np.zeros(1, dtype=bool))


def _scores(
    scorer: Scorer,
    questions: Sequence[OptionQuestion],
    names: Sequence[str],
    how: str,
    kept: AnswerCache,
    watch: Callable[[int], None] = lambda done: None,
) -> list[np.ndarray]:
    asked = [
        AnswerKey(
            name,
            session_digest(one.prefix, one.options) + ("" if one.before is None else session_digest(one.before)),
            how,
        )
        for name, one in zip(names, questions, strict=True)
    ]
    found = [kept.get(one) for one in asked]
    new = [at for at, one in enumerate(found) if one is None]
    done = len(questions) - len(new)
    watch(done)

    def told(numbers: list[int], scores: list[OptionScores]) -> None:
        nonlocal done
        made = [(new[number], one.log_likelihood.tolist()) for number, one in zip(numbers, scores, strict=True)]
        for at, values in made:
            found[at] = values
        kept.put((asked[at], values) for at, values in made)
        done += len(made)
        watch(done)

    scorer.score([questions[at] for at in new], told)
    return [
        np.zeros(len(question.options)) if one is None else np.array(one)
        for question, one in zip(questions, found, strict=True)
    ]


def _ranked(
    tokenizer: DecoderTokenizer,
    prompt: EncodedPrompt,
    question: OptionQuestion,
    sums: np.ndarray,
    bare: np.ndarray,
) -> OptionRanking:
    options, delimiter = prompt.right.options, tokenizer.rules.target_delimiter
    # A delimiter of words is said before the option, and is none of it.
    said = len(tokenizer.continuation(delimiter)) if delimiter.strip() else 0
    tokens = np.array([max(1, len(ids) - said) for ids in question.options])
    ways = {
        "per_token": sums / tokens,
        "per_char": sums / np.array([max(1, len(one)) for one in options]),
        "per_byte": sums / np.array([max(1, len(one.encode())) for one in options]),
        "unconditional": sums - bare,
    }
    return OptionRanking(
        tuple(sums.tolist()), int(sums.argmax()), {name: int(values.argmax()) for name, values in ways.items()}
    )
