"""Pixels of one block as every phase reads them: reflected beyond the image, valid or not, class ids or refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import ClassSpec, Recipe
from pipeline.engine import Job, Resources, read_reflected, read_zero_filled
from pipeline.engine.block_pixels import pixel_digest, read_mask, read_truth, require_class_ids
from pipeline.errors import BlockError
from pipeline.geometry import Box, reflect_index
from pipeline.inputs import Image, TruthMap
from pipeline.raster import ArrayRaster, Header
from pipeline.records import Block
from tests.conftest import save_tiff


@given(shape=st.tuples(st.integers(1, 7), st.integers(1, 7)), pads=st.tuples(*[st.integers(-3, 12)] * 4), seed=st.integers(0, 99))
def test_what_lies_outside_is_reflected(shape, pads, seed):
    """Pixels, and whether they are valid, are those that reflected positions name, whatever the box; 0 stands for invalid ones."""
    box = Box(-pads[0], -pads[1], max(shape[0] + pads[2], 1 - pads[0]), max(shape[1] + pads[3], 1 - pads[1]))
    pixels_YX = np.arange(1, shape[0] * shape[1] + 1, dtype=np.uint8).reshape(shape)
    declared_YX = np.random.default_rng(seed).random(shape) < 0.7
    rows, cols = reflect_index(box.y0, box.y1, shape[0]), reflect_index(box.x0, box.x1, shape[1])
    found_CYX, valid_YX = read_reflected(ArrayRaster(pixels_YX, declared=declared_YX), box, 0)
    assert np.array_equal(found_CYX[0], pixels_YX[rows][:, cols])
    expected_YX = declared_YX[rows][:, cols]
    assert valid_YX is None or np.array_equal(valid_YX, expected_YX)
    assert (valid_YX is not None) or expected_YX.all()
    filled_CYX, valid_YX = read_zero_filled(ArrayRaster(pixels_YX, declared=declared_YX), box, 0)
    assert np.array_equal(filled_CYX[0], np.where(expected_YX, pixels_YX[rows][:, cols], 0))


def test_an_image_that_declares_nothing_has_no_map_of_valid_pixels():
    """Bytes without nodata are the reader's own array: nothing is allocated, copied or compared for them."""
    pixels_YX = np.ones((64, 64), np.uint8)
    found_CYX, valid_YX = read_zero_filled(ArrayRaster(pixels_YX), Box(0, 0, 64, 64), 0)
    assert valid_YX is None
    assert np.shares_memory(found_CYX, pixels_YX)


@pytest.mark.parametrize("interleaved", [True, False])
def test_memory_is_laid_out_as_the_reader_does(interleaved):
    """Inside the image and at its border alike, or a graph would be made for each, and every tile be copied pixel by pixel."""
    pixels_CYX = np.zeros((40, 50, 3), np.uint8).transpose(2, 0, 1) if interleaved else np.zeros((3, 40, 50), np.uint8)
    order = np.argsort(pixels_CYX.strides)
    holes = ArrayRaster(pixels_CYX, declared=np.tri(40, 50, dtype=bool))
    for box in (Box(0, 0, 40, 50), Box(-4, -4, 30, 30), Box(10, 10, 60, 60)):
        assert np.array_equal(np.argsort(read_reflected(ArrayRaster(pixels_CYX), box, 0)[0].strides), order)
        assert np.array_equal(np.argsort(read_zero_filled(holes, box, 0)[0].strides), order)


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
        ("uint8", 7, [(0, 0)]),
        ("float32", None, [(0, 1), (1, 0)]),
        ("float32", float("nan"), [(0, 1), (1, 0)]),
        ("float32", 7.0, [(0, 0), (0, 1), (1, 0)]),
    ],
)
@pytest.mark.parametrize("strange", [np.nan, np.inf, -np.inf])
def test_pixels_without_data_are_found(dtype, nodata, holes, strange):
    """A pixel is invalid where a channel is not finite, where all channels are nodata, or where the file's mask says so."""
    pixels_CYX = np.ones((2, 2, 2), dtype)
    pixels_CYX[:, 0, 0] = 7  # both channels
    pixels_CYX[0, 1, 1] = 7  # one of them
    if dtype == "float32":
        pixels_CYX[0, 0, 1] = pixels_CYX[1, 1, 0] = strange
    header = Header((2, 2), 2, dtype, nodata=nodata)
    for declared_YX, masked in ((None, []), (np.array([[True, True], [True, False]]), [(1, 1)])):
        _, valid_YX = ArrayRaster(pixels_CYX, header, declared_YX).read_valid(Box(0, 0, 2, 2))
        expected = sorted({*(holes or []), *masked})
        assert expected == [] if valid_YX is None else sorted(map(tuple, np.argwhere(~valid_YX).tolist())) == expected


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


@pytest.mark.parametrize(("dtype", "fill"), [("uint8", 255), ("uint16", 65535), ("int16", -1), ("int32", 65535)])
def test_a_mask_holds_no_prediction_where_it_holds_no_data(tmp_path, dtype, fill):
    """Nodata of a mask is the fill value of the job's own type, whatever type the mask has; other strange values are refused."""
    ids_YX = np.ones((8, 9), dtype)
    ids_YX[0], ids_YX[1, 1] = 9, 2
    if fill > 0:
        ids_YX[2] = fill
    path = str(save_tiff(tmp_path / "a.tif", ids_YX))
    image = Image(0, "a", path, Header((8, 9), 1, dtype), {"name": "auto", "nodata": 9})
    block = Block("count", image, 0, 0, 0, Box(0, 0, 8, 9))
    named = [{"id": k, "name": str(k), "color": "#000000"} for k in range(3)]
    resources = Resources(Job(tmp_path, Recipe(), classes=named), None)
    found_YX = read_mask(resources, block)
    assert found_YX.dtype == np.uint8
    assert np.array_equal(found_YX, np.where((ids_YX == 9) | (ids_YX == fill), 255, ids_YX))
    with pytest.raises(BlockError, match=r"prediction 9 at \(y=0, x=0\) is not a class id"):
        read_mask(resources, replace(block, image=replace(image, reader={"name": "auto"})))
    resources.close()


@pytest.mark.parametrize(
    ("dtype", "nodata"), [("uint8", 255), ("int32", -9999), ("float32", np.nan), ("float32", np.inf), ("float32", -3.4e38)]
)
def test_truth_is_ignored_where_it_holds_no_data(tmp_path, dtype, nodata):
    """Nodata, NaN and infinity in a truth are ignored, though no class has such a value; without nodata they are told."""
    raw_YX = np.zeros((20, 30), dtype)
    raw_YX[5:], raw_YX[:2] = 1, nodata
    truth = str(save_tiff(tmp_path / "t.tif", raw_YX))
    declared = {"name": "auto", **({"nodata": nodata} if np.isfinite(nodata) else {})}
    image = Image(0, "a", "/a.tif", Header((20, 30), 1, "uint8"), {"name": "auto"}, truth=truth, truth_reader=declared)
    block = Block("predict", image, 0, 0, 0, Box(0, 0, 20, 30))
    resources = Resources(Job(tmp_path, Recipe(), truth_map=TruthMap(2)), None)
    truth_YX, told = read_truth(resources, block)
    assert told == ""
    assert np.array_equal(truth_YX, np.where(np.arange(20) < 2, 255, np.arange(20) >= 5)[:, None] * np.ones(30, int))
    resources.close()
    if np.isfinite(nodata):
        block = replace(block, image=replace(image, truth_reader={"name": "auto"}))
        resources = Resources(Job(tmp_path, Recipe(), truth_map=TruthMap(2)), None)
        assert "belongs to no class" in read_truth(resources, block)[1]
        resources.close()
