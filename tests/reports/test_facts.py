"""What is read of a run folder, whole, half-made and damaged."""

from __future__ import annotations

import json
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


def test_a_whole_run_has_no_problems(tmp_path: Path) -> None:
    run = write_run(tmp_path / "tiny")
    write_results(run)
    facts = read_run(run)
    assert (facts.name, facts.state, facts.state_text, facts.steps) == ("tiny", "finished", "finished", 40)
    assert [one["step"] for one in facts.training] == [10, 20, 30, 40]
    assert [one["step"] for one in facts.validation] == [20, 40]
    assert facts.recipe["train"]["seed"] == 7
    assert facts.problems == ()
    names = {one.name for one in facts.files}
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
    (one,) = read_run(run).evaluations
    rte, mrpc = one.tasks
    assert (rte.task, rte.cluster, rte.score, rte.low, rte.high, rte.chance) == ("rte", "nli", 65.0, 53.0, 73.0, 55.0)
    assert [(w.template, w.score, w.low, w.high) for w in rte.templates] == [
        ("one", 60.0, 51.0, 71.0),
        ("two", 70.0, 61.0, 81.0),
    ]
    assert (rte.oracle, rte.spread, rte.seen) == (("two", 70.0), 7.07, "held out")
    nli, paraphrase = one.clusters
    assert (nli.low, nli.high) == (53.0, 73.0), "of one task: its own, by resampling"
    assert (paraphrase.low, paraphrase.high) == (71.0, 91.0)
    (mean,) = one.means
    assert (mean.value, mean.low, mean.high) == (72.5, pytest.approx(72.5 - 1.96 * 2), pytest.approx(72.5 + 1.96 * 2))
    assert (mrpc.metric, mrpc.spread, mrpc.oracle) == ("f1", None, None)


def test_confusions_of_answers_and_of_classes(tmp_path: Path) -> None:
    run = write_run(tmp_path / "tiny")
    write_results(run)
    rte, mrpc = read_run(run).evaluations[0].tasks
    assert rte.confusion is not None
    assert (rte.confusion.right, rte.confusion.said) == (("no", "yes"), ("no", "yes", "another answer"))
    assert rte.confusion.counts == ((0, 5, 5), (0, 10, 0))
    assert mrpc.confusion is not None
    assert (mrpc.confusion.right, mrpc.confusion.said) == (("no", "yes"), ("no", "yes", "another answer"))
    assert mrpc.confusion.counts == ((3, 1, 0), (0, 3, 1))


def test_open_answers_are_no_classes() -> None:
    assert confusion_matrix([(f"answer {at}", "x") for at in range(40)], "one") is None
    assert confusion_matrix([("a", "a"), ("b", "b")], "one") is None, "too few examples to tell"
    assert confusion_matrix([("a", "a")] * 40, "one") is None, "one answer confuses nothing"


def test_damaged_lines_are_named_and_the_rest_is_read(tmp_path: Path) -> None:
    run = write_run(tmp_path / "tiny")
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    lines[1] = '{"step": 20, "lo'
    lines.append(json.dumps({"split": "train", "loss": 1.0}))
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    facts = read_run(run)
    assert [one["step"] for one in facts.training] == [10, 30, 40]
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
    said = "\n".join(read_run(run).problems)
    assert "results/old.json is left out: an older format (1); evaluate again" in said
    for name in ("b.json", "torn.json", "list.json", "samples.jsonl: 1 damaged line", "recipe.yaml"):
        assert name in said
    for name in ("environment.json", "data.json", "sessions.json", "lineage.json"):
        assert f"{name} cannot be read" in said
    assert len(read_run(run).evaluations) == 1


def test_a_run_that_stopped_says_so(tmp_path: Path) -> None:
    run = write_run(tmp_path / "tiny", finished=False, metrics=records([10, 20]))
    facts = read_run(run)
    assert facts.state == "unfinished"
    assert facts.problems[0].startswith("the run is not finished: stopped or crashed after step 20 of 40; --resume")
    assert any("there is no evaluation yet: metalm evaluate" in one for one in facts.problems)


def test_an_encoder_alone_is_not_told_to_be_evaluated(tmp_path: Path) -> None:
    run = write_run(tmp_path / "tiny")
    for model, said in [
        ("{decoder: null, encoders: {text: {}}}", False),
        ("{decoder: {checkpoint: gpt2}}", True),
        ("{decoder: null, checkpoint: runs/base}", True),
        ("[]", True),
    ]:
        recipe = (run / "recipe.yaml").read_text(encoding="utf-8").partition("model:")[0]
        (run / "recipe.yaml").write_text(f"{recipe}model: {model}\n", encoding="utf-8")
        assert any("no evaluation" in one for one in read_run(run).problems) is said


def test_a_run_whose_results_lie_elsewhere_is_evaluated(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name) for name in ("one", "two", "three")]
    write_results(tmp_path / "scores", "a", source=str(runs[0]))
    write_results(tmp_path / "scores", "b", source=str(runs[1] / "model"))
    read = read_runs([*runs, tmp_path / "scores"])
    said = [any("no evaluation" in one for one in run.problems) for run in read]
    assert said == [False, False, True, False]
    assert [[one.path.stem for one in run.elsewhere] for run in read] == [["a"], ["b"], [], []]


def test_results_that_were_moved_with_their_runs_are_found(tmp_path: Path) -> None:
    run = write_run(tmp_path / "new" / "one")
    write_run(tmp_path / "new" / "gpt2")
    write_results(tmp_path / "new", "a", source="./runs/old/one/model")
    write_results(tmp_path / "new", "b", source="openai/gpt2")
    read = {one.name: [each.path.stem for each in one.elsewhere] for one in read_runs([tmp_path / "new"])}
    assert read == {"gpt2": [], "one": ["a"], "results": []}, "a name of the hub is no place"
    write_results(tmp_path / "new", "a", source=str(write_run(tmp_path / "elsewhere" / "one")))
    assert read_runs([run, tmp_path / "new" / "results"])[0].elsewhere == (), "of the one that is still there"


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        ([{"name": "rte", "kind": "hub"}, {"name": "sst2", "kind": "hub"}, {"name": "cb"}], "nli,sentiment"),
        ([{"name": "world_facts", "kind": "world"}, {"name": "documents", "kind": "world"}], "world"),
        ([{"name": "world_facts", "kind": "world"}, {"name": "rte"}], "nli,world"),
        ([{"name": "pile", "kind": "hub"}, {"name": ["a"]}], "core"),
        ([], "core"),
    ],
)
def test_a_run_is_evaluated_on_what_it_was_trained_on(
    tmp_path: Path, sources: list[dict[str, object]], said: str
) -> None:
    run = write_run(tmp_path / "tiny")
    write_json(run / "data.json", {"sources": sources})
    assert read_run(run).problems[-1] == f"there is no evaluation yet: metalm evaluate {run} --cluster {said}"


def _hold(path: str, ready: object, done: object) -> None:
    with RunFolder.create(Path(path), "tiny", resume=True):
        ready.set()  # type: ignore[attr-defined]
        done.wait(30)  # type: ignore[attr-defined]


def test_a_run_that_goes_on_says_so_and_keeps_its_lock(tmp_path: Path) -> None:
    run = write_run(tmp_path / "tiny", finished=False)
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(str(run), ready, done))
    other.start()
    try:
        assert ready.wait(60)
        assert read_run(run).state_text == "still going, step 40 of 40 logged"
        with pytest.raises(MetalmError, match="another process writes this run"):
            RunFolder.create(run, "tiny", resume=True)
    finally:
        done.set()
        other.join()


def test_a_run_that_has_just_begun(tmp_path: Path) -> None:
    run = write_run(tmp_path / "tiny", finished=False, metrics=[])
    assert "nothing is logged of training yet" in read_run(run).problems
    (run / "metrics.jsonl").unlink()
    assert "metrics.jsonl is missing: no curves" in read_run(run).problems


def test_values_that_are_not_finite_are_told(tmp_path: Path) -> None:
    metrics = [{"step": 10, "split": "train", "loss": None, "nonfinite": ["loss"]}, *records([20])]
    facts = read_run(write_run(tmp_path / "tiny", metrics=metrics))
    assert "values were not finite in 1 logged step, first at step 10" in facts.problems


def test_seeds_a_model_and_results_alone_stand_for_runs(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / "many" / f"seed-{seed}")
    assert [run.name for run in read_runs([tmp_path / "many"])] == ["seed-0", "seed-1"]
    assert [run.name for run in read_runs([tmp_path / "many" / "seed-1" / "model"])] == ["seed-1"]
    write_results(tmp_path / "gpt2")
    (run,) = read_runs([tmp_path / "gpt2" / "results"])
    assert (run.state, len(run.evaluations)) == ("evaluated", 1)


def begin(*runs: Path) -> None:
    """Runs, begun one after another."""
    for at, run in enumerate(runs):
        write_run(run)
        os.utime(run / "recipe.yaml", (at, at))


def test_a_folder_of_runs_and_results_stands_for_both(tmp_path: Path) -> None:
    begin(tmp_path / "b", tmp_path / "a")
    (tmp_path / "latest").symlink_to("b", target_is_directory=True)
    write_results(tmp_path, source=str(tmp_path / "a"))
    assert [run.name for run in read_runs([tmp_path])] == ["b", "a", "results"]
    assert report_folder(tmp_path) == tmp_path


def test_a_demo_stands_for_its_runs_as_they_were_begun(tmp_path: Path) -> None:
    names = ["encoder", "metalm", "gpt", "instruct-metalm", "another"]
    begin(*(tmp_path / name for name in names))
    write_json(tmp_path / "demo.json", {"format": 1, "size": "standard", "stages": {}})
    assert [run.name for run in read_runs([tmp_path])] == names, "also while it has no results yet"
    write_results(tmp_path)
    assert [run.name for run in read_runs([tmp_path])] == [*names, "results"]


def test_a_demo_of_several_seeds_stands_for_all_of_them(tmp_path: Path) -> None:
    begin(*(tmp_path / f"seed-{seed}" / name for seed in (0, 1) for name in ("metalm", "gpt")))
    write_results(tmp_path / "seed-0")
    write_json(tmp_path / "demo.json", {"format": 1, "size": "full", "stages": {}})
    of_seeds = ["seed-0/metalm", "seed-0/gpt", "seed-1/metalm", "seed-1/gpt", "results"]
    assert [run.name for run in read_runs([tmp_path])] == of_seeds
    assert [run.name for run in read_runs([tmp_path / "seed-0"])] == ["metalm", "gpt", "results"]
    assert report_folder(tmp_path / "seed-1" / "gpt" / "model") == tmp_path / "seed-1" / "gpt"


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / one / "seed-0") for one in ("a", "b")]
    assert [run.name for run in read_runs([*paths, paths[0]])] == ["a/seed-0", "b/seed-0"]


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MetalmError, match="there is no such run"):
        read_runs([tmp_path / "none"])
    write_run(tmp_path / "one")
    with pytest.raises(MetalmError) as caught:
        read_runs([tmp_path])
    assert "name one of the runs in it" in caught.value.remedy
    with pytest.raises(MetalmError, match="this is a file"):
        read_runs([tmp_path / "one" / "recipe.yaml"])
