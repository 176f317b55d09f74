"""What holds for every page: anyone can use it, and a narrow window is wide enough."""

from __future__ import annotations

__all__ = ["assert_accessible", "assert_no_sideways_scroll"]

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
