"""Checks of a checkpoint's JSON files before a model is built: a checkpoint chooses weights and sizes, but no code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from metalm_cli.errors import MetalmError

CONFIG, GENERATION_CONFIG = "config.json", "generation_config.json"
WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
QUANTISATION_KEYS = ("quantization_config", "compression_config")
"""Keys of quantised weights; several of their methods fetch kernels or import other packages."""
REDIRECTION_KEYS = ("configuration_files", "transformers_weights")
"""Keys that name other files in place of ``config.json`` and ``model.safetensors``."""
SECTIONS = ("decoder_config", "tokens")
"""Keys of a MetaLM's config that hold an object."""
NAMED_SECTIONS = ("encoder_configs", "connectors", "docking", "training")
"""Keys of a MetaLM's config that hold objects by name."""
MODULE_COUNT = re.compile(r"(layers?|blocks|depths?|stages|groups|group_num|experts)$")
"""Keys that count modules, which are built one by one."""
MAX_MODULES = 1000
"""Largest such count that is accepted without as many tensors in the checkpoint."""
LABEL_COUNT = "num_labels"
MAX_LABELS = 1_000_000


def load_config(folder: Path, remote_code: bool) -> Any:
    """Load the config of a checkpoint folder, without its choice of attention code.

    Args:
        folder: The folder.
        remote_code: Run Python code of the checkpoint.

    Raises:
        MetalmError: A file asks for something that is not loaded, or is damaged (:func:`check_config_files`).
        Exception: transformers raises many kinds of errors for configs that are invalid or unknown.
    """
    from transformers import AutoConfig

    check_config_files(folder)
    config = reset_implementations(AutoConfig.from_pretrained(folder, trust_remote_code=remote_code))
    if config.model_type == "metalm":
        vars(config).pop("auto_map", None)  # of a standalone export: metalm has the classes, and saves no code
    return config


def reset_implementations(config: Any) -> Any:
    """Reset the implementations of attention and experts in a config, which could name kernels on the hub."""
    config._attn_implementation = None
    config._experts_implementation = None
    return config


def check_config_files(folder: Path) -> None:
    """Check the JSON files of a checkpoint folder; files that do not exist are not checked.

    Raises:
        MetalmError: A file is damaged; the config asks for quantised weights or other files, or counts more modules
            than the checkpoint has tensors; the shard index names a file outside the folder; or the folder also holds
            an adapter of peft.
    """
    index = _read_object(folder / WEIGHTS_INDEX)
    if index is not None:
        _check_index(folder / WEIGHTS_INDEX, index)
    _read_object(folder / GENERATION_CONFIG)
    if (folder / "adapter_config.json").is_file():
        raise MetalmError(
            "a model folder also holds an adapter of peft, which would change its weights",
            where=str(folder / "adapter_config.json"),
            remedy="remove the adapter's files from the folder, or merge the adapter into the weights with peft",
        )
    config = _read_object(folder / CONFIG)
    if config is not None:
        _check_config(folder / CONFIG, config, max(MAX_MODULES, _count_tensors(folder, index)))


def _read_object(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None if the file does not exist."""
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _damage(path, f"it is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise _damage(path, f"got {json.dumps(value)[:40]}, expected a JSON object")
    return value


def _damage(path: Path, why: str) -> MetalmError:
    return MetalmError(
        "the model cannot be loaded",
        where=str(path),
        why=why,
        remedy="restore the file, or name another folder of a causal language model",
    )


def _count_tensors(folder: Path, index: Mapping[str, Any] | None) -> int:
    from safetensors import SafetensorError, safe_open

    if index is not None:
        return len(index["weight_map"])
    if not (folder / WEIGHTS).is_file():
        return 0
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            return len(file.keys())
    except (OSError, SafetensorError) as error:
        raise _damage(folder / WEIGHTS, str(error)) from error


def _check_index(path: Path, index: Mapping[str, Any]) -> None:
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict):
        raise _damage(path, "weight_map is not an object")
    for tensor, name in weight_map.items():
        if not _is_file_name(name):
            raise _damage(path, f"{tensor} is in {name!r}, expected a safetensors file in the same folder")


def _is_file_name(name: object) -> bool:
    """Return whether a value is the name of a safetensors file, without a folder."""
    return (
        isinstance(name, str)
        and name.endswith(".safetensors")
        and PurePosixPath(name).name == name
        and "\\" not in name
    )


def _check_config(path: Path, config: Mapping[str, Any], max_modules: int) -> None:
    for key in REDIRECTION_KEYS:
        if config.get(key):
            raise _damage(path, f"{key} names other files, which are not read")
    for key, value in _sections(config):
        if not isinstance(value, dict | None):
            raise _damage(path, f"{key} is {json.dumps(value)[:40]}, expected an object")
    for key, value in _values(config):
        if key in QUANTISATION_KEYS and value:
            raise MetalmError(
                "the weights of the model are quantised",
                where=str(path),
                why=f"{key} is set, and metalm computes with ordinary weights",
                remedy="use the model's original checkpoint, or convert it to safetensors of an ordinary dtype",
            )
        if isinstance(value, int) and (
            (MODULE_COUNT.search(key) and value > max_modules) or (key == LABEL_COUNT and value > MAX_LABELS)
        ):
            raise _damage(path, f"{key} is {value:,}, for which the checkpoint has too few tensors")


def _sections(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the keys whose values metalm reads as objects, with the values."""
    yield "auto_map", config.get("auto_map")
    saved = config.get("metalm")
    yield "metalm", saved
    if isinstance(saved, dict):
        yield "metalm.tokens", saved.get("tokens")
        yield "metalm.training", saved.get("training")
    if config.get("model_type") not in ("metalm", "metalm-dual-encoder"):
        return
    for key in (*SECTIONS, *NAMED_SECTIONS):
        value = config.get(key)
        yield key, value
        if key in NAMED_SECTIONS and isinstance(value, dict):
            yield from ((f"{key}.{name}", entry) for name, entry in value.items())


def _values(config: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every key of nested objects with its value, and with each element of a list."""
    if isinstance(config, dict):
        for name, value in config.items():
            yield name, value
            yield from _values(value, name)
    elif isinstance(config, list):
        for value in config:
            yield key, value
            yield from _values(value, key)
