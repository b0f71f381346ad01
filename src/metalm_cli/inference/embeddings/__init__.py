"""Embeddings of images and texts by a dual encoder."""
