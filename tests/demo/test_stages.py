"""Stages of the demo: commands that parse, requirements that come first, one folder for all outputs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from metalm_cli.config import resolve, split_arguments
from metalm_cli.demo.expectations import EXPECTED, IN_CONTEXT, WITHOUT_CHANCE, describe, describe_briefly
from metalm_cli.demo.stages import ENCODER_LENGTH, HELD_OUT_CLUSTER, SINGLE_TASK, SIZES, demo_stages
from metalm_cli.miniworld.tasks import task_rows


@pytest.mark.parametrize("size", SIZES)
def test_required_stages_come_first(size):
    before: set[str] = set()
    stages = demo_stages(SIZES[size], Path("runs/demo"))
    for stage in stages:
        assert before.issuperset(stage.requires), stage.name
        assert stage.name not in before
        before.add(stage.name)
        assert stage.cost > 0
        assert len(f"{stage.summary}: {stage.purpose}") < 125, stage.name
    assert len({path for stage in stages for path in stage.outputs}) == sum(len(stage.outputs) for stage in stages)


@pytest.mark.parametrize("size", SIZES)
def test_all_outputs_are_in_the_folder_of_the_demo_whatever_its_name(size, tmp_path):
    out = tmp_path / "a: strange, [name] \"with\" 'quotes' ä"
    for stage in demo_stages(SIZES[size], out):
        assert all(out in path.parents for path in stage.outputs)
        verb, recipe, *arguments = stage.arguments
        if verb in ("evaluate", "report"):
            continue
        values = [argument for argument in arguments if "=" in argument and not argument.startswith(("-", "/"))]
        flags = {"model.checkpoint": arguments[arguments.index("--model") + 1]} if "--model" in arguments else {}
        if "--hold-out" in arguments:
            flags["data.hold_out"] = [arguments[arguments.index("--hold-out") + 1]]
        parsed_recipe, overrides = split_arguments([recipe, *values])
        resolved = resolve(verb, parsed_recipe, overrides, flags).recipe
        assert resolved.train.steps == stage.steps
        encoder = getattr(resolved.model, "encoders", {}).get("text")
        if encoder is not None and encoder.checkpoint is not None:
            assert encoder.checkpoint == str(stage.outputs[0].parent / "encoder/model")
            assert encoder.max_length == ENCODER_LENGTH
        if getattr(resolved.data, "match_input_lengths_of", None):
            assert resolved.data.match_input_lengths_of[0].tokenizer == str(stage.outputs[0].parent / "encoder/model")


def test_twins_differ_from_the_metalm_only_in_the_encoder():
    metalm, gpt, total = (resolve("pretrain", f"demo/{name}").recipe for name in ("metalm", "gpt", "gpt-total"))
    assert metalm.model.decoder == gpt.model.decoder
    assert metalm.train == gpt.train == total.train
    assert metalm.data.sources == gpt.data.sources
    assert gpt.data.validation.objective == metalm.objective
    assert not gpt.model.encoders
    assert not total.model.encoders
    assert total.model.decoder.config["num_hidden_layers"] == 2 * gpt.model.decoder.config["num_hidden_layers"]


def test_evaluations_compare_all_arms():
    (full,) = [stage for stage in demo_stages(SIZES["full"], Path("/demo")) if stage.name == "instructed-2"]
    assert full.arguments[1] == "/demo/seed-2/instruct-metalm"
    assert [full.arguments[index + 1] for index, argument in enumerate(full.arguments) if argument == "--versus"] == [
        "/demo/seed-2/instruct-gpt",
        "/demo/seed-2/instruct-gpt-total",
    ]
    names = ["instructed.json", "instructed-2.json", "instructed-3.json"]
    assert [path.name for path in full.outputs] == names
    assert "--limit" not in full.arguments


def test_relative_folders_cannot_be_mistaken_for_repositories():
    for stage in demo_stages(SIZES["standard"], Path("runs/demo")):
        if "--model" in stage.arguments:
            assert stage.arguments[stage.arguments.index("--model") + 1].startswith("./")


def test_the_report_comes_last_and_covers_all_runs():
    *others, report = demo_stages(SIZES["quick"], Path("d"))
    assert report.name == "report"
    assert {str(stage.run) for stage in others if stage.run} <= set(report.arguments)


def test_expectations_cover_the_tasks_of_the_world():
    assert sorted([*EXPECTED, *WITHOUT_CHANCE]) == sorted(f"world_{name}" for name in task_rows.TASKS)
    assert SINGLE_TASK.removeprefix("world_") in task_rows.TASKS
    assert all(expectation.reason for expectation in EXPECTED.values())
    assert HELD_OUT_CLUSTER in json.dumps([stage.arguments for stage in demo_stages(SIZES["standard"], Path("d"))])


def test_descriptions_cover_every_task_and_in_context_models():
    words = "\n".join(describe())
    for text in (words, describe_briefly()):
        assert all(task.removeprefix("world_") in text for task in [*EXPECTED, *WITHOUT_CHANCE])
        assert "retrained models in context: not above chance on any task" in text
    assert IN_CONTEXT.reason in words


def test_command_hashes_do_not_depend_on_the_folder():
    hashes = [stage.command_hash for stage in demo_stages(SIZES["quick"], Path("runs/demo"))]
    assert hashes == [stage.command_hash for stage in demo_stages(SIZES["quick"], Path("elsewhere/mine"))]
    assert len(set(hashes)) == len(hashes)
    longer = replace(SIZES["quick"], single=("train.steps=11",))
    assert sum(stage.command_hash not in hashes for stage in demo_stages(longer, Path("runs/demo"))) == 1
