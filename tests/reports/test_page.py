"""The page: whole in itself, safe, readable, and small; its figures compile and are told in words."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from metalm_cli.reports import page as pages
from metalm_cli.reports import read_runs
from metalm_cli.reports.figures import vega_export
from metalm_cli.reports.figures.training_figures import Figure, every_nth
from metalm_cli.reports.page import CONFIG, LARGEST, colours, figures_of, make_page
from metalm_cli.reports.write_report import report_place, write_figures
from report_fixtures import records, write_json, write_results, write_run

LOADS = {
    ("script", "src"),
    ("img", "src"),
    ("iframe", "src"),
    ("link", "href"),
    ("source", "src"),
    ("image", "href"),
    ("use", "href"),
}


class Reader(HTMLParser):
    """Tags with their attributes, texts by tag, and what does not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place = tmp_path_factory.mktemp("runs")
    found = [write_run(place / name) for name in ("metalm", "gpt & co")]
    for at, run in enumerate(found):
        write_results(run, shift=at)
    return found


@pytest.fixture(scope="module")
def page(runs: list[Path]) -> str:
    return make_page(read_runs(runs), runs[0] / "report.html")


def test_the_page_loads_nothing(page: str) -> None:
    read = Reader(page)
    assert read.open == [], "all tags are closed"
    loaded = [
        attributes[name] for tag, attributes in read.tags for of, name in LOADS if tag == of and name in attributes
    ]
    assert loaded == ["data:,"]
    policy = next(one["content"] for tag, one in read.tags if one.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy
    style = "".join(read.texts["style"])
    assert "@import" not in style
    assert "url(" not in style
    assert len(page.encode()) < LARGEST


def test_every_figure_has_a_title_words_and_numbers(page: str, runs: list[Path]) -> None:
    read = Reader(page)
    figures = figures_of(read_runs(runs))
    keys = [one["data-key"] for tag, one in read.tags if tag == "figure"]
    assert sorted(keys) == sorted(figure.key for figure in figures)
    assert len(set(keys)) == len(keys)
    wanted = {"clusters", "tasks", "templates", "loss", "bits-per-byte", "task-loss", "tokens", "mixture-metalm"}
    assert wanted | {"throughput", "memory", "learning-rate", "gradient-norm"} <= set(keys)
    assert all(figure.told and figure.table.rows and figure.spec["data"]["values"] for figure in figures)
    assert page.count("<summary>The numbers</summary>") == len(figures)
    for tag, one in read.tags:
        if tag == "button":
            assert one["type"] == "button"
    labelled = {one["aria-labelledby"] for tag, one in read.tags if tag == "figure"}
    assert labelled <= {one["id"] for _, one in read.tags if "id" in one}


def test_texts_of_models_and_data_are_no_markup(page: str, runs: list[Path]) -> None:
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(" in page
    assert "gpt &amp; co" in page
    data = [text for text in Reader(page).texts["script"] if text.startswith("{")]
    assert len([json.loads(text) for text in data]) == len(figures_of(read_runs(runs))) + 1


def test_answers_are_right_or_wrong_in_words(page: str) -> None:
    assert page.count("✓ right") == page.count("✗ wrong") == 4
    assert "expected: no" in page
    assert re.search(r'class="span docked"[^>]*><span class="unseen">docked: </span> in the↵↵\n', page)


def test_links_lead_to_the_files(page: str, runs: list[Path]) -> None:
    found = [one["href"] for tag, one in Reader(page).tags if tag == "a" and not one["href"].startswith("#")]
    assert len(found) == 14
    assert all((runs[0] / unquote(one)).exists() for one in found)
    assert not any(one.startswith(("/", "file:")) for one in found)


def test_the_sections_stand_in_order(page: str) -> None:
    found = re.findall(r'<h2 id="(\w+)">', page)
    assert found == ["runs", "scores", "learning", "samples", "data", "machine", "optimiser", "recipe", "provenance"]
    assert page.count("began from runs/base") == 2
    assert "what it has seen is not told" in page


@pytest.mark.parametrize("metrics", [[], records([10]), [{"step": 10, "split": "train", "loss": None}]])
def test_a_page_of_next_to_nothing(tmp_path: Path, metrics: list[dict[str, Any]]) -> None:
    run = write_run(tmp_path / "tiny", finished=False, metrics=metrics)
    for name in ("data.json", "environment.json", "recipe.yaml", "sessions.json"):
        (run / name).unlink()
    page = make_page(read_runs([run]), run / "report.html")
    assert "What is missing" in page
    assert "stopped or crashed" in page
    assert Reader(page).open == []


def test_evaluations_that_are_not_alike_are_told(tmp_path: Path) -> None:
    run = write_run(tmp_path / "tiny")
    write_results(run)
    other = write_results(run, "in_context-all")
    record = json.loads(other.read_text(encoding="utf-8"))
    del record["tasks"]["mrpc"]
    record["settings"]["limit"] = 7
    record["tasks"]["rte"]["seen"]["label"] = "seen"
    other.write_text(json.dumps(record), encoding="utf-8")
    page = make_page(read_runs([run]), run / "report.html")
    said = "in_context-all: of 1 task 1 seen; in_context-rte: of 2 tasks 2 held out."
    assert f"How new the tasks are, by what a model was trained on: {said}" in page
    assert "the evaluations are of different tasks" in page
    assert "the evaluations were not done alike: they differ in limit." in page


def test_a_page_that_grows_too_large_shows_less(runs: list[Path], page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "LARGEST", len(page.encode()) - 1)
    smaller = make_page(read_runs(runs), runs[0] / "report.html")
    assert len(smaller.encode()) < len(page.encode())
    assert smaller.count("figure data-key") == page.count("figure data-key")


def test_long_runs_are_thinned_to_a_small_page(tmp_path: Path) -> None:
    assert every_nth(list(range(10)), 4) == [0, 3, 6, 9]
    runs = [write_run(tmp_path / f"long-{at}", metrics=records(range(1, 2_001))) for at in range(12)]
    for some in (runs[:1], runs):
        page = make_page(read_runs(some), tmp_path / "report.html")
        assert len(page.encode()) < LARGEST


# -- figures ----------------------------------------------------------------------------------------------------------


def test_figures_compile_without_a_warning(runs: list[Path], capfd: pytest.CaptureFixture[str]) -> None:
    import vl_convert

    for figure in figures_of(read_runs(runs)):
        drawn = vl_convert.vegalite_to_vega({**figure.spec, "config": CONFIG})
        assert drawn["marks"]
    assert capfd.readouterr() == ("", "")


def test_a_curve_has_all_its_points(runs: list[Path]) -> None:
    loss = _figure(runs, "loss")
    assert loss.log == ("x", "y")
    assert loss.zoom
    values = [one for one in loss.spec["data"]["values"] if one["series"] == "metalm"]
    assert [(one["kind"], one["step"], one["value"]) for one in values] == [
        ("training", 10, 4.0),
        ("training", 20, 2.0),
        ("training", 30, 4.0 / 3),
        ("training", 40, 1.0),
        ("held-out", 20, 2.5),
        ("held-out", 40, 1.25),
    ]
    assert "metalm, held-out: from 2.500 at step 20 to 1.250 at step 40." in loss.told


def test_bars_have_intervals_and_chance(runs: list[Path]) -> None:
    values = _figure(runs, "clusters").spec["data"]["values"]
    (nli,) = (one for one in values if one["cluster"] == "nli" and one["series"] == "metalm")
    assert (nli["value"], nli["low"], nli["chance"]) == (65.0, 53.0, 55.0)
    assert {one["series"] for one in values} == {"metalm", "gpt & co"}
    assert "Of 4 scores with a chance level the whole interval lies above it in 2." in _figure(runs, "tasks").told


def test_a_mean_over_fewer_clusters_stands_in_no_bar_beside_one_over_more(tmp_path: Path) -> None:
    run = write_run(tmp_path / "tiny")
    write_results(run)
    path = write_results(run, "in_context-one")
    record = json.loads(path.read_text())
    del record["clusters"]["0"]["paraphrase"]
    write_json(path, record | {"mean": {"0": {"value": 65.0, "error": 4.0, "of": ["nli"]}}})
    values = _figure([run], "clusters").spec["data"]["values"]
    assert [(one["series"], one["value"]) for one in values if one["cluster"] == "all clusters"] == [
        ("in_context-rte", 72.5)
    ]
    (run / "results" / "in_context-rte.json").unlink()
    assert {one["cluster"] for one in _figure([run], "clusters").spec["data"]["values"]} == {"nli"}


def test_a_logarithm_is_offered_only_of_what_has_one(tmp_path: Path) -> None:
    metrics = [{"step": step, "split": "train", "loss": 0.0, "grad_norm": 1.0} for step in (1, 2)]
    assert _figure([write_run(tmp_path / "tiny", metrics=metrics)], "loss").log == ("x",)


def _figure(runs: list[Path], key: str) -> Figure:
    return next(one for one in figures_of(read_runs(runs)) if one.key == key)


def test_figures_are_written_without_a_browser(runs: list[Path], tmp_path: Path) -> None:
    written = write_figures(read_runs(runs[:1]), tmp_path / "figures")
    assert {path.name for path in written} >= {"loss.svg", "loss.png", "clusters.svg", "clusters.png"}
    svg = (tmp_path / "figures" / "loss.svg").read_text(encoding="utf-8")
    assert "var(--" not in svg
    assert colours()["--s0"] in svg
    assert (tmp_path / "figures" / "loss.png").read_bytes().startswith(b"\x89PNG")


# -- colours and the library ------------------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def themes() -> dict[str, dict[str, str]]:
    css = pages._asset("page.css")
    blocks = {"light": ":root {", "dark": ':root[data-theme="dark"] {', "print": ":root, :root[data-theme] {"}
    found = {name: css[css.index(head) :].split("}")[0] for name, head in blocks.items()}
    shorthand = {"#fff": "#ffffff"}
    return {
        name: {key: shorthand.get(value, value) for key, value in re.findall(r"(--[\w-]+): (#\w+);", block)}
        for name, block in found.items()
    }


@pytest.mark.parametrize("theme", ["light", "dark", "print"])
def test_texts_and_marks_stand_out(theme: str) -> None:
    found = themes()[theme]
    for text in ("--ink", "--muted", "--link", "--right", "--wrong"):
        assert contrast(found[text], found["--page"]) >= 4.5, text
        assert contrast(found["--ink"], found["--notice"]) >= 4.5
    for text in ("--ink", "--muted"):
        assert contrast(found[text], found["--raised"]) >= 4.5
    for tint in ("--docked-tint", "--causal-tint", "--trained-tint"):
        assert contrast(found["--ink"], found[tint]) >= 4.5
    for mark in ("--docked", "--causal", "--trained", *(f"--s{at}" for at in range(10))):
        assert contrast(found[mark], found["--page"]) >= 3, mark


def test_figures_name_colours_that_the_style_sheet_has(runs: list[Path]) -> None:
    used = set(
        re.findall(r"var\((--[\w-]+)\)", json.dumps([CONFIG, *(one.spec for one in figures_of(read_runs(runs)))]))
    )
    assert used
    assert used <= set(themes()["light"]) & set(themes()["dark"])


def test_the_library_is_kept_and_a_damaged_copy_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundled = []

    def bundle() -> str:
        bundled.append(1)
        return "let a = '</script>';"

    monkeypatch.setattr(vega_export, "_bundled", bundle)
    assert vega_export.javascript(tmp_path) == "let a = '<\\/script>';" == vega_export.javascript(tmp_path)
    assert len(bundled) == 1
    (file,) = (tmp_path / "report").iterdir()
    file.write_text(file.read_text(encoding="utf-8") + "x", encoding="utf-8")
    assert vega_export.javascript(tmp_path) == "let a = '<\\/script>';"
    assert len(bundled) == 2
    blocked = tmp_path / "file"
    blocked.write_text("", encoding="utf-8")
    assert vega_export.javascript(blocked) == "let a = '<\\/script>';", (
        "a cache that cannot be written costs time alone"
    )


def test_the_place_of_the_page(tmp_path: Path) -> None:
    facts = read_runs([write_run(tmp_path / "tiny")])
    assert report_place(facts, None) == tmp_path / "tiny" / "report.html"
    assert report_place(facts, tmp_path) == tmp_path / "report.html"
    assert report_place(facts, tmp_path / "a.html") == tmp_path / "a.html"
