"""DV: files that mrc writes, in the orders of axes that DeltaVision uses, against mrc's own reading."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import BlockError, InputError
from pipeline.geometry import Box
from pipeline.plugins import build
from pipeline.raster import PlaneStep
from tests.readers.damage import endings

mrc = pytest.importorskip("mrc")

SEQUENCES = {0: "CTZYX", 1: "TZCYX", 2: "TCZYX"}


def write_dv(path, pixels, sequence, order="<", extra=0, times=()):
    """Write pixels whose axes are those of the sequence; ``times`` are seconds of each section in the extended header."""
    sizes = dict(zip(SEQUENCES[sequence], pixels.shape, strict=True))
    kind = {"u1": 0, "i2": 1, "f4": 2, "c8": 4, "u2": 6}[pixels.dtype.str[1:]]
    sections = sizes["C"] * sizes["T"] * sizes["Z"]
    header = bytearray(1024)
    struct.pack_into(f"{order}4i", header, 0, sizes["X"], sizes["Y"], sections, kind)
    struct.pack_into(f"{order}3f", header, 40, 0.1, 0.2, 0.3)
    extended = b"".join(struct.pack(f"{order}8i14f", *[0] * 8, 0.0, time, *[0.0] * 12) for time in times) + bytes(extra)
    struct.pack_into(f"{order}i", header, 92, len(extended))
    struct.pack_into(f"{order}H", header, 96, 0xC0A0)
    struct.pack_into(f"{order}2h", header, 128, 8, 14)
    struct.pack_into(f"{order}2h", header, 180, sizes["T"], sequence)
    struct.pack_into(f"{order}6h", header, 196, sizes["C"], 457, 525, 0, 0, 0)
    path.write_bytes(bytes(header) + extended + pixels.astype(pixels.dtype.newbyteorder(order)).tobytes())


def opened(path, **options):
    """The file, open."""
    return build("readers", {"name": "dv", **options}).open(str(path))


def pixels_of(sequence, dtype="u2"):
    """Random pixels of 3 channels x 2 t x 4 z."""
    sizes = {"C": 3, "T": 2, "Z": 4, "Y": 20, "X": 27}
    return np.random.default_rng(0).integers(0, 250, [sizes[letter] for letter in SEQUENCES[sequence]]).astype(dtype)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("sequence", SEQUENCES)
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "f4"])
def test_pixels_are_those_of_mrc(sequence, dtype, order, tmp_path):
    """Each order of axes, type and byte order, whole and by region, is what mrc reads."""
    path, pixels = tmp_path / "a.dv", pixels_of(sequence, dtype)
    write_dv(path, pixels, sequence, order, extra=128)
    with mrc.DVFile(path) as file:
        np.testing.assert_array_equal(file.asarray(squeeze=False), pixels)
    places = [SEQUENCES[sequence].index(letter) for letter in "TZCYX"]
    expected_PCYX = pixels.transpose(places).reshape(8, 3, 20, 27)
    with opened(path) as raster:
        assert raster.header.dtype == np.dtype(dtype).name
        for plane in range(8):
            for box in (Box(0, 0, 20, 27), Box(3, 7, 4, 8), Box(10, 20, 18, 27)):
                np.testing.assert_array_equal(raster.read(box, plane), expected_PCYX[plane][:, *box.slices])
    with opened(path, channels=["525 nm"], planes={"t": 1}) as raster:
        np.testing.assert_array_equal(raster.read(Box(0, 0, 20, 27), 2)[0], expected_PCYX[6][1])


def test_header(tmp_path):
    """Sizes are decimal numbers, wavelengths name channels, time stamps give the step."""
    path = tmp_path / "a.r3d"
    write_dv(path, pixels_of(2), 2, times=[0.5 * section for section in range(24)])
    with opened(path) as raster:
        header = raster.header
    assert (header.pixel_size, header.unit, header.pixel_size_from) == ((0.2, 0.1), "micrometer", "DV")
    assert header.plane_steps == {"t": PlaneStep(6.0, "second"), "z": PlaneStep(0.3, "micrometer")}
    assert header.channel_names == ("457 nm", "525 nm", "C2")
    assert (header.planes, header.whole_bytes) == ({"t": 2, "z": 4}, 0)


def test_what_mrc_writes(tmp_path):
    """A file of mrc's own writer is read."""
    pixels = pixels_of(0)[:, 0]
    mrc.imsave(str(tmp_path / "a.dv"), pixels, resolution=(0.1, 0.1, 0.3))
    with opened(tmp_path / "a.dv") as raster, mrc.DVFile(tmp_path / "a.dv") as file:
        assert raster.header.num_planes * raster.header.channels == 12
        expected = file.asarray(squeeze=False).transpose([[*file.sizes].index(letter) for letter in "TZCYX"]).reshape(-1, *pixels.shape[2:])
        found = [raster.read(Box(0, 0, 20, 27), plane) for plane in range(raster.header.num_planes)]
        np.testing.assert_array_equal(np.concatenate(found), expected)


def test_refusals(tmp_path):
    """Complex numbers, missing pixels and other files are refused by name."""
    write_dv(tmp_path / "a.dv", pixels_of(0).astype("c8"), 0)
    with pytest.raises(InputError, match="complex64"), opened(tmp_path / "a.dv"):
        pass
    write_dv(tmp_path / "a.dv", pixels_of(0), 0)
    content = (tmp_path / "a.dv").read_bytes()
    for damaged in (content[:-50], content[:500], b"", b"II*\0" + content[4:96] + bytes(2) + content[98:]):
        (tmp_path / "a.dv").write_bytes(damaged)
        with pytest.raises(InputError, match=r"a\.dv"), opened(tmp_path / "a.dv"):
            pass


def test_closing_frees_the_handle(tmp_path):
    """No handle stays after closing, and a late read fails as reading is over."""
    write_dv(tmp_path / "a.dv", pixels_of(0), 0)
    before = len([*Path("/proc/self/fd").iterdir()])
    with opened(tmp_path / "a.dv") as raster:
        pass
    assert len([*Path("/proc/self/fd").iterdir()]) == before
    with pytest.raises(BlockError, match="reading is over"):
        raster.read(Box(0, 0, 2, 2))


def test_damage_ends_cleanly(tmp_path):
    """Flipped bytes and truncations end in pixels, InputError or BlockError: never in a dead process."""
    write_dv(tmp_path / "a.dv", pixels_of(1), 1, times=[1.0] * 24)
    became = endings([tmp_path / "a.dv"], 60, tmp_path / "damaged")
    assert set(became) <= {"read", "InputError", "BlockError"}
    assert became["read"] > 5 < became["InputError"]
