"""A tiny docked model and data sections, for tests of objectives."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from metalm_cli.config.schema.data import DataConfig
from metalm_cli.models.assembly import Assembly
from metalm_cli.models.metalm import MetaLM, MetaLMConfig
from metalm_cli.sessions import DecoderTokenizer, TextProcessor, TokenRules
from tiny_models import make_decoder, make_encoder, tokenizer_of


@lru_cache(maxsize=4)
def assembly(family: str = "gpt2", encoders: tuple[str, ...] = ("text",), max_length: int = 40) -> Assembly:
    decoder = make_decoder(family)
    towers = {name: make_encoder("bert", seed=index + 1) for index, name in enumerate(encoders)}
    config = MetaLMConfig(
        decoder_config=decoder.config.to_dict(),
        encoder_configs={name: tower.config.to_dict() for name, tower in towers.items()},
        connectors={name: {"kind": "linear", "layers": 1} for name in towers},
        docking={name: {"kind": "text", "max_length": max_length, "keep_special": False} for name in towers},
    )
    torch.manual_seed(2)
    model = MetaLM(config, decoder, towers).eval()
    processors = {name: TextProcessor(name, tokenizer_of("wordpiece"), max_length) for name in towers}
    return Assembly(model, DecoderTokenizer(tokenizer_of("byte"), TokenRules()), processors)


def data_of(length: int = 64, **options: Any) -> DataConfig:
    return DataConfig(sources=[{"name": "world", "world": {}}], sequence_length=length, **options)
