"""The same GeoTIFF, the same network, one tool after the other: ``python -m tests.benchmarks.map_peers [SIDE] [ROUNDS] [TOOL...]``.

The work (4096 3): a tiled RGB GeoTIFF of SIDE^2 in a UTM zone in, the mask of a U-Net-ResNet18 with four classes and
random weights as a GeoTIFF out, each tool as it comes: tiles of 512 with an overlap of 128 for the others, gigaseg's own choice.
geoai: ``geoai.inference.predict_geotiff``. torchgeo: ``GridGeoSampler``, with pasting and writing of our own, as it has none.

Columns: wall seconds of the whole process, and of the work without imports and loading; peak memory (proportional set size);
share of the pixels of a square in the middle that differ from one float32 pass over it, and the same within 8 pixels of the
lines where the tool's tiles meet: what shows of the cut.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import rasterio

from tests.benchmarks.images import tile
from tests.benchmarks.network import MEAN, STD, check_shares
from tests.benchmarks.peers import MARGIN, Seen, measure, python_of, spread

JOBS = Path(__file__).with_name("map_peer_jobs.py")
STEP = 384  # of the others' tiles
NEAR = 8  # pixels beside a line where tiles meet
PACKAGES = {
    "geoai": [
        [
            "geoai-py==0.40.1",
            "leafmap==0.63.1",
            "scooby",
            "ipyleaflet",
            "xyzservices",
            "branca",
            "ipython",
            "traitlets",
            "ipywidgets",
            "comm",
        ],
        ["python-box", "folium", "whitebox", "pystac<1.13", "ipyvuetify", "ipyvue", "pystac-client", "plotly", "rioxarray", "matplotlib"],
        ["cycler", "kiwisolver", "fonttools", "tqdm"],
    ],
    "torchgeo": [
        ["torchgeo==0.8.1", "geopandas", "pandas", "pyproj", "shapely", "einops", "kornia", "kornia_rs", "matplotlib", "contourpy"],
        ["cycler", "kiwisolver", "fonttools", "pyparsing", "python-dateutil", "six", "lightning==2.6.0", "lightning-utilities"],
        ["torchmetrics", "jsonargparse", "lightly", "lightly-utils", "tqdm", "pytz", "tzdata", "aenum", "pytorch-lightning"],
    ],
}
MODULES = {"geoai": "geoai.utils", "torchgeo": "torchgeo.samplers"}
TOOLS = ("geoai", "torchgeo", "gigaseg")


def make_scene(folder: Path, side: int) -> None:
    """Write the GeoTIFF and the network."""
    import torch
    from safetensors.torch import save_file

    from pipeline.plugins import build

    pattern_CYX = tile(3)
    size = pattern_CYX.shape[-1]
    place = {"crs": "EPSG:32645", "transform": rasterio.Affine(0.3, 0, 330000, 0, -0.3, 3060000)}
    options = {"tiled": True, "blockxsize": 512, "blockysize": 512, "photometric": "RGB", "compress": "deflate"}
    with rasterio.open(
        folder / "image.tif", "w", driver="GTiff", width=side, height=side, count=3, dtype="uint8", **place, **options
    ) as file:
        for y in range(0, side, size):
            for x in range(0, side, size):
                window = rasterio.windows.Window(x, y, min(size, side - x), min(size, side - y))
                file.write(pattern_CYX[:, : window.height, : window.width], window=window)
    network = build("models", {"name": "tests.benchmarks.network"}).load()
    torch.save(network, folder / "network.pt")
    save_file(network.state_dict(), folder / "network.safetensors")


def run(folder: Path, tool: str, number: int, seen: Seen) -> np.ndarray:
    """One round of one tool; its mask."""
    out = folder / f"{tool} {number}.tif"
    if tool == "gigaseg":
        model = {"name": "tests.benchmarks.network", "weights": str(folder / "network.safetensors")}
        config = {"images": [str(folder / "image.tif")], "model": model, "normalize": {"mean": [MEAN] * 3, "std": [STD] * 3}}
        config |= {"writers": ["cog"], "output": str(folder / f"run {number}")}
        (folder / "run.yaml").write_text(json.dumps(config))
        ray = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64, "RAY_TMPDIR": str(folder)}
        measure([sys.executable, "-m", "pipeline.cli", "run", str(folder / "run.yaml")], ray, seen)
        seen.work.append(json.loads((folder / f"run {number}" / "run.json").read_text())["seconds"])
        out = folder / f"run {number}" / "masks" / "image.tif"
    else:
        job = {"image": str(folder / "image.tif"), "network": str(folder / "network.pt"), "out": str(out), "mean": MEAN, "std": STD}
        (folder / "job.json").write_text(json.dumps(job))
        python = python_of(tool, PACKAGES, MODULES[tool])
        said = measure([python, "-W", "ignore", str(JOBS), tool, str(folder / "job.json")], {}, seen)
        seen.work.append(json.loads(said.strip().splitlines()[-1])["seconds"])
    with rasterio.open(out) as file:
        assert file.crs.to_epsg() == 32645
        return file.read(1)


def one_pass(folder: Path, side: int) -> tuple[slice, np.ndarray]:
    """Classes of a square in the middle by one float32 pass over it and all that reaches into it, and where it lies."""
    import torch

    network = torch.load(folder / "network.pt", weights_only=False).eval()
    inner = min(1536, side // 2)
    start = (side - inner) // 64 * 32
    low, high = max(0, start - MARGIN), min(side, start + inner + MARGIN)
    with rasterio.open(folder / "image.tif") as file:
        pixels_CYX = file.read(window=rasterio.windows.Window(low, low, high - low, high - low))
    with torch.inference_mode():
        logits_NKYX = network((torch.from_numpy(pixels_CYX[None]).float() - MEAN) / STD)
    here = slice(start - low, start - low + inner)
    return slice(start, start + inner), logits_NKYX.argmax(1)[0, here, here].numpy().astype(np.uint8)


def near_cuts(where: slice, step: int, first: int) -> np.ndarray:
    """Whether each row of the square lies beside a line where tiles meet: every ``step`` pixels from ``first``."""
    apart = (np.arange(where.start, where.stop) - first) % step
    return np.minimum(apart, step - apart) < NEAR


def core_of(folder: Path, number: int) -> int:
    """Side of the squares that gigaseg's tiles wrote."""
    return int(json.loads((folder / f"run {number}" / "run.json").read_text())["recipe"]["core"])


def main() -> None:
    """Print the table."""
    numbers = [int(text) for text in sys.argv[1:] if text.isdigit()]
    side, rounds = (numbers + [4096, 3][len(numbers) :])[:2]
    rows = {tool: Seen() for tool in [text for text in sys.argv[1:] if not text.isdigit()] or TOOLS}
    cuts: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="gsm-") as text:
        folder = Path(text)
        make_scene(folder, side)
        where, expected_YX = one_pass(folder, side)
        print(f"{side}^2 RGB GeoTIFF; classes in the mask: {check_shares(expected_YX)}", flush=True)
        for number in range(rounds):
            for tool, seen in rows.items():
                if seen.refused:
                    continue
                try:
                    wrong_YX = run(folder, tool, number, seen)[where, where] != expected_YX
                except SystemExit as reason:
                    seen.refused = str(reason)
                    continue
                near = near_cuts(where, core_of(folder, number), 0) if tool == "gigaseg" else near_cuts(where, STEP, 64)
                seen.agreement, cuts[tool] = float(wrong_YX.mean()), float(wrong_YX[near[:, None] | near].mean())
                print(f"round {number + 1}: {tool}: {seen.wall[-1]:.1f} s", file=sys.stderr, flush=True)
    print(f"{'':<12}{'wall, s':<22}{'of it work, s':<22}{'peak, MiB':<20}{'differ':<10}beside cuts")
    for tool, seen in rows.items():
        if seen.refused:
            print(f"{tool:<12}left out: {seen.refused}")
            continue
        shares = f"{seen.agreement:<10.3%}{cuts[tool]:.3%}"
        print(f"{tool:<12}{spread(seen.wall):<22}{spread(seen.work):<22}{spread(seen.peak, 0):<20}{shares}")


if __name__ == "__main__":
    main()
