"""comparison.html in a browser: the numbers of comparison.json, whatever images and classes are called."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.metrics.semantic import Semantic
from pipeline.report import compare_reports, write_comparison
from pipeline.report.content import ImageCounts, build_report
from pipeline.statistics.pixel_counts import Counts
from tests.browser.checks import assert_presentable

HOSTILE = "</script><img src=x onerror=alert(1)>\"'\u202ertl " + "long" * 75
CLASSES = ("background", HOSTILE)


def report_of(seed, images):
    rng = np.random.default_rng(seed)
    counted = []
    for index in range(images):
        matrix = rng.integers(1, 900, (2, 2))
        counted.append(ImageCounts(f"{HOSTILE}{index}", Counts(matrix.sum(axis=0), 0, matrix), has_truth=True))
    only = ImageCounts(f"only in {seed} {HOSTILE}", Counts(np.ones(2, np.int64)), has_truth=False)
    model = {"name": HOSTILE, "sha256": None}
    return build_report("done", [{"name": name} for name in CLASSES], (Semantic(),), [*counted, only], model=model)


@pytest.fixture
def written(tmp_path):
    """Write the comparison of two runs over so many images: ``written(images)`` returns its content and the page."""

    def go(images):
        content = compare_reports(report_of(1, images), report_of(2, images), (f"runs/{HOSTILE}", "runs/b"))
        write_comparison(content, tmp_path)
        return content, tmp_path / "comparison.html"

    return go


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_shows_the_numbers(open_page, written, scheme, width):
    """Both tables and both charts hold what comparison.json does; names are text; it looks as it should and hinders nobody."""
    content, path = written(12)
    page = open_page(path, width=width, scheme=scheme, alone=True)
    page.wait_for_selector("[data-chart=images] svg")
    rows = page.locator("table[data-rows=classes] tbody tr")
    for index, row in enumerate([*content["classes"], {**content["mean"], "name": "mean"}]):
        numbers = [f"{row['a']:.3f}", f"{row['b']:.3f}", *(f"{value:+.3f}" for value in (row["difference"], *row["interval"]))]
        assert rows.nth(index).locator("td").all_text_contents() == [row["name"], *numbers]
    names = page.locator("table[data-rows=images] tbody tr td:first-child").all_text_contents()
    assert names == [row["name"] for row in content["per_image"]]
    dots = page.locator("[data-chart=classes] svg circle")
    assert dots.count() == 3
    assert page.locator("table[data-rows=others] tbody tr").count() == 2
    assert_presentable(page, f"comparison-{width}-{scheme}")


def test_images_are_turned_over_and_filtered(open_page, written):
    """Of many images the page shows some at a time; a filter finds one, and the head of a column sorts."""
    from playwright.sync_api import expect

    content, path = written(60)
    page = open_page(path, alone=True)
    rows = page.locator("table[data-rows=images] tbody tr")
    assert rows.count() == 25
    for order in ("ascending", "descending"):
        page.locator("table[data-rows=images] th", has_text="B − A").click()
        page.wait_for_selector(f"table[data-rows=images] th[aria-sort={order}]")
    expect(rows.first.locator("td").nth(3)).to_have_text(f"{content['per_image'][-1]['difference']:+.3f}")
    page.get_by_label("Filter").first.fill("long37")
    expect(rows).to_have_count(1)


def test_too_few_images_are_no_chart(open_page, written):
    """Below five images no interval and no histogram is shown, and the page says why."""
    _, path = written(3)
    page = open_page(path, alone=True)
    assert page.locator("[data-chart=images]").count() == 0
    assert "No interval: intervals take at least 5 images with truth; there are 3." in page.text_content("main")
    assert "this may be chance" in page.text_content("main")
