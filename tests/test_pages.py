"""Commands and Python examples of the pages: all are parsed and their recipes resolved, ``run`` blocks are run."""

from __future__ import annotations

import ast
import doctest
import json
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

import page_blocks
import tiny_runs
from page_blocks import PAGES, blocks_of, command_lines, metalm_arguments, metalm_commands
from plugin_distributions import metalm, write_distribution

FAILING_COMMANDS = ("recipe check small train.stepz=100",)
"""Commands that show what an error looks like."""
PLUGIN_NAMES = ("hello", "first_tokens.yaml")
"""Names that only the plug-in of docs/plugins.md has; tests/test_plugins_page.py runs its commands."""
RUN_PAGES = [page for page in PAGES if any(block.is_run for block in blocks_of(page))]
TRAINING = ("pretrain", "finetune", "instruct")
SHORT_TRAINING = {
    "train.steps": "4",
    "train.batch_size": "4",
    "train.warmup_steps": "1",
    "train.validate_every": "0",
    "train.checkpoint_every": "0",
    "train.sample_continuations": "0",
    "train.dock_worth_sessions": "0",
    "train.precision": "fp32",
}
SMALL_MODEL = {
    "model.decoder.config.hidden_size": "32",
    "model.decoder.config.intermediate_size": "48",
    "model.decoder.config.num_hidden_layers": "1",
    "model.decoder.tokenizer.new.vocab_size": "600",
    "data.sources.0.world.documents": "200",
    "data.validation.hold_out_every": "20",
    "data.validation.documents": "4",
}
SMALL_ENCODER = {
    "model.encoders.text.config.embedding_size": "32",
    "model.encoders.text.config.hidden_size": "32",
    "model.encoders.text.config.intermediate_size": "48",
    "model.encoders.text.config.num_hidden_layers": "1",
}
CHECKPOINT_KEYS = ("model.decoder.checkpoint", "model.encoders.text.checkpoint")


def unique_commands() -> dict[str, list[str]]:
    """Commands of all pages by their text, each once."""
    return {shlex.join(arguments): arguments for page in PAGES for arguments in metalm_commands(page)}


COMMANDS = unique_commands()


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse_and_their_recipes_hold(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import typer

    from metalm_cli.cli.app import app
    from metalm_cli.config import resolve, split_arguments
    from metalm_cli.config.recipe_errors import RecipeError
    from metalm_cli.config.schema.recipes import RECIPES

    arguments = COMMANDS[command]
    if any(name in arguments for name in PLUGIN_NAMES):
        return
    assert not {"--resume", "--dry-run"} <= set(arguments), "they exclude each other"
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path)
    context = typer.main.get_command(app).make_context("metalm", list(arguments))
    group = context.command
    while isinstance(group, typer.core.TyperGroup):
        remaining_arguments = [*context._protected_args, *context.args]
        if not remaining_arguments:
            return
        name, subcommand, subcommand_arguments = group.resolve_command(context, remaining_arguments)
        assert subcommand is not None
        context, group = subcommand.make_context(name, subcommand_arguments, parent=context), subcommand
    recipe_arguments = context.params.get("arguments")
    if not recipe_arguments:
        return
    recipe, overrides = split_arguments(recipe_arguments)
    if command in FAILING_COMMANDS:
        with pytest.raises(RecipeError):
            resolve("pretrain", recipe, overrides)
    elif recipe != "RECIPE":
        training_command = arguments[0] if arguments[0] in RECIPES else None
        resolve(training_command, recipe, overrides, {"model.checkpoint": context.params.get("model")})


def write_files(folder: Path, pages: list[Path] = PAGES) -> None:
    """Write the files that pages show, by their names."""
    for page in pages:
        for block in blocks_of(page):
            if block.file:
                (folder / block.file).parent.mkdir(parents=True, exist_ok=True)
                (folder / block.file).write_text(block.text, encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_call_known_programs(page: Path) -> None:
    assert set(page_blocks.other_programs(page)) <= set(page_blocks.OTHER_PROGRAMS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_uses_what_is_exported(page: Path) -> None:
    import metalm_cli

    for block in blocks_of(page):
        if block.language == "python":
            names = {
                node.attr
                for node in ast.walk(ast.parse(block.text))
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "metalm"
            }
            assert names <= set(metalm_cli.__all__)


def test_the_blocks_are_recognised() -> None:
    assert doctest.testmod(page_blocks).failed == 0
    assert len(COMMANDS) > 120
    assert len(RUN_PAGES) >= 5


# -- blocks that run --------------------------------------------------------------------------------------------------


def shortened(arguments: list[str], stand_ins: dict[str, str]) -> list[str]:
    """Shorten a command: few steps of a tiny model, few examples, and local models in place of large ones."""
    words = [replace_models(word, stand_ins) for word in arguments]
    if words[0] in TRAINING and "--resume" not in words:
        changes = dict(SHORT_TRAINING)
        if words[0] != "pretrain":
            changes["data.validation.examples"] = "4"
        elif words[1].startswith("small"):
            changes |= SMALL_MODEL | ({} if "gpt" in words[1] else SMALL_ENCODER)
        elif words[1] == "docked":
            changes |= dict(zip(CHECKPOINT_KEYS, stand_ins.values(), strict=True))
        keys = {*changes, "train.epochs"}
        words = [word for word in words if word.partition("=")[0] not in keys]
        words += [f"{key}={value}" for key, value in changes.items()]
    elif words[0] in ("eval", "evaluate"):
        words += ["--limit", "4"]
    return words


def replace_models(word: str, stand_ins: dict[str, str]) -> str:
    for name, folder in stand_ins.items():
        word = re.sub(rf"(^|=){re.escape(name)}$", rf"\g<1>{folder}", word)
    return word


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model that the README trains, tiny."""
    folder = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert tiny_runs.metalm(*shortened(["pretrain", "small", "--out", "runs/first"], {})) == 0
    return folder / "runs" / "first"


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Tiny checkpoints for the ones that pages name: a Llama and a BERT."""
    from tiny_models import make_decoder, make_encoder, tokenizer_of

    folder = tmp_path_factory.mktemp("checkpoints")
    llama, bert = tokenizer_of("byte"), tokenizer_of("wordpiece")
    for name, model, tokenizer in (
        ("llama", make_decoder("llama", len(llama), max_position_embeddings=512), llama),
        ("bert", make_encoder("bert", len(bert), max_position_embeddings=512), bert),
    ):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return {
        "smollm2-135m-instruct-q4_1": str(folder / "llama"),
        "sentence-transformers/all-MiniLM-L6-v2": str(folder / "bert"),
    }


@pytest.fixture
def page_folder(
    request: pytest.FixtureRequest, tmp_path: Path, first_run: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Working folder with the files of a page, and the model of the README."""
    monkeypatch.chdir(tmp_path)
    for variable in ("METALM_DATA", "METALM_CHECKPOINTS"):
        monkeypatch.delenv(variable, raising=False)
    page = request.getfixturevalue("page")
    write_files(tmp_path, [page])
    if ["pretrain", "small", "--out", "runs/first"] not in metalm_commands(page):
        (tmp_path / "runs").mkdir()
        shutil.copytree(first_run, tmp_path / "runs" / "first")
    return tmp_path


def run_page(page: Path, stand_ins: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """Run the ``run`` blocks of a page in their order; Python blocks share their names."""
    names: dict[str, object] = {}
    for block in blocks_of(page):
        if block.is_run and block.language == "python":
            exec(compile(block.text, page.name, "exec"), names)
        elif block.is_run:
            for command in command_lines(block.text):
                arguments = metalm_arguments(command)
                assert arguments is not None, command
                code = tiny_runs.metalm(*shortened(arguments, stand_ins))
                assert code == 0, (shlex.join(command), capsys.readouterr().err)


@pytest.mark.parametrize("page", RUN_PAGES, ids=lambda page: page.stem)
def test_the_blocks_of_a_page_run(
    page: Path, page_folder: Path, stand_ins: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    run_page(page, stand_ins, capsys)


USE_METRIC = """
from metalm_cli.cli.app import run
for command in (
    ["plugins", "metrics"],
    ["tasks", "check", "rated/rated.yaml"],
    ["eval", "runs/first", "--task", "rated/rated.yaml", "--out", "rated.json"],
):
    assert run(command) == 0, command
"""


def test_the_metric_of_the_cookbook_is_used(tmp_path: Path, first_run: Path) -> None:
    cookbook = next(page for page in PAGES if page.name == "cookbook.md")
    commands = [shlex.join(arguments) for arguments in metalm_commands(cookbook)]
    assert {"plugins metrics", "tasks check rated/rated.yaml", "eval runs/first --task rated/rated.yaml"} <= {*commands}
    write_files(tmp_path, [cookbook])
    shutil.copytree(first_run, tmp_path / "runs" / "first")
    project = tomllib.loads((tmp_path / "stars" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    modules = {
        path.relative_to(tmp_path / "stars").as_posix(): path.read_text(encoding="utf-8")
        for path in (tmp_path / "stars").rglob("*.py")
    }
    points = project["entry-points"]["metalm.plugins"]
    site = write_distribution(tmp_path / "site", project["name"], modules, points, project["version"])
    done = metalm(tmp_path, site=site, code=f"exec({USE_METRIC!r})")
    assert done.returncode == 0, done.stderr
    assert "metalm-stars 0.1.0" in done.stdout
    scored = json.loads((tmp_path / "rated.json").read_text(encoding="utf-8"))
    assert "stars" in json.dumps(scored["tasks"])


def stub(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (75, True), (1, False)])
def test_the_job_of_slurm_is_requeued_where_training_was_stopped(tmp_path: Path, code: int, requeued: bool) -> None:
    write_files(tmp_path, [page for page in PAGES if page.name == "cookbook.md"])
    stub(tmp_path, "srun", 'echo "$@" > started\nexit ' + str(code))
    stub(tmp_path, "scontrol", 'echo "$@" > requeued')
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    done = subprocess.run(["bash", "train.sbatch"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert (tmp_path / "requeued").exists() is requeued
    if requeued:
        assert (tmp_path / "requeued").read_text() == "requeue 7\n"
    words = shlex.split((tmp_path / "started").read_text())
    assert words[:2] == ["metalm", "pretrain"]
    assert "--resume" in words
    assert "--out" in words
