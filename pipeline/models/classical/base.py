"""The base of the models that segment an image without training."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, Strict, model_validator

from pipeline.errors import Problem
from pipeline.models import Model
from pipeline.validation import problems_error

__all__ = ["ClassicalModel"]


class ClassicalModel(Model):
    """A model that divides each image into parts, from dark to bright, and gives each part a class."""

    max_parts: ClassVar[int] = 255

    classes: int = Field(default=2, ge=2, le=255, description="number of classes")
    outputs: Annotated[tuple[int, ...], Strict(strict=False)] | None = Field(
        default=None,
        min_length=2,
        description="class of each part, from the darkest: as many parts as entries, several may share a class; null: a part a class",
    )

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

    @property
    def num_classes(self) -> int:
        """As given."""
        return self.classes

    def classes_of(self, parts: NDArray[np.uint8]) -> NDArray[Any]:
        """Return the class id of each pixel.

        Args:
            parts: part of each pixel, of any shape.
        """
        return parts if self.outputs is None else np.array(self.outputs, np.uint8)[parts]
