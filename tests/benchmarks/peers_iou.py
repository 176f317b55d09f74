"""How right the masks of each tool are: with the same trained network, on the same real scenes, against their truth.

Run: ``GIGASEG_TEST_DATA=FOLDER python -m tests.benchmarks.peers_iou [TOOL...]``. The bundle ``aerial-landcover``, float32, on its
validation scenes; each tool as in :mod:`tests.benchmarks.peers`, gigaseg with the halo of the bundle, once cropped and once
blended. Printed are the mean IoU over the pooled pixels, that of each class, and the share of pixels that are as in one pass
over the whole scene, reflected at its borders. An IoU that is equal to the others' or better is wanted.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from pipeline.config import config_from_mapping
from pipeline.models.bundle_files import list_bundles, read_spec
from pipeline.models.networks.wrappers import pad_to_multiple
from pipeline.plugins import build
from tests.benchmarks.peers import JOBS, TOOLS, checked, python_of
from workflows.run import run_config

BUNDLE, DATA = "aerial-landcover", "aerial/dubai-mbrsc"
PARTS = (3, 7)  # of each scene, which the bundle was not trained on
PAD = 256  # reflected around a scene for one pass over it


class Normalized(nn.Module):
    """The bundle's network with its normalisation: raw pixels of any size in."""

    def __init__(self, network: nn.Module, stride: int, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.network, self.stride = network, stride
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, pixels_NCYX: Tensor) -> Tensor:
        """Return logits."""
        logits: Tensor = self.network(pad_to_multiple((pixels_NCYX - self.mean) / self.std, self.stride))
        return logits[..., : pixels_NCYX.shape[-2], : pixels_NCYX.shape[-1]]


def network_of_bundle() -> Normalized:
    """The network in torch."""
    spec = read_spec(list_bundles()[BUNDLE])
    model = build("models", {**spec.architecture, "weights": str(list_bundles()[BUNDLE] / spec.weights.file)})
    network = model.load().float()
    network.__class__ = type(network).__mro__[1]  # the library's own, which TorchScript takes
    assert isinstance(spec.normalize, dict)
    return Normalized(network, model.stride, spec.normalize["mean"], spec.normalize["std"]).eval()


def one_pass(network: nn.Module, pixels_CYX: NDArray[Any]) -> NDArray[np.uint8]:
    """Classes of a whole scene by one forward pass."""
    padded_CYX = np.pad(pixels_CYX, ((0, 0), (PAD, PAD), (PAD, PAD)), mode="reflect").astype(np.float32)
    with torch.no_grad():
        classes_YX = network(torch.from_numpy(padded_CYX)[None]).argmax(1)[0, PAD:-PAD, PAD:-PAD]
    return classes_YX.numpy().astype(np.uint8)


def by_tool(tool: str, folder: Path, name: str) -> NDArray[Any]:
    """The mask of a tool."""
    given = {"image": str(folder / f"{name}.zarr"), "png": str(folder / f"{name}.png"), "network": str(folder / "network.pt")}
    given |= {"out": str(folder / f"{name} {tool}.zarr"), "mean": 0.0, "std": 1.0}
    given |= {"precision": "fp32", "channels_last": False, "threads": 1, "workers": 1, "cores": len(os.sched_getaffinity(0))}
    path = folder / "job.json"
    path.write_text(json.dumps(given))
    said = checked([python_of(tool), "-W", "ignore", str(JOBS), tool, str(path)])
    mask_YX: NDArray[Any] = zarr.open_array(json.loads(said.strip().splitlines()[-1])["mask"], mode="r")[...]
    return mask_YX.squeeze()


def by_gigaseg(stitch: str, folder: Path, names: list[str]) -> dict[str, NDArray[Any]]:
    """The masks of a run."""
    images, compute = [str(folder / f"{name}.png") for name in names], {"runner": "serial", "precision": "fp32"}
    output = folder / stitch
    content = {"images": images, "model": {"name": "bundle", "path": BUNDLE}, "tiling": {"stitch": stitch}, "compute": compute}
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        run_config(config_from_mapping({**content, "output": str(output)}, folder, "peers_iou"))
    return {name: zarr.open_array(output / "masks" / f"{name}.ome.zarr" / "0", mode="r")[...] for name in names}


def tell(label: str, masks: dict[str, NDArray[Any]], truths: dict[str, NDArray[Any]], wholes: dict[str, NDArray[Any]]) -> None:
    """Print a row."""
    matrix, equal = np.zeros((6, 6), np.int64), 0
    for name, truth_YX in truths.items():
        pairs = truth_YX.astype(np.int64) * 6 + masks[name] + 1  # in the truth 0 was never labelled
        matrix += np.bincount(pairs.ravel(), minlength=36).reshape(6, 6)
        equal += int((masks[name] == wholes[name]).sum())
    matrix = matrix[1:, 1:]
    iou = np.diag(matrix) / (matrix.sum(0) + matrix.sum(1) - np.diag(matrix))
    classes = " ".join(f"{one:.4f}" for one in iou)
    print(f"{label:<22}{iou.mean():.4f}  ({classes})  {equal / sum(one.size for one in truths.values()):.4%}", flush=True)


def main() -> None:
    """Print the table."""
    data, tools = Path(os.environ["GIGASEG_TEST_DATA"], DATA), sys.argv[1:] or [one for one in TOOLS if one != "gigaseg"]
    names = sorted(path.stem for part in PARTS for path in (data / "images").glob(f"*_part{part}.jpg"))
    truths = {name: np.asarray(Image.open(data / "masks" / f"{name}.png")) for name in names}
    network = network_of_bundle()
    print(f"{'':<22}mean IoU ({', '.join(one.name for one in read_spec(list_bundles()[BUNDLE]).classes)}), as one pass")
    with tempfile.TemporaryDirectory(prefix="gsi-") as text:
        folder, wholes = Path(text), {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that TorchScript is old; other environments do not have this package's modules
            torch.jit.script(network).save(str(folder / "network.pt"))
        for name in names:
            picture = Image.open(data / "images" / f"{name}.jpg").convert("RGB")
            picture.save(folder / f"{name}.png", compress_level=1)
            pixels_CYX = np.moveaxis(np.asarray(picture), -1, 0)
            stored = zarr.create_array(folder / f"{name}.zarr", shape=pixels_CYX.shape, chunks=(3, 512, 512), dtype="uint8")
            stored[...] = pixels_CYX
            wholes[name] = one_pass(network, pixels_CYX)
        tell("one pass", wholes, truths, wholes)
        for stitch in ("crop", "gaussian"):
            tell(f"gigaseg, {stitch}", by_gigaseg(stitch, folder, names), truths, wholes)
        for tool in tools:
            try:
                tell(tool, {name: by_tool(tool, folder, name) for name in names}, truths, wholes)
            except SystemExit as reason:
                print(f"{tool}: left out: {reason}", flush=True)


if __name__ == "__main__":
    main()
