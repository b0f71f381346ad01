"""Files of a checkpoint: tensors in shards of safetensors, hashed as they are written; state and manifest in JSON."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_GROUP_NAME = re.compile(r"[A-Za-z0-9][\w.-]*$")
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class GroupPlan:
    """Plan of the files of a tensor group.

    Attributes:
        shards: File name -> names of its tensors.
        aliases: Name -> the name under which the same tensor is stored.
        sizes: Name -> bytes of the tensor.
    """

    shards: dict[str, list[str]]
    aliases: dict[str, str]
    sizes: dict[str, int]

    def index(self) -> dict[str, Any]:
        """Index of a group in several files, as transformers writes it."""
        weight_map = {key: name for name, members in self.shards.items() for key in members}
        return {"metadata": {"total_size": sum(self.sizes.values())}, "weight_map": weight_map}


def plan_group(group: str, tensors: dict[str, torch.Tensor], shard_bytes: int) -> GroupPlan:
    """Divide a group of tensors into files of at most ``shard_bytes``.

    Raises:
        TypeError: The group's name is invalid, or a tensor cannot be saved.
    """
    if not _GROUP_NAME.match(group):
        raise TypeError(f"{group!r} is not a valid name of a tensor group")
    first_names: dict[tuple[Any, ...], str] = {}
    aliases: dict[str, str] = {}
    sizes: dict[str, int] = {}
    for key, tensor in tensors.items():
        if type(tensor).__name__ == "DTensor" or tensor.layout != torch.strided or tensor.dtype not in _DTYPES:
            raise TypeError(f"{group}: {key} cannot be saved: {type(tensor).__name__}, {tensor.dtype}")
        if tensor.numel():
            storage = (tensor.data_ptr(), tensor.device, tensor.dtype, tuple(tensor.shape), tensor.stride())
            stored_name = first_names.setdefault(storage, key)
            if stored_name != key:
                aliases[key] = stored_name
                continue
        sizes[key] = tensor.numel() * tensor.element_size()
    # Widest dtype first, as safetensors' own writer does: every tensor then starts at a multiple of its width.
    order = sorted(sizes, key=lambda key: (-tensors[key].element_size(), key))
    shards: list[list[str]] = [[]]
    shard_size = 0
    for key in order:
        if shards[-1] and shard_size + sizes[key] > shard_bytes:
            shards.append([])
            shard_size = 0
        shards[-1].append(key)
        shard_size += sizes[key]
    if len(shards) == 1:
        return GroupPlan({f"{group}.safetensors": shards[0]}, aliases, sizes)
    names = [f"{group}-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    return GroupPlan(dict(zip(names, shards, strict=True)), aliases, sizes)


def write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Write a safetensors file with one tensor on the CPU at a time, hashed while it is written."""
    header: dict[str, Any] = {}
    start = 0
    for key, tensor in tensors.items():
        end = start + tensor.numel() * tensor.element_size()
        header[key] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    header_bytes = json.dumps({"__metadata__": {"format": "pt"}, **header}, ensure_ascii=False).encode()
    header_bytes += b" " * (-len(header_bytes) % 8)

    def chunks() -> Iterator[Any]:
        yield len(header_bytes).to_bytes(8, "little")
        yield header_bytes
        for tensor in tensors.values():
            if tensor.numel():
                flat = tensor.detach().cpu().contiguous().reshape(-1)
                yield flat.view(torch.uint8).numpy().data

    return write_chunks(path, chunks())


def write_chunks(path: Path, chunks: Iterable[Any]) -> dict[str, Any]:
    """Write and sync a new file, and return its size and sha256.

    Raises:
        OSError: The file exists, or cannot be written.
    """
    digest, size = hashlib.sha256(), 0
    with open(path, "xb") as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        file.flush()
        os.fsync(file.fileno())
    return {"size": size, "sha256": digest.hexdigest()}


def encode_json(value: Any) -> bytes:
    """Encode a value as indented ASCII JSON with a final line end."""
    return (json.dumps(value, indent=1, ensure_ascii=True) + "\n").encode()


def encode_manifest(manifest: dict[str, Any]) -> bytes:
    """Encode a manifest with the sha256 of itself."""
    return encode_json({**manifest, "sha256": hashlib.sha256(encode_json(manifest)).hexdigest()})


def decode_manifest(data: bytes) -> dict[str, Any] | None:
    """Decode a manifest; None if it was altered or truncated."""
    try:
        manifest = json.loads(data)
        manifest.pop("sha256")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return None
    return manifest if encode_manifest(manifest) == data else None


def encode_state(state: dict[str, Any]) -> bytes:
    """Encode the state of a checkpoint.

    Raises:
        TypeError: A key is not a string, or a value is not JSON.
    """

    def check(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                if not isinstance(key, str):
                    raise TypeError(f"{path} has the key {key!r}: JSON would turn it into a string")
                check(item, f"{path}.{key}")
        elif isinstance(value, list | tuple):
            for index, item in enumerate(value):
                check(item, f"{path}.{index}")

    check(state, "state")
    return encode_json(state)
