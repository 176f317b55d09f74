"""What the classical models share: an image falls into parts, from dark to bright, and each part is of a class."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, Strict, model_validator

from pipeline.errors import Problem
from pipeline.models import Model
from pipeline.validation import problems_error

__all__ = ["PartsModel"]


class PartsModel(Model):
    """Base of models that part each image without having been trained."""

    most_parts: ClassVar[int] = 255

    classes: int = Field(default=2, ge=2, le=255, description="number of classes")
    outputs: Annotated[tuple[int, ...], Strict(strict=False)] | None = Field(
        default=None,
        min_length=2,
        description="class of each part, from the darkest: as many parts as entries, several may share a class; null: a part a class",
    )

    @model_validator(mode="after")
    def _parts_have_classes(self) -> PartsModel:
        wrong_ids = [(at, one) for at, one in enumerate(self.outputs or ()) if not 0 <= one < self.classes]
        problems = [Problem(f"outputs.{at}", str(one), f"a class id, 0..{self.classes - 1}") for at, one in wrong_ids]
        if self.parts > self.most_parts:
            where, found = ("outputs", f"{self.parts} parts") if self.outputs else ("classes", str(self.classes))
            problems.append(Problem(where, found, f"at most {self.most_parts}", "Several parts may share a class: see outputs."))
        if problems:
            raise problems_error(problems)
        return self

    @property
    def parts(self) -> int:
        """How many parts an image falls into."""
        return len(self.outputs) if self.outputs else self.classes

    @property
    def num_classes(self) -> int:
        """As many as asked for."""
        return self.classes

    def classes_of(self, parts: NDArray[np.uint8]) -> NDArray[Any]:
        """Return the class of each part's pixels."""
        return parts if self.outputs is None else np.array(self.outputs, np.uint8)[parts]
