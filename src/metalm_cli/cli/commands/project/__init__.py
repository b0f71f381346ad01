"""Commands about recipes and the demo."""
