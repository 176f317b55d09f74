"""Files that a process needs on a disk are fetched once, by URL and version, and models at URLs are those of a disk."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile

from pipeline.cli import main
from pipeline.errors import InputError
from pipeline.models.bundle_files import find_bundle, list_bundles
from pipeline.plugins import build
from pipeline.storage import fetch, fetch_files, is_fetched, open_storage
from pipeline.storage._object_store import ObjectStorage


@pytest.fixture(autouse=True)
def _fresh(tmp_path, monkeypatch):
    """A cache folder of the test's own, and a process that has fetched nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fetch_files.cache_clear()
    yield
    fetch_files.cache_clear()


def test_a_local_path_stays():
    """Nothing is copied from a disk."""
    assert fetch("/data/a.onnx") == fetch("file:///data/a.onnx") == fetch(Path("/data/a.onnx")) == Path("/data/a.onnx")


def test_a_file_is_fetched_once(s3, monkeypatch):
    """A second process finds the copy of the first one; a file that was replaced is another copy."""
    url = f"{s3}/model.onnx"
    open_storage(s3).put("model.onnx", b"1" * 1000)
    first = fetch(url)
    assert (first.read_bytes(), first.name, is_fetched(first)) == (b"1" * 1000, "model.onnx", True)
    asked = []
    real = ObjectStorage._request
    monkeypatch.setattr(ObjectStorage, "_request", lambda *args, **options: asked.append(args[1]) or real(*args, **options))
    assert fetch(url) == first
    assert asked == []
    fetch_files.cache_clear()  # as another process
    assert fetch(url) == first
    assert len(asked) == 1  # its version, not its bytes
    open_storage(s3).put("model.onnx", b"2" * 1000)
    fetch_files.cache_clear()
    assert fetch(url).read_bytes() == b"2" * 1000
    assert first.read_bytes() == b"1" * 1000


def test_a_cache_that_cannot_be_written_is_replaced_by_a_temporary_folder(s3, monkeypatch):
    """A home that is read-only does not end a run."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/no-such-folder")
    open_storage(s3).put("a.bin", b"1")
    found = fetch(f"{s3}/a.bin")
    assert found.read_bytes() == b"1"
    assert is_fetched(found)
    shutil.rmtree(found.parent)


def test_a_file_that_is_not_there_is_named(s3):
    """The message holds the URL."""
    with pytest.raises(InputError, match=f"{s3}/gone.onnx: found no file at this URL"):
        fetch(f"{s3}/gone.onnx")
    with pytest.raises(InputError, match=f"{s3}/gone: found no model.yaml at this URL"):
        find_bundle(f"{s3}/gone/")


def test_weights_at_a_url_are_those_of_a_disk(s3, tmp_path):
    """A network whose weights are at a URL has the same identity and the same weights."""
    import torch
    from safetensors.torch import save_file

    unet = {"name": "unet", "depth": 1, "base": 4, "classes": 2, "channels": 1}
    save_file(build("models", {**unet, "seed": 3}).load().state_dict(), tmp_path / "w.safetensors")
    open_storage(s3).put("w.safetensors", (tmp_path / "w.safetensors").read_bytes())
    networks = [build("models", {**unet, "weights": place}) for place in (str(tmp_path / "w.safetensors"), f"{s3}/w.safetensors")]
    one, other = (network.load().state_dict() for network in networks)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert networks[1].weights == f"{s3}/w.safetensors"  # the copy is this machine's alone


def test_examples_of_a_bundle_at_a_url_come_along(s3):
    """Small pictures that model.yaml lists are fetched; one that is missing, too large or lies elsewhere is no error."""
    listed = ["there.png", "gone.png", "large.jpg", "../up.png", "page.html", {"file": 3}, None]
    listed = [{"file": one} if isinstance(one, str) else one for one in listed]
    storage = open_storage(f"{s3}/shown")
    storage.put("model.yaml", json.dumps({"examples": listed}).encode())
    storage.put("weights.safetensors", b"1")
    storage.put("there.png", b"22")
    storage.put("page.html", b"333")
    storage.put("large.jpg", bytes((1 << 20) + 1))
    folder = find_bundle(f"{s3}/shown")
    assert sorted(path.name for path in folder.iterdir()) == ["model.yaml", "there.png", "weights.safetensors"]
    assert (folder / "there.png").read_bytes() == b"22"
    shutil.rmtree(folder)


def test_a_run_with_a_bundle_at_a_url(s3, tmp_path):
    """Masks and the recorded hash are those of the bundle on a disk; the written config holds the URL."""
    folder = list_bundles()["nuclei"]
    for file in folder.iterdir():
        open_storage(s3).put(f"nuclei/{file.name}", file.read_bytes())
    tifffile.imwrite(tmp_path / "a.tif", np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8))
    reports = []
    for number, path in enumerate((str(folder), f"{s3}/nuclei/")):
        yaml = tmp_path / f"{number}.yaml"
        compute = {"runner": "serial", "device": "cpu", "backend": "torch"}
        keys = {"images": ["a.tif"], "model": {"name": "bundle", "path": path}, "output": f"out{number}", "compute": compute}
        yaml.write_text(json.dumps({**keys, "resolution": {"scale": 1}, "normalize": "percentile"}))
        assert main(["run", str(yaml)]) == 0
        reports.append(json.loads((tmp_path / f"out{number}/report/report.json").read_text()))
    assert reports[0]["model"]["sha256"] == reports[1]["model"]["sha256"]
    assert reports[0]["classes"] == reports[1]["classes"]
    assert f"{s3}/nuclei" in (tmp_path / "out1/config.yaml").read_text()
