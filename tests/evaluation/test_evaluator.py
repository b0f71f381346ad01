"""The ``finetuned`` protocol on small files of rows: prompts, decoding, truncation, scores and means."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from metalm_cli.cli.display.result_tables import result_table
from metalm_cli.common.file_hash import file_sha256
from metalm_cli.data.examples import prompt_builder
from metalm_cli.data.examples.truncation import EncoderLimit
from metalm_cli.errors import MetalmError
from metalm_cli.evaluation import evaluator
from metalm_cli.evaluation.answers import generated_answers
from metalm_cli.evaluation.results import result_writer
from metalm_cli.evaluation.results.result_reader import parse_result
from metalm_cli.evaluation.settings import EvaluationSettings
from metalm_cli.inference.batch_generation import generate_all
from metalm_cli.inference.language_model import LanguageModel
from metalm_cli.models import weights_hash
from metalm_cli.sessions import Causal, Docked, Session
from metalm_cli.templates import render
from task_folders import OPEN, ROWS
from tiny_language_models import Reference, endless_language_model, reciting_language_model

EXACT = {"name": "exact_match", "source": "the tests"}


def yes_model() -> LanguageModel:
    """Model that answers ``yes`` to everything."""
    return reciting_language_model(" yes", "gpt2", "text")


def test_generated_answers_are_scored(task_folder) -> None:
    language_model = endless_language_model("gpt2", "text")
    task_folder.card("balls", **OPEN)
    (result,) = task_folder.results(language_model, "balls", batch_size=5)
    (template_result,) = result.template_results
    for sample, row in zip(template_result.samples, ROWS, strict=True):
        assert sample.input == f"{row['text']}\nIs it odd?"
        assert sample.target == row["say"]
        (generated,) = language_model.generate([Session([Docked("text", sample.input)])], 32)
        assert sample.prediction == generated.strip() != ""
    assert template_result.score.value == pytest.approx(
        100 * sum(sample.score for sample in template_result.samples) / 12
    )
    assert (template_result.score.n, template_result.cut, template_result.skipped) == (12, 0, 0)
    assert template_result.seconds > 0


def test_options_are_decoded_greedily_up_to_two_tokens_more_than_the_longest(task_folder) -> None:
    language_model = endless_language_model("gpt2", "text")
    task_folder.card("odd")
    (result,) = task_folder.results(language_model, "odd")
    reference = Reference(language_model)
    tokens = max(len(language_model.decoder_tokenizer.encode_continuation(" " + word)) for word in ("yes", "no"))
    samples = result.template_results[0].samples
    assert len(samples) == 12
    assert samples[0].input == "The girl had 0 red balls and a dog.\nIs it odd?\nOPTIONS:\n- no\n- yes"
    for sample in samples:
        ids = reference.greedy([Docked("text", sample.input)], tokens + 2)
        assert sample.prediction == language_model.tokenizer.decode(ids).strip() != ""
    assert result.template_results[0].chance.majority == 50.0
    assert not {sample.prediction for sample in samples} & {"yes", "no"}
    assert (
        "0 of 12 answers are among the options; --protocol in_context ranks them" in result.template_results[0].warnings
    )


def test_constraints_of_a_generation_config_do_not_apply(task_folder) -> None:
    language_model = endless_language_model("gpt2", "text")
    task_folder.card("balls", **OPEN)
    config = language_model.model.decoder.generation_config
    before = config.repetition_penalty
    (expected,) = task_folder.results(language_model, "balls", limit=3)
    config.repetition_penalty = 50.0
    try:
        (result,) = task_folder.results(language_model, "balls", limit=3)
    finally:
        config.repetition_penalty = before
    assert result.template_results[0].samples == expected.template_results[0].samples


@pytest.mark.parametrize(
    ("cluster", "tokens", "beams"), [("struct_to_text", 64, 4), ("summarization", 128, 4), ("reading", 32, None)]
)
def test_free_text_is_decoded_with_beam_search(task_folder, monkeypatch, cluster, tokens, beams) -> None:
    language_model = endless_language_model("gpt2", "text", n_positions=256)
    length_penalties = []

    def generate(*arguments: Any, **options: Any) -> list[str]:
        length_penalties.append(options.get("length_penalty"))
        return generate_all(*arguments, **options)

    monkeypatch.setattr(generated_answers, "generate_all", generate)
    task_folder.card("balls", **OPEN, cluster=cluster)
    (result,) = task_folder.results(language_model, "balls", limit=2)
    options = {"num_beams": beams, "length_penalty": 0.6} if beams else {}
    for sample in result.template_results[0].samples:
        session = Session([Docked("text", sample.input)])
        assert sample.prediction == language_model.generate([session], tokens, **options)[0].strip()
        if beams:
            assert sample.prediction != language_model.generate([session], tokens)[0].strip()
    assert length_penalties == [0.6 if beams else None]


def test_answers_are_scored_as_the_template_renders_them(task_folder) -> None:
    task_folder.card("odd")
    (result,) = task_folder.results(yes_model(), "odd", template="spoken")
    assert [sample.target for sample in result.template_results[0].samples[:2]] == ["I say no!", "I say yes!"]
    assert [sample.prediction for sample in result.template_results[0].samples[:2]] == ["yes", "yes"]
    assert result.shot_results[0].value == 0.0
    (result,) = task_folder.results(reciting_language_model(" I say yes!", "gpt2", "text"), "odd", template="spoken")
    assert result.shot_results[0].value == 50.0


def test_the_delimiter_is_stripped_from_an_answer() -> None:
    assert evaluator.strip_delimiter("\nAnswer: yes \n", "\nAnswer:") == "yes"
    assert evaluator.strip_delimiter(" yes", " ") == "yes"


@pytest.mark.parametrize(
    ("choice", "names"),
    [("first", ["odd"]), ("all", ["odd", "count", "spoken"]), ("2", ["odd", "count"]), ("count", ["count"])],
)
def test_templates_are_selected_without_inverted_ones(task_folder, choice, names) -> None:
    task_folder.card("odd")
    (result,) = task_folder.results(yes_model(), "odd", template=choice)
    assert [template_result.template for template_result in result.template_results] == names
    assert result.shot_results[0].value == pytest.approx(
        sum(template_result.score.value for template_result in result.template_results) / len(names)
    )
    assert result.shot_results[0].oracle.score.value == max(
        template_result.score.value for template_result in result.template_results
    )


@pytest.mark.parametrize("choice", ["inverted-first", "none-such", "0"])
def test_invalid_template_choices_are_errors(task_folder, choice) -> None:
    task_folder.card("odd")
    with pytest.raises(MetalmError) as caught:
        task_folder.open("odd", template=choice)
    assert choice in caught.value.what


def test_a_limit_draws_the_same_examples_every_time(task_folder) -> None:
    task_folder.card("odd")
    rows = [[example.row for example in task_folder.open("odd", limit=count)[0][0].examples] for count in (4, 4, 5, 99)]
    assert rows[0] == rows[1] == sorted(rows[0])
    assert len(rows[0]) == 4
    assert rows[0] != [0, 1, 2, 3]
    assert set(rows[0]) < set(rows[2])
    assert rows[3] == list(range(12))


LONG = [{"text": "The dog barked at the girl. " * 30, "label": 1}, {"text": "It rained.", "label": 0}]


def test_long_inputs_are_cut_or_skipped_and_counted(task_folder) -> None:
    language_model = yes_model()
    task_folder.card("cut", LONG, long_inputs={"field": "text"})
    task_folder.card("whole", LONG)
    cut, uncut = (result.template_results[0] for result in task_folder.results(language_model, "cut", "whole"))
    assert (cut.cut, cut.skipped, cut.score.n) == (1, 0, 2)
    assert cut.samples[0].input.endswith("Is it odd?\nOPTIONS:\n- no\n- yes")
    assert language_model.processors["text"].prepare(cut.samples[0].input)
    assert (uncut.cut, uncut.skipped, uncut.score.n) == (0, 1, 1)
    assert [(sample.row, sample.target) for sample in uncut.samples] == [(1, "no")]
    assert uncut.score.value == 0.0
    reader = EncoderLimit.of(language_model.processors["text"].tokenizer, 40)
    (shorter,) = task_folder.results(language_model, "cut", also_fit=(reader,))
    assert reader.tokens(shorter.template_results[0].samples[0].input) <= 40 < reader.tokens(cut.samples[0].input)


def test_a_task_without_fitting_examples_has_no_score_and_is_in_no_mean(task_folder) -> None:
    task_folder.card("whole", LONG[:1])
    task_folder.card("odd", cluster="reading")
    results = task_folder.results(yes_model(), "whole", "odd")
    assert results[0].shot_results[0].value is None
    assert results[0].template_results[0].skipped == 1
    record = result_writer.result_record({}, EvaluationSettings(), results, {}, seen={})
    assert list(record.clusters["0"]) == ["reading"]
    assert record.tasks["whole"].settings[0].score is None
    assert json.loads(record.to_json())["tasks"]["whole"]["settings"][0]["score"] is None


def test_too_few_positions(task_folder) -> None:
    task_folder.card("balls", **OPEN)
    language_model = endless_language_model("gpt2", "text", n_positions=24)
    (result,) = task_folder.results(language_model, "balls")
    assert (result.shot_results[0].value, result.template_results[0].skipped) == (None, 12)
    with pytest.raises(MetalmError, match="the decoder has 24"):
        task_folder.results(language_model, "balls", length=40)


@pytest.mark.parametrize("words", [20, 400])
def test_a_long_option_takes_no_room_from_other_examples(task_folder, words) -> None:
    rows = [{"text": row["text"] * 3, "options": ["yes", f"no {index}"], "index": 0} for index, row in enumerate(ROWS)]
    longer = [*rows[:-1], {**rows[-1], "options": ["yes", "dog " * words]}]
    choice = {"answer": {"options": "options", "index": "index"}, "long_inputs": {"field": "text"}}
    task_folder.card("short", rows, **choice)
    task_folder.card("long", longer, **choice)
    language_model = endless_language_model("gpt2", n_positions=128)
    short, long = (
        result.template_results[0]
        for result in task_folder.results(language_model, "short", "long", protocol="in_context")
    )
    assert (short.score.n, short.skipped) == (12, 0)
    assert long.score.n == 11 + (words == 20)
    assert long.samples[:11] == short.samples[:11]
    if words == 400:
        assert long.skipped == 1


def open_rows(*answers: str) -> list[dict[str, Any]]:
    return [{"text": f"Say text {index}.", "say": answer} for index, answer in enumerate(answers)]


LONG_ANSWER = " ".join(f"{number} dogs and {number} cats;" for number in range(100, 116))


@pytest.mark.parametrize(
    ("limit", "score", "at_limit"), [(None, 100.0, 0), (20, 0.0, 1), (1000, 100.0, 0)], ids=["default", "20", "1000"]
)
def test_open_answers_are_as_long_as_the_longest_reference(task_folder, monkeypatch, limit, score, at_limit) -> None:
    monkeypatch.setattr(generated_answers, "generate_all", RecitingModel(LONG_ANSWER))
    task_folder.card("balls", open_rows(LONG_ANSWER), answer={"text": "say"}, metric=EXACT)
    language_model = endless_language_model("gpt2", n_positions=1024)
    tokens = len(language_model.decoder_tokenizer.encode_continuation(" " + LONG_ANSWER))
    assert tokens > 96
    (result,) = task_folder.results(language_model, "balls", max_answer_tokens=limit)
    template_result = result.template_results[0]
    assert template_result.score.value == score
    assert template_result.max_answer_tokens == (limit or tokens + 2)
    assert template_result.at_limit == at_limit
    record = result_writer.result_record({}, EvaluationSettings(max_answer_tokens=limit), [result], {}, seen={})
    content = json.loads(record.to_json())
    assert content["settings"]["max_answer_tokens"] == limit
    assert parse_result(content, "") == record
    setting = content["tasks"]["balls"]["settings"][0]["templates"][0]
    assert setting.get("at_limit", 0) == at_limit
    note = "balls (0-shot): 1 of 1 answers met the limit of 20 tokens"
    assert any(note in line for line in result_table(record).notes) == bool(at_limit)


class RecitingModel:
    """Generator of a text after every prompt, cut to the limit of tokens."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __call__(self, language_model, sessions, limits, *, on_cut, **_options) -> list[str]:
        tokenizer = language_model.decoder_tokenizer
        ids = [*tokenizer.encode_continuation(" " + self.text), tokenizer.document_end_id]
        for index, limit in enumerate(limits):
            if limit < len(ids):
                on_cut(index)
        return [language_model.decode(ids[:limit]) for limit in limits]


def test_a_long_reference_leaves_room_for_its_prompt(task_folder) -> None:
    """An answer that does not fit is cut by the model's positions and counted; its example is not left out."""
    task_folder.card("balls", open_rows("one ball", LONG_ANSWER), **OPEN)
    language_model = endless_language_model("gpt2", n_positions=64)
    (result,) = task_folder.results(language_model, "balls")
    template_result = result.template_results[0]
    assert (template_result.score.n, template_result.skipped, template_result.at_limit) == (2, 0, 2)


def test_a_model_without_encoders_reads_the_same_sessions(task_folder) -> None:
    language_model = endless_language_model("llama")
    task_folder.card("balls", **OPEN)
    (result,) = task_folder.results(language_model, "balls", limit=2)
    first = result.template_results[0].samples[0]
    assert language_model.generate([Session([Causal(first.input)])], 32)[0].strip() == first.prediction


def test_missing_data_is_reported_and_invalid_tasks_are_errors(task_folder) -> None:
    task_folder.card("odd")
    task_folder.card("far", hub={"id": "nobody/nothing"})
    task_folder.card("untested", splits={"train": "train", "dev": "dev"})
    tasks, missing, _ = task_folder.open("odd", "far", "untested")
    assert [task.card.name for task in tasks] == ["odd"]
    assert set(missing) == {"far", "untested"}
    assert "no --data-root is given" in missing["far"]
    assert missing["untested"] == "task untested has no validation split"
    task_folder.card("wrong", [*ROWS, {"text": "x", "label": -1}])
    with pytest.raises(MetalmError, match="does not match the card wrong"):
        task_folder.open("odd", "wrong")
    task_folder.card("unfit", metric={"name": "pearson", "source": "nobody"})
    with pytest.raises(MetalmError, match="the metric pearson does not fit unfit"):
        task_folder.open("unfit")
    task_folder.card("nothing", row_filter="false")
    with pytest.raises(MetalmError, match="leaves out every row"):
        task_folder.open("nothing")


def test_a_card_without_a_validation_split_is_scored_on_its_test_split(task_folder) -> None:
    task_folder.card("odd")
    task_folder.card("only", splits={"train": "train", "test": "test"}, usage="eval")
    tasks, _, _ = task_folder.open("odd", "only")
    assert [task.source.role for task in tasks] == ["validation", "test"]
    assert "only" in task_folder.open("odd", "only", split="validation")[1]


def test_means_are_of_core_tasks_then_of_clusters(task_folder) -> None:
    always_yes = [{**row, "label": 1} for row in ROWS]
    task_folder.card("one", always_yes)
    task_folder.card("two")
    task_folder.card("other", always_yes, cluster="reading")
    task_folder.card("extra", [{**row, "label": 0} for row in ROWS], core=False)
    results = task_folder.results(yes_model(), "one", "two", "other", "extra")
    assert [result.shot_results[0].value for result in results] == [100.0, 50.0, 100.0, 0.0]
    record = result_writer.result_record({}, EvaluationSettings(), results, {}, seen={})
    means = record.clusters["0"]
    assert {name: (mean.value, mean.of) for name, mean in means.items()} == {
        "nli": (75.0, ["one", "two"]),
        "reading": (100.0, ["other"]),
    }
    assert means["nli"].error == pytest.approx(results[1].shot_results[0].error / 2)
    assert record.mean["0"].value == 87.5
    assert result_writer.cluster_means({"extra": record.tasks["extra"]}, 0)["nli"].of == ["extra"]
    assert result_writer.mean_over_clusters({}) is None


def test_a_record_names_its_sources(task_folder) -> None:
    language_model = yes_model()
    task_folder.card("odd")
    results = task_folder.results(language_model, "odd", template="2", limit=6)
    record = result_writer.result_record(
        result_writer.model_record("run", language_model),
        EvaluationSettings(),
        results,
        {"far": "not at hand"},
        seen={},
    )
    task_record = record.tasks["odd"]
    assert (record.protocol, record.missing, record.complete) == ("finetuned", {"far": "not at hand"}, True)
    assert task_record.files[0].sha256 == file_sha256(task_folder.folder / "cards" / "odd.jsonl")
    assert task_record.card_sha256 == file_sha256(task_folder.folder / "cards" / "odd.yaml")
    assert [template.template for template in task_record.settings[0].templates] == ["odd", "count"]
    assert task_record.settings[0].templates[0].n == task_record.examples == 6
    content = json.loads(record.to_json())
    assert parse_result(content, "") == record, "a record is what is read from its file"
    (setting,) = content["tasks"]["odd"]["settings"]
    assert setting["above_chance"] is (setting["interval"][0] > max(setting["templates"][0]["chance"].values()))
    del setting["above_chance"]
    earlier = parse_result(content, "").tasks["odd"].settings[0]
    assert (earlier.above_chance, earlier.is_above_chance) == (None, task_record.settings[0].above_chance)
    assert "contamination" not in content
    assert "note" not in content["tasks"]["odd"]["settings"][0]["templates"][0]
    lines = [json.loads(line) for line in result_writer.samples_jsonl(results).splitlines()]
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
    assert lines[0]["id"] == f"odd/{results[0].template_results[0].samples[0].row}"


def test_the_hash_of_a_model_is_that_of_its_weights() -> None:
    language_model = endless_language_model("gpt2", "text")
    before = weights_hash.weights_sha256(language_model.model)
    assert before == weights_hash.weights_sha256(language_model.model)
    bias = language_model.model.connectors["text"][0].bias
    original = bias.data.clone()
    bias.data[0] += 1e-3
    try:
        assert weights_hash.weights_sha256(language_model.model) != before
    finally:
        bias.data.copy_(original)


def test_each_example_is_rendered_once_with_each_template(task_folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening the task, building the prompts for three numbers of shots, and scoring use the same rendered prompts."""
    rendered: Counter[tuple[object, ...]] = Counter()

    def count(example, template, style):
        rendered[template.name, style, *example.fields.values(), *example.answers] += 1
        return render(example, template, style)

    monkeypatch.setattr(prompt_builder, "render", count)
    task_folder.card("odd")
    language_model = endless_language_model("gpt2", "text")
    task_folder.results(language_model, "odd", protocol="in_context", template="all", shots=(0, 1, 2))
    templates = {template for template, *_ in rendered}
    assert templates == {"odd", "count", "spoken"}
    assert len(rendered) == 12 * 2 + 24  # the template "spoken" renders both answers of each example
    assert set(rendered.values()) == {1}
