"""``metalm_cli.evaluate``: the same results as the command, without output; bad arguments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import metalm_cli as metalm_package
from card_fixtures import write_desk
from metalm_cli.errors import MetalmError
from metalm_cli.evaluation.results.result_reader import read_result
from tiny_runs import metalm

ROWS = [{"text": f"She had {n} red balls.", "label": n % 2} for n in range(10)]
TIMES = ("created", "seconds", "milliseconds", "memory")


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: Path) -> Path:
    """Working directory with a run and the cards ``odd`` and ``even``, and ``far`` without local data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("METALM_DATA", raising=False)
    places: dict[str, dict[str, Any]] = {
        "odd": {"file": "odd.jsonl"},
        "even": {"file": "odd.jsonl"},
        "far": {"hub": {"id": "nobody/nothing"}},
    }
    write_desk(tmp_path, trained, places, ROWS)
    return tmp_path


OPTIONS: dict[str, Any] = {"cards": "cards", "templates": "plain", "offline": True}
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


def test_a_loaded_model_gives_the_same_and_keeps_its_modes(desk) -> None:
    by_path = metalm_package.evaluate("runs/mine", tasks="odd", protocol="in_context", **OPTIONS)
    model = metalm_package.load("runs/mine")
    model.model.train()
    next(iter(model.model.encoders.values())).eval()
    modes = [module.training for module in model.model.modules()]
    assert len(set(modes)) == 2
    state = torch.get_rng_state()
    loaded = metalm_package.evaluate(model, tasks="odd", protocol="in_context", **OPTIONS)
    assert [module.training for module in model.model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert untimed(by_path.record.model_dump()) == untimed(loaded.record.model_dump())
    assert [sample.log_likelihood for sample in loaded.samples] == [sample.log_likelihood for sample in by_path.samples]


def test_a_model_that_was_not_loaded_from_a_path_has_no_history(desk) -> None:
    model = metalm_package.load("runs/mine")
    model.source = ""
    results = metalm_package.evaluate(model, tasks="odd", **OPTIONS)
    assert results.record.tasks["odd"].seen.label == "unknown"
    assert results.record.protocol == "in_context"
    assert results.record.source == "a loaded model"


def write_suite(settings: str) -> Path:
    """Write a suite of the task ``odd``."""
    path = Path("one.yaml").absolute()
    path.write_text(f"name: one\ndescription: One task.\ntasks: [odd]\n{settings}")
    return path


def test_arguments_win_over_the_suite(desk) -> None:
    suite = write_suite("shots: [1]\nprotocol: instruct\ntemplates: none\n")
    of_suite = metalm_package.evaluate("runs/mine", suite=suite, cards=["cards"], offline=True)
    settings = of_suite.record.settings
    assert (of_suite.record.protocol, settings["shots"], settings["templates"]) == ("instruct", [1], "none")
    changed = metalm_package.evaluate("runs/mine", suite=suite, shots=0, protocol="finetuned", **OPTIONS)
    settings = changed.record.settings
    assert (changed.record.protocol, settings["shots"], settings["templates"]) == ("finetuned", [0], "plain")
    plain = metalm_package.evaluate("runs/mine", suite=write_suite(""), **OPTIONS)
    assert (plain.record.protocol, plain.record.settings["shots"]) == ("in_context", [0])


def test_an_interrupted_evaluation_writes_what_was_scored(desk) -> None:
    def stop(text: str) -> None:
        if text.startswith("even"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        metalm_package.evaluate("runs/mine", tasks=["odd", "even"], out="out.json", on_progress=stop, **OPTIONS)
    record = read_result(Path("out.json"))
    assert (list(record.tasks), record.complete) == (["odd"], False)
    notes: list[str] = []
    whole = metalm_package.evaluate(
        "runs/mine", tasks=["odd", "even"], out="again.json", on_note=notes.append, **OPTIONS
    )
    assert whole.record.complete
    (answers,) = [note for note in notes if note.startswith("answers")]
    assert int(answers.split()[1]) >= 10, "those of the first task, and of the second as far as it was answered"
    assert untimed(json.loads(Path("again.json").read_text())) == untimed(json.loads(whole.record.to_json()))


def test_nothing_is_written_without_a_path(desk) -> None:
    before = sorted(path for path in desk.rglob("*"))
    metalm_package.evaluate("runs/mine", tasks="odd", limit=2, **OPTIONS)
    assert sorted(path for path in desk.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "no tasks are selected"),
        ({"tasks": "od"}, "did you mean odd?"),
        ({"cluster": "nly"}, "no cluster is named nly"),
        ({"tasks": "odd", "protocol": "greedy"}, "unknown value greedy for protocol"),
        ({"tasks": "odd", "style": {"route": "up"}}, "unknown value up for route"),
        ({"tasks": "odd", "style": {"rute": "encoder"}}, "style has no field rute"),
        ({"tasks": "odd", "style": {"options": "no"}}, "got options 'no' in style"),
        ({"tasks": "odd", "style": "short"}, "got style 'short'"),
        ({"tasks": 3}, "of another type"),
        ({"tasks": "odd", "data_root": 3}, "of another type"),
        ({"tasks": "odd", "cards": "nowhere"}, "no task cards found"),
        ({"tasks": "odd", "shots": -1}, "got shots -1, expected a whole number of at least 0"),
        ({"tasks": "odd", "shots": [0, 1.5]}, "got shots 1.5"),
        ({"tasks": "odd", "shots": ()}, "shots has no numbers"),
        ({"tasks": "odd", "shots": "0"}, "got shots '0'"),
        ({"tasks": "odd", "shots": 30}, "30 demonstrations of odd requested"),
        ({"tasks": "odd", "limit": 0}, "got limit 0, expected a whole number of at least 1"),
        ({"tasks": "odd", "limit": True}, "got limit True"),
        ({"tasks": "odd", "seed": -1}, "got seed -1"),
        ({"tasks": "odd", "samples": 3, "temperature": 0.0}, "got temperature 0.0"),
        ({"tasks": "odd", "limits": 3}, "did you mean limit?"),
        ({"tasks": "odd", "max_answer_token": 3}, "evaluate has no argument max_answer_token"),
        ({"tasks": "odd", "clusters": ("nli",)}, "did you mean cluster?"),
        ({"tasks": "odd", "templates": "plan"}, "there is no template collection plan"),
        ({"tasks": "odd", "template": "nice"}, "has no template nice"),
        ({"tasks": "odd", "split": "dev"}, "odd has no dev split"),
        ({"tasks": "far"}, "no data found"),
        ({"tasks": [3]}, "no task is named 3"),
        ({"tasks": "odd", "out": "cards/odd.jsonl"}, "results exist already"),
        ({"tasks": "odd", "suite": "world"}, ""),
        ({"suite": "no-such-suite"}, "no-such-suite"),
    ],
)
def test_bad_arguments_are_explained(desk, arguments, message) -> None:
    with pytest.raises(MetalmError) as error:
        metalm_package.evaluate("runs/mine", **{**OPTIONS, **arguments})
    assert message in str(error.value)


@pytest.mark.parametrize("model", ["runs/none", 5, None])
def test_models_that_are_not_models(desk, model) -> None:
    with pytest.raises(MetalmError, match="model"):
        metalm_package.evaluate(model, tasks="odd", **OPTIONS)


def test_scores_need_the_number_of_demonstrations_if_there_are_several(desk) -> None:
    results = metalm_package.evaluate("runs/mine", tasks="odd", shots=(0, 1), limit=2, **OPTIONS)
    for method in (results.scores, results.intervals, results.clusters, results.mean):
        with pytest.raises(MetalmError, match="the number of demonstrations is not given"):
            method()
        with pytest.raises(MetalmError, match="no results with 7 demonstrations"):
            method(7)


def test_results_that_cannot_be_written(desk) -> None:
    results = metalm_package.evaluate("runs/mine", tasks="odd", limit=2, **OPTIONS)
    Path("file").write_text("")
    with pytest.raises(MetalmError, match="cannot write results"):
        results.save("file/results.json")
    assert results.save("new/results.json") == Path("new/results.json")
    assert not Path("new/results.samples.jsonl").exists()
