"""The fuzzed inputs: each surface draws one command line and writes the files that it reads.

A surface is a function of a generator, the workspace of valid inputs, and an empty folder for this case.
"""

from __future__ import annotations

import gzip
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fuzz.mutations import HOSTILE_TEXTS, hostile, mutate_bytes, mutate_value, perturb, to_json
from fuzz.workspace import ROWS, TEMPLATES, Workspace


@dataclass(frozen=True)
class Case:
    """One command line.

    Attributes:
        arguments: The arguments after ``metalm``.
        garbage: The input has no valid reading, so that an exit code of 0 is a fault.
        reads: The text of standard input.
    """

    arguments: list[str]
    garbage: bool = False
    reads: str = ""


Surface = Callable[[random.Random, Workspace, Path], Case]
SHORT = ["--max-new-tokens", "3", "--offline"]


def recipes(rng: random.Random, workspace: Workspace, folder: Path) -> Case:
    """Recipes of pretraining and finetuning whose values or whose bytes are changed."""
    command, values = rng.choice([("pretrain", workspace.pretrain_recipe()), ("finetune", workspace.finetune_recipe())])
    path = folder / "recipe.yaml"
    if rng.random() < 0.3:
        path.write_bytes(mutate_bytes(rng, yaml.safe_dump(values).encode()))
    else:
        path.write_text(_yaml(mutate_value(rng, values)), encoding="utf-8", errors="surrogatepass")
    act = rng.randrange(4)
    if act == 0:
        return Case([command, str(path), "--out", str(folder / "run")])
    if act == 1:
        return Case([command, str(path), "--dry-run", "--out", str(folder / "run")])
    return Case(["recipe", rng.choice(["check", "show"]), str(path)])


def overrides(rng: random.Random, workspace: Workspace, folder: Path) -> Case:
    """Values of keys that are given on the command line."""
    values = workspace.pretrain_recipe()
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    pairs = []
    for _ in range(rng.choice([1, 1, 2])):
        section = rng.choice(["model", "data", "objective", "train"])
        name = rng.choice(["", *values[section]])
        key = f"{section}.{name}" if name else section
        if rng.random() < 0.2:
            key += rng.choice([".", ".0", ".x", "[0]", "..", ".checkpoint", " ", "é"])
        near = perturb(rng, values[section].get(name, 1))
        value = near if rng.random() < 0.5 else hostile(rng)
        text = value if isinstance(value, str) else to_json(value)
        pairs.append(f"{key}={text}".replace("\x00", "")[:5_000])
    pairs = [pair.encode("utf-8", "replace").decode() for pair in pairs]
    command = ["pretrain", str(path), *pairs, "--dry-run", "--out", str(folder / "run")]
    return Case(command if rng.random() < 0.5 else ["show", str(path), *pairs])


def rows(rng: random.Random, workspace: Workspace, folder: Path) -> Case:
    """Rows of a task's data, or documents, that are damaged or hold hostile values."""
    is_task = rng.random() < 0.6
    name = "cards/rows.jsonl" if is_task else "text.jsonl"
    lines = (workspace.root / name).read_text(encoding="utf-8").splitlines()
    number = rng.randrange(len(lines))
    if rng.random() < 0.4:
        data = mutate_bytes(rng, "\n".join(lines).encode())
    else:
        values = ROWS[number % len(ROWS)] if is_task else {"text": "It rains."}
        lines[number] = to_json(mutate_value(rng, values))
        data = "\n".join(lines).encode("utf-8", "surrogatepass")
    if not is_task:
        path = folder / "text.jsonl"
        path.write_bytes(data)
        recipe = _recipe_file(folder, workspace.pretrain_recipe() | {"data": _text_data(workspace, path)})
        return Case(rng.choice([["pretrain", recipe, "--out", str(folder / "run")], ["show", recipe]]))
    _copy_task(workspace, folder)
    (folder / "cards" / "rows.jsonl").write_bytes(data)
    return _task_command(rng, workspace, folder)


def paths(rng: random.Random, workspace: Workspace, folder: Path) -> Case:
    """Files that are missing, folders, links, compressed or of another kind, under hostile names."""
    source = workspace.root / rng.choice(["text.jsonl", "picture.png", "table.csv", "cards/mine.yaml", "runs"])
    kind = rng.randrange(7)
    path: Path | str = folder / rng.choice(["a.jsonl", "a b.jsonl", "é.jsonl.gz", "[x].jsonl", "a.jsonl.zst", "a"])
    if kind == 0:
        path = rng.choice(HOSTILE_TEXTS).replace("\x00", "")
    elif kind in (1, 5) and source.is_file():
        path = folder / source.name
        shutil.copy(source, path)
    elif kind == 2:
        Path(path).symlink_to(rng.choice([source, folder, Path(path), Path("/nowhere")]))
    elif kind == 3:
        Path(path).write_bytes(mutate_bytes(rng, gzip.compress((workspace.root / "text.jsonl").read_bytes())))
    elif kind == 6:
        path = "/nowhere/" + path.name
    elif kind == 4:
        (folder / "deep").mkdir()
        (folder / "deep" / "again").symlink_to(folder)
        path = f"{folder}/**/*.jsonl"
    name = str(path).encode("utf-8", "replace").decode()
    recipe = _recipe_file(folder, workspace.pretrain_recipe())
    commands = [
        ["show", recipe, f"data.sources.0.path={name}"],
        ["recipe", "check", name],
        ["tasks", "new", name, "--out", str(folder / "draft")],
        ["generate", str(workspace.vision), "--image", name, *SHORT],
        ["generate", name, "It rains.", *SHORT],
        ["evaluate", name, "--task", "mine", "--cards", str(workspace.cards), "--offline"],
        ["templates", "lint", name],
        ["report", name],
        ["results", "show", name],
        ["export", name, "--out", str(folder / "export"), "--offline"],
    ]
    return Case(rng.choice(commands), garbage=kind == 6)


def cards(rng: random.Random, workspace: Workspace, folder: Path) -> Case:
    """Task cards whose values or bytes are changed."""
    _copy_task(workspace, folder)
    path = folder / "cards" / "mine.yaml"
    if rng.random() < 0.25:
        path.write_bytes(mutate_bytes(rng, path.read_bytes()))
    else:
        path.write_text(_yaml(mutate_value(rng, workspace.card())), encoding="utf-8", errors="surrogatepass")
    return _task_command(rng, workspace, folder)


SUITE: dict[str, Any] = {
    "name": "suite",
    "description": "d",
    "tasks": [
        "mine",
        {"task": "mine", "name": "again", "split": "train", "metric": ["f1", "accuracy"], "group": "g", "limit": 3},
        {"task": "mine", "parts": {"column": "premise", "values": ["a", "b"]}},
        {"cluster": "nli"},
        {"suite": "glue"},
        {"suite": "./suite.yaml"},
    ],
    "shots": [0, 1],
    "protocol": "in_context",
    "aggregate": "metrics_then_tasks",
    "also": ["chance_normalised"],
    "limit": 2,
}


def suites(rng: random.Random, workspace: Workspace, folder: Path) -> Case:
    """Suites whose values or bytes are changed."""
    _copy_task(workspace, folder)
    path = folder / "suite.yaml"
    values = {**SUITE, "tasks": rng.sample(SUITE["tasks"], rng.randrange(1, 6))}
    if rng.random() < 0.25:
        path.write_bytes(mutate_bytes(rng, _yaml(values).encode()))
    else:
        path.write_text(_yaml(mutate_value(rng, values)), encoding="utf-8", errors="surrogatepass")
    return Case(["suites", "show", str(path), "--cards", str(folder / "cards")])


TEMPLATE_PIECES = [
    "{{ premise }}",
    "{{ premise.title }}",
    "{{ options }}",
    "{{ answer }}",
    "{% for c in premise %}{{ c }}{% endfor %}",
    "{% for i in range(10000) %}{% for j in range(10000) %}{% endfor %}{% endfor %}",
    "{{ '{:>30000000}'.format(premise) }}",
    "{{ premise|center(100000000) }}",
    "{{ premise * 10000000 }}",
    "{% set a = premise ~ premise ~ premise %}{% set a = a ~ a ~ a %}{{ a }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{{ premise|batch(100000000, 'x')|list|length }}",
    "{{ 9 ** 9 ** 9 }}",
    "{{ lipsum(1000000) }}",
    "{{ cycler.__init__.__globals__ }}",
    "{% include 'x' %}",
    "{% if premise %}",
    "{{ missing.field }}",
    "{{ " + "(" * 300 + "1" + ")" * 300 + " }}",
    "|||",
    "{{ premise[::-1] }}",
    "{{ label / 0 }}",
]


def templates(rng: random.Random, workspace: Workspace, folder: Path) -> Case:
    """Templates of hostile pieces, or template files that are changed."""
    _copy_task(workspace, folder)
    path = folder / "words" / "mine.yaml"
    values: Any = TEMPLATES
    if rng.random() < 0.5:
        text = "".join(rng.choice(TEMPLATE_PIECES) for _ in range(rng.randrange(1, 4)))
        values = {"templates": [{"name": "x", rng.choice(["input", "target"]): text, "target": "{{ answer }}"}]}
        if "input" not in values["templates"][0]:
            values["templates"][0] = {"name": "x", "input": "{{ premise }}", "target": text}
    elif rng.random() < 0.7:
        values = mutate_value(rng, values)
    text = _yaml(values)
    path.write_bytes(
        mutate_bytes(rng, text.encode("utf-8", "replace")) if rng.random() < 0.2 else text.encode("utf-8", "replace")
    )
    return _task_command(rng, workspace, folder)


def csv_files(rng: random.Random, workspace: Workspace, folder: Path) -> Case:
    """Tables and lines that ``tasks new`` drafts a card from."""
    name = rng.choice(["table.csv", "pairs.jsonl", "cards/rows.jsonl"])
    path = folder / Path(name).name
    path.write_bytes(mutate_bytes(rng, (workspace.root / name).read_bytes()))
    if rng.random() < 0.1:
        path.write_bytes(path.read_bytes().decode("utf-8", "replace").encode("utf-16"))
    return Case(["tasks", "new", str(path), "--out", str(folder / "draft")])


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, allow_unicode=True, sort_keys=False)


def _recipe_file(folder: Path, values: dict[str, Any]) -> str:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return str(path)


def _text_data(workspace: Workspace, path: Path) -> dict[str, Any]:
    return workspace.pretrain_recipe()["data"] | {"sources": [{"name": "mine", "path": str(path)}]}


def _copy_task(workspace: Workspace, folder: Path) -> None:
    shutil.copytree(workspace.cards, folder / "cards")
    shutil.copytree(workspace.root / "words", folder / "words")


def _task_command(rng: random.Random, workspace: Workspace, folder: Path) -> Case:
    recipe = workspace.finetune_recipe()
    recipe["data"] |= {
        "tasks": [str(folder / "cards" / "mine.yaml")],
        "templates": {"collection": str(folder / "words")},
    }
    words = str(folder / "words")
    model, out = str(workspace.run / "model"), str(folder / "results")
    evaluate = [
        "evaluate",
        model,
        "--cards",
        str(folder / "cards"),
        "--task",
        "mine",
        "--templates",
        words,
        "--out",
        out,
    ]
    evaluate += ["--limit", "3", "--offline"]
    commands = [
        ["tasks", "check", "mine", "--cards", str(folder / "cards")],
        ["tasks", "show", "mine", "--cards", str(folder / "cards")],
        ["templates", "show", "mine", "--cards", str(folder / "cards"), "--collection", words],
        ["templates", "lint", words, "--cards", str(folder / "cards")],
        ["finetune", _recipe_file(folder, recipe), "--out", str(folder / "run")],
        ["show", _recipe_file(folder, recipe)],
        evaluate,
    ]
    return Case(rng.choice(commands))
