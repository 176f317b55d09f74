"""The Lovász extension of the Jaccard loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.losses import Loss, Term, mask_ignored, one_hot

if TYPE_CHECKING:
    import torch

__all__ = ["Lovasz"]


class Lovasz(Loss):
    """Lovász loss: a convex, piecewise linear substitute for 1 - IoU; 0 for a perfect mask (Berman et al. 2018).

    Several logits: Lovász-softmax, the mean over the classes in an image. One logit: Lovász hinge of class 1. Then the mean over
    images. The weight of a pixel is its area in the IoU.

    Example::

        loss: {name: lovasz}
    """

    def terms(self, logits_BKYX: torch.Tensor, truth_BYX: torch.Tensor, weights_BYX: torch.Tensor | None = None) -> list[Term]:
        """Return one term: the mean over images."""
        scores_BKYX, ids_BYX, pixels_BYX = mask_ignored(logits_BKYX, truth_BYX, weights_BYX)
        classes = scores_BKYX.shape[1]
        if classes == 1:
            is_class_BKYX = ids_BYX[:, None] == 1
            errors_BKYX = (1 - scores_BKYX * (2 * is_class_BKYX.to(scores_BKYX.dtype) - 1)).relu()
            occurs_BK = (pixels_BYX.sum((1, 2)) > 0)[:, None]
        else:
            is_class_BKYX = one_hot(ids_BYX, classes)
            errors_BKYX = (is_class_BKYX.to(scores_BKYX.dtype) - scores_BKYX.softmax(1)).abs()
            occurs_BK = (is_class_BKYX * pixels_BYX[:, None]).sum((2, 3)) > 0
        losses_BK = _extension(errors_BKYX.flatten(2), is_class_BKYX.flatten(2), pixels_BYX.flatten(1)[:, None])
        losses_B = (losses_BK * occurs_BK).sum(1) / occurs_BK.sum(1).clamp_min(1)
        return [Term(losses_B.sum(), occurs_BK.any(1).sum().to(scores_BKYX.dtype))]


def _extension(errors_BKP: torch.Tensor, is_class_BKP: torch.Tensor, areas_B1P: torch.Tensor) -> torch.Tensor:
    """Return the Lovász extension of the Jaccard loss at the errors, (B, K): algorithm 1 of the paper, with an area for each pixel.

    Errors are sorted in falling order; each is multiplied by what its pixel adds to the 1 - IoU of the pixels before it.
    """
    import torch

    errors_BKP, order_BKP = errors_BKP.sort(dim=2, descending=True)
    # In float64, because neighbours differ by one pixel in the area of an image.
    areas_BKP = areas_B1P.double().expand(order_BKP.shape).gather(2, order_BKP)
    inside_BKP = areas_BKP * is_class_BKP.gather(2, order_BKP)
    truth_BK1 = inside_BKP.sum(2, keepdim=True)
    union_BKP = truth_BK1 + (areas_BKP - inside_BKP).cumsum(2)
    common_BKP = truth_BK1 - inside_BKP.cumsum(2)
    jaccard_BKP = 1 - torch.where(union_BKP > 0, common_BKP / union_BKP, 1)
    steps_BKP = jaccard_BKP.diff(dim=2, prepend=torch.zeros_like(truth_BK1))
    return (errors_BKP * steps_BKP.to(errors_BKP.dtype)).sum(2)
