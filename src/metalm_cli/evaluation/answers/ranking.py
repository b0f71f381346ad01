"""Ranking of answer options by log-probability (paper section 3.6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from metalm_cli.evaluation.answers.answer_cache import AnswerCache, AnswerKey
from metalm_cli.evaluation.answers.answer_tokens import ranking_notes, wrong_if_tied
from metalm_cli.evaluation.metrics import task_metrics
from metalm_cli.evaluation.prompts import EncodedPrompt
from metalm_cli.inference.scoring.option_scorer import OptionScores, Scorer
from metalm_cli.inference.scoring.question_rows import OptionQuestion, session_digest
from metalm_cli.sessions import DecoderTokenizer, TokenisedSession
from metalm_cli.tasks import Example
from metalm_cli.tasks.card import MetricName


@dataclass(frozen=True)
class OptionRanking:
    """Ranking of the options of an example.

    Args:
        log_likelihood: Log-probability of each option, in nats. ``[o]``
        best_option: Index of the option with the highest log-probability, the first of equals. If it has the same
            tokens as other options, a wrong one of them: the model cannot tell them apart.
        alternatives: Index of the best option by other scores: log-probability ``per_token``, ``per_char``
            (lm-evaluation-harness: ``acc_norm``) or ``per_byte`` (UTF-8) of the option, or ``unconditional``: minus
            the log-probability of the option without the input.
    """

    log_likelihood: tuple[float, ...]
    best_option: int
    alternatives: dict[str, int]


def rank(
    scorer: Scorer,
    prompts: Sequence[EncodedPrompt],
    names: Sequence[str],
    cache: AnswerCache,
    *,
    with_end_token: bool,
    on_progress: Callable[[int], None] = lambda done: None,
) -> tuple[list[OptionRanking], list[str]]:
    """Rank the options of examples.

    Args:
        scorer: Scorer of the model.
        prompts: Prompts of the examples.
        names: Name of each prompt in the cache.
        cache: Answers of earlier evaluations; new answers are saved after each forward pass.
        with_end_token: Include the end token in the log-probability of an option.
        on_progress: Called with the number of examples that are done.

    Returns:
        The ranking of each example, and notes on options whose ranking is not defined.
    """
    tokenizer = scorer.language_model.decoder_tokenizer
    questions = [
        OptionQuestion(prompt.prefix, option_ids(tokenizer, prompt, with_end_token), prompt.shared_prefix)
        for prompt in prompts
    ]
    method = "ranked, ended" if with_end_token else "ranked"
    scores = _option_scores(scorer, questions, names, method, cache, on_progress)
    # Options without the input are often the same for a whole task and are then scored once.
    distinct_options = {tuple(map(bytes, question.options)): question.options for question in questions}
    empty_prompt = unconditional_session(tokenizer)
    unconditional_scores = _option_scores(
        scorer,
        [
            OptionQuestion(empty_prompt, options, name="options without an input")
            for options in distinct_options.values()
        ],
        [f"{names[0] if names else ''} without an input"] * len(distinct_options),
        method,
        cache,
    )
    unconditional = dict(zip(distinct_options, unconditional_scores, strict=True))
    rankings = [
        _ranking(tokenizer, prompt, question, score, unconditional[tuple(map(bytes, question.options))])
        for prompt, question, score in zip(prompts, questions, scores, strict=True)
    ]
    option_tokens = [[ids.tolist() for ids in question.options] for question in questions]
    references = [prompt.reference for prompt in prompts]
    return rankings, ranking_notes(references, option_tokens, with_end_token=with_end_token)


def option_ids(tokenizer: DecoderTokenizer, prompt: EncodedPrompt, with_end_token: bool) -> tuple[np.ndarray, ...]:
    """Return the token ids of an example's options as continuations of its prompt."""
    delimiter, end = tokenizer.rules.target_delimiter, [tokenizer.document_end_id] if with_end_token else []
    return tuple(
        np.array([*tokenizer.encode_target(delimiter + option), *end], dtype=np.int64)
        for option in prompt.reference.options
    )


def unconditional_session(tokenizer: DecoderTokenizer) -> TokenisedSession:
    """Return a session without an input: what stands for no context (:meth:`DecoderTokenizer.empty_context`)."""
    ids = np.array(tokenizer.empty_context(), dtype=np.int64)
    return TokenisedSession(ids, np.zeros(len(ids), dtype=bool))


def _option_scores(
    scorer: Scorer,
    questions: Sequence[OptionQuestion],
    names: Sequence[str],
    method: str,
    cache: AnswerCache,
    on_progress: Callable[[int], None] = lambda done: None,
) -> list[np.ndarray]:
    keys = [
        AnswerKey(
            name,
            session_digest(question.prefix, question.options)
            + ("" if question.shared_prefix is None else session_digest(question.shared_prefix)),
            method,
        )
        for name, question in zip(names, questions, strict=True)
    ]
    log_likelihoods = [cache.get(key) for key in keys]
    missing = [index for index, values in enumerate(log_likelihoods) if values is None]
    done = len(questions) - len(missing)
    on_progress(done)

    def save_scores(positions: list[int], scores: list[OptionScores]) -> None:
        nonlocal done
        results = [
            (missing[position], score.log_likelihood.tolist())
            for position, score in zip(positions, scores, strict=True)
        ]
        for index, values in results:
            log_likelihoods[index] = values
        cache.put((keys[index], values) for index, values in results)
        done += len(results)
        on_progress(done)

    scorer.score([questions[index] for index in missing], save_scores)
    return [
        np.zeros(len(question.options)) if values is None else np.array(values)
        for question, values in zip(questions, log_likelihoods, strict=True)
    ]


def _ranking(
    tokenizer: DecoderTokenizer,
    prompt: EncodedPrompt,
    question: OptionQuestion,
    log_likelihoods: np.ndarray,
    unconditional: np.ndarray,
) -> OptionRanking:
    options, delimiter = prompt.reference.options, tokenizer.rules.target_delimiter
    # A delimiter with words precedes the option in its token ids but is not counted as part of it.
    delimiter_tokens = len(tokenizer.encode_continuation(delimiter)) if delimiter.strip() else 0
    token_counts = np.array([max(1, len(ids) - delimiter_tokens) for ids in question.options])
    alternatives = {
        "per_token": log_likelihoods / token_counts,
        "per_char": log_likelihoods / np.array([max(1, len(option)) for option in options]),
        "per_byte": log_likelihoods / np.array([max(1, len(option.encode())) for option in options]),
        "unconditional": log_likelihoods - unconditional,
    }

    def best_option(values: np.ndarray) -> int:
        best_ids = question.options[int(values.argmax())]
        tied = [option for option, ids in zip(options, question.options, strict=True) if np.array_equal(ids, best_ids)]
        return options.index(wrong_if_tied(tied, prompt.reference))

    return OptionRanking(
        tuple(log_likelihoods.tolist()),
        best_option(log_likelihoods),
        {name: best_option(values) for name, values in alternatives.items()},
    )


def scores_of_alternatives(
    metric: MetricName, rankings: Sequence[OptionRanking], references: Sequence[Example]
) -> dict[str, float]:
    """Return the score of a metric by each alternative score of the options; empty if there are no rankings."""
    scores = {}
    for name in rankings[0].alternatives if rankings else ():
        pairs = zip(references, rankings, strict=True)
        choices = [reference.options[ranking.alternatives[name]] for reference, ranking in pairs]
        scores[name] = task_metrics.metric_value(metric, choices, references).value
    return scores
