"""Command line for lm_eval, and the error if lm_eval is missing."""

from __future__ import annotations

import importlib.util
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from metalm_cli import harness
from metalm_cli.errors import Exit, MetalmError


@pytest.fixture
def _missing(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "lm_eval" else find(name, *more)
    )


@pytest.fixture
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "require_lm_eval", lambda: None)


@pytest.mark.usefixtures("_missing")
def test_a_missing_lm_eval_is_one_message_with_a_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(MetalmError, match="lm_eval is not installed"):
        harness.harness_command("runs/latest", ["hellaswag"])
    assert harness.main(["--tasks", "hellaswag"]) == Exit.USAGE
    stderr = capsys.readouterr().err
    assert stderr.startswith("error: lm_eval is not installed")
    assert "pip install" in stderr
    assert "Traceback" not in stderr


@pytest.mark.usefixtures("_installed")
def test_the_command_names_all_options() -> None:
    command = harness.harness_command(
        "runs/a", ["copa", "rte"], limit=5, shots=0, batch_size=8, out="found", offline=True, dock="text"
    )
    assert command[:3] == [sys.executable, "-m", "metalm_cli.harness"]
    arguments = " ".join(command[3:])
    assert arguments == (
        "--offline run --model metalm --model_args pretrained=runs/a,dock=text --tasks copa rte"
        " --batch_size 8 --limit 5 --num_fewshot 0 --output_path found --log_samples"
    )
    plain = " ".join(harness.harness_command("runs/a", ["copa"])[3:])
    assert plain == "run --model metalm --model_args pretrained=runs/a --tasks copa --batch_size auto"


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize(("model", "tasks"), [("a,b=c", ["copa"]), ("runs/a", ["co,pa"]), ("runs/a", [])])
def test_names_that_lm_eval_would_parse_are_rejected(model: str, tasks: list[str]) -> None:
    with pytest.raises(MetalmError):
        harness.harness_command(model, tasks)


def test_offline_is_set_before_anything_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "0")

    def register() -> None:
        import os

        seen.update(hub=os.environ["HF_HUB_OFFLINE"], datasets=os.environ["HF_DATASETS_OFFLINE"])
        raise MetalmError("enough")

    monkeypatch.setattr(harness, "register", register)
    assert harness.main(["--offline", "--tasks", "copa"]) == Exit.USAGE
    assert seen == {"hub": "1", "datasets": "1"}


def test_the_install_line_is_what_the_extra_installs() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["optional-dependencies"]["harness"] == list(harness.REQUIREMENTS)
    pinned = dict(line.split("==") for line in constraints() if "==" in line)
    assert int(pinned["pytablewriter"].partition(".")[0]) >= 1
    assert int(pinned["python-dateutil"].partition(".")[0]) < 3, "a newer one allows only pytablewriter 0.38"


def constraints() -> list[str]:
    return (Path(__file__).parents[2] / "constraints.txt").read_text(encoding="utf-8").splitlines()


@pytest.mark.skipif(
    int(version("pytablewriter").partition(".")[0]) < 1,
    reason="this environment has an older pytablewriter than pinned",
)
def test_tables_of_lm_eval_have_headings() -> None:
    from lm_eval.utils import make_table

    results = {"copa": {"alias": "copa", "acc,none": 0.5, "acc_stderr,none": 0.1}}
    table = make_table({"results": results, "versions": {"copa": 1}, "n-shot": {"copa": 0}})
    assert [cell.strip() for cell in table.splitlines()[0].strip("|").split("|")][:3] == ["Tasks", "Version", "Filter"]
