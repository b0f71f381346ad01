"""Examples of every command, which its help shows at the end."""

from __future__ import annotations

import re
from typing import Any

EXAMPLES: dict[str, tuple[str, ...]] = {
    "": (
        "metalm demo --quick",
        "metalm pretrain small --dry-run",
        "metalm evaluate runs/latest --cluster nli",
    ),
    "pretrain": (
        "metalm pretrain small --dry-run",
        "metalm pretrain small data.sources.0.path=my.jsonl",
        "metalm pretrain small train.steps=200 --out runs/mine",
    ),
    "finetune": (
        "metalm finetune world --dry-run",
        "metalm finetune single --model runs/mine --task rte",
        "metalm finetune multitask --cluster nli --offline",
    ),
    "instruct": (
        "metalm instruct world-flan --dry-run",
        "metalm instruct flan --model runs/mine --hold-out nli",
    ),
    "evaluate": (
        "metalm evaluate runs/mine --cluster nli",
        "metalm evaluate runs/mine --task rte --shots 0,4",
        "metalm evaluate runs/mine --suite glue --versus gpt2",
    ),
    "suites": ("metalm suites list",),
    "suites list": ("metalm suites list",),
    "suites show": ("metalm suites show glue",),
    "results": (
        "metalm results show runs/mine",
        "metalm results compare runs/mine runs/gpt",
    ),
    "results show": (
        "metalm results show runs/mine",
        "metalm results show runs/* --by task --format latex",
    ),
    "results compare": ("metalm results compare runs/mine runs/gpt",),
    "generate": (
        "metalm generate runs/mine 'The rain had stopped.'",
        "metalm generate runs/mine 'A cat is' --sample --seed 1",
        "metalm generate runs/mine --input in.jsonl --out out.jsonl",
    ),
    "report": (
        "metalm report runs/mine",
        "metalm report runs/mine runs/gpt --out both.html",
    ),
    "show": (
        "metalm show small",
        "metalm show world --positions",
    ),
    "tasks": ("metalm tasks list --cluster nli", "metalm tasks new reviews.csv"),
    "tasks list": ("metalm tasks list --cluster nli",),
    "tasks show": ("metalm tasks show rte",),
    "tasks check": ("metalm tasks check cards/reviews.yaml", "metalm tasks check --cluster nli --rows 100"),
    "tasks new": ("metalm tasks new reviews.csv --cluster sentiment",),
    "templates": ("metalm templates show rte --collection flan",),
    "templates list": ("metalm templates list flan",),
    "templates show": ("metalm templates show rte --collection flan --row 3",),
    "templates lint": ("metalm templates lint cards/templates/reviews.yaml",),
    "templates import": ("metalm templates import flan templates.py --out mine",),
    "data": ("metalm data mirror rte --data-root data", "metalm data list --data-root data"),
    "data mirror": ("metalm data mirror rte boolq --data-root data",),
    "data list": ("metalm data list --data-root data",),
    "data clean": ("metalm data clean rte --data-root data",),
    "export": (
        "metalm export runs/mine --out model",
        "metalm export runs/mine --standalone --push me/mine",
    ),
    "demo": ("metalm demo --quick", "metalm demo --dry-run"),
    "reproduce": (
        "metalm reproduce world --dry-run",
        "metalm reproduce world --seeds 0,1 --out runs/world",
    ),
    "recipe": ("metalm recipe show small", "metalm recipe check mine.yaml"),
    "recipe list": ("metalm recipe list",),
    "recipe show": ("metalm recipe show small train.steps=200",),
    "recipe check": ("metalm recipe check mine.yaml train.steps=200",),
    "recipe schema": ("metalm recipe schema > recipe.schema.json",),
    "plugins": ("metalm plugins metrics connectors",),
}
"""Command lines by command; of ``metalm`` itself under the empty name. They fit 60 columns."""


INSIDE_SENTENCE = re.compile(r"(?<![.:?\n])\n(?!\n)")
"""A line break inside a sentence of a docstring, whose width is not that of the terminal."""


def add_examples(command: Any, name: str) -> None:
    """Show the examples at the end of the help of a command and of its subcommands; join the lines of its sentences.

    Args:
        command: The command.
        name: Its name, with those of its parents.
    """
    command.help = INSIDE_SENTENCE.sub(" ", command.help) if command.help else command.help
    if examples := EXAMPLES.get(name):
        title = "Examples" if len(examples) > 1 else "Example"
        command.epilog = "\n".join([f"[bold]{title}[/bold]", *examples])
    for child_name, child in getattr(command, "commands", {}).items():
        add_examples(child, f"{name} {child_name}")
