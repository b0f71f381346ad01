"""Inputs and outputs of encoders: model class, output width, processor and forward pass of each kind of encoder.

An :class:`EncoderIO` is chosen by the encoder's config. It knows the width of the outputs without the weights, and
builds the processor that converts content (for a fused encoder a dict of image and text) into inputs. The processor
decides which output positions are docked; the encoder IO only runs the model.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from metalm_cli.common import registry
from metalm_cli.common.hub import no_connections
from metalm_cli.errors import MetalmError
from metalm_cli.models.checkpoint_checks.loading_errors import first_line
from metalm_cli.sessions import DockTable, Processor, TextProcessor
from metalm_cli.sessions.compression import Grid
from metalm_cli.sessions.decoder_tokenizer import tokens_without_embedding

UNLIMITED_LENGTH = 100_000
"""Lengths of at least this value in tokenizers and configs mean that there is no limit."""
DEFAULT_MAX_LENGTH = 512
"""Maximum tokens of a docked text if neither the recipe nor the encoder sets a limit (the paper's value)."""
FUSED = ("vilt", "flava", "bridgetower")
"""Model types that read an image and a text together."""
LAST_LAYER = -1
"""The layer whose outputs are docked by default, after the encoder's final norm."""


class EncoderIO(Protocol):
    """Interface of the model to a kind of encoder."""

    kind: str
    """``text``, ``vision`` or ``fused``: saved with the model."""
    layer: int
    """Layer whose outputs are docked, counted from the last, -1; encoder IOs without it offer no choice of layers."""

    def load_class(self, config: Any) -> Any:
        """Return the Auto class whose models return ``last_hidden_state``."""

    def width(self, config: Any) -> int:
        """Return the width of the outputs."""

    def processor(self, name: str, source: Any, model: Any, options: dict[str, Any]) -> Processor:
        """Build the processor of inputs.

        Args:
            name: Name of the encoder.
            source: A tokenizer or image processor, or the folder that holds one.
            model: The encoder.
            options: ``max_length`` and ``keep_special`` as saved in the model's config.
        """

    def outputs(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        """Run the encoder on ``u`` contents and return its outputs, ``[u, l, width]``."""


class TextEncoderIO:
    """Encoder IO of bidirectional text encoders: content tokens are docked."""

    kind = "text"
    layer = LAST_LAYER

    def load_class(self, config: Any) -> Any:
        from transformers import AutoModel, AutoModelForTextEncoding

        # is_encoder_decoder alone is not enough: the saved config of T5's encoder has it cleared.
        encodes = type(config) in AutoModelForTextEncoding._model_mapping
        return AutoModelForTextEncoding if encodes or config.is_encoder_decoder else AutoModel

    def width(self, config: Any) -> int:
        return int(config.hidden_size)

    def processor(self, name: str, source: Any, model: Any, options: dict[str, Any]) -> TextProcessor:
        tokenizer = load_tokenizer(source) if isinstance(source, str | Path) else source
        rows = model.get_input_embeddings().num_embeddings
        missing = tokens_without_embedding(tokenizer, rows, set(tokenizer.all_special_ids) - {tokenizer.pad_token_id})
        if missing:
            raise MetalmError(
                f"the tokenizer of encoder {name!r} has {len(tokenizer):,} tokens, its embeddings {rows:,} rows",
                where=f"model.encoders.{name}.tokenizer",
                why=f"{len(missing):,} tokens of texts have no embedding, the first is {missing[0]!r}",
                remedy="use the tokenizer that the encoder was trained with",
            )
        limit = self.max_positions(model, tokenizer)
        requested = options.get("max_length")
        if requested is not None and not (isinstance(requested, int) and requested > 0):
            raise ValueError(f"max_length of encoder {name!r} is {requested!r}, expected a number above 0")
        if requested is not None and limit is not None and requested > limit:
            raise MetalmError(
                f"the encoder {name!r} reads {limit} positions, but max_length is {requested}",
                where=f"model.encoders.{name}.max_length",
                remedy=f"set it to {limit} or less",
            )
        length = requested or min(limit or DEFAULT_MAX_LENGTH, DEFAULT_MAX_LENGTH)
        keep_special = bool(options.get("keep_special"))
        return TextProcessor(name, tokenizer, length, keep_special, embedding_rows=rows)

    def max_positions(self, model: Any, tokenizer: Any) -> int | None:
        """Return the maximum number of positions of the encoder, or None if it has no limit."""
        limit = getattr(model.config, "max_position_embeddings", None)
        if limit is not None:
            limit -= first_position(model)
        stated = getattr(tokenizer, "model_max_length", None)
        limits = [value for value in (limit, stated) if value is not None and 0 < value < UNLIMITED_LENGTH]
        return min(limits) if limits else None

    def outputs(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        return outputs_of_layer(model, inputs, self.layer)


def outputs_of_layer(model: Any, inputs: dict[str, Any], layer: int) -> Tensor:
    """Run an encoder and return the outputs of a layer.

    Args:
        model: The encoder.
        inputs: Arguments of its forward pass.
        layer: The layer, from the last, -1. Outputs of the last layer have the encoder's final norm, others have none
            (``hidden_states[layer]`` of transformers).

    Raises:
        MetalmError: The encoder does not return the outputs of its layers.
    """
    if layer == LAST_LAYER:
        return model(**inputs).last_hidden_state
    states = getattr(model(**inputs, output_hidden_states=True), "hidden_states", None)
    if states is None:
        raise MetalmError(
            f"the outputs of layer {layer} of an encoder cannot be docked",
            where="model.encoders.<name>.layer",
            why=f"a {model.config.model_type} model returns its last outputs only",
            remedy="leave layer out",
        )
    return states[layer]


def check_layer(layer: int, config: Any, where: str) -> None:
    """Check that an encoder has the layer whose outputs are docked, by its config.

    Raises:
        MetalmError: It has fewer layers.
    """
    layers = getattr(config, "num_hidden_layers", None)
    if layers is not None and -layer > layers:
        raise MetalmError(
            f"the encoder has {layers} layers, the outputs of layer {layer} cannot be docked",
            where=f"{where}.layer",
            remedy=f"set it to -{layers} to -1; -1 is the last layer",
        )


def first_position(model: Any) -> int:
    """Return the position table's row for the first token: RoBERTa-like models start after the padding index."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return module.padding_idx + 1
    return 0


def grid_of(encoder_io: EncoderIO, config: Any) -> Grid | None:
    """Return the rows and columns of the patches that an encoder gives last; None for other encoders."""
    grid = getattr(encoder_io, "grid", None)
    return None if grid is None else grid(config)


def patches_of(encoder_io: EncoderIO, config: Any) -> Grid | None:
    """Return the rows and columns of the patches of an encoder that reads images, wherever its outputs have them."""
    patches = getattr(encoder_io, "patches", None)
    return grid_of(encoder_io, config) if patches is None else patches(config)


def in_slices(
    inputs: dict[str, Tensor], bound: int | None, grid: Grid | None
) -> list[tuple[list[int], dict[str, Tensor]]]:
    """Divide the inputs of an encoder into slices of whole contents.

    Args:
        inputs: Inputs of u contents, padded to one length.
        bound: Maximum positions of a slice, padding included; a single content may have more. None: no bound.
        grid: Rows and columns of the patches of an image (:func:`patches_of`).

    Returns:
        The indices of the contents of each slice, and its inputs; one slice, if the number of positions is unknown.
        Texts are sorted by length, the longest first, and each slice is padded to its own longest text.
    """
    count = len(next(iter(inputs.values())))
    positions = (grid[0] * grid[1] if grid else 0) + (inputs["input_ids"].shape[1] if "input_ids" in inputs else 0)
    size = count if bound is None or not positions else max(1, bound // positions)
    if bound is None or size >= count or any(len(tensor) != count for tensor in inputs.values()):
        return [(list(range(count)), inputs)]
    is_text = set(inputs) == {"input_ids", "attention_mask"}
    lengths: list[int] = inputs["attention_mask"].sum(1).tolist() if is_text else [positions] * count
    slices = []
    order = sorted(range(count), key=lambda index: -lengths[index])
    while order:
        longest = max(1, lengths[order[0]])
        size = max(1, bound // longest)
        indices, order = order[:size], order[size:]
        of_slice = {key: tensor[indices, :longest] if is_text else tensor[indices] for key, tensor in inputs.items()}
        slices.append((indices, of_slice))
    return slices


def outputs_in_slices(encoder_io: EncoderIO, encoder: Any, table: DockTable, bound: int | None) -> Tensor:
    """Compute the docked outputs of all contents of a table, ``[t, width]``, in slices of bounded positions."""
    slices = in_slices(table.inputs, bound, patches_of(encoder_io, encoder.config))
    each = [encoder_io.outputs(encoder, inputs) for _, inputs in slices]
    if len(each) == 1:
        return each[0][table.rows, table.columns]
    starts, start = [0] * sum(len(indices) for indices, _ in slices), 0
    for (indices, _), outputs in zip(slices, each, strict=True):
        for index in indices:
            starts[index], start = start, start + outputs.shape[1]
    rows = torch.tensor(starts, device=table.rows.device)[table.rows]
    return torch.cat([outputs.flatten(0, 1) for outputs in each])[rows + table.columns]


def has_patches(config: Any) -> bool:
    """Whether a config is that of a vision transformer."""
    return hasattr(config, "patch_size") and hasattr(config, "num_channels")


def encoder_io_for(config: Any, adapter: str | None = None, layer: int = LAST_LAYER) -> EncoderIO:
    """Return the encoder IO for a config.

    Args:
        config: Config of the encoder.
        adapter: A registered encoder adapter; None: ``fused`` for a type that reads images with texts, ``vision`` for
            a config with image patches, else ``text``.
        layer: Layer whose outputs are docked.

    Raises:
        MetalmError: The adapter is unknown, that of a plug-in cannot be imported, or it offers no choice of layers.
    """
    name = adapter or ("fused" if config.model_type in FUSED else "vision" if has_patches(config) else "text")
    encoder_io = registry.encoder_adapters.load(name, where="docking (config.json of the model)")()
    if layer != LAST_LAYER:
        if not hasattr(encoder_io, "layer"):
            raise MetalmError(
                f"the encoder adapter {name} chooses the docked outputs itself",
                where="model.encoders.<name>.layer",
                remedy="leave layer out",
            )
        encoder_io.layer = layer
    return encoder_io


def without_pooler(model_class: Any) -> dict[str, bool]:
    """Return arguments that omit the pooler: it never trains, and distributed training would wait for its gradient."""
    parameters = inspect.signature(model_class.__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in parameters else {}


def load_tokenizer(source: str | Path, remote_code: bool = False) -> Any:
    """Load a tokenizer from a folder.

    Args:
        source: The folder.
        remote_code: Run Python code of the folder.

    Raises:
        MetalmError: The folder holds no tokenizer.
    """
    from transformers import AutoTokenizer

    try:
        with no_connections(not remote_code):
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=remote_code)
        tokenizer.decode(tokenizer("A word.").input_ids)  # settings of a wrong type are found only in use
    except Exception as error:  # the tokenizers library raises plain exceptions for broken files
        raise _tokenizer_error(source, first_line(error)) from error
    if len(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)) < 2:
        # Without vocabulary files the tokenizer has special tokens only, and encodes every text as empty.
        raise _tokenizer_error(source, "there are no vocabulary files")
    for how_loaded in ("is_local", "local_files_only"):  # these would be saved too
        tokenizer.init_kwargs.pop(how_loaded, None)
    return tokenizer


def _tokenizer_error(source: str | Path, why: str) -> MetalmError:
    return MetalmError(
        "a checkpoint folder holds no tokenizer that can be loaded",
        where=str(source),
        why=why,
        remedy="put tokenizer.json and tokenizer_config.json there, or name a tokenizer in the recipe",
    )
