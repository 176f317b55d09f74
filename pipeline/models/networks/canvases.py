"""Canvases that a network is tried on: random strips, of which bands of lines are changed to see how far they reach."""

from __future__ import annotations

import copy
import math
import time
from typing import TYPE_CHECKING

from pipeline.geometry import ceil_to

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["BREADTHS", "LEAST_S", "SHARE", "Canvas", "OutOfTimeError", "Passes"]

LEAST_S = 5.0  # that a limited measurement may take
SHARE = 0.1  # of the pixels of a run that a limited measurement may compute, where that takes longer
BREADTHS = (32, 64)  # of the strips, tried in turn, pixels: a network reaches as far along a strip as on a square
_REFUSALS = (RuntimeError, ValueError, AssertionError)  # that networks raise for a size that they do not take
_LARGE = 1e4  # size of finite changes, in standard deviations of the canvas


class OutOfTimeError(Exception):
    """A limited measurement has taken its time."""


class Passes:
    """Forward passes of a copy of a network, until the time of the measurement is over.

    Args:
        network: maps float32 (N, C, H, W) to (N, K, H', W'), on the CPU.
        channels: C.
        run_pixels: that the run computes; infinite: no limit.

    Attributes:
        pixels: computed so far.
    """

    def __init__(self, network: nn.Module, channels: int, run_pixels: float) -> None:
        import torch

        self.channels, self.pixels = channels, 0
        self._run_pixels, self._start = run_pixels, time.perf_counter()
        with torch.no_grad():  # a TorchScript module copied with gradients on would no longer own its weights
            self._network = copy.deepcopy(network).eval()

    def __call__(self, x_NCYX: torch.Tensor) -> torch.Tensor:
        """Return the network's output.

        Raises:
            OutOfTimeError: both limits are passed: :data:`LEAST_S`, and :data:`SHARE` of the run's pixels.
        """
        if self.pixels > SHARE * self._run_pixels and time.perf_counter() - self._start > LEAST_S:
            raise OutOfTimeError
        return self._forward(x_NCYX)

    def accepts(self, height: int, width: int) -> bool:
        """Whether the network takes such a size, and loses an even margin of the height. This pass has no limit."""
        import torch

        try:
            output_NKYX = self._forward(torch.zeros(1, self.channels, height, width))
        except _REFUSALS:
            return False
        return 0 < output_NKYX.shape[-2] <= height and (height - output_NKYX.shape[-2]) % 2 == 0

    def _forward(self, x_NCYX: torch.Tensor) -> torch.Tensor:
        import torch

        self.pixels += x_NCYX.shape[-2] * x_NCYX.shape[-1]
        with torch.no_grad():
            output_NKYX: torch.Tensor = self._network(x_NCYX)
        return output_NKYX


class Canvas:
    """Random pixels, and what a network makes of them: a strip where the network takes it, else a square.

    Args:
        passes: of the network.
        side: length along ``axis``, pixels.
        axis: -2 or -1, along which lines are counted.
        step: the breadth of a strip is a multiple of it, pixels.

    Raises:
        RuntimeError: the network takes no such canvas.
    """

    def __init__(self, passes: Passes, side: int, axis: int, step: int) -> None:
        self.passes, self.side, self.axis, self.step = passes, side, axis, step
        for breadth in sorted({ceil_to(breadth, step) for breadth in BREADTHS if ceil_to(breadth, step) < side}):
            self._pixels = self._random(breadth)
            try:
                self._plain = passes(self._pixels)
            except _REFUSALS:
                continue  # valid padding, or squares alone
            return
        self._pixels = self._random(side)
        self._plain = passes(self._pixels)

    def _random(self, breadth: int) -> torch.Tensor:
        import torch

        shape = (self.side, breadth) if self.axis == -2 else (breadth, self.side)
        return torch.randn(1, self.passes.channels, *shape, generator=torch.Generator().manual_seed(0))

    def shift_error(self, stride: int) -> float:
        """Return the error of the output's middle where the input is shifted by a stride, as a share of the largest output.

        What leaves the canvas at one end comes in at the other, so that a network that sees its whole input sees the same pixels.
        """
        import torch

        shifted, middle = self.passes(torch.roll(self._pixels, -stride, self.axis)), self.side // 8
        start = (self._plain.shape[self.axis] - middle) // 2
        length = min(middle, self._plain.shape[self.axis] - start - stride)  # a shift by 64 can leave a small canvas
        if length <= 0:
            return math.inf
        difference = (shifted.narrow(self.axis, start, length) - self._plain.narrow(self.axis, start + stride, length)).abs()
        return float(difference.max() / self._plain.abs().max())

    def changes(self, first: int, last: int, rows: slice) -> bool:
        """Whether a band of input lines, from ``first`` to before ``last``, changes some output lines, in input coordinates."""
        margin = self._margin
        return any(
            bool(self._changed(first, last, is_nan=is_nan)[max(rows.start - margin, 0) : rows.stop - margin].any())
            for is_nan in (True, False)
        )

    def reach(self, first: int, last: int) -> tuple[int, int] | tuple[()] | None:
        """Return the first and last output line that a band of input lines changes, in input coordinates.

        Empty where nothing changes; None where the change touches the output's border, or the band leaves the canvas.
        """
        import torch

        hits: list[int] = []
        for is_nan in (True, False):
            if last > self.side:
                return None
            hits += torch.nonzero(self._changed(first, last, is_nan=is_nan)).flatten().tolist()
            if hits and (min(hits) == 0 or max(hits) == self._plain.shape[self.axis] - 1):
                return None
        return (min(hits) + self._margin, max(hits) + self._margin) if hits else ()

    @property
    def _margin(self) -> int:
        return (self.side - self._plain.shape[self.axis]) // 2

    def _changed(self, first: int, last: int, *, is_nan: bool) -> torch.Tensor:
        """Return which lines of the output change with a band of the input: to NaN, or to large values of either sign."""
        import torch

        touched = self._pixels.clone()
        band = touched.narrow(self.axis, first, last - first)
        if is_nan:
            band.fill_(math.nan)
        else:
            band.copy_(torch.randn(band.shape, generator=torch.Generator().manual_seed(1)) * _LARGE)
        return (self.passes(touched) != self._plain).movedim(self.axis, 0).flatten(1).any(1)  # NaN differs from every value
