"""Exports that load without metalm: a modelling file for transformers, and parts as models of their own."""
