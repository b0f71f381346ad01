"""Checkpoints by name: folders, GGUF files, installed packages and the hub, found in one order."""
