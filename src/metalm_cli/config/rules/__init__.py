"""Checks of keys that depend on each other."""
