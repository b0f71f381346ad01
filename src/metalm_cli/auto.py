"""Registers the model types of metalm with the Auto classes of transformers, when it is imported.

``AutoConfig`` and ``AutoModelForCausalLM`` then load MetaLMs (``metalm``); ``AutoConfig``, ``AutoModel``,
``AutoModelForCausalLM``, ``AutoModelForMaskedLM`` and ``AutoModelForPreTraining`` load the DeepNorm stacks
(``metalm-decoder``, ``metalm-encoder``). ``import metalm_cli`` alone imports neither torch nor transformers.
"""

import metalm_cli.models  # noqa: F401
