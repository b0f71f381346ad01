"""Results of lm_eval as records of metalm."""

from __future__ import annotations

import pytest

from harness_output import harness_output, sample_lines, write_output
from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.metrics.bootstrap import wilson_interval
from metalm_cli.evaluation.results.harness_results import harness_record, read_harness_results
from metalm_cli.evaluation.results.result_reader import read_result
from metalm_cli.evaluation.results.results import Results


def test_files_of_lm_eval_are_read(tmp_path) -> None:
    write_output(tmp_path)
    record = read_harness_results(tmp_path, "runs/mine")
    assert (record.protocol, record.source, record.weights_sha256) == ("harness", "runs/mine", "f" * 64)
    assert record.settings["limit"] == 4
    task = record.tasks["copa"]
    setting = task.with_shots(0)
    assert (task.metric, task.split, task.examples, setting.score, setting.error) == ("acc", "validation", 4, 75, 25)
    assert setting.interval == pytest.approx([100 * bound for bound in wilson_interval(0.75, 4)], abs=1e-4)
    assert setting.templates[0].each == {"row": [0, 1, 2, 3], "value": [1.0, 0.0, 1.0, 1.0]}
    assert Results(record).scores() == {"copa": 75}
    path = Results(record).save(tmp_path / "record.json")
    assert read_result(path).model_copy(update={"name": ""}) == record


def test_without_results_the_error_names_the_folder(tmp_path) -> None:
    with pytest.raises(MetalmError, match="no results"):
        read_harness_results(tmp_path, "runs/mine")


def test_the_first_metric_is_the_score_and_the_others_are_extra() -> None:
    output = harness_output(
        {"acc_norm,none": 0.25, "acc,none": 0.5, "f1,none": 0.3, "bleu,none": 12.0}, ("acc", "acc_norm")
    )
    samples = {"copa": sample_lines([{"acc": value} for value in (1, 0, 1, 0)])}
    task = harness_record(output, samples, "m").tasks["copa"]
    template = task.settings[0].templates[0]
    assert (task.metric, template.score, template.n) == ("acc", 50, 4)
    assert template.extra == pytest.approx({"acc_norm": 25, "f1": 30, "bleu": 12})


def test_a_score_that_is_no_share_keeps_its_value_and_has_no_percent() -> None:
    output = harness_output({"word_perplexity,none": 23.5, "word_perplexity_stderr,none": "N/A"}, ("word_perplexity",))
    template = (
        harness_record(output, {"copa": sample_lines([{"word_perplexity": [-5.0, 3]}])}, "m").tasks["copa"].settings[0]
    )
    assert (template.score, template.interval, template.extra) == (None, None, {})
    assert template.templates[0].extra == {"word_perplexity": 23.5}


def test_a_score_over_the_split_has_no_values_by_example() -> None:
    """F1 is not the mean of its values: examples carry pairs, or numbers with another mean."""
    output = harness_output({"f1,none": 0.4, "f1_stderr,none": 0.1}, ("f1",))
    samples = {"copa": sample_lines([{"f1": value} for value in (1, 1, 1, 1)])}
    setting = harness_record(output, samples, "m").tasks["copa"].settings[0]
    assert (setting.score, setting.error, setting.interval, setting.templates[0].each) == (40, 10, None, {})


def test_of_several_filters_the_first_is_the_score() -> None:
    scores = {"exact_match,strict-match": 0.5, "exact_match,flexible-extract": 1.0}
    samples = sample_lines([{"exact_match": 1.0}, {"exact_match": 0.0}], "strict-match")
    samples += sample_lines([{"exact_match": 1.0}, {"exact_match": 1.0}], "flexible-extract")
    output = harness_output(scores, ("exact_match",), examples=2)
    setting = harness_record(output, {"copa": samples}, "m").tasks["copa"].settings[0]
    assert setting.score == 50
    assert setting.templates[0].each["value"] == [1.0, 0.0]
    assert setting.templates[0].extra == {"exact_match (flexible-extract)": 100}
