"""``metalm templates``: output and exit codes."""

from __future__ import annotations

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
    assert [row[0] for row in rows] == ["flan", "none", "plain", "t5"]
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
    assert "rows of 1 tasks were rendered" in output


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
