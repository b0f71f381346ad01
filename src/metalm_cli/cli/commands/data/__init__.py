"""Commands for data sets, task cards and templates."""
