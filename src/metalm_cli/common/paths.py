"""Paths as users write them."""

from __future__ import annotations

import os
from pathlib import Path


def expand_user(path: str | Path) -> Path:
    """Return a path with the home folder in place of ``~``; the name of an unknown user stays in it.

    ``Path.expanduser`` raises RuntimeError there; a path that does not exist is an error that names the path.
    """
    return Path(os.path.expanduser(path))
