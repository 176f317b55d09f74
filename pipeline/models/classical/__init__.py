"""What the models without a network share: grey values, samples of pixels, thresholds, minimum cuts.

Owns: arithmetic on raw pixels whose result does not depend on the tiling. May import: models, statistics and below.
Never touches: torch, networks. scipy and scikit-learn are imported where they compute.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, Strict, model_validator

from pipeline.config import Recipe
from pipeline.errors import Problem
from pipeline.models import Model, PredictFunction, fact_of
from pipeline.models.classical.alpha_expansion import Energy, minimise, neighbour_steps
from pipeline.models.classical.grey_values import GreyFitter, GreyValues, gaussian_weights, unpack_counts, window_sum
from pipeline.models.classical.pixel_samples import PixelFeatures, SampleFitter, find_centers
from pipeline.models.classical.thresholds import li_threshold, otsu_thresholds, triangle_threshold
from pipeline.statistics import ImageFit
from pipeline.validation import problems_error

__all__ = [
    "ClassicalModel",
    "Energy",
    "GreyFitter",
    "GreyValues",
    "PixelFeatures",
    "SampleFitter",
    "find_centers",
    "gaussian_weights",
    "li_threshold",
    "minimise",
    "neighbour_steps",
    "otsu_thresholds",
    "triangle_threshold",
    "unpack_counts",
    "window_sum",
]


class ClassicalModel(Model):
    """A model that divides each image into parts, from dark to bright, and gives each part a class."""

    max_parts: ClassVar[int] = 255

    classes: int = Field(default=2, ge=2, le=255, description="number of classes")
    outputs: Annotated[tuple[int, ...], Strict(strict=False)] | None = Field(
        default=None,
        min_length=2,
        description="class of each part, from the darkest: as many parts as entries, several may share a class; null: a part a class",
    )

    num_classes: ClassVar[int] = fact_of("classes")

    @model_validator(mode="after")
    def _parts_have_classes(self) -> ClassicalModel:
        wrong_ids = [(part, class_id) for part, class_id in enumerate(self.outputs or ()) if not 0 <= class_id < self.classes]
        problems = [Problem(f"outputs.{part}", str(class_id), f"a class id, 0..{self.classes - 1}") for part, class_id in wrong_ids]
        if self.num_parts > self.max_parts:
            where, found = ("outputs", f"{self.num_parts} parts") if self.outputs else ("classes", str(self.classes))
            problems.append(Problem(where, found, f"at most {self.max_parts}", "Several parts may share a class: see outputs."))
        if problems:
            raise problems_error(problems)
        return self

    @property
    def num_parts(self) -> int:
        """Number of parts that an image is divided into."""
        return len(self.outputs) if self.outputs else self.classes

    @contextmanager
    def open(self, recipe: Recipe, normalize: Mapping[str, Any] | None = None) -> Iterator[PredictFunction]:
        """Load nothing: what depends on the image comes with its fit."""
        yield self._predict

    def _predict(self, pixels_BCYX: NDArray[Any], fits: Sequence[ImageFit]) -> NDArray[Any]:
        return np.stack([self.segment(pixels_CYX, fit.get("model", {})) for pixels_CYX, fit in zip(pixels_BCYX, fits, strict=True)])

    @abstractmethod
    def segment(self, pixels_CYX: NDArray[Any], fit: Mapping[str, Any]) -> NDArray[np.uint8]:
        """Return the class ids (Y, X) of one tile; ``fit`` is what the model's fitter found for the image."""

    def classes_of(self, parts_YX: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the class id of each pixel's part."""
        return parts_YX if self.outputs is None else np.array(self.outputs, np.uint8)[parts_YX]
