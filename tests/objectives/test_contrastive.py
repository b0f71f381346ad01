"""The contrastive objective: transformers' CLIP and a brute-force loss give the same numbers, two processes as well."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tiny_runs as micro
from metalm_cli.errors import MetalmError
from metalm_cli.models.dual_encoder.dual_encoder import DualEncoder, DualEncoderConfig
from metalm_cli.objectives.contrastive import ContrastiveStep, contrastive_loss
from metalm_cli.sessions import Batch
from metalm_cli.sessions.batch import DockTable

SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
PAIRS, WORDS, END = 6, 7, 98


def make_clip() -> Any:
    """Build a tiny CLIP with random weights, in fp64."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    text = {**SHAPE, "vocab_size": 99, "max_position_embeddings": 16, "eos_token_id": END}
    config = CLIPConfig(text_config=text, vision_config={**SHAPE, "image_size": 16, "patch_size": 8}, projection_dim=12)
    model = CLIPModel(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, dtype=torch.float64))
        model.logit_scale.fill_(math.log(1 / 0.07))
    return model


@pytest.fixture(scope="module")
def clip() -> Any:
    return make_clip()


def dual_of(clip: Any) -> DualEncoder:
    """The dual encoder with the weights of a CLIP."""
    from transformers import CLIPTextModel, CLIPVisionModel

    towers = {"vision": CLIPVisionModel(clip.config.vision_config), "text": CLIPTextModel(clip.config.text_config)}
    config = DualEncoderConfig(
        encoder_configs={name: tower.config.to_dict() for name, tower in towers.items()},
        connectors={name: {"kind": "linear", "layers": 1} for name in towers},
        docking={name: {"kind": name, "keep_special": True, "pooling": "pooler"} for name in towers},
        projection_dim=12,
    )
    model = DualEncoder(config, towers).double().eval()
    states = clip.state_dict()
    for name, projection in (("vision", clip.visual_projection), ("text", clip.text_projection)):
        prefix = f"{name}_model."
        own = model.encoders[name].state_dict()
        weights = {key: states.get(key, states.get(prefix + key)) for key in own}
        model.encoders[name].load_state_dict(weights)
        weight, bias = model.connectors[name].parameters()
        weight.data.copy_(projection.weight.data)
        bias.data.zero_()
    model.logit_scale.log_scale.data.fill_(float(clip.logit_scale.data))
    return model


def table(inputs: dict[str, torch.Tensor], outputs: int, index: list[int] | None = None) -> DockTable:
    """A table of contents, all of whose outputs are docked; the pairs take the contents in the order of an index."""
    contents = len(next(iter(inputs.values())))
    pairs = torch.tensor(list(range(contents)) if index is None else index)
    rows = torch.arange(contents).repeat_interleave(outputs)
    return DockTable(inputs, rows, torch.arange(outputs).repeat(contents), torch.arange(len(pairs)), pairs)


def inputs(seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(PAIRS, 3, 16, 16, generator=generator, dtype=torch.float64)
    ids = torch.randint(3, END, (PAIRS, WORDS), generator=generator)
    ids[:, -1] = END
    return pixels, ids


def batch_of(pixels: torch.Tensor, ids: torch.Tensor, total: int | None = None) -> Batch:
    texts = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    docks = {"vision": table({"pixel_values": pixels}, 5), "text": table(texts, WORDS)}
    return Batch({}, docks, step_counts={"loss": total or len(ids)})


def gradients(module: nn.Module, name: str) -> torch.Tensor:
    """Gradients of an encoder's weights, in one vector; zeros where there is none."""
    return torch.cat(
        [
            (parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)).flatten()
            for key, parameter in sorted(module.named_parameters())
            if name in key
        ]
    )


def test_loss_and_gradients_are_those_of_transformers(clip: Any) -> None:
    pixels, ids = inputs()
    dual = dual_of(clip)
    expected = clip(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids), return_loss=True).loss
    clip.zero_grad()
    expected.backward()
    loss = ContrastiveStep(dual)(batch_of(pixels, ids))["loss"].sum / PAIRS
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-12)
    scale = dual.logit_scale.log_scale.grad
    assert float(scale) == pytest.approx(float(clip.logit_scale.grad), abs=1e-10)
    for name, tower, projection in (
        ("vision", clip.vision_model, clip.visual_projection),
        ("text", clip.text_model, clip.text_projection),
    ):
        torch.testing.assert_close(gradients(dual.encoders[name], ""), gradients(tower, ""), atol=1e-10, rtol=1e-9)
        weight = dual.connectors[name].get_parameter(next(iter(dict(dual.connectors[name].named_parameters()))))
        torch.testing.assert_close(weight.grad, projection.weight.grad, atol=1e-10, rtol=1e-9)
        assert float(weight.grad.abs().max()) > 1e-4


def test_the_loss_is_a_double_softmax_whatever_the_order() -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts = (
        nn.functional.normalize(torch.randn(PAIRS, 5, generator=generator, dtype=torch.float64), dim=-1) for _ in "ab"
    )
    scale = torch.tensor(9.0, dtype=torch.float64)
    expected = 0.0
    for i in range(PAIRS):
        own = math.exp(9 * float(images[i] @ texts[i]))
        expected -= math.log(own / sum(math.exp(9 * float(images[i] @ text)) for text in texts)) / 2
        expected -= math.log(own / sum(math.exp(9 * float(image @ texts[i])) for image in images)) / 2
    assert float(contrastive_loss(images, texts, images, texts, scale)) == pytest.approx(expected, abs=1e-10)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    permuted = contrastive_loss(images[order], texts[order], images[order], texts[order], scale)
    assert float(permuted) == pytest.approx(expected, abs=1e-10)
    unpaired = contrastive_loss(images, texts[order], images, texts[order], scale)
    assert abs(float(unpaired) - expected) > 0.1


def test_a_content_that_occurs_twice_counts_for_both_pairs(clip: Any) -> None:
    pixels, ids = inputs()
    pixels[4], ids[2] = pixels[1], ids[0]
    shared = batch_of(pixels, ids)
    shared.docks["vision"] = table({"pixel_values": pixels[[0, 1, 2, 3, 5]]}, 5, [0, 1, 2, 3, 1, 4])
    texts = ids[[0, 1, 3, 4, 5]]
    inputs_of_texts = {"input_ids": texts, "attention_mask": torch.ones_like(texts)}
    shared.docks["text"] = table(inputs_of_texts, WORDS, [0, 1, 0, 2, 3, 4])
    step = ContrastiveStep(dual_of(clip))
    with torch.no_grad():
        sums = [float(step(batch)["loss"].sum) for batch in (shared, batch_of(pixels, ids))]
    assert sums[0] == pytest.approx(sums[1], abs=1e-9)


def test_a_pass_without_all_pairs_of_the_step_is_an_error(clip: Any) -> None:
    with pytest.raises(MetalmError, match="does not hold all pairs"):
        ContrastiveStep(dual_of(clip))(batch_of(*inputs(), total=2 * PAIRS))


def test_the_scale_is_at_most_a_hundred(clip: Any) -> None:
    dual = dual_of(clip)
    step = ContrastiveStep(dual)
    for start, expected in ((7.0, 100.0), (1.0, math.e)):
        dual.logit_scale.log_scale.data.fill_(start)
        step.after_update()
        assert float(dual.logit_scale().detach()) == pytest.approx(expected)


@pytest.mark.parametrize("pooling", ["mean", "class"])
def test_pooling_is_over_the_outputs_of_each_content(clip: Any, pooling: str) -> None:
    _, ids = inputs()
    dual = dual_of(clip)
    dual.config.docking["text"]["pooling"] = pooling
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    read = mask.nonzero()
    docked = DockTable({"input_ids": ids, "attention_mask": mask}, read[:, 0], read[:, 1], read[:, 0], read[:, 0])
    with torch.no_grad():
        pooled = dual.pool("text", docked)
        for index in range(PAIRS):
            outputs = dual.encoders["text"](ids[index : index + 1], mask[index : index + 1]).last_hidden_state[0]
            own = outputs[: int(mask[index].sum())]
            torch.testing.assert_close(pooled[index], own.mean(0) if pooling == "mean" else own[0])


def _rank(rank: int, port: int, out: Path) -> None:
    """A process with half of the pairs: its gradients, as a wrapper averages them over processes."""
    import torch.distributed as distributed

    distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    module = dual_of(make_clip())
    half = PAIRS // 2
    pixels, ids = inputs()
    own = slice(rank * half, (rank + 1) * half)
    loss = ContrastiveStep(module)(batch_of(pixels[own], ids[own], PAIRS))["loss"].sum
    (loss / PAIRS).backward()
    total = gradients(module, "")
    distributed.all_reduce(total)
    loss = loss.detach()
    distributed.all_reduce(loss)
    torch.save((loss / PAIRS, total), out / f"{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    import torch.multiprocessing

    single = dual_of(make_clip())
    loss = ContrastiveStep(single)(batch_of(*inputs()))["loss"].sum / PAIRS
    loss.backward()
    torch.multiprocessing.start_processes(_rank, (micro.free_port(), tmp_path), 2, start_method="fork")
    for rank in range(2):
        other_loss, other = torch.load(tmp_path / f"{rank}.pt")
        assert float(other_loss) == pytest.approx(float(loss.detach()), abs=1e-12)
        torch.testing.assert_close(other, gradients(single, ""), atol=1e-12, rtol=1e-9)
