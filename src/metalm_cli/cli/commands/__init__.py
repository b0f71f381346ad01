"""Commands of ``metalm``, grouped as in the panels of ``metalm --help``."""
