"""Checks of recipes that train a dual encoder (objective contrastive), and of keys that only such recipes have."""

from __future__ import annotations

from collections.abc import Iterator

from metalm_cli.config.recipe_errors import RecipeProblem
from metalm_cli.config.schema.recipes import FinetuneRecipe, PretrainRecipe

CONTRASTIVE = "contrastive"
"""Name of the objective that trains a dual encoder."""
PROJECTIONS = ("linear", "mlp")
"""Kinds of connectors that map one vector to one."""


def check_contrastive(recipe: PretrainRecipe | FinetuneRecipe) -> Iterator[RecipeProblem]:
    """Yield the problems of a dual encoder's recipe, or of keys of dual encoders in another recipe."""
    if recipe.objective.name != CONTRASTIVE:
        yield from _check_unused_keys(recipe)
        return
    yield from _check_settings(recipe)
    if recipe.model.builds_parts:
        yield from _check_parts(recipe)


def _check_unused_keys(recipe: PretrainRecipe | FinetuneRecipe) -> Iterator[RecipeProblem]:
    model = recipe.model
    keys: dict[str, object] = {
        "model.projection_dim": model.projection_dim,
        "model.trains.logit_scale": model.trains.logit_scale,
        "model.learning_rates.logit_scale": model.learning_rates.logit_scale,
    }
    keys |= {f"model.encoders.{name}.pooling": part.pooling for name, part in model.encoders.items()}
    for key in (key for key, value in keys.items() if value is not None):
        yield RecipeProblem(
            key,
            f"got {key} with objective {recipe.objective.name}, expected it only with contrastive",
            "remove it, or set objective.name=contrastive in a recipe of metalm finetune",
            depends_on=("objective.name",),
        )


def _check_parts(recipe: PretrainRecipe | FinetuneRecipe) -> Iterator[RecipeProblem]:
    model, depends_on = recipe.model, ("objective.name", "model.checkpoint")
    for key, part in (("model.decoder", model.decoder), ("model.seq2seq", model.seq2seq)):
        if part is not None:
            kind = "an encoder–decoder" if key == "model.seq2seq" else "a decoder"
            message = f"got {kind}, but objective contrastive trains an image encoder and a text encoder"
            yield RecipeProblem(key, message, f"remove it ({key}=null)", depends_on=depends_on)
    if len(model.encoders) != 2 and model.seq2seq is None:
        got = ", ".join(model.encoders) or "none"
        yield RecipeProblem(
            "model.encoders",
            f"got {got}, expected two encoders: objective contrastive trains one of images and one of texts",
            "set model.encoders.vision and model.encoders.text, each with a checkpoint or a config",
            depends_on=depends_on,
        )
    connectors = {"model.connector": model.connector}
    connectors |= {
        f"model.encoders.{name}.connector": part.connector
        for name, part in model.encoders.items()
        if part.connector is not None
    }
    for key, connector in connectors.items():
        if connector.length is not None or connector.factor is not None:
            yield RecipeProblem(
                f"{key}.kind",
                f"got {connector.kind}, expected {' or '.join(PROJECTIONS)}: objective contrastive projects one vector "
                "of each content",
                f"set {key}.kind=linear",
                depends_on=depends_on,
            )


def _check_settings(recipe: PretrainRecipe | FinetuneRecipe) -> Iterator[RecipeProblem]:
    train = recipe.train
    depends_on = ("objective.name",)
    if train.batch_size < 2:
        yield RecipeProblem(
            "train.batch_size",
            f"got {train.batch_size}, expected at least 2: the other pairs of a batch are the negatives",
            "set as many as fit into memory (train.batch_size=128)",
            depends_on=depends_on,
        )
    if train.micro_batch_size is not None:
        yield RecipeProblem(
            "train.micro_batch_size",
            f"got {train.micro_batch_size}, but objective contrastive compares all pairs of a batch in one pass",
            "remove it (train.micro_batch_size=null); train.checkpoint_activations=true or a smaller train.batch_size "
            "needs less memory",
            depends_on=depends_on,
        )
    unused: dict[str, tuple[bool, str]] = {
        "model.lora": (recipe.model.lora is not None, "null"),
        "train.distill": (train.distill is not None, "null"),
        "train.evaluate": (train.evaluate is not None, "null"),
    }
    if isinstance(recipe, FinetuneRecipe):
        unused["data.demonstrations.shots"] = (recipe.data.demonstrations.shots != [0, 0], "[0,0]")
        unused["train.loss_average"] = (recipe.train.loss_average != "token", "token")
    for key, (is_set, default) in unused.items():
        if is_set:
            yield RecipeProblem(
                key,
                f"got {key} with objective contrastive, which has no use for it",
                f"remove it ({key}={default})",
                depends_on=depends_on,
            )
