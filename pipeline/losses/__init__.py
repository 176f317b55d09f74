"""Losses: what training makes small.

A loss gives its parts as quotients (:class:`Term`): a sum over items and how many items there were. Numerators and
denominators of several workers, or of several small batches, add up to those of one large batch; means do not.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from pydantic import ConfigDict

from pipeline.losses._pixels import counted, one_hot, two_classes
from pipeline.plugins import Plugin

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

__all__ = ["Areas", "Loss", "Term", "counted", "one_hot", "two_classes"]


@dataclass(frozen=True)
class Areas:
    """Pixels of each class over the training images, from which class weights are made.

    Attributes:
        pixels: of each class.
        present: all pixels, ignored ones apart, of the images in which the class occurs.
    """

    pixels: tuple[int, ...]
    present: tuple[int, ...]


@dataclass(frozen=True)
class Term:
    """One part of a loss, as a quotient.

    Attributes:
        total: scalar, differentiable: the sum over items.
        count: scalar, no gradient: what it is divided by (summed pixel weights; pairs of image and class; ...).
        factor: how much the part counts.
    """

    total: torch.Tensor
    count: torch.Tensor
    factor: float = 1.0

    def value(self) -> torch.Tensor:
        """Return ``factor * total / count``; 0, with a gradient of zero, where nothing was counted.

        Example:
            >>> import torch
            >>> Term(torch.tensor(3.0), torch.tensor(4.0), factor=2.0).value().item()
            1.5
            >>> Term(torch.tensor(0.0), torch.tensor(0.0)).value().item()
            0.0
        """
        import torch

        counted = self.count > 0
        return self.factor * torch.where(counted, self.total, 0) / torch.where(counted, self.count, 1)


class Loss(Plugin):
    """Base of the losses."""

    model_config = ConfigDict(allow_inf_nan=False)

    @abstractmethod
    def terms(self, logits_BKYX: torch.Tensor, truth_BYX: torch.Tensor, weights_BYX: torch.Tensor | None = None) -> list[Term]:
        """Compare logits with truth.

        Args:
            logits_BKYX: float; 16-bit types are computed in float32. K = 1: two classes, class 1 where the logit is above 0.
            truth_BYX: class ids, any integer type; pixels with any other value are ignored: they have no gradient.
            weights_BYX: of each pixel, at least 0, as :meth:`pixel_weights` made them; None: all 1.

        Returns:
            The parts of the loss.
        """

    def __call__(self, logits_BKYX: torch.Tensor, truth_BYX: torch.Tensor, weights_BYX: torch.Tensor | None = None) -> torch.Tensor:
        """Return the loss of one batch: the sum of its terms' values, a scalar."""
        import torch

        return torch.stack([term.value() for term in self.terms(logits_BKYX, truth_BYX, weights_BYX)]).sum()

    def fitted(self, areas: Areas) -> Self:
        """Return the loss with class weights that are named as numbers; itself where nothing is to be fitted.

        Raises:
            InputError: the loss is meant for another number of classes.
        """
        return self

    @property
    def needs_instances(self) -> bool:
        """Whether :meth:`pixel_weights` wants instance ids."""
        return False

    def pixel_weights(self, instances_YX: NDArray[Any]) -> NDArray[np.float32] | None:
        """Return the weight of each pixel of one crop, (Y, X); None: there are none.

        Args:
            instances_YX: instance ids, any integer type; 0 and below are none.
        """
        return None
