"""Tables and cards printed in the terminal."""
