"""Stain normalisation of H&E: maps a slide's colours, fitted once to its tissue, to those of a reference.

Both methods are fitted to a joint histogram of the colours, 32 bins a channel: integers, which add over blocks. The fit is
a pure function of their sum, so it does not depend on the cut into blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box
from pipeline.statistics.fitters import Fitter, Histogram, Summary
from pipeline.statistics.normalization import NormalizationFitter

__all__ = ["StainFitter", "recolor"]

BITS = 3  # low bits of a channel that a bin ignores
SIDE = 256 >> BITS  # bins a channel
LEAST_PIXELS = 1000  # a fit to fewer stained pixels is not trusted

# Macenko et al., A method for normalizing histology slides for quantitative analysis, ISBI 2009, with the reference stains
# (haematoxylin, eosin) and concentrations of the authors' published code.
LIGHT, FAINT, ANGLE, STRONG = 240.0, 0.15, 1.0, 99.0
STAINS = np.array([[0.5626, 0.2159], [0.7201, 0.8012], [0.4062, 0.5581]])
CONCENTRATIONS = np.array([1.9705, 1.0308])

# Reinhard et al., Color transfer between images, IEEE CG&A 21(5), 2001; the reference is the slide TCGA-A2-A3XS of HistomicsTK.
TO_LMS = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])
TO_LAB = np.diag([3**-0.5, 6**-0.5, 2**-0.5]) @ np.array([[1.0, 1.0, 1.0], [1.0, 1.0, -2.0], [1.0, -1.0, 0.0]])
MEAN = np.array([8.74108109, -0.12440419, 0.0444982])
STD = np.array([0.6135447, 0.10989545, 0.0286032])
PIXELS = 1 << 18  # recoloured at a time, so that temporary arrays stay in the cache


@dataclass(frozen=True)
class StainFitter(Fitter):
    """Fits the colours of one slide, and percentiles or z-scores of the recoloured slide if the network needs them."""

    kind: Literal["macenko", "reinhard"]
    normalize: Literal["percentile", "zscore"] | None = None

    def observe(self, pixels_CYX: NDArray[Any], valid_YX: NDArray[np.bool_] | None, box: Box, plane: int) -> Summary:
        """Count the valid pixels of each colour."""
        del box, plane
        red, green, blue = (pixels_CYX if valid_YX is None else pixels_CYX[:, valid_YX]).reshape(3, -1).astype(np.int64) >> BITS
        return {"colors": np.bincount((red * SIDE + green) * SIDE + blue, minlength=SIDE**3).astype(np.int64)}

    def fit(self, summary: Summary) -> dict[str, Any]:
        """Return the map that :func:`recolor` applies; empty if the slide has too little stain.

        With ``normalize`` also ``{"normalize": {"mean", "std"}}`` of the recoloured pixels.
        """
        (counts,) = summary.values()
        used = np.flatnonzero(counts)
        weights = counts[used]
        colors = np.stack(np.unravel_index(used, (SIDE,) * 3), axis=-1).astype(np.float64) * (1 << BITS) + ((1 << BITS) - 1) / 2
        found = _macenko(colors, weights) if self.kind == "macenko" else _reinhard(colors, weights)
        if self.normalize is None:
            return found
        shown = recolor(np.rint(colors).T.astype(np.uint8)[:, None], found)[:, 0]
        values = np.stack([np.bincount(channel, weights=weights, minlength=256) for channel in shown]).astype(np.int64)
        assert values.shape[1] == Histogram("uint8").size
        return {**found, "normalize": NormalizationFitter(self.normalize).fit({"uint8": values})}


def recolor(pixels_CYX: NDArray[np.uint8], fit: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Return RGB pixels in the colours of the reference; unchanged if the slide has too little stain."""
    if "matrix" not in fit:
        return pixels_CYX
    matrix, shift = np.array(fit["matrix"], np.float32), np.array(fit["shift"], np.float32)[:, None]
    is_reinhard = fit["kind"] == "reinhard"
    to_lms, from_lms = TO_LMS.astype(np.float32), np.linalg.inv(TO_LMS).astype(np.float32)
    # Both methods are a linear map of logarithms: of RGB, or of the cone responses (LMS).
    flat = pixels_CYX.reshape(3, -1)
    out = np.empty_like(flat)
    for start in range(0, flat.shape[1], PIXELS):
        part = flat[:, start : start + PIXELS].astype(np.float32) + 1
        light = np.exp(matrix @ np.log(to_lms @ part if is_reinhard else part) + shift)
        out[:, start : start + PIXELS] = np.clip(np.rint(from_lms @ light - 1 if is_reinhard else light), 0, 255)
    return out.reshape(pixels_CYX.shape)


def _macenko(colors: NDArray[np.float64], weights: NDArray[np.int64]) -> dict[str, Any]:
    """Return the map from log(RGB + 1) of the slide to log(RGB) of the reference."""
    density = -np.log((colors + 1) / LIGHT)
    stained = (density >= FAINT).all(axis=1)
    if weights[stained].sum() < LEAST_PIXELS:
        return {}
    seen, seen_weights = density[stained], weights[stained]
    vectors = np.linalg.eigh(np.cov(seen.T, fweights=seen_weights))[1][:, 1:]
    vectors = np.asarray(vectors) * np.where(np.sum(vectors, axis=0) < 0, -1, 1)  # an eigenvector has no sign; stains absorb light
    angles = np.arctan2(seen @ vectors[:, 1], seen @ vectors[:, 0])
    ends = [vectors @ [np.cos(angle), np.sin(angle)] for angle in _percentiles(angles, seen_weights, (ANGLE, 100 - ANGLE))]
    stains = np.stack(sorted(ends, key=lambda stain: -float(np.asarray(stain)[0])), axis=1)  # haematoxylin absorbs more red
    unmix = np.linalg.pinv(stains)
    strong = np.array([_percentiles(amounts, weights, (STRONG,))[0] for amounts in unmix @ density.T])
    if (strong <= 0).any() or np.linalg.cond(stains) > 100:
        return {}
    matrix = STAINS @ np.diag(CONCENTRATIONS / strong) @ unmix
    shift = np.log(LIGHT) - matrix @ np.full(3, np.log(LIGHT))
    return {"kind": "macenko", "matrix": matrix.tolist(), "shift": shift.tolist(), "stains": stains.T.tolist()}


def _reinhard(colors: NDArray[np.float64], weights: NDArray[np.int64]) -> dict[str, Any]:
    """Return the map of log cone responses (LMS) that gives the reference's mean and standard deviation."""
    if weights.sum() < LEAST_PIXELS:
        return {}
    lab = np.log((colors + 1) @ TO_LMS.T) @ TO_LAB.T
    mean = np.average(lab, axis=0, weights=weights)
    std = np.sqrt(np.average((lab - mean) ** 2, axis=0, weights=weights))
    if (std <= 1e-6).any():
        return {}
    back = np.linalg.inv(TO_LAB)
    matrix = back @ np.diag(STD / std) @ TO_LAB
    return {"kind": "reinhard", "matrix": matrix.tolist(), "shift": (back @ (MEAN - STD / std * mean)).tolist()}


def _percentiles(values: NDArray[np.float64], weights: NDArray[np.int64], shares: tuple[float, ...]) -> list[float]:
    """Return weighted percentiles: the smallest value that at least this share of pixels does not exceed."""
    order = np.argsort(values, kind="stable")
    below = np.cumsum(weights[order])
    return [float(values[order][np.searchsorted(below, share / 100 * below[-1])]) for share in shares]
