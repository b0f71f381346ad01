"""Tasks that have no card of their own: Natural Instructions' JSON, and JSON lines of ``{input, target}``."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from metalm_cli.config.locate import display
from metalm_cli.errors import MetalmError
from metalm_cli.tasks.card import Card

PAIRS = (".jsonl", ".jsonl.gz", ".jsonl.zst")
"""How files of ``{input, target}`` end."""
LISTS = ("test_tasks.txt", "excluded_tasks.txt")
"""Below ``splits/default`` beside a folder of tasks: those that must not be trained on."""
MAX_JSON = 256 << 20
"""Bytes of a task's JSON."""
HELD_BACK = 100
"""Last instances that validate, but no more than a tenth; first instances of a test task, as its authors score it."""
MATCHED = frozenset({"textual_entailment", "coreference_resolution", "dialogue_act_recognition", "word_analogy"})
"""Categories scored by exact match beside those with classification in their name (Wang et al. 2022)."""
FEW = 10
"""A task whose instances share at most so many answers chooses among them: exact match, whatever its category."""
ANSWERS = "output if output is string else output | map('trim') | select | list"
LANGUAGES = {"english": "en"}


def slug(text: str) -> str:
    """A name of small letters, digits and underscores.

    >>> slug("task141_odd-man-out_category"), slug("Misc.")
    ('task141_odd_man_out_category', 'misc')
    """
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_") or "unnamed"


def task_name(path: Path) -> str:
    """Name of the task in a file of Natural Instructions, or of pairs."""
    ending = next((one for one in (*PAIRS, ".json") if path.name.endswith(one)), path.suffix)
    return slug(path.name.removesuffix(ending))


@lru_cache(maxsize=4)
def read_task(path: Path) -> dict[str, Any]:
    """A task of Natural Instructions as it stands.

    Raises:
        MetalmError: It cannot be read, or is no such task.
    """
    try:
        if path.stat().st_size > MAX_JSON:
            raise _no_task(path, f"it has {path.stat().st_size:,} bytes; the limit is {MAX_JSON:,}")
        task = json.loads(path.read_bytes())
    except OSError as error:
        raise _no_task(path, error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:
        raise _no_task(path, f"it is no JSON: {error}") from error
    for key in ("Definition", "Instances"):
        if not isinstance(task, dict) or not task.get(key):
            raise _no_task(path, f"missing: {key}")
    if not isinstance(task["Instances"], list):
        raise _no_task(path, "Instances is no list")
    return task


def _no_task(path: Path, why: str) -> MetalmError:
    return MetalmError(
        "a task of Natural Instructions cannot be read",
        where=display(path),
        why=why,
        remedy="give a JSON with Definition and Instances, each instance {input, output}",
    )


def task_card(path: Path) -> Card:
    """The card of a task of Natural Instructions (Wang et al. 2022).

    Its cluster is its first category. Instances without an input or an answer are left out. Of a task to train on,
    the last hundred instances, at most a tenth, validate. A task that ``test_tasks.txt`` or ``excluded_tasks.txt``
    in ``splits/default`` beside its folder lists is for evaluation only, on its first hundred instances.

    Raises:
        MetalmError: The file cannot be read, or is no such task.
    """
    task = read_task(path)
    cluster = slug(_first(task.get("Categories")) or "misc")
    tested = path.stem in _not_trained(path.absolute().parent.parent / "splits" / "default")
    splits = {"test": f"instances[:{HELD_BACK}]"} if tested else _splits("instances", len(task["Instances"]))
    matched = "classification" in cluster or cluster in MATCHED or _chooses(task["Instances"])
    language = _first(task.get("Input_language")).lower()
    sources = ", ".join(map(str, task.get("Source") or ())).strip(", ")
    return Card.model_validate(
        {
            "name": task_name(path),
            "cluster": cluster,
            "description": (_first(task["Definition"]).strip().splitlines() or [path.stem])[0][:200],
            "usage": "eval" if tested else "train_and_eval",
            "file": str(path.absolute()),
            "splits": splits,
            "row_filter": f"input | trim and ({ANSWERS})",
            "fields": {"input": "input"},
            "answer": {"text": ANSWERS},
            "long_inputs": {"field": "input", "truncate": "middle"},
            "metric": {"name": "exact_match" if matched else "rougeL", "source": "Wang et al. 2022"},
            "templates": str(path.absolute()),
            "language": LANGUAGES.get(language, language or "en"),
            "licence": _first(task.get("Instance License")) or "unknown",
            "citation": "Wang et al. 2022 (Super-NaturalInstructions)" + (f"; from {sources}" if sources else ""),
        }
    )


def _first(value: Any) -> str:
    """A text, or the first of a list; older files have texts where newer ones have lists."""
    value = value[0] if isinstance(value, list) and value else value
    return value if isinstance(value, str) else ""


def _chooses(instances: list[Any]) -> bool:
    answers = {_first(one.get("output")).strip() for one in instances if isinstance(one, dict)}
    return 1 < len(answers) <= FEW and len(instances) >= 5 * len(answers)


def _not_trained(folder: Path) -> set[str]:
    found: set[str] = set()
    for name in LISTS:
        if (folder / name).is_file():
            found.update((folder / name).read_text(encoding="utf-8", errors="replace").split())
    return found


def _splits(name: str, rows: int) -> dict[str, str]:
    last = min(HELD_BACK, rows // 10) or min(1, rows // 2)
    return {"train": f"{name}[:-{last}]", "validation": f"{name}[-{last}:]"} if last else {"train": name}
