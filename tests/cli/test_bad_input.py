"""Bad input to the real command: one error message, the right exit code, no files left."""

from __future__ import annotations

import gzip
import json
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import tiny_models
import tiny_runs as micro
from hub_server import QUICK, HubServer
from metalm_cli.cli.app import run

Fails = Callable[..., str]


@pytest.fixture
def fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Fails:
    """Function that runs the tiny recipe with settings and returns the error message."""
    recipe = micro.write_recipe(tmp_path)

    def run(*settings: str, code: int = 2, recipe: Path = recipe) -> str:
        out = tmp_path / "run"
        before = sorted(tmp_path.rglob("*"))
        capsys.readouterr()
        assert micro.metalm("pretrain", recipe, *settings, "--out", out) == code
        captured = capsys.readouterr()
        check_message(captured.out + captured.err)
        if code == 2:
            assert sorted(tmp_path.rglob("*")) == before, "files are left"
        return captured.err

    return run


def check_message(message: str) -> None:
    assert message.count("error:") == 1, message
    assert "Traceback" not in message
    assert "bug in metalm" not in message
    assert "remedy:" in message
    assert "where:" in message


# -- the recipe -------------------------------------------------------------------------------------------------------


def test_every_problem_of_a_recipe_at_once_with_its_line(fails: Fails, tmp_path: Path) -> None:
    text = micro.RECIPE.replace("  steps: 6", "  stepps: 6\n  warmup_steps: soon").replace(
        "  batch_size: 4", "  batch_size: 4\n  batch_size: 8"
    )
    path = micro.write_recipe(tmp_path, text, "wrong.yaml")
    lines = text.splitlines()
    message = fails(recipe=path)
    assert f"{path}:{lines.index('  batch_size: 8') + 1}" in message  # a duplicate key ends the parsing
    text = text.replace("  batch_size: 4\n  batch_size: 8", "  batch_size: [4]").replace("  warmup_steps: 2\n", "")
    path.write_text(text)
    lines = text.splitlines()
    message = fails(recipe=path)
    for line, word in (("  stepps: 6", "steps"), ("  batch_size: [4]", "batch_size"), ("  warmup_steps: soon", "soon")):
        assert f"{path}:{lines.index(line) + 1}" in message
        assert word in message


def test_a_recipe_that_is_not_there(fails: Fails, tmp_path: Path) -> None:
    message = fails(recipe=tmp_path / "nowhere.yaml")
    assert "nowhere.yaml" in message


def test_a_run_folder_that_exists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "diary.txt").write_text("dear diary")
    assert micro.metalm("pretrain", micro.write_recipe(tmp_path), "--out", out) == 2
    message = capsys.readouterr().err
    check_message(message)
    assert str(out) in message
    assert [path.name for path in out.iterdir()] == ["diary.txt"]


# -- the data ---------------------------------------------------------------------------------------------------------


def jsonl(path: Path, *lines: str) -> str:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return f"data.sources=[{{name: own, path: {path}}}]"


def good(count: int) -> list[str]:
    from metalm_cli.miniworld import generate_document

    return [json.dumps({"text": generate_document(0, number).text}) for number in range(count)]


def test_missing_file(fails: Fails, tmp_path: Path) -> None:
    message = fails(f"data.sources=[{{name: own, path: {tmp_path / 'none.jsonl'}}}]")
    assert "none.jsonl" in message
    message = fails(f"data.sources=[{{name: own, path: '{tmp_path}/none-*.jsonl'}}]")
    assert "none-*.jsonl" in message


def test_empty_source(fails: Fails, tmp_path: Path) -> None:
    assert "own.jsonl" in fails(jsonl(tmp_path / "own.jsonl"))
    assert "own" in fails(jsonl(tmp_path / "own.jsonl", *['{"text": "  "}'] * 5))


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ('{"text": "cut of', "JSON"),
        ('{"body": "words"}', "'text'"),
        ('{"text": 7}', "int"),
        ('["words"]', "list"),
        ('{"text": null}', "null"),
    ],
)
def test_a_broken_line_is_named(fails: Fails, tmp_path: Path, line: str, word: str) -> None:
    lines = good(30)
    lines[17] = line
    message = fails(jsonl(tmp_path / "own.jsonl", *lines))
    assert f"{tmp_path / 'own.jsonl'}:18" in message
    assert word in message


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_line_that_training_comes_to(tmp_path: Path, workers: int, capsys: pytest.CaptureFixture[str]) -> None:
    """The rows of a stream are read as they are drawn, so that the run has started; it keeps its last checkpoint."""
    from metalm_cli.data.sampling.index_plan import key_of, permutation

    source = jsonl(tmp_path / "own.jsonl", *good(2000))
    lines = (tmp_path / "own.jsonl").read_text().splitlines()
    row = int(permutation(2000, key_of("stream", 0, "own", 0, 0))[600])
    lines[row] = '{"text": '
    (tmp_path / "own.jsonl").write_text("".join(f"{line}\n" for line in lines))
    out = tmp_path / "run"
    settings = [
        source,
        "data.sources.0.streaming=true",
        "train.steps=2000",
        "train.checkpoint_every=100",
        "train.log_every=100",
        "train.batch_size=8",
    ]
    settings += ["data.validation.documents=0", f"data.workers={workers}", "data.sequence_length=64"]
    settings += ["model.decoder.tokenizer.new.documents=20", "model.encoders.text.tokenizer.new.documents=20"]
    assert micro.metalm("pretrain", micro.write_recipe(tmp_path), *settings, "--out", out) == 1
    message = capsys.readouterr().err
    check_message(message)
    assert f"own.jsonl:{row + 1}" in message
    assert (out / "metrics.jsonl").is_file()
    assert not (out / "model").exists()


def test_blank_documents_are_not_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = jsonl(tmp_path / "own.jsonl", *good(30), *['{"text": " \\n\\t "}', '{"text": ""}'] * 10)
    out = tmp_path / "run"
    assert micro.metalm("pretrain", micro.write_recipe(tmp_path), source, "--out", out) == 0
    assert " rows of own are not trained on: 20 empty" in " ".join(capsys.readouterr().err.split())
    [record] = json.loads((out / "data.json").read_text())["sources"]
    assert record["rows"] == 50
    assert record["usable"] == 30 - record["left_out"].get("validation", 0)
    assert record["left_out"]["empty"] == 20


def test_nothing_held_out_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [jsonl(tmp_path / "own.jsonl", *good(30)), "data.validation.hold_out_every=1000000", "train.steps=2"]
    out = tmp_path / "run"
    assert micro.metalm("pretrain", micro.write_recipe(tmp_path), *settings, "--out", out) == 0
    message = " ".join(capsys.readouterr().err.split())
    assert "there is no validation" in message
    assert "validation none" in message
    assert not micro.records(out, "validation")


def test_a_cut_compressed_file(fails: Fails, tmp_path: Path) -> None:
    data = gzip.compress("".join(f"{line}\n" for line in good(200)).encode())
    (tmp_path / "own.jsonl.gz").write_bytes(data[: len(data) // 2])
    assert "own.jsonl.gz" in fails(f"data.sources=[{{name: own, path: {tmp_path / 'own.jsonl.gz'}}}]")


# -- the parts --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoint folders: a decoder and an encoder with their tokenizers, and a decoder without one."""
    folder = tmp_path_factory.mktemp("parts")
    folders = {name: folder / name for name in ("decoder", "encoder", "bare", "small")}
    for name in ("decoder", "bare", "small"):
        tiny_models.make_decoder("gpt2", 300 if name == "small" else 420).save_pretrained(folders[name])
    tiny_models.make_encoder("bert", 400).save_pretrained(folders["encoder"])
    for name in ("decoder", "small"):
        tiny_models.tokenizer_of("byte").save_pretrained(folders[name])
    tiny_models.tokenizer_of("wordpiece").save_pretrained(folders["encoder"])
    return folders


def decoder(path: Path) -> str:
    return f"model.decoder={{checkpoint: {path}}}"


def test_the_parts_are_good(parts: dict[str, Path], tmp_path: Path) -> None:
    settings = [decoder(parts["decoder"]), f"model.encoders.text={{checkpoint: {parts['encoder']}}}"]
    assert micro.metalm("pretrain", micro.write_recipe(tmp_path), *settings, "--out", tmp_path / "run") == 0


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("bare", ["tokenizer", "bare"]),
        ("encoder", ["causal", "bert", "model.encoders"]),
        ("small", ["420", "300", "model.decoder.tokenizer"]),
        ("nowhere", ["nowhere"]),
    ],
)
def test_an_invalid_decoder(fails: Fails, parts: dict[str, Path], wrong: str, words: list[str]) -> None:
    path = parts.get(wrong, parts["decoder"].parent / wrong)
    message = fails(decoder(path))
    for word in words:
        assert word in message


def test_a_decoder_as_encoder(fails: Fails, parts: dict[str, Path]) -> None:
    message = fails(f"model.encoders.text={{checkpoint: {parts['decoder']}}}")
    assert "model.encoders.text" in message


def test_a_checkpoint_of_cut_weights(fails: Fails, parts: dict[str, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(parts["decoder"], broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert str(broken) in fails(decoder(broken))


def copy_with(folder: Path, target: Path, **changes: Any) -> Path:
    """Copy a checkpoint folder and change fields of its config."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | changes))
    return target


@pytest.mark.parametrize(
    "changes",
    [
        {"n_head": 0},
        {"n_layer": 1_000_000},
        {"metalm": 5},
        {"quantization_config": {"quant_method": "gptq"}},
        {"torch_dtype": "evil", "dtype": "evil"},
    ],
    ids=json.dumps,
)
def test_a_checkpoint_with_a_wrong_config(
    fails: Fails, parts: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any]
) -> None:
    broken = copy_with(parts["decoder"], tmp_path / "broken", **changes)
    assert str(broken) in fails(decoder(broken))
    assert micro.metalm("generate", broken, "Once upon", "--offline") == 2
    message = capsys.readouterr().err
    check_message(message)
    assert str(broken) in message


def test_a_checkpoint_whose_weights_are_not_finite(
    parts: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    broken = copy_with(parts["decoder"], tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    name = next(key for key in tensors if "c_attn.weight" in key)
    tensors[name][0, 0] = torch.nan
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    assert micro.metalm("generate", broken, "Once upon", "--offline") == 2
    message = capsys.readouterr().err
    check_message(message)
    assert name in message
    assert "not finite" in message


def test_rows_longer_than_the_decoders_positions(fails: Fails) -> None:
    message = fails("data.sequence_length=65")
    assert "data.sequence_length" in message
    assert "65" in message
    assert "64" in message


@pytest.mark.parametrize("objective", ["semi_causal", "prefix"])
def test_spans_longer_than_the_encoders_positions(fails: Fails, objective: str) -> None:
    key = "span_length" if objective == "semi_causal" else "prefix_length"
    message = fails(
        "model.decoder.config.n_positions=512",
        "data.sequence_length=512",
        f"objective={{name: {objective}, {key}: [100, 200]}}",
    )
    assert f"objective.{key}" in message
    assert "100" in message
    assert "64" in message
    assert "model.encoders.text.max_length" in message


def test_a_base_that_is_not_a_model(fails: Fails, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    text = yaml.safe_load(micro.RECIPE)
    text["model"] = {"checkpoint": str(tmp_path / "old")}
    path = micro.write_recipe(tmp_path, yaml.safe_dump(text), "on.yaml")
    assert str(tmp_path / "old") in fails(recipe=path)


# -- the hub ----------------------------------------------------------------------------------------------------------

CALL = """
import sys
from metalm_cli.cli.app import run
sys.exit(run({arguments!r}))
"""


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("model.decoder={checkpoint: me/missing}", ["me/missing"]),
        ("model.decoder={checkpoint: me/gated}", ["me/gated", "401"]),
        ("data.sources=[{name: far, hub: me/missing, weight: 1.0}]", ["me/missing"]),
    ],
)
def test_the_hub_refuses(tmp_path: Path, setting: str, words: list[str]) -> None:
    recipe, out = micro.write_recipe(tmp_path), tmp_path / "run"
    with HubServer() as hub:
        hub.add("models", "me/gated", {"config.json": b"{}", "model.safetensors": b"x"}, gated=True)
        arguments = ["pretrain", str(recipe), setting, "--out", str(out)]
        done = hub.run(QUICK + CALL.format(arguments=arguments), tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    check_message(done.stdout + done.stderr)
    assert all(word in done.stderr for word in words)
    assert not out.exists()


@pytest.mark.parametrize("offline", [True, False])
def test_the_hub_is_out_of_reach(tmp_path: Path, offline: bool) -> None:
    recipe, out = micro.write_recipe(tmp_path), tmp_path / "run"
    with HubServer() as hub:
        environment = hub.environment(tmp_path)
    arguments = ["pretrain", str(recipe), "model.decoder={checkpoint: me/model}", "--out", str(out)]
    arguments += ["--offline"] if offline else []
    with HubServer() as hub:
        done = hub.run(QUICK + CALL.format(arguments=arguments), tmp_path, HF_ENDPOINT=environment["HF_ENDPOINT"])
        assert not hub.requests
    assert done.returncode == 2, done.stdout + done.stderr
    check_message(done.stdout + done.stderr)
    assert "me/model" in done.stderr
    assert not out.exists()


# -- the disk ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "word"),
    [(100, "environment.json"), (5_000, "cannot start the run"), (400_000, "checkpoint of step 6 was not written")],
)
def test_no_space(tmp_path: Path, size: int, word: str) -> None:
    out = tmp_path / "run"
    reading, writing = os.pipe()  # the limit applies to files only

    def limit() -> None:
        os.dup2(writing, sys.stdout.fileno())
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    run = micro.ForkedCommand(["pretrain", micro.write_recipe(tmp_path), "--out", out], tmp_path / "log", before=limit)
    assert run.wait() == 1
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:
        message = pipe.read()
    check_message(message)
    assert word in " ".join(message.split())
    assert not [path for path in out.rglob("*") if ".tmp-" in path.name]
    assert not (out / "model").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["recipe", "check", "a" * 6_000],
        ["recipe", "check", "~nosuch/x.yaml"],
        ["recipe", "check", "./" + "a" * 6_000 + ".yaml"],
        ["tasks", "show", "~nosuch/x.jsonl"],
        ["tasks", "new", "x" * 5_000 + ".csv"],
        ["pretrain", "small", "data.sources.0.path=" + "x" * 5_000, "--dry-run"],
        ["pretrain", "small", "data.sources.0.path=~nosuch/x.jsonl", "--dry-run"],
        ["generate", "~nosuch/model", "text"],
    ],
    ids=lambda arguments: " ".join(argument[:24] for argument in arguments),
)
def test_a_path_that_cannot_exist_is_an_error_of_the_input(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    output = capsys.readouterr().err
    assert "error:" in output
    assert "bug" not in output
