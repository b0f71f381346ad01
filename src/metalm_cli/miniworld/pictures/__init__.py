"""Drawn pictures of the miniature world, with captions, questions and explanations."""
