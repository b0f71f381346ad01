"""Reading run folders and result files, complete or damaged."""
