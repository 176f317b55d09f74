"""Measuring a network's total stride and field by experiment, and keeping what was measured in the user's cache.

A band of lines of a random canvas is set to NaN, which passes through every weight, and to large finite values, which change what only
comparisons see. One pass shows how far any line of a band reaches, so that a few halvings find the line that reaches farthest.
"""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.geometry import ceil_to
from pipeline.models.networks.canvases import BREADTHS, SHARE, Canvas, OutOfTimeError, Passes
from pipeline.storage import file_sha256, recall, remember

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Probe", "probe", "probe_field", "probe_key", "probe_stride", "recall_kept", "recall_probe", "remember_probe"]

_VERSION = 2  # of the measurement; results of earlier versions are ignored
STRIDES = (1, 2, 4, 8, 16, 32, 64)
_CANVASES = (128, 256, 512, 1024)  # sides tried in turn, pixels: small canvases are fast, large ones hold wide fields
_AXES = (-2, -1)
_UNKEPT: dict[str, dict[str, Any]] = {}  # measurements by key, where the user's cache cannot be written: this process knows them
_ROUNDING = 1e-4  # share of the largest output by which float32 may differ between positions in the image


@dataclass(frozen=True)
class Probe:
    """What a measurement found.

    Attributes:
        stride: total stride as of :class:`pipeline.models.Model`, pixels.
        field: as of the model, pixels; None: wider than the largest canvas, the whole tile, or not measured.
        has_field: whether the field was measured.
        tried_pixels: that a measurement of the field computed before its time was over; 0: none was over.
    """

    stride: int
    field: int | None
    has_field: bool = True
    tried_pixels: int = 0

    def field_for(self, stride: int) -> int | None:
        """Return the field of cells of a stride: an input pixel is farther from smaller cells than from those that were measured."""
        return None if self.field is None else self.field + max(self.stride - stride, 0)

    def is_worth_more(self, run_pixels: float) -> bool:
        """Whether the field is not measured, and a run of so many pixels allows more time than the last measurement had."""
        return not self.has_field and (not self.tried_pixels or self.tried_pixels < SHARE * run_pixels)


def probe(
    network: nn.Module,
    channels: int,
    size: int | None = None,
    *,
    stride: int | None = None,
    wants_field: bool = True,
    run_pixels: float = math.inf,
) -> Probe:
    """Measure stride and field of a network.

    Without a limit the answer is exact. Where the time is over before, the stride may be a multiple of the exact one; the field may be
    the exact one rounded up to a multiple of the stride, which gives the same halo, or not measured.

    Args:
        network: maps float32 (N, C, H, W) to (N, K, H', W'), on the CPU.
        channels: C.
        size: the only H and W that the network takes, pixels; None: it takes many.
        stride: known before; None: it is measured.
        wants_field: whether the field is measured.
        run_pixels: that the run computes, which limit the time as in :class:`Passes`; infinite: no limit.

    Raises:
        ValueError: the network accepts no stride up to 64.
    """
    passes = Passes(network, channels, run_pixels)
    stride = stride or _stride(passes, size)
    found = Probe(stride, None, has_field=False)
    if not wants_field:
        return found
    try:
        reach = _reach(passes, stride, size)
        found = Probe(stride, None if reach is None else max(reach.fields.values()))
        return found if reach is None else replace(found, field=reach.exact_field())
    except OutOfTimeError:
        return found if found.has_field else replace(found, tried_pixels=passes.pixels)


def probe_stride(network: nn.Module, channels: int, size: int | None = None) -> int:
    """Return the smallest stride whose multiples the network takes as sizes, and whose shifts of the input shift the output.

    Two things must shift: the output in the middle of a canvas, and the reach of a single line, which shows
    paths that this output happens not to use. The output of a network that sees its whole input never shifts exactly;
    for it, the smallest stride whose error is no larger than that of the largest is returned.

    Raises:
        ValueError: the network accepts no stride up to 64.
    """
    return probe(network, channels, size, wants_field=False).stride


def probe_field(network: nn.Module, channels: int, stride: int, size: int | None = None) -> int | None:
    """Return how far outside a cell of the stride an input pixel can lie and still change the cell's output, pixels.

    Every position in a cell is tried, along both axes. None: the field reaches the border of the largest canvas.
    """
    return probe(network, channels, size, stride=stride).field


def _stride(passes: Passes, size: int | None) -> int:
    """See :func:`probe_stride`; where the time is over, the largest stride that the network accepts, a multiple of the smallest."""
    accepted = ([stride for stride in STRIDES if size % (4 * stride) == 0] or [1]) if size else _accepted(passes)
    if len(accepted) == 1:
        return accepted[0]
    canvas = cache(lambda side, axis: Canvas(passes, side, axis, accepted[0]))
    sides = (size,) if size else _CANVASES[:3]
    try:
        for side in sides:
            try:
                found = _shifting((canvas(side, axis) for axis in _AXES), ceil_to(side // 2, accepted[-1]), accepted)
            except RuntimeError:
                continue  # the canvas is too small for valid padding
            if found:
                return found
        # On a canvas of the only size no shift is exact.
        return accepted[-1] if size else _least_error([canvas(sides[-1], axis) for axis in _AXES], accepted)
    except OutOfTimeError:
        return accepted[-1]


def _accepted(passes: Passes) -> list[int]:
    """Return the strides that the network accepts: a size divisible by the stride, and by no larger one, loses an even margin."""
    for least in _CANVASES[:3]:
        # A multiple of every stride. A network that refuses it needs a larger canvas, so nothing slightly larger is tried.
        if passes.accepts(least, least):
            breadth = next((breadth for breadth in BREADTHS if passes.accepts(least, breadth)), None)
            accepts = partial(_accepts, passes, least, breadth)
            # A network that takes the multiples of a stride takes those of larger ones, so that halving finds the smallest.
            if (first := bisect_left(STRIDES, 1, key=accepts)) < len(STRIDES):
                return list(STRIDES[first:])
    raise ValueError(f"the network accepts none of the sizes {_CANVASES[0]} + d for d in {STRIDES}")


def _accepts(passes: Passes, least: int, breadth: int | None, stride: int) -> bool:
    """Whether the network takes a size divisible by the stride, and by no larger one: on a strip, or on a square where it takes none."""
    return passes.accepts(least + stride, breadth or least + stride)


def _shifting(canvases: Iterable[Canvas], middle: int, accepted: list[int]) -> int | None:
    """Return the smallest stride that shifts the output, and the reach of the middle line; None: the canvases are too small to say."""
    starts = []
    for canvas in canvases:
        start = canvas.reach(middle, middle + 1)
        if not start:
            return None
        starts.append((canvas, start))
    for stride in accepted:
        if all(
            canvas.shift_error(stride) < _ROUNDING
            and canvas.reach(middle + stride, middle + stride + 1) == (start[0] + stride, start[1] + stride)
            for canvas, start in starts
        ):
            return stride
    return None


def _least_error(canvases: list[Canvas], accepted: list[int]) -> int:
    """Return the smallest stride whose shifts are about as exact as those of the largest."""
    most = max(_ROUNDING, *(2 * canvas.shift_error(accepted[-1]) for canvas in canvases))
    return next(stride for stride in accepted if stride == accepted[-1] or all(canvas.shift_error(stride) <= most for canvas in canvases))


@dataclass(frozen=True)
class _Reach:
    """How far a cell in the middle of two canvases reaches, one canvas along each axis.

    Attributes:
        canvases: of one side, with the stride as their step.
        cell: first line of the cell that is changed, a multiple of the stride.
        fields: by canvas and direction (-1: towards the first line, 1: towards the last): the distance of the farthest cell that changes,
            in which the cell's own length is counted; the field that a line of the cell shows, rounded up to the stride.
    """

    canvases: tuple[Canvas, ...]
    cell: int
    fields: dict[tuple[int, int], int]

    def exact_field(self) -> int:
        """Return the field without rounding: no line of the cell shows a wider one."""
        stride, most = self.canvases[0].step, max(self.fields.values())
        exact = max(most - stride, 0)
        for (at, direction), rounded in self.fields.items():
            if rounded == most > exact and (exact == most - stride or self._shows(at, direction, exact + 1)):
                low, high = exact + 1, most
                while low < high:
                    middle = (low + high + 1) // 2
                    low, high = (middle, high) if self._shows(at, direction, middle) else (low, middle - 1)
                exact = low
        return exact

    def _shows(self, at: int, direction: int, field: int) -> bool:
        """Whether lines of the cell at least ``field`` away from the farthest cell that changes still change it."""
        stride, rounded = self.canvases[at].step, self.fields[at, direction]
        away = rounded - field  # lines of the cell that are farther than its nearest one are left as they are
        far = self.cell + direction * rounded
        first, last = (self.cell + stride - 1 - away, self.cell + stride) if direction < 0 else (self.cell, self.cell + away + 1)
        return self.canvases[at].changes(first, last, slice(far, far + stride))


def _reach(passes: Passes, stride: int, size: int | None) -> _Reach | None:
    """Return the reach on the smallest canvas that holds it; None: it reaches the border of the largest."""
    for side in (size,) if size else _CANVASES:
        try:
            reach = _reach_on(passes, stride, ceil_to(side, stride))
        except RuntimeError:
            continue  # the canvas is too small for valid padding
        if reach is None:
            continue
        if size:
            return reach
        # A dilated kernel can jump over the border of a small canvas, but not of a larger one.
        larger = _reach_on(passes, stride, ceil_to(2 * side, stride))
        if larger is not None and max(larger.fields.values()) <= max(reach.fields.values()):
            return reach
    return None


def _reach_on(passes: Passes, stride: int, side: int) -> _Reach | None:
    """Return how far the cell in the middle of a canvas reaches; None where it touches the canvas's border."""
    cell, canvases, fields = ceil_to(side // 2, stride), [], {}
    for at, axis in enumerate(_AXES):
        canvas = Canvas(passes, side, axis, stride)
        reached = canvas.reach(cell, cell + stride)
        if reached is None:
            return None
        canvases.append(canvas)
        first, last = reached or (cell, cell)
        fields[at, -1] = max(cell - first // stride * stride, 0)
        fields[at, 1] = max(last // stride * stride - cell, 0)
    return _Reach(tuple(canvases), cell, fields)


def probe_key(weights: Path, **built_from: Any) -> str:
    """Return the key of a network's measurement: a hash of its weights, everything else it is built from, and the probe's version."""
    parts = {"probe": _VERSION, "weights": file_sha256(weights), **built_from}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def recall_probe(weights: Path, **built_from: Any) -> Probe | None:
    """Return the remembered measurement of a network, without torch; None: there is none, or the weights file is missing."""
    return recall_kept(probe_key(weights, **built_from)) if weights.is_file() else None


def recall_kept(key: str) -> Probe | None:
    """Return the measurement under a key that :func:`probe_key` returned; None: there is none."""
    found = recall("probe", key) or _UNKEPT.get(key) or {}
    try:
        field, tried_pixels = found.get("field"), int(found.get("tried_pixels", 0))
        return Probe(int(found["stride"]), None if field is None else int(field), "field" in found, tried_pixels)
    except (ValueError, KeyError, TypeError):
        return None  # an unreadable cache counts as empty


def remember_probe(key: str, found: Probe) -> None:
    """Keep a measurement under the key that :func:`probe_key` returned; without a field where none was measured."""
    field = {"field": found.field} if found.has_field else {"tried_pixels": found.tried_pixels}
    row = {"stride": found.stride, **field}
    remember("probe", key, row)
    if recall("probe", key) is None:
        _UNKEPT[key] = row
