"""Linter of template collections."""
