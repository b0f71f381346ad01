"""The command line."""

from __future__ import annotations

import sys


def main() -> None:
    """Run ``metalm`` and exit with its code."""
    try:
        from metalm_cli.cli.app import run

        sys.exit(run(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
