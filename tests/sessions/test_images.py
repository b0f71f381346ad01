"""Images as docks read them: formats, kinds of pixels, orientation, limits, and errors."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from metalm_cli.errors import MetalmError
from metalm_cli.sessions import images
from metalm_cli.sessions.images import read_image


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A grey PNG file of these chunks after its header."""
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in (header, *chunks, (b"IEND", b""))
    )


def coloured() -> Image.Image:
    """Four pixels: red and green above blue and white."""
    return Image.fromarray(np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], dtype=np.uint8))


def refused(source: object) -> MetalmError:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(MetalmError, match="image cannot be read") as caught:
            read_image(source)
    assert caught.value.why
    assert caught.value.remedy
    return caught.value


# -- formats ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp", "tiff"])
def test_each_named_format_is_read_whatever_the_file_is_called(suffix, tmp_path) -> None:
    path = tmp_path / f"image.{suffix}"
    Image.new("RGB", (9, 7), (200, 100, 50)).save(path)
    path = path.rename(tmp_path / "photo.jpg")
    for source in (path, str(path), Image.open(path)):
        image = read_image(source)
        assert (image.mode, image.size) == ("RGB", (9, 7))
        np.testing.assert_allclose(np.asarray(image)[3, 4], (200, 100, 50), atol=5)


def test_a_photo_with_further_pictures_is_read(tmp_path) -> None:
    Image.new("RGB", (9, 7), "red").save(
        tmp_path / "photo.jpg", "MPO", save_all=True, append_images=[Image.new("RGB", (9, 7), "blue")]
    )
    for source in (tmp_path / "photo.jpg", Image.open(tmp_path / "photo.jpg")):
        assert np.asarray(read_image(source))[3, 4].tolist() == [254, 0, 0]


def test_no_image_starts_a_program(tmp_path, monkeypatch) -> None:
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *arguments, **options: started.append(arguments))
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (9, 7)).save(path, "EPS")
    assert "none of the formats PNG, JPEG" in refused(path).why
    assert "format EPS" in refused(Image.open(path)).why
    assert started == []


@pytest.mark.parametrize("suffix", ["ppm", "ico", "pcx", "tga", "sgi", "pdf"])
def test_other_formats_are_refused(suffix, tmp_path) -> None:
    path = tmp_path / f"image.{suffix}"
    Image.new("RGB", (32, 32)).save(path)
    refused(path)


# -- pixels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "dtype"), [("png", "<u2"), ("tiff", "<u2"), ("tiff", ">u2")])
def test_sixteen_bit_grey_is_scaled(suffix, dtype, tmp_path) -> None:
    ramp = np.linspace(0, 65535, 256 * 16).round().astype(np.uint16).reshape(64, 64)
    image = Image.fromarray(ramp.astype(dtype))
    image.save(tmp_path / f"ramp.{suffix}")
    for source in (image, tmp_path / f"ramp.{suffix}"):
        pixels = np.asarray(read_image(source))
        np.testing.assert_array_equal(pixels, np.rint(ramp / 257)[..., None].repeat(3, axis=2))
        assert pixels.mean() == pytest.approx(127.5, abs=0.1)


def test_sixteen_bit_grey_that_pillow_opens_as_32_bit_is_scaled() -> None:
    image = Image.fromarray(np.array([[0, 65535], [32768, 257]], dtype=np.int32))
    image.format = "PNG"  # as before Pillow 11.3
    assert np.asarray(read_image(image))[..., 0].tolist() == [[0, 255], [128, 1]]


@pytest.mark.parametrize(
    ("values", "mode"), [(np.linspace(0, 1, 64, dtype=np.float32), "F"), (np.arange(64, dtype=np.int32), "I")]
)
def test_pixels_without_a_defined_white_are_refused(values, mode, tmp_path) -> None:
    image = Image.fromarray(values.reshape(8, 8))
    image.save(tmp_path / "values.tiff")
    for source in (image, tmp_path / "values.tiff"):
        error = refused(source)
        assert f"mode {mode}" in error.why
        assert "8 bits" in error.remedy


def test_colours_are_the_same_in_every_mode(tmp_path) -> None:
    expected = np.asarray(coloured())
    for mode, suffix in (("P", "png"), ("P", "gif"), ("RGBA", "png"), ("RGBA", "webp"), ("CMYK", "tiff"), ("RGBA", "")):
        image = coloured().convert(mode)
        if suffix:
            image.save(tmp_path / f"image.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
        pixels = np.asarray(read_image(tmp_path / f"image.{suffix}" if suffix else image))
        np.testing.assert_array_equal(pixels, expected, err_msg=f"{mode} {suffix}")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "PA"])
def test_grey_is_grey(mode, tmp_path) -> None:
    image = Image.fromarray(np.array([[0, 255], [255, 0]], dtype=np.uint8)).convert("LA" if mode == "PA" else mode)
    if mode == "PA":
        image = image.convert("PA")
    pixels = np.asarray(read_image(image))
    assert pixels.tolist() == [[[0] * 3, [255] * 3], [[255] * 3, [0] * 3]]


# -- orientation ------------------------------------------------------------------------------------------------------

TURNS = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels, 1),
}
"""The stored pixels turned upright, by orientation as EXIF defines it."""


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("suffix", ["png", "webp", "tiff", "jpg"])
def test_a_photo_is_upright(suffix, orientation, tmp_path) -> None:
    stored = np.zeros((40, 60, 3), dtype=np.uint8)
    stored[:20, :30] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"photo.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(stored).save(path, exif=exif.tobytes() if suffix != "tiff" else exif, **options)
    upright = read_image(path)
    expected = TURNS[orientation](stored)
    assert upright.size == (expected.shape[1], expected.shape[0])
    np.testing.assert_allclose(np.asarray(upright), expected, atol=40)
    for again in (read_image(Image.open(path)), read_image(upright)):
        np.testing.assert_array_equal(np.asarray(again), np.asarray(upright))


def test_damaged_metadata_do_not_matter(tmp_path) -> None:
    coloured().save(tmp_path / "photo.png", exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = read_image(tmp_path / "photo.png")
    np.testing.assert_array_equal(np.asarray(image), np.asarray(coloured()))


# -- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [8_193, 12_000, 40_000])
def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(side, tmp_path) -> None:
    (tmp_path / "big.png").write_bytes(png(side, side, (b"IDAT", zlib.compress(bytes(1000)))))
    assert "more than 67,108,864 pixels" in refused(tmp_path / "big.png").why


def test_the_pixels_of_pillow_images_are_limited(monkeypatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    assert read_image(Image.new("L", (10, 10))).size == (10, 10)
    assert "pixels" in refused(Image.new("L", (10, 11))).why


def test_a_narrow_image_is_refused_because_encoders_scale_its_short_side(tmp_path) -> None:
    assert read_image(Image.new("L", (200, 2))).size == (200, 2)
    assert "100 times" in refused(Image.new("L", (60_000, 1))).why
    assert "no pixels" in refused(Image.new("L", (0, 5))).why


def test_text_in_an_image_cannot_fill_the_memory(tmp_path) -> None:
    text = b"Comment\x00\x00" + zlib.compress(bytes(4 << 20))
    (tmp_path / "text.png").write_bytes(png(1, 1, (b"zTXt", text), (b"IDAT", zlib.compress(b"\x00\x00"))))
    refused(tmp_path / "text.png")
    monster = tmp_path / "sparse.png"
    monster.write_bytes(png(1, 1))
    os.truncate(monster, images.MAX_FILE_BYTES + 1)
    assert "bytes" in refused(monster).why


# -- errors -----------------------------------------------------------------------------------------------------------


def test_only_regular_files_are_opened(tmp_path) -> None:
    os.mkfifo(tmp_path / "fifo.png")
    for path in (tmp_path / "fifo.png", tmp_path, "/dev/zero"):
        error = refused(path)
        assert "not a regular file" in error.why
        assert error.where == str(path)


@pytest.mark.parametrize("path", ["a\x00b.png", "x" * 5_000 + ".png", "~nosuch/x.png", "none.png", "", "\udcff.png"])
def test_a_path_that_cannot_be_a_file_is_named(path) -> None:
    assert refused(path).where == path[:300]
    if path:
        assert refused(Path(path)).where == path[:300]


def test_a_pillow_image_that_is_cut_or_closed_is_an_error(tmp_path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    noise.save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:3000])
    refused(tmp_path / "cut.png")
    refused(Image.open(tmp_path / "cut.png"))
    for close in (Image.Image.close, lambda image: image.fp.close()):
        image = Image.open(tmp_path / "whole.png")
        close(image)
        refused(image)


@pytest.mark.parametrize("content", [b"png", None, 3, np.zeros((4, 4, 3), dtype=np.uint8)])
def test_other_content_is_no_image(content) -> None:
    with pytest.raises(MetalmError, match=f"got {type(content).__name__}"):
        read_image(content)
