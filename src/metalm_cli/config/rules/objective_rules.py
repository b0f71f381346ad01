"""Checks of a recipe's objective and of its teacher."""

from __future__ import annotations

from collections.abc import Iterator

from metalm_cli.config.lowered_values import spans_of_row
from metalm_cli.config.recipe_errors import RecipeProblem
from metalm_cli.config.rules.evaluation_rules import ENCODER_OBJECTIVES
from metalm_cli.config.schema.objectives import Mixed, PrefixLM, Reconstruct, SemiCausal
from metalm_cli.config.schema.recipes import FinetuneRecipe, PretrainRecipe


def check_objective(recipe: PretrainRecipe) -> Iterator[RecipeProblem]:
    """Yield the problems of a pretraining objective."""
    objective = recipe.objective
    if isinstance(objective, Mixed):
        yield from _check_span_lengths(recipe, objective.continuation, "objective.continuation")
        key, spans = "objective.reconstruction.span_length", objective.reconstruction.span_length
        yield from _check_row_length(recipe, key, spans)
    elif isinstance(objective, Reconstruct):
        yield from _check_row_length(recipe, "objective.span_length", objective.span_length)
    else:
        yield from _check_span_lengths(recipe, objective, "objective")
    if isinstance(objective, Mixed | Reconstruct) and not recipe.data.isolate_documents:
        yield RecipeProblem(
            "data.isolate_documents",
            f"got false with objective {objective.name}, whose reconstructions are sessions of their own",
            "set data.isolate_documents=true",
            depends_on=("objective.name",),
        )


def _check_span_lengths(recipe: PretrainRecipe, objective: object, path: str) -> Iterator[RecipeProblem]:
    if isinstance(objective, SemiCausal):
        key, (low, high) = f"{path}.span_length", objective.span_length
    elif isinstance(objective, PrefixLM):
        key, (low, high) = f"{path}.prefix_length", objective.prefix_length
    else:
        return
    yield from _check_row_length(recipe, key, [low, high])
    for name, encoder in recipe.model.encoders.items():
        if encoder.max_length is not None and low > encoder.max_length:
            limit_key = f"model.encoders.{name}.max_length"
            yield RecipeProblem(
                key,
                f"got lengths from {low} with {limit_key} {encoder.max_length}, expected spans that fit the encoder",
                f"lower {key} or raise {limit_key}",
                depends_on=(limit_key,),
            )


def _check_row_length(recipe: PretrainRecipe, key: str, lengths: list[int]) -> Iterator[RecipeProblem]:
    (low, high), row_length = lengths, recipe.data.sequence_length
    if high >= row_length:
        yield RecipeProblem(
            key,
            f"got lengths up to {high} with data.sequence_length {row_length}, expected lengths below the row length",
            f"set {key}={spans_of_row(low, row_length)} or increase data.sequence_length",
            depends_on=("data.sequence_length",),
        )


def check_teacher(recipe: PretrainRecipe | FinetuneRecipe) -> Iterator[RecipeProblem]:
    """Yield the problems of ``train.distill``: it needs docks that the decoder can read as text."""
    distill, model = recipe.train.distill, recipe.model
    if distill is None:
        return
    name = recipe.objective.name
    if name in (*ENCODER_OBJECTIVES, "causal", "reconstruct"):
        reasons = {"causal": "docks nothing", "reconstruct": "predicts the docked texts themselves"}
        reason = reasons.get(name, "trains a single encoder")
        yield RecipeProblem(
            "train.distill",
            f"got a teacher with objective {name}, which {reason}",
            "remove it (train.distill=null), or set objective.name=prefix, semi_causal or mixed",
            depends_on=("objective.name",),
        )
    elif model.builds_parts and not model.encoders:
        kind = "an encoder–decoder" if model.builds_seq2seq else "a model without encoders"
        yield RecipeProblem(
            "train.distill",
            f"got a teacher with {kind}, which docks nothing",
            "remove it (train.distill=null), or add an encoder",
            depends_on=("model.encoders", "model.seq2seq"),
        )
    if distill.teacher == "base" and (model.lora is None or not model.lora.adapts("decoder")):
        yield RecipeProblem(
            "train.distill.teacher",
            "got base, the decoder without its adapters, but model.lora adds none to the decoder",
            "set train.distill.teacher=current, or add adapters: model.lora={}",
            depends_on=("model.lora",),
        )
    if isinstance(recipe, FinetuneRecipe) and recipe.data.templates.input_route == "decoder":
        yield RecipeProblem(
            "train.distill",
            "got a teacher with data.templates.input_route: decoder, which docks nothing",
            "remove it (train.distill=null), or set data.templates.input_route=encoder",
            depends_on=("data.templates.input_route",),
        )
