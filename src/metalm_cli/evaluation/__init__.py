"""Evaluating models on tasks: prompts, protocols, metrics, statistics and result files."""
