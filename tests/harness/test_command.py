"""Command line for lm_eval, and the error if lm_eval is missing."""

from __future__ import annotations

import importlib.util
import sys
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
        "runs/a", ["copa", "rte"], limit=5, shots=0, out="found", offline=True, dock="text"
    )
    assert command[:3] == [sys.executable, "-m", "metalm_cli.harness"]
    arguments = " ".join(command[3:])
    assert arguments == (
        "--offline run --model metalm --model_args pretrained=runs/a,dock=text --tasks copa rte"
        " --batch_size auto --limit 5 --num_fewshot 0 --output_path found"
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
