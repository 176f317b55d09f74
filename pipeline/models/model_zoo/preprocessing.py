"""What a package does to pixels before its network: steps that act on each pixel, with statistics of the whole image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box
from pipeline.models.model_zoo.exact_moments import mean_and_std, sum_moments
from pipeline.statistics import Fitter, Histogram, Summary

__all__ = ["Op", "Preprocessing", "PreprocessingFitter", "Step"]

Op = Sequence[Any]
"""A step with all its numbers as plain JSON: ``[kind, a, b]``; a and b hold one number, or one for each channel.

``scale``: (x - a) / b. ``linear``: x * a + b. ``clip``: limit to a..b. ``binarize``: 1 above a, else 0. ``sigmoid``.
"""


@dataclass(frozen=True)
class Step:
    """One step; ``zscore`` and ``range`` become an :data:`Op` once the image's statistics are known.

    Attributes:
        kind: of an :data:`Op`, or ``zscore`` or ``range``.
        a: as in the op; for ``range`` the lower percentile.
        b: as in the op; for ``range`` the upper percentile.
        pooled: whether all channels share their statistics.
        eps: added to the divisor of ``zscore`` and ``range``.
    """

    kind: Literal["linear", "scale", "clip", "binarize", "sigmoid", "zscore", "range"]
    a: tuple[float, ...] = ()
    b: tuple[float, ...] = ()
    pooled: bool = False
    eps: float = 1e-6

    @property
    def needs_fit(self) -> bool:
        """Whether the step needs statistics of the image."""
        return self.kind in ("zscore", "range")

    @property
    def op(self) -> Op:
        """The step as an op; only for a step that needs no statistics."""
        return [self.kind, list(self.a), list(self.b)]


@dataclass(frozen=True)
class Preprocessing:
    """The steps of a package, in order."""

    steps: tuple[Step, ...] = ()

    def fitter(self) -> PreprocessingFitter | None:
        """Return what gathers the statistics; None where no step needs any."""
        return PreprocessingFitter(self.steps) if any(step.needs_fit for step in self.steps) else None

    def apply(self, pixels_CYX: NDArray[Any], fit: dict[str, Any] | None) -> NDArray[np.float32]:
        """Return the network's input, float32.

        Args:
            pixels_CYX: raw values.
            fit: what :meth:`PreprocessingFitter.fit` returned for the image; None where no step needs statistics.

        Raises:
            ValueError: a step needs statistics, and there are none.
        """
        if fit is None and self.fitter() is not None:
            raise ValueError("statistics of the whole image are missing")
        values_CYX = pixels_CYX.astype(np.float32)
        for op in [step.op for step in self.steps] if fit is None else fit["ops"]:
            values_CYX = apply_op(op, values_CYX)
        return values_CYX


def apply_op(op: Op, values: NDArray[Any]) -> NDArray[Any]:
    """Apply one op to values (C, ...)."""
    kind, *numbers = op
    a, b = (np.array(number, values.dtype).reshape(-1, *(1,) * (values.ndim - 1)) for number in numbers)
    if kind == "scale":
        return np.asarray((values - a) / b)
    if kind == "linear":
        return np.asarray(values * a + b)
    if kind == "clip":
        return np.asarray(np.clip(values, a, b))
    if kind == "binarize":
        return (values > a).astype(values.dtype)
    return np.asarray(1 / (1 + np.exp(-values)))


@dataclass(frozen=True)
class PreprocessingFitter(Fitter):
    """Counts each channel's values, and fits the numbers of ``zscore`` and ``range`` step by step.

    Exact for integers of 8 and 16 bits. For other types, mean and standard deviation are exact where only linear steps
    come before; percentiles, and statistics after other steps, are within 1 % of the value.
    """

    steps: tuple[Step, ...]

    def observe(self, pixels_CYX: NDArray[Any], valid_YX: NDArray[np.bool_] | None, box: Box, plane: int) -> Summary:
        """Count the valid, finite values of each channel of one block."""
        del box, plane
        bins = Histogram(str(pixels_CYX.dtype))
        kept = [values if valid_YX is None else values[valid_YX] for values in pixels_CYX]
        kept = [values[np.isfinite(values)] if values.dtype.kind == "f" else values for values in kept]
        counts_CV = np.stack([bins.counts(values) for values in kept])
        if bins.exact:
            return {str(pixels_CYX.dtype): counts_CV}
        return {str(pixels_CYX.dtype): counts_CV, "moments": np.stack([sum_moments(values) for values in kept])}

    def fit(self, summary: Summary) -> dict[str, Any]:
        """Return ``{"ops": [...]}``, see :data:`Op`."""
        dtype, counts_CV = next((name, counts) for name, counts in summary.items() if name != "moments")
        values_CV = np.broadcast_to(Histogram(dtype).centers(), counts_CV.shape)
        sums = summary.get("moments")
        ops: list[Op] = []
        for step in self.steps:
            op = step.op
            if step.kind == "range":
                op = _range(step, values_CV, counts_CV)
            elif step.kind == "zscore":
                op = _zscore(step, values_CV, counts_CV) if sums is None else _exact_zscore(step, sums, ops)
            ops.append(op)
            sums = sums if op[0] in ("linear", "scale") else None
            values_CV = apply_op(op, values_CV)
        return {"ops": ops}


def _groups(step: Step, *arrays: NDArray[Any]) -> list[list[NDArray[Any]]]:
    """Return the arrays (C, ...) as one group where statistics are pooled, else one group for each channel."""
    return [[array.ravel() for array in arrays]] if step.pooled else [list(rows) for rows in zip(*arrays, strict=True)]


def _zscore(step: Step, values_CV: NDArray[Any], counts_CV: NDArray[np.int64]) -> Op:
    means, scales = [], []
    for values, counts in _groups(step, values_CV, counts_CV):
        used, total = counts > 0, max(int(counts.sum()), 1)
        mean = float((values[used] * counts[used]).sum() / total)
        variance = float(((values[used] - mean) ** 2 * counts[used]).sum() / total)
        means.append(mean)
        scales.append(variance**0.5 + step.eps)
    return ["scale", means, scales]


def _exact_zscore(step: Step, sums_CME: NDArray[np.int64], before: Sequence[Op]) -> Op:
    """Fit a ``zscore`` from exact sums of the raw values and the linear steps before it."""
    raw = [mean_and_std(sums_ME) for sums_ME in ([sums_CME.sum(0)] if step.pooled and not before else sums_CME)]
    means, stds = (np.array(column, np.float64) for column in zip(*raw, strict=True))
    for kind, a, b in before:
        means = np.ravel(apply_op([kind, a, b], means[:, None]))
        stds = np.ravel(stds / np.array(b) if kind == "scale" else stds * np.abs(a))
    if step.pooled and before:
        count_C = sums_CME[:, 0].sum(1) / sums_CME[:, 0].sum()
        mean = (means * count_C).sum()
        means, stds = np.array([mean]), np.sqrt([((stds**2 + (means - mean) ** 2) * count_C).sum()])
    return ["scale", means.tolist(), (stds + step.eps).tolist()]


def _range(step: Step, values_CV: NDArray[Any], counts_CV: NDArray[np.int64]) -> Op:
    lows, widths = [], []
    for values, counts in _groups(step, values_CV, counts_CV):
        low, high = (_percentile(values, counts, share[0]) for share in (step.a, step.b))
        lows.append(low)
        widths.append(high - low + step.eps)
    return ["scale", lows, widths]


def _percentile(values: NDArray[Any], counts: NDArray[np.int64], share: float) -> float:
    """Return a percentile as numpy does: interpolated between the two nearest values."""
    used = np.flatnonzero(counts)
    if not used.size:
        return 0.0
    order = used[np.argsort(values[used])]
    below = np.cumsum(counts[order])
    rank = share / 100 * int(below[-1] - 1)
    low, high = (float(values[order[np.searchsorted(below, position, side="right")]]) for position in (math.floor(rank), math.ceil(rank)))
    return low + (high - low) * (rank - math.floor(rank))
