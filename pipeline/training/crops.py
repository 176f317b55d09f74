"""Crops: which part of which image a step sees, read by region, varied, ready for the network.

Everything about crop ``i`` follows from the seed and ``i`` alone, so a resumed training goes on with the very crops
that it would have seen, and workers that share a batch see together what one would see alone.
"""

from __future__ import annotations

import signal
import threading
import warnings
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.engine import read_reflected, valid_pixels
from pipeline.errors import GigasegError
from pipeline.geometry import Box
from pipeline.training.image_cache import ImageCache
from pipeline.training.plan import TrainPlan, area
from pipeline.training.targets import targets

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Batch", "Crop", "Crops"]

TRIES = 16  # draws that tell how many are empty: hold nothing but class 0
AHEAD = 3  # batches that are prepared while one is computed


@dataclass(frozen=True)
class Crop:
    """What the network is shown once.

    Attributes:
        where: image and region, for messages.
        pixels_CYX: normalised, float32.
        truth_YX: output of the network that is asked for, uint8; 255 is ignored.
        weights_YX: of each pixel in the loss, float32; None: all alike.
    """

    where: str
    pixels_CYX: NDArray[np.float32]
    truth_YX: NDArray[np.uint8]
    weights_YX: NDArray[np.float32] | None


@dataclass(frozen=True)
class Batch:
    """One worker's share of a step, as tensors (B, ...)."""

    where: Sequence[str]
    pixels_BCYX: Tensor
    truth_BYX: Tensor
    weights_BYX: Tensor | None


class Crops:
    """The crops of a training, by number.

    Args:
        plan: scanned.
        shelf: holds the images.
    """

    def __init__(self, plan: TrainPlan, shelf: ImageCache) -> None:
        self.plan, self.shelf = plan, shelf
        sizes = np.array([area(image) if plan.config.sampling.images == "area" else 1 for image in plan.train], np.float64)
        self._upto = np.cumsum(sizes) / sizes.sum()
        self._pixels = np.array([one.pixels for one in plan.scan.images], np.float64)
        self._classes = np.flatnonzero(self._pixels.sum(axis=0))
        of = plan.outputs or range(self._pixels.shape[1])
        self._others = [int(one) for one in self._classes if of[one] and any(image.places[one] for image in plan.scan.images)]

    def __getitem__(self, index: int) -> Crop:
        """Make crop ``index``, from 0."""
        rng = np.random.default_rng([self.plan.config.seed, index])
        luck = 1 - rng.random()  # above 0
        crop, is_empty = self._read(self._draw(rng), rng)
        return self._limited(crop, luck, rng) if is_empty and luck > self.plan.config.sampling.empty else crop

    def _limited(self, crop: Crop, luck: float, rng: np.random.Generator) -> Crop:
        """Keep an empty crop, or find one that is not.

        Of ``TRIES`` draws alike, k are empty. Keeping the first, where it is, with the chance of limit over k / TRIES makes
        min(limit, k / TRIES) of all crops empty: what is above the limit comes down to it, what is below stays.
        """
        most = self.plan.config.sampling.empty * TRIES / luck  # empty draws with which it is kept
        empty, full = 1, list[Crop]()
        while TRIES - len(full) > most:
            if full and empty > most:
                return full[0]
            if empty == TRIES:
                return self._read(self._centred(self._others, rng), rng)[0] if self._others else crop
            other, is_empty = self._read(self._draw(rng), rng)
            empty += is_empty
            full += [] if is_empty else [other]
        return crop

    def batches(self, step: int, rank: int, workers: int, loaders: int) -> Generator[Batch]:
        """Give one worker's share of step ``step`` and of all that follow, prepared ahead.

        Args:
            step: the first.
            rank: of the worker, from 0.
            workers: that share each batch.
            loaders: 1: a thread beside what is computed; more: so many processes, as one interpreter cannot feed a GPU.

        Raises:
            GigasegError: an image cannot be read.
        """
        size = self.plan.config.batch
        shares = ([at * size + one for one in range(rank, size, workers)] for at in count(step))
        return self._by_thread(shares) if loaders == 1 else self._by_processes(shares, loaders)

    def _by_thread(self, shares: Iterator[list[int]]) -> Generator[Batch]:
        with ThreadPoolExecutor(1, "crops") as pool:
            waiting: deque[Future[Batch]] = deque()
            try:
                for share in shares:
                    waiting.append(pool.submit(self.stacked, share))
                    if len(waiting) > AHEAD:
                        yield waiting.popleft().result()
            finally:
                for batch in waiting:
                    batch.cancel()

    def _by_processes(self, shares: Iterator[list[int]], loaders: int) -> Generator[Batch]:
        from torch.utils.data import DataLoader

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="This DataLoader will create")  # as many as are asked for
            processes: DataLoader[Any] = DataLoader(
                _Dataset(self),  # type: ignore[arg-type]  # what is asked of a dataset is __getitems__ alone
                batch_sampler=shares,
                collate_fn=copy,  # a batch is whole already
                num_workers=loaders,
                worker_init_fn=_stand_by,
                # A fork of this process would inherit locks that its other threads hold at that moment.
                multiprocessing_context="forkserver",
            )
            before = signal.getsignal(signal.SIGCHLD)
            batches = iter(processes)
        if threading.current_thread() is threading.main_thread():
            # Torch's handler would stay for good and hear of every child that this process ever has; lost loaders are missed without it.
            signal.signal(signal.SIGCHLD, before)
        for batch in batches:
            if isinstance(batch, (GigasegError, OSError)):
                raise batch
            yield batch

    def stacked(self, numbers: Sequence[int]) -> Batch:
        """Make several crops."""
        return _stacked([self[number] for number in numbers])

    def _draw(self, rng: np.random.Generator) -> tuple[int, int, Box]:
        """Choose image, plane and box."""
        plan, side = self.plan, self.plan.crop
        if rng.random() < plan.config.sampling.balance:
            return self._centred(self._classes, rng)
        image = int(np.searchsorted(self._upto, rng.random(), side="right"))
        plane = int(rng.integers(plan.train[image].header.num_planes))
        y, x = (int(rng.integers(0, max(1, length - side + 1))) for length in plan.train[image].header.shape)
        return image, plane, self._box(image, y, x)

    def _centred(self, classes: Sequence[int] | NDArray[np.intp], rng: np.random.Generator) -> tuple[int, int, Box]:
        """Choose one of several classes, all alike, and one of its pixels."""
        wanted = rng.choice(classes)
        chances = self._pixels[:, wanted]
        image = int(rng.choice(len(chances), p=chances / chances.sum()))
        places = self.plan.scan.images[image].places[wanted]
        counts = np.array([place.count for place in places], np.float64)
        place = places[int(rng.choice(len(places), p=counts / counts.sum()))]
        y, x = (place.positions[rng.integers(len(place.positions))] - self.plan.crop // 2).tolist()
        return image, place.plane, self._box(image, y, x)

    def _box(self, image: int, y: int, x: int) -> Box:
        side, shape = self.plan.crop, self.plan.train[image].header.shape
        y, x = (_inside(at, side, length) for at, length in zip((y, x), shape, strict=True))
        return Box(y, x, y + side, x + side)

    def _read(self, drawn: tuple[int, int, Box], rng: np.random.Generator) -> tuple[Crop, bool]:
        """Read a box and what its change needs around it; say whether it holds nothing but class 0."""
        at, plane, box = drawn
        plan, image = self.plan, self.plan.train[at]
        change = plan.config.augment.draw(plan.crop, rng)
        assert image.truth is not None
        top, left = box.y0 - (change.side - plan.crop) // 2, box.x0 - (change.side - plan.crop) // 2
        region = Box(top, left, top + change.side, left + change.side)
        raw_CYX = read_reflected(self.shelf.raster(image.path, image.reader), region, plane)
        truth_CYX = read_reflected(self.shelf.raster(image.truth, {"name": "auto"}), region, plane)
        classes_YX = plan.truth_map.apply(truth_CYX, region)
        pixels_CYX = self._normalized(raw_CYX, at)
        valid_YX = valid_pixels(raw_CYX, image.header)
        if valid_YX is not None:
            pixels_CYX = np.where(valid_YX, pixels_CYX, np.float32(0))
            classes_YX = np.where(valid_YX, classes_YX, plan.truth_map.ignored)
        needs_instances = plan.loss.needs_instances or plan.border is not None
        labels = [classes_YX]
        if needs_instances:  # what is ignored is no object, whatever value says so
            labels.append(np.where(classes_YX == plan.truth_map.ignored, 0, truth_CYX[0]).astype(np.int32))
        pixels_CYX, labels = change.apply(pixels_CYX, labels)
        known = labels[0] != plan.truth_map.ignored
        is_empty = not np.any(labels[0][known])
        weights_YX = plan.loss.pixel_weights(labels[1]) if plan.loss.needs_instances else None
        return Crop(f"{image.name} at {box}", pixels_CYX, targets(plan, labels[0], labels[-1]), weights_YX), is_empty

    def _normalized(self, raw_CYX: NDArray[Any], at: int) -> NDArray[np.float32]:
        """Normalise as a run does, then merge the channels where the network wants it."""
        values_CYX = raw_CYX.astype(np.float32)
        numbers = self.plan.scan.normalize or self.plan.scan.images[at].normalize
        if numbers is not None:
            mean, std = (np.array(numbers[key], np.float32)[:, None, None] for key in ("mean", "std"))
            values_CYX = (values_CYX - mean) / std
        if self.plan.config.merge_channels:
            values_CYX = np.stack([values_CYX.mean(axis=0), values_CYX.min(axis=0), values_CYX.max(axis=0)])
        return values_CYX


def _inside(at: int, side: int, length: int) -> int:
    """Move a crop into the image; one that is larger is centred.

    Example:
        >>> _inside(-3, 4, 10), _inside(9, 4, 10), _inside(0, 16, 10)
        (0, 6, -3)
    """
    return min(max(at, 0), length - side) if length >= side else (length - side) // 2


def _stacked(crops: Sequence[Crop]) -> Batch:
    import torch

    weights = [torch.from_numpy(crop.weights_YX) for crop in crops if crop.weights_YX is not None]
    return Batch(
        [crop.where for crop in crops],
        torch.stack([torch.from_numpy(crop.pixels_CYX) for crop in crops]),
        torch.stack([torch.from_numpy(crop.truth_YX) for crop in crops]),
        torch.stack(weights) if weights else None,
    )


class _Dataset:
    """What a loading process has: whole batches by the numbers of their crops; what is wrong is said to whoever asked."""

    def __init__(self, crops: Crops) -> None:
        self.crops = crops

    def __getitems__(self, numbers: list[int]) -> Batch | GigasegError | OSError:
        try:
            return self.crops.stacked(numbers)
        except (GigasegError, OSError) as error:
            return error


def _stand_by(_number: int) -> None:
    """Ctrl-C asks whoever trains, not those who load, to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
