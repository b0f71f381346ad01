"""Checks of the keys that say what trains of each part, and at which rate."""

from __future__ import annotations

from collections.abc import Iterator

from metalm_cli.config.recipe_errors import RecipeProblem
from metalm_cli.config.rules.evaluation_rules import ENCODER_OBJECTIVES
from metalm_cli.config.schema.model import ModelConfig
from metalm_cli.config.schema.part_settings import (
    ADAPTED,
    FROZEN,
    belongs_to,
    rate_keys,
    requested_training,
    requested_trains,
)
from metalm_cli.config.schema.recipes import FinetuneRecipe, PretrainRecipe

ANY_ENCODER = "*"
"""Name of an encoder that stands for all of a checkpoint, whose names are not known yet."""


def check_part_training(recipe: PretrainRecipe | FinetuneRecipe) -> Iterator[RecipeProblem]:
    """Yield the problems of what trains, of adapters and of rates."""
    model = recipe.model
    if model.lora is not None and recipe.objective.name in ENCODER_OBJECTIVES:
        yield RecipeProblem(
            "model.lora",
            f"got adapters, but objective {recipe.objective.name} trains the weights of a single encoder",
            "remove it (model.lora=null)",
            depends_on=("objective.name",),
        )
        return
    yield from _check_adapters(model)
    yield from _check_rates(model)
    parts = known_parts(model) if model.checkpoint is None else ["decoder", "encoders.*", "connectors.*"]
    if parts and all(requested_training(model, name) == FROZEN for name in parts):
        yield RecipeProblem(
            "model.trains",
            f"nothing would train: {', '.join(parts)} are frozen",
            "set trains: all or last_N on at least one of the parts",
            depends_on=("model.decoder", "model.encoders", "model.connector"),
        )


def known_parts(model: ModelConfig) -> list[str]:
    """Return the key paths of the parts that a recipe builds; empty if a checkpoint has them."""
    if not model.builds_parts:
        return []
    if model.builds_seq2seq:
        return ["seq2seq"]
    decoder = ["decoder"] if model.decoder is not None else []
    is_dual = not decoder and len(model.encoders) > 1  # with objective contrastive; no other trains two encoders alone
    connectors = [f"connectors.{name}" for name in model.encoders] if decoder or is_dual else []
    logit_scale = ["logit_scale"] if is_dual else []
    return [*decoder, *(f"encoders.{name}" for name in model.encoders), *connectors, *logit_scale]


def _check_adapters(model: ModelConfig) -> Iterator[RecipeProblem]:
    """Check the LoRA keys: of an adapted part, ``trains`` selects the layers that get adapters."""
    if model.lora is None:
        return
    encoders = [f"encoders.{name}" for name in (ANY_ENCODER, *model.encoders)]
    parts = known_parts(model) or ["decoder", *encoders]
    for part in model.lora.parts:
        if known_parts(model) and "seq2seq" not in parts and not any(belongs_to(name, part) for name in parts):
            yield RecipeProblem(
                "model.lora.parts",
                f"got {part}, which the model does not have",
                f"name some of {', '.join(name for name in parts if not name.startswith('connectors.'))}",
                depends_on=("model.decoder", "model.encoders"),
            )
    frozen = [name for name in parts if model.lora.adapts(name) and requested_trains(model, name) == FROZEN]
    for kind in dict.fromkeys(name.partition(".")[0] for name in frozen):
        name = next(name for name in frozen if name.partition(".")[0] == kind)
        is_kind = getattr(model.trains, kind) is not None
        key = f"model.trains.{kind}" if is_kind else f"model.{name}.trains"
        other_part = "encoders" if kind == "decoder" else "decoder"
        yield RecipeProblem(
            "model.lora.parts",
            f"got {kind} with {key}: none, but adapted parts must train",
            f"set model.lora.parts=[{other_part}], or {key}=all",
            depends_on=(key,),
        )


def _check_rates(model: ModelConfig) -> Iterator[RecipeProblem]:
    """Check that each rate of a part has a part that trains at it."""
    known = known_parts(model)
    for key, part in rate_keys(model):
        names = [name for name in known if belongs_to(name, part)]
        if known and not names:
            yield RecipeProblem(
                key,
                f"got a learning rate of {part}, which the model does not have",
                f"remove it; the parts of the model: {', '.join(known)}",
                depends_on=("model.decoder", "model.encoders", "model.seq2seq", "model.checkpoint"),
            )
            continue
        names = names or [f"{part}.{ANY_ENCODER}" if part in ("encoders", "connectors") else part]
        training = {requested_training(model, name) for name in names}
        some_adapted = model.lora is not None and any(name.startswith(f"{part}.") for name in model.lora.parts)
        if training == {FROZEN} and not (some_adapted and not known):
            yield RecipeProblem(key, *frozen_rate_problem(model, part), depends_on=("model.lora", "model.trains"))
        elif training == {ADAPTED} and model.lora is not None and model.lora.learning_rate is not None:
            yield RecipeProblem(
                key,
                f"got a learning rate of {part}, of which only adapters train, at model.lora.learning_rate",
                f"remove {key} or model.lora.learning_rate",
                depends_on=("model.lora",),
            )


def frozen_rate_problem(model: ModelConfig, part: str) -> tuple[str, str]:
    """Return message and remedy for the rate of a part, or kind of part, that is frozen."""
    kind = part.partition(".")[0]
    if model.lora is not None and kind != "connectors":
        remedy = f"remove it, or set model.trains.{kind}=all to train {part} in full beside adapters"
        return f"got a learning rate of {part}, which has no adapters and is frozen", remedy
    return f"got a learning rate of {part}, which is frozen", f"remove it, or set model.trains.{kind}=all"
