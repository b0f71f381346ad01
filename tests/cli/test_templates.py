"""``metalm templates``: output and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metalm_cli.cli.app import run

FIXTURES = Path(__file__).parent.parent / "templates" / "fixtures"
GOOD = 'templates:\n  - {name: one, input: "{{ premise }} So {{ hypothesis }}? {{ options }}"}\n'


@pytest.fixture(autouse=True)
def _no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("METALM_DATA", raising=False)


def write(folder: Path, text: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "rte.yaml").write_text(text)
    return str(folder)


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["templates", "list"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == ["flan", "fused", "none", "passages", "plain", "t5"]
    assert run(["templates", "list", "flan"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    rte = next(row for row in rows if row[0] == "rte")
    assert [int(number) for number in rte[1:4]] == [10, 2, 8]
    assert run(["templates", "list", "nowhere"]) == 2


def test_show_without_data_shows_the_template(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = write(tmp_path / "mine", GOOD)
    assert run(["templates", "show", "rte", "--collection", folder]) == 0
    caught = capsys.readouterr()
    assert "docked       | {{ premise }} So {{ hypothesis }}? {{ options }}" in caught.out
    assert "target       | {{ answer }}" in caught.out
    assert "templates are not rendered" in caught.err


def test_show_renders_a_row(capsys: pytest.CaptureFixture[str], data_root: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "mine", GOOD)
    arguments = ["templates", "show", "rte", "--collection", folder, "--data-root", str(data_root)]
    assert run([*arguments, "--row", "3", "--template", "one"]) == 0
    output = capsys.readouterr().out
    assert "OPTIONS:" in output
    assert output.count("target       |") == 1
    assert output.split("target       | ")[1].strip() in ("yes", "no")
    assert run([*arguments, "--row", "99999"]) == 0
    assert "has no row 99999" in capsys.readouterr().err


def test_show_of_unknown_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["templates", "show", "rte", "--template", "nope"]) == 2
    assert "choose one of does-it-follow" in capsys.readouterr().err
    assert run(["templates", "show", "rtx"]) == 2
    assert "did you mean rte?" in capsys.readouterr().err


def test_lint_prints_findings(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    good = write(tmp_path / "good", GOOD)
    assert run(["templates", "lint", good]) == 0
    assert capsys.readouterr().out.startswith("0 errors, 0 warnings; no rows were rendered (no local data")
    warned = write(tmp_path / "warned", GOOD.replace(" So", "  So"))
    assert run(["templates", "lint", warned, "--task", "rte"]) == 0
    assert "warning doubled-space: rte one: two spaces" in capsys.readouterr().out
    assert run(["templates", "lint", warned, "--strict"]) == 1
    capsys.readouterr()
    wrong = write(tmp_path / "wrong", GOOD.replace("So", "{{ answer }}"))
    assert run(["templates", "lint", wrong, "--rows", "0"]) == 1
    output = capsys.readouterr().out
    assert "wrong/rte.yaml:2: error answer-in-input: rte one: the input reads answer" in output
    assert "remedy: remove the answer from the input" in output


def test_lint_renders_local_rows(capsys: pytest.CaptureFixture[str], data_root: Path, tmp_path: Path) -> None:
    text = GOOD.replace(" So", "{% if premise | length < 400 %}").replace("?", "{% endif %}")
    folder = write(tmp_path / "mine", text)
    assert run(["templates", "lint", folder, "--task", "rte", "--rows", "20", "--data-root", str(data_root)]) == 1
    output = capsys.readouterr().out
    assert "lost-when-cut" in output
    assert "rows of 1 task were rendered" in output


def test_import(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "imported"
    assert run(["templates", "import", "flan", str(FIXTURES / "flan_defects.txt"), "--out", str(out)]) == 0
    output = capsys.readouterr().out
    assert "rte.yaml: 3 templates for rte\n" in output
    assert output.count("refused: ") == 12
    assert output.endswith("; 12 refused\n")
    assert run(["templates", "lint", str(out)]) == 0
    assert capsys.readouterr().out.startswith("0 errors, 0 warnings")
    assert run(["templates", "import", "flan", str(FIXTURES / "flan_defects.txt"), "--out", str(out)]) == 2
    assert "is not empty" in capsys.readouterr().err


MINE = """\
name: mine
cluster: nli
description: Does it follow?
file: ../rows.jsonl
splits: {train: "rows[:2]", validation: "rows[2:]"}
licence: none
citation: none
fields: {premise: premise, hypothesis: hypothesis}
optional_fields: [premise]
answer: {label: label, class_names: [entailment, not], verbalizers: {entailment: "yes", not: "no"}}
metric: {name: accuracy, source: us}
templates: templates/mine.yaml
"""


def write_mine(folder: Path, template: str) -> Path:
    """Write a card with its own templates and three rows, of which one has no premise; return the template file."""
    path = folder / "cards" / "templates" / "mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(f"templates:\n  - name: one\n    input: |-\n      {template}\n")
    (folder / "cards" / "mine.yaml").write_text(MINE)
    rows = [{"premise": "It rains.", "hypothesis": "It is wet.", "label": 0}] * 2 + [{"hypothesis": "So.", "label": 1}]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("file", ["cards/templates/mine.yaml", "cards/mine.yaml"])
def test_show_and_lint_take_files(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_mine(tmp_path, "{% if premise %}Given {{ premise }} {% endif %}Is it so? {{ hypothesis }} {{ options }}")
    assert run(["templates", "show", file]) == 0
    output = capsys.readouterr().out
    assert "docked text  | Is it so? So. OPTIONS:" in output
    assert "target       | no" in output
    assert run(["templates", "lint", file]) == 0
    assert "rows of 1 task were rendered" in capsys.readouterr().out
    monkeypatch.chdir(write_mine(tmp_path / "wrong", "{{ hypotesis }} {{ options }}").parents[2])
    assert run(["templates", "lint", file]) == 1
    assert "hypotesis" in capsys.readouterr().out


def test_show_and_lint_a_template_file_without_a_card(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "words.yaml"
    path.write_text('templates:\n  - {name: one, input: "Is it so? {{ hypothesis }}"}\n')
    assert run(["templates", "show", str(path)]) == 0
    caught = capsys.readouterr()
    assert "docked       | Is it so? {{ hypothesis }}" in caught.out
    assert "no card is named words" in caught.err
    assert run(["templates", "lint", str(path)]) == 0
    assert run(["templates", "show", str(path), "--template", "two"]) == 2
    assert "choose one of one" in capsys.readouterr().err
    assert run(["templates", "show", str(tmp_path / "none.yaml")]) == 2
