"""A model that always gives the reference answer scores 100 on every shipped task, or a message names what forbids it.

The model is replaced at its narrowest interface: the log-probabilities of options, and the generated tokens.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metalm_cli.data.examples.open_examples import is_available
from metalm_cli.evaluation.answers import generated_answers
from metalm_cli.evaluation.evaluator import Evaluator
from metalm_cli.evaluation.open_tasks import EvaluatedTask, open_evaluation_tasks
from metalm_cli.evaluation.settings import EvaluationSettings
from metalm_cli.inference.language_model import LanguageModel
from metalm_cli.inference.scoring.option_scorer import OptionScores, Scorer
from metalm_cli.tasks import Cards
from metalm_cli.tasks.derived_card import default_split
from metalm_cli.templates import PromptStyle
from tiny_language_models import tiny_language_model

ROWS_PER_TASK = 12
UNLIKELY = -1000.0


class Oracle:
    """Model that gives all probability to the tokens of the reference answer and the end token.

    Args:
        language_model: Model whose tokenizer is used.
        targets: Reference answer of each session, by the name of the session.
    """

    def __init__(self, language_model: LanguageModel, targets: dict[str, str]) -> None:
        self.tokenizer, self.targets = language_model.decoder_tokenizer, targets

    def ids(self, session: Any) -> list[int]:
        return [*self.tokenizer.encode_continuation(" " + self.targets[session.name]), self.tokenizer.document_end_id]

    def score(self, questions: Sequence[Any], on_scored: Any = lambda numbers, scores: None) -> list[OptionScores]:
        """Score options as :meth:`Scorer.score` does; options without an input are equally likely."""
        results = []
        for question in questions:
            log_likelihoods = [0.0] * len(question.options)
            if question.prefix.name in self.targets:
                right = self.ids(question.prefix)
                log_likelihoods = [
                    0.0 if right[: len(option)] == option.tolist() else UNLIKELY * len(option)
                    for option in question.options
                ]
            sizes = np.array([len(option) for option in question.options])
            results.append(OptionScores(np.array(log_likelihoods), sizes, sizes > 0))
        on_scored(list(range(len(questions))), results)
        return results

    def generate_all(
        self, language_model: LanguageModel, sessions: Sequence[Any], limits: Sequence[int], *, on_cut: Any, **_: Any
    ) -> list[str]:
        """Generate texts as :func:`generate_all` does."""
        texts = []
        for index, (session, limit) in enumerate(zip(sessions, limits, strict=True)):
            ids = self.ids(session)
            if limit < len(ids):
                on_cut(index)
            texts.append(language_model.decode(ids[:limit]))
        return texts


def session_targets(tasks: Sequence[EvaluatedTask], style: PromptStyle) -> dict[str, str]:
    prompts = (
        task.renderer(template, style)(example)
        for task in tasks
        for template in task.templates
        for example in task.examples
    )
    return {prompt.name: prompt.target for prompt in prompts}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def open_shipped_tasks(settings: EvaluationSettings, cache: Path, *, with_rationales: bool) -> list[EvaluatedTask]:
    """Open every shipped task of the miniature world, and those with data below METALM_DATA: a few seconds."""
    cards, folder = Cards(), os.environ.get("METALM_DATA")
    data_root = Path(folder) if folder else None
    selected = [
        card
        for card in cards.all()
        if not card.images
        and is_available(card, default_split(card), data_root, cards.paths[card.name])
        and (not with_rationales or card.answer.rationale is not None)
    ]
    tasks, missing = open_evaluation_tasks(cards, selected, settings, data_root=data_root, offline=True, cache=cache)
    assert not missing
    return tasks


def not_right(results: Iterator[Any]) -> list[str]:
    """Describe the scores below 100 that no message explains."""
    return [
        f"{result.task.card.name}, {template.template}: {template.score.metric} {template.score.value:.2f}"
        for result in results
        for template in result.template_results
        if template.score.value < 99.999 and not template.warnings and not template.at_limit
    ]


@pytest.mark.parametrize("rationale", [False, True], ids=["answers", "rationales"])
@pytest.mark.parametrize("protocol", ["finetuned", "in_context", "instruct"])
def test_the_reference_answer_scores_100(
    cache: Path, monkeypatch: pytest.MonkeyPatch, protocol: Any, rationale: bool
) -> None:
    style = PromptStyle(rationale=rationale)
    settings = EvaluationSettings(protocol=protocol, limit=ROWS_PER_TASK, style=style)
    tasks = open_shipped_tasks(settings, cache, with_rationales=rationale)
    if not tasks:
        pytest.skip("METALM_DATA has no task with rationales")
    language_model = tiny_language_model("gpt2", n_positions=8192)
    oracle = Oracle(language_model, session_targets(tasks, style))
    monkeypatch.setattr(Scorer, "score", lambda scorer, *arguments: oracle.score(*arguments))
    monkeypatch.setattr(generated_answers, "generate_all", oracle.generate_all)
    assert not_right(Evaluator(language_model, settings).evaluate(tasks)) == []
