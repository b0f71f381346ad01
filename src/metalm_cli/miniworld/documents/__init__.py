"""Documents of the miniature world."""
