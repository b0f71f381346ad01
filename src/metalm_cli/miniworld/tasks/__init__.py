"""Labelled tasks of the miniature world."""
