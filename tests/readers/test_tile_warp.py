"""Tiles of another grid, resampled: as GDAL does it, and the same pixels in whatever region."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.geometry import Box
from pipeline.plugins import build
from pipeline.raster import map_grid
from tests.readers.map_tiles import ORIGIN, SIZE, save_tile

rasterio = pytest.importorskip("rasterio")
warp = pytest.importorskip("rasterio.warp")

SIDE = 160
UTM, NEXT = "EPSG:32645", "EPSG:32646"


def smooth(shape, seed=0):
    """Slow waves, so that a resampled pixel depends little on the method."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    return (120 + 60 * np.sin(y / 19 + seed) + 50 * np.cos(x / 23)).astype(np.uint8)


def classes(shape):
    """Rectangles of a few classes."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    return ((y // 13 + x // 17) % 5).astype(np.uint8)


def save(path, pixels, crs, transform, nodata=None):
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=pixels.shape[0],
        width=pixels.shape[1],
        count=1,
        dtype=pixels.dtype,
        crs=crs,
        transform=transform,
        nodata=nodata,
    ) as file:
        file.write(pixels, 1)


@pytest.fixture(scope="module", params=["crs", "finer", "coarser", "offset", "turned"])
def mosaic(request, tmp_path_factory):
    """Two tiles on the grid, and one beside them that lies on another one; the pixels and the place of this one."""
    folder = tmp_path_factory.mktemp(request.param)
    for number in range(2):
        save_tile(folder / f"{number}.tif", smooth((SIDE, SIDE)), 0, SIDE * number)
    corner, crs = (ORIGIN[1] + 2 * SIDE * SIZE, ORIGIN[0]), UTM
    linear, (y, x) = np.diag([SIZE, -SIZE]), (0.0, 0.0)
    if request.param == "crs":
        crs = NEXT
        corner = tuple(one[0] for one in warp.transform(UTM, NEXT, [corner[0]], [corner[1]]))
    elif request.param == "finer":
        linear = linear * 0.4
    elif request.param == "coarser":
        linear = linear * 1.7
    elif request.param == "offset":
        y, x = 0.61, 0.37
    else:
        cosine, sine = np.cos(0.35), np.sin(0.35)
        linear = linear @ np.array([[cosine, -sine], [sine, cosine]])
    (a, b), (d, e) = linear.tolist()
    transform = rasterio.Affine(a, b, corner[0] + x * SIZE, d, e, corner[1] - y * SIZE)
    shape = (SIDE * 2, SIDE * 2) if request.param == "finer" else (SIDE, SIDE)
    save(folder / "2.tif", smooth(shape, 1), crs, transform)
    (folder / "truth").mkdir()
    for number in range(2):
        save_tile(folder / "truth" / f"{number}.tif", classes((SIDE, SIDE)), 0, SIDE * number)
    save(folder / "truth" / "2.tif", classes(shape), crs, transform)
    return request.param, folder, shape, crs, transform


def opened(folder, **options):
    return build("readers", {"name": "mosaic", "tiles": "*.tif", "warp": True, **options}).open(str(folder))


def by_gdal(pixels, crs, transform, header, method):
    """GDAL's warper onto the grid of the mosaic, exact for every pixel; 255 where the tile does not lie."""
    out = np.full(header.shape, 255, np.uint8)
    grid = map_grid(header.georeference)
    warp.reproject(
        pixels,
        out,
        src_crs=crs,
        src_transform=transform,
        dst_crs=UTM,
        dst_transform=rasterio.Affine(*grid.matrix),
        resampling=method,
        dst_nodata=255,
        tolerance=0,
        init_dest_nodata=True,
    )
    return out


def test_another_grid_is_refused_without_warp(mosaic):
    """The message names the tile and the option."""
    with pytest.raises(InputError, match=r"2.tif: found .*set warp: true"), opened(mosaic[1], warp=False):
        pass


def test_pixels_are_those_of_gdal(mosaic):
    """Linear interpolation agrees with GDAL's to a few grey values; the tile covers the same pixels but for its edge."""
    kind, folder, shape, crs, transform = mosaic
    with opened(folder) as raster:
        found, valid = raster.read_valid(Box(0, 0, *raster.header.shape))
        expected = by_gdal(smooth(shape, 1), crs, transform, raster.header, warp.Resampling.bilinear)
        assert "1 tile of another grid is resampled by linear interpolation" in raster.header.notes[0]
        assert raster.header.has_mask
    top, left = (round((ORIGIN[0] - raster.header.offset[0]) / SIZE), round((ORIGIN[1] - raster.header.offset[1]) / SIZE))
    top = -round((ORIGIN[0] - raster.header.offset[0]) / SIZE)
    own = np.zeros(raster.header.shape, bool)
    own[top : top + SIDE, : 2 * SIDE] = True
    assert left == 0
    np.testing.assert_array_equal(found[0, top : top + SIDE, :SIDE], smooth((SIDE, SIDE)))
    theirs = (expected != 255) & ~own
    ours = valid & ~own
    assert (ours != theirs).sum() < 6 * SIDE  # pixels whose centre lies on the edge
    difference = np.abs(found[0].astype(int) - expected)[ours & theirs]
    assert np.percentile(difference, 99) <= (4 if kind == "finer" else 1)
    assert difference.mean() < 1


def test_classes_are_those_of_gdal(mosaic):
    """Read as truth is, tiles keep their values: each new pixel is the old one under its centre."""
    _, folder, shape, crs, transform = mosaic
    with opened(folder / "truth", palette="index") as raster:
        found, valid = raster.read_valid(Box(0, 0, *raster.header.shape))
        expected = by_gdal(classes(shape), crs, transform, raster.header, warp.Resampling.nearest)
        assert "by nearest pixels" in raster.header.notes[0]
    top = -round((ORIGIN[0] - raster.header.offset[0]) / SIZE)
    own = np.zeros(raster.header.shape, bool)
    own[top : top + SIDE, : 2 * SIDE] = True
    both = valid & ~own & (expected != 255)
    assert both.sum() > SIDE * SIDE / 4
    assert (found[0] != expected)[both].mean() < 0.002  # centres that lie between two pixels


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_any_region_gives_the_same_pixels(mosaic, data):
    """A region of a resampled tile equals the same part of the whole, to the bit, whatever is read before it."""
    folder = mosaic[1]
    with opened(folder) as raster:
        height, width = raster.header.shape
        whole, valid = raster.read_valid(Box(0, 0, height, width))
        y0, x0 = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
        box = Box(y0, x0, data.draw(st.integers(y0 + 1, height)), data.draw(st.integers(x0 + 1, width)))
        part, part_valid = raster.read_valid(box)
        np.testing.assert_array_equal(part, whole[:, *box.slices])
        np.testing.assert_array_equal(np.ones(box.shape, bool) if part_valid is None else part_valid, valid[box.slices])


def test_missing_pixels_have_no_weight(tmp_path):
    """Nodata of a resampled tile does not bleed into its neighbours, and what is mostly missing is missing."""
    save_tile(tmp_path / "0.tif", np.full((64, 64), 50, np.uint8), 0, 0, nodata=0)
    save_tile(tmp_path / "1.tif", np.full((64, 64), 50, np.uint8), 64, 0, nodata=0)
    holes = np.full((64, 64), 200, np.uint8)
    holes[20:30, 20:30] = 0
    save_tile(tmp_path / "2.tif", holes, 0, 64.5, nodata=0)
    with opened(tmp_path) as raster:
        pixels, valid = raster.read_valid(Box(0, 64, 64, 128))
        assert set(np.unique(pixels[0][valid])) <= {50, 200}
        assert not valid[22:28, 22:28].any()
        assert valid[:18].all() or valid[:18, 1:].all()


def test_without_a_coordinate_system_a_tile_is_refused(tmp_path):
    """Resampling cannot bring a tile without a coordinate system onto a map."""
    for number in range(2):
        save_tile(tmp_path / f"{number}.tif", smooth((64, 64)), 0, 64 * number)
    save(tmp_path / "2.tif", smooth((64, 64)), None, rasterio.Affine(SIZE, 0, ORIGIN[1] + 64, 0, -SIZE, ORIGIN[0]))
    with pytest.raises(InputError, match=r"2.tif: found no coordinate system; expected EPSG:32645"), opened(tmp_path):
        pass
