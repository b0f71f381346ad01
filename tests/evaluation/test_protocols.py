"""Protocols, demonstrations, cached answers and labels of seen tasks, against values from single sessions."""

from __future__ import annotations

import copy
import json
import math
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import decoders

from card_fixtures import CARD_VALUES
from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.answers.answer_cache import AnswerCache, AnswerKey
from metalm_cli.evaluation.answers.chain_of_thought import majority_vote
from metalm_cli.evaluation.contamination import find_overlap, training_files
from metalm_cli.evaluation.evaluator import Evaluator, TemplateResult
from metalm_cli.evaluation.results import result_writer
from metalm_cli.inference.batch_generation import sample_all
from metalm_cli.inference.configuration_hash import configuration_sha256
from metalm_cli.inference.language_model import LanguageModel
from metalm_cli.provenance.model_history import ModelHistory, read_history
from metalm_cli.sessions import Causal, DecoderTokenizer, Session
from metalm_cli.tasks import Card, Cards
from metalm_cli.templates import prompt_to_session, read_templates, render
from task_folders import OPEN, ROWS, TaskFolder
from tiny_language_models import endless_language_model, reciting_language_model, tiny_language_model

CHOICE = {
    "answer": {"label": "label", "class_names": ["even", "odd"], "verbalizers": {"even": "not at all", "odd": "yes"}},
}


def expected_log_likelihoods(
    language_model: LanguageModel, task: Any, ended: bool, shots: int = 0, settings: Any = None
) -> list[list[float]]:
    """Compute the log-probabilities of each example's options, one session each."""
    template, expected = task.templates[0], []
    for example in task.examples:
        demonstrations = (
            [render(demonstration, template) for demonstration in task.demonstrations(example, shots, settings)]
            if shots
            else []
        )
        prompt = prompt_to_session(render(example, template), demonstrations, with_target=False)
        log_likelihoods = []
        for option in example.options:
            answer = Causal(" " + option, trained=True, end=ended)
            log_likelihoods.append(float(language_model.log_likelihood([Session([*prompt, answer])])[0]))
        expected.append(log_likelihoods)
    return expected


@pytest.mark.parametrize("encoders", [(), ("text",)], ids=["decoder", "docked"])
@pytest.mark.parametrize("protocol", ["in_context", "instruct"])
def test_options_are_ranked_with_and_without_their_end(
    task_folder: TaskFolder, protocol: Any, encoders: tuple[str, ...]
) -> None:
    language_model = endless_language_model("llama", *encoders)
    task_folder.card("odd", **CHOICE)
    tasks, _, settings = task_folder.open("odd", protocol=protocol)
    (result,) = Evaluator(language_model, settings).evaluate(tasks)
    (template_result,) = result.template_results
    expected_sums = expected_log_likelihoods(language_model, tasks[0], protocol == "instruct")
    for sample, log_likelihoods, example in zip(template_result.samples, expected_sums, tasks[0].examples, strict=True):
        np.testing.assert_allclose(list(sample.log_likelihood.values()), log_likelihoods, atol=1e-4)
        assert list(sample.log_likelihood) == ["not at all", "yes"]
        assert sample.prediction == example.options[int(np.argmax(log_likelihoods))]
    hits = [
        np.argmax(log_likelihoods) == example.label
        for log_likelihoods, example in zip(expected_sums, tasks[0].examples, strict=True)
    ]
    assert template_result.score.value == pytest.approx(100 * np.mean(hits))
    per_char = [np.argmax(np.array(log_likelihoods) / [10, 3]) for log_likelihoods in expected_sums]
    expected_score = 100 * np.mean(
        [choice == example.label for choice, example in zip(per_char, tasks[0].examples, strict=True)]
    )
    assert template_result.extra["per_char"] == template_result.extra["per_byte"] == pytest.approx(expected_score)
    token_counts = [
        len(language_model.decoder_tokenizer.encode_continuation(" " + option)) + (protocol == "instruct")
        for option in ("not at all", "yes")
    ]
    per_token = [np.argmax(np.array(log_likelihoods) / token_counts) for log_likelihoods in expected_sums]
    assert template_result.extra["per_token"] == pytest.approx(
        100 * np.mean([choice == example.label for choice, example in zip(per_token, tasks[0].examples, strict=True)])
    )
    start = Causal((language_model.decoder_tokenizer.start_id,))
    unconditional = [
        float(language_model.log_likelihood([Session([start, Causal(tuple(ids), trained=True)])])[0])
        for ids in (
            [
                *language_model.decoder_tokenizer.encode_continuation(" " + option),
                *([language_model.decoder_tokenizer.document_end_id] if protocol == "instruct" else []),
            ]
            for option in ("not at all", "yes")
        )
    ]
    adjusted = [np.argmax(np.array(log_likelihoods) - unconditional) for log_likelihoods in expected_sums]
    assert template_result.extra["unconditional"] == pytest.approx(
        100 * np.mean([choice == example.label for choice, example in zip(adjusted, tasks[0].examples, strict=True)])
    )


@pytest.mark.parametrize("layout", ["docks", "answered", "joined"])
@pytest.mark.parametrize("drawn", [False, True], ids=["frozen", "drawn"])
def test_demonstrations_precede_the_example(task_folder: TaskFolder, drawn: bool, layout: Any) -> None:
    from metalm_cli.templates import PromptStyle

    language_model = tiny_language_model("gpt2") if layout == "joined" else tiny_language_model("gpt2", "text")
    task_folder.card("odd", **CHOICE)
    tasks, _, settings = task_folder.open(
        "odd", protocol="in_context", shots=(0, 1, 3), draw_per_example=drawn, style=PromptStyle(layout=layout)
    )
    (result,) = Evaluator(language_model, settings).evaluate(tasks)
    assert [shot_result.shots for shot_result in result.shot_results] == [0, 1, 3]
    task = tasks[0]
    for shot_result in result.shot_results:
        template = task.templates[0]
        (template_result,) = shot_result.template_results
        assert not template_result.note
        for sample, example in zip(template_result.samples, task.examples, strict=True):
            demonstrations = task.demonstrations(example, shot_result.shots, settings)
            assert example.row not in [demonstration.row for demonstration in demonstrations]
            prompt = prompt_to_session(
                render(example, template),
                [render(demonstration, template) for demonstration in demonstrations],
                style=settings.style,
                with_target=False,
            )
            log_likelihoods = [
                float(language_model.log_likelihood([Session([*prompt, Causal(" " + option, trained=True)])])[0])
                for option in example.options
            ]
            np.testing.assert_allclose(list(sample.log_likelihood.values()), log_likelihoods, atol=1e-4)
    rows = [
        tuple(demonstration.row for demonstration in task.demonstrations(example, 3, settings))
        for example in task.examples
    ]
    single = [
        tuple(demonstration.row for demonstration in task.demonstrations(example, 1, settings))
        for example in task.examples
    ]
    assert [demonstration_rows[:1] for demonstration_rows in rows] == single
    highest_count = Counter(rows).most_common(1)[0][1]
    assert highest_count <= 4 if drawn else highest_count > 6
    assert task_folder.open("odd", shots=(3,), seed=1)[0][0].demonstrations(task.examples[0], 3, settings) != rows[0]


def test_demonstrations_that_do_not_fit_are_reported_and_nothing_is_truncated(task_folder: TaskFolder) -> None:
    language_model = tiny_language_model("gpt2", "text", n_positions=200)
    task_folder.card("odd", **CHOICE, long_inputs={"field": "text"})
    tasks, _, settings = task_folder.open("odd", protocol="in_context", shots=(0, 1, 9), length=150)
    (result,) = Evaluator(language_model, settings).evaluate(tasks)
    zero_shot, one_shot, nine_shot = result.shot_results
    assert (zero_shot.value is not None, one_shot.value is not None, nine_shot.value) == (True, True, None)
    assert [shot_result.template_results[0].cut for shot_result in result.shot_results] == [0, 0, 0]
    assert nine_shot.template_results[0].skipped == 12
    note = nine_shot.template_results[0].note
    assert note.startswith("9 demonstrations do not fit into ")
    max_shots = int(note.split("at most ")[1].split()[0])
    _, _, changed_settings = task_folder.open(
        "odd", protocol="in_context", shots=(max_shots, max_shots + 1), length=150
    )
    (changed_result,) = Evaluator(language_model, changed_settings).evaluate(tasks)
    assert changed_result.shot_results[0].value is not None
    assert changed_result.shot_results[1].value is None
    record = result_writer.result_record({}, changed_settings, [changed_result], {}, seen={})
    assert record.tasks["odd"].settings[1].templates[0].note
    assert json.loads(record.to_json())["tasks"]["odd"]["settings"][1]["templates"][0]["note"]


def test_only_examples_that_fit_with_their_demonstrations_are_scored(task_folder: TaskFolder) -> None:
    language_model = tiny_language_model("gpt2", "text", n_positions=200)
    rows = [{**row, "text": row["text"] + " It rained." * (3 * (n % 4 == 0))} for n, row in enumerate(ROWS)]
    task_folder.card("odd", rows, **CHOICE, long_inputs={"field": "text"})
    tasks, _, settings = task_folder.open("odd", protocol="in_context", shots=(0, 1), length=120)
    (result,) = Evaluator(language_model, settings).evaluate(tasks)
    zero_shot, one_shot = (shot_result.template_results[0] for shot_result in result.shot_results)
    assert (zero_shot.score.n, zero_shot.skipped, zero_shot.note) == (12, 0, "")
    assert 0 < one_shot.score.n < 12
    assert one_shot.skipped == 12 - one_shot.score.n
    assert one_shot.note == f"1 demonstration does not fit with {one_shot.skipped} of 12 examples, which are not scored"
    inputs = {sample.row: sample.input for sample in zero_shot.samples}
    assert all(sample.input == inputs[sample.row] for sample in one_shot.samples)


def test_more_demonstrations_than_rows(task_folder: TaskFolder) -> None:
    task_folder.card("odd", **CHOICE)
    with pytest.raises(MetalmError, match="99 demonstrations of odd requested, available: 11"):
        task_folder.open("odd", shots=(0, 99))


def test_options_that_are_all_the_same(task_folder: TaskFolder) -> None:
    task_folder.card("odd", answer={"options": "['so', 'so']", "index": "0"})
    with pytest.raises(MetalmError, match="all options of odd row 0 are the same"):
        task_folder.open("odd")


def test_open_answers_are_generated_under_every_protocol(task_folder: TaskFolder) -> None:
    language_model = endless_language_model("gpt2", "text")
    task_folder.card("balls", **OPEN)
    results = [
        task_folder.results(language_model, "balls", protocol=name, limit=3)[0] for name in ("finetuned", "in_context")
    ]
    texts = [[sample.prediction for sample in result.template_results[0].samples] for result in results]
    assert texts[0] == texts[1]
    assert results[1].template_results[0].samples[0].log_likelihood is None


def test_normalised_answers_are_compared_without_case_and_articles(task_folder: TaskFolder) -> None:
    task_folder.card("odd")
    strict, loose = (
        task_folder.results(reciting_language_model(" The yes!"), "odd", normalise=normalise)[0]
        for normalise in (False, True)
    )
    assert {sample.prediction for sample in strict.template_results[0].samples} == {"The yes!"}
    assert (strict.shot_results[0].value, loose.shot_results[0].value) == (0.0, 50.0)


def test_normalised_options_differ(task_folder: TaskFolder) -> None:
    def card(*options: str) -> None:
        texts = ", ".join(map(repr, options))
        task_folder.card("odd", answer={"options": f"[{texts}]", "index": "label"})

    card("3 degrees", "-3 degrees")
    result = task_folder.results(reciting_language_model(" 3 degrees"), "odd", normalise=True)[0]
    assert result.shot_results[0].value == 50.0


@pytest.mark.parametrize("protocol", ["finetuned", "in_context"])
def test_options_that_normalisation_makes_the_same_are_compared_without_it(
    task_folder: TaskFolder, protocol: Any
) -> None:
    """One such row does not keep the task from being scored, and none of its options counts as another one."""
    same, other = ["The cat.", "cat"], ["a Cat", "dog"]
    rows = [(other, 0)] * 2 + [(same, 0)] * 4 + [(same, 1)] * 4
    columns = [{"text": f"Row {n}?", "options": options, "index": index} for n, (options, index) in enumerate(rows)]
    splits = {"train": "rows", "validation": "rows"}
    answer = {"options": "options", "index": "index"}
    task_folder.card("pets", columns, answer=answer, splits=splits, validation_share=0)
    (result,) = task_folder.results(reciting_language_model(" cat"), "pets", normalise=True, protocol=protocol)
    template_result = result.template_results[0]
    scores = [sample.score for sample in template_result.samples]
    assert [scores[row] for row in (2, 6)] in ([0.0, 1.0], [1.0, 0.0]), "the options stay different"
    if protocol == "finetuned":
        assert scores == [1.0] * 2 + [0.0] * 4 + [1.0] * 4
    (warning,) = [text for text in template_result.warnings if "--normalise" in text]
    assert warning.startswith("8 of 10 examples have options that --normalise makes the same, such as row 2 with ")
    assert "'The cat.' and 'cat'" in warning
    (result,) = task_folder.results(reciting_language_model(" cat"), "pets", protocol=protocol)
    assert not any("--normalise" in text for text in result.template_results[0].warnings)


CARD_WITH_RATIONALE = {**CHOICE, "answer": {**CHOICE["answer"], "rationale": "why"}}
ROWS_WITH_RATIONALE = [{**row, "why": "It is a number."} for row in ROWS]


@pytest.mark.parametrize("protocol", ["finetuned", "in_context", "instruct"])
def test_a_rationale_is_generated_before_the_answer_if_the_card_has_one(task_folder: TaskFolder, protocol: Any) -> None:
    from metalm_cli.templates import PromptStyle

    text = " It has both.\nThe answer is yes"
    language_model = reciting_language_model(text, n_positions=512)
    encode = language_model.decoder_tokenizer.encode_continuation
    option_tokens = max(len(encode(" " + option)) for option in ("not at all", "yes"))
    assert len(encode(text)) > option_tokens + 2
    task_folder.card("why", ROWS_WITH_RATIONALE, **CARD_WITH_RATIONALE)
    task_folder.card("plain", **CHOICE)
    results = task_folder.results(language_model, "why", "plain", protocol=protocol, style=PromptStyle(rationale=True))
    with_rationale, plain = (result.template_results[0] for result in results)
    assert {sample.prediction for sample in with_rationale.samples} == {"yes"}
    assert with_rationale.score.value == 50.0
    if protocol == "finetuned":  # the limit of tokens is that of the options
        truncated = language_model.tokenizer.decode(encode(text)[: option_tokens + 2]).strip()
        assert {sample.prediction for sample in plain.samples} == {truncated}
    else:
        assert plain.samples[0].log_likelihood is not None


@pytest.mark.parametrize("protocol", ["finetuned", "in_context"])
def test_of_several_samples_the_most_frequent_answer_counts(task_folder: TaskFolder, protocol: Any) -> None:
    language_model = tiny_language_model("gpt2")
    task_folder.card("odd", **CHOICE)
    (result,) = task_folder.results(
        language_model, "odd", protocol=protocol, samples=3, temperature=0.5, seed=7, limit=4
    )
    samples = result.template_results[0].samples
    sessions = [Session([Causal(sample.input)]) for sample in samples]
    limit = 2 + max(
        len(language_model.decoder_tokenizer.encode_continuation(" " + option)) for option in ("not at all", "yes")
    )
    texts = sample_all(language_model, sessions, [limit] * 4, 3, 0.5, 7, keys=[sample.row for sample in samples])
    answers = [[text.strip() for text in session_texts] for session_texts in texts]
    assert [sample.prediction for sample in samples] == [majority_vote(choices, "accuracy") for choices in answers]
    other_keys = sample_all(language_model, sessions, [limit] * 4, 3, 0.5, 7)
    assert other_keys != texts


def test_samples_depend_on_their_seed_alone(task_folder: TaskFolder) -> None:
    task_folder.card("balls", **OPEN)
    language_model = endless_language_model("gpt2", "text")
    first, second, other = (
        [
            sample.prediction
            for sample in task_folder.results(
                language_model, "balls", samples=2, temperature=2.0, seed=seed, batch_size=size
            )[0]
            .template_results[0]
            .samples
        ]
        for seed, size in ((1, 16), (1, 5), (2, 16))
    )
    assert first == second
    assert first != other


def test_the_papers_five_templates(task_folder: TaskFolder) -> None:
    task_folder.card("odd", **CHOICE)
    (result,) = task_folder.results(tiny_language_model("gpt2", "text"), "odd", protocol="instruct", template="paper")
    (shot_result,) = result.shot_results
    values = [template_result.score.value for template_result in shot_result.template_results]
    assert len(values) == 3  # the collection has three templates
    assert shot_result.value == pytest.approx(np.mean(values))
    assert shot_result.spread == pytest.approx(np.std(values, ddof=1))
    assert shot_result.oracle.score.value == max(values)


# -- cached answers ----------------------------------------------------------------------------------------------------


def evaluate_with_cache(
    language_model: LanguageModel, task_folder: TaskFolder, folder: Any, **changes: Any
) -> tuple[list[TemplateResult], AnswerCache]:
    tasks, _, settings = task_folder.open("odd", "balls", **changes)
    record = result_writer.model_record("", language_model)
    cache = AnswerCache(folder / "answers.sqlite", result_writer.model_hash(record))
    try:
        results = list(Evaluator(language_model, settings, cache).evaluate(tasks))
    finally:
        cache.close()
    return [template_result for result in results for template_result in result.template_results], cache


@pytest.mark.parametrize("protocol", ["in_context", "finetuned"])
def test_cached_answers_are_not_computed_again(
    task_folder: TaskFolder, tmp_path: Any, monkeypatch: Any, protocol: Any
) -> None:
    language_model = endless_language_model("gpt2", "text")
    task_folder.card("odd", **CHOICE)
    task_folder.card("balls", **OPEN)
    first, cache = evaluate_with_cache(language_model, task_folder, tmp_path, protocol=protocol, limit=8)
    assert cache.hits == 0
    assert set(cache.misses) == {"not answered before"}

    def broken(*_arguments: Any, **_options: Any) -> Any:
        raise AssertionError("the model was called")

    calls: list[int] = []
    forward = language_model.model.decoder.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        second, cache = evaluate_with_cache(language_model, task_folder, tmp_path, protocol=protocol, limit=8)
        setup_passes = len(calls)  # passes that measure the decoder
        assert not cache.misses
        assert [result.samples for result in second] == [result.samples for result in first]
        extended, cache = evaluate_with_cache(language_model, task_folder, tmp_path, protocol=protocol, limit=10)
        assert sum(cache.misses.values()) == 4
        assert cache.hits == 16 + (protocol == "in_context")
        assert len(calls) - setup_passes > setup_passes
    finally:
        forward.remove()
    assert [result.score.n for result in extended] == [10, 10]


def test_an_interrupted_evaluation_resumes_from_its_cache(
    task_folder: TaskFolder, tmp_path: Any, monkeypatch: Any
) -> None:
    from metalm_cli.inference.scoring import option_scorer

    language_model = tiny_language_model("gpt2", "text")
    task_folder.card("odd", **CHOICE)
    task_folder.card("balls", **OPEN)
    complete, _ = evaluate_with_cache(language_model, task_folder, tmp_path / "whole", protocol="in_context")
    monkeypatch.setattr(option_scorer, "CPU_BUDGET", 200)
    run, passes = option_scorer.Scorer._score_batch, []

    def interrupted_run(self: Any, *arguments: Any) -> None:
        passes.append(1)
        if len(passes) == 3:
            raise KeyboardInterrupt
        run(self, *arguments)

    monkeypatch.setattr(option_scorer.Scorer, "_score_batch", interrupted_run)
    with pytest.raises(KeyboardInterrupt):
        evaluate_with_cache(language_model, task_folder, tmp_path / "torn", protocol="in_context")
    monkeypatch.setattr(option_scorer.Scorer, "_score_batch", run)
    resumed, cache = evaluate_with_cache(language_model, task_folder, tmp_path / "torn", protocol="in_context")
    assert 0 < cache.hits < 12
    assert [[sample.prediction for sample in result.samples] for result in resumed] == [
        [sample.prediction for sample in result.samples] for result in complete
    ]


@pytest.mark.parametrize("corrected", ["config", "end token", "decoder of the tokenizer", "generation config"])
def test_answers_of_a_corrected_model_are_computed_again(
    task_folder: TaskFolder, tmp_path: Path, corrected: str
) -> None:
    task_folder.card("odd", **CHOICE)
    task_folder.card("balls", **OPEN)
    language_model = endless_language_model("llama")
    model = copy.deepcopy(language_model.model)
    tokenizer = copy.deepcopy(language_model.tokenizer)
    _, cache = evaluate_with_cache(language_model, task_folder, tmp_path, limit=4)
    first = result_writer.model_record("", language_model)
    if corrected == "config":
        model.decoder.config.rope_parameters["rope_theta"] = 500.0
    elif corrected == "end token":
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(300)
    elif corrected == "decoder of the tokenizer":
        tokenizer.backend_tokenizer.decoder = decoders.Fuse()
    else:
        model.decoder.generation_config.top_k = 3
    rules = language_model.decoder_tokenizer.rules
    changed = LanguageModel(model, DecoderTokenizer(tokenizer, rules), language_model.processors)
    _, cache = evaluate_with_cache(changed, task_folder, tmp_path, limit=4)
    assert cache.hits == 0
    assert set(cache.misses) == {"answered by another model"}
    second = result_writer.model_record("", changed)
    assert first["weights_sha256"] == second["weights_sha256"]
    assert first["configuration_sha256"] != second["configuration_sha256"]


def test_the_hash_of_a_configuration_does_not_depend_on_its_use(task_folder: TaskFolder) -> None:
    language_model = endless_language_model("gpt2", "text")
    before = configuration_sha256(language_model)
    task_folder.card("balls", **OPEN)
    task_folder.results(language_model, "balls", limit=2)
    language_model.processors["text"].tokenizer(["a", "a b c"], padding=True, truncation=True, max_length=2)
    language_model.tokenizer("a b c", truncation=True, max_length=2)
    language_model.model.decoder.config._name_or_path = "elsewhere"
    assert configuration_sha256(language_model) == before


def test_why_an_answer_is_missing(tmp_path: Any) -> None:
    path = tmp_path / "answers.sqlite"
    key = AnswerKey("rte row 1", "text", "ranked")
    cache = AnswerCache(path, "weights")
    cache.put([(key, [1.5, -2.0])])
    cache.close()
    for requested, model, reason in [
        (key, "weights", None),
        (key, "other", "answered by another model"),
        (AnswerKey("rte row 1", "text", "said"), "weights", "answered with other settings"),
        (AnswerKey("rte row 1", "texts", "ranked"), "weights", "the text has changed"),
        (AnswerKey("rte row 2", "texts", "ranked"), "weights", "not answered before"),
    ]:
        cache = AnswerCache(path, model)
        assert cache.get(requested) == ([1.5, -2.0] if reason is None else None)
        assert dict(cache.misses) == ({} if reason is None else {reason: 1})
        cache.close()


def test_damaged_answers_are_computed_again(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    keys = [AnswerKey(f"rte row {row}", f"text {row}", "ranked") for row in range(6)]
    cache = AnswerCache(path, "model")
    cache.put((key, [-1.25, -2.5]) for key in keys)
    cache.close()
    connection = sqlite3.connect(path)
    rows = connection.execute("select key, answer from answers").fetchall()
    texts = ["no json", "[1, 2, 3]", "NaN", "[-1.75, -2.5]", rows[4][1].replace("1.25", "1.75")]
    for (key, _), text in zip(rows, texts, strict=False):
        connection.execute("update answers set answer = ? where key = ?", (text, key))
    flipped = bytes([byte ^ 0x80 if index == 70 else byte for index, byte in enumerate(rows[5][1].encode())])
    connection.execute("update answers set answer = cast(? as text) where key = ?", (flipped, rows[5][0]))
    connection.commit()
    connection.close()
    cache = AnswerCache(path, "model")
    assert [cache.get(key) for key in keys] == [None] * 6
    assert cache.summary() == "0 cached; new: 6 damaged in the file"
    cache.put((key, [-1.25, -2.5]) for key in keys)
    assert [cache.get(key) for key in keys] == [[-1.25, -2.5]] * 6
    cache.close()


def test_a_full_disk_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    cache = AnswerCache(path, "model")
    cache.put([(AnswerKey("rte row 0", "text", "said"), ["yes", False])])
    assert cache._connection is not None
    cache._connection.execute("pragma max_page_count = 1")
    answers = [(AnswerKey(f"rte row {row}", f"text {row}", "said"), ["yes" * 99, False]) for row in range(999)]
    with pytest.raises(MetalmError, match="answers cannot be saved") as caught:
        cache.put(answers)
    assert "disk is full" in caught.value.why
    assert int(caught.value.exit_code) == 1


def test_a_file_without_answers_is_an_error(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.sqlite"
    damaged.write_bytes(b"not a data base" * 100)
    with pytest.raises(MetalmError, match="answers cannot be saved"):
        AnswerCache(damaged, "weights")


# -- labels of seen tasks ----------------------------------------------------------------------------------------------


def test_labels_of_seen_tasks(tmp_path: Any) -> None:
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
    history = read_history(tmp_path, "run")
    assert history.command == "instruct"
    known = {name: cards[name] for name in history.tasks}
    labels = {name: history.label_for(cards[name], known).label for name in ("sst2", "qnli", "squad_v2", "rte")}
    assert labels == {"sst2": "seen", "qnli": "leak partner", "squad_v2": "leak partner", "rte": "held out"}
    assert "squad" in history.label_for(cards["qnli"], known).why
    path.write_text(json.dumps({**lineage, "ancestors": [{"checkpoint": "hub/base", "lineage": None}]}))
    history = read_history(tmp_path, "run")
    assert history.label_for(cards["rte"], known).label == "unknown"
    assert "hub/base" in history.label_for(cards["rte"], known).why
    assert history.label_for(cards["sst2"], known).label == "seen"
    assert read_history(None, "hub/model").label_for(cards["rte"], {}).label == "unknown"
    path.write_text("{torn")
    assert read_history(tmp_path, "run").label_for(cards["rte"], {}).label == "unknown"
    assert ModelHistory({"mine": "run"}, ()).label_for(cards["rte"], {}).label == "unknown"


def test_files_of_the_same_content_are_not_held_out(task_folder: TaskFolder, tmp_path: Path) -> None:
    task_folder.card("odd")
    task_folder.card("copy", cluster="misc")
    task_folder.card("other", ROWS[:5], cluster="misc")
    tasks, _, _ = task_folder.open("odd", "copy", "other")
    odd, copied, other = (task.source for task in tasks)
    trained_file = {"name": "renamed.jsonl", "sha256": odd.files[0].sha256, "size": odd.files[0].size}
    for lineage in (
        {"command": "finetune", "tasks": ["odd"], "data": [{"name": "odd", "files": [trained_file]}]},
        {"command": "pretrain", "tasks": [], "data": [{"name": "odd", "files": [trained_file]}, "no source"]},
    ):
        (tmp_path / "lineage.json").write_text(json.dumps({**lineage, "ancestors": []}))
        history = read_history(tmp_path, "run")
        label = history.label_for(copied.card, {"odd": odd.card}, copied.files)
        assert label.label == "leak partner"
        assert label.why.startswith("run was trained on odd, which read a file with the content of ")
        assert history.label_for(other.card, {"odd": odd.card}, other.files).label == "held out"


@pytest.mark.parametrize("place", [{"world": "nextdoor"}, {"hub": {"id": "a/b", "config": "c"}}])
def test_cards_of_the_same_data_set_are_leak_partners(place: dict[str, Any]) -> None:
    first, second = (Card.model_validate({"name": name, **CARD_VALUES, **place}) for name in ("first", "second"))
    history = ModelHistory({"first": "run"}, ())
    label = history.label_for(second, {"first": first})
    assert (label.label, label.why) == ("leak partner", "run was trained on first, which reads the same data set")
    other = Card.model_validate({"name": "other", **CARD_VALUES, "hub": {"id": "a/b", "config": "d"}})
    assert history.label_for(other, {"first": first}).label == "held out"


def test_the_prompt_format_is_read_from_the_lineage_where_it_is_valid(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for saved, expected in [
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
        lineage = {"command": "finetune", "tasks": [], "ancestors": [], "templates": saved}
        (tmp_path / "lineage.json").write_text(json.dumps(lineage))
        assert read_history(tmp_path, "run").prompt_settings == expected


def test_rows_contained_in_training_data(task_folder: TaskFolder, tmp_path: Any) -> None:
    sentence = "{} she went to the old market to buy bread and apples for {} people"
    words = [sentence.format(word, n) for n, word in enumerate("abcd")]
    task_folder.card("long", [{"text": text, "label": 0, "say": "x"} for text in words])
    task_folder.card("odd")
    tasks, _, _ = task_folder.open("long", "odd")
    data = tmp_path / "train"
    data.mkdir()
    (data / "a.jsonl").write_text(json.dumps({"text": f"Once, {words[2].upper()}!"}) + "\n")
    (data / "b.jsonl").write_text(json.dumps({"nested": [{"deep": words[0]}]}) + "\n")
    overlap = find_overlap(tasks, training_files([data]))
    assert overlap["tasks"] == {"long": {"rows": [0, 2], "of": 4}, "odd": {"rows": [], "of": 12}}
    with pytest.raises(MetalmError, match="no training data to compare with"):
        training_files([tmp_path / "nowhere"])


def test_intervals_contain_their_scores(task_folder: TaskFolder) -> None:
    task_folder.card("odd", **CHOICE)
    (result,) = task_folder.results(tiny_language_model("gpt2", "text"), "odd", protocol="in_context", template="all")
    record = result_writer.task_record(result)
    for entry in [*record.settings, *record.settings[0].templates]:
        low, high = entry.interval
        assert low <= entry.score <= high
        assert math.isfinite(entry.error)
    columns = record.settings[0].templates[0].each
    assert columns["row"] == list(range(12))
    assert set(columns["value"]) <= {0.0, 1.0}


def test_examples_that_a_template_renders_empty_are_left_out_and_counted(task_folder: TaskFolder) -> None:
    language_model = tiny_language_model("gpt2", "text", n_positions=300)
    task_folder.card("odd", **CHOICE)
    path = task_folder.folder / "templates" / "odd.yaml"
    text = "{% if row.label == 1 %}{{ text }}{% endif %}"
    path.write_text(json.dumps({"templates": [{"name": "some", "input": text, "choices": "even ||| uneven"}]}))
    tasks, _, settings = task_folder.open("odd", protocol="in_context", shots=(0, 2))
    (result,) = Evaluator(language_model, settings).evaluate(tasks)
    for template_result in result.template_results:
        assert (template_result.empty, template_result.skipped, template_result.score.n) == (6, 0, 6)
        assert [sample.row % 2 for sample in template_result.samples] == [1] * 6
        assert {sample.target for sample in template_result.samples} == {"uneven"}
        assert all(set(sample.log_likelihood) == {"even", "uneven"} for sample in template_result.samples)
    record = result_writer.task_record(result)
    assert [template.empty for setting in record.settings for template in setting.templates] == [6, 6]
    path.write_text(json.dumps({"templates": [{"name": "some", "input": "{% if row.label == 7 %}x{% endif %}"}]}))
    read_templates.cache_clear()
    with pytest.raises(MetalmError, match="renders an empty input or target for every example of odd"):
        task_folder.open("odd", protocol="in_context")
