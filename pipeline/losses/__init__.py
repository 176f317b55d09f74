"""Losses: what training minimises, as quotients that add over workers and small batches, which means would not.

Owns: the losses, class weights, pixel weights, which pixels count.
May import: base modules; torch only inside functions. Never touches: networks, optimizers, files.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, Strict, field_validator

from pipeline.errors import InputError, Problem
from pipeline.plugins import Plugin

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

__all__ = ["ClassAreas", "ClassWeighted", "Loss", "Term", "as_two_classes", "mask_ignored", "one_hot"]


@dataclass(frozen=True)
class ClassAreas:
    """Areas of the classes in the training images, from which class weights follow."""

    pixels: tuple[int, ...]  # number of pixels of each class
    present: tuple[int, ...]  # number of pixels, without ignored ones, in the images in which the class occurs


@dataclass(frozen=True)
class Term:
    """One part of a loss, as a quotient."""

    total: torch.Tensor  # scalar with a gradient, the sum over items
    count: torch.Tensor  # scalar without a gradient, the divisor (the sum of pixel weights, the number of pairs of image and class, ...)
    factor: float = 1.0  # weight of the part in the loss

    def value(self) -> torch.Tensor:
        """Return ``factor * total / count``; 0 with a gradient of zero where ``count`` is 0.

        Example:
            >>> import torch
            >>> Term(torch.tensor(3.0), torch.tensor(4.0), factor=2.0).value().item()
            1.5
        """
        import torch

        has_items = self.count > 0
        return self.factor * torch.where(has_items, self.total, 0) / torch.where(has_items, self.count, 1)


class Loss(Plugin):
    """Base of the losses."""

    model_config = ConfigDict(allow_inf_nan=False)

    @abstractmethod
    def terms(self, logits_BKYX: torch.Tensor, truth_BYX: torch.Tensor, weights_BYX: torch.Tensor | None = None) -> list[Term]:
        """Compare logits with truth.

        Args:
            logits_BKYX: float; 16-bit types are computed in float32. K = 1: two classes, class 1 where the logit is above 0.
            truth_BYX: class ids, any integer type; pixels with another value are ignored, and have no gradient.
            weights_BYX: result of :meth:`pixel_weights` for each crop, at least 0; None: all 1.
        """

    def __call__(self, logits_BKYX: torch.Tensor, truth_BYX: torch.Tensor, weights_BYX: torch.Tensor | None = None) -> torch.Tensor:
        """Return the loss of one batch, a scalar: the sum of the values of its terms."""
        import torch

        return torch.stack([term.value() for term in self.terms(logits_BKYX, truth_BYX, weights_BYX)]).sum()

    def with_class_weights(self, areas: ClassAreas) -> Self:
        """Return the loss with numbers in place of class weights that the YAML names; refuse another number of classes."""
        return self

    @property
    def needs_instances(self) -> bool:
        """Whether :meth:`pixel_weights` needs the truth's instance ids."""
        return False

    def pixel_weights(self, instances_YX: NDArray[Any]) -> NDArray[np.float32] | None:
        """Return the weight of each pixel of one crop, (Y, X), from its instance ids (0 and below: none); None: all weigh 1."""
        return None


def mask_ignored(
    logits_BKYX: torch.Tensor, truth_BYX: torch.Tensor, weights_BYX: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Make ignored pixels harmless: they get logit 0 without a gradient, class 0 and weight 0.

    Ignored are pixels whose truth is no class and those of weight 0; their logits may be NaN.

    Returns:
        Logits (B, K, Y, X), float32, or float64 as given; truth (B, Y, X), int64; weights (B, Y, X), as the logits.

    Example:
        >>> import torch
        >>> logits_BKYX = torch.tensor([[[[5.0, float("nan")]], [[1.0, 2.0]]]])
        >>> [part.tolist() for part in mask_ignored(logits_BKYX, torch.tensor([[[1, 255]]]), None)]
        [[[[[5.0, 0.0]], [[1.0, 0.0]]]], [[[1, 0]]], [[[1.0, 0.0]]]]
    """
    import torch

    scores_BKYX = logits_BKYX if logits_BKYX.dtype == torch.float64 else logits_BKYX.float()
    ids_BYX = truth_BYX.long()  # torch cannot compare uint16
    ignored_BYX = (ids_BYX < 0) | (ids_BYX >= max(2, scores_BKYX.shape[1]))
    if weights_BYX is None:
        weights_BYX = torch.ones_like(scores_BKYX[:, 0])
    else:
        ignored_BYX |= weights_BYX == 0
    return (
        scores_BKYX.masked_fill(ignored_BYX[:, None], 0),
        ids_BYX.masked_fill(ignored_BYX, 0),
        weights_BYX.to(scores_BKYX.dtype).masked_fill(ignored_BYX, 0),
    )


def as_two_classes(scores_BKYX: torch.Tensor) -> torch.Tensor:
    """Return logits of K >= 2 classes: one logit z becomes (0, z), whose softmax is the sigmoid of z."""
    import torch

    return torch.cat([torch.zeros_like(scores_BKYX), scores_BKYX], 1) if scores_BKYX.shape[1] == 1 else scores_BKYX


def one_hot(truth_BYX: torch.Tensor, classes: int) -> torch.Tensor:
    """Return whether a pixel has a class, (B, K, Y, X), bool."""
    import torch

    return truth_BYX[:, None] == torch.arange(classes, device=truth_BYX.device)[:, None, None]


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
        make = {"median_frequency": _median_frequency, "inverse": _inverse_frequency}[self.class_weights]
        return self.model_copy(update={"class_weights": make(areas)})

    def _numbers(self, classes: int) -> Sequence[float]:
        if not isinstance(self.class_weights, tuple):
            raise TypeError(f"class_weights: {self.class_weights} has no numbers yet")
        if len(self.class_weights) != classes:
            raise InputError(Problem("loss.class_weights", f"{len(self.class_weights)} numbers", f"{classes}, one for each class"))
        return self.class_weights


def _median_frequency(areas: ClassAreas) -> tuple[float, ...]:
    """Return the weight of each class by median frequency balancing: the median frequency over that of the class.

    The frequency of a class is its share of the pixels of the images in which it occurs. A class without pixels weighs 1.
    (Eigen and Fergus 2015.)

    Example:
        >>> _median_frequency(ClassAreas(pixels=(50, 25, 25), present=(100, 100, 50)))
        (1.0, 2.0, 1.0)
    """
    shares = [pixels / present if pixels else 0.0 for pixels, present in zip(areas.pixels, areas.present, strict=True)]
    middle = median([share for share in shares if share] or [0.0])
    return tuple(middle / share if share else 1.0 for share in shares)


def _inverse_frequency(areas: ClassAreas) -> tuple[float, ...]:
    """Return the weight of each class by inverse frequency: the pixels of all classes weigh the same in sum, and 1 on average.

    A class without pixels weighs 1. (King and Zeng 2001.)

    Example:
        >>> _inverse_frequency(ClassAreas(pixels=(75, 25), present=(100, 100)))
        (0.6666666666666666, 2.0)
    """
    num_present = sum(1 for pixels in areas.pixels if pixels)
    return tuple(sum(areas.pixels) / (num_present * pixels) if pixels else 1.0 for pixels in areas.pixels)
