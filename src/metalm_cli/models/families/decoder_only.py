"""Decoder-only models: a causal decoder with docked encoders (MetaLM), or without any."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from metalm_cli.config.schema.model import EncoderConfig, ModelConfig
from metalm_cli.errors import MetalmError
from metalm_cli.models.capabilities import measure_bidirectionality
from metalm_cli.models.checkpoint_checks.loading_errors import loading_errors
from metalm_cli.models.connectors import check_connector, check_record, root_mean_square, set_compression
from metalm_cli.models.encoders import LAST_LAYER, encoder_io_for, grid_of
from metalm_cli.models.families.base import ModelParts
from metalm_cli.models.families.token_rules import generation_end_ids, token_rules
from metalm_cli.models.metalm import MetaLM, MetaLMConfig, positions_of_decoder
from metalm_cli.models.part_loader import PartLoader
from metalm_cli.sessions import DECODER, DecoderTokenizer, ImageProcessor, Processor, TextProcessor, TokenRules
from metalm_cli.sessions.end_tokens import EndToken, end_token_ids

PROCESSORS_FOLDER = "processors"
OTHER_ENCODER = "use another checkpoint or config"
ENCODER_NAME = re.compile(r"[A-Za-z0-9_-]+")


class DecoderOnly:
    """Family of decoders; a session is one row, and encoders dock contents into it."""

    name = "decoder-only"
    streams = (DECODER,)
    objectives = ("semi_causal", "causal", "prefix", "reconstruct", "mixed")
    generates = True
    auto_class = "AutoModelForCausalLM"

    def claims(self, model: ModelConfig, objective: str) -> bool:
        return True

    def build(self, model: ModelConfig, objective: str, loader: PartLoader, seed: int) -> ModelParts:
        return build_metalm_parts(model, loader, seed)

    def wrap(
        self, model: Any, config: Any, tokenizer: Any, folder: Path, end_tokens: Sequence[EndToken] = ()
    ) -> ModelParts:
        return wrap_decoder(model, config, tokenizer, folder, end_tokens)

    def parts(self, built: Any) -> dict[str, nn.Module]:
        model = built.model
        parts: dict[str, nn.Module] = {"decoder": model.decoder}
        for name, encoder in model.encoders.items():
            parts[f"encoders.{name}"] = encoder
            parts[f"connectors.{name}"] = model.connectors[name]
        return parts

    def length_limit(self, built: Any) -> tuple[int | None, str]:
        return built.model.max_positions, built.model.decoder.config.model_type

    def tokenizers(self, built: Any) -> dict[str, Any]:
        encoders = {f"encoders/{name}": processor for name, processor in built.processors.items()}
        return {"decoder": built.tokenizer.tokenizer, **encoders}

    def save(self, folder: Path, built: Any) -> None:
        """Save a MetaLM; without encoders it is saved as its decoder's own class."""
        model, tokenizer = built.model, built.tokenizer
        if model.encoders:
            model.save_pretrained(folder)
        else:
            model.decoder.config.metalm = {"tokens": tokenizer.rules.to_dict(), "training": model.config.training}
            model.decoder.save_pretrained(folder)
        tokenizer.tokenizer.save_pretrained(folder)
        for name, processor in built.processors.items():
            processor.save_pretrained(folder / PROCESSORS_FOLDER / name)

    def notes(self, built: Any) -> list[str]:
        images = [f"images docked into {name}: {layout}" for name, layout in image_layouts(built).items()]
        compressions = {name: each for name, each in built.model.compressions.items() if each is not None}
        docks = [f"docks of {name}: {each}" for name, each in compressions.items()]
        return [*images, *docks, *built.model.traits.notes()]


def image_layouts(built: Any) -> dict[str, str]:
    """Describe the image docks of a model, by encoder name: pixels, patches and decoder positions of an image."""
    layouts = {}
    for name, processor in built.processors.items():
        if isinstance(processor, ImageProcessor):
            height, width = processor.shape[-2:]
            rows, columns = grid_of(built.model.encoder_ios[name], built.model.encoders[name].config) or (0, 0)
            patches = f", {rows} x {columns} patches" if rows else ""
            positions = processor.dummy().positions
            layouts[name] = f"{height} x {width} pixels{patches}, {positions} positions"
    return layouts


def check_image_positions(processor: Processor, limit: int | None, what: str, where: str) -> None:
    """Check that a row can hold an image and one more token.

    Args:
        processor: Processor of an encoder; one of texts is not checked.
        limit: Positions of a row; None: any number.
        what: What has the limit, for messages.
        where: Key of the limit or of the encoder.

    Raises:
        MetalmError: An image takes more positions.
    """
    if limit is None or not isinstance(processor, ImageProcessor):
        return
    positions = processor.dummy().positions
    if positions >= limit:
        raise MetalmError(
            f"an image takes {positions} positions, {what} {limit}",
            where=where,
            why="a token must follow the image",
            remedy=f"set a connector with fewer positions (model.encoders.{processor.encoder}.connector: "
            "{kind: stack, factor: 4}, or queries), or a smaller image_size",
        )


def build_metalm_parts(model: ModelConfig, loader: PartLoader, seed: int) -> ModelParts:
    """Load or build the decoder and the encoders of a recipe, and connect them.

    Raises:
        MetalmError: A part is missing, does not fit, or is of the wrong kind.
    """
    assert model.decoder is not None, "the schema requires a decoder here"
    decoder, tokenizer = loader.decoder(model.decoder)
    rules = token_rules(model, decoder.config)
    decoder_tokenizer = DecoderTokenizer(tokenizer, rules, embedding_rows=decoder.get_input_embeddings().num_embeddings)
    encoders, processors, connectors, docking = {}, {}, {}, {}
    for name, options in model.encoders.items():
        encoder, processor, docking[name] = load_docked_encoder(name, options, loader, tokenizer)
        processors[name] = processor
        if isinstance(processor, TextProcessor):
            with loading_errors("the encoder cannot be used", f"model.encoders.{name}", OTHER_ENCODER):
                _check_bidirectional(name, encoder)
        encoder_io = encoder_io_for(encoder.config, options.adapter, options.layer)
        connector_options = options.connector or model.connector
        record = connectors[name] = {"kind": connector_options.kind, **connector_options.settings}
        where = f"model.encoders.{name}.connector" if options.connector else "model.connector"
        width, grid = decoder.get_input_embeddings().embedding_dim, grid_of(encoder_io, encoder.config)
        set_compression(processor, check_record(record, width, grid, where), where)
        limit = positions_of_decoder(decoder.config)
        check_image_positions(processor, limit, "the decoder reads", f"model.encoders.{name}")
        encoders[name] = encoder
    config = MetaLMConfig(
        decoder_config=decoder.config.to_dict(),
        encoder_configs={name: encoder.config.to_dict() for name, encoder in encoders.items()},
        connectors=connectors,
        docking=docking,
        tokens=rules.to_dict(),
    )
    with loading_errors("the decoder cannot be used", "model.decoder", "use another checkpoint or config"):
        metalm = MetaLM(config, decoder, encoders)
        is_causal = metalm.traits.causal
    if not is_causal:
        raise MetalmError(
            f"{type(decoder).__name__} is not a causal decoder: its outputs depend on later tokens",
            where="model.decoder",
            why="an encoder (BERT, RoBERTa, ...) cannot predict the next token",
            remedy="set a causal language model here, and move this model to model.encoders",
        )
    for name in encoders:
        _rescale_connector(metalm, name, processors[name], seed)
    return ModelParts(metalm, decoder_tokenizer, processors)


def load_docked_encoder(
    name: str, options: EncoderConfig, loader: PartLoader, decoder_tokenizer: Any
) -> tuple[Any, Processor, dict[str, Any]]:
    """Load or build an encoder of a recipe.

    Args:
        name: Name of the encoder.
        options: Its options.
        loader: Loader of parts.
        decoder_tokenizer: Tokenizer of the decoder; None for a model without a decoder.

    Returns:
        The encoder, its processor, and how it is docked, as the model's config records it.

    Raises:
        MetalmError: The encoder is missing, or of the wrong kind.
    """
    encoder, source = loader.encoder(name, options, decoder_tokenizer)
    encoder_io = encoder_io_for(encoder.config, options.adapter, options.layer)
    docking = {
        "kind": encoder_io.kind,
        "keep_special": options.keep_special,
        "max_length": options.max_length,
        **({} if options.adapter is None else {"adapter": options.adapter}),
        **({} if options.layer == LAST_LAYER else {"layer": options.layer}),
    }
    with loading_errors("the encoder cannot be used", f"model.encoders.{name}", OTHER_ENCODER):
        processor = encoder_io.processor(name, source, encoder, docking)
    if isinstance(processor, TextProcessor):
        docking["max_length"] = processor.max_length
    return encoder, processor, docking


def wrap_decoder(
    model: Any, config: Any, tokenizer: Any, folder: Path, end_tokens: Sequence[EndToken] = ()
) -> ModelParts:
    """Make a MetaLM of a loaded MetaLM or causal language model; arguments as :meth:`ModelFamily.wrap`.

    Raises:
        MetalmError: The model is not causal, or a name of an encoder is invalid.
    """
    processors: dict[str, Processor] = {}
    end_ids: list[int] = []
    if isinstance(model, MetaLM):
        rules = TokenRules(**config.tokens)
        check_encoder_names(model.encoders, folder)
        processors = {
            name: model.encoder_ios[name].processor(
                name, folder / PROCESSORS_FOLDER / name, encoder, config.docking[name]
            )
            for name, encoder in model.encoders.items()
        }
        for name, processor in processors.items():
            set_compression(processor, model.compressions[name], f"connectors.{name} (config.json of the model)")
    else:
        saved = getattr(config, "metalm", None) or {}
        rules = TokenRules(**(saved.get("tokens") or {}))
        # Metalm trains a model to end with the document-end token only.
        end_ids = [] if saved else generation_end_ids(model)
        model = MetaLM(
            MetaLMConfig(decoder_config=config.to_dict(), tokens=rules.to_dict(), training=saved.get("training")),
            model,
            {},
        )
    if not model.traits.causal:
        raise MetalmError(
            f"{type(model.decoder).__name__} is not a causal language model: its outputs depend on later tokens",
            where=str(folder),
            remedy="dock it as an encoder: model.encoders.text.checkpoint in a recipe",
        )
    embeddings: Any = model.get_input_embeddings()
    embedding_rows = embeddings.num_embeddings
    named_ids = end_token_ids(tokenizer, end_tokens, embedding_rows, str(folder))
    decoder_tokenizer = DecoderTokenizer(
        tokenizer, rules, embedding_rows=embedding_rows, end_ids=[*named_ids, *end_ids]
    )
    return ModelParts(model.eval(), decoder_tokenizer, processors)


def check_encoder_names(names: Iterable[str], folder: Path) -> None:
    """Check that encoder names of a config cannot lead outside its folder.

    Raises:
        MetalmError: A name has other characters than letters, digits, hyphens and underscores.
    """
    for name in names:
        if not ENCODER_NAME.fullmatch(name):
            raise MetalmError(
                f"{name!r} cannot be the name of an encoder",
                where=str(folder / "config.json"),
                remedy="names are letters, digits, hyphens and underscores",
            )


def _check_bidirectional(name: str, encoder: Any) -> None:
    if not measure_bidirectionality(encoder):
        raise MetalmError(
            f"{type(encoder).__name__} is not a bidirectional encoder: its outputs do not depend on later tokens",
            where=f"model.encoders.{name}",
            remedy="set a text encoder here (BERT, ELECTRA, ModernBERT, ...), and move this model to model.decoder",
        )


@torch.no_grad()
def _rescale_connector(model: MetaLM, name: str, processor: Processor, seed: int) -> None:
    """Scale a new connector's outputs to the root mean square of the decoder's token embeddings."""
    generator = torch.Generator().manual_seed(seed)
    encoder: Any = model.encoders[name].eval()
    inputs = random_inputs(processor, encoder, generator)
    outputs: Any = model.encoder_ios[name].outputs(encoder, inputs)
    compression = model.compressions[name]
    layout: tuple[Any, ...] = ()
    count = outputs.shape[0] * outputs.shape[1]
    if compression is None:
        outputs = outputs.flatten(0, 1)
    else:
        if compression.grid:  # patches are the last outputs
            outputs = outputs[:, -compression.grid[0] * compression.grid[1] :]
        layout = (torch.ones(outputs.shape[:2], dtype=torch.bool), compression.grid)
        count = len(outputs) * compression.positions(outputs.shape[1])
    table: Any = model.get_input_embeddings()
    tokens = torch.randint(table.num_embeddings, (512,), generator=generator)
    connector: Any = model.connectors[name]
    vectors = connector(outputs, *layout)
    if layout and isinstance(vectors, torch.Tensor):
        vectors = vectors.flatten(0, -2)
    check_connector(model.config.connectors[name]["kind"], vectors, (count, table.embedding_dim))
    if hasattr(connector, "rescale"):
        connector.rescale(outputs, root_mean_square(table(tokens)), *layout)


def random_inputs(processor: Processor, encoder: Any, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Generate random inputs of an encoder: noise for images, random tokens for text."""
    inputs = {}
    for key, array in processor.collate([processor.dummy()]).items():
        if array.dtype.kind == "f":
            inputs[key] = torch.randn((4, *array.shape[1:]), generator=generator)
            continue
        length = max(array.shape[1], min(32, getattr(processor, "max_length", 1)))
        vocabulary_size = getattr(encoder, "text_model", encoder).get_input_embeddings().num_embeddings
        mask = "mask" in key
        inputs[key] = (
            torch.ones(4, length, dtype=torch.long)
            if mask
            else torch.randint(vocabulary_size, (4, length), generator=generator)
        )
    return inputs
