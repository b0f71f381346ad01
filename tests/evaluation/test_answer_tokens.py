"""Options that have the same tokens, and answers that the tokenizer of a model cannot spell."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from tokenizers import normalizers

from metalm_cli.evaluation.answers.answer_tokens import AnswerTokens
from metalm_cli.evaluation.evaluator import TemplateResult
from metalm_cli.inference.language_model import LanguageModel
from metalm_cli.sessions import DecoderTokenizer
from metalm_cli.tasks import Example
from task_folders import TaskFolder
from tiny_language_models import reciting_language_model, tiny_language_model

LOWER_CASE = normalizers.Lowercase()
WITHOUT_CHINESE = normalizers.Sequence([normalizers.Replace(character, "") for character in "阴阳性"])
COMPOSED = normalizers.NFC()


def with_normalizer(language_model: LanguageModel, normalizer: Any) -> LanguageModel:
    tokenizer = copy.deepcopy(language_model.tokenizer)
    tokenizer.backend_tokenizer.normalizer = normalizer
    rules = language_model.decoder_tokenizer.rules
    return LanguageModel(language_model.model, DecoderTokenizer(tokenizer, rules), language_model.processors)


def choice_rows(options: list[str], right: int, count: int = 6) -> list[dict[str, Any]]:
    return [{"text": f"Question {row}?", "options": options, "index": right} for row in range(count)]


OWN_OPTIONS = {"answer": {"options": "options", "index": "index"}}


def scored(
    task_folder: TaskFolder, language_model: LanguageModel, protocol: Any, rows: list[dict[str, Any]], **card: Any
) -> TemplateResult:
    task_folder.card("choices", rows, **{**OWN_OPTIONS, **card})
    (result,) = task_folder.results(language_model, "choices", protocol=protocol, template="count")
    return result.template_results[0]


@pytest.mark.parametrize("protocol", ["finetuned", "in_context", "instruct"])
@pytest.mark.parametrize("right", [0, 1])
def test_options_of_the_same_tokens_are_never_right(task_folder: TaskFolder, protocol: Any, right: int) -> None:
    language_model = with_normalizer(tiny_language_model("gpt2"), WITHOUT_CHINESE)
    result = scored(task_folder, language_model, protocol, choice_rows(["阳性", "阴性"], right))
    assert result.score.value == 0.0
    assert "6 of 6 examples have options that are the same tokens, such as '阳性' and '阴性'" in result.warnings[0]
    assert set(result.extra.values()) <= {0.0}


@pytest.mark.parametrize("protocol", ["in_context", "instruct"])
def test_a_third_option_is_ranked_among_options_of_the_same_tokens(task_folder: TaskFolder, protocol: Any) -> None:
    """Options of the same text are one option."""
    model = with_normalizer(tiny_language_model("gpt2"), LOWER_CASE)
    rows = [*choice_rows(["yes", "no", "No"], 0, 4), *choice_rows(["yes", "no", "no"], 2, 4)]
    result = scored(task_folder, model, protocol, rows)
    assert "4 of 8 examples have options that are the same tokens, such as 'no' and 'No'" in result.warnings[0]
    best = [max(sample.log_likelihood, key=sample.log_likelihood.get) for sample in result.samples]
    for sample, option in zip(result.samples, best, strict=True):
        assert sample.score == (option == sample.target)


@pytest.mark.parametrize(("protocol", "count"), [("in_context", 1), ("instruct", 0), ("finetuned", 0)])
def test_options_that_begin_with_another_option_are_counted(task_folder: TaskFolder, protocol: Any, count: int) -> None:
    rows = [*choice_rows(["no", "no way"], 1, 3), *choice_rows(["no", "no way"], 0, 2), *choice_rows(["yes", "no"], 0)]
    result = scored(task_folder, tiny_language_model("gpt2"), protocol, rows)
    assert len([note for note in result.warnings if "are among the options" not in note]) == count
    if count:
        assert "5 of 11 examples have options that begin with the tokens of another option" in result.warnings[0]
        assert "such as 'no way' with those of 'no'" in result.warnings[0]
        assert result.warnings[0].endswith("and in 3 examples such an option is the right one")


WORDS = {"label": "label", "class_names": ["even", "odd"], "verbalizers": {"even": "No", "odd": "Yes"}}


def test_an_answer_is_compared_with_its_decoded_tokens(task_folder: TaskFolder) -> None:
    language_model = with_normalizer(reciting_language_model(" yes"), LOWER_CASE)
    task_folder.card("odd", answer=WORDS)
    (result,) = task_folder.results(language_model, "odd", protocol="finetuned")
    template_result = result.template_results[0]
    assert {sample.prediction for sample in template_result.samples} == {"Yes"}
    assert template_result.score.value == 50.0
    assert template_result.warnings == (
        "12 of 12 right answers cannot be spelled by the model's tokenizer, such as 'No', which becomes 'no'; the text "
        "that they become counts as right",
    )


@pytest.mark.parametrize(
    ("normalizer", "answer", "decoded"),
    [
        (LOWER_CASE, "Lily", "lily"),
        (COMPOSED, "cafe\u0301", "caf\u00e9"),
        (normalizers.Replace("  ", " "), "a  dog", "a dog"),
        (WITHOUT_CHINESE, "阳性", ""),
    ],
    ids=["lower case", "composed", "spaces", "dropped"],
)
def test_open_answers_that_cannot_be_spelled(normalizer: Any, answer: str, decoded: str) -> None:
    model = with_normalizer(tiny_language_model("gpt2"), normalizer)
    tokens = AnswerTokens(model.decoder_tokenizer)
    assert tokens.generated_text(answer) == decoded
    reference = Example("task", 0, {}, (answer, "other"))
    assert tokens.resolve(decoded, reference) == (answer if decoded else ""), "silence is no answer"
    assert tokens.resolve("other", reference) == "other"
    assert tokens.resolve("something else", reference) == "something else"


@pytest.mark.parametrize("protocol", ["finetuned", "in_context", "instruct"])
@pytest.mark.parametrize("word", ["no ", " no", "no\n", "no"])
def test_spaces_around_words_change_nothing(task_folder: TaskFolder, protocol: Any, word: str) -> None:
    words = {**WORDS, "verbalizers": {"even": word, "odd": "yes"}}
    task_folder.card("spaced", answer=words)
    task_folder.card("clean", answer={**words, "verbalizers": {"even": "no", "odd": "yes"}})
    language_model = tiny_language_model("gpt2")
    spaced, clean = (
        result.template_results[0].samples
        for result in task_folder.results(language_model, "spaced", "clean", protocol=protocol)
    )
    assert spaced == clean
