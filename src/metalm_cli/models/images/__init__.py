"""Encoders of images: their inputs and outputs, the towers of two-tower checkpoints, and resolutions."""
