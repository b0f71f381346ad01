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
BUNDLE_ENTRY = "window.vegaEmbed=vegaEmbed;"
"""Statement that exports the part of the library that the page uses."""
BUNDLE_TIMEOUT_S = 300
"""Seconds that bundling may take."""
FIGURE_WIDTH = 640
"""Width of an exported figure in pixels, before scaling."""
PNG_SCALE = 2.0
"""Pixels of a PNG file per pixel of the figure."""
_VARIABLE = re.compile(r"var\((--[\w-]+)\)")


def javascript(cache: Path | None = None) -> str:
    """Vega, Vega-Lite and vega-embed as one script, cached because bundling takes seconds.

    Args:
        cache: The cache folder; by default that of the program.

    Raises:
        MetalmError: The script cannot be bundled.
    """
    version = importlib.metadata.version(PACKAGE)
    path = cache_folder(cache) / "report" / f"vega-{version}.js"
    cached = _read_cached(path)
    if cached is not None:
        return cached
    # This sequence would end the script element.
    script = _bundle_javascript().replace("</script", "<\\/script").replace("<!--", "<\\!--")
    try:
        with write_to_cache(path) as file:
            file.write(f"//{_digest(script)}\n{script}".encode())
    except (MetalmError, OSError):
        pass  # without a cache, bundling only takes longer
    return script


def _bundle_javascript() -> str:
    """Bundle the script in a separate process, so that a training process does not load a JavaScript engine."""
    code = f"import sys, vl_convert; sys.stdout.buffer.write(vl_convert.javascript_bundle({BUNDLE_ENTRY!r}).encode())"
    try:
        process = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, timeout=BUNDLE_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        error_lines = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip().splitlines()
        raise MetalmError(
            "the JavaScript of the figures cannot be bundled",
            why=error_lines[-1] if error_lines else str(error),
            remedy=f"reinstall {PACKAGE}; --terminal prints the tables without it",
            exit_code=Exit.FAILED,
        ) from error
    return process.stdout.decode()


def _read_cached(path: Path) -> str | None:
    """The cached script; None if it is missing or damaged."""
    try:
        header, _, script = path.read_text(encoding="utf-8").partition("\n")
    except (OSError, ValueError):
        return None
    return script if header == f"//{_digest(script)}" else None


def _digest(script: str) -> str:
    return hashlib.sha256(script.encode()).hexdigest()


def export_figures(
    figures: Sequence[Figure], folder: Path, colours: Mapping[str, str], config: Mapping[str, Any]
) -> list[Path]:
    """Write each figure as PNG and SVG files.

    Args:
        figures: The figures.
        folder: Folder to write to; created if missing. Files of the same names are replaced.
        colours: Values of the style sheet's variables.
        config: Vega-Lite configuration of the page.

    Returns:
        Paths of the files.

    Raises:
        MetalmError: The folder cannot be written.
    """
    import vl_convert

    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for figure in figures:
            spec = resolve_colours({**figure.spec, "config": dict(config), "background": colours["--page"]}, colours)
            spec |= {
                "width": FIGURE_WIDTH,
                "title": {"text": figure.title, "anchor": "start"},
                "description": figure.caption,
            }
            svg, png = folder / f"{figure.key}.svg", folder / f"{figure.key}.png"
            svg.write_text(vl_convert.vegalite_to_svg(spec), encoding="utf-8")
            png.write_bytes(vl_convert.vegalite_to_png(spec, scale=PNG_SCALE))
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


def resolve_colours(spec: Mapping[str, Any], colours: Mapping[str, str]) -> dict[str, Any]:
    """The specification with the style sheet's variables replaced by their colours."""
    text = _VARIABLE.sub(lambda match: colours[match[1]], json.dumps(spec))
    resolved_spec: dict[str, Any] = json.loads(text)
    return resolved_spec
