"""LoRA adapters: injecting, saving and merging."""
