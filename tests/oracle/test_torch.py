"""The eager backend against the bare network."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.backends import bf16_supported
from pipeline.backends._batch_norm_folding import fold_batch_norms
from pipeline.backends.torch import Torch
from pipeline.config import Recipe
from pipeline.plugins import build


@pytest.fixture(autouse=True)
def _one_thread():
    """Tests share their machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trained(**options):
    """A tiny U-Net whose batch norms hold statistics, as after training."""
    network = build("models", {"name": "unet", "channels": 3, "classes": 4, "depth": 2, "base": 8, **options}).load()
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in ((module.running_mean, -1, 1), (module.running_var, 0.5, 2), (module.weight.data, 0.5, 2)):
                tensor.uniform_(low, high, generator=generator)
    return network


def raw(*shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(dtype)


def bare(network, values_BCYX):
    with torch.no_grad():
        return network(torch.from_numpy(np.ascontiguousarray(values_BCYX, np.float32))).numpy()


def run(network, pixels_BCYX, *, normalize=None, fits=None, **recipe):
    with Torch().open(copy.deepcopy(network), Recipe(**recipe), normalize) as predict:
        return predict(pixels_BCYX, fits or [{}] * len(pixels_BCYX))


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_folding_changes_nothing(padding):
    """Every batch norm of a U-Net folds, and the logits stay within 1e-4."""
    network = trained(padding=padding)
    before = bare(network, x := raw(1, 3, 64, 64) / 255)
    assert fold_batch_norms(network) == 10
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    np.testing.assert_allclose(bare(network, x), before, atol=1e-4)


class Awkward(nn.Module):
    """Convolutions whose batch norm must not be folded, beside one whose batch norm can."""

    def __init__(self):
        super().__init__()
        self.twice, self.shared, self.plain = (nn.Conv2d(2, 2, 3, padding=1) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(2) for _ in range(4))

    def forward(self, x):
        x = self.norms[0](self.twice(x)) + self.norms[1](self.twice(x))  # one convolution, two norms
        y = self.shared(x)
        x = self.norms[2](y) + y  # the convolution's output is used beside the norm
        return self.norms[3](self.plain(x))


def test_only_what_may_fold_folds():
    """A convolution that is called twice, or whose output goes elsewhere too, keeps its batch norm."""
    network = Awkward().eval()
    for norm in network.norms:
        nn.init.uniform_(norm.running_mean)
        nn.init.uniform_(norm.weight, 0.5, 2)
    before = bare(network, x := raw(1, 2, 16, 16) / 255)
    assert fold_batch_norms(network) == 1
    assert [type(norm) for norm in network.norms] == [nn.BatchNorm2d] * 3 + [nn.Identity]
    np.testing.assert_allclose(bare(network, x), before, atol=1e-4)


class Renamed(nn.Module):
    """A part of a network that is registered a second time, as encoders often are, and one that is also held in a plain list."""

    def __init__(self, listed):
        super().__init__()
        self.base = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.stem = nn.Sequential(self.base[0], self.base[1])
        self.head = nn.Conv2d(4, 2, 1)
        self.listed = [self.base[0]] if listed else None

    def forward(self, x):
        x = self.stem[1](self.listed[0](x)) if self.listed else self.stem(x)
        return self.head(torch.relu(x))


@pytest.mark.parametrize("listed", [False, True])
def test_a_module_of_several_names_is_folded_once_or_not_at_all(listed):
    """What has two names is replaced under both; what is reached by no name either is left alone; logits stay within 1e-4."""
    network = Renamed(listed).eval()
    for tensor, low, high in (
        (network.base[1].running_mean, -1, 1),
        (network.base[1].running_var, 0.2, 3),
        (network.base[1].weight, 0.5, 2),
    ):
        nn.init.uniform_(tensor, low, high)
    before = bare(network, x := raw(1, 2, 16, 16) / 255)
    assert fold_batch_norms(network) == (0 if listed else 1)
    assert {type(network.base[1]), type(network.stem[1])} == {nn.BatchNorm2d if listed else nn.Identity}
    np.testing.assert_allclose(bare(network, x), before, atol=1e-4)


def test_what_cannot_run_without_data_is_left_alone():
    """A network that looks at its pixels cannot be followed, and runs unfolded."""

    class Looks(nn.Sequential):
        def forward(self, x):
            return super().forward(x) if float(x.sum()) else x

    network = Looks(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)).eval()
    assert fold_batch_norms(network) == 0
    assert run(network, raw(1, 1, 8, 8)).shape == (1, 2, 8, 8)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "uint16", "uint32", "float32", "float64", ">u2"])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_type_and_layout_is_normalised_alike(dtype, channels):
    """Planar, interleaved, reversed and read-only pixels of any type all mean (raw - mean) / std, one image at a time."""
    network = trained(channels=channels)
    pixels_BCYX = raw(2, channels, 16, 24, dtype=dtype)
    mean, std = np.array([3.0, 5.0, 7.0])[:channels], np.array([50.0, 60.0, 70.0])[:channels]
    fits = [{"normalize": {"mean": (mean * at).tolist(), "std": std.tolist()}} for at in (1, 2)]
    values = (pixels_BCYX.astype(np.float32) - (mean * np.array([[1], [2]]))[..., None, None]) / std[:, None, None]
    expected = bare(network, values)
    interleaved = np.ascontiguousarray(pixels_BCYX.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    reversed_ = pixels_BCYX[..., ::-1].copy()[..., ::-1]
    frozen = pixels_BCYX.copy()
    frozen.flags.writeable = False
    for layout in (pixels_BCYX, interleaved, reversed_, frozen):
        np.testing.assert_allclose(run(network, layout, fits=fits), expected, atol=1e-4)


def test_fixed_numbers_win_over_the_fit():
    """One fixed mean and std for all channels are used for every tile."""
    network, pixels_BCYX = trained(), raw(1, 3, 16, 16)
    got = run(network, pixels_BCYX, normalize={"mean": [128.0], "std": [64.0]}, fits=[{"normalize": {"mean": [0.0], "std": [1.0]}}])
    np.testing.assert_allclose(got, bare(network, (pixels_BCYX.astype(np.float32) - 128) / 64), atol=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_agrees_where_it_is_sure(precision):
    """Sixteen bits choose the class of 32 bits wherever the margin is over a tenth of the logits' deviation."""
    network, pixels_BCYX = trained(), raw(2, 3, 64, 64)
    numbers = {"mean": [128.0], "std": [64.0]}
    full, half = (run(network, pixels_BCYX, normalize=numbers, precision=one) for one in ("fp32", precision))
    first, second = np.sort(full, axis=1)[:, :-3:-1].swapaxes(0, 1)
    sure = first - second > 0.1 * full.std()
    assert half.dtype == np.float32
    assert sure.mean() > 0.5
    assert not np.array_equal(full, half)
    assert np.array_equal(full.argmax(1)[sure], half.argmax(1)[sure])


def test_one_logit_is_two_classes():
    """With K = 1, class 1 is where the logit is above 0, and a logit of 0 is class 0."""
    network = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.ones_(network.weight)
    pixels_BCYX = np.array([-2, -1, 0, 1, 2], np.int16).reshape(1, 1, 1, 5)
    logits = run(network, pixels_BCYX)
    assert logits.tolist() == [[[[0, 0, 0, 0, 0]], [[-2, -1, 0, 1, 2]]]]
    assert logits.argmax(1).ravel().tolist() == [0, 0, 0, 1, 1]


def test_logits_are_ready_to_use():
    """Logits come as writable, contiguous float32 planes."""
    logits = run(trained(), raw(1, 3, 16, 16))
    assert logits.dtype == np.float32
    assert logits.flags.c_contiguous
    logits += 1


def test_threads_are_the_recipes():
    """The recipe's threads hold inside the context, and the former number comes back."""
    before = torch.get_num_threads()
    with Torch().open(nn.Conv2d(1, 2, 1), Recipe(threads=before + 1), None):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_a_batch_that_does_not_fit_is_halved_for_good():
    """Out of memory halves the batch, gives the same logits, is noted, and is not tried again; a single tile gives up."""

    class Small(nn.Conv2d):
        most, calls = 2, []

        def forward(self, x):
            self.calls.append(len(x))
            if len(x) > self.most:
                raise torch.OutOfMemoryError("planted")
            return super().forward(x)

    network, pixels_BCYX = Small(1, 2, 1), raw(5, 1, 4, 4)
    expected = bare(network, pixels_BCYX[:2])
    with Torch().open(network, Recipe(), None) as predict:
        network.calls.clear()
        first = predict(pixels_BCYX, [{}] * 5)
        assert network.calls == [5, 2, 2, 1]
        predict(pixels_BCYX, [{}] * 5)
        assert network.calls[4:] == [2, 2, 1]
        assert predict.notes == ["batch 5 did not fit into device memory; 2 from here on"]
        np.testing.assert_allclose(first[:2], expected, atol=1e-5)
        Small.most = 0
        with pytest.raises(torch.OutOfMemoryError):
            predict(pixels_BCYX[:1], [{}])


@pytest.mark.parametrize(("flags", "expected"), [("fpu avx512_bf16 sse", True), ("amx_bf16", True), ("fpu avx2", False)])
def test_bf16_is_read_from_the_processor(tmp_path, flags, expected):
    """The kernel's flags say whether bfloat16 is quick; no description means no."""
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags\t\t: {flags}\n")
    assert bf16_supported(tmp_path / "cpuinfo") is expected
    assert bf16_supported(tmp_path / "absent") is False
