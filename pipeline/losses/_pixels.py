"""Which pixels of a batch count, and what one logit and a class id mean: shared by all losses."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["as_two_classes", "mask_ignored", "one_hot"]


def mask_ignored(
    logits_BKYX: torch.Tensor, truth_BYX: torch.Tensor, weights_BYX: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Make ignored pixels harmless: they get logit 0 without a gradient, class 0 and weight 0.

    Args:
        logits_BKYX: of any floating type; NaN is allowed where the pixel is ignored.
        truth_BYX: class ids; pixels with another value are ignored.
        weights_BYX: of each pixel; None: all 1. Pixels of weight 0 are ignored.

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
