"""Charts and tables in a real browser: drawn once there is room, sorted, filtered and turned over, and never obeyed."""

from __future__ import annotations

import pytest

from pipeline.web import Column, Series, data_table, histogram_chart, interval_chart, line_chart, render_page, stacked_chart
from tests.browser.checks import assert_accessible, assert_no_sideways_scroll

EVIL = "<img src=x onerror='document.title=1'>&amp;<script>document.title=2</script>"
TEMPLATE = """{% extends "base.html.j2" %}{% import "macros.html.j2" as web %}{% block body %}<main><h1>Charts</h1>
{% for one in charts.values() %}{{ web.chart(one) }}{% endfor %}{{ web.data_table(tables.images, "per_image.csv") }}
{{ web.command("gigaseg retry 'a b'") }}</main>{% endblock %}"""
X = {"label": EVIL, "scale": "linear", "domain": [0, 1]}


@pytest.fixture
def page_file(tmp_path):
    series = [Series(EVIL), Series("b", "#e6194b")]
    charts = [
        histogram_chart(
            "sizes", EVIL, EVIL, x={**X, "scale": "log2", "domain": None}, y=EVIL, series=series, bins=[(8, 16, [1, 2]), (16, 32, [3, 4])]
        ),
        stacked_chart("time", "Time", "", x="seconds", series=series, rows=[(EVIL, [1.0, 2.0])]),
        line_chart(
            "curve", "Curve", "", x=X, y=X, lines=[(series[0], [(0.1, 0.2, 0.1, 0.3), (0.5, 0.5, 0.4, 0.6)])], diagonal=True, dots=True
        ),
        interval_chart(
            "difference", "Difference", "", x={"label": "B - A"}, rows=[(series[0], 0.1, 0.0, 0.2), (series[1], 0.1, None, None)]
        ),
    ]
    columns = [Column("image"), Column("IoU", "score")]
    rows = [[f"{index} {EVIL}", None if index == 0 else index / 100] for index in range(60)]
    (tmp_path / "page.html.j2").write_text(TEMPLATE)
    text = render_page(tmp_path / "page.html.j2", charts=charts, tables=[data_table("images", "Images", columns, rows, 60)], title="Charts")
    (tmp_path / "page.html").write_text(text)
    return tmp_path / "page.html"


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_every_kind_of_chart_is_drawn(open_page, page_file, width, scheme):
    """Each chart has marks and an accessible name, texts of users are texts, and the page fits its window."""
    page = open_page(page_file, width=width, scheme=scheme)
    page.wait_for_selector("[data-chart=difference] svg")
    assert page.locator(".chart svg[role=img]").count() == 4
    assert page.locator("[data-chart=sizes] rect").count() == 4
    assert page.locator("main img").count() == 0
    assert page.title() == "Charts"
    assert_no_sideways_scroll(page)
    assert_accessible(page)


def test_a_table_is_sorted_filtered_and_turned_over(open_page, page_file):
    """25 of 60 rows at first; a missing number comes last in either order; a filter of the text that is shown finds it."""
    from playwright.sync_api import expect

    page = open_page(page_file)
    cells = page.locator("table[data-rows] tbody td:nth-child(2)")
    assert cells.count() == 25
    page.locator("th", has_text="IoU").click()
    expect(cells.first).to_have_text("0.010")
    expect(page.locator("th[aria-sort=ascending]")).to_have_count(1)
    page.locator("th", has_text="IoU").click()
    expect(cells.first).to_have_text("0.590")
    page.locator("button.last").click()
    expect(cells.last).to_have_text("–")
    page.get_by_label("Filter").fill("7 <img")
    expect(cells).to_have_count(6)
    assert [one.split(" ")[0] for one in page.locator("table[data-rows] tbody td:nth-child(1)").all_inner_texts()] == [
        "57",
        "47",
        "37",
        "27",
        "17",
        "7",
    ]
    assert page.title() == "Charts"


def test_numbers_are_there_without_scripts(chromium, page_file):
    """With scripts off the first rows of the table and the numbers of each chart are in the page."""
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_file.as_uri())
    assert page.locator("table[data-rows] tbody tr").count() == 25
    assert page.get_by_text("The first 25 of 60 rows").is_visible()
    page.get_by_text("Numbers of").first.click()
    assert page.locator("[data-chart=sizes] tbody tr").count() == 2
    context.close()
