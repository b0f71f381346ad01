"""``python -m metalm_cli.cli``, the same as ``metalm``: multi-process launchers start it this way."""

from metalm_cli.cli import main

if __name__ == "__main__":
    main()
