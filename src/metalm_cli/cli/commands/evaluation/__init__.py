"""Commands that score and query models and show results."""
