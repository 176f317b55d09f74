"""How fast a whole run is: a bounded piece of it, done by the real engine and timed while every actor is busy."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.config import Compute, Recipe
from pipeline.engine import Job, phase
from pipeline.errors import GigasegError
from pipeline.inputs import Catalogue, Image
from pipeline.plugins import build
from pipeline.records import Block, Ledger, Receipt
from pipeline.scheduling import BlockQueue, Stage, plan_blocks
from pipeline.scheduling.runners import Work

__all__ = ["RunTiming", "choose_piece", "halo_overhead", "summarize_receipts", "time_piece"]

BLOCKS_PER_ACTOR = 6  # one to warm up, one at the end when other actors are idle, and some between them
FEWEST_PER_ACTOR = 3  # where so many take longer than they should
MOST_IMAGES = 4096
MOST_S = 20.0  # after the first block; then no new block begins


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
    stages: Mapping[str, float] = field(default_factory=dict)


def choose_piece(catalogue: Catalogue, recipe: Recipe, pixels: int, actors: int) -> tuple[list[Image], Recipe]:
    """Choose whole images until there are enough pixels, or whole blocks of one image that is larger than that.

    Images that are too few are taken again: a sample of one block says nothing of a run.

    Args:
        catalogue: the run's images; the first plane, or its first corner, is used.
        recipe: of the run.
        pixels: that are wanted.
        actors: that have to be kept busy.

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
    computed = kept = 0
    for image in images:
        grid = job.grid(image)
        for block in grid.blocks():
            computed += sum(tile.outer.area for tile in grid.tiles(block.box))
            kept += block.box.area
    return computed / kept


def time_piece(catalogue: Catalogue, job: Job, compute: Compute, runner: str, folder: Path) -> RunTiming:
    """Run the images of a catalogue phase by phase, as a run would, until they are done or :data:`MOST_S` have passed.

    Args:
        catalogue: whose images are the piece.
        job: what every actor is told; its output is ``folder``.
        compute: the YAML's ``compute``.
        runner: name of the runner.
        folder: a temporary folder for masks and receipts.

    Raises:
        GigasegError: a block failed, or the runner could not go on.
    """
    stages = plan_blocks(catalogue, job)
    log: list[str] = []
    committed: list[tuple[float, Block, Receipt]] = []
    queue = BlockQueue(stages)
    queue.begin({})
    with Ledger.open(folder / "ledger") as ledger:

        def commit(block: Block, receipt: Receipt) -> None:
            if not receipt.ok:
                raise GigasegError(f"{receipt.phase} {receipt.block}: {receipt.cause}")
            ledger.append(receipt)
            queue.settle(receipt)
            committed.append((time.perf_counter() - start, block, receipt))

        def is_enough() -> bool:
            began = next((at for at, block, _ in committed if _is_of_the_model(block)), None)
            return began is not None and time.perf_counter() - start - began > MOST_S

        start = time.perf_counter()
        build("runners", {"name": runner}).run(Work(job, queue, commit, is_enough, compute, log.append))
    return summarize_receipts(committed, stages, max(1, sum(" ready on " in line for line in log)))


def summarize_receipts(committed: Sequence[tuple[float, Block, Receipt]], stages: Mapping[str, Sequence[Stage]], actors: int) -> RunTiming:
    """Summarize receipts and the moments at which they were committed.

    The first block of each actor includes its start, and the last ones are computed while other actors are idle: both are left out
    of the rate.

    Args:
        committed: seconds since the start, block and receipt, in order.
        stages: of each image, by name.
        actors: that worked.
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
            spent["join" if _is_of_the_model(block) else block.phase] += sum(receipt.seconds.values())
        elif block.id not in warm_up:
            for stage, seconds in receipt.seconds.items():
                spent[stage] += seconds
    return spent
