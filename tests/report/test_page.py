"""The page of a report: everything that is known, in words, whatever names hold and however much there is."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from pipeline.engine import all_phases
from pipeline.metrics.instances import ObjectQuality
from pipeline.metrics.semantic import Semantic
from pipeline.report import rendering, write_report
from pipeline.report.content import Failure, ImageCounts, build_report
from pipeline.report.gallery import make_gallery
from pipeline.report.page import build_page, colors_of
from pipeline.report.page_words import PHASES
from pipeline.statistics import AreaCounts, AreaSums, count_objects
from pipeline.statistics.pixel_counts import Counts
from pipeline.storage import open_storage
from tests.report.scenes import CLASSES, EVIL, Page, leave, report_of, scored, thumbnails_of

RUN = {
    "seconds": 75.2,
    "pixels_per_second": 41_200_000,
    "busy_share": 0.731,
    "recipe": {"backend": "openvino", "device": "cpu", "precision": "bf16", "core": 768, "halo": 48, "block": 2304, "stitch": "crop"},
    "notes": ["core was rounded up to 768"],
    "trial": {"tried": [{"backend": "openvino", "precision": "bf16", "seconds": 0.4, "agreement": 0.9991, "refused": ""}]},
    "versions": {"gigaseg": "0.1.0"},
    "hardware": {"host": "box", "cores": 2, "memory_bytes": 2**34},
    "identity": {"weights": {"weights.safetensors": "ab" * 32}},
    "started": "2026-11-30T10:49:51+0000",
}
TIMING = {
    "stage_seconds": {"read": 10.0, "compute": 30.0},
    "peak_actor_bytes": 966090752,
    "phases": {"predict": {"blocks": 7, "failed": 1, "seconds": 40.0}},
    "actors": [{"actor": f"host/{index}", "blocks": 2, "seconds": {"read": 1.0, "compute": 3.0}} for index in range(50)],
}
CONFIG = "classes: [{name: nucleus, color: '#123456'}]\n"
PROVENANCE = {"output": "runs/it's mine", "run": RUN, "config": CONFIG, "colors": ["#000000", "#123456"]}


def page_of(report, **more):
    return Page(build_page(report, **more))


def test_the_headline_is_the_result():
    """How many images are whole, the mean IoU, and what failed."""
    failures = [Failure("a", f"a:0.0.{index}", "predict", "out of memory") for index in range(3)]
    images = [scored("a", 0.9, missing=50, quarantined=50), *(scored(str(index), 0.9) for index in range(11)), ImageCounts("lost")]
    report = report_of(*images, state="partial", failures=[*failures, Failure("lost", None, "plan", "cannot be read")])
    page = page_of(report)
    assert f"11 of 13 images, mean IoU {report['mean_iou']:.3f}, 3 blocks failed, 1 image could not be opened" in page.texts
    assert "finished, but some of it failed" in page.texts


def test_an_image_without_data_everywhere_is_whole():
    """Pixels without data are no failure: the image counts as done, and they have a row of their own; what is not done is none of them."""
    image = replace(scored("a", 0.9, missing=250), no_data=250)
    page = page_of(report_of(image))
    assert any(text.startswith("1 of 1 image, ") for text in page.texts)
    assert "250 px without data" in page.texts
    assert {"without data", "250"} <= set(page.texts)
    page = page_of(report_of(replace(image, no_data=200, not_done=50), state="interrupted"))
    assert any(text.startswith("0 of 1 image, ") for text in page.texts)
    assert "200 px without data; 50 px failed or not done" in page.texts


def test_the_gallery_tells_missing_data_from_failures(tmp_path):
    """What failed stands out; an image of nothing, and missing data at the edge of a map, are said and no alarm."""
    storage = open_storage(str(tmp_path))
    nothing = ImageCounts("c", Counts(np.zeros(2, np.int64), 1000), no_data=1000)
    images = [replace(scored("a", 0.9, missing=250), no_data=250), scored("b", 0.8, missing=100, quarantined=100), nothing]
    report = report_of(*images)
    leave(storage, "a", thumbnails_of())
    leave(storage, "b", thumbnails_of())
    text = build_page(report, gallery=make_gallery(report, storage, ["#000000", "#e6194b"]))
    assert "20.0 % without data" in text
    assert re.findall(r'<span class="bad">(.*?)</span>', text) == ["9.1 % failed or not done"]
    assert '<p class="notice small">The image holds no data</p>' in text


def test_a_stack_is_told_by_its_planes(tmp_path):
    """The picture is of the middle plane, and the worst block may be of another: both are said, counted from 1 as in the viewer."""
    storage = open_storage(str(tmp_path))
    leave(storage, "a", replace(thumbnails_of(10, 20), shape=(10, 20)))
    worst = {"block": "4.0.1", "box": (0, 10, 10, 20), "wrong": 0.5}
    report = report_of(replace(scored("a", 0.9), worst_block=worst))
    told = Page(build_page(report, gallery=make_gallery(report, storage, ["#000000", "#e6194b"]))).text
    assert "plane 3 of 5 is shown" in told
    assert "worst block: plane 5, rows 0 to 10, columns 10 to 20, 50.0 % wrong" in told
    leave(storage, "a", replace(thumbnails_of(10, 20), shape=(20, 50)))
    assert "plane" not in Page(build_page(report, gallery=make_gallery(report, storage, ["#000000", "#e6194b"]))).text


def test_what_is_skipped_as_the_first_class_is_no_prediction_of_the_model():
    """Pixels that are skipped as background have a class: the rows add up to all pixels, and none is negative."""
    page = page_of(report_of(scored("a", 0.9, skipped=400)))
    start = page.texts.index("Areas, and what has no prediction")
    rows = page.texts[page.texts.index("share", start) + 1 :]
    assert rows[:6] == ["predicted", "600", "60.0 %", "skipped on purpose", "400", "40.0 %"]
    assert rows[6:12] == ["failed or not done", "0", "0 %", "all", "1,000", "100 %"]


def test_truth_that_cannot_be_counted_is_not_missing():
    """Where the truth of every image holds values of no class, the page does not say that there is none."""
    page = page_of(report_of(replace(scored("a", 0.9), truth_error="truth value 9 belongs to no class"), state="partial"))
    assert "There is no truth" not in page.text
    assert "The truth could not be counted" in page.text


def test_numbers_have_words_and_units():
    """Time, memory, speed and the recipe are said in words; no key of report.json is."""
    page = page_of(report_of(scored("a", 0.9), timing=TIMING), provenance=PROVENANCE)
    for words in (
        *("Peak memory of an actor 921 MiB", "Time from start to end 1 min 15 s", "Speed 41.2 Mpx a second", "Share of busy device 73.1 %"),
        *("Core of a tile 768 px", "core was rounded up to 768", "Machine box", "gigaseg 0.1.0", "99.9 %", "model 75.0 %; reading 25.0 %"),
        *("2026-11-30 10:49:51 +0000", "weights.safetensors " + "ab" * 32, "#123456"),
    ):
        assert words in page.text, words
    assert not re.search(r"peak.actor|stage.seconds|frequency_weighted|no_prediction", page.text)


@pytest.mark.parametrize(
    ("images", "note"), [(6, "95 % intervals: percentile bootstrap"), (4, "No intervals: intervals take at least 5 images")]
)
def test_intervals_are_shown_or_it_says_why_not(images, note):
    """Each class has its interval as numbers and on its bar; below five images a sentence says why it has none."""
    report = report_of(*(scored(str(index), 0.5 + index / 20) for index in range(images)))
    text = build_page(report)
    page = Page(text)
    assert note in page.text
    intervals = [one["iou_interval"] for one in report["classes"]]
    assert text.count('class="bar ranged"') == (3 if images >= 5 else 0)
    if images >= 5:
        assert all(f"{low:.3f} to {high:.3f}" in page.texts and f"--low: {low}; --high: {high}" in text for low, high in intervals)


def test_the_matrix_has_shares_and_counts():
    """A cell is a share of its row; its pixels are there for the pointer and for screen readers."""
    text = build_page(report_of(scored("a", 0.9)))
    assert text.count('title="450 px">90.0 %<span class="hidden">, 450 px</span>') == 2
    assert text.count('title="50 px">10.0 %<span class="hidden">, 50 px</span>') == 2
    many = [{"name": f"class {index}", "color": "#000000"} for index in range(65)]
    whole = ImageCounts("a", Counts(np.ones(65, np.int64), confusion=np.eye(65, dtype=np.int64)), has_truth=True)
    assert "65 classes are too many to read as a matrix" in page_of(report_of(whole, classes=many)).text


def test_failures_are_told_with_the_way_out():
    """Causes as in failure_groups, the command to try again as a shell takes it, and each failure."""
    failures = [Failure("a", f"a:0.0.{index}", "predict", f"tile {index} is damaged", 3) for index in range(5)]
    page = page_of(
        report_of(scored("a", 0.9), failures=failures, left_out=[{"path": "notes.txt", "reason": "no image"}]), provenance=PROVENANCE
    )
    assert "predict 5 blocks of a after 3 tries, first a:0.0.0: tile 0 is damaged" in page.texts
    assert "gigaseg retry 'runs/it'\"'\"'s mine'" in page.texts
    assert {"a:0.0.4", "tile 4 is damaged", "notes.txt", "no image"} <= set(page.texts)
    page = page_of(report_of(scored("a", 0.9), failures=failures))
    assert "gigaseg retry" not in page.text
    scored_masks = {**PROVENANCE, "run": {"identity": {"evaluate": {}}}}
    page = page_of(report_of(scored("a", 0.9), state="interrupted", failures=failures), provenance=scored_masks)
    assert not re.search("gigaseg (retry|run)", page.text)
    assert "gigaseg run" in page_of(report_of(scored("a", 0.9), state="interrupted"), provenance=PROVENANCE).text


def test_objects_are_shown_with_what_is_known():
    """A row of objects for each class and image, sizes of both sides, and no column in which nothing is known."""
    pairs = np.array([[1, 1, 8], [2, 0, 20]])
    both = replace(scored("a", 0.9), objects=count_objects(pairs, (np.array([1, 2]), np.array([1, 1])), (np.array([1]), np.array([1]))))
    bare = ImageCounts("c", Counts(np.array([90, 10])), objects=count_objects(np.array([[1, 0, 8]]), (np.array([1]), np.array([1])), None))
    page = page_of(build_report("done", CLASSES[:2], [Semantic(), ObjectQuality()], [both, bare, ImageCounts("lost")]))
    start = page.texts.index("Objects of each image, worst image first")
    assert page.texts[start:][page.texts[start:].index("a") :][:5] == ["a", "nucleus", "1", "2", "0.500"]
    assert page.texts[start:][page.texts[start:].index("c") :][:5] == ["c", "nucleus", "–", "1", "–"]
    sizes = page.texts[page.texts.index("Sizes of nucleus") :]
    assert sizes[sizes.index("8") :][:8] == ["8", "16", "1", "2", "16", "32", "0", "1"]
    assert "per hectare" not in page.texts
    page = page_of(build_report("done", CLASSES[:2], [ObjectQuality()], [bare]))
    assert "predicted" in page.texts
    assert not {"AP at IoU 0.5", "PQ", "truth"} & set(page.texts)


def test_areas_have_a_unit_where_pixels_have_a_size():
    """Square micrometres add up over images of one unit; where one image has none, no area is said."""
    images = [scored("a", 0.9, missing=1000, skipped=1000), scored("b", 0.8)]
    known = report_of(*(replace(one, pixel_area=(2500.0, "micrometer")) for one in images))
    page = page_of(known)
    assert {"7.50 mm²", "5.00 mm²", "2.50 mm²"} <= set(page.texts)
    assert {"area, mm²", "5.000", "2.500"} <= set(page.texts)
    small = page_of(report_of(replace(images[1], pixel_area=(0.25, "meter"))))
    assert {"area, m²", "250"} <= set(small.texts)
    half = report_of(replace(images[0], pixel_area=(2500.0, "micrometer")), images[1])
    assert "the size of a pixel is not known for each of them" in page_of(half).text


def zoned(name, areas=None, pixel_area=(0.25, "meter"), **more):
    """An image of 1000 pixels with two zones that overlap."""
    north, outside = AreaCounts([300, 100, 0], areas), AreaCounts([200, 300, 100], areas)
    sums = AreaSums(zones={"north": north, EVIL: north}, outside=outside)
    return replace(scored(name, 0.9), areas=sums, pixel_area=pixel_area, **more)


def test_zones_have_a_table_where_there_are_any():
    """A row a zone and class, the rest last; areas in the unit that fits; without zones there is no section."""
    page = page_of(report_of(zoned("a"), zoned("b")))
    assert {"north", "outside", "600", "area, m²", "75.0 %"} <= set(page.texts)
    assert any("Zones that overlap each count it" in text for text in page.texts)
    bare = page_of(report_of(zoned("a", pixel_area=None)))
    assert {"north", "75.0 %"} <= set(bare.texts)
    mixed = report_of(zoned("a"), zoned("b", pixel_area=(0.25, "micrometer")))
    assert (mixed["areas"], [zone["area"] for zone in mixed["zones"]]) == (None, [None] * 3)
    assert "north" in page_of(mixed).texts
    assert "Zones that overlap each count it" not in page_of(report_of(scored("a", 0.9))).text


def test_areas_by_row_are_those_that_were_counted():
    """A class whose pixels were not all counted by row has no area; the sum of classes is then unknown, and the whole is not."""
    image = replace(scored("a", 0.9), pixel_area=(0.25, "meter"), by_row=True)
    predicted, truth = AreaCounts([500, 500, 0], [10**14, 3 * 10**14, 0]), AreaCounts([500, 499, 0], [10**14] * 3)
    known = report_of(replace(image, areas=AreaSums(predicted, truth)))["areas"]
    assert [(one["predicted"], one["truth"]) for one in known["classes"]] == [(100.0, 100.0), (300.0, None)]
    assert (known["all"], known["predicted"], known["no_prediction"]) == (250.0, 400.0, 0.0)
    unknown = report_of(image)["areas"]
    assert [one["predicted"] for one in unknown["classes"]] == [None, None]
    assert (unknown["all"], unknown["predicted"], unknown["no_prediction"]) == (250.0, None, None)
    assert page_of(report_of(image)).texts


def test_time_of_many_actors_is_summed_up():
    """40 actors have a bar each, the mean of the others is one more."""
    text = build_page(report_of(scored("a", 0.9), timing=TIMING))
    chart = json.loads(re.search(r'id="charts">(.*?)</script>', text)[1])["actors"]
    assert len(chart["rows"]) == 41
    assert chart["rows"][-1] == {"name": "10 more, mean", "values": [1.0, 3.0]}


def test_reliability_is_drawn_where_probabilities_are_known():
    """A point a bin that holds pixels, with its table."""
    report = report_of(scored("a", 0.9))
    bins = [
        {"from": 0.5, "to": 0.6, "pixels": 100, "right": 40, "confidence": 0.55},
        {"from": 0.6, "to": 0.7, "pixels": 0, "right": 0, "confidence": None},
    ]
    text = build_page({**report, "reliability": bins, "calibration_error": 0.15})
    chart = json.loads(re.search(r'id="charts">(.*?)</script>', text)[1])["reliability"]
    assert chart["lines"] == [[[0.55, 0.4]]]
    assert "Expected calibration error 15.0 %" in Page(text).text
    assert "0.50 to 0.60" in Page(text).texts


def test_reports_of_earlier_versions_have_a_page():
    """Fields that newer reports have may be absent or null, without a run, without metrics, without an image."""
    new = ("iou_interval", "true_positives", "false_positives", "false_negatives")
    report = report_of(scored("a", 0.9), timing={"peak_bytes": 2048})
    for key in ("intervals", "mean_iou_interval", "reliability", "calibration_error", "without_truth", "left_out"):
        report.pop(key, None)
    for one in (report, *report["per_image"]):
        one["classes"] = [{key: value for key, value in spec.items() if key not in new} for spec in one["classes"]]
        one.pop("pixel_area", None)
    assert "mean IoU" in page_of(report).text
    assert page_of(report_of()).texts
    assert page_of(build_report("failed", CLASSES, [], [ImageCounts("a")]), provenance={"run": {}, "config": "a: [", "output": None}).texts
    bare = page_of(report_of(ImageCounts("a", Counts(np.array([6, 4]), overlap_equal=3, overlap_pixels=4))))
    assert "There is no truth to compare with" in bare.text
    assert "75.0 %" in bare.texts


def test_names_of_others_are_shown_and_not_obeyed(tmp_path):
    """A name that holds tags, quotes, line breaks, or letters that turn the direction of writing is text, wherever it stands."""
    storage = open_storage(str(tmp_path))
    leave(storage, "evil", thumbnails_of())
    report = report_of(
        *(scored(EVIL, 0.5), scored("b", 0.9)),
        classes=({"name": EVIL}, {"name": "b"}),
        failures=[Failure(EVIL, EVIL, EVIL, EVIL)],
        left_out=[{"path": EVIL, "reason": EVIL}],
        model={"name": EVIL, "sha256": EVIL},
        timing={"stage_seconds": {EVIL: 1.0}, "phases": {EVIL: {"blocks": 1, "failed": 0, "seconds": 1.0}}},
    )
    gallery = make_gallery({**report, "per_image": [{**one, "name": "evil"} for one in report["per_image"]]}, storage, ["#000000"] * 2)
    run = {**RUN, "notes": [EVIL], "versions": {EVIL: EVIL}, "hardware": {"host": EVIL}, "started": EVIL}
    text = build_page(report, provenance={"output": EVIL, "run": run, "config": EVIL}, gallery=gallery)
    harmless = build_page(report_of(scored("a", 0.9), scored("b", 0.9)))
    assert [text.count(tag) for tag in ("<script", "</script>")] == [harmless.count(tag) for tag in ("<script", "</script>")]
    assert "<script>document" not in text
    assert Page(text).text.count("x" * 300) > 20


def test_notes_without_end_are_cut():
    """Each of a million files may have something to say; the page says where the rest is."""
    page = page_of(report_of(scored("a", 0.9)), provenance={"run": {"notes": [f"note {index}" for index in range(3000)]}})
    assert "note 999" in page.texts
    assert "note 1000" not in page.texts
    assert "and 2,000 more, which run.json has" in page.texts


def test_the_page_loads_nothing(tmp_path):
    """Links lead to files beside it or into the page; pictures are in it."""
    storage = open_storage(str(tmp_path))
    leave(storage, "a", thumbnails_of())
    write_report(report_of(scored("a", 0.9)), f"{tmp_path}/report", provenance=PROVENANCE, thumbnails=storage)
    page = Page((tmp_path / "report" / "index.html").read_text(encoding="utf-8"))
    assert sum(link.startswith("data:image/") for link in page.links) == 3
    assert "gigaseg view 'runs/it'\"'\"'s mine'" in page.texts
    for link in page.links:
        assert link.startswith(("data:image/", "#")) or (tmp_path / "report" / link).is_file(), link
    assert not {"link", "iframe", "object", "form"} & set(page.tags)


def test_colors_are_those_of_the_run():
    """Without them the usual ones are taken, and where a file of somebody else holds any other text: it would be a style of the page."""
    report = report_of()
    assert colors_of(report, PROVENANCE) == ["#000000", "#123456"]
    for colors in (None, [], ["#000000"], ["red", "#e6194b; position: fixed"], ["#000000\n", {"a": 1}]):
        assert colors_of(report, {"colors": colors}) == colors_of(report, None) == ["#000000", "#e6194b"]


def test_a_page_that_fails_costs_no_number(tmp_path, monkeypatch, capsys):
    """The files with numbers are there, a page says what happened in place of the one of before, and nothing is raised."""

    def fail(*_, **__):
        raise RuntimeError("<b>no\x1b[2J template")

    report, page = report_of(scored("a", 0.9)), tmp_path / "index.html"
    write_report(report, str(tmp_path))
    before = page.read_text()
    (tmp_path / "report.json").unlink()
    monkeypatch.setattr(rendering, "build_page", fail)
    write_report(report, str(tmp_path))
    assert json.loads((tmp_path / "report.json").read_text())["mean_iou"] == report["mean_iou"]
    assert page.read_text() != before
    assert "RuntimeError: &lt;b&gt;no" in page.read_text()
    err = capsys.readouterr().err
    assert f"the numbers are in {tmp_path}" in err
    assert "\x1b" not in err


def test_every_phase_has_words():
    """No name of a phase is shown as it is."""
    assert {phase.name for phase in all_phases()} <= set(PHASES)
