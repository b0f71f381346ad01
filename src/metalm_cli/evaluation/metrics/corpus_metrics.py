"""BLEU and chrF of a split, by sacrebleu, from counts by sentence."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import numpy as np

from metalm_cli.common.languages import LANGUAGES_WITHOUT_SPACES, guess_language, language_code


def bleu_tokenizer(language: str, references: Sequence[str]) -> str:
    """Return sacrebleu's tokenizer for a language: zh, char for other languages without spaces, else 13a.

    Cards are in English unless they state a language; texts that are not in Latin letters are not English.
    """
    code = language_code(language)
    code = (guess_language(references) or code) if code == "en" else code
    return "zh" if code == "zh" else "char" if code in LANGUAGES_WITHOUT_SPACES else "13a"


def sentence_score(metric: str, text: str, references: Sequence[str], language: str) -> float:
    """Return the score of one text, 0 to 1."""
    scorer = _sacrebleu(metric, bleu_tokenizer(language, references))
    return float(scorer.sentence_score(text, list(references)).score) / 100


def counts_by_sentence(
    metric: str, texts: Sequence[str], references: Sequence[Sequence[str]], language: str
) -> list[Any]:
    """Return sacrebleu's counts for each text, from which the score of any sample of them is computed. ``[n, k]``"""
    streams = [
        [answers[index] if index < len(answers) else None for answers in references]
        for index in range(max(map(len, references)))
    ]
    tokenizer = bleu_tokenizer(language, [answers[0] for answers in references])
    statistics: list[Any] = _sacrebleu(metric, tokenizer)._extract_corpus_statistics(list(texts), streams)
    return statistics


def score_of_counts(counts: np.ndarray, references: np.ndarray, metric: str) -> np.ndarray:
    """Return BLEU or chrF, 0 to 1, from counts by sentence ``[..., n, k]``; the references are in the counts."""
    sums = counts.sum(axis=-2)
    scorer = _sacrebleu(metric, "13a")
    scores = [
        scorer._compute_score_from_stats(statistics).score / 100
        for statistics in sums.reshape(-1, sums.shape[-1]).tolist()
    ]
    return np.array(scores).reshape(sums.shape[:-1])


bleu = partial(score_of_counts, metric="bleu")
chrf = partial(score_of_counts, metric="chrf")


@cache
def _sacrebleu(metric: str, tokenizer: str) -> Any:
    """Return a scorer; BLEU uses the orders that the texts have, so that a split of short texts has a score."""
    from sacrebleu.metrics import BLEU, CHRF

    return BLEU(tokenize=tokenizer, effective_order=True, force=True) if metric == "bleu" else CHRF()
