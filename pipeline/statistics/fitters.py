"""All that the fit phase gathers of an image, as one: the model's own statistics and those of the normalisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box
from pipeline.statistics.image_statistics import Fitter, Summary

__all__ = ["Fitters"]


@dataclass(frozen=True)
class Fitters:
    """Several fitters by name; in a summary their arrays are called ``name.array``.

    Attributes:
        by_name: the fitters, such as ``{"model": ..., "normalize": ...}``; empty: images need no statistics.
    """

    by_name: Mapping[str, Fitter] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether there is anything to gather."""
        return bool(self.by_name)

    @property
    def halo(self) -> int:
        """Pixels around a block that must be read for it: what the widest fitter asks for."""
        return max((fitter.halo for fitter in self.by_name.values()), default=0)

    def observe(self, pixels_CYX: NDArray[Any], valid_YX: NDArray[np.bool_] | None, box: Box, plane: int) -> Summary:
        """Summarise one block for every fitter.

        Args:
            pixels_CYX: raw values of the block and of ``halo`` pixels on every side.
            valid_YX: False where there is no data, of the size of ``pixels_CYX``; None: all valid.
            box: where the block lies in the image, without halo, pixels.
            plane: index of the (t, z) plane.
        """
        summary: Summary = {}
        read = box.grow(self.halo)
        for name, fitter in self.by_name.items():
            rows, cols = box.grow(fitter.halo).relative_to(read).slices
            seen_YX = None if valid_YX is None else valid_YX[rows, cols]
            arrays = fitter.observe(pixels_CYX[:, rows, cols], seen_YX, box, plane)
            summary.update({f"{name}.{key}": value for key, value in arrays.items()})
        return summary

    def merge(self, first: Summary, second: Summary) -> Summary:
        """Add two summaries; the order never matters."""
        merged: Summary = {}
        for name, fitter in self.by_name.items():
            arrays = fitter.merge(_arrays_of(name, first), _arrays_of(name, second))
            merged.update({f"{name}.{key}": value for key, value in arrays.items()})
        return merged

    def conclude(self, total: Summary) -> dict[str, Any]:
        """Fit the sum over an image: plain JSON, by fitter."""
        return {name: fitter.fit(_arrays_of(name, total)) for name, fitter in self.by_name.items()}


def _arrays_of(name: str, summary: Summary) -> Summary:
    return {key.removeprefix(f"{name}."): value for key, value in summary.items() if key.startswith(f"{name}.")}
