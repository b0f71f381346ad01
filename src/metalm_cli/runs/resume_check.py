"""Check of the recipe on resume: which keys differ, and which of them may change."""

from __future__ import annotations

from typing import Any

import yaml

from metalm_cli.config.renamed_keys import with_current_recipe_keys
from metalm_cli.config.schema.recipes import Recipe
from metalm_cli.errors import MetalmError
from metalm_cli.runs.folder import RunFolder

CHANGEABLE_KEYS = (
    "description",
    "train.max_time",
    "train.micro_batch_size",
    "train.compile",
    "train.checkpoint_activations",
    "train.encoder_cache_gb",
    "train.log_every",
    "train.validate_every",
    "train.dock_worth_sessions",
    "train.evaluate.every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.sample_continuations",
    "train.trackers",
    "data.workers",
)
"""Keys that may change on resume: they affect neither the data nor, without dropout, the computation."""
YOUNGER_KEYS = {"data.broken_images": "skip", "data.answer_sampling": "first", "objective.name": "answers"}
"""Keys that records of earlier versions lack, with the value that these versions acted by."""
SCHEDULE_KEYS = ("train.steps",)
"""Keys that may change on resume and affect the remaining steps: the schedule follows the new value."""

CONSEQUENCES = {
    "train.steps": ", which changes the learning rates of the remaining steps",
    "train.micro_batch_size": ", which changes the dropout masks: each micro-batch has its own seed",
}
"""Effect on the run of changing a key."""


def recipe_record(recipe: Recipe) -> dict[str, Any]:
    """Values of a recipe, as every checkpoint records them."""
    return recipe.model_dump(mode="json", exclude={"extends"})


def check_recipe(folder: RunFolder, recipe: Recipe, record: dict[str, Any] | None = None) -> list[str]:
    """Compare a recipe with the recipe that a run started with.

    Args:
        folder: The run folder.
        recipe: The recipe to resume with, which may be the run's own ``recipe.yaml``, edited.
        record: Recipe that the checkpoint records; None for a checkpoint of an earlier version and for a run without a
            checkpoint, whose ``recipe.yaml`` is compared.

    Returns:
        Notes for the user about changed keys that may change.

    Raises:
        MetalmError: Keys changed that must not; the message names all of them.
    """
    saved = _flat_record(read_recipe(folder) if record is None else record)
    if saved is None:
        raise MetalmError(
            "the recipe of the run cannot be read",
            where=str(folder.recipe),
            why="it is not a recipe in YAML and UTF-8",
            remedy="restore the file, or start a new run",
        )
    current = _comparable_leaves(recipe_record(recipe))
    saved = {key: value for key, value in YOUNGER_KEYS.items() if key in current} | saved
    changed = sorted(key for key in saved.keys() | current.keys() if saved.get(key) != current.get(key))
    fixed = [key for key in changed if key not in CHANGEABLE_KEYS and key not in SCHEDULE_KEYS]
    if fixed:
        raise MetalmError(
            "the recipe differs from the recipe that this run started with",
            where=str(folder.recipe),
            why="; ".join(f"{key} was {saved.get(key)!r} and is {current.get(key)!r}" for key in fixed),
            remedy="restore the values, or start a new run; "
            f"a resumed run may change {', '.join((*SCHEDULE_KEYS, *CHANGEABLE_KEYS))}",
        )
    return [f"{key} changes from {saved.get(key)} to {current.get(key)}{CONSEQUENCES.get(key, '')}" for key in changed]


def read_recipe(folder: RunFolder) -> dict[str, Any] | None:
    """Values of the run's ``recipe.yaml``; None if it cannot be read."""
    try:
        values = yaml.safe_load(folder.recipe.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def is_recorded(folder: RunFolder, recipe: Recipe) -> bool:
    """Whether the run's ``recipe.yaml`` holds the values of a recipe."""
    return _flat_record(read_recipe(folder)) == _comparable_leaves(recipe_record(recipe))


def _flat_record(record: dict[str, Any] | None) -> dict[str, Any] | None:
    """Leaves of a recorded recipe by the current keys."""
    return None if record is None else _comparable_leaves(with_current_recipe_keys(record))


def _comparable_leaves(recipe: dict[str, Any]) -> dict[str, Any]:
    """Flatten a recipe; earlier versions recorded ``all`` for parts whose ``trains`` is not set."""
    return {
        key: "all" if value is None and key.startswith("model.") and key.endswith(".trains") else value
        for key, value in flatten(recipe).items()
    }


def flatten(value: Any, path: str = "") -> dict[str, Any]:
    """Flatten a recipe to its leaves by dotted key.

    Example:
        >>> flatten({"train": {"steps": 5}, "data": {"sources": [{"name": "a"}]}})
        {'train.steps': 5, 'data.sources.0.name': 'a'}
    """
    if isinstance(value, dict) and value:
        items = value.items()
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        items = {str(index): item for index, item in enumerate(value)}.items()
    else:
        return {path: value}
    leaves: dict[str, Any] = {}
    for key, item in items:
        leaves.update(flatten(item, f"{path}.{key}" if path else str(key)))
    return leaves
