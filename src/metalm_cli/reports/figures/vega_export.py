"""Vega's JavaScript for the page, and figures as PNG and SVG files without a browser."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metalm_cli.common.cache import cache_folder, write_to_cache
from metalm_cli.errors import Exit, MetalmError
from metalm_cli.reports.figures.training_figures import Figure

PACKAGE = "vl-convert-python"
LIBRARY = "window.vegaEmbed=vegaEmbed;"
"""What the page needs of the library."""
PATIENCE = 300
"""Seconds to wait for the bundle."""
WIDTH = 640
"""Pixels of an exported figure, before its scale."""
SCALE = 2.0
"""Of PNG files: pixels of the file for one of the figure."""
_VARIABLE = re.compile(r"var\((--[\w-]+)\)")


def javascript(cache: Path | None = None) -> str:
    """Vega, Vega-Lite and vega-embed as one script, kept in the cache: to bundle them takes seconds.

    Args:
        cache: The cache folder; default the program's.

    Raises:
        MetalmError: It cannot be bundled.
    """
    version = importlib.metadata.version(PACKAGE)
    path = cache_folder(cache) / "report" / f"vega-{version}.js"
    kept = _kept(path)
    if kept is not None:
        return kept
    # A script element ends at this sequence, wherever it stands.
    script = _bundled().replace("</script", "<\\/script").replace("<!--", "<\\!--")
    try:
        with write_to_cache(path) as file:
            file.write(f"//{_digest(script)}\n{script}".encode())
    except (MetalmError, OSError):
        pass  # a cache that cannot be written costs time, and nothing else
    return script


def _bundled() -> str:
    """The script, from a process of its own: a run that has just trained takes no JavaScript engine into its memory."""
    code = f"import sys, vl_convert; sys.stdout.buffer.write(vl_convert.javascript_bundle({LIBRARY!r}).encode())"
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=PATIENCE, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip().splitlines()
        raise MetalmError(
            "the JavaScript of figures cannot be bundled",
            why=said[-1] if said else str(error),
            remedy=f"install {PACKAGE} again; --terminal shows the tables without it",
            exit_code=Exit.FAILED,
        ) from error
    return done.stdout.decode()


def _kept(path: Path) -> str | None:
    """The script in the cache, if it is whole."""
    try:
        head, _, script = path.read_text(encoding="utf-8").partition("\n")
    except (OSError, ValueError):
        return None
    return script if head == f"//{_digest(script)}" else None


def _digest(script: str) -> str:
    return hashlib.sha256(script.encode()).hexdigest()


def export(
    figures: Sequence[Figure], folder: Path, colours: Mapping[str, str], config: Mapping[str, Any]
) -> list[Path]:
    """Write each figure as PNG and SVG.

    Args:
        figures: The figures.
        folder: Where to; made where missing. Files of the same names are replaced.
        colours: Value of each variable of the style sheet.
        config: Vega-Lite's configuration, as the page has it.

    Returns:
        The files.

    Raises:
        MetalmError: The folder cannot be written.
    """
    import vl_convert

    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for figure in figures:
            spec = resolved({**figure.spec, "config": dict(config), "background": colours["--page"]}, colours)
            spec |= {"width": WIDTH, "title": {"text": figure.title, "anchor": "start"}, "description": figure.told}
            svg, png = folder / f"{figure.key}.svg", folder / f"{figure.key}.png"
            svg.write_text(vl_convert.vegalite_to_svg(spec), encoding="utf-8")
            png.write_bytes(vl_convert.vegalite_to_png(spec, scale=SCALE))
            written += [svg, png]
    except OSError as error:
        raise MetalmError(
            "the figures cannot be written",
            where=str(folder),
            why=error.strerror or str(error),
            remedy="choose another folder with --figures DIR",
            exit_code=Exit.FAILED,
        ) from error
    return written


def resolved(spec: Mapping[str, Any], colours: Mapping[str, str]) -> dict[str, Any]:
    """A specification with colours instead of the style sheet's variables."""
    text = _VARIABLE.sub(lambda match: colours[match[1]], json.dumps(spec))
    found: dict[str, Any] = json.loads(text)
    return found
