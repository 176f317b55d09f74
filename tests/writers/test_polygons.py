"""Files of class polygons: other programs read them, they are the mask again, and their areas are those on the ground."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from pipeline.errors import InputError
from pipeline.plugins import build
from pipeline.raster import ArrayRaster, MapGrid, map_tags
from pipeline.storage import BlockStore, LocalStorage
from pipeline.tiling import Grid
from pipeline.writers import MaskMeta
from pipeline.writers.geojson import GeoJson
from pipeline.writers.geopackage import GeoPackage
from pipeline.writers.polygons import Polygons
from tests.writers.objects_by_hand import cells, view_of
from tests.writers.test_class_polygons import patches

shapely = pytest.importorskip("shapely", reason="shapely is not installed")
pyogrio = pytest.importorskip("pyogrio", reason="pyogrio is not installed")
rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
features = pytest.importorskip("rasterio.features", reason="rasterio is not installed")
geopandas = pytest.importorskip("geopandas", reason="geopandas is not installed")

CLASSES = tuple({"id": at, "name": name, "color": "#123456"} for at, name in enumerate(("water", "land", "road", "building")))
FORMATS = ("gpkg", "parquet", "fgb", "geojson")
OWN = 'PROJCRS["mine",BASEGEOGCRS["WGS 84",DATUM["World Geodetic System 1984",ELLIPSOID["WGS 84",6378137,298.257223563]]],'
OWN += 'CONVERSION["c",METHOD["Transverse Mercator"],PARAMETER["Latitude of natural origin",10,ANGLEUNIT["degree",0.0174532925199433]],'
OWN += 'PARAMETER["Longitude of natural origin",20,ANGLEUNIT["degree",0.0174532925199433]],PARAMETER["Scale factor at natural origin",1],'
OWN += 'PARAMETER["False easting",0],PARAMETER["False northing",0]],CS[Cartesian,2],AXIS["e",east],AXIS["n",north],LENGTHUNIT["metre",1]]'
GRIDS = {
    "north up": ((0.5, 0.0, 691000.0, 0.0, -0.5, 5334000.0), "EPSG:32632"),
    "south up": ((0.5, 0.0, 691000.0, 0.0, 0.5, 5334000.0), "EPSG:32632"),
    "rotated": ((0.4, 0.3, 691000.0, 0.3, -0.4, 5334000.0), "EPSG:32632"),
    "degrees": ((1e-5, 0.0, 85.3, 0.0, -1e-5, 27.7), "EPSG:4326"),
    "web Mercator": ((0.6, 0.0, 9495000.0, 0.0, -0.6, 3212000.0), "EPSG:3857"),
    "feet": ((2.0, 0.0, 1_000_000.0, 0.0, -2.0, 200_000.0), "EPSG:2263"),
    "own": ((0.5, 0.0, 1000.0, 0.0, -0.5, 2000.0), OWN),
}


def meta_of(mask, grid="", **options):
    """A mask's description on a grid of a map."""
    if grid:
        matrix, crs = GRIDS[grid]
        georeference = map_tags(MapGrid(matrix, rasterio.CRS.from_user_input(crs).to_wkt(version="WKT2_2019")))
        unit = "degree" if grid == "degrees" else "meter"
        foot = 1200 / 3937 if grid == "feet" else 1.0
        size = (float(np.hypot(matrix[1], matrix[4])) * foot, float(np.hypot(matrix[0], matrix[3])) * foot)
        options = {"georeference": georeference, "unit": unit, "pixel_size": size, **options}
    return MaskMeta(mask.shape[-2:], dtype=mask.dtype.name, classes=CLASSES, source="/maps/a.tif", **options)


def exported(folder, mask, meta, raster=None, **options):
    """The file, and the writer."""
    writer = Polygons(**options)
    key = f"{writer.folder}/a{writer.suffix}"
    folder.mkdir(exist_ok=True)
    writer.export(raster or ArrayRaster(mask, meta.header), meta, LocalStorage(folder), key)
    return folder / key


def read(path):
    """The file as geopandas reads it, in the order of ids."""
    frame = geopandas.read_parquet(path) if path.suffix == ".parquet" else geopandas.read_file(path)
    return frame.sort_values("id", ignore_index=True)


def drawn(frame, shape, matrix):
    """The mask that the polygons give, 255 where there are none."""
    transform = rasterio.Affine(*matrix) if matrix else rasterio.Affine.identity()
    return features.rasterize(zip(frame.geometry, frame.class_id, strict=True), shape, transform=transform, fill=255, dtype="uint8")


@pytest.mark.parametrize("grid", ["", *GRIDS], ids=lambda grid: grid or "pixels")
@pytest.mark.parametrize("form", ["gpkg", "parquet", "fgb"])
def test_polygons_are_the_mask_on_the_map(tmp_path, form, grid):
    """Drawn again on the map, polygons are every pixel of the mask, with its coordinate system and attributes."""
    mask_YX = patches((150, 170))
    frame = read(exported(tmp_path, mask_YX, meta_of(mask_YX, grid), format=form))
    np.testing.assert_array_equal(drawn(frame, mask_YX.shape, GRIDS[grid][0] if grid else None), mask_YX)
    assert frame.is_valid.all()
    assert frame.id.tolist() == list(range(1, len(frame) + 1))
    assert frame["class"].tolist() == [CLASSES[at]["name"] for at in frame.class_id]
    assert frame.area_px.sum() == (mask_YX != 255).sum()
    if grid:
        assert frame.crs.equals(rasterio.CRS.from_user_input(GRIDS[grid][1]).to_wkt(version="WKT2_2019"), ignore_axis_order=True)
    else:
        assert "area_m2" not in frame.columns
        assert frame.crs is None or not frame.crs.to_epsg()


@pytest.mark.parametrize("grid", GRIDS)
def test_areas_are_those_on_the_ground(tmp_path, grid):
    """Areas of projected maps are pixels times their size; of maps in degrees and web Mercator, those of an equal-area projection."""
    mask_YX = patches((150, 170))
    frame = read(exported(tmp_path, mask_YX, meta_of(mask_YX, grid)))
    (a, b, _, d, e, _), _ = GRIDS[grid]
    if grid in ("degrees", "web Mercator"):
        expected = frame.to_crs("EPSG:6933").area
    else:
        expected = frame.area_px * abs(a * e - b * d) * ((1200 / 3937) ** 2 if grid == "feet" else 1.0)
    np.testing.assert_allclose(frame.area_m2, expected, rtol=1e-6)


def test_micrometres(tmp_path):
    """An image of a microscope has areas in square micrometres, in pixels of the image at full resolution."""
    mask_YX = patches((60, 70))
    frame = read(exported(tmp_path, mask_YX, meta_of(mask_YX, pixel_size=(0.5, 0.25), unit="micrometer", own_factor=(4.0, 2.0))))
    np.testing.assert_allclose(frame.area_um2, frame.area_px * 0.125)
    np.testing.assert_allclose(frame.area, frame.area_px * 8)


@pytest.mark.parametrize("form", FORMATS)
def test_blocks_and_repetition_do_not_show(tmp_path, form):
    """A mask in blocks of any size, and one in memory, give the same bytes."""
    mask_YX = patches((300, 350))
    meta = meta_of(mask_YX, "north up")
    whole = exported(tmp_path / "whole", mask_YX, meta, format=form, simplify=1.0).read_bytes()
    for block in (64, 128):
        store = BlockStore(tmp_path / str(block), meta.header, block, meta.fill)
        store.create()
        for box in Grid(meta.shape, core=block, halo=0, block=block).blocks():
            store.write(box, mask_YX[box.y0 : box.y1, box.x0 : box.x1][None])
        assert exported(tmp_path / f"of {block}", mask_YX, meta, store, format=form, simplify=1.0).read_bytes() == whole


def rings_of(geometry):
    """Shells and holes of a geometry of GeoJSON."""
    polygons = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
    return [polygon[0] for polygon in polygons], [hole for polygon in polygons for hole in polygon[1:]]


def turn(ring):
    """Twice the area of a ring, positive if it is counterclockwise."""
    (x, y), (next_x, next_y) = np.array(ring[:-1]).T, np.array(ring[1:]).T
    return float((x * next_y - next_x * y).sum())


@pytest.mark.parametrize("grid", GRIDS)
def test_geojson_keeps_rfc_7946(tmp_path, grid):
    """Longitude and latitude, rings closed and in order, no member crs, at most 9 decimals, unique ids."""
    mask_YX = patches((80, 90))
    path = exported(tmp_path, mask_YX, meta_of(mask_YX, grid), format="geojson")
    content = json.loads(path.read_text())
    assert set(content) == {"type", "features"}
    for feature in content["features"]:
        assert set(feature) == {"type", "id", "properties", "geometry"}
        shells, holes = rings_of(feature["geometry"])
        assert all(ring[0] == ring[-1] and len(ring) >= 4 for ring in shells + holes)
        assert all(turn(ring) > 0 for ring in shells)
        assert all(turn(ring) < 0 for ring in holes)
        points_N2 = np.array([point for ring in shells + holes for point in ring])
        assert (np.abs(points_N2) <= (180, 90)).all()
        np.testing.assert_allclose(points_N2, np.round(points_N2, 9), rtol=0, atol=1e-13)
    assert len({feature["id"] for feature in content["features"]}) == len(content["features"])
    frame, on_map = read(path), read(exported(tmp_path, mask_YX, meta_of(mask_YX, grid)))
    assert frame.crs.to_epsg() == 4326
    assert frame.is_valid.all()
    back, there = frame.to_crs(on_map.crs).geometry.to_numpy(), on_map.geometry.to_numpy()
    assert shapely.area(shapely.symmetric_difference(back, there)).max() < 1e-3 * shapely.area(there).max()


def test_geojson_over_the_antimeridian(tmp_path):
    """A map over 180 degrees has polygons on both sides, none across (section 3.1.9)."""
    mask_YX = np.ones((20, 40), np.uint8)
    tags = map_tags(MapGrid((0.01, 0.0, 179.8, 0.0, -0.01, -16.0), rasterio.CRS.from_epsg(4326).to_wkt(version="WKT2_2019")))
    meta = meta_of(mask_YX, georeference=tags, unit="degree", pixel_size=(0.01, 0.01))
    (feature,) = json.loads(exported(tmp_path, mask_YX, meta, format="geojson").read_text())["features"]
    shape = shapely.geometry.shape(feature["geometry"])
    assert sorted(part.bounds for part in shape.geoms) == [(-180, -16.2, -179.8, -16), (179.8, -16.2, 180, -16)]


@pytest.mark.parametrize("name", ["polygons", "geojson", "geopackage", "geoparquet"])
def test_a_system_that_proj_does_not_know_has_no_degrees(name):
    """Refused when the run is planned, for every writer that may write longitude and latitude; its map coordinates can be written."""
    crs = rasterio.CRS.from_wkt('LOCAL_CS["site grid",UNIT["metre",1]]')
    tags = map_tags(MapGrid((1.0, 0.0, 500.0, 0.0, -1.0, 900.0), crs.to_wkt(version="WKT2_2019")))
    header = meta_of(patches((20, 30)), georeference=tags).header
    problem = build("writers", {"name": name, "coordinates": "wgs84"}).problem_with("a", header, "writers.1")
    assert "writers.1: found longitude and latitude for a, whose coordinate system is not known to PROJ" in str(problem)
    assert build("writers", {"name": name}).problem_with("a", header, "writers.1") is None


def test_geojson_needs_a_place(tmp_path):
    """Pixels have no longitude: refused when the run is planned and when it is written, with a way out."""
    mask_YX = patches((20, 30))
    meta = meta_of(mask_YX)
    with pytest.raises(InputError, match="without a georeference.*Use format: gpkg"):
        exported(tmp_path, mask_YX, meta, format="geojson")
    assert not list(tmp_path.rglob("*.geojson"))
    problem = Polygons(format="geojson").problem_with("a", meta.header, "writers.1")
    assert "found format: geojson, and a without a georeference" in str(problem)
    assert Polygons(format="geojson").problem_with("a", meta_of(mask_YX, "degrees").header, "writers.1") is None
    assert Polygons(format="fgb").problem_with("a", meta.header, "writers.1") is None
    with pytest.raises(InputError, match="RFC 7946 knows longitude and latitude alone"):
        build("writers", {"name": "polygons", "format": "geojson", "coordinates": "pixel"})


@pytest.mark.parametrize(
    ("name", "background", "has_zero"),
    [("water", None, True), ("Background", None, False), ("background", True, True), ("water", False, False)],
)
def test_class_zero(tmp_path, name, background, has_zero):
    """Class 0 has polygons unless it is the background; `background` says otherwise."""
    mask_YX = np.array([[0, 1]], np.uint8)
    classes = ({"id": 0, "name": name}, {"id": 1, "name": "land"})
    meta = MaskMeta((1, 2), classes=classes)
    frame = read(exported(tmp_path, mask_YX, meta, background=background))
    assert sorted(frame.class_id) == ([0, 1] if has_zero else [1])


@pytest.mark.parametrize("form", FORMATS)
def test_nothing_to_draw(tmp_path, form):
    """A mask without areas has a file with every attribute and no polygon."""
    mask_YX = np.full((20, 30), 255, np.uint8)
    path = exported(tmp_path, mask_YX, meta_of(mask_YX, "north up"), format=form)
    if form == "parquet":
        assert {"id", "class_id", "class", "area_px", "area_m2", "geometry"} <= set(parquet.read_schema(path).names)
        assert parquet.read_metadata(path).num_rows == 0
    elif form == "geojson":
        assert json.loads(path.read_text()) == {"type": "FeatureCollection", "features": []}
    else:
        info = pyogrio.read_info(path, force_feature_count=True)
        assert (info["features"], info["layer_name"]) == (0, "classes")
        assert info["fields"].tolist() == ["id", "class_id", "class", "area_px", "area_m2"]


def test_a_stack(tmp_path):
    """Areas of a stack know their plane, and ids go on from plane to plane."""
    masks = np.stack([patches((40, 50), seed=seed) for seed in range(6)])
    meta = MaskMeta((40, 50), planes={"t": 2, "z": 3}, classes=CLASSES)
    frame = read(exported(tmp_path, masks, meta))
    assert frame.id.tolist() == list(range(1, len(frame) + 1))
    for plane, mask_YX in enumerate(masks):
        chosen = frame[(frame.t == plane // 3) & (frame.z == plane % 3)]
        np.testing.assert_array_equal(drawn(chosen, (40, 50), None), mask_YX)


@pytest.mark.parametrize("form", FORMATS)
def test_objects(tmp_path, form):
    """Where objects are told apart, polygons are objects with the columns of their table; `of: classes` keeps to classes."""
    ids_YX = cells((100, 120), 40)
    meta = meta_of(ids_YX, "north up")
    view = view_of(ids_YX, rows=7, georeference=meta.georeference)
    mask_YX = np.where(ids_YX == 0, 0, 1 + (ids_YX + 1) % 2).astype(np.uint8)
    meta = meta_of(mask_YX, "north up", objects=view)
    frame = read(exported(tmp_path, mask_YX, meta, format=form))
    assert frame.id.tolist() == list(range(1, ids_YX.max() + 1))
    assert set(frame["class"]) == {"nucleus", "axon"}
    assert frame.area_px.tolist() == np.bincount(ids_YX.ravel())[1:].tolist()
    if form != "geojson":
        transform = rasterio.Affine(*GRIDS["north up"][0])
        again_YX = features.rasterize(zip(frame.geometry, frame.id, strict=True), ids_YX.shape, transform=transform, dtype="uint32")
        np.testing.assert_array_equal(again_YX, ids_YX)
    classes = read(exported(tmp_path, mask_YX, meta, format=form, of="classes"))
    assert {"class_id", "area_m2"} <= set(classes.columns)
    assert Polygons(of="objects").needs_objects
    with pytest.raises(InputError, match="Set `instances`"):
        exported(tmp_path, mask_YX, meta_of(mask_YX, "north up"), of="objects")


def test_a_geopackage_of_objects_is_the_same_file(tmp_path):
    """The writer `geopackage` is short for polygons of objects."""
    ids_YX = cells((100, 120), 40)
    view = view_of(ids_YX)
    mask_YX, meta = np.zeros(ids_YX.shape, np.uint8), MaskMeta(ids_YX.shape, objects=view)
    ours = exported(tmp_path, mask_YX, meta, of="objects")
    GeoPackage().export(ArrayRaster(mask_YX), meta, LocalStorage(tmp_path), "b.gpkg")
    assert (tmp_path / "b.gpkg").read_bytes() == ours.read_bytes()


@pytest.mark.parametrize("form", ["gpkg", "parquet", "fgb"])
def test_simple_edges_on_the_map(tmp_path, form):
    """Simplified polygons fit together in the file, and areas still count pixels."""
    mask_YX = patches((150, 170))
    meta = meta_of(mask_YX, "rotated")
    whole, simple = (read(exported(tmp_path, mask_YX, meta, format=form, simplify=simplify)) for simplify in (0, 1.5))
    assert shapely.coverage_is_valid(whole.geometry.explode().to_numpy())
    assert shapely.coverage_is_valid(simple.geometry.explode().to_numpy())
    assert simple.area_m2.tolist() == whole.area_m2.tolist()
    assert simple.count_coordinates().sum() < 0.8 * whole.count_coordinates().sum()


def test_qupath_geojson_names_an_own_coordinate_system(tmp_path):
    """GeoJSON in map coordinates without an EPSG code names the system by its text, and GDAL reads it."""
    mask_YX = patches((50, 60))
    GeoJson().export(ArrayRaster(mask_YX), meta_of(mask_YX, "own"), LocalStorage(tmp_path), "a.geojson")
    assert geopandas.read_file(tmp_path / "a.geojson").crs.equals(rasterio.CRS.from_user_input(OWN).to_wkt(version="WKT2_2019"))


def test_a_map_of_buildings(tmp_path):
    """A published map: pixels of each class are its area within 1e-6 as pixels count, and within 0.5 % by geopandas."""
    if not (folder := os.environ.get("GIGASEG_TEST_DATA")):
        pytest.skip("GIGASEG_TEST_DATA is not set")
    path = Path(folder, "aerial", "banepa-buildings", "val_mask.tif")
    with build("readers", {"name": "auto"}).open(str(path)) as raster:
        header = raster.header
        options = {name: getattr(header, name) for name in ("shape", "dtype", "pixel_size", "unit", "offset", "georeference")}
        meta = MaskMeta(classes=({"name": "background"}, {"name": "building"}), **options)
        Polygons(background=True).export(raster, meta, LocalStorage(tmp_path), "a.gpkg")
    frame = geopandas.read_file(tmp_path / "a.gpkg")
    with rasterio.open(path) as file:
        mask_YX, transform, crs = file.read(1), file.transform, file.crs
    again_YX = features.rasterize(
        zip(frame.geometry, frame.class_id, strict=True), mask_YX.shape, fill=255, transform=transform, dtype="uint8"
    )
    np.testing.assert_array_equal(again_YX, mask_YX)
    equal_area = frame.to_crs("EPSG:6933").area
    for value in np.unique(mask_YX[mask_YX != 255]):
        chosen = frame.class_id == value
        assert frame.area_px[chosen].sum() == (mask_YX == value).sum()
        assert frame.area_m2[chosen].sum() == pytest.approx(equal_area[chosen].sum(), rel=5e-3)
        if crs.is_projected and crs.to_epsg() != 3857:
            assert frame.area_m2[chosen].sum() == pytest.approx((mask_YX == value).sum() * abs(transform.determinant), rel=1e-6)
