"""Areas of classes and zones: those of a whole-image reference, in every run that ends, however it went."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.engine.areas import count_areas
from pipeline.engine.job import Job
from pipeline.geometry import Box
from pipeline.inputs import Image
from pipeline.inputs.zones import ImageZones
from pipeline.raster import Header, row_areas
from pipeline.records import Block, latest, read_rows
from pipeline.statistics import AreaSums
from tests.conftest import blobs, save_tiff
from tests.oracle.interrupted_runs import ending_after

rasterio = pytest.importorskip("rasterio", reason="zones and maps need the extra `geo`")
pytest.importorskip("rasterio.features", reason="zones and maps need the extra `geo`")
shapely = pytest.importorskip("shapely", reason="zones need the extra `geo`")
pytest.importorskip("pyogrio", reason="zones need the extra `geo`")
from pipeline.polygons import PolygonLayer  # noqa: E402 - after the check that its packages are there

SCHEMA = json.loads((Path(__file__).parents[1] / "spec" / "report.schema.json").read_text())
BANEPA = Path(os.environ.get("GIGASEG_TEST_DATA", "")) / "aerial" / "banepa-buildings"
needs_data = pytest.mark.skipif(not BANEPA.is_dir(), reason="GIGASEG_TEST_DATA names no folder with aerial/banepa-buildings")
KEYS = {
    "model": {"name": "identity", "classes": 3},
    "normalize": None,
    "tiling": {"core": 64, "halo": 0, "block": 64},
    "images": ["img/*.tif"],
}
DEGREES = (1.2e-5, 0, 85.5, 0, -1.5e-5, 27.6)
MERCATOR = (0.1493, 0, 9519926.0, 0, -0.1493, 3202635.0)
UTM = (0.5, 0, 3e5, 0, -0.5, 3e6)
HEIGHT, WIDTH = 150, 211


def save_map(path, pixels_YX, crs, matrix):
    """Write a GeoTIFF of tiles."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = pixels_YX.shape
    kind = {"driver": "GTiff", "count": 1, "dtype": pixels_YX.dtype.name, "tiled": True, "blockxsize": 64, "blockysize": 64}
    with rasterio.open(path, "w", width=width, height=height, crs=crs, transform=rasterio.Affine(*matrix), **kind) as file:
        file.write(pixels_YX, 1)


def ids_of(seed=1, shape=(HEIGHT, WIDTH)):
    """Class ids with some pixels of no prediction."""
    ids_YX = (blobs(shape, seed=seed) // 86).astype(np.uint8)
    ids_YX[7:19, 30:45] = 255
    return ids_YX


def polygons():
    """Names and polygons in pixels: overlapping ones, one of two parts that overlap, one with a hole, one beyond the edge."""
    ring = shapely.Polygon([(20.3, 60.1), (150.7, 60.2), (150.9, 140.4), (20.6, 139.8)], [[(60, 80), (100, 80), (100, 120), (60, 120)]])
    return [
        ("north", shapely.box(3.2, 4.4, 120.6, 70.3)),
        ("parts", shapely.box(100.2, 20.6, 160.3, 64.9)),
        ("parts", shapely.Point(150, 60).buffer(31.3)),
        ("ring", ring),
        ("edge", shapely.box(180.4, 100.2, 400.0, 333.0)),
        ("nowhere", shapely.box(500, 500, 600, 600)),
    ]


def save_zones(path, crs, matrix, named=None):
    """Write polygons in the coordinates of a map, or in pixels where there is none."""
    a, _, c, _, e, f = matrix or (1, 0, 0, 0, 1, 0)
    features = []
    for name, polygon in polygons() if named is None else named:
        placed = shapely.transform(polygon, lambda corners: corners * (a, e) + (c, f))
        features.append({"type": "Feature", "properties": {"name": name}, "geometry": json.loads(shapely.to_geojson(placed))})
    member = {"crs": {"type": "name", "properties": {"name": crs}}} if crs else {}
    path.write_text(json.dumps({"type": "FeatureCollection", **member, "features": features}))


def reference(ids_YX, areas_Y, named=None):
    """Return pixels and area of each zone and code, by rasterio on the whole image; codes are the classes, then no prediction."""
    codes_YX, found = np.where(ids_YX == 255, 3, ids_YX), {}
    covered = {}
    for name, polygon in polygons() if named is None else named:
        inside_YX = rasterio.features.geometry_mask([polygon], ids_YX.shape, rasterio.Affine.identity(), invert=True)
        covered[name] = covered.get(name, False) | inside_YX
    covered["outside"] = ~np.any(list(covered.values()), axis=0)
    for name, inside_YX in covered.items():
        pixels = [int((inside_YX & (codes_YX == code)).sum()) for code in range(4)]
        areas = [float(((inside_YX & (codes_YX == code)).sum(axis=1) * areas_Y).sum()) for code in range(4)]
        if any(pixels):
            found[name] = pixels, areas
    return found


def assert_zones(zones, expected, unit="meter"):
    assert [zone["zone"] for zone in zones] == [*sorted(expected.keys() - {"outside"}), "outside"]
    for zone in zones:
        pixels, areas = expected[zone["zone"]]
        assert [one["pixels"] for one in zone["classes"]] == pixels[:3]
        assert (zone["no_prediction"], zone["pixels"], zone["unit"]) == (pixels[3], sum(pixels), unit)
        if unit is not None:
            assert [one["area"] for one in zone["classes"]] == pytest.approx(areas[:3], rel=1e-8)
            assert zone["area"] == pytest.approx(sum(areas), rel=1e-8)
            assert [one["share"] for one in zone["classes"]] == pytest.approx(np.array(areas[:3]) / sum(areas[:3]))


def areas_at(crs, matrix, shape=(HEIGHT, WIDTH)):
    from pipeline.raster import MapGrid, map_scale, map_tags

    tags = map_tags(MapGrid(matrix, rasterio.CRS.from_string(crs).to_wkt(version="WKT2_2019")))
    size, unit, _ = map_scale(tags)
    header = Header(shape, 1, "uint8", pixel_size=size, unit=unit, georeference=tags)
    return row_areas(header, 0, shape[0])


@pytest.mark.parametrize(("crs", "matrix"), [("EPSG:4326", DEGREES), ("EPSG:3857", MERCATOR), ("EPSG:32645", UTM)])
def test_zones_are_those_of_a_reference(tmp_path, engine, crs, matrix):
    """Pixels exactly and areas to 1e-8, pooled over two images by name; classes too, also where the truth is."""
    for name in "ab":
        save_map(tmp_path / "img" / f"{name}.tif", ids_of(ord(name)), crs, matrix)
        save_map(tmp_path / "truth" / f"{name}.tif", ids_of(3), crs, matrix)
    save_zones(tmp_path / "z.geojson", crs, matrix)
    classes = [{"name": name} for name in ("low", "middle", "high")]
    zones = {"path": "z.geojson", "attribute": "name"}
    done = engine(**KEYS, zones=zones, truth="truth/{name}.tif", ignore=255, classes=classes)
    assert done.code == 0
    jsonschema.validate({**done.report, "timing": {}}, SCHEMA)
    areas_Y = areas_at(crs, matrix)
    one, other = (reference(ids_of(ord(name)), areas_Y) for name in "ab")
    assert_zones(done.report["per_image"][0]["zones"], one)
    pooled = {name: tuple(np.add(one[name][part], other[name][part]).tolist() for part in (0, 1)) for name in one}
    assert_zones(done.report["zones"], pooled)
    image = done.report["per_image"][0]
    for index, row in enumerate(image["areas"]["classes"]):
        assert row["predicted"] == pytest.approx(float(((ids_of(ord("a")) == index).sum(axis=1) * areas_Y).sum()), rel=1e-8)
        counted_YX = (ids_of(3) == index) & (ids_of(ord("a")) != 255)
        assert row["truth"] == pytest.approx(float((counted_YX.sum(axis=1) * areas_Y).sum()), rel=1e-8)
    assert image["areas"]["all"] == pytest.approx(areas_Y.sum() * WIDTH)
    assert image["areas"]["no_prediction"] == pytest.approx(((ids_of(ord("a")) == 255).sum(axis=1) * areas_Y).sum(), rel=1e-6)
    assert done.report["areas"]["all"] == pytest.approx(2 * areas_Y.sum() * WIDTH)
    assert "numbers" not in image


def test_the_tables_say_the_same(tmp_path, engine, capsys):
    """areas.csv has a row an image and class, zones.csv a row a zone and class; the terminal has both in a line, the page a table."""
    save_map(tmp_path / "img" / "a.tif", ids_of(), "EPSG:32645", UTM)
    save_zones(tmp_path / "z.geojson", "EPSG:32645", UTM)
    done = engine(**KEYS, zones={"path": "z.geojson", "attribute": "name"})
    told = capsys.readouterr().out
    rows = list(csv.DictReader(io.StringIO((done.folder / "report" / "zones.csv").read_text())))
    for zone in done.report["zones"]:
        mine = [row for row in rows if row["zone"] == zone["zone"]]
        assert [int(row["pixels"]) for row in mine] == [*(one["pixels"] for one in zone["classes"]), zone["no_prediction"]]
        assert sum(float(row["area"]) for row in mine) == pytest.approx(zone["area"])
        assert {row["unit"] for row in mine} == {"m2"}
        assert sum(float(row["share"] or 0) for row in mine) == pytest.approx(1)
    rows = list(csv.DictReader(io.StringIO((done.folder / "report" / "areas.csv").read_text())))
    assert [row["class"] for row in rows] == ["class 0", "class 1", "class 2", "no prediction"]
    assert sum(float(row["area"]) for row in rows) == pytest.approx(done.report["areas"]["all"])
    assert "areas: class" in told
    assert "m²" in told
    assert "zones: 4 zones" in told
    page = (done.folder / "report" / "index.html").read_text()
    assert 'id="zones"' in page
    assert all(f'<a href="{name}">' in page for name in ("areas.csv", "zones.csv"))
    assert "change.csv" not in page


def test_zones_of_images_without_a_place(tmp_path, engine):
    """Polygons in pixels: pixels alone are counted; with the size of a pixel, square micrometres, also on a coarser grid."""
    save_tiff(tmp_path / "img" / "a.tif", ids_of())
    save_zones(tmp_path / "z.geojson", "", None)
    zones = {"path": "z.geojson", "attribute": "name"}
    expected = reference(ids_of(), np.full(HEIGHT, 1.0))
    done = engine(**KEYS, zones=zones)
    assert_zones(done.report["zones"], expected, unit=None)
    assert done.report["areas"] is None
    assert {zone["area"] for zone in done.report["zones"]} == {None}
    sized = engine(**KEYS, zones=zones, reader={"name": "auto", "pixel_size": 0.5}, output="sized")
    assert_zones(sized.report["zones"], reference(ids_of(), np.full(HEIGHT, 0.25)), unit="micrometer")
    coarse = engine(**KEYS, zones=zones, reader={"name": "auto", "pixel_size": 0.5}, resolution={"pixel_size": 1.0}, output="coarse")
    for fine, rough in zip(sized.report["zones"], coarse.report["zones"], strict=True):
        assert rough["zone"] == fine["zone"]
        assert rough["area"] == pytest.approx(fine["area"], rel=0.05)


def test_zones_of_their_own_for_each_image(tmp_path, engine):
    """`{stem}` names a file for each image; without an attribute a zone is called by its number; an image without a file is told."""
    for name in "abc":
        save_map(tmp_path / "img" / f"{name}.tif", ids_of(ord(name)), "EPSG:32645", UTM)
    boxes = {"a": shapely.box(0, 0, 40, 40), "b": shapely.box(50, 50, 90, 90)}
    for name, box in boxes.items():
        save_zones(tmp_path / f"{name}.geojson", "EPSG:32645", UTM, [("x", box)])
    done = engine(**KEYS, zones="{stem}.geojson")
    found = {one["name"]: [zone["pixels"] for zone in one.get("zones", ())] for one in done.report["per_image"]}
    assert found == {"a": [1600, HEIGHT * WIDTH - 1600], "b": [1600, HEIGHT * WIDTH - 1600], "c": []}
    assert [zone["zone"] for zone in done.report["zones"]] == ["0", "outside"]
    assert any("c: no file of zones" in note for note in done.run_json["notes"])


def phases_of(done):
    """Return how many receipts of each phase the ledger has, replaced ones included."""
    rows = [row.phase for row in read_rows(done.folder / "ledger") if hasattr(row, "phase")]
    return {name: rows.count(name) for name in set(rows)}


@pytest.mark.parametrize("more", [{"writers": ["tiff"]}, {"writers": ["cog"]}, {"masks": "native", "resolution": {"scale": 0.5}}])
def test_changed_zones_are_counted_again_and_nothing_is_predicted(tmp_path, engine, more):
    """Another file, another attribute, no zones and zones again: the report is that of a new run, and the masks stay."""
    for name, matrix in {"a": DEGREES, "b": DEGREES}.items():
        shape = (HEIGHT, WIDTH) if name == "a" else (60, 60)
        save_map(tmp_path / "img" / f"{name}.tif", ids_of(ord(name), shape) % 255, "EPSG:4326", matrix)  # whose means are class ids
    save_zones(tmp_path / "z.geojson", "EPSG:4326", DEGREES)
    keys = {**KEYS, **more}
    first = engine(**keys, zones={"path": "z.geojson", "attribute": "name"})
    blocks = phases_of(first)
    assert first.code == 0
    save_zones(tmp_path / "z.geojson", "EPSG:4326", DEGREES, [("other", shapely.box(1, 2, 33, 44))])
    again = engine(**keys, zones={"path": "z.geojson", "attribute": "name"})
    assert phases_of(again) == {**blocks, "count_areas": 2 * blocks["count_areas"]}
    assert [zone["zone"] for zone in again.report["zones"]] == ["other", "outside"]
    new = engine(**keys, zones={"path": "z.geojson", "attribute": "name"}, output="new")
    assert again.report == new.report
    assert all(one["areas"]["predicted"] for one in new.report["per_image"])
    without = engine(**keys)
    assert "zones" not in without.report
    assert without.report["areas"] == new.report["areas"]
    back = engine(**keys, zones="z.geojson")
    assert [zone["zone"] for zone in back.report["zones"]] == ["0", "outside"]
    assert phases_of(back)["predict"] == blocks["predict"]
    assert engine(**keys, zones="z.geojson").code == 0
    assert phases_of(back) == phases_of(engine(**keys, zones="z.geojson"))


@pytest.mark.parametrize("stop", [3, 16, 21])
def test_an_interrupted_run_ends_as_an_undisturbed_one(tmp_path, engine, stop):
    """Wherever it stops, and also where the zones have changed meanwhile: the counts of a run that was not disturbed."""
    save_map(tmp_path / "img" / "a.tif", ids_of(), "EPSG:3857", MERCATOR)
    save_zones(tmp_path / "old.geojson", "EPSG:3857", MERCATOR, [("old", shapely.box(10, 10, 90, 90))])
    save_zones(tmp_path / "z.geojson", "EPSG:3857", MERCATOR)
    zones = {"path": "z.geojson", "attribute": "name"}
    whole = engine(**KEYS, zones=zones, output="whole")
    with ending_after(stop, None):
        assert engine(**KEYS, zones={"path": "old.geojson", "attribute": "name"}).code == 130
    with ending_after(2, None):
        engine(**KEYS, zones=zones)
    if (tmp_path / "out" / "report" / "report.json").exists():
        names = {zone["zone"] for zone in json.loads((tmp_path / "out" / "report" / "report.json").read_text()).get("zones", ())}
        assert "old" not in names, "what was counted of other zones is in no report"
    done = engine(**KEYS, zones=zones)
    assert done.code == 0
    assert done.report == whole.report


def test_ray_agrees_with_serial(tmp_path, engine):
    """Two actors, maps in degrees and in metres: the report and the receipts of the serial run."""
    save_map(tmp_path / "img" / "a.tif", ids_of(), "EPSG:4326", DEGREES)
    save_map(tmp_path / "img" / "b.tif", ids_of(5, (70, 90)), "EPSG:4326", DEGREES)
    save_zones(tmp_path / "z.geojson", "EPSG:4326", DEGREES)
    zones = {"path": "z.geojson", "attribute": "name"}
    serial = engine(**KEYS, zones=zones, output="serial")
    ray = engine(**KEYS, zones=zones, compute={"runner": "ray", "actors": 2}, output="ray")
    assert (serial.code, ray.code) == (0, 0)
    assert len(serial.report["zones"]) == 5
    assert ray.report == serial.report
    numbers = [{key: row.numbers for key, row in latest(read_rows(done.folder / "ledger")).items()} for done in (serial, ray)]
    assert numbers[0] == numbers[1]


def test_zones_that_change_meanwhile_fail_their_blocks(tmp_path, engine, monkeypatch):
    """As an image that changes: exit 3 with the file's name, and the next run counts the new zones."""
    save_map(tmp_path / "img" / "a.tif", ids_of(), "EPSG:32645", UTM)
    save_zones(tmp_path / "z.geojson", "EPSG:32645", UTM)
    zones = {"path": "z.geojson", "attribute": "name"}
    from pipeline.engine.phases.count_areas import CountAreas

    load = CountAreas.load

    def change_and_load(self, *given):
        save_zones(tmp_path / "z.geojson", "EPSG:32645", UTM, [("new", shapely.box(0, 0, 5.5, 5.5))])
        return load(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(CountAreas, "load", change_and_load)
        done = engine(**KEYS, zones=zones)
    assert done.code == 3
    assert "z.geojson: changed while it was read" in done.report["failures"][0]["cause"]
    done = engine(**KEYS, zones=zones)
    assert done.code == 0
    assert [zone["zone"] for zone in done.report["zones"]] == ["new", "outside"]


def test_a_quarantined_block_has_no_prediction(tmp_path, engine):
    """A value that is no class fails its block: its pixels are in their zones, without a prediction; nothing is reported twice."""
    ids_YX = ids_of()
    ids_YX[70, 70] = 9
    save_map(tmp_path / "img" / "a.tif", ids_YX, "EPSG:4326", DEGREES)
    save_zones(tmp_path / "z.geojson", "EPSG:4326", DEGREES)
    done = engine(**KEYS, zones={"path": "z.geojson", "attribute": "name"})
    assert done.code == 3
    assert [one["phase"] for one in done.report["failures"]] == ["predict"]
    ids_YX[64:128, 64:128] = 255
    assert_zones(done.report["zones"], reference(ids_YX, areas_at("EPSG:4326", DEGREES)))


def test_masks_that_exist_have_areas_too(tmp_path):
    """`evaluate` counts the areas of maps in degrees by row, of predictions and truth."""
    save_map(tmp_path / "p" / "a.tif", ids_of(), "EPSG:4326", DEGREES)
    save_map(tmp_path / "t" / "a.tif", ids_of(3), "EPSG:4326", DEGREES)
    command = [sys.executable, "-m", "pipeline", "evaluate", "--pred", str(tmp_path / "p"), "--truth", str(tmp_path / "t")]
    subprocess.run([*command, "--ignore", "255", "-o", str(tmp_path / "out")], check=True, capture_output=True)
    report = json.loads((tmp_path / "out" / "report" / "report.json").read_text())
    areas_Y = areas_at("EPSG:4326", DEGREES)
    for index, row in enumerate(report["areas"]["classes"]):
        assert row["predicted"] == pytest.approx(float(((ids_of() == index).sum(axis=1) * areas_Y).sum()), rel=1e-8)
        assert row["truth"] == pytest.approx(float((((ids_of(3) == index) & (ids_of() != 255)).sum(axis=1) * areas_Y).sum()), rel=1e-8)


CORNER = st.tuples(st.floats(-20, 90), st.floats(-20, 620))
RINGS = st.lists(st.tuples(st.sampled_from("xyz"), st.lists(CORNER, min_size=3, max_size=6)), min_size=1, max_size=5)
ON_EDGE = [("x", [(0.0, 0.0), (0.0, 1.0), (8.571088575727785, 8.571088575727785)])]
"""A polygon with an edge through the centres of pixels."""
SHORT_EDGE = [("x", [(0.0, 0.0), (0.0, 3.0), (1.0, -2.225073858507203e-309), (0.0, 0.0), (1.0, 0.0)])]
"""A polygon with an edge whose length is no normal float."""


def has_centre_on_edge(polygon, shape):
    """Whether the centre of a pixel lies on the edge of a polygon, up to rounding: GDAL then decides by where its window begins."""
    xs, ys = np.meshgrid(np.arange(shape[1]) + 0.5, np.arange(shape[0]) + 0.5)
    with np.errstate(divide="ignore", invalid="ignore"):  # an edge may be so short that its squared length is zero
        distances = shapely.distance(polygon.boundary, shapely.points(xs.ravel(), ys.ravel()))
    return not bool((distances >= 1e-9).all())


@settings(deadline=None, max_examples=40)
@example(shapes=ON_EDGE, row_cuts=[1, 4, 5], col_cuts=[3])
@example(shapes=SHORT_EDGE, row_cuts=[], col_cuts=[])
@given(shapes=RINGS, row_cuts=st.lists(st.integers(1, 599), max_size=3), col_cuts=st.lists(st.integers(1, 69), max_size=3))
def test_any_cut_gives_the_same_counts(shapes, row_cuts, col_cuts):
    """Random polygons and names over any blocks: integers, equal to those of the whole image, and to a numpy reference."""
    height, width = 600, 70
    named = [(name, polygon) for name, ring in shapes if (polygon := shapely.Polygon(ring).buffer(0)).area > 1]
    names = [name for name, _ in named]
    layer = PolygonLayer(np.array([polygon for _, polygon in named], object), None, np.arange(len(named)), (height, width))
    zones = ImageZones(layer, names, frozenset(name for name in names if names.count(name) > 1))
    tags = {"34264": {"value": [1e-4, 0, 0, 5, 0, -2e-4, 0, 61, 0, 0, 0, 0, 0, 0, 0, 1]}, "34735": {"value": [1, 1, 0, 1, 1024, 0, 1, 2]}}
    header = Header((height, width), 1, "uint8", pixel_size=(2e-4, 1e-4), unit="degree", georeference=tags)
    image, job = Image(0, "a", "/a.tif", header, {}), Job("memory://areas", recipe=None, classes=[{}] * 3)
    ids_YX = ids_of(2, (height, width))

    def sums(box):
        counted = count_areas(job, Block("count_areas", image, 0, 0, 0, box), ids_YX[box.slices], None, zones)
        return counted.numbers("k")

    rows, cols = sorted({0, height, *row_cuts}), sorted({0, width, *col_cuts})
    total = dict.fromkeys(sums(Box(0, 0, height, width)), 0)
    for y0, y1 in itertools.pairwise(rows):
        for x0, x1 in itertools.pairwise(cols):
            for name, number in sums(Box(y0, x0, y1, x1)).items():
                total[name] += number
    assert total == sums(Box(0, 0, height, width))
    if any(has_centre_on_edge(polygon, (height, width)) for _, polygon in named):
        return  # GDAL gives the reference another answer on the edge than in the windows of the layer
    found = AreaSums.from_numbers(total.items(), "k", 4, has_areas=True)
    assert {name: counts.pixels for name, counts in found.zones.items()} == {
        name: pixels
        for name, (pixels, _) in reference(ids_YX, np.ones(height), named or [("x", shapely.box(-9, -9, -8, -8))]).items()
        if name != "outside"
    }


@pytest.mark.parametrize(("crs", "matrix"), [("EPSG:4326", DEGREES), ("EPSG:3857", MERCATOR)])
def test_objects_are_measured_on_the_ground(tmp_path, engine, crs, matrix):
    """Areas are those of the rows, add up to the report's, and belong to the perimeter and the diameter in metres."""
    import pyarrow.parquet as pq
    from skimage.measure import perimeter_crofton

    ids_YX = np.zeros((HEIGHT, WIDTH), np.uint8)
    ids_YX[5:65, 10:90] = ids_YX[90:145, 150:200] = 1
    ids_YX[100:112, 20:32] = 2
    save_map(tmp_path / "img" / "a.tif", ids_YX, crs, matrix)
    done = engine(**KEYS, instances={"name": "components"})
    table = pq.read_table(done.folder / "objects" / "a.parquet")
    found, areas_Y = table.to_pydict(), areas_at(crs, matrix)
    for index, (y0, x0, y1, x1) in enumerate([(5, 10, 65, 90), (90, 150, 145, 200), (100, 20, 112, 32)]):
        assert found["area_m2"][index] == pytest.approx((x1 - x0) * areas_Y[y0:y1].sum(), rel=1e-9)
        side = np.sqrt(areas_Y[y0:y1].mean())
        assert found["equivalent_diameter_m"][index] == pytest.approx(found["equivalent_diameter_px"][index] * side, rel=1e-9)
        drawn = perimeter_crofton(np.pad(ids_YX[y0:y1, x0:x1] > 0, 2), directions=4)
        assert found["perimeter_px"][index] == pytest.approx(drawn)
        assert found["perimeter_m"][index] == pytest.approx(drawn * side, rel=0.06), "pixels are 7 % wider than high at most"
    classes = done.report["areas"]["classes"]
    assert sum(found["area_m2"]) == pytest.approx(classes[1]["predicted"] + classes[2]["predicted"], rel=1e-8)
    per_hectare = 1e4 / done.report["areas"]["predicted"] * 2
    assert done.report["instances"][0]["per_hectare"] == pytest.approx(per_hectare, rel=1e-6)
    assert {table.schema.field(name).metadata[b"unit"] for name in ("area_m2", "perimeter_m")} == {b"meter^2", b"meter"}


@needs_data
def test_buildings_have_the_area_that_geopandas_says(tmp_path, engine):
    """The footprints of Banepa, drawn and counted in web Mercator, cover what they do in an equal-area projection, to 0.5 %."""
    geopandas = pytest.importorskip("geopandas", reason="the oracle of areas")
    keys = {"images": [str(BANEPA / "val_mask.tif")], "model": {"name": "identity", "classes": 2}, "normalize": None}
    done = engine(**keys, tiling={"core": 512, "halo": 0, "block": 512}, zones=str(BANEPA / "val_buildings.geojson"))
    with rasterio.open(BANEPA / "val_mask.tif") as file:
        frame = shapely.box(*file.bounds)
    footprints = geopandas.read_file(BANEPA / "val_buildings.geojson").to_crs(3857).clip(frame)
    true = geopandas.GeoSeries([footprints.union_all()], crs=3857).to_crs("+proj=laea +lat_0=27.63 +lon_0=85.52").area.sum()
    found = next(one["predicted"] for one in done.report["areas"]["classes"] if one["class"] == "class 1")
    assert found == pytest.approx(true, rel=5e-3)
    outside = done.report["zones"][-1]
    assert outside["zone"] == "outside"
    assert done.report["areas"]["all"] - outside["area"] == pytest.approx(true, rel=5e-3)
    on_map = 0.14929107**2 * done.report["classes"][1]["predicted"]
    assert on_map / true > 1.25, "control: the area on the map is a quarter more"
