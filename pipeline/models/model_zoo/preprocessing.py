"""What a package does to pixels before its network, with statistics of the whole image, and to the network's output.

Steps of a resource description become :class:`Step`, and :data:`Op` once the statistics of an image are known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError, Problem
from pipeline.geometry import Box
from pipeline.statistics import Fitter, Histogram, Summary

__all__ = ["Op", "Preprocessing", "PreprocessingFitter", "Step", "mean_and_std", "read_postprocessing", "read_preprocessing", "sum_moments"]

_PREPROCESSING = "ensure_dtype, scale_linear, zero_mean_unit_variance, fixed_zero_mean_unit_variance, scale_range, clip, binarize, sigmoid"
_POSTPROCESSING = "ensure_dtype, sigmoid, softmax, binarize, clip to 0..1"
_FLOAT_MAX = 3.4028234663852886e38  # in place of infinity, which JSON does not have

_HALF = 2**12  # a mantissa of 24 bits is split in halves, so that sums of millions of products stay exact
_EXPONENTS = 2**8
_PIECE = 2**18  # values at a time, as the intermediate arrays are ten times as large

Op = Sequence[Any]
"""A step with all its numbers as plain JSON: ``[kind, a, b]``; a and b hold one number, or one for each channel.

``scale``: (x - a) / b. ``linear``: x * a + b. ``clip``: limit to a..b. ``binarize``: 1 above a, else 0. ``sigmoid``.
"""


@dataclass(frozen=True)
class Step:
    """One step; ``zscore`` and ``range`` become an :data:`Op` once the image's statistics are known."""

    kind: Literal["linear", "scale", "clip", "binarize", "sigmoid", "zscore", "range"]  # of an :data:`Op`, or ``zscore`` or ``range``
    a: tuple[float, ...] = ()  # as in the op; for ``range`` the lower percentile
    b: tuple[float, ...] = ()  # as in the op; for ``range`` the upper percentile
    pooled: bool = False  # whether all channels share their statistics
    eps: float = 1e-6  # added to the divisor of ``zscore`` and ``range``

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
        return PreprocessingFitter(self.steps) if any(step.kind in ("zscore", "range") for step in self.steps) else None

    def apply(self, pixels_CYX: NDArray[Any], fit: dict[str, Any] | None) -> NDArray[np.float32]:
        """Return the network's input, float32, from raw values; ``fit`` is what the fitter returned, None where no step needs statistics.

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
        """Count the valid values of each channel of one block."""
        bins = Histogram(str(pixels_CYX.dtype))
        kept = [values if valid_YX is None else values[valid_YX] for values in pixels_CYX]
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
    """Divide arrays (C, ...): one group where statistics are pooled, else one for each channel."""
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


def read_preprocessing(file: Path, entries: Sequence[Mapping[str, Any]], channels: Any) -> Preprocessing:
    """Read the list under ``preprocessing`` of the description ``file``; ``channels`` of the input, as the description has them.

    Raises:
        InputError: a step is not supported, or its axes leave out y or x.
    """
    steps = []
    for entry in entries:
        name, options = _name_and_options(entry)
        where = f"{file}: preprocessing {name}"
        if name == "ensure_dtype":
            if options.get("dtype") not in ("float32", "float64"):
                raise InputError(Problem(where, str(options.get("dtype")), "float32"))
            continue
        steps.append(_step(name, options, where, channels))
    return Preprocessing(tuple(steps))


def _name_and_options(entry: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    return str(entry.get("id") or entry.get("name")), entry.get("kwargs") or {}


def _step(name: str, options: Mapping[str, Any], where: str, channels: Any) -> Step:
    eps = float(options.get("eps", 1e-6))
    if options.get("axis", "channel") != "channel":
        raise InputError(Problem(where, f"numbers along {options['axis']}", "numbers along the channels"))
    if name == "fixed_zero_mean_unit_variance":
        return Step("scale", _numbers(options["mean"]), _numbers(options["std"]))
    if name == "zero_mean_unit_variance" and options.get("mode", "fixed") == "fixed" and "mean" in options:
        return Step("scale", _numbers(options["mean"]), tuple(std + eps for std in _numbers(options["std"])))
    if name == "zero_mean_unit_variance":
        return Step("zscore", pooled=_pooled(options, where, channels), eps=eps)
    if name == "scale_range" and options.get("reference_tensor") is None:
        shares = _numbers(options.get("min_percentile", 0.0)), _numbers(options.get("max_percentile", 100.0))
        return Step("range", *shares, pooled=_pooled(options, where, channels), eps=eps)
    if name == "scale_linear":
        return Step("linear", _numbers(options.get("gain", 1.0)), _numbers(options.get("offset", 0.0)))
    if name == "clip":
        low, high = (
            (sign * _FLOAT_MAX if end is None else float(end)) for sign, end in ((-1, options.get("min")), (1, options.get("max")))
        )
        return Step("clip", (low,), (high,))
    if name == "binarize":
        return Step("binarize", _numbers(options["threshold"]), (0.0,))
    if name == "sigmoid":
        return Step("sigmoid", (0.0,), (0.0,))
    raise InputError(Problem(where, "a step that is not supported", _PREPROCESSING))


def _numbers(value: Any) -> tuple[float, ...]:
    return tuple(float(number) for number in value) if isinstance(value, Sequence) else (float(value),)


def _pooled(options: Mapping[str, Any], where: str, channels: Any) -> bool:
    """Return whether channels share their statistics; y and x must be among the axes."""
    axes = options.get("axes")
    if axes is None:
        return True
    short = {"batch": "b", "channel": "c"}
    found = {short.get(str(axis), str(axis)) for axis in axes}
    if not {"x", "y"} <= found:
        raise InputError(Problem(where, f"axes {sorted(found)}", "y and x among them: statistics of the whole image"))
    return "c" in found and channels != 1


def read_postprocessing(file: Path, entries: Sequence[Mapping[str, Any]]) -> tuple[str | None, float]:
    """Read the activation after the network, if any, and the threshold of a final ``binarize``, else 0.5.

    Raises:
        InputError: a step is not supported.
    """
    activation, threshold = None, 0.5
    for entry in entries:
        name, options = _name_and_options(entry)
        if name in ("sigmoid", "softmax") and activation is None and options.get("axis", "channel") == "channel":
            activation = name
        elif name == "binarize" and isinstance(options.get("threshold"), (int, float)) and 0 < options["threshold"] < 1:
            threshold = float(options["threshold"])
        elif name != "ensure_dtype" and not (name == "clip" and (options.get("min"), options.get("max")) == (0, 1)):
            raise InputError(Problem(f"{file}: postprocessing {name}", str(dict(options)), _POSTPROCESSING))
    return activation, threshold


def sum_moments(values: NDArray[Any]) -> NDArray[np.int64]:
    """Sum finite values, rounded to float32, as integers, which add in any order.

    Returns:
        Sums by exponent, int64 (5, 256): count, mantissa, and the three products of the mantissa's halves.
    """
    flat = np.ascontiguousarray(values, np.float32).ravel().view(np.uint32)
    sums = np.zeros((5, _EXPONENTS), np.int64)
    for start in range(0, flat.size, _PIECE):
        bits = flat[start : start + _PIECE]
        exponents = ((bits >> 23) & 0xFF).astype(np.intp)
        mantissa = (bits & 0x7FFFFF).astype(np.int64)
        mantissa[exponents > 0] += 2**23
        high, low = mantissa >> 12, mantissa & (_HALF - 1)
        signed = np.where(bits >> 31 == 1, -mantissa, mantissa)
        # bincount adds in float64, which is exact up to 2**53.
        terms = (np.ones_like(high), signed, high * high, high * low, low * low)
        sums += np.stack([np.bincount(exponents, term, _EXPONENTS) for term in terms]).astype(np.int64)
    return sums


def mean_and_std(sums: NDArray[np.int64]) -> tuple[float, float]:
    """Return the exact mean and standard deviation of the values that :func:`sum_moments` summed; (0, 1) without values."""
    count, first, squares = 0, Fraction(0), Fraction(0)
    for exponent in np.flatnonzero(sums[0]).tolist():
        number, mantissa, high, middle, low = (int(row[exponent]) for row in sums)
        unit = Fraction(2) ** (max(exponent, 1) - 150)
        count += number
        first += mantissa * unit
        squares += (high * _HALF**2 + 2 * middle * _HALF + low) * unit**2
    if not count:
        return 0.0, 1.0
    mean = first / count
    return float(mean), math.sqrt(squares / count - mean**2)
