"""Plan of a run before it starts: token counts, memory, speed."""
