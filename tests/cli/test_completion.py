"""Completion of tasks, clusters, templates, protocols and other names by the shell."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from metalm_cli.cli import completion
from metalm_cli.evaluation.request import AUTO
from metalm_cli.evaluation.settings import PROTOCOLS
from metalm_cli.tasks import Cards
from metalm_cli.tasks.clusters import read_clusters
from metalm_cli.tasks.registry import GROUP_NAMES
from metalm_cli.templates import collection_names

MAIN = "import sys; from metalm_cli.cli import main; sys.argv = ['metalm']; main()"
HEAVY = ["torch", "transformers", "datasets"]


def names(completions: completion.Completions) -> list[str]:
    return [name for name, _ in completions]


def test_names_are_those_that_exist() -> None:
    assert names(completion.complete_task("")) == Cards().names
    assert names(completion.complete_cluster("")) == list(read_clusters().clusters)
    assert names(completion.complete_group("")) == [*read_clusters().clusters, *GROUP_NAMES]
    assert names(completion.complete_collection("")) == collection_names()
    assert dict(completion.complete_task("rte")) == {"rte": Cards()["rte"].description}
    assert completion.complete_task("no_such") == []


def test_names_after_a_comma() -> None:
    assert names(completion.complete_task("cb,rt")) == ["cb,rte"]
    assert names(completion.complete_group("nli,non")) == ["nli,non_core"]


def complete(line: str, code: str = MAIN) -> list[str]:
    """Completions of a command line through fish's protocol, where each is a line with its description."""
    protocol = {"_METALM_COMPLETE": "complete_fish", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    environment = os.environ | protocol | {"_TYPER_COMPLETE_ARGS": line}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert not done.stderr, done.stderr
    return [name.partition("\t")[0] for name in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("metalm eval run --task boo", ["boolq"]),
        ("metalm eval run --task ", Cards().names),  # no description is wrapped into a line of its own
        ("metalm eval run --cluster cor", ["coreference", "core"]),
        ("metalm eval run --protocol ", [AUTO, *PROTOCOLS]),
        ("metalm eval run --suite superg", ["superglue"]),
        ("metalm eval run --templates fl", ["flan"]),
        ("metalm instruct flan --hold-out rt", ["rte"]),
        ("metalm finetune single --templates pl", ["plain"]),
        ("metalm tasks show rt", ["rte"]),
        ("metalm templates show rte --template pup", ["pupil"]),
        ("metalm templates show rte -c plain --template ", ["named"]),
        ("metalm templates import prom", ["promptsource"]),
        ("metalm plugins metr", ["metrics"]),
    ],
)
def test_the_shell_completes(line: str, expected: list[str]) -> None:
    assert complete(line) == expected


def test_completion_imports_nothing_heavy() -> None:
    code = f"import atexit, sys; atexit.register(lambda: print([n for n in {HEAVY!r} if n in sys.modules])); {MAIN}"
    assert complete("metalm eval run --task rt", code) == ["rte", "[]"]
