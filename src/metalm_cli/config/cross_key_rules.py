"""What must hold between the keys of a recipe, beyond one section."""

from __future__ import annotations

from collections.abc import Iterator, Set

from metalm_cli.config.recipe_errors import RecipeProblem, quote_value
from metalm_cli.config.schema.model import Connector, Decoder, Encoder, NewTokenizer, Tokens
from metalm_cli.config.schema.objectives import MaskedLM, PrefixLM, SemiCausal
from metalm_cli.config.schema.recipes import FinetuneRecipe, PretrainRecipe
from metalm_cli.config.schema.training import Training

ENCODER_ONLY = ("mlm", "rtd")
"""Objectives that train one encoder and no decoder."""


def check_cross_key_rules(recipe: PretrainRecipe | FinetuneRecipe, given: Set[str]) -> Iterator[RecipeProblem]:
    """Problems between the keys of a recipe.

    Args:
        recipe: The recipe, each value right by itself.
        given: Dotted keys that a recipe or the command line has set (a section's key when any of its keys is).
    """
    yield from _training(recipe)
    if isinstance(recipe, PretrainRecipe):
        yield from _validation(recipe)
        yield from _spans(recipe)
    if isinstance(recipe, FinetuneRecipe):
        yield from _adapters(recipe)
    if recipe.model.checkpoint is not None:
        yield from _continued(recipe, given)
        return
    if isinstance(recipe, FinetuneRecipe):
        if recipe.model.decoder is None and not recipe.model.encoders:
            return  # the newest pretraining run is used
        yield from _decoder(recipe)
        for key, part in _named_parts(recipe):
            yield from _one_part(key, part)
    else:
        yield from _parts(recipe)
    yield from _tokenizers(recipe)


def _adapters(recipe: FinetuneRecipe) -> Iterator[RecipeProblem]:
    """With adapters, ``model.trains`` says in which layers of an adapted part they are; other parts stay frozen."""
    model = recipe.model
    if model.lora is None:
        return
    if model.checkpoint is None and (model.decoder is not None or model.encoders):
        yield RecipeProblem(
            "model.lora",
            "got adapters with the parts of a new model, expected a finished one: adapters belong to a base on disk",
            "put the parts together and train their connectors first (metalm pretrain connector-only), then name that "
            "run in model.checkpoint",
            uses=("model.checkpoint", "model.decoder", "model.encoders"),
        )
    parts = list(model.lora.parts)
    for part, other in (("decoder", "encoders"), ("encoders", "decoder")):
        train = getattr(model.trains, part)
        key = f"model.trains.{part}"
        if train == "none" and part in parts:
            yield RecipeProblem(
                "model.lora.parts",
                f"got {part} with {key}: none, expected that what is adapted also trains",
                f"set model.lora.parts=[{other}], or {key}=all",
                uses=(key,),
            )
        if train not in (None, "none") and part not in parts:
            yield RecipeProblem(
                "model.lora.parts",
                f"got {parts} with {key}: {train}; with adapters, weights of the {part} stay as they are",
                f"set {key}=none, or add {part} to model.lora.parts",
                uses=(key,),
            )


def _decoder(recipe: FinetuneRecipe) -> Iterator[RecipeProblem]:
    if recipe.model.decoder is None:
        remedy = "give model.decoder.checkpoint or model.decoder.config, or model.checkpoint"
        yield RecipeProblem(
            "model.decoder", "missing, answers are said by a decoder", remedy, uses=("model.checkpoint",)
        )


def _training(recipe: PretrainRecipe | FinetuneRecipe) -> Iterator[RecipeProblem]:
    train = recipe.train
    if train.steps is None and train.epochs is None:
        yield RecipeProblem(
            "train.steps", "missing, expected train.steps or train.epochs", "set one of them", uses=("train.epochs",)
        )
    longer = None if train.steps is None else warmup_problem(train, train.steps, "train.steps")
    if longer is not None:
        yield longer
    micro = train.micro_batch_size
    if isinstance(recipe, PretrainRecipe) and micro is not None and train.batch_size % micro:
        yield RecipeProblem(
            "train.micro_batch_size",
            f"got {micro} with train.batch_size {train.batch_size}, expected a divisor of train.batch_size",
            "change one of the two",
            uses=("train.batch_size",),
        )
    if not all(0 <= beta < 1 for beta in train.betas):
        yield RecipeProblem("train.betas", f"got {train.betas}, expected two rates of at least 0 and below 1")
    objective: object = recipe.objective
    if isinstance(objective, MaskedLM) and objective.keep_rate + objective.random_rate > 1:
        total = objective.keep_rate + objective.random_rate
        yield RecipeProblem(
            "objective.random_rate",
            f"got keep_rate + random_rate = {total:g}, expected at most 1",
            "they are shares of the chosen tokens; the rest is masked",
            uses=("objective.keep_rate",),
        )


def warmup_problem(train: Training, steps: int, named: str) -> RecipeProblem | None:
    """The problem of a warm-up that is longer than the run; None if it is not.

    Args:
        train: The recipe's ``train``.
        steps: Steps of the run, from ``train.steps`` or ``train.epochs``.
        named: What to call them.
    """
    if train.warmup_steps <= steps:
        return None
    return RecipeProblem(
        "train.warmup_steps",
        f"got {train.warmup_steps} with {named} {steps}, expected at most {named.rstrip(',')}",
        f"set train.warmup_steps={steps // 10}",
        uses=("train.steps",),
    )


def _validation(recipe: PretrainRecipe) -> Iterator[RecipeProblem]:
    if recipe.data.validation.objective is not None and recipe.objective.name in ENCODER_ONLY:
        yield RecipeProblem(
            "data.validation.objective",
            f"got {recipe.data.validation.objective.name} with objective {recipe.objective.name}, whose validation "
            "rows are masked like those of training",
            "remove it (data.validation.objective=null)",
            uses=("objective.name",),
        )


def _spans(recipe: PretrainRecipe) -> Iterator[RecipeProblem]:
    objective = recipe.objective
    if isinstance(objective, SemiCausal):
        key, (low, high) = "objective.span_length", objective.span_length
    elif isinstance(objective, PrefixLM):
        key, (low, high) = "objective.prefix_length", objective.prefix_length
    else:
        return
    row = recipe.data.sequence_length
    if high >= row:
        yield RecipeProblem(
            key,
            f"got lengths up to {high} with data.sequence_length {row}, expected less than a row",
            f"set {key}=[{min(low, row // 8)}, {row // 4}] or a longer data.sequence_length",
            uses=("data.sequence_length",),
        )
    for name, encoder in recipe.model.encoders.items():
        if encoder.max_length is not None and low > encoder.max_length:
            limit = f"model.encoders.{name}.max_length"
            yield RecipeProblem(
                key,
                f"got lengths from {low} with {limit} {encoder.max_length}, expected spans that fit the encoder",
                f"lower {key} or raise {limit}",
                uses=(limit,),
            )


def _continued(recipe: PretrainRecipe | FinetuneRecipe, given: Set[str]) -> Iterator[RecipeProblem]:
    if recipe.objective.name in ENCODER_ONLY:
        yield RecipeProblem(
            "model.checkpoint",
            f"got a finished MetaLM, which objective {recipe.objective.name} does not train",
            "name a finished encoder in model.encoders.text.checkpoint",
            uses=("objective.name",),
        )
    # A run's own recipe states every default, and must run again as it is.
    stated = {
        "model.special_tokens": recipe.model.special_tokens == Tokens(),
        "model.connector": recipe.model.connector == Connector(),
    }
    for key, what in (("model.special_tokens", "its tokens"), ("model.connector", "its connectors")):
        if key in given and not stated[key]:
            yield RecipeProblem(
                key,
                f"got {key} together with model.checkpoint",
                f"remove {key}: a finished MetaLM brings {what}",
                uses=("model.checkpoint",),
            )


def _parts(recipe: PretrainRecipe) -> Iterator[RecipeProblem]:
    name, model = recipe.objective.name, recipe.model
    uses = ("objective.name", "model.checkpoint")
    if name in ENCODER_ONLY:
        if model.decoder is not None:
            remedy = "remove it (model.decoder=null)"
            yield RecipeProblem(
                "model.decoder", f"objective {name} trains one encoder and no decoder, got a decoder", remedy, uses=uses
            )
        if len(model.encoders) != 1:
            got = ", ".join(model.encoders) or "none"
            message = f"objective {name} trains one encoder, got {got}"
            yield RecipeProblem("model.encoders", message, "give exactly one", uses=uses)
    else:
        if model.decoder is None:
            remedy = "give model.decoder.checkpoint or model.decoder.config, or model.checkpoint"
            yield RecipeProblem("model.decoder", f"missing, objective {name} needs a decoder", remedy, uses=uses)
        if name != "causal" and not model.encoders:
            remedy = "give model.encoders.text.checkpoint, or set objective.name=causal"
            yield RecipeProblem(
                "model.encoders", f"missing, objective {name} docks spans into an encoder", remedy, uses=uses
            )
        if name == "causal" and model.encoders:
            names = ", ".join(model.encoders)
            message = f"objective causal docks nothing, got encoders {names}"
            remedy = "remove them (model.encoders=null) or set objective.name=semi_causal"
            yield RecipeProblem("model.encoders", message, remedy, uses=uses)
    for key, part in _named_parts(recipe):
        yield from _one_part(key, part)


def _named_parts(recipe: PretrainRecipe | FinetuneRecipe) -> list[tuple[str, Decoder | Encoder]]:
    parts: list[tuple[str, Decoder | Encoder]] = []
    if recipe.model.decoder is not None:
        parts.append(("model.decoder", recipe.model.decoder))
    return parts + [(f"model.encoders.{name}", encoder) for name, encoder in recipe.model.encoders.items()]


def _one_part(key: str, part: Decoder | Encoder) -> Iterator[RecipeProblem]:
    checkpoint, config = f"{key}.checkpoint", f"{key}.config"
    if part.checkpoint is None and part.config is None:
        yield RecipeProblem(
            key,
            "got neither checkpoint nor config, expected one of them",
            f"set {checkpoint} to a hub id or folder",
            uses=(checkpoint, config),
        )
    if part.config is not None and not isinstance(part.config.get("model_type"), str):
        got = "none" if "model_type" not in part.config else quote_value(part.config["model_type"])
        message = f"got {got}, expected the name of a Hugging Face model type"
        yield RecipeProblem(f"{config}.model_type", message, "such as llama, gpt2, electra, bert", uses=(config,))


def _tokenizers(recipe: PretrainRecipe | FinetuneRecipe) -> Iterator[RecipeProblem]:
    for key, part in _named_parts(recipe):
        tokenizer = f"{key}.tokenizer"
        uses = (f"{key}.checkpoint", f"{key}.config", "model.decoder")
        if isinstance(part.tokenizer, NewTokenizer) and part.checkpoint is not None:
            yield RecipeProblem(
                tokenizer,
                "got a tokenizer to be trained for a checkpoint, whose token ids are its own",
                "remove it: the checkpoint brings its tokenizer",
                uses=uses,
            )
        if part.tokenizer is None and part.config is not None:
            same = ", or same" if isinstance(part, Encoder) and recipe.model.decoder is not None else ""
            yield RecipeProblem(
                tokenizer,
                "missing, a config brings no tokenizer",
                f"give a hub id or folder, or {{train: {{vocab_size: 8192}}}}{same}",
                uses=uses,
            )
        if part.tokenizer == "same" and (isinstance(part, Decoder) or recipe.model.decoder is None):
            yield RecipeProblem(
                tokenizer,
                "got same without another part: it means the decoder's tokenizer",
                "name a tokenizer, or train one",
                uses=uses,
            )
