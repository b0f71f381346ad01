"""Puts the tiny families of the tests of models, and the helpers beside this file, on the path."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "models")]
