"""Option scorers of every family."""

from __future__ import annotations

from metalm_cli.inference.language_model import LanguageModel
from metalm_cli.inference.scoring.option_scorer import Scorer
from metalm_cli.inference.scoring.pair_scorer import PairScorer


def scorer_of(language_model: LanguageModel, budget: int | None = None, share: bool = True) -> Scorer:
    """Return the option scorer of a model, by its family.

    Args:
        language_model: The model, in evaluation mode.
        budget: Positions of a forward pass, padding included; None: the best for a CPU, or the memory of a GPU.
        share: Read common prefixes of options and questions once; an encoder always reads a context once.
    """
    if language_model.decoder_tokenizer.reads_pairs:
        return PairScorer(language_model, budget, share)
    return Scorer(language_model, budget, share)
