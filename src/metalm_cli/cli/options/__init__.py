"""Command-line options of commands with many options, and options that several commands share."""
