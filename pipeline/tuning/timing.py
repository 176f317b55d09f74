"""How fast a model predicts one tile by itself, with every installed backend, and how fast the real engine does a piece of a run."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.backends import find_backend
from pipeline.config import Recipe
from pipeline.engine import Job, cause_of, phase, read_zero_filled
from pipeline.errors import GigasegError
from pipeline.inputs import Catalogue, Image, open_image
from pipeline.plugins import available, build
from pipeline.records import Block, Ledger, Receipt
from pipeline.scheduling import BlockQueue, Stage, plan_blocks
from pipeline.scheduling.runners import Work
from pipeline.tuning.backend_trial import TriedBackend, disagreement, fastest_backend
from pipeline.tuning.sample_tiles import Comparison, SampleTile

__all__ = ["RunTiming", "choose_piece", "halo_overhead", "read_largest_tile", "time_backend_again", "time_backends", "time_piece"]

NUM_ROUNDS, MOST_ROUNDS, ENOUGH_S = 3, 30, 2.0  # a tile is predicted so often at least and at most, and until so many seconds are spent
BLOCKS_PER_ACTOR = 6  # one to warm up, one at the end when other actors are idle, and some between them
FEWEST_PER_ACTOR = 3  # where so many take longer than they should
MOST_IMAGES = 4096
MOST_S = 20.0  # after the first block; then no new block begins


def read_largest_tile(image: Image, job: Job) -> SampleTile:
    """Read the largest tile from the middle of the image's first block on, as often as a batch, and fit it as if it were an image."""
    grid = job.grid(image)
    tiles = list(grid.tiles(grid.block_box(0, 0)))
    outer = max((tile.outer for tile in tiles[len(tiles) // 2 :]), key=lambda box: box.area)
    region = outer.grow(job.fitters.halo)
    with open_image(image) as raster:
        pixels_CYX, valid_YX = read_zero_filled(raster, region, 0)
    fit = job.fitters.conclude(job.fitters.observe(pixels_CYX, valid_YX, outer, 0)) if job.fitters else {}
    rows, cols = outer.relative_to(region).slices
    tile_CYX = pixels_CYX[:, rows, cols]
    # A batch of one stays a view: backends look at how its channels lie in memory.
    pixels_BCYX = tile_CYX[None] if job.recipe.batch == 1 else np.stack([tile_CYX] * job.recipe.batch)
    return SampleTile(pixels_BCYX, fit, None if valid_YX is None else valid_YX[rows, cols])


def list_candidates(catalogue: Catalogue, recipe: Recipe) -> list[tuple[str, str]]:
    """Return backend and precision of all that is timed: eager float32 first, which the others are compared with."""
    if not catalogue.model.takes_backend:
        return [(recipe.backend, recipe.precision)]
    asked = catalogue.config.compute.backend
    names = ["torch", *(name for name in available("backends") if name != "torch")] if asked == "auto" else [asked]
    precisions = [recipe.precision if recipe.precision in find_backend(name).precisions else "fp32" for name in names]
    return list(dict.fromkeys([("torch", "fp32"), *zip(names, precisions, strict=True)]))


def time_backends(catalogue: Catalogue, job: Job, tile: SampleTile, say: Callable[[str], None]) -> list[TriedBackend]:
    """Time one batch with every candidate, and compare its logits with those of eager float32.

    Device, threads and batch are those of the job's recipe. ``say`` is called with the name of the next candidate, as compilers
    take their time.

    Raises:
        GigasegError: nothing runs the model here.
    """
    tried: list[TriedBackend] = []
    expected_BKYX: NDArray[Any] | None = None
    for name, precision in list_candidates(catalogue, job.recipe):
        candidate = TriedBackend(name, precision)
        problems = find_backend(name).problems(job.recipe.device, precision) if catalogue.model.takes_backend else []
        if problems:
            tried.append(replace(candidate, refused="; ".join(problem.fix or str(problem) for problem in problems)))
            continue
        say(f"{name} {precision}" if catalogue.model.takes_backend else catalogue.config.model["name"])
        try:
            scores, seconds = _time_batch(catalogue, job, tile, candidate)
        except Exception as error:  # noqa: BLE001 - a runtime may raise anything, and is then not the one to use
            tried.append(replace(candidate, refused=cause_of(error)[:300]))
            continue
        expected_BKYX = scores if expected_BKYX is None else expected_BKYX
        tried.append(_judge(replace(candidate, seconds=seconds), tile, scores, expected_BKYX))
    if fastest_backend(tried) is None:
        raise GigasegError(f"nothing runs this model here: {'; '.join(f'{candidate.backend}: {candidate.refused}' for candidate in tried)}")
    return tried


def time_backend_again(catalogue: Catalogue, job: Job, tile: SampleTile, tried: TriedBackend) -> TriedBackend:
    """Time one backend at another moment; the fewer seconds count, as a machine may do other things too."""
    _, seconds = _time_batch(catalogue, job, tile, tried)
    return replace(tried, seconds=min(tried.seconds or seconds, seconds))


def _time_batch(catalogue: Catalogue, job: Job, tile: SampleTile, candidate: TriedBackend) -> tuple[NDArray[Any], float]:
    """The model's answer for the batch, and the fewest seconds a megapixel that the engine's call of it takes once it is warm."""
    assert job.model is not None
    recipe = replace(job.recipe, backend=candidate.backend, precision=candidate.precision)
    # A run that needs no logits takes classes, which some backends compute faster.
    needs_scores = recipe.stitch != "crop" or job.probs or job.instances is not None or any(image.truth for image in catalogue.images)
    given = tile.pixels_BCYX, [tile.fit] * len(tile.pixels_BCYX)
    with job.model.predictor(recipe, job.normalize) as predict:
        answer = np.array(_on_host(predict(*given)))
        call = predict if needs_scores else predict.classes
        _on_host(call(*given))
        seconds: list[float] = []
        while len(seconds) < NUM_ROUNDS or (sum(seconds) < ENOUGH_S and len(seconds) < MOST_ROUNDS):
            start = time.perf_counter()
            _on_host(call(*given))
            seconds.append(time.perf_counter() - start)
    return answer, min(seconds) * 1e6 / tile.pixels_BCYX[:, 0].size


def _on_host(scores: Any) -> NDArray[Any]:
    """Scores as a numpy array; on a GPU this waits until they are computed."""
    return np.asarray(scores.cpu() if hasattr(scores, "cpu") else scores)


def _judge(timed: TriedBackend, tile: SampleTile, scores: NDArray[Any], expected_BKYX: NDArray[Any]) -> TriedBackend:
    """Compare as a trial does; a backend that the trial would refuse has no seconds. Classes are not compared."""
    if scores.ndim == 3:
        return timed
    comparison = Comparison.of([[tile.where_valid(scores)]], [tile.where_valid(expected_BKYX)])
    refused = disagreement(comparison) if np.isfinite(scores).all() else "NaN or infinite scores"
    seconds = None if refused else timed.seconds
    return replace(timed, seconds=seconds, agreement=comparison.agreement, sure=comparison.num_lost, refused=refused)


@dataclass
class RunTiming:
    """What was measured on a piece of a run.

    Attributes:
        actors: that worked on the piece.
        start_s: until every actor had returned its first block: starting Ray, loading, compiling.
        pixels_s: pixels a second while every actor was busy, all phases counted.
        pixels: of the piece.
        blocks: that the network predicted.
        seconds: that the whole piece took.
        stages: seconds of all actors together spent in each stage, without each actor's first block; other phases by name.
    """

    actors: int
    start_s: float
    pixels_s: float
    pixels: int
    blocks: int
    seconds: float
    stages: Mapping[str, float]


def choose_piece(catalogue: Catalogue, recipe: Recipe, pixels: int, actors: int) -> tuple[list[Image], Recipe]:
    """Choose whole images until there are so many pixels, or whole blocks of one image that is larger than that.

    Only the first plane of an image is used. Images that are too few to keep all actors busy are taken again.

    Returns:
        The images, each under a name of its own; and the recipe, with smaller blocks where its own would be too few.
    """
    whole = [replace(image, header=replace(image.header, planes=dict.fromkeys(image.header.planes, 1))) for image in catalogue.images]
    largest = max(whole, key=lambda image: math.prod(image.header.shape))
    if math.prod(largest.header.shape) > pixels:
        block = max(1, math.isqrt(pixels // (BLOCKS_PER_ACTOR * actors)) // recipe.core) * recipe.core
        recipe = replace(recipe, block=min(recipe.block, block))
        shape = _corner(largest.header.shape, recipe.block, max(pixels, FEWEST_PER_ACTOR * actors * recipe.block**2))
        return [replace(largest, index=0, header=replace(largest.header, shape=shape))], recipe
    chosen: list[Image] = []
    num_pixels = num_blocks = 0
    while len(chosen) < MOST_IMAGES and (num_pixels < pixels or num_blocks < FEWEST_PER_ACTOR * actors):
        image = whole[len(chosen) % len(whole)]
        num_pixels += math.prod(image.header.shape)
        num_blocks += math.prod(-(-side // recipe.block) for side in image.header.shape)
        chosen.append(replace(image, index=len(chosen), name=f"{len(chosen):04}/{image.name}"))
    return chosen, recipe


def _corner(shape: tuple[int, int], block: int, pixels: int) -> tuple[int, int]:
    """Return the shape of whole blocks of about so many pixels, as square as the image allows.

    Example:
        >>> _corner((10_000, 50_000), 1000, 9_000_000), _corner((1500, 50_000), 1000, 9_000_000)
        ((3000, 3000), (1500, 5000))
    """
    wanted = max(1, round(pixels / block**2))
    rows = min(-(-shape[0] // block), max(1, math.isqrt(wanted)))
    cols = min(-(-shape[1] // block), -(-wanted // rows))
    return min(rows * block, shape[0]), min(cols * block, shape[1])


def halo_overhead(images: Sequence[Image], job: Job) -> float:
    """Return how many pixels the network computes for each pixel of these images: what the halo costs."""
    grids = [job.grid(image) for image in images]
    computed = sum(tile.outer.area for grid in grids for box in grid.blocks() for tile in grid.tiles(box))
    return computed / sum(math.prod(grid.shape) for grid in grids)


def time_piece(catalogue: Catalogue, job: Job, runner: str) -> RunTiming:
    """Run the images of a catalogue phase by phase, as a run would, until they are done or :data:`MOST_S` have passed.

    The job's output is a temporary folder, for masks and receipts.

    Raises:
        GigasegError: a block failed, or the runner could not go on.
    """
    stages = plan_blocks(catalogue, job)
    log: list[str] = []
    committed: list[tuple[float, Block, Receipt]] = []
    queue = BlockQueue(stages)
    queue.begin()
    with Ledger.open(job.storage.below("ledger")) as ledger:

        def book(block: Block, receipt: Receipt) -> None:
            if not receipt.ok:
                raise GigasegError(f"{receipt.phase} {receipt.block}: {receipt.cause}")
            ledger.append(receipt)
            queue.settle(receipt)
            committed.append((time.perf_counter() - start, block, receipt))

        def is_enough() -> bool:
            began = next((at for at, block, _ in committed if _is_of_the_model(block)), None)
            return began is not None and time.perf_counter() - start - began > MOST_S

        start = time.perf_counter()
        work = Work(job, queue, book, is_enough, catalogue.config.compute, lambda text, **_: log.append(text))
        build("runners", {"name": runner}).run(work)
    return summarize_receipts(committed, stages, max(1, sum(" ready on " in line for line in log)))


def summarize_receipts(committed: Sequence[tuple[float, Block, Receipt]], stages: Mapping[str, Sequence[Stage]], actors: int) -> RunTiming:
    """Summarize receipts and the moments at which they were committed.

    The first block of each actor includes its start, and the last ones are computed while other actors are idle: both are left out
    of the rate. Moments are seconds since the start, in order; stages are those of each image, by name.
    """
    prepared = {block.image.name for _, block, _ in committed if phase(block.phase).prepares}

    def is_predicted(block: Block) -> bool:
        """Whether the network predicted the block in this phase."""
        return _is_of_the_model(block) and (bool(phase(block.phase).prepares) or block.image.name not in prepared)

    predicted = [(at, block) for at, block, _ in committed if is_predicted(block)]
    first, last = min(actors, len(predicted)) - 1, max(len(predicted) - actors, 0)
    if last <= first:
        first, last = 0, len(predicted) - 1
    area = sum(block.box.area for _, block in predicted[first + 1 : last + 1])
    per_pixel = (predicted[last][0] - predicted[first][0]) / area if area else predicted[0][0] / predicted[0][1].box.area
    warm_up = {block.id for _, block in predicted[: first + 1]} if area else set()
    spent = _stage_seconds(committed, is_predicted, warm_up)
    pixels = sum(block.box.area for _, block in predicted)
    if len(stages) == 1:  # the other phases of a single image come before and after the time that was measured
        others = [(phase(block.phase).is_per_image, row) for _, block, row in committed if not is_predicted(block)]
        per_pixel += sum(sum(row.seconds.values()) / (1 if is_per_image else actors) for is_per_image, row in others) / pixels
    seconds = max(at for at, _, _ in committed)
    used = {name: value for name, value in spent.items() if value}
    return RunTiming(actors, predicted[first][0], 1 / per_pixel, pixels, len(predicted), seconds, used)


def _is_of_the_model(block: Block) -> bool:
    """Whether the block is predicted in this phase, or made from what was predicted in the phase that prepared it."""
    return bool(phase(block.phase).prepares) or phase(block.phase).is_result


def _stage_seconds(
    committed: Sequence[tuple[float, Block, Receipt]], is_predicted: Callable[[Block], bool], warm_up: set[str]
) -> defaultdict[str, float]:
    """Sum the seconds of predicted blocks by stage, without those of the warm-up, and of all other blocks by phase."""
    spent: defaultdict[str, float] = defaultdict(float)
    for _, block, receipt in committed:
        if not is_predicted(block):
            spent["blend" if _is_of_the_model(block) else block.phase] += sum(receipt.seconds.values())
        elif block.id not in warm_up:
            for stage, seconds in receipt.seconds.items():
                spent[stage] += seconds
    return spent
