"""Pictures that pages must resemble, small enough to be kept: ``RENEW_GOLDEN=1 pytest tests/browser`` writes them again.

Machines have different fonts, and draw edges of letters differently. So the browser of the tests finds one font, which Pillow brings,
and pictures are compared at an eighth of their size, by the mean of each cell, which may have moved by a pixel.
"""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageFont
from scipy.ndimage import uniform_filter

__all__ = ["GOLDEN", "TOLERANCE", "assert_looks_like", "difference", "write_fonts"]

GOLDEN = Path(__file__).parent / "golden"
SHRINK = 8
CELL = 5  # of a small picture: 40 px of the page
COLORS = 160  # of a kept picture
SHIFT = 1  # of a small picture, in every direction
TOLERANCE = 18.0  # of 255; tests/browser/test_golden_pictures.py says what is below and above
HEIGHTS = 0.02  # a page may be so much longer or shorter

FONTS = """<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>{folder}</dir><cachedir>{folder}</cachedir>
<match target="pattern"><edit name="hintstyle" mode="assign"><const>hintslight</const></edit></match></fontconfig>"""


def write_fonts(folder):
    """Write the only font of a browser, and how it draws edges of letters.

    Returns the file that the environment variable ``FONTCONFIG_FILE`` must name for it.
    """
    (folder / "golden.ttf").write_bytes(ImageFont.load_default(16).font_bytes)
    path = folder / "fonts.conf"
    path.write_text(FONTS.format(folder=folder))
    return path


def assert_looks_like(what, name):
    """Fail if a page, or a PNG, differs from ``golden/NAME.png``; the picture that differs is then in a temporary folder."""
    png = what if isinstance(what, bytes) else picture_of(what)
    path, found = GOLDEN / f"{name}.png", shrink(png)
    if os.environ.get("RENEW_GOLDEN"):
        reduce_colors(found).save(path, optimize=True)
        return
    assert path.is_file(), f"{path} is missing: RENEW_GOLDEN=1 writes it"
    with Image.open(path) as file:
        distance = difference(file.convert("RGB"), found)
    if distance > TOLERANCE:
        folder = Path(tempfile.gettempdir(), "gigaseg-golden")
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.png").write_bytes(png)
        message = f"differs from {path} by {distance:.1f}, allowed: {TOLERANCE:.0f}; it is {folder / name}.png"
        raise AssertionError(f"{message}. If it is right, RENEW_GOLDEN=1 keeps it.")


def picture_of(page):
    """Return a PNG of a whole page."""
    return page.screenshot(full_page=True, animations="disabled")


def shrink(png):
    """Return a small picture of a PNG."""
    with Image.open(io.BytesIO(png)) as file:
        picture = file.convert("RGB")
        return picture.resize((max(picture.width // SHRINK, 1), max(picture.height // SHRINK, 1)), Image.Resampling.BOX)


def reduce_colors(picture):
    """Return a small picture as it is kept. Rare colours, such as those of a chart, stay as they are."""
    return picture.quantize(COLORS, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)


def difference(golden, found):
    """Return the largest difference of a cell, in levels of 255; infinite where the sizes are too far apart."""
    if golden.width != found.width or abs(golden.height - found.height) > max(HEIGHTS * golden.height, 1):
        return float("inf")
    one_YXC, other_YXC = (
        uniform_filter(np.asarray(picture.resize(golden.size), np.float32), (CELL, CELL, 1)) for picture in (golden, found)
    )
    padded_YXC = np.pad(other_YXC, ((SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), mode="edge")
    height, width = one_YXC.shape[:2]
    steps = range(2 * SHIFT + 1)
    moved = (padded_YXC[y : y + height, x : x + width] for y in steps for x in steps)
    return float(np.minimum.reduce([np.abs(one_YXC - one).max(-1) for one in moved]).max())
