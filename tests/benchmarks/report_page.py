"""What the page of a report costs: time and memory to build it, its size, and the time until a browser shows its table.

Run: ``python -m tests.benchmarks.report_page [IMAGES ...]`` (10 1000 10000). Every image has counts of three classes, and thumbnails of its
picture, its mask and its truth in the folder of the output. For 10,000 images at most 60 s, 1 GB, and 3 s to open are wanted.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from pipeline.report import write_report
from pipeline.report.intervals import intervals_of
from pipeline.storage import open_storage
from tests.browser.runs import draw_provenance, draw_report, draw_thumbnails

ROUNDS = 3
NUM_CLASSES = 64
READY = "() => document.querySelector('.dt-container table[data-rows=images] tbody tr')"


def build(folder: Path, images: int) -> None:
    """Write a report, in this process, and print what that cost beyond the report itself."""
    report = draw_report(images)
    before, start, cpu = peak_mb(), time.perf_counter(), time.process_time()
    write_report(report, folder / "report", provenance=draw_provenance(), thumbnails=open_storage(folder))
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    print(f"  built in {seconds:.1f} s ({cpu:.1f} s of CPU); memory of the process at most {peak_mb():.0f} MB, {before:.0f} MB before")
    draw_intervals(images)


def draw_intervals(images: int) -> None:
    """Print what the intervals of 64 classes over so many images cost."""
    counts_NK3 = np.random.default_rng(0).integers(0, 100_000, (images, NUM_CLASSES, 3))
    start = time.perf_counter()
    intervals_of(counts_NK3)
    print(f"  intervals of {NUM_CLASSES} classes in {time.perf_counter() - start:.1f} s")


def peak_mb() -> float:
    """Peak memory of this process, 10**6 bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def opening(page: Path) -> tuple[float, float]:
    """Return median seconds until a browser has loaded a page, and until its table of images is there, each time in a new window."""
    from playwright.sync_api import sync_playwright

    times = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for _ in range(ROUNDS):
            window = browser.new_page(viewport={"width": 1280, "height": 900})
            start = time.perf_counter()
            window.goto(page.as_uri(), wait_until="load")
            loaded = time.perf_counter() - start
            window.wait_for_function(READY)
            times.append((loaded, time.perf_counter() - start))
            window.close()
        browser.close()
    return statistics.median(one for one, _ in times), statistics.median(one for _, one in times)


def main() -> None:
    """Print the costs of each size; with ``build FOLDER IMAGES``, build one report."""
    if sys.argv[1:2] == ["build"]:
        return build(Path(sys.argv[2]), int(sys.argv[3]))
    for images in map(int, sys.argv[1:] or ("10", "1000", "10000")):
        with tempfile.TemporaryDirectory() as text:
            folder = Path(text)
            print(f"{images:,} images", flush=True)
            (folder / "thumbnails").mkdir()
            for key, data in draw_thumbnails([f"slide {index:05}" for index in range(images)]).items():
                (folder / key).write_bytes(data)
            subprocess.run([sys.executable, "-m", "tests.benchmarks.report_page", "build", text, str(images)], check=True)
            page = folder / "report" / "index.html"
            loaded, ready = opening(page)
            print(f"  page of {page.stat().st_size / 1e6:.2f} MB; loaded in {loaded:.2f} s, table after {ready:.2f} s", flush=True)
    return None


if __name__ == "__main__":
    main()
