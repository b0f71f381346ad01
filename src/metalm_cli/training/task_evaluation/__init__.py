"""Evaluation on tasks during training."""
