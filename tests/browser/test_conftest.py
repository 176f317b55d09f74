"""The browser of the tests notices what a page does wrong."""

from __future__ import annotations

import pytest

from tests.browser.checks import assert_accessible, assert_no_sideways_scroll
from tests.browser.conftest import provoked

HEAD = '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>A page</title>{more}</head><body><main><h1>A page</h1>'
BLOCK = """<meta http-equiv="Content-Security-Policy" content="script-src 'none'">"""
WRONG = {
    "a line on the console": ("", "<script>console.error('broken')</script>", "broken"),
    "an exception": ("", "<script>missing()</script>", "missing is not defined"),
    "a script that the policy blocks": (BLOCK, "<script>1</script>", "Content Security Policy"),
    "a request": ("", '<img alt="" src="http://127.0.0.1:9/a.png">', "127.0.0.1:9"),
    "a file that is missing": ("", '<img alt="" src="missing.png">', "missing.png"),
}


@pytest.fixture
def write(tmp_path):
    """Write a page with this body."""

    def go(body, more=""):
        path = tmp_path / "page.html"
        path.write_text(HEAD.format(more=more) + body + "</main>", encoding="utf-8")
        return path

    return go


@pytest.mark.parametrize(("more", "body", "text"), WRONG.values(), ids=WRONG)
def test_complaints_are_noticed(open_page, complaints, write, more, body, text) -> None:
    """Errors on the console, exceptions, blocked scripts and requests fail a test."""
    open_page(write(body, more)).wait_for_timeout(50)
    assert any(text in one for one in complaints)
    complaints.clear()


def test_a_page_alone_loads_nothing(open_page, complaints, write) -> None:
    """A page that must hold everything may not even load a file beside it."""
    (write("").parent / "a.css").write_text("")
    with provoked(complaints, "request of file:"):
        open_page(write("", '<link rel="stylesheet" href="a.css">'), alone=True)
    open_page(write('<img alt="" src="data:image/gif;base64,R0lGODlhAQABAAAAACw=">'), alone=True)


def test_poor_contrast_is_found(open_page, write) -> None:
    """Grey on grey, and a picture without words, are told with the rule and the element."""
    assert_accessible(open_page(write("<p>Words</p>")))
    page = open_page(write('<p style="color: #bbb; background: #ccc">Words</p>'))
    with pytest.raises(AssertionError, match="serious: color-contrast at p"):
        assert_accessible(page)


def test_a_wide_page_is_found(open_page, write) -> None:
    """What is wider than the window is named; a table that scrolls by itself is not wide."""
    wide = '<div id="wide" style="width: 900px">x</div>'
    assert_no_sideways_scroll(open_page(write(f'<div style="overflow: auto">{wide}</div>'), width=400))
    with pytest.raises(AssertionError, match="div#wide"):
        assert_no_sideways_scroll(open_page(write(wide), width=400))
