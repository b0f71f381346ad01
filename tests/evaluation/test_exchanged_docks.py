"""Docks exchanged between examples: contents change places, everything else stays."""

from __future__ import annotations

import pytest

from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.exchanged_docks import exchange_docks
from metalm_cli.evaluation.request import EvaluationRequest
from metalm_cli.evaluation.results.comparison import incomparable_because
from metalm_cli.evaluation.results.result_reader import parse_result
from metalm_cli.evaluation.results.schema import ResultRecord
from metalm_cli.sessions import Causal, Docked, Session
from result_fixtures import result_record, shot_record, task_record, template_record
from task_folders import OPEN
from tiny_language_models import endless_language_model


def sessions_of(*contents: str) -> list[Session]:
    """Sessions with a demonstration, a picture and a text each."""
    return [
        Session(
            [
                Docked("text", "a demonstration"),
                Causal("yes"),
                Docked("vision", f"picture {content}"),
                Docked("text", f"question {content}"),
                Causal("Answer:"),
            ],
            content,
        )
        for content in contents
    ]


def docked(session: Session) -> list[str]:
    return [span.content for span in session if isinstance(span, Docked)]


@pytest.mark.parametrize("encoder", ["vision", "text", "all"])
def test_contents_change_places_and_the_rest_stays(encoder: str) -> None:
    sessions = sessions_of(*"abcdef")
    exchanged = exchange_docks(sessions, [3] * 6, encoder, seed=0)
    for before, after in zip(sessions, exchanged, strict=True):
        demonstration, picture, question = docked(after)
        assert demonstration == "a demonstration"
        assert (picture != docked(before)[1]) == (encoder != "text")
        assert (question != docked(before)[2]) == (encoder != "vision")
        if encoder == "all":
            assert picture[-1] == question[-1]
        assert [span for span in after if isinstance(span, Causal)] == [
            span for span in before if isinstance(span, Causal)
        ]
    for position in (1, 2):
        taken = sorted(docked(session)[position] for session in exchanged)
        assert taken == sorted(docked(session)[position] for session in sessions)
    assert exchanged == exchange_docks(sessions, [3] * 6, encoder, seed=0)
    assert exchanged != exchange_docks(sessions, [3] * 6, encoder, seed=1)


def test_no_session_takes_equal_contents() -> None:
    sessions = sessions_of(*"aaaabbc")
    for seed in range(10):
        exchanged = exchange_docks(sessions, [3] * 7, "vision", seed)
        assert all(docked(a)[1] != docked(b)[1] for a, b in zip(sessions, exchanged, strict=True))


@pytest.mark.parametrize("contents", ["a", "aaa"])
def test_docks_without_another_are_an_error(contents: str) -> None:
    with pytest.raises(MetalmError, match="cannot be exchanged"):
        exchange_docks(sessions_of(*contents), [3] * len(contents), "vision", seed=0)
    with pytest.raises(MetalmError, match="docks of 2 of 2 examples cannot be exchanged"):
        exchange_docks(sessions_of("a", "b"), [1, 1], "vision", seed=0)


def test_an_answer_to_exchanged_docks_is_that_of_the_other_example(task_folder) -> None:
    language_model = endless_language_model("gpt2", "text")
    task_folder.card("balls", **OPEN)
    (plain,) = task_folder.results(language_model, "balls")
    (result,) = task_folder.results(language_model, "balls", exchange_docks="text", seed=3)
    before, after = plain.template_results[0].samples, result.template_results[0].samples
    assert [sample.row for sample in before] == [sample.row for sample in after]
    assert [sample.target for sample in before] == [sample.target for sample in after]
    sessions = [Session([Docked("text", sample.input)]) for sample in before]
    donors = [session.spans[0].content for session in exchange_docks(sessions, [1] * len(sessions), "text", 3)]
    answers = {sample.input: sample.prediction for sample in before}
    assert [sample.prediction for sample in after] == [answers[content] for content in donors]
    assert len(set(answers.values())) > 2
    with pytest.raises(MetalmError, match="no docks of vision can be exchanged"):
        task_folder.results(language_model, "balls", exchange_docks="vision")


def test_demonstrations_keep_their_docks(task_folder) -> None:
    language_model = endless_language_model("gpt2", "text")
    task_folder.card("balls", **OPEN)
    options = {"shots": (2,), "exchange_docks": "all"}
    (frozen,) = task_folder.results(language_model, "balls", **options)
    (drawn,) = task_folder.results(language_model, "balls", draw_per_example=True, **options)
    assert len(frozen.template_results[0].samples) == len(drawn.template_results[0].samples) > 0


def test_files_are_comparable_if_they_are_of_one_model() -> None:
    def record(weights: str, exchanged: str = "") -> ResultRecord:
        content = result_record({"balls": task_record(shot_record(template_record([1.0, 0.0])))})
        content["model"] |= {"weights_sha256": weights}
        content["settings"] |= {"exchange_docks": exchanged} if exchanged else {}
        return parse_result(content, "a.json")

    own, exchanged, other = record("a"), record("a", "vision"), record("b", "vision")
    assert incomparable_because(own, exchanged, "balls", 0) == []
    assert incomparable_because(own, other, "balls", 0) == ["exchange_docks differs: none, vision"]
    assert incomparable_because(exchanged, other, "balls", 0) == []


def test_the_setting_is_in_the_name_of_the_file() -> None:
    assert EvaluationRequest(exchange_docks="vision").name_parts() == ("exchanged-vision",)
