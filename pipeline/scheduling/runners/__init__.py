"""Runners carry out the blocks of a run. The serial runner is the definition, and every other runner agrees with it.

Owns: actors, their start, food and death; the cluster. Modules that begin with ``_`` import Ray, and ``ray`` imports it when it runs.
May import: the queue of blocks, engine, records and below. Never touches: pixels, the ledger (:attr:`Work.book` books receipts).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from pipeline.config import Compute
from pipeline.engine import Job
from pipeline.plugins import Plugin
from pipeline.records import Block, Receipt
from pipeline.scheduling.block_queue import BlockQueue
from pipeline.scheduling.monitoring import Monitor

__all__ = ["Runner", "Work", "failure"]

LEASE_PIXELS = 2**24  # enough that an actor never waits for the driver, little to do again when it dies
LEASE_BLOCKS = 64


@dataclass(frozen=True)
class Work:
    """A run as a runner sees it.

    Attributes:
        queue: blocks to take and give back.
        book: books a receipt in the ledger and in the queue.
        stopping: whether the run is to stop: blocks in flight are finished, no new one begins.
        log: writes one line of the run's log, as :meth:`pipeline.records.RunFolder.log`.
        arm: installs the signal handlers; call it again after starting anything that replaces them.
        check: returns the receipt, failed where a file that it names is missing.
        queues: whether to wait for room on a cluster that is busy; False: refuse.
        monitor: counts of the run; a runner says how many actors live.
    """

    job: Job
    queue: BlockQueue
    book: Callable[[Block, Receipt], None]
    stopping: Callable[[], bool]
    compute: Compute
    log: Callable[..., None]
    arm: Callable[[], None] = lambda: None
    check: Callable[[Receipt], Receipt] = lambda receipt: receipt
    queues: bool = True
    monitor: Monitor = field(default_factory=Monitor)

    @property
    def lease_pixels(self) -> int:
        """Pixels that an actor holds at most: a few blocks more than it reads, computes and writes at a time."""
        recipe = self.job.recipe
        return max(LEASE_PIXELS, (sum(recipe.io_threads) + 2) * recipe.block**2)

    def settle(self, block: Block, receipt: Receipt) -> None:
        """Book the receipt of a block, or give the block back where another try may succeed."""
        receipt = self.check(receipt)
        if receipt.transient and receipt.attempts < self.compute.attempts:
            told = {"image": block.image.name, "block": block.id, "phase": block.phase, "attempts": receipt.attempts}
            self.log(f"try again {block.phase} {block.id}: {receipt.cause}", event="block retried", level="warning", **told)
            self.monitor.retried(block)
            self.queue.give_back([replace(block, attempt=receipt.attempts)])
        else:
            self.book(block, receipt)


class Runner(Plugin):
    """Base of the runners."""

    @abstractmethod
    def run(self, work: Work) -> None:
        """Carry out blocks until the queue is finished, or until the work is stopping and none is in flight.

        Raises:
            GigasegError: the run cannot go on.
        """


def failure(block: Block, cause: str) -> Receipt:
    """Return the receipt of a block whose process died before it wrote one."""
    return Receipt(block.phase, block.image.name, block.id, block.key, attempts=block.attempt + 1, cause=cause)
