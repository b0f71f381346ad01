"""Contents that an encoder and its connector have read before: vectors that sessions dock in place of the content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np

from metalm_cli.common.atomic_files import write_atomically
from metalm_cli.errors import MetalmError
from metalm_cli.sessions.processors import DockInput, digest

FORMAT = "metalm docks 1"
"""Format of a file of docks."""
REMEDY = "encode the texts with this model: metalm_cli.encode(model, texts)"


@dataclass(frozen=True)
class DockOrigin:
    """What made the vectors of docks, and what reads the docks of a model.

    Args:
        encoder: Name of the encoder.
        width: Width of the decoder's token embeddings.
        connector: ``kind`` and settings of the connector.
        dtype: Dtype of the encoder's weights.
        encoder_sha256: SHA-256 of the encoder's weights.
        connector_sha256: SHA-256 of the connector's weights.
        settings: Further settings of the encoder that change its outputs, such as ``keep_special``.
    """

    encoder: str
    width: int
    connector: Mapping[str, Any]
    dtype: str
    encoder_sha256: str
    connector_sha256: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def differences(self, model: DockOrigin) -> list[str]:
        """Describe the differences from what a model would make; none if its vectors are those of the docks."""
        labels = {
            "encoder": "encoder",
            "width": "width of the decoder",
            "connector": "connector",
            "dtype": "dtype of the encoder",
            "settings": "settings of the encoder",
        }
        differing = [
            f"{label}: the docks have {getattr(self, name)}, the model has {getattr(model, name)}"
            for name, label in labels.items()
            if getattr(self, name) != getattr(model, name)
        ]
        for part in ("encoder", "connector"):
            own, other = (getattr(origin, f"{part}_sha256") for origin in (self, model))
            if own != other and not differing:  # other weights follow from any other difference
                differing.append(f"the weights of the {part} differ: sha256 {own[:12]}…, in the model {other[:12]}…")
        return differing


@dataclass(frozen=True)
class EncodedDock:
    """Vectors of one content, for ``Docked(encoder, dock)``.

    Args:
        vectors: The decoder's input vectors. ``[p, d]`` float32.
        origin: What made them.
    """

    vectors: np.ndarray = field(repr=False)
    origin: DockOrigin

    def __len__(self) -> int:
        """Return the number of decoder positions."""
        return len(self.vectors)

    def dock_input(self, model: DockOrigin) -> DockInput:
        """Return the dock for a model.

        Raises:
            MetalmError: Another model made the vectors.
        """
        differences = self.origin.differences(model)
        if differences:
            raise MetalmError("the docks are of another model", why="; ".join(differences), remedy=REMEDY)
        key = digest(f"vectors of {self.origin.encoder}", self.vectors)
        nothing = np.zeros(0, dtype=np.int64)
        return DockInput(self.origin.encoder, {}, nothing, key, {}, len(self.vectors), self.vectors)


class Docks(Sequence[EncodedDock]):
    """Docks of several contents, in their order, as :func:`metalm_cli.encode` returns them.

    Args:
        vectors: Vectors of each content. ``[p, d]`` float32 each.
        origin: What made them.
    """

    def __init__(self, vectors: Sequence[np.ndarray], origin: DockOrigin) -> None:
        self.vectors, self.origin = list(vectors), origin

    def __len__(self) -> int:
        return len(self.vectors)

    @overload
    def __getitem__(self, index: int) -> EncodedDock: ...

    @overload
    def __getitem__(self, index: slice) -> Docks: ...

    def __getitem__(self, index: int | slice) -> EncodedDock | Docks:
        if isinstance(index, slice):
            return Docks(self.vectors[index], self.origin)
        return EncodedDock(self.vectors[index], self.origin)

    def __iter__(self) -> Iterator[EncodedDock]:
        return (EncodedDock(vectors, self.origin) for vectors in self.vectors)

    def __repr__(self) -> str:
        positions = sum(map(len, self.vectors))
        return f"Docks({len(self):,} contents, {positions:,} positions of width {self.origin.width})"

    def save(self, path: str | Path) -> None:
        """Write the docks to a file, for :func:`metalm_cli.load_docks`.

        Args:
            path: A safetensors file; an existing one is replaced at the end.

        Raises:
            MetalmError: The file cannot be written.
        """
        from safetensors.numpy import save

        vectors = np.concatenate([np.zeros((0, self.origin.width), dtype=np.float32), *self.vectors])
        lengths = np.array([len(dock) for dock in self.vectors], dtype=np.int64)
        origin, checksum = json.dumps(asdict(self.origin)), _checksum(vectors, lengths)
        metadata = {"format": FORMAT, "origin": origin, "sha256": checksum}
        write_atomically(Path(path), save({"vectors": vectors, "lengths": lengths}, metadata))


def load_docks(path: str | Path) -> Docks:
    """Load docks that :meth:`Docks.save` wrote. A session refuses those of another model.

    Raises:
        MetalmError: The file does not exist, holds no docks, or is damaged.
    """
    from safetensors import safe_open

    path = Path(path)
    if not path.is_file():
        raise MetalmError(
            "the file of docks does not exist", where=str(path), remedy="save docks: metalm_cli.encode(…).save(path)"
        )
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise _unreadable(path, f"its format is {metadata.get('format')!r}, expected {FORMAT!r}")
            origin = DockOrigin(**json.loads(metadata["origin"]))
            vectors, lengths = file.get_tensor("vectors"), file.get_tensor("lengths")
    except MetalmError:
        raise
    except Exception as error:  # damaged headers fail in many ways
        raise _unreadable(path, f"{type(error).__name__}: {error}") from error
    if metadata.get("sha256") != _checksum(vectors, lengths):
        raise _unreadable(path, "its checksum differs")
    return Docks(np.split(vectors, np.cumsum(lengths)[:-1]) if len(lengths) else [], origin)


def _unreadable(path: Path, why: str) -> MetalmError:
    return MetalmError("the file holds no docks that can be read", where=str(path), why=why, remedy=REMEDY)


def _checksum(vectors: np.ndarray, lengths: np.ndarray) -> str:
    state = hashlib.sha256(f"{vectors.shape} {vectors.dtype.str} {lengths.shape} {lengths.dtype.str}".encode())
    for array in (vectors, lengths):
        state.update(np.ascontiguousarray(array).data)
    return state.hexdigest()
