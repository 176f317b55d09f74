"""One execution of a run: hold its ledger, do what is not done, audit, record how it ended.

``run``, ``retry``, ``evaluate`` and ``convert`` share it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import Any

from pipeline.engine import cause_of, phase
from pipeline.errors import GigasegError, counted
from pipeline.plugins import build
from pipeline.records import Block, CommittedReceipts, Ledger, Receipt, RunFolder, hardware, versions
from pipeline.scheduling.audit import conclude, outdated_files, still_valid
from pipeline.scheduling.block_queue import BlockQueue
from pipeline.scheduling.monitoring import Monitor
from pipeline.scheduling.plan import RunSpec
from pipeline.scheduling.progress import Progress, show_progress
from pipeline.scheduling.runners import Work
from pipeline.scheduling.stage_state import WAITING, KnownStages
from pipeline.scheduling.tally import Tally
from pipeline.system import handle_signals, record

__all__ = ["EXIT_INTERRUPTED", "execute"]

EXIT_INTERRUPTED = 130
LOOK_S = 0.5  # between two looks for the stop flag


def execute(spec: RunSpec, *, take_over: bool = False) -> tuple[int, Tally]:
    """Do what the ledger does not hold yet; return the exit code, and what the ledger now holds of this plan's blocks.

    Raises:
        GigasegError: the run could not go on; what is committed stays.
    """
    monitor = Monitor(spec.folder.storage.url)
    with monitor.served(spec.metrics_address), Ledger.open(spec.folder.ledger, take_over=take_over) as ledger:
        spec = _guarded(spec, ledger)
        spec.folder.forget_stop()
        if spec.config:  # written once the run is ours: until then another process may be working here
            spec.folder.write_config(spec.config)
        committed = CommittedReceipts(spec.folder.ledger)
        known = still_valid(spec, committed.last)
        spec = replace(spec, job=replace(spec.job, kept=known.kept))
        queue = BlockQueue(spec.stages)
        queue.begin(known)
        monitor.begin(spec.stages, queue)
        outdated = outdated_files(spec, known, committed)
        del known, committed
        if json.loads(json.dumps(spec.plan)) != spec.folder.last_plan():
            ledger.append_row("plan", spec.plan)
        with nullcontext() if queue.is_finished else monitor.written(spec.folder):
            if not queue.is_finished:
                _Execution(spec, ledger, queue, outdated, monitor).run()
            ledger.flush()
            known = KnownStages(spec.stages)
            done = Tally(spec.plan, CommittedReceipts(spec.folder.ledger), known.plans)
            return (conclude(spec, done) if queue.is_finished else EXIT_INTERRUPTED), done


def _guarded(spec: RunSpec, ledger: Ledger) -> RunSpec:
    """Return the same run, which writes, in every process, only while this process holds it."""
    storage = spec.folder.storage.guarded(ledger.guard)
    return replace(spec, folder=RunFolder(storage), job=replace(spec.job, output=storage))


class _Execution:
    """What changes while a run goes on.

    ``outdated`` are files that an earlier execution wrote of blocks that are done again, by (phase, block id).
    """

    def __init__(
        self,
        spec: RunSpec,
        ledger: Ledger,
        queue: BlockQueue,
        outdated: Mapping[tuple[str, str], Sequence[str]],
        monitor: Monitor,
    ) -> None:
        self.spec, self.ledger, self.queue, self.outdated, self.monitor = spec, ledger, queue, outdated, monitor
        self.count_keys, self.temporary_files = spec.count_keys, spec.temporary_files
        self.num_signals = 0
        self.looked = 0.0
        self.flagged = False
        self.progress: Progress

    def run(self) -> None:
        """Carry the queue out, and leave run.json saying how it ended."""
        spec, folder = self.spec, self.spec.folder
        started = time.time()
        begun = {"blocks": self.queue.total_blocks, "blocks_before": self.queue.num_settled, "phases": self.monitor.phases}
        folder.write(**spec.run, **begun, state="running", versions=versions(), hardware=hardware(), started=_stamp(started), ended=None)
        left = self.queue.total_blocks - self.queue.num_settled
        told = f"begin: {left} of {self.queue.total_blocks} blocks to do, runner {spec.runner}, epoch {self.ledger.epoch}"
        folder.log(told, event="run begins", output=folder.storage.url, blocks=left, runner=spec.runner, epoch=self.ledger.epoch)
        folder.log(*(f"left out: {one['path']}: {one['reason']}" for one in spec.plan.get("left_out", ())), event="file left out")
        state = "failed"
        try:
            with show_progress(self.queue, self.monitor, self._pixels) as self.progress, handle_signals(self._on_signal) as arm:
                work = Work(
                    spec.job,
                    self.queue,
                    self.book,
                    self.stopping,
                    spec.compute,
                    folder.log,
                    arm,
                    self.check,
                    spec.queues,
                    monitor=self.monitor,
                )
                build("runners", {"name": spec.runner}, "compute.runner").run(work)
            state = "running" if self.queue.is_finished else "interrupted"
        except (KeyboardInterrupt, SystemExit):  # Ray answers SIGTERM with SystemExit while it starts
            state = "interrupted"
        except Exception as error:
            with suppress(GigasegError):
                folder.log(f"stopped: {cause_of(error)}", event="run stopped", level="error", cause=cause_of(error))
            raise
        finally:
            # Nothing is written where this process has lost the run, or the folder is gone.
            with suppress(GigasegError):
                folder.log(*(["interrupted"] if state == "interrupted" else []), event="run interrupted", level="warning")
                folder.write(state=state, ended=_stamp(time.time()), **self._measured(time.time() - started))

    def _measured(self, seconds: float) -> dict[str, Any]:
        """Return what is recorded of this execution: pixels that got a result a second, busy share and number of actors."""
        busy, monitor = self.monitor.busy_share, self.monitor
        return {
            "seconds": round(seconds, 3),
            "pixels_per_second": round(monitor.result_pixels / seconds) if monitor.result_pixels else None,
            "busy_share": None if busy is None else round(busy, 4),
            "actors": monitor.most_actors,
        }

    def _pixels(self) -> tuple[int, int]:
        """Return the pixels of all phases that take time, and how many of these are committed."""
        timed = [stage for stages in self.spec.stages.values() for stage in stages if self._takes_time(stage.blocks[0])]
        blocks = (block for stage in timed for block in stage.blocks if self.queue.state_of(block) != WAITING)
        done = sum(block.box.area for block in blocks) if self.queue.num_settled else 0
        return sum(stage.area for stage in timed), done

    def _takes_time(self, block: Block) -> bool:
        return phase(block.phase).takes_time(self.spec.job, block.image)

    def check(self, receipt: Receipt) -> Receipt:
        """Return the receipt, failed where a file that it names is missing or has another size."""
        for key, size in receipt.files.items():
            if self.spec.folder.storage.size(key) != size:
                return replace(receipt, cause=f"{key} was written and is not there with its {size} bytes", transient=True, counts=None)
        return receipt

    def book(self, block: Block, receipt: Receipt) -> None:
        """Append a block's receipt to the ledger, which commits it within half a second, and settle it in the queue."""
        if receipt.counts is not None:
            receipt = replace(receipt, count_key=self.count_keys[receipt.image])
        if not receipt.ok:
            self._forget(self.outdated.get((receipt.phase, receipt.block), ()))
            phase(block.phase).discard(self.spec.job, block)
            receipt = replace(receipt, payload=phase(block.phase).left_by_failure(self.spec.job, block))
        self.ledger.append(receipt)
        self.queue.settle(receipt)
        self.monitor.settled(block, receipt)
        self.progress.advance(block, receipt, block.box.area if self._takes_time(block) else 0)
        self._discard_temporary_files(receipt.image)
        for note in receipt.notes:
            self.spec.folder.log(f"{receipt.phase} {receipt.block}: {note}", event="note", **_fields(receipt))
        for warning in receipt.warnings:
            self.spec.folder.log(f"{receipt.image}: {warning}", event="image to treat with care", level="warning", **_fields(receipt))
        if not receipt.ok:
            self._quarantined(receipt)
        if self.queue.is_image_finished(receipt.image):
            record(f"image done: {receipt.image}", event="image done", image=receipt.image)

    def _discard_temporary_files(self, image: str) -> None:
        """Remove what blocks left for later phases, once their image is finished without a failure."""
        files = self.temporary_files.get(image)
        if files and self.queue.is_image_finished(image) and not self.queue.has_failed(image):
            self.ledger.flush()  # first the receipts of what was made of these files must be on the disk
            files.discard()

    def _quarantined(self, receipt: Receipt) -> None:
        """Log a quarantined block; raise when there are too many."""
        told = f"quarantine {receipt.phase} {receipt.block} after {counted(receipt.attempts, 'try', 'tries')}: {receipt.cause}"
        self.spec.folder.log(told, event="block quarantined", level="warning", **_fields(receipt), cause=receipt.cause)
        limit, number = self.spec.max_failed, len(self.queue.failed)
        if limit is not None and number > limit:
            raise GigasegError(f"{number} blocks are quarantined, more than --max-failed {limit}; the last: {receipt.cause}")

    def _forget(self, files: Iterable[str]) -> None:
        """Remove what an earlier execution wrote of a block that fails now: its pixels have no prediction."""
        storage = self.spec.folder.storage
        for key in files:
            group, _, name = key.rpartition("/")
            if name == "zarr.json":
                storage.delete_tree(group)  # the whole export of a single-block image
            storage.delete(key)

    def stopping(self) -> bool:
        """Whether a signal came, or ``gigaseg stop`` was called."""
        now = time.monotonic()
        if now - self.looked > LOOK_S:
            self.looked = now
            self.flagged = self.spec.folder.is_asked_to_stop()
        return self.num_signals > 0 or self.flagged

    def _on_signal(self, *_: object) -> None:
        self.num_signals += 1
        if self.num_signals > 1:
            raise KeyboardInterrupt


def _fields(receipt: Receipt) -> dict[str, Any]:
    """Return what an event says of a block."""
    seconds = round(sum(receipt.seconds.values()), 3)
    return {"image": receipt.image, "block": receipt.block, "phase": receipt.phase, "attempts": receipt.attempts, "seconds": seconds}


def _stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(seconds))
