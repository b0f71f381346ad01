"""What a recipe sets for the training of each part: what trains, and at which rate; by name, or by kind of part."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from metalm_cli.config.schema.model import ModelConfig, PartLearningRates

FROZEN, ADAPTED = "none", "lora"
"""Values of :func:`requested_training` besides those of a key ``trains``."""


def part_sections(model: ModelConfig, name: str) -> list[tuple[str, Any]]:
    """Return the sections that set ``trains`` and ``learning_rate`` of a part, with their keys, the nearest first.

    Args:
        model: The recipe's ``model``.
        name: Key path of the part: ``decoder``, ``encoders.NAME``, ``connectors.NAME``, ``seq2seq`` or
            ``logit_scale``.
    """
    kind, _, encoder = name.partition(".")
    options = model.encoders.get(encoder)
    sections: list[tuple[str, Any]]
    if kind == "connectors":
        own = options.connector if options is not None else None
        sections = [(f"model.encoders.{encoder}.connector", own), ("model.connector", model.connector)]
    elif kind == "encoders":
        sections = [(f"model.{name}", options)]
    else:
        sections = [(f"model.{kind}", getattr(model, kind, None))]  # logit_scale has no section of its own
    return [(key, section) for key, section in sections if section is not None]


def requested_trains(model: ModelConfig, name: str) -> str | None:
    """Return what trains of a part: ``model.trains`` takes precedence over the keys of the part; None if unset."""
    of_kind: str | None = getattr(model.trains, name.partition(".")[0])
    if of_kind is not None:
        return of_kind
    return next((section.trains for _, section in part_sections(model, name) if section.trains is not None), None)


def requested_rate(model: ModelConfig, name: str) -> tuple[float, str] | None:
    """Return the rate of a part and its key: that of the part takes precedence over that of its kind; None if unset."""
    for key, section in part_sections(model, name):
        if section.learning_rate is not None:
            return section.learning_rate, f"{key}.learning_rate"
    kind = name.partition(".")[0]
    rate: float | None = getattr(model.learning_rates, kind)
    return None if rate is None else (rate, f"model.learning_rates.{kind}")


def requested_training(model: ModelConfig, name: str) -> str | None:
    """Return what trains of a part, with ``lora`` for adapters only; None if the recipe leaves it to the checkpoint."""
    trains = requested_trains(model, name)
    if model.lora is None:
        return trains
    if model.lora.adapts(name):
        return ADAPTED
    return trains if trains is not None or name.startswith("connectors") else FROZEN


def rate_keys(model: ModelConfig) -> Iterator[tuple[str, str]]:
    """Yield the keys of parts that set a learning rate, each with the key path of its part, or the kind of its parts.

    ``model.connector`` of a recipe whose encoders are removed, as for a plain twin of its model, has no effect.

    >>> from metalm_cli.config.schema.connectors import ConnectorConfig
    >>> list(rate_keys(ModelConfig(connector=ConnectorConfig(learning_rate=1e-3))))
    [('model.connector.learning_rate', 'connectors')]
    """
    for kind in PartLearningRates.model_fields:
        if getattr(model.learning_rates, kind) is not None:
            yield f"model.learning_rates.{kind}", kind
    sections: list[tuple[str, str, Any]] = [
        ("model.decoder", "decoder", model.decoder),
        ("model.seq2seq", "seq2seq", model.seq2seq),
        ("model.connector", "connectors", model.connector),
    ]
    for encoder, options in model.encoders.items():
        sections.append((f"model.encoders.{encoder}", f"encoders.{encoder}", options))
        sections.append((f"model.encoders.{encoder}.connector", f"connectors.{encoder}", options.connector))
    is_twin = model.builds_parts and not model.encoders
    for key, part, section in sections:
        if is_twin and key == "model.connector":
            continue
        if section is not None and section.learning_rate is not None:
            yield f"{key}.learning_rate", part


def belongs_to(name: str, part: str) -> bool:
    """Whether a part has a key path, or is of a kind."""
    return part in (name, name.partition(".")[0])
