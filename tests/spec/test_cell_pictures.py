"""The coarse picture of an image: means of squares of pixels, of the pyramid's level that is just finer where there is one."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import tifffile

from pipeline.engine.cell_pictures import find_content, greatest_sample, read_cells
from pipeline.errors import BlockError
from pipeline.inputs import Image, open_cells
from pipeline.plugins import build
from pipeline.raster import ArrayRaster, Header
from pipeline.statistics import Content

SIDE = 8


def image_of(path, **reader):
    """A file as an image of a run."""
    spec = {"name": "tiff", **reader}
    with build("readers", spec).open(str(path)) as raster:
        return Image(0, "a", str(path), raster.header, spec)


def means(pixels_YXC, side):
    """The mean of each whole square."""
    height, width = (length // side for length in pixels_YXC.shape[:2])
    return pixels_YXC[: height * side, : width * side].reshape(height, side, width, side, -1).mean((1, 3))


@pytest.fixture
def pixels_YXC():
    """A colour picture of many grey values."""
    return np.random.default_rng(0).integers(0, 256, (640, 2560, 3), np.uint8)


def test_cells_are_means(tmp_path, pixels_YXC):
    """Each cell is the mean of its pixels, rounded, also where parts of the picture meet."""
    tifffile.imwrite(tmp_path / "a.tif", pixels_YXC, photometric="rgb", tile=(128, 128))
    with open_cells(image_of(tmp_path / "a.tif"), SIDE) as raster:
        cells_CYX, valid_YX = read_cells(raster, 0)
    assert valid_YX.all()
    assert np.array_equal(cells_CYX, np.rint(means(pixels_YXC, SIDE)).astype(np.uint8).transpose(2, 0, 1))


def test_a_level_is_read_instead(tmp_path, pixels_YXC):
    """Of a pyramid the coarsest level is read that is at least as fine as the cells: here one that holds other values."""
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        options = {"photometric": "rgb", "tile": (128, 128)}
        file.write(pixels_YXC, subifds=3, **options)
        for factor, value in ((2, 50), (4, 77), (8, 99)):
            file.write(np.full_like(pixels_YXC[::factor, ::factor], value), subfiletype=1, **options)
    image = image_of(tmp_path / "a.tif")
    for side, value in ((7, 77), (4, 77), (2, 50), (32, 99)):
        with open_cells(image, side) as raster:
            assert raster.header.shape == (round(640 / side), round(2560 / side))
            assert np.unique(read_cells(raster, 0)[0]).tolist() == [value]


def test_what_is_damaged_counts_as_without_data():
    """A part that cannot be read leaves the others as they are."""

    class Damaged(ArrayRaster):
        def read_masked(self, box, plane=0):
            if box.x0 >= 256:
                raise BlockError("damaged")
            return super().read_masked(box, plane)

    cells_CYX, valid_YX = read_cells(Damaged(np.full((1, 40, 300), 7, np.uint16)), 0)
    assert (cells_CYX[:, valid_YX] == 7).all()
    assert valid_YX[:, :256].all()
    assert not valid_YX[:, 256:].any()


def test_every_plane_has_cells_of_its_own(tmp_path):
    """Padding of one plane of a stack is left out there, and counts as content elsewhere."""
    stack = np.random.default_rng(1).integers(20, 90, (3, 400, 400), np.uint8)
    stack[1, :, :200] = 0
    tifffile.imwrite(tmp_path / "a.tif", stack, metadata={"axes": "ZYX"}, ome=True)
    cells = find_content(image_of(tmp_path / "a.tif")).cells
    assert cells.cells.shape == (3, 50, 50)
    assert cells.cells[[0, 2]].all()
    assert not cells.cells[1, :, :26].any()
    assert cells.cells[1, :, 26:].all()


@pytest.mark.parametrize(
    ("dtype", "bits", "expected"), [("uint8", 0, 255), ("uint16", 12, 4095), ("uint16", 0, 65535), ("float32", 0, 8.5), ("bool", 0, 1)]
)
def test_the_greatest_sample(dtype, bits, expected):
    """It follows from the bits that are used, and for floats from the values."""
    assert greatest_sample(Header((1, 1), 1, dtype, bits=bits), np.array([3.0, 8.5])) == expected


def test_models_without_statistics_read_no_coarse_picture(monkeypatch, tmp_path):
    """The phase applies only where something is fitted to colours."""
    from types import SimpleNamespace

    from pipeline.engine import phase

    @contextmanager
    def refuse(*_):
        raise AssertionError
        yield

    monkeypatch.setattr("pipeline.engine.cell_pictures.open_cells", refuse)
    colour, grey = (SimpleNamespace(header=Header((9, 9), channels, "uint8", is_color=channels == 3)) for channels in (3, 1))
    fitting = SimpleNamespace(goal="segment", fitters={"normalize": 1})
    assert not phase("tissue").applies(SimpleNamespace(goal="segment", fitters={}), colour)
    assert not phase("tissue").applies(fitting, grey)
    assert phase("tissue").applies(fitting, colour)


@pytest.mark.parametrize("noise", [0, 15])
@pytest.mark.parametrize("color", [(0.25, 0, 1), (1, 1, 1)], ids=["blue", "grey"])
def test_a_black_background_of_fluorescence_counts(noise, color, tmp_path):
    """Objects on exactly 0 in a colour picture: without their background there is no threshold between them and it."""
    rows, cols = np.mgrid[:600, :600]
    inside_YX = sum((rows - y) ** 2 + (cols - x) ** 2 < 90**2 for y, x in ((200, 150), (430, 400), (150, 430))) > 0
    values_YX = np.where(inside_YX, 200 + np.random.default_rng(0).normal(0, noise, inside_YX.shape), 0).clip(0, 255)
    tifffile.imwrite(tmp_path / "a.tif", (values_YX[..., None] * color).astype(np.uint8), photometric="rgb")
    assert find_content(image_of(tmp_path / "a.tif")) == Content()
