"""The ``finetuned`` protocol on small files of rows: what is asked, how it is decoded, cut, scored and averaged."""

from __future__ import annotations

import json
from typing import Any

import pytest

from metalm_cli.data.examples.truncation import EncoderLimit
from metalm_cli.errors import MetalmError
from metalm_cli.evaluation import evaluator as protocol
from metalm_cli.evaluation.results import result_writer as written
from metalm_cli.evaluation.settings import EvaluationSettings
from metalm_cli.models import weights_hash
from metalm_cli.sessions import Causal, Docked, Session
from task_folders import OPEN, ROWS
from tiny_language_models import talker


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Instead of the model, a parrot: it says ``yes`` of every session; and what it was asked."""
    calls: list[dict[str, Any]] = []

    def parrot(language_model, sessions, limits, **options):
        calls.append({"sessions": sessions, "limits": limits, **options})
        return [" yes"] * len(sessions)

    monkeypatch.setattr(protocol, "generate_all", parrot)
    return calls


def test_answers_are_what_the_model_says_and_are_scored(desk) -> None:
    language_model = talker("gpt2", "text")
    desk.card("balls", **OPEN)
    (result,) = desk.results(language_model, "balls", batch_size=5)
    (wording,) = result.wordings
    for sample, row in zip(wording.samples, ROWS, strict=True):
        assert sample.input == f"{row['text']}\nIs it odd?"
        assert sample.target == row["say"]
        (alone,) = language_model.generate([Session([Docked("text", sample.input)])], 32)
        assert sample.prediction == alone.strip() != ""
    assert wording.score.value == pytest.approx(100 * sum(one.score for one in wording.samples) / 12)
    assert (wording.score.n, wording.cut, wording.skipped) == (12, 0, 0)
    assert wording.seconds > 0


def test_choices_are_greedy_and_as_long_as_the_longest_option(desk, said) -> None:
    language_model = talker("gpt2", "text")
    desk.card("odd")
    (result,) = desk.results(language_model, "odd")
    assert result.settings[0].value == 50.0
    assert result.wordings[0].chance.majority == 50.0
    (call,) = said
    tokens = max(len(language_model.decoder_tokenizer.continuation(" " + word)) for word in ("yes", "no"))
    assert call["limits"] == [tokens + 2] * 12
    assert "num_beams" not in call
    assert call["repetition_penalty"] == 1.0
    first = Docked("text", "The girl had 0 red balls and a dog.\nIs it odd?\nOPTIONS:\n- no\n- yes")
    right = language_model.tokenise(Session([first])).docks[0][1].key
    assert right in [one.docks[0][1].key for one in call["sessions"]]


@pytest.mark.parametrize(
    ("cluster", "tokens", "beams"), [("struct_to_text", 64, 4), ("summarization", 128, 4), ("reading", 32, None)]
)
def test_what_is_written_freely_is_decoded_with_beams(desk, said, cluster, tokens, beams) -> None:
    desk.card("balls", **OPEN, cluster=cluster)
    desk.results(talker("gpt2", "text"), "balls", limit=3)
    (call,) = said
    assert call["limits"] == [tokens] * 3
    assert call.get("num_beams") == beams
    assert call.get("length_penalty") == (0.6 if beams else None)


def test_templates_that_say_the_answer_otherwise_are_scored_as_they_say_it(desk, monkeypatch) -> None:
    desk.card("odd")
    monkeypatch.setattr(
        protocol, "generate_all", lambda language_model, sessions, limits, **_: ["I say yes!", "yes"] * 6
    )
    (result,) = desk.results(talker("gpt2", "text"), "odd", template="spoken")
    assert [one.target for one in result.wordings[0].samples[:2]] == ["I say no!", "I say yes!"]
    assert result.settings[0].value == 0.0
    monkeypatch.setattr(protocol, "generate_all", lambda language_model, sessions, limits, **_: ["I say yes!"] * 12)
    assert desk.results(talker("gpt2", "text"), "odd", template="spoken")[0].settings[0].value == 50.0


def test_the_delimiter_is_no_part_of_an_answer() -> None:
    assert protocol.strip_delimiter("\nAnswer: yes \n", "\nAnswer:") == "yes"
    assert protocol.strip_delimiter(" yes", " ") == "yes"


@pytest.mark.parametrize(
    ("wanted", "names"),
    [("first", ["odd"]), ("all", ["odd", "count", "spoken"]), ("2", ["odd", "count"]), ("count", ["count"])],
)
def test_templates_are_picked_and_turned_ones_are_not_scored(desk, said, wanted, names) -> None:
    desk.card("odd")
    (result,) = desk.results(talker("gpt2", "text"), "odd", template=wanted)
    assert [one.template for one in result.wordings] == names
    assert result.settings[0].value == pytest.approx(sum(one.score.value for one in result.wordings) / len(names))
    assert result.settings[0].oracle.score.value == max(one.score.value for one in result.wordings)


@pytest.mark.parametrize("wanted", ["turned-first", "none-such", "0"])
def test_no_other_template_is_scored(desk, wanted) -> None:
    desk.card("odd")
    with pytest.raises(MetalmError) as caught:
        desk.open("odd", template=wanted)
    assert wanted in caught.value.what


def test_a_limit_draws_the_same_examples_every_time(desk) -> None:
    desk.card("odd")
    rows = [[one.row for one in desk.open("odd", limit=count)[0][0].examples] for count in (4, 4, 5, 99)]
    assert rows[0] == rows[1] == sorted(rows[0])
    assert len(rows[0]) == 4
    assert rows[0] != [0, 1, 2, 3]
    assert set(rows[0]) < set(rows[2])
    assert rows[3] == list(range(12))


LONG = [{"text": "The dog barked at the girl. " * 30, "label": 1}, {"text": "It rained.", "label": 0}]


def test_long_inputs_are_cut_or_skipped_and_counted(desk, said) -> None:
    language_model = talker("gpt2", "text")
    desk.card("cut", LONG, long_inputs={"field": "text"})
    desk.card("whole", LONG)
    cut, whole = (one.wordings[0] for one in desk.results(language_model, "cut", "whole"))
    assert (cut.cut, cut.skipped, cut.score.n) == (1, 0, 2)
    assert cut.samples[0].input.endswith("Is it odd?\nOPTIONS:\n- no\n- yes")
    assert language_model.processors["text"].prepare(cut.samples[0].input)
    assert (whole.cut, whole.skipped, whole.score.n) == (0, 1, 1)
    assert [(one.row, one.target) for one in whole.samples] == [(1, "no")]
    assert whole.score.value == 0.0
    reader = EncoderLimit.of(language_model.processors["text"].tokenizer, 40)
    (shorter,) = desk.results(language_model, "cut", also=(reader,))
    assert reader.tokens(shorter.wordings[0].samples[0].input) <= 40 < reader.tokens(cut.samples[0].input)


def test_a_task_of_which_nothing_fits_has_no_score_and_is_in_no_mean(desk, said) -> None:
    desk.card("whole", LONG[:1])
    desk.card("odd", cluster="reading")
    found = desk.results(talker("gpt2", "text"), "whole", "odd")
    assert found[0].settings[0].value is None
    assert found[0].wordings[0].skipped == 1
    assert list(written.cluster_means(found)) == ["reading"]
    made = written.result_record({}, EvaluationSettings(), found, {}, seen={})
    assert made["tasks"]["whole"]["settings"][0]["score"] is None
    json.dumps(made, allow_nan=False)


def test_too_few_positions_are_said(desk) -> None:
    desk.card("balls", **OPEN)
    language_model = talker("gpt2", "text", n_positions=24)
    with pytest.raises(MetalmError, match="hold no answer of up to 32 tokens"):
        desk.results(language_model, "balls")
    with pytest.raises(MetalmError, match="the decoder has 24"):
        desk.results(language_model, "balls", length=40)


def test_a_model_without_encoders_reads_the_same_sessions(desk) -> None:
    language_model = talker("llama")
    desk.card("balls", **OPEN)
    (result,) = desk.results(language_model, "balls", limit=2)
    first = result.wordings[0].samples[0]
    assert language_model.generate([Session([Causal(first.input)])], 32)[0].strip() == first.prediction


def test_what_is_missing_is_named_and_what_is_wrong_stops(desk) -> None:
    desk.card("odd")
    desk.card("far", hub={"id": "nobody/nothing"})
    desk.card("untested", splits={"train": "train", "dev": "dev"})
    tasks, missing, _ = desk.open("odd", "far", "untested")
    assert [task.card.name for task in tasks] == ["odd"]
    assert set(missing) == {"far", "untested"}
    assert "no --data-root is given" in missing["far"]
    assert missing["untested"] == "task untested has no validation split"
    desk.card("wrong", [*ROWS, {"text": "x", "label": -1}])
    with pytest.raises(MetalmError, match="does not fit the card of wrong"):
        desk.open("odd", "wrong")
    desk.card("unfit", metric={"name": "pearson", "source": "nobody"})
    with pytest.raises(MetalmError, match="the metric pearson does not fit unfit"):
        desk.open("unfit")
    desk.card("nothing", row_filter="false")
    with pytest.raises(MetalmError, match="leaves out every row"):
        desk.open("nothing")


def test_a_card_without_a_validation_split_is_scored_on_its_test_split(desk) -> None:
    desk.card("odd")
    desk.card("only", splits={"train": "train", "test": "test"}, usage="eval")
    tasks, _, _ = desk.open("odd", "only")
    assert [task.opened.role for task in tasks] == ["validation", "test"]
    assert "only" in desk.open("odd", "only", role="validation")[1]


def test_means_are_of_core_tasks_then_of_clusters(desk, said) -> None:
    always = [{**row, "label": 1} for row in ROWS]
    desk.card("one", always)
    desk.card("two")
    desk.card("other", always, cluster="reading")
    desk.card("extra", [{**row, "label": 0} for row in ROWS], core=False)
    found = desk.results(talker("gpt2", "text"), "one", "two", "other", "extra")
    assert [one.settings[0].value for one in found] == [100.0, 50.0, 100.0, 0.0]
    means = written.cluster_means(found)
    assert {name: (one.value, one.of) for name, one in means.items()} == {
        "nli": (75.0, ("one", "two")),
        "reading": (100.0, ("other",)),
    }
    assert means["nli"].error == pytest.approx(found[1].settings[0].error / 2)
    assert written.mean_over_clusters(means).value == 87.5
    assert written.cluster_means(found[3:])["nli"].of == ("extra",)
    assert written.mean_over_clusters({}) is None


def test_a_record_says_where_everything_comes_from(desk, said) -> None:
    language_model = talker("gpt2", "text")
    desk.card("odd")
    found = desk.results(language_model, "odd", template="2", limit=6)
    made = written.result_record(
        written.model_record("run", language_model), EvaluationSettings(), found, {"far": "not at hand"}, seen={}
    )
    one = made["tasks"]["odd"]
    assert (made["protocol"], made["missing"], made["complete"]) == ("finetuned", {"far": "not at hand"}, True)
    assert one["files"][0]["sha256"] == written._sha256(desk.folder / "cards" / "odd.jsonl")
    assert one["card_sha256"] == written._sha256(desk.folder / "cards" / "odd.yaml")
    assert [part["template"] for part in one["settings"][0]["templates"]] == ["odd", "count"]
    assert one["settings"][0]["templates"][0]["n"] == one["examples"] == 6
    lines = [json.loads(line) for line in written.samples_jsonl(found).splitlines()]
    assert len(lines) == 12
    assert set(lines[0]) == {
        "id",
        "task",
        "template",
        "shots",
        "input",
        "target",
        "prediction",
        "score",
        "log_likelihood",
    }
    assert lines[0]["id"] == f"odd/{found[0].wordings[0].samples[0].row}"


def test_the_hash_of_a_model_is_that_of_its_weights() -> None:
    language_model = talker("gpt2", "text")
    before = weights_hash.weights_sha256(language_model.model)
    assert before == weights_hash.weights_sha256(language_model.model)
    bias = language_model.model.connectors["text"][0].bias
    kept = bias.data.clone()
    bias.data[0] += 1e-3
    try:
        assert weights_hash.weights_sha256(language_model.model) != before
    finally:
        bias.data.copy_(kept)
