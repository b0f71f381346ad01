"""Reading result files back: what is in them, and what is wrong with files that are none."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.results.result_reader import parse_result, read, result_files
from result_fixtures import record, setting, task, wording


def made() -> dict[str, Any]:
    first = wording([1.0, 0.0, 1.0, 1.0], extra={"per_token": 40.0, "per_byte": 10.0})
    second = wording([0.0, 0.0, 1.0, 1.0], "second", extra={"per_token": 50.0})
    return record({"rte": task(setting(first, second), setting(wording([1.0, 1.0]), shots=4))})


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(made()), encoding="utf-8")
    found = read(path)
    assert (found.name, found.source, found.shots) == (str(path), "runs/mine", [0, 4])
    zero = found.tasks["rte"].at(0)
    assert zero is not None
    assert (zero.n, zero.score, zero.chance.majority) == (4, 62.5, 62.5)
    assert zero.extra == {"per_token": 45.0}, "a column that not every wording has is left out"
    assert [one.value for one in found.observations["rte", 0]] == [0.75, 0.5]
    assert found.tasks["rte"].at(1) is None


def test_what_later_versions_add_is_passed_over() -> None:
    assert parse_result({**made(), "contamination": {"rte": 3}}, "x").complete


def changed(path: str, value: Any) -> dict[str, Any]:
    whole = made()
    at: Any = whole
    *above, last = path.split(".")
    for part in above:
        at = at[int(part) if part.isdecimal() else part]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return whole


FIRST = "tasks.rte.settings.0.templates.0"


@pytest.mark.parametrize(
    ("path", "value", "why"),
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
def test_damage_is_said_with_its_place(path: str, value: Any, why: str) -> None:
    with pytest.raises(MetalmError) as caught:
        parse_result(changed(path, value), "mine.json").observations  # noqa: B018
    assert caught.value.what == "the result file is damaged"
    assert why in caught.value.why
    assert caught.value.where == "mine.json"
    assert "evaluate the model again" in caught.value.remedy


@pytest.mark.parametrize(
    ("text", "what", "more"),
    [
        (json.dumps({**made(), "format": 1}), "results of format 1 cannot be read", "evaluate the model again"),
        (json.dumps({**made(), "format": 3}), "results of format 3 cannot be read", "a newer one"),
        (json.dumps({"results": {"rte": {"acc,none": 0.5}}}), "this is no result file", "metalm evaluate wrote"),
        (json.dumps({**made(), "format": "2"}), "this is no result file", "metalm evaluate wrote"),
        ("[1, 2]", "this is no result file", "metalm evaluate wrote"),
        (json.dumps(made())[:400], "the result file is damaged", "it is no JSON"),
        ("", "the result file is damaged", "it is no JSON"),
        ("[" * 100_000, "the result file is damaged", "it is no JSON"),
    ],
)
def test_what_is_no_result_file_is_said(tmp_path: Path, text: str, what: str, more: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(MetalmError) as caught:
        read(path)
    assert what in caught.value.what
    assert more in str(caught.value)
    assert caught.value.where == str(path)


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(MetalmError, match="results cannot be read"):
        read(tmp_path / "nothing.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(MetalmError, match="the result file is damaged"):
        read(tmp_path / "bytes.json")


def test_files_of_a_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "results").mkdir(parents=True)
    for at, name in enumerate(("b", "a", "model_card")):
        path = run / "results" / f"{name}.json"
        path.write_text(json.dumps(made() if name in "ab" else {"title": name}), encoding="utf-8")
        os.utime(path, (at, at))
    (run / "results" / "a.samples.jsonl").write_text("{}\n", encoding="utf-8")
    assert (
        [path.name for path in result_files(run)]
        == ["b.json", "a.json"]
        == [p.name for p in result_files(run / "results")]
    )
    assert result_files(run / "results" / "a.json") == [run / "results" / "a.json"]
    (tmp_path / "empty" / "results").mkdir(parents=True)
    with pytest.raises(MetalmError, match="no results are here") as caught:
        result_files(tmp_path / "empty")
    assert "metalm evaluate" in caught.value.remedy
