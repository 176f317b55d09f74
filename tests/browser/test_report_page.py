"""The page of a run, in a browser: what report.json says, for everyone, whatever images and classes are called."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from pipeline.report import write_report
from pipeline.report.content import Failure
from pipeline.storage import open_storage
from tests.browser.checks import WINDOWS, assert_accessible, assert_no_sideways_scroll, assert_presentable
from tests.browser.runs import (
    CARD,
    CLASSES,
    HOSTILE,
    draw_examples,
    draw_provenance,
    draw_report,
    draw_run,
    draw_thumbnails,
    hostile_failures,
)
from tests.browser.tables import number_of, rows_of, shown_rows, table_of

MANY = 10_000
REAL_NAMES = [*(f"well {number}" for number in range(1, 6)), "<img src=x onerror='window.ran = 1'> \u202e&amp;"]
EVENTS = """() => {
  window.blocked = [];
  addEventListener("securitypolicyviolation", (event) => window.blocked.push(event.violatedDirective));
}"""


def write(folder, report, *, pictures=(), **provenance):
    """Write a report with thumbnails of the images that are named, and return its page."""
    output = open_storage(f"memory://{folder.name}")  # a file's name has at most 255 bytes, a key may be longer
    for key, data in draw_thumbnails(pictures, side=192, kinds=4).items():
        output.put(key, data)
    write_report(report, folder, provenance=draw_provenance(**provenance), thumbnails=output)
    output.delete_tree("thumbnails")
    return folder / "index.html"


@pytest.fixture(scope="module")
def six(tmp_path_factory):
    """A report of six images with objects, of which some blocks failed: its content and its page."""
    failures = [
        Failure(f"slide {index:05}", f"slide {index:05}:0.0.1", "predict", "ValueError: logits are not finite", 3) for index in (4, 9)
    ]
    report = draw_report(6, objects=True, failures=failures, card=CARD)
    folder = tmp_path_factory.mktemp("six")
    (folder / "examples").mkdir()
    for name, data in draw_examples().items():
        (folder / "examples" / name).write_bytes(data)
    return report, write(folder, report, pictures=named(report)[:5])


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A report of 10,000 images: its content and its page."""
    report = draw_report(MANY)
    return report, write(tmp_path_factory.mktemp("many"), report)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The folder of a run on drawn images, one of which cannot be opened and one has a hostile name, and the content of its report.json."""
    from workflows.run import run

    folder = tmp_path_factory.mktemp("real")
    classes = [*CLASSES[:2], {**CLASSES[2], "name": "<script>window.ran = 1</script>"}]
    (folder / "run.yaml").write_text(yaml.safe_dump(draw_run(folder, REAL_NAMES, classes=classes, side=128)))
    assert run(folder / "run.yaml") == 3
    return folder / "out", json.loads((folder / "out" / "report" / "report.json").read_text())


def named(report):
    """Return the names of the images of a report."""
    return [image["name"] for image in report["per_image"]]


def assert_images_equal(page, report):
    """Fail if a row of the table of images differs from report.json, or is missing."""
    rows = {row["image"]: row for row in rows_of(page, "images")}
    assert len(rows) == len(report["per_image"])
    for image in report["per_image"]:
        row = {title: number_of(text) for title, text in rows[image["name"]].items() if title != "image"}
        expected = {"mean IoU": image["mean_iou"], "pixels right": image["pixel_accuracy"], "size, px": image["pixels"]}
        expected |= {f"IoU {one['name']}": one["iou"] for one in image["classes"]}
        expected |= {"no prediction": image["no_prediction"] / image["pixels"] if image["pixels"] else None}
        assert {key: row[key] for key in expected} == pytest.approx(expected, abs=1.1e-3), image["name"]


def assert_classes_equal(page, report):
    """Fail if the table of classes or the confusion matrix differs from report.json."""
    cells = page.locator("table.classes tbody tr").evaluate_all(
        "rows => rows.map(row => [...row.cells].map(cell => [cell.innerText, cell.title]))"
    )
    assert len(cells) == len(report["classes"])
    for one, ((name, _), (iou, _), _, (interval, _), *scores, (_, truth), (_, predicted)) in zip(report["classes"], cells, strict=True):
        assert (name.strip(), truth, predicted) == (one["name"], f"{one['truth']:,} px", f"{one['predicted']:,} px")
        ends = one["iou_interval"]
        assert interval == f"{ends[0]:.3f} to {ends[1]:.3f}"
        assert [iou, *(text for text, _ in scores)] == [f"{one[key]:.3f}" for key in ("iou", "dice", "precision", "recall")]
    matrix = page.locator("table.confusion tbody tr").evaluate_all(
        "rows => rows.map(row => [...row.cells].slice(1).map(cell => cell.title))"
    )
    assert matrix == [[f"{count:,} px" for count in row] for row in report["confusion"]]


@pytest.mark.parametrize("window", WINDOWS, ids=WINDOWS)
def test_it_is_presentable(open_page, six, window) -> None:
    """In wide and narrow windows, light and dark, it looks as it should, and hinders nobody."""
    assert_presentable(open_page(six[1], alone=True, **WINDOWS[window]), f"report-{window}")


def test_the_card_of_the_model_is_shown(open_page, six) -> None:
    """The section of the model has what it is for and not for, scores with intervals, and its pictures at their own size."""
    section = open_page(six[1], alone=True).locator("section[aria-labelledby=model]")
    text = section.inner_text()
    for words in ("fluorescence images", "stained tissue: use nuclei-stained", "brightfield", *CARD["limits"], "CC0-1.0", "9.75 µm"):
        assert words in text
    rows = section.locator("tbody tr").evaluate_all("rows => rows.map(row => [...row.cells].map(cell => cell.innerText))")
    assert ["IoU of cell", "0.867", "0.842 to 0.888"] in rows
    sizes = section.locator("img").evaluate_all("images => images.map(image => [image.naturalWidth, image.naturalHeight, image.alt])")
    assert [size[:2] for size in sizes] == [[192, 192]] * 2
    assert all("slide" in alt for _, _, alt in sizes)


def test_a_real_run_is_reported(open_page, real) -> None:
    """The page of a run holds the numbers of its report.json, its pictures, its failure with the command to try again."""
    folder, report = real
    page = open_page(folder / "report" / "index.html", alone=True)
    assert page.locator("h1").inner_text() == f"6 of 7 images, mean IoU {report['mean_iou']:.3f}, 1 image could not be opened"
    assert_images_equal(page, report)
    assert_classes_equal(page, report)
    names = page.locator(".card-name").all_inner_texts()
    assert names == [*REAL_NAMES[::-1], "broken"]
    assert page.locator(".card:has(.panel)").count() == 6
    assert "whose header is damaged" in page.locator(".causes").inner_text()
    assert page.get_by_text(f"gigaseg retry {folder}").is_visible()
    assert "histogram" in page.locator("section[aria-labelledby=provenance]").inner_text()
    assert page.locator("section[aria-labelledby=objects] tbody th").first.inner_text() == "cell"
    assert page.evaluate("window.ran") is None
    assert_accessible(page)


def test_ten_thousand_images_can_be_searched(open_page, many) -> None:
    """Images are sorted, filtered and turned over by keyboard alone; every row is there and is that of report.json."""
    report, path = many
    page = open_page(path, alone=True)
    shares = sorted(image["overlap_agreement"] for image in report["per_image"])
    head = page.locator("table[data-rows=images] th", has_text="tiles agree")
    for order in (shares, shares[::-1]):
        focus_by_tab(page, head)
        page.keyboard.press("Enter")
        shown = [number_of(row["tiles agree"]) for row in shown_rows(page, "images")]
        assert shown == pytest.approx(order[: len(shown)], abs=1.1e-3)
    focus_by_tab(page, table_of(page, "images").get_by_label("Filter"))
    page.keyboard.type("0123")
    assert {row["image"] for row in shown_rows(page, "images")} == {name for name in named(report) if "0123" in name}
    page.keyboard.press("Control+a")
    page.keyboard.press("Delete")
    first = shown_rows(page, "images")[0]["image"]
    focus_by_tab(page, table_of(page, "images").locator(".next"))
    page.keyboard.press("Enter")
    assert shown_rows(page, "images")[0]["image"] != first
    assert_images_equal(page, report)


def focus_by_tab(page, target):
    """Focus an element as the keyboard does: from the one before it."""
    target.evaluate("one => { one.scrollIntoView(); one.focus(); }")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    assert target.evaluate("one => one.contains(document.activeElement)")


def test_one_image_is_a_whole_report(open_page, tmp_path) -> None:
    """A run on one image has all but what takes several, and says why it has no interval."""
    page = open_page(write(tmp_path, draw_report(1), pictures=["slide 00000"]), alone=True, width=400)
    assert page.locator("h1").inner_text().startswith("1 of 1 image, mean IoU 0.")
    assert "intervals take at least 5 images with truth" in page.locator("main").inner_text()
    assert_accessible(page)
    assert_no_sideways_scroll(page)


def test_every_picture_opens_large(open_page, six) -> None:
    """The worst image comes first; each picture opens large, Escape closes it, and the focus is back where it was."""
    report, path = six
    page = open_page(path, alone=True)
    ranked = sorted(report["per_image"], key=lambda image: image["mean_iou"])
    assert page.locator(".card-name").all_inner_texts() == named({"per_image": ranked})
    dialog, opened = page.locator("#viewer"), 0
    for button in page.locator(".panel button").all():
        button.focus()
        before = button.locator("svg").bounding_box()
        page.keyboard.press("Enter")
        dialog.locator(".viewer-picture svg").wait_for()
        after = dialog.locator(".viewer-picture svg").bounding_box()
        assert after["height"] > 2 * before["height"]
        assert dialog.locator("h2").inner_text() in button.get_attribute("aria-label") or button.locator("svg").get_attribute("aria-label")
        page.keyboard.press("Escape")
        assert not dialog.is_visible()
        assert button.evaluate("one => one === document.activeElement")
        opened += 1
    assert opened == 3 * 5  # one image has no thumbnail


def test_pictures_are_turned_over(open_page, six) -> None:
    """In the large view the arrow keys show the next image and another layer; buttons do the same."""
    page = open_page(six[1], alone=True)
    names = page.locator(".card:has(.panel) .card-name").all_inner_texts()
    page.locator(".panel button").first.click()
    dialog = page.locator("#viewer")
    assert dialog.locator("h2").inner_text() == names[0]
    page.keyboard.press("ArrowRight")
    assert dialog.locator("h2").inner_text() == names[1]
    dialog.get_by_role("button", name="Previous image").click()
    assert dialog.locator("h2").inner_text() == names[0]
    page.keyboard.press("ArrowDown")
    assert dialog.locator("[aria-pressed=true]").inner_text() == "Predicted outlines"
    assert_accessible(page)
    dialog.get_by_role("button", name="Close").click()
    assert not dialog.is_visible()


def test_hostile_names_are_shown(open_page, tmp_path) -> None:
    """Names of images and classes, causes, and what a run recorded are text, whatever they hold; the policy had nothing to block."""
    names, tags = list(HOSTILE.values()), HOSTILE["tags"]
    classes = [{**CLASSES[0], "name": name} for name in names]
    report = draw_report(12, classes=classes, names=names, failures=hostile_failures(), objects=True)
    report["model"]["name"] = tags
    provenance = draw_provenance()
    run = {**provenance["run"], "notes": names, "versions": {name: name for name in names}, "hardware": {"host": tags, "system": tags}}
    path = write(tmp_path, report, pictures=named(report), run=run, config="\n".join(names), output=f"runs/{HOSTILE['quotes']}")
    page = open_page(path, alone=True)
    page.evaluate(EVENTS)
    for table, title in (("images", "image"), ("failures", "image"), ("failures", "cause"), ("objects", "image")):
        shown = {row[title].removeprefix("ValueError: ") for row in rows_of(page, table)}
        assert not [name for name in names if name not in shown], (table, title)
    page.get_by_label("Filter").first.fill("onerror='window.ran")
    assert [row["image"] for row in shown_rows(page, "images")] == [tags]
    text = page.locator("main").text_content()
    assert not [name for name in names if name not in text]
    page.locator(".panel button").first.click()
    assert page.locator("table.classes tbody th").all_inner_texts()[4:5] == ["first second third"]
    assert page.evaluate("[window.ran, window.blocked]") == [None, []]


def test_paper_has_every_section(open_page, six) -> None:
    """Printed, every section and picture is there, in dark letters, without what can only be clicked."""
    page = open_page(six[1], alone=True, scheme="dark")
    sections = page.locator("section h2").all_inner_texts()
    page.emulate_media(media="print")
    assert [title.is_visible() for title in page.locator("section h2").all()] == [True] * len(sections)
    assert len(sections) >= 9
    assert [picture.is_visible() for picture in page.locator(".panel svg").all()] == [True] * 3 * 5
    assert page.locator(".dt-search:visible, .dt-paging:visible, .contents:visible, button[data-copy]:visible").count() == 0
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(29, 33, 38)"
    pages = re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4"))
    assert 3 <= len(pages) <= 12


def test_without_scripts_the_tables_are_there(open_page, many) -> None:
    """With JavaScript off the first rows of each table are there, with the file that has all, and so are classes and matrix."""
    report, path = many
    page = open_page(path, alone=True, java_script_enabled=False)
    rows = page.locator("table[data-rows=images] tbody tr")
    assert rows.count() == 25
    worst = min(report["per_image"], key=lambda image: image["mean_iou"])
    assert worst["name"] in rows.first.inner_text()
    assert page.get_by_text("The first 25 of 10,000 rows").is_visible()
    assert_classes_equal(page, report)
    assert_no_sideways_scroll(page)
