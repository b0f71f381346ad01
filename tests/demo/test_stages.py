"""What the demo does, as data: commands that parse, needs that come first, one folder for all of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from metalm_cli.config import resolve, split_arguments
from metalm_cli.demo.expectations import EXPECTED, IN_CONTEXT, WITHOUT_CHANCE, describe, describe_briefly
from metalm_cli.demo.stages import BUDGETS, HELD_OUT, READS, SINGLE, stages_of
from metalm_cli.miniworld.tasks import task_rows


@pytest.mark.parametrize("size", BUDGETS)
def test_what_a_stage_needs_comes_before_it(size):
    before: set[str] = set()
    stages = stages_of(BUDGETS[size], Path("runs/demo"))
    for stage in stages:
        assert before.issuperset(stage.needs), stage.name
        assert stage.name not in before
        before.add(stage.name)
        assert stage.cost > 0
        assert len(f"{stage.what}: {stage.why}") < 125, stage.name
    assert len({place for stage in stages for place in stage.makes}) == sum(len(stage.makes) for stage in stages)


@pytest.mark.parametrize("size", BUDGETS)
def test_everything_lies_in_the_demos_folder_whatever_its_name(size, tmp_path):
    out = tmp_path / "a: strange, [name] \"with\" 'quotes' ä"
    for stage in stages_of(BUDGETS[size], out):
        assert all(out in place.parents for place in stage.makes)
        verb, recipe, *rest = stage.arguments
        if verb in ("evaluate", "report"):
            continue
        values = [one for one in rest if "=" in one and not one.startswith(("-", "/"))]
        flags = {"model.checkpoint": rest[rest.index("--model") + 1]} if "--model" in rest else {}
        if "--hold-out" in rest:
            flags["data.hold_out"] = [rest[rest.index("--hold-out") + 1]]
        found, overrides = split_arguments([recipe, *values])
        resolved = resolve(verb, found, overrides, flags).recipe
        assert resolved.train.steps == stage.steps
        encoder = getattr(resolved.model, "encoders", {}).get("text")
        if encoder is not None and encoder.checkpoint is not None:
            assert encoder.checkpoint == str(stage.makes[0].parent / "encoder/model")
            assert encoder.max_length == READS
        if getattr(resolved.data, "also_fit", None):
            assert resolved.data.match_input_lengths_of[0].tokenizer == str(stage.makes[0].parent / "encoder/model")


def test_twins_differ_from_the_metalm_in_nothing_but_the_encoder():
    metalm, gpt, total = (resolve("pretrain", f"demo/{name}").recipe for name in ("metalm", "gpt", "gpt-total"))
    assert metalm.model.decoder == gpt.model.decoder
    assert metalm.train == gpt.train == total.train
    assert metalm.data.sources == gpt.data.sources
    assert gpt.data.validation.objective == metalm.objective
    assert not gpt.model.encoders
    assert not total.model.encoders
    assert total.model.decoder.config["num_hidden_layers"] == 2 * gpt.model.decoder.config["num_hidden_layers"]


def test_evaluations_lay_all_arms_side_by_side():
    (full,) = [stage for stage in stages_of(BUDGETS["full"], Path("/demo")) if stage.name == "instructed-2"]
    assert full.arguments[1] == "/demo/seed-2/instruct-metalm"
    assert [full.arguments[at + 1] for at, one in enumerate(full.arguments) if one == "--versus"] == [
        "/demo/seed-2/instruct-gpt",
        "/demo/seed-2/instruct-gpt-total",
    ]
    names = ["instructed.json", "instructed-2.json", "instructed-3.json"]
    assert [place.name for place in full.makes] == names
    assert "--limit" not in full.arguments


def test_relative_folders_are_never_taken_for_repositories():
    for stage in stages_of(BUDGETS["standard"], Path("runs/demo")):
        if "--model" in stage.arguments:
            assert stage.arguments[stage.arguments.index("--model") + 1].startswith("./")


def test_the_report_comes_last_and_is_of_all_runs():
    *others, report = stages_of(BUDGETS["quick"], Path("d"))
    assert report.name == "report"
    assert {str(stage.run) for stage in others if stage.run} <= set(report.arguments)


def test_expectations_are_of_tasks_of_the_world():
    assert sorted([*EXPECTED, *WITHOUT_CHANCE]) == sorted(f"world_{name}" for name in task_rows.TASKS)
    assert SINGLE.removeprefix("world_") in task_rows.TASKS
    assert all(one.why for one in EXPECTED.values())
    assert HELD_OUT in json.dumps([stage.arguments for stage in stages_of(BUDGETS["standard"], Path("d"))])


def test_expectations_are_told_of_every_task_and_in_context():
    words = "\n".join(describe())
    for told in (words, describe_briefly()):
        assert all(task.removeprefix("world_") in told for task in [*EXPECTED, *WITHOUT_CHANCE])
        assert "retrained models in context: not above chance on any task" in told
    assert IN_CONTEXT.why in words


def test_marks_are_of_the_command_wherever_the_demo_lies():
    marks = [stage.mark for stage in stages_of(BUDGETS["quick"], Path("runs/demo"))]
    assert marks == [stage.mark for stage in stages_of(BUDGETS["quick"], Path("elsewhere/mine"))]
    assert len(set(marks)) == len(marks)
    longer = replace(BUDGETS["quick"], single=("train.steps=11",))
    assert sum(one.mark not in marks for one in stages_of(longer, Path("runs/demo"))) == 1
