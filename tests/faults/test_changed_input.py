"""An image is written over while it is read: no mask is made of two images, and what was done is told."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from tests.faults.scene import CORE, SIDE, Scene, assert_same, has_rows, left_in, report_in, run, started, wait_for

RAY = {"runner": "ray", "actors": 2}


def write_raw(path, seed):
    """An uncompressed TIFF, of one size whatever the pixels."""
    pixels_YX = np.random.default_rng(seed).integers(0, 250, (SIDE, SIDE), np.uint8)
    tifffile.imwrite(path, pixels_YX, tile=(CORE, CORE))


def write_over(path, seed):
    """Write another image into the file, which stays the same file."""
    other = path.with_suffix(".other")
    write_raw(other, seed)
    with path.open("r+b") as file:
        file.write(other.read_bytes())
    other.unlink()


def write_anew(path, seed):
    """Put another file in its place."""
    other = path.with_suffix(".other")
    write_raw(other, seed)
    other.replace(path)


@pytest.fixture
def scene(tmp_path):
    """Two images that are not compressed."""
    made = Scene(tmp_path, images=2, seconds=0.1)
    for number in range(2):
        write_raw(tmp_path / "images" / f"{number:02d}.tif", number)
    return made


@pytest.mark.parametrize("change", [write_over, write_anew])
@pytest.mark.parametrize("compute", [{"runner": "serial"}, pytest.param(RAY, marks=pytest.mark.slow)])
def test_an_image_that_changes_is_told_and_done_anew(scene, change, compute):
    """Blocks read after the change are quarantined with the cause, exit 3; the next run segments the image anew, exit 0."""
    folder = scene.root / "changed"
    with started("run", scene.yaml("changed", compute=compute, truth=None)) as command:
        wait_for(has_rows(command, folder, 6), "blocks")
        change(scene.root / "images" / "00.tif", seed=77)
        ended = command.wait()
    assert ended.code == 3, ended.told
    failures = report_in(folder)["failures"]
    assert {failure["image"] for failure in failures} == {"00"}
    assert all("changed while it was read" in failure["cause"] for failure in failures)
    ended = run(scene.yaml("changed", truth=None))
    assert ended.code == 0, ended.told
    reference = run(scene.yaml("undisturbed", model={"name": "tests.faults.faulty"}, truth=None))
    assert reference.code == 0, reference.told
    assert_same(folder, left_in(scene.root / "undisturbed"))
