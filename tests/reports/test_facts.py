"""Summaries of run folders: complete, unfinished and damaged."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
from pathlib import Path

import pytest

from metalm_cli.errors import MetalmError
from metalm_cli.reports import read_run, read_runs
from metalm_cli.reports.reading.evaluation_summary import confusion_matrix
from metalm_cli.reports.reading.find_runs import report_folder
from metalm_cli.runs.folder import RunFolder
from report_fixtures import records, write_json, write_results, write_run


def test_a_complete_run_has_no_problems(tmp_path: Path) -> None:
    run = write_run(tmp_path / "tiny")
    write_results(run)
    facts = read_run(run)
    assert (facts.name, facts.state, facts.state_text, facts.steps) == ("tiny", "finished", "finished", 40)
    assert [record["step"] for record in facts.training] == [10, 20, 30, 40]
    assert [record["step"] for record in facts.validation] == [20, 40]
    assert facts.recipe["train"]["seed"] == 7
    assert facts.problems == ()
    names = {file.name for file in facts.files}
    assert names == {
        "recipe.yaml",
        "metrics.jsonl",
        "data.json",
        "environment.json",
        "sessions.json",
        "model",
        "in_context-rte.json",
    }


def test_results_are_parsed(tmp_path: Path) -> None:
    run = write_run(tmp_path / "tiny")
    write_results(run)
    (evaluation,) = read_run(run).evaluations
    rte, mrpc = evaluation.tasks
    assert (rte.task, rte.cluster, rte.score, rte.low, rte.high, rte.chance) == ("rte", "nli", 65.0, 53.0, 73.0, 55.0)
    assert [(w.template, w.score, w.low, w.high) for w in rte.templates] == [
        ("one", 60.0, 51.0, 71.0),
        ("two", 70.0, 61.0, 81.0),
    ]
    assert (rte.oracle, rte.spread, rte.seen) == (("two", 70.0), 7.07, "held out")
    nli, paraphrase = evaluation.clusters
    assert (nli.low, nli.high) == (53.0, 73.0), "the interval of the only task"
    assert (paraphrase.low, paraphrase.high) == (71.0, 91.0)
    (mean,) = evaluation.means
    assert (mean.value, mean.low, mean.high) == (72.5, 72.5 - math.hypot(12, 9) / 2, 72.5 + math.hypot(8, 11) / 2)
    assert (mrpc.metric, mrpc.spread, mrpc.oracle) == ("f1", None, None)


def test_confusions_of_answers_and_of_classes(tmp_path: Path) -> None:
    run = write_run(tmp_path / "tiny")
    write_results(run)
    rte, mrpc = read_run(run).evaluations[0].tasks
    assert rte.confusion is not None
    assert (rte.confusion.targets, rte.confusion.predictions) == (("no", "yes"), ("no", "yes", "another answer"))
    assert rte.confusion.counts == ((0, 5, 5), (0, 10, 0))
    assert mrpc.confusion is not None
    assert (mrpc.confusion.targets, mrpc.confusion.predictions) == (("no", "yes"), ("no", "yes", "another answer"))
    assert mrpc.confusion.counts == ((3, 1, 0), (0, 3, 1))


def test_free_answers_are_not_classes() -> None:
    assert confusion_matrix([(f"answer {index}", "x") for index in range(40)], "one") is None
    assert confusion_matrix([("a", "a"), ("b", "b")], "one") is None, "too few examples"
    assert confusion_matrix([("a", "a")] * 40, "one") is None, "a single class"


def test_damaged_lines_are_reported_and_the_others_are_read(tmp_path: Path) -> None:
    run = write_run(tmp_path / "tiny")
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    lines[1] = '{"step": 20, "lo'
    lines.append(json.dumps({"split": "train", "loss": 1.0}))
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    facts = read_run(run)
    assert [record["step"] for record in facts.training] == [10, 30, 40]
    assert "metrics.jsonl: line 2 is damaged and left out" in facts.problems
    assert "metrics.jsonl: records without a step, left out: 1" in facts.problems


def test_every_file_may_be_damaged(tmp_path: Path) -> None:
    run = write_run(tmp_path / "tiny")
    samples = write_results(run).with_name("in_context-rte.samples.jsonl")
    samples.write_text(samples.read_text(encoding="utf-8") + '{"id": 3', encoding="utf-8")
    write_json(run / "results" / "b.json", {"format": 2, "tasks": {"rte": {}}})
    write_json(run / "results" / "old.json", {"format": 1, "tasks": {}})
    (run / "results" / "torn.json").write_text('{"format": 2', encoding="utf-8")
    write_json(run / "results" / "list.json", [1])
    for name in ("environment.json", "data.json", "sessions.json", "model/lineage.json"):
        (run / name).write_bytes(b"\xff\x00{")
    (run / "recipe.yaml").write_text("a: [", encoding="utf-8")
    problems = "\n".join(read_run(run).problems)
    assert "results/old.json is left out: results of format 1 cannot be read" in problems
    for name in ("b.json", "torn.json", "list.json", "samples.jsonl: 1 damaged line", "recipe.yaml"):
        assert name in problems
    for name in ("environment.json", "data.json", "sessions.json", "lineage.json"):
        assert f"{name} cannot be read" in problems
    assert len(read_run(run).evaluations) == 1


def test_a_stopped_run_is_reported(tmp_path: Path) -> None:
    run = write_run(tmp_path / "tiny", finished=False, metrics=records([10, 20]))
    facts = read_run(run)
    assert facts.state == "unfinished"
    assert facts.problems[0].startswith("the run is not finished: stopped or crashed after step 20 of 40; --resume")
    assert any("there is no evaluation yet: metalm evaluate" in problem for problem in facts.problems)


def test_an_encoder_alone_has_no_note_on_evaluation(tmp_path: Path) -> None:
    run = write_run(tmp_path / "tiny")
    for model, is_reported in [
        ("{decoder: null, encoders: {text: {}}}", False),
        ("{decoder: {checkpoint: gpt2}}", True),
        ("{decoder: null, checkpoint: runs/base}", True),
        ("[]", True),
    ]:
        recipe = (run / "recipe.yaml").read_text(encoding="utf-8").partition("model:")[0]
        (run / "recipe.yaml").write_text(f"{recipe}model: {model}\n", encoding="utf-8")
        assert any("no evaluation" in problem for problem in read_run(run).problems) is is_reported


def test_a_run_with_results_in_another_folder_is_evaluated(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name) for name in ("one", "two", "three")]
    write_results(tmp_path / "scores", "a", source=str(runs[0]))
    write_results(tmp_path / "scores", "b", source=str(runs[1] / "model"))
    summaries = read_runs([*runs, tmp_path / "scores"])
    not_evaluated = [any("no evaluation" in problem for problem in run.problems) for run in summaries]
    assert not_evaluated == [False, False, True, False]
    assert [[evaluation.path.stem for evaluation in run.external_evaluations] for run in summaries] == [
        ["a"],
        ["b"],
        [],
        [],
    ]


def test_results_that_were_moved_with_their_runs_are_found(tmp_path: Path) -> None:
    run = write_run(tmp_path / "new" / "one")
    write_run(tmp_path / "new" / "gpt2")
    write_results(tmp_path / "new", "a", source="./runs/old/one/model")
    write_results(tmp_path / "new", "b", source="openai/gpt2")
    names = {
        run.name: [evaluation.path.stem for evaluation in run.external_evaluations]
        for run in read_runs([tmp_path / "new"])
    }
    assert names == {"gpt2": [], "one": ["a"], "results": []}, "the name of a hub repository is not a path"
    write_results(tmp_path / "new", "a", source=str(write_run(tmp_path / "elsewhere" / "one")))
    assert read_runs([run, tmp_path / "new" / "results"])[0].external_evaluations == (), (
        "the results belong to the existing run"
    )


@pytest.mark.parametrize(
    ("sources", "clusters"),
    [
        ([{"name": "rte", "kind": "hub"}, {"name": "sst2", "kind": "hub"}, {"name": "cb"}], "nli,sentiment"),
        ([{"name": "world_facts", "kind": "world"}, {"name": "documents", "kind": "world"}], "world"),
        ([{"name": "world_facts", "kind": "world"}, {"name": "rte"}], "nli,world"),
        ([{"name": "pile", "kind": "hub"}, {"name": ["a"]}], "core"),
        ([], "core"),
    ],
)
def test_a_run_is_evaluated_on_its_training_clusters(
    tmp_path: Path, sources: list[dict[str, object]], clusters: str
) -> None:
    run = write_run(tmp_path / "tiny")
    write_json(run / "data.json", {"sources": sources})
    assert read_run(run).problems[-1] == f"there is no evaluation yet: metalm evaluate {run} --cluster {clusters}"


def _hold(path: str, ready: object, finished: object) -> None:
    with RunFolder.create(Path(path), "tiny", resume=True):
        ready.set()  # type: ignore[attr-defined]
        finished.wait(30)  # type: ignore[attr-defined]


def test_a_running_run_is_reported_and_keeps_its_lock(tmp_path: Path) -> None:
    run = write_run(tmp_path / "tiny", finished=False)
    context = multiprocessing.get_context("spawn")
    ready, finished = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(str(run), ready, finished))
    other.start()
    try:
        assert ready.wait(60)
        assert read_run(run).state_text == "still running, step 40 of 40 logged"
        with pytest.raises(MetalmError, match="another process is writing this run"):
            RunFolder.create(run, "tiny", resume=True)
    finally:
        finished.set()
        other.join()


def test_a_run_that_has_just_started(tmp_path: Path) -> None:
    run = write_run(tmp_path / "tiny", finished=False, metrics=[])
    assert "no training step is logged yet" in read_run(run).problems
    (run / "metrics.jsonl").unlink()
    assert "metrics.jsonl is missing: there are no curves" in read_run(run).problems


def test_values_that_are_not_finite_are_reported(tmp_path: Path) -> None:
    metrics = [{"step": 10, "split": "train", "loss": None, "nonfinite": ["loss"]}, *records([20])]
    facts = read_run(write_run(tmp_path / "tiny", metrics=metrics))
    assert "values are not finite in 1 logged step, first at step 10" in facts.problems


def test_folders_of_seeds_models_and_results_name_runs(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / "many" / f"seed-{seed}")
    assert [run.name for run in read_runs([tmp_path / "many"])] == ["seed-0", "seed-1"]
    assert [run.name for run in read_runs([tmp_path / "many" / "seed-1" / "model"])] == ["seed-1"]
    write_results(tmp_path / "gpt2")
    (run,) = read_runs([tmp_path / "gpt2" / "results"])
    assert (run.state, len(run.evaluations)) == ("evaluated", 1)


def begin(*runs: Path) -> None:
    """Write runs that were started one after another."""
    for index, run in enumerate(runs):
        write_run(run)
        os.utime(run / "recipe.yaml", (index, index))


def test_a_folder_of_runs_and_results_names_both(tmp_path: Path) -> None:
    begin(tmp_path / "b", tmp_path / "a")
    (tmp_path / "latest").symlink_to("b", target_is_directory=True)
    write_results(tmp_path, source=str(tmp_path / "a"))
    assert [run.name for run in read_runs([tmp_path])] == ["b", "a", "results"]
    assert report_folder(tmp_path) == tmp_path


def test_a_demo_names_its_runs_in_the_order_of_their_start(tmp_path: Path) -> None:
    names = ["encoder", "metalm", "gpt", "instruct-metalm", "another"]
    begin(*(tmp_path / name for name in names))
    write_json(tmp_path / "demo.json", {"format": 1, "size": "standard", "stages": {}})
    assert [run.name for run in read_runs([tmp_path])] == names, "also without results"
    write_results(tmp_path)
    assert [run.name for run in read_runs([tmp_path])] == [*names, "results"]


def test_a_demo_of_several_seeds_names_all_runs(tmp_path: Path) -> None:
    begin(*(tmp_path / f"seed-{seed}" / name for seed in (0, 1) for name in ("metalm", "gpt")))
    write_results(tmp_path / "seed-0")
    write_json(tmp_path / "demo.json", {"format": 1, "size": "full", "stages": {}})
    of_seeds = ["seed-0/metalm", "seed-0/gpt", "seed-1/metalm", "seed-1/gpt", "results"]
    assert [run.name for run in read_runs([tmp_path])] == of_seeds
    assert [run.name for run in read_runs([tmp_path / "seed-0"])] == ["metalm", "gpt", "results"]
    assert report_folder(tmp_path / "seed-1" / "gpt" / "model") == tmp_path / "seed-1" / "gpt"


def test_runs_of_the_same_name_get_unique_names(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / parent / "seed-0") for parent in ("a", "b")]
    assert [run.name for run in read_runs([*paths, paths[0]])] == ["a/seed-0", "b/seed-0"]


def test_paths_without_a_run_are_errors(tmp_path: Path) -> None:
    with pytest.raises(MetalmError, match="the run does not exist"):
        read_runs([tmp_path / "none"])
    write_run(tmp_path / "one")
    with pytest.raises(MetalmError) as caught:
        read_runs([tmp_path])
    assert "name one of the runs in it" in caught.value.remedy
    with pytest.raises(MetalmError, match="this is a file"):
        read_runs([tmp_path / "one" / "recipe.yaml"])
