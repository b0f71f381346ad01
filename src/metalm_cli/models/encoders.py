"""Encoder adapters: which outputs of an encoder are docked, and what prepares its inputs.

An adapter is chosen by the encoder's config. It must be able to say, without the weights, how wide the outputs are,
and to build the processor that turns content into inputs, a fused encoder's dict of image and text included: the
processor decides which output positions are docked, the adapter only runs the model.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from metalm_cli.errors import MetalmError
from metalm_cli.sessions import ImageProcessor, Processor, TextProcessor

NO_LIMIT = 100_000
"""Tokenizers and configs state lengths beyond this when they mean that there is none."""
DEFAULT_LENGTH = 512
"""Most tokens of a docked text where neither recipe nor encoder sets a limit (the paper's)."""


class EncoderIO(Protocol):
    """What the model needs to know about a family of encoders."""

    kind: str
    """``text``, ``vision`` or ``fused``: saved with the model."""

    def load_class(self, config: Any) -> Any:
        """The Auto class whose model gives ``last_hidden_state``."""

    def width(self, config: Any) -> int:
        """Width of the outputs."""

    def processor(self, name: str, source: Any, model: Any, options: dict[str, Any]) -> Processor:
        """Build what prepares inputs.

        Args:
            name: Name of the encoder.
            source: A tokenizer or image processor, or the folder that holds one.
            model: The encoder.
            options: ``max_length`` and ``keep_special`` as saved in the model's config.
        """

    def outputs(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        """Run the encoder: ``[u, l, width]``."""


class TextEncoderIO:
    """Any bidirectional text encoder: content tokens are docked."""

    kind = "text"

    def load_class(self, config: Any) -> Any:
        from transformers import AutoModel, AutoModelForTextEncoding

        # Not by is_encoder_decoder alone: T5's encoder clears it in the config that it is saved with.
        encodes = type(config) in AutoModelForTextEncoding._model_mapping
        return AutoModelForTextEncoding if encodes or config.is_encoder_decoder else AutoModel

    def width(self, config: Any) -> int:
        return int(config.hidden_size)

    def processor(self, name: str, source: Any, model: Any, options: dict[str, Any]) -> TextProcessor:
        tokenizer = load_tokenizer(source) if isinstance(source, str | Path) else source
        rows = model.get_input_embeddings().num_embeddings
        if len(tokenizer) > rows:
            raise MetalmError(
                f"the tokenizer of encoder {name!r} has {len(tokenizer):,} tokens, its embeddings {rows:,} rows",
                where=f"model.encoders.{name}.tokenizer",
                remedy="use the tokenizer that the encoder was trained with",
            )
        limit = self.positions(model, tokenizer)
        wanted = options.get("max_length")
        if wanted is not None and limit is not None and wanted > limit:
            raise MetalmError(
                f"the encoder {name!r} reads {limit} positions, max_length asks for {wanted}",
                where=f"model.encoders.{name}.max_length",
                remedy=f"set it to {limit} or less",
            )
        length = wanted or min(limit or DEFAULT_LENGTH, DEFAULT_LENGTH)
        return TextProcessor(name, tokenizer, length, bool(options.get("keep_special")))

    def positions(self, model: Any, tokenizer: Any) -> int | None:
        """Positions that the encoder can read, or None if it has no limit."""
        limit = getattr(model.config, "max_position_embeddings", None)
        if limit is not None:
            limit -= first_position(model)
        stated = getattr(tokenizer, "model_max_length", None)
        limits = [one for one in (limit, stated) if one is not None and 0 < one < NO_LIMIT]
        return min(limits) if limits else None

    def outputs(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        return model(**inputs).last_hidden_state


def first_position(model: Any) -> int:
    """Row of the position table that the first token takes: RoBERTa and its kin begin after the padding index."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return module.padding_idx + 1
    return 0


class VisionEncoderIO:
    """Any vision transformer with one output per patch: patches are docked, class vectors are not."""

    kind = "vision"

    def load_class(self, config: Any) -> Any:
        from transformers import AutoModel

        return AutoModel

    def width(self, config: Any) -> int:
        return int(config.hidden_size)

    def processor(self, name: str, source: Any, model: Any, options: dict[str, Any]) -> ImageProcessor:
        from transformers import AutoImageProcessor

        processor = source
        if isinstance(source, str | Path):
            processor = AutoImageProcessor.from_pretrained(source, backend="pil", trust_remote_code=False)
        size = _pair(model.config.image_size)
        patch = _pair(model.config.patch_size)
        shape = (model.config.num_channels, *size)
        patches = (size[0] // patch[0]) * (size[1] // patch[1])
        first = self._first_patch(name, model, shape, patches)
        positions = np.arange(0 if options.get("keep_special") else first, first + patches)
        return ImageProcessor(name, processor, positions, shape)

    def _first_patch(self, name: str, model: Any, shape: tuple[int, ...], patches: int) -> int:
        parameter = next(model.parameters())
        with torch.no_grad():
            pixels = torch.zeros(1, *shape, dtype=parameter.dtype, device=parameter.device)
            outputs = self.outputs(model, {"pixel_values": pixels})
        if outputs.dim() != 3 or outputs.shape[1] < patches:
            raise MetalmError(
                f"the vision encoder {name!r} gives outputs of shape {tuple(outputs.shape)}, "
                f"not one vector for each of {patches} patches",
                remedy="use a vision transformer (ViT, DeiT, BEiT, DINOv2, CLIP's vision tower, ...)",
            )
        return outputs.shape[1] - patches

    def outputs(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        return model(**inputs).last_hidden_state


def _pair(value: Any) -> tuple[int, int]:
    return (value[0], value[1]) if isinstance(value, list | tuple) else (value, value)


def encoder_io_for(config: Any) -> EncoderIO:
    """The adapter of an encoder, by its config."""
    if hasattr(config, "patch_size") and hasattr(config, "num_channels"):
        return VisionEncoderIO()
    return TextEncoderIO()


def without_pooler(model_class: Any) -> dict[str, bool]:
    """Arguments that leave a pooler out: nothing trains it, and distributed training waits for its gradient."""
    takes = inspect.signature(model_class.__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in takes else {}


def load_tokenizer(source: str | Path, remote_code: bool = False) -> Any:
    """Load a tokenizer from a folder.

    Args:
        source: The folder.
        remote_code: Run Python code that it brings along.

    Raises:
        MetalmError: The folder holds none.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=remote_code)
    except Exception as error:  # broken files fail in the tokenizers library too, as plain exceptions
        raise _no_tokenizer(source, first_line(error)) from error
    if len(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)) < 2:
        # Without files a family's class is made with its special tokens alone, and reads every text as nothing.
        raise _no_tokenizer(source, "there are no files of a vocabulary")
    for how_loaded in ("is_local", "local_files_only"):  # would be saved along
        tokenizer.init_kwargs.pop(how_loaded, None)
    return tokenizer


def _no_tokenizer(source: str | Path, why: str) -> MetalmError:
    return MetalmError(
        "a checkpoint folder holds no tokenizer that can be loaded",
        where=str(source),
        why=why,
        remedy="put tokenizer.json and tokenizer_config.json there, or name a tokenizer in the recipe",
    )


def first_line(error: Exception) -> str:
    """The first line of what an error says, not too long."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
