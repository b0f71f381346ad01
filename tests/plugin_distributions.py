"""Foreign distributions for tests: a package with its metadata in a folder of its own, as an installer writes them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


def write_distribution(
    folder: Path, name: str, files: Mapping[str, str], plugins: Mapping[str, str], version: str = "1.0"
) -> Path:
    """Write a distribution that a folder on Python's path makes importable.

    Args:
        folder: The folder; created if missing.
        name: Name of the distribution.
        files: Text of each file, by its path below the folder.
        plugins: Entry points of the group ``metalm.plugins``: value by name.
        version: Version of the distribution.

    Returns:
        The folder.
    """
    metadata = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    points = "".join(f"{point} = {value}\n" for point, value in plugins.items())
    texts = {
        f"{metadata.name}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{metadata.name}/entry_points.txt": f"[metalm.plugins]\n{points}",
        **files,
    }
    for path, text in texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return folder


def metalm(
    folder: Path, *arguments: str, site: Path | None, code: str = "from metalm_cli.cli import main; main()"
) -> subprocess.CompletedProcess[str]:
    """Run a command line in a folder, in a process whose Python path begins with a site folder.

    The warning about the time of a plug-in is off, because the machine may be busy.
    """
    script = f"import sys; from metalm_cli.common.registry import plugins; plugins.SLOW_SECONDS = 60.0; {code}"
    path = os.pathsep.join([*([str(site)] if site else []), *(entry for entry in sys.path if entry)])
    environment = {**os.environ, "PYTHONPATH": path, "COLUMNS": "100"}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)
