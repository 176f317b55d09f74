"""One pass over every image before training begins: class areas, numbers to normalise with, where each class lies.

The pass finds a truth value outside the classes, or a file that cannot be read, before hours of training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.engine import find_content, read_zero_filled
from pipeline.errors import BlockError, InputError, Problem
from pipeline.geometry import Box
from pipeline.inputs import Image, open_image, open_truth
from pipeline.losses import ClassAreas, Loss
from pipeline.statistics import PER_IMAGE, Content, Fitter, Normalization, Summary, normalization_fitter
from pipeline.tiling import Grid
from pipeline.training.crops import targets
from pipeline.training.network_setup import normalization_kind
from pipeline.training.plan import LABEL_CELL, ClassLocations, DatasetStatistics, ImageStatistics, TrainPlan
from pipeline.training.val_regions import ValRegions, choose_regions, describe_regions, grid_cells
from pipeline.training.weight_averaging import read_bundle_specs

__all__ = ["scan_dataset"]

BLOCK = 2048
# What is fitted to pixels; mean and deviation of a data set are the z-score of all images as one.
FITTED: dict[str, Normalization] = {"dataset": "zscore", "percentile": "percentile", "zscore": "zscore", "contrast": "contrast"}
LOCATIONS = 32  # positions of a class that are remembered in each block


def scan_dataset(plan: TrainPlan) -> TrainPlan:
    """Read every image once and settle what depends on pixels: statistics, normalisation and class weights.

    Raises:
        InputError: a file cannot be read, or its truth holds a value outside the classes; every such image. Or nothing is labelled.
    """
    if plan.config.region_share is not None and not plan.regions:
        plan = _keep_regions(plan, plan.config.region_share)
    kind = normalization_kind(plan.config, plan.normalize, plan.train)
    fitter = normalization_fitter(FITTED.get(kind))
    with ThreadPoolExecutor(4) as pool:
        train = list(pool.map(lambda image: _scan_or_problem(plan, image, fitter), plan.train))
        val = [] if plan.regions else list(pool.map(lambda image: _scan_or_problem(plan, image, None), plan.val))
    if problems := [scanned for scanned in (*train, *val) if isinstance(scanned, Problem)]:
        raise InputError(problems)
    images, summaries = zip(*(scanned for scanned in train if not isinstance(scanned, Problem)), strict=True)
    if not any(sum(image.pixels) for image in images):
        raise InputError(Problem(plan.config.where("truth"), "no labelled pixel to train on", "truth with classes where images have data"))
    fixed = dict(plan.normalize) if isinstance(plan.normalize, dict) else None
    if fitter is not None and kind == "dataset":
        fixed = fitter.fit(reduce(fitter.merge, summaries))
    elif fitter is not None:
        images = tuple(replace(image, normalize=fitter.fit(summary)) for image, summary in zip(images, summaries, strict=True))
    statistics = DatasetStatistics(images, fixed)
    normalize = fixed or (kind if kind in PER_IMAGE else None)
    notes = [*plan.notes, *_notes(plan, statistics, normalize)]
    return replace(plan, notes=notes, normalize=normalize, loss=_weighted_loss(plan, statistics.areas), statistics=statistics)


def _keep_regions(plan: TrainPlan, fraction: float) -> TrainPlan:
    """Choose the validation regions of every image by a count of its labelled pixels, and validate with the images that have some."""
    reach = plan.config.augment.largest_side(plan.crop)

    def choose(image: Image) -> ValRegions | Problem:
        cells = grid_cells(image.header.shape, fraction, plan.crop)
        try:
            labelled = _count_labelled(plan, image, cells)
        except (BlockError, InputError) as error:
            return _problem_of(image, error)
        seed = plan.config.seed
        return choose_regions(image, cells, labelled, fraction=fraction, crop=plan.crop, reach=reach, seed=seed)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(choose, plan.train))
    if problems := [one for one in found if isinstance(one, Problem)]:
        raise InputError(problems)
    regions = [one for one in found if isinstance(one, ValRegions)]
    val = [image for image, one in zip(plan.train, regions, strict=True) if one.boxes]
    if not val:
        where, fix = plan.config.where("val"), "Use a smaller crop, or whole images: val: 0.2."
        raise InputError(Problem(where, "no labelled pixels that a region could hold", "labels in more than one place", fix))
    few = [
        (image, one) for image, one in zip(plan.train, regions, strict=True) if one.num_labelled < one.num_labelled_in_all * fraction / 2
    ]
    notes = [f"val: {image.name}: {describe_regions([one])}, as more would leave no room to train" for image, one in few]
    val = [replace(image, index=index) for index, image in enumerate(val)]
    return replace(plan, val=val, regions=regions, notes=[*plan.notes, *notes])


def _count_labelled(plan: TrainPlan, image: Image, cells: Sequence[Box]) -> list[int]:
    """Count the pixels of each cell that have a class, over all planes."""
    counts = [0] * len(cells)
    for _, box, _, target_YX in _blocks(plan, image, halo=0):
        is_labelled_YX = target_YX != plan.truth_map.ignored
        for at, cell in enumerate(cells):
            if inside := cell.intersection(box):
                counts[at] += int(np.count_nonzero(is_labelled_YX[inside.relative_to(box).slices]))
    return counts


def _problem_of(image: Image, error: Exception) -> Problem:
    return Problem(image.truth or image.path, str(error), "", "Correct the file, or leave the image out with `exclude`.")


def _notes(plan: TrainPlan, statistics: DatasetStatistics, normalize: Any) -> Iterator[str]:
    """Name classes without pixels, and bundles of ``mean_of`` that were trained with another normalisation."""
    # Without `strict`: a class may have no interior where all its objects are thin; the network still learns its border.
    missing = [spec["name"] for spec, pixels in zip(plan.classes, statistics.areas.pixels, strict=False) if not pixels]
    if missing:
        yield f"no training pixel of {', '.join(missing)}: it cannot be learnt"
    for path, spec in read_bundle_specs(plan.config.mean_of).items():
        if spec.normalize != normalize:
            yield f"mean_of: {path} was trained with normalize: {spec.normalize or 'none'}; here it is {normalize or 'none'}"


def _weighted_loss(plan: TrainPlan, areas: ClassAreas) -> Loss:
    """Return the loss of the plan with class weights as numbers; an error names the line of the YAML."""
    try:
        return plan.loss.with_class_weights(areas)
    except InputError as error:
        problems = [problem for problem in error.problems if isinstance(problem, Problem)]
        raise InputError([replace(problem, where=plan.config.where(problem.where)) for problem in problems]) from error


def _scan_or_problem(plan: TrainPlan, image: Image, fitter: Fitter | None) -> tuple[ImageStatistics, Summary] | Problem:
    try:
        return _scan_image(plan, image, fitter)
    except (BlockError, InputError) as error:
        return _problem_of(image, error)


def _scan_image(plan: TrainPlan, image: Image, fitter: Fitter | None) -> tuple[ImageStatistics, Summary]:
    """Read an image block by block."""
    num_outputs = plan.network.num_classes
    pixels = np.zeros(num_outputs, np.int64)
    locations: list[list[ClassLocations]] = [[] for _ in range(num_outputs)]
    needs_locations = bool(plan.config.sampling.balance or plan.config.sampling.empty < 1)
    summary: Summary = {}
    rng = np.random.default_rng([plan.config.seed, image.index])
    content = find_content(image) if fitter is not None and image.header.is_color else Content()
    regions = plan.regions_of(image) or ValRegions((), 0)
    height, width = image.header.shape
    labelled_PYX = np.zeros((image.header.num_planes, -(-height // LABEL_CELL), -(-width // LABEL_CELL)), np.bool_)
    is_of_data_set = normalization_kind(plan.config, plan.normalize, plan.train) == "dataset"
    halo = 0 if fitter is None else fitter.halo
    for plane, box, (pixels_CYX, valid_YX), target_YX in _blocks(plan, image, halo=halo):
        regions.mark(target_YX, box, plan.truth_map.ignored)
        if fitter is not None and content.has_any(box, plane):
            counted_YX = content.counted(pixels_CYX, valid_YX, box.grow(halo), plane)
            if is_of_data_set and not regions.is_clear(box):  # numbers of an image alone are those that a run of it finds
                counted_YX = np.ones(box.shape, np.bool_) if counted_YX is None else counted_YX.copy()
                regions.mark(counted_YX, box, False)
            part = fitter.observe(pixels_CYX, counted_YX, box, plane)
            summary = fitter.merge(summary, part) if summary else part
        rows, cols = (slice(start // LABEL_CELL, -(-stop // LABEL_CELL)) for start, stop in ((box.y0, box.y1), (box.x0, box.x1)))
        labelled_PYX[plane, rows, cols] = _any_of_cells(target_YX != plan.truth_map.ignored)
        counts = np.bincount(target_YX.ravel(), minlength=num_outputs)[:num_outputs]
        pixels += counts
        for output in np.flatnonzero(counts) if needs_locations else ():
            positions = _sample_positions(target_YX == output, box, rng)
            locations[output].append(ClassLocations(plane, int(counts[output]), positions))
    return ImageStatistics(tuple(pixels.tolist()), None, locations, None if labelled_PYX.all() else labelled_PYX), summary


def _any_of_cells(is_labelled_YX: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return whether each cell of :data:`LABEL_CELL` pixels a side has a pixel that is marked."""
    rows, cols = (np.arange(0, length, LABEL_CELL) for length in is_labelled_YX.shape)
    return np.logical_or.reduceat(np.logical_or.reduceat(is_labelled_YX, rows, axis=0), cols, axis=1)


def _blocks(
    plan: TrainPlan, image: Image, *, halo: int
) -> Iterator[tuple[int, Box, tuple[NDArray[Any], NDArray[np.bool_] | None], NDArray[Any]]]:
    """Yield plane, box, pixels_CYX with valid_YX with the halo, and target outputs (Y, X), ignored without data, of every block."""
    assert image.truth is not None
    with open_image(image) as raster, open_truth(image) as truth:
        for plane in range(image.header.num_planes):
            for box in Grid(image.header.shape, BLOCK, 0, BLOCK).blocks():
                truth_CYX, known_YX = truth.read_valid(box, plane)
                classes_YX = plan.truth_map.apply(truth_CYX, box, known_YX)
                pixels_CYX, valid_YX = read_zero_filled(raster, box.grow(halo), plane)
                if valid_YX is not None:
                    classes_YX[~valid_YX[box.relative_to(box.grow(halo)).slices]] = plan.truth_map.ignored
                yield plane, box, (pixels_CYX, valid_YX), targets(plan, classes_YX, truth_CYX[0])


def _sample_positions(is_class_YX: NDArray[np.bool_], box: Box, rng: np.random.Generator) -> NDArray[np.int32]:
    """Return rows and columns in the image, (n, 2), of some pixels of a class."""
    flat = np.flatnonzero(is_class_YX)
    chosen = flat if len(flat) <= LOCATIONS else flat[rng.integers(0, len(flat), LOCATIONS)]
    rows, cols = np.divmod(chosen, is_class_YX.shape[1])
    return np.stack([rows + box.y0, cols + box.x0], axis=1).astype(np.int32)
