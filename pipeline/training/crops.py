"""Crops: which part of which image a step sees, read by region, varied, ready for the network.

Everything about crop ``i`` follows from the seed and ``i`` alone, so a resumed training goes on with the very crops
that it would have seen, and workers that share a batch see together what one would see alone.
"""

from __future__ import annotations

import signal
import threading
import warnings
from collections import OrderedDict, deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from copy import copy
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import GigasegError
from pipeline.geometry import Box
from pipeline.job import read_reflected, valid_pixels
from pipeline.plugins import build
from pipeline.readers import Raster
from pipeline.stores import ArrayRaster
from pipeline.training.augment import Change
from pipeline.training.plan import TrainPlan, area
from pipeline.training.targets import targets

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Batch", "Crop", "Crops", "Shelf"]

TRIES = 16  # of finding a crop that holds more than class 0
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


class Shelf:
    """Images that are in use: decoded ones as long as they fit, others open. Safe to use from several threads.

    Args:
        budget: bytes of decoded pixels to keep.
    """

    def __init__(self, budget: int) -> None:
        self._budget, self._used = budget, 0
        self._lock = threading.Lock()
        self._open: OrderedDict[tuple[str, str], tuple[Raster, int, ExitStack]] = OrderedDict()

    def raster(self, path: str, reader: Any) -> Raster:
        """The image at a path; one that fits into a quarter of the budget is decoded once and kept."""
        key = (path, repr(sorted(reader.items())))
        with self._lock:
            if key not in self._open:
                self._open[key] = self._take(path, reader)
                self._used += self._open[key][1]
                while self._used > self._budget and len(self._open) > 1:
                    self._drop()
            self._open.move_to_end(key)
            return self._open[key][0]

    def __reduce__(self) -> tuple[type[Shelf], tuple[int]]:
        """Another process begins with an empty one."""
        return Shelf, (self._budget,)

    def close(self) -> None:
        """Close every file."""
        while self._open:
            self._drop()

    def _take(self, path: str, reader: Any) -> tuple[Raster, int, ExitStack]:
        stack = ExitStack()
        raster: Raster = stack.enter_context(build("readers", reader).open(path))
        header = raster.header
        height, width = header.shape
        size = height * width * header.channels * np.dtype(header.dtype).itemsize * header.num_planes
        if size > self._budget // 4 or header.num_planes > 1:
            return raster, header.whole_bytes, stack
        pixels_CYX = np.ascontiguousarray(raster.read(Box(0, 0, height, width)))
        stack.close()
        return ArrayRaster(pixels_CYX, header), size, stack

    def _drop(self) -> None:
        _, size, stack = self._open.popitem(last=False)[1]
        self._used -= size
        stack.close()


class Crops:
    """The crops of a training, by number.

    Args:
        plan: scanned.
        shelf: holds the images.
    """

    def __init__(self, plan: TrainPlan, shelf: Shelf) -> None:
        self.plan, self.shelf = plan, shelf
        sizes = np.array([area(image) if plan.config.sampling.images == "area" else 1 for image in plan.train], np.float64)
        self._upto = np.cumsum(sizes) / sizes.sum()
        self._pixels = np.array([one.pixels for one in plan.scan.images], np.float64)
        self._classes = np.flatnonzero(self._pixels.sum(axis=0))

    def __getitem__(self, index: int) -> Crop:
        """Make crop ``index``, from 0."""
        plan = self.plan
        rng = np.random.default_rng([plan.config.seed, index])
        may_be_empty = rng.random() < plan.config.sampling.empty
        left = 1 if may_be_empty else TRIES
        while True:
            image, plane, box = self._draw(rng)
            change = plan.config.augment.draw(plan.crop, rng)
            crop, is_empty = self._read(image, plane, box, change)
            left -= 1
            if not is_empty or not left:
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
            wanted = rng.choice(self._classes)
            chances = self._pixels[:, wanted]
            image = int(rng.choice(len(chances), p=chances / chances.sum()))
            places = plan.scan.images[image].places[wanted]
            counts = np.array([place.count for place in places], np.float64)
            place = places[int(rng.choice(len(places), p=counts / counts.sum()))]
            y, x = place.positions[rng.integers(len(place.positions))] - side // 2
            plane = place.plane
        else:
            image = int(np.searchsorted(self._upto, rng.random(), side="right"))
            plane = int(rng.integers(plan.train[image].header.num_planes))
            y, x = (rng.integers(0, max(1, length - side + 1)) for length in plan.train[image].header.shape)
        y, x = (_inside(int(at), side, length) for at, length in zip((y, x), plan.train[image].header.shape, strict=True))
        return image, plane, Box(y, x, y + side, x + side)

    def _read(self, at: int, plane: int, box: Box, change: Change) -> tuple[Crop, bool]:
        """Read a box and what the change needs around it; say whether it holds nothing but class 0."""
        plan, image = self.plan, self.plan.train[at]
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
