"""Golden pictures tell a page that is broken from one whose letters are drawn in another way. The tolerance lies between the two."""

from __future__ import annotations

import pytest
from PIL import Image

from tests.browser import golden_pictures
from tests.browser.golden_pictures import TOLERANCE, assert_looks_like, difference, picture_of, reduce_colors, shrink

BLUE, RED = "#1663c7", "#c2271d"

PAGE = """<!DOCTYPE html><html lang="en"><title>t</title>
<style>body {{ font: 16px/1.5 {font}; margin: 16px; max-width: 1200px }} td {{ padding: 4px 16px; border-bottom: 1px solid #ccc }}
  h2 + p {{ visibility: {words} }} {more}</style>
<h1>12 of 12 images, mean IoU 0.925</h1><h2>Where time went</h2><p>{text}</p><svg width="320" height="160">{chart}</svg>
<h2>Images</h2><table>{rows}</table>{section}"""


@pytest.fixture(scope="module")
def draw(chromium):
    """The picture of a page with a chart and a table that differs from the usual one in what is given."""
    page = chromium.new_page(viewport={"width": 1280, "height": 900})

    def go(font="sans-serif", bars=(0.9, 0.5, 0.7), colors=(BLUE, RED, BLUE), section=True, words="visible", more=""):
        drawn = enumerate(zip(bars, colors, strict=True))
        parts = {
            "chart": "".join(f'<rect x="{60 * i}" y="{150 * (1 - v)}" width="40" height="{150 * v}" fill="{c}"/>' for i, (v, c) in drawn),
            "rows": "".join(f"<tr><td>image {i}<td>{0.9 - 0.01 * i:.3f}<td>{1000 * i}</tr>" for i in range(12)),
            "section": "<h2>Failures</h2><p>A cause in a sentence.</p>" if section else "",
            "text": "Words of a paragraph that breaks into lines. " * 12,
        }
        page.set_content(PAGE.format(font=font, words=words, more=more, **parts))
        return picture_of(page)

    yield go
    page.close()


LIKE = {  # measured: 0, 0, 5
    "another font": {"font": "serif"},
    "wide letters": {"font": "monospace"},
    "letters drawn without hints": {"more": "body { text-rendering: geometricPrecision; transform: translate(0.4px, 0.4px) }"},
}
UNLIKE = {  # measured: infinite, 47, 233, 112, 172, 64, 237
    "a section is missing": {"section": False},
    "the words are missing": {"words": "hidden"},
    "the chart is empty": {"bars": (0, 0, 0)},
    "a bar is wrong": {"bars": (0.9, 0.3, 0.7)},
    "colours are swapped": {"colors": (RED, BLUE, RED)},
    "a colour is another": {"colors": ("#16a3c7", RED, BLUE)},
    "the page is dark": {"more": ":root { color-scheme: dark }"},
}


@pytest.mark.parametrize("change", LIKE.values(), ids=LIKE)
def test_letters_may_differ(draw, change) -> None:
    """The fonts of a machine, and how it draws the edges of letters, stay inside half of the tolerance."""
    assert difference(shrink(draw()), shrink(draw(**change))) < TOLERANCE / 2


@pytest.mark.parametrize("change", UNLIKE.values(), ids=UNLIKE)
def test_what_is_broken_differs(draw, change) -> None:
    """What a person would see at once is well outside the tolerance."""
    assert difference(shrink(draw()), shrink(draw(**change))) > 2 * TOLERANCE


def test_few_colours_are_enough(draw) -> None:
    """What a picture loses by being kept in few colours is inside the tolerance, even where the page shows every colour."""
    rainbow = "body {{ background: linear-gradient(90deg, {}) }}".format(
        ", ".join(f"hsl({hue} 90% {50 + hue % 40}%)" for hue in range(0, 360, 20))
    )
    for more in ("", rainbow, ":root { color-scheme: dark }"):
        found = shrink(draw(more=more))
        assert difference(reduce_colors(found).convert("RGB"), found) < 0.6 * TOLERANCE


def test_the_message_names_the_picture(draw, tmp_path, monkeypatch) -> None:
    """A page that differs is left as a PNG, named in the message, and can be made the golden one."""
    monkeypatch.setattr(golden_pictures, "GOLDEN", tmp_path)
    monkeypatch.setattr(golden_pictures.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("RENEW_GOLDEN", "1")
    assert_looks_like(draw(), "page")
    monkeypatch.delenv("RENEW_GOLDEN")
    assert_looks_like(draw(), "page")
    other = draw(bars=(0, 0, 0))
    with pytest.raises(AssertionError, match=r"gigaseg-golden/page\.png.*RENEW_GOLDEN=1 keeps it"):
        assert_looks_like(other, "page")
    assert (tmp_path / "gigaseg-golden" / "page.png").read_bytes() == other


def test_kept_pictures_are_small() -> None:
    """A golden picture takes at most 20 kB of the repository."""
    for path in golden_pictures.GOLDEN.glob("*.png"):
        assert path.stat().st_size <= 20_000, path.name
        with Image.open(path) as picture:
            assert picture.mode == "P", path.name
