"""Checks of checkpoint folders, which may be damaged or written by anyone."""
