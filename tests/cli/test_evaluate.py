"""``metalm evaluate`` on a run that trained for a second, and on small data files."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from card_fixtures import write_desk
from tiny_runs import metalm

ROWS = [{"text": f"She had {n} red balls.", "label": n % 2} for n in range(10)]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: Path) -> Path:
    """Working directory with a run and two cards, one of them without local data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("METALM_DATA", raising=False)
    places: dict[str, dict[str, Any]] = {"odd": {"file": "odd.jsonl"}, "far": {"hub": {"id": "nobody/nothing"}}}
    write_desk(tmp_path, trained, places, ROWS)
    return tmp_path


OWN = ["--cards", "cards", "--templates", "plain", "--offline"]


@pytest.mark.parametrize("name", ["evaluate", "eval"])
def test_the_newest_run_is_scored_and_its_results_written(desk, capsys, name) -> None:
    assert metalm(name, "--task", "odd", *OWN, "--limit", 4, "--save-samples") == 0
    out, err = capsys.readouterr()
    lines = [line.split("\t") for line in out.splitlines()]
    row = dict(zip(lines[0], lines[1], strict=False))
    assert (row["task"], row["metric"], row["shots"], row["seen"]) == ("odd", "accuracy", "0-shot", "held out")
    assert any("nli" in line[1] for line in lines[2:])
    assert "runs/mine (the newest run of pretraining)" in err
    record = json.loads((desk / "runs/mine/results/in_context-odd-templates-plain-limit-4.json").read_text())
    assert record["complete"]
    assert record["tasks"]["odd"]["settings"][0]["templates"][0]["n"] == 4
    assert record["model"]["encoders"] == ["text"]
    assert record["environment"]["torch"]
    samples = (desk / "runs/mine/results/in_context-odd-templates-plain-limit-4.samples.jsonl").read_text().splitlines()
    assert len(samples) == 4
    assert metalm(name, "runs/mine/model", "--task", "odd", *OWN, "--limit", 4) == 0
    assert (desk / "runs/mine/results/in_context-odd-templates-plain-limit-4-2.json").is_file(), (
        "nothing is overwritten"
    )


def test_scores_are_the_same_in_any_batch(desk) -> None:
    samples = []
    for size in (1, 7):
        out = desk / f"{size}.json"
        assert metalm("eval", "--task", "odd", *OWN, "--batch-size", size, "--out", out, "--save-samples") == 0
        assert json.loads(out.read_text())["tasks"]["odd"]["settings"][0]["templates"][0]["n"] == 10
        samples.append((desk / f"{size}.samples.jsonl").read_text())
    assert samples[0] == samples[1]


def test_tasks_without_data_are_named(desk, capsys) -> None:
    assert metalm("eval", "--task", "odd,far", *OWN, "--limit", 2, "--out", "out.json") == 0
    err = capsys.readouterr().err
    assert "missing  far: no data found for the validation split of far" in err
    assert "missing, and not in any mean: far" in err
    record = json.loads((desk / "out.json").read_text())
    assert (list(record["tasks"]), list(record["missing"])) == (["odd"], ["far"])
    assert metalm("eval", "--task", "far", *OWN, "--out", "none.json") == 2
    assert "no data found" in capsys.readouterr().err
    assert not (desk / "none.json").exists()


def test_results_before_a_failing_task_are_written(desk, monkeypatch, capsys) -> None:
    from metalm_cli.errors import Exit, MetalmError
    from metalm_cli.evaluation import evaluator

    card = yaml.safe_load((desk / "cards/odd.yaml").read_text())
    (desk / "cards/two.yaml").write_text(yaml.safe_dump({**card, "name": "two"}), encoding="utf-8")
    real = evaluator.Evaluator.evaluate_template

    def failing(self, task, *rest):
        if task.card.name == "two":
            raise MetalmError("out of memory", exit_code=Exit.FAILED)
        return real(self, task, *rest)

    monkeypatch.setattr(evaluator.Evaluator, "evaluate_template", failing)
    assert metalm("eval", "--task", "odd", "--task", "two", *OWN, "--limit", 2, "--out", "out.json") == 1
    record = json.loads((desk / "out.json").read_text())
    assert (record["complete"], list(record["tasks"])) == (False, ["odd"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no tasks are selected"),
        (["--task", "od"], "no task is named od"),
        (["--cluster", "rte"], "--task rte"),
        (["--cluster", "nlii"], "did you mean nli?"),
        (["--task", "odd", "--shots", "four"], "--shots four is not a list of numbers"),
        (["--task", "odd", "--shots", "0,99"], "99 demonstrations of odd requested, available: 9"),
        (["--task", "odd", "--protocol", "few_shot"], "unknown value few_shot for --protocol"),
        (["--task", "odd", "--demonstrations", "fixed"], "unknown value fixed for --demonstrations"),
        (["--task", "odd", "--contamination", "nowhere"], "no training data to compare with"),
        (["--task", "odd", "--sampled-answers", "3", "--temperature", "0"], "sampled answers need a value above 0"),
        (["--task", "odd", "--template", "none-such"], "odd has no template none-such"),
        (["--task", "odd", "--templates", "nowhere"], "no template collection nowhere"),
        (["--task", "odd", "--split", "test"], "task odd has no test split"),
        (
            ["--task", "odd", "--match-input-lengths-of", "here"],
            "--match-input-lengths-of here is not TOKENIZER:LENGTH",
        ),
        (["--task", "odd", "--sequence-length", "9999"], "the decoder has 256"),
        (["nowhere/at/all", "--task", "odd"], "nowhere/at/all"),
        (["--task", "odd", "--out", "here.json"], "results exist already"),
        (["--task", "odd", "--out", "here.json/deeper.json"], "results cannot be written"),
    ],
)
def test_errors_come_before_anything_is_written(desk, capsys, arguments, message) -> None:
    (desk / "here.json").write_text("mine")
    assert (
        metalm("eval", *arguments, "--cards", "cards", "--offline", *([] if "--templates" in arguments else OWN[2:4]))
        == 2
    )
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert not (desk / "runs/mine/results").exists()
    assert not (desk / "results").exists()
    assert (desk / "here.json").read_text() == "mine"


def test_no_model_is_an_error_with_a_remedy(desk, capsys) -> None:
    shutil.rmtree(desk / "runs")
    assert metalm("eval", "--task", "odd", *OWN) == 2
    assert "no finished run has a model with encoders" in capsys.readouterr().err


def test_a_plain_causal_model_is_scored_too(desk, make_decoder, byte_tokenizer) -> None:
    folder = desk / "plain"
    make_decoder("gpt2", len(byte_tokenizer)).save_pretrained(folder)
    byte_tokenizer.save_pretrained(folder)
    assert metalm("eval", folder, "--task", "odd", *OWN, "--limit", 2) == 0
    record = json.loads((desk / "results/plain/in_context-odd-templates-plain-limit-2.json").read_text())
    assert record["model"]["encoders"] == []


def test_real_tasks_and_a_real_decoder(tmp_path, checkpoints, data_root) -> None:
    out = tmp_path / "out.json"
    model = checkpoints("stories260k-llama")
    evaluator = ["--task", "rte", "--task", "squad_v2", "--templates", "plain", "--limit", 4]
    assert metalm("eval", model, *evaluator, "--data-root", data_root, "--offline", "--out", out) == 0
    record = json.loads(out.read_text())
    assert record["tasks"]["rte"]["settings"][0]["templates"][0]["n"] == 4
    assert len(record["tasks"]["rte"]["files"][0]["sha256"]) == 64


def test_seen_tasks_are_labelled_and_can_be_rejected(desk, capsys, make_decoder, byte_tokenizer) -> None:
    assert metalm("eval", "--task", "odd", *OWN, "--limit", 2, "--out", "new.json", "--require-held-out") == 0
    assert json.loads((desk / "new.json").read_text())["tasks"]["odd"]["seen"]["label"] == "held out"
    lineage = desk / "runs/mine/model/lineage.json"
    lineage.write_text(json.dumps({**json.loads(lineage.read_text()), "command": "finetune", "tasks": ["odd"]}))
    assert metalm("eval", "--task", "odd", *OWN, "--limit", 2, "--out", "old.json") == 0
    record = json.loads((desk / "old.json").read_text())
    assert (record["tasks"]["odd"]["seen"]["label"], record["protocol"]) == ("seen", "finetuned")
    capsys.readouterr()
    assert metalm("eval", "--task", "odd", *OWN, "--out", "none.json", "--require-held-out") == 2
    assert "odd: seen; " in capsys.readouterr().err
    assert not (desk / "none.json").exists()
    content = (desk / "cards/odd.jsonl").read_bytes()
    files = [{"name": "train.jsonl", "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}]
    record = {**json.loads(lineage.read_text()), "tasks": [], "data": [{"name": "corpus", "files": files}]}
    lineage.write_text(json.dumps(record))
    assert metalm("eval", "--task", "odd", *OWN, "--out", "none.json", "--require-held-out") == 2
    message = (
        "odd: leak partner; runs/mine was trained on corpus, which read a file with the content of cards/odd.jsonl"
    )
    assert message in capsys.readouterr().err
    assert not (desk / "none.json").exists()


def test_tasks_that_a_checkpoint_of_a_part_has_seen_do_not_count_as_held_out(desk, capsys) -> None:
    encoder = {
        "checkpoint": "me/encoder",
        "part": "encoders.text",
        "lineage": None,
        "origin": {"place": "GGUF file", "dequantised_from": "Q4_1"},
        "published": {"source": "https://me/encoder", "data_sets": {"Odd numbers": ["odd"]}},
    }
    lineage = desk / "runs/mine/model/lineage.json"
    lineage.write_text(json.dumps({**json.loads(lineage.read_text()), "ancestors": [encoder]}))
    assert metalm("eval", "--task", "odd", *OWN, "--limit", 2, "--out", "new.json") == 0
    record = json.loads((desk / "new.json").read_text())
    why = "the encoder me/encoder was trained on Odd numbers, by https://me/encoder"
    assert record["tasks"]["odd"]["seen"] == {"label": "seen by the encoder", "why": why}
    assert record["model"]["dequantised_from"] == {"encoders.text": "Q4_1"}
    notes = " ".join(capsys.readouterr().err.split())
    assert "seen by the encoder, in the training of its checkpoint: odd" in notes
    assert "weights dequantised from Q4_1: encoders.text" in notes
    assert metalm("eval", "--task", "odd", *OWN, "--out", "none.json", "--require-held-out") == 2
    assert f"odd: seen by the encoder; {why}" in " ".join(capsys.readouterr().err.split())
    assert not (desk / "none.json").exists()


def test_prompts_are_as_in_training_unless_options_change_them(desk, capsys) -> None:
    trained = [
        "data.templates.collection=plain",
        "data.templates.input_route=decoder",
        "data.templates.show_options=false",
    ]
    recipe = [
        "train.steps=1",
        "train.warmup_steps=0",
        "train.batch_size=2",
        "data.sequence_length=128",
        "data.validation.examples=0",
    ]
    evaluator = ["--task", "odd", "data.cards=[cards]"]
    assert (
        metalm(
            "finetune",
            "single",
            *evaluator,
            *recipe,
            *trained,
            "--model",
            "runs/mine",
            "--out",
            "runs/own",
            "--offline",
        )
        == 0
    )
    capsys.readouterr()
    own = ["--task", "odd", "--cards", "cards", "--offline", "--limit", 2]
    assert metalm("eval", "runs/own", *own, "--out", "a.json") == 0
    message = "prompts  collection plain, show_options false, input_route decoder (as in the model's training)"
    assert message in capsys.readouterr().err
    assert metalm("eval", "runs/own", *own, "--out", "b.json", "--input-route", "encoder", "--show-options") == 0
    assert "prompts  collection plain (as in the model's training)" in capsys.readouterr().err
    assert metalm("eval", "runs/mine", *own, "--templates", "none", "--out", "c.json") == 0
    assert "prompts" not in capsys.readouterr().err
    settings = [json.loads((desk / f"{name}.json").read_text())["settings"] for name in "abc"]
    assert [(values["templates"], values["style"]["route"], values["style"]["options"]) for values in settings] == [
        ("plain", "decoder", False),
        ("plain", "encoder", True),
        ("none", "template", True),
    ]


def test_two_models_on_the_same_inputs(desk, capsys, make_decoder, byte_tokenizer) -> None:
    folder = desk / "plain"
    make_decoder("gpt2", len(byte_tokenizer)).save_pretrained(folder)
    byte_tokenizer.save_pretrained(folder)
    assert metalm("eval", "runs/mine", "--versus", folder, "--task", "odd", *OWN, "--out", "a.json") == 0
    first, second = (json.loads((desk / name).read_text()) for name in ("a.json", "a-2.json"))
    assert (first["model"]["source"], second["model"]["source"]) == ("runs/mine", str(folder))
    assert first["settings"]["also_fit"] == second["settings"]["also_fit"] != []
    rows = [record["tasks"]["odd"]["settings"][0]["templates"][0]["each"]["row"] for record in (first, second)]
    assert rows[0] == rows[1] == list(range(10))


def test_a_restarted_evaluation_uses_cached_answers(desk, capsys) -> None:
    first = ["--task", "odd", *OWN, "--limit", 4, "--out", "one/a.json"]
    assert metalm("eval", *first) == 0
    assert (desk / "one/answers.sqlite").is_file()
    capsys.readouterr()
    assert metalm("eval", "--task", "odd", *OWN, "--out", "one/b.json") == 0
    assert "answers  5 cached; new: 6 not answered before" in capsys.readouterr().err
    assert metalm("eval", "--task", "odd", *OWN, "--limit", 4, "--out", "one/c.json", "--fresh") == 0
    assert "kept" not in capsys.readouterr().err
    cached, fresh = (json.loads((desk / "one" / name).read_text())["tasks"] for name in ("a.json", "c.json"))
    assert cached["odd"]["settings"][0]["score"] == fresh["odd"]["settings"][0]["score"]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
def test_a_stopped_evaluation_continues(desk, monkeypatch, capsys, name) -> None:
    from metalm_cli.evaluation.answers.answer_cache import AnswerCache

    put = AnswerCache.put
    saved: list[Any] = []

    def stopping(self: Any, answers: Any) -> None:
        put(self, answers)
        saved.append(answers)
        if len(saved) == 1:
            os.kill(os.getpid(), getattr(signal, name))

    monkeypatch.setattr(AnswerCache, "put", stopping)
    arguments = ["eval", "--task", "odd", *OWN, "--limit", 4, "--out", "one/a.json"]
    assert metalm(*arguments) == 75
    assert f"stopped by {name}; the same command continues with the saved answers" in capsys.readouterr().err
    assert metalm(*arguments) == 0
    assert " cached" in capsys.readouterr().err


def test_contamination_is_printed(desk, capsys) -> None:
    text = "She had {} red balls, {} blue boxes and {} green boats in the old house by the river."
    rows = [{"text": text.format(n, n + 1, n + 2), "label": n % 2} for n in range(6)]
    (desk / "cards" / "odd.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (desk / "other.jsonl").write_text(json.dumps({"text": "Nothing of it."}) + "\n")
    (desk / "train.jsonl").write_text(json.dumps({"text": f"Once. {rows[4]['text']} The end."}) + "\n")
    for files, message in [
        (["other.jsonl"], "no example shares 13 words in a row with the training data of 1 files"),
        (
            ["other.jsonl", "train.jsonl"],
            "odd 1 of 6 examples share 13 words in a row with the training data of 2 files",
        ),
    ]:
        options = [part for name in files for part in ("--contamination", name)]
        assert metalm("eval", "--task", "odd", *OWN, *options, "--out", f"{len(files)}.json") == 0
        assert message in capsys.readouterr().err


def test_demonstrations_that_do_not_fit_at_all(desk, capsys) -> None:
    assert metalm("eval", "--task", "odd", *OWN, "--shots", "9", "--sequence-length", 64, "--out", "x.json") == 2
    err = capsys.readouterr().err
    assert "nothing could be scored" in err
    assert "9 demonstrations do not fit into" in err


def test_harness_tasks_are_handed_over_and_their_results_are_a_result_file(desk, monkeypatch, capsys) -> None:
    import subprocess

    from harness_output import write_output
    from metalm_cli import harness
    from metalm_cli.cli.commands.evaluation import harness_run

    calls, codes = [], [3, 0, 0, 0]

    def command(model, tasks, **options):
        calls.append((model, list(tasks), options))
        return ["true"]

    def finished(command_line):
        write_output(Path(calls[-1][2]["out"]))
        return subprocess.CompletedProcess(command_line, codes.pop(0))

    monkeypatch.setattr(harness, "harness_command", command)
    monkeypatch.setattr(harness_run.subprocess, "run", finished)
    assert metalm("eval", "runs/mine", "--harness", "copa,piqa", "--limit", 5, "--offline") == 3
    assert not (desk / "runs/mine/results").exists()
    first, options = calls[0][:2], calls[0][2]
    assert first == ("runs/mine", ["copa", "piqa"])
    assert {**options, "out": None} == {"limit": 5, "shots": None, "batch_size": None, "out": None, "offline": True}
    assert metalm("eval", "runs/mine", "--harness", "cards/copa.yaml", "--shots", 5, "--batch-size", 2) == 0
    assert (calls[1][2]["shots"], calls[1][2]["batch_size"]) == (5, 2)
    assert metalm("eval", "runs/mine", "--harness", "copa", "--out", "out.json") == 0
    results = [desk / "runs/mine/results/harness-copa-5-shot.json", desk / "out.json"]
    assert [json.loads(path.read_text())["model"]["source"] for path in results] == ["runs/mine", "runs/mine"]
    assert metalm("eval", "runs/mine", "--harness", "copa", "--out", "out.json") == 2
    assert "results exist already" in capsys.readouterr().err
    assert metalm("results", "show", "runs/mine", "--format", "csv") == 0
    assert ",harness,task,0,harness,copa," in capsys.readouterr().out
    assert metalm("results", "compare", *results, "--format", "csv") == 0
    assert metalm("report", "runs/mine", "--terminal") == 0
    assert "copa" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--end-token", "7"], "--end-token does nothing with --harness"),
        (["--template", "all", "--no-show-options", "--seed", 3], "--template, --show-options, --seed do nothing"),
        (["--versus", "runs/b", "--suite", "glue"], "--suite, --versus do nothing"),
        (["--shots", "0,5"], "a single number of demonstrations"),
    ],
)
def test_options_that_do_not_apply_to_harness_tasks_are_refused(options, named, desk, capsys) -> None:
    assert metalm("eval", "runs/mine", "--harness", "piqa", *options) == 2
    assert named in capsys.readouterr().err


def test_a_file_of_pairs_is_a_task_without_a_card(desk) -> None:
    rows = [{"input": f"Is {number} even?", "target": ("yes", "no")[number % 2]} for number in range(20)]
    (desk / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert metalm("eval", "--task", "pairs.jsonl", "--limit", 2, "--out", "out.json") == 0
    assert list(json.loads((desk / "out.json").read_text())["tasks"]) == ["pairs"]


def test_models_that_share_a_results_folder_have_a_file_each(desk) -> None:
    """With ``--protocol auto``, the names are known only when the settings are resolved."""
    models = ["runs/mine", "--versus", "runs/mine/model", "--versus", "runs/mine"]
    assert metalm("eval", *models, "--task", "odd", *OWN, "--limit", 2) == 0
    results = sorted(path.name for path in (desk / "runs/mine/results").glob("*.json"))
    assert results == [f"in_context-odd-templates-plain-limit-2{n}.json" for n in ("-2", "-3", "")]


def test_end_tokens_are_recorded_and_checked(desk, capsys) -> None:
    options = ["--task", "odd", *OWN, "--limit", 2, "--protocol", "finetuned"]
    assert metalm("eval", "runs/mine", *options, "--end-token", "7", "--end-token", "9", "--out", "ended.json") == 0
    assert json.loads((desk / "ended.json").read_text())["settings"]["end_tokens"] == [7, 9]
    assert metalm("eval", "runs/mine", *options, "--out", "plain.json") == 0
    assert json.loads((desk / "plain.json").read_text())["settings"]["end_tokens"] is None
    capsys.readouterr()
    assert metalm("eval", "runs/mine", *options, "--end-token", "two words", "--out", "none.json") == 2
    assert "the end token 'two words' is not a token of the decoder" in capsys.readouterr().err
    assert not (desk / "none.json").exists()
