"""The life of a block: one receipt for each, failures travel as receipts, no more than three blocks are held."""

from __future__ import annotations

import queue
import threading
import time
import weakref

import pytest

from pipeline.engine.block_pipeline import process
from pipeline.errors import BlockError, InputError, StoreError
from pipeline.geometry import Box
from pipeline.inputs import Image
from pipeline.raster import Header
from pipeline.records import Block

IMAGE = Image(0, "a", "/a.tif", Header((10, 1000), 1, "uint8"), {"name": "auto"})


def blocks(count, phase="predict"):
    return [Block(phase, IMAGE, 0, 0, at, Box(0, 10 * at, 10, 10 * at + 10), f"key{at}", attempt=at % 2) for at in range(count)]


class Steps:
    """A phase that counts the blocks that it holds and does as it is told at one step of one block."""

    is_per_image = False

    def __init__(self, fail=None):
        self.fail = fail or {}
        self.held, self.most, self.lock = 0, 0, threading.Lock()
        self.threads = {}
        self.order = []

    def _do(self, step, block):
        self.threads.setdefault(step, set()).add(threading.current_thread().name)
        self.order.append((step, block.col))
        if (error := self.fail.get((step, block.col))) is not None:
            raise error

    def load(self, resources, block, watch):
        with self.lock:
            self.held += 1
            self.most = max(self.most, self.held)
        self._do("load", block)
        return f"pixels {block.col}"

    def work(self, resources, block, loaded, watch):
        assert loaded == f"pixels {block.col}"
        with watch("stitch"):
            time.sleep(0.002)
        self._do("work", block)
        return f"mask {block.col}"

    def save(self, resources, block, worked, watch):
        assert worked == f"mask {block.col}"
        with self.lock:
            self.held -= 1
        self._do("save", block)
        return {"digest": f"digest {block.col}"}


class Files:
    """Resources whose image changes when a number of blocks were read."""

    def __init__(self, change_after=None):
        self.change_after, self.asked = change_after, []

    def require_unchanged(self, block, *, whole):
        self.asked.append((block.col, whole))
        if self.change_after is not None and len(self.asked) > self.change_after:
            raise BlockError("a.tif: changed")


def run(feed, steps, *threads, files=None):
    """Do every block with one phase, whatever it is called but ``unknown``."""
    return process(feed, files or Files(), *threads, phase_of={"predict": steps}.__getitem__)


def feed_of(blocks):
    waiting = iter(blocks)
    return lambda: next(waiting, None)


def test_each_block_gives_one_receipt_in_order():
    """Receipts come in the order of the feed and say whose they are, which try it was, and what every stage took."""
    steps, given = Steps(), blocks(9)
    receipts = list(run(feed_of(given), steps))
    assert [receipt.block for receipt in receipts] == [block.id for block in given]
    assert [receipt.digest for receipt in receipts] == [f"digest {at}" for at in range(9)]
    assert [receipt.key for receipt in receipts] == [block.key for block in given]
    assert [receipt.attempts for receipt in receipts] == [1 + at % 2 for at in range(9)]
    assert all(receipt.ok and receipt.peak_bytes > 2**20 for receipt in receipts)
    assert all(set(receipt.seconds) == {"read", "compute", "stitch", "write"} for receipt in receipts)
    assert all(min(receipt.seconds.values()) >= 0 for receipt in receipts)


@pytest.mark.parametrize("whole", [False, True])
def test_a_block_whose_image_has_changed_fails_after_it_was_read(whole):
    """Blocks that were read before stay; a later one is neither computed nor written, whatever was read."""
    steps, files = Steps(), Files(change_after=2)
    steps.is_per_image = whole
    receipts = list(run(feed_of(blocks(4)), steps, files=files))
    assert [(receipt.cause, receipt.transient) for receipt in receipts] == [("", False)] * 2 + [("a.tif: changed", False)] * 2
    assert files.asked == [(at, whole) for at in range(4)]
    assert [at for step, at in steps.order if step == "work"] == [0, 1]


def test_reading_and_writing_have_threads_of_their_own():
    """The network is only ever touched by the caller's thread."""
    steps = Steps()
    list(run(feed_of(blocks(4)), steps))
    assert steps.threads["work"] == {threading.current_thread().name}
    assert steps.threads["load"] == {"read 0"}
    assert steps.threads["save"] == {"write"}


def test_no_more_than_three_blocks_are_held():
    """One read ahead, one computed, one written, however many there are and whichever stage is slow."""
    for slow in ("load", "work", "save"):
        steps = Steps()
        step = getattr(steps, slow)

        def slowly(resources, block, *given, step=step):
            time.sleep(0.004)
            return step(resources, block, *given)

        setattr(steps, slow, slowly)
        assert len(list(run(feed_of(blocks(20)), steps))) == 20
        assert steps.most <= 3


def test_a_block_is_read_while_another_computes():
    """Stages overlap: block 1 is read before block 0 has been computed."""
    steps, may_end = Steps(), threading.Event()
    work, load = steps.work, steps.load

    def load_and_tell(resources, block, watch):
        loaded = load(resources, block, watch)
        if block.col == 1:
            may_end.set()
        return loaded

    def wait(resources, block, loaded, watch):
        assert may_end.wait(5), "block 1 was not read while block 0 computed"
        return work(resources, block, loaded, watch)

    steps.load, steps.work = load_and_tell, wait
    assert all(receipt.ok for receipt in run(feed_of(blocks(3)), steps))


@pytest.mark.parametrize("step", ["load", "work", "save"])
@pytest.mark.parametrize(
    ("error", "cause", "transient"),
    [
        (ValueError("bad\n  shape"), "ValueError: bad shape", True),
        (MemoryError(), "MemoryError: no message", True),
        (BlockError("truncated here"), "truncated here", False),
    ],
)
def test_a_failure_is_a_receipt(step, error, cause, transient):
    """Whatever a step raises is that block's, in one line; only what is not known to be hopeless is worth another try."""
    steps = Steps({(step, 1): error})
    receipts = list(run(feed_of(blocks(4)), steps))
    assert sorted(receipt.block for receipt in receipts) == [block.id for block in blocks(4)]
    (failed,) = [receipt for receipt in receipts if not receipt.ok]
    assert (failed.block, failed.cause, failed.transient, failed.attempts) == ("a:0.0.1", cause, transient, 2)
    assert (failed.digest, failed.counts) == ("", None)
    later = {"load": ["work", "save"], "work": ["save"], "save": []}[step]
    assert not [done for done in steps.order if done in [(name, 1) for name in later]]


def test_a_network_that_does_not_fit_ends_the_run():
    """An error of the user's that only the first tile can show is raised: every other block would fail alike."""
    with pytest.raises(InputError, match="3 channels"):
        list(run(feed_of(blocks(3)), Steps({("work", 0): InputError("a network of 3 channels")})))
    quarantined = list(run(feed_of(blocks(3)), Steps({("load", 0): InputError("a file that is gone")})))
    assert [receipt.cause for receipt in quarantined] == ["a file that is gone", "", ""]


def test_a_phase_that_nobody_knows_is_the_blocks_failure():
    """A block of an unknown phase does not take the others with it."""
    mixed = [blocks(2)[0], blocks(2, "unknown")[1]]
    receipts = list(run(feed_of(mixed), Steps()))
    assert [receipt.ok for receipt in receipts] == [True, False]


@pytest.mark.parametrize("step", ["load", "work", "save"])
def test_a_store_that_fails_ends_the_run(step):
    """A full disk is nobody's block: it is raised, blocks before it have their receipts, no thread stays behind."""
    before = threading.active_count()
    steps, receipts = Steps({(step, 2): StoreError("disk full")}), []
    with pytest.raises(StoreError, match="disk full"):
        receipts.extend(iterated(run(feed_of(blocks(9)), steps), receipts))
    assert [receipt.block for receipt in receipts] == ["a:0.0.0", "a:0.0.1"]
    assert_threads(before)


def iterated(line, into):
    for receipt in line:
        into.append(receipt)
    return []


def assert_threads(wanted):
    patience = time.monotonic() + 3
    while threading.active_count() > wanted:
        assert time.monotonic() < patience, "a thread was left behind"
        time.sleep(0.01)


def test_an_abandoned_line_lets_its_threads_go():
    """Whoever stops asking for receipts leaves no thread behind."""
    before = threading.active_count()
    line = run(feed_of(blocks(50)), Steps())
    next(line)
    line.close()
    assert_threads(before)


@pytest.mark.parametrize(("readers", "writers"), [(3, 1), (1, 2), (3, 2)])
def test_several_threads_read_and_write(readers, writers):
    """Each block is done once, so many are read and written at a time and no more, and no thread is left behind."""
    before, most, now, lock = threading.active_count(), {"load": 0, "save": 0}, {"load": 0, "save": 0}, threading.Lock()

    class Slow(Steps):
        def busy(self, step):
            with lock:
                now[step] += 1
                most[step] = max(most[step], now[step])
            time.sleep({"load": 0.02, "save": 0.06}[step])
            with lock:
                now[step] -= 1

        def load(self, resources, block, watch):
            self.busy("load")
            return super().load(resources, block, watch)

        def save(self, resources, block, worked, watch):
            self.busy("save")
            return super().save(resources, block, worked, watch)

    receipts = list(run(feed_of(blocks(24)), Slow(), readers, writers))
    assert sorted(receipt.block for receipt in receipts) == sorted(block.id for block in blocks(24))
    assert all(receipt.ok for receipt in receipts)
    assert most == {"load": readers, "save": writers}
    assert_threads(before)


@pytest.mark.parametrize("error", [None, ValueError])
@pytest.mark.parametrize("threads", [1, 4])
def test_what_has_been_written_is_let_go_of(threads, error):
    """No more results are held than one for each writer and the one that waits for a writer, whether writing fails or not."""
    live, most, lock = weakref.WeakSet(), [0], threading.Lock()

    class Result:
        """A large mask."""

    class Large(Steps):
        def work(self, resources, block, loaded, watch):
            result = Result()
            with lock:
                live.add(result)
                most[0] = max(most[0], len(live))
            return result

        def save(self, resources, block, worked, watch):
            time.sleep(0.01)
            if error is not None:
                raise error("planted")
            return {}

    line = run(feed_of(blocks(24)), Large(), threads, threads)
    receipts = [next(line) for _ in range(24)]
    assert [receipt.ok for receipt in receipts] == [error is None] * 24
    assert most[0] <= threads + 1
    assert not live  # though the writers still wait for more
    line.close()


def test_the_feed_may_wait():
    """Blocks that come late, one by one, each when the receipt before is in, are worked through all the same."""
    feed = queue.SimpleQueue()
    given = blocks(5)
    feed.put(given.pop(0))
    done = []
    for receipt in run(feed.get, Steps()):
        done.append(receipt.block)
        feed.put(given.pop(0) if given else None)
    assert done == [block.id for block in blocks(5)]


def test_a_feed_that_fails_ends_the_run():
    """What goes wrong where blocks come from is raised where receipts are taken, not swallowed by a thread."""

    def feed():
        raise PermissionError("the folder is gone")

    with pytest.raises(PermissionError, match="the folder is gone"):
        list(run(feed, Steps()))


def test_no_blocks_no_receipts():
    """An empty feed ends at once."""
    assert list(run(lambda: None, Steps())) == []
