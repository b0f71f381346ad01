"""The command line."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of ``metalm``."""
    try:
        from metalm_cli.cli.app import run

        sys.exit(run(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
