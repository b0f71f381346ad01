"""Utilities open to every room: atomic files, the cache, the hub, JSON lines, signals."""
