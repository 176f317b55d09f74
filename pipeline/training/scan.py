"""One look at every training pixel before training begins: class areas, statistics, where each class is.

A truth value outside the classes, or a file that cannot be read, is found here and not hours later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.engine import valid_pixels
from pipeline.errors import BlockError, InputError, Problem
from pipeline.geometry import Box
from pipeline.inputs import Image
from pipeline.losses import Areas, Loss
from pipeline.plugins import build
from pipeline.statistics import NormalizeFitter, Summary
from pipeline.tiling import Grid
from pipeline.training.plan import TrainPlan
from pipeline.training.targets import targets
from pipeline.training.weight_averaging import bundles_of

__all__ = ["ClassSpot", "ImageScan", "Scan", "scan"]

BLOCK = 2048
PLACES = 32  # positions of a class that are remembered of each block


@dataclass(frozen=True)
class ClassSpot:
    """Where a class is in one block.

    Attributes:
        count: pixels of the class in the block.
        plane: index of the (t, z) plane.
        positions: some of them, (n, 2) rows and columns in the image.
    """

    count: int
    plane: int
    positions: NDArray[np.int32]


@dataclass(frozen=True)
class ImageScan:
    """What was found in one image.

    Attributes:
        pixels: of each output of the network, ignored ones left out.
        normalize: ``{"mean", "std"}`` of this image alone; None where the data set's or none is used.
        places: where each output's pixels are.
    """

    pixels: tuple[int, ...]
    normalize: Mapping[str, Any] | None
    places: Sequence[Sequence[ClassSpot]]


@dataclass(frozen=True)
class Scan:
    """What was found in all training images.

    Attributes:
        images: in the plan's order.
        normalize: fixed ``{"mean", "std"}`` of the data set; None: of each image, or raw values.
    """

    images: Sequence[ImageScan]
    normalize: Mapping[str, Any] | None

    @property
    def areas(self) -> Areas:
        """What class weights are made from."""
        totals = np.array([one.pixels for one in self.images], np.int64)
        present = (totals > 0) * totals.sum(axis=1, keepdims=True)
        return Areas(tuple(totals.sum(axis=0).tolist()), tuple(present.sum(axis=0).tolist()))


def scan(plan: TrainPlan) -> TrainPlan:
    """Read every training image once and settle what depends on it: normalisation and class weights.

    Raises:
        InputError: a file cannot be read, or its truth holds a value outside the classes; every such image.
    """
    kind = _kind(plan)
    # Percentiles and z-scores need counts of each value; a data set's mean and std are the z-score of all images as one.
    fitter = None if kind in ("fixed", "none") else NormalizeFitter("percentile" if kind == "percentile" else "zscore")
    with ThreadPoolExecutor(4) as pool:
        looked = list(pool.map(lambda image: _try(plan, image, fitter), plan.train))
        judged = list(pool.map(lambda image: _try(plan, image, None), plan.val))
    problems = [one for one in (*looked, *judged) if isinstance(one, Problem)]
    if problems:
        raise InputError(problems)
    images, summaries = zip(*(one for one in looked if not isinstance(one, Problem)), strict=True)
    fixed = dict(plan.normalize) if isinstance(plan.normalize, dict) else None
    if fitter is not None and kind == "dataset":
        fixed = fitter.fit(_sum(fitter, summaries))
    elif fitter is not None:
        images = tuple(replace(one, normalize=fitter.fit(summary)) for one, summary in zip(images, summaries, strict=True))
    found = Scan(images, fixed)
    # A class may have no interior where all its objects are thin: its border is learnt all the same.
    missing = [one["name"] for one, pixels in zip(plan.classes, found.areas.pixels, strict=False) if not pixels]
    notes = [*plan.notes, *([f"no training pixel of {', '.join(missing)}: it cannot be learnt"] if missing else [])]
    normalize = fixed or (kind if kind in ("percentile", "zscore") else None)
    for path, spec in bundles_of(plan.config.mean_of).items():
        if spec.normalize != normalize:
            notes.append(f"mean_of: {path} was trained with normalize: {spec.normalize or 'none'}; here it is {normalize or 'none'}")
    return replace(plan, notes=notes, normalize=normalize, loss=_loss(plan, found.areas), scan=found)


def _loss(plan: TrainPlan, areas: Areas) -> Loss:
    """The plan's loss with class weights as numbers; what does not fit is told with its line."""
    try:
        return plan.loss.fitted(areas)
    except InputError as error:
        found = [one for one in error.problems if isinstance(one, Problem)]
        raise InputError([replace(one, where=plan.config.place(one.where)) for one in found]) from error


def _kind(plan: TrainPlan) -> str:
    """``dataset``, ``percentile``, ``zscore``, ``fixed`` or ``none``."""
    asked: Any = plan.normalize
    if isinstance(asked, dict):
        return "fixed"
    types = sorted({image.header.dtype for image in plan.train})
    if asked == "dataset" and len(types) > 1:
        way_out = "Use normalize: percentile, which is of each image."
        raise InputError(
            Problem(plan.config.place("normalize"), f"dataset for images of {', '.join(types)}", "images of one type", way_out)
        )
    channels = {image.header.channels for image in plan.train}
    if asked == "auto":
        # A network that sees merged channels is one for images of any number of them, which numbers of these would not fit.
        is_one_kind = types == ["uint8"] and len(channels) == 1 and not plan.config.merge_channels
        return "dataset" if is_one_kind else "percentile"
    return str(asked)


def _sum(fitter: NormalizeFitter, summaries: Sequence[Summary]) -> Summary:
    total = summaries[0]
    for summary in summaries[1:]:
        total = fitter.merge(total, summary)
    return total


def _try(plan: TrainPlan, image: Image, fitter: NormalizeFitter | None) -> tuple[ImageScan, Summary] | Problem:
    try:
        return _look(plan, image, fitter)
    except (BlockError, InputError) as error:
        return Problem(image.truth or image.path, str(error), "", "Correct the file, or leave the image out with `exclude`.")


def _look(plan: TrainPlan, image: Image, fitter: NormalizeFitter | None) -> tuple[ImageScan, Summary]:
    """Walk over one image block by block."""
    outputs = plan.network.num_classes
    pixels = np.zeros(outputs, np.int64)
    places: list[list[ClassSpot]] = [[] for _ in range(outputs)]
    summary: Summary = {}
    rng = np.random.default_rng([plan.config.seed, image.index])
    for plane, box, pixels_CYX, truth_YX in _blocks(plan, image):
        valid_YX = valid_pixels(pixels_CYX, image.header)
        if valid_YX is not None:
            truth_YX[~valid_YX] = plan.truth_map.ignored
        if fitter is not None:
            part = fitter.observe(pixels_CYX, valid_YX, box, plane)
            summary = fitter.merge(summary, part) if summary else part
        counts = np.bincount(truth_YX.ravel(), minlength=outputs)[:outputs]
        pixels += counts
        if plan.config.sampling.balance or plan.config.sampling.empty < 1:
            for one in np.flatnonzero(counts):
                places[one].append(_place(truth_YX == one, box, plane, int(counts[one]), rng))
    return ImageScan(tuple(pixels.tolist()), None, places), summary


def _blocks(plan: TrainPlan, image: Image) -> Iterator[tuple[int, Box, NDArray[Any], NDArray[Any]]]:
    """Pixels of every block, and the output that each is asked for."""
    assert image.truth is not None
    with (
        build("readers", image.reader).open(image.path) as raster,
        build("readers", {"name": "auto"}).open(image.truth) as truth,
    ):
        for plane in range(image.header.num_planes):
            for cell in Grid(image.header.shape, BLOCK, 0, BLOCK).blocks():
                raw_CYX = truth.read(cell.box, plane)
                classes_YX = plan.truth_map.apply(raw_CYX, cell.box)
                yield plane, cell.box, raster.read(cell.box, plane), targets(plan, classes_YX, raw_CYX[0])


def _place(here_YX: NDArray[np.bool_], box: Box, plane: int, count: int, rng: np.random.Generator) -> ClassSpot:
    """Remember some pixels of a class."""
    flat = np.flatnonzero(here_YX)
    chosen = flat if count <= PLACES else flat[rng.integers(0, count, PLACES)]
    rows, cols = np.divmod(chosen, here_YX.shape[1])
    return ClassSpot(count, plane, np.stack([rows + box.y0, cols + box.x0], axis=1).astype(np.int32))
