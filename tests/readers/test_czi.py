"""CZI: files that pylibCZIrw writes and reads, and what it cannot write, against what the specification says."""

from __future__ import annotations

import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import BlockError, InputError
from pipeline.geometry import Box
from pipeline.plugins import build
from pipeline.raster import PlaneStep
from pipeline.readers._mosaic import Mosaic
from tests.readers.czi_files import Tile, write_czi
from tests.readers.damage import endings

pyczi = pytest.importorskip("pylibCZIrw.czi")

ZSTD1 = "zstd1:ExplicitLevel=2;PreProcess=HiLoByteUnpack"
XML = """<ImageDocument><Metadata><Information><Image><ComponentBitCount>14</ComponentBitCount><Dimensions>
<Channels><Channel Id="Channel:0" Name="DAPI"><ComponentBitCount>12</ComponentBitCount></Channel><Channel Id="Channel:1" Name="GFP"/>
</Channels>
<S><Scenes><Scene Index="0" Name="P2"/><Scene Index="1" Name="P1"/></Scenes></S></Dimensions></Image></Information>
<Scaling><Items><Distance Id="X"><Value>3.25E-07</Value></Distance><Distance Id="Y"><Value>3.3e-07</Value></Distance>
<Distance Id="Z"><Value>1.5e-06</Value></Distance></Items></Scaling></Metadata></ImageDocument>"""


def noise(shape, dtype="uint16", seed=0):
    """Random pixels, none of them 0."""
    pixels = np.random.default_rng(seed).integers(1, 250, shape)
    return pixels.astype(dtype)


def opened(path, **options):
    """The file, open."""
    return build("readers", {"name": "czi", **options}).open(str(path))


def read(path, plane=0, **options):
    """All pixels of a plane, and where they are declared."""
    with opened(path, **options) as raster:
        return raster.read_masked(Box(0, 0, *raster.header.shape), plane)


MOSAICS = {  # compression, type, samples
    "plain": ("uncompressed:", "uint16", 1),
    "plain-8": ("uncompressed:", "uint8", 1),
    "float": ("uncompressed:", "float32", 1),
    "colour": ("uncompressed:", "uint8", 3),
    "zstd0-colour": ("zstd0:ExplicitLevel=2", "uint8", 3),
    "zstd0": ("zstd0:ExplicitLevel=2", "uint16", 1),
    "zstd1": (ZSTD1, "uint16", 1),
}
PLACES = [(-20, 7), (-20, 41), (10, 7), (10, 45), (33, 80), (12, 12)]  # overlapping, with holes, the last over the others


def write_mosaic(path, kind):
    """Two channels (one in colour) x 2 z x 2 t of six tiles, written by pylibCZIrw."""
    compression, dtype, samples = MOSAICS[kind]
    channels = 1 if samples == 3 else 2
    with pyczi.create_czi(str(path), compression_options=compression) as czi:
        for index in range(channels * 4):
            plane = dict(zip("CZT", map(int, np.unravel_index(index, (channels, 2, 2))), strict=True))
            for number, (y, x) in enumerate(PLACES):
                czi.write(noise((31, 38, samples), dtype, seed=100 * index + number), location=(x, y), plane=plane)
        czi.write_metadata("test", channel_names={0: "DAPI", 1: "GFP"}, scale_x=3.25e-7, scale_y=3.3e-7, scale_z=1.5e-6)


def of_library(path, plane):
    """The pixels (C, Y, X) of a plane as pylibCZIrw composes them."""
    with pyczi.open_czi(str(path)) as czi:
        roi = tuple(czi.total_bounding_rectangle)
        numbers = range(czi.total_bounding_box["C"][1])
        read_YXS = [czi.read(roi=roi, plane={"C": number, "Z": plane[1], "T": plane[0]}) for number in numbers]
    return np.moveaxis(np.concatenate([pixels[..., ::-1] for pixels in read_YXS], axis=-1), -1, 0)


@pytest.mark.parametrize("kind", MOSAICS)
def test_pixels_are_those_of_pylibczirw(kind, tmp_path):
    """Mosaics with overlaps, holes and negative positions, in each type and compression: whole and by region as libCZI gives them."""
    path = tmp_path / "a.czi"
    write_mosaic(path, kind)
    with opened(path) as raster:
        header = raster.header
        assert header.planes == {"t": 2, "z": 2}
        assert header.is_color == ("colour" in kind)
        for plane in range(4):
            expected_CYX = of_library(path, divmod(plane, 2))
            assert header.shape == expected_CYX.shape[1:]
            pixels_CYX, declared_YX = raster.read_masked(Box(0, 0, *header.shape), plane)
            np.testing.assert_array_equal(pixels_CYX, expected_CYX)
            np.testing.assert_array_equal(declared_YX, (expected_CYX != 0).any(axis=0))
            for y0, x0, y1, x1 in np.random.default_rng(1).integers(0, 1000, (20, 4)):
                top, left = y0 % header.shape[0], x0 % header.shape[1]
                box = Box(top, left, top + 1 + y1 % (header.shape[0] - top), left + 1 + x1 % (header.shape[1] - left))
                part_CYX, part_YX = raster.read_masked(box, plane)
                np.testing.assert_array_equal(part_CYX, expected_CYX[:, *box.slices])
                np.testing.assert_array_equal(True if part_YX is None else part_YX, declared_YX[box.slices])


def test_header(tmp_path):
    """Scale in micrometres, channel names, steps and gaps are those that pylibCZIrw wrote."""
    write_mosaic(tmp_path / "a.czi", "zstd1")
    with opened(tmp_path / "a.czi") as raster:
        header = raster.header
    assert (header.pixel_size, header.unit, header.pixel_size_from) == ((0.33, 0.325), "micrometer", "CZI")
    assert header.channel_names == ("DAPI", "GFP")
    assert header.plane_steps == {"z": PlaneStep(1.5, "micrometer")}
    assert (header.has_mask, header.bits, header.series, header.notes) == (True, 0, "", ())


def test_channels_by_name_and_planes(tmp_path):
    """A channel chosen by name, in another case and in another order, and planes by position, are those of the whole."""
    path = tmp_path / "a.czi"
    write_mosaic(path, "plain")
    pixels_CYX, _ = read(path, plane=2)
    np.testing.assert_array_equal(read(path, plane=2, channels=["gfp", "DAPI"])[0], pixels_CYX[::-1])
    np.testing.assert_array_equal(read(path, channels=["GFP"], planes={"t": 1, "z": 0})[0], pixels_CYX[1:])
    with pytest.raises(InputError, match="'DAPI' or 'GFP'"), opened(path, channels=["DAP1"]):
        pass


def test_colours_are_red_green_blue(tmp_path):
    """Blue, green, red in the file come as red, green, blue, also a single one of them."""
    pixels_YXS = noise((20, 30, 3), "uint8")
    write_czi(tmp_path / "a.czi", [Tile(pixels_YXS, dims={"C": 0})])
    np.testing.assert_array_equal(read(tmp_path / "a.czi")[0], np.moveaxis(pixels_YXS, -1, 0))
    np.testing.assert_array_equal(read(tmp_path / "a.czi", channels=["blue"])[0][0], pixels_YXS[..., 2])
    with opened(tmp_path / "a.czi") as raster:
        assert raster.header.channel_names == ("red", "green", "blue")


def test_opacity_is_validity(tmp_path):
    """The fourth sample of Bgra32 says where there is data; named by its number, it is a channel."""
    pixels_YXS = noise((20, 30, 4), "uint8")
    pixels_YXS[:5, :, 3] = 0
    write_czi(tmp_path / "a.czi", [Tile(pixels_YXS, dims={"C": 0})])
    pixels_CYX, declared_YX = read(tmp_path / "a.czi")
    np.testing.assert_array_equal(pixels_CYX, np.moveaxis(pixels_YXS[..., :3], -1, 0))
    np.testing.assert_array_equal(declared_YX, pixels_YXS[..., 3] > 0)
    np.testing.assert_array_equal(read(tmp_path / "a.czi", channels=[3])[0][0], pixels_YXS[..., 3])


CODECS = [
    ("raw", "uint32", None),
    ("lzw", "uint16", None),
    ("zstd1", "uint16", 3),
    ("zstd1-split", "uint16", 3),
    ("jpegxr", "uint8", None),
    ("jpegxr", "uint16", None),
    ("jpegxr", "float32", None),
    ("jpegxr", "uint8", 3),
    ("jpegxr", "uint16", 3),
]


@pytest.mark.parametrize(("compression", "dtype", "samples"), CODECS)
def test_codecs(compression, dtype, samples, tmp_path):
    """What pylibCZIrw does not write is decoded to the pixels that were encoded."""
    pixels = noise((40, 48, samples) if samples else (40, 48), dtype)
    write_czi(tmp_path / "a.czi", [Tile(pixels, dims={"C": 0}, compression=compression)])
    found_YXS = np.moveaxis(read(tmp_path / "a.czi")[0], 0, -1)
    np.testing.assert_allclose(found_YXS, pixels.reshape(found_YXS.shape), rtol=1e-6)
    with opened(tmp_path / "a.czi") as raster:
        whole = raster.header.whole_bytes
        assert raster.header.is_lossy == (compression == "jpegxr")
    assert whole == (0 if compression == "raw" else pixels.nbytes)
    if compression == "jpegxr" and dtype != "float32" and (samples, dtype) != (3, "uint8"):  # libCZI wants Bgr24 labelled as BGR
        with pyczi.open_czi(str(tmp_path / "a.czi")) as czi:
            np.testing.assert_array_equal(czi.read()[..., ::-1], found_YXS)


def test_jpeg(tmp_path):
    """A JPEG tile is what libjpeg decodes, and told as lossy."""
    pixels_YXS = np.full((16, 24, 3), (200, 90, 20), np.uint8)
    write_czi(tmp_path / "a.czi", [Tile(pixels_YXS, dims={"C": 0}, compression="jpeg")])
    found_CYX, _ = read(tmp_path / "a.czi")
    np.testing.assert_array_equal(np.moveaxis(found_CYX, 0, -1), imagecodecs.jpeg8_decode(imagecodecs.jpeg8_encode(pixels_YXS, level=95)))
    assert abs(found_CYX.astype(int) - pixels_YXS[0, 0][:, None, None]).max() <= 3


CRASHERS = [(11, 0xAA), (16, 0xA0), (16, 0x67), (10, 0xC1), (12, 0x70), (17, 0xB3)]  # byte of the code's header, what it becomes


@pytest.mark.parametrize(("at", "value"), CRASHERS)
@pytest.mark.parametrize("samples", [None, 3])
def test_jpeg_xr_whose_header_lies(at, value, samples, tmp_path):
    """A JPEG XR header that would make the decoder leave its buffers fails the block, before it is decoded."""
    pixels = noise((40, 48, samples) if samples else (40, 48), "uint16")
    write_czi(tmp_path / "a.czi", [Tile(pixels, dims={"C": 0}, compression="jpegxr")])
    content = bytearray((tmp_path / "a.czi").read_bytes())
    content[content.index(b"WMPHOTO\0") + at] = value
    (tmp_path / "a.czi").write_bytes(content)
    with pytest.raises(BlockError, match="JPEG XR that is not 40 x 48 pixels of . x uint16"):
        read(tmp_path / "a.czi")


def scenes(path):
    """Three scenes, the second the largest, and a phase axis in the third."""
    tiles = [
        Tile(noise((10, 12), seed=1), 5, 5, {"S": 0, "C": 0, "H": 0}),
        Tile(noise((30, 40), seed=2), 100, 50, {"S": 1, "C": 0, "H": 0}),
    ]
    tiles += [Tile(noise((8, 9), seed=3 + phase), 0, 200, {"S": 2, "C": 0, "H": phase}) for phase in range(2)]
    write_czi(path, tiles, XML)
    return [tile.pixels for tile in tiles]


def test_scenes(tmp_path):
    """The largest scene is read and told of; index and name choose; ``all`` makes an image of each scene and phase."""
    path = tmp_path / "a.czi"
    pixels = scenes(path)
    with opened(path) as raster:
        assert raster.header.shape == (30, 40)
        assert raster.header.series == "P1 phase 0"
        assert "4 images: the largest, 'P1 phase 0', is read" in raster.header.notes[0]
    members = build("readers", {"name": "czi", "series": "all"}).members(str(path))
    assert [member.name for member in members] == ["P2 phase 0", "P1 phase 0", "scene 2 phase 0", "scene 2 phase 1"]
    for member, expected_YX in zip(members, pixels, strict=True):
        np.testing.assert_array_equal(read(member.path, **member.options)[0][0], expected_YX)
        np.testing.assert_array_equal(read(path, series=member.name.upper())[0][0], expected_YX)
    for series, told in ((4, r"0\.\.3"), ("P3", "'P2 phase 0', 'P1"), ("all", "'P2 phase 0'")):
        with pytest.raises(InputError, match=told), opened(path, series=series):
            pass
    assert build("readers", {"name": "czi"}).members(str(path)) == ()


def test_bits_and_times(tmp_path):
    """12 bits of a channel beat the 14 of the image; time steps come from the time stamps."""
    tiles = [Tile(noise((8, 8)), dims={"C": channel, "T": t, "Z": z}) for channel in (0, 1) for t in range(3) for z in (4, 5)]
    write_czi(tmp_path / "a.czi", tiles, XML, times=[10.0, 12.0, 15.0])
    with opened(tmp_path / "a.czi") as both, opened(tmp_path / "a.czi", channels=["DAPI"]) as one:
        assert (both.header.bits, one.header.bits) == (14, 12)
        assert both.header.plane_steps == {"t": PlaneStep(2.5, "second"), "z": PlaneStep(1.5, "micrometer")}
        assert not both.header.has_mask


def test_a_missing_plane_is_no_data(tmp_path):
    """A channel that lacks one z has no data there, and all of it elsewhere."""
    tiles = [Tile(noise((8, 8)), dims={"C": channel, "Z": z}) for channel, z in ((0, 0), (0, 1), (1, 0))]
    write_czi(tmp_path / "a.czi", tiles)
    assert read(tmp_path / "a.czi", plane=0)[1] is None
    assert not read(tmp_path / "a.czi", plane=1)[1].any()
    assert read(tmp_path / "a.czi", plane=1, channels=[0])[1] is None


def test_masks_of_tiles(tmp_path):
    """A pixel that a tile's mask excludes shows the tile below, and holds no data where there is none: as libCZI's own reading does."""
    masks = [np.random.default_rng(seed).random((30, 37)) > 0.3 for seed in (1, 2)]
    pixels = [noise((30, 37), seed=seed) for seed in (1, 2)]
    tiles = [Tile(pixels[0], 0, 0, {"C": 0, "M": 0}, mask=masks[0]), Tile(pixels[1], 10, 20, {"C": 0, "M": 1}, mask=masks[1])]
    write_czi(tmp_path / "a.czi", tiles)
    found_CYX, declared_YX = read(tmp_path / "a.czi")
    with pyczi.open_czi(str(tmp_path / "a.czi"), reader_options=pyczi.ReaderOptions(enable_mask_awareness=True)) as czi:
        expected_YX = czi.read()[..., 0]
    np.testing.assert_array_equal(found_CYX[0], expected_YX)
    np.testing.assert_array_equal(declared_YX, expected_YX != 0)


def pyramid(path, compression, height=133, width=170):
    """A mosaic of two tiles with a hole, and its copies of half and of a quarter of the size, which are 7 where nothing was recorded."""
    plane_YX = noise((height, width))
    tiles = [Tile(plane_YX[:, :64], -3, 9, {"C": 0, "M": 0}), Tile(plane_YX[8:, 100:], 5, 109, {"C": 0, "M": 1})]
    recorded_YX = np.zeros(plane_YX.shape, bool)
    recorded_YX[:, :64] = recorded_YX[8:, 100:] = True
    shown_YX = np.where(recorded_YX, plane_YX, 7).astype(np.uint16)
    for factor in (2, 4):
        rows, columns = -(-height // factor) * factor, -(-width // factor) * factor
        padded_YX = np.pad(shown_YX, ((0, rows - height), (0, columns - width)), constant_values=7)
        small_YX = padded_YX[factor // 2 :: factor, factor // 2 :: factor]
        tiles.append(Tile(small_YX, -3, 9, {"C": 0}, (rows, columns), compression, pyramid=2))
    write_czi(path, tiles, XML)
    return shown_YX, recorded_YX


@pytest.mark.parametrize("compression", ["raw", "zstd1-split"])
def test_levels(compression, tmp_path):
    """Each stored level is read as it is stored; no data is what no tile of full resolution covers."""
    shown_YX, recorded_YX = pyramid(tmp_path / "a.czi", compression)
    for level, factor in enumerate((1, 2, 4)):
        with opened(tmp_path / "a.czi", level=level) as raster:
            header = raster.header
            assert header.levels == ((133, 170), (67, 85), (34, 43))
            assert header.shape == header.levels[level]
            assert header.pixel_size == (0.33 * factor, 0.325 * factor)
            whole_CYX, declared_YX = raster.read_masked(Box(0, 0, *header.shape))
            at = tuple(
                np.minimum(np.arange(size) * factor + factor // 2, full) for size, full in zip(header.shape, (132, 169), strict=True)
            )
            expected_YX = recorded_YX[np.ix_(*at)]
            inside = np.s_[: 132 // factor, : 168 // factor]
            np.testing.assert_array_equal(declared_YX[inside], expected_YX[inside])
            np.testing.assert_array_equal(whole_CYX[0][inside][expected_YX[inside]], shown_YX[np.ix_(*at)][inside][expected_YX[inside]])
            box = Box(5, 11, 20, 40)
            np.testing.assert_array_equal(raster.read(box), whole_CYX[:, *box.slices])
    with pytest.raises(InputError, match=r"reader.level 3.*0\.\.2"), opened(tmp_path / "a.czi", level=3):
        pass


def test_a_level_without_a_tile_shows_the_finer_one(tmp_path):
    """Where a level lacks the tile of an area, the pixels of full resolution under the centres are read."""
    plane_YX = noise((64, 128))
    tiles = [Tile(plane_YX, 0, 0, {"C": 0}), Tile(plane_YX[1::2, 1:64:2], 0, 0, {"C": 0}, (64, 64), pyramid=2)]
    write_czi(tmp_path / "a.czi", tiles)
    found_CYX, declared_YX = read(tmp_path / "a.czi", level=1)
    np.testing.assert_array_equal(found_CYX[0], plane_YX[1::2, 1::2])
    assert declared_YX is None


def test_rows_that_are_stored_closer(tmp_path):
    """Tiles that are stored with fewer rows than they are shown with, and no others, are shown with repeated rows, which is told."""
    pixels_YX = noise((20, 40))
    write_czi(tmp_path / "a.czi", [Tile(pixels_YX, 3, 5, {"C": 0}, (40, 40))])
    found_CYX, declared_YX = read(tmp_path / "a.czi")
    np.testing.assert_array_equal(found_CYX[0], np.repeat(pixels_YX, 2, axis=0))
    assert declared_YX is None
    with opened(tmp_path / "a.czi") as raster:
        assert "pixels are repeated" in raster.header.notes[0]
        np.testing.assert_array_equal(raster.read(Box(7, 3, 30, 21)), found_CYX[:, 7:30, 3:21])


def test_levels_are_those_of_libczi(tmp_path):
    """At zoom 1/2 and 1/4, libCZI shows the pixels of the stored levels."""
    pyramid(tmp_path / "a.czi", "raw", height=128, width=160)
    with pyczi.open_czi(str(tmp_path / "a.czi")) as czi:
        for level, factor in ((1, 2), (2, 4)):
            expected_YX = czi.read(roi=(9, -3, 160, 128), zoom=1 / factor)[..., 0]
            found_CYX, declared_YX = read(tmp_path / "a.czi", level=level)
            np.testing.assert_array_equal(found_CYX[0][declared_YX], expected_YX[declared_YX])


def test_only_touched_tiles_are_decoded(tmp_path, monkeypatch):
    """A box decodes the tiles that it shows: not those beside it, nor one that others hide."""
    places = [(0, 0), (0, 60), (60, 0), (60, 60)]
    tiles = [Tile(noise((64, 64), seed=index), y, x, {"C": 0, "M": index}, compression="zstd0") for index, (y, x) in enumerate(places)]
    tiles += [Tile(noise((64, 64)), 0, 0, {"C": 0, "M": 9}, compression="zstd0")]  # over the first
    write_czi(tmp_path / "a.czi", tiles)
    decoded, decode = [], imagecodecs.zstd_decode
    monkeypatch.setattr(imagecodecs, "zstd_decode", lambda *args, **options: decoded.append(1) or decode(*args, **options))
    with opened(tmp_path / "a.czi") as raster:
        assert raster.header.whole_bytes == 0
        for box, touched in ((Box(0, 0, 20, 20), 1), (Box(0, 0, 50, 124), 2), (Box(0, 0, 124, 124), 4)):
            decoded.clear()
            raster.read(box)
            assert len(decoded) == touched


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_a_mosaic_is_its_tiles_painted_in_order(data):
    """Whatever the tiles and the box, a read is the part of a plane on which the tiles were painted one over the other."""
    if data.draw(st.booleans()):  # side by side, in any order, one perhaps missing
        corners = data.draw(st.permutations([(y, x) for y in range(0, 32, 8) for x in range(0, 32, 16)]))[data.draw(st.integers(0, 1)) :]
        sizes = [(8, 16)] * len(corners)
    else:
        corners = [tuple(data.draw(st.integers(0, 20)) for _ in range(2)) for _ in range(data.draw(st.integers(1, 6)))]
        sizes = [tuple(data.draw(st.integers(1, 12)) for _ in range(2)) for _ in corners]
    plane_YX, rng = np.zeros((32, 32), np.int64), np.random.default_rng(0)
    pixels = [rng.integers(1, 99, size) for size in sizes]
    for (y, x), tile_YX in zip(corners, pixels, strict=True):
        plane_YX[y : y + tile_YX.shape[0], x : x + tile_YX.shape[1]] = tile_YX
    mosaic = Mosaic(np.array([(*at, at[0] + size[0], at[1] + size[1]) for at, size in zip(corners, sizes, strict=True)]), np.array(sizes))
    top, left = data.draw(st.integers(0, 31)), data.draw(st.integers(0, 31))
    box = Box(top, left, data.draw(st.integers(top + 1, 32)), data.draw(st.integers(left + 1, 32)))
    free_YX, tiling = np.ones(box.shape, bool), mosaic.find_tiling(box, 1)
    for parts in (mosaic.find(free_YX, box, 1), tiling):
        out_CYX = np.zeros((1, *box.shape), np.int64)
        for part in parts or ():
            part.paint(out_CYX, lambda tile, stored: pixels[tile][None, *stored.slices])
        assert parts is None or np.array_equal(out_CYX[0], plane_YX[box.slices])
    assert tiling is not None or len(corners) < 8 or sizes[0] != (8, 16) or (plane_YX == 0).any()
    np.testing.assert_array_equal(free_YX, plane_YX[box.slices] == 0)
    np.testing.assert_array_equal(mosaic.coverage(box, 1), ~free_YX)
    assert mosaic.has_gaps((32, 32)) == (plane_YX == 0).any()
    assert mosaic.has_gaps((1, 1)) == (plane_YX[0, 0] == 0)


def test_threads_agree(tmp_path):
    """Threads that read one open file at once get what one thread gets."""
    write_mosaic(tmp_path / "a.czi", "zstd1")
    with opened(tmp_path / "a.czi") as raster, ThreadPoolExecutor(4) as threads:
        whole_CYX = raster.read(Box(0, 0, *raster.header.shape), 3)
        boxes = [Box(y, x, y + 20, x + 20) for y in range(0, 60, 7) for x in range(0, 90, 9)]
        for box, part_CYX in zip(boxes, threads.map(lambda box: raster.read(box, 3), boxes), strict=True):
            np.testing.assert_array_equal(part_CYX, whole_CYX[:, *box.slices])


def test_closing_frees_the_handle(tmp_path):
    """No handle stays after closing, nor after a refusal, and a late read fails as reading is over."""
    write_mosaic(tmp_path / "a.czi", "plain")
    before = len([*Path("/proc/self/fd").iterdir()])
    with opened(tmp_path / "a.czi") as raster:
        pass
    with pytest.raises(InputError), opened(tmp_path / "a.czi", level=5):
        pass
    assert len([*Path("/proc/self/fd").iterdir()]) == before
    with pytest.raises(BlockError, match="reading is over"):
        raster.read(Box(0, 0, 2, 2))


def patched(path, at, value, form="<i"):
    """The file with a number changed, by the place of a sub-block's header or of the directory."""
    content = bytearray(path.read_bytes())
    struct.pack_into(form, content, at, value)
    path.write_bytes(content)


def test_refusals(tmp_path):
    """What cannot be read is refused by name: entities, other pixel types, several positions in a sub-block, no directory."""
    path = tmp_path / "a.czi"
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><ImageDocument>&b;</ImageDocument>'
    write_czi(path, [Tile(noise((8, 8)), dims={"C": 0})], bomb)
    with pytest.raises(InputError, match="XML entities"), opened(path):
        pass
    write_czi(path, [Tile(noise((8, 8)), dims={"C": 0})])
    entry = path.read_bytes().index(b"ZISRAWDIRECTORY") + 32 + 128
    content = path.read_bytes()
    for at, value, told in (
        (entry + 2, 10, "pixels of type"),
        (entry + 18, 1000, "compression"),
        (entry + 80, 2, "several positions along C"),
    ):
        path.write_bytes(content)
        patched(path, at, value)
        with pytest.raises(InputError, match=told), opened(path):
            pass
    path.write_bytes(content)
    patched(path, 32 + 52, 0, "<q")
    with pytest.raises(InputError, match="without a directory"), opened(path):
        pass
    path.write_bytes(content)
    for size in (100, -1):  # bytes of the pixels, by the sub-block
        patched(path, 544 + 32 + 8, size, "<q")
        with pytest.raises(BlockError, match=r"a\.czi: rows 0\.\.8, columns 0\.\.8"):
            read(path)


def test_damage_ends_cleanly(tmp_path):
    """Flipped bytes and truncations of files of each compression end in pixels, InputError or BlockError: never in a dead process."""
    for compression in ("raw", "lzw", "zstd0", "zstd1-split", "jpegxr"):
        tiles = [
            Tile(noise((20, 20), seed=m), 0, 15 * m, {"C": 0, "M": m, "S": 0}, None, compression, mask=np.eye(20) < 1) for m in range(2)
        ]
        tiles += [Tile(noise((10, 10)), 0, 0, {"C": 0, "S": 0}, (20, 20), compression, 2), Tile(noise((5, 5)), dims={"C": 0, "S": 1})]
        write_czi(tmp_path / f"{compression}.czi", tiles, XML, times=[1.0])
    became = endings(sorted(tmp_path.glob("*.czi")), 80, tmp_path / "damaged")
    assert set(became) == {"read", "InputError", "BlockError"}
