"""Values of earlier layers that are lowered to fit a value of a later layer, with a note."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from metalm_cli.config.schema.recipes import FinetuneRecipe, PretrainRecipe
from metalm_cli.config.yaml_nodes import YamlNode

WARMUP_DIVISOR = 10
"""Steps of a run per step of a warm-up that does not fit it."""


@dataclass(frozen=True)
class LoweredValue:
    """A value of an earlier layer, or a default, that was lowered to fit a value of a later layer.

    Args:
        key: Dotted key of the lowered value.
        value: The value as it was.
        lowered: The value in the recipe.
        by_key: Dotted key of the value that it has to fit.
        by_value: That value.
        by_where: Location of that value.
    """

    key: str
    value: int
    lowered: int
    by_key: str
    by_value: int
    by_where: str

    def __str__(self) -> str:
        return (
            f"{self.key} is {self.lowered} instead of {self.value}: {self.by_key} is {self.by_value} ({self.by_where})"
        )


def lower_values(
    recipe: PretrainRecipe | FinetuneRecipe, root: YamlNode
) -> tuple[PretrainRecipe | FinetuneRecipe, tuple[LoweredValue, ...]]:
    """Lower the warm-up to fit the steps, and the micro-batch to fit the batch, if a later layer sets the latter.

    A value that the same or a later layer sets is left as it is: it contradicts the other one.

    Args:
        recipe: The recipe; each value is valid by itself.
        root: The merged layers.

    Returns:
        The recipe, and what was lowered.
    """
    train = recipe.train
    steps, batch_size = train.steps, train.batch_size
    lowered: list[LoweredValue] = []
    if steps is not None and train.warmup_steps > steps:
        lowered += _lowered(root, "warmup_steps", train.warmup_steps, steps // WARMUP_DIVISOR, "steps", steps)
    if train.micro_batch_size is not None and train.micro_batch_size > batch_size:
        lowered += _lowered(root, "micro_batch_size", train.micro_batch_size, batch_size, "batch_size", batch_size)
    if not lowered:
        return recipe, ()
    values: dict[str, Any] = {value.key.removeprefix("train."): value.lowered for value in lowered}
    return recipe.model_copy(update={"train": train.model_copy(update=values)}), tuple(lowered)


def _lowered(root: YamlNode, name: str, value: int, lowered: int, by_name: str, by_value: int) -> list[LoweredValue]:
    section = root.value.get("train")
    nodes: dict[str, YamlNode] = section.value if section is not None and isinstance(section.value, dict) else {}
    limit = nodes.get(by_name)
    if limit is None or (name in nodes and nodes[name].layer >= limit.layer):
        return []
    return [LoweredValue(f"train.{name}", value, lowered, f"train.{by_name}", by_value, limit.where)]
