"""Dual encoders: encoders that embed images and texts in one space, and what they share with MetaLM."""
