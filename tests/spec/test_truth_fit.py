"""Whether truth fits its image: found by name, in the same place, of the same scale, with values that nobody's compression made up."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
from PIL import Image

from pipeline.cli import main
from pipeline.config import ClassSpec, load_config
from pipeline.errors import InputError
from pipeline.inputs import TruthMap, build_catalogue, open_truth
from pipeline.raster import Header, affine
from pipeline.scheduling.plan import make_job, plan_row
from pipeline.tuning.recipe_choice import choose_recipe
from tests.conftest import blobs, engine_yaml, report_at, save_tiff

SHAPE = (80, 70)
PROJECTED, GEOGRAPHIC, CITED = 3072, 2048, 32767


def geo(east=500.0, north=900.0, size=2.0, *, code=32632, key=PROJECTED, is_point=False, size_y=None):
    """GeoTIFF tags of an image whose first pixel's corner lies at (north, east)."""
    half = size / 2 if is_point else 0.0
    half_y = (size_y or size) / 2 if is_point else 0.0
    keys = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 2 if is_point else 1, key, 0, 1, code)
    tie = (0.0, 0.0, 0.0, east + half, north - half_y, 0.0)
    return [(33550, "d", 3, (size, size_y or size, 0.0)), (33922, "d", 6, tie), (34735, "H", 16, keys)]


def turned(a, b, x, d, e, y):
    """GeoTIFF tags of an image that is turned: x = a column + b row + x, y = d column + e row + y."""
    matrix = (a, b, 0.0, x, d, e, 0.0, y, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    return [(34264, "d", 16, matrix), (34735, "H", 12, (1, 1, 0, 2, 1024, 0, 1, 1, PROJECTED, 0, 1, 32632))]


@pytest.fixture
def surveyed(tmp_path):
    """Look at an image and its truth, each with tags of its own; gives the catalogue."""

    def go(image_tags, truth_tags, image_shape=SHAPE, truth_shape=SHAPE, **keys):
        for name, tags, shape in (("a", image_tags, image_shape), ("t", truth_tags, truth_shape)):
            tifffile.imwrite(tmp_path / f"{name}.tif", np.zeros(shape, np.uint8), extratags=[(*tag, True) for tag in tags])
        return build_catalogue(load_config(engine_yaml(tmp_path, truth="t.tif", **keys)))

    return go


@pytest.mark.parametrize(
    ("image", "truth"),
    [
        (geo(), geo()),
        (geo(), geo(east=500.15, north=899.9)),
        (geo(is_point=True), geo()),
        (geo(), turned(2.0, 0.0, 500.0, 0.0, -2.0, 900.0)),
        (geo(), []),
        ([], geo()),
        (geo(), geo(code=CITED)),
        (turned(0.0, 2.0, 500.0, 2.0, 0.0, 900.0), turned(0.0, 2.0, 500.0, 2.0, 0.0, 900.0)),
    ],
    ids=["same", "within a tenth", "centres and corners", "matrix", "image only", "truth only", "named system", "turned"],
)
def test_truth_in_its_place_is_taken(surveyed, image, truth):
    """Truth on the image's own grid, said in any way, or where one of them says nothing of its place, is taken."""
    assert surveyed(image, truth).images[0].truth


LAID = {
    "10 px east": (geo(), geo(east=520.0), (80, 70), "shifted by 0 rows, -10 columns and cropped to the image (covers 85 % of the image"),
    "larger": (geo(), geo(east=400.0, north=1500.0), (500, 400), "shifted by 300 rows, 50 columns and cropped to the image"),
    "3.5 px south": (geo(), geo(north=893.0), (80, 70), "shifted by -3.50 rows, 0.00 columns by nearest pixels (covers 95 % of the image"),
    "half a pixel": (geo(is_point=True), geo(is_point=True, east=499.0), (80, 71), "shifted by 0.00 rows, 0.50 columns by nearest pixels"),
    "finer": (geo(), geo(size=0.5), (320, 280), "resampled by nearest pixels, 4 x 4 pixels of the truth to one of the image"),
    "coarser rows": (geo(), geo(size_y=8.0), (20, 70), "resampled by nearest pixels, 0.25 x 1 pixels of the truth to one of the image"),
    "south up": (geo(), turned(2.0, 0.0, 500.0, 0.0, 2.0, 740.0), (80, 70), "flipped upside down"),
    "turned by 90": (geo(), turned(0.0, 2.0, 500.0, 2.0, 0.0, 740.0), (70, 80), "turned by 90 degrees"),
    "turned": (geo(), turned(1.9, 0.6, 480.0, 0.6, -1.9, 890.0), (100, 100), "turned by 17.5 degrees by nearest pixels (covers 94 %"),
    "zone": (
        geo(),
        geo(east=660000.0, north=5000.0, size=100.0, code=32631),
        (100, 200),
        "warped from EPSG:32631 to EPSG:32632 by nearest",
    ),
    "named system": (geo(), geo(code=CITED, east=498.0), (80, 71), "shifted by 0 rows, 1 column and cropped to the image; one of the two"),
}


@pytest.mark.parametrize("name", list(LAID))
def test_truth_of_another_grid_is_laid_on_the_image(surveyed, name):
    """Truth that is shifted, larger, flipped, turned, finer or in another system is taken by its coordinates, and one line says how."""
    image, truth, shape, told = LAID[name]
    catalogue = surveyed(image, truth, truth_shape=shape)
    (line,) = [note for note in catalogue.notes if "t.tif: " in note]
    assert line.partition("t.tif: ")[2].startswith(told)
    assert ("%" in line) == ("%" in told)
    with open_truth(catalogue.images[0]) as opened:
        assert opened.header.shape == SHAPE


BESIDE = {
    "east": (
        geo(),
        geo(east=700.0),
        SHAPE,
        "x 700 to 840, y 740 to 900 (EPSG:32632), 30 columns right of the image; the image has x 500 to 640",
    ),
    "north west": (geo(), geo(east=300.0, north=2000.0), SHAPE, ", 470 rows above and 30 columns left of the image; the image has"),
    "zone": (geo(), geo(code=32633), SHAPE, "x 500 to 640, y 740 to 900 (EPSG:32633), "),
    "system": (
        geo(),
        geo(east=85.0, north=27.0, size=1e-5, code=4326, key=GEOGRAPHIC),
        SHAPE,
        "x 85 to 85.0007, y 26.9992 to 27 (EPSG:4326), ",
    ),
    "no system": (geo(), geo(east=700.0, code=CITED), SHAPE, "x 500 to 640, y 740 to 900 (EPSG:32632); one of the two names no coordinate"),
}


@pytest.mark.parametrize("name", list(BESIDE))
def test_truth_beside_its_image_is_refused(surveyed, name):
    """Truth that covers no pixel of its image is refused with both places and what lies between them."""
    image, truth, shape, told = BESIDE[name]
    with pytest.raises(InputError, match=r"t\.tif: found coordinates beside the image a: ") as refused:
        surveyed(image, truth, truth_shape=shape)
    assert told in str(refused.value)
    assert "expected truth that covers a part of the image" in str(refused.value)


@pytest.mark.parametrize(("image", "truth", "is_hinted"), [(geo(), [], True), ([], geo(), False), ([], [], False)])
def test_truth_of_another_size_needs_coordinates(surveyed, image, truth, is_hinted):
    """Where one of the two has no coordinates, sizes must be equal; the way out is told where the truth lacks them."""
    with pytest.raises(InputError, match="found 90 x 70 for an image of 80 x 70; expected truth of the image's size") as refused:
        surveyed(image, truth, truth_shape=(90, 70))
    assert ("With coordinates in its file" in str(refused.value)) == is_hinted


def test_a_place_that_is_no_place_is_none():
    """Tags with too few numbers, infinite ones or pixels of no size hold no place, so nothing is compared with them."""
    for scale in ([], [1.0], [0.0, 1.0, 0.0], [float("nan"), 1.0, 0.0]):
        assert affine({"33550": {"value": scale}, "33922": {"value": [0.0] * 6}}) is None
    assert affine({}) is None


@pytest.mark.parametrize(("of_truth", "told"), [(0.5, True), (0.2525, True), (0.252, False), (0.25, False), (None, False)])
def test_truth_of_another_scale_is_told(tmp_path, of_truth, told):
    """Pixel sizes in micrometres that differ by more than a hundredth are told with both, and the truth is taken pixel by pixel."""
    for name, size in (("a", 0.25), ("t", of_truth)):
        sizes = {"PhysicalSizeX": size, "PhysicalSizeY": size} if size else {}
        tifffile.imwrite(tmp_path / f"{name}.ome.tif", np.zeros(SHAPE, np.uint8), metadata={"axes": "YX", **sizes})
    notes = build_catalogue(load_config(engine_yaml(tmp_path, images=["a.ome.tif"], truth="t.ome.tif"))).notes
    assert [note for note in notes if "another pixel size" in note] == (
        [f"truth has another pixel size than its image, and is compared pixel by pixel: a, {of_truth} um for 0.25 um"] if told else []
    )


def lossy(*values, **options):
    """What is wrong with lossy truth of one channel for classes with these values."""
    classes = [ClassSpec(name=f"c{index}", values=value) for index, value in enumerate(values)] or None
    return TruthMap(2, classes, **options).check(Header((4, 4), 1, "uint8", is_lossy=True), "t.jpg")


def test_truth_with_lossy_compression_needs_listed_values():
    """Where every value counts for some class, lossy truth is refused: with `other`, and with class ids; listed values are compared."""
    assert lossy([0], [255]) == []
    for values in (([0], "other"), ()):
        (problem,) = lossy(*values)
        assert "t.jpg: found truth with lossy compression, such as JPEG; expected " in str(problem)
        assert str(problem).endswith("Save the truth as PNG.")
    assert TruthMap(2, [ClassSpec(name="a", values=[0]), ClassSpec(name="b", values="other")]).check(Header((4, 4), 1, "uint8")) == []


@pytest.fixture
def disc(tmp_path):
    """An image of a bright disc, and its perfect truth as PNG and as JPEG, whose edge rings."""
    y, x = np.mgrid[:96, :96]
    inside_YX = (y - 48) ** 2 + (x - 48) ** 2 < 900
    for name in ("i/a.png", "png/a.png", "jpg/a.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.where(inside_YX, 255, 0).astype(np.uint8)).save(tmp_path / name)
    stored = np.asarray(Image.open(tmp_path / "jpg" / "a.jpg"))
    assert len(np.unique(stored)) >= 30, "a control: JPEG changes values at the edge"
    return tmp_path


def test_truth_that_was_a_jpeg_is_never_scored_in_silence(disc, capsys):
    """A JPEG of a perfect truth is refused with `other`; with listed values its image has no metrics; the PNG scores a perfect mask."""
    values = {"ground": [0], "cell": "other"}
    keys = {"images": ["i/"], "model": {"name": "histogram"}, "normalize": None, "tiling": {"halo": 0}}
    for folder, of_cell, code in (("jpg", "other", 2), ("jpg", [255], 3), ("png", "other", 0), ("png", [255], 0)):
        classes = [{"name": name, "values": of_cell if name == "cell" else value} for name, value in values.items()]
        config = engine_yaml(disc, truth=f"{folder}/{{name}}.*", classes=classes, output=f"{folder}-{of_cell}", **keys)
        assert main(["run", str(config)]) == code, (folder, of_cell)
        said = capsys.readouterr().err
        if code == 2:
            assert "Save the truth as PNG" in said
        elif code == 3:
            assert "belongs to no class" in report_at(disc / "jpg-[255]")["failures"][0]["cause"]
        else:
            assert report_at(disc / f"{folder}-{of_cell}")["mean_iou"] == 1.0


def test_a_folder_of_truth_has_a_file_for_each_name(tmp_path):
    """`truth: folder/` is the file of the image's name with any suffix; of several, the one that is the image's own, else none."""
    for name in ("s/a.tif", "s/sub/b.v1.tif"):
        save_tiff(tmp_path / name, blobs(SHAPE))
    for name in ("t/a.tif", "t/sub/b.v1.tif"):
        save_tiff(tmp_path / name, blobs(SHAPE) // 128)
    (tmp_path / "t" / "a.txt").touch()
    (tmp_path / "t" / "ab.png").touch()

    def truths(images="s/"):
        found = build_catalogue(load_config(engine_yaml(tmp_path, images=[images], truth="t/")))
        return [image.truth for image in found.images]

    assert truths() == [f"{tmp_path}/t/a.tif", f"{tmp_path}/t/sub/b.v1.tif"]
    assert truths("s/a.tif") == [f"{tmp_path}/t/a.tif"]
    Image.fromarray(np.zeros(SHAPE, np.uint8)).save(tmp_path / "t" / "a.png")
    with pytest.raises(InputError, match=r"truth: found 2 files for 'a': .*t/a\.png, .*t/a\.tif; expected one file of this name"):
        truths()
    Image.fromarray(np.zeros(SHAPE, np.uint8)).save(tmp_path / "s" / "a.png")
    assert truths()[:2] == [f"{tmp_path}/t/a.png", f"{tmp_path}/t/a.tif"], "names that collide keep their suffix, and truth has it too"
    for name in ("t/a.png", "t/a.tif", "t/sub/b.v1.tif"):
        (tmp_path / name).unlink()
    with pytest.raises(
        InputError, match=r"no truth for any image; expected files that exist, or null. The first file looked for is .*t/a.png\.\*"
    ):
        truths()


def test_one_truth_for_several_images_is_told(tmp_path):
    """Where `{stem}` gives images of two folders one truth, a note names it and the way to tell them apart."""
    for name in ("s/one/a.tif", "s/two/a.tif", "t/a.tif"):
        save_tiff(tmp_path / name, np.zeros(SHAPE, np.uint8))
    found = build_catalogue(load_config(engine_yaml(tmp_path, images=["s/"], truth="t/{stem}.tif")))
    assert f"several images share one truth, which `{{name}}` in the path would avoid: {tmp_path}/t/a.tif of one/a, two/a" in found.notes


def test_a_wildcard_passes_over_files_that_are_no_images(tmp_path):
    """`t/{stem}.*` finds the truth beside its world file and notes; two images are refused."""
    for name in ("a.tif", "t/a.tif"):
        save_tiff(tmp_path / name, np.zeros(SHAPE, np.uint8))
    for name in ("a.tfw", "a.txt"):
        (tmp_path / "t" / name).write_text("1")
    found = build_catalogue(load_config(engine_yaml(tmp_path, truth="t/{stem}.*")))
    assert found.images[0].truth == f"{tmp_path}/t/a.tif"


@pytest.mark.parametrize(("north", "code", "times"), [(3202635.0, 3857, 1.279), (500.0, 3857, 1.0067), (3202635.0, 32632, 1.0)])
def test_areas_of_classes_are_those_on_the_ground(surveyed, north, code, times):
    """The plan takes the stretch of web Mercator out of the area of a pixel, of which the report's areas and densities are made."""
    catalogue = surveyed(geo(north=north, size=0.15, code=code), geo(north=north, size=0.15, code=code))
    area, unit = plan_row(catalogue, make_job(catalogue, choose_recipe(catalogue).recipe), {})["images"][0]["pixel_area"]
    assert (area, unit) == (pytest.approx(0.15**2 / times, rel=1e-3), "meter")


def test_truth_values_of_no_class_are_told_with_the_way_out(tmp_path, engine, capsys):
    """A label image as truth of a run without `values`: stderr names the value and the key that says what it means. No file is damaged."""
    save_tiff(tmp_path / "a.tif", blobs(SHAPE))
    save_tiff(tmp_path / "truth.tif", np.full(SHAPE, 7, np.uint8))
    assert engine(model={"name": "histogram"}, normalize=None, tiling={"halo": 0}, truth="truth.tif").code == 3
    told = capsys.readouterr().err
    assert f"a after 1 try: {tmp_path}/truth.tif: truth value 7 at (y=0, x=0) belongs to no class" in told
    assert "say what they mean with `classes` in the YAML, such as {name: cell, values: other}" in told
    assert "repair" not in told


@pytest.mark.parametrize("has_classes", [True, False])
def test_evaluate_knows_the_classes_of_a_run(tmp_path, engine, capsys, monkeypatch, has_classes):
    """Masks of a run are scored with its classes: its `values` map instance ids, and without them ids of no class are told, not counted."""
    monkeypatch.chdir(tmp_path)
    pixels = np.zeros(SHAPE, np.uint8)
    pixels[10:30, 10:30], pixels[40:60, 20:50] = 200, 210
    save_tiff(tmp_path / "a.tif", pixels)
    instances = np.zeros(SHAPE, np.uint16)
    instances[10:30, 10:30], instances[40:60, 20:50] = 1, 258
    save_tiff(tmp_path / "truth" / "a.tif", instances)
    classes = [{"name": "ground", "values": [0]}, {"name": "cell", "values": "other"}] if has_classes else None
    keys = {"model": {"name": "histogram"}, "normalize": None, "tiling": {"halo": 0}}
    assert engine(classes=classes, **keys).code == 0
    capsys.readouterr()
    code = main(["evaluate", "--pred", "out", "--truth", "truth", "-o", "scores"])
    found = json.loads((tmp_path / "scores" / "report" / "report.json").read_text())
    assert len(found["classes"]) == 2
    assert code == (0 if has_classes else 3)
    if has_classes:
        assert (found["mean_iou"], [one["name"] for one in found["classes"]]) == (1.0, ["ground", "cell"])
    else:
        assert "truth value 258 at (y=40, x=20) belongs to no class" in found["failures"][0]["cause"]
        assert "say what they mean with --classes" in capsys.readouterr().err


def test_what_a_truth_says_of_its_values_is_told(tmp_path):
    """Opacity that hides the background, white-is-zero and a choice among images change scores: none of them does in silence."""
    save_tiff(tmp_path / "a.tif", np.zeros(SHAPE, np.uint8))
    keys = {"model": {"name": "histogram", "classes": 2}, "normalize": None}
    drawn = np.zeros((*SHAPE, 4), np.uint8)
    drawn[:9] = 255, 0, 0, 255  # the background is not drawn: it is transparent
    Image.fromarray(drawn).save(tmp_path / "t.png")
    colors = [{"name": "a", "color": "#000000"}, {"name": "b", "color": "#ff0000"}]
    notes = build_catalogue(load_config(engine_yaml(tmp_path, truth="t.png", classes=colors, **keys))).notes
    assert [note for note in notes if "ignored" in note] == [
        f"truth pixels that are transparent or masked are ignored: {tmp_path / 't.png'}"
    ]
    tifffile.imwrite(tmp_path / "t.tif", np.zeros(SHAPE, bool), photometric="miniswhite")
    notes = build_catalogue(load_config(engine_yaml(tmp_path, truth="t.tif", **keys))).notes
    assert any(note.startswith(f"truth {tmp_path / 't.tif'}: 0 is white") for note in notes)
    with tifffile.TiffWriter(tmp_path / "two.tif") as file:
        file.write(np.zeros((9, 9), np.uint8), photometric="minisblack")
        file.write(np.zeros(SHAPE, np.uint8), photometric="minisblack")
    notes = build_catalogue(load_config(engine_yaml(tmp_path, truth="two.tif", **keys))).notes
    assert f"truth {tmp_path / 'two.tif'}: '1' of several images is the truth" in notes


def test_a_palette_truth_is_told_nothing(tmp_path):
    """A palette or a print resolution of a truth changes no score, and is no news."""
    save_tiff(tmp_path / "a.tif", np.zeros(SHAPE, np.uint8))
    truth = Image.fromarray(np.zeros(SHAPE, np.uint8), "P")
    truth.putpalette([0, 0, 0, 255, 0, 0])
    truth.save(tmp_path / "t.png", dpi=(72, 72))
    truth.save(tmp_path / "t.tif", dpi=(72, 72))
    assert [build_catalogue(load_config(engine_yaml(tmp_path, truth=name))).notes for name in ("t.png", "t.tif")] == [[], []]


@pytest.fixture
def two_tiles(tmp_path):
    """Two neighbouring tiles of one map, truth of the region around them on its own grid, and the truth that each tile has in it."""
    region_YX = (blobs((140, 170), seed=3) > 128).astype(np.uint8)
    tifffile.imwrite(tmp_path / "region.tif", region_YX, extratags=[(*tag, True) for tag in geo(east=400.0, north=1000.0)])
    expected = {}
    for name, east in (("a", 500.0), ("b", 500.0 + 2 * SHAPE[1])):
        pixels = blobs(SHAPE, seed=len(name))
        tifffile.imwrite(tmp_path / f"{name}.tif", pixels, extratags=[(*tag, True) for tag in geo(east=east)])
        top, left = int((1000 - 900) / 2), int((east - 400) / 2)
        part_YX = np.full(SHAPE, 255, np.uint8)
        inside_YX = region_YX[top : top + SHAPE[0], left : left + SHAPE[1]]
        part_YX[: inside_YX.shape[0], : inside_YX.shape[1]] = inside_YX
        expected[name] = part_YX
    return expected


def test_one_map_is_the_truth_of_all_its_tiles(tmp_path, engine, two_tiles):
    """A truth of a region serves every image in it: each is counted where it lies, and shown there by the API and the viewer."""
    import pipeline
    from pipeline.geometry import Box
    from pipeline.records import RunFolder
    from pipeline.viewer.sources import OpenFiles
    from pipeline.viewer.subjects import Subjects

    keys = {"images": ["a.tif", "b.tif"], "model": {"name": "histogram"}, "normalize": None, "tiling": {"halo": 0}}
    done = engine(**keys, truth="region.tif")
    assert done.code == 0
    opened = pipeline.open_run(done.folder)
    folder = RunFolder(done.folder)
    files = OpenFiles()
    subjects = Subjects(folder, folder.last_plan(), files, None)
    for image in report_at(done.folder)["per_image"]:
        truth_YX, mask_YX = two_tiles[image["name"]], np.asarray(opened.mask(image["name"]))
        np.testing.assert_array_equal(np.asarray(opened.truth(image["name"])), truth_YX)
        shown = subjects.of(image["name"], is_finished=True).truth
        assert shown is not None
        np.testing.assert_array_equal(shown.read(1, Box(0, 0, *SHAPE)), truth_YX)
        hits = [int(((truth_YX == one) & (mask_YX == one)).sum()) for one in (0, 1)]
        assert [one["true_positives"] for one in image["classes"]] == hits
        assert sum(one["truth"] for one in image["classes"]) == int((truth_YX != 255).sum())
    assert (two_tiles["b"] == 255).any(), "a control: the region ends inside the second tile"


@pytest.mark.parametrize("masks", ["working", "native"])
def test_placed_truth_follows_the_working_grid(tmp_path, engine, two_tiles, masks):
    """On a coarser grid, shifted truth gives the counts of the same truth that was cut out by hand."""
    tags = [*geo(), (42113, "s", 0, "255", True)]
    tifffile.imwrite(tmp_path / "cut.tif", two_tiles["a"], extratags=[tag if len(tag) == 5 else (*tag, True) for tag in tags])
    keys = {"model": {"name": "histogram"}, "normalize": None, "tiling": {"halo": 0}, "resolution": {"scale": 0.4}, "masks": masks}
    found = [engine(**keys, truth=truth, output=f"of-{truth}").report for truth in ("region.tif", "cut.tif")]
    assert found[0]["confusion"] == found[1]["confusion"]
    assert np.sum(found[0]["confusion"]) > 0


def test_tiles_beside_the_region_are_named(tmp_path, two_tiles):
    """An image that a shared truth does not cover is named."""
    tifffile.imwrite(tmp_path / "away.tif", blobs(SHAPE), extratags=[(*tag, True) for tag in geo(east=90000.0)])
    config = load_config(engine_yaml(tmp_path, images=["a.tif", "away.tif"], truth="region.tif"))
    with pytest.raises(InputError, match=r"region\.tif: found coordinates beside the image away: "):
        build_catalogue(config)


def test_damaged_places_are_no_places(surveyed):
    """Truth whose pixels have no size or whose numbers are not finite has no coordinates: its size must be the image's."""
    for tags in ([(33550, "d", 3, (0.0, 0.0, 0.0)), *geo()[1:]], [(33550, "d", 3, (float("nan"), 2.0, 0.0)), *geo()[1:]]):
        assert surveyed(geo(), tags).images[0].truth
        with pytest.raises(InputError, match="truth of the image's size"):
            surveyed(geo(), tags, truth_shape=(90, 70))
