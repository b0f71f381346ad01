"""metalm: MetaLM (arXiv 2206.06336) as a toolkit for multi-task and instruction tuning."""

__version__ = "0.1.0"
