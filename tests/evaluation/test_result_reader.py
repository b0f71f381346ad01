"""Result reader: contents of result files, and errors for damaged and other files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.results.result_reader import parse_result, read_result, result_files
from result_fixtures import result_record, shot_record, task_record, template_record


def make_record() -> dict[str, Any]:
    first = template_record([1.0, 0.0, 1.0, 1.0], extra={"per_token": 40.0, "per_byte": 10.0})
    second = template_record([0.0, 0.0, 1.0, 1.0], "second", extra={"per_token": 50.0})
    return result_record(
        {"rte": task_record(shot_record(first, second), shot_record(template_record([1.0, 1.0]), shots=4))}
    )


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(make_record()), encoding="utf-8")
    record = read_result(path)
    assert (record.name, record.source, record.shots) == (str(path), "runs/mine", [0, 4])
    zero_shot = record.tasks["rte"].with_shots(0)
    assert zero_shot is not None
    assert (zero_shot.n, zero_shot.score, zero_shot.chance.majority) == (4, 62.5, 62.5)
    assert zero_shot.extra == {"per_token": 45.0}, "a metric that not all templates have is left out"
    assert [observations.score for observations in record.observations["rte", 0]] == [0.75, 0.5]
    assert record.tasks["rte"].with_shots(1) is None


def test_unknown_keys_are_ignored() -> None:
    assert parse_result({**make_record(), "contamination": {"rte": 3}}, "x").complete


def changed_record(path: str, value: Any) -> dict[str, Any]:
    record = make_record()
    node: Any = record
    *parents, last = path.split(".")
    for key in parents:
        node = node[int(key) if key.isdecimal() else key]
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return record


FIRST = "tasks.rte.settings.0.templates.0"


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("tasks.rte.settings.0.score", "high", "tasks.rte.settings.0.score: input should be a valid number"),
        ("tasks.rte.settings.0.score", float("nan"), "tasks.rte.settings.0.score: input should be a finite number"),
        ("tasks.rte.settings.0.interval", [1.0], "interval: list should have at least 2 items"),
        ("tasks.rte.card_sha256", ..., "tasks.rte.card_sha256: field required"),
        ("protocol", ..., "protocol: field required"),
        ("tasks", [], "tasks: input should be a valid dict"),
        (f"{FIRST}.each", {}, "tasks.rte, template first: no 'row' by example"),
        (f"{FIRST}.each.value", [1.0, 0.0], "template first: 2 values of 4 rows"),
        (f"{FIRST}.each.value", [1.0, 0.0, "x", 1.0], "template first: could not convert"),
        (f"{FIRST}.each", {"row": [0], "found": [1], "right": [1]}, "template first: no 'accuracy' by example"),
    ],
)
def test_damage_is_reported_with_its_key(path: str, value: Any, reason: str) -> None:
    with pytest.raises(MetalmError) as caught:
        parse_result(changed_record(path, value), "mine.json").observations  # noqa: B018
    assert caught.value.what == "the result file is damaged"
    assert reason in caught.value.why
    assert caught.value.where == "mine.json"
    assert "evaluate the model again" in caught.value.remedy


@pytest.mark.parametrize(
    ("text", "what", "remedy"),
    [
        (json.dumps({**make_record(), "format": 1}), "results of format 1 cannot be read", "evaluate the model again"),
        (json.dumps({**make_record(), "format": 3}), "results of format 3 cannot be read", "a newer version"),
        (json.dumps({"results": {"rte": {"acc,none": 0.5}}}), "not a result file", "metalm evaluate wrote"),
        (json.dumps({**make_record(), "format": "2"}), "not a result file", "metalm evaluate wrote"),
        ("[1, 2]", "not a result file", "metalm evaluate wrote"),
        (json.dumps(make_record())[:400], "the result file is damaged", "not valid JSON"),
        ("", "the result file is damaged", "not valid JSON"),
        ("[" * 100_000, "the result file is damaged", "not valid JSON"),
    ],
)
def test_other_files_are_errors(tmp_path: Path, text: str, what: str, remedy: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(MetalmError) as caught:
        read_result(path)
    assert what in caught.value.what
    assert remedy in str(caught.value)
    assert caught.value.where == str(path)


def test_unreadable_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(MetalmError, match="results cannot be read"):
        read_result(tmp_path / "nothing.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(MetalmError, match="the result file is damaged"):
        read_result(tmp_path / "bytes.json")


def test_files_of_a_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "results").mkdir(parents=True)
    for mtime, name in enumerate(("b", "a", "model_card")):
        path = run / "results" / f"{name}.json"
        path.write_text(json.dumps(make_record() if name in "ab" else {"title": name}), encoding="utf-8")
        os.utime(path, (mtime, mtime))
    (run / "results" / "a.samples.jsonl").write_text("{}\n", encoding="utf-8")
    assert (
        [path.name for path in result_files(run)]
        == ["b.json", "a.json"]
        == [p.name for p in result_files(run / "results")]
    )
    assert result_files(run / "results" / "a.json") == [run / "results" / "a.json"]
    (tmp_path / "empty" / "results").mkdir(parents=True)
    with pytest.raises(MetalmError, match="no results found") as caught:
        result_files(tmp_path / "empty")
    assert "metalm evaluate" in caught.value.remedy
