"""Losses that are a mean over pixels, weighted by class and by pixel."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, Strict, field_validator

from pipeline.errors import InputError, Problem
from pipeline.losses import ClassAreas, Loss, Term, as_two_classes, mask_ignored

if TYPE_CHECKING:
    import torch

__all__ = ["ClassWeighted", "inverse_frequency", "median_frequency"]


class ClassWeighted(Loss):
    """Base of these losses: the sum of weight times loss over pixels, divided by the sum of weights."""

    class_weights: (
        Literal["none", "median_frequency", "inverse"]
        | Annotated[tuple[Annotated[float, Field(ge=0)], ...], Strict(strict=False), Field(min_length=2)]
    ) = Field(default="none", description="how much a pixel of each class counts: none, median_frequency, inverse, or a number each")

    @field_validator("class_weights")
    @classmethod
    def _some_count(cls, class_weights: str | tuple[float, ...]) -> str | tuple[float, ...]:
        if isinstance(class_weights, tuple) and not any(class_weights):
            raise ValueError("at least one number above 0")
        return class_weights

    @abstractmethod
    def losses(self, scores_BKYX: torch.Tensor, truth_BYX: torch.Tensor) -> torch.Tensor:
        """Return the loss of each pixel before any weight, (B, Y, X); K is at least 2 and every truth is a class."""

    def weigh(self, classes_BYX: torch.Tensor, pixels_BYX: torch.Tensor) -> torch.Tensor:
        """Return the weight of each pixel, from that of its class and its own, which is 0 where the pixel is ignored."""
        return classes_BYX * pixels_BYX

    def terms(self, logits_BKYX: torch.Tensor, truth_BYX: torch.Tensor, weights_BYX: torch.Tensor | None = None) -> list[Term]:
        """Return one term: the weighted mean over pixels."""
        import torch

        scores_BKYX, ids_BYX, pixels_BYX = mask_ignored(logits_BKYX, truth_BYX, weights_BYX)
        scores_BKYX = as_two_classes(scores_BKYX)
        weighed_BYX = pixels_BYX
        if self.class_weights != "none":
            numbers_K = torch.tensor(self._numbers(scores_BKYX.shape[1]), dtype=scores_BKYX.dtype, device=scores_BKYX.device)
            weighed_BYX = self.weigh(numbers_K[ids_BYX], pixels_BYX)
        return [Term((weighed_BYX * self.losses(scores_BKYX, ids_BYX)).sum(), weighed_BYX.sum())]

    def with_class_weights(self, areas: ClassAreas) -> Self:
        """Return the loss with a number for each class."""
        if self.class_weights == "none":
            return self
        if isinstance(self.class_weights, tuple):
            self._numbers(len(areas.pixels))
            return self
        make = {"median_frequency": median_frequency, "inverse": inverse_frequency}[self.class_weights]
        return self.model_copy(update={"class_weights": make(areas)})

    def _numbers(self, classes: int) -> Sequence[float]:
        if not isinstance(self.class_weights, tuple):
            raise TypeError(f"class_weights: {self.class_weights} has no numbers yet")
        if len(self.class_weights) != classes:
            raise InputError(Problem("loss.class_weights", f"{len(self.class_weights)} numbers", f"{classes}, one for each class"))
        return self.class_weights


def median_frequency(areas: ClassAreas) -> tuple[float, ...]:
    """Return the weight of each class by median frequency balancing: the median frequency over that of the class.

    The frequency of a class is its share of the pixels of the images in which it occurs. A class without pixels weighs 1.
    (Eigen and Fergus 2015.)

    Example:
        >>> median_frequency(ClassAreas(pixels=(50, 25, 25), present=(100, 100, 50)))
        (1.0, 2.0, 1.0)
    """
    shares = [pixels / present if pixels else 0.0 for pixels, present in zip(areas.pixels, areas.present, strict=True)]
    middle = median([share for share in shares if share] or [0.0])
    return tuple(middle / share if share else 1.0 for share in shares)


def inverse_frequency(areas: ClassAreas) -> tuple[float, ...]:
    """Return the weight of each class by inverse frequency: the pixels of all classes weigh the same in sum, and 1 on average.

    A class without pixels weighs 1. (King and Zeng 2001.)

    Example:
        >>> inverse_frequency(ClassAreas(pixels=(75, 25), present=(100, 100)))
        (0.6666666666666666, 2.0)
    """
    num_present = sum(1 for pixels in areas.pixels if pixels)
    return tuple(sum(areas.pixels) / (num_present * pixels) if pixels else 1.0 for pixels in areas.pixels)
