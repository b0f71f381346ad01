"""Models: MetaLM and its parts; assembly, saving and loading. Importing this package registers the Auto classes."""

from metalm_cli.models import metalm
from metalm_cli.models.deepnorm.register import register as register_deepnorm
from metalm_cli.models.metalm import MetaLM, MetaLMConfig

__all__ = ["MetaLM", "MetaLMConfig"]

metalm.register()
register_deepnorm()
