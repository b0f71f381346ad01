"""Row tables and streams: JSON lines, CSV, the hub, the miniature world."""
