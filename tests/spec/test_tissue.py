"""What of an image counts for its statistics: the same of a crop and of its slide, whatever glass, collar or padding there is."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from pipeline.geometry import Box
from pipeline.raster import ArrayRaster, ResampledRaster, resampled_header
from pipeline.statistics import CellMap, Content, NormalizationFitter, cell_side, content_of, find_empty_areas

TISSUE = (300, 500)


def tissue(shape=TISSUE, seed=0):
    """Dark blue discs on uneven pink, as H&E is, and a few bright holes; uint8 (3, Y, X)."""
    random = np.random.default_rng(seed)
    pixels_CYX = np.array([205.0, 140.0, 175.0])[:, None, None] + gaussian_filter(random.normal(0, 60, (3, *shape)), (0, 2, 2))
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    for y, x, radius in random.uniform([0, 0, 4], [*shape, 9], (shape[0] * shape[1] // 1000, 3)):
        pixels_CYX[:, (rows - y) ** 2 + (cols - x) ** 2 < radius**2] = np.array([80, 45, 110])[:, None] + random.normal(0, 8)
    for y, x in random.uniform(10, min(shape) - 10, (6, 2)):
        pixels_CYX[:, (rows - y) ** 2 + (cols - x) ** 2 < 36] = 240
    return np.clip(pixels_CYX + random.normal(0, 3, pixels_CYX.shape), 0, 255).astype(np.uint8)


def cells_of(pixels_CYX, side):
    """The coarse picture of an image in memory."""
    raster = ArrayRaster(pixels_CYX)
    coarse = ResampledRaster(raster, resampled_header(raster.header, (side, side)), (side, side))
    return coarse.read(Box(0, 0, *coarse.header.shape))


def content(pixels_CYX, *, is_color=True, greatest=255.0):
    """What counts of an image in memory."""
    side, shape = cell_side(pixels_CYX.shape[1:]), pixels_CYX.shape[1:]
    areas = find_empty_areas(cells_of(pixels_CYX, side), None, side=side, is_color=is_color, greatest=greatest)
    return content_of([areas], side=side, shape=shape, greatest=greatest)


def statistics(pixels_CYX, kind="percentile", **options):
    """Mean and std of what counts, and the share that counts."""
    whole, fitter = Box(0, 0, *pixels_CYX.shape[1:]), NormalizationFitter(kind)
    counted_YX = content(pixels_CYX, **options).counted(pixels_CYX, None, whole, 0)
    found = fitter.fit(fitter.observe(pixels_CYX, counted_YX, whole, 0))
    return np.array([found["mean"], found["std"]]), 1.0 if counted_YX is None else counted_YX.mean()


def on_glass(pixels_CYX, share, value, noise=0.0, vignette=0.0, tint=(0, 0, 0)):
    """Put an image somewhere on glass that takes this share of the slide."""
    height, width = pixels_CYX.shape[1:]
    grown = (1 - share) ** -0.5
    shape = round(height * grown), round(width * grown)
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    dim_YX = vignette * (((rows / shape[0] - 0.5) ** 2 + (cols / shape[1] - 0.5) ** 2) / 0.5)
    random = np.random.default_rng(1)
    slide_CYX = value + np.array(tint)[:, None, None] - dim_YX + random.normal(0, noise, (3, *shape))
    slide_CYX = np.clip(np.rint(slide_CYX), 0, 255).astype(np.uint8)
    y, x = (shape[0] - height) // 3, (shape[1] - width) // 2
    slide_CYX[:, y : y + height, x : x + width] = pixels_CYX
    return slide_CYX


@pytest.mark.parametrize("kind", ["percentile", "zscore"])
@pytest.mark.parametrize("value", [0, 225, 243, 255])
@pytest.mark.parametrize("noise", [0.0, 2.5], ids=["flat", "noisy"])
@pytest.mark.parametrize("share", [0.03, 0.2, 0.5, 0.95])
def test_glass_changes_no_statistics(share, noise, value, kind):
    """The same stained tissue has the same statistics within 2 grey values, with 3 to 95 % of glass or collar around it."""
    crop_CYX = tissue()
    expected, _ = statistics(crop_CYX, kind)
    found, kept = statistics(on_glass(crop_CYX, share, value, noise, vignette=6 if noise else 0), kind)
    assert np.abs(found - expected).max() <= 2
    assert abs(kept - (1 - share)) < 0.02
    if share > 0.4:  # the control: what all pixels give
        fitter, slide_CYX = NormalizationFitter(kind), on_glass(crop_CYX, share, value, noise)
        whole = fitter.fit(fitter.observe(slide_CYX, None, Box(0, 0, *slide_CYX.shape[1:]), 0))
        assert np.abs(np.array([whole["mean"], whole["std"]]) - expected).max() > 20


def test_tinted_glass_is_glass():
    """A light that is a little yellow makes no tissue of glass."""
    found, kept = statistics(on_glass(tissue(), 0.8, 235, 2.0, tint=(0, -2, -15)))
    assert np.abs(found - statistics(tissue())[0]).max() <= 2
    assert abs(kept - 0.2) < 0.02


@pytest.mark.parametrize("value", [230, 255, 0])
def test_an_image_of_glass_alone_is_not_divided(value):
    """Where nothing would be left, every pixel counts."""
    glass_CYX = np.full((3, 400, 400), value, np.uint8)
    found = content(glass_CYX)
    counted_YX = found.counted(glass_CYX, None, Box(0, 0, 400, 400), 0)
    assert counted_YX is None or counted_YX.all()


def test_a_dark_noisy_background_counts():
    """Fluorescence keeps its statistics, in colours and in grey, however dark its background is: noise is content."""
    random = np.random.default_rng(2)
    grey_YX = random.poisson(6, TISSUE) + 120 * (gaussian_filter(random.normal(size=TISSUE), 9) > 0.03)
    grey_CYX = np.clip(grey_YX, 0, 255).astype(np.uint8)[None]
    assert content(grey_CYX, is_color=False) == Content()
    assert content(np.repeat(grey_CYX, 3, axis=0)) == Content()
    blue_CYX = np.concatenate([np.zeros_like(grey_CYX), grey_CYX // 3, grey_CYX])
    assert content(blue_CYX) == Content()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_padding_of_any_image_is_left_out(dtype):
    """Exactly 0 around fluorescence of any type changes no statistics."""
    random = np.random.default_rng(3)
    pixels_CYX = (random.poisson(20, (1, *TISSUE)) + 100 * (gaussian_filter(random.normal(size=(1, *TISSUE)), (0, 9, 9)) > 0.03)).astype(
        dtype
    )
    padded_CYX = np.pad(pixels_CYX, ((0, 0), (333, 90), (127, 256)))
    greatest = float(np.iinfo(dtype).max) if np.dtype(dtype).kind == "u" else float(pixels_CYX.max())
    expected, share = statistics(pixels_CYX, is_color=False, greatest=greatest)
    assert share == 1
    found, kept = statistics(padded_CYX, is_color=False, greatest=greatest)
    assert np.abs(found - expected).max() <= 2
    assert 0.8 < kept / (pixels_CYX.size / padded_CYX.size) <= 1


def test_grey_bright_field_leaves_glass_out_by_areas():
    """Unstained tissue, whose pixels look like glass, loses large even areas only."""
    grey_CYX = np.repeat(tissue()[:1] // 3 + 150, 3, axis=0)
    expected, _ = statistics(grey_CYX)
    found, kept = statistics(on_glass(grey_CYX, 0.8, 243))
    assert content(grey_CYX).clear is None
    assert np.abs(found - expected).max() <= 4
    assert 0.12 < kept <= 0.2


def test_a_flat_pixel_without_data_is_not_empty():
    """What has no data is left to the file's own mask, and turns nothing around it into glass."""
    cells_CYX = cells_of(tissue(), 8)
    valid_YX = np.ones(cells_CYX.shape[1:], np.bool_)
    valid_YX[:15] = False
    cells_CYX[:, :15] = 0
    areas = find_empty_areas(cells_CYX, valid_YX, side=8, is_color=True, greatest=255)
    assert areas.is_stained
    assert not areas.cells[:15].any()


@given(st.integers(1, 70), st.integers(1, 90), st.data())
def test_a_map_of_cells_is_read_by_region(height, width, data):
    """A region of the map is the same region of the map of all pixels, reflected beyond the image; so is whether any counts."""
    side = data.draw(st.sampled_from([1, 3, 8, 16]))
    grid = max(1, round(height / side)), max(1, round(width / side))
    cells_PYX = np.random.default_rng(data.draw(st.integers(0, 9))).random((2, *grid)) < 0.4
    found = CellMap(cells_PYX, side, (height, width))
    rows = np.minimum(np.arange(height) // side, grid[0] - 1)
    cols = np.minimum(np.arange(width) // side, grid[1] - 1)
    whole_YX = cells_PYX[1][rows][:, cols]
    margin = 13
    padded_YX = np.pad(whole_YX, margin, mode="reflect") if min(height, width) > 1 else np.pad(whole_YX, margin, mode="edge")
    y0, x0 = data.draw(st.integers(-margin, height - 1)), data.draw(st.integers(-margin, width - 1))
    y1, x1 = data.draw(st.integers(y0 + 1, height + margin)), data.draw(st.integers(x0 + 1, width + margin))
    if min(height, width) > 1:
        box = Box(y0 + margin, x0 + margin, y1 + margin, x1 + margin)
        assert np.array_equal(found.of(Box(y0, x0, y1, x1), 1), padded_YX[box.slices])
    inside = Box(y0, x0, y1, x1).clip((height, width))
    if inside.y0 < inside.y1 and inside.x0 < inside.x1:
        assert found.has_any(inside, 1) == whole_YX[inside.slices].any()


@pytest.mark.parametrize("clear", [None, (173.4, 30.0, 25.5)])
@pytest.mark.parametrize("has_cells", [False, True])
def test_what_counts_travels_as_json(clear, has_cells):
    """It comes back from the ledger as it was."""
    cells_PYX = np.random.default_rng(4).random((3, 7, 11)) < 0.5
    made = Content(CellMap(cells_PYX, 16, (110, 170)) if has_cells else None, clear)
    back = Content.from_json(json.loads(json.dumps(made.to_json())))
    assert back.clear == made.clear
    assert (back.cells is None) == (made.cells is None)
    if has_cells:
        assert (back.cells.side, back.cells.shape) == (16, (110, 170))
        assert np.array_equal(back.cells.cells, cells_PYX)
    assert (made.to_json() == {}) == (clear is None and not has_cells)
