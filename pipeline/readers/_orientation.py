"""The Orientation tag of TIFF and EXIF: pixels as a person sees them, region by region.

A value is 1 to 8. Pixels are upright when the stored ones are transposed (5 to 8) and then flipped up-down, left-right or both.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box

__all__ = ["stored_box", "turn", "upright_shape"]

Number = TypeVar("Number", int, float)

STEPS = {  # orientation -> (transpose, then flip rows, flip columns)
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


def upright_shape(shape: tuple[Number, Number], orientation: int) -> tuple[Number, Number]:
    """Return the (y, x) of the upright image from that of the stored one: heights and widths in pixels, or sizes of a pixel.

    Example:
        >>> upright_shape((480, 640), 3), upright_shape((480, 640), 6)
        ((480, 640), (640, 480))
    """
    return (shape[1], shape[0]) if STEPS[orientation][0] else shape


def stored_box(box: Box, shape: tuple[int, int], orientation: int) -> Box:
    """Return the stored pixels of a box of the upright image.

    Args:
        box: inside the upright image.
        shape: height and width of the stored image.
        orientation: 1..8.

    Example:
        >>> stored_box(Box(0, 0, 1, 2), (480, 640), 6)  # the upper left corner was stored at the lower left
        Box(y0=478, x0=0, y1=480, x1=1)
    """
    is_transposed, flips_y, flips_x = STEPS[orientation]
    height, width = upright_shape(shape, orientation)
    y0, y1 = (height - box.y1, height - box.y0) if flips_y else (box.y0, box.y1)
    x0, x1 = (width - box.x1, width - box.x0) if flips_x else (box.x0, box.x1)
    return Box(x0, y0, x1, y1) if is_transposed else Box(y0, x0, y1, x1)


def turn(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return a view of stored pixels (..., Y, X) as they are seen upright.

    Example:
        >>> turn(np.array([[1, 2, 3], [4, 5, 6]]), 6).tolist()
        [[4, 1], [5, 2], [6, 3]]
    """
    is_transposed, flips_y, flips_x = STEPS[orientation]
    turned = np.swapaxes(pixels, -1, -2) if is_transposed else pixels
    return turned[..., :: -1 if flips_y else 1, :: -1 if flips_x else 1]
