"""How busy the engine keeps a GPU: against bare forward passes over the same tiles, and MONAI on the same GPU.

Run: ``python -m tests.benchmarks.gpu [SIDE] [MODEL...]`` (32768; a U-Net-ResNet18 of four classes) on a machine with an NVIDIA GPU;
MONAI is compared where it is installed. An RGB image of SIDE^2 as Zarr, one actor in this process, bf16. It prints, in image Mpx/s:

- ``bare``: forward passes of the network over tiles that lie on the GPU, normalised, halo included, in batches of the recipe, by
  eager torch in bf16 with channels last, batch norms folded and cuDNN's choice of algorithms measured; logits are dropped;
- ``call``: the engine's call of the network: raw pixels on the GPU in, classes on the GPU out;
- ``engine``: read, send, predict, stitch, count, fetch and write, without start and end;
- ``busy``: the share of that time in which the GPU ran a kernel, as its driver says;
- ``run``: the whole command, start and end included, by the wall clock;
- ``MONAI``: sliding-window inference over the picture in memory (a corner of 8192^2), eager bf16, channels last, same tile and halo,
  its sums on the GPU; no reading, no writing, no counting.

Masks of the GPU are compared with those of the processor in float32.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.backends._batch_norm_folding import fold_batch_norms
from pipeline.config import load_config
from pipeline.engine.job import Job
from pipeline.geometry import Box
from pipeline.inputs import Catalogue, build_catalogue
from pipeline.plugins import build
from pipeline.scheduling.plan import make_job
from pipeline.tuning.recipe_choice import choose_recipe
from pipeline.tuning.timing import halo_overhead, read_largest_tile, time_piece
from tests.benchmarks.images import zarr_image
from tests.benchmarks.network import MEAN, STD
from workflows.run import run

CORNER = 8192
MODELS = {
    "resnet18": {"name": "tests.benchmarks.network"},
    "unet": {"name": "unet", "channels": 3, "classes": 4, "depth": 4, "base": 64},
    "deeplab": {"name": "deeplabv3plus", "encoder": "resnet50", "channels": 3, "classes": 4},
}


def write_yaml(folder: Path, image: Path, name: str, **compute: Any) -> Path:
    """The run's YAML."""
    config = {
        "images": [str(image)],
        "model": MODELS[name],
        "normalize": {"mean": [MEAN] * 3, "std": [STD] * 3},
        "tiling": {"halo": 64},
        "compute": {"runner": "serial", "device": "cuda", **compute},
        "output": str(folder / name),
    }
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(config))
    return path


def seconds(work: Callable[[], object], least: float = 2.0) -> float:
    """Mean wall seconds of a call on the GPU."""
    work()
    torch.cuda.synchronize()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < least:
        work()
        torch.cuda.synchronize()
        count += 1
    return (time.perf_counter() - start) / count


def bare(catalogue: Catalogue, job: Job) -> tuple[float, float]:
    """Tile pixels a second of the network alone, and of the engine's call of it, with everything on the GPU."""
    tile = read_largest_tile(catalogue.images[0], job)
    num_pixels = tile.pixels_BCYX[:, 0].size
    network = catalogue.model.load().eval()
    fold_batch_norms(network)
    network = network.to("cuda", torch.bfloat16, memory_format=torch.channels_last)
    x_BCYX = torch.randn(tile.pixels_BCYX.shape, device="cuda", dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, benchmark=True):
        alone = num_pixels / seconds(lambda: network(x_BCYX))
    assert job.model is not None
    with job.model.predictor(job.recipe, job.normalize) as predict:
        pixels_BCYX = predict.ops.put(np.ascontiguousarray(tile.pixels_BCYX))
        return alone, num_pixels / seconds(lambda: predict.classes(pixels_BCYX, [tile.fit] * len(pixels_BCYX)))


@contextmanager
def watched() -> Iterator[list[int]]:
    """Sample the share of time in which the GPU runs a kernel, as its driver says, percent."""
    import pynvml

    pynvml.nvmlInit()
    card, seen, ended = pynvml.nvmlDeviceGetHandleByIndex(0), [], threading.Event()

    def look() -> None:
        while not ended.wait(0.1):
            seen.append(int(pynvml.nvmlDeviceGetUtilizationRates(card).gpu))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def engine(catalogue: Catalogue, job: Job) -> tuple[float, float, dict[str, float]]:
    """Image pixels a second under way, the busy share, and the seconds of each stage."""
    with tempfile.TemporaryDirectory() as text, watched() as seen:
        timing = time_piece(catalogue, replace(job, output=Path(text)), "serial")
    first = min(len(seen) - 1, int(timing.start_s / 0.1))
    return timing.pixels_s, float(np.mean(seen[first:])) / 100, dict(timing.stages)


def monai(catalogue: Catalogue, job: Job) -> float:
    """Image pixels a second of MONAI's sliding window."""
    from monai.inferers import sliding_window_inference

    recipe, image = job.recipe, catalogue.images[0]
    side = min(CORNER, *image.header.shape)
    network = catalogue.model.load().eval().to("cuda", torch.bfloat16, memory_format=torch.channels_last)
    with build("readers", image.reader).open(image.path) as raster:
        pixels_CYX = raster.read(Box(0, 0, side, side))
    x_BCYX = (torch.from_numpy(np.ascontiguousarray(pixels_CYX))[None].float() - MEAN) / STD
    tile = recipe.core + 2 * recipe.halo

    def segment() -> None:
        x = x_BCYX.to("cuda", torch.bfloat16, memory_format=torch.channels_last)
        with torch.no_grad():
            logits = sliding_window_inference(x, (tile, tile), recipe.batch, network, overlap=2 * recipe.halo / tile, mode="gaussian")
        logits.argmax(1).to(torch.uint8).cpu()

    return side**2 / seconds(segment)


def compare(folder: Path, image: Path, name: str) -> float:
    """The share of pixels on which bf16 on the GPU and float32 on the processor agree."""
    masks = []
    for device, precision in (("cuda", "bf16"), ("cpu", "fp32")):
        yaml = write_yaml(folder, image, name, device=device, precision=precision, backend="torch")
        with redirect_stdout(io.StringIO()):
            run(yaml, [f"output={folder}/{device}"])
        (mask,) = (folder / device / "masks").iterdir()
        with build("readers", {"name": "auto"}).open(str(mask)) as raster:
            masks.append(raster.read(Box(0, 0, *raster.header.shape)))
    return float((masks[0] == masks[1]).mean())


def measure(folder: Path, image: Path, small: Path, name: str) -> None:
    """Print the results of one network."""
    catalogue = build_catalogue(load_config(write_yaml(folder, image, name)))
    job = make_job(catalogue, choose_recipe(catalogue).recipe)
    recipe = job.recipe
    print(f"\n{name}: core {recipe.core} halo {recipe.halo} batch {recipe.batch} block {recipe.block} {recipe.backend} {recipe.precision}")
    limit, call = (rate / halo_overhead(catalogue.images, job) for rate in bare(catalogue, job))
    print(f"  bare   {limit / 1e6:8.1f} image Mpx/s\n  call   {call / 1e6:8.1f} image Mpx/s", flush=True)
    rate, busy, stages = engine(catalogue, job)
    seconds_by_stage = {stage: round(value, 2) for stage, value in stages.items()}
    print(f"  engine {rate / 1e6:8.1f} image Mpx/s, {rate / limit:.3f} of bare; busy {busy:.2f}; {seconds_by_stage}", flush=True)
    start = time.perf_counter()
    with redirect_stdout(io.StringIO()):
        run(folder / f"{name}.yaml", [])
    wall = time.perf_counter() - start
    pixels = catalogue.images[0].header.shape[0] ** 2
    report = json.loads((folder / name / "report" / "report.json").read_text())
    shares = ", ".join(f"{one['predicted'] / report['pixels']:.0%}" for one in report["classes"])
    print(f"  run    {pixels / wall / 1e6:8.1f} image Mpx/s ({wall:.1f} s); classes {shares}", flush=True)
    if find_spec("monai"):
        other = monai(catalogue, job)
        print(f"  MONAI  {other / 1e6:8.1f} image Mpx/s; engine / MONAI {rate / other:.2f}", flush=True)
    print(f"  masks of the GPU and of the processor agree on {compare(folder, small, name):.4%}", flush=True)


def main() -> None:
    """Print the table."""
    side, *names = [*sys.argv[1:], *("32768",)[len(sys.argv) - 1 :]]
    print(torch.cuda.get_device_name(), torch.__version__)
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        image, small = zarr_image(folder / "image.zarr", int(side), channels=3), zarr_image(folder / "small.zarr", 1024, channels=3)
        for name in names or ["resnet18"]:
            measure(folder, image, small, name)


if __name__ == "__main__":
    main()
