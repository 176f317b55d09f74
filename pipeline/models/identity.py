"""Images that hold class ids already."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.config import Recipe
from pipeline.models import Model, PredictFunction, fact_of
from pipeline.statistics import ImageFit

__all__ = ["Identity"]


class Identity(Model):
    """Takes the first channel as the mask, to score, export or copy masks that were made elsewhere.

    255 (65535 above 8 bits) means no prediction; a block with any other value that is no class id fails.

    Example::

        model: {name: identity, classes: 2}
    """

    takes_ids: ClassVar[bool] = True  # the engine checks the ids, because it can name the position of a pixel that is none
    field: ClassVar[int] = 0

    classes: int = Field(ge=2, le=65535, description="number of classes; a value that is none of their ids fails")
    num_classes: ClassVar[int] = fact_of("classes")

    @contextmanager
    def open(self, recipe: Recipe, normalize: Mapping[str, Any] | None = None) -> Iterator[PredictFunction]:
        """Load nothing."""
        kind = np.dtype(np.uint8 if self.classes <= 255 else np.uint16)
        fill = kind.type(255 if self.classes <= 255 else 65535)

        def predict(pixels_BCYX: NDArray[Any], _: Sequence[ImageFit]) -> NDArray[Any]:
            ids_BYX = pixels_BCYX[:, 0]
            known_BYX = (ids_BYX >= 0) & (ids_BYX < self.classes)
            return np.where(known_BYX, ids_BYX, fill).astype(kind)

        yield predict
