"""Cache of the outputs of frozen encoders on disk."""
