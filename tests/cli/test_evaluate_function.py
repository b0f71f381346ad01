"""``metalm_cli.evaluate``: the same results as the command, without output; bad arguments."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import metalm_cli as metalm_package
from card_fixtures import CARD_VALUES
from metalm_cli.evaluation.results.result_reader import read_result
from tiny_runs import metalm

ROWS = [{"text": f"She had {n} red balls.", "label": n % 2} for n in range(10)]
TIMES = ("created", "seconds")


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: Path) -> Path:
    """Working directory with a run and the cards ``odd`` and ``even``, and ``far`` without local data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("METALM_DATA", raising=False)
    shutil.copytree(trained, tmp_path / "runs" / "mine")
    (tmp_path / "cards").mkdir()
    places: dict[str, dict[str, Any]] = {
        "odd": {"file": "odd.jsonl"},
        "even": {"file": "odd.jsonl"},
        "far": {"hub": {"id": "nobody/nothing"}},
    }
    for name, place in places.items():
        text = yaml.safe_dump({"name": name, **CARD_VALUES, **place})
        (tmp_path / "cards" / f"{name}.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "cards" / "odd.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return tmp_path


OPTIONS: dict[str, Any] = {"card_folders": (Path("cards"),), "templates": "plain", "offline": True}
FLAGS = ["--cards", "cards", "--templates", "plain", "--offline"]


def untimed(record: dict[str, Any]) -> dict[str, Any]:
    """A record without its times."""
    return {
        key: untimed(value)
        if isinstance(value, dict)
        else [untimed(v) if isinstance(v, dict) else v for v in value]
        if isinstance(value, list)
        else value
        for key, value in record.items()
        if key not in TIMES
    }


@pytest.mark.parametrize("shots", [0, (0, 2)])
def test_the_function_gives_what_the_command_writes(desk, capsys, shots) -> None:
    numbers = [shots] if isinstance(shots, int) else list(shots)
    flags = ["--shots", ",".join(map(str, numbers)), "--save-samples", "--fresh"]
    assert metalm("eval", "runs/mine", "--task", "odd,far", *FLAGS, "--out", "command.json", *flags) == 0
    capsys.readouterr()
    notes: list[str] = []
    results = metalm_package.evaluate("runs/mine", tasks=["odd", "far"], shots=shots, on_note=notes.append, **OPTIONS)
    assert capsys.readouterr() == ("", "")
    assert [note.split(":")[0] for note in notes][-1] == "missing  far"
    results.save("function.json", samples=True)
    written = [json.loads(Path(f"{name}.json").read_text()) for name in ("command", "function")]
    assert untimed(written[0]) == untimed(written[1])
    assert Path("command.samples.jsonl").read_text() == Path("function.samples.jsonl").read_text()
    record = read_result(Path("function.json"))
    for number in numbers:
        setting = record.tasks["odd"].with_shots(number)
        assert results.scores(number) == {"odd": setting.score}
        assert results.intervals(number) == {"odd": tuple(setting.interval)}
        assert results.clusters(number) == {"nli": setting.score}
        assert results.mean(number) == setting.score
        suffix = f"@{number}" if len(numbers) > 1 else ""
        scores = {name: results.named_scores()[f"{name}{suffix}"] for name in ("odd", "nli", "mean")}
        assert scores == dict.fromkeys(scores, setting.score)
    assert [sample.row for sample in results.samples] == [str(row) for row in range(10)] * len(numbers)
    assert "odd" in repr(results)
    assert f"{setting.score:.2f}" in repr(results)
    assert "far: missing" in repr(results)
