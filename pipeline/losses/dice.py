"""The Dice coefficient as a loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pipeline.losses import Loss, Term, as_two_classes, mask_ignored, one_hot

if TYPE_CHECKING:
    import torch

__all__ = ["Dice"]


class Dice(Loss):
    """Minus the soft Dice coefficient, from 0, all wrong, to -1, all right (Drozdzal et al. 2016).

    ``-(2 sum p g + smooth) / (sum p + sum g + smooth)`` over the pixels of one image, where p is the probability of a class, and
    g is 1 where the class is the truth; then the mean over all pairs of an image and a class that occurs in it. One logit means
    two classes, and both count.

    Example::

        loss: {name: dice}
    """

    smooth: float = Field(default=0.0, ge=0, description="pixels added to numerator and denominator, softening the score of small areas")

    def terms(self, logits_BKYX: torch.Tensor, truth_BYX: torch.Tensor, weights_BYX: torch.Tensor | None = None) -> list[Term]:
        """Return one term: the mean over images and the classes in them."""
        import torch

        scores_BKYX, ids_BYX, pixels_BYX = mask_ignored(logits_BKYX, truth_BYX, weights_BYX)
        probs_BKYX = as_two_classes(scores_BKYX).softmax(1) * pixels_BYX[:, None]
        is_class_BKYX = one_hot(ids_BYX, probs_BKYX.shape[1])
        both_BK = (probs_BKYX * is_class_BKYX).sum((2, 3))
        areas_BK = (is_class_BKYX * pixels_BYX[:, None]).sum((2, 3))
        occurs_BK = areas_BK > 0
        sums_BK = torch.where(occurs_BK, probs_BKYX.sum((2, 3)) + areas_BK + self.smooth, 1)
        return [Term(-((2 * both_BK + self.smooth) / sums_BK * occurs_BK).sum(), occurs_BK.sum().to(scores_BKYX.dtype))]
