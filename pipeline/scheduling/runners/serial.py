"""The definition of a run: one process, one block after the other, in the plan's order."""

from __future__ import annotations

import queue
from contextlib import closing

from pipeline.engine import open_resources, process
from pipeline.records import Block
from pipeline.scheduling.runners import LEASE_BLOCKS, Runner, Work

__all__ = ["Serial"]


class Serial(Runner):
    """Run in this process: nothing to start, nothing between you and a debugger; for small jobs and for proofs.

    A block that kills the process ends the run, and ``deadline`` is not enforced: that takes ``ray``.

    Example::

        runner: serial
    """

    def run(self, work: Work) -> None:
        """Carry out the blocks in this process."""
        feed: queue.SimpleQueue[Block | None] = queue.SimpleQueue()
        held: dict[tuple[str, str], Block] = {}

        def top_up() -> None:
            pixels = sum(block.box.area for block in held.values())
            if pixels < work.lease_pixels / 2 and len(held) < LEASE_BLOCKS / 2 and not work.stopping():
                for block in work.queue.lease(work.lease_pixels - pixels, LEASE_BLOCKS - len(held)):
                    held[block.phase, block.id] = block
                    feed.put(block)
            if not held:
                feed.put(None)

        def following() -> Block | None:
            block = feed.get()
            return None if work.stopping() else block

        with open_resources(work.job) as resources, closing(process(following, resources, *work.job.recipe.io_threads)) as receipts:
            work.monitor.actors = lambda: 1
            top_up()
            for receipt in receipts:
                work.settle(held.pop((receipt.phase, receipt.block)), receipt)
                top_up()
