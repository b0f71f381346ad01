"""WebDataset shards for tests."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from metalm_cli.errors import MetalmError


def picture(number: int, size: tuple[int, int] = (8, 6)) -> bytes:
    """A PNG of one colour, which the number determines."""
    data = io.BytesIO()
    Image.new("RGB", size, (number % 256, 40, 255 - number % 256)).save(data, "PNG")
    return data.getvalue()


def write_shard(path: Path, members: Mapping[str, bytes | str] | Iterable[tuple[str, bytes | str]]) -> Path:
    """Write a tar file of regular members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items() if isinstance(members, Mapping) else members:
            add_member(tar, name, content)
    return path


def add_member(tar: tarfile.TarFile, name: str, content: bytes | str = b"", **facts: Any) -> None:
    """Add a member; ``facts`` are attributes of its header."""
    data = content.encode() if isinstance(content, str) else content
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for fact, value in facts.items():
        setattr(member, fact, value)
    tar.addfile(member, io.BytesIO(data))


def captions(first: int, count: int) -> dict[str, bytes | str]:
    """Members of rows with an image and its text, numbered from ``first``."""
    members: dict[str, bytes | str] = {}
    for number in range(first, first + count):
        members |= {f"{number:04}.png": picture(number), f"{number:04}.txt": f"Picture number {number}."}
    return members


def error_of(action: Callable[[], Any]) -> MetalmError:
    """The error that an action raises."""
    with pytest.raises(MetalmError) as caught:
        action()
    return caught.value
