"""``metalm reproduce``: listing, plan, bad input, seeds added later, budget, and the results of a study."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import ClassVar

import pytest

from metalm_cli.cli import console
from metalm_cli.cli.commands.project import stage_process, study_run
from metalm_cli.studies.page import study_lead
from study_fixtures import SMALL, correct, small_study, write_result
from tiny_runs import metalm

TASKS = {"world_reviews": 90, "world_nli": 60}


class FakeStages:
    """Starter of stages that end at once and make their outputs; the report is made by metalm itself."""

    started: ClassVar[list[str]] = []
    jobs: ClassVar[list[int]] = []

    def __init__(self, jobs: int, offline: bool) -> None:
        """Take the arguments of the real starter."""
        FakeStages.jobs.append(jobs)

    def __call__(self, stage, log: Path):
        FakeStages.started.append(stage.name)
        if stage.run is not None:
            (stage.run / "model").mkdir(parents=True)
            (stage.run / "recipe.yaml").write_text("command: pretrain\n")
            line = {"split": "validation", "step": stage.steps, "loss": 1.5}
            (stage.run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        elif stage.arguments[0] == "evaluate":
            for number, path in enumerate(stage.outputs):
                counts = {name: correct(count - 20 * number) for name, count in TASKS.items()}
                write_result(path, counts)
        else:
            stage.outputs[0].write_text("page")
        return self

    def poll(self) -> int:
        return 0

    def stop(self) -> None:
        """There is nothing to stop."""

    kill = stop


@pytest.fixture(autouse=True)
def _fake_stages(monkeypatch):
    monkeypatch.setattr(study_run, "StageStarter", FakeStages)
    monkeypatch.setattr("metalm_cli.studies.runner.POLL_INTERVAL_S", 0.001)
    monkeypatch.setattr(FakeStages, "started", [])


@pytest.fixture
def study(tmp_path) -> Path:
    """File of a small study."""
    return small_study(tmp_path / "files").path


@pytest.fixture(scope="module")
def first_run(tmp_path_factory) -> tuple[Path, str]:
    """Folder of the finished small study, and what was printed."""
    folder = tmp_path_factory.mktemp("study")
    study = small_study(folder / "files").path
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.setattr(study_run, "StageStarter", FakeStages)
        patch.setattr("metalm_cli.studies.runner.POLL_INTERVAL_S", 0.001)
        console.stdout.cache_clear()
        assert metalm("reproduce", study, "--out", folder / "out") == 0
    console.stdout.cache_clear()
    return folder / "out", printed.getvalue()


@pytest.fixture
def finished(first_run, tmp_path) -> Path:
    """A copy of the folder of the finished study."""
    shutil.copytree(first_run[0], tmp_path / "out", copy_function=shutil.copy2)
    return tmp_path / "out"


def cells(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def files_in(out: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_without_a_study_the_studies_are_listed(capsys):
    assert metalm("reproduce") == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("encoder-only") and "cpu, gpu, paper" in line for line in lines)


def test_a_scale_sets_jobs_and_a_note_and_a_stage_has_a_question(tmp_path, capsys):
    text = SMALL.replace("    duration: a minute\n", "    duration: a minute\n    jobs: 5\n    note: Only a trial.\n")
    text = text.replace("    group: train\n", "    group: train\n    question: Who's there?\n")
    study, out = small_study(tmp_path / "files", text).path, tmp_path / "out"
    assert metalm("reproduce", study, "--out", out) == 0
    printed = capsys.readouterr().out
    assert "- Only a trial.\n" in printed
    assert f"ask it   metalm generate {out / 'seed-0' / 'tuned-metalm'} 'Who'\"'\"'s there?'\n" in printed
    assert metalm("reproduce", study, "--out", tmp_path / "other", "--jobs", "3") == 0
    assert FakeStages.jobs[-2:] == [5, 3]


def test_a_study_runs_and_its_cells_are_recorded(first_run):
    out, printed = first_run
    assert "MetaLM is ahead of GPT by 20.0 points on the mean of 2 clusters (2 tasks), 2 seeds" in printed
    assert "Of 2 claims, 2 agree, 0 disagree, 0 undecided." in printed
    assert "Claims and expectations were recorded before the first stage began" in printed
    recorded = cells(out)
    assert [(cell["stage"], cell["seed"]) for cell in recorded] == [
        (name, seed) for seed in (0, 1) for name in ("encoder", "tuned-metalm", "tuned-gpt", "scores")
    ]
    assert recorded[1]["validation"] == {"step": 40, "loss": 1.5}
    assert recorded[3]["scores"][0]["tasks"]["world_reviews"]["0"] == {
        "score": 90.0, "interval": None, "chance": 50.0, "n": 100,
    }  # fmt: skip
    assert (recorded[3]["study"], recorded[3]["scale"], recorded[3]["outputs"][0]) == (
        "small", "cpu", "seed-0/results/scores.json",
    )  # fmt: skip
    assert (out / "study.yaml").read_text() == SMALL


def test_a_finished_study_runs_nothing_and_another_seed_continues_it(study, finished, capsys):
    assert metalm("reproduce", study, "--out", finished) == 0
    assert FakeStages.started == []
    assert "the study is finished" in capsys.readouterr().err
    assert metalm("reproduce", study, "--out", finished, "--seed", "7") == 0
    assert sorted(FakeStages.started) == sorted(["encoder-7", "tuned-metalm-7", "tuned-gpt-7", "scores-7", "report"])
    assert {cell["seed"] for cell in cells(finished)} == {0, 1, 7}
    assert "3 seeds" in capsys.readouterr().out


def test_what_does_not_continue_the_study_is_refused_and_changes_nothing(study, finished, capsys):
    before = files_in(finished)
    assert metalm("reproduce", study, "--out", finished, "--scale", "gpu") == 2
    assert "this folder holds another scale: cpu" in capsys.readouterr().err
    study.write_text(SMALL.replace("train.steps: 40", "train.steps: 41"))
    assert metalm("reproduce", study, "--out", finished) == 2
    message = capsys.readouterr().err
    assert "the study has changed since its stages were run" in message
    assert "tuned-metalm-0, tuned-gpt-0, scores-0" in message
    assert FakeStages.started == []
    assert files_in(finished) == before


def test_a_study_that_has_changed_runs_again_with_consent(study, finished):
    study.write_text(SMALL.replace("train.steps: 40", "train.steps: 41"))
    assert metalm("reproduce", study, "--out", finished, "--rerun") == 0
    assert "encoder-0" not in FakeStages.started
    assert "tuned-gpt-1" in FakeStages.started
    assert (finished / "study.yaml").read_text() == study.read_text()


def test_a_changed_claim_renews_the_page_alone(study, finished, capsys):
    study.write_text(SMALL.replace("reason: it has an encoder", "reason: another"))
    assert metalm("reproduce", study, "--out", finished) == 0
    assert FakeStages.started == ["report"]
    assert "were changed after the first stage began" in capsys.readouterr().out


def test_a_study_over_its_budget_is_refused(study, tmp_path, capsys):
    study.write_text(SMALL.replace("hours: 1", "hours: 0.01"))
    out = tmp_path / "out"
    assert metalm("reproduce", study, "--out", out) == 2
    message = capsys.readouterr().err
    assert "the study small needs more hours than its budget at the scale cpu" in message
    assert "0.00 hours spent and 0.04 planned; the budget is 0.01" in message  # 4 × 30 s, 2 × 3 × 2 s, 10 s
    assert not out.exists()
    assert metalm("reproduce", study, "--out", out, "--over-budget") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demoo"], "no study is named demoo"),
        (["demo", "--scale", "cpu"], "the study demo has no scale cpu"),
        (["demo", "--seeds", "1,1"], "--seeds 1,1 is not a list of distinct numbers"),
        (["demo", "--seeds", "-1"], "--seeds -1 is not a list of distinct numbers"),
        (["demo", "--seeds", "a"], "--seeds a is not a list of distinct numbers"),
    ],
)
def test_wrong_usage(arguments, message, tmp_path, capsys):
    assert metalm("reproduce", *arguments, "--out", tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_dry_run_prints_costs_and_claims_and_runs_nothing(study, tmp_path, capsys):
    out = tmp_path / "out"
    assert metalm("reproduce", study, "--out", out, "--dry-run", "--seeds", "3") == 0
    printed = capsys.readouterr().out
    assert "metalm pretrain demo/gpt train.steps=40 train.batch_size=4 train.seed=3 --out" in printed
    assert "902,016 parameters, 902,016 trained; 40 steps of 1,024 positions" in printed
    assert "about 0:30 (recorded), 13.8 MiB of disk" in printed
    assert "time unknown" in printed  # the encoder
    assert "#   expected: agrees: it has an encoder" in printed
    assert "# budget: 1 hours of stages" in printed
    assert FakeStages.started == []
    assert not out.exists()


def test_the_page_begins_with_the_claims(finished):
    out = finished
    lead = study_lead(out)
    assert lead.headline.startswith("MetaLM is ahead of GPT by 20.0 points")
    assert [(claim.name, claim.verdict) for claim in lead.claims] == [("twin", "agrees"), ("chance", "agrees")]
    assert dict(lead.claims[1].facts)["expected"] == "not agrees, because it is small: it was not the result"
    (out / "report.html").unlink(missing_ok=True)  # the stage of the test wrote another text
    assert metalm("report", out) == 0
    page = (out / "report.html").read_text()
    assert page.index("MetaLM is ahead of GPT by 20.0 points") < page.index("The MetaLM is better than the GPT.")
    assert page.index("The MetaLM is better than the GPT.") < page.index('<h2 id="runs">')
    assert "79.1 − 65.0 = +14.1; table 2" in page
    for bars, claim in zip(lead.bars, lead.claims, strict=True):
        assert len(bars) == len(claim.differences)
        for bar in bars:
            assert 0 <= bar["left"] <= bar["point"] <= bar["left"] + bar["width"] <= 100
            assert 0 <= bar["zero"] <= 100


def test_a_page_of_an_unfinished_study(finished):
    out = finished
    for path in out.glob("seed-*/results/*"):
        path.unlink()
    assert study_lead(out).headline == "No claim has a result yet."
    (out / "report.html").unlink(missing_ok=True)  # the stage of the test wrote another text
    assert metalm("report", out) == 0
    assert "no results yet of the evaluation scores" in (out / "report.html").read_text()


TINY = """\
name: tiny
description: two untrained families on one task
scales:
  cpu:
    duration: seconds
    overrides: {all: {train.steps: 2, train.warmup_steps: 0, train.batch_size: 4, data.tasks: [world_reviews],
                      data.validation.examples: 2}}
arms:
  - {name: metalm, label: MetaLM}
  - {name: gpt, label: GPT}
stages:
  - {name: "{arm}", arms: [metalm, gpt], command: "finetune families/{arm}", summary: "{label}, two steps"}
evaluations:
  - {name: reviews, title: after two steps, models: ["{arm}"], options: --task world_reviews --limit 8, summary: both}
claims:
  - {name: twin, statement: The MetaLM is better., evaluation: reviews, first: metalm, second: gpt,
     expected: undecided, reason: two steps teach nothing}
"""


@pytest.mark.slow
def test_a_real_study(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(study_run, "StageStarter", stage_process.StageStarter)
    (tmp_path / "tiny.yaml").write_text(TINY)
    out = tmp_path / "out"
    assert metalm("reproduce", tmp_path / "tiny.yaml", "--out", out, "--offline") == 0
    printed = capsys.readouterr().out
    assert "expected" in printed.partition("\nclaims\n")[2].splitlines()[0]
    recorded = cells(out)
    assert [cell["stage"] for cell in recorded] == ["metalm", "gpt", "reviews"]
    assert {len(model["tasks"]["world_reviews"]) for model in recorded[2]["scores"]} == {1}
    page = (out / "report.html").read_text()
    assert page.index("The MetaLM is better.") < page.index('<h2 id="runs">')
    assert metalm("reproduce", tmp_path / "tiny.yaml", "--out", out, "--offline", "--seeds", "0,1") == 0
    assert {cell["seed"] for cell in cells(out)} == {0, 1}
    assert "2 seeds" in capsys.readouterr().out
