"""Draw the picture of README.md: the head of the report of the demo, from its headline to its gallery, in a real browser.

Run: ``python -m tests.benchmarks.picture``. Writes ``workflows/report.png`` from a run of ``config.yaml`` in a temporary folder.
Needs Chromium and the package ``stardist``, which holds the image.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
from contextlib import chdir
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "workflows" / "report.png"
WIDTH = 1100  # of the window, CSS pixels
SCALE = 1.2  # pixels of the picture for one of these
COLORS = 224  # of the palette
MOST_BYTES = 250_000


def screenshot(page: Path) -> Image.Image:
    """Return a report as a light window shows it, from the top of the page to the end of the gallery."""
    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        window = browser.new_page(viewport={"width": WIDTH, "height": 800}, device_scale_factor=SCALE, color_scheme="light")
        window.goto(page.as_uri(), wait_until="load")
        gallery = window.locator(".panels").first.bounding_box()
        if gallery is None:
            raise SystemExit(f"{page} shows no picture of an image")
        data = window.screenshot(full_page=True, clip={"x": 0, "y": 0, "width": WIDTH, "height": gallery["y"] + gallery["height"] + 16})
        browser.close()
    return Image.open(io.BytesIO(data)).convert("RGB")


def main() -> None:
    """Run the demo, open its report, and keep the picture."""
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        shutil.copy(ROOT / "config.yaml", folder)
        subprocess.run([sys.executable, "-m", "pipeline.cli", "run", "config.yaml"], check=True, stdout=subprocess.DEVNULL)
        page = Path(folder, "runs", "demo", "report", "index.html")
        page.write_text(page.read_text(encoding="utf-8").replace(f"{folder}/", ""), encoding="utf-8")  # as if run where the reader is
        picture = screenshot(page)
    # Maximum coverage keeps colours of few pixels, such as those of errors.
    picture.quantize(COLORS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(PICTURE, optimize=True)
    size = PICTURE.stat().st_size
    print(f"{PICTURE}: {picture.width} x {picture.height} pixels, {size:,} bytes")
    if size > MOST_BYTES:
        raise SystemExit(f"more than {MOST_BYTES:,} bytes")


if __name__ == "__main__":
    main()
