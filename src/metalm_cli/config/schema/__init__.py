"""The recipe schema: pydantic models that define every key, its type, its default and its description.

Error messages, the JSON Schema, the recipe reference and shell completion are derived from these models.
"""
