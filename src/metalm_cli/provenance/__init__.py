"""Provenance of a model: its training data, held-out tasks, and overlapping texts."""
