"""Objects decoded from maps are those that StarDist, Cellpose and HoVer-Net decode from them: `tests/judges/instance_decoding.py`."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from pipeline.instances import Region
from pipeline.plugins import build
from tests.judges.instance_decoding import CASES, METHODS, TABLE, maps_of

MAPS = {
    "radial": lambda found: {"object_probability": found[:1], "distances": found[1:]},
    "flows": lambda found: {"flows": found[:2], "cell_probability": found[2:]},
    "hover": lambda found: {"nuclear_pixels": found[:1], "horizontal_vertical": found[1:]},
}
OPTIONS = {"radial": {}, "flows": {"min_area": 15}, "hover": {"min_area": 10}}


def decoded(method, seed, noise):
    """Row, column and area of each object that ours finds, (N, 3)."""
    maps = MAPS[method](maps_of(method, seed, noise))
    region = Region(np.ones(maps[next(iter(maps))].shape[1:], np.uint8), (1,), maps=maps)
    options = OPTIONS[method]
    labels_YX = build("instances", {"name": method, **options}).label(region).labels_YX
    found = []
    for number in range(1, labels_YX.max() + 1):
        pixels_N2 = np.argwhere(labels_YX == number)
        if len(pixels_N2) >= options.get("min_area", 0):
            found.append((*pixels_N2.mean(axis=0), len(pixels_N2)))
    return np.array(found)


@pytest.mark.parametrize(("seed", "noise"), CASES)
@pytest.mark.parametrize("method", METHODS)
def test_objects_are_those_of_the_published_program(method, seed, noise):
    """As many objects, each with its middle within a pixel and an area that differs by 6 % or 6 pixels at most, but for one in fifty."""
    with TABLE.open() as file:
        rows = [row for row in csv.DictReader(file) if (row["method"], int(row["seed"]), float(row["noise"])) == (method, seed, noise)]
    theirs = np.array([[float(row[key]) for key in ("row", "col", "area")] for row in rows])
    ours = decoded(method, seed, noise)
    assert len(theirs) > 30
    assert abs(len(ours) - len(theirs)) <= len(theirs) // 50
    gaps = np.hypot(*(theirs[:, None, :2] - ours[None, :, :2]).transpose(2, 0, 1))
    nearest, areas = gaps.argmin(axis=1), theirs[:, 2]
    is_same = (gaps.min(axis=1) < 1) & (np.abs(ours[nearest, 2] - areas) <= np.maximum(0.06 * areas, 6))
    assert (~is_same).sum() <= len(theirs) // 50, (theirs[~is_same], ours[nearest][~is_same])
