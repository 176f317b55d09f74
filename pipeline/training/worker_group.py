"""The workers of a training: who I am, and what we know together. One worker alone needs no process group."""

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
    """One worker's view.

    Attributes:
        rank: of this worker, from 0; rank 0 writes files.
        size: number of workers.
        device: ``cpu`` or ``cuda:0`` and so on.
        threads: compute threads of this worker.
        loaders: of crops: 1, a thread; more: so many processes.
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    threads: int = 1
    loaders: int = 1

    def add(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return the sum over all workers; the argument is left as it is."""
        if self.size == 1:
            return numbers
        import torch.distributed as dist

        total = numbers.clone()
        dist.all_reduce(total)
        return total

    def gather(self, value: Any) -> Sequence[Any]:
        """Return the values of all workers, in the order of their ranks; every worker must call."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def wait(self) -> None:
        """Go on when every worker is here."""
        self.gather(None)

    def share(self, network: nn.Module) -> nn.Module:
        """Return the network as one that adds up the gradients of all workers."""
        if self.size == 1:
            return network
        from torch.nn.parallel import DistributedDataParallel

        # Statistics of norms are those of rank 0, which saves them; sent to all before each step, they would only make workers wait.
        return DistributedDataParallel(
            network, device_ids=None if self.device == "cpu" else [self.device], broadcast_buffers=False, gradient_as_bucket_view=True
        )
