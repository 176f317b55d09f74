"""Maps in degrees and in web Mercator are worked on at a size on the ground, and their masks lie where the images do."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import Resolution
from pipeline.errors import InputError
from pipeline.inputs import Image, common_pixel_size
from pipeline.inputs.expectations import place_on_grids
from pipeline.inputs.working_grid import choose_grid
from pipeline.models import Expectation
from pipeline.raster import Header, ground_size
from tests.conftest import blobs

rasterio = pytest.importorskip("rasterio", reason="maps need the extra `geo`")

DATA = os.environ.get("GIGASEG_TEST_DATA", "")
BANEPA = Path(DATA) / "aerial" / "banepa-buildings"
needs_data = pytest.mark.skipif(not BANEPA.is_dir(), reason="GIGASEG_TEST_DATA names no folder with aerial/banepa-buildings")
AERIAL = Expectation(pixel_size=0.3, unit="meter")


def map_header(east=9519926.0, north=3202635.0, size=(0.1493, 0.1493), kind=1, code=3857, **changes):
    """Return the header of a map that begins at a place."""
    codes = [1024, 0, 1, kind, 3072 if kind == 1 else 2048, 0, 1, code]
    tags = {
        "33550": {"value": [size[1], size[0], 0]},
        "33922": {"value": [0, 0, 0, east, north, 0]},
        "34735": {"value": [1, 1, 0, 2, *codes]},
    }
    unit = "meter" if kind == 1 else "degree"
    return Header((1024, 3072), 3, "uint8", **{"pixel_size": size, "unit": unit, "georeference": tags, **changes})


DEGREES = map_header(85.5, 27.6, (1.3e-6, 1.2e-6), 2, 4326)


def chosen(header, resolution="auto", expects=AERIAL):
    """Return the working grid of an image."""
    resolution = resolution if isinstance(resolution, str) else Resolution(**resolution)
    return choose_grid(Image(0, "a", "/a.tif", header, {"name": "auto"}), resolution, expects, "run.yaml:3: resolution")


@pytest.mark.parametrize("header", [map_header(), DEGREES])
@pytest.mark.parametrize(("resolution", "size"), [("auto", 0.3), ({"pixel_size": 0.5}, 0.5)])
def test_the_grid_has_the_size_on_the_ground(header, resolution, size):
    """Along both axes, whose factors differ; the control, the size on the map, is 13 % off or no length at all."""
    grid = chosen(header, resolution)
    assert ground_size(grid.header) == pytest.approx((size, size), rel=1e-5)
    assert grid.own_factor[0] != grid.own_factor[1]
    assert grid.own_factor == pytest.approx([size / side for side in ground_size(header)])
    assert abs(grid.header.pixel_size[0] / size - 1) > 0.1


def test_a_note_says_both_sizes(tmp_path):
    """What is drawn, what it is on the ground, and where."""
    for header, text in ((map_header(), "0.1493 m on the map = 0.132 m on the ground at 27.6 N"), (DEGREES, "at 27.6 N")):
        (note,) = notes(header, tmp_path)
        assert f"pixels of {text}" in note or text in note
        assert "as the model was trained" in note
    south = replace(map_header(north=-3202635.0))
    assert "at 27.6 S" in notes(south, tmp_path)[0]


def notes(header, tmp_path, expects=AERIAL, resolution="auto"):
    """Return the notes on the grid of an image."""
    from pipeline.inputs.expectations import Fitted, _place

    del tmp_path
    fitted = Fitted()
    fitted.add(Image(0, "a", "/a.tif", header, {"name": "auto"}), lambda one: _place(one, resolution, expects, "resolution"))
    return fitted.notes


def test_another_unit_is_told_as_before(tmp_path):
    """A model of micrometres reads the pixels of a map unchanged, and a note says so."""
    for header in (map_header(), DEGREES):
        (note,) = notes(header, tmp_path, Expectation(pixel_size=0.3))
        assert "the model was trained at 0.3 um: pixels are read unchanged" in note


def test_a_size_that_the_user_sets_is_on_the_ground():
    """`reader.pixel_size` overrides the map: no latitude enters."""
    header = map_header(pixel_size=(0.15, 0.15), pixel_size_from="reader.pixel_size")
    assert chosen(header).own_factor == pytest.approx((2.0, 2.0))


def test_a_map_beyond_a_pole_is_refused():
    """Swapped coordinates: the message names the latitude; read unchanged, the image is taken."""
    swapped = map_header(27.6, 95.5, (1e-6, 1e-6), 2, 4326)
    with pytest.raises(InputError, match="beyond a pole; expected latitudes of -90 to 90. Are latitude and longitude swapped"):
        chosen(swapped, {"pixel_size": 0.5})
    fitted = place_on_grids([Image(0, "a", "/a.tif", swapped, {"name": "auto"})], Resolution(scale=1), "resolution")
    assert not fitted.problems
    near = map_header(0.0, 89.99, (1e-6, 1e-6), 2, 4326)  # a pixel is 0.1 m high and 20 um wide
    with pytest.raises(InputError, match="times reduced"):
        chosen(near)


def test_training_records_the_size_on_the_ground():
    """A bundle of a map in web Mercator says metres on the ground, as a run compares them; so does one in degrees."""
    assert common_pixel_size([map_header()]) == (pytest.approx(0.132, abs=1e-3), "meter")
    square = map_header(85.5, 27.6, (1.3e-6, 1.46e-6), 2, 4326)
    assert common_pixel_size([square]) == (pytest.approx(0.144, abs=1e-3), "meter")
    assert common_pixel_size([DEGREES]) is None, "its pixels are not square on the ground"


def centers(path):
    """Return map coordinates of the centre of each connected part of class 1, by the affine of rasterio, sorted by area."""
    from scipy import ndimage

    with rasterio.open(path) as file:
        mask_YX, transform = file.read(1) == 1, file.transform
    parts_YX, number = ndimage.label(mask_YX)
    found = ndimage.center_of_mass(mask_YX, parts_YX, range(1, number + 1))
    areas = ndimage.sum_labels(mask_YX, parts_YX, range(1, number + 1)) * abs(transform.determinant)
    rows, columns = np.array(found).T + 0.5
    return np.stack([transform.c + columns * transform.a, transform.f + rows * transform.e], axis=1), areas


@pytest.mark.parametrize("size", [0.2, 0.08])
def test_a_mask_of_another_size_overlays_its_map(tmp_path, engine, size):
    """Two fields far apart lie within half a pixel of where they are drawn, in degrees whose pixels are not square on the ground."""
    mask_YX = np.zeros((300, 400), np.uint8)
    mask_YX[20:80, 30:110] = mask_YX[220:290, 300:390] = 1
    transform = rasterio.Affine(1.2e-6, 0, 85.5, 0, -1.3e-6, 27.6)
    kind = {"driver": "GTiff", "count": 1, "dtype": "uint8", "crs": "EPSG:4326"}
    with rasterio.open(tmp_path / "a.tif", "w", width=400, height=300, transform=transform, **kind) as file:
        file.write(mask_YX, 1)
    keys = {"model": {"name": "identity", "classes": 2}, "normalize": None, "writers": ["tiff"]}
    done = engine(**keys, tiling={"core": 128, "halo": 0, "block": 128}, resolution={"pixel_size": size})
    (before, _), (after, _) = centers(tmp_path / "a.tif"), centers(done.folder / "masks" / "a.tif")
    with rasterio.open(done.folder / "masks" / "a.tif") as file:
        width, height = file.res
        assert file.crs == "EPSG:4326"
        assert (file.transform.c, file.transform.f) == pytest.approx((85.5, 27.6), abs=1e-12)
    assert len(before) == len(after) == 2
    assert (np.abs(before - after) < (width / 2, height / 2)).all()


@needs_data
def test_the_plan_says_the_size_on_the_ground(tmp_path, capsys):
    """Of a map in web Mercator, beside its own size; the grid that is read has the size that was asked for."""
    from tests.conftest import engine_yaml
    from workflows.plan import plan

    keys = {"images": [str(BANEPA / "val_mask.tif")], "model": {"name": "identity", "classes": 2}, "normalize": None}
    path = engine_yaml(tmp_path, **keys, tiling={"halo": 0})
    assert plan(path) == 0
    assert "0.149291 m a pixel = 0.1317 x 0.1324 m on the ground by GeoTIFF" in capsys.readouterr().out
    path = engine_yaml(tmp_path, **keys, tiling={"halo": 0}, resolution={"pixel_size": 0.25})
    assert plan(path) == 0
    assert "0.25 x 0.25 m on the ground" in capsys.readouterr().out


@needs_data
def test_a_real_map_is_resampled_in_place(tmp_path, engine):
    """Buildings of Banepa at 0.25 m on the ground: the bounds agree to half a pixel, and roofs lie where they did."""
    keys = {"images": [str(BANEPA / "val_mask.tif")], "model": {"name": "identity", "classes": 2}, "normalize": None}
    done = engine(**keys, writers=["tiff"], tiling={"core": 512, "halo": 0, "block": 512}, resolution={"pixel_size": 0.25})
    path = done.folder / "masks" / "val_mask.tif"
    with rasterio.open(BANEPA / "val_mask.tif") as source, rasterio.open(path) as mask:
        assert mask.res == pytest.approx((0.25 / 0.132367 * source.res[0], 0.25 / 0.131670 * source.res[0]), rel=1e-4)
        assert np.abs(np.subtract(mask.bounds, source.bounds)).max() <= max(mask.res) / 2
        assert mask.crs == source.crs
    for offset in shifts(BANEPA / "val_mask.tif", path):
        assert abs(offset) < 0.1, "in pixels of the mask"
    assert done.code == 0


def shifts(source_path, mask_path):
    """Return how far a mask is shifted along y and x, in its pixels: where it agrees best with its source on the map, by a parabola."""
    with rasterio.open(source_path) as source, rasterio.open(mask_path) as mask:
        source_YX, mask_YX, ours, theirs = source.read(1), mask.read(1), mask.transform, source.transform

    def agreement(dy, dx):
        rows, columns = np.arange(4, mask_YX.shape[0] - 4), np.arange(4, mask_YX.shape[1] - 4)
        north, east = ours.f + (rows + 0.5 + dy) * ours.e, ours.c + (columns + 0.5 + dx) * ours.a
        picked_YX = source_YX[np.ix_(((north - theirs.f) / theirs.e).astype(int), ((east - theirs.c) / theirs.a).astype(int))]
        return float((picked_YX == mask_YX[4:-4, 4:-4]).mean())

    for step in ((1, 0), (0, 1)):
        less, here, more = (agreement(sign * step[0], sign * step[1]) for sign in (-1, 0, 1))
        assert here > max(less, more)
        yield (less - more) / (2 * (less - 2 * here + more))


def test_an_image_without_a_place_has_no_size_on_the_ground(tmp_path, engine):
    """Control: the key that needs a size is refused."""
    import tifffile

    tifffile.imwrite(tmp_path / "a.tif", blobs((64, 64)))
    with pytest.raises(InputError, match="a known length"):
        engine(resolution={"pixel_size": 0.5})
