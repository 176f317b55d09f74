"""A mosaic of map tiles is one image: every pixel equals a reference in numpy, whatever the region, the rule and the thread."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import BlockError, InputError
from pipeline.geometry import Box
from pipeline.plugins import build
from pipeline.raster import resampled_header
from pipeline.readers._map_mosaic import MOST_OPEN
from pipeline.readers.auto import Auto
from tests.readers.map_tiles import ORIGIN, SIZE, save_quarters, save_tile

SHAPE = (64, 72)


def opened(folder, tiles="*.tif", **options):
    return build("readers", {"name": "mosaic", "tiles": tiles, **options}).open(str(folder))


def header_of(folder, tiles="*.tif", **options):
    with opened(folder, tiles, **options) as raster:
        return raster.header


def refused(folder, tiles="*.tif", **options):
    with pytest.raises(InputError) as error, opened(folder, tiles, **options):
        pass
    return str(error.value)


def num_open(folder):
    """How many files of a folder this process holds open."""
    return sum(handle.is_symlink() and str(handle.readlink()).startswith(str(folder)) for handle in Path("/proc/self/fd").iterdir())


def scene(shape=SHAPE, channels=None, dtype=np.uint8, seed=0):
    values = np.random.default_rng(seed).integers(0, 200, (*(() if channels is None else (channels,)), *shape))
    return values.astype(dtype)


def reference(tiles, channels, nodata, dtype):
    """Paint tiles (pixels_CYX, valid_YX, box), the lowest first; return pixels and where any tile has data."""
    boxes = [box for _, _, box in tiles]
    top, left = min(box.y0 for box in boxes), min(box.x0 for box in boxes)
    shape = max(box.y1 for box in boxes) - top, max(box.x1 for box in boxes) - left
    out_CYX = np.full((channels, *shape), 0 if nodata is None else nodata, dtype)
    valid_YX = np.zeros(shape, bool)
    for pixels_CYX, data_YX, box in tiles:
        place = box.shift(-top, -left).slices
        shows_YX = data_YX | ~valid_YX[place]
        np.copyto(out_CYX[:, *place], pixels_CYX, where=shows_YX)
        valid_YX[place] |= data_YX
    return out_CYX, valid_YX


@st.composite
def tilings(draw):
    """A few tiles of random boxes, pixels and missing pixels, and the rule of their overlap."""
    side = st.integers(1, 40)
    corner = st.integers(0, 50)
    boxes = draw(st.lists(st.tuples(corner, corner, side, side), min_size=1, max_size=6))
    return {
        "boxes": [Box(y, x, y + height, x + width) for y, x, height, width in boxes],
        "channels": draw(st.sampled_from([1, 3])),
        "dtype": draw(st.sampled_from(["uint8", "uint16", "float32"])),
        "nodata": draw(st.sampled_from([None, 7, "mixed"])),
        "overlap": draw(st.sampled_from(["first", "last", "newest"])),
        "ages": draw(st.permutations(range(len(boxes)))),
        "seed": draw(st.integers(0, 99)),
    }


def write_tiling(folder, case):
    """Write the tiles; return those of the reference in the order of painting."""
    rng = np.random.default_rng(case["seed"])
    tiles = []
    for number, box in enumerate(case["boxes"]):
        pixels = rng.integers(0, 200, (case["channels"], *box.shape)).astype(case["dtype"])
        missing = rng.random(box.shape) < 0.3
        pixels[:, missing] = 7
        nodata = (7 if number % 2 else None) if case["nodata"] == "mixed" else case["nodata"]
        valid = (pixels != 7).any(axis=0) if nodata is not None else np.ones(box.shape, bool)
        if case["dtype"] == "float32":
            pixels[0, rng.random(box.shape) < 0.1] = np.nan
            valid &= np.isfinite(pixels).all(axis=0)
        path = save_tile(folder / f"{number:02}.tif", pixels, box.y0, box.x0, nodata=nodata, tile=None)
        os.utime(path, ns=(10**18 + case["ages"][number], 10**18 + case["ages"][number]))
        tiles.append((pixels, valid, box))
    if case["overlap"] == "newest":
        return [tiles[number] for number in np.argsort(case["ages"])]
    return tiles[::-1] if case["overlap"] == "first" else tiles


@settings(max_examples=60, deadline=None)
@given(tilings(), st.data())
def test_every_pixel_is_the_references(case, data):
    """Random tilings with overlaps, gaps and missing pixels, by each rule: the whole, and any region of it."""
    with tempfile.TemporaryDirectory() as folder:
        tiles = write_tiling(Path(folder), case)
        expected_CYX, valid_YX = reference(tiles, case["channels"], 7 if case["nodata"] == 7 else None, case["dtype"])
        with opened(folder, overlap=case["overlap"]) as raster:
            height, width = raster.header.shape
            assert (height, width) == valid_YX.shape
            assert raster.header.has_mask or raster.header.nodata is not None or valid_YX.all() or case["dtype"] == "float32"
            y0, x0 = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
            part = Box(y0, x0, data.draw(st.integers(y0 + 1, height)), data.draw(st.integers(x0 + 1, width)))
            for box in (Box(0, 0, height, width), part):
                pixels_CYX, found_YX = raster.read_valid(box)
                np.testing.assert_array_equal(pixels_CYX, expected_CYX[:, *box.slices])
                np.testing.assert_array_equal(np.ones(box.shape, bool) if found_YX is None else found_YX, valid_YX[box.slices])
                np.testing.assert_array_equal(raster.read(box), pixels_CYX)


def test_the_header_is_that_of_the_whole(tmp_path):
    """Four tiles have the header of the same raster as one file, besides what is said of the tiles."""
    pixels = scene(channels=3)
    save_quarters(tmp_path / "tiles", pixels, (24, 40), nodata=0)
    with build("readers", {"name": "auto"}).open(str(save_tile(tmp_path / "whole.tif", pixels, 0, 0, nodata=0))) as whole:
        expected = whole.header
    header = header_of(tmp_path / "tiles")
    for field in ("shape", "channels", "dtype", "pixel_size", "unit", "offset", "nodata", "has_mask", "is_color", "levels"):
        assert getattr(header, field) == getattr(expected, field), field
    assert header.georeference == {tag: value for tag, value in expected.georeference.items() if tag != "42113"}
    assert [(part.name, part.box) for part in header.parts] == [
        ("tile_0_0", Box(0, 0, 24, 40)),
        ("tile_0_1", Box(0, 40, 24, 72)),
        ("tile_1_0", Box(24, 0, 64, 40)),
        ("tile_1_1", Box(24, 40, 64, 72)),
    ]
    assert pickle.loads(pickle.dumps(header)) == header
    assert header.notes == ("a mosaic of 4 tiles",)
    assert header.whole_bytes == 0
    assert header.work_bytes > 0


def test_gaps_and_overlaps_are_said(tmp_path):
    """A note says how much of the rectangle has no tile, and which tile shows; without a tile at its corner the place is right."""
    save_tile(tmp_path / "a.tif", scene((10, 10)), 0, 10)
    save_tile(tmp_path / "b.tif", scene((10, 15)), 10, 0)
    save_tile(tmp_path / "c.tif", scene((10, 10)), 10, 10)
    header = header_of(tmp_path)
    assert header.shape == (20, 20)
    assert header.has_mask
    assert header.offset == ORIGIN
    assert header.georeference["33922"]["value"][3:5] == [ORIGIN[1], ORIGIN[0]]
    assert header.notes == (
        "a mosaic of 3 tiles; gaps between its tiles have no data (25.00 %); where tiles overlap, the last by name shows",
    )


def test_tiles_in_folders_and_channels(tmp_path):
    """``**`` reaches tiles in folders, whose parts get names of their own; options choose channels of every tile."""
    pixels = scene(channels=3)
    for folder, columns in (("west", slice(0, 40)), ("east", slice(40, 72))):
        (tmp_path / folder).mkdir()
        save_tile(tmp_path / folder / "a.tif", pixels[..., columns], 0, columns.start)
    with opened(tmp_path, "**/*.tif", channels=[2, 0]) as raster:
        np.testing.assert_array_equal(raster.read(Box(0, 0, *SHAPE)), pixels[[2, 0]])
        assert [part.name for part in raster.header.parts] == ["east_a", "west_a"]


def test_outputs_of_runs_are_no_tiles(tmp_path):
    """What lies beside a run.json is left out, unless the glob names its folder."""
    save_tile(tmp_path / "a.tif", scene(), 0, 0)
    masks = tmp_path / "runs" / "masks"
    masks.mkdir(parents=True)
    (tmp_path / "runs" / "run.json").write_text("{}")
    save_tile(masks / "b.tif", scene(), 0, 72)
    assert header_of(tmp_path, "**/*.tif").shape == SHAPE
    assert header_of(tmp_path, "runs/masks/*.tif").shape == SHAPE
    assert header_of(tmp_path, "**/masks/*.tif").shape == SHAPE


BAD_TILES = {
    "crs": ({"epsg": 32646}, "found EPSG:32646; expected EPSG:32645, as most tiles have, such as tile_0_0.tif"),
    "size": ({"size": 0.25}, "found pixels of 0.25 x 0.25; expected 0.5 x 0.5"),
    "offset": ({"x": 100.3}, "0 pixels down and 0.3 across beside the grid of the others; expected whole pixels"),
    "type": ({"dtype": np.uint16}, "found samples of type uint16; expected uint8"),
    "channels": ({"channels": 3}, r"found 3 channels; expected 1.*reader.channels: \[0\]"),
    "place": ({"place": False}, "found a tile without a georeference; expected a place on the map"),
}


@pytest.mark.parametrize("kind", BAD_TILES)
def test_a_tile_that_does_not_fit_is_named(kind, tmp_path):
    """The message names the tile, what it has, what the others have, and what to do; it may be the first by name."""
    said, message = BAD_TILES[kind]
    save_quarters(tmp_path, scene(), (24, 40))
    pixels = scene(channels=said.get("channels"), dtype=said.get("dtype", np.uint8))
    if said.get("place", True):
        save_tile(tmp_path / "a_bad.tif", pixels, 0, said.get("x", 100), **{key: said[key] for key in ("epsg", "size") if key in said})
    else:
        tifffile.imwrite(tmp_path / "a_bad.tif", pixels)
    text = refused(tmp_path)
    assert text.startswith(f"{tmp_path}/a_bad.tif: found ")
    assert re.search(message, text)
    assert "Leave the tile out of the glob" in text


def test_a_palette_among_masks_is_told(tmp_path):
    """Its colours would be three channels: the way out keeps its indices, and does not take the red of its colours."""
    save_quarters(tmp_path, scene(), (24, 40))
    colors = np.zeros((3, 256), np.uint16)
    options = {"photometric": "palette", "colormap": colors, "metadata": None}
    save_tile(tmp_path / "a_bad.tif", scene(), 0, 100, **options)
    text = refused(tmp_path)
    assert "a_bad.tif: found 3 channels of a palette; expected 1, as most tiles have" in text
    assert text.endswith("reader.palette: index.")


def test_many_bad_tiles_are_counted(tmp_path):
    """The first five are named, the others counted; so are tiles that cannot be opened."""
    for number in range(12):
        save_tile(tmp_path / f"good_{number:02}.tif", scene((8, 8)), 0, 8 * number, tile=None)
    for number in range(7):
        save_tile(tmp_path / f"wrong_{number}.tif", scene((8, 8)), 8, 8 * number, tile=None, epsg=32644)
    lines = refused(tmp_path).splitlines()
    assert len(lines) == 6
    assert lines[-1].endswith("2 more tiles that do not fit")
    for number in range(7):
        (tmp_path / f"wrong_{number}.tif").write_bytes(b"no image")
    lines = refused(tmp_path).splitlines()
    assert lines[0].startswith(f"{tmp_path}/wrong_0.tif: found a file that cannot be opened")
    assert lines[-1] == "2 more tiles of the mosaic cannot be opened"


def test_no_tile(tmp_path):
    """A glob that matches nothing, or nothing that is an image, is refused; so are tiles of a web server and a far tile."""
    assert "found no file; expected a glob that matches the tiles" in refused(tmp_path)
    (tmp_path / "a.txt").write_text("nothing")
    assert "found 1 files, none of which is an image" in refused(tmp_path, "*")
    assert "tiles of a web server" in refused("https://example.com/tiles")
    save_tile(tmp_path / "a.tif", scene(), 0, 0)
    save_tile(tmp_path / "b.tif", scene(), 0, 72)
    save_tile(tmp_path / "far.tif", scene(), 2**22, 2**22)
    assert refused(tmp_path).startswith(f"{tmp_path}/far.tif: found a tile far from the others")


def test_one_tile_may_be_read_by_many_threads(tmp_path):
    """More tiles than may stay open, read by threads at once: every region is right, and few files stay open."""
    pixels = scene((160, 160))
    for row in range(10):
        for column in range(10):
            y, x = 16 * row, 16 * column
            save_tile(tmp_path / f"{row}_{column}.tif", pixels[y : y + 16, x : x + 16], y, x, tile=None)
    rng = np.random.default_rng(0)
    boxes = [Box(y, x, y + 40, x + 40) for y, x in rng.integers(0, 120, (120, 2)).tolist()]
    with opened(tmp_path) as raster, ThreadPoolExecutor(8) as pool:
        for box, found_CYX in zip(boxes, pool.map(raster.read, boxes), strict=True):
            np.testing.assert_array_equal(found_CYX[0], pixels[box.slices])
        assert 0 < num_open(tmp_path) <= MOST_OPEN
    assert num_open(tmp_path) == 0
    with pytest.raises(BlockError, match="the mosaic is closed"):
        raster.read(boxes[0])


def pyramid(path, pixels, y, x):
    """Write a tile with two coarser levels."""
    levels = [pixels, pixels[::2, ::2], pixels[::4, ::4]]
    tags = save_tile(path, pixels, y, x)
    with tifffile.TiffFile(path) as file:
        tags = [
            (code, file.pages.first.tags[code].dtype, file.pages.first.tags[code].count, file.pages.first.tags[code].value, True)
            for code in (33550, 33922, 34735)
        ]
    with tifffile.TiffWriter(path) as writer:
        said = {"tile": (32, 32), "photometric": "minisblack", "metadata": None}
        writer.write(levels[0], subifds=2, extratags=tags, **said)
        for level in levels[1:]:
            writer.write(level, subfiletype=1, **said)


def test_levels_of_equal_pyramids(tmp_path):
    """Levels that all tiles have on one grid are levels of the mosaic; a tile that begins between two pixels of a level ends them."""
    pixels = scene((64, 96))
    for number, x in enumerate((0, 32, 64)):
        pyramid(tmp_path / f"{number}.tif", pixels[:, x : x + 32], 0, x)
    header = header_of(tmp_path)
    assert header.levels == ((64, 96), (32, 48), (16, 24))
    for level, step in ((1, 2), (2, 4)):
        with opened(tmp_path, level=level) as raster:
            assert raster.header.shape == (64 // step, 96 // step)
            assert raster.header.pixel_size == (SIZE * step, SIZE * step)
            assert raster.header.offset == ORIGIN
            assert raster.header.levels == header.levels
            np.testing.assert_array_equal(raster.read(Box(0, 0, 64 // step, 96 // step))[0], pixels[::step, ::step])
    assert "reader.level 3; expected 0..2" in refused(tmp_path, level=3)
    pyramid(tmp_path / "3.tif", pixels[:, :32], 0, 98)
    assert header_of(tmp_path).levels == ((64, 130), (32, 65))


def test_what_a_plan_found_travels(tmp_path, monkeypatch):
    """By the option of a plan a mosaic is the same image in another process, without a look at other tiles and their headers."""
    pixels = scene()
    save_quarters(tmp_path, pixels, (24, 40))
    pinned = build("readers", {"name": "mosaic", "tiles": "*.tif"}).pinned(str(tmp_path))
    save_tile(tmp_path / "z.tif", scene(), 30, 50)
    assert header_of(tmp_path).shape != SHAPE
    opening, headers = Auto.open, []
    monkeypatch.setattr(Auto, "open", lambda self, path: headers.append(path) or opening(self, path))
    with opened(tmp_path, **pinned) as raster:
        assert headers == [f"{tmp_path}/tile_0_0.tif"]
        assert raster.header.shape == SHAPE
        np.testing.assert_array_equal(raster.read(Box(0, 0, *SHAPE))[0], pixels)
    assert "found a text that is no list of tiles" in refused(tmp_path, index="abc")


def test_a_tile_that_changes_is_told(tmp_path):
    """A tile that is not as planned, or whose mask file changes, fails where it is read, and nowhere else."""
    tiles = save_quarters(tmp_path, scene(), (24, 40))
    pinned = build("readers", {"name": "mosaic", "tiles": "*.tif"}).pinned(str(tmp_path))
    with opened(tmp_path, **pinned) as raster:
        raster.read(Box(0, 0, *SHAPE))
        os.utime(tiles[3], ns=(1, 1))
        raster.read(Box(0, 0, 24, 72))
        with pytest.raises(BlockError, match="tile_1_1.tif: changed while it was read"):
            raster.read(Box(0, 0, *SHAPE))
    save_tile(tiles[2], scene((10, 10)), 24, 0)
    pinned_2 = build("readers", {"name": "mosaic", "tiles": "*.tif"})
    assert pinned_2.pinned(str(tmp_path)) != pinned
    with opened(tmp_path, **pinned) as raster, pytest.raises(InputError, match="tile_1_0.tif: found 10 x 10 pixels, 1 channel of uint8"):
        raster.read(Box(30, 0, 40, 10))


def test_files_beside_tiles_belong_to_them(tmp_path):
    """Masks and world files of tiles are companions, and their change is a change of the mosaic."""
    tiles = save_quarters(tmp_path, scene(), (24, 40))
    reader = build("readers", {"name": "mosaic", "tiles": "*.tif"})
    assert sorted(reader.companions(str(tmp_path))) == sorted(map(str, tiles))
    tifffile.imwrite(f"{tiles[0]}.msk", np.zeros((24, 40), np.uint8))
    assert sorted(reader.companions(str(tmp_path))) == sorted([*map(str, tiles), f"{tiles[0]}.msk"])
    with reader.open(str(tmp_path)) as raster:
        assert not raster.read_valid(Box(0, 0, *SHAPE))[1][:24, :40].any()


def test_tiles_placed_by_world_files(tmp_path):
    """World files place tiles as well; one without leaves the mosaic refused."""
    pixels = scene()
    for number, x in enumerate((0, 36)):
        tifffile.imwrite(tmp_path / f"{number}.tif", pixels[:, x : x + 36])
        (tmp_path / f"{number}.tfw").write_text(f"0.2\n0\n0\n-0.2\n{1000.1 + 0.2 * x}\n1999.9\n")
    with opened(tmp_path) as raster:
        np.testing.assert_array_equal(raster.read(Box(0, 0, *SHAPE))[0], pixels)
        assert raster.header.pixel_size == pytest.approx((0.2, 0.2))
        assert raster.header.offset == pytest.approx((2000, 1000))
    (tmp_path / "1.tfw").unlink()
    assert "1.tif: found a tile without a georeference" in refused(tmp_path)


def test_the_parts_follow_the_grid():
    """Files of a mosaic lie on a resampled grid where no edge cuts a pixel; else there are none."""
    with tempfile.TemporaryDirectory() as folder:
        save_quarters(Path(folder), scene(), (24, 40))
        header = header_of(folder)
    assert [part.box for part in resampled_header(header, (2, 4)).parts][1:3] == [Box(0, 10, 12, 18), Box(12, 0, 32, 10)]
    assert [part.box for part in resampled_header(header, (0.5, 0.5)).parts][3] == Box(48, 80, 128, 144)
    assert not resampled_header(header, (16, 16)).parts


def test_a_copy_is_the_same_image(tmp_path):
    """The order of the disk does not matter, only names do."""
    save_quarters(tmp_path / "a", scene(), (24, 40))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    with opened(tmp_path / "a") as one, opened(tmp_path / "b") as other:
        np.testing.assert_array_equal(one.read(Box(0, 0, *SHAPE)), other.read(Box(0, 0, *SHAPE)))
