"""Encoders that train alone: packed rows, masked language models, replaced token detection."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from metalm_cli.config.schema.data import Data
from metalm_cli.config.schema.model import Model
from metalm_cli.config.schema.objectives import MaskedLM, ReplacedTokens
from metalm_cli.data.sampling.lanes import RowSlot
from metalm_cli.errors import MetalmError
from metalm_cli.models.assembly import Assembly, build_encoder
from metalm_cli.models.encoder_pretraining import encode, make_generator, measure_encoder_packing
from metalm_cli.models.mlm_heads import masked_head, measure_head
from metalm_cli.objectives.masked_lm import MaskedLMObjective
from metalm_cli.objectives.replaced_token_detection import DetectionStep, ReplacedTokenObjective
from metalm_cli.sessions import ROOT, Batch, PackedTokens
from metalm_cli.sessions.packing import Row
from model_families import DECODERS, ENCODERS, Documents, assert_same, config_of, gradients, masked_model, shaken

FAMILIES = {
    # family: (packs, its head is known)
    "bert": (True, True),
    "roberta": (True, True),
    "electra": (True, True),
    "distilbert": (True, False),
    "mpnet": (True, True),
    "metalm-encoder": (True, True),
    "modernbert": (False, False),
    "deberta-v2": (False, True),
}
PACKING = [kind for kind, (packs, _) in FAMILIES.items() if packs]


def assembled(tokenizers, kind: str, objective: str = "mlm") -> Assembly:
    reads = "roberta" if kind in ("roberta", "mpnet") else "bert"
    part = {"config": {"model_type": kind, **ENCODERS[kind]}, "tokenizer": str(tokenizers[reads])}
    model = Model.model_validate({"encoders": {"text": part}})
    assembly = build_encoder(model, objective, seed=0, sample=lambda count: iter(()))
    shaken(assembly.model)
    return assembly


def rows_of(objective, texts: list[str], count: int, length: int = 64) -> list[Row]:
    data = Data.model_validate({"sources": [{"name": "w", "world": {}}], "sequence_length": length})
    lane = RowSlot(0, 1, Documents(text[:70] for text in texts), objective.writer(data, 3))
    return [lane.next_row() for _ in range(count)]


def alone(stream: PackedTokens, row: int, segment: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Flat positions of one segment, and which of the targets are its own."""
    s, g = stream.input_ids.shape[1], stream.parent_segments.shape[1]
    at = torch.nonzero(stream.segment_ids[row] == segment).squeeze(1) + row * s
    return at, stream.target_segments == row * g + segment


def segments(stream: PackedTokens) -> list[tuple[int, int]]:
    return [(row, one) for row, ids in enumerate(stream.segment_ids) for one in range(int(ids.max()) + 1)]


@pytest.mark.parametrize("kind", list(FAMILIES))
def test_what_a_family_can_do_is_measured(kind) -> None:
    model = masked_model(kind)
    assert (measure_encoder_packing(model), measure_head(model)) == FAMILIES[kind]
    assert not model.training
    model.train()
    measure_encoder_packing(model), measure_head(model)
    assert model.training


def test_a_family_without_the_pieces_that_are_looked_for_has_no_known_head() -> None:
    from transformers import AutoConfig, AutoModelForMaskedLM

    sizes = {"hidden_size": 32, "embedding_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model("mobilebert", vocab_size=50, intermediate_size=32, intra_bottleneck_size=16, **sizes)
    assert not measure_head(AutoModelForMaskedLM.from_config(config))


@pytest.mark.parametrize("kind", PACKING)
def test_packed_masked_loss_equals_unpacked(kind, tokenizers, texts) -> None:
    assembly = assembled(tokenizers, kind)
    objective = MaskedLMObjective(MaskedLM(name="mlm", mask_rate=0.3), assembly)
    step = objective.step()
    assert objective.packs
    batch = objective.collate(rows_of(objective, texts, 3), length=70)
    stream = batch.streams["text"]
    assert len(segments(stream)) > 3, "nothing is packed"
    step(batch)["loss"].sum.backward()
    found = gradients(assembly.model)
    assembly.model.zero_grad()
    total = torch.zeros(())
    for row, segment in segments(stream):
        at, own = alone(stream, row, segment)
        logits = assembly.model(input_ids=stream.input_ids.flatten()[at][None]).logits[0]
        position = stream.position_ids.flatten()[stream.predict_at[own]]
        total = total + cross_entropy(logits[position], stream.targets[own], reduction="sum")
    total.backward()
    torch.testing.assert_close(step(batch)["loss"].sum, total, atol=1e-4, rtol=1e-5)
    assert_same(found, gradients(assembly.model), 1e-4)
    assert objective.counts(batch)["loss"] == len(stream.targets)


@pytest.mark.parametrize("kind", ["modernbert", "deberta-v2"])
def test_a_family_that_does_not_pack_has_one_document_a_row(kind, tokenizers, texts) -> None:
    assembly = assembled(tokenizers, kind)
    objective = MaskedLMObjective(MaskedLM(name="mlm"), assembly)
    rows = rows_of(objective, texts, 3)
    assert all(len(row.parents) == 1 for row in rows)
    batch = objective.collate(rows)
    stream = batch.streams["text"]
    found = objective.step()(batch)["loss"].sum
    logits = assembly.model(
        input_ids=stream.input_ids, attention_mask=(stream.segment_ids != ROOT).long()
    ).logits.flatten(0, 1)
    torch.testing.assert_close(found, cross_entropy(logits[stream.predict_at], stream.targets, reduction="sum"))


@pytest.mark.parametrize("kind", [kind for kind, (_, known) in FAMILIES.items() if known])
def test_a_known_head_gives_the_models_own_logits(kind) -> None:
    model = masked_model(kind)
    parts = masked_head(model)
    assert parts is not None
    transform, head = parts
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        found = head.logits(transform(model.base_model(input_ids=ids).last_hidden_state))
        torch.testing.assert_close(found, model(input_ids=ids).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "objective"), [("bert", "rtd"), ("gpt2", "mlm"), ("t5", "rtd")])
def test_a_family_without_the_head_is_refused(kind, objective, tokenizers) -> None:
    part = {"config": {"model_type": kind, **{**ENCODERS, **DECODERS}[kind]}, "tokenizer": str(tokenizers["bert"])}
    model = Model.model_validate({"encoders": {"text": part}})
    with pytest.raises(MetalmError, match=f"{kind} model has no head for {objective}") as caught:
        build_encoder(model, objective, seed=0, sample=lambda count: iter(()))
    assert caught.value.where == "model.encoders.text"
    assert caught.value.remedy


def test_a_tokenizer_without_a_mask_token_is_refused(tokenizers) -> None:
    part = {"config": {"model_type": "bert", **ENCODERS["bert"]}, "tokenizer": str(tokenizers["gpt2"])}
    model = Model.model_validate({"encoders": {"text": part}})
    with pytest.raises(MetalmError, match="no mask token") as caught:
        build_encoder(model, "mlm", seed=0, sample=lambda count: iter(()))
    assert caught.value.where == "model.encoders.text.tokenizer"


# -- replaced token detection -----------------------------------------------------------------------------------------

DETECTORS = ["electra", "metalm-encoder"]


def detection(tokenizers, texts, kind: str, rows: int = 4) -> tuple[ReplacedTokenObjective, DetectionStep, Batch]:
    assembly = assembled(tokenizers, kind, "rtd")
    objective = ReplacedTokenObjective(ReplacedTokens(name="rtd", mask_rate=0.3, generator_size=0.5), assembly)
    torch.manual_seed(4)
    step = objective.step().eval()
    return objective, step, objective.collate(rows_of(objective, texts, rows))


@pytest.mark.parametrize("kind", DETECTORS)
def test_the_generator_is_smaller_and_shares_the_embeddings(kind, tokenizers) -> None:
    encoder = assembled(tokenizers, kind, "rtd").model
    generator = make_generator(encoder, 0.25)
    assert generator.get_input_embeddings().weight is encoder.get_input_embeddings().weight
    assert generator.get_output_embeddings().weight is encoder.get_input_embeddings().weight, "tied"
    layers = sum(one.numel() for name, one in encoder.named_parameters() if "layer" in name)
    fewer = sum(one.numel() for name, one in generator.named_parameters() if "layer" in name)
    assert fewer < 0.6 * layers
    assert generator(input_ids=torch.arange(9)[None]).logits.shape == (1, 9, encoder.config.vocab_size)


@pytest.mark.parametrize("kind", DETECTORS)
def test_samples_follow_the_generators_distribution(kind, tokenizers, texts) -> None:
    _, step, batch = detection(tokenizers, texts, kind, 1)
    stream = batch.streams["text"]
    count = 4000
    with torch.no_grad():
        hidden = encode(step.generator, stream.input_ids, stream).flatten(0, 1)[stream.predict_at[0]]
        transform, head = masked_head(step.generator)  # type: ignore[misc]
        states = 3 * transform(hidden)  # sharper, so that the draw has something to get wrong
        share = torch.softmax(head.logits(states), -1)
        uniforms = (torch.arange(count) + 0.5) / count
        many = replace(stream, uniforms=uniforms, targets=torch.zeros(count, dtype=torch.long))
        drawn = step._sample(states.expand(count, -1), many)
    found = torch.bincount(drawn, minlength=len(share)) / count
    assert share.max() > 3 / len(share)
    assert (found - share).abs().max() <= 1.5 / count


def generator_shares(step: DetectionStep, stream: PackedTokens) -> torch.Tensor:
    """The generator's distribution at each masked position, document by document: ``[m, v]`` float64."""
    found = torch.zeros(len(stream.targets), step.generator.config.vocab_size, dtype=torch.float64)
    with torch.no_grad():
        for row, segment in segments(stream):
            at, own = alone(stream, row, segment)
            logits = step.generator(input_ids=stream.input_ids.flatten()[at][None]).logits[0]
            found[own] = logits[stream.position_ids.flatten()[stream.predict_at[own]]].double().softmax(-1)
    return found


def test_what_cannot_be_drawn_is_not_drawn(tokenizers, texts) -> None:
    _, step, batch = detection(tokenizers, texts, "electra", 1)
    step.compact = False  # states are logits then
    logits = torch.full((2, 400), -1e9)
    logits[:, [7, 9]] = 0.0
    uniforms = torch.tensor([0.0, 1 - 2**-24])
    stream = replace(batch.streams["text"], uniforms=uniforms, targets=torch.zeros(2, dtype=torch.long))
    assert step._sample(logits, stream).tolist() == [7, 9]


@pytest.mark.parametrize("kind", DETECTORS)
def test_labels_say_what_was_replaced_and_the_detector_reads_it(kind, tokenizers, texts) -> None:
    objective, step, batch = detection(tokenizers, texts, kind)
    stream = batch.streams["text"]
    shares = generator_shares(step, stream)
    own = shares.gather(1, stream.targets[:, None]).squeeze(1)
    below = shares.cumsum(1).gather(1, stream.targets[:, None]).squeeze(1) - own
    stream.uniforms[::3] = (below + own / 2)[::3].float()  # every third sample is the original token
    expected_ids = (shares.cumsum(1) > stream.uniforms[:, None]).int().argmax(1)
    assert torch.equal(expected_ids[::3], stream.targets[::3])
    read: list[torch.Tensor] = []
    hook = step.model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"]), with_kwargs=True
    )
    with torch.no_grad():
        scores, labels = (one.numpy() for one in step.eval()(batch)["detector"].outputs)
    hook.remove()
    original = stream.input_ids.flatten().clone()
    original[stream.predict_at] = stream.targets
    real = (stream.segment_ids != ROOT).flatten()
    np.testing.assert_array_equal(labels, (read[0].flatten() != original)[real].numpy())
    assert torch.equal(read[0].flatten()[stream.predict_at], expected_ids)
    assert 0 < labels.sum() <= len(stream.targets) * 2 / 3 + 1
    mask_id = objective.processor.tokenizer.mask_token_id
    assert (read[0] == mask_id).sum() < (stream.input_ids == mask_id).sum() / 4, "masks are filled in"
    expected = torch.zeros(stream.input_ids.numel())
    with torch.no_grad():
        for row, segment in segments(stream):
            at, _ = alone(stream, row, segment)
            expected[at] = step.model(input_ids=read[0].flatten()[at][None]).logits[0]
    np.testing.assert_allclose(scores, expected[real].numpy(), atol=1e-4)
    terms = step(batch)
    whole = binary_cross_entropy_with_logits(expected[real], torch.from_numpy(labels).float(), reduction="sum")
    torch.testing.assert_close(terms["detector"].sum, whole, atol=1e-3, rtol=1e-5)
    assert terms["detector"].coefficient == 50
    counts = objective.counts(batch)
    assert (counts["detector"], counts["generator"]) == (int(real.sum()), len(stream.targets))


@pytest.mark.parametrize("kind", DETECTORS)
def test_micro_batches_give_the_loss_of_the_whole(kind, tokenizers, texts) -> None:
    assembly = assembled(tokenizers, kind, "rtd")
    objective = ReplacedTokenObjective(ReplacedTokens(name="rtd", generator_size=0.5), assembly)
    step = objective.step().eval()
    rows = rows_of(objective, texts, 4)
    whole = step(objective.collate(rows))
    for size in (1, 2):
        parts = [step(objective.collate(rows[at : at + size])) for at in range(0, 4, size)]
        for name, term in whole.items():
            torch.testing.assert_close(sum(one[name].sum for one in parts), term.sum, atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("kind", DETECTORS)
def test_detection_does_not_teach_the_generator(kind, tokenizers, texts) -> None:
    _, step, batch = detection(tokenizers, texts, kind)
    shared = step.model.get_input_embeddings().weight
    step(batch)["detector"].sum.backward()
    assert all(one.grad is None for one in step.generator.parameters() if one is not shared)
    assert shared.grad is not None
    step.zero_grad()
    step(batch)["generator"].sum.backward()
    assert any(one.grad is not None and one.grad.any() for one in step.generator.parameters() if one is not shared)
    assert all(one.grad is None for one in step.model.parameters() if one is not shared)


def test_metrics_of_a_detector(tokenizers, texts) -> None:
    objective, step, batch = detection(tokenizers, texts, "electra")
    with torch.no_grad():
        terms, counts = step.eval()(batch), objective.counts(batch)
    observed = tuple(one.numpy() for one in terms["detector"].outputs)
    found = objective.metrics({name: term.sum.item() for name, term in terms.items()}, counts, [observed])
    assert found["loss"] == pytest.approx(found["generator_loss"] + 50 * found["detector_loss"])
    assert 0.5 <= found["base_rate"] <= 1
    assert 0 <= found["auc"] <= 1


def test_uneven_embeddings_are_kept_apart() -> None:
    from transformers import AutoModelForPreTraining

    encoder = AutoModelForPreTraining.from_config(config_of("electra", embedding_size=16))
    generator = make_generator(encoder, 0.25)
    assert generator.config.embedding_size == 16
    assert generator.config.hidden_size == 8
    assert generator.config.num_attention_heads == 1
