"""Commands that score models, query them, and show results."""
