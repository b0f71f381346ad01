"""Runs, models, adapters and result files that version 0.1.0 wrote load, report and resume.

``tests/fixtures/written-by-0.1.0.zip`` holds a pretraining run, a finetuning run, the same run stopped at step 5 of 8,
and a LoRA run, all on the miniature world; their recipes have the keys of 0.1. The expected values are those of 0.1.0.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import metalm_cli as metalm
import tiny_runs
from metalm_cli.evaluation.results.result_reader import read_result

ARCHIVE = Path(__file__).parent.parent / "fixtures" / "written-by-0.1.0.zip"
WEIGHTS = {
    "base/model/model.safetensors": "a3b781762b4b231c9561ac74c368323507842dd8ae7f154a32331cb5afcd00ac",
    "finetuned/model/model.safetensors": "c5283afa19bd1ba12bd4bfdc3dabb32759ca86a77cb32461a642a73a69e0f6ab",
    "adapted/adapter/connectors.safetensors": "013c7ed7132344238724b1df2095c2e97211f3f884f090f8f6524c758b7dbea7",
}
LOG_LIKELIHOODS = {
    "base": [-55.46661520, -33.09520054, -110.68449688],
    "finetuned": [-48.28389692, -31.05672693, -97.29118252],
    "adapted": [-55.36773157, -32.99081469, -110.34346008],
}
LOSSES = {
    "train": [5.544936, 5.483203, 5.327538, 5.226724, 5.077641, 5.099190, 5.064075, 4.951116],
    "validation": [5.119991, 5.032834],
}


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The unpacked archive as the working folder: its recipes name their base relative to it."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(tmp_path)
    monkeypatch.chdir(tmp_path / "written-by-0.1.0")
    return tmp_path / "written-by-0.1.0"


def losses(run: Path, split: str) -> list[float]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if record["split"] == split]


def test_models_and_adapters_score_as_they_did(written: Path) -> None:
    for name, sha256 in WEIGHTS.items():
        assert hashlib.sha256((written / name).read_bytes()).hexdigest() == sha256
    docked, causal, session = metalm.Docked, metalm.Causal, metalm.Session
    sessions = [
        session([docked("text", "Anna has a red kite."), causal(" acceptable", trained=True, end=True)]),
        session([causal("Anna has a red"), causal(" kite.", trained=True)]),
        session(
            [
                docked("text", "Is it acceptable?"),
                causal(" unacceptable", trained=True, end=True),
                docked("text", "What does Ruth have?"),
                causal(" a kite", trained=True, end=True),
            ]
        ),
    ]
    for name, expected in LOG_LIKELIHOODS.items():
        scores = metalm.load(name, offline=True).log_likelihood(sessions)
        assert scores == pytest.approx(expected, abs=1e-4), name


@pytest.mark.parametrize("recipe", [[], ["./finetuned/recipe.yaml", "--model", "base"]], ids=["folder", "recipe"])
def test_a_stopped_run_resumes_to_what_the_uninterrupted_run_became(written: Path, recipe: list[str]) -> None:
    assert tiny_runs.metalm("finetune", *recipe, "--resume", "--out", "stopped", "--offline") == 0
    resumed, whole = (load_file(written / run / "model" / "model.safetensors") for run in ("stopped", "finetuned"))
    assert resumed.keys() == whole.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor, atol=1e-5, rtol=1e-5)
    for split, expected in LOSSES.items():
        assert losses(written / "stopped", split) == pytest.approx(expected, abs=1e-4)


def test_an_adapter_run_takes_more_steps(written: Path) -> None:
    assert tiny_runs.metalm("finetune", "--resume", "--out", "adapted", "train.steps=6", "--offline") == 0
    assert losses(written / "adapted", "train")[4:] == pytest.approx([5.533171, 5.539031], abs=1e-4)
    assert losses(written / "adapted", "validation") == pytest.approx([5.556391, 5.554222, 5.553691], abs=1e-4)


def test_results_are_shown_and_an_evaluation_repeats_them(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny_runs.metalm("results", "show", "finetuned/results/tasks.json", "--format", "json") == 0
    rows = {(row["kind"], row.get("task"), row["shots"]): row for row in json.loads(capsys.readouterr().out)}
    grammar = rows["task", "world_grammar", 0]
    assert (grammar["score"], grammar["low"], grammar["high"], grammar["constant"]) == (75.0, 37.5, 100.0, 75.0)
    assert grammar["extra"] == {"per_token": 25.0, "per_char": 75.0, "per_byte": 75.0, "unconditional": 75.0}
    mean = rows["mean over clusters", None, 0]
    assert (mean["score"], round(mean["error"], 6)) == (37.5, 8.183171)
    file = written / "finetuned" / "results" / "tasks.json"
    assert read_result(file).to_json() == file.read_text(encoding="utf-8"), "every key, in its order"
    tasks = ["--task", "world_grammar", "--task", "world_facts", "--shots", "0,1", "--limit", "8"]
    again = ["evaluate", "finetuned", "--protocol", "in_context", *tasks, "--save-samples", "--offline"]
    assert tiny_runs.metalm(*again, "--out", "finetuned/results/again.json") == 0
    first, second = (written / "finetuned" / "results" / f"{name}.samples.jsonl" for name in ("tasks", "again"))
    for before, after in zip(
        *(map(json.loads, path.read_text().splitlines()) for path in (first, second)), strict=True
    ):
        assert after.pop("log_likelihood", None) == pytest.approx(before.pop("log_likelihood", None), abs=1e-3)
        assert after == before


@pytest.mark.parametrize("run", ["base", "finetuned", "stopped", "adapted"])
def test_reports_are_written(written: Path, run: str) -> None:
    assert tiny_runs.metalm("report", run, "--out", "report.html") == 0
    page = (written / "report.html").read_text(encoding="utf-8")
    assert len(page) > 100_000
    assert "damaged" not in page.partition("<main")[0]


def test_a_recipe_that_a_user_wrote_gets_the_error_and_a_recorded_one_does_not(
    written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny_runs.metalm("recipe", "check", "tasks.yaml") == 2
    message = capsys.readouterr().err
    for old, new in {
        "train.keep": "train.keep_checkpoints",
        "data.demonstrations.count": "data.demonstrations.shots",
    }.items():
        assert f"{old}: this key is now {new}" in message
    for run in ("base", "finetuned", "stopped", "adapted"):
        assert tiny_runs.metalm("recipe", "check", f"./{run}/recipe.yaml") == 0
