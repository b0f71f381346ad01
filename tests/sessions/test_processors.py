"""Texts and images as docks."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from PIL import Image

from metalm_cli.errors import MetalmError
from metalm_cli.sessions import ImageProcessor, TextProcessor, UnreadableContentError
from tiny_models import tokenizer_of


class Shrink:
    """An image processor as Hugging Face's: 4 x 4 pixels, channels first, batched."""

    def __call__(self, images: Image.Image, return_tensors: str) -> dict[str, np.ndarray]:
        assert images.mode == "RGB"
        assert return_tensors == "np"
        pixels = np.asarray(images.resize((4, 4)), dtype=np.float64).transpose(2, 0, 1)
        return {"pixel_values": pixels[None] / 255}


@pytest.fixture
def processor() -> ImageProcessor:
    return ImageProcessor("vision", Shrink(), np.arange(1, 5), (3, 4, 4))


def test_a_path_and_an_image_are_the_same_dock(processor, tmp_path):
    image = Image.new("L", (8, 6), color=128)
    image.save(tmp_path / "grey.png")
    docks = [processor.prepare(source) for source in (image, tmp_path / "grey.png", str(tmp_path / "grey.png"))]
    assert len({dock.key for dock in docks}) == 1
    assert docks[0].arrays["pixel_values"].shape == (3, 4, 4)
    assert docks[0].arrays["pixel_values"].dtype == np.float32
    assert (docks[0].positions, docks[0].cost) == (4, {"vision": 4})
    other = processor.prepare(Image.new("RGB", (8, 6), color=(1, 2, 3)))
    assert other.key != docks[0].key
    assert processor.collate([docks[0], other])["pixel_values"].shape == (2, 3, 4, 4)
    assert processor.collate([processor.dummy()])["pixel_values"].shape == (1, 3, 4, 4)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.write_bytes(b"not an image")])
def test_an_image_that_cannot_be_read_is_named(processor, tmp_path, make):
    path = tmp_path / "photo.jpg"
    make(path)
    with pytest.raises(MetalmError, match="an image cannot be read") as caught:
        processor.prepare(path)
    assert caught.value.where == str(path)
    assert caught.value.why


def test_an_image_dock_takes_a_path_or_an_image(processor):
    with pytest.raises(MetalmError, match="got ndarray"):
        processor.prepare(np.zeros((4, 4)))


@pytest.mark.parametrize(("text", "reason"), [(" ", "empty"), ("dog " * 9, "too_long")])
def test_unreadable_content_has_a_reason(text, reason):
    with pytest.raises(UnreadableContentError) as caught:
        TextProcessor("text", tokenizer_of("wordpiece"), 8).prepare(text)
    assert caught.value.reason == reason


def test_a_text_of_exactly_the_most_tokens_is_docked():
    tokenizer = tokenizer_of("wordpiece")
    size = len(tokenizer("The dog barked.").input_ids)
    assert TextProcessor("text", tokenizer, size).prepare("The dog barked.").positions == size - 2
    with pytest.raises(UnreadableContentError):
        TextProcessor("text", tokenizer, size - 1).prepare("The dog barked.")


def test_processors_and_docks_can_be_pickled():
    processor = TextProcessor("text", tokenizer_of("wordpiece"), 32)
    unpickled = pickle.loads(pickle.dumps(processor))
    first, second = (
        pickle.loads(pickle.dumps(text_processor.prepare("A dog."))) for text_processor in (processor, unpickled)
    )
    assert first.key == second.key
    assert first.arrays["input_ids"].tolist() == second.arrays["input_ids"].tolist()
