"""Operations on tensors of a GPU. The computing thread never waits for the GPU; the reading and the writing threads do.

::

    reading thread    put ────▶ pinned memory ══ copies while the GPU computes ══▶ GPU
    computing thread  queues the computations, block after block
    writing thread    fetch ──▶ waits for its own block ◀══ mask and counts ══ GPU

The same code runs on torch's CPU device, where nothing is asynchronous. That is how it is tested without a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from pipeline.statistics import CONFIDENCE_BINS, CONFIDENCE_STEPS
from pipeline.tiling import stitching as stitch
from pipeline.tiling.array_ops import LARGEST_HALF, ArrayOps, Fetched

__all__ = ["TorchOps"]

STORED_ONLY = (torch.uint16, torch.uint32, torch.uint64)  # types that torch has hardly any arithmetic for
MOST_COUNTERS = 1 << 24  # of a histogram


class TorchOps(ArrayOps):
    """Operations on tensors of one device: ``cuda``, or ``cpu`` for tests."""

    def __init__(self, device: str) -> None:
        """Create a stream for each direction; the CPU has none and does everything in order."""
        self.device = torch.device(device)
        self.is_cuda = self.device.type == "cuda"
        self._up, self._down = (_stream(self.device) for _ in range(2))
        self._weights: dict[tuple[Any, ...], Tensor] = {}

    @override
    def put(self, array: NDArray[Any]) -> Tensor:
        with torch.cuda.stream(self._up):
            sent = self.send(array)
        if self._up is not None:
            # The tensor may be released while kernels that read it are still queued: its memory must not be reused before they ran.
            sent.record_stream(torch.cuda.current_stream(self.device))
            self._up.synchronize()
        return sent

    def send(self, array: NDArray[Any]) -> Tensor:
        """Queue the copy of an array behind the computations that are queued, through pinned memory, so that no thread waits.

        Integers that torch cannot compute with become float32, which networks get anyway.
        """
        order = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
        contiguous = array.transpose(order)  # in memory order: a copy in any other order is several times slower
        native = np.empty(0, array.dtype.newbyteorder("="))
        pinned = torch.empty(contiguous.shape, dtype=torch.from_numpy(native).dtype, pin_memory=self.is_cuda)
        pinned.numpy()[...] = contiguous
        sent = pinned.to(self.device, non_blocking=True).permute([order.index(axis) for axis in range(array.ndim)])
        return sent.to(torch.float32) if sent.dtype in STORED_ONLY else sent

    @override
    def stack(self, views: Sequence[Tensor]) -> Tensor:
        return views[0][None] if len(views) == 1 else torch.stack(list(views))

    @override
    def as_array(self, outputs: Any) -> Tensor:
        return torch.as_tensor(outputs, device=self.device)

    @override
    def zeros(self, shape: tuple[int, ...], dtype: str) -> Tensor:
        return torch.zeros(shape, dtype=torch.int32 if dtype == "uint16" else getattr(torch, dtype), device=self.device)

    @override
    def argmax(self, scores_KYX: Tensor) -> tuple[Tensor, Tensor]:
        # In float64 the sum of all scores is finite unless one of them is not.
        return scores_KYX.argmax(0).to(_ids(len(scores_KYX))), scores_KYX.sum(dtype=torch.float64)

    @override
    def axis_weights(self, kind: str, core: int, halo: int, index: int, count: int) -> Tensor:
        key = (kind, core, halo, index, count)
        if key not in self._weights:
            self._weights[key] = self.send(stitch.axis_weights(*key))
        return self._weights[key]

    @override
    def weigh(self, scores_KYX: Tensor, weight_Y: Tensor, weight_X: Tensor) -> Tensor:
        return scores_KYX * (weight_Y[:, None] * weight_X)

    @override
    def softmax_bytes(self, scores_KYX: Tensor) -> Tensor:
        return (scores_KYX.to(torch.float32).softmax(0) * 255 + 0.5).to(torch.uint8)

    @override
    def winner_bytes(self, scores_KYX: Tensor) -> Tensor:
        values_KYX = scores_KYX.to(torch.float32)
        return (255 / (values_KYX - values_KYX.amax(0)).exp().sum(0) + 0.5).to(torch.uint8)

    @override
    def as_half(self, values: Tensor) -> tuple[Tensor, Tensor]:
        return values.clamp(-LARGEST_HALF, LARGEST_HALF).to(torch.float16), values.sum(dtype=torch.float64)

    @override
    def cross_entropy(self, scores_KYX: Tensor, truth_YX: Tensor) -> tuple[Tensor, Tensor]:
        ids_YX, values_KYX = truth_YX.to(torch.int64), scores_KYX.to(torch.float64)
        known_YX = ids_YX < len(values_KYX)
        picked_YX = values_KYX.gather(0, (ids_YX * known_YX)[None])[0]
        return ((values_KYX.logsumexp(0) - picked_YX) * known_YX).sum(), known_YX.sum()

    @override
    def confidence(self, scores_KYX: Tensor, classes_YX: Tensor, truth_YX: Tensor) -> Tensor:
        values_KYX, ids_YX = scores_KYX.to(torch.float32), truth_YX.to(torch.int64)
        shares_YX = CONFIDENCE_STEPS / (values_KYX - values_KYX.amax(0)).exp().sum(0)
        steps_YX = shares_YX.nan_to_num(0.0).clamp(0, CONFIDENCE_STEPS).to(torch.int64)  # scores that are not finite fail the block later
        bins_YX = (steps_YX * CONFIDENCE_BINS // CONFIDENCE_STEPS).clamp(max=CONFIDENCE_BINS - 1)
        # Pixels without truth go to one more bin, which is dropped: the device need not say how many there are.
        bins_N = torch.where(ids_YX < len(values_KYX), bins_YX, CONFIDENCE_BINS).flatten()
        right_N = (classes_YX.to(torch.int64) == ids_YX).flatten()
        counts = torch.zeros((3, CONFIDENCE_BINS + 1), dtype=torch.int64, device=bins_N.device)
        for row, values_N in zip(counts, (torch.ones_like(bins_N), right_N.to(torch.int64), steps_YX.flatten()), strict=True):
            row.index_add_(0, bins_N, values_N)
        return counts[:, :-1]

    @override
    def count_equal(self, first_YX: Tensor, second_YX: Tensor) -> Tensor:
        return (first_YX == second_YX).sum()

    @override
    def count(self, mask_YX: Tensor, truth_YX: Tensor | None, num_classes: int) -> dict[str, Any]:
        side = num_classes + 1  # all values that are no class count as one more class
        codes_YX = mask_YX.to(torch.int64).clamp(max=num_classes)
        if truth_YX is None:
            counts = _histogram(codes_YX, side)
            return {"predicted": counts[:-1], "no_prediction": counts[-1], "confusion": None}
        codes_YX += truth_YX.to(torch.int64).clamp(max=num_classes) * side
        joint = _histogram(codes_YX, side**2).reshape(side, side)
        counts = joint.sum(0)
        return {"predicted": counts[:-1], "no_prediction": counts[-1], "confusion": joint[:-1, :-1]}

    @override
    def fetch(self, values: Mapping[str, Any]) -> Fetched:
        if self._down is None:
            return lambda: {name: _plain(_small(value)) for name, value in values.items()}
        self._down.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._down):
            copies = {name: _pinned(_small(value)) for name, value in values.items()}
            copied = self._down.record_event()

        def wait() -> dict[str, Any]:
            copied.synchronize()
            del held[:]
            return {name: _plain(value) for name, value in copies.items()}

        held = [values]  # the tensors must live until they have been copied
        return wait


def _stream(device: torch.device) -> torch.cuda.Stream | None:
    return torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]  # torch has no types here


def _ids(num_classes: int) -> torch.dtype:
    return torch.uint8 if num_classes <= 255 else torch.int32


def _small(value: Any) -> Any:
    """Class ids of 32 bits as the 16 bits of their mask."""
    return value.to(torch.uint16) if isinstance(value, Tensor) and value.dtype == torch.int32 else value


def _pinned(value: Any) -> Any:
    """A copy in pinned memory, which the GPU fills while the processor goes on."""
    if not isinstance(value, Tensor):
        return value
    return torch.empty(value.shape, dtype=value.dtype, pin_memory=True).copy_(value, non_blocking=True)


def _plain(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.numpy() if value.ndim else value.item()


def _histogram(codes_YX: Tensor, size: int) -> Tensor:
    """Count codes ``0..size-1``, int64.

    ``bincount`` would wait for the GPU's largest code. Each column has counters of its own where memory allows: neighbouring pixels
    mostly have the same code, and threads that add to one counter must take turns.
    """
    lanes = codes_YX if size * codes_YX.shape[1] <= MOST_COUNTERS else codes_YX.reshape(-1, 1)
    counts = torch.zeros((size, lanes.shape[1]), dtype=torch.int32, device=codes_YX.device)
    counts.scatter_add_(0, lanes, torch.ones((), dtype=torch.int32, device=codes_YX.device).expand(lanes.shape))
    return counts.sum(1)
