"""Areas of classes: polygons that are the pixels, the same however the plane is read, with common edges also when simplified."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.raster import ArrayRaster
from pipeline.writers import MaskMeta, _class_polygons
from pipeline.writers._class_polygons import ClassPolygons, class_polygons

shapely = pytest.importorskip("shapely", reason="shapely is not installed")
features = pytest.importorskip("rasterio.features", reason="rasterio is not installed")

SMALL = arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=14), elements=st.sampled_from([0, 1, 2, 255]))
CUTS = {"BAND_ROWS": (1, 3, 8), "STRIP_PIXELS": (1, 17), "BATCH_CORNERS": (1, 20)}


def areas_of(mask_YX, *, background=True, **options):
    """All areas of a mask, as one batch."""
    meta = MaskMeta(mask_YX.shape, dtype=mask_YX.dtype.name)
    none = ClassPolygons(*(np.zeros(0, kind) for kind in (int, int, float, object)))
    parts = [none, *class_polygons(ArrayRaster(mask_YX, meta.header), meta, 0, background=background, **options)]
    return ClassPolygons(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("classes", "pixels", "sizes", "polygons")))


def drawn(areas, shape):
    """The mask that polygons give, 255 where there are none."""
    pairs = zip(areas.polygons, areas.classes, strict=True)
    return features.rasterize(pairs, shape, fill=255, dtype="uint8") if len(areas.classes) else np.full(shape, 255, np.uint8)


def patches(shape, seed=0, sigma=4.0):
    """Patches of four classes with rough edges, some pixels without prediction."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    smooth_YX = gaussian_filter(rng.standard_normal(shape), sigma)
    mask_YX = np.digitize(smooth_YX / smooth_YX.std(), [-0.7, 0.2, 1.0]).astype(np.uint8)
    mask_YX[rng.random(shape) < 0.002] = 255
    return mask_YX


@settings(max_examples=150, deadline=None)
@given(mask_YX=SMALL, background=st.booleans())
def test_polygons_are_the_mask(mask_YX, background):
    """Polygons are valid, cover their pixels and no other, count them, and share every point of common edges."""
    areas = areas_of(mask_YX, background=background)
    np.testing.assert_array_equal(drawn(areas, mask_YX.shape), mask_YX if background else np.where(mask_YX == 0, 255, mask_YX))
    assert shapely.is_valid(areas.polygons).all()
    assert set(shapely.get_type_id(areas.polygons)) <= {3}  # Polygon: pixels that touch at corners only are not joined
    np.testing.assert_array_equal(shapely.area(areas.polygons), areas.pixels)
    assert len(areas.polygons) < 2 or shapely.coverage_is_valid(areas.polygons)


@settings(max_examples=60, deadline=None)
@given(mask_YX=SMALL, cut=st.fixed_dictionaries({name: st.sampled_from(values) for name, values in CUTS.items()}), simple=st.booleans())
def test_the_cut_does_not_show(mask_YX, cut, simple):
    """Bands, strips and batches change neither a point nor the order."""
    options = {"simplify": 1.5} if simple else {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_class_polygons, "CELL", 8)
        whole = areas_of(mask_YX, **options)
        for name, value in cut.items():
            patch.setattr(_class_polygons, name, 8 if simple and name == "BAND_ROWS" else value)
        parts = areas_of(mask_YX, **options)
    assert list(shapely.to_wkb(parts.polygons)) == list(shapely.to_wkb(whole.polygons))
    for name in ("classes", "pixels", "sizes"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


def test_gdal_finds_the_same_areas():
    """Areas and holes of noise are those that GDAL finds, which shares no code with ours."""
    mask_YX = np.random.default_rng(1).integers(0, 3, (150, 170)).astype(np.uint8)
    areas = areas_of(mask_YX)
    found = {0: [], 1: [], 2: []}
    for shape, value in features.shapes(mask_YX, connectivity=4):
        found[int(value)].append(shapely.geometry.shape(shape))
    for value, shapes in found.items():
        ours = shapely.simplify(areas.polygons[areas.classes == value], 0)  # without the points where others meet a straight edge
        same = [sorted(shapely.to_wkb(shapely.normalize(shapely.simplify(some, 0)))) for some in (ours, shapes)]
        assert same[0] == same[1]


def test_order_is_by_last_row_then_first_pixel():
    """An area comes when its last row has been read, and of those that end in one row the upper left one first."""
    mask_YX = np.zeros((6, 9), np.uint8)
    mask_YX[0:5, 6] = 1
    mask_YX[1:3, 1] = 2
    mask_YX[4, 2:4] = 3
    areas = areas_of(mask_YX, background=False)
    assert areas.classes.tolist() == [2, 1, 3]
    assert areas.pixels.tolist() == [2, 5, 2]


def test_sizes_are_sums_over_rows(monkeypatch):
    """Where pixels of rows differ in size, that of an area is the sum over its pixels, in whatever strips."""
    monkeypatch.setattr(_class_polygons, "STRIP_PIXELS", 500)
    mask_YX = patches((90, 70))
    row_sizes = np.linspace(1, 3, 90)
    areas = areas_of(mask_YX, row_sizes=row_sizes)
    for value in range(4):
        expected = (row_sizes[:, None] * (mask_YX == value)).sum()
        assert areas.sizes[areas.classes == value].sum() == pytest.approx(expected, rel=1e-12)
    one = int(np.argmax(areas.pixels))
    inside_YX = features.rasterize([areas.polygons[one]], mask_YX.shape)
    assert areas.sizes[one] == pytest.approx((row_sizes[:, None] * inside_YX).sum(), rel=1e-12)


@pytest.mark.parametrize("simplify", [0.8, 1.5, 4.0])
def test_simple_edges_fit_together(monkeypatch, simplify):
    """Simplified areas leave no gap and do not overlap, across cells as well, keep the border of the image, and have fewer points."""
    monkeypatch.setattr(_class_polygons, "CELL", 64)
    mask_YX = patches((200, 230))
    whole, simple = areas_of(mask_YX), areas_of(mask_YX, simplify=simplify)
    assert simple.classes.tolist() == whole.classes.tolist()
    assert simple.pixels.tolist() == whole.pixels.tolist()
    assert shapely.is_valid(simple.polygons).all()
    assert shapely.coverage_is_valid(simple.polygons)
    assert shapely.area(simple.polygons).sum() == pytest.approx((mask_YX != 255).sum(), abs=300 * simplify)
    assert shapely.total_bounds(simple.polygons).tolist() == [0, 0, 230, 200]
    assert shapely.get_num_coordinates(simple.polygons).sum() < 0.75 * shapely.get_num_coordinates(whole.polygons).sum()
    apart = (drawn(simple, mask_YX.shape) != mask_YX).mean()
    assert 0 < apart < 0.02 * simplify**2


@settings(max_examples=60, deadline=None)
@given(mask_YX=SMALL.map(lambda mask_YX: np.kron(mask_YX, np.ones((2, 2), np.uint8)) % 255), simplify=st.sampled_from([0.8, 1.5, 3.0, 9.0]))
def test_simple_edges_of_noise_fit_together(mask_YX, simplify):
    """Also where areas are a few pixels: the polygons of a mask that is predicted everywhere cover it once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_class_polygons, "CELL", 8)
        areas = areas_of(mask_YX, simplify=simplify)
    assert shapely.is_valid(areas.polygons).all()
    assert len(areas.polygons) < 2 or shapely.coverage_is_valid(areas.polygons)
    assert shapely.area(areas.polygons).sum() == pytest.approx(mask_YX.size)
    assert shapely.area(shapely.union_all(areas.polygons)) == pytest.approx(mask_YX.size)


def test_each_alone_would_leave_gaps():
    """The control: polygons that are simplified one by one do not fit together."""
    areas = areas_of(patches((100, 100)))
    assert not shapely.coverage_is_valid(shapely.simplify(areas.polygons, 1.5))


def test_long_edges_get_points():
    """For coordinates in which straight edges are curved, edges have a point at every multiple, and neighbours the same ones."""
    mask_YX = np.zeros((40, 50), np.uint8)
    mask_YX[:, 30:] = 1
    areas = areas_of(mask_YX, every=16)
    points = {tuple(point) for point in shapely.get_coordinates(areas.polygons[0])}
    assert points == {(0, 0), (16, 0), (30, 0), (30, 16), (30, 32), (30, 40), (16, 40), (0, 40), (0, 32), (0, 16)}
    assert shapely.coverage_is_valid(areas.polygons)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_the_highest_class(dtype):
    """The highest class id is one below *no prediction*."""
    fill = np.iinfo(dtype).max
    areas = areas_of(np.array([[fill - 1, fill, 0]], dtype))
    assert areas.classes.tolist() == [fill - 1, 0]
    assert areas_of(np.full((3, 4), fill, dtype)).classes.tolist() == []


def test_memory_is_that_of_open_areas(monkeypatch):
    """Corners of whole areas do not stay: what is kept between strips does not grow with the mask."""
    monkeypatch.setattr(_class_polygons, "BATCH_CORNERS", 2000)
    monkeypatch.setattr(_class_polygons, "STRIP_PIXELS", 300 * 16)
    kept = []
    add = _class_polygons._Sweep.add

    def watched(self, numbers_YX, y, points):
        yield from add(self, numbers_YX, y, points)
        kept.append(sum(map(len, self._corners)))

    monkeypatch.setattr(_class_polygons._Sweep, "add", watched)
    tile_YX = np.tile(patches((300, 300), sigma=2.0), (6, 1))
    areas = areas_of(tile_YX, background=False)
    assert shapely.get_num_coordinates(areas.polygons).sum() > 5 * max(kept)
