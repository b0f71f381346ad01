"""Checks of template collections."""
