"""Commands of ``metalm``, grouped by purpose."""
