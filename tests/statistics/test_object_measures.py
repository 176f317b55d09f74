"""Objects are measured as scikit-image measures them whole, and the same however they are cut into blocks."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import regionprops_table

from pipeline.geometry import Box
from pipeline.statistics import ObjectParts, measure, object_columns

NAMES = {
    "area": "area_px",
    "bbox-0": "bbox_y0",
    "bbox-1": "bbox_x0",
    "bbox-2": "bbox_y1",
    "bbox-3": "bbox_x1",
    "centroid-0": "centroid_y",
    "centroid-1": "centroid_x",
    "perimeter_crofton": "perimeter_px",
    "equivalent_diameter_area": "equivalent_diameter_px",
    "axis_major_length": "major_axis_px",
    "axis_minor_length": "minor_axis_px",
    "eccentricity": "eccentricity",
    "solidity": "solidity",
    "intensity_mean-0": "intensity_mean_0",
    "intensity_min-1": "intensity_min_1",
    "intensity_max-1": "intensity_max_1",
    "intensity_std-1": "intensity_std_1",
}
PROPERTIES = [*dict.fromkeys(name.partition("-")[0] for name in NAMES), "label", "orientation"]


def smooth_labels(seed: int) -> NDArray[np.uint32]:
    """Connected objects of irregular form, by 8 neighbours; some touch each other, as each half plane has ids of its own."""
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(1, 70, 2))
    noise_YX = ndimage.gaussian_filter(random.random(shape), random.choice([0.0, 1.0, 2.5]))
    labels_YX, count = ndimage.label(noise_YX > np.quantile(noise_YX, random.choice([0.0, 0.3, 0.6])), np.ones((3, 3)))
    right_YX = (np.arange(shape[1]) > shape[1] // 2) & (labels_YX > 0)
    return (labels_YX + right_YX * count).astype(np.uint32)


def scattered_labels(seed: int) -> NDArray[np.uint32]:
    """Objects in many pieces."""
    random = np.random.default_rng(seed)
    return random.integers(0, 6, random.integers(1, 40, 2)).astype(np.uint32)


def cut(shape: tuple[int, int], rows: Sequence[int], columns: Sequence[int]) -> list[Box]:
    """Cut a plane at some rows and columns."""
    ys, xs = (sorted({0, size, *(at % size for at in places)}) for size, places in zip(shape, (rows, columns), strict=True))
    return [Box(y0, x0, y1, x1) for y0, y1 in pairwise(ys) for x0, x1 in pairwise(xs)]


def parts_of(
    ids_YX: NDArray[np.uint32],
    boxes: Sequence[Box] | None = None,
    image_CYX: NDArray[np.generic] | None = None,
    valid_YX: NDArray[np.bool_] | None = None,
    probability_YX: NDArray[np.uint8] | None = None,
) -> ObjectParts:
    """Measure an image block by block, as a run does: each block sees its own pixels and the ids of a ring."""
    ring_YX = np.pad(ids_YX, 1)
    ids = np.unique(ids_YX[ids_YX > 0]).astype(np.int64)
    return ObjectParts.concat(
        [
            measure(
                ring_YX[box.y0 : box.y1 + 2, box.x0 : box.x1 + 2],
                box,
                (ids, ids % 3),
                None if image_CYX is None else image_CYX[:, *box.slices],
                None if valid_YX is None else valid_YX[box.slices],
                None if probability_YX is None else probability_YX[box.slices],
                ids_YX.shape,
                plane=4,
            )
            for box in boxes or [Box(0, 0, *ids_YX.shape)]
        ]
    )


def assert_identical(first: ObjectParts, second: ObjectParts) -> None:
    for name, array in first.arrays().items():
        assert array.dtype == second.arrays()[name].dtype
        assert array.tobytes() == second.arrays()[name].tobytes(), name


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("labels", [smooth_labels, scattered_labels])
def test_measures_are_those_of_scikit_image(labels, seed) -> None:
    """Every column that scikit-image knows has its value, with solidity from its convex hull images and perimeters by Crofton."""
    ids_YX = labels(seed)
    image_CYX = np.random.default_rng(seed).integers(0, 1 << 16, (2, *ids_YX.shape)).astype(np.uint16)
    columns = object_columns(parts_of(ids_YX, image_CYX=image_CYX))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of hulls of few pixels
        expected = regionprops_table(ids_YX.astype(np.int64), np.moveaxis(image_CYX, 0, -1), properties=PROPERTIES)
    np.testing.assert_array_equal(columns["id"], expected["label"])
    for theirs, ours in NAMES.items():
        np.testing.assert_allclose(columns[ours], expected[theirs], rtol=1e-9, atol=1e-6, err_msg=ours)
    turn = np.abs(columns["orientation"] - expected["orientation"])
    is_long = columns["major_axis_px"] - columns["minor_axis_px"] > 1e-6
    assert (np.minimum(turn, np.pi - turn)[is_long] < 1e-6).all()
    assert np.isnan(columns["orientation"][columns["major_axis_px"] == columns["minor_axis_px"]]).all()


@given(
    ids_YX=hnp.arrays(np.uint32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=14), elements=st.integers(0, 4)),
    rows=st.lists(st.integers(0, 13), max_size=4),
    columns=st.lists(st.integers(0, 13), max_size=4),
    seed=st.integers(0, 1 << 16),
    dtype=st.sampled_from([np.uint8, np.uint16, np.int16, np.bool_]),
)
@settings(deadline=None, max_examples=150)
def test_a_cut_changes_nothing(ids_YX, rows, columns, seed, dtype) -> None:
    """Any cut into blocks, in any order, gives the same bits: sums, hulls, perimeters, intensities."""
    random = np.random.default_rng(seed)
    image_CYX = random.integers(0, 1 << 16, (2, *ids_YX.shape)).astype(dtype)
    valid_YX = random.random(ids_YX.shape) < 0.7
    probability_YX = random.integers(0, 256, ids_YX.shape).astype(np.uint8)
    boxes = cut(ids_YX.shape, rows, columns)
    random.shuffle(boxes)
    whole = parts_of(ids_YX, None, image_CYX, valid_YX, probability_YX)
    assert_identical(whole, parts_of(ids_YX, boxes, image_CYX, valid_YX, probability_YX))


@given(seed=st.integers(0, 300), rows=st.lists(st.integers(0, 69), max_size=5), columns=st.lists(st.integers(0, 69), max_size=5))
@settings(deadline=None, max_examples=60)
def test_a_cut_through_large_objects_changes_nothing(seed, rows, columns) -> None:
    """Hulls of many corners are the same, too, when they are joined from blocks."""
    ids_YX = smooth_labels(seed)
    assert_identical(parts_of(ids_YX), parts_of(ids_YX, cut(ids_YX.shape, rows, columns)))


def test_a_block_larger_than_a_band_is_measured_alike() -> None:
    """A large block is measured in bands: the seams between them do not show."""
    y, x = np.mgrid[:1500, :700]
    ids_YX = ((y - 740) ** 2 + (x - 350) ** 2 < 340**2).astype(np.uint32) * 7
    columns = object_columns(parts_of(ids_YX))
    radius = np.sqrt((ids_YX > 0).sum() / np.pi)
    assert columns["area_px"].tolist() == [(ids_YX > 0).sum()]
    assert columns["perimeter_px"][0] == pytest.approx(2 * np.pi * radius, rel=2e-3)
    assert columns["solidity"][0] > 0.998
    assert_identical(parts_of(ids_YX), parts_of(ids_YX, cut(ids_YX.shape, range(0, 1500, 64), [300])))


def test_places_far_from_the_origin_lose_nothing() -> None:
    """Form and intensities of an object do not depend on where it lies, to the last bit, up to columns of 2**24."""
    ids_YX = np.minimum(smooth_labels(5), 3)
    ids = np.arange(1, 4)
    near, far = (
        object_columns(
            measure(np.pad(ids_YX, 1), Box(0, 0, *ids_YX.shape).shift(at, at), (ids, ids), ids_YX[None], None, None, (1 << 25, 1 << 25))
        )
        for at in (1, (1 << 24) + 12345)
    )
    moved = ("bbox", "first", "centroid")
    for name, column in near.items():
        np.testing.assert_array_equal(column + ((1 << 24) + 12344 if name.startswith(moved) else 0), far[name], err_msg=name)


@pytest.mark.parametrize("side", [65_536, 200_000, 1 << 20])
def test_an_object_that_is_everything(side) -> None:
    """One object of a whole image has the moments of a square, although their sums exceed 64 bits."""
    count, total, squares = side**2, side**2 * (side - 1) // 2, side**2 * (side - 1) * (2 * side - 1) // 6
    product = (side * (side - 1) // 2) ** 2
    small = parts_of(np.ones((2, 2), np.uint32))
    sums = small.sums.copy()
    sums[:3, 0] = count, total, total
    words = np.array([[[total >> 32], [total & 0xFFFFFFFF]] for total in (squares, product, squares)])
    corners = np.array([[1, 1], [0, side - 1], [0, 0]])
    columns = object_columns(
        replace(
            small,
            sums=sums,
            wide_sums=words,
            highs=np.array([[side], [side], [1]]),
            left=corners,
            right=corners + np.array([[0], [0], [side - 1]]),
        )
    )
    assert columns["centroid_y"].tolist() == [(side - 1) / 2]
    assert columns["major_axis_px"][0] == pytest.approx(4 * np.sqrt((side**2 - 1) / 12), rel=1e-14)
    assert (columns["eccentricity"][0], columns["solidity"][0], columns["touches_border"][0]) == (0, 1, True)


def test_one_pixel() -> None:
    """An object of one pixel has no extent, no direction, and fills its hull."""
    ids_YX = np.zeros((3, 3), np.uint32)
    ids_YX[1, 2] = 9
    columns = {name: column[0] for name, column in object_columns(parts_of(ids_YX)).items()}
    expected = {"id": 9, "class": 0, "area_px": 1, "solidity": 1, "eccentricity": 0, "major_axis_px": 0, "minor_axis_px": 0}
    assert {name: columns[name] for name in expected} == expected
    assert columns["touches_border"]
    assert np.isnan([columns["orientation"], columns["mean_probability"]]).all()
    assert columns["perimeter_px"] == pytest.approx(np.pi / 4 * (2 + np.sqrt(2)))


def test_no_objects() -> None:
    """An image without objects has every column, of no rows and of the same types."""
    image_CYX = np.zeros((2, 4, 4), np.uint8)
    none = object_columns(parts_of(np.zeros((4, 4), np.uint32), None, image_CYX))
    one = object_columns(parts_of(np.ones((4, 4), np.uint32), None, image_CYX))
    assert {name: (column.dtype, len(column)) for name, column in none.items()} == {name: (one[name].dtype, 0) for name in one}


def test_only_valid_pixels_have_intensities() -> None:
    """NaN under pixels that are not valid stays out; an object without valid pixels has no intensity."""
    ids_YX = np.array([[1, 1, 1, 2, 3]], np.uint32)
    image_CYX = np.array([[[1, 4, np.nan, np.inf, 7]]], np.float32)
    columns = object_columns(parts_of(ids_YX, None, image_CYX, np.isfinite(image_CYX[0])))
    assert columns["area_px"].tolist() == [3, 1, 1]
    for name, values in {"mean": [2.5, np.nan, 7], "min": [1, np.nan, 7], "max": [4, np.nan, 7], "std": [1.5, np.nan, 0]}.items():
        np.testing.assert_array_equal(columns[f"intensity_{name}_0"], values)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.uint16])
def test_intensities_of_any_type(dtype) -> None:
    """Mean and deviation are those of the pixels, also far from zero, and differ between cuts by rounding alone."""
    random = np.random.default_rng(3)
    ids_YX = random.integers(0, 3, (40, 40)).astype(np.uint32)
    image_CYX = (random.random((1, 40, 40)) * 100 + (1e6 if np.dtype(dtype).itemsize > 2 else 6e4)).astype(dtype)
    boxes = cut(ids_YX.shape, [7, 20], [11])
    columns = object_columns(parts_of(ids_YX, boxes, image_CYX))
    for row, label in enumerate((1, 2)):
        pixels = image_CYX[0][ids_YX == label].astype(np.float64)
        assert columns["intensity_mean_0"][row] == pytest.approx(pixels.mean(), rel=1e-13)
        assert columns["intensity_std_0"][row] == pytest.approx(pixels.std(), rel=1e-9)
        assert (columns["intensity_min_0"][row], columns["intensity_max_0"][row]) == (pixels.min(), pixels.max())
    assert_identical(parts_of(ids_YX, boxes, image_CYX), parts_of(ids_YX, boxes, image_CYX))


def test_probabilities_and_classes_and_planes() -> None:
    """The mean probability is that of all pixels of the object; class and place in the stack come with the id."""
    ids_YX = np.array([[1, 1, 4]], np.uint32)
    parts = parts_of(ids_YX, probability_YX=np.array([[255, 0, 51]], np.uint8))
    columns = object_columns(parts, planes={"t": 2, "z": 3})
    assert columns["mean_probability"].tolist() == [0.5, 0.2]
    assert columns["class"].tolist() == [1, 1]
    assert (columns["t"].tolist(), columns["z"].tolist()) == ([1, 1], [1, 1])  # plane 4 of 2 x 3


def test_first_pixel_by_rows() -> None:
    """The first pixel is that of the first row, although others lie further left."""
    ids_YX = np.array([[0, 0, 0, 5], [0, 5, 0, 0], [5, 0, 0, 0]], np.uint32)
    columns = object_columns(parts_of(ids_YX, cut((3, 4), [1], [1, 2])))
    assert (columns["first_y"].tolist(), columns["first_x"].tolist(), columns["bbox_x0"].tolist()) == ([0], [3], [0])


def test_objects_at_the_border_say_so() -> None:
    """A pixel in the first or last row or column of the image touches its border; one beside them does not, nor do block borders."""
    ids_YX = np.zeros((5, 7), np.uint32)
    for number, place in enumerate([(0, 3), (4, 3), (2, 0), (2, 6), (1, 1), (3, 5), (2, 4)], 1):
        ids_YX[place] = number
    columns = object_columns(parts_of(ids_YX, cut(ids_YX.shape, [2], [4, 5])))
    assert columns["touches_border"].tolist() == [True, True, True, True, False, False, False]


def test_only_corners_of_hulls_are_kept() -> None:
    """Points on a line between corners are left out, so that the parts of a large object stay small."""
    y, x = np.mgrid[:30, :90]
    triangle = parts_of((x >= 3 * y).astype(np.uint32))
    assert triangle.left[1:].tolist() == [[0, 29], [0, 87]]
    assert triangle.right[1:].tolist() == [[0, 29], [89, 89]]


def test_physical_units() -> None:
    """Areas and lengths follow the size of a pixel; a disc of pixels that are no squares keeps its circumference."""
    y, x = np.mgrid[:400, :200]
    ids_YX = ((y - 200) ** 2 + (2 * (x - 100)) ** 2 < 180**2).astype(np.uint32)
    columns = object_columns(parts_of(ids_YX), pixel_size=(0.5, 1.0), unit="micrometer")
    assert columns["area_um2"][0] == pytest.approx(np.pi * 90**2, rel=1e-3)
    assert columns["equivalent_diameter_um"][0] == pytest.approx(180, rel=1e-3)
    assert columns["perimeter_um"][0] == pytest.approx(np.pi * 180, rel=1e-2)
    assert "area_m2" in object_columns(parts_of(ids_YX), pixel_size=(2.0, 2.0), unit="meter")
    degrees = object_columns(parts_of(ids_YX), pixel_size=(1e-5, 1e-5), unit="degree")
    assert [name for name in degrees if name.startswith("area")] == ["area_px"]


def test_channels_have_their_names() -> None:
    """Channels are named where each has a name of its own, and numbered otherwise."""
    parts = parts_of(np.ones((2, 2), np.uint32), None, np.ones((2, 2, 2), np.uint8))
    assert "intensity_mean_DAPI" in object_columns(parts, channel_names=("DAPI", "FITC"))
    for names in (("DAPI", "DAPI"), ("DAPI", ""), ("DAPI",)):
        assert "intensity_mean_1" in object_columns(parts, channel_names=names)


def test_parts_are_stored_and_read_by_ranges_of_ids() -> None:
    """Parts survive a file; merging ranges of ids one after the other gives what merging all gives."""
    ids_YX = smooth_labels(11)
    boxes = cut(ids_YX.shape, [9, 30], [14])
    blocks = [parts_of(np.where(inside(box, ids_YX.shape), ids_YX, 0)) for box in boxes]
    stored = []
    for block in blocks:
        file = io.BytesIO()
        np.savez(file, **block.arrays())
        file.seek(0)
        stored.append(ObjectParts.from_arrays(np.load(file)))
    whole = ObjectParts.concat(blocks)
    for first, stop in ((1, 3), (3, 4), (4, 1 << 40)):
        assert_identical(ObjectParts.concat([block.within(first, stop) for block in stored]), whole.within(first, stop))
    kept = whole.ids % 2 == 0
    assert whole.only(kept).ids.tolist() == whole.ids[kept].tolist()
    assert_identical(ObjectParts.concat([whole.only(~kept), whole.only(kept)]), whole)
    assert sum(len(whole.within(*ids)) for ids in ((0, 3), (3, 4), (4, 1 << 40))) == len(whole) > 4


def inside(box: Box, shape: tuple[int, int]) -> NDArray[np.bool_]:
    mask_YX = np.zeros(shape, np.bool_)
    mask_YX[box.slices] = True
    return mask_YX


def test_wrong_arguments_are_refused() -> None:
    """Refused: ids without a ring, ids without a class, and rows too long for 64 bits."""
    ids_YX, none = np.pad(np.ones((2, 2), np.uint32), 1), (np.zeros(0, np.int64), np.zeros(0, np.int64))
    one = (np.array([1]), np.array([0]))
    with pytest.raises(ValueError, match="ring"):
        measure(ids_YX, Box(0, 0, 4, 4), one, None, None, None, (4, 4))
    for classes in (none, (np.array([2]), np.array([0]))):
        with pytest.raises(ValueError, match="no class"):
            measure(ids_YX, Box(0, 0, 2, 2), classes, None, None, None, (2, 2))
    with pytest.raises(ValueError, match="64 bits"):
        measure(ids_YX, Box(0, 0, 2, 2), one, None, None, None, (2, 1 << 31))
