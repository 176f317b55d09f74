"""What holds for every page: anyone can use it, and a narrow window is wide enough."""

from __future__ import annotations

from tests.browser.golden_pictures import assert_looks_like

__all__ = ["WINDOWS", "assert_accessible", "assert_no_sideways_scroll", "assert_presentable"]

WINDOWS = {f"{width}-{scheme}": {"width": width, "scheme": scheme} for width in (1280, 400) for scheme in ("light", "dark")}
"""Options of ``open_page``, by a name that goes into that of a golden picture."""

SEVERE = ("serious", "critical")

STICKING_OUT = """() => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return [];
  const wide = [...document.body.querySelectorAll("*")].filter((one) => one.getBoundingClientRect().right > width + 1);
  return ["page of " + document.documentElement.scrollWidth + " px in a window of " + width + " px",
    ...wide.slice(0, 10).map((one) => `${one.tagName.toLowerCase()}#${one.id}.${one.getAttribute("class") ?? ""}`)];
}"""


def assert_accessible(page):
    """Fail if axe-core finds something serious or critical in a page as it is now."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    lines = [
        f"{one['impact']}: {one['id']} at {' '.join(map(str, node['target']))}: {one['help']}; {node.get('failureSummary', '')}"
        for one in found
        if one["impact"] in SEVERE
        for node in one["nodes"][:5]
    ]
    assert not lines, "\n".join(lines)


def assert_no_sideways_scroll(page):
    """Fail if a page is wider than its window, and name what sticks out. Parts of the page may scroll by themselves."""
    wide = page.evaluate(STICKING_OUT)
    assert not wide, "\n".join(wide)


def assert_presentable(page, name):
    """Fail if a page hinders somebody, is too wide, or does not resemble its golden picture."""
    assert_accessible(page)
    assert_no_sideways_scroll(page)
    assert_looks_like(page, name)
