"""Commands for recipes and the demo."""
