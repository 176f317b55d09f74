"""Pixels of one block as every phase reads them: reflected beyond the image, valid or not, class ids or refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import ClassSpec, Recipe
from pipeline.engine import Job, Resources, read_reflected, valid_pixels
from pipeline.engine.block_pixels import pixel_digest, read_truth, require_class_ids
from pipeline.errors import BlockError
from pipeline.geometry import Box, reflect_index
from pipeline.inputs import Image, TruthMap
from pipeline.raster import ArrayRaster, Header
from pipeline.records import Block
from tests.conftest import save_tiff


@given(shape=st.tuples(st.integers(1, 7), st.integers(1, 7)), pads=st.tuples(*[st.integers(-3, 12)] * 4))
def test_what_lies_outside_is_reflected(shape, pads):
    """Pixels are those that reflected positions name, whatever the box."""
    box = Box(-pads[0], -pads[1], max(shape[0] + pads[2], 1 - pads[0]), max(shape[1] + pads[3], 1 - pads[1]))
    pixels_YX = np.arange(shape[0] * shape[1], dtype=np.uint8).reshape(shape)
    rows, cols = reflect_index(box.y0, box.y1, shape[0]), reflect_index(box.x0, box.x1, shape[1])
    assert np.array_equal(read_reflected(ArrayRaster(pixels_YX), box, 0)[0], pixels_YX[rows][:, cols])


@pytest.mark.parametrize("interleaved", [True, False])
def test_memory_is_laid_out_as_the_reader_does(interleaved):
    """Inside the image and at its border alike, or a graph would be made for each, and every tile be copied pixel by pixel."""
    pixels_CYX = np.zeros((40, 50, 3), np.uint8).transpose(2, 0, 1) if interleaved else np.zeros((3, 40, 50), np.uint8)
    order = np.argsort(pixels_CYX.strides)
    for box in (Box(0, 0, 40, 50), Box(-4, -4, 30, 30), Box(10, 10, 60, 60)):
        assert np.array_equal(np.argsort(read_reflected(ArrayRaster(pixels_CYX), box, 0).strides), order)


def test_only_pixels_inside_are_read():
    """A box at the border asks the reader for the part that lies inside, and for no more of it than is reflected."""
    asked = []

    class Watched(ArrayRaster):
        def read(self, box, plane=0):
            asked.append(box)
            return super().read(box, plane)

    read_reflected(Watched(np.zeros((100, 100), np.uint8)), Box(-4, 90, 20, 108), 0)
    assert asked == [Box(0, 90, 20, 100)]


@pytest.mark.parametrize(
    ("dtype", "nodata", "holes"),
    [
        ("uint8", None, None),
        ("uint8", 7.0, [(0, 0)]),
        ("float32", None, [(0, 1), (1, 0)]),
        ("float32", float("nan"), [(0, 1), (1, 0)]),
        ("float32", 7.0, [(0, 0), (0, 1), (1, 0)]),
    ],
)
def test_pixels_without_data_are_found(dtype, nodata, holes):
    """A pixel is invalid where a channel is NaN, or all channels are nodata; an image without such pixels has no map of them."""
    pixels_CYX = np.ones((2, 2, 2), dtype)
    pixels_CYX[:, 0, 0] = 7  # both channels
    pixels_CYX[0, 1, 1] = 7  # one of them
    if dtype == "float32":
        pixels_CYX[0, 0, 1] = pixels_CYX[1, 1, 0] = np.nan
    valid_YX = valid_pixels(pixels_CYX, Header((2, 2), 2, dtype, nodata=nodata))
    assert (valid_YX is None) == (holes is None)
    if holes:
        assert sorted(map(tuple, np.argwhere(~valid_YX).tolist())) == holes


@pytest.mark.parametrize("strange", [np.int16(-1), np.uint8(3), np.uint16(256), np.float32(0.5)])
def test_a_value_that_is_no_class_is_named_with_its_place(strange):
    """Class ids and the fill value pass; the first other value is refused with its position in the image."""
    ids_YX = np.zeros((4, 5), strange.dtype)
    ids_YX[0, 0] = 255 if strange.dtype.itemsize == 1 else 0
    require_class_ids(ids_YX, Box(10, 20, 14, 25), 3, "value")
    ids_YX[2, 3:] = strange
    with pytest.raises(BlockError, match=r"value .* at \(y=12, x=23\) is not a class id; expected 0..2, or (255|65535) for none"):
        require_class_ids(ids_YX, Box(10, 20, 14, 25), 3, "value")


def test_a_digest_is_of_pixels_and_not_of_their_layout():
    """The same pixels in any memory layout have one digest; one pixel more or less is another."""
    pixels_CYX = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    turned = np.asfortranarray(pixels_CYX)
    assert pixel_digest(turned) == pixel_digest(pixels_CYX) == pixel_digest(np.ascontiguousarray(turned[:, ::-1])[:, ::-1])
    pixels_CYX[1, 2, 3] ^= 1
    assert pixel_digest(pixels_CYX) != pixel_digest(turned)


def test_truth_is_read_as_class_ids(tmp_path):
    """Truth of a block is mapped to classes; a value outside them is told instead, and an image without truth has none."""
    raw_YX = np.zeros((40, 50), np.uint8)
    raw_YX[20:] = 7
    truth = str(save_tiff(tmp_path / "t.tif", raw_YX))
    image = Image(0, "a", "/a.tif", Header((40, 50), 1, "uint8"), {"name": "auto"}, truth=truth)
    block = Block("predict", image, 0, 0, 0, Box(10, 0, 40, 50))
    for bright, problem in ((7, ""), (1, f"{truth}: truth value 7 at (y=20, x=0)")):
        named = [ClassSpec(name="dark", values=[0]), ClassSpec(name="bright", values=[bright])]
        resources = Resources(Job(tmp_path, Recipe(), truth_map=TruthMap(2, named)), None)
        truth_YX, told = read_truth(resources, block)
        assert told.startswith(problem)
        assert bool(told) == bool(problem)
        assert problem or np.array_equal(truth_YX, raw_YX[10:] // 7)
        resources.close()
    assert read_truth(Resources(Job(tmp_path, Recipe()), None), block) == (None, "")
