"""The commands, grouped by purpose as in the panels of ``metalm --help``."""
