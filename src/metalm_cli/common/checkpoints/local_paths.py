"""Local paths in what is published: in model cards, lineages and the configs that transformers writes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

PATH_KEYS = ("_name_or_path", "name_or_path")
"""Keys under which transformers records where a config or a tokenizer was loaded from."""
CONFIG_FILES = ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json")
LOCAL_PATH = re.compile(r"(?<![\w.:/~-])(?:~|\.\.)?/(?:[^\s/,:;'\"`\])}]+/)*(?=[^\s/])")
"""Folders at the beginning of an absolute path, or of one that leaves the current folder."""


def without_local_folders(text: str) -> str:
    """Replace absolute paths in a text by the names of their files.

    >>> without_local_folders("path: /home/ada/texts/my.jsonl, ~/a/b, ../c/d.json")
    'path: my.jsonl, b, d.json'
    >>> without_local_folders("https://example.org/a/b, owner/name, runs/first, and/or")
    'https://example.org/a/b, owner/name, runs/first, and/or'
    """
    return LOCAL_PATH.sub("", text)


def without_local_paths(value: Any) -> Any:
    """Replace absolute paths among the texts of JSON content by the names of their files."""
    if isinstance(value, dict):
        return {key: without_local_paths(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_local_paths(inner) for inner in value]
    return without_local_folders(value) if isinstance(value, str) else value


def drop_path_keys(folder: Path) -> None:
    """Remove where transformers loaded parts from, out of the configs in a folder and the folders in it."""
    for name in CONFIG_FILES:
        for path in folder.rglob(name):
            content = json.loads(path.read_text(encoding="utf-8"))
            cleaned = _without_path_keys(content)
            if cleaned != content:
                path.write_text(json.dumps(cleaned, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _without_path_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_path_keys(inner) for key, inner in value.items() if key not in PATH_KEYS}
    return [_without_path_keys(inner) for inner in value] if isinstance(value, list) else value
