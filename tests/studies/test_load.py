"""Reading of studies: by name and path, and one error that lists every wrong name with its line."""

from __future__ import annotations

import pytest

from metalm_cli.cli.completion import complete_study
from metalm_cli.errors import MetalmError
from metalm_cli.studies.load import list_studies, load_study
from study_fixtures import SMALL, small_study


def fault(tmp_path, old: str, new: str) -> MetalmError:
    """The error of a study with a text replaced."""
    assert old in SMALL
    with pytest.raises(MetalmError) as caught:
        small_study(tmp_path, SMALL.replace(old, new, 1))
    return caught.value


def line_of(text: str, part: str) -> int:
    return text[: text.index(part)].count("\n") + 1


def test_every_shipped_study_is_found_by_name_and_is_valid():
    names = list_studies()
    assert {"demo", "multitask", "encoder-only", "instruction", "in-context"} <= set(names)
    for name in names:
        study = load_study(name)
        assert study.name == name
        assert load_study(study.path).file == study.file
        assert study.file.claims
    (completion,) = complete_study("de")
    assert completion[0] == "demo"
    assert load_study("demo").file.description.startswith(completion[1].removesuffix("…"))


def test_a_study_is_found_by_path(tmp_path):
    study = small_study(tmp_path)
    assert (study.name, study.default_scale) == ("small", "cpu")
    with pytest.raises(MetalmError, match="no scale cpuu") as caught:
        study.scale("cpuu")
    assert "did you mean cpu?" in caught.value.remedy


@pytest.mark.parametrize(
    ("name", "what", "remedy"),
    [
        ("multitas", "no study is named multitas", "did you mean multitask?"),
        ("./none.yaml", "study ./none.yaml not found", "give a YAML file"),
    ],
)
def test_an_unknown_study(name, what, remedy):
    with pytest.raises(MetalmError, match=what) as caught:
        load_study(name)
    assert remedy in caught.value.remedy


def test_a_file_without_its_ending_is_pointed_out(tmp_path, monkeypatch):
    small_study(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MetalmError) as caught:
        load_study("small")
    assert caught.value.remedy == "a path ends in .yaml or starts with ./: ./small.yaml"


@pytest.mark.parametrize(
    ("old", "new", "message", "remedy"),
    [
        ("arms: [metalm, gpt]", "arms: [metalm, gtp]", "stages.1.arms: no arm is named gtp", "did you mean gpt?"),
        (
            '"tuned-{arm}", ref',
            '"tunde-{arm}", ref',
            "evaluations.0.models: no stage or checkpoint",
            "did you mean tuned-",
        ),
        ("first: tuned-metalm", "first: tuned-metal", "claims.0.first: no model of the", "did you mean tuned-metalm?"),
        ("second: chance", "second: chances", "claims.1.second: no model of the", "did you mean chance?"),
        ("evaluation: scores", "evaluation: score", "claims.0.evaluation: no evaluation", "did you mean scores?"),
        (
            "second: tuned-gpt",
            "second: tuned-gpt\n    second_evaluation: score",
            "claims.0.second_evaluation: no evaluation",
            "did you mean scores?",
        ),
        (
            "second: tuned-gpt",
            "second: tuned-metalm\n    second_evaluation: scores",
            "claims.0.second: first and second are the same model",
            "name another model",
        ),
        (
            "second: chance",
            "second: chance\n    second_evaluation: scores",
            "claims.1.second_evaluation: second_evaluation needs the score of a model",
            "remove it",
        ),
        ("scales: [cpu]", "scales: [cup]", "stages.0.scales: no scale is named cup", "did you mean cpu?"),
        ("{train: {train", "{trian: {train", "scales.cpu.overrides.trian: no stage or", "did you mean train?"),
        ("{scores: --limit 8}", "{score: --limit 8}", "scales.cpu.options.score: no stage or", "did you mean scores?"),
        ("hours: 1", "hours: 0", "scales.cpu.hours: got 0, expected", ""),
        ("seeds: [0, 1]", "seeds: [0, 0]", "scales.cpu.seeds: a seed is listed twice", "list each seed once"),
        ("expected: agrees", "expected: agree", "claims.0.expected: got agree", "did you mean agrees?"),
        ("at_least: 1", "margin: x", "claims.1.margin: got x, expected a number", ""),
        ("    over: each\n", "", "claims.1.at_least: at_least needs over: each", "set over: each"),
        ("command: pretrain demo/encoder", "command: evaluate x", "stages.0.command: not a training command", "begin"),
        ("summary: an encoder", "sumary: an encoder", "stages.0.summary: missing", "summary"),
        ("name: encoder", "name: scores", "evaluations.0.name: scores is also on line", "choose another name"),
        ("name: encoder", "name: tuned-gpt", "stages.1.name: tuned-gpt is also on line", "choose another name"),
        (
            "name: encoder,",
            "name: encoder, keeps_decoder: true,",
            "stages.0.keeps_decoder: the stage has no base",
            "set base",
        ),
        ("name: tuned-{arm}", "name: tuned", "stages.1.name: a stage has {arm} in its name", "write {arm}"),
        ("second: chance", "second: recorded", "claims.1.second: recorded scores need second: recorded", "set both"),
        ("name: small", "name: large", "study large has the file name small.yaml", "rename the file to large.yaml"),
    ],
)
def test_one_fault_is_reported_with_its_line_and_a_remedy(tmp_path, old, new, message, remedy):
    error = fault(tmp_path, old, new)
    assert message in str(error)
    assert remedy in str(error)
    assert "small.yaml:" in str(error)


def test_the_line_of_a_wrong_name(tmp_path):
    error = fault(tmp_path, "arms: [metalm, gpt]", "arms: [metalm, gtp]")
    assert error.where.endswith(f"small.yaml:{line_of(SMALL, 'arms: [metalm, gpt]')}")


def test_all_faults_are_reported_at_once(tmp_path):
    text = SMALL.replace("[metalm, gpt]", "[metalm, gtp]").replace("[cpu]", "[cup]")
    with pytest.raises(MetalmError, match="study small has 2 problems"):
        small_study(tmp_path, text)


def with_reference(stage: str, other: str) -> str:
    """The study with a reference from a stage to another one."""
    key, text = ("    group: train", "    overrides: {model.encoders.text.checkpoint: '{%s}/model'}\n    group: train")
    if stage == "encoder":
        key, text = "name: encoder,", "name: encoder, base: %s,"
    return SMALL.replace(key, text % other, 1)


def test_a_stage_that_needs_an_unknown_stage(tmp_path):
    text = with_reference("tuned", "encodre")
    with pytest.raises(MetalmError, match="no stage is named encodre") as caught:
        small_study(tmp_path, text)
    assert "did you mean encoder?" in str(caught.value)
    assert f"small.yaml:{line_of(text, 'overrides: {model')}" in str(caught.value)


def test_a_stage_that_needs_a_stage_that_its_scale_leaves_out(tmp_path):
    with pytest.raises(MetalmError, match="uses the stage encoder, which the scale gpu leaves out"):
        small_study(tmp_path, with_reference("tuned", "encoder"))


def test_stages_that_need_each_other(tmp_path):
    text = with_reference("tuned", "encoder").replace("scales: [cpu]}", "base: tuned-gpt}")
    with pytest.raises(MetalmError, match="stages need each other: encoder -> tuned-gpt -> encoder"):
        small_study(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a mapping"),
        ("model: {}\n", "the file is not a study"),
        ("- a\n", "not a mapping"),
        ("scales: {cpu: {duration: x}}\nevaluations: [}\n", "not valid YAML"),
        ("scales: 3\nevaluations: []\n", "problems"),
    ],
)
def test_a_file_that_is_no_study(tmp_path, text, message):
    with pytest.raises(MetalmError, match=message):
        small_study(tmp_path, text)
