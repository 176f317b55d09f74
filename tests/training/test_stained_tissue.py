"""The bundle for stained tissue on a slide with haematoxylin and eosin, which has no labels: colours say what can be a nucleus."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import pipeline

DATA = os.environ.get("GIGASEG_TEST_DATA")


@pytest.mark.skipif(DATA is None, reason="GIGASEG_TEST_DATA, the folder of real images, is not set")
@pytest.mark.parametrize(("y", "x"), [(1300, 820), (2150, 850)])  # the upper half of the slide was not trained on
def test_fibres_with_eosin_are_no_nuclei(tmp_path, y, x):
    """At most one in 200 pink pixels, which are fibres, is called a nucleus, and most of the darkest blue ones are."""
    pixels_YXC = tifffile.imread(Path(DATA) / "formats/svs/CMU-1-Small-Region.svs", key=0)[y : y + 320, x : x + 320]
    Image.fromarray(pixels_YXC).save(tmp_path / "skin.png")
    run = {"images": [str(tmp_path / "skin.png")], "model": "nuclei-stained", "output": str(tmp_path / "run")}
    mask_YX = np.asarray(pipeline.run({**run, "compute": {"runner": "serial", "threads": 1, "backend": "torch"}}).mask("skin"))
    red, green, blue = np.moveaxis(pixels_YXC.astype(int), -1, 0)
    is_fibre, is_dark = (red > 190) & (green < 150) & (red - blue > 30), (red < 85) & (green < 80) & (blue >= red)
    assert is_fibre.mean() > 0.05
    assert (mask_YX[is_fibre] == 1).mean() < 0.005
    assert (mask_YX[is_dark] == 1).mean() > 0.7
