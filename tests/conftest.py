"""What the tests of the engine share: small images, a run of a YAML, its masks and its report."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import tempfile
import types
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import settings

STARTS_RAY = {
    "tests/cluster/test_ray_hosts.py",
    "tests/faults/test_actor_death.py",
    "tests/faults/test_bad_inputs.py",
    "tests/faults/test_cluster.py",
    "tests/faults/test_driver_death.py",
    "tests/faults/test_interrupt.py",
    "tests/faults/test_loopback.py",
    "tests/faults/test_object_kills.py",
    "tests/faults/test_object_store.py",
    "tests/faults/test_poison.py",
    "tests/oracle/test_int8.py",
    "tests/oracle/test_mosaics.py",
    "tests/oracle/test_object_ray.py",
    "tests/oracle/test_phases.py",
    "tests/oracle/test_ray.py",
    "tests/oracle/test_skips.py",
    "tests/spec/test_bench.py",
    "tests/test_submit.py",
    "tests/training/test_training.py",
}  # one at a time: each Ray wants ports, memory and both cores

UNET = {"name": "unet", "channels": 1, "classes": 3, "depth": 2, "base": 4}
NORMALIZE = {"mean": [128.0], "std": [64.0]}

settings.register_profile("untimed", deadline=None)  # how long an example takes says how busy the machine is, and nothing of the code
settings.load_profile("untimed")


def pytest_configure(config):
    """Give Ray a token and a short folder of its own: nothing else on the machine may join or be joined."""
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 starves its workers on a machine that does something else as well
    if "RAY_TMPDIR" not in os.environ:
        os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="gs-", dir="/tmp")  # sockets allow about 100 characters
        config.add_cleanup(lambda: shutil.rmtree(os.environ["RAY_TMPDIR"], ignore_errors=True))
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="gs-", dir="/tmp")  # for what tests share; see own_cache
    config.add_cleanup(lambda folder=os.environ["XDG_CACHE_HOME"]: shutil.rmtree(folder, ignore_errors=True))
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # there is a worker for each core: more threads would wait for each other


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory):
    """Give each test a cache of its own: what runs leave there decides how later ones compute."""
    before = os.environ["XDG_CACHE_HOME"]
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.getbasetemp() / "caches" / secrets.token_hex(8))
    yield
    os.environ["XDG_CACHE_HOME"] = before


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give whole files to the workers of ``pytest -n 2``, so that a module shares its fixtures; files that start a Ray go together."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            path = nodeid.partition("::")[0]
            return "ray" if path in STARTS_RAY else path

    config.option.loadscopereorder = False  # else files of few tests come last, and those are the longest
    return ByFile(config, log)


def blobs(shape, seed=0, dtype=np.uint8, channels=None):
    """Smooth random pixels over the whole range, ([C,] Y, X): neighbours resemble each other, as in an image."""
    rng = np.random.default_rng(seed)
    height, width = shape
    coarse = rng.random((channels or 1, -(-height // 5) + 1, -(-width // 5) + 1))
    pixels_CYX = np.kron(coarse, np.ones((5, 5)))[:, :height, :width] * 0.7 + rng.random((channels or 1, height, width)) * 0.3
    top = np.iinfo(dtype).max if np.dtype(dtype).kind in "ui" else 255.0
    pixels_CYX = (pixels_CYX * top).astype(dtype)
    return pixels_CYX if channels else pixels_CYX[0]


def decided(folder, **options):
    """A small U-Net that is random and yet decided: each class wins somewhere, mostly by far.

    Fresh networks are all but constant; here each layer is scaled to keep the spread of what it is given, and the
    head is centred, so that a change of one input pixel shows in the classes.
    """
    import torch
    from safetensors.torch import save_file

    from pipeline.plugins import build

    spec = {**UNET, **options}
    network = build("models", spec).load().eval()
    pixels = blobs((124, 124), channels=spec["channels"])
    x = (torch.from_numpy(pixels.astype(np.float32))[None] - NORMALIZE["mean"][0]) / NORMALIZE["std"][0]
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.ndim == 4 and not name.startswith("head"):
                weight *= 2.5
        logits = network(x)
        network.head.weight /= logits.std(dim=(0, 2, 3))[:, None, None, None]
        network.head.bias -= network.head.bias
        network.head.bias -= network(x).mean(dim=(0, 2, 3))
    path = folder / f"{'-'.join(map(str, spec.values()))}.safetensors"
    save_file(network.state_dict(), path)
    return {**spec, "weights": str(path)}


@pytest.fixture(scope="session")
def networks(tmp_path_factory):
    """Specs of decided networks: zero-padded, unpadded, and padded ones of three channels and two classes."""
    folder = tmp_path_factory.mktemp("networks")
    valid = {"padding": "valid", "norm": "none"}
    return {
        "same": decided(folder),
        "valid": decided(folder, **valid),
        "same3": decided(folder, channels=3),
        "valid3": decided(folder, channels=3, **valid),
    }


def save_tiff(path, pixels, **options):
    """Write a tiled TIFF, which decodes by region."""
    import tifffile

    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, pixels, tile=(64, 64), **options)
    return path


def mask_at(folder, name="a"):
    """The decoded level 0 of a mask, ([planes...,] Y, X), or its TIFF."""
    import tifffile
    import zarr

    store = folder / "masks" / f"{name}.ome.zarr"
    if store.exists():
        return zarr.open_array(store / "0", mode="r")[...]
    return tifffile.imread(folder / "masks" / f"{name}.tif")


def report_at(folder):
    """report.json without what differs from run to run."""
    content = json.loads((folder / "report" / "report.json").read_text())
    del content["timing"]
    return content


def engine_yaml(folder, **keys):
    """Write a YAML with small tiles for the serial runner; ``keys`` are added, mappings joined."""
    content = {
        "images": ["a.tif"],
        "model": UNET,
        "normalize": NORMALIZE,
        "tiling": {"core": 64, "halo": 24, "block": 64},
        "compute": {"runner": "serial", "precision": "fp32"},
        "output": "out",
    }
    for key, value in keys.items():
        joined = isinstance(value, dict) and key in ("tiling", "compute")
        content[key] = {**content[key], **value} if joined else value
    content = {key: value for key, value in content.items() if value is not None}
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@dataclass
class Done:
    """How a run ended."""

    code: int
    folder: Path

    def mask(self, name="a"):
        return mask_at(self.folder, name)

    @property
    def report(self):
        return report_at(self.folder)

    @property
    def run_json(self):
        return json.loads((self.folder / "run.json").read_text())

    @property
    def log(self):
        return (self.folder / "log.txt").read_text()


@pytest.fixture
def engine(tmp_path, capsys):
    """Run a YAML in this process: ``engine(fresh=..., **keys)``."""
    from workflows.run import run

    def go(*, fresh=False, max_failed=None, folder=tmp_path, **keys):
        path = engine_yaml(folder, **keys)
        output = keys.get("output", "out")
        return Done(run(path, fresh=fresh, max_failed=max_failed), folder / output)

    return go


@pytest.fixture(scope="session")
def s3_servers():
    """An S3 server that starts when the first test asks for it."""
    from tests.cluster.s3_server import s3_server

    with s3_server() as server:
        yield server


@pytest.fixture
def s3(s3_servers, monkeypatch):
    """The URL of an empty prefix of a bucket, which this process may use."""
    from tests.cluster.s3_server import BUCKET, environment

    for name, value in environment(s3_servers.endpoint).items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{secrets.token_hex(8)}"


@pytest.fixture
def traced(monkeypatch):
    """A model that counts its calls and can be told to fail, as ``model: {name: traced.model}``.

    Class 1 where a pixel is above the mean of the 3x3 pixels around it, so that a missing halo shows. It gives classes, or
    with ``scores`` by how much.
    """
    from scipy.ndimage import uniform_filter

    from pipeline.models import Model

    class Traced(Model):
        """Says what it was asked."""

        power: int = 1
        classes: int = 2
        scores: bool = False

        @property
        def num_classes(self):
            return self.classes

        @property
        def gives_scores(self):
            return self.scores

        @property
        def field(self):
            return 1

        @contextmanager
        def open(self, recipe, normalize=None):
            trace.opened += 1
            yield self._predict

        def _predict(self, pixels_BCYX, fits):
            trace.calls += len(pixels_BCYX)
            for pixels_CYX in pixels_BCYX:
                trace.on_call(pixels_CYX)
            values = pixels_BCYX[:, 0].astype(np.int64)
            around = uniform_filter(values, (0, 3, 3), mode="nearest") * self.power
            above = (values - around).astype(np.float32)
            return np.stack([-above, above], axis=1) if self.scores else (above > 0).astype(np.uint8)

    trace = types.SimpleNamespace(calls=0, opened=0, on_call=lambda pixels_CYX: None)
    module = types.ModuleType("traced.model")
    module.__all__, module.Traced = ["Traced"], Traced
    Traced.__module__ = "traced.model"
    monkeypatch.setitem(sys.modules, "traced.model", module)
    return trace
