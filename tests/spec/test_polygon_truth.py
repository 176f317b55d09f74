"""Polygons as truth: their values and names, one file for many maps, and counts that are those of a mask of the same pixels."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import rasterio
import shapely
import yaml
from rasterio import Affine
from rasterio.features import rasterize
from shapely.geometry import box
from typer.testing import CliRunner

from pipeline.config import load_config
from pipeline.errors import InputError
from pipeline.geometry import Box
from pipeline.inputs import build_catalogue, open_truth
from pipeline.plugins import build
from pipeline.training.crops import Crops, ImageCache
from tests.conftest import blobs, engine_yaml, report_at, save_tiff
from tests.spec.test_polygons import write, write_json
from tests.training.scene import planned
from workflows.evaluate import evaluate
from workflows.run import run

NAMED = [{"name": "ground"}, {"name": "roof"}, {"name": "road"}]
HISTOGRAM = {"model": {"name": "histogram", "classes": 3}, "normalize": None, "tiling": {"core": 64, "halo": 0, "block": 64}}
SIDE = 200


def transform_of(left):
    """The grid of an image whose first pixel lies ``left`` pixels east of the origin, 0.5 m a pixel."""
    return Affine(0.5, 0, 500000 + left / 2, 0, -0.5, 4000000)


def save_map(path, pixels, left=0, code=32633):
    """A GeoTIFF in tiles."""
    options = {"driver": "GTiff", "count": 1, "dtype": pixels.dtype, "tiled": True, "blockxsize": 64, "blockysize": 64}
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", width=pixels.shape[1], height=pixels.shape[0], crs=f"EPSG:{code}", transform=transform_of(left), **options
    ) as out:
        out.write(pixels, 1)
    return path


def on_map(x0, y0, x1, y1):
    """A rectangle of pixels of the map, in its coordinates."""
    return box(500000 + x0 / 2, 4000000 - y1 / 2, 500000 + x1 / 2, 4000000 - y0 / 2)


GEOMETRIES = [on_map(10, 20, 70, 120), on_map(50.2, 90.7, 180.4, 150.1), on_map(150, 10, 190, 60).difference(on_map(160, 20, 170, 30))]


@pytest.fixture
def surveyed(tmp_path):
    """Survey a YAML of one map and its polygons: ``surveyed(columns, **keys)``."""

    def survey(columns=None, geometries=GEOMETRIES, **keys):
        save_map(tmp_path / "a.tif", blobs((SIDE, SIDE)))
        (tmp_path / "t.gpkg").unlink(missing_ok=True)
        write(tmp_path / "t.gpkg", geometries, **(columns or {}))
        return build_catalogue(load_config(engine_yaml(tmp_path, **{**HISTOGRAM, "classes": NAMED, "truth": "t.gpkg", **keys})))

    return survey


def truth_of(found, index=0):
    """The truth of one image as class ids, and as it is stored."""
    image = found.images[index]
    with open_truth(image) as raster:
        whole = Box(0, 0, *raster.header.shape)
        raw_CYX, valid_YX = raster.read_valid(whole)
        return found.truth_map.apply(raw_CYX, whole, valid_YX), raw_CYX[0]


def burnt(values, geometries=GEOMETRIES, left=0, **options):
    """What GDAL draws on the map."""
    return rasterize(list(zip(geometries, values, strict=True)), out_shape=(SIDE, SIDE), transform=transform_of(left), **options)


def test_without_an_attribute_polygons_are_class_1(surveyed):
    """Truth value 1, and 0 elsewhere, in the smallest type."""
    ids, raw = truth_of(surveyed())
    assert raw.dtype == np.uint8
    assert np.array_equal(ids, burnt([1, 1, 1]))


def test_all_touched_and_layer_come_from_the_yaml(surveyed, tmp_path):
    """The options of `truth` reach the drawing."""
    ids, _ = truth_of(surveyed(truth={"path": "t.gpkg", "layer": "t", "all_touched": True}))
    assert np.array_equal(ids, burnt([1, 1, 1], all_touched=True))
    with pytest.raises(InputError, match="Did you mean 't'"):
        surveyed(truth={"path": "t.gpkg", "layer": "tt"})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("classes", "stored"),
    [
        (NAMED, [0, 2, 1, 2]),
        ([{"name": "ground", "values": [7]}, {"name": "roof", "values": [4, 9]}, {"name": "road", "values": [0]}], [7, 0, 4, 0]),
    ],
    ids=["ids", "values"],
)
def test_names_are_the_classes_of_the_yaml(surveyed, classes, stored):
    """A text becomes the truth value of the class of this name; the rest is the class with id 0, whatever its value."""
    ids, raw = truth_of(surveyed({"kind": ["road", "roof", "road"]}, classes=classes, truth={"path": "t.gpkg", "attribute": "kind"}))
    assert np.array_equal(ids, burnt([2, 1, 2]))
    assert np.array_equal(raw, burnt(stored[1:], fill=stored[0]))


def test_names_may_be_those_of_the_model(surveyed, monkeypatch):
    """A model that names its classes needs no list in the YAML."""
    from pipeline.models.histogram import HistogramThreshold

    monkeypatch.setattr(HistogramThreshold, "class_list", property(lambda _: NAMED))
    found = surveyed({"kind": ["road", "roof", "road"]}, classes=None, truth={"path": "t.gpkg", "attribute": "kind"})
    assert np.array_equal(truth_of(found)[0], burnt([2, 1, 2]))


def test_numbers_are_truth_values(surveyed):
    """Whole numbers, also as floats, and true and false, go through `values` as those of a mask do."""
    classes = [{"name": "ground", "values": [0]}, {"name": "roof", "values": [30]}, {"name": "road", "values": "other"}]
    for column in ([30, -4, 70000], [30.0, -4.0, 70000.0]):
        ids, raw = truth_of(surveyed({"code": column}, classes=classes, truth={"path": "t.gpkg", "attribute": "code"}))
        assert np.array_equal(ids, burnt([1, 2, 2]))
        assert raw.dtype == np.int32
    ids, _ = truth_of(surveyed({"built": [True, False, True]}, truth={"path": "t.gpkg", "attribute": "built"}))
    assert np.array_equal(ids, burnt([1, 0, 1]))


@pytest.mark.usefixtures("tiles")
def test_what_is_wrong_for_many_images_is_told_once(tmp_path):
    """With the first of their names: a file that cannot be read for a thousand tiles gives one line."""
    keys = {**HISTOGRAM, "images": ["maps/"], "classes": NAMED, "truth": {"path": "t.gpkg", "attribute": "kinds"}}
    with pytest.raises(InputError) as refused:
        build_catalogue(load_config(engine_yaml(tmp_path, **keys)))
    (problem,) = refused.value.problems
    assert "t.gpkg: truth of a, b, c" in str(problem)
    assert ": found attribute 'kinds'" in str(problem)


def test_names_that_are_left_out(surveyed):
    """Polygons of the names in `ignore` count nowhere, also where they cover others."""
    spec = {"path": "t.gpkg", "attribute": "kind", "ignore": ["cloud"]}
    found = surveyed({"kind": ["road", "cloud", "roof"]}, truth=spec)
    assert np.array_equal(truth_of(found)[0], burnt([2, 255, 1]))
    assert any("1 polygon left out of every count: cloud" in note for note in found.notes)
    assert not any("nodata" in note for note in found.notes)  # nobody wrote the value that stands for these pixels
    with pytest.raises(InputError, match="ignore only with attribute"):
        surveyed(truth={"path": "t.gpkg", "ignore": ["cloud"]})


def test_wrong_names_are_told_at_once(surveyed, tmp_path):
    """Every unknown name with its number and the nearest class, and what to do; nothing is written."""
    spec = {"path": "t.gpkg", "attribute": "kind"}
    with pytest.raises(InputError) as refused:
        surveyed({"kind": ["raod", "x", "raod"]}, truth=spec)
    for words in ("'raod' (2 polygons), 'x' (1 polygon)", "ground, roof or road", "Did you mean 'road'?", "`ignore` beside `attribute`"):
        assert words in str(refused.value)
    with pytest.raises(InputError, match="the classes have none"):
        surveyed({"kind": ["road", "roof", "road"]}, classes=None, truth=spec)
    with pytest.raises(InputError, match="1 polygon without a value of 'kind'"):
        surveyed({"kind": ["road", None, "road"]}, truth=spec)
    with pytest.raises(InputError, match="1 polygon without a value of 'code'"):
        surveyed({"code": [1.0, np.nan, 2.0]}, truth={"path": "t.gpkg", "attribute": "code"})
    with pytest.raises(InputError, match="attribute 'kinds'.*kind"):
        surveyed({"kind": ["road", "roof", "road"]}, truth={"path": "t.gpkg", "attribute": "kinds"})
    assert not (tmp_path / "out").exists()


def test_polygons_of_another_place_are_refused(surveyed):
    """They would count as an image without any object."""
    with pytest.raises(InputError, match=r"all outside of the image.*EPSG:32633"):
        surveyed(geometries=[on_map(5000, 0, 5010, 10)])


def test_polygons_that_touch_are_separate_objects(surveyed):
    """Where a class takes all other values, each polygon has its own; else the objects are connected components, which is told."""
    touching = [on_map(10, 10, 50, 50), on_map(50, 10, 90, 50), on_map(10, 100, 50, 150)]
    classes = [{"name": "ground", "values": [0]}, {"name": "roof", "values": "other"}]
    keys = {"model": {"name": "histogram", "classes": 2}, "instances": "components", "metrics": ["instances"]}
    for columns, truth in ((None, "t.gpkg"), ({"kind": ["roof"] * 3}, {"path": "t.gpkg", "attribute": "kind"})):
        found = surveyed(columns, touching, classes=classes, truth=truth, **keys)
        assert found.images[0].truth_has_ids
        ids, raw = truth_of(found)
        assert np.array_equal(ids, burnt([1, 1, 1], touching))
        assert len(np.unique(raw)) == 4
    found = surveyed(None, touching, classes=[classes[0], {"name": "roof", "values": [1]}], **keys)
    assert not found.images[0].truth_has_ids
    assert any("connected components" in note for note in found.notes)


def test_label_images_are_scored_against_polygons(tmp_path):
    """`evaluate --instances`: two polygons that touch are two objects, and match the two labels."""
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[10:50, 10:50], labels[10:50, 50:90] = 4, 9
    save_map(tmp_path / "m.tif", labels)
    file = write(tmp_path / "t.gpkg", [on_map(10, 10, 50, 50), on_map(50, 10, 90, 50)])
    assert evaluate(str(tmp_path / "m.tif"), file, None, None, str(tmp_path / "scores"), instances=True) == 0
    (scores,) = report_at(tmp_path / "scores")["instances"]
    assert (scores["truth"], scores["predicted"], scores["mean_ap"], scores["pq"]) == (2, 2, 1.0, 1.0)


@pytest.fixture
def tiles(tmp_path):
    """Three maps side by side, the last one without a polygon, and polygons across their borders."""
    for number, name in enumerate("abc"):
        save_map(tmp_path / "maps" / f"{name}.tif", blobs((SIDE, SIDE), number), SIDE * number)
    geometries = [*GEOMETRIES, on_map(150, 160, 320, 190)]
    write(tmp_path / "t.gpkg", geometries, kind=["roof", "road", "roof", "road"])
    return geometries


def test_one_file_for_many_maps(tmp_path, tiles):
    """Each map gets its own part of a county's polygons; one without any is background, and nothing is said of a shared truth."""
    spec = {"path": "t.gpkg", "attribute": "kind"}
    found = build_catalogue(load_config(engine_yaml(tmp_path, **{**HISTOGRAM, "images": ["maps/"], "classes": NAMED, "truth": spec})))
    for index in range(3):
        assert np.array_equal(truth_of(found, index)[0], burnt([1, 2, 1, 2], tiles, SIDE * index))
    assert not any("share one truth" in note for note in found.notes)
    assert f"truth {tmp_path / 't.gpkg'} of c: no polygon lies in the image" in found.notes


def test_polygons_cross_the_tiles_of_a_mosaic(tmp_path, tiles):
    """Tiles that are one image have polygons as one map does."""
    keys = {**HISTOGRAM, "images": [{"mosaic": "maps/*.tif"}], "classes": NAMED, "truth": {"path": "t.gpkg", "attribute": "kind"}}
    found = build_catalogue(load_config(engine_yaml(tmp_path, **keys)))
    expected = np.hstack([burnt([1, 2, 1, 2], tiles, SIDE * index) for index in range(3)])
    assert np.array_equal(truth_of(found)[0], expected)


def test_one_file_of_pixels_for_one_image(tmp_path):
    """Pixels are those of one image: shared by several, they are refused; a file for each is found by its name or in a folder."""
    for name in "ab":
        save_tiff(tmp_path / "images" / f"{name}.tif", blobs((SIDE, SIDE)))
        (tmp_path / "truth").mkdir(exist_ok=True)
        write_json(tmp_path / "truth" / f"{name}.geojson", [box(10, 20, 30 + ord(name), 50)])
    keys = {**HISTOGRAM, "images": ["images/"], "classes": NAMED}
    with pytest.raises(InputError, match=r"polygons in pixels for 2 images: .*a\.tif.*Name a file for each image"):
        build_catalogue(load_config(engine_yaml(tmp_path, **keys, truth="truth/a.geojson")))
    for truth in ("truth/{stem}.geojson", "truth/", "truth/{stem}.*", {"path": "truth/{stem}.geojson"}):
        found = build_catalogue(load_config(engine_yaml(tmp_path, **keys, truth=truth)))
        assert [int((truth_of(found, index)[0] == 1).sum()) for index in (0, 1)] == [30 * (20 + ord(name)) for name in "ab"]
    with (tmp_path / "list.csv").open("w") as file:
        csv.writer(file).writerows([("image", "truth"), ("images/a.tif", "truth/a.geojson"), ("images/b.tif", "truth/b.geojson")])
    found = build_catalogue(load_config(engine_yaml(tmp_path, **{**keys, "images": ["list.csv"]})))
    assert [image.truth_reader["name"] for image in found.images] == ["polygons", "polygons"]


def test_planes_of_a_stack_share_the_polygons(tmp_path):
    """Polygons have no plane: every plane has them, and the plan says so."""
    save_tiff(tmp_path / "a.tif", blobs((64, 64), channels=3), photometric="minisblack")
    write_json(tmp_path / "t.geojson", [box(10, 20, 30, 50)])
    keys = {**HISTOGRAM, "classes": NAMED, "truth": "t.geojson", "reader": {"name": "auto", "axes": "zyx"}}
    found = build_catalogue(load_config(engine_yaml(tmp_path, **keys)))
    with open_truth(found.images[0]) as raster:
        assert [int(raster.read(Box(0, 0, 64, 64), plane).sum()) for plane in range(3)] == [600] * 3
    assert any("the same on every plane" in note for note in found.notes)


def test_polygons_alone_are_no_image(tmp_path):
    """A reader of polygons needs the grid of an image: the message says how they are named."""
    with pytest.raises(InputError, match="no pixels of their own.*`truth:"), build("readers", {"name": "polygons"}).open("a.gpkg"):
        pass
    save_tiff(tmp_path / "images" / "a.tif", blobs((64, 64)))
    write_json(tmp_path / "images" / "b.geojson", [box(10, 20, 30, 50)])
    found = build_catalogue(load_config(engine_yaml(tmp_path, **HISTOGRAM, images=["images/"])))
    assert [image.name for image in found.images] == ["a"]


def without_times(report):
    """A report without what differs between runs."""
    return {key: report[key] for key in ("confusion", "classes", "mean_iou")}


def test_a_run_counts_polygons_as_it_counts_a_mask(tmp_path):
    """A run and an evaluation, each of many blocks, give the counts of a mask with the same pixels."""
    save_map(tmp_path / "a.tif", blobs((SIDE, SIDE)))
    save_map(tmp_path / "m.tif", burnt([2, 1, 2]).astype(np.uint8))
    write(tmp_path / "t.gpkg", GEOMETRIES, kind=["road", "roof", "road"])
    spec = {"path": "t.gpkg", "attribute": "kind"}
    reports = {}
    for name, truth in (("polygons", spec), ("mask", "m.tif")):
        keys = {**HISTOGRAM, "classes": NAMED, "writers": ["ome_zarr", "tiff"], "output": name}
        assert run(engine_yaml(tmp_path, **keys, truth=truth), []) == 0
        reports[name] = without_times(report_at(tmp_path / name))
    assert reports["polygons"] == reports["mask"]
    classes = tmp_path / "classes.yaml"
    classes.write_text(yaml.safe_dump({"classes": NAMED}))
    mask = str(tmp_path / "polygons" / "masks" / "a.tif")
    assert evaluate(mask, {"path": str(tmp_path / "t.gpkg"), "attribute": "kind"}, classes, None, str(tmp_path / "scores")) == 0
    assert without_times(report_at(tmp_path / "scores"))["confusion"] == reports["mask"]["confusion"]
    assert json.loads((tmp_path / "scores" / "run.json").read_text())["identity"]["evaluate"]["truth"]["attribute"] == "kind"


def test_names_may_be_left_out_of_an_evaluation(tmp_path):
    """`--ignore` takes names of the attribute."""
    save_map(tmp_path / "m.tif", burnt([2, 1, 2]).astype(np.uint8))
    write(tmp_path / "t.gpkg", GEOMETRIES, kind=["road", "cloud", "road"])
    classes = tmp_path / "classes.yaml"
    classes.write_text(yaml.safe_dump({"classes": NAMED}))
    spec = {"path": str(tmp_path / "t.gpkg"), "attribute": "kind"}
    assert evaluate(str(tmp_path / "m.tif"), spec, classes, "cloud", str(tmp_path / "scores")) == 0
    report = report_at(tmp_path / "scores")
    assert np.sum(report["confusion"]) == SIDE**2 - (burnt([2, 1, 2]) == 1).sum()
    assert report["classes"][2]["iou"] == 1.0


def test_an_evaluation_counts_classes_of_numbers(tmp_path):
    """Without a list of classes, the largest number of mask and polygons says how many there are."""
    save_map(tmp_path / "m.tif", burnt([2, 1, 2]).astype(np.uint8))
    write(tmp_path / "t.gpkg", GEOMETRIES, code=[4, 1, 2])
    spec = {"path": str(tmp_path / "t.gpkg"), "attribute": "code"}
    assert evaluate(str(tmp_path / "m.tif"), spec, None, None, str(tmp_path / "scores")) == 0
    assert len(report_at(tmp_path / "scores")["classes"]) == 5


def test_changed_polygons_are_counted_again(tmp_path, surveyed):
    """The identity of a truth holds file, options and grid; a Shapefile's table of attributes belongs to it."""
    first = surveyed({"kind": ["road", "roof", "road"]}, truth={"path": "t.gpkg", "attribute": "kind"}).images[0].truth_identity
    other = surveyed({"kind": ["road", "roof", "road"]}, truth={"path": "t.gpkg", "attribute": "kind", "all_touched": True})
    assert other.images[0].truth_identity != first
    write(tmp_path / "s.shp", GEOMETRIES, kind=["road", "roof", "road"])
    keys = {**HISTOGRAM, "classes": NAMED, "truth": {"path": "s.shp", "attribute": "kind"}}
    before = build_catalogue(load_config(engine_yaml(tmp_path, **keys))).images[0]
    assert np.array_equal(truth_of(build_catalogue(load_config(engine_yaml(tmp_path, **keys))))[0], burnt([2, 1, 2]))
    write(tmp_path / "s2.shp", GEOMETRIES, kind=["road", "road", "roof"])
    (tmp_path / "s.dbf").write_bytes((tmp_path / "s2.dbf").read_bytes())
    found = build_catalogue(load_config(engine_yaml(tmp_path, **keys)))
    assert found.images[0].truth_identity != before.truth_identity
    assert np.array_equal(truth_of(found)[0], burnt([2, 2, 1]))


def test_memory_of_polygons_is_planned(surveyed):
    """The header of a truth counts the layer that every process holds."""
    from pipeline.inputs import read_truth_header

    squares = [on_map(x, y, x + 2, y + 2) for x in range(0, 200, 4) for y in range(0, 200, 4)]
    header = read_truth_header(surveyed(None, squares).images[0])
    assert header.work_bytes > 2500 * 500


def test_a_coarser_working_grid_takes_the_nearest_pixels(surveyed):
    """Polygons are drawn on the grid of the image, and taken over to the working grid as a mask is."""
    found = surveyed(resolution={"scale": 0.5})
    ids, _ = truth_of(found)
    assert ids.shape == (SIDE // 2, SIDE // 2)
    assert abs(int(ids.sum()) - burnt([1, 1, 1]).sum() / 4) < 250


def test_tasks_of_an_array_keep_the_options(tmp_path, tiles):
    """The list of a task names the file for each image, its YAML keeps attribute and layer: a task counts what the run would."""
    from pipeline.targets._slurm_tasks import write_tasks

    spec = {"path": "t.gpkg", "attribute": "kind", "layer": "t", "all_touched": True, "ignore": ["cloud"]}
    config = load_config(engine_yaml(tmp_path, **{**HISTOGRAM, "images": ["maps/"], "classes": NAMED, "truth": spec}))
    whole = {image.name: image for image in build_catalogue(config).images}
    assert write_tasks(config, 2) == [0, 1]
    for task in range(2):
        for image in build_catalogue(load_config(tmp_path / "out" / f"task-{task}.yaml")).images:
            assert (image.truth, image.truth_reader) == (whole[image.name].truth, whole[image.name].truth_reader)
            del whole[image.name]
    assert not whole


def test_a_map_is_learnt_from_polygons(tmp_path):
    """Training scans and crops the same classes as with a mask."""
    for number in range(2):
        save_map(tmp_path / "images" / f"{number}.tif", blobs((SIDE, SIDE), number))
        save_map(tmp_path / "masks" / f"{number}.tif", burnt([1, 1, 1]).astype(np.uint8))
    write(tmp_path / "t.gpkg", GEOMETRIES)
    keys = {"classes": [{"name": "ground"}, {"name": "roof"}], "val": {"names": ["1"]}}
    plans = [planned(tmp_path, truth=truth, **keys) for truth in ("t.gpkg", "masks/{stem}.tif")]
    assert plans[0].statistics.areas == plans[1].statistics.areas
    crops = [Crops(plan, ImageCache(2**28)) for plan in plans]
    for index in range(6):
        assert np.array_equal(crops[0][index].target_YX, crops[1][index].target_YX)


def test_repairs_are_told_in_the_plan(surveyed):
    """What was repaired is a note of the run."""
    tie = shapely.Polygon([(500010, 3999990), (500020, 3999980), (500020, 3999990), (500010, 3999980)])
    assert any("1 invalid polygon repaired" in note for note in surveyed(geometries=[tie]).notes)


def test_the_command_line_and_python_take_the_options(tmp_path):
    """`gigaseg evaluate` by its flags, and `pipeline.evaluate` and `segment` by a mapping, count the same."""
    import pipeline
    from pipeline.cli import app

    save_map(tmp_path / "m.tif", burnt([2, 1, 2]).astype(np.uint8))
    save_map(tmp_path / "a.tif", blobs((SIDE, SIDE)))
    file = write(tmp_path / "t.gpkg", GEOMETRIES, layer="uses", kind=["road", "roof", "road"])
    write(tmp_path / "t.gpkg", GEOMETRIES[:1], layer="others", kind=["road"])
    classes = tmp_path / "classes.yaml"
    classes.write_text(yaml.safe_dump({"classes": NAMED}))
    options = ["--attribute", "kind", "--layer", "uses", "--all-touched", "--classes", str(classes), "-o", str(tmp_path / "cli")]
    ended = CliRunner().invoke(app, ["evaluate", "--pred", str(tmp_path / "m.tif"), "--truth", file, *options])
    assert ended.exit_code == 0, ended.output
    expected = np.zeros((3, 3), int)
    np.add.at(expected, (burnt([2, 1, 2], all_touched=True).ravel(), burnt([2, 1, 2]).ravel()), 1)
    assert report_at(tmp_path / "cli")["confusion"] == expected.tolist()
    spec = {"path": tmp_path / "t.gpkg", "attribute": "kind", "layer": "uses", "all_touched": True}
    report = pipeline.evaluate(str(tmp_path / "m.tif"), spec, classes=classes)
    assert report.content["confusion"] == expected.tolist()
    done = pipeline.segment(str(tmp_path / "a.tif"), HISTOGRAM["model"], output=tmp_path / "api", truth=spec, set={"classes": NAMED})
    assert np.array_equal(np.asarray(done.truth().data), burnt([2, 1, 2], all_touched=True))
