"""The work of :mod:`tests.benchmarks.peers`, once for each tool: read, segment, write the mask; one process a job.

Run by the Python of the tool's own environment, without this package: ``python peer_jobs.py NAME JOB.json``. Each is
written as the tool's documentation shows it, with the tile of 512 and the context of 64 that all share. Prints one line
of JSON: the seconds from the first pixel read to the mask's last one on disk, loading and importing left out.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr

TILE, HALO = 512, 64
CORE = TILE - 2 * HALO
BATCH = 4


class Job:
    """What every tool is given: the same pixels, the same network object, the same precision and threads."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.given = given
        self.image_CYX = zarr.open_array(given["image"], mode="r")
        self.shape: tuple[int, int] = self.image_CYX.shape[1:]
        if given["threads"]:
            torch.set_num_threads(given["threads"])
        self.bf16, self.channels_last = given["precision"] == "bf16", given["channels_last"]
        self.network = torch.load(given["network"], weights_only=False).eval()
        if self.channels_last:
            self.network = self.network.to(memory_format=torch.channels_last)

    def normal(self, pixels_NCYX: Any) -> torch.Tensor:
        """Float32 pixels, normalised."""
        values_NCYX = (torch.as_tensor(pixels_NCYX).float() - self.given["mean"]) / self.given["std"]
        return values_NCYX.contiguous(memory_format=torch.channels_last) if self.channels_last else values_NCYX

    def logits(self, values_NCYX: torch.Tensor) -> torch.Tensor:
        """One forward pass."""
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            return self.network(values_NCYX).float()

    def mask_array(self, chunk: int = 512) -> Any:
        """A Zarr array for the mask."""
        return zarr.create_array(self.given["out"], shape=self.shape, chunks=(chunk, chunk), dtype="uint8", overwrite=True)


def naive(job: Job) -> None:
    """What people write first: all pixels in memory, padded; tile by tile; cores into a whole mask."""
    pixels_CYX = np.pad(job.image_CYX[...], ((0, 0), (HALO, HALO + CORE), (HALO, HALO + CORE)), mode="reflect")
    mask_YX = np.empty((job.shape[0] + CORE, job.shape[1] + CORE), np.uint8)
    for y in range(0, job.shape[0], CORE):
        for x in range(0, job.shape[1], CORE):
            logits_NKYX = job.logits(job.normal(pixels_CYX[None, :, y : y + TILE, x : x + TILE]))
            mask_YX[y : y + CORE, x : x + CORE] = logits_NKYX.argmax(1)[0, HALO:-HALO, HALO:-HALO].numpy()
    job.mask_array()[...] = mask_YX[: job.shape[0], : job.shape[1]]


def monai(job: Job) -> None:
    """MONAI's sliding_window_inference over the whole image, its overlap of a quarter."""
    from monai.inferers import sliding_window_inference

    values_NCYX = job.normal(job.image_CYX[...][None])
    logits_NKYX = sliding_window_inference(values_NCYX, (TILE, TILE), BATCH, job.logits, overlap=0.25)
    job.mask_array()[...] = logits_NKYX.argmax(1)[0].numpy().astype(np.uint8)


def dask(job: Job) -> None:
    """Dask's map_overlap on the Zarr array, threads, written block by block."""
    import dask as dask_
    import dask.array as da

    def segment(pixels_CYX: np.ndarray) -> np.ndarray:
        return job.logits(job.normal(pixels_CYX[None])).argmax(1)[0].numpy().astype(np.uint8)

    pixels_CYX = da.from_zarr(job.given["image"]).rechunk((3, CORE, CORE))
    depth, meta = {0: 0, 1: HALO, 2: HALO}, np.empty((0, 0), np.uint8)
    mask_YX = da.map_overlap(segment, pixels_CYX, depth=depth, boundary="reflect", drop_axis=0, dtype=np.uint8, meta=meta)
    with dask_.config.set(scheduler="threads", num_workers=job.given["workers"]):
        da.store(mask_YX, job.mask_array(CORE), lock=False)


def tiatoolbox(job: Job) -> None:
    """TIAToolbox's SemanticSegmentor in slide mode on the PNG, with a model of one's own."""
    from tiatoolbox.models.architecture.utils import argmax_last_axis
    from tiatoolbox.models.engine.io_config import IOSegmentorConfig
    from tiatoolbox.models.engine.semantic_segmentor import SemanticSegmentor
    from tiatoolbox.models.models_abc import ModelABC

    class Wrapped(ModelABC):
        """The network behind its interface: NHWC in, NHWC out."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = job.network

        def forward(self, values_NCYX: torch.Tensor) -> torch.Tensor:
            return self.inner(values_NCYX)

        @staticmethod
        def infer_batch(model: torch.nn.Module, batch_data: torch.Tensor, *, device: str) -> np.ndarray:
            pixels_NCYX = torch.as_tensor(batch_data).permute(0, 3, 1, 2)
            return job.logits(job.normal(pixels_NCYX)).softmax(1).permute(0, 2, 3, 1).numpy()

        def postproc(self, image: np.ndarray) -> np.ndarray:
            return argmax_last_axis(image=image)

    baseline = [{"units": "baseline", "resolution": 1.0}]
    shapes = {"patch_input_shape": (TILE, TILE), "patch_output_shape": (TILE, TILE), "stride_shape": (TILE - 2 * HALO,) * 2}
    ioconfig = IOSegmentorConfig(input_resolutions=baseline, output_resolutions=baseline, save_resolution=baseline[0], **shapes)
    segmentor = SemanticSegmentor(Wrapped(), batch_size=BATCH, num_workers=0, device="cpu", verbose=False)
    options = {"patch_mode": False, "auto_get_mask": False, "output_type": "zarr", "overwrite": True, "ioconfig": ioconfig}
    found = segmentor.run([Path(job.given["png"])], save_dir=Path(job.given["out"] + ".tiatoolbox"), **options)
    ((_, place),) = found.items()
    job.given["out"] = str(Path(place) / "predictions")


def ray_data(job: Job) -> None:
    """Ray Data's batch inference: boxes, read by map, predicted by actors in map_batches, each writing its own chunks."""
    import ray
    import ray.data

    given = job.given

    class Predictor:
        """Holds the network, as Ray Data's recipe does."""

        def __init__(self) -> None:
            self.job = Job(given)
            self.mask_YX = zarr.open_array(given["out"], mode="r+")

        def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            logits_NKYX = self.job.logits(self.job.normal(batch["pixels"]))
            for y, x, classes_YX in zip(batch["y"], batch["x"], logits_NKYX.argmax(1).numpy(), strict=True):
                height, width = (min(CORE, side - at) for side, at in zip(self.job.shape, (y, x), strict=True))
                self.mask_YX[y : y + height, x : x + width] = classes_YX[HALO : HALO + height, HALO : HALO + width]
            return {"done": np.ones(len(batch["y"]))}

    def read(row: dict[str, Any]) -> dict[str, Any]:
        image_CYX = zarr.open_array(given["image"], mode="r")
        rows, cols = (reflected(row[axis] - HALO, side) for axis, side in zip("yx", image_CYX.shape[1:], strict=True))
        inside_CYX = image_CYX[:, rows.min() : rows.max() + 1, cols.min() : cols.max() + 1]
        return {**row, "pixels": inside_CYX[:, rows - rows.min()][:, :, cols - cols.min()]}

    job.mask_array(CORE)
    ray.init(address="local", num_cpus=given["cores"], include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    boxes = [{"y": y, "x": x} for y in range(0, job.shape[0], CORE) for x in range(0, job.shape[1], CORE)]
    rows = ray.data.from_items(boxes).map(read).map_batches(Predictor, batch_size=BATCH, concurrency=given["workers"], num_cpus=0.5)
    rows.materialize()
    ray.shutdown()


def reflected(start: int, size: int) -> np.ndarray:
    """Indices of a tile's pixels along an axis, reflected at the image's edges."""
    folded = np.arange(start, start + TILE) % (2 * (size - 1))
    return np.minimum(folded, 2 * (size - 1) - folded)


JOBS: dict[str, Callable[[Job], None]] = {"naive": naive, "monai": monai, "dask": dask, "tiatoolbox": tiatoolbox, "ray_data": ray_data}


def main() -> None:
    """Do one job."""
    name, given = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    job = Job(given)
    start = time.perf_counter()
    JOBS[name](job)
    print(json.dumps({"seconds": time.perf_counter() - start, "mask": job.given["out"]}))


if __name__ == "__main__":
    main()
