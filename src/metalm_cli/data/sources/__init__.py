"""Row tables and streams: data files, the hub, the miniature world."""
