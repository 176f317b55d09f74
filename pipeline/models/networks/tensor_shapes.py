"""Names and shapes of a network's tensors, and the options that follow from them."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["Shapes", "channels_and_classes"]

Shapes = Mapping[str, tuple[int, ...]]
"""The shape of each tensor of a state dict, by name."""

_CONV_AXES = 4


def channels_and_classes(shapes: Shapes, first: str, last: str) -> dict[str, int] | None:
    """Read the channels of a network's input and output from its convolutions.

    Args:
        shapes: of the network's tensors.
        first: name of the weights of the first convolution, (maps, channels, height, width).
        last: name of the weights of the last convolution.

    Returns:
        ``channels`` and ``classes``; None where there are no such convolutions.

    Example:
        >>> channels_and_classes({"stem.weight": (48, 3, 5, 5), "head.weight": (19, 48, 1, 1)}, "stem.weight", "head.weight")
        {'channels': 3, 'classes': 19}
    """
    stem, head = shapes.get(first, ()), shapes.get(last, ())
    return {"channels": stem[1], "classes": head[0]} if len(stem) == len(head) == _CONV_AXES else None
