"""Tables, the terminal and the card."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from metalm_cli.errors import MetalmError
from metalm_cli.reports import read_run, read_runs
from metalm_cli.reports.card import with_section, write_card
from metalm_cli.reports.tables import decimal, difference_table, series_of, tables, token_shares
from metalm_cli.reports.terminal import print_report, sparkline
from reports.folders import RECIPE, write_results, write_run


def printed(runs: list[Path], width: int, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, errors="replace")
    print_report(read_runs(runs), Console(file=file, width=width, highlight=False))
    file.flush()
    return raw.getvalue().decode(encoding)


def test_tokens_by_what_became_of_them() -> None:
    assert token_shares({"tokens": 100, "docked_tokens": 30, "trained_tokens": 60}) == {
        "docked": 30,
        "causal": 10,
        "trained": 60,
    }
    assert token_shares({"tokens": 100, "docked_tokens": 0, "trained_tokens": 101})["causal"] == 0


@pytest.mark.parametrize(
    ("value", "said"), [(None, "–"), (float("nan"), "–"), (2.0, "2.000"), (0.00012, "0.00012"), (7008.3, "7,008")]
)
def test_numbers(value: float | None, said: str) -> None:
    assert decimal(value) == said


def test_all_tables_are_there_and_whole(tmp_path: Path) -> None:
    run = write_run(tmp_path / "tiny")
    write_results(run)
    found = {table.title: table for table in tables([read_run(run)])}
    assert list(found) == [
        "The run",
        "Tokens",
        "Loss by cluster",
        "Loss by task",
        "Mixture of tiny",
        "Scores by cluster",
        "Scores by task",
        "Spread over templates",
        "Environment",
    ]
    assert all(len(row) == len(table.heads) for table in found.values() for row in table.rows)
    assert dict(found["The run"].rows)["steps"] == "40 of 40"
    assert found["Tokens"].rows == (("tiny", "120 (30%)", "40 (10%)", "240 (60%)", "132", "1"),)
    assert ("nli", "1.500", "0.750") in found["Loss by cluster"].rows
    assert found["Mixture of tiny"].rows[0] == ("sst2", "sentiment", "75.0%", "300", "hub stanford/sst2 at abc")
    assert found["Scores by cluster"].rows[-1] == ("all clusters", "in-context", "0", "72.5", "68.6 to 76.4", "2")


def test_a_model_compared_with_is_named_and_a_renamed_run_is_itself(tmp_path: Path) -> None:
    run = write_run(tmp_path / "tiny")
    write_results(run)
    write_results(run, "in_context-rte-2", source="runs/other", weights="v")
    assert [label for label, _ in series_of([read_run(run)])] == ["in-context", "other, in-context"]
    write_results(run, "in_context-mrpc")
    assert [label for label, _ in series_of([read_run(run)])] == [
        "in_context-mrpc",
        "in_context-rte",
        "other, in-context",
    ]
    (run / "results" / "in_context-mrpc.json").unlink()
    run.rename(tmp_path / "renamed")
    (tmp_path / "renamed" / "results" / "in_context-rte-2.json").unlink()
    assert [label for label, _ in series_of([read_run(tmp_path / "renamed")])] == ["in-context"]


def test_what_differs_between_recipes(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name) for name in ("a", "b")]
    assert difference_table(read_runs(runs)) is None
    (runs[1] / "recipe.yaml").write_text(RECIPE.replace("seed: 7", "seed: 8"), encoding="utf-8")
    table = difference_table(read_runs(runs))
    assert table is not None
    assert table.rows == (("train.seed", "7", "8"),)


@pytest.mark.parametrize("width", [80, 40])
def test_the_terminal_is_never_too_narrow(tmp_path: Path, width: int) -> None:
    runs = [write_run(tmp_path / name) for name in ("metalm", "gpt")]
    for run in runs:
        write_results(run)
    text = printed(runs, width)
    assert max(cell_len(line) for line in text.splitlines()) <= width
    assert "\x1b" not in text, "no colour where there is no terminal"
    for said in ("Runs", "Scores by cluster", "all clusters", "72.5", "Spread over templates"):
        assert said in text


def test_the_terminal_without_unicode_and_with_steering_text(tmp_path: Path) -> None:
    run = write_run(tmp_path / "tiny")
    path = write_results(run)
    path.write_text(path.read_text(encoding="utf-8").replace('"rte"', '"rt\\u001b[31me"'), encoding="utf-8")
    text = printed([run], 80, "ascii")
    assert "\x1b" not in text
    assert "training loss" in text
    assert "@" in text


def test_sparklines() -> None:
    assert sparkline([1.0, 2.0, 8.0], 3) == "▁▂█"
    assert sparkline([5.0, 5.0], 8) == "▁▁"
    assert len(sparkline(list(range(1000)), 20)) == 20


def test_scores_come_into_the_card_once(tmp_path: Path) -> None:
    run = write_run(tmp_path / "tiny")
    with pytest.raises(MetalmError, match="nothing to put into a card"):
        write_card(read_run(run))
    write_results(run)
    path = write_card(read_run(run))
    once = path.read_text(encoding="utf-8")
    assert (
        once.index("# tiny")
        < once.index("## Evaluation")
        < once.index("| all clusters |")
        < once.index("## Use\n\nthus")
    )
    write_card(read_run(run))
    assert path.read_text(encoding="utf-8") == once
    assert with_section("# Own card\n", "## Evaluation").startswith("# Own card\n\n<!-- metalm: evaluation -->")
