"""Labelled examples of tasks: opening, selecting, truncating and packing them."""
