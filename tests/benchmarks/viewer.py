"""The viewer of a large run: the first picture, single tiles, and memory, for an image with and without a pyramid.

Run: ``python -m tests.benchmarks.viewer [SIDE [FOLDER]]`` (65536, a temporary folder; the run in FOLDER is used again). An OME-Zarr in
colour is segmented by grey values, with truth, which has no pyramid. Then `gigaseg view` is asked as a browser asks: six requests at a
time. Wanted on two cores: the first picture in 2 s, a tile in 200 ms at the median, memory that does not grow.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from threading import local
from urllib.parse import quote, urlsplit

import numpy as np
import psutil

from pipeline.geometry import Box
from pipeline.raster import Header
from pipeline.storage import BlockStore, open_storage
from pipeline.writers.ome_zarr import METADATA, OmeZarr
from tests.benchmarks.images import SIDE, tile
from tests.benchmarks.memory import pss_bytes

CONNECTIONS = 6  # of a browser to one server
SCREEN = 1024  # pixels of the picture that is seen first, a side
TILES = 150  # of each layer, at random places of all levels


def fill(store: BlockStore, pixels_CYX: np.ndarray) -> None:
    """Fill a level with one block over and over: every shard is one file with many names."""
    height, width = store.header.shape
    (first,) = store.write(Box(0, 0, min(SIDE, height), min(SIDE, width)), pixels_CYX[:, :height, :width])
    where, head = Path(store.storage.url), Path(first).parts[:-2]
    for row in range(-(-height // SIDE)):
        for col in range(-(-width // SIDE)):
            copy = where.joinpath(*head, str(row), str(col))
            copy.parent.mkdir(parents=True, exist_ok=True)
            if not copy.exists():
                os.link(where / first, copy)


def write_levels(path: Path, pixels_CYX: np.ndarray, side: int, *, all_levels: bool) -> None:
    """Write an image as OME-Zarr, level 0 alone or with its pyramid; the pixels wrap around."""
    group, channels = open_storage(path), len(pixels_CYX)
    levels = []
    while side >= SIDE // 2 and (all_levels or not levels):
        header = Header((side, side), channels, "uint8", is_color=channels == 3, channel_names=("red", "green", "blue")[:channels])
        level = BlockStore(group.below(str(len(levels))), header, SIDE)
        level.create()
        fill(level, pixels_CYX)
        levels.append(level)
        halves = pixels_CYX.reshape(channels, SIDE // 2, 2, SIDE // 2, 2).mean(axis=(2, 4)).astype(np.uint8)
        pixels_CYX, side = np.tile(halves, (1, 2, 2)), side // 2
    group.put(METADATA, OmeZarr()._metadata(group, levels[0].header, levels))


def prepare(folder: Path, side: int) -> None:
    """Segment the image, unless the folder holds the run."""
    pixels_CYX = tile(3)
    write_levels(folder / "image.ome.zarr", pixels_CYX, side, all_levels=False)
    if (folder / "run" / "report" / "report.json").exists():
        return
    truth_YX = np.digitize(np.roll(pixels_CYX, 3, axis=2).mean(axis=0), [110, 150]).astype(np.uint8)
    store = BlockStore(folder / "truth.zarr", Header((side, side), 1, "uint8"), SIDE)
    store.create()
    fill(store, truth_YX[None])
    model = {"name": "histogram", "classes": 3}
    config = {"images": [str(folder / "image.ome.zarr")], "truth": str(folder / "truth.zarr"), "model": model}
    config |= {"compute": {"runner": "serial"}, "output": str(folder / "run")}
    (folder / "run.yaml").write_text(json.dumps(config))
    subprocess.run([sys.executable, "-m", "pipeline.cli", "run", str(folder / "run.yaml")], check=True, stdout=subprocess.DEVNULL)


@dataclass
class Browser:
    """Asks as a browser does: connections that stay open, one a thread.

    Attributes:
        host: and port of the server.
        cookie: that holds the token.
    """

    host: str
    cookie: str
    open = local()

    def get(self, path: str) -> tuple[bytes, float]:
        """Return an answer, and its seconds."""
        start = time.perf_counter()
        if getattr(self.open, "host", None) != self.host:
            self.open.host, self.open.connection = self.host, HTTPConnection(self.host, timeout=600)
        self.open.connection.request("GET", path, headers={"cookie": self.cookie})
        answer = self.open.connection.getresponse()
        data = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{path}: {answer.status} {data[:200]!r}")
        return data, time.perf_counter() - start

    def first_picture(self, pool: ThreadPoolExecutor) -> tuple[float, float]:
        """Open the page and every tile that is seen first; return seconds until the image, and until the mask over it, is there."""
        start = time.perf_counter()
        for path in ("/", "/api/run?run=a"):
            self.get(path)
        image = json.loads(self.get("/api/image?run=a&name=image")[0])
        level = image["levels"] - 1 - max(0, (max(image["shape"]) // SCREEN).bit_length() - 1)
        seen = []
        for layer in ("image", "mask"):
            tiles = [f"/tile/a/{layer}/{level}/{x}_{y}.png?name=image" for y in range(SCREEN // 256) for x in range(SCREEN // 256)]
            list(pool.map(self.get, tiles))
            seen.append(time.perf_counter() - start)
        return seen[0], seen[1]

    def tiles(self, pool: ThreadPoolExecutor, layer: str, turn: int, side: int) -> list[float]:
        """Return the seconds of tiles at random places."""
        chance, levels = random.Random(f"{layer} {turn}"), (side - 1).bit_length() + 1
        paths = []
        for _ in range(TILES):
            level = chance.randrange(8, levels)
            across = -(-(side >> (levels - 1 - level)) // 256)
            paths.append(f"/tile/a/{quote(layer)}/{level}/{chance.randrange(across)}_{chance.randrange(across)}.png?name=image")
        return [seconds for _, seconds in pool.map(self.get, paths)]


def measure(folder: Path, side: int, title: str) -> None:
    """Start the command, ask, and print what it took."""
    start = time.perf_counter()
    with subprocess.Popen([sys.executable, "-m", "pipeline", "view", str(folder / "run")], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = urlsplit(server.stdout.readline().strip())
            print(f"{title}: the URL after {time.perf_counter() - start:.1f} s", flush=True)
            browser = Browser(url.netloc, f"gigaseg-{url.port}={url.query.removeprefix('token=')}")
            process, peaks = psutil.Process(server.pid), []
            with ThreadPoolExecutor(CONNECTIONS) as pool:
                image_s, mask_s = browser.first_picture(pool)
                seen = f"first picture {image_s:.2f} s, with the mask {mask_s:.2f} s"
                print(f"  {seen}, {sum(process.cpu_times()[:2]):.1f} s of a core, PSS {pss_bytes(process) >> 20} MiB", flush=True)
                for turn in range(3):
                    for layer in ("image", "mask", "truth", "error"):
                        before = sum(process.cpu_times()[:2])
                        seconds = browser.tiles(pool, layer, turn, side)
                        cpu = 1000 * (sum(process.cpu_times()[:2]) - before) / len(seconds)
                        median, slow = (1000 * one for one in (statistics.median(seconds), statistics.quantiles(seconds, n=20)[-1]))
                        peaks.append(pss_bytes(process) >> 20)
                        times = f"median {median:4.0f} ms, 95 % {slow:5.0f} ms, {cpu:4.0f} ms of a core each"
                        print(f"  turn {turn} {layer:5} {times}, PSS {peaks[-1]} MiB", flush=True)
                until = wait_for_overviews(browser)
            print(f"  overviews complete {until:.0f} s later, PSS {pss_bytes(process) >> 20} MiB", flush=True)
        finally:
            server.terminate()


def wait_for_overviews(browser: Browser) -> float:
    """Return the seconds until no picture is drawn in the background."""
    start = time.perf_counter()
    while json.loads(browser.get("/api/state?run=a")[0])["drawing"]:
        time.sleep(0.5)
    return time.perf_counter() - start


def main() -> None:
    """Measure both kinds of image."""
    side = int(sys.argv[1]) if len(sys.argv) > 1 else 65536
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[2] if len(sys.argv) > 2 else temporary)
        folder.mkdir(parents=True, exist_ok=True)
        prepare(folder, side)
        measure(folder, side, f"{side}^2 without a pyramid")
        write_levels(folder / "image.ome.zarr", tile(3), side, all_levels=True)
        measure(folder, side, f"{side}^2 with a pyramid")


if __name__ == "__main__":
    main()
