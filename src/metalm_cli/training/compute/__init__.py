"""Precision and speed of the passes of a step: casts, fused activations, compiled layers."""
