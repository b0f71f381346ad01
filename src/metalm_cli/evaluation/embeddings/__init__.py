"""Evaluation of dual encoders: zero-shot classification, retrieval, and linear probes."""
