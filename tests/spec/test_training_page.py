"""The page of a training: its curves are those of the history, it is safe to open, and complete even if parts of its input are missing."""

from __future__ import annotations

import base64
import io
import json
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import default_colors
from pipeline.errors import StoreError
from pipeline.metrics.semantic import Semantic
from pipeline.report.content import ImageCounts, build_report
from pipeline.statistics.pixel_counts import Counts, confusion_matrix
from pipeline.storage import LocalStorage
from pipeline.training.curves import MOST_OF_CHART, curve_charts
from pipeline.training.history import History
from pipeline.training.page import Picture, write_page

NAMES = ("background", "nucleus", "border")
VOID = {"meta", "img"}
TRUTH = np.array([[0, 0, 1, 1], [2, 2, 255, 255]])
MASK = np.array([[0, 1, 1, 255], [2, 0, 0, 255]])
IMAGE = np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 10


def report_of(names=NAMES, matrix=((90, 10, 0), (5, 45, 0), (0, 0, 0))):
    counts = Counts(np.array(matrix).sum(axis=0), confusion=np.array(matrix)) if matrix else Counts(np.arange(len(names)))
    images = [ImageCounts("a", counts, has_truth=bool(matrix))]
    return build_report("done", [{"name": name} for name in names], (Semantic(),), images)


def history_of(folder, losses=(2.0, 1.0), names=NAMES, reports=()):
    """Write history.csv."""
    with History(folder, names, None) as history:
        for step, loss in enumerate(losses, 1):
            history.record_training(step, loss=loss, parts={}, rate=0.1, crops_per_second=5.0)
        for step, report in enumerate(reports, 1):
            history.record_validation(step, report)


@pytest.fixture
def page(tmp_path):
    """Write a page and read it: ``page(title=..., report=..., ...)``; its curves are those of the last :func:`history_of`."""

    def go(*, title="unet", facts=None, report=None, pictures=()):
        write_page(LocalStorage(tmp_path), title=title, facts=facts or {}, report=report or report_of(), pictures=pictures)
        return (tmp_path / "training.html").read_text(encoding="utf-8")

    return go


class Elements(HTMLParser):
    """Every element with its attributes, and the text; fails where tags do not match."""

    def __init__(self, text):
        super().__init__()
        self.found, self.text, self._open = [], [], []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag, key):
        return [attrs[key] for name, attrs in self.found if name == tag and key in attrs]


def charts(text):
    """Return what each chart of a page draws, by its title."""
    island = re.search(r'<script type="application/json" id="charts">(.*?)</script>', text)
    return {one["title"]: one for one in json.loads(island[1]).values()} if island else {}


def lines(chart):
    """Return the points of each line of a chart, by its name."""
    return {series["name"]: points for series, points in zip(chart["series"], chart["lines"], strict=True)}


def decoded(text):
    """Pixels of the pictures of a page, by what they show."""
    from PIL import Image

    images = [attrs for tag, attrs in Elements(text).found if tag == "img"]
    assert all(one["src"].startswith("data:image/png;base64,") for one in images)
    return {one["alt"]: np.array(Image.open(io.BytesIO(base64.b64decode(one["src"].partition(",")[2])))) for one in images}


def rgb(color):
    return tuple(bytes.fromhex(color[1:]))


def test_the_page_needs_nothing_else(page, tmp_path):
    """No link and no address to load from: scripts and pictures are in the page, nothing else may run, and every tag is closed."""
    history_of(tmp_path, reports=[report_of()])
    elements = Elements(page(pictures=[Picture("a", IMAGE, TRUTH, MASK)]))
    assert not {tag for tag, _ in elements.found} & {"link", "iframe", "object", "a"}
    assert not elements.all("script", "src")
    assert all(src.startswith("data:") for src in elements.all("img", "src"))
    assert "default-src 'none'" in elements.all("meta", "content")[1]


def test_text_is_shown_as_it_is(page, tmp_path):
    """Markup in a title, fact, class or picture name is shown as text and adds no element to the page."""
    nasty = '<b onclick="x">&\'"</b>'
    names = [nasty, "other", "third"]
    report = report_of(names)
    history_of(tmp_path, names=names, reports=[report])
    text = page(
        title=f"title {nasty}",
        facts={f"key {nasty}": f"value {nasty}"},
        report=report,
        pictures=[Picture(f"picture {nasty}", IMAGE, TRUTH, MASK)],
    )
    elements = Elements(text)
    assert not elements.all("b", "onclick")
    shown = " ".join(elements.text)
    for place in ("title", "key", "value", "picture"):
        assert f"{place} {nasty}" in shown
    assert {"training.html"} == {path.name for path in tmp_path.glob("*.html")}
    assert nasty in lines(charts(text)["IoU on validation images"])
    assert f"truth of picture {nasty}" in decoded(text)


def test_pictures_have_the_colours_of_the_classes(page):
    """The image is unchanged; masks have the colours of the report and are transparent without a class; wrong pixels are red on grey."""
    report = report_of()
    report["classes"] = [{**one, "color": color} for one, color in zip(report["classes"], ("#102030", "#a0b0c0", "#ffffff"), strict=True)]
    found = decoded(page(report=report, pictures=[Picture("a", IMAGE, TRUTH, MASK)]))
    lut = {0: (0x10, 0x20, 0x30, 255), 1: (0xA0, 0xB0, 0xC0, 255), 2: (255, 255, 255, 255), 255: (0, 0, 0, 0)}
    for name, ids in (("truth", TRUTH), ("prediction", MASK)):
        assert found[f"{name} of a"].tolist() == [[list(lut[value]) for value in row] for row in ids.tolist()]
    assert (found["image of a"] == IMAGE).all()
    error = found["error of a"]
    wrong = np.array([[False, True, False, False], [False, True, False, False]])  # what is no class is not wrong
    assert (error[wrong] == (255, 40, 40)).all()
    grey = IMAGE.mean(axis=-1).astype(np.uint8)
    assert (error[~wrong] == grey[~wrong][:, None]).all()


def test_classes_without_a_colour_get_the_palette(page):
    """Without colours in the report, each class has the palette colour of its id."""
    found = decoded(page(pictures=[Picture("a", IMAGE, np.array([[0, 1, 2, 2]] * 2), MASK)]))
    assert found["truth of a"][0, :3, :3].tolist() == [list(rgb(color)) for color in default_colors(3)]


@pytest.mark.parametrize(
    ("truth", "mask", "share"), [(TRUTH, MASK, "40.00 % wrong"), (MASK, MASK, "0.00 % wrong"), (TRUTH * 0 + 255, MASK, None)]
)
def test_the_share_of_wrong_pixels_is_that_of_the_confusion(page, truth, mask, share):
    """It is the share among pixels with a true and a predicted class, as the matrix counts them."""
    text = page(pictures=[Picture("a", IMAGE, truth, mask)])
    both = (truth < 3) & (mask < 3)
    counts = confusion_matrix(truth_YX=truth[both][None], mask_YX=mask[both][None], classes=3)
    expected = f"{100 * (1 - np.trace(counts) / counts.sum()):.2f} % wrong" if counts.sum() else "nothing to compare"
    assert f"<span>{expected}</span>" in text
    assert expected == (share or "nothing to compare")


@pytest.mark.parametrize(("channels", "shown"), [(1, [0, 0, 0]), (2, [15, 15, 15]), (3, [0, 30, 60]), (5, [0, 30, 60])])
def test_any_number_of_channels_can_be_shown(page, channels, shown):
    """Of three or more channels, the first three are red, green and blue; of fewer, the mean is grey."""
    image = np.broadcast_to(np.arange(channels, dtype=np.uint8) * 30, (2, 4, channels))
    assert decoded(page(pictures=[Picture("a", image, TRUTH, MASK)]))["image of a"][0, 0].tolist() == shown


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int64", "int16"])
def test_ids_may_be_of_any_integer_type(page, dtype):
    """Fill values of wider integer types, and negative values, are no classes."""
    top = np.iinfo(dtype).max
    mask = np.array([[0, 1, 2, top], [0, 0, 0, np.iinfo(dtype).min]]).astype(dtype)
    alpha = decoded(page(pictures=[Picture("a", IMAGE, TRUTH, mask)]))["prediction of a"][..., 3]
    assert alpha.tolist() == [[255, 255, 255, 0], [255, 255, 255, 0 if np.iinfo(dtype).min else 255]]


def test_curves_are_those_of_the_history(page, tmp_path):
    """Each loss is a point at its step; the axes begin at 0 and end with the last step and the largest loss."""
    history_of(tmp_path, [2.0, 1.0, 0.75, 0.5])
    chart = charts(page())["Loss"]
    assert lines(chart) == {"training loss": [[1, 2.0], [2, 1.0], [3, 0.75], [4, 0.5]]}
    assert (chart["x"]["domain"], chart["y"]["domain"]) == ([0, 4], [0, 2.0])
    assert chart["x"]["scale"] == "whole"
    assert chart["summary"] == "At the end: training loss 0.5."


def test_the_iou_of_each_class_has_its_colour_and_its_name(page, tmp_path):
    """Each class with an IoU has a line in its colour, and so has the mean; what is said of the chart has the last values."""
    report = report_of()
    history_of(tmp_path, reports=[report_of(matrix=((1, 1, 0), (1, 1, 0), (0, 0, 0))), report])
    chart = charts(page(report=report))["IoU on validation images"]
    colors = default_colors(3)
    assert [(one["name"], one["color"], one.get("dashed", False)) for one in chart["series"]] == [
        ("background", colors[0], False),
        ("nucleus", colors[1], False),
        ("mean", "var(--ink)", True),
    ]
    for name, iou in (("background", 90 / 105), ("nucleus", 45 / 60), ("mean", (90 / 105 + 45 / 60) / 2)):
        assert lines(chart)[name][-1] == [2, iou]
        assert f"{name} {iou:.4g}" in chart["summary"]


@pytest.mark.parametrize(
    "losses", [[], [0.5], [0.0, 0.0], [float("nan")] * 3, [1.0, float("inf"), float("nan"), 0.5], [-3.0, -3.0], [1e30, 1e-30]]
)
def test_no_number_is_broken(page, tmp_path, losses):
    """Without rows, with one row, with flat, negative, huge or non-finite losses, the axes enclose all that is drawn, and have a length."""
    history_of(tmp_path, losses, reports=[report_of()] if len(losses) == 1 else [])
    text = page()
    drawn = charts(text)
    assert ("Loss" in drawn) == any(np.isfinite(losses))
    assert ("No step has been recorded yet." in text) == (not losses)
    for chart in drawn.values():
        for key, place in (("x", 0), ("y", 1)):
            low, high = chart[key]["domain"]
            assert low < high
            assert all(low <= point[place] <= high for points in chart["lines"] for point in points)


@given(st.lists(st.floats(width=32), min_size=1, max_size=30))
def test_every_finite_value_is_drawn(values):
    """Of any 32-bit floats, the finite ones are points in the order of their steps."""
    text = "step,loss,rate,crops_per_second,mean_iou,cross_entropy\n" + "".join(
        f"{step},{value},,,,\n" for step, value in enumerate(values, 1)
    )
    finite = [[step, value] for step, value in enumerate(values, 1) if np.isfinite(value)]
    found = curve_charts(text, [])
    assert [chart.spec["lines"] for chart in found] == ([[finite]] if finite else [])


def test_iou_is_drawn_from_0_to_1(page, tmp_path):
    """The axis of IoU always goes from 0 to 1, so that pages can be compared."""
    for matrix in (((90, 10, 0), (5, 45, 0), (0, 0, 0)), ((1, 99, 0), (99, 1, 0), (0, 0, 0))):
        history_of(tmp_path, reports=[report_of(matrix=matrix)])
        assert charts(page())["IoU on validation images"]["y"]["domain"] == [0, 1]


def test_a_long_history_is_thinned_without_hiding_its_extremes():
    """100,000 steps become 300 points: means over equal spans of steps, and a band from the least to the greatest value."""
    values = np.random.default_rng(0).normal(size=100_000)
    values[777], values[50_000] = 9.0, -9.0
    text = "step,loss,rate,crops_per_second,mean_iou,cross_entropy\n" + "".join(
        f"{step},{value},,,,\n" for step, value in enumerate(values, 1)
    )
    (chart,) = curve_charts(text, [])
    points = np.array(chart.spec["lines"][0])
    assert points.shape == (300, 4)
    assert (points[:, 2].min(), points[:, 3].max()) == (-9.0, 9.0)
    spans = [values[(np.arange(100_000) / (100_000 / 300)).astype(int) == index] for index in range(300)]
    assert points[:, 1] == pytest.approx(np.array([span.mean() for span in spans]))
    assert "Pale bands reach from the least to the greatest value." in chart.summary
    assert len(chart.rows) == 300


def test_what_is_not_defined_is_a_dash(page):
    """An absent class has no IoU; without truth the page has areas and no matrix."""
    text = page()
    row = re.search(r"<tr><td class=\"n\">2</td>.*</tr>", text).group()
    assert row.count(">–<") == 4
    bare = page(report=report_of(matrix=None))
    assert "Confusion" not in bare
    assert "Confusion" in text
    assert re.search(r"<tr><td class=\"n\">2</td>.*>2</td></tr>", bare)
    assert ">None<" not in text + bare


def test_the_matrix_has_counts_and_shares_of_its_rows(page):
    """Each cell shows its pixels, shaded by its share of its row; a row without pixels is not shaded."""
    cells = re.findall(r"--share: ([0-9.]+)\">([0-9,]+)</td>", page(report=report_of(matrix=((9000, 1000, 0), (5, 5, 0), (0, 0, 0)))))
    assert [count for _, count in cells] == ["9,000", "1,000", "0", "5", "5", "0", "0", "0", "0"]
    assert [float(share) for share, _ in cells] == [0.9, 0.1, 0.0, 0.5, 0.5, 0.0, 0.0, 0.0, 0.0]


def test_many_classes_are_a_page_without_a_matrix(page, tmp_path):
    """Each of two hundred classes is in the table with its own colour; their matrix is in report.json only."""
    names = [f"class {index}" for index in range(200)]
    report = report_of(names, np.eye(200, dtype=int).tolist())
    history_of(tmp_path, names=names, reports=[report])
    text = page(report=report)
    assert "Confusion" not in text
    chart = charts(text)["IoU on validation images"]
    assert len({one["color"] for one in chart["series"]}) == 200 + 1  # and the mean
    Elements(text)


def test_many_classes_keep_the_page_small():
    """Curves of many classes have fewer points each, so that a chart has a few thousand."""
    header = ",".join(["step", "loss", "rate", "crops_per_second", "mean_iou", "cross_entropy", *(f"iou {index}" for index in range(200))])
    text = "\n".join([header, *(",".join([str(step), *[""] * 3, "0.5", "", *["0.5"] * 200]) for step in range(1, 1001))])
    (chart,) = curve_charts(text, default_colors(200))
    assert 2 * 201 <= len(chart.rows) <= MOST_OF_CHART
    assert len(chart.summary) < 1000


def test_facts_are_shown_in_their_order(page):
    """Facts appear in the order in which they were given."""
    text = page(facts={"network": "unet", "crops": "256 px", "best step": "4,000"})
    assert re.findall(r"<dt>(network|crops|best step)</dt><dd>([^<]+)</dd>", text) == [
        ("network", "unet"),
        ("crops", "256 px"),
        ("best step", "4,000"),
    ]


def test_the_same_input_gives_the_same_page(page, tmp_path):
    """A page that is written twice has the same bytes."""
    history_of(tmp_path, [3.0, 2.0, 1.0], reports=[report_of()])
    pictures = [Picture("a", IMAGE, TRUTH, MASK)]
    assert page(pictures=pictures) == page(pictures=pictures)


def test_a_failed_write_leaves_the_old_page(page, tmp_path, monkeypatch):
    """A disk that fills up leaves the earlier page complete and no temporary file."""
    before = page()

    def full(file, data, _at):
        os.write(file, data[:99])
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StoreError, match="No space left"):
        page(title="other")
    assert (tmp_path / "training.html").read_text(encoding="utf-8") == before
    assert [path.name for path in tmp_path.iterdir()] == ["training.html"]
