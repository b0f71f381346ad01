"""``metalm report``, and the report that a run writes at its end."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import tiny_runs as micro
from report_fixtures import write_results, write_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished run of the real command."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = micro.write_recipe(folder)
    assert (
        micro.metalm(
            "pretrain", recipe, "--out", folder / "run", "train.validate_every=3", "train.sample_continuations=1"
        )
        == 0
    )
    return folder / "run"


def test_a_run_writes_its_report(trained: Path) -> None:
    page = (trained / "report.html").read_text(encoding="utf-8")
    assert "figure-loss" in page
    assert "trained on: row 1" in page
    sessions = json.loads((trained / "sessions.json").read_text(encoding="utf-8"))
    kinds = {span[1] for row in sessions["rows"] for span in row["spans"]}
    assert {"docked", "trained"} <= kinds
    first = "".join(span[3] for span in sessions["rows"][0]["spans"])
    assert len(first) > 50
    assert len(sessions["said"]) == 1
    last = json.loads((trained / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert last["memory_bytes"] > 2**20


def test_an_encoder_alone_shows_what_it_restores(tmp_path: Path) -> None:
    recipe = micro.write_recipe(tmp_path)
    out = tmp_path / "run"
    assert micro.metalm("pretrain", recipe, *micro.ENCODER_ONLY, "objective.name=mlm", "--out", out) == 0
    rows = json.loads((out / "sessions.json").read_text(encoding="utf-8"))["rows"]
    trained = [span[3] for row in rows for span in row["spans"] if span[1] == "trained"]
    assert any(text.startswith("[MASK]=") and len(text) > len("[MASK]=") for text in trained)


def test_a_failing_report_does_not_fail_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from metalm_cli.reports import write_report

    def broken(folder: Path) -> Path:
        raise RuntimeError("out of ink")

    monkeypatch.setattr(write_report, "write_run_report", broken)
    assert micro.metalm("pretrain", micro.write_recipe(tmp_path), "--out", tmp_path / "run") == 0
    assert "no report was written (RuntimeError: out of ink)" in capsys.readouterr().err.replace("\n", " ")
    assert (tmp_path / "run" / "model").is_dir()


def test_the_page_and_where_it_goes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [write_run(tmp_path / name) for name in ("a", "b")]
    assert micro.metalm("report", runs[0]) == 0
    assert (runs[0] / "report.html").is_file()
    assert capsys.readouterr().out == f"{runs[0] / 'report.html'}\n"
    assert micro.metalm("report", *runs, "--out", tmp_path / "new" / "both.html", "--figures", tmp_path / "drawn") == 0
    captured = capsys.readouterr()
    assert "11 figures, each as PNG and SVG" in captured.out
    assert "note: b: there is no evaluation yet" in captured.err
    assert (tmp_path / "new" / "both.html").is_file()
    assert (tmp_path / "drawn" / "loss.png").is_file()


def test_a_page_overwrites_only_a_page_about_the_same_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, other = (write_run(tmp_path / name) for name in ("a", "b", "more/b"))
    assert micro.metalm("report", a) == 0
    own = (a / "report.html").read_bytes()
    for _ in range(2):
        assert micro.metalm("report", a, b) == 0
    assert micro.metalm("report", a, other) == 0
    assert micro.metalm("report", a, b, other) == 0
    pages = ["report-with-b-2.html", "report-with-b-and-1-more.html", "report-with-b.html", "report.html"]
    assert sorted(path.name for path in a.glob("*.html")) == pages
    assert (a / "report.html").read_bytes() == own
    capsys.readouterr()
    for out in (a / "report.html", a, a / "recipe.yaml"):
        assert micro.metalm("report", b, "--out", out) == 2
        assert "not a page about these runs" in capsys.readouterr().err
    assert (a / "report.html").read_bytes() == own
    assert micro.metalm("report", b, "--out", tmp_path / "b.html") == 0
    assert micro.metalm("report", b, "--out", tmp_path / "b.html") == 0


def test_a_page_moves_with_its_runs_and_earlier_versions_wrote_no_names(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a")
    assert micro.metalm("report", run) == 0
    run = run.rename(tmp_path / "renamed")
    assert micro.metalm("report", run) == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    assert '<meta name="metalm-runs" content=".">' in page
    (run / "report.html").write_text(page.replace('<meta name="metalm-runs" content=".">', ""), encoding="utf-8")
    assert micro.metalm("report", write_run(tmp_path / "b"), "--out", run) == 2
    assert micro.metalm("report", run) == 0


def test_the_report_of_a_demo_is_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo = tmp_path / "demo"
    for name in ("gpt", "metalm"):
        write_run(demo / name)
        write_results(demo, name, source=str(demo / name), weights=name)
    assert micro.metalm("report", demo, "--card") == 0
    written = [demo / "report.html", *(demo / name / "model" / "README.md" for name in ("gpt", "metalm"))]
    assert capsys.readouterr().out.split() == [str(path) for path in written]
    assert list(demo.glob("*/report.html")) == []
    page = written[0].read_text(encoding="utf-8")
    assert "figure-loss" in page
    assert "figure-tasks" in page


def test_names_of_results_are_plain_text_in_a_card(tmp_path: Path) -> None:
    run = write_run(tmp_path / "tiny")
    results = write_results(run)
    name = "<img src=x onerror=alert(1)>[a](b)|\\n<!-- metalm: end of evaluation -->"
    results.write_text(results.read_text(encoding="utf-8").replace("rte", name), encoding="utf-8")
    for _ in range(2):
        assert micro.metalm("report", run, "--card") == 0
    card = (run / "model" / "README.md").read_text(encoding="utf-8")
    assert card.count("<!-- metalm: evaluation -->") == card.count("<!-- metalm: end of evaluation -->") == 1
    assert "<img" not in card
    assert "[a](b)" not in card.replace("\\[a\\](b)", "")
    assert "| &lt;img src=x onerror=alert(1)&gt;\\[a\\](b)\\| &lt;!-- metalm" in card


def test_nothing_is_written_where_one_card_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [write_run(tmp_path / name) for name in ("a", "b")]
    write_results(runs[0])
    assert micro.metalm("report", *runs, "--card") == 2
    assert f"where: {runs[1]}" in capsys.readouterr().err
    assert not (runs[0] / "report.html").exists()
    assert "## Evaluation" not in (runs[0] / "model" / "README.md").read_text(encoding="utf-8")


def test_the_terminal_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    run = write_run(tmp_path / "tiny")
    write_results(run)
    assert micro.metalm("report", run, "--terminal", "--card") == 0
    out = capsys.readouterr().out
    assert "Scores by task" in out
    assert "\x1b" not in out
    assert not (run / "report.html").exists()
    assert "## Evaluation" in (run / "model" / "README.md").read_text(encoding="utf-8")


def test_left_out_it_is_the_newest_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert micro.metalm("report") == 2
    assert "there is no run to report on" in capsys.readouterr().err
    run = write_run(tmp_path / "runs" / "tiny-1")
    (tmp_path / "runs" / "latest").symlink_to(run.name, target_is_directory=True)
    assert micro.metalm("report", "--terminal") == 0
    assert "tiny-1" in capsys.readouterr().out


def test_what_cannot_be_read_or_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert micro.metalm("report", tmp_path / "none") == 2
    assert micro.metalm("report", tmp_path) == 2
    run = write_run(tmp_path / "tiny")
    (tmp_path / "file").write_text("", encoding="utf-8")
    capsys.readouterr()
    assert micro.metalm("report", run, "--out", tmp_path / "file" / "page.html") == 1
    message = capsys.readouterr().err
    assert "the report cannot be written" in message
    assert "--terminal" in message
    assert "Traceback" not in message
    assert micro.metalm("report", run, "--out", tmp_path / "a.html", "--figures", tmp_path / "file") == 1


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no folder that cannot be written")
def test_a_path_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "tiny")
    for place in ("/proc/report.html", "/proc/nowhere/report.html"):
        assert micro.metalm("report", run, "--out", place) == 1
        message = capsys.readouterr().err
        assert "the report cannot be written" in message
        assert "choose another path with --out FILE" in message
        assert "Traceback" not in message
    assert not (run / "report.html").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "tiny")
    run.chmod(0o555)
    try:
        assert micro.metalm("report", run) == 1
        assert "choose another path with --out FILE" in capsys.readouterr().err
        assert micro.metalm("report", run, "--out", tmp_path / "elsewhere.html") == 0
    finally:
        run.chmod(0o755)
