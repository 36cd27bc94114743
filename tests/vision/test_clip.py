"""A clip gives the frames that were put in, in order, as often as asked; a broken one is refused, or ends where its frames do."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lib.vision.clip import BadClip, Clip, frames, open_clip
from lib.vision.picture import jpeg

N, H, W = 12, 48, 64
Capture = pytest.CaptureFixture[str]


def picture(k: int) -> np.ndarray:
    texture = np.random.default_rng(k).integers(0, 20, (H, W, 3), np.uint8)
    return np.asarray(texture + 20 * k, np.uint8)


def number(frame: np.ndarray | None) -> int:
    """Which picture it is."""
    assert frame is not None and frame.shape == (H, W, 3)
    return int(frame.mean() // 20)


def played(clip: Clip) -> Iterator[np.ndarray]:
    while (frame := clip.read()) is not None:
        yield frame


def written(path: Path, codec: str) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*codec), 10, (W, H))
    for k in range(N):
        writer.write(picture(k))
    writer.release()
    return path


@pytest.fixture(scope="module")
def avi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("clips") / "numbers.avi", "MJPG")


def changed(path: Path, name: str, **edits: bytes) -> Path:
    """A copy called `name` with bytes at `at_OFFSET` replaced."""
    data = bytearray(path.read_bytes())
    for where, value in edits.items():
        at = int(where.removeprefix("at_"))
        data[at : at + len(value)] = value
    (other := path.with_name(name)).write_bytes(data)
    return other


@pytest.mark.parametrize(("name", "codec"), [("a.avi", "MJPG"), ("b.avi", "DIV3"), ("c.mp4", "mp4v"), ("d.mkv", "mp4v")])
def test_frames_come_in_order_and_again_after_a_rewind(tmp_path: Path, name: str, codec: str) -> None:
    with open_clip(written(tmp_path / name, codec)) as clip:
        assert (clip.fps, clip.frames, clip.height, clip.width) == (10, N, H, W)
        for upto in (N, 5, N):
            assert [number(clip.read()) for _ in range(upto)] == list(range(upto))
            assert upto < N or (clip.read() is None and clip.read() is None)
            clip.rewind()


def test_a_frame_is_the_callers_own(avi: Path) -> None:
    with open_clip(avi) as clip:
        first, second = clip.read(), clip.read()
        assert first is not None and second is not None and not np.shares_memory(first, second)
        first[:] = 255
        assert number(second) == 1


def test_a_frame_goes_into_a_buffer(avi: Path) -> None:
    buffer = np.empty((H, W, 3), np.uint8)
    with open_clip(avi) as clip:
        for k in range(3):
            found = clip.read(buffer)
            assert found is not None and np.shares_memory(found, buffer)
            assert number(buffer) == k
        for wrong in (np.empty((W, H, 3), np.uint8), np.empty((H, W, 3), np.float32)):
            with pytest.raises(ValueError, match="do not go into"):
                clip.read(wrong)
        assert number(clip.read()) == 3  # a refused buffer costs no frame


def test_skipping_counts(avi: Path) -> None:
    with open_clip(avi) as clip:
        assert clip.skip()
        assert number(clip.read()) == 1
        assert [clip.skip() for _ in range(N - 1)] == [True] * (N - 2) + [False]
        assert clip.read() is None


def test_a_closed_clip_says_so(avi: Path) -> None:
    clip = open_clip(avi)
    clip.close()
    clip.close()
    with pytest.raises(ValueError, match="is closed"):
        clip.read()
    clip.rewind()
    assert number(clip.read()) == 0
    clip.close()


@pytest.mark.parametrize(("ask", "indices"), [
    ({}, range(N)), ({"every": 5}, (0, 5, 10)), ({"first": 3, "every": 4}, (3, 7, 11)), ({"first": 2, "last": 4}, (2, 3, 4)),
    ({"last": 0}, (0,)), ({"first": N - 1}, (N - 1,)), ({"last": N - 1, "every": 50}, (0,)),
])  # fmt: skip
def test_a_selection_of_frames(avi: Path, ask: dict[str, int], indices: Iterator[int]) -> None:
    assert [(index, number(frame)) for index, frame in frames(avi, **ask)] == [(index, index) for index in indices]


@pytest.mark.parametrize(("ask", "missed"), [({"first": N}, N), ({"last": N, "every": 3}, N), ({"first": 50, "last": 60}, 60)])
def test_frames_that_do_not_exist_are_missed(avi: Path, ask: dict[str, int], missed: int) -> None:
    with pytest.raises(BadClip, match=f"after {N} frames, before frame {missed}"):
        list(frames(avi, **ask))


@pytest.mark.parametrize("ask", [{"every": 0}, {"every": -1}, {"first": -1}, {"first": 5, "last": 4}, {"last": -1}])
def test_a_selection_that_means_nothing(avi: Path, ask: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="are wanted"):
        next(frames(avi, **ask))


@pytest.mark.parametrize(("content", "reason"), [
    (None, "no file"), (b"", "zero bytes"), (b"hello world, this is no video", "is no AVI"), (jpeg(picture(3)), "is no AVI"),
    (b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n", "is no AVI"), (b"RIFF\x10\0\0\0AVI ", "damaged, cut short"),
    (b"RIFF\x10\0\0\0AVI " + b"\x07" * 5000, "damaged, cut short"), (b"\x1aE\xdf\xa3" * 100, "damaged, cut short"),
    (b"\0\0\0\x18ftypisom" + b"\0" * 100, "damaged, cut short"),
])  # fmt: skip
def test_what_is_no_clip_is_refused_in_silence(tmp_path: Path, capfd: Capture, content: bytes | None, reason: str) -> None:
    path = tmp_path / "odd.avi"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadClip, match=reason):
        open_clip(path)
    assert capfd.readouterr().err == ""


def test_a_folder_is_no_clip(tmp_path: Path) -> None:
    with pytest.raises(BadClip, match="no file"):
        open_clip(tmp_path)


def test_a_clip_that_was_cut_short_ends_early_and_in_silence(avi: Path, capfd: Capture) -> None:
    data = avi.read_bytes()
    (cut := avi.with_name("cut.avi")).write_bytes(data[: (data.index(b"movi") + data.index(b"idx1")) // 2])
    with open_clip(cut) as clip:
        read = [number(frame) for frame in played(clip)]
    assert 0 < len(read) < N
    assert read[:-1] == list(range(len(read) - 1))  # the last may be half a frame
    assert capfd.readouterr().err == ""


def test_a_clip_that_was_cut_before_its_first_frame_is_refused(avi: Path) -> None:
    data = avi.read_bytes()
    for end in (data.index(b"movi") - 8, data.index(b"movi") + 4, data.index(b"movi") + 12):
        (cut := avi.with_name("header.avi")).write_bytes(data[:end])
        with pytest.raises(BadClip, match="cut short"):
            open_clip(cut)


def test_what_the_header_says_of_the_number_of_frames_is_a_promise(avi: Path) -> None:
    data = avi.read_bytes()
    said = (data.index(b"strh") + 8 + 32, data.index(b"avih") + 8 + 16)
    liar = changed(avi, "liar.avi", **{f"at_{at}": struct.pack("<I", 5000) for at in said})
    with open_clip(liar) as clip:
        assert clip.frames is None or clip.frames > N
        assert len(list(played(clip))) == N


@pytest.mark.parametrize(("scale", "rate"), [(1, 0), (1, 5000), (10**9, 1)])
def test_an_absurd_rate_is_refused_or_mended(avi: Path, scale: int, rate: int) -> None:
    at = avi.read_bytes().index(b"strh") + 8 + 20
    odd = changed(avi, "rate.avi", **{f"at_{at}": struct.pack("<II", scale, rate), "at_32": struct.pack("<I", 0)})
    try:
        with open_clip(odd) as clip:
            assert 0 < clip.fps <= 240
    except BadClip as error:
        assert "frames/s" in str(error)


def test_an_absurd_size_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.avi", "DIV3")
    at = path.read_bytes().index(b"strf") + 8 + 4
    with pytest.raises(BadClip, match="its frames are 16000×16000"):
        open_clip(changed(path, "huge.avi", **{f"at_{at}": struct.pack("<ii", 16000, 16000)}))


@pytest.mark.parametrize("hw", [(H // 2, W // 2), (2 * H, 2 * W)])
def test_a_frame_of_another_size_is_brought_to_the_first_ones(avi: Path, hw: tuple[int, int]) -> None:
    data = avi.read_bytes()
    third = data.index(b"00dc", data.index(b"00dc", data.index(b"00dc", data.index(b"movi")) + 4) + 4) + 8
    size = struct.unpack("<I", data[third - 4 : third])[0]
    Image.new("L", hw[::-1]).save(black := io.BytesIO(), "JPEG", optimize=True)
    assert len(black.getvalue()) <= size
    with open_clip(changed(avi, "sizes.avi", **{f"at_{third}": black.getvalue().ljust(size, b"\0")})) as clip:
        assert [number(frame) for frame in played(clip)] == [0, 1, 0, *range(3, N)]


def test_a_file_that_vanishes_is_missed_at_the_rewind(avi: Path) -> None:
    with open_clip(changed(avi, "gone.avi")) as clip:
        clip.path.unlink()
        assert number(clip.read()) == 0  # what is open stays open
        with pytest.raises(BadClip, match="no file"):
            clip.rewind()


@settings(max_examples=80)
@given(cut=st.floats(0, 1), early=st.booleans(),
       flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=8))
def test_a_damaged_clip_is_played_or_refused(avi: Path, cut: float, flips: list[tuple[float, int]], early: bool) -> None:
    data = bytearray(avi.read_bytes())
    for where, by in flips:
        data[int(where * (400 if early else len(data)))] ^= by
    (path := avi.with_name("damaged.avi")).write_bytes(data if flips else data[: round(cut * len(data))])
    try:
        with Clip(path) as clip:
            for frame in islice(played(clip), 40):
                assert frame.shape == (clip.height, clip.width, 3)
    except BadClip as error:
        assert len(str(error)) > 20
