"""Low-rank adapters: injecting, saving and merging them."""
