"""The workers of a training and what they exchange. One worker alone needs no process group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["WorkerGroup"]


@dataclass(frozen=True)
class WorkerGroup:
    """All workers, as one of them sees them.

    Attributes:
        rank: of this worker, from 0; rank 0 writes files.
        size: number of workers.
        device: of this worker: ``cpu``, ``cuda``, or ``cuda:0`` and so on.
        threads: compute threads of each worker.
        loaders: what prepares the crops of each worker: 1: a thread; above 1: that many processes.
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    threads: int = 1
    loaders: int = 1

    def sum(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return the sum over all workers; the argument does not change."""
        if self.size == 1:
            return numbers
        import torch.distributed as dist

        total = numbers.clone()
        dist.all_reduce(total)
        return total

    def gather(self, value: Any) -> Sequence[Any]:
        """Return the values of all workers, in the order of their ranks; every worker must call this."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait until every worker has called this."""
        self.gather(None)

    def distribute(self, network: nn.Module) -> nn.Module:
        """Return the network as one that averages the gradients of all workers."""
        if self.size == 1:
            return network
        from torch.nn.parallel import DistributedDataParallel

        # Rank 0 saves the statistics of batch norms, so the others need no copy; sending one before each step would make workers wait.
        return DistributedDataParallel(
            network, device_ids=None if self.device == "cpu" else [self.device], broadcast_buffers=False, gradient_as_bucket_view=True
        )
