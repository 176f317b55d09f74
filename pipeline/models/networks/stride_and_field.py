"""Measuring a network's total stride and field by experiment, and keeping what was measured in the user's cache."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.geometry import ceil_to
from pipeline.storage import file_sha256, recall, remember

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Probe", "probe", "probe_field", "probe_key", "probe_stride", "recall_probe", "remember_probe"]

_VERSION = 2  # of the measurement; results of earlier versions are ignored
STRIDES = (1, 2, 4, 8, 16, 32, 64)
_CANVASES = (128, 256, 512, 1024)  # sides tried in turn, pixels: small canvases are fast, large ones hold wide fields
_BREADTH = 64  # of the strips that a field is measured on, pixels: a network reaches as far along a strip as on a square
_AXES = (-2, -1)
_ROUNDING = 1e-4  # share of the largest output by which float32 may differ between positions in the image


@dataclass(frozen=True)
class Probe:
    """Total stride and field as of :class:`pipeline.models.Model`, pixels; field None: wider than the largest canvas, or the whole tile."""

    stride: int
    field: int | None


def probe(network: nn.Module, channels: int, size: int | None = None) -> Probe:
    """Measure stride and field of a network.

    Args:
        network: maps float32 (N, C, H, W) to (N, K, H', W'), on the CPU.
        channels: C.
        size: the only H and W that the network takes, pixels; None: it takes many.

    Raises:
        ValueError: the network accepts no stride up to 64.
    """
    stride = probe_stride(network, channels, size)
    return Probe(stride, probe_field(network, channels, stride, size))


def probe_stride(network: nn.Module, channels: int, size: int | None = None) -> int:
    """Return the smallest stride whose multiples the network takes as sizes, and whose shifts of the input shift the output.

    Two things must shift: the output in the middle of a canvas, and the reach of a single line, which shows
    paths that this output happens not to use. The output of a network that sees its whole input never shifts exactly;
    for it, the smallest stride whose error is no larger than that of the largest is returned.

    Raises:
        ValueError: the network accepts no stride up to 64.
    """
    forward = _forward(network)
    accepted = [stride for stride in STRIDES if size % (4 * stride) == 0] or [1] if size else _accepted(forward, channels)
    errors: dict[int, float] = {}
    for side in (size,) if size else _CANVASES[:3]:
        pixels = _random(channels, side + accepted[-1])
        try:
            plain, errors = _shift_errors(forward, pixels, accepted, side)
        except RuntimeError:
            continue  # the canvas is too small for valid padding
        middle, square = ceil_to(side // 2, accepted[-1]), pixels[..., :side, :side]
        starts = {axis: _reach(forward, square, plain, middle, axis) for axis in _AXES}
        for stride in accepted:
            moved = {axis: _reach(forward, square, plain, middle + stride, axis) for axis in _AXES}
            if errors[stride] < _ROUNDING and all(start and moved[axis] == [at + stride for at in start] for axis, start in starts.items()):
                return stride
    if size:
        return accepted[-1]  # no shift is exact on so small a canvas; the largest is a multiple of the true stride
    return next(stride for stride in accepted if errors[stride] <= max(2 * errors[accepted[-1]], _ROUNDING))


def probe_field(network: nn.Module, channels: int, stride: int, size: int | None = None) -> int | None:
    """Return how far outside a cell of the stride an input pixel can lie and still change the cell's output, pixels.

    Every position in a cell is tried, along both axes. None: the field reaches the border of the largest canvas.
    """
    forward = _forward(network)
    for side in (size,) if size else _CANVASES:
        try:
            field = _field_on(forward, channels, stride, ceil_to(side, stride), lines=stride)
        except RuntimeError:
            continue  # the canvas is too small for valid padding
        if field is None:
            continue
        if size:
            return field
        # A dilated kernel can jump over the border of a small canvas, but not of a larger one.
        larger = _field_on(forward, channels, stride, ceil_to(2 * side, stride), lines=1)
        if larger is not None and larger <= field:
            return field
    return None


Forward = Callable[["torch.Tensor"], "torch.Tensor"]


def _forward(network: nn.Module) -> Forward:
    import torch

    with torch.no_grad():  # a TorchScript module copied with gradients on would no longer own its weights
        copied = copy.deepcopy(network).eval()

    def forward(x_NCYX: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            output_NKYX: torch.Tensor = copied(x_NCYX)
        return output_NKYX

    return forward


def _random(channels: int, side: int) -> torch.Tensor:
    import torch

    return torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(0))


def _accepted(forward: Forward, channels: int) -> list[int]:
    """Return the strides that the network accepts: a size divisible by the stride, and by no larger one, loses an even margin."""
    import torch

    def accepts(side: int) -> bool:
        try:
            output = forward(torch.zeros(1, channels, side, side))
        except (RuntimeError, ValueError, AssertionError):
            return False
        return 0 < output.shape[-1] <= side and (side - output.shape[-1]) % 2 == 0

    for least in _CANVASES[:3]:
        # A multiple of every stride. A network that refuses it needs a larger canvas, so nothing slightly larger is tried.
        accepted = [stride for stride in STRIDES if accepts(least + stride)] if accepts(least) else []
        if accepted:
            return accepted
    raise ValueError(f"the network accepts none of the sizes {_CANVASES[0]} + d for d in {STRIDES}")


def _shift_errors(forward: Forward, pixels: torch.Tensor, strides: list[int], side: int) -> tuple[torch.Tensor, dict[int, float]]:
    """Return the output of the first window, and for each stride the error of the output of the window shifted by the stride."""
    plain = forward(pixels[..., :side, :side])
    middle = side // 8
    start = (plain.shape[-1] - middle) // 2
    errors = {}
    for stride in strides:
        shifted = forward(pixels[..., stride : stride + side, stride : stride + side])[..., start : start + middle, start : start + middle]
        there = plain[..., start + stride : start + stride + middle, start + stride : start + stride + middle]
        same = min(shifted.shape[-1], there.shape[-1])  # a shift by 64 can leave a small canvas
        difference = (shifted[..., :same, :same] - there[..., :same, :same]).abs()
        errors[stride] = float(difference.max() / plain.abs().max()) if difference.numel() else float("inf")
    return plain, errors


def _reach(forward: Forward, pixels: torch.Tensor, plain: torch.Tensor, at: int, axis: int) -> list[int] | None:
    """Return the first and last row (axis -2) or column (-1) of the output that input line ``at`` changes, in input coordinates.

    The line is set to NaN, which passes through every weight, and to a large finite value, which changes what only
    comparisons see. Empty where nothing changes; None where the change touches the output's border, or the line lies outside.
    """
    import torch

    length = plain.shape[axis]
    if at >= pixels.shape[axis]:
        return None
    changed = torch.zeros(length, dtype=torch.bool)
    for value in (float("nan"), 1e4):
        touched = pixels.clone()
        touched.select(axis, at).fill_(value)
        changed |= (forward(touched) != plain).movedim(axis, 0).flatten(1).any(1)  # NaN differs from every value
    hit = torch.nonzero(changed).flatten().tolist()
    if hit and (hit[0] == 0 or hit[-1] == length - 1):
        return None
    margin = (pixels.shape[axis] - length) // 2
    return [hit[0] + margin, hit[-1] + margin] if hit else []


def _field_on(forward: Forward, channels: int, stride: int, side: int, lines: int) -> int | None:
    """Return the field of some lines along both axes of a canvas; None where it touches the canvas's border."""
    worst, middle = 0, ceil_to(side // 2, stride)
    for axis in _AXES:
        pixels, plain = _narrow(forward, channels, side, axis)
        for line in range(middle, middle + lines):
            reach = _reach(forward, pixels, plain, line, axis)
            if reach is None:
                return None
            if reach:
                # Distances from the line to the nearer edges of the outermost cells that the line changes.
                worst = max(worst, line - (reach[0] // stride * stride + stride - 1), reach[1] // stride * stride - line)
    return worst


def _narrow(forward: Forward, channels: int, side: int, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a canvas of a side along an axis, and the network's output: a strip where the network takes it, else a square."""
    square = _random(channels, side)
    strip = square.narrow(-3 - axis, 0, min(_BREADTH, side))
    try:
        return strip, forward(strip)
    except (RuntimeError, ValueError, AssertionError):  # valid padding, or one size alone
        return square, forward(square)


def probe_key(weights: Path, **built_from: Any) -> str:
    """Return the key of a network's measurement: a hash of its weights, everything else it is built from, and the probe's version."""
    parts = {"probe": _VERSION, "weights": file_sha256(weights), **built_from}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def recall_probe(weights: Path, **built_from: Any) -> Probe | None:
    """Return the remembered measurement of a network, without torch; None: there is none, or the weights file is missing."""
    if not weights.is_file():
        return None
    found = recall("probe", probe_key(weights, **built_from)) or {}
    try:
        return Probe(stride=int(found["stride"]), field=None if found["field"] is None else int(found["field"]))
    except (ValueError, KeyError, TypeError):
        return None  # an unreadable cache counts as empty


def remember_probe(key: str, found: Probe) -> None:
    """Keep a measurement under the key that :func:`probe_key` returned."""
    remember("probe", key, asdict(found))
