"""Resuming with another recipe: which keys differ, and which of those may."""

from __future__ import annotations

from typing import Any

import yaml

from metalm_cli.config.renamed_keys import recorded_recipe
from metalm_cli.config.schema.recipes import Recipe
from metalm_cli.errors import MetalmError
from metalm_cli.runs.folder import RunFolder

FREE = (
    "description",
    "train.max_time",
    "train.micro_batch_size",
    "train.compile",
    "train.checkpoint_activations",
    "train.log_every",
    "train.validate_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.sample_continuations",
    "train.trackers",
    "data.workers",
)
"""Keys that may change on resume: they change neither what is read nor, without dropout, what is computed from it."""
LATER = ("train.steps",)
"""Keys that may change, and do change what comes: the schedule is that of the new value."""

CONSEQUENCES = {
    "train.steps": ", and with it the learning rates to come",
    "train.micro_batch_size": ", and with it what dropout leaves out: each micro-batch has a seed of its own",
}
"""What a change of a key that may change means for the run."""


def check_recipe(folder: RunFolder, recipe: Recipe) -> list[str]:
    """Compare a recipe with the one that a run began with.

    Returns:
        What to tell the user of the keys that differ and may.

    Raises:
        MetalmError: Keys differ that must not; all are named.
    """
    try:
        saved = flatten(recorded_recipe(yaml.safe_load(folder.recipe.read_text(encoding="utf-8"))))
    except (OSError, yaml.YAMLError) as error:
        raise MetalmError(
            "the run's recipe cannot be read",
            where=str(folder.recipe),
            why=str(error).splitlines()[0],
            remedy="start a new run",
        ) from error
    now = flatten(recipe.model_dump(mode="json", exclude={"extends"}))
    differ = sorted(key for key in saved.keys() | now.keys() if saved.get(key) != now.get(key))
    fixed = [key for key in differ if key not in FREE and key not in LATER]
    if fixed:
        raise MetalmError(
            "the recipe differs from the one that this run began with",
            where=str(folder.recipe),
            why="; ".join(f"{key} was {saved.get(key)!r} and is {now.get(key)!r}" for key in fixed),
            remedy=f"set them back, or start a new run; a resumed run may change {', '.join((*LATER, *FREE))}",
        )
    return [f"{key} changes from {saved.get(key)} to {now.get(key)}{CONSEQUENCES.get(key, '')}" for key in differ]


def flatten(value: Any, path: str = "") -> dict[str, Any]:
    """Leaves of a recipe by dotted key.

    Example:
        >>> flatten({"train": {"steps": 5}, "data": {"sources": [{"name": "a"}]}})
        {'train.steps': 5, 'data.sources.0.name': 'a'}
    """
    if isinstance(value, dict) and value:
        items = value.items()
    elif isinstance(value, list) and any(isinstance(one, dict) for one in value):
        items = {str(index): one for index, one in enumerate(value)}.items()
    else:
        return {path: value}
    found: dict[str, Any] = {}
    for key, one in items:
        found.update(flatten(one, f"{path}.{key}" if path else str(key)))
    return found
