"""The recipe schema: pydantic models, the one definition of every key and its default."""
