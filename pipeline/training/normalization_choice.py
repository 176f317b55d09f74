"""Which normalisation a training uses: what the YAML asks for, and what ``auto`` means for its images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pipeline.errors import InputError, Problem
from pipeline.inputs import Image
from pipeline.statistics import check_mean_std
from pipeline.training.schema import TrainConfig
from pipeline.training.weight_averaging import read_bundle_specs

__all__ = ["normalization_kind", "normalization_problems", "requested_normalization"]


def requested_normalization(config: TrainConfig, images: Sequence[Image]) -> Any:
    """Return what the YAML asks for; for ``auto``, what all bundles of ``mean_of`` were trained with, if it fits the images."""
    of_bundles = [spec.normalize or "none" for spec in read_bundle_specs(config.mean_of).values()]
    if config.normalize != "auto" or not of_bundles or any(normalize != of_bundles[0] for normalize in of_bundles):
        return config.normalize
    return config.normalize if normalization_problems(config, of_bundles[0], images) else of_bundles[0]


def normalization_problems(config: TrainConfig, normalize: Any, images: Sequence[Image]) -> list[Problem]:
    """Return what is wrong with fixed numbers; other normalisations fit any image."""
    if not isinstance(normalize, dict):
        return []
    channels: set[int | None] = {image.header.channels for image in images} or {None}
    problems = dict.fromkeys(problem for count in channels for problem in check_mean_std(normalize, count))
    return [replace(problem, where=config.where(problem.where)) for problem in problems]


def normalization_kind(config: TrainConfig, requested: Any, train: Sequence[Image]) -> str:
    """Return ``dataset``, ``percentile``, ``zscore``, ``fixed`` or ``none``.

    Args:
        config: says where its keys were written.
        requested: as :func:`requested_normalization` returned it.
        train: the training images.

    Raises:
        InputError: numbers of the whole data set are asked for, and its images have several data types.
    """
    if isinstance(requested, dict):
        return "fixed"
    types = sorted({image.header.dtype for image in train})
    if requested == "dataset" and len(types) > 1:
        found, way_out = f"dataset for images of {', '.join(types)}", "Use normalize: percentile, which is of each image."
        raise InputError(Problem(config.where("normalize"), found, "images of one type", way_out))
    if requested == "auto":
        channels = {image.header.channels for image in train}
        # A network of merged channels takes images with any number of channels, which the numbers of these images would not fit.
        is_one_kind = types == ["uint8"] and len(channels) == 1 and not config.merge_channels
        return "dataset" if is_one_kind else "percentile"
    return str(requested)
