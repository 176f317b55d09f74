"""Binary cross-entropy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pipeline.losses import Loss, Term, mask_ignored, one_hot

if TYPE_CHECKING:
    import torch

__all__ = ["BinaryCrossEntropy"]


class BinaryCrossEntropy(Loss):
    """Cross-entropy of a sigmoid, in nats, the mean over pixels and logits.

    One logit: class 1 against class 0. Several: each class against the rest, for networks with a sigmoid for each class.

    Example::

        loss: {name: binary_cross_entropy, positive_weight: 3.0}
    """

    positive_weight: float = Field(default=1.0, gt=0, description="how much a pixel of the class counts, where one of the rest counts 1")

    def terms(self, logits_BKYX: torch.Tensor, truth_BYX: torch.Tensor, weights_BYX: torch.Tensor | None = None) -> list[Term]:
        """Return one term: the mean over pixels and logits."""
        import torch

        scores_BKYX, ids_BYX, pixels_BYX = mask_ignored(logits_BKYX, truth_BYX, weights_BYX)
        classes = scores_BKYX.shape[1]
        is_class_BKYX = ids_BYX[:, None] == 1 if classes == 1 else one_hot(ids_BYX, classes)
        losses_BKYX = torch.nn.functional.binary_cross_entropy_with_logits(
            scores_BKYX, is_class_BKYX.to(scores_BKYX.dtype), pos_weight=scores_BKYX.new_tensor(self.positive_weight), reduction="none"
        )
        return [Term((pixels_BYX[:, None] * losses_BKYX).sum(), pixels_BYX.sum() * classes)]
