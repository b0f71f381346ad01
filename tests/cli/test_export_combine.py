"""``metalm export --combine``: one decoder with the encoders of several runs, and which of them a task docks into."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import metalm_cli as metalm
import tiny_runs as micro
from metalm_cli.errors import MetalmError
from metalm_cli.provenance.combined_lineage import combined_lineage
from metalm_cli.provenance.lineage import pretrained_parts, read_lineage
from metalm_cli.provenance.model_history import read_history
from task_fixtures import write_task

TASKS = """
command: finetune
data:
  tasks: [FOLDER/parity.yaml]
  templates: {collection: FOLDER/words}
  sequence_length: 96
  validation: {examples: 2}
train:
  {steps: 2, batch_size: 4, learning_rate: 3e-2, warmup_steps: 0, precision: fp32, checkpoint_every: 0,
   sample_continuations: 0}
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``base``, encoder-only runs ``first`` (parity) and ``second`` (other) on it, ``whole``, and both."""
    folder = tmp_path_factory.mktemp("combine")
    for name, cluster in (("parity", "nli"), ("other", "misc"), ("third", "misc")):
        write_task(folder, name, 12, cluster=cluster)
    base = micro.write_recipe(folder, micro.RECIPE, "base.yaml")
    size = ["model.decoder.config.n_positions=96", "model.encoders.text.config.max_position_embeddings=96"]
    assert micro.metalm("pretrain", base, *size, "train.steps=1", "train.warmup_steps=0", "--out", folder / "base") == 0
    tasks = micro.write_recipe(folder, TASKS.replace("FOLDER", str(folder)))
    for name, task, options in (
        ("first", "parity", ["--encoder-only"]),
        ("second", "other", ["--encoder-only", "model.lora={rank: 2, parts: [encoders]}"]),
        ("whole", "parity", []),
    ):
        data = [f"data.tasks=[{folder / task}.yaml]"]
        assert micro.metalm("finetune", tasks, "--model", folder / "base", *data, *options, "--out", folder / name) == 0
    assert micro.metalm("export", folder / "first", folder / "second", "--combine", "--out", folder / "both") == 0
    return folder


def part(weights: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(name): tensor for key, tensor in weights.items() if key.startswith(name)}


def session(encoder: str, text: str = "Clerks sell stamps.") -> metalm.Session:
    return metalm.Session([metalm.Docked(encoder, text), metalm.Causal(" yes", trained=True, end=True)])


def test_weights_are_those_of_the_runs(runs: Path) -> None:
    assert micro.metalm("export", runs / "second", "--merge", "--out", runs / "merged") == 0
    both = load_file(runs / "both" / "model.safetensors")
    sources = {"parity": runs / "first" / "model", "other": runs / "merged"}
    for name, folder in sources.items():
        own = load_file(folder / "model.safetensors")
        assert micro.difference(part(both, "decoder."), part(own, "decoder.")) == 0.0
        for kind in ("encoders", "connectors"):
            assert micro.difference(part(both, f"{kind}.{name}."), part(own, f"{kind}.text.")) == 0.0
    assert {key.split(".")[0] for key in both} == {"decoder", "encoders", "connectors"}
    assert micro.difference(part(both, "encoders.parity."), part(both, "encoders.other.")) > 0


def test_sessions_of_both_tasks_in_one_batch(runs: Path) -> None:
    combined = metalm.load(runs / "both")
    texts = ["Clerks sell stamps.", "It rained all day in the town."]
    sessions = [session(name, text) for text in texts for name in ("parity", "other")]
    mixed = combined.log_likelihood(sessions, batch_size=4)
    torch.testing.assert_close(mixed, combined.log_likelihood(sessions, batch_size=1), atol=1e-5, rtol=0)
    for index, run in enumerate(("first", "second")):
        own = metalm.load(runs / run).log_likelihood([session("text", text) for text in texts])
        torch.testing.assert_close(mixed[index::2], own, atol=1e-5, rtol=0)
    assert (mixed[0] - mixed[1]).abs() > 1e-3, "the encoders differ"


def test_each_task_docks_into_its_encoder(runs: Path) -> None:
    tasks = [runs / "parity.yaml", runs / "other.yaml"]
    options: dict[str, Any] = {"protocol": "in_context", "limit": 4, "templates": runs / "words"}
    both = metalm.evaluate(runs / "both", tasks=tasks, **options)
    for run, task in (("first", "parity"), ("second", "other")):
        own = metalm.evaluate(runs / run, tasks=runs / f"{task}.yaml", **options)
        for mine, expected in zip(predictions(both, task), predictions(own, task), strict=True):
            assert mine.log_likelihood == pytest.approx(expected.log_likelihood, abs=1e-5)
    swapped = metalm.evaluate(runs / "both", tasks=runs / "other.yaml", style={"encoder": "parity"}, **options)
    first, second = predictions(swapped, "other")[0], predictions(both, "other")[0]
    assert first.log_likelihood != pytest.approx(second.log_likelihood, abs=1e-5)


def predictions(results: Any, task: str) -> Any:
    (result,) = [each for each in results.task_results if each.task.card.name == task]
    return result.template_results[0].samples


def test_a_task_that_nothing_chooses_an_encoder_for(runs: Path, tmp_path: Path, capsys: Any) -> None:
    arguments = ["evaluate", runs / "both", "--task", runs / "third.yaml", "--templates", runs / "words"]
    arguments += ["--limit", "2", "--out", tmp_path / "r.json"]
    assert micro.metalm(*arguments) == 2
    error = capsys.readouterr().err
    assert "nothing chooses the encoder that the inputs of third go into" in error
    assert "none of other, parity was trained on it" in error
    assert micro.metalm(*arguments, "--encoder", "third") == 2
    assert "the model has no encoder 'third'" in capsys.readouterr().err
    assert micro.metalm(*arguments, "--encoder", "other") == 0
    assert json.loads((tmp_path / "r.json").read_text())["settings"]["style"]["encoder"] == "other"


def test_generate_wants_the_name_of_an_encoder(runs: Path, tmp_path: Path, capsys: Any) -> None:
    arguments = ["generate", runs / "both", "Clerks sell stamps.", "--max-new-tokens", "2"]
    assert micro.metalm(*arguments) == 2
    assert "the model has 2 text encoders, and nothing chooses one" in capsys.readouterr().err
    assert micro.metalm(*arguments, "--encoder", "text") == 2
    assert "the model has no text encoder 'text'" in capsys.readouterr().err
    assert micro.metalm(*arguments, "--encoder", "other", "--as", "causal") == 2
    assert "--encoder does nothing with --as causal" in capsys.readouterr().err
    answers = {}
    for name, encoder in (("both", ["--encoder", "parity"]), ("first", [])):
        assert micro.metalm("generate", runs / name, "Clerks sell stamps.", "--max-new-tokens", "4", *encoder) == 0
        answers[name] = capsys.readouterr().out
    assert answers["both"] == answers["first"]
    lines = tmp_path / "lines.jsonl"
    lines.write_text('{"text": "Clerks sell stamps."}\n')
    files = ["--input", lines, "--out", tmp_path / "answers.jsonl", "--max-new-tokens", "2"]
    assert micro.metalm("generate", runs / "both", *files, "--encoder", "other") == 0
    assert json.loads((tmp_path / "answers.jsonl").read_text().splitlines()[0])["settings"]["encoder"] == "other"
    assert metalm.encode(metalm.load(runs / "both"), ["stamps"], "other")[0] is not None


def test_the_lineage_has_all_runs(runs: Path) -> None:
    lineage = read_lineage(runs / "both")
    assert lineage is not None
    assert [each["part"] for each in lineage["ancestors"]] == ["decoder", "encoders.parity", "encoders.other"]
    assert lineage["command"] == "finetune"
    history = read_history(runs / "both", "both")
    assert set(history.tasks) == {"parity", "other"}
    assert history.unknown_ancestors == ()
    assert history.prompt_settings["route"] == "template"
    card = (runs / "both" / "README.md").read_text()
    assert "`parity`: trained on parity, from `first`" in card
    assert 'Docked("parity", "It rained all day.")' in card


def test_what_runs_held_out_and_agree_on() -> None:
    def record(part: str, held_out: list[str], level: str, options: bool) -> dict[str, Any]:
        outside = [{"part": kind, "checkpoint": f"{kind}-of-{part}"} for kind in ("decoder", "encoders.text")]
        templates = {"collection": "flan", "options": options}
        own = {"command": "finetune", "held_out": held_out, "levels": {"rte": level}, "templates": templates}
        return {"part": part, "checkpoint": part, "lineage": {**own, "ancestors": outside}}

    first = record("encoders.a", ["nli", "misc"], "held_out_category", True)
    second = record("encoders.b", ["nli"], "leaked", False)
    lineage, notes = combined_lineage("a + b", [first, second])
    assert lineage["held_out"] == ["nli"]
    assert lineage["levels"] == {"rte": "leaked"}
    assert lineage["templates"] == {"collection": "flan"}
    assert notes == ["prompts  the runs differ in options (True, False): name it when you evaluate"]
    assert pretrained_parts(lineage["ancestors"], ["decoder", "encoders.a", "connectors.a", "encoders.b"]) == {
        "decoder": "decoder-of-encoders.a",
        "encoders.a": "encoders.text-of-encoders.a",
        "encoders.b": "encoders.text-of-encoders.b",
    }
    unknown, _ = combined_lineage("a + b", [first, {"part": "encoders.b", "checkpoint": "b", "lineage": None}])
    assert (unknown["held_out"], unknown["levels"], unknown["command"]) == ([], {}, "export")


def test_more_encoders_join_a_combined_model(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "three"
    sources = [runs / "both", f"again={runs / 'first'}"]
    assert micro.metalm("export", *sources, "--combine", "--standalone", "--out", out) == 0
    config = json.loads((out / "config.json").read_text())
    assert config["encoder_tasks"] == {"parity": ["parity"], "other": ["other"], "again": ["parity"]}
    assert (out / "modeling_metalm.py").is_file()
    lineage = read_lineage(out)
    assert lineage is not None
    assert [(each["part"], Path(each["checkpoint"]).name) for each in lineage["ancestors"]] == [
        ("decoder", "base"),
        ("encoders.other", "second"),
        ("encoders.parity", "first"),
        ("encoders.again", "first"),
    ]
    model = metalm.load(out)
    expected = metalm.load(runs / "first").log_likelihood([session("text")])
    torch.testing.assert_close(model.log_likelihood([session("again")]), expected, atol=1e-5, rtol=0)
    with pytest.raises(MetalmError, match="nothing chooses the encoder") as caught:
        metalm.evaluate(out, tasks=runs / "parity.yaml", templates=runs / "words", limit=2)
    assert "again, parity were all trained on it" in str(caught.value.why)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["first", "whole=whole", "--combine"], "the models have different decoders"),
        (["first", "first", "--combine"], "two encoders would be called 'parity'"),
        (["first", "--combine"], "--combine needs several models"),
        (["first", "second"], "2 models are named"),
        (["first", "second", "--combine", "--part", "decoder"], "--combine and --part exclude each other"),
        (["first", "plain", "--combine"], "the model has no encoder to combine"),
        (["new=both", "first", "--combine"], "new= names one encoder, but the model has 2"),
        (["first", "rules", "--combine"], "the models have different token rules"),
        (["first", "shape", "--combine"], "the models have different decoders"),
        (["first", "words-of-others", "--combine"], "the decoders have different tokenizers"),
    ],
)
def test_models_that_do_not_fit(
    runs: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs)
    others(runs)
    before = sorted(path.name for path in runs.iterdir())
    capsys.readouterr()
    assert micro.metalm("export", *arguments, "--out", "new") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("error:") == 1
    assert "remedy:" in error
    assert sorted(path.name for path in runs.iterdir()) == before


def others(runs: Path) -> None:
    """Write models that cannot be combined with ``first``: without encoders, with other rules, shape or tokenizer."""
    if (runs / "plain").exists():
        return
    assert micro.metalm("export", runs / "base", "--part", "decoder", "--out", runs / "plain") == 0
    for name in ("rules", "shape", "words-of-others"):
        shutil.copytree(runs / "base" / "model", runs / name)
    for name, change in (
        ("rules", {"tokens": {"target_delimiter": "\n"}}),
        ("shape", {"decoder_config": {"n_head": 4}}),
    ):
        path = runs / name / "config.json"
        config = json.loads(path.read_text())
        for key, values in change.items():
            config[key].update(values)
        path.write_text(json.dumps(config))
    path = runs / "words-of-others" / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pad_token": "!"}))
