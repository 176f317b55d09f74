"""Two masks of two dates: what each class has become, in pixels and in areas on the ground; and which masks are compared."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import tifffile

import pipeline
from pipeline.cli import main
from pipeline.raster import Header, row_areas
from pipeline.records import RunFolder
from tests.conftest import engine_yaml, report_at
from tests.spec.test_alignment import LONGLAT, MERCATOR, UTM, north_up
from workflows.run_masks import run_masks

SCHEMA = json.loads(Path(__file__).with_name("report.schema.json").read_text(encoding="utf-8"))
HEIGHT, WIDTH = 60, 50
NAMES = ("water", "wood", "field")
PLACES = {
    "UTM": north_up(500000.0, 3000000.0, 3.0, UTM),
    "web Mercator": north_up(9500000.0, 3200000.0, 3.0, MERCATOR),
    "degrees": north_up(85.0, 60.0, 0.02, LONGLAT),
}


def save(path, pixels_YX, georeference=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    tags = [(int(code), tag["type"], len(tag["value"]), tag["value"], True) for code, tag in (georeference or {}).items()]
    tifffile.imwrite(path, pixels_YX, extratags=tags)


def moved(georeference, rows, cols):
    """Tags of a grid whose first pixel is that at (rows, cols)."""
    matrix = list(georeference["34264"]["value"])
    matrix[3] += cols * matrix[0] + rows * matrix[1]
    matrix[7] += cols * matrix[4] + rows * matrix[5]
    return {**georeference, "34264": {**georeference["34264"], "value": matrix}}


def of_two_dates():
    """Masks of three classes before and after, most of which stay."""
    rng = np.random.default_rng(5)
    before_YX = np.repeat(np.repeat(rng.integers(0, 3, (12, 10)), 5, 0), 5, 1).astype(np.uint8)
    after_YX = before_YX.copy()
    after_YX[10:30, 5:25] = 2
    after_YX[40:55, :20] = 0
    return before_YX, after_YX


@pytest.fixture
def compare(tmp_path, monkeypatch, capsys):
    """Compare ``pred`` with ``truth``; gives the exit code, and what was said."""
    monkeypatch.chdir(tmp_path)

    def go(pred, truth, *more, output="scores"):
        code = main(["evaluate", "--pred", str(pred), "--truth", str(truth), "-o", output, *more])
        return code, *capsys.readouterr()

    return go


@pytest.mark.parametrize("place", list(PLACES))
@pytest.mark.parametrize("shift", [(0, 0), (3, -7)])
def test_areas_from_class_to_class_are_those_on_the_ground(compare, tmp_path, place, shift):
    """Each pair of classes has numpy's pixels and their area, row by row in degrees and Mercator; the earlier mask may lie elsewhere."""
    before_YX, after_YX = of_two_dates()
    save(tmp_path / "after.tif", after_YX, PLACES[place])
    wide_YX = np.pad(before_YX, 20, constant_values=1)
    start = 20 + shift[0], 20 + shift[1]
    inside_YX = wide_YX[start[0] : start[0] + HEIGHT, start[1] : start[1] + WIDTH]
    save(tmp_path / "before.tif", wide_YX, moved(PLACES[place], -start[0], -start[1]))
    code, out, _ = compare("after.tif", "before.tif", "--change")
    assert code == 0
    unit = "degree" if place == "degrees" else "meter"
    size = (0.02, 0.02) if place == "degrees" else (3.0, 3.0)
    areas_Y = row_areas(Header((HEIGHT, WIDTH), 1, "uint8", pixel_size=size, unit=unit, georeference=PLACES[place]), 0, HEIGHT)
    report = report_at(tmp_path / "scores")
    jsonschema.validate({**report, "timing": {}}, SCHEMA)
    expected = {}
    for start, end in ((start, end) for start in range(3) for end in range(3)):
        pair_YX = (inside_YX == start) & (after_YX == end)
        if pair_YX.any():
            expected[f"class {start}", f"class {end}"] = int(pair_YX.sum()), float((pair_YX.sum(axis=1) * areas_Y).sum())
    found = {(row["from"], row["to"]): (row["pixels"], row["area"]) for row in report["change"]}
    assert found.keys() == expected.keys()
    for pair, (pixels, area) in expected.items():
        assert found[pair] == (pixels, pytest.approx(area, rel=1e-9)), pair
    with (tmp_path / "scores" / "report" / "change.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["from"], row["to"], int(row["pixels"]), float(row["area"]), row["unit"]) for row in rows] == [
        (row["from"], row["to"], row["pixels"], row["area"], "m2") for row in report["change"]
    ]
    largest = max((pair for pair in expected if pair[0] != pair[1]), key=lambda pair: expected[pair][1])
    lines = out[out.index("change, from truth to prediction") :].splitlines()
    assert lines[1].startswith(f"  {largest[0]} to {largest[1]}: ")
    page = (tmp_path / "scores" / "report" / "index.html").read_text()
    assert '<h2 id="change">' in page
    assert main(["report", "scores"]) == 0
    assert report_at(tmp_path / "scores")["change"] == report["change"], "made again from the ledger"


def test_scoring_against_a_truth_says_nothing_of_change(compare, tmp_path):
    """Only an earlier state has changed; where nothing has, that is said."""
    _, after_YX = of_two_dates()
    save(tmp_path / "c.tif", after_YX, PLACES["UTM"])
    code, out, _ = compare("c.tif", "c.tif", output="plain")
    assert code == 0
    assert "change" not in report_at(tmp_path / "plain")
    assert "change" not in out
    assert not (tmp_path / "plain" / "report" / "change.csv").exists()
    code, out, _ = compare("c.tif", "c.tif", "--change", output="same")
    assert "change: none" in out
    assert all(row["from"] == row["to"] for row in report_at(tmp_path / "same")["change"])


def test_the_area_of_nodata_is_in_no_change(compare, tmp_path):
    """What either date leaves out is in no pair."""
    before_YX, after_YX = of_two_dates()
    before_YX[:4], after_YX[:, :5] = 255, 255
    save(tmp_path / "a.tif", after_YX, PLACES["degrees"])
    save(tmp_path / "b.tif", before_YX, {**PLACES["degrees"], "42113": {"type": 2, "value": "255\0"}})
    assert compare("a.tif", "b.tif", "--change")[0] == 0
    assert sum(row["pixels"] for row in report_at(tmp_path / "scores")["change"]) == (HEIGHT - 4) * (WIDTH - 5)


@pytest.fixture
def run_of(tmp_path):
    """Make a run whose masks are given: ``run_of(name, {image: (mask, tags)}, classes)`` gives its output folder."""

    def go(name, masks, classes=NAMES):
        for image, (mask_YX, georeference) in masks.items():
            save(tmp_path / name / f"{image}.tif", (mask_YX * 60 + 20).astype(np.uint8), georeference)
        levels = {"name": "histogram", "classes": len(classes)}
        keys = {"images": [f"{name}/"], "model": levels, "normalize": None, "tiling": {"halo": 0}, "output": f"runs/{name}"}
        listed = [{"name": one, "values": [5 * index]} for index, one in enumerate(classes)]  # of truths that it may have had
        writers = [{"name": "ome_zarr"}, {"name": "tiff"}]
        assert main(["run", str(engine_yaml(tmp_path, **keys, classes=listed, writers=writers))]) == 0
        return f"runs/{name}"

    return go


def pixels_of(report):
    return {(row["from"], row["to"]): row["pixels"] for row in report["change"]}


def expected_pixels(before_YX, after_YX, names=NAMES):
    pairs = {(a, b): int(((before_YX == a) & (after_YX == b)).sum()) for a in range(len(names)) for b in range(len(names))}
    return {(names[a], names[b]): number for (a, b), number in pairs.items() if number}


def test_two_runs_are_two_dates(compare, run_of, tmp_path):
    """One image each is compared whatever the names are, by its place; rows are classes of `--truth`, the earlier run."""
    before_YX, after_YX = of_two_dates()
    later = run_of("later", {"y2024": (after_YX, PLACES["UTM"])})
    earlier = run_of("earlier", {"y2020": (np.pad(before_YX, 6), moved(PLACES["UTM"], -6, -6))})
    code, out, err = compare(later, earlier)
    assert (code, "shifted by 6 rows, 6 columns and cropped to the image" in err) == (0, True)
    report = report_at(tmp_path / "scores")
    assert pixels_of(report) == expected_pixels(before_YX, after_YX)
    assert all(row["area"] == pytest.approx(9.0 * row["pixels"]) for row in report["change"])
    assert "change, from truth to prediction" in out
    assert compare(later, earlier)[0] == 0, "scored again at once"
    with_api = pipeline.evaluate(pipeline.open_run(later), pipeline.open_run(earlier))
    assert with_api.change.to_dict("records") == report["change"]
    backwards = compare(earlier, later, output="backwards")
    assert backwards[0] == 0
    shared = pixels_of(report_at(tmp_path / "backwards"))
    assert shared == {(b, a): number for (a, b), number in expected_pixels(before_YX, after_YX).items()}


def test_classes_are_matched_by_name(compare, run_of, tmp_path):
    """Ids in another order are the same classes; other names are refused, and so is a value to ignore."""
    before_YX, after_YX = of_two_dates()
    later = run_of("later", {"a": (after_YX, PLACES["UTM"])})
    turned = {0: 2, 1: 0, 2: 1}  # ids of the earlier run
    other_YX = np.vectorize(turned.get)(before_YX).astype(np.uint8)
    earlier = run_of("earlier", {"a": (other_YX, PLACES["UTM"])}, classes=("wood", "field", "water"))
    assert compare(later, earlier)[0] == 0
    assert pixels_of(report_at(tmp_path / "scores")) == expected_pixels(before_YX, after_YX)
    code, _, err = compare(later, earlier, "--ignore", "1", output="ignoring")
    assert (code, "--ignore: found 1 for masks of a run as truth" in err) == (2, True)
    named = run_of("named", {"a": (before_YX, PLACES["UTM"])}, classes=("water", "forest", "field"))
    code, _, err = compare(later, named, output="named")
    assert code == 2
    assert "--truth: found the classes water, forest, field for a run with the classes water, wood, field" in err
    assert not (tmp_path / "named-scores").exists()


def tiles(pixels_YX, names, georeference=PLACES["UTM"], side=25):
    """Cut a mask into tiles of columns."""
    cut = {}
    for index, name in enumerate(names):
        cut[name] = pixels_YX[:, index * side : (index + 1) * side], moved(georeference, 0, index * side)
    return cut


def test_masks_are_paired_by_name_else_by_place(compare, run_of, tmp_path):
    """Names decide; masks of other names are paired where one earlier mask lies under them; all pixels are compared once."""
    before_YX, after_YX = of_two_dates()
    later = run_of("later", tiles(after_YX, ["west", "east"]))
    for name, names in {"named": ["west", "east"], "placed": ["tile_0", "tile_1"], "mixed": ["tile_0", "east"]}.items():
        earlier = run_of(name, tiles(before_YX, names))
        assert compare(later, earlier, output=f"scores-{name}")[0] == 0, name
        report = report_at(tmp_path / f"scores-{name}")
        assert pixels_of(report) == expected_pixels(before_YX, after_YX), name
        assert report["without_truth"] == []


def test_masks_without_a_partner_are_refused(compare, run_of, tmp_path):
    """A mask on several earlier ones, and masks that have neither names nor places in common, are refused with the way out."""
    before_YX, after_YX = of_two_dates()
    later = run_of("later", {"whole": (after_YX, PLACES["UTM"]), "other": (after_YX, moved(PLACES["UTM"], 500, 500))})
    earlier = run_of("earlier", tiles(before_YX, ["one", "two"]))
    code, _, err = compare(later, earlier)
    assert code == 2
    assert "--truth: found whole, which lies on " in err
    assert "one (50% of it)" in err
    assert "Join the earlier masks into one map, or pair them in a CSV" in err
    away = run_of("away", tiles(before_YX, ["one", "two"], moved(PLACES["UTM"], 5000, 0)))
    code, _, err = compare(later, away)
    assert (code, "which have neither the names nor the places of" in err) == (2, True)
    assert not (tmp_path / "scores").exists()


def test_a_mask_without_an_earlier_one_is_told(compare, run_of, tmp_path):
    """A later mask that no earlier one covers is listed, and the others are compared."""
    before_YX, after_YX = of_two_dates()
    later = run_of("later", {"a": (after_YX, PLACES["UTM"]), "new": (after_YX, moved(PLACES["UTM"], 500, 0))})
    earlier = run_of("earlier", {"a": (before_YX, PLACES["UTM"]), "gone": (before_YX, moved(PLACES["UTM"], 0, 900))})
    code, _, err = compare(later, earlier)
    assert (code, "1 of 2 images have no truth: new" in err) == (0, True)
    report = report_at(tmp_path / "scores")
    assert report["without_truth"] == ["new"]
    assert pixels_of(report) == expected_pixels(before_YX, after_YX)


def test_tiles_of_a_whole_mask_are_not_scored_again(run_of, tmp_path, monkeypatch):
    """A run that wrote a mask and a file for each of its tiles has one mask."""
    monkeypatch.chdir(tmp_path)
    before_YX, _ = of_two_dates()
    output = run_of("made", {"a": (before_YX, PLACES["UTM"])})
    monkeypatch.setattr(RunFolder, "last_plan", lambda _: {"images": [{"name": "a"}], "outputs": ["masks/a.tif", "masks/a/one.tif"]})
    save(tmp_path / output / "masks" / "a" / "one.tif", before_YX)
    assert list(run_masks(output)) == ["a"]


def test_a_mask_may_be_compared_with_a_run(compare, run_of, tmp_path):
    """A file of masks against a run: the run's classes name the ids."""
    before_YX, after_YX = of_two_dates()
    save(tmp_path / "drawn" / "a.tif", after_YX, PLACES["UTM"])
    earlier = run_of("earlier", {"b": (before_YX, PLACES["UTM"])})
    assert compare("drawn/a.tif", earlier)[0] == 0
    assert pixels_of(report_at(tmp_path / "scores")) == expected_pixels(before_YX, after_YX)
    recorded = json.loads((tmp_path / "scores" / "run.json").read_text())
    assert recorded["identity"]["evaluate"]["truth"].endswith("runs/earlier")
