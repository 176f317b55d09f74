"""What is found out by trial is what the networks are known to have."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from pipeline.geometry import ceil_to
from pipeline.models.networks import canvases
from pipeline.models.networks.stride_and_field import (
    Probe,
    probe,
    probe_field,
    probe_key,
    probe_stride,
    recall_probe,
    remember_probe,
)
from pipeline.plugins import build
from pipeline.storage import file_sha256


@pytest.fixture(autouse=True)
def _one_thread():
    """Tests share their machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


DILATED = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 3, padding=4, dilation=4))


class Strided(nn.Module):
    """Halves and doubles again, so that single pixels do not shift; takes even sizes only."""

    def __init__(self, kernel):
        super().__init__()
        self.down, self.up = nn.Conv2d(1, 4, kernel, stride=2, padding=kernel // 2), nn.ConvTranspose2d(4, 2, 2, stride=2)

    def forward(self, x):
        return self.up(self.down(x)) + x


class Oblong(nn.Module):
    """Sees further along rows than along columns; a field is the wider of the two."""

    def __init__(self, kernel):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, kernel, padding=tuple(side // 2 for side in kernel))

    def forward(self, x):
        return self.conv(x)


class SquareOnly(nn.Conv2d):
    """Takes squares only."""

    def forward(self, x):
        if x.shape[-1] != x.shape[-2]:
            raise ValueError("squares only")
        return super().forward(x)


class Comparing(nn.Module):
    """Sees its neighbours by a comparison alone, which hides NaN, and which no random pixel meets."""

    def forward(self, x):
        bright = functional.max_pool2d((x > 100).float(), 5, stride=1, padding=2)
        return torch.cat([x, bright], 1)


class WholeTile(nn.Module):
    """Sees its whole input by its mean."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, x):
        y = self.conv(x)
        return y * y.mean((2, 3), keepdim=True).sigmoid()


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (nn.Conv2d(1, 2, 1), Probe(1, 0)),
        (nn.Conv2d(1, 2, 5, padding=2), Probe(1, 2)),
        (nn.Conv2d(1, 2, 5), Probe(1, 2)),
        (DILATED, Probe(1, 5)),
        (Strided(3), Probe(2, 1)),
        (Strided(5), Probe(2, 2)),
        (Oblong((3, 9)), Probe(1, 4)),
        (Oblong((9, 3)), Probe(1, 4)),
        (SquareOnly(1, 2, 7, padding=3), Probe(1, 3)),
        (nn.Conv2d(1, 2, 3, padding=70, dilation=70), Probe(1, 70)),
        (Comparing(), Probe(1, 2)),
        (WholeTile(), Probe(1, None)),
    ],
    ids=[
        "pixel",
        "padded",
        "valid",
        "dilated",
        "strided 3",
        "strided 5",
        "wide",
        "high",
        "squares only",
        "wider than a strip",
        "comparing",
        "whole tile",
    ],
)
def test_small_networks(network, expected):
    """Stride and field of networks whose arithmetic can be done by hand."""
    torch.manual_seed(0)
    assert probe(network, channels=1) == expected


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(("depth", "norm"), [(1, "batch"), (2, "none"), (3, "batch")])
def test_unet_has_the_field_it_declares(padding, depth, norm):
    """The stride and the field that U-Net computes are those that a trial finds."""
    model = build("models", {"name": "unet", "depth": depth, "base": 2, "padding": padding, "norm": norm})
    assert probe(model.load(), channels=1) == Probe(model.stride, model.field)


def test_field_sees_dead_units():
    """A path that these inputs do not excite still counts: another image may."""
    network = nn.Sequential(nn.Conv2d(1, 1, 7, padding=3), nn.ReLU())
    nn.init.constant_(network[0].bias, -1e6)
    assert probe_field(network, 1, 1) == 3


def test_no_stride_is_an_error():
    """A network of one fixed size has no stride."""

    class Fixed(nn.Conv2d):
        def forward(self, x):
            if x.shape[-1] != 100:
                raise ValueError("100 pixels only")
            return super().forward(x)

    with pytest.raises(ValueError, match="accepts none"):
        probe_stride(Fixed(1, 2, 1), channels=1)


def test_probing_leaves_the_network_alone():
    """The network keeps its type and its weights."""
    network = nn.Conv2d(1, 2, 3)
    before = network.weight.detach().clone()
    probe(network, channels=1)
    assert network.weight.dtype == torch.float32
    assert torch.equal(network.weight, before)


class Counted(nn.Module):
    """Counts the passes of a network, also those of its copies."""

    def __init__(self, network):
        super().__init__()
        self.network, self.shapes = network, []

    def __deepcopy__(self, memo):
        return self

    def forward(self, x):
        self.shapes.append(tuple(x.shape[-2:]))
        return self.network(x)


def test_a_stride_alone_takes_few_small_passes():
    """A run that is told its halo does not wait for the field."""
    network = Counted(build("models", {"name": "unet", "depth": 3, "base": 2}).load())
    assert probe(network, channels=1, wants_field=False) == Probe(8, None, has_field=False)
    stride_pixels = sum(height * width for height, width in network.shapes)
    assert [shape for shape in network.shapes if min(shape) > canvases.BREADTHS[0]] == [(128, 128)]
    assert len(network.shapes) <= 25
    probe(network, channels=1)
    assert sum(height * width for height, width in network.shapes) > 3 * stride_pixels


def test_a_field_takes_fewer_passes_than_a_cell_has_lines():
    """The line that reaches farthest is found by halving: one canvas for a stride of 32 takes no 32 passes along each axis."""
    options = {"encoder_depth": 5, "decoder_channels": [4, 4, 4, 4, 4]}
    model = build("models", {"name": "smp", "architecture": "Unet", "encoder": "resnet18", "channels": 1, "options": options})
    network = Counted(model.load())
    assert probe(network, 1, stride=model.stride).field > 256
    at_1024 = [shape for shape in network.shapes if max(shape) == 1024]
    assert {min(shape) for shape in at_1024} == {canvases.BREADTHS[0]}
    assert len(at_1024) <= 30


def test_out_of_time_the_answer_is_safe(monkeypatch):
    """Whenever the time is over, the stride is a multiple of the exact one, and the field is not too small, or said not to be known."""
    model = build("models", {"name": "unet", "depth": 2, "base": 2, "norm": "none"})
    network, outcomes = model.load(), set()
    for num_passes in range(0, 80, 2):
        clock = iter(range(10_000))
        monkeypatch.setattr(canvases.time, "perf_counter", lambda clock=clock: next(clock))
        monkeypatch.setattr(canvases, "LEAST_S", num_passes)
        found = probe(network, 1, run_pixels=0)
        assert found.stride % model.stride == 0
        if found.has_field:
            assert found.field >= model.field
            assert ceil_to(found.field, found.stride) == ceil_to(model.field, found.stride)
        else:
            assert (found.field, found.tried_pixels > 0) == (None, True)
        outcomes.add("exact" if found == Probe(model.stride, model.field) else "rounded up" if found.has_field else "not known")
    assert outcomes == {"not known", "rounded up", "exact"}


def test_a_long_run_has_more_time(monkeypatch):
    """A tenth of the pixels of the run may be computed, however long that takes."""
    monkeypatch.setattr(canvases, "LEAST_S", -1)
    network = build("models", {"name": "unet", "depth": 2, "base": 2}).load()
    short = probe(network, 1, run_pixels=0)
    longer = probe(network, 1, run_pixels=20 * short.tried_pixels)
    long = probe(network, 1, run_pixels=1e9)
    assert not short.has_field
    assert longer.tried_pixels > short.tried_pixels or longer.has_field
    assert long == probe(network, 1)
    assert [short.is_worth_more(pixels) for pixels in (0, 10 * short.tried_pixels, 1e9)] == [False, False, True]
    assert Probe(4, None, has_field=False).is_worth_more(0)
    assert not long.is_worth_more(1e12)


def test_a_stride_is_kept_before_the_field(tmp_path, monkeypatch):
    """Half an answer is remembered as half an answer, and completed later."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "any.pt"
    file.write_bytes(b"weights")
    model = build("models", {"name": "torchscript", "path": str(file), "trust": True})
    for found in (Probe(8, None, has_field=False), Probe(8, None, has_field=False, tried_pixels=500)):
        remember_probe(model.unmeasured_key, found)
        assert recall_probe(file) == found
        assert (model.stride, model.has_stride, model.field) == (8, True, None)
        assert model.unmeasured_key
    remember_probe(model.unmeasured_key, Probe(8, 54))
    assert (model.stride, model.field, model.unmeasured_key) == (8, 54, None)


def test_answers_are_kept_by_content(tmp_path, monkeypatch):
    """A file's answer is found again under any name, not for other bytes, and not in a damaged cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    one, copy, other = (tmp_path / name for name in ("one.pt", "copy.pt", "other.pt"))
    one.write_bytes(b"weights")
    copy.write_bytes(b"weights")
    other.write_bytes(b"others")
    assert recall_probe(one) is None
    remember_probe(probe_key(one), Probe(8, 54))
    assert recall_probe(copy) == Probe(8, 54)
    assert recall_probe(one, options={"smooth": True}) is None, "the same weights, and another network"
    assert recall_probe(other) is recall_probe(tmp_path / "absent.pt") is None
    remember_probe(probe_key(one), Probe(8, None))
    assert recall_probe(copy) == Probe(8, None)
    (entry,) = (tmp_path / "cache" / "gigaseg" / "probe").iterdir()
    entry.write_text('{"stride": ')
    assert recall_probe(one) is None
    one.write_bytes(b"changed")
    assert file_sha256(one) != file_sha256(copy)


def test_torchscript_reads_the_answers(tmp_path, monkeypatch):
    """A TorchScript model takes stride and field from the cache, unless the YAML gives them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "any.pt"
    file.write_bytes(b"weights")
    spec = {"name": "torchscript", "path": str(file), "trust": True}
    assert (build("models", spec).stride, build("models", spec).field) == (1, None)
    remember_probe(probe_key(file), Probe(8, 54))
    assert (build("models", spec).stride, build("models", spec).field) == (8, 54)
    given = build("models", {**spec, "stride": 16, "field": 60})
    assert (given.stride, given.field) == (16, 60)


def test_a_zoo_model():
    """A public nuclei U-Net: stride 8; a halo of the field, rounded up, makes tiles agree with the whole, a third of it does not."""
    if "GIGASEG_TEST_DATA" not in os.environ:
        pytest.skip("GIGASEG_TEST_DATA is not set")
    folder = Path(os.environ["GIGASEG_TEST_DATA"]) / "models" / "unet2d_nuclei_broad"
    network = build("models", {"name": "torchscript", "path": str(folder / "weights.pt"), "trust": True}).load()
    found = probe(network, channels=1)
    assert found == Probe(8, 54)
    image = torch.from_numpy(np.load(folder / "test_input.npy"))
    image = (image - image.mean()) / image.std()

    def error(halo):
        outer = slice(192 - halo, 320 + halo)
        with torch.no_grad():
            tile = network(image[..., outer, outer])[..., halo : halo + 128, halo : halo + 128]
            return float((tile - network(image)[..., 192:320, 192:320]).abs().max())

    assert error(56) < 1e-4
    assert error(16) > 1e-3
