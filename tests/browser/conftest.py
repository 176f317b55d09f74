"""A real Chromium for the tests of pages. A page that complains on its console, or asks for what it must not, fails its test."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.browser.golden_pictures import write_fonts

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chromium-headless-shell")
INLINE = ("data", "blob")  # schemes of what a page holds itself


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """A browser that has the same font on every machine; the test is skipped where none is installed.

    It lives as long as a file of tests: Playwright runs an asyncio loop in the main thread, which other tests may need. A server that
    these tests talk to runs in a thread or in a process of its own.
    """
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip(f"none of {', '.join(PROGRAMS)} is installed: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        env = {**os.environ, "FONTCONFIG_FILE": str(write_fonts(tmp_path_factory.mktemp("fonts")))}
        # root, as in a container, has no sandbox
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"], env=env)
        yield browser
        browser.close()


@pytest.fixture
def complaints():
    """What pages of this test complained of. A test that provokes a complaint takes it out of the list."""
    return []


@pytest.fixture
def open_page(chromium, complaints):
    """Open pages: ``open_page(where, width=1280, scheme="light")``; the test fails in the end if one of them complained.

    ``where`` is a file or a URL. A complaint is an error or a warning on the console, which includes what a content security policy
    blocked, an exception of a script, and a request to another place: a page from disk may load files beside it, a page of a server
    what that server has. With ``alone`` it may load nothing at all. Other options are those of Playwright's ``new_context``.
    """
    contexts = []

    def go(where, *, width=1280, height=900, scheme="light", alone=False, **options):
        url = where.as_uri() if isinstance(where, Path) else where
        plain = {"reduced_motion": "reduce", "locale": "en-US", "timezone_id": "UTC"}
        viewport = {"width": width, "height": height}
        context = chromium.new_context(**{**plain, "viewport": viewport, "color_scheme": scheme, **options})
        contexts.append(context)
        page = context.new_page()
        watch(page, url, complaints, alone=alone)
        page.goto(url)
        return page

    yield go
    for context in contexts:
        context.close()
    assert not complaints, "pages complained:\n" + "\n".join(complaints)


def watch(page, url, complaints, *, alone):
    """Note what a page complains of, and what it asks for outside its own place."""

    def on_console(message):
        if message.type in ("error", "warning", "assert"):
            complaints.append(f"{message.type} on the console: {message.text} at {message.location['url']}")

    def on_request(request):
        parts, own = urlsplit(request.url), urlsplit(url)
        is_own = request.url.partition("#")[0] == url.partition("#")[0] if alone else (parts.scheme, parts.netloc) == own[:2]
        if parts.scheme not in INLINE and not is_own:
            complaints.append(f"request of {request.url}")

    page.on("console", on_console)
    page.on("pageerror", lambda error: complaints.append(f"exception in the page: {error}"))
    page.on("request", on_request)


@contextmanager
def provoked(complaints, text):
    """What happens inside makes pages complain, of ``text`` alone."""
    before = len(complaints)
    yield
    new, complaints[before:] = complaints[before:], []
    assert new, "no complaint came"
    assert all(text in one for one in new), new
