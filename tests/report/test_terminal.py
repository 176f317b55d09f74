"""The end of a run on a terminal or in a pipe: scores with their intervals, the worst images, and what to do next."""

from __future__ import annotations

import io
import shlex

import pytest
from rich.console import Console

from pipeline.cli import main
from pipeline.inputs import OUTSIDE
from pipeline.report import print_table, print_worst
from pipeline.report.terminal import area_lines
from tests.conftest import blobs, save_tiff

CLASSES = [{"id": index, "name": name} for index, name in enumerate(("background", "nucleus"))]
NUMBERS = {"dice": 0.9, "precision": 0.91, "recall": 0.89, "f1": 0.9, "truth": 1000, "predicted": 1100}


def image(name, *iou, pixels=100, missing=0):
    known = [one for one in iou if one is not None]
    classes = [{**spec, "iou": one} for spec, one in zip(CLASSES, iou or (None, None), strict=True)]
    return {
        "name": name,
        "pixels": pixels,
        "no_prediction": missing,
        "mean_iou": sum(known) / len(known) if known else None,
        "classes": classes,
    }


def report_of(*images, interval=None, names=("background", "nucleus")):
    classes = [
        {**spec, "name": name, "iou": 0.8123, "iou_interval": interval, **NUMBERS} for spec, name in zip(CLASSES, names, strict=True)
    ]
    pooled = {"classes": classes, "mean_iou": 0.8, "mean_dice": 0.9, "mean_iou_interval": interval, "no_prediction": 0, "pixels": 100}
    return {**pooled, "per_image": images}


def printed(show, report, **options):
    console = Console(file=io.StringIO(), soft_wrap=True, **{"width": 80, **options})
    show(report, console)
    return console.file.getvalue()


def test_intervals_have_a_column_where_there_are_any():
    """Beside the IoU of each class and of the mean; below five images the table has no such column."""
    lines = printed(print_table, report_of(interval=[0.75, 0.86789])).splitlines()
    assert lines[0].split()[:6] == ["class", "IoU", "95", "%", "interval", "Dice"]
    assert [line.split()[:3] for line in lines[1:]] == [
        ["background", "0.8123", "0.7500-0.8679"],
        ["nucleus", "0.8123", "0.7500-0.8679"],
        ["mean", "0.8000", "0.7500-0.8679"],
    ]
    assert "interval" not in printed(print_table, report_of())


def test_without_truth_there_are_no_scores():
    """Each class and its pixels: no column of dashes and no mean."""
    report = report_of()
    report["classes"] = [{"id": one["id"], "name": one["name"], "predicted": 7, "iou": None, "truth": None} for one in report["classes"]]
    lines = printed(print_table, {**report, "mean_iou": None, "mean_dice": None}).splitlines()
    assert [line.split() for line in lines] == [["class", "predicted", "px"], ["background", "7"], ["nucleus", "7"]]


@pytest.mark.parametrize(("width", "shown"), [(120, 7), (80, 6), (60, 5), (40, 2), (20, 1)])
def test_a_narrow_terminal_gets_fewer_columns_and_every_name(width, shown):
    """IoU is the last number to go, and no number is cut."""
    options = {"width": width, "force_terminal": True, "color_system": None, "legacy_windows": False}
    text = printed(print_table, report_of(interval=[0.75, 0.86789]), **options)
    assert max(map(len, text.splitlines())) <= width
    titles = ("IoU", "interval", "Dice", "precision", "recall", "truth px", "predicted px")
    assert [title for title in titles if title in text.splitlines()[0]] == list(titles[:shown])
    assert "nucleus" in text
    assert "…" not in text


def test_the_worst_images_are_named_with_their_worst_class():
    """Three of them, the lowest mean IoU first; images without truth are none of them."""
    images = [
        image("good", 0.9, 0.8),
        image("a", 0.5, 0.3),
        image("b", 0.1, 0.9),
        image("none"),
        image("c", None, 0.2),
        image("d", 0.6, 0.6),
    ]
    lines = [line.split() for line in printed(print_worst, report_of(*images)).splitlines() if line]
    assert lines == [
        ["worst", "images", "mean", "IoU", "worst", "class", "IoU"],
        ["c", "0.2000", "nucleus", "0.2000"],
        ["a", "0.4000", "nucleus", "0.3000"],
        ["b", "0.5000", "background", "0.1000"],
    ]


def test_areas_and_zones_of_maps_have_a_line():
    """The largest classes first, at most five; the share in no zone; nothing where pixels have no size in metres."""
    areas = {"unit": "meter", "classes": [{"class": f"c{index}", "predicted": 10.0**index} for index in range(7)]}
    zones = [{"zone": "north", "pixels": 70}, {"zone": OUTSIDE, "pixels": 30}]
    report = {**report_of(), "pixels": 100, "areas": areas, "zones": zones}
    assert area_lines(report) == [
        "areas: c6 1.00 km², c5 10.0 ha, c4 1.00 ha, c3 1,000 m², c2 100 m² and 2 more classes",
        "zones: 1 zone, 30.0 % of the pixels in none; see report/zones.csv",
    ]
    assert area_lines({**report, "areas": {**areas, "unit": "micrometer"}, "zones": None}) == []
    of_each = {"areas": None, "zones": None, "images": 2, "per_image": [{"areas": areas}, {"areas": None}]}
    told = "areas: not added up, as the size of a pixel is not known for 1 of 2 images; see report/areas.csv"
    assert area_lines({**report, **of_each}) == [told]
    assert "zones: 1 zone" in printed(print_table, report)


def test_a_single_image_is_not_the_worst():
    """Nor is there a worst one where only one image has truth."""
    assert printed(print_worst, report_of(image("a", 0.5, 0.3))) == ""
    assert printed(print_worst, report_of(image("a", 0.5, 0.3), image("b"))) == ""


def test_images_without_prediction_are_named():
    """Those that could not be opened included; many are counted."""
    lost = [image(f"lost[{index}]\x1b[2J", pixels=100, missing=100) for index in range(6)]
    text = printed(print_worst, report_of(image("a"), *lost, image("unread", pixels=0)))
    assert text == "no prediction: lost[0]?[2J, lost[1]?[2J, lost[2]?[2J, lost[3]?[2J, lost[4]?[2J and 2 more\n"


def test_the_last_lines_can_be_pasted(engine, tmp_path, traced, capsys, monkeypatch):
    """`gigaseg view` and what opens the report, quoted for a shell, after every other line; `report` prints them as well."""
    monkeypatch.setattr("workflows.run.shutil.which", lambda name: f"/usr/bin/{name}")
    for name in "ab":
        save_tiff(tmp_path / f"{name}.tif", blobs((100, 200)))
    done = engine(model={"name": "traced.model"}, normalize=None)
    folder = done.folder.rename(done.folder.with_name("it's a run"))
    capsys.readouterr()
    assert main(["report", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-4:-2] == [f"masks:  {folder}/masks", f"report: {folder}/report/index.html"]
    view, opening = (shlex.split(line.partition(":")[2]) for line in lines[-2:])
    assert view == ["gigaseg", "view", str(folder)]
    assert opening[1:] == [f"{folder}/report/index.html"]
    monkeypatch.setattr("workflows.run.shutil.which", lambda _: None)
    assert main(["report", str(folder)]) == 0
    assert shlex.split(capsys.readouterr().out.splitlines()[-1]) == ["open:", f"{folder}/report/index.html"]
