"""Fused encoders, which read an image and a text together: outputs of the plain model, content by content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModel

from metalm_cli.config.schema.model import ModelConfig
from metalm_cli.errors import MetalmError
from metalm_cli.models.assembly import build_metalm
from metalm_cli.models.checkpoint_io import load_model, save_model
from metalm_cli.models.encoders import load_tokenizer
from model_families import DECODERS, TEXTS, VOCABULARY, batch_with, noise_image, perturb

WIDE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
IMAGE = {"image_size": 16, "patch_size": 4}
TEXT = {**WIDE, "vocab_size": VOCABULARY, "max_position_embeddings": 130}
SQUARE = {"size": {"height": 16, "width": 16}}
FAMILIES: dict[str, tuple[dict[str, Any], Any]] = {
    "vilt": ({**TEXT, **IMAGE}, transformers.ViltImageProcessorPil(size={"shortest_edge": 16}, size_divisor=4)),
    "flava": (
        {"image_config": {**WIDE, **IMAGE}, "text_config": TEXT, "multimodal_config": WIDE, "hidden_size": 64},
        transformers.FlavaImageProcessorPil(**SQUARE, do_center_crop=False),
    ),
    "bridgetower": (
        {**WIDE, "text_config": TEXT, "vision_config": {**WIDE, **IMAGE}},
        transformers.BridgeTowerImageProcessorPil(
            size={"shortest_edge": 16}, crop_size={"shortest_edge": 16}, size_divisor=4
        ),
    ),
}  # fmt: skip


@torch.no_grad()
def reference(model: Any, ids: list[int], pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs of the patches and of all tokens for one content, without padding."""
    with pytest.MonkeyPatch.context() as patch:
        # ViLT draws the order of its patches; here they stay in line.
        patch.setattr(torch, "multinomial", lambda weights, count: torch.arange(len(weights))[:count])
        results = model(input_ids=torch.tensor([ids]), pixel_values=pixels[None])
    if model.config.model_type == "bridgetower":
        return results.image_features[0, -16:], results.text_features[0]
    if model.config.model_type == "flava":
        return results.multimodal_embeddings[0, 2:18], results.multimodal_embeddings[0, 18:]
    return results.last_hidden_state[0, -16:], results.last_hidden_state[0, : len(ids)]


@pytest.mark.parametrize("kind", FAMILIES)
def test_docks_are_outputs_of_the_plain_model(kind: str, tokenizers: dict[str, Path], tmp_path: Path) -> None:
    fields, image_processor = FAMILIES[kind]
    tokenizer = load_tokenizer(tokenizers["bert"])
    torch.manual_seed(0)
    plain = perturb(AutoModel.from_config(AutoConfig.for_model(kind, **fields)))
    for each in (plain, image_processor, tokenizer):
        each.save_pretrained(tmp_path / kind)
    parts = {
        "decoder": {"config": {"model_type": "gpt2", **DECODERS["gpt2"]}, "tokenizer": str(tokenizers["gpt2"])},
        "encoders": {"fused": {"checkpoint": str(tmp_path / kind)}},
    }
    assembly = build_metalm(ModelConfig.model_validate(parts), seed=0, sample=lambda count: iter(()))
    model = assembly.model.eval()
    contents = [{"image": noise_image(seed), "text": text} for seed, text in enumerate(TEXTS)]
    table = batch_with(assembly, contents, "fused").docks["fused"]
    expected = []
    for content in contents:
        arrays = assembly.processors["fused"].prepare(content).arrays
        pixels, ids = torch.from_numpy(arrays["pixel_values"]), tokenizer(content["text"]).input_ids
        assert pixels.shape == (3, 16, 16)
        patches, tokens = reference(plain, ids, pixels)
        expected.append(torch.cat([patches, tokens[1:-1]]))
    with torch.no_grad():
        vectors = model.dock_vectors("fused", table)[table.content_index]
        torch.testing.assert_close(vectors, model.connectors["fused"](torch.cat(expected)), atol=1e-5, rtol=1e-5)
        save_model(tmp_path / "model", model, assembly.decoder_tokenizer, assembly.processors)
        loaded, _, processors = load_model(tmp_path / "model")
        assembly.processors.update(processors)
        table = batch_with(assembly, contents, "fused").docks["fused"]
        torch.testing.assert_close(loaded.dock_vectors("fused", table)[table.content_index], vectors)
    image_alone = processors["fused"].prepare({"image": noise_image(0)})
    assert image_alone.positions == 16
    for content in (noise_image(0), "It rained.", {"text": "It rained."}):
        with pytest.raises(MetalmError, match="reads an image and a text together"):
            processors["fused"].prepare(content)
    model.train().losses(batch_with(assembly, contents, "fused"))[0].backward()
    trained = [name for name, each in model.encoders["fused"].named_parameters() if each.requires_grad]
    assert trained
    assert all(model.encoders["fused"].get_parameter(name).grad is not None for name in trained)
