"""What the model of a recipe reads, from its configs and tokenizers alone: nothing is built, no weights are read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from metalm_cli.config.lowered_values import ModelLengths
from metalm_cli.config.schema.model import EncoderConfig, ModelConfig, NewTokenizer, Seq2SeqConfig
from metalm_cli.config.schema.recipes import Recipe
from metalm_cli.models.checkpoint_checks.config_files import load_config
from metalm_cli.models.checkpoint_checks.loading_errors import model_errors
from metalm_cli.models.checkpoint_io import find_config_folder
from metalm_cli.models.encoders import TextEncoderIO, encoder_io_for, load_tokenizer
from metalm_cli.models.families import DECODER_ONLY, ENCODER_DECODER, ENCODER_ONLY, family_of_config, family_of_recipe
from metalm_cli.models.metalm import MetaLMConfig, positions_of_decoder
from metalm_cli.models.part_loader import PartLoader
from metalm_cli.sessions.pairs import special_tokens_around


def lengths_of_recipe(recipe: Recipe, base: str | None = None, *, offline: bool = False) -> ModelLengths:
    """Return the positions that the model of a recipe and its encoders read.

    They are those of :meth:`~metalm_cli.models.families.base.ModelFamily.length_limit` for the built model. Those of a
    plug-in's family are known only then.

    Args:
        recipe: The recipe.
        base: Model that the recipe continues if it names none.
        offline: Do not access the network.

    Raises:
        MetalmError: A checkpoint, its config or its tokenizer is not found, or is not valid.
    """
    remote_code, model = recipe.dangerous.trust_remote_code, recipe.model
    loader = PartLoader(_no_documents, offline, remote_code, weights=False)
    source = model.checkpoint or base
    if source is not None:
        return _of_checkpoint(source, offline, remote_code)
    family = family_of_recipe(model, recipe.objective.name).name
    if family == ENCODER_ONLY:
        ((name, part),) = model.encoders.items()
        limit, kind = _of_encoder(name, part, None, loader)
        return ModelLengths(limit, kind)
    if family == ENCODER_DECODER:
        assert model.seq2seq is not None, "only recipes with this key build the family"
        return _of_pairs(_config(model.seq2seq, "model.seq2seq", loader), _tokenizer(model.seq2seq, loader))
    if family != DECODER_ONLY or model.decoder is None:
        return ModelLengths()
    config = _config(model.decoder, "model.decoder", loader)
    return ModelLengths(positions_of_decoder(config), config.model_type, _of_encoders(model, loader))


def _no_documents(_: int) -> Iterator[str]:
    return iter(())


def _of_checkpoint(source: str, offline: bool, remote_code: bool) -> ModelLengths:
    """Return the positions that a finished model reads."""
    folder = find_config_folder(source, offline=offline, remote_code=remote_code)
    with model_errors(folder):
        config = load_config(folder, remote_code)
        if family_of_config(config).name == ENCODER_DECODER:
            return _of_pairs(config, load_tokenizer(folder, remote_code))
        if isinstance(config, MetaLMConfig):
            config = MetaLMConfig.part_config(config.decoder_config)
        return ModelLengths(positions_of_decoder(config), config.model_type)


def _of_pairs(config: Any, tokenizer: Any) -> ModelLengths:
    """Return the positions that an encoder–decoder reads: its source has room for the special tokens around it."""
    limit = getattr(config, "max_position_embeddings", None)
    if limit is not None:
        # metalm trains tokenizers of encoder–decoders with one token after a text
        limit -= 1 if tokenizer is None else sum(map(len, special_tokens_around(tokenizer)))
    return ModelLengths(limit, config.model_type)


def _of_encoders(model: ModelConfig, loader: PartLoader) -> dict[str, int]:
    """Return the positions that the text encoders of a recipe read, of those with a ``max_length`` and a limit."""
    limits = {
        name: _of_encoder(name, part, model, loader)[0]
        for name, part in model.encoders.items()
        if part.max_length is not None
    }
    return {name: limit for name, limit in limits.items() if limit is not None}


def _of_encoder(
    name: str, part: EncoderConfig, model: ModelConfig | None, loader: PartLoader
) -> tuple[int | None, str]:
    """Return the positions that an encoder reads (None: any, or no text), and its model type."""
    config = _config(part, f"model.encoders.{name}", loader)
    encoder_io = encoder_io_for(config, part.adapter)
    if not isinstance(encoder_io, TextEncoderIO):
        return None, config.model_type
    if part.tokenizer == "same":
        tokenizer = None if model is None or model.decoder is None else _tokenizer(model.decoder, loader)
    else:
        tokenizer = _tokenizer(part, loader)
    auto = encoder_io.load_class(config)
    if type(config) not in auto._model_mapping:
        return None, config.model_type
    with torch.device("meta"):
        encoder = auto.from_config(config, trust_remote_code=False)
    return encoder_io.max_positions(encoder, tokenizer), config.model_type


def _config(part: Any, where: str, loader: PartLoader) -> Any:
    return loader.config(part, loader.folder(part, where), where, None)


def _tokenizer(part: EncoderConfig | Seq2SeqConfig | Any, loader: PartLoader) -> Any:
    """Return the tokenizer of a part; None if the run trains it, or if there is none."""
    if isinstance(part.tokenizer, NewTokenizer):
        return None
    folder = loader.folder(part, "")
    return None if folder is None and part.tokenizer is None else loader.tokenizer(part.tokenizer, folder, "", "")
