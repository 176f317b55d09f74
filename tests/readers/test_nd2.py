"""ND2: files written as NIS-Elements lays them out, against the nd2 library and against the arrays that they were made of."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import BlockError, InputError
from pipeline.geometry import Box
from pipeline.plugins import build
from pipeline.raster import PlaneStep
from tests.readers.damage import assert_handle_is_freed, endings
from tests.readers.nd2_files import write_nd2

nd2 = pytest.importorskip("nd2")

RNG = np.random.default_rng(0)
FRAMES = [RNG.integers(0, 4095, (20, 31, 2)).astype("u2") for _ in range(12)]
LOOPS = {"T": (2, 1500.0), "P": ["A1", "B2"], "Z": (3, 0.5)}
COLOUR = RNG.integers(0, 255, (20, 31, 3)).astype("u1")


def opened(path, **options):
    """The file, open."""
    return build("readers", {"name": "nd2", **options}).open(str(path))


def read(path, plane=0, **options):
    """All pixels of a plane, and where they are declared."""
    with opened(path, **options) as raster:
        return raster.read_masked(Box(0, 0, *raster.header.shape), plane)


def whole(path, **options):
    """All pixels of all planes, (P, C, Y, X)."""
    with opened(path, **options) as raster:
        return np.stack([raster.read(Box(0, 0, *raster.header.shape), plane) for plane in range(raster.header.num_planes)])


@pytest.fixture
def path(tmp_path):
    """2 t x 2 positions x 3 z of two channels, with rows that are padded."""
    times = [1000.0 * frame for frame in range(12)]
    write_nd2(tmp_path / "a.nd2", FRAMES, LOOPS, ["DAPI", "GFP"], pixel_um=0.25, bits=12, padding=2, times=times)
    return tmp_path / "a.nd2"


def test_pixels_are_those_of_the_library(path):
    """Each position, plane and channel, whole and by region, is what nd2 reads and what was written."""
    with nd2.ND2File(path) as file:
        assert dict(file.sizes) == {"T": 2, "P": 2, "Z": 3, "C": 2, "Y": 20, "X": 31}
        expected = file.asarray()
    for position in range(2):
        expected_PCYX = expected[:, position].reshape(6, 2, 20, 31)
        np.testing.assert_array_equal(whole(path, series=position), expected_PCYX)
        np.testing.assert_array_equal(expected_PCYX[4], np.moveaxis(FRAMES[6 + 3 * position + 1], -1, 0))
        with opened(path, series=position) as raster:
            for box in (Box(3, 7, 4, 8), Box(19, 0, 20, 31), Box(10, 20, 18, 31)):
                np.testing.assert_array_equal(raster.read(box, 5), expected_PCYX[5][:, *box.slices])


def test_header(path):
    """Calibration, bits, channel names, and steps as measured are told; the first position is read by default, which is told."""
    with opened(path) as raster:
        header = raster.header
    assert (header.pixel_size, header.pixel_size_from, header.bits) == ((0.25, 0.25), "ND2", 12)
    assert header.planes == {"t": 2, "z": 3}
    assert header.plane_steps == {"t": PlaneStep(6.0, "second"), "z": PlaneStep(0.5, "micrometer")}
    assert (header.channel_names, header.series, header.whole_bytes, header.has_mask) == (("DAPI", "GFP"), "A1", 0, False)
    assert "2 images" in header.notes[0]


def test_uncalibrated_is_unknown(tmp_path):
    """A microscope that was not calibrated gives no pixel size, though the library says 1."""
    write_nd2(tmp_path / "a.nd2", FRAMES[:1], None, ["DAPI", "GFP"])
    with opened(tmp_path / "a.nd2") as raster, nd2.ND2File(tmp_path / "a.nd2") as file:
        assert file.voxel_size().x == 1.0
        assert (raster.header.pixel_size, raster.header.unit, raster.header.pixel_size_from) == (None, "", "")


def test_channels_and_members(path):
    """Names choose channels and positions; ``all`` makes each position an image."""
    np.testing.assert_array_equal(read(path, plane=1, channels=["gfp"])[0][0], FRAMES[1][..., 1])
    members = build("readers", {"name": "nd2", "series": "all"}).members(str(path))
    assert [member.name for member in members] == ["A1", "B2"]
    np.testing.assert_array_equal(read(path, **members[1].options)[0], np.moveaxis(FRAMES[3], -1, 0))
    np.testing.assert_array_equal(read(path, series="b2")[0], np.moveaxis(FRAMES[3], -1, 0))


@pytest.mark.parametrize("lossless", [False, True])
def test_colours_are_red_green_blue(lossless, tmp_path):
    """Colours lie as blue, green, red in the file and come as red, green, blue."""
    write_nd2(tmp_path / "a.nd2", [COLOUR], None, ["Brightfield"], lossless=lossless, padding=3)
    np.testing.assert_array_equal(np.moveaxis(read(tmp_path / "a.nd2")[0], 0, -1), COLOUR[..., ::-1])
    np.testing.assert_array_equal(read(tmp_path / "a.nd2", channels=["red"])[0][0], COLOUR[..., 2])
    with opened(tmp_path / "a.nd2") as raster:
        assert raster.header.is_color
        assert raster.header.channel_names == ("red", "green", "blue")
        assert raster.header.whole_bytes == (20 * (31 * 3 + 3) if lossless else 0)
        np.testing.assert_array_equal(raster.read(Box(4, 5, 9, 30)), np.moveaxis(COLOUR[4:9, 5:30, ::-1], -1, 0))


def test_float(tmp_path):
    """32 bits are floats, as the library reads them."""
    frame = RNG.random((9, 11, 1)).astype("f4")
    write_nd2(tmp_path / "a.nd2", [frame], None, ["Phase"])
    np.testing.assert_array_equal(whole(tmp_path / "a.nd2")[0, 0], frame[..., 0])


def test_a_missing_frame_is_no_data(tmp_path):
    """A frame that was not recorded holds no data, where the library returns zeros; the others are whole."""
    frames = [*FRAMES[:4], None, None]
    write_nd2(tmp_path / "a.nd2", frames, {"Z": (6, 1.0)}, ["DAPI", "GFP"])
    with nd2.ND2File(tmp_path / "a.nd2") as file:
        assert not file.asarray()[4].any()
    assert read(tmp_path / "a.nd2", plane=3)[1] is None
    for plane in (4, 5):
        found_CYX, declared_YX = read(tmp_path / "a.nd2", plane=plane)
        assert not declared_YX.any()
        assert not found_CYX.any()
    with opened(tmp_path / "a.nd2") as raster:
        assert raster.header.has_mask


def test_frames_without_an_axis_are_t(tmp_path):
    """Frames of a file that names no loop are read as t, which is told, rather than left out."""
    write_nd2(tmp_path / "a.nd2", FRAMES[:3], None, ["DAPI", "GFP"])
    np.testing.assert_array_equal(whole(tmp_path / "a.nd2"), np.moveaxis(np.stack(FRAMES[:3]), -1, 1))
    with opened(tmp_path / "a.nd2") as raster:
        assert raster.header.notes == ("frames without a named axis are read as t",)


def test_refusals(path):
    """JPEG 2000 of old files, too many frames, a file that was cut off, and a frame that is not at its place are told by name."""
    write_nd2(path.with_name("b.nd2"), FRAMES[:1], {"T": (2_000_000_000, 1.0)}, ["DAPI", "GFP"])
    with pytest.raises(InputError, match="2000000000 frames"), opened(path.with_name("b.nd2")):
        pass
    content = path.read_bytes()
    path.write_bytes(b"\x00\x00\x00\x0cjP  \r\n\x87\n" + content[12:])
    with pytest.raises(InputError, match=r"a\.nd2"), opened(path):
        pass
    path.write_bytes(content[:-60])
    with pytest.raises(InputError, match=r"a\.nd2"), opened(path):
        pass
    path.write_bytes(content.replace(b"ImageDataSeq|2!", b"ImageDataSeq|9!", 1))
    assert read(path, plane=1)[1] is None
    with pytest.raises(BlockError, match="no frame 2"):
        read(path, plane=2)


def test_a_short_compressed_frame_fails(tmp_path):
    """A compressed frame with too few pixels fails its block, and one that expands without end is not decoded beyond its size."""
    write_nd2(tmp_path / "a.nd2", [COLOUR], None, ["Brightfield"], lossless=True)
    content = bytearray((tmp_path / "a.nd2").read_bytes())
    at = content.index(b"\x78\x9c")  # the start of a zlib stream
    content[at + 20 : at + 60] = bytes(40)
    (tmp_path / "a.nd2").write_bytes(content)
    with pytest.raises(BlockError, match=r"a\.nd2: rows 0\.\.20"):
        read(tmp_path / "a.nd2")


def test_threads_agree(path):
    """Threads that read one open file at once get what one thread gets."""
    with opened(path) as raster, ThreadPoolExecutor(4) as threads:
        work = [(Box(y, x, y + 5, x + 6), plane) for y in range(0, 15, 4) for x in range(0, 25, 5) for plane in range(6)]
        for (box, plane), found_CYX in zip(work, threads.map(lambda one: raster.read(*one), work), strict=True):
            frame = FRAMES[(plane // 3) * 6 + plane % 3]
            np.testing.assert_array_equal(found_CYX, np.moveaxis(frame, -1, 0)[:, *box.slices])


def test_closing_frees_the_handle(path):
    """No handle stays after closing, and a late read fails as reading is over."""
    assert_handle_is_freed(opened(path))


def test_damage_ends_cleanly(path, tmp_path):
    """Flipped bytes and truncations end in pixels, InputError or BlockError: never in a dead process."""
    write_nd2(tmp_path / "b.nd2", [COLOUR], None, ["Brightfield"], lossless=True)
    became = endings([path, tmp_path / "b.nd2"], 60, tmp_path / "damaged")
    assert set(became) <= {"read", "InputError", "BlockError"}
    assert became["read"] > 5 < became["InputError"]


def test_real_files():
    """Every real file gives the library's pixels."""
    files = sorted((Path(os.environ.get("GIGASEG_TEST_DATA", "no test data")) / "formats" / "nd2").glob("*.nd2"))
    if not files:
        pytest.skip("GIGASEG_TEST_DATA names no folder with formats/nd2")
    for file in files:
        with nd2.ND2File(file) as opened_file:
            expected = opened_file.asarray()
            stacks = [letter for letter in opened_file.sizes if letter in "TZ"]
            if opened_file.is_rgb or list(opened_file.sizes)[: len(stacks)] != stacks:
                continue
        found_PCYX = whole(file)
        np.testing.assert_array_equal(found_PCYX.reshape(expected.shape), expected)
