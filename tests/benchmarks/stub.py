"""A threshold of fixed level: a model that costs next to nothing, so that benchmarks see what is around it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from pipeline.config import Recipe
from pipeline.models import Model, Predict

__all__ = ["Stub"]


class Stub(Model):
    """Class 1 where the first channel is at least 128.

    Example::

        model: {name: tests.benchmarks.stub}
    """

    @property
    def num_classes(self) -> int:
        """Dark and bright."""
        return 2

    @property
    def field(self) -> int:
        """A pixel changes no other."""
        return 0

    @contextmanager
    def open(self, recipe: Recipe, normalize: Mapping[str, Any] | None = None) -> Iterator[Predict]:
        """Nothing to load."""
        yield lambda pixels_BCYX, fits: (pixels_BCYX[:, 0] >= 128).view(np.uint8)
