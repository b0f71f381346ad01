"""``python -m metalm_cli.cli`` is ``metalm``; launchers of several processes start it so."""

from metalm_cli.cli import main

if __name__ == "__main__":
    main()
