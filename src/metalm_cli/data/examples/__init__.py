"""Labelled examples of tasks: opening, selecting, fitting and packing them."""
