"""Extraction of answers after rationales, and majority votes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.answers.chain_of_thought import extract_answer, find_answers, majority_vote
from metalm_cli.tasks import Example
from metalm_cli.templates import PromptStyle, Template, render

EXAMPLE = Example("sums", 0, {"question": "Two apples and five?"}, ("7",), (), None, "2 + 5 = 7.\nThat is all.", {})
TEMPLATE = Template(name="ask", input="{{ question }}", target="{{ answer }}")


def test_trained_answers_are_extracted() -> None:
    target = render(EXAMPLE, TEMPLATE, PromptStyle(rationale=True)).target
    assert target != "7"
    for delimiter in (" ", "", "\n", " Answer:"):
        assert extract_answer(delimiter + target, delimiter) == (EXAMPLE.rationale, "7")
    for answer in ("no", "It is. Or not.", "New York"):
        example = replace(EXAMPLE, answers=(answer,))
        assert extract_answer(render(example, TEMPLATE, PromptStyle(rationale=True)).target)[1] == answer


@pytest.mark.parametrize(
    ("text", "metric", "expected"),
    [
        ("No. The answer is 3\nWait. The answer is 4", "number", ("No. The answer is 3\nWait.", "4")),
        ("So the answer is: yes\nQuestion: next?", "accuracy", ("So", "yes")),
        ("THE ANSWER IS 1,200.", "number", ("", "1,200")),
        ("The answer is no.", "accuracy", ("", "no.")),
        ("First.\nThe answer is 5\nThe answer is", "accuracy", ("First.", "5")),
        ("First 3, then 4.\nThe answer is", "number", ("First 3, then 4.", "4")),
        ("First.\nSecond.\nThe answer is", "accuracy", ("First.", "Second.")),
        ("First.\n\nyes\n", "accuracy", ("First.", "yes")),
        ("yes", "accuracy", ("", "yes")),
        ("nothing to count", "number", ("nothing to count", "")),
        ("It costs $1,234.50 or so", "number", ("It costs $1,234.50 or so", "1234.50")),
        ("", "accuracy", ("", "")),
        ("The answer is", "accuracy", ("", "")),
        ("The answer isn't known", "accuracy", ("", "The answer isn't known")),
    ],
)
def test_answers_of_other_conclusions(text, metric, expected) -> None:
    assert extract_answer(text, " ", metric) == expected


def test_conclusions_are_found_in_lines() -> None:
    assert find_answers("The answer is a\nthe answer is   b  \n") == [(0, "a"), (16, "b")]
    assert find_answers("The answer is\nb") == []


@pytest.mark.parametrize(
    ("samples", "metric", "expected"),
    [
        (["a", "b", "b"], "accuracy", "b"),
        (["b", "a", "a", "b"], "accuracy", "b"),
        (["yes ", "no", "yes"], "accuracy", "yes "),
        (["Yes", "yes", "no", "no."], "accuracy", "Yes"),
        (["no", "The cat.", "a CAT"], "token_f1", "The cat."),
        (["8", "1,200 apples", "$1200.00"], "number", "1,200 apples"),
        (["none", "", "5", ""], "number", "5"),
        (["", "", "no"], "accuracy", "no"),
        (["", "none"], "number", ""),
        (["the", "a", "the"], "exact_match", "the"),
        (["5", "-5", "-5."], "exact_match", "-5"),
        (["-", "+", "+"], "exact_match", "+"),
        (["the", "a", "the"], "squad_em", "the"),
        (["5", "-5"], "squad_em", "5"),
        (["a cat", "cat", "the cat", "The cat."], "super_ni_em", "the cat"),
        (["x", "Spider Man", "spider-man"], "trivia_em", "Spider Man"),
        (["x", "12", "12.0"], "drop_em", "12"),
        (["x", "b; a", "a; b"], "s1", "b; a"),
        (["3.0", "3", "4"], "pearson", "3.0"),
    ],
)
def test_most_votes_win_and_the_first_of_equals(samples, metric, expected) -> None:
    assert majority_vote(samples, metric) == expected


def test_a_vote_without_samples_is_an_error() -> None:
    with pytest.raises(MetalmError, match="no samples"):
        majority_vote([], "accuracy")


def test_samples_of_a_model_are_voted_on_the_same_way_each_time() -> None:
    from metalm_cli.inference.batch_generation import sample_all
    from metalm_cli.sessions import Causal, Docked, Session
    from tiny_language_models import endless_language_model

    language_model = endless_language_model("gpt2", "text")
    sessions = [Session([Docked("text", "It rained.")]), Session([Causal("The girl had")])]
    votes = [
        [
            majority_vote([extract_answer(text)[1] for text in texts])
            for texts in sample_all(language_model, sessions, [3, 3], 6, 0.7, 1, size)
        ]
        for size in (1, 5)
    ]
    assert votes[0] == votes[1]
