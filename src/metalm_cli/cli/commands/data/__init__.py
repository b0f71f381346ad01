"""Commands that show data, task cards and templates."""
