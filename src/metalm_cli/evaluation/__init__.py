"""Scoring and continuing sessions with finished models."""

from metalm_cli.evaluation.interface import Conversation, Interface, load

__all__ = ["Conversation", "Interface", "load"]
