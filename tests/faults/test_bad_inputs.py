"""One of every kind of bad file among good images: each is named with its cause, the others are done, in bounded memory."""

from __future__ import annotations

import csv
import time

import numpy as np
import psutil
import pytest
import yaml
from PIL import Image

from pipeline.cli import main
from tests.faults.bad_files import FAILING, UNOPENABLE, write_all
from tests.faults.scene import is_alive, masks_in, report_in, run, started
from tests.readers.sample_files import scene

SHAPE = (300, 420)
GOOD = ("a", "m", "z")  # the first, the last and one between, as names are sorted
MEMORY_BYTES = 1_200_000_000  # of the process: Python and its libraries take a quarter of it, `compute.memory` half
LIMIT_S = 240
MODEL = {"name": "histogram", "classes": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three good PNGs between every kind of bad file."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "images").mkdir()
    write_all(folder / "images", UNOPENABLE | FAILING)
    for number, name in enumerate(GOOD):
        Image.fromarray(np.roll(scene(*SHAPE), number * 7, axis=0)).save(folder / "images" / f"{name}.png")
    return folder


def config(folder, runner, output):
    """Write the YAML of a run over all of them."""
    compute = {"runner": runner, "memory": "512MiB", "actors": 1}
    content = {"images": ["images"], "model": MODEL, "compute": compute, "output": output}
    (folder / f"{output}.yaml").write_text(yaml.safe_dump(content))
    return folder / f"{output}.yaml"


def peak_of(command):
    """The largest resident memory of a process while it runs."""
    peak = 0
    while is_alive(command.process):
        try:
            peak = max(peak, command.process.memory_info().rss)
        except psutil.NoSuchProcess:
            break
        time.sleep(0.02)
    return peak


def assert_told(output):
    """Good images are done and right; every bad one has a row with its cause, and no other has."""
    masks = masks_in(output)
    for number, name in enumerate(GOOD):
        np.testing.assert_array_equal(masks[f"{name}.ome.zarr/0"], np.roll(scene(*SHAPE), number * 7, axis=0) > 125)
    with (output / "report" / "failures.csv").open(newline="") as file:
        causes = {}
        for row in csv.DictReader(file):
            causes.setdefault(row["image"], []).append(row["cause"])
    images = {one["image"] for one in report_in(output)["failures"]}
    assert images == causes.keys()
    assert len(causes) == len(UNOPENABLE | FAILING)
    assert all(all(cause.strip() and "Traceback" not in cause for cause in listed) for listed in causes.values())
    return causes


def test_a_folder_with_every_kind_of_bad_file(folder):
    """The serial runner ends with 3, in bounded memory; files that cannot be opened, or blocks that cannot be decoded, have their cause."""
    with started("run", config(folder, "serial", "serial")) as command:
        peak = peak_of(command)
        ended = command.wait(LIMIT_S)
    assert ended.code == 3, ended.told
    assert "Traceback" not in ended.told
    assert peak < MEMORY_BYTES
    causes = assert_told(folder / "serial")
    said = " ".join(cause for listed in causes.values() for cause in listed)
    for words in ("document type", "encrypted zip", "returns to its start", "no picture", "not a TIFF file", "compute.memory", "at most"):
        assert words in said


def test_the_same_with_ray(folder):
    """Ray's actors live through the same folder: the same images fail, and none for a dead process."""
    ended = run(config(folder, "ray", "ray"), limit_s=LIMIT_S)
    assert ended.code == 3, ended.told
    assert "Traceback" not in ended.told
    assert not [cause for listed in assert_told(folder / "ray").values() for cause in listed if "died" in cause]


@pytest.mark.parametrize("name", UNOPENABLE)
def test_a_bad_file_that_is_named_directly(name, folder, capsys):
    """It is refused with exit 2 and one message that names it; nothing is written."""
    path, output = folder / "images" / name, folder / f"direct-{name}"
    code = main(["segment", str(path), "--model", "histogram", "-o", str(output), "--set", "compute.memory=512MiB"])
    told = capsys.readouterr()
    assert code == 2
    assert str(path) in told.err
    assert "Traceback" not in told.err + told.out
    assert len(told.err.strip().splitlines()) == 1
    assert not output.exists()
