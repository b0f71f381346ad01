"""GGUF files: dequantised once into a folder of safetensors with a tokenizer, by transformers and the package gguf."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from metalm_cli.common.checkpoints.cached_folders import cached_folder, checkpoints_folder
from metalm_cli.common.checkpoints.gguf_tokenizer import set_pre_tokenizer
from metalm_cli.common.checkpoints.origin import Origin, is_complete, read_origin
from metalm_cli.common.checkpoints.remembered_hash import remembered_sha256
from metalm_cli.common.hub import no_connections
from metalm_cli.common.paths import check_regular
from metalm_cli.errors import MetalmError

MAGIC = b"GGUF"
PLAIN_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Types of GGUF that are not blocks, and torch's names for them."""
SPARE_BYTES = 32_000_000
"""Space for the tokenizer and the configs."""
ENCODER_ARCHITECTURES = ("bert", "nomic-bert", "jina-bert", "modern-bert", "t5encoder", "roberta", "eurobert")
"""Beginnings of the names of architectures that are encoders."""


@dataclass(frozen=True)
class GGUFHeader:
    """What a GGUF file states about itself.

    Args:
        architecture: ``general.architecture``.
        tokenizer_model: ``tokenizer.ggml.model``; empty if the file has no tokenizer.
        pre_tokenizer: ``tokenizer.ggml.pre``, or an empty string.
        max_positions: Length of the context; 0 if unknown.
        num_weights: Number of weights.
        dtype: torch's name of the data type that the weights are saved in: that of the file, or ``bfloat16`` for
            quantised blocks, whose rounding is far coarser.
        block_type: Block format of most weights; empty if none is quantised.
    """

    architecture: str
    tokenizer_model: str
    pre_tokenizer: str
    max_positions: int
    num_weights: int
    dtype: str
    block_type: str


def is_gguf(path: Path) -> bool:
    """Whether a path is an existing file that is named like a GGUF file."""
    return path.suffix.lower() == ".gguf" and path.is_file()


def dequantised_folder(path: Path, origin: Origin | None = None) -> tuple[Path, Origin]:
    """Return a folder of the cache with the dequantised weights and the tokenizer of a GGUF file, and its origin.

    Args:
        path: The file. The folder is made once for each content of a file.
        origin: Origin of the file, if it is in a package; its hash is that of the file.

    Raises:
        MetalmError: The package gguf is missing; the file is damaged, has no tokenizer, or holds a model that cannot be
            loaded; or the cache cannot be written. Nothing is left behind.
    """
    sha256 = origin.sha256 if origin is not None else remembered_sha256(path)
    key = f"{sha256}-gguf"
    folder = checkpoints_folder() / key
    if not is_complete(folder):
        _require_gguf(path)
        header = read_header(path)
        saved = origin or Origin("GGUF file", path.name, sha256)
        bytes_per_weight = 4 if header.dtype == "float32" else 2
        folder = cached_folder(
            key,
            replace(saved, dequantised_from=header.block_type),
            header.num_weights * bytes_per_weight + SPARE_BYTES,
            lambda target: _write_model(path, header, target),
        )
    recorded = read_origin(folder)
    block_type = recorded.dequantised_from if recorded is not None else ""
    place = origin or Origin("GGUF file", path.name, sha256)
    return folder, replace(place, dequantised_from=block_type)


def _require_gguf(path: Path) -> None:
    try:
        from gguf import GGUFReader  # noqa: F401
    except ImportError as error:
        raise MetalmError(
            "a GGUF file is read with the package gguf, which is not installed",
            where=str(path),
            remedy='install the extra: pip install "metalm[gguf]", or pip install gguf',
        ) from error


def read_header(path: Path) -> GGUFHeader:
    """Read what a GGUF file states about itself, and check that it holds a model with a tokenizer.

    Raises:
        MetalmError: The file is damaged, or holds something that is not loaded.
    """
    try:
        check_regular(path)
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
    except OSError as error:
        raise MetalmError("a GGUF file cannot be read", where=str(path), why=error.strerror or str(error)) from error
    if magic != MAGIC:
        raise _damage(path, f"it begins with {magic!r}, expected {MAGIC!r}")
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
        header = _header_of(reader)
        extra_rope = _unread_positions(reader, header.architecture)
    except Exception as error:  # numpy and gguf raise many kinds of errors for a file that ends early
        raise _damage(path, _first_line(error)) from error
    if header.architecture.startswith(ENCODER_ARCHITECTURES):
        raise MetalmError(
            f"the GGUF file holds an encoder ({header.architecture}), expected a causal language model",
            where=str(path),
            remedy="name a decoder; an encoder is docked from its safetensors checkpoint",
        )
    if not header.tokenizer_model:
        raise MetalmError(
            "the GGUF file has no tokenizer",
            where=str(path),
            why="tokenizer.ggml.model is missing",
            remedy="use a file with its tokenizer, or the model's safetensors checkpoint",
        )
    if extra_rope:
        raise MetalmError(
            "the GGUF file scales its rotary positions, which transformers does not read",
            where=str(path),
            why=f"it has {extra_rope}",
            remedy="use the model's safetensors checkpoint",
        )
    return header


def _header_of(reader: Any) -> GGUFHeader:
    def value(key: str, default: Any) -> Any:
        field = reader.get_field(key)
        return default if field is None else field.contents()

    architecture = str(value("general.architecture", ""))
    if not architecture:
        raise ValueError("general.architecture is missing")
    weights: Counter[str] = Counter()
    for tensor in reader.tensors:
        weights[tensor.tensor_type.name] += int(tensor.n_elements)
    if not weights:
        raise ValueError("it holds no tensors")
    blocks = {name: count for name, count in weights.items() if name not in PLAIN_DTYPES}
    matrices = Counter(tensor.tensor_type.name for tensor in reader.tensors if len(tensor.shape) > 1)
    plain = next((name for name in ("BF16", "F16") if matrices[name]), "F32")
    return GGUFHeader(
        architecture,
        str(value("tokenizer.ggml.model", "")),
        str(value("tokenizer.ggml.pre", "")),
        int(value(f"{architecture}.context_length", 0)),
        weights.total(),
        "bfloat16" if blocks else PLAIN_DTYPES[plain],
        max(blocks, key=lambda name: blocks[name]) if blocks else "",
    )


def _unread_positions(reader: Any, architecture: str) -> str:
    """Return the setting of rotary positions that transformers leaves out; empty if there is none."""
    scaling = reader.get_field(f"{architecture}.rope.scaling.type")
    if scaling is not None and architecture != "gpt-oss" and scaling.contents() != "none":
        return f"{architecture}.rope.scaling.type {scaling.contents()}"
    return next((tensor.name for tensor in reader.tensors if tensor.name.startswith("rope_")), "")


def _write_model(path: Path, header: GGUFHeader, target: Path) -> None:
    """Write the weights, the config and the tokenizer of a GGUF file as an ordinary model folder."""
    with tempfile.TemporaryDirectory() as temporary:
        # Alone in its folder: configs, code or adapters beside the file are not read.
        link = Path(temporary) / "model.gguf"
        os.symlink(path.absolute(), link)
        with _load_errors(path, header), no_connections(), _quiet():
            model = _load_plain_model(link, header)
            tokenizer = _load_tokenizer(link, header, str(path))
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise _damage(path, f"its tokenizer has {len(tokenizer):,} tokens, its embeddings {rows:,} rows")
    with _quiet():
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)


def _load_plain_model(link: Path, header: GGUFHeader) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    loaded_with_info: Any = AutoModelForCausalLM.from_pretrained(
        link.parent,
        gguf_file=link.name,
        dtype=torch.float32,
        output_loading_info=True,
        trust_remote_code=False,
        **_dequantise_option(),
    )
    loaded, info = loaded_with_info
    if info["missing_keys"]:
        raise ValueError(f"the file lacks weights: {', '.join(sorted(info['missing_keys'])[:3])}")
    for name, tensor in loaded.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"values of {name} are NaN or infinite")
    # The loaded model counts as quantised, and cannot be saved: its weights move into a plain one.
    config = loaded.config
    for key in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(config, key):
            delattr(config, key)
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, header.dtype))
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    return model.eval()


def _dequantise_option() -> dict[str, Any]:
    """Return the argument that keeps transformers from loading kernels for packed weights."""
    try:
        from transformers import GgufConfig
    except ImportError:  # versions that always dequantise
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}


def _load_tokenizer(link: Path, header: GGUFHeader, where: str) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(link.parent, gguf_file=link.name, trust_remote_code=False)
    set_pre_tokenizer(tokenizer, header.tokenizer_model, header.pre_tokenizer, where)
    if header.max_positions:
        tokenizer.model_max_length = header.max_positions
    tokenizer.init_kwargs.pop("gguf_file", None)
    return tokenizer


@contextlib.contextmanager
def _load_errors(path: Path, header: GGUFHeader) -> Iterator[None]:
    """Context manager that turns the exceptions of transformers into an error of the file."""
    try:
        yield
    except (MetalmError, OSError):
        raise
    except Exception as error:
        raise MetalmError(
            "the model of a GGUF file cannot be loaded",
            where=str(path),
            why=f"architecture {header.architecture!r}: {_first_line(error)}",
            remedy="use a file of a causal language model that transformers reads, or its safetensors checkpoint",
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Context manager without progress bars and warnings of transformers; the bar of its GGUF reader has no switch."""
    from transformers.utils import logging

    verbosity, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            logging.enable_progress_bar()


def _damage(path: Path, why: str) -> MetalmError:
    return MetalmError(
        "a GGUF file is damaged", where=str(path), why=why, remedy="restore the file, or download it again"
    )


def _first_line(error: Exception) -> str:
    line = (str(error).strip().splitlines() or [""])[0][:300]
    return line if isinstance(error, ValueError) and line else f"{type(error).__name__}: {line}".rstrip(": ")
