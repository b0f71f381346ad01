"""Settings of a run that differ from those of a reference curve, and the kind of cause that each of them is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from metalm_cli.config.renamed_keys import with_current_recipe_keys
from metalm_cli.config.schema.recipes import RECIPES
from metalm_cli.config.yaml_nodes import to_flow_yaml
from metalm_cli.runs.resume_check import CHANGEABLE_KEYS, flatten, recipe_record

WITHOUT_EFFECT = (
    *(key for key in CHANGEABLE_KEYS if key != "train.compile"),
    "train.seed",
    "train.evaluate",
    "train.cache_encoders",
)
"""Keys that do not change the losses (without dropout), and the seed."""
_PLACES = re.compile(r"\.(checkpoint|path)\Z")
"""Keys with places of files: what a run starts from and its data have records of their own."""

CAUSES = (
    (r"(learning_rate|learning_rates\.\w+|warmup_steps|schedule|steps|epochs)\Z", "learning rate and schedule"),
    (r"(\.trains|trains\.\w+)\Z|\Amodel\.lora|\.adapter", "parts that are frozen or have adapters"),
    (r"\Atrain\.(batch_size|loss_average)|\Adata\.(sequence_length|isolate_documents)", "batch"),
    (r"\Atrain\.(precision|compile)", "precision"),
    (r"\Atrain\.(optimizer|betas|epsilon|weight_decay|gradient_clip)", "optimiser"),
    (r"\Aobjective|\Atrain\.distill", "objective"),
    (r"\Adata\.validation", "validation data"),
    (r"\Adata", "data"),
    (r"\Amodel", "model"),
    (r"", "other settings"),
)
"""Kinds of causes by pattern of the key; the first that matches counts, and a cause that comes first is more usual."""


@dataclass(frozen=True)
class Difference:
    """A setting that differs.

    Args:
        key: Its dotted key.
        reference: Value of the curve; None if it is not set.
        run: Value of the run; None if it is not set.
    """

    key: str
    reference: Any
    run: Any

    def __str__(self) -> str:
        """Describe the difference.

        >>> str(Difference("train.learning_rate", 0.002, 0.02))
        'train.learning_rate 0.002 → 0.02 (10 times)'
        """
        factor = ""
        if all(isinstance(value, float) and value > 0 for value in (self.reference, self.run)):
            factor = f" ({self.run / self.reference:.3g} times)"
        return f"{self.key} {to_flow_yaml(self.reference)} → {to_flow_yaml(self.run)}{factor}"

    @property
    def cause(self) -> str:
        """Kind of cause of another loss.

        >>> Difference("model.encoders.text.trains", "all", "none").cause
        'parts that are frozen or have adapters'
        """
        return next(name for pattern, name in CAUSES if re.search(pattern, self.key))


def setting_differences(reference: Mapping[str, Any], run: Mapping[str, Any]) -> list[Difference]:
    """Settings that differ and can change the training loss, the most usual causes first.

    Args:
        reference: Resolved recipe of the curve.
        run: Resolved recipe of the run.
    """
    before, after = _leaves(reference), _leaves(run)
    keys = dict.fromkeys((*before, *after))
    differences = [
        Difference(key, before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)
    ]
    order = [name for _, name in CAUSES]
    return sorted(differences, key=lambda difference: order.index(difference.cause))


def _leaves(values: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves of a recipe by current keys, with the defaults of keys that it was recorded without."""
    current = with_current_recipe_keys(dict(values))
    schema = RECIPES.get(str(current.get("command")), RECIPES["pretrain"])
    with suppress(ValidationError):  # the values of a recipe of another version are compared as they are
        current = recipe_record(schema.model_validate(current))
    return {
        key: value
        for key, value in flatten(current).items()
        if value is not None and not _PLACES.search(key) and not _is_below(key, WITHOUT_EFFECT)
    }


def _is_below(key: str, keys: tuple[str, ...]) -> bool:
    return any(key == other or key.startswith(f"{other}.") for other in keys)
