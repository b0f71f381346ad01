"""Utilities that every package may import: atomic files, the cache, the hub, JSON lines, signals."""
