"""The report page: self-contained, safe, accessible and small; its figures compile and have captions."""

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
from metalm_cli.reports.figures.training_figures import Figure, thin_out
from metalm_cli.reports.page import MAX_PAGE_BYTES, VEGA_CONFIG, light_colours, make_page, report_figures
from metalm_cli.reports.write_report import report_path, write_figures
from report_fixtures import records, write_json, write_results, write_run

LOADING_ATTRIBUTES = {
    ("script", "src"),
    ("img", "src"),
    ("iframe", "src"),
    ("link", "href"),
    ("source", "src"),
    ("image", "href"),
    ("use", "href"),
}


class Reader(HTMLParser):
    """Parser that collects tags with their attributes, texts by tag, and tags that are not closed."""

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
    folder = tmp_path_factory.mktemp("runs")
    folders = [write_run(folder / name) for name in ("metalm", "gpt & co")]
    for index, run in enumerate(folders):
        write_results(run, shift=index)
    return folders


@pytest.fixture(scope="module")
def page(runs: list[Path]) -> str:
    return make_page(read_runs(runs), runs[0] / "report.html")


def test_the_page_loads_nothing(page: str) -> None:
    reader = Reader(page)
    assert reader.open == [], "all tags are closed"
    loaded = [
        attributes[name]
        for tag, attributes in reader.tags
        for of, name in LOADING_ATTRIBUTES
        if tag == of and name in attributes
    ]
    assert loaded == ["data:,"]
    policy = next(
        attributes["content"]
        for tag, attributes in reader.tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy
    style = "".join(reader.texts["style"])
    assert "@import" not in style
    assert "url(" not in style
    assert len(page.encode()) < MAX_PAGE_BYTES


def test_every_figure_has_a_title_a_caption_and_numbers(page: str, runs: list[Path]) -> None:
    reader = Reader(page)
    figures = report_figures(read_runs(runs))
    keys = [attributes["data-key"] for tag, attributes in reader.tags if tag == "figure"]
    assert sorted(keys) == sorted(figure.key for figure in figures)
    assert len(set(keys)) == len(keys)
    expected = {"clusters", "tasks", "templates", "loss", "bits-per-byte", "task-loss", "tokens", "mixture-metalm"}
    assert expected | {"throughput", "memory", "learning-rate", "gradient-norm"} <= set(keys)
    assert all(figure.caption and figure.table.rows and figure.spec["data"]["values"] for figure in figures)
    assert page.count("<summary>Data table</summary>") == len(figures)
    for tag, attributes in reader.tags:
        if tag == "button":
            assert attributes["type"] == "button"
    labelled = {attributes["aria-labelledby"] for tag, attributes in reader.tags if tag == "figure"}
    assert labelled <= {attributes["id"] for _, attributes in reader.tags if "id" in attributes}


def test_texts_of_models_and_data_are_escaped(page: str, runs: list[Path]) -> None:
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(" in page
    assert "gpt &amp; co" in page
    data = [text for text in Reader(page).texts["script"] if text.startswith("{")]
    assert len([json.loads(text) for text in data]) == len(report_figures(read_runs(runs))) + 1


def test_answers_are_marked_right_or_wrong_in_words(page: str) -> None:
    assert page.count("✓ right") == page.count("✗ wrong") == 4
    assert "expected: no" in page
    assert re.search(r'class="span docked"[^>]*><span class="visually-hidden">docked: </span> in the↵↵\n', page)


def test_links_lead_to_the_files(page: str, runs: list[Path]) -> None:
    links = [
        attributes["href"]
        for tag, attributes in Reader(page).tags
        if tag == "a" and not attributes["href"].startswith("#")
    ]
    assert len(links) == 14
    assert all((runs[0] / unquote(link)).exists() for link in links)
    assert not any(link.startswith(("/", "file:")) for link in links)


def test_the_sections_are_in_order(page: str) -> None:
    sections = re.findall(r'<h2 id="(\w+)">', page)
    assert sections == ["runs", "scores", "learning", "samples", "data", "machine", "optimiser", "recipe", "provenance"]
    assert page.count("started from runs/base") == 2
    assert "its training data is unknown" in page


@pytest.mark.parametrize("metrics", [[], records([10]), [{"step": 10, "split": "train", "loss": None}]])
def test_a_page_of_an_almost_empty_run(tmp_path: Path, metrics: list[dict[str, Any]]) -> None:
    run = write_run(tmp_path / "tiny", finished=False, metrics=metrics)
    for name in ("data.json", "environment.json", "recipe.yaml", "sessions.json"):
        (run / name).unlink()
    page = make_page(read_runs([run]), run / "report.html")
    assert "Missing data and other notes" in page
    assert "stopped or crashed" in page
    assert Reader(page).open == []


def test_differences_between_evaluations_are_reported(tmp_path: Path) -> None:
    run = write_run(tmp_path / "tiny")
    write_results(run)
    other = write_results(run, "in_context-all")
    record = json.loads(other.read_text(encoding="utf-8"))
    del record["tasks"]["mrpc"]
    record["settings"]["limit"] = 7
    record["tasks"]["rte"]["seen"]["label"] = "seen"
    other.write_text(json.dumps(record), encoding="utf-8")
    page = make_page(read_runs([run]), run / "report.html")
    novelty = "in_context-all: of 1 task 1 seen; in_context-rte: of 2 tasks 2 held out."
    assert f"Tasks by whether the models were trained on them: {novelty}" in page
    assert "the evaluations cover different tasks" in page
    assert "the evaluations differ in their settings: limit." in page


def test_a_page_that_grows_too_large_shows_less(runs: list[Path], page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "MAX_PAGE_BYTES", len(page.encode()) - 1)
    smaller = make_page(read_runs(runs), runs[0] / "report.html")
    assert len(smaller.encode()) < len(page.encode())
    assert smaller.count("figure data-key") == page.count("figure data-key")


def test_long_runs_are_thinned_to_a_small_page(tmp_path: Path) -> None:
    assert thin_out(list(range(10)), 4) == [0, 3, 6, 9]
    runs = [write_run(tmp_path / f"long-{index}", metrics=records(range(1, 2_001))) for index in range(12)]
    for selected in (runs[:1], runs):
        page = make_page(read_runs(selected), tmp_path / "report.html")
        assert len(page.encode()) < MAX_PAGE_BYTES


# -- figures ----------------------------------------------------------------------------------------------------------


def test_figures_compile_without_a_warning(runs: list[Path], capfd: pytest.CaptureFixture[str]) -> None:
    import vl_convert

    for figure in report_figures(read_runs(runs)):
        drawn = vl_convert.vegalite_to_vega({**figure.spec, "config": VEGA_CONFIG})
        assert drawn["marks"]
    assert capfd.readouterr() == ("", "")


def test_a_curve_has_all_its_points(runs: list[Path]) -> None:
    loss = _figure(runs, "loss")
    assert loss.log_axes == ("x", "y")
    assert loss.zoom
    values = [point for point in loss.spec["data"]["values"] if point["series"] == "metalm"]
    assert [(point["kind"], point["step"], point["value"]) for point in values] == [
        ("training", 10, 4.0),
        ("training", 20, 2.0),
        ("training", 30, 4.0 / 3),
        ("training", 40, 1.0),
        ("held-out", 20, 2.5),
        ("held-out", 40, 1.25),
    ]
    assert "metalm, held-out: from 2.500 at step 20 to 1.250 at step 40." in loss.caption


def test_bars_have_intervals_and_chance(runs: list[Path]) -> None:
    values = _figure(runs, "clusters").spec["data"]["values"]
    (nli,) = (point for point in values if point["cluster"] == "nli" and point["series"] == "metalm")
    assert (nli["value"], nli["low"], nli["chance"]) == (65.0, 53.0, 55.0)
    assert {point["series"] for point in values} == {"metalm", "gpt & co"}
    assert "Of 4 scores with a chance level, the whole interval is above it in 2." in _figure(runs, "tasks").caption


def test_a_mean_over_fewer_clusters_has_no_bar(tmp_path: Path) -> None:
    run = write_run(tmp_path / "tiny")
    write_results(run)
    path = write_results(run, "in_context-one")
    record = json.loads(path.read_text())
    del record["clusters"]["0"]["paraphrase"]
    write_json(path, record | {"mean": {"0": {"value": 65.0, "error": 4.0, "of": ["nli"]}}})
    values = _figure([run], "clusters").spec["data"]["values"]
    assert [(point["series"], point["value"]) for point in values if point["cluster"] == "all clusters"] == [
        ("in_context-rte", 72.5)
    ]
    (run / "results" / "in_context-rte.json").unlink()
    assert {point["cluster"] for point in _figure([run], "clusters").spec["data"]["values"]} == {"nli"}


def test_logarithmic_axes_need_positive_values(tmp_path: Path) -> None:
    metrics = [{"step": step, "split": "train", "loss": 0.0, "grad_norm": 1.0} for step in (1, 2)]
    assert _figure([write_run(tmp_path / "tiny", metrics=metrics)], "loss").log_axes == ("x",)


def _figure(runs: list[Path], key: str) -> Figure:
    return next(figure for figure in report_figures(read_runs(runs)) if figure.key == key)


def test_figures_are_written_without_a_browser(runs: list[Path], tmp_path: Path) -> None:
    written = write_figures(read_runs(runs[:1]), tmp_path / "figures")
    assert {path.name for path in written} >= {"loss.svg", "loss.png", "clusters.svg", "clusters.png"}
    svg = (tmp_path / "figures" / "loss.svg").read_text(encoding="utf-8")
    assert "var(--" not in svg
    assert light_colours()["--s0"] in svg
    assert (tmp_path / "figures" / "loss.png").read_bytes().startswith(b"\x89PNG")


# -- colours and the library ------------------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    channels = [int(colour[offset : offset + 2], 16) / 255 for offset in (1, 3, 5)]
    red, green, blue = (
        channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4 for channel in channels
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: str, second: str) -> float:
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def themes() -> dict[str, dict[str, str]]:
    css = pages._asset("page.css")
    blocks = {"light": ":root {", "dark": ':root[data-theme="dark"] {', "print": ":root, :root[data-theme] {"}
    blocks_text = {name: css[css.index(header) :].split("}")[0] for name, header in blocks.items()}
    shorthand = {"#fff": "#ffffff"}
    return {
        name: {key: shorthand.get(value, value) for key, value in re.findall(r"(--[\w-]+): (#\w+);", block)}
        for name, block in blocks_text.items()
    }


@pytest.mark.parametrize("theme", ["light", "dark", "print"])
def test_texts_and_marks_have_enough_contrast(theme: str) -> None:
    theme_colours = themes()[theme]
    for text in ("--ink", "--muted", "--link", "--right", "--wrong"):
        assert contrast(theme_colours[text], theme_colours["--page"]) >= 4.5, text
        assert contrast(theme_colours["--ink"], theme_colours["--notice"]) >= 4.5
    for text in ("--ink", "--muted"):
        assert contrast(theme_colours[text], theme_colours["--raised"]) >= 4.5
    for tint in ("--docked-tint", "--causal-tint", "--trained-tint"):
        assert contrast(theme_colours["--ink"], theme_colours[tint]) >= 4.5
    for mark in ("--docked", "--causal", "--trained", *(f"--s{index}" for index in range(10))):
        assert contrast(theme_colours[mark], theme_colours["--page"]) >= 3, mark


def test_figures_use_colours_of_the_style_sheet(runs: list[Path]) -> None:
    used = set(
        re.findall(
            r"var\((--[\w-]+)\)",
            json.dumps([VEGA_CONFIG, *(figure.spec for figure in report_figures(read_runs(runs)))]),
        )
    )
    assert used
    assert used <= set(themes()["light"]) & set(themes()["dark"])


def test_the_library_is_cached_and_a_damaged_copy_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def bundle() -> str:
        calls.append(1)
        return "let a = '</script>';"

    monkeypatch.setattr(vega_export, "_bundle_javascript", bundle)
    assert vega_export.javascript(tmp_path) == "let a = '<\\/script>';" == vega_export.javascript(tmp_path)
    assert len(calls) == 1
    (file,) = (tmp_path / "report").iterdir()
    file.write_text(file.read_text(encoding="utf-8") + "x", encoding="utf-8")
    assert vega_export.javascript(tmp_path) == "let a = '<\\/script>';"
    assert len(calls) == 2
    blocked = tmp_path / "file"
    blocked.write_text("", encoding="utf-8")
    assert vega_export.javascript(blocked) == "let a = '<\\/script>';", "a cache that cannot be written is not an error"


def test_the_path_of_the_page(tmp_path: Path) -> None:
    facts = [write_run(tmp_path / "tiny")]
    assert report_path(facts, None) == tmp_path / "tiny" / "report.html"
    assert report_path(facts, tmp_path) == tmp_path / "report.html"
    assert report_path(facts, tmp_path / "a.html") == tmp_path / "a.html"
