"""Cross-entropy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.losses import ClassWeighted

if TYPE_CHECKING:
    import torch

__all__ = ["CrossEntropy"]


class CrossEntropy(ClassWeighted):
    """Cross-entropy of the softmax, in nats, the mean over pixels; rare classes may weigh more.

    ``median_frequency`` weighs classes as in the training of SegNet (Eigen and Fergus 2015; Badrinarayanan et al. 2017);
    with ``inverse`` all classes weigh the same. Both follow from the training images.

    Example::

        loss: {name: cross_entropy, class_weights: median_frequency}
    """

    def losses(self, scores_BKYX: torch.Tensor, truth_BYX: torch.Tensor) -> torch.Tensor:
        """Return minus the log-probability of the truth."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(scores_BKYX, truth_BYX, reduction="none")
