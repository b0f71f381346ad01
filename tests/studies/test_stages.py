"""Stages of a study: seeds, arms, references and commands; those of the shipped studies are valid at every scale."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metalm_cli.config import resolve, split_arguments
from metalm_cli.errors import MetalmError
from metalm_cli.miniworld.tasks import task_rows
from metalm_cli.studies.expand import stages_of_arms
from metalm_cli.studies.load import list_studies, load_study
from metalm_cli.studies.stages import Stage, default_folder, study_stages
from study_fixtures import SMALL, small_study

SCALES = [(name, scale) for name in list_studies() for scale in load_study(name).file.scales]


def by_name(stages: list[Stage]) -> dict[str, Stage]:
    return {stage.name: stage for stage in stages}


def recipe_of(stage: Stage):
    verb, recipe, *arguments = stage.arguments
    values = [argument for argument in arguments if "=" in argument and not argument.startswith(("-", "/", "./"))]
    flags = {"model.checkpoint": arguments[arguments.index("--model") + 1]} if "--model" in arguments else {}
    if "--hold-out" in arguments:
        flags["data.hold_out"] = [arguments[arguments.index("--hold-out") + 1]]
    parsed, overrides = split_arguments([recipe, *values])
    return resolve(verb, parsed, overrides, flags).recipe


@pytest.mark.parametrize(("name", "scale"), SCALES)
def test_required_stages_come_first_and_outputs_differ(name, scale):
    before: set[str] = set()
    stages = study_stages(load_study(name), scale, Path("runs/x"))
    for stage in stages:
        assert before.issuperset(stage.requires), stage.name
        assert stage.name not in before
        before.add(stage.name)
        assert stage.cost >= 0
        assert len(f"{stage.summary}: {stage.purpose}") < 125, stage.name
    assert len({path for stage in stages for path in stage.outputs}) == sum(len(stage.outputs) for stage in stages)


@pytest.mark.parametrize("scale", load_study("world").file.scales)
def test_all_outputs_are_in_the_folder_whatever_its_name(scale, tmp_path):
    out = tmp_path / "a: strange, [name] {encoder} \"with\" 'quotes' ä"
    for stage in study_stages(load_study("world"), scale, out):
        assert all(out in path.parents for path in stage.outputs)
        if stage.arguments[0] in ("evaluate", "report"):
            continue
        resolved = recipe_of(stage)
        assert resolved.train.steps == stage.steps
        encoder = getattr(resolved.model, "encoders", {}).get("text")
        if encoder is not None and encoder.checkpoint is not None:
            assert encoder.checkpoint == str(stage.outputs[0].parent / "encoder/model")
            assert encoder.max_length == 256
        if getattr(resolved.data, "match_input_lengths_of", None):
            (reader,) = resolved.data.match_input_lengths_of
            assert (reader.tokenizer, reader.length) == (str(stage.outputs[0].parent / "encoder/model"), 256)


def test_twins_of_the_demo_differ_from_the_metalm_only_in_the_encoder():
    metalm, gpt, total = (resolve("pretrain", f"demo/{name}").recipe for name in ("metalm", "gpt", "gpt-total"))
    assert metalm.model.decoder == gpt.model.decoder
    assert metalm.train == gpt.train == total.train
    assert metalm.data.sources == gpt.data.sources
    assert gpt.data.validation.objective == metalm.objective
    assert not gpt.model.encoders
    assert not total.model.encoders
    assert total.model.decoder.config["num_hidden_layers"] == 2 * gpt.model.decoder.config["num_hidden_layers"]


def test_evaluations_compare_all_arms():
    full = by_name(study_stages(load_study("world"), "full", Path("/demo")))["instructed-2"]
    assert full.arguments[1] == "/demo/seed-2/instruct-metalm"
    assert [full.arguments[index + 1] for index, argument in enumerate(full.arguments) if argument == "--versus"] == [
        "/demo/seed-2/instruct-gpt",
        "/demo/seed-2/instruct-gpt-total",
    ]
    assert [path.name for path in full.outputs] == ["instructed.json", "instructed-2.json", "instructed-3.json"]
    assert "--limit" not in full.arguments


def test_relative_folders_cannot_be_mistaken_for_repositories():
    for stage in study_stages(load_study("world"), "standard", Path("runs/demo")):
        if "--model" in stage.arguments:
            assert stage.arguments[stage.arguments.index("--model") + 1].startswith("./")


def test_the_demos_claims_cover_the_tasks_of_the_world_that_have_a_chance_level():
    tasks = {task for claim in load_study("world").file.claims for task in claim.tasks}
    free_answers = {"world_passages", "world_facts", "world_triples", "world_gist"}
    assert tasks == {f"world_{name}" for name in task_rows.TASKS} - free_answers


def test_a_scale_an_arm_and_a_stage_set_recipe_values(tmp_path):
    stages = by_name(study_stages(small_study(tmp_path), "cpu", Path("r")))
    metalm, gpt = recipe_of(stages["tuned-metalm-0"]), recipe_of(stages["tuned-gpt-1"])
    assert (metalm.train.steps, gpt.train.steps) == (40, 40)
    assert (metalm.train.batch_size, gpt.train.batch_size) == (8, 4)
    assert (metalm.train.seed, gpt.train.seed) == (0, 1)
    assert stages["tuned-gpt-1"].summary == "GPT, trained"
    assert (stages["tuned-gpt-1"].cost, stages["scores-0"].cost, stages["encoder-0"].is_recorded) == (30, 6, False)
    scores = stages["scores-1"]
    assert scores.arguments[:4] == ("evaluate", "./r/seed-1/tuned-metalm", "--versus", "./r/seed-1/tuned-gpt")
    assert scores.arguments[4:6] == ("--versus", "gpt2")
    assert "--limit" in scores.arguments
    assert scores.requires == ("tuned-metalm-1", "tuned-gpt-1")
    assert [stage.name for stage in stages.values() if stage.name.startswith("encoder")] == ["encoder-0", "encoder-1"]
    assert "encoder" not in by_name(study_stages(small_study(tmp_path), "gpu", Path("r")))


def test_headline_stages_have_more_seeds_and_share_what_they_need(tmp_path):
    text = (
        SMALL.replace("seeds: [0, 1]", "headline_seeds: [0, 1, 2]")
        .replace(
            "group: train",
            "group: train\n    headline: true\n    overrides: {model.encoders.text.checkpoint: '{encoder}/model'}",
        )
        .replace("scales: [cpu]}", "}")
        .replace("arms: [metalm, gpt]", "arms: [metalm]")
        .replace("tuned-gpt", "reference")
    )
    study = small_study(tmp_path, text)
    stages = by_name(study_stages(study, "cpu", Path("r")))
    names = {"encoder-0", "tuned-metalm-0", "tuned-metalm-1", "tuned-metalm-2", "scores-0", "report"}
    assert set(stages) == names
    assert stages["tuned-metalm-2"].requires == ("encoder-0",)
    assert 'checkpoint="./r/seed-0/encoder/model"' in " ".join(stages["tuned-metalm-2"].arguments)


def test_other_seeds_keep_the_folders_and_commands_of_the_first(tmp_path):
    study = small_study(tmp_path)
    for scale in ("cpu", "gpu"):  # two seeds, and a single one that has no folder of its own
        first = by_name(study_stages(study, scale, Path("r")))
        more = by_name(study_stages(study, scale, Path("r"), [*study.scale(scale).seeds, 7]))
        for name, stage in first.items():
            if name != "report":
                assert (more[name].arguments, more[name].command_hash) == (stage.arguments, stage.command_hash)
        assert more["tuned-gpt-7"].outputs == (Path("r/seed-7/tuned-gpt"),)


def test_command_hashes_depend_on_neither_folder_nor_options(tmp_path):
    study = load_study("world")
    hashes = [stage.command_hash for stage in study_stages(study, "quick", Path("runs/demo"))]
    other = study_stages(study, "quick", Path("elsewhere/mine"), None, ["--offline"])
    assert hashes == [stage.command_hash for stage in other]
    assert len(set(hashes)) == len(hashes)
    assert all("--offline" in stage.arguments for stage in other[:-1])
    changed = small_study(tmp_path, SMALL.replace("train.steps: 40", "train.steps: 41"))
    before, after = (by_name(study_stages(each, "cpu", Path("r"))) for each in (small_study(tmp_path / "b"), changed))
    assert {name for name in before if before[name].command_hash != after[name].command_hash} == {
        f"tuned-{arm}-{seed}" for arm in ("metalm", "gpt") for seed in (0, 1)
    }


def test_an_invalid_recipe_names_its_stage(tmp_path):
    study = small_study(tmp_path, SMALL.replace("train.steps: 40", "train.stepps: 40"))
    with pytest.raises(MetalmError, match="the stage tuned-metalm of the study small cannot run") as caught:
        study_stages(study, "cpu", Path("r"))
    assert "stepps" in caught.value.why
    assert "did you mean" in caught.value.remedy


def test_the_example_of_the_documentation_is_a_study(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "studies.md").read_text(encoding="utf-8")
    example = page.partition("```yaml\n")[2].partition("```")[0]
    (tmp_path / "reviews.yaml").write_text(example, encoding="utf-8")
    stages = study_stages(load_study(tmp_path / "reviews.yaml"), "cpu", Path("r"))
    assert len(stages) == 3 * 6 + 1
    assert recipe_of(by_name(stages)["tuned-metalm-2"]).model.trains.decoder == "all"


def test_folders_of_studies():
    demo, world, multitask = load_study("demo"), load_study("world"), load_study("multitask")
    assert [str(default_folder(demo, scale)) for scale in ("standard", "full")] == ["runs/demo", "runs/demo-full"]
    assert str(default_folder(multitask, "cpu")) == "runs/multitask-cpu"
    assert stages_of_arms(world.file, "quick")[0].label == "encoder"


def test_options_name_the_folder_of_the_study():
    study = load_study("demo")
    stages = {stage.name: stage for stage in study_stages(study, "quick", Path("runs/demo"))}
    arguments = stages["everyday"].arguments
    cards = Path(arguments[arguments.index("--cards") + 1])
    assert cards == study.path.parent / "everyday" / "cards"
    rows = [json.loads(line) for line in (cards / "everyday.jsonl").read_text().splitlines()]
    assert len({row["text"] for row in rows}) == 20
    assert sum(row["label"] for row in rows) == 10


SEPARATE = "    separately: true\n    options: --cluster world"


def test_models_evaluated_separately_have_a_stage_and_a_file_each(tmp_path):
    study = small_study(tmp_path, SMALL.replace("    options: --cluster world", SEPARATE))
    stages = by_name(study_stages(study, "cpu", Path("r")))
    names = [name for name in stages if name.startswith("scores") and name.endswith("-1")]
    assert names == ["scores-tuned-metalm-1", "scores-tuned-gpt-1", "scores-reference-1"]
    for name, model in zip(names, ("./r/seed-1/tuned-metalm", "./r/seed-1/tuned-gpt", "gpt2"), strict=True):
        stage = stages[name]
        assert stage.arguments[:2] == ("evaluate", model)
        assert "--versus" not in stage.arguments
        assert stage.outputs == (Path(f"r/seed-1/results/{name.removesuffix('-1')}.json"),)
        assert (stage.cost, stage.kind) == (2, name.removesuffix("-1"))
    assert stages["scores-tuned-gpt-1"].requires == ("tuned-gpt-1",)
    assert len({stage.command_hash for stage in stages.values()}) == len(stages)


def test_recipe_values_name_the_folder_of_the_study(tmp_path):
    text = SMALL.replace(
        "train: {train.steps: 40}", "train: {train.steps: 40, 'data.sources.0.path': '{study}/rows.jsonl'}"
    )
    stage = by_name(study_stages(small_study(tmp_path, text), "cpu", Path("r")))["tuned-gpt-0"]
    assert f'data.sources.0.path="{tmp_path}/rows.jsonl"' in stage.arguments
    assert stage.requires == ()
