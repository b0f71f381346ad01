"""Labelled tasks about the meanings of words, with words in validation that no training row contains."""
