"""Option scoring with shared prefixes."""
