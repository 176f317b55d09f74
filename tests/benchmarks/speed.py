"""What the engine costs: a whole run against bare forward passes over the same tiles with the fastest backend.

Run: ``python -m tests.benchmarks.speed [SIDE] [ROUNDS] [crop|gaussian|actors...]`` (4096 3, all of them). An RGB image of SIDE^2
as Zarr, a U-Net-ResNet18 whose four classes all occur, cores of 1024, a halo of 64, one thread an actor. For
``stitch: crop`` and ``gaussian`` it compares:

- ``bare``: forward passes over every tile once, its halo included, the input in memory, the output dropped, by the backend
  that was the fastest on one tile; the call is the engine's (classes for crop, logits for blending);
- ``no halo``: the same over the image cut without any halo: the speed if context cost nothing;
- ``run``: plan, read, predict, stitch, count, write, pyramid and report in one process, less building, loading and compiling the
  network. For ``gaussian`` the network's field is known, and the error of a smaller halo is measured first, as runs do.

These are CPU seconds of this process; rounds alternate, after one that warms up. It also compares pixels a second of two actors under
Ray against one process, wall, while all are busy (crop, blocks of one core, so that 4096^2 has 16), which needs a machine
that does nothing else. At most 1.15 for run / bare with crop, and at least 1.8 for two actors on two cores, are wanted.
"""

from __future__ import annotations

import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import Recipe, load_config
from pipeline.engine import read_reflected
from pipeline.geometry import Box
from pipeline.inputs import Catalogue, build_catalogue
from pipeline.models import PredictFunction, Predictor
from pipeline.plugins import build
from pipeline.scheduling.plan import make_job
from pipeline.tiling.grid import Grid
from pipeline.tuning.backend_trial import TriedBackend, fastest_backend
from pipeline.tuning.memory_model import format_bytes
from pipeline.tuning.recipe_choice import choose_recipe
from pipeline.tuning.timing import RunTiming, read_largest_tile, time_backends, time_piece
from tests.benchmarks.images import zarr_image
from tests.benchmarks.network import LEAST_SHARE, MEAN, STD
from workflows.run import run

CORE, HALO, FIELD = 1024, 64, 305


def cpu(work: Callable[[], object]) -> float:
    """CPU seconds of a call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def bare(predict: PredictFunction, tiles: list[np.ndarray]) -> None:
    """The forward passes alone."""
    for pixels_CYX in tiles:
        predict(pixels_CYX[None], [{}])


def tiles_of(image: Path, halo: int, side: int) -> list[np.ndarray]:
    """Every tile of the image, in memory, as the engine would cut it."""
    grid = Grid((side, side), CORE, halo, CORE, 32)
    with build("readers", {"name": "zarr"}).open(str(image)) as raster:
        return [np.ascontiguousarray(read_reflected(raster, tile.outer, 0)[0]) for tile in grid.tiles(Box(0, 0, side, side))]


def write_yaml(folder: Path, image: Path, **keys: Any) -> Path:
    """The run's YAML."""
    config = {
        "images": [str(image)],
        "model": {"name": "tests.benchmarks.network"},
        "normalize": {"mean": [MEAN] * 3, "std": [STD] * 3},
        "tiling": {"core": CORE, "halo": HALO},
        "compute": {"runner": "serial"},
        "output": str(folder / "run"),
        **keys,
    }
    path = folder / "run.yaml"
    path.write_text(json.dumps(config))
    return path


def best_backend(catalogue: Catalogue) -> TriedBackend:
    """The fastest of the installed backends that agree with eager float32, on one tile."""
    job = make_job(catalogue, choose_recipe(catalogue).recipe)
    tried = time_backends(catalogue, job, read_largest_tile(catalogue.images[0], job), lambda _: None)
    for one in tried:
        result = f"{1 / one.seconds:.2f} tile Mpx/s, {one.agreement:.3%} as eager fp32" if one.seconds else one.refused
        print(f"{one.backend} {one.precision}: {result}", flush=True)
    return fastest_backend(tried)


def call_of(predict: Predictor, recipe: Recipe) -> PredictFunction:
    """What the engine calls: classes where nothing needs logits."""
    return predict.classes if recipe.stitch == "crop" else predict


def measure(folder: Path, yaml: Path, image: Path, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each side, round by round."""
    catalogue = build_catalogue(load_config(yaml))
    recipe = choose_recipe(catalogue).recipe
    side = catalogue.images[0].header.shape[0]
    normalize = dict(catalogue.config.normalize)
    with_halo, without = tiles_of(image, HALO, side), tiles_of(image, 0, side)

    def begin() -> None:
        """Load the network and predict a first tile, at which some backends compile."""
        with catalogue.model.predictor(recipe, normalize) as predict:
            call_of(predict, recipe)(with_halo[0][None, :, :64, :64], [{}])

    load = min(cpu(begin) for _ in range(2))
    rows: dict[str, list[float]] = {"bare": [], "no halo": [], "run": []}
    with catalogue.model.predictor(recipe, normalize) as predict:
        call = call_of(predict, recipe)
        bare(call, with_halo[:2])
        for number in range(rounds):
            rows["bare"].append(cpu(lambda: bare(call, with_halo)))
            rows["no halo"].append(cpu(lambda: bare(call, without)))
            with redirect_stdout(io.StringIO()):
                rows["run"].append(cpu(partial(run, yaml, [f"output={folder}/{recipe.stitch}{number}"])) - load)
            print({name: round(values[-1], 2) for name, values in rows.items()}, flush=True)
    print(f"start-up left out: {load:.2f} CPU s to build, load and compile the network")
    return rows


def print_ratios(folder: Path, stitch: str, rows: dict[str, list[float]]) -> None:
    """Print the ratios, and refuse a mask that is all but constant."""
    report = json.loads((folder / f"{stitch}0" / "report" / "report.json").read_text())
    shares = [one["predicted"] / report["pixels"] for one in report["classes"]]
    if min(shares) < LEAST_SHARE:
        raise SystemExit(f"classes have shares of {shares}: a mask that is nearly constant says nothing of speed")
    print("classes in the mask:", ", ".join(f"{share:.0%}" for share in shares))
    for label, one, other in (("run / bare, CPU s", "run", "bare"), ("rate, of that without any halo", "no halo", "run")):
        ratios = [first / second for first, second in zip(rows[one], rows[other], strict=True)]
        print(f"{stitch}: {label}: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    print("seconds by stage:", report["timing"]["stage_seconds"], "peak", format_bytes(report["timing"]["peak_actor_bytes"]), flush=True)


def rate(yaml: Path, runner: str, actors: int) -> RunTiming:
    """Pixels a second, wall, while all actors are busy."""
    catalogue = build_catalogue(load_config(yaml))
    compute = catalogue.config.compute.model_copy(update={"actors": actors})
    catalogue = replace(catalogue, config=catalogue.config.model_copy(update={"compute": compute}))
    with tempfile.TemporaryDirectory() as text:
        job = replace(make_job(catalogue, choose_recipe(catalogue).recipe), output=Path(text))
        return time_piece(catalogue, job, runner)


def main() -> None:
    """Print the table."""
    side, rounds = (int(text) for text in (*sys.argv[1:3], *("4096", "3")[len(sys.argv[:3]) - 1 :]))
    parts = sys.argv[3:] or ["crop", "gaussian", "actors"]
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        image = zarr_image(folder / "image.zarr", side, channels=3)
        best = best_backend(build_catalogue(load_config(write_yaml(folder, image))))
        compute = {"runner": "serial", "backend": best.backend, "precision": best.precision}
        print(f"{side}^2 RGB, core {CORE}, halo {HALO}, {best.backend} {best.precision}, one thread an actor", flush=True)
        for stitch in (part for part in parts if part != "actors"):
            tiling = {"core": CORE, "halo": HALO, "stitch": stitch}
            model = {"name": "tests.benchmarks.network", "radius": None if stitch == "crop" else FIELD}
            yaml = write_yaml(folder, image, tiling=tiling, compute=compute, model=model)
            print_ratios(folder, stitch, measure(folder, yaml, image, rounds))
        if "actors" not in parts:
            return
        yaml = write_yaml(folder, image, tiling={"core": CORE, "halo": HALO, "block": CORE}, compute=compute)
        one, two = rate(yaml, "serial", 1), rate(yaml, "ray", 2)
        print(f"crop: two actors / one process, wall: {two.pixels_s / one.pixels_s:.2f}", end=" ")
        print(f"({one.pixels_s / 1e6:.2f} and {two.pixels_s / 1e6:.2f} Mpx/s)", flush=True)


if __name__ == "__main__":
    main()
