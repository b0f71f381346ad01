"""Models: MetaLM, its parts, and how they are assembled, saved and loaded. Importing registers the Auto classes."""

from metalm_cli.models import deepnorm, metalm
from metalm_cli.models.metalm import MetaLM, MetaLMConfig

__all__ = ["MetaLM", "MetaLMConfig"]

metalm.register()
deepnorm.register()
