"""A place on a GPU: torch's arrays. Nothing here waits for the GPU but whoever reads ahead or writes behind it.

::

    reading thread   put ─────▶ pinned memory ══ copies, beside what is computed ══▶ device
    caller's thread  says what to compute, block after block
    writing thread   fetch ───▶ waits for its own block ◀══ mask and counts ══ device

The same code runs on torch's CPU, where nothing is asynchronous: that is how it is tested without a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.tiling import stitching as stitch
from pipeline.tiling.array_ops import ArrayOps, Fetched

__all__ = ["TorchOps"]

POOR = (torch.uint16, torch.uint32, torch.uint64)  # types that torch stores, and has hardly any arithmetic for
LANES = 1 << 24  # numbers that a histogram may be spread over


class TorchOps(ArrayOps):
    """Tensors of one device.

    Args:
        name: ``cuda``, or ``cpu`` for tests.
    """

    def __init__(self, name: str) -> None:
        """Make a stream for each way; on the CPU there is none, and all is done in order."""
        self.device = torch.device(name)
        self.is_cuda = self.device.type == "cuda"
        self._up, self._down = (_stream(self.device) for _ in range(2))
        self._weights: dict[tuple[Any, ...], Tensor] = {}

    def put(self, array: NDArray[Any]) -> Tensor:
        """Send an array beside what is being computed, and wait until it is there, not for what is computed."""
        with torch.cuda.stream(self._up):
            sent = self.send(array)
        if self._up is not None:
            # It is let go of while kernels that read it still wait: its memory must not be sent into before they are done.
            sent.record_stream(torch.cuda.current_stream(self.device))
            self._up.synchronize()
        return sent

    def send(self, array: NDArray[Any]) -> Tensor:
        """Send an array in the order of what is computed, through pinned memory, so that nobody waits.

        Integers that torch cannot compute with become float32, which is what networks are given anyway.
        """
        order = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
        laid = array.transpose(order)  # as it lies in memory: a copy in any other order is several times slower
        native = np.empty(0, array.dtype.newbyteorder("="))
        pinned = torch.empty(laid.shape, dtype=torch.from_numpy(native).dtype, pin_memory=self.is_cuda)
        pinned.numpy()[...] = laid
        sent = pinned.to(self.device, non_blocking=True).permute([order.index(axis) for axis in range(array.ndim)])
        return sent.to(torch.float32) if sent.dtype in POOR else sent

    def stack(self, views: Sequence[Tensor]) -> Tensor:
        """A single view is not copied."""
        return views[0][None] if len(views) == 1 else torch.stack(list(views))

    def as_array(self, outputs: Any) -> Tensor:
        """Those of a model that computes elsewhere are copied."""
        return torch.as_tensor(outputs, device=self.device)

    def zeros(self, shape: tuple[int, ...], num_classes: int) -> Tensor:
        """Eight bits up to 255 classes, else 32."""
        return torch.zeros(shape, dtype=_ids(num_classes) if len(shape) == 2 else torch.uint8, device=self.device)

    def argmax(self, scores_KYX: Tensor) -> tuple[Tensor, Tensor]:
        """Classes, and the sum of all scores: in float64 it is finite unless one of them is not."""
        return scores_KYX.argmax(0).to(_ids(len(scores_KYX))), scores_KYX.sum(dtype=torch.float64)

    def axis_weights(self, kind: str, core: int, halo: int, index: int, count: int) -> Tensor:
        """Sent once."""
        key = (kind, core, halo, index, count)
        if key not in self._weights:
            self._weights[key] = self.send(stitch.axis_weights(*key))
        return self._weights[key]

    def weigh(self, scores_KYX: Tensor, weight_Y: Tensor, weight_X: Tensor) -> Tensor:
        """Float32, as the weights are."""
        return scores_KYX * (weight_Y[:, None] * weight_X)

    def softmax_bytes(self, scores_KYX: Tensor) -> Tensor:
        """In float32."""
        return (scores_KYX.to(torch.float32).softmax(0) * 255 + 0.5).to(torch.uint8)

    def cross_entropy(self, scores_KYX: Tensor, truth_YX: Tensor) -> tuple[Tensor, Tensor]:
        """In float64; both numbers stay on the device."""
        ids_YX, values_KYX = truth_YX.to(torch.int64), scores_KYX.to(torch.float64)
        known_YX = ids_YX < len(values_KYX)
        picked_YX = values_KYX.gather(0, (ids_YX * known_YX)[None])[0]
        return ((values_KYX.logsumexp(0) - picked_YX) * known_YX).sum(), known_YX.sum()

    def count_equal(self, one_YX: Tensor, other_YX: Tensor) -> Tensor:
        """The number stays on the device."""
        return (one_YX == other_YX).sum()

    def count(self, mask_YX: Tensor, truth_YX: Tensor | None, num_classes: int) -> dict[str, Any]:
        """One histogram of pairs, in which whatever is no class is one class more."""
        side = num_classes + 1
        codes_YX = mask_YX.to(torch.int64).clamp(max=num_classes)
        if truth_YX is None:
            counts = _histogram(codes_YX, side)
            return {"predicted": counts[:-1], "no_prediction": counts[-1], "confusion": None}
        codes_YX += truth_YX.to(torch.int64).clamp(max=num_classes) * side
        joint = _histogram(codes_YX, side**2).reshape(side, side)
        counts = joint.sum(0)
        return {"predicted": counts[:-1], "no_prediction": counts[-1], "confusion": joint[:-1, :-1]}

    def fetch(self, values: Mapping[str, Any]) -> Fetched:
        """Copy beside what comes next; the tensors are held until they have been copied."""
        if self._down is None:
            return lambda: {name: _plain(_small(value)) for name, value in values.items()}
        self._down.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._down):
            coming = {name: _pinned(_small(value)) for name, value in values.items()}
            here = self._down.record_event()

        def wait() -> dict[str, Any]:
            here.synchronize()
            del values_held[:]
            return {name: _plain(value) for name, value in coming.items()}

        values_held = [values]
        return wait


def _stream(device: torch.device) -> torch.cuda.Stream | None:
    """A queue of its own, where there are queues."""
    return torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]  # torch has no types here


def _ids(num_classes: int) -> torch.dtype:
    """The type of class ids."""
    return torch.uint8 if num_classes <= 255 else torch.int32


def _small(value: Any) -> Any:
    """Ids of many classes in the 16 bits of their mask."""
    return value.to(torch.uint16) if isinstance(value, Tensor) and value.dtype == torch.int32 else value


def _pinned(value: Any) -> Any:
    """A copy on its way to memory that a GPU can write to by itself."""
    if not isinstance(value, Tensor):
        return value
    return torch.empty(value.shape, dtype=value.dtype, pin_memory=True).copy_(value, non_blocking=True)


def _plain(value: Any) -> Any:
    """Numpy's arrays and Python's numbers."""
    if not isinstance(value, Tensor):
        return value
    return value.numpy() if value.ndim else value.item()


def _histogram(codes_YX: Tensor, size: int) -> Tensor:
    """Count codes ``0..size-1``, int64.

    ``bincount`` would ask the GPU for the largest code and wait. Each column has counters of its own, where there is room:
    neighbours have the same code, and would have to take turns.
    """
    lanes = codes_YX if size * codes_YX.shape[1] <= LANES else codes_YX.reshape(-1, 1)
    counts = torch.zeros((size, lanes.shape[1]), dtype=torch.int32, device=codes_YX.device)
    counts.scatter_add_(0, lanes, torch.ones((), dtype=torch.int32, device=codes_YX.device).expand(lanes.shape))
    return counts.sum(1)
