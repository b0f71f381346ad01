"""A short fuzzing campaign of every surface, and the judgement that it rests on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz.campaign import SURFACES, judge
from fuzz.data_surfaces import Case

CASES = 28


def test_commands_survive_fuzzed_inputs(tmp_path: Path) -> None:
    """Two cases of each surface; a second start finds all of them in the log."""
    program = Path(__file__).parent / "campaign.py"
    arguments = [sys.executable, program, "--seed", "7", "--count", str(CASES), "--out", tmp_path, "--workers", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert f"{CASES:,} commands, 0 faults" in done.stdout
    again = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=60, check=True)
    assert again.stdout.splitlines()[-2] == done.stdout.splitlines()[-2]


@pytest.mark.parametrize(
    ("code", "printed", "garbage", "fault"),
    [
        (0, "", False, ""),
        (2, "error: unknown key\n", False, ""),
        (None, "", False, "hang"),
        (1, "error: this is a bug in metalm: KeyError", False, "bug"),
        (1, "Traceback (most recent call last):\n", False, "bug"),
        (-11, "", False, "exit code -11"),
        (2, "", False, "no error message"),
        (0, "ok", True, "silent success"),
    ],
)
def test_judgement(code: int | None, printed: str, garbage: bool, fault: str) -> None:
    assert judge(Case([], garbage), code, printed) == fault


def test_every_surface_has_a_name_and_a_description() -> None:
    assert len(SURFACES) == 14
    assert all(surface.__doc__ for surface in SURFACES.values())
