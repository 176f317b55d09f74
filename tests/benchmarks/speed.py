"""What the engine costs: a whole run against the bare forward passes of the same tiles, CPU seconds, in one process.

Run: ``python -m tests.benchmarks.speed [SIDE] [ROUNDS]`` (8192 3). Both sides use the same network object's preparation,
precision and one thread; they alternate, after one round that warms up. At most 1.15 is wanted.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.config import load_config
from pipeline.geometry import Box
from pipeline.grid import Grid
from pipeline.job import read_reflected
from pipeline.memory import print_bytes
from pipeline.models import Predict
from pipeline.plugins import build
from pipeline.recipe import Recipe
from pipeline.survey import survey
from pipeline.tune import choose
from tests.benchmarks.images import zarr_image
from workflows.segment import run

CORE, HALO = 1024, 64


def cpu(work: Callable[[], object]) -> tuple[float, float]:
    """CPU seconds and wall seconds of a call."""
    start = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - start[0], time.perf_counter() - start[1]


def bare(predict: Predict, tiles: list[np.ndarray]) -> None:
    """The forward passes alone; the input is in memory, the output is dropped."""
    for pixels_CYX in tiles:
        predict(pixels_CYX[None], [{}])


def tiles_of(image: Path, halo: int, side: int) -> list[np.ndarray]:
    """Every tile of the image, in memory, as the engine would cut it."""
    grid = Grid((side, side), CORE, halo, CORE, 32)
    with build("readers", {"name": "zarr"}).open(str(image)) as raster:
        return [np.ascontiguousarray(read_reflected(raster, tile.outer, 0)) for tile in grid.tiles(Box(0, 0, side, side))]


def main() -> None:
    """Print the table."""
    side, rounds = (int(text) for text in (*sys.argv[1:], *("8192", "3")[len(sys.argv) - 1 :]))
    with tempfile.TemporaryDirectory() as folder:
        image = zarr_image(Path(folder, "image.zarr"), side, channels=3)
        config = {
            "images": [str(image)],
            "model": {"name": "tests.benchmarks.network"},
            "normalize": {"mean": [128.0] * 3, "std": [50.0] * 3},
            "tiling": {"core": CORE, "halo": HALO},
            "compute": {"runner": "serial"},
            "output": str(Path(folder, "run")),
        }
        yaml = Path(folder, "run.yaml")
        yaml.write_text(json.dumps(config))
        model = build("models", config["model"])
        recipe: Recipe = choose(survey(load_config(yaml))).recipe
        print(f"{side}^2 RGB, core {CORE}, halo {HALO}, {recipe.backend} {recipe.precision}, {recipe.threads} thread", flush=True)
        load = min(cpu(lambda: model.open(recipe, config["normalize"]).__enter__())[0] for _ in range(2))
        with model.open(recipe, config["normalize"]) as predict:
            with_halo, without = tiles_of(image, HALO, side), tiles_of(image, 0, side)
            bare(predict, with_halo[:2])
            rows: dict[str, list[float]] = {"bare": [], "no halo": [], "run": []}
            for number in range(rounds):
                rows["bare"].append(cpu(lambda: bare(predict, with_halo))[0])
                rows["no halo"].append(cpu(lambda: bare(predict, without))[0])
                rows["run"].append(cpu(partial(run, yaml, [f"output={folder}/run{number}"]))[0] - load)
                print({name: round(values[-1], 2) for name, values in rows.items()}, flush=True)
        report = json.loads(Path(folder, f"run{rounds - 1}", "report", "report.json").read_text())
        shares = [one["predicted"] / report["pixels"] for one in report["classes"]]
        print("classes in the mask:", ", ".join(f"{share:.0%}" for share in shares))
        ratios = [one / other for one, other in zip(rows["run"], rows["bare"], strict=True)]
        halo = [one / other for one, other in zip(rows["bare"], rows["no halo"], strict=True)]
        print(f"start-up left out: {load:.2f} CPU s to build and load the network")
        print(f"run / bare forward of the same tiles: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
        print(f"halo: same tiles / no halo: {statistics.median(halo):.3f} ({min(halo):.3f} to {max(halo):.3f})")
        print("seconds by stage:", report["timing"]["stage_seconds"], "peak", print_bytes(report["timing"]["peak_actor_bytes"]))


if __name__ == "__main__":
    main()
