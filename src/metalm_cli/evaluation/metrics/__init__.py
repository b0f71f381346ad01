"""Metrics of tasks and texts, and their confidence intervals."""
