"""Networks as files, for the tests of what reads them: a tiny U-Net, and a public one."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import save_tiff

TINY = {"name": "unet", "channels": 2, "classes": 3, "depth": 2, "base": 8}
SIZE = 64  # of the files of one size; a U-Net of depth 2 sees 22 pixels far
MARGIN = 1e-4


def spec_of(path, **options):
    """What the YAML's ``model`` says of a file."""
    name = {".pt2": "exported", ".onnx": "onnx", ".pt": "torchscript"}[Path(path).suffix]
    trust = {} if name == "onnx" else {"trust": True}
    return {"name": name, "path": str(path), **trust, **options}


def zoo():
    """A public nuclei U-Net: description, TorchScript, ONNX of one size, reference tensors."""
    if "GIGASEG_TEST_DATA" not in os.environ:
        pytest.skip("GIGASEG_TEST_DATA is not set")
    return Path(os.environ["GIGASEG_TEST_DATA"]) / "models" / "unet2d_nuclei_broad"


def zoo_scene(folder):
    """A picture larger than the zoo's, with its test picture's own pixels, and the logits of one reflect-padded pass."""
    picture = np.load(zoo() / "test_input.npy")[0, 0].astype(np.float32)
    picture = np.concatenate([picture, picture[::-1, ::-1]], axis=1)[:, :700]
    save_tiff(folder / "a.tif", picture)
    mean, std = (float(value) for value in (picture.mean(dtype=np.float64), picture.std(dtype=np.float64)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = torch.jit.load(str(zoo() / "weights.pt")).eval()
    pads = [(64, 64 + -side % 8) for side in picture.shape]
    padded = (np.pad(picture, pads, mode="reflect") - np.float32(mean)) / np.float32(std)
    with torch.no_grad():
        logits = network(torch.from_numpy(padded)[None, None])[0, 0].numpy()
    return {"mean": [mean], "std": [std]}, logits[64 : 64 + picture.shape[0], 64 : 64 + picture.shape[1]]
