"""Cards of Natural Instructions tasks, from their JSON files."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from metalm_cli.common.jsonl_files import parse_json_exactly
from metalm_cli.common.languages import guess_language, language_code
from metalm_cli.common.paths import read_regular
from metalm_cli.common.slug import slug
from metalm_cli.config.locate import display
from metalm_cli.errors import MetalmError
from metalm_cli.tasks.card import Card

INPUT_TARGET_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
"""File name suffixes of JSON lines with ``input`` and ``target``."""
HELD_OUT_LISTS = ("test_tasks.txt", "excluded_tasks.txt")
"""Files in ``splits/default`` beside a task folder, which list tasks that must not be trained on."""
MAX_JSON_BYTES = 256 << 20
"""Maximum bytes of a task file."""
MAX_EVALUATION_INSTANCES = 100
"""Maximum instances for validation (at most a tenth of all), and instances of a test task (as its authors score it)."""
EXACT_MATCH_CATEGORIES = frozenset(
    {"textual_entailment", "coreference_resolution", "dialogue_act_recognition", "word_analogy"}
)
"""Categories scored by exact match, besides those with classification in their name (Wang et al. 2022)."""
MAX_ANSWER_CLASSES = 10
"""A task with at most this many distinct answers is a classification task: exact match, whatever its category."""
ANSWER_EXPRESSION = "output if output is string else output | reject('none') | map('trim') | select | list"


def task_name(path: Path) -> str:
    """Return the name of the task in a file of Natural Instructions or of JSON lines."""
    suffix = next(
        (known_suffix for known_suffix in (*INPUT_TARGET_SUFFIXES, ".json") if path.name.endswith(known_suffix)),
        path.suffix,
    )
    return slug(path.name.removesuffix(suffix), "_")


@lru_cache(maxsize=4)
def read_task(path: Path) -> dict[str, Any]:
    """Read the JSON of a Natural Instructions task.

    Raises:
        MetalmError: The file cannot be read, or is not such a task.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise _task_error(path, f"the file has {path.stat().st_size:,} bytes; the limit is {MAX_JSON_BYTES:,}")
        task = parse_json_exactly(read_regular(path))
    except OSError as error:
        raise _task_error(path, error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:
        raise _task_error(path, f"not valid JSON: {error}") from error
    for key in ("Definition", "Instances"):
        if not isinstance(task, dict) or not task.get(key):
            raise _task_error(path, f"missing: {key}")
    if not isinstance(task["Instances"], list):
        raise _task_error(path, "Instances is not a list")
    return task


def _task_error(path: Path, why: str) -> MetalmError:
    return MetalmError(
        "cannot read a Natural Instructions task",
        where=display(path),
        why=why,
        remedy="expected JSON with Definition and Instances, each instance with input and output",
    )


def natural_instructions_card(path: Path) -> Card:
    """Build the card of a Natural Instructions task (Wang et al. 2022).

    Its cluster is its first category. Instances without an input or an answer are left out. The last hundred instances
    of a training task, at most a tenth, are for validation. A task listed in ``test_tasks.txt`` or
    ``excluded_tasks.txt`` in ``splits/default`` beside its folder is for evaluation only, on its first hundred
    instances.

    Raises:
        MetalmError: The file cannot be read, or is not such a task.
    """
    task = read_task(path)
    cluster = slug(_first_text(task.get("Categories")) or "misc", "_")
    evaluation_only = path.stem in _held_out_tasks(path.absolute().parent.parent / "splits" / "default")
    splits = (
        {"test": f"instances[:{MAX_EVALUATION_INSTANCES}]"}
        if evaluation_only
        else train_validation_splits("instances", len(task["Instances"]))
    )
    exact_match = (
        "classification" in cluster or cluster in EXACT_MATCH_CATEGORIES or _is_classification(task["Instances"])
    )
    source = task.get("Source") or ()
    sources = ", ".join(map(str, source if isinstance(source, list) else [source])).strip(", ")
    return Card.model_validate(
        {
            "name": task_name(path),
            "cluster": cluster,
            "description": (_first_text(task["Definition"]).strip().splitlines() or [path.stem])[0][:200],
            "usage": "eval" if evaluation_only else "train_and_eval",
            "file": str(path.absolute()),
            "splits": splits,
            "row_filter": f"input | trim and ({ANSWER_EXPRESSION})",
            "fields": {"input": "input"},
            "answer": {"text": ANSWER_EXPRESSION},
            "long_inputs": {"field": "input", "truncate": "middle"},
            "metric": {"name": "super_ni_em" if exact_match else "super_ni_rougeL", "source": "Wang et al. 2022"},
            "templates": str(path.absolute()),
            "language": _language(task),
            "licence": _first_text(task.get("Instance License")) or "unknown",
            "citation": "Wang et al. 2022 (Super-NaturalInstructions)" + (f"; from {sources}" if sources else ""),
        }
    )


def _first_text(value: Any) -> str:
    """Return a text, or the first text of a list; older files have texts where newer ones have lists."""
    value = value[0] if isinstance(value, list) and value else value
    return value if isinstance(value, str) else ""


def _language(task: dict[str, Any]) -> str:
    """Return the language of the outputs or, if they are English, of the inputs: either makes a task cross-lingual.

    Tasks that do not state their languages are in the language of their outputs.
    """
    languages = [language_code(_first_text(task.get(key))) for key in ("Output_language", "Input_language")]
    stated = [language for language in languages if language]
    if not stated:
        instances = (instance for instance in task["Instances"][:100] if isinstance(instance, dict))
        return guess_language(_first_text(instance.get("output")) for instance in instances) or "en"
    return next((language for language in stated if language != "en"), "en")


def _is_classification(instances: list[Any]) -> bool:
    answers = {_first_text(instance.get("output")).strip() for instance in instances if isinstance(instance, dict)}
    return 1 < len(answers) <= MAX_ANSWER_CLASSES and len(instances) >= 5 * len(answers)


def _held_out_tasks(folder: Path) -> set[str]:
    names: set[str] = set()
    for name in HELD_OUT_LISTS:
        if (folder / name).is_file():
            names.update((folder / name).read_text(encoding="utf-8", errors="replace").split())
    return names


def train_validation_splits(name: str, row_count: int) -> dict[str, str]:
    validation_rows = min(MAX_EVALUATION_INSTANCES, row_count // 10) or min(1, row_count // 2)
    return (
        {"train": f"{name}[:-{validation_rows}]", "validation": f"{name}[-{validation_rows}:]"}
        if validation_rows
        else {"train": name}
    )
