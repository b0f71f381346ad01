"""Adapter folders: only what trained, with the name and the hash of its base model.

A folder holds peft's own files of each adapted part (``decoder/``, ``encoders/<name>/``, ``seq2seq/``), all weights of
each part that trained beside them without adapters, the connectors, and :data:`ADAPTER_FILE`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from metalm_cli.common.paths import expand_user
from metalm_cli.config.schema.model import Lora
from metalm_cli.errors import MetalmError
from metalm_cli.models.checkpoint_checks.finite_weights import check_finite
from metalm_cli.models.checkpoint_checks.loading_errors import first_line
from metalm_cli.models.families import family_of_model
from metalm_cli.models.families.base import ModelParts
from metalm_cli.models.lora.inject import LoraBase, LoraTargets, inject, peft_config, safetensors_hash

ADAPTER_FILE = "metalm_adapter.json"
"""File that marks an adapter folder."""
ADAPTER_FOLDER = "adapter"
"""Name of the adapter folder in a run folder."""
CONNECTORS_FILE = "connectors.safetensors"
PEFT_WEIGHTS, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
WHOLE_WEIGHTS = "model.safetensors"
"""File with all weights of a part that trained without adapters, in the folder of the part."""
PEFT_PREFIX = "base_model.model."
"""Prefix of tensor names in the files that peft writes."""
UNCHECKED_FIELDS = ("auto_mapping", "peft_version", "target_modules")
"""Fields of peft's config that may have any value, or are read separately."""
FORMAT_VERSION = 1
WHOLE_PARTS_FORMAT = 2
"""Format of folders with parts that trained without adapters, which earlier versions do not read."""


@dataclass(frozen=True)
class SavedAdapter:
    """Description of an adapter folder, checked without its base.

    Args:
        folder: The folder.
        checkpoint: Name of the base in the run's recipe.
        relative: Path of the base relative to the folder; None for a base from the hub.
        sha256: Hash of the base's weights.
        parts: Key paths of the adapted parts.
        connectors: Names of the encoders whose connectors are saved.
        whole: Key paths of the parts that trained without adapters, all weights of which are saved.
    """

    folder: Path
    checkpoint: str
    relative: str | None
    sha256: str
    parts: tuple[str, ...]
    connectors: tuple[str, ...]
    whole: tuple[str, ...] = ()


# -- saving -----------------------------------------------------------------------------------------------------------


def save_adapter(folder: Path, parts: Mapping[str, Any], lora_targets: LoraTargets) -> None:
    """Save adapters, connectors, and the parts that trained without adapters.

    Args:
        folder: An empty folder next to its final location: the path of the base is relative to it.
        parts: All parts of the model, by key path; ``requires_grad`` of their parameters decides what trained.
        lora_targets: The layers with adapters, and their base, which is on disk.
    """
    from safetensors.torch import save_file
    from safetensors.torch import save_model as save_module

    base = lora_targets.base
    assert base is not None, "adapters of a model that its own run assembled are merged"
    for name, targets in lora_targets.targets.items():
        part_folder = folder.joinpath(*name.split("."))
        part_folder.mkdir(parents=True)
        save_file(
            {PEFT_PREFIX + key: tensor for key, tensor in _adapter_tensors(parts[name]).items()},
            part_folder / PEFT_WEIGHTS,
        )
        _write_json(
            part_folder / PEFT_CONFIG, _peft_fields(peft_config(lora_targets.options, targets, base.checkpoint))
        )
    connectors = {name: part for name, part in parts.items() if name.startswith("connectors.")}
    if connectors:
        tensors = {
            f"{name.partition('.')[2]}.{key}": tensor.detach().cpu().contiguous()
            for name, part in connectors.items()
            for key, tensor in part.state_dict().items()
        }
        save_file(tensors, folder / CONNECTORS_FILE)
    whole = [
        name
        for name, part in parts.items()
        if not (name in lora_targets.targets or name in connectors)
        and any(parameter.requires_grad for parameter in part.parameters())
    ]
    for name in whole:
        part_folder = folder.joinpath(*name.split("."))
        part_folder.mkdir(parents=True, exist_ok=True)
        save_module(parts[name], str(part_folder / WHOLE_WEIGHTS))
    saved = SavedAdapter(
        folder,
        base.checkpoint,
        relative_to(folder, base),
        base.sha256,
        tuple(lora_targets.targets),
        tuple(name.partition(".")[2] for name in connectors),
        tuple(whole),
    )
    write_description(folder, saved)


def relative_to(folder: Path, base: LoraBase) -> str | None:
    """Return the path from an adapter folder to its base; None if the base is a name or a GGUF file."""
    if not expand_user(base.checkpoint).is_dir():
        return None
    return os.path.relpath(base.folder.resolve(), folder.resolve())


def write_description(folder: Path, saved: SavedAdapter) -> None:
    """Write :data:`ADAPTER_FILE`."""
    fields = {key: getattr(saved, key) for key in ("checkpoint", "relative", "sha256")}
    description = {
        "format": WHOLE_PARTS_FORMAT if saved.whole else FORMAT_VERSION,
        "base": fields,
        "parts": list(saved.parts),
        "connectors": list(saved.connectors),
        **({"whole": list(saved.whole)} if saved.whole else {}),
    }
    _write_json(folder / ADAPTER_FILE, description)


def _adapter_tensors(part: Any) -> dict[str, Tensor]:
    """Return the adapter tensors of a part, by peft's names in files."""
    from peft import get_peft_model_state_dict

    tensors = get_peft_model_state_dict(part, save_embedding_layers=False)
    return {key: tensor.detach().cpu().contiguous() for key, tensor in sorted(tensors.items())}


def _peft_fields(config: Any) -> dict[str, Any]:
    fields = {**config.to_dict(), "inference_mode": True}
    return {key: sorted(value) if isinstance(value, set) else value for key, value in fields.items()}


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


# -- loading ----------------------------------------------------------------------------------------------------------


def adapter_in(folder: Path) -> Path | None:
    """Return the adapter of a run folder, or the folder itself if it is an adapter; otherwise None."""
    return next(
        (candidate for candidate in (folder / ADAPTER_FOLDER, folder) if (candidate / ADAPTER_FILE).is_file()), None
    )


def read_adapter(folder: Path) -> SavedAdapter:
    """Read the description of an adapter folder.

    Raises:
        MetalmError: The folder is damaged, incomplete, or of a later version.
    """
    with _loading_errors(folder):
        description = json.loads((folder / ADAPTER_FILE).read_text(encoding="utf-8"))
        if description["format"] not in (FORMAT_VERSION, WHOLE_PARTS_FORMAT):
            raise ValueError(
                f"format {description['format']}, this version reads {FORMAT_VERSION} and {WHOLE_PARTS_FORMAT}"
            )
        base = description["base"]
        saved = SavedAdapter(
            folder,
            str(base["checkpoint"]),
            None if base["relative"] is None else str(base["relative"]),
            str(base["sha256"]),
            tuple(description["parts"]),
            tuple(description["connectors"]),
            tuple(description.get("whole", ())),
        )
        for part in (*saved.parts, *saved.whole):
            if part not in ("decoder", "seq2seq") and not (
                part.startswith("encoders.") and part.count(".") == 1 and "/" not in part
            ):
                raise ValueError(f"{part!r} is not a part of a model")
        files = [folder.joinpath(*part.split("."), PEFT_WEIGHTS) for part in saved.parts]
        files += [saved.folder.joinpath(*part.split("."), WHOLE_WEIGHTS) for part in saved.whole]
        for file in [*files, *([folder / CONNECTORS_FILE] if saved.connectors else [])]:
            if not file.is_file():
                raise ValueError(f"{file.relative_to(folder)} is missing")
    return saved


@contextmanager
def _loading_errors(folder: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise MetalmError(
            "an adapter cannot be loaded",
            where=str(folder),
            why=f"{type(error).__name__}: {first_line(error)}" if isinstance(error, KeyError) else first_line(error),
            remedy="restore the folder as its run wrote it",
        ) from error


def check_base(saved: SavedAdapter, folder: Path) -> None:
    """Check that a base has the weights that the adapter was trained on.

    Raises:
        MetalmError: The weights differ.
    """
    actual = safetensors_hash(folder)
    if actual != saved.sha256:
        raise MetalmError(
            "the base of the adapter has other weights than in training",
            where=str(folder),
            why=f"sha256 {actual[:16]}…, expected {saved.sha256[:16]}… (from {saved.folder / ADAPTER_FILE})",
            remedy="restore the base that the adapter was trained on, or pass it with base= (metalm export: --base)",
        )


def attach(model: Any, saved: SavedAdapter) -> None:
    """Add saved adapters to their base, and replace the weights of the parts that trained without adapters.

    Args:
        model: The base, a MetaLM; changed in place.
        saved: From :func:`read_adapter`.

    Raises:
        MetalmError: The adapter does not fit the base, or a file is damaged.
    """
    from safetensors.torch import load_file

    parts: dict[str, Any] = dict(family_of_model(model).parts(ModelParts(model, None, {})))
    with _loading_errors(saved.folder):
        for name in saved.parts:
            part_folder = saved.folder.joinpath(*name.split("."))
            if name not in parts:
                raise ValueError(f"the base has no {name}")
            fields = json.loads((part_folder / PEFT_CONFIG).read_text(encoding="utf-8"))
            config = _read_config(fields)
            tensors = load_file(part_folder / PEFT_WEIGHTS)
            check_finite(tensors.items(), str(part_folder / PEFT_WEIGHTS))
            if not any(config.r in tensor.shape for tensor in tensors.values()):
                raise ValueError(f"{PEFT_CONFIG} sets rank {config.r}, which no tensor of {PEFT_WEIGHTS} has")
            inject(parts[name], config)
            _set_adapter_tensors(
                parts[name], {key.removeprefix(PEFT_PREFIX): tensor for key, tensor in tensors.items()}
            )
        if saved.connectors:
            tensors = load_file(saved.folder / CONNECTORS_FILE)
            check_finite(tensors.items(), str(saved.folder / CONNECTORS_FILE))
            model.connectors.load_state_dict(tensors)
        for name in saved.whole:
            _load_whole_part(name, parts, saved.folder.joinpath(*name.split("."), WHOLE_WEIGHTS))
    model.adapted = True
    model.requires_grad_(False)


def _load_whole_part(name: str, parts: Mapping[str, Any], file: Path) -> None:
    """Load all weights of a part, whose names and shapes must match exactly."""
    from safetensors.torch import load_file
    from safetensors.torch import load_model as load_module

    if name not in parts:
        raise ValueError(f"the base has no {name}")
    check_finite(load_file(file).items(), str(file))
    load_module(parts[name], str(file))


def _read_config(fields: dict[str, Any]) -> Any:
    """Read only the fields of peft's config that metalm writes: others can name Python modules to import."""
    options = Lora(rank=fields["r"], alpha=fields["lora_alpha"], dropout=fields["lora_dropout"])
    config = peft_config(options, fields["target_modules"], str(fields["base_model_name_or_path"]))
    defaults = _peft_fields(config)
    unsupported = sorted(
        key for key, value in fields.items() if value and key not in UNCHECKED_FIELDS and defaults.get(key) != value
    )
    if unsupported:
        raise ValueError(f"{PEFT_CONFIG} sets {', '.join(unsupported)}, which is not supported")
    return config


def _set_adapter_tensors(part: Any, tensors: dict[str, Tensor]) -> None:
    """Set the adapter tensors of a part, whose names and shapes must match exactly."""
    from peft import set_peft_model_state_dict

    expected = {key: tensor.shape for key, tensor in _adapter_tensors(part).items()}
    actual = {key: tensor.shape for key, tensor in tensors.items()}
    if actual != expected:
        mismatched = sorted(key for key in expected.keys() | actual.keys() if expected.get(key) != actual.get(key))
        raise ValueError(f"{len(mismatched)} adapter tensors do not fit the base, among them {mismatched[0]}")
    set_peft_model_state_dict(part, tensors)
