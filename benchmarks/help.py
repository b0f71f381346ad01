"""Time of ``metalm --help``, compared with ``trl --help`` and with the help of a small app of Typer and Rich.

Each command is a fresh interpreter of the same environment. Commands run in turn, so that a change of the machine's
speed affects all of them; the ratio of a turn is that of its two times. Given are medians over the turns, with 95%
bootstrap intervals. Processor time is that of the process; wall time includes waiting for the disk. A command that is
not installed is left out.
"""

from __future__ import annotations

import importlib.util
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np

from common import arguments, report

COMMANDS = {
    "metalm": "import sys; sys.argv = ['metalm', '--help']; from metalm_cli.cli import main; main()",
    "trl": "import sys; sys.argv = ['trl', '--help']; from trl.cli import main; sys.exit(main())",
    "typer": "import typer; app = typer.Typer(); app.command('a')(lambda: 0); app.command('b')(lambda: 0); "
    "app(['--help'])",
}


def seconds(code: str) -> tuple[float, float]:
    """Processor seconds and wall seconds of a Python program."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def interval(values: np.ndarray) -> str:
    """Median with its 95% bootstrap interval."""
    draws = np.random.default_rng(0).choice(values, size=(10_000, len(values)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return f"{np.median(values):.2f} [{low:.2f}, {high:.2f}]"


def main() -> None:
    options = arguments(__doc__ or "")
    turns = 5 if options.quick else 30
    commands = {
        name: code for name, code in COMMANDS.items() if importlib.util.find_spec(name if name != "metalm" else "typer")
    }
    for code in commands.values():
        seconds(code)
    times = np.array([[seconds(code) for code in commands.values()] for _ in range(turns)])
    figures: dict[str, Any] = {"turns": turns}
    for index, name in enumerate(commands):
        figures[f"{name}: milliseconds, processor"] = float(1000 * np.median(times[:, index, 0]))
        figures[f"{name}: milliseconds, wall"] = float(1000 * np.median(times[:, index, 1]))
        if index:
            figures[f"metalm / {name}, processor"] = interval(times[:, 0, 0] / times[:, index, 0])
            figures[f"metalm / {name}, wall"] = interval(times[:, 0, 1] / times[:, index, 1])
    report("Time of --help", figures, options)


if __name__ == "__main__":
    main()
