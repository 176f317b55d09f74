"""JPEG 2000 by region and resolution, against Pillow, imagecodecs and GDAL; colours, place, memory and damage."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import imagecodecs
import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import pipeline.readers.jpeg2000 as reader_module
from pipeline.errors import BlockError, InputError
from pipeline.geometry import Box
from pipeline.plugins import build
from pipeline.readers._openjpeg import is_installed

GREY, SRGB, SYCC, CMYK = 17, 16, 18, 12


def opened(path, **options):
    """The open raster of a file."""
    return build("readers", {"name": "jpeg2000", **options}).open(str(path))


def read(path, **options):
    """Header, all pixels (C, Y, X), and where they are valid."""
    with opened(path, **options) as raster:
        return raster.header, *raster.read_valid(Box(0, 0, *raster.header.shape))


def smooth(height, width):
    """A picture (Y, X, 3) with fine noise."""
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], axis=-1).astype(np.uint8)
    return waves ^ np.random.default_rng(0).integers(0, 8, waves.shape).astype(np.uint8)


def box(kind, content):
    """A box of a JP2 file."""
    return struct.pack(">I4s", len(content) + 8, kind) + content


def jp2(samples_YXS, space, *inner, outer=b"", **options):
    """A JP2 file of these samples, losslessly coded, whose header box holds a colour space and the boxes of ``inner``."""
    codestream = imagecodecs.jpeg2k_encode(np.ascontiguousarray(samples_YXS), reversible=True, codecformat="j2k", mct=False, **options)
    height, width = samples_YXS.shape[:2]
    components = samples_YXS.shape[2] if samples_YXS.ndim > 2 else 1
    header = box(b"ihdr", struct.pack(">IIHBBBB", height, width, components, 255, 7, 0, 0))
    header += box(b"colr", struct.pack(">BBBI", 1, 0, 0, space)) + b"".join(inner)
    start = box(b"jP  ", b"\r\n\x87\n") + box(b"ftyp", b"jp2 \0\0\0\0jp2 ")
    return start + box(b"jp2h", header) + outer + box(b"jp2c", codestream)


def definition(*entries):
    """A box that says of each channel its kind (0 colour, 1 opacity, 2 premultiplied) and its colour."""
    return box(b"cdef", struct.pack(">H", len(entries)) + b"".join(struct.pack(">3H", *entry) for entry in entries))


def random_box(height, width, draw):
    """A box inside the image; corners and edges are as likely as the middle."""
    y0, x0 = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    return Box(y0, x0, draw(st.integers(y0 + 1, height)), draw(st.integers(x0 + 1, width)))


def pillow_decodes(side, level):
    """Pillow rounds the side of a level to the nearest number, and refuses the image where JPEG 2000, which rounds up, has more pixels."""
    return (side + 2**level // 2) >> level == -(-side >> level)


def test_library_is_found():
    """Where Pillow was installed from a wheel of Linux, OpenJPEG's library is found, so that the tests below test regions."""
    assert is_installed()


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_every_box_at_every_resolution(tmp_path_factory, data):
    """Whatever tiles, offsets, code blocks, order and wavelet, a box of a level is the slice of what Pillow decodes at that level."""
    draw, path = data.draw, tmp_path_factory.mktemp("jp2") / "a.jp2"
    height, width = draw(st.integers(1, 150)), draw(st.integers(1, 150))
    pixels_YXC = smooth(height, width)
    tile = draw(st.none() | st.tuples(st.integers(33, 200), st.integers(33, 200)))
    # OpenJPEG aborts the process where a tile has fewer pixels than resolutions need, also the last one of a row.
    sides = (
        [height, width]
        if tile is None
        else [side for size, wide in ((width, tile[0]), (height, tile[1])) for side in (min(size, wide), size % wide or wide)]
    )
    options = {
        "irreversible": draw(st.booleans()),
        "num_resolutions": draw(st.integers(1, min(5, min(sides).bit_length()))),
        "codeblock_size": draw(st.sampled_from([(64, 64), (32, 16), (4, 8)])),
        "progression": draw(st.sampled_from(["LRCP", "RLCP", "RPCL", "PCRL", "CPRL"])),
        "mct": draw(st.integers(0, 1)),
        "no_jp2": draw(st.booleans()),
    }
    if tile is not None:
        options["tile_size"] = tile
    Image.fromarray(pixels_YXC if draw(st.booleans()) else pixels_YXC[..., 0]).save(path, "JPEG2000", **options)
    levels = [level for level in range(options["num_resolutions"]) if pillow_decodes(height, level) and pillow_decodes(width, level)]
    level = draw(st.sampled_from(levels))
    with Image.open(path) as image, opened(path, level=level) as raster:
        image.reduce = level
        expected = np.moveaxis(np.atleast_3d(np.asarray(image)), -1, 0)
        header = raster.header
        assert (header.channels, header.shape) == (len(expected), expected.shape[1:])
        assert header.levels[level : level + 1] == (header.shape,) or options["num_resolutions"] == 1
        assert header.is_lossy == options["irreversible"]
        for _ in range(3):
            part = random_box(*header.shape, draw)
            np.testing.assert_array_equal(raster.read(part), expected[:, *part.slices])


def test_large_boxes_are_decoded_in_parts(tmp_path, monkeypatch):
    """A box of more samples than are decoded at once is put together from parts, and no part has more."""
    monkeypatch.setattr(reader_module, "PART_SAMPLES", 5000)
    decoded = []
    decode = reader_module.decoded_components
    monkeypatch.setattr(
        reader_module, "decoded_components", lambda *args, **options: decoded.append(options["area"]) or decode(*args, **options)
    )
    Image.fromarray(smooth(120, 170)).save(tmp_path / "a.jp2", irreversible=False)
    np.testing.assert_array_equal(read(tmp_path / "a.jp2")[1], np.moveaxis(smooth(120, 170), -1, 0))
    assert len(decoded) >= 3 * 120 * 170 // 5000
    assert max((x1 - x0) * (y1 - y0) * 3 for x0, y0, x1, y1 in decoded) <= 5000


def test_image_that_begins_off_the_grid(tmp_path):
    """An image whose first pixel lies off the reference grid's origin has the same pixels, at each resolution as OpenJPEG counts them."""
    pixels_YX = smooth(90, 101)[..., 0]
    for offset in ((1, 3), (17, 40)):
        Image.fromarray(pixels_YX).save(tmp_path / "a.jp2", irreversible=False, offset=offset, tile_offset=(0, 0), tile_size=(64, 64))
        np.testing.assert_array_equal(read(tmp_path / "a.jp2")[1][0], pixels_YX)
        for level in (1, 2, 3):
            header, pixels_CYX, _ = read(tmp_path / "a.jp2", level=level)
            x, y = (-(-start // 2**level) for start in offset)
            assert header.shape == (-(-(90 + offset[1]) // 2**level) - y, -(-(101 + offset[0]) // 2**level) - x)
            with opened(tmp_path / "a.jp2", level=level) as raster:
                part = Box(2, 3, *header.shape)
                np.testing.assert_array_equal(raster.read(part), pixels_CYX[:, *part.slices])


@pytest.mark.parametrize(
    ("dtype", "bits"), [("uint8", 4), ("uint16", 9), ("uint16", 12), ("uint16", 16), ("int8", 8), ("int16", 12), ("int16", 16)]
)
def test_bits_and_signs(dtype, bits, tmp_path):
    """Samples of any number of bits, with a sign or without, are the numbers that were written; the header says how many bits they use."""
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if dtype.startswith("i") else (0, 2**bits)
    pixels_YX = np.random.default_rng(1).integers(low, high, (50, 61)).astype(dtype)
    path = tmp_path / "a.j2k"
    path.write_bytes(imagecodecs.jpeg2k_encode(pixels_YX, reversible=True, codecformat="j2k", bitspersample=bits))
    header, pixels_CYX, _ = read(path)
    assert (header.dtype, header.bits, header.is_lossy) == (dtype, bits if bits < 8 * pixels_YX.dtype.itemsize else 0, False)
    np.testing.assert_array_equal(pixels_CYX[0], pixels_YX)


def test_palette(tmp_path):
    """A palette gives its colours, or with ``palette: index`` the indices; an index without an entry fails its block."""
    ids = (smooth(20, 31)[..., 0] // 64).astype(np.uint8)
    table = np.array([[0, 0, 0], [200, 10, 20], [10, 200, 20], [10, 20, 200]], np.uint8)
    columns = box(b"cmap", b"".join(struct.pack(">HBB", 0, 1, column) for column in range(3)))
    path = tmp_path / "a.jp2"
    for entries in (4, 3):
        palette = box(b"pclr", struct.pack(">HB3B", entries, 3, 7, 7, 7) + table[:entries].tobytes())
        path.write_bytes(jp2(ids, SRGB, palette, columns))
        header, pixels_CYX, _ = read(path, palette="index")
        assert (header.channels, header.is_color, "indices of a palette" in header.notes[0]) == (1, False, True)
        np.testing.assert_array_equal(pixels_CYX[0], ids)
        if entries == 4:
            header, pixels_CYX, _ = read(path)
            assert (header.channels, header.dtype, header.is_color, header.notes) == (3, "uint8", True, ())
            np.testing.assert_array_equal(np.moveaxis(pixels_CYX, 0, -1), table[ids])
            np.testing.assert_array_equal(pixels_CYX, np.moveaxis(imagecodecs.jpeg2k_decode(path.read_bytes()), -1, 0))
    with pytest.raises(BlockError, match="rows 0"):
        read(path)


def test_opacity(tmp_path):
    """Opacity, at any place and premultiplied or not, says where there is data and is no channel; opaque pixels are as without it."""
    rgb, alpha = smooth(20, 31), np.resize(np.array([0, 128, 255, 255], np.uint8), (20, 31))
    path = tmp_path / "a.jp2"
    for stored, entries in (
        (np.dstack([rgb, alpha]), [(0, 0, 1), (1, 0, 2), (2, 0, 3), (3, 1, 0)]),
        (np.dstack([alpha, rgb[..., ::-1]]), [(0, 1, 0), (1, 0, 3), (2, 0, 2), (3, 0, 1)]),
    ):
        path.write_bytes(jp2(stored, SRGB, definition(*entries)))
        header, pixels_CYX, valid_YX = read(path)
        assert (header.channels, header.has_mask, header.is_color, header.notes) == (3, True, True, ())
        np.testing.assert_array_equal(np.moveaxis(pixels_CYX, 0, -1), rgb)
        np.testing.assert_array_equal(valid_YX, alpha > 0)
        header, pixels_CYX, valid_YX = read(path, channels=[3])
        assert (header.has_mask, valid_YX) == (False, None)
        np.testing.assert_array_equal(pixels_CYX[0], alpha)
    premultiplied = np.rint(rgb * (alpha[..., np.newaxis] / 255)).astype(np.uint8)
    path.write_bytes(jp2(np.dstack([premultiplied, alpha]), SRGB, definition((0, 0, 1), (1, 0, 2), (2, 0, 3), (3, 2, 0))))
    _, pixels_CYX, valid_YX = read(path)
    assert np.abs(np.moveaxis(pixels_CYX, 0, -1).astype(int) - rgb)[valid_YX].max() <= 1
    np.testing.assert_array_equal(np.moveaxis(pixels_CYX, 0, -1)[alpha == 255], rgb[alpha == 255])
    path.write_bytes(jp2(np.dstack([rgb[..., 0], np.full((20, 31), 255, np.uint8)]), GREY, definition((0, 0, 1), (1, 1, 0))))
    header, pixels_CYX, valid_YX = read(path)
    assert (header.channels, header.is_color, valid_YX) == (1, False, None)
    np.testing.assert_array_equal(pixels_CYX[0], rgb[..., 0])


def test_luma_and_chroma(tmp_path):
    """SYCC colours are RGB as OpenJPEG converts them, within 1; stored at half the resolution too, in any box and resolution."""
    path, ycc = tmp_path / "a.jp2", np.asarray(Image.fromarray(smooth(40, 51)).convert("YCbCr"))
    path.write_bytes(jp2(ycc, SYCC))
    header, pixels_CYX, _ = read(path)
    assert (header.is_color, header.channels) == (True, 3)
    assert np.abs(np.moveaxis(pixels_CYX, 0, -1).astype(int) - imagecodecs.jpeg2k_decode(path.read_bytes())).max() <= 1
    profile = {"driver": "JP2OpenJPEG", "width": 150, "height": 120, "count": 3, "dtype": "uint8", "YCBCR420": "YES", "QUALITY": "100"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", REVERSIBLE="YES", **profile) as image:
            image.write(np.moveaxis(smooth(120, 150), -1, 0))
    header, pixels_CYX, _ = read(path)
    expected = imagecodecs.jpeg2k_decode(path.read_bytes()).astype(int)
    assert np.abs(np.moveaxis(pixels_CYX, 0, -1) - expected).max() <= 1
    with opened(path) as raster:
        for part in (Box(0, 0, 1, 1), Box(7, 13, 40, 41), Box(119, 149, 120, 150), Box(1, 1, 2, 150)):
            np.testing.assert_array_equal(raster.read(part), pixels_CYX[:, *part.slices])
    _, half_CYX, _ = read(path, level=1)
    means_CYX = pixels_CYX.reshape(3, 60, 2, 75, 2).mean(axis=(2, 4))
    assert np.abs(half_CYX - means_CYX).mean() < 8
    with opened(path, level=1) as raster:
        np.testing.assert_array_equal(raster.read(Box(5, 7, 31, 44)), half_CYX[:, 5:31, 7:44])


def test_ink(tmp_path):
    """Cyan, magenta, yellow and black become RGB with a note; colours that are not understood are refused by name."""
    path = tmp_path / "a.jp2"
    ink = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 0, 0, 255], [0, 255, 255, 0]]], np.uint8).repeat(4, axis=0)
    path.write_bytes(jp2(ink, CMYK))
    header, pixels_CYX, _ = read(path)
    assert (header.channels, header.is_color) == (3, True)
    assert "cyan, magenta, yellow and black" in header.notes[0]
    assert pixels_CYX[:, 0].T.tolist() == [[255, 255, 255], [0, 255, 255], [0, 0, 0], [255, 0, 0]]
    path.write_bytes(jp2(ink[..., :3], 14))
    with pytest.raises(InputError, match="CIELAB colours; expected grey, sRGB, sYCC or CMYK"):
        read(path)


CRS = rasterio.crs.CRS.from_epsg(32633)


@pytest.mark.parametrize(
    ("boxes", "source"), [(("YES", "NO"), "GeoJP2"), (("NO", "YES"), "GMLJP2"), (("YES", "YES"), "GeoJP2"), (("NO", "NO"), "")]
)
def test_place(boxes, source, tmp_path):
    """The GeoJP2 box, else the GMLJP2 box, else a world file places the image as GDAL does; coarser levels cover the same ground."""
    path, affine = tmp_path / "a.jp2", rasterio.Affine(0.5, 0, 500_000, 0, -0.25, 4_000_000)
    profile = {"driver": "JP2OpenJPEG", "width": 200, "height": 160, "count": 1, "dtype": "uint8", "REVERSIBLE": "YES", "QUALITY": "100"}
    with rasterio.open(path, "w", transform=affine, crs=CRS, GeoJP2=boxes[0], GMLJP2=boxes[1], RESOLUTIONS=3, **profile) as image:
        image.write(smooth(160, 200)[..., :1].transpose(2, 0, 1))
    if not source:
        (tmp_path / "a.jp2.aux.xml").unlink(missing_ok=True)
        (tmp_path / "a.j2w").write_text("0.5\n0\n0\n-0.25\n500000.25\n3999999.875\n")
    for level in (0, 1):
        header = read(path, level=level)[0]
        assert header.pixel_size == (0.25 * 2**level, 0.5 * 2**level)
        assert (header.pixel_size_from, header.unit) == (source or "world file", "meter" if source else "")
        assert header.offset == (4_000_000, 500_000)
        assert header.georeference["33550"]["value"][:2] == [0.5 * 2**level, 0.25 * 2**level]
        assert bool(source) == (32633 in header.georeference.get("34735", {"value": []})["value"])


def test_gml_without_gdal(tmp_path, monkeypatch):
    """Where GDAL is not installed, a note says what a GMLJP2 box needs; the pixels are read all the same."""
    path = tmp_path / "a.jp2"
    path.write_bytes(jp2(smooth(20, 20), SRGB, outer=box(b"asoc", b"<gml:RectifiedGrid>")))
    monkeypatch.setitem(sys.modules, "rasterio", None)
    header, pixels_CYX, _ = read(path)
    assert 'pip install "gigaseg[geo]"' in header.notes[0]
    assert (header.pixel_size, pixels_CYX.shape) == (None, (3, 20, 20))


def test_without_the_library(tmp_path, monkeypatch):
    """Without OpenJPEG's library the whole image is decoded once: the same pixels and opacity, one level, and the header says so."""
    rgb, alpha = smooth(40, 51), np.resize(np.array([0, 255], np.uint8), (40, 51))
    rgba = jp2(np.dstack([rgb, alpha]), SRGB, definition((0, 0, 1), (1, 0, 2), (2, 0, 3), (3, 1, 0)))
    palette = box(b"pclr", struct.pack(">HB3B", 256, 3, 7, 7, 7) + bytes(range(256)) * 3)
    columns = box(b"cmap", b"".join(struct.pack(">HBB", 0, 1, column) for column in range(3)))
    files = {"rgba.jp2": rgba, "ids.jp2": jp2(rgb[..., 0], SRGB, palette, columns), "ycc.jp2": jp2(rgb, SYCC)}
    files["bare.j2k"] = imagecodecs.jpeg2k_encode(rgb.astype(np.int16) - 99, reversible=True, codecformat="j2k", bitspersample=12)
    by_region = {}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        by_region[name] = read(tmp_path / name), read(tmp_path / name, palette="index")
    monkeypatch.setattr(reader_module, "is_installed", lambda: False)
    for name, expected in by_region.items():
        for (with_header, with_CYX, with_YX), options in zip(expected, ({}, {"palette": "index"}), strict=True):
            header, pixels_CYX, valid_YX = read(tmp_path / name, **options)
            np.testing.assert_array_equal(pixels_CYX, with_CYX)
            np.testing.assert_array_equal(with_YX is None or valid_YX, True if with_YX is None else with_YX)
            assert (header.dtype, header.bits, header.is_color) == (with_header.dtype, with_header.bits, with_header.is_color)
            assert (header.levels, header.work_bytes) == ((), 0)
            assert header.whole_bytes >= 5 * 40 * 51 > 0 == with_header.whole_bytes
    with pytest.raises(InputError, match=r"reader\.level 1; expected 0\.\.0"):
        read(tmp_path / "rgba.jp2", level=1)


def test_two_threads_decode_at_once(tmp_path):
    """Two threads that read one open image get what one thread gets."""
    Image.fromarray(smooth(200, 220)).save(tmp_path / "a.jp2", irreversible=False, tile_size=(64, 64))
    parts = [Box(y, x, y + 60, x + 70) for y in range(0, 140, 20) for x in range(0, 150, 30)]
    with opened(tmp_path / "a.jp2") as raster, ThreadPoolExecutor(2) as threads:
        for part, read_CYX in zip(parts, threads.map(raster.read, parts), strict=True):
            np.testing.assert_array_equal(read_CYX, np.moveaxis(smooth(200, 220), -1, 0)[:, *part.slices])


MEMORY = """
import sys
from pathlib import Path
import imagecodecs
import pipeline.readers.jpeg2000 as module
from pipeline.geometry import Box
from pipeline.plugins import build
def peak():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")) << 10
imagecodecs.jpeg2k_decode
if sys.argv[4:] == ["whole"]:
    module.is_installed = lambda: False
with build("readers", {"name": "jpeg2000"}).open(sys.argv[2]) as raster:
    raster.read(Box(0, 0, 8, 8))
with build("readers", {"name": "jpeg2000"}).open(sys.argv[1]) as raster:
    before, side = peak(), int(sys.argv[3])
    pixels = raster.read(Box(99, 99, 99 + side, 99 + side))
    print(peak() - before, raster.header.work_bytes + raster.header.whole_bytes + pixels.nbytes)
"""


def peak_and_promise(*arguments):
    """Bytes that a process took for one read, and bytes that the header and the box's pixels promise."""
    done = subprocess.run([sys.executable, "-c", MEMORY, *map(str, arguments)], capture_output=True, text=True, timeout=200, check=True)
    return map(int, done.stdout.split())


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A folder with a grey image of 6144 x 6144 pixels in one tile, one of 2000 x 2000 in tiles, and a small one."""
    folder, rng = tmp_path_factory.mktemp("large"), np.random.default_rng(0)
    pixels_YX = np.add.outer(np.arange(6144) // 32, np.arange(6144) // 48).astype(np.uint8) ^ rng.integers(0, 4, (6144, 6144), np.uint8)
    (folder / "a.jp2").write_bytes(imagecodecs.jpeg2k_encode(pixels_YX, level=30, numthreads=2))
    (folder / "small.jp2").write_bytes(imagecodecs.jpeg2k_encode(pixels_YX[:64, :64], level=30))
    Image.fromarray(smooth(2000, 2000)).save(folder / "tiled.jp2", tile_size=(512, 512), quality_mode="rates", quality_layers=[20])
    return folder


@pytest.mark.parametrize("side", [256, 2048, 4000])
def test_memory_of_a_large_image(side, large):
    """Of a 6144 x 6144 image in one tile, a box takes what the header promises and its pixels."""
    peak, promised = peak_and_promise(large / "a.jp2", large / "small.jp2", side)
    assert peak <= promised + (8 << 20)
    assert promised < 6144 * 6144 * 5  # what decoding the whole would take


def test_memory_of_a_tiled_image(large):
    """A box of a tiled colour image takes what the header promises; decoded as a whole, the image does, within a tenth and 8 MiB."""
    peak, promised = peak_and_promise(large / "tiled.jp2", large / "small.jp2", 1500)
    assert peak <= promised + (8 << 20)
    peak, promised = peak_and_promise(large / "tiled.jp2", large / "small.jp2", 8, "whole")
    assert 0.9 * promised - (8 << 20) <= peak <= 1.1 * promised + (8 << 20)


def codestream(width, height, tile, *, tail=b""):
    """The header of a codestream of one grey component, and no pixels."""
    size = struct.pack(">HHIIIIIIIIH3B", 41, 0, width, height, 0, 0, *tile, 0, 0, 1, 7, 1, 1)
    coding = struct.pack(">HBBHBBBBBB", 12, 0, 0, 1, 0, 5, 0, 0, 0, 1)
    quantities = struct.pack(">HB", 19, 0x40) + bytes([8 << 3] * 16)
    return b"\xff\x4f\xff\x51" + size + b"\xff\x52" + coding + b"\xff\x5c" + quantities + tail


ABSURD = {
    "pixels": codestream(2**31, 2**31, (2**31, 2**31)),
    "large": codestream(10**9, 10**9, (1024, 1024)),
    "blocks": codestream(10**5, 10**5, (10**5, 10**5)),
    "tiles": codestream(100, 100, (0, 5)),
    "none": codestream(0, 5, (5, 5)),
    "cut": codestream(64, 64, (64, 64))[:30],
    "empty": b"",
    "box": b"\x00\x00\x00\x0cjP  \r\n\x87\n" + b"\x00\x00\x00\x01jp2h\xff\xff\xff\xff\xff\xff\xff\xff",
    "loop": b"\x00\x00\x00\x0cjP  \r\n\x87\n" + b"\x00\x00\x00\x08free" * 5000,
}


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_headers_are_refused(name, tmp_path):
    """A header of more pixels or code blocks than its bytes can hold, or of none, is refused at open, before anything is allocated."""
    path = tmp_path / "a.j2k"
    path.write_bytes(ABSURD[name])
    with pytest.raises(InputError, match=r"a\.j2k"):
        read(path)


def test_no_pixels_in_the_file(tmp_path):
    """A plausible header without pixels, and a file cut anywhere, fail their blocks by name; no value is made up."""
    path = tmp_path / "a.j2k"
    path.write_bytes(codestream(64, 64, (64, 64)))
    with pytest.raises(BlockError, match=r"a\.j2k: rows 0\.\.64"):
        read(path)
    with io.BytesIO() as content:
        Image.fromarray(smooth(64, 64)).save(content, "JPEG2000", irreversible=False)
        good = content.getvalue()
    for size in range(0, len(good) - 10, len(good) // 30):
        path.write_bytes(good[:size])
        with pytest.raises((BlockError, InputError), match=r"a\.j2k"):
            read(path)


DAMAGE = """
import resource, sys
from pathlib import Path
import numpy as np
from pipeline.errors import BlockError, InputError
from pipeline.geometry import Box
from pipeline.plugins import build
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
rng, ends = np.random.default_rng(5), {}
for source in map(Path, sys.argv[2:]):
    good, path = source.read_bytes(), source.with_name("damaged.jp2")
    for attempt in range(int(sys.argv[1])):
        content = bytearray(good)
        for _ in range(int(rng.integers(1, 9))):
            place = rng.integers(0, len(content) if attempt % 2 else min(len(content), 250))
            content[int(place)] = int(rng.integers(0, 256))
        path.write_bytes(content)
        try:
            with build("readers", {"name": "jpeg2000", "level": attempt % 2}).open(str(path)) as raster:
                box = Box(0, 0, *raster.header.shape).clip((300, 300))
                pixels, _ = raster.read_valid(box)
                assert pixels.shape == (raster.header.channels, *box.shape)
            end = "read"
        except (InputError, BlockError) as error:
            assert "damaged" in str(error), error
            end = type(error).__name__
        ends[end] = ends.get(end, 0) + 1
print(sum(ends.values()), len(ends))
"""


def test_damage_ends_cleanly(tmp_path):
    """Files with bytes changed, half of them in the headers, give pixels or name themselves: no traceback, no crash, no gigabytes."""
    rgb = smooth(70, 90)
    Image.fromarray(rgb).save(tmp_path / "a.jp2", tile_size=(64, 64))
    Image.fromarray(rgb).save(tmp_path / "b.j2k", "JPEG2000", no_jp2=True, irreversible=False)
    palette = box(b"pclr", struct.pack(">HB3B", 256, 3, 7, 7, 7) + bytes(range(256)) * 3)
    columns = box(b"cmap", b"".join(struct.pack(">HBB", 0, 1, column) for column in range(3)))
    (tmp_path / "c.jp2").write_bytes(jp2(rgb[..., 0], SRGB, palette, columns))
    (tmp_path / "d.jp2").write_bytes(jp2(np.dstack([rgb, rgb[..., 0]]), SRGB, definition((0, 0, 1), (1, 0, 2), (2, 0, 3), (3, 1, 0))))
    files = sorted(map(str, tmp_path.iterdir()))
    done = subprocess.run([sys.executable, "-c", DAMAGE, "100", *files], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["400", "3"]
