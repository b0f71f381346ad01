"""Encoders that train alone: packed rows, masked language models, replaced token detection."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from metalm_cli.config.schema.data import DataConfig
from metalm_cli.config.schema.model import ModelConfig
from metalm_cli.config.schema.objectives import MaskedLM, ReplacedTokenDetection
from metalm_cli.data.sampling.row_slots import RowSlot
from metalm_cli.errors import MetalmError
from metalm_cli.models.assembly import Assembly, build_encoder
from metalm_cli.models.capabilities import measure_encoder_packing, measure_masked_head
from metalm_cli.models.families.encoder_only import encode, make_generator
from metalm_cli.models.mlm_heads import masked_head
from metalm_cli.objectives.masked_lm import MaskedLMObjective
from metalm_cli.objectives.replaced_token_detection import DetectionStep, ReplacedTokenObjective
from metalm_cli.sessions import ROOT, Batch, PackedTokens
from metalm_cli.sessions.packing import Row
from model_families import DECODERS, ENCODERS, Documents, assert_same, config_of, gradients, make_masked_lm, perturb

FAMILIES = {
    # family: (supports packing, has a known head)
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


def assemble(tokenizers, kind: str, objective: str = "mlm") -> Assembly:
    tokenizer_kind = "roberta" if kind in ("roberta", "mpnet") else "bert"
    part = {"config": {"model_type": kind, **ENCODERS[kind]}, "tokenizer": str(tokenizers[tokenizer_kind])}
    model = ModelConfig.model_validate({"encoders": {"text": part}})
    assembly = build_encoder(model, objective, seed=0, sample=lambda count: iter(()))
    perturb(assembly.model)
    return assembly


def rows_of(objective, texts: list[str], count: int, length: int = 64) -> list[Row]:
    data = DataConfig.model_validate({"sources": [{"name": "w", "world": {}}], "sequence_length": length})
    slot = RowSlot(0, 1, Documents(text[:70] for text in texts), objective.writer(data, 3))
    return [slot.next_row() for _ in range(count)]


def segment_targets(tokens: PackedTokens, row: int, segment: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the flat positions of a segment, and a mask of its targets."""
    s, g = tokens.input_ids.shape[1], tokens.parent_segments.shape[1]
    positions = torch.nonzero(tokens.segment_ids[row] == segment).squeeze(1) + row * s
    return positions, tokens.target_segments == row * g + segment


def segments(tokens: PackedTokens) -> list[tuple[int, int]]:
    return [(row, segment) for row, ids in enumerate(tokens.segment_ids) for segment in range(int(ids.max()) + 1)]


@pytest.mark.parametrize("kind", list(FAMILIES))
def test_packing_and_head_of_a_family_are_measured(kind) -> None:
    model = make_masked_lm(kind)
    assert (measure_encoder_packing(model), measure_masked_head(model)) == FAMILIES[kind]
    assert not model.training
    model.train()
    measure_encoder_packing(model), measure_masked_head(model)
    assert model.training


def test_a_family_with_another_head_has_no_known_head() -> None:
    from transformers import AutoConfig, AutoModelForMaskedLM

    sizes = {"hidden_size": 32, "embedding_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model("mobilebert", vocab_size=50, intermediate_size=32, intra_bottleneck_size=16, **sizes)
    assert not measure_masked_head(AutoModelForMaskedLM.from_config(config))


@pytest.mark.parametrize("kind", PACKING)
def test_packed_masked_loss_equals_unpacked(kind, tokenizers, texts) -> None:
    assembly = assemble(tokenizers, kind)
    objective = MaskedLMObjective(MaskedLM(name="mlm", mask_rate=0.3), assembly)
    step = objective.step_module()
    assert objective.packs
    batch = objective.collate(rows_of(objective, texts, 3), length=70)
    tokens = batch.streams["text"]
    assert len(segments(tokens)) > 3, "nothing is packed"
    step(batch)["loss"].sum.backward()
    packed_gradients = gradients(assembly.model)
    assembly.model.zero_grad()
    total = torch.zeros(())
    for row, segment in segments(tokens):
        positions, is_own_target = segment_targets(tokens, row, segment)
        logits = assembly.model(input_ids=tokens.input_ids.flatten()[positions][None]).logits[0]
        position = tokens.position_ids.flatten()[tokens.predict_at[is_own_target]]
        total = total + cross_entropy(logits[position], tokens.targets[is_own_target], reduction="sum")
    total.backward()
    torch.testing.assert_close(step(batch)["loss"].sum, total, atol=1e-4, rtol=1e-5)
    assert_same(packed_gradients, gradients(assembly.model), 1e-4)
    assert objective.counts(batch)["loss"] == len(tokens.targets)


@pytest.mark.parametrize("kind", ["modernbert", "deberta-v2"])
def test_a_family_that_does_not_pack_has_one_document_a_row(kind, tokenizers, texts) -> None:
    assembly = assemble(tokenizers, kind)
    objective = MaskedLMObjective(MaskedLM(name="mlm"), assembly)
    rows = rows_of(objective, texts, 3)
    assert all(len(row.parents) == 1 for row in rows)
    batch = objective.collate(rows)
    tokens = batch.streams["text"]
    loss = objective.step_module()(batch)["loss"].sum
    logits = assembly.model(
        input_ids=tokens.input_ids, attention_mask=(tokens.segment_ids != ROOT).long()
    ).logits.flatten(0, 1)
    torch.testing.assert_close(loss, cross_entropy(logits[tokens.predict_at], tokens.targets, reduction="sum"))


@pytest.mark.parametrize("kind", [kind for kind, (_, known) in FAMILIES.items() if known])
def test_a_known_head_gives_the_models_own_logits(kind) -> None:
    model = make_masked_lm(kind)
    parts = masked_head(model)
    assert parts is not None
    transform, head = parts
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        logits = head.logits(transform(model.base_model(input_ids=ids).last_hidden_state))
        torch.testing.assert_close(logits, model(input_ids=ids).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "objective"), [("bert", "rtd"), ("gpt2", "mlm"), ("t5", "rtd")])
def test_a_family_without_the_head_is_refused(kind, objective, tokenizers) -> None:
    part = {"config": {"model_type": kind, **{**ENCODERS, **DECODERS}[kind]}, "tokenizer": str(tokenizers["bert"])}
    model = ModelConfig.model_validate({"encoders": {"text": part}})
    with pytest.raises(MetalmError, match=f"{kind} model has no head for {objective}") as caught:
        build_encoder(model, objective, seed=0, sample=lambda count: iter(()))
    assert caught.value.where == "model.encoders.text"
    assert caught.value.remedy


def test_a_tokenizer_without_a_mask_token_is_refused(tokenizers) -> None:
    part = {"config": {"model_type": "bert", **ENCODERS["bert"]}, "tokenizer": str(tokenizers["gpt2"])}
    model = ModelConfig.model_validate({"encoders": {"text": part}})
    with pytest.raises(MetalmError, match="no mask token") as caught:
        build_encoder(model, "mlm", seed=0, sample=lambda count: iter(()))
    assert caught.value.where == "model.encoders.text.tokenizer"


# -- replaced token detection -----------------------------------------------------------------------------------------

DETECTORS = ["electra", "metalm-encoder"]


def detection(tokenizers, texts, kind: str, rows: int = 4) -> tuple[ReplacedTokenObjective, DetectionStep, Batch]:
    assembly = assemble(tokenizers, kind, "rtd")
    objective = ReplacedTokenObjective(ReplacedTokenDetection(name="rtd", mask_rate=0.3, generator_size=0.5), assembly)
    torch.manual_seed(4)
    step = objective.step_module().eval()
    return objective, step, objective.collate(rows_of(objective, texts, rows))


@pytest.mark.parametrize("kind", DETECTORS)
def test_the_generator_is_smaller_and_shares_the_embeddings(kind, tokenizers) -> None:
    encoder = assemble(tokenizers, kind, "rtd").model
    generator = make_generator(encoder, 0.25)
    assert generator.get_input_embeddings().weight is encoder.get_input_embeddings().weight
    assert generator.get_output_embeddings().weight is encoder.get_input_embeddings().weight, "tied"
    layers = sum(parameter.numel() for name, parameter in encoder.named_parameters() if "layer" in name)
    fewer = sum(parameter.numel() for name, parameter in generator.named_parameters() if "layer" in name)
    assert fewer < 0.6 * layers
    assert generator(input_ids=torch.arange(9)[None]).logits.shape == (1, 9, encoder.config.vocab_size)


@pytest.mark.parametrize("kind", DETECTORS)
def test_samples_follow_the_generators_distribution(kind, tokenizers, texts) -> None:
    _, step, batch = detection(tokenizers, texts, kind, 1)
    tokens = batch.streams["text"]
    count = 4000
    with torch.no_grad():
        hidden = encode(step.generator, tokens.input_ids, tokens).flatten(0, 1)[tokens.predict_at[0]]
        transform, head = masked_head(step.generator)  # type: ignore[misc]
        states = 3 * transform(hidden)  # a sharper distribution, so that wrong samples show
        probabilities = torch.softmax(head.logits(states), -1)
        uniforms = (torch.arange(count) + 0.5) / count
        repeated = replace(tokens, uniforms=uniforms, targets=torch.zeros(count, dtype=torch.long))
        samples = step._sample(states.expand(count, -1), repeated)
    frequencies = torch.bincount(samples, minlength=len(probabilities)) / count
    assert probabilities.max() > 3 / len(probabilities)
    assert (frequencies - probabilities).abs().max() <= 1.5 / count


def generator_shares(step: DetectionStep, tokens: PackedTokens) -> torch.Tensor:
    """The generator's distribution at each masked position, document by document: ``[m, v]`` float64."""
    shares = torch.zeros(len(tokens.targets), step.generator.config.vocab_size, dtype=torch.float64)
    with torch.no_grad():
        for row, segment in segments(tokens):
            positions, is_own_target = segment_targets(tokens, row, segment)
            logits = step.generator(input_ids=tokens.input_ids.flatten()[positions][None]).logits[0]
            shares[is_own_target] = (
                logits[tokens.position_ids.flatten()[tokens.predict_at[is_own_target]]].double().softmax(-1)
            )
    return shares


def test_what_cannot_be_drawn_is_not_drawn(tokenizers, texts) -> None:
    _, step, batch = detection(tokenizers, texts, "electra", 1)
    step.compact = False  # the states are then logits
    logits = torch.full((2, 400), -1e9)
    logits[:, [7, 9]] = 0.0
    uniforms = torch.tensor([0.0, 1 - 2**-24])
    tokens = replace(batch.streams["text"], uniforms=uniforms, targets=torch.zeros(2, dtype=torch.long))
    assert step._sample(logits, tokens).tolist() == [7, 9]


@pytest.mark.parametrize("kind", DETECTORS)
def test_labels_mark_replaced_tokens_and_the_detector_reads_the_samples(kind, tokenizers, texts) -> None:
    objective, step, batch = detection(tokenizers, texts, kind)
    tokens = batch.streams["text"]
    shares = generator_shares(step, tokens)
    own = shares.gather(1, tokens.targets[:, None]).squeeze(1)
    below = shares.cumsum(1).gather(1, tokens.targets[:, None]).squeeze(1) - own
    tokens.uniforms[::3] = (below + own / 2)[::3].float()  # every third sample is the original token
    expected_ids = (shares.cumsum(1) > tokens.uniforms[:, None]).int().argmax(1)
    assert torch.equal(expected_ids[::3], tokens.targets[::3])
    input_ids: list[torch.Tensor] = []
    hook = step.model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: input_ids.append(kwargs["input_ids"]), with_kwargs=True
    )
    with torch.no_grad():
        scores, labels = (output.numpy() for output in step.eval()(batch)["detector"].outputs)
    hook.remove()
    original = tokens.input_ids.flatten().clone()
    original[tokens.predict_at] = tokens.targets
    real = (tokens.segment_ids != ROOT).flatten()
    np.testing.assert_array_equal(labels, (input_ids[0].flatten() != original)[real].numpy())
    assert torch.equal(input_ids[0].flatten()[tokens.predict_at], expected_ids)
    assert 0 < labels.sum() <= len(tokens.targets) * 2 / 3 + 1
    mask_id = objective.processor.tokenizer.mask_token_id
    assert (input_ids[0] == mask_id).sum() < (tokens.input_ids == mask_id).sum() / 4, "masks are filled in"
    expected = torch.zeros(tokens.input_ids.numel())
    with torch.no_grad():
        for row, segment in segments(tokens):
            positions, _ = segment_targets(tokens, row, segment)
            expected[positions] = step.model(input_ids=input_ids[0].flatten()[positions][None]).logits[0]
    np.testing.assert_allclose(scores, expected[real].numpy(), atol=1e-4)
    terms = step(batch)
    expected_loss = binary_cross_entropy_with_logits(expected[real], torch.from_numpy(labels).float(), reduction="sum")
    torch.testing.assert_close(terms["detector"].sum, expected_loss, atol=1e-3, rtol=1e-5)
    assert terms["detector"].coefficient == 50
    counts = objective.counts(batch)
    assert (counts["detector"], counts["generator"]) == (int(real.sum()), len(tokens.targets))


@pytest.mark.parametrize("kind", DETECTORS)
def test_micro_batches_give_the_loss_of_the_whole(kind, tokenizers, texts) -> None:
    assembly = assemble(tokenizers, kind, "rtd")
    objective = ReplacedTokenObjective(ReplacedTokenDetection(name="rtd", generator_size=0.5), assembly)
    step = objective.step_module().eval()
    rows = rows_of(objective, texts, 4)
    full = step(objective.collate(rows))
    for size in (1, 2):
        parts = [step(objective.collate(rows[start : start + size])) for start in range(0, 4, size)]
        for name, term in full.items():
            torch.testing.assert_close(
                sum(micro_terms[name].sum for micro_terms in parts), term.sum, atol=1e-3, rtol=1e-5
            )


@pytest.mark.parametrize("kind", DETECTORS)
def test_detection_does_not_teach_the_generator(kind, tokenizers, texts) -> None:
    _, step, batch = detection(tokenizers, texts, kind)
    shared = step.model.get_input_embeddings().weight
    step(batch)["detector"].sum.backward()
    assert all(parameter.grad is None for parameter in step.generator.parameters() if parameter is not shared)
    assert shared.grad is not None
    step.zero_grad()
    step(batch)["generator"].sum.backward()
    assert any(
        parameter.grad is not None and parameter.grad.any()
        for parameter in step.generator.parameters()
        if parameter is not shared
    )
    assert all(parameter.grad is None for parameter in step.model.parameters() if parameter is not shared)


def test_metrics_of_a_detector(tokenizers, texts) -> None:
    objective, step, batch = detection(tokenizers, texts, "electra")
    with torch.no_grad():
        terms, counts = step.eval()(batch), objective.counts(batch)
    observed = tuple(output.numpy() for output in terms["detector"].outputs)
    metrics = objective.metrics({name: term.sum.item() for name, term in terms.items()}, counts, [observed])
    assert metrics["loss"] == pytest.approx(metrics["generator_loss"] + 50 * metrics["detector_loss"])
    assert 0.5 <= metrics["base_rate"] <= 1
    assert 0 <= metrics["auc"] <= 1


def test_a_generator_keeps_a_separate_embedding_size() -> None:
    from transformers import AutoModelForPreTraining

    encoder = AutoModelForPreTraining.from_config(config_of("electra", embedding_size=16))
    generator = make_generator(encoder, 0.25)
    assert generator.config.embedding_size == 16
    assert generator.config.hidden_size == 8
    assert generator.config.num_attention_heads == 1
