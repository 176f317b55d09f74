"""The place of the output runs full, or goes away."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress

import pytest

from pipeline.engine.block_pixels import pixel_digest
from pipeline.geometry import Box
from pipeline.records import latest, read_rows
from pipeline.storage.block_store import BlockStore
from tests.faults.scene import CORE, Scene, assert_same, has_rows, run, run_json, started, wait_for


@pytest.fixture
def small_disk(tmp_path):
    """A disk of its own, too small for a run."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", folder], check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def assert_whole(folder):
    """Every block that the ledger calls done is there, with the pixels that were written; gives their number."""
    done = [row for (phase, _), row in latest(read_rows(folder / "ledger")).items() if phase == "predict" and row.ok]
    for row in done:
        y, x = (CORE * int(part) for part in row.block.split(".")[-2:])
        pixels_CYX = BlockStore.open(folder / "masks" / f"{row.image}.ome.zarr" / "0").read(Box(y, x, y + CORE, x + CORE))
        assert pixel_digest(pixels_CYX[0]) == row.digest
    return len(done)


@pytest.mark.root
@pytest.mark.parametrize("runner", ["serial", pytest.param("ray", marks=pytest.mark.slow)])
def test_a_full_disk_ends_the_run_and_spoils_nothing(tmp_path, small_disk, runner):
    """On a full disk the run ends with exit 1 and says why; what is committed is whole, and with space the same command goes on."""
    scene = Scene(tmp_path, compute={"runner": runner})
    config, folder = scene.yaml("disk/out"), small_disk / "out"
    ended = run(config)
    assert ended.code == 1, ended.told
    assert "No space left on device" in ended.told
    assert "Traceback" not in ended.told
    assert 0 < assert_whole(folder) < 48
    again = run(config)
    assert again.code == 1, again.told
    assert "No space left on device" in again.told
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    ended = run(config)
    assert ended.code == 0, ended.told
    assert assert_whole(folder) == 48
    assert_same(folder, scene.reference())
    assert run_json(folder)["state"] == "done"
    assert not list(folder.rglob("*.partial"))


def test_a_folder_that_goes_away_ends_the_run(tmp_path):
    """When somebody removes the output folder the run ends with exit 1, says so, and does not bring a part of it back to life."""
    scene = Scene(tmp_path, seconds=0.05)
    config, folder = scene.yaml("gone"), tmp_path / "gone"
    with started("run", config) as command:
        wait_for(has_rows(command, folder, 3), "blocks")
        folder.rename(tmp_path / "moved")
        ended = command.wait(20)
    assert ended.code == 1, ended.told
    assert "gone" in ended.told
    assert "Traceback" not in ended.told
    assert not (folder / "run.json").exists()
    assert not (folder / "ledger").exists()
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)
    (tmp_path / "moved").rename(folder)
    assert run(config).code == 0
    assert_same(folder, scene.reference())
