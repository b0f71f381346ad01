"""Text documents: opening their sources and writing training rows."""
