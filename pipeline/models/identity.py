"""No model: the image already holds class ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pydantic import Field

from pipeline.models import Model, Predict
from pipeline.recipe import Recipe

__all__ = ["Identity"]


class Identity(Model):
    """Takes the first channel for the mask: to score, export or copy masks that were made elsewhere.

    Example::

        model: {name: identity, classes: 2}
    """

    classes: int = Field(default=255, ge=2, le=65535, description="number of classes; ids above are no prediction")

    @property
    def num_classes(self) -> int:
        """As many as said."""
        return self.classes

    @property
    def field(self) -> int:
        """A pixel is its own class."""
        return 0

    @contextmanager
    def open(self, recipe: Recipe, normalize: Mapping[str, Any] | None = None) -> Iterator[Predict]:
        """Nothing to load."""
        yield lambda pixels_BCYX, _: pixels_BCYX[:, 0]
