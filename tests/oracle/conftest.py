"""Fixtures that several of these tests use: files of networks, and a Ray."""

from __future__ import annotations

import warnings

import pytest

from pipeline.plugins import build
from tests.oracle.network_files import SIZE, TINY

torch = pytest.importorskip("torch")


@pytest.fixture
def quiet(tmp_path, monkeypatch):
    """One thread, and a cache of its own: what other runs have measured must not help."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """The tiny network, and files of it: any size and one size, by name."""
    folder = tmp_path_factory.mktemp("files")
    network = build("models", TINY).load()
    dynamic = torch.export.Dim.DYNAMIC
    any_size, one_size = torch.randn(2, 2, SIZE, SIZE + 16), torch.randn(1, 2, SIZE, SIZE)
    found = {name: folder / name for name in ("any.pt2", "one.pt2", "any.onnx", "one.onnx", "any.pt")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(network, (any_size,), dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},))
        torch.export.save(program, found["any.pt2"])
        torch.export.save(torch.export.export(network, (one_size,)), found["one.pt2"])
        axes = {"x": {0: "n", 2: "h", 3: "w"}, "y": {0: "n", 2: "h", 3: "w"}}
        names = {"input_names": ["x"], "output_names": ["y"], "dynamo": False}
        torch.onnx.export(network, (any_size,), str(found["any.onnx"]), dynamic_axes=axes, **names)
        torch.onnx.export(network, (one_size,), str(found["one.onnx"]), **names)
        torch.jit.script(network).save(str(found["any.pt"]))
    return network, found


@pytest.fixture(scope="module")
def ray():
    """A Ray of three processors that every run joins."""
    from pipeline.scheduling.runners._cluster import STORE_BYTES

    ray = pytest.importorskip("ray")
    ray.init(
        address="local",
        num_cpus=3,
        include_dashboard=False,
        object_store_memory=STORE_BYTES,
        log_to_driver=False,
        logging_level="ERROR",
        _node_ip_address="127.0.0.1",
    )
    yield ray
    ray.shutdown()
