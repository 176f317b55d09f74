"""Compare an image with the training images of a model, by a bounded number of windows, whatever the image's size."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeline.engine.block_pixels import read_zero_filled
from pipeline.errors import BlockError
from pipeline.geometry import Box
from pipeline.models import Model
from pipeline.raster import Raster
from pipeline.statistics import PROPERTIES, KnownAppearance, Window, describe_windows, sample_boxes

__all__ = ["appearance_warning", "read_windows"]

MOST_BYTES = 1 << 25  # of the windows of one image, as stored
NAMED = 2  # properties that are named, at most: the most unlike ones
SHORT = 80  # characters of what a model is not for, up to which they are repeated


def read_windows(raster: Raster, is_chosen: Callable[[Box], bool] = lambda _: True) -> list[Window]:
    """Read windows of the middle plane of an image on its working grid.

    Damaged parts are left out: the blocks that hold them fail later, and the others are done.

    Args:
        raster: the image as the model sees it, but for normalisation.
        is_chosen: says whether a window may be read.
    """
    plane = raster.header.num_planes // 2
    boxes = [box for box in sample_boxes(raster.header.shape) if is_chosen(box)]
    windows, used = list[Window](), 0
    for box in boxes:
        try:
            window = Window(*read_zero_filled(raster, box, plane))
        except BlockError:
            continue
        windows.append(window)
        used += window.pixels_CYX.nbytes
        if used > MOST_BYTES:
            break
    return windows


def appearance_warning(model: Model, windows: Sequence[Window], *, has_levels: bool = True) -> str:
    """Return what is to be said of an image; empty where it is like the training images of the model, or shows too little.

    Args:
        model: whose bundle keeps what its training images look like.
        windows: of the image.
        has_levels: whether the model sees the levels that it knows: not if the user asks for another normalisation.
    """
    try:
        known = KnownAppearance.from_json(model.expects.appearance or {})
        found = describe_windows(windows, known.levels if has_levels else None)
        words = known.unlike(found) if found is not None else []
    except Exception as error:  # noqa: BLE001 - a comparison that fails is no failure of the image
        return f"not compared with what {model.title} was trained on ({type(error).__name__}: {' '.join(str(error).split())})"
    if not words:
        return ""
    named = [word for word in PROPERTIES if word in words[:NAMED]]  # in one order, so that images of one kind are told together
    excluded = "; ".join(model.expects.not_for)
    hint = f"; not for {excluded}" if excluded and len(excluded) <= SHORT else ""
    return f"unlike what {model.title} was trained on ({', '.join(named)}): treat its mask with care{hint}"
