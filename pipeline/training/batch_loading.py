"""Batches of crops, prepared ahead by a thread or by processes."""

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

from pipeline.errors import GigasegError
from pipeline.training.crops import Crops
from pipeline.training.worker_group import WorkerGroup

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Batch", "load_batch", "load_batches"]

AHEAD = 3  # batches that are prepared while the network computes one


@dataclass(frozen=True)
class Batch:
    """The share of one worker in a step: several of :class:`pipeline.training.crops.Crop`, stacked."""

    where: Sequence[str]
    pixels_BCYX: Tensor
    target_BYX: Tensor
    weights_BYX: Tensor | None


def load_batch(crops: Crops, indices: Sequence[int]) -> Batch:
    """Make the crops of these numbers."""
    import torch

    made = [crops[index] for index in indices]
    weights = [torch.from_numpy(crop.weights_YX) for crop in made if crop.weights_YX is not None]
    return Batch(
        [crop.where for crop in made],
        torch.stack([torch.from_numpy(crop.pixels_CYX) for crop in made]),
        torch.stack([torch.from_numpy(crop.target_YX) for crop in made]),
        torch.stack(weights) if weights else None,
    )


def load_batches(crops: Crops, workers: WorkerGroup, first_step: int = 0) -> Generator[Batch]:
    """Yield the share of this worker in step ``first_step`` and in all that follow.

    Crops are made by a thread, or by processes where one interpreter cannot feed a GPU.

    Raises:
        GigasegError: an image cannot be read.
    """
    size = crops.plan.config.batch
    shares = ([step * size + index for index in range(workers.rank, size, workers.size)] for step in count(first_step))
    return _load_by_thread(crops, shares) if workers.loaders == 1 else _load_by_processes(crops, shares, workers.loaders)


def _load_by_thread(crops: Crops, shares: Iterator[list[int]]) -> Generator[Batch]:
    with ThreadPoolExecutor(1, "crops") as pool:
        waiting: deque[Future[Batch]] = deque()
        try:
            for share in shares:
                waiting.append(pool.submit(load_batch, crops, share))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
        finally:
            for batch in waiting:
                batch.cancel()


def _load_by_processes(crops: Crops, shares: Iterator[list[int]], num_processes: int) -> Generator[Batch]:
    from torch.utils.data import DataLoader

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create")  # the user asked for that many processes
        loader: DataLoader[Any] = DataLoader(
            _BatchDataset(crops),  # type: ignore[arg-type]  # the loader calls nothing of a dataset but __getitems__
            batch_sampler=shares,
            collate_fn=copy,  # a batch needs no further collating
            num_workers=num_processes,
            worker_init_fn=_ignore_interrupts,
            # A fork of this process would inherit locks that its other threads hold at that moment.
            multiprocessing_context="forkserver",
        )
        handler = signal.getsignal(signal.SIGCHLD)
        batches = iter(loader)
    if threading.current_thread() is threading.main_thread():
        # Torch installs a handler for good, which would run for every child that this process ever has. A lost process shows without it.
        signal.signal(signal.SIGCHLD, handler)
    for batch in batches:
        if isinstance(batch, (GigasegError, OSError)):
            raise batch
        yield batch


class _BatchDataset:
    """Whole batches by the numbers of their crops; an error is returned, so that it arrives in the training process as it was raised."""

    def __init__(self, crops: Crops) -> None:
        self.crops = crops

    def __getitems__(self, indices: list[int]) -> Batch | GigasegError | OSError:
        try:
            return load_batch(self.crops, indices)
        except (GigasegError, OSError) as error:
            return error


def _ignore_interrupts(_worker: int) -> None:
    """Leave Ctrl-C to the training process, which ends its loaders."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
