"""Operations on a device: what travels arrives as it was, and what is counted there is what numpy counts here."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.tiling import NumpyOps
from tests.conftest import blobs

torch = pytest.importorskip("torch")


@pytest.fixture
def ops():
    """Operations on torch's CPU, which stands for a GPU."""
    from pipeline.tiling.torch_ops import TorchOps

    return TorchOps("cpu")


def test_pixels_of_any_type_and_layout_arrive_as_they_are(ops):
    """Interleaved, reversed, big-endian and read-only arrays of any type keep their values and shape on a device."""
    for dtype in ("bool", "uint8", "int8", ">u2", "int16", "uint32", "float16", "float32", ">f8"):
        pixels_YXC = (blobs((20, 30), channels=3).transpose(1, 2, 0) > 99).astype(dtype)
        pixels_YXC.flags.writeable = False
        for layout in (pixels_YXC.transpose(2, 0, 1), pixels_YXC.transpose(2, 0, 1)[:, ::-1], pixels_YXC[..., 0], pixels_YXC[:1, :1]):
            there = ops.put(layout)
            assert tuple(there.shape) == layout.shape
            assert np.array_equal(there.numpy(), layout)


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64"])
def test_integers_without_arithmetic_become_floats(ops, dtype):
    """Torch can hardly compute with unsigned integers of more than 8 bits: they arrive as float32, which a network gets anyway."""
    there = ops.put(np.array([[0, 1, 65535]], dtype))
    assert there.dtype == torch.float32
    assert (there - 1).tolist() == [[-1.0, 0.0, 65534.0]]


def test_what_was_sent_is_a_copy(ops):
    """The array that was sent may be written over at once: the next block is read into it."""
    array_YX = np.ones((4, 5), np.uint8)
    there = ops.put(array_YX)
    array_YX[...] = 0
    assert there.sum() == 20


@pytest.mark.parametrize("counters", [1, 1 << 24])
@pytest.mark.parametrize("num_classes", [2, 300])
def test_counts_are_numpys_with_any_number_of_counters(ops, monkeypatch, num_classes, counters):
    """Whether each column has counters of its own or all share one set, the counts are those of numpy."""
    monkeypatch.setattr("pipeline.tiling.torch_ops.MOST_COUNTERS", counters)
    rng = np.random.default_rng(4)
    kind = np.uint8 if num_classes <= 255 else np.uint16
    mask_YX, truth_YX = (rng.integers(0, num_classes + 1, (40, 60)).astype(kind) for _ in range(2))
    there = ops.fetch(ops.count(ops.put(mask_YX), ops.put(truth_YX), num_classes))()
    here = NumpyOps().count(mask_YX, truth_YX, num_classes)
    assert there["no_prediction"] == here["no_prediction"]
    assert all(np.array_equal(there[name], here[name]) for name in ("predicted", "confusion"))


def test_class_ids_of_32_bits_come_back_as_16(ops):
    """A device computes with 32-bit ids where there are more than 255 classes; what is written is a mask of 16 bits."""
    mask_YX = ops.zeros((3, 4), "uint16")
    mask_YX[1, 2] = 299
    assert mask_YX.dtype == torch.int32
    found_YX = ops.fetch({"mask": mask_YX})()["mask"]
    assert found_YX.dtype == np.uint16
    assert found_YX[1, 2] == 299


def test_weights_are_sent_once(ops):
    """Every tile of a row or column asks for the same weights: they are on the device already."""
    assert ops.axis_weights("linear", 8, 3, 1, 4) is ops.axis_weights("linear", 8, 3, 1, 4)
    assert ops.axis_weights("linear", 8, 3, 1, 4) is not ops.axis_weights("linear", 8, 3, 0, 4)
