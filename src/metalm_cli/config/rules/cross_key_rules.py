"""Checks that involve several keys of a recipe."""

from __future__ import annotations

from collections.abc import Iterator, Set

from metalm_cli.config.recipe_errors import RecipeProblem, quote_value
from metalm_cli.config.rules.contrastive_rules import CONTRASTIVE, check_contrastive
from metalm_cli.config.rules.evaluation_rules import ENCODER_OBJECTIVES, check_evaluation, late_evaluation_problem
from metalm_cli.config.rules.objective_rules import check_objective, check_teacher
from metalm_cli.config.rules.part_rules import check_part_training
from metalm_cli.config.rules.seq2seq_rules import check_seq2seq
from metalm_cli.config.schema.connectors import ConnectorConfig
from metalm_cli.config.schema.model import (
    POLICY_KEYS,
    DecoderConfig,
    EncoderConfig,
    NewTokenizer,
    Seq2SeqConfig,
    SpecialTokensConfig,
)
from metalm_cli.config.schema.objectives import MaskedLM
from metalm_cli.config.schema.recipes import FinetuneRecipe, PretrainRecipe
from metalm_cli.config.schema.training import WARMUP_DIVISOR, TrainingConfig

DOCKING_OBJECTIVES = ("semi_causal", "prefix", "reconstruct", "mixed")
"""Objectives that dock spans into an encoder; those of plug-ins may do so."""


def check_cross_key_rules(
    recipe: PretrainRecipe | FinetuneRecipe, set_keys: Set[str], given_keys: Set[str] = frozenset()
) -> Iterator[RecipeProblem]:
    """Yield the inconsistencies between keys of a recipe.

    Args:
        recipe: The recipe; each value is valid by itself.
        set_keys: Dotted keys set in a recipe file or on the command line. A section is set if any of its keys is.
        given_keys: Those of the command line. The recipe of a run sets every key, also to values that have no effect.
    """
    yield from _check_training(recipe)
    yield from check_teacher(recipe)
    yield from check_part_training(recipe)
    yield from check_contrastive(recipe)
    if isinstance(recipe, PretrainRecipe):
        yield from _check_validation(recipe)
        yield from check_objective(recipe)
    if isinstance(recipe, FinetuneRecipe):
        yield from _check_mixture(recipe)
        yield from _check_use_of_validation(recipe)
    newest_run_provides_model = isinstance(recipe, FinetuneRecipe) and not recipe.model.builds_parts
    if recipe.model.checkpoint is not None or newest_run_provides_model:
        yield from _check_model_checkpoint(recipe, set_keys, given_keys)
        return
    if isinstance(recipe, FinetuneRecipe):
        yield from _check_decoder(recipe)
        for key, part in _named_parts(recipe):
            yield from _check_part(key, part)
    else:
        yield from _check_parts(recipe)
    yield from _check_tokenizers(recipe)
    yield from _check_positions(recipe)
    yield from check_seq2seq(recipe)


def _check_decoder(recipe: FinetuneRecipe) -> Iterator[RecipeProblem]:
    if recipe.model.decoder is None and recipe.model.seq2seq is None and recipe.objective.name != CONTRASTIVE:
        remedy = "give model.decoder.checkpoint or model.decoder.config, or model.checkpoint"
        yield RecipeProblem(
            "model.decoder", "missing, finetuning needs a decoder", remedy, depends_on=("model.checkpoint",)
        )


def _check_training(recipe: PretrainRecipe | FinetuneRecipe) -> Iterator[RecipeProblem]:
    train = recipe.train
    if train.steps is None and train.epochs is None:
        yield RecipeProblem(
            "train.steps",
            "missing, expected train.steps or train.epochs",
            "set one of them",
            depends_on=("train.epochs",),
        )
    if train.steps is not None:
        yield from _check_warmup(train, train.steps)
        late_evaluation = late_evaluation_problem(train, train.steps, "train.steps")
        yield from [] if late_evaluation is None else [late_evaluation]
    yield from check_evaluation(recipe)
    micro_batch_size = train.micro_batch_size
    if isinstance(recipe, PretrainRecipe) and micro_batch_size is not None and train.batch_size % micro_batch_size:
        yield RecipeProblem(
            "train.micro_batch_size",
            f"got {micro_batch_size} with train.batch_size {train.batch_size}, expected a divisor of train.batch_size",
            "change one of the two",
            depends_on=("train.batch_size",),
        )
    if not all(0 <= beta < 1 for beta in train.betas):
        yield RecipeProblem("train.betas", f"got {train.betas}, expected two rates of at least 0 and below 1")
    objective: object = recipe.objective
    if isinstance(objective, MaskedLM) and objective.keep_rate + objective.random_rate > 1:
        total = objective.keep_rate + objective.random_rate
        yield RecipeProblem(
            "objective.random_rate",
            f"got keep_rate + random_rate = {total:g}, expected at most 1",
            "they are shares of the selected tokens; the remaining tokens are masked",
            depends_on=("objective.keep_rate",),
        )


def _check_warmup(train: TrainingConfig, steps: int) -> Iterator[RecipeProblem]:
    if train.warmup_steps > steps:
        yield RecipeProblem(
            "train.warmup_steps",
            f"got {train.warmup_steps} with train.steps {steps}, expected at most train.steps",
            f"set train.warmup_steps={steps // WARMUP_DIVISOR}, or 0.1 for a tenth of the steps",
            depends_on=("train.steps",),
        )


def _check_mixture(recipe: FinetuneRecipe) -> Iterator[RecipeProblem]:
    mixture = recipe.data.mixture
    if mixture.weights and (mixture.groups or mixture.strategy != "explicit"):
        other = "data.mixture.groups" if mixture.groups else f"data.mixture.strategy {mixture.strategy}"
        yield RecipeProblem(
            "data.mixture.weights",
            f"got weights of tasks with {other}, expected strategy explicit without groups",
            "remove the weights (data.mixture.weights={}), or set data.mixture.strategy=explicit",
            depends_on=("data.mixture.groups", "data.mixture.strategy"),
        )
    if mixture.groups and mixture.strategy != "proportional":
        yield RecipeProblem(
            "data.mixture.strategy",
            f"got {mixture.strategy} with data.mixture.groups, each of which has a strategy of its own",
            "set the strategy of the groups instead (data.mixture.groups.0.strategy)",
            depends_on=("data.mixture.groups",),
        )


def _check_use_of_validation(recipe: FinetuneRecipe) -> Iterator[RecipeProblem]:
    """Check that there are validation examples where the training depends on them."""
    if recipe.data.validation.examples or recipe.train.best_score is not None:
        return
    uses = {"train.patience": recipe.train.patience is not None, "train.final": recipe.train.final == "best"}
    for key in (key for key, is_used in uses.items() if is_used):
        yield RecipeProblem(
            key,
            f"got {key} with data.validation.examples 0, but it needs validation examples",
            f"remove {key}, or set data.validation.examples=100",
            depends_on=("data.validation.examples",),
        )


def _check_validation(recipe: PretrainRecipe) -> Iterator[RecipeProblem]:
    for index, source in enumerate(recipe.data.validation.sources or ()):
        if source.weight is not None:
            yield RecipeProblem(
                f"data.validation.sources.{index}.weight",
                "got a weight, but every validation source has the same number of documents",
                "remove it; data.validation.documents sets the number",
            )
    if recipe.data.validation.objective is not None and recipe.objective.name in ENCODER_OBJECTIVES:
        yield RecipeProblem(
            "data.validation.objective",
            f"got {recipe.data.validation.objective.name} with objective {recipe.objective.name}, which masks "
            "validation rows like training rows",
            "remove it (data.validation.objective=null)",
            depends_on=("objective.name",),
        )


def _check_positions(recipe: PretrainRecipe | FinetuneRecipe) -> Iterator[RecipeProblem]:
    """Check that a dock of ``queries`` and a token after it fit into a row."""
    row_length, model = recipe.data.sequence_length, recipe.model
    for name, encoder in model.encoders.items() if recipe.objective.name != CONTRASTIVE else ():
        key = "model.connector.length" if encoder.connector is None else f"model.encoders.{name}.connector.length"
        if ((encoder.connector or model.connector).length or 0) >= row_length:
            message = f"got a dock that fills rows of data.sequence_length {row_length}, expected fewer positions"
            yield RecipeProblem(key, message, "lower it, or raise data.sequence_length")


def _check_model_checkpoint(
    recipe: PretrainRecipe | FinetuneRecipe, set_keys: Set[str], given_keys: Set[str]
) -> Iterator[RecipeProblem]:
    if recipe.objective.name in ENCODER_OBJECTIVES:
        yield RecipeProblem(
            "model.checkpoint",
            f"got a MetaLM, but objective {recipe.objective.name} trains a single encoder",
            "set model.encoders.text.checkpoint to an encoder instead",
            depends_on=("objective.name",),
        )
    # The recipe that a run records sets every key to its resolved value; it must resolve again unchanged.
    if "model.special_tokens" in set_keys and recipe.model.special_tokens != SpecialTokensConfig():
        yield RecipeProblem(
            "model.special_tokens",
            "got model.special_tokens together with model.checkpoint",
            "remove model.special_tokens: the checkpoint includes its special tokens",
            depends_on=("model.checkpoint",),
        )
    if "model.projection_dim" in set_keys and recipe.model.projection_dim is not None:
        yield RecipeProblem(
            "model.projection_dim",
            "got model.projection_dim together with model.checkpoint, whose projections have their width",
            "remove it",
            depends_on=("model.checkpoint",),
        )
    connector = recipe.model.connector
    set_here = [name for name in type(connector).model_fields if f"model.connector.{name}" in given_keys]
    fixed = dict.fromkeys([*_fixed_keys(connector), *(name for name in set_here if name not in POLICY_KEYS)])
    if fixed:
        names = ", ".join(f"model.connector.{name}" for name in fixed)
        yield RecipeProblem(
            "model.connector",
            f"got {names} together with model.checkpoint, whose connectors have their kind and settings",
            f"remove {names}: of a trained connector, only trains and learning_rate can be set",
            depends_on=("model.checkpoint",),
        )
    for key, part in _named_parts(recipe):
        if part.checkpoint is None and part.config is None and not _sets_policy_only(part):
            names = ", ".join(f"{key}.{name}" for name in _fixed_keys(part))
            yield RecipeProblem(
                key,
                f"got {names} together with model.checkpoint",
                f"remove {names}: of a part of the checkpoint, only trains and learning_rate can be set",
                depends_on=("model.checkpoint",),
            )


def _sets_policy_only(part: Part | ConnectorConfig) -> bool:
    """Whether a section sets nothing but what trains, and at which rate."""
    return all(_is_policy(part, name) for name in type(part).model_fields)


def _fixed_keys(part: Part | ConnectorConfig) -> Iterator[str]:
    """Yield the keys of a section that cannot be set beside a checkpoint; those of a nested section are dotted."""
    for name in type(part).model_fields:
        value = getattr(part, name)
        if isinstance(value, ConnectorConfig):
            yield from (f"{name}.{inner}" for inner in _fixed_keys(value))
        elif not _is_policy(part, name):
            yield name


def _is_policy(part: Part | ConnectorConfig, name: str) -> bool:
    value = getattr(part, name)
    if isinstance(value, ConnectorConfig):
        return _sets_policy_only(value)
    return name in POLICY_KEYS or value == type(part).model_fields[name].default


def _check_parts(recipe: PretrainRecipe) -> Iterator[RecipeProblem]:
    name, model = recipe.objective.name, recipe.model
    depends_on = ("objective.name", "model.checkpoint")
    if name in ENCODER_OBJECTIVES:
        if model.decoder is not None:
            remedy = "remove it (model.decoder=null)"
            yield RecipeProblem(
                "model.decoder",
                f"got a decoder, but objective {name} trains a single encoder",
                remedy,
                depends_on=depends_on,
            )
        if len(model.encoders) != 1:
            got = ", ".join(model.encoders) or "none"
            message = f"got {got}, but objective {name} trains a single encoder"
            yield RecipeProblem("model.encoders", message, "set exactly one encoder", depends_on=depends_on)
    elif model.seq2seq is None:
        if model.decoder is None:
            remedy = "give model.decoder.checkpoint or model.decoder.config, or model.checkpoint"
            yield RecipeProblem(
                "model.decoder", f"missing, objective {name} needs a decoder", remedy, depends_on=depends_on
            )
        if name in DOCKING_OBJECTIVES and not model.encoders:
            remedy = "give model.encoders.text.checkpoint, or set objective.name=causal"
            yield RecipeProblem(
                "model.encoders",
                f"missing, objective {name} docks spans into an encoder",
                remedy,
                depends_on=depends_on,
            )
        if name == "causal" and model.encoders:
            names = ", ".join(model.encoders)
            message = f"got encoders {names}, but objective causal docks nothing"
            remedy = "remove them (model.encoders=null) or set objective.name=semi_causal"
            yield RecipeProblem("model.encoders", message, remedy, depends_on=depends_on)
    for key, part in _named_parts(recipe):
        if key != "model.decoder" or name not in ENCODER_OBJECTIVES:  # a second problem of the same key
            yield from _check_part(key, part)


Part = DecoderConfig | EncoderConfig | Seq2SeqConfig


def _named_parts(recipe: PretrainRecipe | FinetuneRecipe) -> list[tuple[str, Part]]:
    parts: list[tuple[str, Part]] = []
    if recipe.model.decoder is not None:
        parts.append(("model.decoder", recipe.model.decoder))
    if recipe.model.seq2seq is not None:
        parts.append(("model.seq2seq", recipe.model.seq2seq))
    return parts + [(f"model.encoders.{name}", encoder) for name, encoder in recipe.model.encoders.items()]


def _check_part(key: str, part: Part) -> Iterator[RecipeProblem]:
    checkpoint_key, config_key = f"{key}.checkpoint", f"{key}.config"
    if part.checkpoint is None and part.config is None:
        yield RecipeProblem(
            key,
            "got neither checkpoint nor config, expected one of the two",
            f"set {checkpoint_key} to a hub id or folder",
            depends_on=(checkpoint_key, config_key),
        )
    if part.revision is not None and part.checkpoint is None:
        yield RecipeProblem(
            f"{key}.revision",
            f"got a revision without {checkpoint_key}, to which it belongs",
            f"remove it, or set {checkpoint_key}",
            depends_on=(checkpoint_key,),
        )
    if part.config is not None and not isinstance(part.config.get("model_type"), str):
        got = "none" if "model_type" not in part.config else quote_value(part.config["model_type"])
        message = f"got {got}, expected the name of a Hugging Face model type"
        yield RecipeProblem(
            f"{config_key}.model_type", message, "such as llama, gpt2, electra, bert", depends_on=(config_key,)
        )


def _check_tokenizers(recipe: PretrainRecipe | FinetuneRecipe) -> Iterator[RecipeProblem]:
    for key, part in _named_parts(recipe):
        tokenizer_key = f"{key}.tokenizer"
        depends_on = (f"{key}.checkpoint", f"{key}.config", "model.decoder")
        if isinstance(part.tokenizer, NewTokenizer) and part.checkpoint is not None:
            yield RecipeProblem(
                tokenizer_key,
                "got a new tokenizer for a checkpoint, whose embeddings belong to its own token ids",
                "remove it: the checkpoint includes its tokenizer",
                depends_on=depends_on,
            )
        if part.tokenizer is None and part.config is not None and not _reads_images_only(part):
            same_hint = ", or same" if isinstance(part, EncoderConfig) and recipe.model.decoder is not None else ""
            yield RecipeProblem(
                tokenizer_key,
                "missing, a config does not include a tokenizer",
                f"give a hub id or folder, or {{new: {{vocab_size: 8192}}}}{same_hint}",
                depends_on=depends_on,
            )
        if part.tokenizer == "same" and (not isinstance(part, EncoderConfig) or recipe.model.decoder is None):
            yield RecipeProblem(
                tokenizer_key,
                "got same, which is only valid for an encoder that is docked into a decoder",
                "give a hub id or folder, or {new: {vocab_size: 8192}}",
                depends_on=depends_on,
            )


def _reads_images_only(part: DecoderConfig | EncoderConfig | Seq2SeqConfig) -> bool:
    """Whether a part that is built from a config is an encoder of images, which needs no tokenizer."""
    if not isinstance(part, EncoderConfig) or part.adapter == "text" or part.config is None:
        return False
    is_fused = part.adapter == "fused" or part.config.get("model_type") in ("vilt", "flava", "bridgetower")
    return not is_fused and (part.adapter == "vision" or bool({"image_size", "patch_size"} & part.config.keys()))
