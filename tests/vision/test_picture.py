"""Every kind of picture comes out as (h, w, 3) BGR, upright; anything else is a BadPicture with a reason, and only that."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lib.vision.letterbox import GREY
from lib.vision.picture import BadPicture, jpeg, read

RGB = cv2.resize(np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8), (64, 48), interpolation=cv2.INTER_CUBIC)
BGR = RGB[:, :, ::-1]
FORMATS = ("JPEG", "PNG", "WEBP", "BMP")


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99))


WHOLE = {kind: saved(Image.fromarray(RGB), kind) for kind in FORMATS}


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_sent_is_what_is_seen(kind: str) -> None:
    data = saved(Image.fromarray(RGB), kind, **{"JPEG": {"quality": 98}, "WEBP": {"lossless": True}}.get(kind, {}))
    found = read(data)
    assert (found.shape, found.dtype, found.flags["C_CONTIGUOUS"]) == ((48, 64, 3), np.uint8, True)
    assert np.abs(found.astype(int) - BGR).mean() < (3 if kind == "JPEG" else 0.01)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpegs_of_any_kind_are_decoded_as_pillow_does(mode: str, progressive: bool) -> None:
    data = saved(Image.fromarray(RGB).convert(mode), "JPEG", progressive=progressive)
    theirs = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))[:, :, ::-1]
    assert np.abs(read(data).astype(int) - theirs).max() <= 1  # CMYK is rounded differently


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "1"), ("PNG", "L"), ("PNG", "P"), ("BMP", "1"), ("BMP", "L"), ("BMP", "P")])
def test_grey_black_and_white_and_palettes(kind: str, mode: str) -> None:
    picture = Image.fromarray(RGB).convert(mode)
    assert np.array_equal(read(saved(picture, kind)), np.asarray(picture.convert("RGB"))[:, :, ::-1])


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_what_shines_through_is_the_grey_of_the_letterbox(kind: str) -> None:
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0], pixels[1] = (200, 100, 50, 255), (200, 100, 50, 0)
    found = read(saved(Image.fromarray(pixels), kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {})))
    assert found.tolist() == [[[50, 100, 200]] * 2, [[GREY] * 3] * 2]


def test_half_transparent_grey_and_a_transparent_palette_entry() -> None:
    assert read(saved(Image.new("LA", (1, 1), (214, 128)), "PNG"))[0, 0] == pytest.approx([164] * 3, abs=1)
    palette = Image.new("P", (1, 1), 7)
    palette.putpalette([9] * 768)
    assert read(saved(palette, "PNG", transparency=7)).tolist() == [[[GREY] * 3]]


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    levels = np.array([[0, 128, 129, 257, 32896, 65535]], np.uint16)
    found = read(cv2.imencode(".png", levels)[1].tobytes())
    assert found[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]
    assert (found[:, :, 0] == found[:, :, 2]).all()
    colour = np.dstack([levels, levels[:, ::-1], levels])
    assert read(cv2.imencode(".png", colour)[1].tobytes())[0, :, 1] == pytest.approx([255, 128, 1, 1, 0, 0], abs=1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_pictures_stand_upright(orientation: int, kind: str) -> None:
    turned = {1: RGB, 2: RGB[:, ::-1], 3: RGB[::-1, ::-1], 4: RGB[::-1], 5: RGB.transpose(1, 0, 2), 6: np.rot90(RGB, -1),
              7: np.rot90(RGB.transpose(1, 0, 2), 2), 8: np.rot90(RGB)}[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = read(saved(Image.fromarray(RGB), kind, exif=exif))
    assert found.shape == turned.shape
    assert np.abs(found.astype(int) - turned[:, :, ::-1]).mean() < 8


@pytest.mark.parametrize("kind", FORMATS)
def test_one_pixel(kind: str) -> None:
    assert read(saved(Image.new("RGB", (1, 1), (10, 20, 30)), kind))[0, 0].tolist() == pytest.approx([30, 20, 10], abs=3)


def test_a_telephones_two_pictures_are_its_first() -> None:
    data = saved(Image.fromarray(RGB), "MPO", save_all=True, append_images=[Image.new("RGB", (64, 48))])
    assert np.abs(read(data).astype(int) - BGR).mean() < 8


@pytest.mark.parametrize(("data", "reason"), [
    (b"", "no bytes"), (b"hello", "5 bytes are no JPEG"), (b"<svg/>" * 99, "are no JPEG"), (b"\0" * 1000, "are no JPEG"),
    (saved(Image.fromarray(RGB), "GIF"), "are no JPEG"), (saved(Image.fromarray(RGB), "TIFF"), "are no JPEG"),
    (WHOLE["JPEG"][:-1], "cut short"), (WHOLE["JPEG"][:300], "cut short"), (WHOLE["PNG"][:2000], "cut short"),
    (WHOLE["WEBP"][: len(WHOLE["WEBP"]) // 2], "cut short"), (WHOLE["BMP"][:4000], "cut short"),
])  # fmt: skip
def test_what_is_no_picture_is_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadPicture, match=reason):
        read(data)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_an_animation_is_refused(kind: str) -> None:
    with pytest.raises(BadPicture, match="animation of 2 frames"):
        read(saved(Image.fromarray(RGB), kind, save_all=True, append_images=[Image.fromarray(RGB[::-1].copy())]))


@pytest.mark.parametrize(("side", "reason"), [(5001, "5001×5001, 25010001 pixels; 25000000"), (100_000, "far more")])
def test_a_bomb_is_refused_by_its_header(side: int, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = png_header(side, side)
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("a pixel was decoded"))
    assert len(data) < 100
    with pytest.raises(BadPicture, match=reason):
        read(data)


def test_the_bound_is_the_callers() -> None:
    for kind in FORMATS:
        assert read(WHOLE[kind], most_pixels=64 * 48).shape == (48, 64, 3)
        with pytest.raises(BadPicture, match="64×48, 3072 pixels; 3071"):
            read(WHOLE[kind], most_pixels=64 * 48 - 1)


def taken_or_refused(data: bytes) -> None:
    try:
        found = read(data, most_pixels=1_000_000)
    except BadPicture as error:
        assert len(str(error)) > 20
    else:
        assert found.ndim == 3 and found.shape[2] == 3 and found.dtype == np.uint8


@settings(max_examples=200)
@given(start=st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x40\0\0\0WEBPVP8 ", b"BM"]), rest=st.binary(max_size=300))
def test_any_bytes_are_a_picture_or_refused(start: bytes, rest: bytes) -> None:
    taken_or_refused(start + rest)


@settings(max_examples=400)
@given(kind=st.sampled_from(FORMATS), cut=st.floats(0, 1), early=st.booleans(),
       flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=6))
def test_a_damaged_picture_is_a_picture_or_refused(kind: str, cut: float, flips: list[tuple[float, int]], early: bool) -> None:
    data = bytearray(WHOLE[kind])
    for where, by in flips:
        data[int(where * (min(200, len(data)) if early else len(data)))] ^= by  # headers are where it hurts
    taken_or_refused(bytes(data[: round(cut * len(data))] if not flips else data))


@pytest.mark.parametrize("kind", FORMATS)
def test_every_cut_of_a_file_is_refused(kind: str) -> None:
    whole = saved(Image.fromarray(RGB[:8, :8].copy()), kind)
    for end in range(len(whole) - (24 if kind == "PNG" else 1)):  # what a PNG ends with are sums, not pixels
        with pytest.raises(BadPicture):
            read(whole[:end])


def test_jpeg_goes_there_and_back() -> None:
    assert np.abs(read(jpeg(BGR.copy(), quality=98)).astype(int) - BGR).mean() < 3
    assert len(jpeg(BGR.copy(), quality=20)) < len(jpeg(BGR.copy(), quality=95))


@pytest.mark.parametrize(("shape", "kind"), [((4, 4), np.uint8), ((4, 4, 4), np.uint8), ((4, 4, 3), np.float32), ((0, 4, 3), np.uint8)])
def test_no_jpeg_of_another_shape(shape: tuple[int, ...], kind: type) -> None:
    with pytest.raises(ValueError, match="are wanted"):
        jpeg(np.zeros(shape, kind))


@pytest.mark.parametrize("quality", [0, 101])
def test_no_jpeg_of_another_quality(quality: int) -> None:
    with pytest.raises(ValueError, match="are wanted"):
        jpeg(np.zeros((4, 4, 3), np.uint8), quality=quality)
