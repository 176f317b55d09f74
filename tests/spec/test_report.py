"""The report: the fields that are promised, deterministic, valid, and safe to open."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from rich.console import Console

from pipeline.errors import StoreError
from pipeline.metrics import Metric
from pipeline.metrics.instances import ObjectQuality
from pipeline.metrics.semantic import Semantic
from pipeline.records.run_folder import REPORT_PARTS
from pipeline.report import print_table, write_report
from pipeline.report.content import Failure, ImageCounts, build_report
from pipeline.statistics import CONFIDENCE_BINS, CONFIDENCE_STEPS, count_objects
from pipeline.statistics.pixel_counts import Counts
from tests.conftest import save_tiff

SCHEMA = json.loads(Path(__file__).with_name("report.schema.json").read_text(encoding="utf-8"))
NAMES = ("background", "nucleus")
FILES = ["areas.csv", "failure_groups.csv", "failures.csv", "index.html", "per_class.csv", "per_image.csv", "report.json"]


def counts(matrix, *, nats=None, missing=0, quarantined=0):
    confusion = np.array(matrix)
    pixels = int(confusion.sum()) if nats is not None else 0
    return Counts(confusion.sum(axis=0), missing, confusion, nats, pixels, quarantined=quarantined)


def areas_only(*pixels):
    return Counts(np.array(pixels), overlap_equal=3, overlap_pixels=4)


def unchecked(*images, names=NAMES, **more):
    fields = {"state": "done", "classes": [{"name": name} for name in names], "metrics": (Semantic(),), "images": images, **more}
    return build_report(**fields)


def build(*images, **more):
    report = unchecked(*images, **more)
    jsonschema.validate(report, SCHEMA)
    return report


A = ImageCounts("a", counts([[90, 0], [5, 5]], nats=50.0, missing=7, quarantined=7), has_truth=True)
B = ImageCounts("b", counts([[0, 0], [0, 100]], nats=0.0), has_truth=True)


def test_pooled_metrics_are_those_of_the_summed_counts():
    """Two images: the matrix is their sum, and the mean IoU is that of the sum, not the mean of theirs."""
    report = build(A, B, model={"name": "unet", "sha256": "ab"}, timing={"seconds": 1.5})
    assert report["confusion"] == [[90, 0], [5, 105]]
    assert (report["images"], report["pixels"], report["no_prediction"], report["quarantined"]) == (2, 207, 7, 7)
    assert [one["iou"] for one in report["classes"]] == [90 / 95, 105 / 110]
    assert report["mean_iou"] == (90 / 95 + 105 / 110) / 2
    assert [one["mean_iou"] for one in report["per_image"]] == [(90 / 95 + 0.5) / 2, 1.0]
    assert [one["classes"][0]["iou"] for one in report["per_image"]] == [90 / 95, None]
    assert report["cross_entropy"] == 0.25
    assert (report["model"], report["timing"]) == ({"name": "unet", "sha256": "ab"}, {"seconds": 1.5})


def test_fields_come_in_the_promised_order():
    """A report reads the same every time: fixed order of fields, the same of each image but the matrix."""
    report = build(A)
    shared = [
        *("pixels", "no_prediction", "skipped", "quarantined", "no_data", "not_done"),
        *("classes", "mean_iou", "mean_dice", "macro_f1", "micro_f1"),
        *("frequency_weighted_iou", "pixel_accuracy", "cross_entropy", "overlap_agreement"),
    ]
    own = ["reliability", "calibration_error", "mean_iou_interval", "intervals"]
    last = ["areas", "confusion", "per_image", "without_truth", "left_out", "failures", "failure_groups", "model", "timing"]
    assert list(report) == ["format", "state", "images", *shared, *own, *last]
    assert list(report["per_image"][0]) == ["name", *shared, "calibration_error", "pixel_area", "worst_block", "areas"]
    of_class = ["id", "name", "iou", "dice", "precision", "recall", "f1", "truth", "predicted"]
    of_class += ["true_positives", "false_positives", "false_negatives"]
    assert list(report["per_image"][0]["classes"][0]) == of_class
    assert list(report["classes"][0]) == [*of_class, "iou_interval"]


@pytest.mark.parametrize("skipped_as", ["none", "background"])
def test_missing_pixels_are_counted_by_their_cause(tmp_path, engine, skipped_as):
    """Left, a third without data; right, what lies outside of a region. Both causes are counted apart, and nothing has failed."""
    pixels_YX = np.tile(np.repeat(np.uint8([0, 90, 200, 120]), 32), (64, 1))
    save_tiff(tmp_path / "a.tif", pixels_YX)
    save_tiff(tmp_path / "regions.tif", np.broadcast_to(np.arange(128) < 96, (64, 128)).astype(np.uint8))
    skip = {"name": "regions", "path": "regions.tif", "as": skipped_as}
    done = engine(images=["a.tif"], truth=None, normalize=None, model={"name": "histogram"}, reader={"nodata": 0}, skip=skip)
    assert done.code == 0
    report = done.report
    whole = {"pixels": 8192, "no_prediction": 4096 if skipped_as == "none" else 2048, "skipped": 2048, "quarantined": 0}
    for counts in (report, report["per_image"][0]):
        assert {key: counts[key] for key in (*whole, "no_data", "not_done")} == {**whole, "no_data": 2048, "not_done": 0}


def test_intervals_are_those_of_the_images_with_truth():
    """From five images on, each class and the mean have an interval around their IoU; images without truth change none."""
    few, many = build(A, B), build(A, B, A, B, A, B)
    assert few["mean_iou_interval"] is few["classes"][0]["iou_interval"] is None
    assert "5" in few["intervals"]["note"]
    low, high = many["mean_iou_interval"]
    assert low < many["mean_iou"] < high
    assert build(A, B, A, B, A, B, ImageCounts("bare", areas_only(6, 4)))["mean_iou_interval"] == [low, high]
    assert many["intervals"]["images"] == 6


def test_calibration_is_that_of_all_pixels():
    """Bins are summed over images; the error is the distance between confidence and accuracy, weighted by pixels."""
    confidence = np.zeros((3, CONFIDENCE_BINS), np.int64)
    confidence[:, 9] = 80, 60, 0.95 * 80 * CONFIDENCE_STEPS
    confidence[:, 6] = 20, 12, 0.65 * 20 * CONFIDENCE_STEPS
    assert A.counts is not None
    report = build(replace(A, counts=replace(A.counts, confidence=confidence)), A)
    assert report["calibration_error"] == pytest.approx(0.8 * (0.95 - 0.75) + 0.2 * 0.05)
    assert [(one["pixels"], one["right"]) for one in report["reliability"] if one["pixels"]] == [(20, 12), (80, 60)]
    assert report["per_image"][1]["calibration_error"] is None
    assert "reliability" not in report["per_image"][0]


def test_without_truth_areas_are_still_reported():
    """No truth at all: metric fields and matrix are null, areas and overlap agreement are not."""
    report = build(ImageCounts("a", areas_only(6, 4)))
    assert [one["predicted"] for one in report["classes"]] == [6, 4]
    assert [one["truth"] for one in report["classes"]] == [None, None]
    assert report["confusion"] is report["mean_iou"] is report["cross_entropy"] is None
    assert (report["overlap_agreement"], report["without_truth"]) == (0.75, [])


def test_truth_for_some_images_is_listed_and_is_no_error():
    """Images without truth are named where others have it; they add areas and change no metric."""
    report = build(A, ImageCounts("bare", areas_only(6, 4)))
    assert report["without_truth"] == ["bare"]
    assert report["failures"] == []
    assert report["mean_iou"] == build(A)["mean_iou"]
    assert [one["predicted"] for one in report["classes"]] == [101, 9]
    assert report["per_image"][1]["mean_iou"] is None


def test_broken_truth_costs_the_metrics_of_its_image_alone():
    """The image keeps its areas, has no metrics, is in no pooled metric, and the failure names value and position."""
    cause = "truth value 7 at (y=3, x=4) belongs to no class"
    report = build(A, replace(B, truth_error=cause))
    assert report["confusion"] == [[90, 0], [5, 5]]
    assert report["cross_entropy"] == 0.5
    assert report["per_image"][1]["mean_iou"] is report["per_image"][1]["cross_entropy"] is None
    assert [one["predicted"] for one in report["per_image"][1]["classes"]] == [0, 100]
    assert report["failures"] == [{"image": "b", "block": None, "phase": "count", "cause": cause, "attempts": 1}]


def test_an_image_that_was_never_opened_is_still_a_row():
    """Nothing counted: the image is listed with zero pixels and null metrics, its failure as it was given."""
    report = build(A, ImageCounts("gone", has_truth=True), failures=[Failure("gone", None, "plan", "cannot be read", 3)], state="partial")
    assert (report["images"], report["per_image"][1]["pixels"], report["per_image"][1]["mean_iou"]) == (2, 0, None)
    assert report["failures"][0] == {"image": "gone", "block": None, "phase": "plan", "cause": "cannot be read", "attempts": 3}


def test_an_empty_run_is_a_report():
    """No image at all gives zeros and nulls, and its files can be written."""
    report = build()
    assert (report["images"], report["pixels"], report["mean_iou"], report["per_image"]) == (0, 0, None, [])


def test_floats_are_added_in_plan_order():
    """Cross-entropy is the float sum in the order of the images, whatever its parts round to."""
    parts = [1e16, 1.0, -0.0, 1.0, 3.0, 0.1]
    images = [ImageCounts(str(i), counts([[1, 0], [0, 0]], nats=part), has_truth=True) for i, part in enumerate(parts)]
    total = 0.0
    for part in parts:
        total += part
    assert build(*images)["cross_entropy"] == total / len(parts)


class Odd(Metric):
    """A metric that gives what JSON has no word for."""

    def compute(self, counts, objects=None):
        return {"odd": np.float64("nan"), "size": np.int64(3), "classes": [{"more": float("inf")}] * len(counts.predicted)}


def test_several_metrics_stand_side_by_side_as_valid_json(tmp_path):
    """Fields of every metric are there; numpy numbers become plain ones, NaN and infinity null."""
    report = build(A, metrics=(Semantic(), Odd()))
    assert (report["odd"], report["size"], type(report["size"])) == (None, 3, int)
    assert report["classes"][0]["iou"] == 90 / 95
    assert report["classes"][0]["more"] is None
    write_report(report, tmp_path)
    text = (tmp_path / "report.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=pytest.fail) == report


def test_files_are_whole_and_repeatable(tmp_path):
    """Six files, no rest of a temporary one; writing again replaces them by the same bytes."""
    folder = tmp_path / "new" / "report"
    write_report(build(A, B), folder)
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sorted(first) == FILES
    write_report(build(A, B), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    assert json.loads(first["report.json"])["mean_iou"] == build(A, B)["mean_iou"]


def test_a_failed_write_leaves_the_old_report(tmp_path, monkeypatch):
    """A disk that fills up leaves the earlier files whole and no temporary one behind."""
    write_report(build(A), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StoreError, match="No space left on device; free space"):
        write_report(build(A, B), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_tables_hold_every_row_at_full_precision(tmp_path):
    """The CSV files have a row for each class, image and failure; undefined is empty and floats read back exactly."""
    write_report(build(A, B, failures=[Failure("a", "a:0.0.1", "predict", 'broke, "badly"\nhere', 3)]), tmp_path)
    header, *classes = rows(tmp_path / "per_class.csv")
    assert header[:9] == ["id", "name", "iou", "dice", "precision", "recall", "f1", "truth", "predicted"]
    assert header[9:] == ["true_positives", "false_positives", "false_negatives", "iou_low", "iou_high"]
    assert [float(row[2]) for row in classes] == [90 / 95, 105 / 110]
    header, *images = rows(tmp_path / "per_image.csv")
    assert header[0] == "name"
    assert header[-2:] == ["iou background", "iou nucleus"]
    assert [row[-2:] for row in images] == [[repr(90 / 95), "0.5"], ["", "1.0"]]
    assert rows(tmp_path / "failures.csv")[1] == ["a", "a:0.0.1", "predict", 'broke, "badly"\nhere', "3"]


def test_scores_of_objects_are_a_table_of_numbers(tmp_path):
    """instances.csv has a row for all images and one for each, with or without truth; lists of numbers are in report.json alone."""
    pair = np.array([[1, 1, 8]])
    one = np.array([1]), np.array([1])
    scored = replace(A, objects=count_objects(pair, one, one))
    plain = ImageCounts("c", areas_only(90, 10), objects=count_objects(pair * [1, 0, 1], one, None))
    write_report(build(scored, plain, metrics=(Semantic(), ObjectQuality())), tmp_path)
    header, *values = rows(tmp_path / "instances.csv")
    assert header[:5] == ["image", "class", "truth", "predicted", "ap50"]
    assert not {"ap", "sizes_predicted", "sizes_truth"} & set(header)
    assert [row[:5] for row in values] == [
        ["all images", "nucleus", "1", "2", "1.0"],
        ["a", *NAMES[1:], "1", "1", "1.0"],
        ["c", *NAMES[1:], "", "1", ""],
    ]


@pytest.mark.parametrize("name", ['=HYPERLINK("http://x")', "+1", "-1", "@SUM(A1)", "\tx"])
def test_no_name_becomes_a_formula(tmp_path, name):
    """Text that a spreadsheet would run has an apostrophe in front, as an image, a class and a cause, in every table."""
    image = replace(A, name=name)
    write_report(build(image, names=(name, "b"), failures=[Failure(name, None, "plan", name)]), tmp_path)
    cells = [cell for file in FILES if file.endswith(".csv") for row in rows(tmp_path / file) for cell in row]
    assert cells.count(f"'{name}") == 10
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]


def test_no_name_breaks_a_row(tmp_path):
    """Quotes, commas and line feeds come back as they were, and a carriage return as a space: the rows stay one each."""
    write_report(build(replace(A, name='a,"b"\nc\rd')), tmp_path)
    assert [row[0] for row in rows(tmp_path / "per_image.csv")] == ["name", 'a,"b"\nc d']


def test_starting_over_knows_every_file_of_a_report():
    """`--fresh` removes these files and leaves what else lies beside them."""
    assert {*FILES, "instances.csv", "zones.csv"} < set(REPORT_PARTS)


def printed(report, **options):
    console = Console(file=io.StringIO(), **options)
    print_table(report, console)
    return console.file.getvalue()


def test_a_name_of_others_is_shown_and_not_obeyed():
    """A class name may hold codes that a terminal obeys, such as one that clears it."""
    text = printed(build(B, names=("cell\x1b[2J", "nucleus")), width=80)
    assert "\x1b" not in text
    assert "cell?[2J" in text


def test_a_piped_table_has_one_whole_line_a_class():
    """In a pipe a long name is neither cut nor folded, nothing is coloured, and undefined is a dash."""
    long = "a very long class name [bold]with brackets[/bold] " * 5
    text = printed(build(B, names=(long.strip(), "nucleus")), width=80)
    lines = text.splitlines()
    assert len(lines) == 4
    assert lines[0].split() == ["class", "IoU", "Dice", "precision", "recall", "truth", "px", "predicted", "px"]
    assert lines[1].startswith(long.strip())
    assert lines[1].split()[-6:] == ["-", "-", "-", "-", "0", "0"]
    assert lines[2].split() == ["nucleus", "1.0000", "1.0000", "1.0000", "1.0000", "100", "100"]
    assert lines[3].split() == ["mean", "1.0000", "1.0000"]
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("missing", "line"),
    [
        (7, "7 px (3.4 %) have no prediction and are left out"),
        (300_000, "300,000 px (99.9 %) have no prediction and are left out"),
    ],
)
def test_the_table_says_what_is_left_out(missing, line):
    """Pixels without prediction, whatever the reason, are told below the table: their number and share."""
    text = printed(build(ImageCounts("a", counts([[90, 0], [5, 5]], missing=missing), has_truth=True), B), width=80)
    assert text.splitlines()[4:] == [line]


def test_skipped_pixels_are_told_apart():
    """Beside the pixels without a prediction stands how many were skipped on purpose."""
    counted = replace(counts([[90, 0], [5, 5]], missing=7), skipped=6)
    text = printed(build(ImageCounts("a", counted, has_truth=True), B), width=80)
    assert text.splitlines()[4].endswith("have no prediction and are left out; 6 px were skipped")


def test_the_table_does_not_call_a_few_none():
    """A share that would be rounded to nothing is a bound."""
    text = printed(build(ImageCounts("a", counts([[90_000, 0], [0, 0]], missing=1), has_truth=True)), width=80)
    assert text.splitlines()[4:] == ["1 px (under 0.1 %) have no prediction and are left out"]


def test_a_table_on_a_terminal_fits_it():
    """On a narrow terminal long names are folded and no number is lost."""
    text = printed(build(A, names=("x" * 200, "nucleus")), width=90, force_terminal=True, color_system=None, legacy_windows=False)
    assert max(len(line) for line in text.splitlines()) <= 100
    assert text.count("x") >= 200
    assert "0.9474" in text


def test_objects_are_shown_with_what_is_known():
    """Without truth there is no column of scores."""
    bare = ImageCounts("c", areas_only(90, 10), objects=count_objects(np.array([[1, 0, 8]]), (np.array([1]), np.array([1])), None))
    report = build_report("done", [{"name": name} for name in NAMES], [ObjectQuality()], [bare])
    assert printed(report).split() == ["objects", "of", "class", "predicted", "objects", NAMES[1], "1"]
