"""Protocols, demonstrations, kept answers and what was seen, beside what they are made of, computed by hand."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.answer_cache import AnswerCache, AnswerKey
from metalm_cli.evaluation.contamination import find_overlap, training_files
from metalm_cli.evaluation.evaluator import Evaluator, TemplateResult
from metalm_cli.evaluation.results import result_writer as written
from metalm_cli.inference.language_model import LanguageModel
from metalm_cli.models import weights_hash
from metalm_cli.provenance.model_history import ModelHistory, read_history
from metalm_cli.sessions import Causal, Session
from metalm_cli.tasks import Cards
from metalm_cli.templates import prompt_to_session, render
from task_folders import OPEN, ROWS, Desk
from tiny_language_models import interface_of, talker

CHOICE = {
    "answer": {"label": "label", "class_names": ["even", "odd"], "verbalizers": {"even": "not at all", "odd": "yes"}},
}


def by_hand(
    language_model: LanguageModel, task: Any, ended: bool, shots: int = 0, settings: Any = None
) -> list[list[float]]:
    """Log-probabilities of each example's options, one session each."""
    template, found = task.templates[0], []
    for example in task.examples:
        shown = [render(one, template) for one in task.demonstrations(example, shots, settings)] if shots else []
        asked = prompt_to_session(render(example, template), shown, answered=False)
        sums = []
        for option in example.options:
            answer = Causal(" " + option, trained=True, end=ended)
            sums.append(float(language_model.log_likelihood([Session([*asked, answer])])[0]))
        found.append(sums)
    return found


@pytest.mark.parametrize("encoders", [(), ("text",)], ids=["decoder", "docked"])
@pytest.mark.parametrize("protocol", ["in_context", "instruct"])
def test_options_are_ranked_with_and_without_their_end(desk: Desk, protocol: Any, encoders: tuple[str, ...]) -> None:
    language_model = talker("llama", *encoders)
    desk.card("odd", **CHOICE)
    tasks, _, settings = desk.open("odd", protocol=protocol)
    (result,) = Evaluator(language_model, settings).evaluate(tasks)
    (wording,) = result.wordings
    right = by_hand(language_model, tasks[0], protocol == "instruct")
    for sample, sums, example in zip(wording.samples, right, tasks[0].examples, strict=True):
        np.testing.assert_allclose(list(sample.log_likelihood.values()), sums, atol=1e-4)
        assert list(sample.log_likelihood) == ["not at all", "yes"]
        assert sample.prediction == example.options[int(np.argmax(sums))]
    hits = [np.argmax(sums) == one.label for sums, one in zip(right, tasks[0].examples, strict=True)]
    assert wording.score.value == pytest.approx(100 * np.mean(hits))
    chars = [np.argmax(np.array(one) / [10, 3]) for one in right]
    expected = 100 * np.mean([at == one.label for at, one in zip(chars, tasks[0].examples, strict=True)])
    assert wording.extra["per_char"] == wording.extra["per_byte"] == pytest.approx(expected)
    counts = [
        len(language_model.decoder_tokenizer.continuation(" " + one)) + (protocol == "instruct")
        for one in ("not at all", "yes")
    ]
    tokens = [np.argmax(np.array(one) / counts) for one in right]
    assert wording.extra["per_token"] == pytest.approx(
        100 * np.mean([at == one.label for at, one in zip(tokens, tasks[0].examples, strict=True)])
    )
    start = Causal((language_model.decoder_tokenizer.start_id,))
    bare = [
        float(language_model.log_likelihood([Session([start, Causal(tuple(ids), trained=True)])])[0])
        for ids in (
            [
                *language_model.decoder_tokenizer.continuation(" " + one),
                *([language_model.decoder_tokenizer.document_id] if protocol == "instruct" else []),
            ]
            for one in ("not at all", "yes")
        )
    ]
    relative = [np.argmax(np.array(one) - bare) for one in right]
    assert wording.extra["unconditional"] == pytest.approx(
        100 * np.mean([at == one.label for at, one in zip(relative, tasks[0].examples, strict=True)])
    )


@pytest.mark.parametrize("layout", ["docks", "joined"])
@pytest.mark.parametrize("drawn", [False, True], ids=["frozen", "drawn"])
def test_demonstrations_stand_in_front(desk: Desk, drawn: bool, layout: Any) -> None:
    from metalm_cli.templates import PromptStyle

    language_model = interface_of("gpt2", "text") if layout == "docks" else interface_of("gpt2")
    desk.card("odd", **CHOICE)
    tasks, _, settings = desk.open(
        "odd", protocol="in_context", shots=(0, 1, 3), drawn=drawn, style=PromptStyle(layout=layout)
    )
    (result,) = Evaluator(language_model, settings).evaluate(tasks)
    assert [one.shots for one in result.settings] == [0, 1, 3]
    task = tasks[0]
    for setting in result.settings:
        template = task.templates[0]
        (wording,) = setting.wordings
        assert not wording.note
        for sample, example in zip(wording.samples, task.examples, strict=True):
            shown = task.demonstrations(example, setting.shots, settings)
            assert example.row not in [one.row for one in shown]
            asked = prompt_to_session(
                render(example, template),
                [render(one, template) for one in shown],
                style=settings.style,
                answered=False,
            )
            sums = [
                float(language_model.log_likelihood([Session([*asked, Causal(" " + one, trained=True)])])[0])
                for one in example.options
            ]
            np.testing.assert_allclose(list(sample.log_likelihood.values()), sums, atol=1e-4)
    rows = [tuple(one.row for one in task.demonstrations(example, 3, settings)) for example in task.examples]
    once = [tuple(one.row for one in task.demonstrations(example, 1, settings)) for example in task.examples]
    assert [one[:1] for one in rows] == once
    most = Counter(rows).most_common(1)[0][1]
    assert most <= 4 if drawn else most > 6
    assert desk.open("odd", shots=(3,), seed=1)[0][0].demonstrations(task.examples[0], 3, settings) != rows[0]


def test_demonstrations_that_do_not_fit_are_said_and_nothing_is_cut_for_them(desk: Desk) -> None:
    language_model = interface_of("gpt2", "text", n_positions=200)
    desk.card("odd", **CHOICE, long_inputs={"field": "text"})
    tasks, _, settings = desk.open("odd", protocol="in_context", shots=(0, 1, 9), length=150)
    (result,) = Evaluator(language_model, settings).evaluate(tasks)
    none, one, nine = result.settings
    assert (none.value is not None, one.value is not None, nine.value) == (True, True, None)
    assert [one.wordings[0].cut for one in result.settings] == [0, 0, 0]
    assert nine.wordings[0].skipped == 12
    found = nine.wordings[0].note
    assert found.startswith("9 demonstrations do not fit into ")
    fits = int(found.split("at most ")[1].split()[0])
    _, _, again = desk.open("odd", protocol="in_context", shots=(fits, fits + 1), length=150)
    (more,) = Evaluator(language_model, again).evaluate(tasks)
    assert more.settings[0].value is not None
    assert more.settings[1].value is None
    made = written.result_record({}, again, [more], {}, seen={})
    assert made["tasks"]["odd"]["settings"][1]["templates"][0]["note"]
    json.dumps(made, allow_nan=False)


def test_only_examples_that_fit_beside_their_demonstrations_are_scored(desk: Desk) -> None:
    language_model = interface_of("gpt2", "text", n_positions=200)
    rows = [{**row, "text": row["text"] + " It rained." * (3 * (n % 4 == 0))} for n, row in enumerate(ROWS)]
    desk.card("odd", rows, **CHOICE, long_inputs={"field": "text"})
    tasks, _, settings = desk.open("odd", protocol="in_context", shots=(0, 1), length=120)
    (result,) = Evaluator(language_model, settings).evaluate(tasks)
    whole, shown = (one.wordings[0] for one in result.settings)
    assert (whole.score.n, whole.skipped, whole.note) == (12, 0, "")
    assert 0 < shown.score.n < 12
    assert shown.skipped == 12 - shown.score.n
    assert shown.note == f"1 demonstration does not fit beside {shown.skipped} of 12 examples, which are in no score"
    inputs = {one.row: one.input for one in whole.samples}
    assert all(one.input == inputs[one.row] for one in shown.samples)


def test_more_demonstrations_than_rows(desk: Desk) -> None:
    desk.card("odd", **CHOICE)
    with pytest.raises(MetalmError, match="99 demonstrations of odd are asked for, there are 11"):
        desk.open("odd", shots=(0, 99))


def test_options_that_are_all_the_same(desk: Desk) -> None:
    desk.card("odd", answer={"options": "['so', 'so']", "index": "0"})
    with pytest.raises(MetalmError, match="all options of odd row 0 are the same"):
        desk.open("odd")


def test_open_tasks_are_said_by_every_protocol(desk: Desk) -> None:
    language_model = talker("gpt2", "text")
    desk.card("balls", **OPEN)
    said = [desk.results(language_model, "balls", protocol=one, limit=3)[0] for one in ("finetuned", "in_context")]
    texts = [[sample.prediction for sample in one.wordings[0].samples] for one in said]
    assert texts[0] == texts[1]
    assert said[1].wordings[0].samples[0].log_likelihood is None


def test_normalised_answers_are_compared_without_case_and_articles(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    from metalm_cli.evaluation import evaluator as protocol

    monkeypatch.setattr(
        protocol, "generate_all", lambda language_model, sessions, *a, **k: [" The Yes!"] * len(sessions)
    )
    desk.card("odd")
    strict, loose = (desk.results(talker("gpt2", "text"), "odd", normalise=one)[0] for one in (False, True))
    assert (strict.settings[0].value, loose.settings[0].value) == (0.0, 50.0)


REASONED = {**CHOICE, "answer": {**CHOICE["answer"], "rationale": "why"}}
REASONS = [{**row, "why": "It is a number."} for row in ROWS]


@pytest.mark.parametrize("protocol", ["finetuned", "in_context", "instruct"])
def test_a_rationale_is_said_before_the_answer_where_a_card_has_some(
    desk: Desk, monkeypatch: Any, protocol: Any
) -> None:
    from metalm_cli.evaluation import evaluator as evaluating
    from metalm_cli.templates import PromptStyle

    def saying(language_model: Any, sessions: Any, limits: Any, **_options: Any) -> list[str]:
        asked.append(max(limits))
        return [f" It has {n} balls, which is odd.\nThe answer is yes" for n in range(len(sessions))]

    asked: list[int] = []
    monkeypatch.setattr(evaluating, "generate_all", saying)
    desk.card("why", REASONS, **REASONED)
    desk.card("plain", **CHOICE)
    found = desk.results(
        interface_of("gpt2", n_positions=512), "why", "plain", protocol=protocol, style=PromptStyle(rationale=True)
    )
    by_name = {one.task.card.name: one.wordings[0] for one in found}
    assert {one.prediction for one in by_name["why"].samples} == {"yes"}
    assert by_name["why"].score.value == 50.0
    assert asked[0] > 100
    if protocol == "finetuned":
        assert asked[1] < 10
    else:
        assert by_name["plain"].samples[0].log_likelihood is not None
        assert len(asked) == 1


@pytest.mark.parametrize("protocol", ["finetuned", "in_context"])
def test_of_several_samples_the_most_frequent_answer_counts(desk: Desk, monkeypatch: Any, protocol: Any) -> None:
    from metalm_cli.evaluation import evaluator as evaluating

    def saying(language_model: Any, sessions: Any, limits: Any, count: int, **options: Any) -> list[list[str]]:
        told.append((count, options["temperature"], options["seed"], options["keys"]))
        return [[" not at all", " yes", " yes"]] * len(sessions)

    told: list[Any] = []
    monkeypatch.setattr(evaluating, "sample_all", saying)
    desk.card("odd", **CHOICE)
    (result,) = desk.results(
        interface_of("gpt2"), "odd", protocol=protocol, samples=3, temperature=0.5, seed=7, limit=4
    )
    (wording,) = result.wordings
    assert [one.prediction for one in wording.samples] == ["yes"] * 4
    ((count, temperature, seed, keys),) = told
    assert (count, temperature, seed, sorted(keys)) == (3, 0.5, 7, [one.row for one in wording.samples])


def test_samples_depend_on_their_seed_alone(desk: Desk) -> None:
    desk.card("balls", **OPEN)
    language_model = talker("gpt2", "text")
    first, second, other = (
        [
            one.prediction
            for one in desk.results(language_model, "balls", samples=2, temperature=2.0, seed=seed, batch_size=size)[0]
            .wordings[0]
            .samples
        ]
        for seed, size in ((1, 16), (1, 5), (2, 16))
    )
    assert first == second
    assert first != other


def test_the_papers_five_templates(desk: Desk) -> None:
    desk.card("odd", **CHOICE)
    (result,) = desk.results(interface_of("gpt2", "text"), "odd", protocol="instruct", template="paper")
    (setting,) = result.settings
    values = [one.score.value for one in setting.wordings]
    assert len(values) == 3  # all that this collection has
    assert setting.value == pytest.approx(np.mean(values))
    assert setting.spread == pytest.approx(np.std(values, ddof=1))
    assert setting.oracle.score.value == max(values)


# -- kept answers ------------------------------------------------------------------------------------------------------


def asked_of(
    language_model: LanguageModel, desk: Desk, folder: Any, **changes: Any
) -> tuple[list[TemplateResult], AnswerCache]:
    tasks, _, settings = desk.open("odd", "balls", **changes)
    kept = AnswerCache(folder / "answers.sqlite", weights_hash.weights_sha256(language_model.model))
    try:
        found = list(Evaluator(language_model, settings, kept).evaluate(tasks))
    finally:
        kept.close()
    return [one for result in found for one in result.wordings], kept


@pytest.mark.parametrize("protocol", ["in_context", "finetuned"])
def test_kept_answers_are_not_asked_again(desk: Desk, tmp_path: Any, monkeypatch: Any, protocol: Any) -> None:
    language_model = talker("gpt2", "text")
    desk.card("odd", **CHOICE)
    desk.card("balls", **OPEN)
    first, kept = asked_of(language_model, desk, tmp_path, protocol=protocol, limit=8)
    assert kept.found == 0
    assert set(kept.missed) == {"not asked before"}

    def broken(*_arguments: Any, **_options: Any) -> Any:
        raise AssertionError("the model was asked")

    calls: list[int] = []
    forward = language_model.model.decoder.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        second, kept = asked_of(language_model, desk, tmp_path, protocol=protocol, limit=8)
        measured = len(calls)  # what is measured of the decoder, and nothing else
        assert not kept.missed
        assert [one.samples for one in second] == [one.samples for one in first]
        more, kept = asked_of(language_model, desk, tmp_path, protocol=protocol, limit=10)
        assert sum(kept.missed.values()) == 4
        assert kept.found == 16 + (protocol == "in_context")
        assert len(calls) - measured > measured
    finally:
        forward.remove()
    assert [one.score.n for one in more] == [10, 10]


def test_an_interrupted_evaluation_goes_on_from_what_it_had(desk: Desk, tmp_path: Any, monkeypatch: Any) -> None:
    from metalm_cli.inference.scoring import option_scorer

    language_model = interface_of("gpt2", "text")
    desk.card("odd", **CHOICE)
    desk.card("balls", **OPEN)
    whole, _ = asked_of(language_model, desk, tmp_path / "whole", protocol="in_context")
    monkeypatch.setattr(option_scorer, "CPU_BUDGET", 200)
    real, passes = option_scorer.Scorer._run, []

    def dying(self: Any, *rest: Any) -> None:
        passes.append(1)
        if len(passes) == 3:
            raise KeyboardInterrupt
        real(self, *rest)

    monkeypatch.setattr(option_scorer.Scorer, "_run", dying)
    with pytest.raises(KeyboardInterrupt):
        asked_of(language_model, desk, tmp_path / "torn", protocol="in_context")
    monkeypatch.setattr(option_scorer.Scorer, "_run", real)
    again, kept = asked_of(language_model, desk, tmp_path / "torn", protocol="in_context")
    assert 0 < kept.found < 12
    assert [[one.prediction for one in part.samples] for part in again] == [
        [one.prediction for one in part.samples] for part in whole
    ]


def test_why_an_answer_is_missing(tmp_path: Any) -> None:
    path = tmp_path / "answers.sqlite"
    one = AnswerKey("rte row 1", "text", "ranked")
    kept = AnswerCache(path, "weights")
    kept.put([(one, [1.5, -2.0])])
    kept.close()
    for asked, model, reason in [
        (one, "weights", None),
        (one, "other", "asked of other weights"),
        (AnswerKey("rte row 1", "text", "said"), "weights", "asked in another way"),
        (AnswerKey("rte row 1", "texts", "ranked"), "weights", "its text has changed"),
        (AnswerKey("rte row 2", "texts", "ranked"), "weights", "not asked before"),
    ]:
        kept = AnswerCache(path, model)
        assert kept.get(asked) == ([1.5, -2.0] if reason is None else None)
        assert dict(kept.missed) == ({} if reason is None else {reason: 1})
        kept.close()
    damaged = tmp_path / "damaged.sqlite"
    damaged.write_bytes(b"not a data base" * 100)
    with pytest.raises(MetalmError, match="answers cannot be kept"):
        AnswerCache(damaged, "weights")


# -- what was seen -----------------------------------------------------------------------------------------------------


def test_what_a_model_has_seen(tmp_path: Any) -> None:
    cards = Cards()
    base = {"command": "pretrain", "tasks": [], "ancestors": []}
    lineage = {
        "command": "instruct",
        "tasks": ["squad", "sst2"],
        "ancestors": [{"checkpoint": "base", "lineage": base}],
    }
    (tmp_path / "model").mkdir()
    path = tmp_path / "model" / "lineage.json"
    path.write_text(json.dumps(lineage))
    past = read_history(tmp_path, "run")
    assert past.command == "instruct"
    known = {name: cards[name] for name in past.tasks}
    labels = {name: past.of(cards[name], known).label for name in ("sst2", "qnli", "squad_v2", "rte")}
    assert labels == {"sst2": "seen", "qnli": "leak partner", "squad_v2": "leak partner", "rte": "held out"}
    assert "squad" in past.of(cards["qnli"], known).why
    path.write_text(json.dumps({**lineage, "ancestors": [{"checkpoint": "hub/base", "lineage": None}]}))
    past = read_history(tmp_path, "run")
    assert past.of(cards["rte"], known).label == "unknown"
    assert "hub/base" in past.of(cards["rte"], known).why
    assert past.of(cards["sst2"], known).label == "seen"
    assert read_history(None, "hub/model").of(cards["rte"], {}).label == "unknown"
    path.write_text("{torn")
    assert read_history(tmp_path, "run").of(cards["rte"], {}).label == "unknown"
    assert ModelHistory({"mine": "run"}, ()).of(cards["rte"], {}).label == "unknown"


def test_how_tasks_were_worded_is_read_from_the_lineage_as_far_as_it_is_sound(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for told, expected in [
        (None, {}),
        (
            {"collection": "t5", "route": "decoder", "options": False},
            {"collection": "t5", "route": "decoder", "options": False},
        ),
        (
            {"collection": str(own), "layout": "joined", "windows": True},
            {"collection": str(own), "layout": "joined", "windows": True},
        ),
        ({"collection": "gone", "route": "both", "rationale": "yes", "layout": [], "more": 1}, {}),
    ]:
        lineage = {"command": "finetune", "tasks": [], "ancestors": [], "templates": told}
        (tmp_path / "lineage.json").write_text(json.dumps(lineage))
        assert read_history(tmp_path, "run").worded == expected


def test_rows_that_stand_in_training_data(desk: Desk, tmp_path: Any) -> None:
    told = "{} she went to the old market to buy bread and apples for {} people"
    words = [told.format(word, n) for n, word in enumerate("abcd")]
    desk.card("long", [{"text": text, "label": 0, "say": "x"} for text in words])
    desk.card("odd")
    tasks, _, _ = desk.open("long", "odd")
    data = tmp_path / "train"
    data.mkdir()
    (data / "a.jsonl").write_text(json.dumps({"text": f"Once, {words[2].upper()}!"}) + "\n")
    (data / "b.jsonl").write_text(json.dumps({"nested": [{"deep": words[0]}]}) + "\n")
    found = find_overlap(tasks, training_files([data]))
    assert found["tasks"] == {"long": {"rows": [0, 2], "of": 4}, "odd": {"rows": [], "of": 12}}
    with pytest.raises(MetalmError, match="no training data to compare with"):
        training_files([tmp_path / "nowhere"])


def test_intervals_stand_around_their_scores(desk: Desk) -> None:
    desk.card("odd", **CHOICE)
    (result,) = desk.results(interface_of("gpt2", "text"), "odd", protocol="in_context", template="all")
    made = written.task_record(result)
    for one in [*made["settings"], *made["settings"][0]["templates"]]:
        low, high = one["interval"]
        assert low <= one["score"] <= high
        assert math.isfinite(one["error"])
    each = made["settings"][0]["templates"][0]["each"]
    assert each["row"] == list(range(12))
    assert set(each["value"]) <= {0.0, 1.0}
