"""Result files: writing, reading and comparing them."""
