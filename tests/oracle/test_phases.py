"""A phase is one file: put beside the others, it runs, resumes and is reported, and no other file knows of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
import zarr

from pipeline.config import Recipe
from pipeline.engine import Job
from pipeline.engine.phases import all_phases, phase, rests_on
from pipeline.inputs import Image
from pipeline.plugins import build
from pipeline.raster import Header

ROOT = Path(__file__).parents[2]
SHAPE = (4500, 6200)
NUM_BLOCKS = 3 * 4  # of 2048 pixels a side

BRIGHT = '''
"""Writes a second array: where the mask is class 1. Counts these pixels, and what share of the image they are."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import numpy as np

from pipeline.engine.block_pixels import pixel_digest
from pipeline.engine.exports import mask_of, write_block
from pipeline.engine.phases import Phase
from pipeline.statistics import encode_summary

__all__ = ["Bright"]


class Share:
    """Adds the pixels of an image, and concludes their share."""

    def merge(self, one, other):
        return {"pixels": one["pixels"] + other["pixels"]}

    def conclude(self, total):
        return {"share": int(total["pixels"][0]) / int(total["pixels"][1])}


class Bright(Phase):
    """Takes the mask of each block, and writes one byte a pixel: 1 where its class is 1."""

    after = ("predict",)
    before = ("finish",)

    def applies(self, job, image):
        return job.goal == "segment" and not job.is_single(image)

    def reduction(self, job):
        return Share()

    def arrays(self, job, image):
        return [job.key(image, ".ome.zarr", "bright")]

    def load(self, resources, block, watch):
        mask = mask_of(resources.job, block.image)
        return resources.image(mask).read(block.box, block.plane)[0]

    def work(self, resources, block, loaded, watch):
        time.sleep(float(os.environ.get("BRIGHT_SECONDS", "0")))
        return (loaded == 1).astype("uint8")

    def save(self, resources, block, worked, watch):
        image = block.image
        key = resources.job.key(image, ".ome.zarr", "bright")
        files = write_block(resources, block, worked, key, replace(image.header, dtype="uint8", channels=1))
        pixels = [int(worked.sum()), worked.size]
        return {
            "digest": pixel_digest(worked),
            "files": files,
            "payload": encode_summary({"pixels": np.array(pixels)}),
            "numbers": {"bright_pixels": pixels[0]},
        }
'''


@pytest.fixture(scope="module")
def code(tmp_path_factory):
    """A copy of the code with one file more."""
    folder = tmp_path_factory.mktemp("code")
    for package in ("pipeline", "workflows"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "pipeline" / "engine" / "phases" / "bright.py").write_text(BRIGHT)
    return folder


class Scene:
    """A picture of two grey values, cut into many blocks, and the command line of the copied code."""

    def __init__(self, code, folder):
        import tifffile

        self.code, self.folder = code, folder
        rng = np.random.default_rng(5)
        coarse = rng.integers(0, 2, (SHAPE[0] // 100, SHAPE[1] // 100))
        self.pixels_YX = (np.kron(coarse, np.ones((100, 100), np.uint8)) * 150 + 50).astype(np.uint8)
        tifffile.imwrite(folder / "a.tif", self.pixels_YX, tile=(512, 512))

    def config(self, output, runner="serial"):
        path = self.folder / f"{output}.yaml"
        compute = {"runner": runner, "actors": 2, "device": "cpu", "threads": 1}
        run = {"images": ["a.tif"], "model": {"name": "histogram", "classes": 2}, "output": output, "compute": compute}
        path.write_text(yaml.safe_dump({**run, "tiling": {"core": 1024, "halo": 0}}))
        return path

    def start(self, *arguments, seconds=0.0):
        env = {**os.environ, "PYTHONPATH": str(self.code), "BRIGHT_SECONDS": str(seconds), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "pipeline", *map(str, arguments)]
        return subprocess.Popen(command, cwd=self.folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def call(self, *arguments):
        process = self.start(*arguments)
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        return out

    def bright(self, output):
        return np.asarray(zarr.open_array(self.folder / output / "bright" / "a.ome.zarr" / "0", mode="r"))

    def rows(self, output):
        found = {}
        for segment in sorted((self.folder / output / "ledger").glob("*.jsonl")):
            for line in segment.read_text().splitlines():
                if (row := json.loads(line).get("receipt")) is not None:
                    found.setdefault((row["phase"], row["block"]), []).append(row)
        return found


@pytest.fixture
def scene(code, tmp_path):
    return Scene(code, tmp_path)


def wait_for_blocks(process, scene, output, name, count):
    patience = time.monotonic() + 120
    while sum(key[0] == name for key in scene.rows(output)) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < patience, "the phase did not begin"
        time.sleep(0.05)


def test_a_phase_is_one_file(scene):
    """It runs between predict and finish, writes its array, and its numbers, blocks and seconds are in report and status."""
    scene.call("run", scene.config("out"))
    assert np.array_equal(scene.bright("out"), scene.pixels_YX > 100)
    report = json.loads((scene.folder / "out" / "report" / "report.json").read_text())
    assert report["per_image"][0]["numbers"] == {"bright": {"bright_pixels": int((scene.pixels_YX > 100).sum())}}
    assert report["timing"]["phases"]["bright"]["blocks"] == NUM_BLOCKS
    assert list(report["timing"]["phases"]) == ["fit", "predict", "bright", "finish"]
    assert f"bright {NUM_BLOCKS}" in scene.call("status", "out")
    assert json.loads(scene.call("status", "out", "--json"))["phases"]["bright"]["blocks"] == NUM_BLOCKS


def test_a_phase_resumes_after_kill_9(scene):
    """What it had committed is not done again, and the end is that of an undisturbed run."""
    config = scene.config("out")
    process = scene.start("run", config, seconds=0.6)
    wait_for_blocks(process, scene, "out", "bright", 4)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = scene.rows("out")
    scene.call("run", config)
    assert np.array_equal(scene.bright("out"), scene.pixels_YX > 100)
    rows = scene.rows("out")
    assert {key: rows[key] for key in before} == before, "a committed block was done again"
    assert {len(found) for found in rows.values()} == {1}
    scene.call("run", scene.config("undisturbed"))
    reports = [json.loads((scene.folder / name / "report" / "report.json").read_text()) for name in ("out", "undisturbed")]
    assert [one | {"timing": None} for one in reports[:1]] == [one | {"timing": None} for one in reports[1:]]


def test_a_lost_array_of_a_phase_is_made_again(scene):
    """Blocks whose files are gone are done again, with the phase of the image that rests on them, and nothing else."""
    config = scene.config("out")
    scene.call("run", config)
    (scene.folder / "out" / "bright" / "a.ome.zarr" / "0" / "c" / "1" / "2").unlink()
    scene.call("run", config)
    assert np.array_equal(scene.bright("out"), scene.pixels_YX > 100)
    again = [key for key, found in scene.rows("out").items() if len(found) > 1]
    assert again == [("bright", "a:0.1.2"), ("finish", "a:0.0.0")]


@pytest.mark.xdist_group("ray")
def test_actors_know_a_new_phase(scene):
    """Ray's actors find it as the driver does, and agree with the serial runner."""
    scene.call("run", scene.config("out", runner="ray"))
    assert np.array_equal(scene.bright("out"), scene.pixels_YX > 100)


def test_every_phase_has_a_place():
    """Each phase comes behind those that it rests on, and names only phases that exist."""
    names = [one.name for one in all_phases()]
    assert len(set(names)) == len(names)
    for one in all_phases():
        known = {*one.after, *one.before, *one.reads, *one.follows, *filter(None, (one.prepares,))}
        assert known <= set(names)
        assert all(names.index(other) < names.index(one.name) for other in one.after)


@pytest.mark.parametrize(
    ("name", "present", "expected"),
    [
        ("predict", ["fit", "score", "predict"], ("score",)),
        ("predict", ["fit", "predict"], ("fit",)),
        ("predict", ["predict"], ()),
        ("finish", ["copy", "finish"], ("copy",)),
        ("count", ["fit", "predict", "finish", "count"], ("finish",)),
        ("count", ["predict", "count"], ("predict",)),
        ("fit", ["fit", "predict"], ()),
        ("fit", ["tissue", "fit", "predict"], ("tissue",)),
    ],
)
def test_a_block_rests_on_the_nearest_phases(name, present, expected):
    """A phase that another one already rests on is left out: the later digest covers it."""
    assert rests_on(name, present) == expected


def test_progress_follows_the_phases_that_look_at_every_pixel():
    """What works on strips or on tables of objects is no progress: the time left would be that of many more pixels."""
    image = Image(0, "a", "/a.tif", Header((100, 100), 1, "uint8"), {"name": "auto"})
    job = Job("/out", Recipe(core=32, block=32), instances=build("instances", {"name": "components"}), object_classes=[1])
    counted = [one.name for one in all_phases() if one.applies(job, image) and one.takes_time(job, image)]
    assert counted == ["predict", "label", "measure", "finish"]


def test_an_unknown_phase_is_no_phase():
    """A name without a file raises, so that a block that names it fails by itself."""
    with pytest.raises(ModuleNotFoundError):
        phase("unknown")
