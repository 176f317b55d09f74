"""A bounded piece of a run, done by the real engine and timed while every actor is busy."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.config import Compute, Recipe
from pipeline.engine import Job
from pipeline.errors import GigasegError
from pipeline.inputs import Catalogue, Image
from pipeline.plugins import build
from pipeline.records import Block, Ledger, Receipt
from pipeline.scheduling import BlockQueue, Stage, block_keys, complete
from pipeline.scheduling.runners import Work

__all__ = ["Timing", "choose_piece", "overhead", "run_piece"]

BLOCKS = 6  # for each actor: one to warm up, one at the end when others are idle, and some between them
FEWEST = 3  # where so many take longer than they should
MOST_IMAGES = 4096
MOST_S = 20.0  # after the first block, then no new one is begun


@dataclass
class Timing:
    """What was seen of a piece.

    Attributes:
        actors: that worked on it.
        start_s: until every actor had given back its first block: Ray, loading, compiling.
        pixels_s: pixels a second while every actor was busy, all phases counted.
        pixels: of the piece.
        blocks: that went through the network.
        seconds: that the whole piece took.
        stages: seconds spent in each stage, of all actors together, the first block of each left out; other phases by name.
    """

    actors: int
    start_s: float
    pixels_s: float
    pixels: int
    blocks: int
    seconds: float
    stages: Mapping[str, float] = field(default_factory=dict)


def choose_piece(found: Catalogue, recipe: Recipe, pixels: int, actors: int) -> tuple[list[Image], Recipe]:
    """Take whole images until there are enough pixels, or whole blocks of one that is larger than that.

    Images that are too few are taken again: a sample of one block says nothing of a run.

    Args:
        found: the survey; the first plane and the first corner of an image are taken.
        recipe: of the run.
        pixels: that are wanted.
        actors: that have to be kept busy.

    Returns:
        The images, each under a name of its own, and the recipe, with smaller blocks where its own are too few.
    """
    whole = [replace(image, header=replace(image.header, planes=dict.fromkeys(image.header.planes, 1))) for image in found.images]
    largest = max(whole, key=lambda image: math.prod(image.header.shape))
    if math.prod(largest.header.shape) > pixels:
        block = max(1, math.isqrt(pixels // (BLOCKS * actors)) // recipe.core) * recipe.core
        recipe = replace(recipe, block=min(recipe.block, block))
        shape = _corner(largest.header.shape, recipe.block, max(pixels, FEWEST * actors * recipe.block**2))
        return [replace(largest, index=0, header=replace(largest.header, shape=shape))], recipe
    chosen: list[Image] = []
    total = blocks = 0
    while len(chosen) < MOST_IMAGES and (total < pixels or blocks < FEWEST * actors):
        image = whole[len(chosen) % len(whole)]
        total += math.prod(image.header.shape)
        blocks += math.prod(-(-side // recipe.block) for side in image.header.shape)
        chosen.append(replace(image, index=len(chosen), name=f"{len(chosen):04}/{image.name}"))
    return chosen, recipe


def _corner(shape: tuple[int, int], block: int, pixels: int) -> tuple[int, int]:
    """Whole blocks of about so many pixels, as square as the image allows.

    Example:
        >>> _corner((10_000, 50_000), 1000, 9_000_000), _corner((1500, 50_000), 1000, 9_000_000)
        ((3000, 3000), (1500, 5000))
    """
    wanted = max(1, round(pixels / block**2))
    rows = min(-(-shape[0] // block), max(1, math.isqrt(wanted)))
    cols = min(-(-shape[1] // block), -(-wanted // rows))
    return min(rows * block, shape[0]), min(cols * block, shape[1])


def overhead(images: Sequence[Image], job: Job) -> float:
    """Pixels that the network sees for each pixel of these images: what the halo costs."""
    seen = kept = 0
    for image in images:
        grid = job.grid(image)
        for cell in grid.blocks():
            seen += sum(tile.outer.area for tile in grid.tiles(cell.box))
            kept += cell.box.area
    return seen / kept


def run_piece(found: Catalogue, job: Job, compute: Compute, runner: str, folder: Path) -> Timing:
    """Run the images of a survey phase by phase, as a run would, into a folder, for a while.

    Raises:
        GigasegError: a block failed, or the runner could not go on.
    """
    stages = complete(found, job)
    log: list[str] = []
    seen: list[tuple[float, Block, Receipt]] = []
    schedule = BlockQueue(stages, job.merge, job.conclude, block_keys)
    schedule.begin({})
    with Ledger.open(folder / "ledger") as ledger:

        def commit(block: Block, receipt: Receipt) -> None:
            if not receipt.ok:
                raise GigasegError(f"{receipt.phase} {receipt.block}: {receipt.cause}")
            ledger.append(receipt)
            schedule.settle(receipt)
            seen.append((time.perf_counter() - start, block, receipt))

        def is_enough() -> bool:
            began = next((at for at, block, _ in seen if block.phase in ("score", "predict")), None)
            return began is not None and time.perf_counter() - start - began > MOST_S

        start = time.perf_counter()
        build("runners", {"name": runner}).run(Work(job, schedule, commit, is_enough, compute, log.append))
    return timing_of(seen, stages, max(1, sum(" ready on " in line for line in log)))


def timing_of(seen: Sequence[tuple[float, Block, Receipt]], stages: Mapping[str, Sequence[Stage]], actors: int) -> Timing:
    """Summarise receipts and the moments at which they came, seconds since the start.

    The first block of each actor holds its start, and the last ones are done while others are idle: both are left out.
    """
    scored = {block.image.name for _, block, _ in seen if block.phase == "score"}

    def is_main(block: Block) -> bool:
        """Whether the network saw it."""
        return block.phase == "score" or (block.phase == "predict" and block.image.name not in scored)

    predicted = [(at, block) for at, block, _ in seen if is_main(block)]
    first, last = min(actors, len(predicted)) - 1, max(len(predicted) - actors, 0)
    if last <= first:
        first, last = 0, len(predicted) - 1
    area = sum(block.box.area for _, block in predicted[first + 1 : last + 1])
    per_pixel = (predicted[last][0] - predicted[first][0]) / area if area else predicted[0][0] / predicted[0][1].box.area
    warm = {block.id for _, block in predicted[: first + 1]} if area else set()
    spent: dict[str, float] = defaultdict(float)
    for _, block, receipt in seen:
        if not is_main(block):
            spent["join" if block.phase == "predict" else block.phase] += sum(receipt.seconds.values())
        elif block.id not in warm:
            for stage, seconds in receipt.seconds.items():
                spent[stage] += seconds
    pixels = sum(block.box.area for _, block in predicted)
    if len(stages) == 1:  # these phases lie before and behind the time that was looked at
        per_pixel += ((spent["fit"] + spent["join"]) / actors + spent["finish"]) / pixels
    whole_s = max(at for at, _, _ in seen)
    return Timing(actors, predicted[first][0], 1 / per_pixel, pixels, len(predicted), whole_s, {k: v for k, v in spent.items() if v})
