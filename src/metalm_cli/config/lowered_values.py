"""Values that are lowered to fit a value of a later layer, or the model, with a note."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from metalm_cli.config.recipe_errors import RecipeProblem
from metalm_cli.config.schema.recipes import FinetuneRecipe, PretrainRecipe
from metalm_cli.config.schema.training import WARMUP_DIVISOR
from metalm_cli.config.yaml_nodes import YamlNode, to_flow_yaml

ROW_LENGTH = "data.sequence_length"
SPAN_KEYS = ("span_length", "prefix_length")
"""Keys of objectives that are ranges of lengths within a row."""


@dataclass(frozen=True)
class ModelLengths:
    """What the model of a recipe reads.

    Args:
        positions: Maximum length of a row; None: any, or unknown before the model is built.
        kind: Type of the model, for messages.
        encoders: Maximum positions of each text encoder with a limit.
    """

    positions: int | None = None
    kind: str = ""
    encoders: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class LoweredValue:
    """A value of an earlier layer, or a default, that was lowered to fit a value of a later layer, or the model.

    Args:
        key: Dotted key of the lowered value.
        value: The value as it was.
        lowered: The value in the recipe.
        reason: What it has to fit.
        by_key: Dotted key of the value that it has to fit; empty: the model.
    """

    key: str
    value: Any
    lowered: Any
    reason: str
    by_key: str = ""

    def __str__(self) -> str:
        return f"{self.key} is {to_flow_yaml(self.lowered)} instead of {to_flow_yaml(self.value)}: {self.reason}"


def lower_values(
    recipe: PretrainRecipe | FinetuneRecipe, root: YamlNode
) -> tuple[PretrainRecipe | FinetuneRecipe, tuple[LoweredValue, ...]]:
    """Lower values to fit one that a later layer sets: warm-up to steps, micro-batch to batch, spans to rows.

    A value that the same or a later layer sets is left as it is: it contradicts the other one.

    Args:
        recipe: The recipe; each value is valid by itself.
        root: The merged layers.

    Returns:
        The recipe, and what was lowered.
    """
    train, row_length = recipe.train, recipe.data.sequence_length
    lowered: list[LoweredValue | None] = []
    if train.steps is not None and train.warmup_steps > train.steps:
        steps = train.warmup_steps, train.steps // WARMUP_DIVISOR
        lowered.append(_by_later_layer(root, "train.warmup_steps", *steps, "train.steps", train.steps))
    if train.micro_batch_size is not None and train.micro_batch_size > train.batch_size:
        sizes = train.micro_batch_size, train.batch_size
        lowered.append(_by_later_layer(root, "train.micro_batch_size", *sizes, "train.batch_size", train.batch_size))
    for key, (low, high) in _spans(recipe):
        if high >= row_length:
            spans = spans_of_row(low, row_length)
            lowered.append(_by_later_layer(root, key, [low, high], spans, ROW_LENGTH, row_length))
    values = tuple(value for value in lowered if value is not None)
    return _with_values(recipe, values), values


def _by_later_layer(
    root: YamlNode, key: str, value: Any, lowered: Any, by_key: str, by_value: int
) -> LoweredValue | None:
    limit, own = _node(root, by_key), _node(root, key)
    if limit is None or (own is not None and own.layer >= limit.layer):
        return None
    return LoweredValue(key, value, lowered, f"{by_key} is {by_value} ({limit.where})", by_key)


def lower_lengths(
    recipe: PretrainRecipe | FinetuneRecipe, root: YamlNode, lengths: ModelLengths
) -> tuple[PretrainRecipe | FinetuneRecipe, tuple[LoweredValue, ...], list[RecipeProblem]]:
    """Lower lengths of shipped recipes, and defaults, to what the model reads.

    A length that the command line or a recipe of the user sets is left as it is, and is a problem if it is too great.

    Args:
        recipe: The recipe.
        root: The merged layers.
        lengths: What its model reads.

    Returns:
        The recipe, what was lowered, and the problems.
    """
    lowered: list[LoweredValue] = []
    problems: list[RecipeProblem] = []
    limits = [(ROW_LENGTH, recipe.data.sequence_length, lengths.positions, f"this {lengths.kind} model")]
    limits += [
        (f"model.encoders.{name}.max_length", part.max_length or 0, lengths.encoders.get(name), f"the encoder {name!r}")
        for name, part in recipe.model.encoders.items()
    ]
    for key, value, limit, reader in limits:
        if limit is None or value <= limit:
            continue
        if _is_explicit(root, key):
            message = f"got {value}, expected at most the {limit} positions that {reader} reads"
            problems.append(RecipeProblem(key, message, f"set it to {limit} or less, or use another model"))
        else:
            lowered.append(LoweredValue(key, value, limit, f"{reader} reads {limit} positions"))
    shorter = _with_values(recipe, lowered)
    lowered += [
        span
        for key, value in _spans(shorter)
        if not _is_explicit(root, key) and (span := _shorter_span(key, value, lowered)) is not None
    ]
    return _with_values(shorter, lowered), tuple(lowered), problems


def _spans(recipe: PretrainRecipe | FinetuneRecipe) -> Iterator[tuple[str, list[int]]]:
    """Yield the ranges of span lengths in the objectives of a recipe, by key."""
    for section in ("objective", "data.validation.objective"):
        for prefix in (section, f"{section}.continuation", f"{section}.reconstruction"):
            for name in SPAN_KEYS:
                value = _value(recipe, f"{prefix}.{name}")
                if value is not None:
                    yield f"{prefix}.{name}", value


def _shorter_span(key: str, span: list[int], lowered: Sequence[LoweredValue]) -> LoweredValue | None:
    """Return a range of span lengths that fits lowered rows and encoders; None if it fits them as it is."""
    low, high = span
    for length in lowered:
        if length.key == ROW_LENGTH and high >= length.lowered:
            shorter = spans_of_row(low, length.lowered)
        elif length.key != ROW_LENGTH and low > length.lowered:
            shorter = [length.lowered // 4, length.lowered // 2]
        else:
            continue
        return LoweredValue(key, span, shorter, f"{length.key} is {length.lowered}", length.key)
    return None


def spans_of_row(low: int, row_length: int) -> list[int]:
    """Return a range of span lengths that fits a row: from an eighth of it, at most the given minimum, to a quarter."""
    return [min(low, row_length // 8), row_length // 4]


def _value(recipe: Any, key: str) -> Any:
    """Return the value at a dotted key; None if a section on the way does not have it."""
    for part in key.split("."):
        recipe = getattr(recipe, part, None)
    return recipe


def _with_values(recipe: Any, lowered: Sequence[LoweredValue]) -> Any:
    """Return a copy of a recipe with lowered values."""
    for value in lowered:
        recipe = _with_value(recipe, value.key.split("."), value.lowered)
    return recipe


def _with_value(section: Any, parts: list[str], value: Any) -> Any:
    first, *rest = parts
    if isinstance(section, dict):
        return {**section, first: _with_value(section[first], rest, value) if rest else value}
    inner = _with_value(getattr(section, first), rest, value) if rest else value
    return section.model_copy(update={first: inner})


def _node(root: YamlNode, key: str) -> YamlNode | None:
    """Return the node at a dotted key; None if no layer sets it."""
    node: YamlNode | None = root
    for part in key.split("."):
        node = node.value.get(part) if node is not None and isinstance(node.value, dict) else None
    return node


def _is_explicit(root: YamlNode, key: str) -> bool:
    """Whether the command line or a recipe of the user sets a key."""
    node = _node(root, key)
    return node is not None and not node.is_shipped
