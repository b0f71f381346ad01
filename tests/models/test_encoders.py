"""Encoders as docks: every family gives the outputs of a direct call on the single text."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from metalm_cli.errors import MetalmError
from metalm_cli.models.assembly import build_metalm
from metalm_cli.models.capabilities import measure_encoder_packing
from metalm_cli.models.encoders import encoder_io_for, first_position, in_slices, load_tokenizer
from metalm_cli.sessions import Docked, Session, SessionTokeniser, UnreadableContentError, build_row, collate
from model_families import (
    ENCODERS,
    TEXTS,
    VISION,
    VOCABULARY,
    assert_same,
    batch_of,
    batch_with,
    config_of,
    gradients,
    loss_and_gradients,
    make_decoder,
    make_encoder,
    make_metalm,
    model_recipe,
    noise_image,
    processor_of,
    sessions,
    unpacked_losses,
)


def assemble(tokenizers, kind: str, **options):
    return build_metalm(model_recipe(tokenizers, encoder=kind, **options), seed=0, sample=lambda count: iter(()))


@pytest.mark.parametrize("keep_special", [False, True])
@pytest.mark.parametrize("kind", list(ENCODERS))
def test_docks_are_a_direct_call_on_the_single_text(kind, keep_special, tokenizers) -> None:
    assembly = assemble(tokenizers, kind, keep_special=keep_special)
    model = assembly.model.eval()
    encoder, tokenizer = model.encoders["text"], assembly.processors["text"].tokenizer
    batch = batch_with(assembly, TEXTS)
    table = batch.docks["text"]
    with torch.no_grad():
        vectors = model.dock_vectors("text", table)[table.content_index]
        embeds = model.embed(batch.decoder.input_ids, batch.docks)
        expected = []
        for text in TEXTS:
            ids = tokenizer(text).input_ids
            outputs = encoder(input_ids=torch.tensor([ids])).last_hidden_state[0]
            special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
            content = [index for index, token in enumerate(ids) if keep_special or token not in special]
            assert len(content) == len(ids) - (0 if keep_special else 2)
            expected.append(model.connectors["text"][0](outputs[content]))
    torch.testing.assert_close(vectors, torch.cat(expected), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(embeds.flatten(0, 1)[table.positions], torch.cat(expected), atol=1e-5, rtol=1e-4)
    assert batch.docks["text"].inputs["input_ids"].shape[0] == 3


@pytest.mark.parametrize("kind", list(ENCODERS))
def test_batching_docks_changes_neither_losses_nor_gradients(kind) -> None:
    model = make_metalm(make_decoder("gpt2"), {"text": make_encoder(kind)})
    tokenised = sessions()
    unpacked, expected = unpacked_losses(model, tokenised)
    batched, batched_gradients = loss_and_gradients(model, batch_of([tokenised], length=80))
    torch.testing.assert_close(batched, unpacked, atol=1e-5, rtol=1e-5)
    assert_same(batched_gradients, expected)
    assert any(
        name.startswith("encoders.text") and value.abs().max() > 1e-4 for name, value in batched_gradients.items()
    )
    assert not any("pooler" in name for name, _ in model.named_parameters()), "a pooler would not be trained"


LIMITS = {"bert": 130, "distilbert": 130, "metalm-encoder": 130, "roberta": 128, "mpnet": 128, "t5": None}


@pytest.mark.parametrize(("kind", "limit"), LIMITS.items())
def test_an_encoder_reads_as_many_tokens_as_it_has_positions(kind, limit, tokenizers) -> None:
    tokenizer = load_tokenizer(tokenizers["roberta" if kind in ("roberta", "mpnet") else "bert"])
    encoder, encoder_io = make_encoder(kind), encoder_io_for(config_of(kind))
    processor = encoder_io.processor("text", tokenizer, encoder, {})
    assert processor.max_length == (limit or 512)
    if limit is None:
        return
    dock = processor.prepare(_words(processor, limit))
    assert len(dock.arrays["input_ids"]) == limit
    with torch.no_grad():
        encoder_io.outputs(encoder, {"input_ids": torch.from_numpy(dock.arrays["input_ids"])[None]})
    with pytest.raises(UnreadableContentError, match=rf"{limit + 1} tokens.*reads {limit}") as caught:
        processor.prepare(_words(processor, limit + 1))
    assert caught.value.reason == "too_long"
    with pytest.raises(MetalmError, match=str(limit)) as problem:
        encoder_io.processor("text", tokenizer, encoder, {"max_length": limit + 1})
    assert problem.value.where == "model.encoders.text.max_length"
    assert str(limit) in problem.value.remedy
    assert encoder_io.processor("text", tokenizer, encoder, {"max_length": 20}).max_length == 20


def _words(processor, tokens: int) -> str:
    for count in range(tokens):
        for text in (" ".join(["."] * count), " ".join(["."] * count) + " a"):
            if len(processor.tokenizer(text).input_ids) == tokens:
                return text
    raise AssertionError(f"no text of {tokens} tokens")


def test_positions_begin_after_a_padding_index_that_is_not_the_tokenizers(tokenizers) -> None:
    """MPNet's position table begins after index 1 whatever the padding token is."""
    encoder = make_encoder("mpnet", pad_token_id=0)
    processor = encoder_io_for(encoder.config).processor("text", load_tokenizer(tokenizers["bert"]), encoder, {})
    assert processor.max_length == 128
    ids = torch.from_numpy(processor.prepare(_words(processor, 128)).arrays["input_ids"])[None]
    assert encoder(input_ids=ids).last_hidden_state.shape == (1, 128, 32)
    assert {kind: first_position(make_encoder(kind)) for kind in ("bert", "roberta", "mpnet", "t5")} == {
        "bert": 0,
        "roberta": 2,
        "mpnet": 2,
        "t5": 0,
    }


def test_the_tokenizers_own_limit_counts_too(tokenizers) -> None:
    tokenizer = load_tokenizer(tokenizers["bert"])
    tokenizer.model_max_length = 64
    encoder = make_encoder("bert")
    assert encoder_io_for(encoder.config).processor("text", tokenizer, encoder, {}).max_length == 64


@pytest.mark.parametrize(("content", "reason"), [("", "empty"), ("  \n ", "empty")])
def test_an_empty_text_cannot_be_docked(content, reason, tokenizers) -> None:
    with pytest.raises(UnreadableContentError) as caught:
        processor_of(tokenizers["bert"]).prepare(content)
    assert caught.value.reason == reason


def test_an_encoder_that_reads_text_refuses_an_image(tokenizers) -> None:
    with pytest.raises(MetalmError, match="reads text, got Image"):
        processor_of(tokenizers["bert"]).prepare(Image.new("RGB", (8, 8)))


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused(tokenizers) -> None:
    encoder = make_encoder("bert", vocab_size=VOCABULARY - 1)
    with pytest.raises(MetalmError, match=f"{VOCABULARY} tokens, its embeddings {VOCABULARY - 1} rows") as caught:
        encoder_io_for(encoder.config).processor("text", load_tokenizer(tokenizers["bert"]), encoder, {})
    assert caught.value.where == "model.encoders.text.tokenizer"
    assert caught.value.remedy


# -- vision -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "extra"), [("vit", 1), ("deit", 2)])
@pytest.mark.parametrize("keep_special", [False, True])
def test_patches_of_an_image_are_docked(kind, extra, keep_special, tokenizers) -> None:
    assembly = assemble(tokenizers, kind, name="vision", keep_special=keep_special)
    model, processor = assembly.model.eval(), assembly.processors["vision"]
    images = [noise_image(0), noise_image(1)]
    batch = batch_with(assembly, images, "vision")
    pixels = processor.processor(images=images[1], return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 8, 8)
    table = batch.docks["vision"]
    with torch.no_grad():
        outputs = model.encoders["vision"](pixel_values=pixels).last_hidden_state[0]
        assert len(outputs) == 4 + extra
        expected = model.connectors["vision"](outputs if keep_special else outputs[extra:])
        vectors = model.dock_vectors("vision", table)[table.content_index]
    count = 4 + extra if keep_special else 4
    assert len(vectors) == 2 * count
    torch.testing.assert_close(vectors[count:], expected, atol=1e-5, rtol=1e-5)


def test_an_image_session_trains_and_generates(tokenizers, tmp_path) -> None:
    assembly = assemble(tokenizers, "deit", name="vision")
    model = assembly.model.train()
    noise_image().save(tmp_path / "photo.png")
    batch = batch_with(assembly, [tmp_path / "photo.png", noise_image(1)], "vision")
    model.losses(batch)[0].backward()
    found_gradients = gradients(model)
    assert found_gradients["connectors.vision.0.weight"].abs().max() > 0
    assert any(name.startswith("encoders.vision") and value.abs().max() > 0 for name, value in found_gradients.items())
    session = SessionTokeniser(assembly.tokenizer, assembly.processors)(Session([Docked("vision", noise_image(1))]))
    prompt = collate([build_row([session])], assembly.processors)
    ids = model.eval().generate(prompt.decoder.input_ids, prompt.docks, max_new_tokens=3, do_sample=False)
    assert ids.shape[0] == 1
    assert 1 <= ids.shape[1] <= 3


@pytest.mark.parametrize("kind", list(VISION))
def test_an_image_that_cannot_be_read_is_named(kind, tokenizers, tmp_path) -> None:
    processor = assemble(tokenizers, kind, name="vision").processors["vision"]
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    for content in (broken, tmp_path / "absent.png"):
        with pytest.raises(MetalmError, match="cannot be read") as caught:
            processor.prepare(content)
        assert caught.value.where == str(content)
    with pytest.raises(MetalmError, match="takes a path or a PIL image, got bytes"):
        processor.prepare(b"no image")


# -- encoders alone ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["roberta", "mpnet"])
def test_packed_positions_begin_where_the_family_has_them(kind) -> None:
    from transformers import AutoModelForMaskedLM

    torch.manual_seed(0)
    for pad in (0, 1, 5):
        model = AutoModelForMaskedLM.from_config(config_of(kind, pad_token_id=pad)).eval()
        assert measure_encoder_packing(model), pad


@pytest.mark.parametrize("lengths", [[3, 9, 1, 9, 5], [0, 0, 2], [4]])
def test_texts_are_sliced_longest_first_and_each_once(lengths: list[int]) -> None:
    longest = max(lengths)
    mask = torch.tensor([[1] * length + [0] * (longest - length) for length in lengths])
    ids = torch.arange(mask.numel()).view_as(mask)
    slices = in_slices({"input_ids": ids, "attention_mask": mask}, 10, None)
    assert sorted(index for indices, _ in slices for index in indices) == list(range(len(lengths)))
    widths = [inputs["input_ids"].shape[1] for _, inputs in slices]
    assert widths == sorted(widths, reverse=True)
    for indices, inputs in slices:
        assert len(indices) == 1 or inputs["input_ids"].numel() <= 10
        for index, row, row_mask in zip(indices, inputs["input_ids"], inputs["attention_mask"], strict=True):
            assert row[row_mask.bool()].tolist() == ids[index, : lengths[index]].tolist()
