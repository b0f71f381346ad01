"""Reference curves: losses of a recipe by step over seeds, and where another run leaves their band."""
