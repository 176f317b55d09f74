"""Damages files and looks what readers make of them, in a process of its own with bounds on memory and time; checks of late reads."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import BlockError
from pipeline.geometry import Box

LOOK = """
import resource
import sys
import warnings
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
warnings.simplefilter("ignore")
from pipeline.errors import BlockError, InputError
from pipeline.geometry import Box
from pipeline.plugins import build
name, *paths = sys.argv[1:]
for path in paths:
    for options in ({}, {"level": 1}, {"series": 1}):
        try:
            with build("readers", {"name": name, **options}).open(path) as raster:
                box = Box(0, 0, *raster.header.shape).clip((500, 500))
                for plane in range(min(raster.header.num_planes, 2)):
                    pixels, valid = raster.read_valid(box, plane)
                    assert pixels.shape == (raster.header.channels, *box.shape)
                    assert valid is None or valid.shape == box.shape
            print("read")
        except (InputError, BlockError) as error:
            assert path in str(error)
            print(type(error).__name__)
"""


def damaged_copies(files, number, folder, seed=1, head=4000):
    """Paths of copies of files, each with bytes flipped, half of them in the first ``head`` bytes; every fourth copy is cut as well."""
    rng, damaged = random.Random(seed), []
    for index in range(number):
        file = rng.choice(files)
        content = bytearray(file.read_bytes())
        if index % 4 == 0:
            del content[rng.randrange(len(content)) :]
        for _ in range(rng.choice([1, 2, 8, 40])):
            if content:
                content[rng.randrange(len(content)) if rng.random() < 0.5 else rng.randrange(min(len(content), head))] = rng.randrange(256)
        damaged.append(folder / f"{index}{file.suffix}")
        damaged[-1].write_bytes(content)
    return damaged


def flipped_copies(path, number, seed):
    """Overwrite a file with itself, of which 20 bytes anywhere are changed, as often as asked; yield each time."""
    content, rng = path.read_bytes(), np.random.default_rng(seed)
    for _ in range(number):
        flipped = bytearray(content)
        for at in rng.integers(0, len(content), 20):
            flipped[at] ^= int(rng.integers(1, 256))
        path.write_bytes(flipped)
        yield


def endings(files, number, folder):
    """How often each ending came, over as many damaged copies of files, each opened in three ways."""
    folder.mkdir()
    command = [sys.executable, "-c", LOOK, files[0].suffix[1:], *map(str, damaged_copies(files, number, folder))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return Counter(done.stdout.split())


def assert_handle_is_freed(open_raster):
    """No handle stays open after closing, and a late read fails as reading is over."""
    before = len([*Path("/proc/self/fd").iterdir()])
    with open_raster as raster:
        pass
    assert len([*Path("/proc/self/fd").iterdir()]) == before
    with pytest.raises(BlockError, match="reading is over"):
        raster.read(Box(0, 0, 2, 2))
