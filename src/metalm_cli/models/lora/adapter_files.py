"""Adapter folders: what trained and nothing else, beside the name and the hash of the base that it belongs to.

A folder holds peft's own files of each adapted part (``decoder/``, ``encoders/<name>/``), the connectors, and
:data:`ADAPTER`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from metalm_cli.config.schema.model import Lora
from metalm_cli.errors import MetalmError
from metalm_cli.models.encoders import first_line
from metalm_cli.models.lora.inject import LoraBase, LoraTargets, config_of, inject, weights_hash

ADAPTER = "metalm_adapter.json"
"""The file that makes a folder an adapter folder."""
FOLDER = "adapter"
"""Where a run keeps one."""
CONNECTORS = "connectors.safetensors"
PEFT_WEIGHTS, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
PEFT_PREFIX = "base_model.model."
"""Begins the names in files that peft writes itself."""
UNREAD = ("auto_mapping", "peft_version", "target_modules")
"""Fields of peft's config that may be anything, or are read apart."""
FORMAT = 1


@dataclass(frozen=True)
class SavedAdapter:
    """An adapter folder, read and checked as far as it goes without its base.

    Args:
        folder: The folder.
        checkpoint: Its base, as the run named it.
        relative: The base's folder from this one; None for a base from the hub.
        sha256: Of the base's weights.
        parts: Adapted parts, by key path.
        connectors: Names of the encoders whose connectors are here.
    """

    folder: Path
    checkpoint: str
    relative: str | None
    sha256: str
    parts: tuple[str, ...]
    connectors: tuple[str, ...]


# -- saving -----------------------------------------------------------------------------------------------------------


def save_adapter(folder: Path, parts: Mapping[str, Any], adaptation: LoraTargets) -> None:
    """Write what has trained.

    Args:
        folder: An empty folder, beside the place where it will stand: the base is named relative to it.
        parts: All parts of the model, by key path.
        adaptation: What was adapted.
    """
    from safetensors.torch import save_file

    base = adaptation.base
    for name, targets in adaptation.targets.items():
        where = folder.joinpath(*name.split("."))
        where.mkdir(parents=True)
        save_file({PEFT_PREFIX + key: one for key, one in _own(parts[name]).items()}, where / PEFT_WEIGHTS)
        _write_json(where / PEFT_CONFIG, _peft_fields(config_of(adaptation.options, targets, base.checkpoint)))
    connectors = {name: part for name, part in parts.items() if name.startswith("connectors.")}
    if connectors:
        tensors = {
            f"{name.partition('.')[2]}.{key}": one.detach().cpu().contiguous()
            for name, part in connectors.items()
            for key, one in part.state_dict().items()
        }
        save_file(tensors, folder / CONNECTORS)
    saved = SavedAdapter(
        folder,
        base.checkpoint,
        relative_to(folder, base),
        base.sha256,
        tuple(adaptation.targets),
        tuple(name.partition(".")[2] for name in connectors),
    )
    write_description(folder, saved)


def relative_to(folder: Path, base: LoraBase) -> str | None:
    """The way from an adapter folder to its base; None for one that is no folder by its own name (from the hub)."""
    if not Path(base.checkpoint).expanduser().exists():
        return None
    return os.path.relpath(base.folder.resolve(), folder.resolve())


def write_description(folder: Path, saved: SavedAdapter) -> None:
    """Write :data:`ADAPTER`."""
    fields = {key: value for key, value in asdict(saved).items() if key not in ("folder", "parts", "connectors")}
    described = {"format": FORMAT, "base": fields, "parts": list(saved.parts), "connectors": list(saved.connectors)}
    _write_json(folder / ADAPTER, described)


def _own(part: Any) -> dict[str, Tensor]:
    """The adapters of a part as peft names them in files."""
    from peft import get_peft_model_state_dict

    found = get_peft_model_state_dict(part, save_embedding_layers=False)
    return {key: one.detach().cpu().contiguous() for key, one in sorted(found.items())}


def _peft_fields(config: Any) -> dict[str, Any]:
    fields = {**config.to_dict(), "inference_mode": True}
    return {key: sorted(value) if isinstance(value, set) else value for key, value in fields.items()}


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


# -- loading ----------------------------------------------------------------------------------------------------------


def adapter_in(folder: Path) -> Path | None:
    """A run folder's adapter, or the folder itself if it is one; None otherwise."""
    return next((one for one in (folder / FOLDER, folder) if (one / ADAPTER).is_file()), None)


def read_adapter(folder: Path) -> SavedAdapter:
    """Read what an adapter folder says of itself.

    Raises:
        MetalmError: It is damaged, incomplete, or of a later version.
    """
    with _damage(folder):
        found = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise ValueError(f"format {found['format']}, this version reads {FORMAT}")
        base = found["base"]
        saved = SavedAdapter(
            folder,
            str(base["checkpoint"]),
            None if base["relative"] is None else str(base["relative"]),
            str(base["sha256"]),
            tuple(found["parts"]),
            tuple(found["connectors"]),
        )
        for part in saved.parts:
            if part != "decoder" and not (part.startswith("encoders.") and part.count(".") == 1 and "/" not in part):
                raise ValueError(f"{part!r} is no part of a model")
        needed = [folder.joinpath(*part.split("."), PEFT_WEIGHTS) for part in saved.parts]
        for file in [*needed, *([folder / CONNECTORS] if saved.connectors else [])]:
            if not file.is_file():
                raise ValueError(f"{file.relative_to(folder)} is missing")
    return saved


@contextmanager
def _damage(folder: Path) -> Iterator[None]:
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
    """Refuse a base with other weights than the adapter was trained on.

    Raises:
        MetalmError: They differ.
    """
    found = weights_hash(folder)
    if found != saved.sha256:
        raise MetalmError(
            "the base of this adapter has other weights than when it was trained",
            where=str(folder),
            why=f"sha256 {found[:16]}…, expected {saved.sha256[:16]}… (from {saved.folder / ADAPTER})",
            remedy="put the model back that it was trained on, or name it with base= (metalm export: --base)",
        )


def attach(model: Any, saved: SavedAdapter) -> None:
    """Put saved adapters and connectors into their base.

    Args:
        model: The base, a MetaLM; changed in place.
        saved: From :func:`read_adapter`.

    Raises:
        MetalmError: They do not fit each other, or a file is damaged.
    """
    from safetensors.torch import load_file

    parts = {"decoder": model.decoder, **{f"encoders.{name}": one for name, one in model.encoders.items()}}
    with _damage(saved.folder):
        for name in saved.parts:
            where = saved.folder.joinpath(*name.split("."))
            if name not in parts:
                raise ValueError(f"its base has no {name}")
            fields = json.loads((where / PEFT_CONFIG).read_text(encoding="utf-8"))
            inject(parts[name], _read_config(fields))
            tensors = load_file(where / PEFT_WEIGHTS)
            _fill(parts[name], {key.removeprefix(PEFT_PREFIX): one for key, one in tensors.items()})
        if saved.connectors:
            model.connectors.load_state_dict(load_file(saved.folder / CONNECTORS))
    model.adapted = True
    model.requires_grad_(False)


def _read_config(fields: dict[str, Any]) -> Any:
    """Of peft's config only what we write ourselves: other fields can name Python modules to import."""
    options = Lora(rank=fields["r"], alpha=fields["lora_alpha"], dropout=fields["lora_dropout"])
    config = config_of(options, fields["target_modules"], str(fields["base_model_name_or_path"]))
    ours = _peft_fields(config)
    other = sorted(key for key, value in fields.items() if value and key not in UNREAD and ours.get(key) != value)
    if other:
        raise ValueError(f"{PEFT_CONFIG} sets {', '.join(other)}, which is not read here")
    return config


def _fill(part: Any, tensors: dict[str, Tensor]) -> None:
    """Set the adapters of a part; exactly those that it has."""
    from peft import set_peft_model_state_dict

    expected = {key: one.shape for key, one in _own(part).items()}
    given = {key: one.shape for key, one in tensors.items()}
    if given != expected:
        wrong = sorted(key for key in expected.keys() | given.keys() if expected.get(key) != given.get(key))
        raise ValueError(f"{len(wrong)} of its tensors do not fit the base, among them {wrong[0]}")
    set_peft_model_state_dict(part, tensors)
