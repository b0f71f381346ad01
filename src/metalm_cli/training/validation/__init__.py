"""Validation during training: losses on held-out rows, and what docks are worth."""
