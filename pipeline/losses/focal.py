"""The focal loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from pipeline.losses import ClassWeighted

if TYPE_CHECKING:
    import torch

__all__ = ["Focal"]


class Focal(ClassWeighted):
    """Focal loss: cross-entropy times (1 - p) ** gamma, where p is the probability of the truth (Lin et al. 2017).

    Pixels that are already right count little. The paper's alpha is ``class_weights: [1 - alpha, alpha]``. With gamma 0 the loss
    is cross-entropy.

    Example::

        loss: {name: focal, gamma: 2.0}
    """

    gamma: float = Field(default=2.0, ge=0, description="the larger, the less pixels count that are already right; 0: cross-entropy")

    def losses(self, scores_BKYX: torch.Tensor, truth_BYX: torch.Tensor) -> torch.Tensor:
        """Return cross-entropy times (1 - p) ** gamma."""
        import torch

        nats_BYX = torch.nn.functional.cross_entropy(scores_BKYX, truth_BYX, reduction="none")
        # expm1 keeps the digits of 1 - p where p is close to 1; the clamp keeps the slope of a root finite at 0.
        wrong_BYX = (-torch.expm1(-nats_BYX)).clamp_min(torch.finfo(nats_BYX.dtype).tiny)
        return wrong_BYX**self.gamma * nats_BYX
