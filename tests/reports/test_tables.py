"""Tables of a report, the terminal report, and the section of the model card."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from metalm_cli.errors import MetalmError
from metalm_cli.reports import read_run, read_runs
from metalm_cli.reports.card_section import scored_cards, with_section, write_card
from metalm_cli.reports.page import make_page
from metalm_cli.reports.tables import (
    difference_table,
    format_decimal,
    loss_labels,
    loss_table,
    named_evaluations,
    overview_table,
    per_task_losses,
    report_tables,
    token_shares,
)
from metalm_cli.reports.terminal import print_report, sparkline
from report_fixtures import RECIPE, write_results, write_run


def print_to_text(runs: list[Path], width: int, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, errors="replace")
    print_report(read_runs(runs), Console(file=file, width=width, highlight=False))
    file.flush()
    return raw.getvalue().decode(encoding)


def test_tokens_by_kind_of_span() -> None:
    assert token_shares({"tokens": 100, "docked_tokens": 30, "trained_tokens": 60}) == {
        "docked": 30,
        "causal": 10,
        "trained": 60,
    }
    assert token_shares({"tokens": 100, "docked_tokens": 0, "trained_tokens": 101})["causal"] == 0


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (float("nan"), "–"), (2.0, "2.000"), (0.00012, "0.00012"), (7008.3, "7,008")]
)
def test_numbers(value: float | None, text: str) -> None:
    assert format_decimal(value) == text


def test_all_tables_are_complete(tmp_path: Path) -> None:
    run = write_run(tmp_path / "tiny")
    write_results(run)
    tables_by_title = {table.title: table for table in report_tables([read_run(run)])}
    assert list(tables_by_title) == [
        "The run",
        "Tokens",
        "Held-out loss by cluster",
        "Held-out loss by task",
        "Mixture of tiny",
        "Scores by cluster",
        "Scores by task",
        "Spread over templates",
        "Environment",
    ]
    assert all(len(row) == len(table.headers) for table in tables_by_title.values() for row in table.rows)
    assert dict(tables_by_title["The run"].rows)["steps"] == "40 of 40"
    assert tables_by_title["Tokens"].rows == (("tiny", "120 (30%)", "40 (10%)", "240 (60%)", "132", "1"),)
    assert tables_by_title["Held-out loss by cluster"].headers == ("cluster", "step 20", "step 40")
    assert tables_by_title["Held-out loss by cluster"].rows == (
        ("nli", "1.500", "0.750"),
        ("sentiment", "1.000", "1.000"),
    )
    assert tables_by_title["Mixture of tiny"].rows[0] == (
        "sst2",
        "sentiment",
        "75.0%",
        "300",
        "hub stanford/sst2 at abc",
    )
    assert tables_by_title["Scores by cluster"].rows[-1] == (
        "all clusters",
        "in-context",
        "0",
        "72.5",
        "65.0 to 79.3",
        "2",
    )


def test_other_models_are_named_and_a_renamed_run_is_recognised(tmp_path: Path) -> None:
    run = write_run(tmp_path / "tiny")
    write_results(run)
    write_results(run, "in_context-rte-2", source="runs/other", weights="v")
    assert [label for label, _ in named_evaluations([read_run(run)])] == ["in-context", "other, in-context"]
    write_results(run, "in_context-mrpc")
    assert [label for label, _ in named_evaluations([read_run(run)])] == [
        "in_context-mrpc",
        "in_context-rte",
        "other, in-context",
    ]
    (run / "results" / "in_context-mrpc.json").unlink()
    run.rename(tmp_path / "renamed")
    (tmp_path / "renamed" / "results" / "in_context-rte-2.json").unlink()
    assert [label for label, _ in named_evaluations([read_run(tmp_path / "renamed")])] == ["in-context"]
    write_results(tmp_path / "renamed", "in_context-rte-2", source="runs/other", weights="v")
    both = [label for label, _ in named_evaluations([read_run(tmp_path / "renamed")])]
    assert both == ["tiny, in-context", "other, in-context"], "the model of the run is unknown"


def test_differences_between_recipes(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name) for name in ("a", "b")]
    assert difference_table(read_runs(runs)) is None
    (runs[1] / "recipe.yaml").write_text(RECIPE.replace("seed: 7", "seed: 8"), encoding="utf-8")
    table = difference_table(read_runs(runs))
    assert table is not None
    assert table.rows == (("train.seed", "7", "8"),)


@pytest.mark.parametrize("width", [80, 40, 30])
def test_tables_fit_terminals_of_any_width(tmp_path: Path, width: int) -> None:
    runs = [write_run(tmp_path / name) for name in ("metalm", "gpt")]
    for run in runs:
        write_results(run)
    text = print_to_text(runs, width)
    assert max(cell_len(line) for line in text.splitlines()) <= width
    assert "\x1b" not in text, "no colours without a terminal"
    for text_ in ("Runs", "Scores by cluster", "all clusters", "72.5", "Spread over templates"):
        assert text_ in text


def test_terminals_without_unicode_and_texts_with_control_characters(tmp_path: Path) -> None:
    run = write_run(tmp_path / "tiny")
    path = write_results(run)
    path.write_text(path.read_text(encoding="utf-8").replace('"rte"', '"rt\\u001b[31me"'), encoding="utf-8")
    text = print_to_text([run], 80, "ascii")
    assert "\x1b" not in text
    assert "training loss" in text
    assert "@" in text


def test_sparklines() -> None:
    assert sparkline([1.0, 2.0, 8.0], 3) == "▁▂█"
    assert sparkline([5.0, 5.0], 8) == "▁▁"
    assert len(sparkline(list(range(1000)), 20)) == 20


def loss_record(step: int, split: str, **losses: float | None) -> dict[str, Any]:
    return {"step": step, "split": split, "cluster_loss": losses}


def test_losses_are_sorted_as_numbers_and_one_step_is_one_column(tmp_path: Path) -> None:
    run = write_run(tmp_path / "tiny", metrics=[loss_record(10, "validation", a=10.5, b=2.1)])
    table = loss_table([read_run(run)], "cluster_loss")
    assert table is not None
    assert (table.headers, table.rows) == (("cluster", "step 10"), (("b", "2.100"), ("a", "10.500")))


def test_titles_name_the_data_of_the_losses(tmp_path: Path) -> None:
    validated = write_run(
        tmp_path / "held", metrics=[loss_record(10, "validation", a=1.0), loss_record(10, "train", a=9.0)]
    )
    trained = write_run(
        tmp_path / "trained",
        metrics=[
            loss_record(10, "train", a=1.0),
            loss_record(20, "train", b=0.5),
            loss_record(20, "validation", a=None),
        ],
    )
    runs = read_runs([validated, trained])
    assert [loss_labels([run], "cluster_loss")[0] for run in runs] == ["Held-out loss", "Training loss"]
    assert per_task_losses(runs[0], "cluster_loss") == [(10, {"a": 1.0})]
    assert per_task_losses(runs[1], "cluster_loss") == [(10, {"a": 1.0}), (20, {"b": 0.5})]
    loss_tables = [loss_table(some, "cluster_loss") for some in (runs[:1], runs[1:], runs)]
    assert [table.title for table in loss_tables if table] == [
        "Held-out loss by cluster",
        "Training loss by cluster",
        "Loss by cluster",
    ]
    assert loss_tables[1] is not None
    assert loss_tables[1].headers == ("cluster", "first, from step 10", "last, up to step 20"), "no step has all losses"
    assert loss_tables[2] is not None
    assert loss_tables[2].note.startswith("On held-out examples (held); other runs: on training")


def test_scores_in_another_folder_are_shown_with_their_run(tmp_path: Path) -> None:
    for name in ("metalm", "gpt"):
        run = write_run(tmp_path / name)
        write_results(tmp_path, name, source=str(run), weights=name)
    rows = {row[0]: row[1:] for row in overview_table(read_runs([tmp_path])).rows}
    assert rows["mean score"] == ("72.5 (in-context, 0-shot)", "72.5 (in-context, 0-shot)", "–")
    assert rows["parameters"] == ("1,234", "1,234", "–")


def test_all_cards_are_checked_before_any_is_written(tmp_path: Path) -> None:
    run = write_run(tmp_path / "metalm")
    write_results(tmp_path, source=str(run))
    ((path, text),) = scored_cards(read_runs([run, tmp_path / "results"]))
    assert path == run / "model" / "README.md"
    assert "| rte | in-context | accuracy | 0 | 65.0 |" in text
    encoder = write_run(tmp_path / "encoder")
    (encoder / "recipe.yaml").write_text(RECIPE.replace("model:\n", "model:\n  decoder: null\n"), encoding="utf-8")
    assert len(scored_cards(read_runs([tmp_path]))) == 1, "an encoder alone has no scores"
    unscored, begun = write_run(tmp_path / "unscored"), write_run(tmp_path / "begun", finished=False)
    for paths, why in [
        ([run, tmp_path / "results", unscored], "the run has no results"),
        ([encoder], "the run has no results"),
        ([tmp_path / "results"], "the folder holds results but no model"),
        ([tmp_path], "the run has no results"),
        ([begun], "the run is not finished and has no model yet"),
    ]:
        with pytest.raises(MetalmError, match="no scores for a model card") as caught:
            scored_cards(read_runs(paths))
        assert caught.value.why == why


def test_limits_of_scores_are_shown(tmp_path: Path) -> None:
    run = write_run(tmp_path / "tiny")
    path = write_results(run)
    record = json.loads(path.read_text("utf-8"))
    template = record["tasks"]["rte"]["settings"][0]["templates"][1]
    template |= {"max_answer_tokens": 32, "at_limit": 7, "warnings": ["2 of 40 examples have equal options"]}
    path.write_text(json.dumps(record), encoding="utf-8")
    tables = {table.title: table for table in report_tables([read_run(run)])}
    rows = tables["Limits of the scores"].rows
    assert [(row[0], row[3]) for row in rows] == [
        ("rte", "2 of 40 examples have equal options"),
        (
            "rte",
            "7 of 40 answers met the limit of 32 tokens (--max-answer-tokens), or filled the model's positions, "
            "before their end",
        ),
    ]
    page = make_page(read_runs([run]), tmp_path / "report.html")
    assert "7 of 40 answers met the limit of 32 tokens" in page
    card = write_card(*scored_cards([read_run(run)])).read_text("utf-8")
    assert "| 2 of 40 examples have equal options |" in card


def test_the_card_gets_a_single_section_of_scores(tmp_path: Path) -> None:
    run = write_run(tmp_path / "tiny")
    with pytest.raises(MetalmError, match="no scores for a model card"):
        scored_cards([read_run(run)])
    write_results(run)
    path = write_card(*scored_cards([read_run(run)]))
    once = path.read_text(encoding="utf-8")
    assert (
        once.index("# tiny")
        < once.index("## Evaluation")
        < once.index("| all clusters |")
        < once.index("## Use\n\nthus")
    )
    write_card(*scored_cards([read_run(run)]))
    assert path.read_text(encoding="utf-8") == once
    assert with_section("# Own card\n", "## Evaluation").startswith("# Own card\n\n<!-- metalm: evaluation -->")
