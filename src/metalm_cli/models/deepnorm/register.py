"""Registration of both stacks with transformers."""

from __future__ import annotations


def register() -> None:
    """Register both stacks with the Auto classes of transformers. May be called more than once."""
    from transformers import (
        AutoConfig,
        AutoModel,
        AutoModelForCausalLM,
        AutoModelForMaskedLM,
        AutoModelForPreTraining,
    )

    from metalm_cli.models.deepnorm import decoder as decoder
    from metalm_cli.models.deepnorm import encoder as encoder

    AutoConfig.register("metalm-decoder", decoder.MetaLMDecoderConfig, exist_ok=True)
    AutoConfig.register("metalm-encoder", encoder.MetaLMEncoderConfig, exist_ok=True)
    for auto, config, model in (
        (AutoModel, decoder.MetaLMDecoderConfig, decoder.MetaLMDecoderModel),
        (AutoModelForCausalLM, decoder.MetaLMDecoderConfig, decoder.MetaLMDecoderForCausalLM),
        (AutoModel, encoder.MetaLMEncoderConfig, encoder.MetaLMEncoderModel),
        (AutoModelForMaskedLM, encoder.MetaLMEncoderConfig, encoder.MetaLMEncoderForMaskedLM),
        (AutoModelForPreTraining, encoder.MetaLMEncoderConfig, encoder.MetaLMEncoderForPreTraining),
    ):
        auto.register(config, model, exist_ok=True)
