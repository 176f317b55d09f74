"""What the tests of the viewer share: small runs, and a client that knows the token."""

from __future__ import annotations

import io
import shutil
from dataclasses import dataclass

import numpy as np
import pytest

from tests.conftest import blobs, engine_yaml, save_tiff

CLASSES = [
    {"name": "glass", "color": "#000000"},
    {"name": "tissue", "color": "#00a0c0"},
    {"name": "<b>nucleus</b>", "color": "#e6194b"},
]
SHAPE = (700, 1300)


def write_scene(folder):
    """A colour image of 700 x 1300 pixels and its truth, of three classes and an ignored corner."""
    pixels_CYX = blobs(SHAPE, seed=3, channels=3)
    save_tiff(folder / "scan.tif", np.moveaxis(pixels_CYX, 0, -1), photometric="rgb")
    truth_YX = np.digitize(pixels_CYX.mean(axis=0), [100, 150]).astype(np.uint8)
    truth_YX[:40, :90] = 9
    save_tiff(folder / "truth" / "scan.tif", truth_YX)


def run_scene(folder, output, **keys):
    """Segment the scene by grey values; returns the folder of the run."""
    from workflows.run import run

    keys = {"model": {"name": "histogram", "classes": 3}, "truth": "truth/{stem}.tif", "ignore": 9, "classes": CLASSES, **keys}
    tiling = {"core": 128, "halo": 0, "block": 256}
    path = engine_yaml(folder, images=["scan.tif"], normalize=None, tiling=tiling, output=output, **keys)
    assert run(path) == 0
    return folder / output


@pytest.fixture(scope="session")
def scene(tmp_path_factory):
    """A folder with a finished run, ``out``, that tells objects apart, and one of another channel, ``other``."""
    folder = tmp_path_factory.mktemp("viewed")
    write_scene(folder)
    run_scene(folder, "out", instances={"name": "components", "of": ["<b>nucleus</b>"]})
    run_scene(folder, "other", model={"name": "histogram", "classes": 3, "channel": 1})
    return folder


@pytest.fixture
def moved(scene, tmp_path):
    """A copy of the finished run that a test may change."""
    shutil.copytree(scene, tmp_path / "scene")
    return tmp_path / "scene" / "out"


@dataclass
class Page:
    """A client that has opened the printed URL."""

    client: object
    run: object

    def get(self, path, **query):
        return self.client.get(path, params=query)

    def json(self, path, **query):
        answer = self.get(path, **query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def tile(self, layer, level, x, y, **query):
        """A tile as red, green, blue and opacity (Y, X, 4)."""
        from PIL import Image

        answer = self.get(f"/tile/a/{layer}/{level}/{x}_{y}.png", **{"name": "scan", **query})
        assert answer.status_code == 200, answer.text
        return np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGBA"))

    def picture(self, layer, step, shape=SHAPE, **query):
        """All tiles of a level side by side."""
        height, width = (-(-side // step) for side in shape)
        level = (max(shape) - 1).bit_length() - (step.bit_length() - 1)
        columns, rows = range(-(-width // 256)), range(-(-height // 256))
        return np.concatenate([np.concatenate([self.tile(layer, level, x, y, **query) for x in columns], axis=1) for y in rows])


@pytest.fixture
def opened():
    """Open runs: ``opened(folder, other)`` gives a :class:`Page`."""
    from starlette.testclient import TestClient

    from pipeline.viewer import ViewedRun, make_app

    runs = []

    def go(folder, other=None, scored=None):
        runs[:0] = [ViewedRun(one, scored) for one in (folder, other) if one is not None]
        named = dict(zip("ab", runs, strict=False)) if other else {"a": runs[0]}
        client = TestClient(make_app(named, "secret", 8123), base_url="http://127.0.0.1:8123")
        assert client.get("/?token=secret", follow_redirects=False).status_code == 303
        return Page(client, runs[0])

    yield go
    for run in runs:
        run.close()
