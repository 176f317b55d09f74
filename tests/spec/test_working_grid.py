"""The grid that an image is worked on: which level is read, by what factor, what is refused, and where masks lie."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import Resolution
from pipeline.errors import InputError
from pipeline.geometry import Box
from pipeline.inputs import Image, common_pixel_size, open_image, open_truth
from pipeline.inputs.working_grid import choose_grid
from pipeline.models import Expectation
from pipeline.raster import ArrayRaster, Header
from tests.conftest import blobs

WRONG = {"pixel_size": (352.78, 352.78), "pixel_size_from": "resolution tags"}
LEVELS = ((4000, 6001), (2000, 3000), (1000, 1500), (250, 375))
HEADER = Header(LEVELS[0], 3, "uint8", pixel_size=(0.25, 0.25), unit="micrometer", levels=LEVELS)
TRAINED = Expectation(pixel_size=0.5, diameter=20.0)


def image_of(header=HEADER, **reader):
    """Return an image with a header."""
    return Image(0, "a", "/a.tif", header, {"name": "auto", **reader})


def chosen(resolution="auto", header=HEADER, expects=TRAINED, **reader):
    """Return the grid of an image; ``resolution`` as in the YAML."""
    resolution = resolution if isinstance(resolution, str) else Resolution(**resolution)
    return choose_grid(image_of(header, **reader), resolution, expects, "run.yaml:3: resolution")


@pytest.mark.parametrize(
    ("resolution", "level", "shape", "size"),
    [
        ("auto", 1, (2000, 3000), 0.5),  # the level is as wanted, to the pixel
        ({"pixel_size": 1.0}, 2, (1000, 1500), 1.0),
        ({"pixel_size": 0.8}, 1, (1250, 1875), 0.8),  # between two levels: from the finer one
        ({"pixel_size": 1.99}, 2, (503, 754), 1.99),
        ({"pixel_size": 0.3}, 0, (3333, 5001), 0.3),
        ({"pixel_size": 0.125}, 0, (8000, 12002), 0.125),
        ({"scale": 0.25}, 2, (1000, 1500), 1.0),
        ({"scale": 2}, 0, (8000, 12002), 0.125),
        ({"diameter": 40}, 1, (2000, 3000), 0.5),  # objects of 40 pixels, and the model knows them at 20
        ({"level": 3}, 3, (250, 375), 4.0),
    ],
)
def test_the_level_at_or_just_finer_is_read(resolution, level, shape, size):
    """Every way to say it: the coarsest level that is fine enough, and the size and the scale of the working grid."""
    grid = chosen(resolution)
    assert (grid.level, grid.level_shape) == (level, LEVELS[level])
    assert grid.header.shape == shape
    np.testing.assert_allclose(grid.header.pixel_size, (size, size), rtol=1e-3)
    read = np.array(grid.factor) * (np.array(LEVELS[0]) / LEVELS[level])
    np.testing.assert_allclose(read, grid.own_factor, rtol=1e-6)


@pytest.mark.parametrize("size", [0.491, 0.495, 0.5, 0.5027, 0.51])
def test_what_is_nearly_as_wanted_is_read_as_it_is(size):
    """Within 2 % nothing is resampled, and the image is opened as if nobody had asked."""
    header = replace(HEADER, pixel_size=(size, size))
    assert chosen(header=header) is None
    assert chosen({"pixel_size": 0.5}, header=header) is None


def test_auto_changes_nothing_where_nothing_is_known():
    """No pixel size in the model, none in the image, or one of a map: pixels are read as they are."""
    assert chosen(expects=Expectation()) is None
    assert chosen(header=replace(HEADER, pixel_size=None)) is None
    assert chosen(header=replace(HEADER, unit="meter")) is None
    assert chosen(header=replace(HEADER, unit="degree")) is None
    assert chosen({"scale": 1}) is None
    assert chosen({"level": 0}) is None


@pytest.mark.parametrize(
    ("resolution", "header", "expects", "told"),
    [
        ({"pixel_size": 0.5}, replace(HEADER, pixel_size=None), TRAINED, "found pixel size unknown.*reader.pixel_size"),
        ({"pixel_size": 0.5}, replace(HEADER, unit="degree"), TRAINED, "0.25 degrees.*resolution: {scale: 0.5}"),
        ({"diameter": 30}, HEADER, Expectation(pixel_size=0.5), "run.yaml:3: resolution: .*does not declare the diameter of its objects"),
        ({"level": 4}, HEADER, TRAINED, "4 levels, resolution {level: 4}; expected 0..3"),
        ("auto", replace(HEADER, **WRONG), TRAINED, "from resolution tags.*705.6 times enlarged"),
        ("auto", replace(HEADER, pixel_size=(0.0005, 0.0005)), TRAINED, "1000 times reduced.*resolution: {scale: 1}"),
        ({"pixel_size": 0.001}, HEADER, TRAINED, "250 times enlarged for run.yaml:3"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(resolution, header, expects, told):
    """Missing facts and absurd sizes, each with the way out."""
    with pytest.raises(InputError, match=told):
        chosen(resolution, header, expects)


def test_a_level_is_said_once():
    """`reader.level` and `resolution: {level}` together are refused; other resolutions start from the reader's level."""
    with pytest.raises(InputError, match="one of them"):
        chosen({"level": 2}, level=1)
    second = replace(HEADER, shape=LEVELS[1], pixel_size=(0.5, 0.5))
    assert chosen({"pixel_size": 0.5}, header=second, level=1) is None
    grid = chosen({"pixel_size": 0.75}, header=second, level=1)
    assert (grid.level, grid.level_shape) == (1, LEVELS[1])


def test_axes_of_different_sizes():
    """Pixels of 0.5 x 0.25 um become square, each axis by a factor of its own."""
    header = Header((100, 100), 1, "uint8", pixel_size=(0.5, 0.25), unit="micrometer")
    grid = chosen(header=header)
    assert grid.header.shape == (100, 50)
    assert grid.header.pixel_size == (0.5, 0.5)


@given(height=st.integers(1, 60), width=st.integers(1, 60), factor=st.floats(1.05, 7), data=st.data())
def test_a_mask_goes_to_the_image_and_back(height, width, factor, data):
    """A pixel has the class of the working pixel that covers its centre, and a mask that is brought back is the same."""
    header = Header((height, width), 1, "uint8", pixel_size=(1.0, 1.0), unit="micrometer")
    grid = chosen({"pixel_size": factor}, header=header)
    classes_YX = np.random.default_rng(1).integers(0, 9, grid.header.shape).astype(np.uint8)
    native = grid.to_own(ArrayRaster(classes_YX))
    assert native.header.shape == (height, width)
    own_CYX = native.read(Box(0, 0, height, width))
    rows, cols = (
        np.minimum(((np.arange(length) + 0.5) / step + 1e-9).astype(int), size - 1)
        for length, step, size in zip((height, width), grid.own_factor, classes_YX.shape, strict=True)
    )
    assert np.array_equal(own_CYX[0], classes_YX[np.ix_(rows, cols)])
    again = grid.from_own(ArrayRaster(own_CYX))
    inside = [min(size, int(length / step)) for size, length, step in zip(classes_YX.shape, (height, width), grid.own_factor, strict=True)]
    if min(inside):
        box = Box(0, 0, *inside)
        assert np.array_equal(again.read(box)[0], classes_YX[box.slices])


def test_image_and_truth_are_opened_on_the_working_grid(tmp_path):
    """The mean of the pixels, the truth below the centres, and regions of both."""
    pixels_YX = blobs((64, 48))
    tifffile.imwrite(tmp_path / "a.tif", pixels_YX)
    tifffile.imwrite(tmp_path / "t.tif", pixels_YX // 64)
    header = Header((64, 48), 1, "uint8", pixel_size=(0.25, 0.25), unit="micrometer")
    grid = chosen(header=header)
    image = replace(image_of(header), path=str(tmp_path / "a.tif"), truth=str(tmp_path / "t.tif"), header=grid.header, grid=grid)
    with open_image(image) as raster, open_truth(image) as truth:
        mean_YX = pixels_YX.reshape(32, 2, 24, 2).mean((1, 3))
        assert np.array_equal(raster.read(Box(0, 0, 32, 24))[0], np.rint(mean_YX))
        assert np.array_equal(truth.read(Box(3, 4, 32, 20))[0], (pixels_YX // 64)[1::2, 1::2][3:32, 4:20])


def test_a_pyramid_that_has_changed_is_refused(tmp_path):
    """A level of another size than when the run was planned is no level of this image."""
    tifffile.imwrite(tmp_path / "a.tif", blobs((64, 40)))
    grid = chosen(header=Header((64, 48), 1, "uint8", pixel_size=(0.25, 0.25), unit="micrometer"))
    with pytest.raises(InputError, match="level 0"), open_image(replace(image_of(), path=str(tmp_path / "a.tif"), grid=grid)):
        pass


def test_one_pixel_size_of_many_images():
    """The mean, where all agree within 2 % along both axes; nothing where one is unknown or differs."""
    same = [replace(HEADER, pixel_size=(0.25, size)) for size in (0.25, 0.252)]
    assert common_pixel_size(same) == (pytest.approx(0.2505), "micrometer")
    for other in (replace(HEADER, pixel_size=None), replace(HEADER, pixel_size=(0.5, 0.5)), replace(HEADER, unit="meter")):
        assert common_pixel_size([*same, other]) is None
