"""Measures what nobody has said of a network: its stride, its field, and how far a halo below the field is off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.config import Recipe
from pipeline.engine import valid_pixels
from pipeline.errors import BlockError
from pipeline.geometry import Box, ceil_to
from pipeline.inputs import Catalogue, Image
from pipeline.models import TorchModel
from pipeline.plugins import build
from pipeline.statistics import fitter, resolve
from pipeline.tuning.halo_search import HaloDifference, HaloTrial, smallest_halo, trial_pixels

__all__ = ["MOST_HALO", "measure_halo", "measure_stride_and_field"]

MOST_HALO = 512
"""The widest field that is computed exactly, or measured, pixels."""

WORTH = 20  # times the pixels of a trial that a run must have before one is held
SAMPLE = 2048  # side of what the normalisation of a trial is fitted to, pixels


def measure_halo(found: Catalogue, images: Sequence[Image] = ()) -> HaloDifference | None:
    """Measure what nobody has said of a network: stride and field once a file, and the error of a halo below the field.

    Args:
        found: the survey.
        images: to measure on, one place of each; empty: the largest one.

    Returns:
        The halo that ``auto`` takes, or the one asked for, with its error, where that is largest; None where it is exact or
        not worth a trial.
    """
    measure_stride_and_field(found)
    model, asked = found.model, found.config.tiling.halo
    if not isinstance(model, TorchModel) or not found.images or model.fixed_size or model.fitter():
        return None
    field = model.field
    wanted = asked if asked != "auto" else model.tile.get("halo", 0)
    if field is None or field > MOST_HALO or wanted >= field or found.pixels < WORTH * trial_pixels(field):
        return None
    largest = max(found.images, key=lambda one: one.header.shape[0] * one.header.shape[1])
    measured = [_measured_halo(found, image, field, wanted) for image in images or [largest]]
    return max((one for one in measured if one), key=lambda one: (one.halo, one.sure, one.flipped), default=None)


def measure_stride_and_field(found: Catalogue) -> None:
    """Measure stride and field of a network that does not say them; the answer is kept for later runs."""
    for model in found.model.constituents if found.images else ():
        if isinstance(model, TorchModel) and (key := model.unmeasured) is not None:
            from pipeline.models._probe import probe, remember

            channels = model.num_channels or max(image.header.channels for image in found.images)
            remember(key, probe(model.load(), channels, model.fixed_size))


def _measured_halo(found: Catalogue, image: Image, field: int, wanted: int) -> HaloDifference | None:
    """Try halos in one place of an image, in float32; a halo of 0 asks for the smallest that will do; None: it cannot be told."""
    model = found.model
    stride, normalize = model.stride, resolve(found.config.normalize, model)
    exact, least = ceil_to(max(field, model.margin), stride), ceil_to(model.margin, stride)
    fixed = normalize if isinstance(normalize, Mapping) else None
    try:
        with build("readers", image.reader).open(image.path) as raster, model.predictor(Recipe(), fixed) as predict:
            fit = {}
            if per_image := fitter(normalize):
                box = Box(0, 0, *raster.header.shape).clip((SAMPLE, SAMPLE))
                pixels_CYX = raster.read(box)
                fit = {"normalize": per_image.fit(per_image.observe(pixels_CYX, valid_pixels(pixels_CYX, raster.header), box, 0))}
            trial = HaloTrial(predict, raster, fit, stride, exact)
            if not trial.tells:
                return None
            return trial.error(ceil_to(wanted, stride)) if wanted else smallest_halo(trial, stride, least, exact)
    except (BlockError, OSError):
        return None  # the run will say what is wrong with the image
