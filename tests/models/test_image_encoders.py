"""Docked image encoders: hidden states of plain transformers models, with the connector applied by hand."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModel

from connector_reference import vectors_of_content
from metalm_cli.config.schema.model import ModelConfig
from metalm_cli.errors import MetalmError
from metalm_cli.models.assembly import Assembly, build_metalm
from metalm_cli.models.checkpoint_io import load_model, save_model
from metalm_cli.models.decoders import hidden_states
from metalm_cli.models.images import resolution
from metalm_cli.models.images.image_processors import load_image_processor
from metalm_cli.sessions import Causal, Docked, Session, SessionTokeniser, build_row, collate
from model_families import DECODERS, ENCODERS, batch_with, noise_image, perturb

TOWER = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
IMAGES = {"image_size": 16, "patch_size": 4}
TEXT = {**TOWER, "num_hidden_layers": 2, "vocab_size": 60, "max_position_embeddings": 12}
BIASES = {"use_relative_position_bias": True, "use_absolute_position_embeddings": True}
SIZES = {"size": {"height": 16, "width": 16}}
DEIT = {"size": {"height": 18, "width": 18}, "crop_size": {"height": 16, "width": 16}}
CROPS = {"size": {"shortest_edge": 18}, "crop_size": {"height": 16, "width": 16}}

FAMILIES: dict[str, tuple[dict[str, Any], Any, int]] = {
    "vit": ({**TOWER, **IMAGES}, transformers.ViTImageProcessorPil(**SIZES), 1),
    "deit": ({**TOWER, **IMAGES}, transformers.DeiTImageProcessorPil(**DEIT), 2),
    "beit": ({**TOWER, **IMAGES, **BIASES}, transformers.BeitImageProcessorPil(**SIZES, do_center_crop=False), 1),
    "dinov2": ({**TOWER, **IMAGES}, transformers.BitImageProcessorPil(**CROPS), 1),
    "dinov2_with_registers": ({**TOWER, **IMAGES}, transformers.BitImageProcessorPil(**CROPS), 5),
    "dinov3_vit": ({**TOWER, **IMAGES, "num_register_tokens": 3}, transformers.ViTImageProcessorPil(**SIZES), 4),
    "clip_vision_model": ({**TOWER, **IMAGES}, transformers.CLIPImageProcessorPil(**CROPS), 1),
    "siglip_vision_model": ({**TOWER, **IMAGES}, transformers.SiglipImageProcessorPil(**SIZES), 0),
    "siglip2_vision_model": (
        {**TOWER, "patch_size": 4, "num_patches": 16},
        transformers.Siglip2ImageProcessorPil(patch_size=4, max_num_patches=16), 0,
    ),
    "clip": (
        {"vision_config": {**TOWER, **IMAGES}, "text_config": TEXT}, transformers.CLIPImageProcessorPil(**CROPS), 1,
    ),
    "siglip": (
        {"vision_config": {**TOWER, **IMAGES}, "text_config": TEXT}, transformers.SiglipImageProcessorPil(**SIZES), 0,
    ),
}  # fmt: skip
"""Config, image processor, and number of class vectors and registers, by model type."""
CONNECTORS = [
    {"kind": "linear"},
    {"kind": "mlp", "layers": 2},
    {"kind": "stack", "factor": 4},
    {"kind": "mean", "factor": 4},
    {"kind": "queries", "length": 3, "layers": 1, "heads": 2},
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints of plain transformers models with random weights, by model type."""
    root = tmp_path_factory.mktemp("towers")
    for number, (kind, (fields, processor, _)) in enumerate(FAMILIES.items()):
        torch.manual_seed(number)
        perturb(AutoModel.from_config(AutoConfig.for_model(kind, **fields)), number).save_pretrained(root / kind)
        processor.save_pretrained(root / kind)
    return {kind: root / kind for kind in FAMILIES}


def plain_tower(folder: Path) -> Any:
    model = AutoModel.from_pretrained(folder)
    return getattr(model, "vision_model", model)


def assemble(tokenizers: dict[str, Path], connector: dict[str, Any] | None = None, **encoders: Any) -> Assembly:
    """Dock encoders into a tiny GPT-2."""
    parts = {
        "decoder": {"config": {"model_type": "gpt2", **DECODERS["gpt2"]}, "tokenizer": str(tokenizers["gpt2"])},
        "connector": connector or {},
        "encoders": encoders,
    }
    return build_metalm(ModelConfig.model_validate(parts), seed=0, sample=lambda count: iter(()))


def picture(kind: str, seed: int) -> Image.Image:
    """Return an image of noise; a square for SigLIP 2, whose own processor keeps the shape."""
    return noise_image(seed).resize((24, 24)) if kind == "siglip2_vision_model" else noise_image(seed)


@torch.no_grad()
def reference(folder: Path, image: Any, layer: int, **options: Any) -> torch.Tensor:
    """Hidden states of a layer of the plain model for an image: ``[l, w]``."""
    tower = plain_tower(folder)
    inputs = dict(AutoImageProcessor.from_pretrained(folder, backend="pil")(images=image, return_tensors="pt"))
    results = tower(**inputs, output_hidden_states=True, **options)
    return (results.last_hidden_state if layer == -1 else results.hidden_states[layer])[0]


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("layer", [-1, -2])
def test_docks_are_hidden_states_of_the_plain_model(
    kind: str, layer: int, folders: dict[str, Path], tokenizers: dict[str, Path], tmp_path: Path
) -> None:
    number = list(FAMILIES).index(kind) - layer
    connector, keep_special = CONNECTORS[number % len(CONNECTORS)], bool(number % 2)
    options = {"checkpoint": str(folders[kind]), "layer": layer, "keep_special": keep_special}
    assembly = assemble(tokenizers, connector, vision=options)
    model = assembly.model.eval()
    images = [picture(kind, 0), noise_image(1).resize((24, 24))]
    special = FAMILIES[kind][2]
    expected = []
    for image in images:
        states = reference(folders[kind], image, layer)
        assert len(states) == 16 + special
        docked = states if keep_special else states[special:]
        if connector["kind"] in ("linear", "mlp"):
            expected.append(model.connectors["vision"](docked))
        else:
            expected.append(vectors_of_content(model.connectors["vision"], connector, docked, (4, 4)))
    table = batch_with(assembly, images, "vision").docks["vision"]
    with torch.no_grad():
        vectors = model.dock_vectors("vision", table)[table.content_index]
    torch.testing.assert_close(vectors, torch.cat(expected), atol=1e-5, rtol=1e-5)
    save_model(tmp_path / "model", model, assembly.decoder_tokenizer, assembly.processors)
    loaded, _, processors = load_model(tmp_path / "model")
    assembly.processors.update(processors)
    with torch.no_grad():
        table = batch_with(assembly, images, "vision").docks["vision"]
        torch.testing.assert_close(loaded.dock_vectors("vision", table)[table.content_index], vectors)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_the_vision_tower_of_two_is_docked_and_noted(kind, folders, tokenizers) -> None:
    assembly = assemble(tokenizers, vision={"checkpoint": str(folders[kind])})
    assert assembly.model.encoder_ios["vision"].kind == "vision"
    note = f"model.encoders.vision: the vision tower of the {kind} model is docked; its text tower is not used"
    assert note in assembly.notes
    assert any("16 x 16 pixels, 4 x 4 patches, 16 positions" in each for each in assembly.notes)


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_larger_resolution_equals_the_interpolation_of_transformers(
    kind: str, folders: dict[str, Path], tokenizers: dict[str, Path], tmp_path: Path
) -> None:
    """24 pixels in place of 16; DINO's towers and SigLIP 2's interpolate in every pass, DINOv3's positions rotate."""
    assembly = assemble(tokenizers, vision={"checkpoint": str(folders[kind]), "image_size": 24, "keep_special": True})
    processor, model = assembly.processors["vision"], assembly.model.eval()
    dock = processor.prepare(noise_image(3))
    pixels = torch.from_numpy(dock.arrays["pixel_values"])[None]
    assert pixels.shape == (1, 3, 24, 24)
    tower, options = plain_tower(folders[kind]), {}
    if "interpolate_pos_encoding" in inspect.signature(tower.forward).parameters:
        options["interpolate_pos_encoding"] = True
    inputs: dict[str, Any] = {"pixel_values": pixels}
    if kind == "siglip2_vision_model":
        squares = transformers.Siglip2ImageProcessorPil(patch_size=4, max_num_patches=36, do_resize=False)
        image = Image.fromarray(np.uint8(np.random.default_rng(0).integers(0, 255, (24, 24, 3))))
        inputs = dict(squares(images=image, return_tensors="pt"))
        pixels = torch.from_numpy(processor.prepare(image).arrays["pixel_values"])[None]
    with torch.no_grad():
        expected = tower(**inputs, **options).last_hidden_state
        actual = model.encoder_ios["vision"].outputs(model.encoders["vision"], {"pixel_values": pixels})
    assert expected.shape[1] == dock.positions == 36 + FAMILIES[kind][2]
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    save_model(tmp_path / "model", model, assembly.decoder_tokenizer, assembly.processors)
    loaded, _, processors = load_model(tmp_path / "model")
    assert processors["vision"].prepare(noise_image(3)).key == dock.key
    with torch.no_grad():
        again = loaded.encoder_ios["vision"].outputs(loaded.encoders["vision"], {"pixel_values": pixels})
    torch.testing.assert_close(again, actual)


def test_a_tower_reads_the_size_that_its_image_processor_gives(folders, tokenizers, tmp_path) -> None:
    """DINOv2's config has 518 pixels, its processor 224."""
    folder = tmp_path / "dinov2"
    AutoModel.from_pretrained(folders["dinov2"]).save_pretrained(folder)
    crop = {"size": {"shortest_edge": 10}, "crop_size": {"height": 8, "width": 8}}
    transformers.BitImageProcessorPil(**crop).save_pretrained(folder)
    assembly = assemble(tokenizers, vision={"checkpoint": str(folder)})
    table = batch_with(assembly, [noise_image(0), noise_image(1)], "vision").docks["vision"]
    expected = torch.cat([reference(folder, noise_image(seed), -1)[1:] for seed in (0, 1)])
    with torch.no_grad():
        vectors = assembly.model.eval().dock_vectors("vision", table)[table.content_index]
        torch.testing.assert_close(vectors, assembly.model.connectors["vision"](expected), atol=1e-5, rtol=1e-5)
    assert any("8 x 8 pixels, as its image processor gives them" in note for note in assembly.notes)


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "no multiple": ({"image_size": 18}, "image_size", "18 x 18 pixels cannot be divided into patches of 4 x 4"),
    "below a patch": ({"image_size": 2}, "image_size", "cannot be divided"),
    "a layer too many": ({"layer": -4}, "layer", "the encoder has 3 layers"),
    "frozen below": ({"layer": -2, "trains": "last_1"}, "trains", "nothing of the encoder 'vision' would train"),
    "too many positions": ({"image_size": 64}, "", "an image takes 256 positions, the decoder reads 256"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_a_tower_cannot_do_is_one_error(name: str, folders, tokenizers) -> None:
    options, key, message = BAD[name]
    with pytest.raises(MetalmError, match=re.escape(message)) as caught:
        assemble(tokenizers, vision={"checkpoint": str(folders["vit"]), **options})
    assert str(caught.value.where).startswith(f"model.encoders.vision{'.' * bool(key)}{key}")
    assert caught.value.remedy


def test_a_size_of_images_of_a_text_encoder_is_an_error(tokenizers) -> None:
    text = {"config": {"model_type": "bert", **ENCODERS["bert"]}, "tokenizer": str(tokenizers["bert"])}
    with pytest.raises(MetalmError, match="reads text, and no images"):
        assemble(tokenizers, text={**text, "image_size": 16})
    assembly = assemble(tokenizers, text={**text, "layer": -2})
    table = batch_with(assembly, ["It rained.", "A fox."]).docks["text"]
    model = assembly.model.eval()
    with torch.no_grad():
        states = model.encoders["text"](**table.inputs, output_hidden_states=True).hidden_states[-2]
        expected = model.connectors["text"](states[table.rows, table.columns])
        torch.testing.assert_close(model.dock_vectors("text", table), expected)


@pytest.mark.parametrize("kind", ["clip", "siglip", "dinov2", "vit"])
def test_weights_that_no_dock_depends_on_are_frozen(kind: str, folders, tokenizers) -> None:
    assembly = assemble(tokenizers, vision={"checkpoint": str(folders[kind]), "layer": -2})
    model = assembly.model.train()
    model.losses(batch_with(assembly, [noise_image(0), noise_image(1)], "vision"))[0].backward()
    encoder = model.encoders["vision"]
    assert {name for name, each in encoder.named_parameters() if each.requires_grad} == {
        name for name, each in encoder.named_parameters() if each.grad is not None
    }
    last = [each.requires_grad for name, each in encoder.named_parameters() if re.search(r"layers?\.2\.", name)]
    assert last
    assert not any(last)


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_frozen_tower_runs_without_gradient_in_its_own_dtype(kind: str, folders, tokenizers) -> None:
    assembly = assemble(tokenizers, vision={"checkpoint": str(folders[kind]), "trains": "none"})
    model = assembly.model.train()
    model.encoders["vision"].to(torch.bfloat16)
    table = batch_with(assembly, [picture(kind, 0), picture(kind, 1)], "vision").docks["vision"]
    outputs = model.encoder_outputs("vision", table)
    assert outputs.dtype == torch.bfloat16
    assert outputs.grad_fn is None
    assert not model.encoders["vision"].training
    expected = torch.cat([reference(folders[kind], picture(kind, seed), -1)[FAMILIES[kind][2] :] for seed in (0, 1)])
    assert (outputs.float() - expected).abs().max() < 0.25


def test_text_and_two_towers_in_one_model_leave_packed_neighbours_alone(folders, tokenizers) -> None:
    """Three sessions in a row, each with docks; a changed image changes the logits of its session alone."""
    text = {"config": {"model_type": "bert", **ENCODERS["bert"]}, "tokenizer": str(tokenizers["bert"])}
    connector = {"kind": "stack", "factor": 4}
    towers = {name: {"checkpoint": str(folders[name])} for name in ("clip", "dinov2")}
    assembly = assemble(tokenizers, connector, text=text, **towers)
    model, tokenise = assembly.model.eval(), SessionTokeniser(assembly.decoder_tokenizer, assembly.processors)

    def spans(first: int, second: int) -> Session:
        images = [Docked("clip", noise_image(first)), Docked("dinov2", noise_image(second))]
        return Session([Docked("text", "A fox can hide."), *images, Causal(" yes and no", trained=True)])

    def states(sessions: list[Session]) -> list[torch.Tensor]:
        batch = collate([build_row([tokenise(each) for each in sessions])], assembly.processors)
        embeds = model.embed(batch.decoder.input_ids, batch.docks)
        hidden = hidden_states(model.decoder, embeds, batch.decoder)[0]
        return [hidden[batch.decoder.segment_ids[0] == number] for number in range(len(sessions))]

    with torch.no_grad():
        packed = states([spans(0, 1), spans(2, 3), spans(4, 5)])
        changed = states([spans(0, 1), spans(6, 3), spans(4, 5)])
        alone = [states([spans(number, number + 1)])[0] for number in (0, 2, 4)]
    assert torch.equal(packed[0], changed[0])
    assert torch.equal(packed[2], changed[2])
    assert (packed[1] - changed[1]).abs().max() > 1e-3
    for in_row, by_itself in zip(packed, alone, strict=True):
        torch.testing.assert_close(in_row, by_itself, atol=1e-5, rtol=1e-5)


def test_a_tower_whose_positions_transformers_does_not_interpolate(folders, tokenizers, monkeypatch) -> None:
    monkeypatch.setattr(resolution, "METHOD", "no such method")
    with pytest.raises(MetalmError, match="a vit tower reads images of 16 x 16 pixels only") as caught:
        assemble(tokenizers, vision={"checkpoint": str(folders["vit"]), "image_size": 24})
    assert caught.value.where == "model.encoders.vision.image_size"
    assert "embeddings.position_embeddings" in caught.value.why


def test_an_image_processor_that_needs_torchvision_is_replaced(tmp_path: Path) -> None:
    """DINOv3's: scaled to a size, then mean and deviation of each channel."""
    mean, deviation = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
    fields = {"image_processor_type": "DINOv3ViTImageProcessorFast", "size": {"height": 16, "width": 16}}
    values = {"resample": 2, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
    statistics = {"image_mean": mean, "image_std": deviation}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**fields, **values, **statistics}))
    processor = load_image_processor("vision", tmp_path)
    pixels = processor(images=noise_image(4), return_tensors="np")["pixel_values"][0]
    scaled = np.asarray(noise_image(4).resize((16, 16), Image.Resampling.BILINEAR)) / 255
    np.testing.assert_allclose(pixels, ((scaled - mean) / deviation).transpose(2, 0, 1), atol=1e-5)
