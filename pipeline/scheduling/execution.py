"""One execution of a run: hold its ledger, do what is not done, audit, say how it ended.

Everything that ``run``, ``retry``, ``evaluate`` and ``convert`` share.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.config import Compute
from pipeline.engine import SEAM_FOLDER, Job, SeamFiles, cause_of, digest
from pipeline.errors import BlockError, GigasegError, StoreError
from pipeline.interrupts import handled_by
from pipeline.plugins import build
from pipeline.records import Block, Ledger, Receipt, RunFolder, Tally, hardware, latest, tally, versions
from pipeline.scheduling.block_queue import BlockQueue, Stage
from pipeline.scheduling.plan import block_keys
from pipeline.scheduling.progress import Progress, show_progress
from pipeline.scheduling.runners import Work
from pipeline.storage import BlockStore, put_text

__all__ = ["EXIT_INTERRUPTED", "EXIT_PARTIAL", "Order", "execute"]

EXIT_PARTIAL, EXIT_INTERRUPTED = 3, 130
REREAD = 256  # of the last committed blocks, whose pixels are compared with their digest: a power cut may have taken them
PIXELS = ("predict", "copy")  # phases that write them
LOOK_S = 0.5  # between two looks for the stop flag


@dataclass(frozen=True)
class Order:
    """What is to be executed.

    Attributes:
        folder: where.
        job: what every actor is told.
        stages: phases and blocks of each image, by name, in the plan's order.
        plan: recorded in the ledger: all that a report needs besides receipts.
        runner: ``serial`` or ``ray``.
        compute: the YAML's ``compute``.
        run: fields of run.json that are known before it begins.
        config: the resolved YAML, for the folder's config.yaml; empty: none is written.
        again: which receipts of quarantined blocks are forgotten, so that they are tried again.
        max_failed: give up above so many quarantined blocks; None: never.
    """

    folder: RunFolder
    job: Job
    stages: Mapping[str, Sequence[Stage]]
    plan: Mapping[str, Any]
    runner: str
    compute: Compute
    run: Mapping[str, Any] = field(default_factory=dict)
    config: str = ""
    again: Callable[[Receipt], bool] = lambda _: False
    max_failed: int | None = None

    @property
    def joined(self) -> dict[str, SeamFiles]:
        """Images whose blocks blend with each other, and what these leave for each other."""
        first = {name: stages[0].blocks[0].image for name, stages in self.stages.items() if any(stage.phase == "score" for stage in stages)}
        return {name: SeamFiles(self.job, image) for name, image in first.items()}


def execute(order: Order, *, take_over: bool = False) -> tuple[int, Tally]:
    """Do what the ledger does not hold yet.

    Returns:
        The exit code, and what the ledger holds now of this plan's blocks.

    Raises:
        GigasegError: the run could not go on; what is committed stays.
    """
    with Ledger.open(order.folder.ledger, take_over=take_over) as ledger:
        order.folder.stop_flag.unlink(missing_ok=True)
        if order.config:  # not before the run is ours: another may be going on here
            put_text(order.folder.path / "config.yaml", order.config)
        rows = latest(ledger.rows())
        known = _verified(order, {key: receipt for key, receipt in rows.items() if receipt.ok or not order.again(receipt)})
        schedule = BlockQueue(order.stages, order.job.merge, order.job.conclude, block_keys)
        schedule.begin(known)
        before = {key: rows[key].files for key in schedule.waiting if key in rows and rows[key].files}
        _clear(order, schedule.waiting, {rows[key].image for key in before if key[0] in PIXELS})
        del rows, known
        if json.loads(json.dumps(order.plan)) != order.folder.last_plan():
            ledger.append_row("plan", order.plan)
        if not schedule.is_finished:
            _Execution(order, ledger, schedule, before).run()
        is_finished = schedule.is_finished
        del schedule
        done = tally(ledger.rows())
        # Images that left the plan leave the report.
        keys = ((block.phase, block.id) for block in _blocks(order))
        done.receipts = {key: done.receipts[key] for key in keys if key in done.receipts}
        return (_conclude(order, done.receipts) if is_finished else EXIT_INTERRUPTED), done


class _Execution:
    """What changes while a run goes on."""

    def __init__(self, order: Order, ledger: Ledger, schedule: BlockQueue, before: Mapping[tuple[str, str], Mapping[str, int]]) -> None:
        self.order, self.ledger, self.schedule, self.before = order, ledger, schedule, before
        self.singles = {name for name, stages in order.stages.items() if all(len(stage.blocks) == 1 for stage in stages)}
        self.count_keys = {one["name"]: one["count_key"] for one in order.plan["images"]}
        self.joined = order.joined
        self.signals = 0
        self.looked = 0.0
        self.flagged = False
        self.progress: Progress

    def run(self) -> None:
        """Carry the schedule out, and leave run.json saying how it ended."""
        order, folder = self.order, self.order.folder
        started = time.time()
        folder.write(**order.run, state="running", versions=versions(), hardware=hardware(), started=_stamp(started), ended=None)
        left = self.schedule.total_blocks - self.schedule.num_settled
        folder.log(f"begin: {left} of {self.schedule.total_blocks} blocks to do, runner {order.runner}, epoch {self.ledger.epoch}")
        state = "failed"
        try:
            with show_progress(self._pixels) as self.progress, handled_by(self._on_signal) as arm:
                work = Work(order.job, self.schedule, self.commit, self.stopping, order.compute, folder.log, arm, self.check)
                build("runners", {"name": order.runner}, "compute.runner").run(work)
            state = "running" if self.schedule.is_finished else "interrupted"
        except (KeyboardInterrupt, SystemExit):  # the latter is Ray's answer to SIGTERM while it starts
            state = "interrupted"
        except Exception as error:
            with suppress(StoreError):
                folder.log(f"stopped: {cause_of(error)}")
            raise
        finally:
            # Another process may hold the run by now, or the folder be gone: then it is not ours to write in.
            with suppress(GigasegError):
                self.ledger.check()
                folder.write(state=state, ended=_stamp(time.time()), seconds=round(time.time() - started, 3))

    def _pixels(self) -> tuple[dict[str, int], dict[str, int]]:
        """What each image has to go through in all its phases, and what of that is committed."""
        waiting = self.schedule.waiting
        pixels, done = dict.fromkeys(self.order.stages, 0), dict.fromkeys(self.order.stages, 0)
        for block in _blocks(self.order):
            if self._is_join(block):
                continue
            pixels[block.image.name] += block.box.area
            done[block.image.name] += 0 if (block.phase, block.id) in waiting else block.box.area
        return pixels, done

    def _is_join(self, block: Block) -> bool:
        """Whether a block only joins scores, which takes no time beside making them."""
        return block.phase == "predict" and block.image.name in self.joined

    def check(self, receipt: Receipt) -> Receipt:
        """Look whether what a receipt says was written is there: background pixels leave no trace else."""
        for name, size in receipt.files.items():
            path = self.order.folder.path / name
            if not path.is_file() or path.stat().st_size != size:
                return replace(receipt, cause=f"{name} was written and is not there with its {size} bytes", transient=True, counts=None)
        return receipt

    def commit(self, block: Block, receipt: Receipt) -> None:
        """Book a block's receipt in the ledger, then in the schedule."""
        if receipt.counts is not None:
            receipt = replace(receipt, count_key=self.count_keys[receipt.image])
        if receipt.phase == "predict" and receipt.image in self.singles:
            receipt = replace(receipt, written=self.order.plan["written"])
        if not receipt.ok:
            self._forget(self.before.get((receipt.phase, receipt.block), {}))
        self.ledger.append(receipt)
        self.schedule.settle(receipt)
        if not self._is_join(block):
            self.progress.advance(block)
        if receipt.phase == "finish" and receipt.ok and not block.lost and (parts := self.joined.get(receipt.image)):
            self.ledger.flush()  # not before all that was made of them is on the disk
            parts.discard()
        for note in receipt.notes:
            self.order.folder.log(f"{receipt.phase} {receipt.block}: {note}")
        if not receipt.ok:
            self.order.folder.log(f"quarantine {receipt.phase} {receipt.block} after {receipt.attempts} tries: {receipt.cause}")
            limit = self.order.max_failed
            if limit is not None and len(self.schedule.failed) > limit:
                raise GigasegError(
                    f"{len(self.schedule.failed)} blocks are quarantined, more than --max-failed {limit}; the last: {receipt.cause}"
                )

    def _forget(self, files: Mapping[str, int]) -> None:
        """Remove what an earlier execution wrote of a block that cannot be done now: its pixels have no prediction."""
        for name in files:
            path = self.order.folder.path / name
            if path.name == "zarr.json":
                shutil.rmtree(path.parent, ignore_errors=True)  # the whole export of a single-block image
            path.unlink(missing_ok=True)

    def stopping(self) -> bool:
        """Whether a signal came, or ``gigaseg stop`` was called."""
        now = time.monotonic()
        if now - self.looked > LOOK_S:
            self.looked = now
            self.flagged = self.order.folder.stop_flag.exists()
        return self.signals > 0 or self.flagged

    def _on_signal(self, *_: object) -> None:
        self.signals += 1
        if self.signals > 1:
            raise KeyboardInterrupt


def _clear(order: Order, waiting: Collection[tuple[str, str]], written: Collection[str]) -> None:
    """Remove the arrays of images that are done again from the start: what is there may have another shape."""
    if not written:
        return
    kept = {block.image.name for block in _blocks(order) if block.phase in PIXELS and (block.phase, block.id) not in waiting}
    for image in (stages[0].blocks[0].image for name, stages in order.stages.items() if name in written and name not in kept):
        for folder in (None, "probs"):
            shutil.rmtree(order.job.path(image, ".ome.zarr", folder), ignore_errors=True)


def _blocks(order: Order) -> Iterator[Block]:
    return (block for stages in order.stages.values() for stage in stages for block in stage.blocks)


def _verified(order: Order, known: Mapping[tuple[str, str], Receipt]) -> dict[tuple[str, str], Receipt]:
    """Leave out receipts whose files are gone, or whose last pixels are not what was written.

    Of an image that was finished no pixel is read again: finishing has read them all, and has removed its parts.
    """
    kept = {key: receipt for key, receipt in known.items() if receipt.phase == "score" or _is_there(order, receipt)}
    finished = {receipt.image for (phase, _), receipt in kept.items() if phase == "finish" and receipt.ok}
    pixels = [key for key, receipt in kept.items() if receipt.digest and receipt.phase != "score" and receipt.image not in finished]
    boxes = {(block.phase, block.id): block for block in _blocks(order)}
    for key in pixels[-REREAD:]:
        if key in boxes and not _is_intact(order, boxes[key], kept[key]):
            order.folder.log(f"do again {key[0]} {key[1]}: its pixels are not those that were written")
            del kept[key]
    no_mask = {block.image.name for key, block in boxes.items() if block.phase == "predict" and key not in kept}
    no_mask |= {name for name, parts in order.joined.items() if parts.folder.is_dir()}  # or masks may not stay
    wanted = {key for key, receipt in kept.items() if receipt.phase == "score" and receipt.image in no_mask}
    return {key: receipt for key, receipt in kept.items() if key not in wanted or _is_there(order, receipt)}


def _is_there(order: Order, receipt: Receipt) -> bool:
    """Whether all files of a receipt are there, with their size, and are what is asked for; a failure has none."""
    if receipt.written not in ("", order.plan["written"]):
        order.folder.log(f"do again {receipt.phase} {receipt.block}: for other writers, or classes of other names or colours")
        return False
    root = order.folder.path
    if not receipt.ok or all((root / name).is_file() and (root / name).stat().st_size == size for name, size in receipt.files.items()):
        return True
    order.folder.log(f"do again {receipt.phase} {receipt.block}: its files are gone")
    return False


def _is_intact(order: Order, block: Block, receipt: Receipt) -> bool:
    """Compare the stored pixels of a block with its digest; exports of single-block images have only their size."""
    path = order.job.path(block.image, ".ome.zarr") / "0"
    if not path.is_dir() or not any(".ome.zarr/" in name for name in receipt.files):  # an earlier writer may have left one
        return True
    try:
        pixels_CYX = BlockStore.open(path).read(block.box, block.plane)
    except (StoreError, BlockError):
        return False
    return digest(pixels_CYX[0] if block.phase == "predict" else pixels_CYX) == receipt.digest


def _conclude(order: Order, receipts: Mapping[tuple[str, str], Receipt]) -> int:
    """Audit that no pixel is missing, and settle the state."""
    folder, before = order.folder, order.folder.read().get("state")
    missing = [block.id for block in _blocks(order) if (block.phase, block.id) not in receipts]
    if missing:
        raise GigasegError(f"audit: {len(missing)} blocks have no receipt, the first is {missing[0]}; this is a fault of gigaseg")
    count_keys = {one["name"]: one["count_key"] for one in order.plan["images"]}
    spoilt = [receipt for receipt in receipts.values() if receipt.truth_error and receipt.count_key == count_keys[receipt.image]]
    bad = spoilt or order.plan["rejected"] or not all(receipt.ok for receipt in receipts.values())
    state = "partial" if bad else "done"
    failed = {receipt.image for receipt in receipts.values() if not receipt.ok}
    for name, parts in order.joined.items():
        if name not in failed:
            parts.discard()  # an execution that was killed may have left them
    with suppress(OSError):
        if order.joined:
            (folder.path / SEAM_FOLDER).rmdir()  # if it is empty
    if state != before:
        # Numbers may differ from another run's of the same recipe where a backend had to change its batch.
        changes = sorted({note for receipt in receipts.values() for note in receipt.notes})
        folder.write(state=state, recipe_kept=not changes, recipe_changes=changes)
        folder.log(f"end: {state}")
    return EXIT_PARTIAL if bad else 0


def _stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(seconds))
