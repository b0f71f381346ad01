"""Models: MetaLM and its parts; assembly, saving and loading. Importing this package registers the Auto classes."""

import os

# Some families of transformers fetch kernels, which are code, from the hub if the package kernels is installed. The
# variable has to be set before transformers imports its models.
os.environ.setdefault("USE_HUB_KERNELS", "NO")

from metalm_cli.models import metalm
from metalm_cli.models.deepnorm.register import register as register_deepnorm
from metalm_cli.models.dual_encoder import dual_encoder
from metalm_cli.models.metalm import MetaLM, MetaLMConfig

__all__ = ["MetaLM", "MetaLMConfig"]

metalm.register()
dual_encoder.register()
register_deepnorm()
