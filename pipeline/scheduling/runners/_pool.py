"""The loop that feeds Ray actors: start, feed, collect, and mind what died.

The loop is ours because nobody else's counts well when things break: an actor is never restarted and a call
never retried by Ray, so a block runs twice only when this loop says so. When an actor dies, every block it held
runs again by itself, and only one that dies alone is charged.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.errors import GigasegError
from pipeline.records import Block
from pipeline.scheduling.runners import LEASE_BLOCKS, Work, failure
from pipeline.scheduling.runners._actor import Actor
from pipeline.scheduling.runners._cluster import Cluster, join

__all__ = ["run"]

START_TRIES = 3  # actors in a row that may die with nothing in hand: it is not a block that kills them
PARDONS = 2  # machines that may go away with a block in hand before the block is suspected
LOOK_S = 2.0  # between two looks at the cluster, for nodes that joined
TICK_S = 0.1
START_S = 300.0  # for an actor to load the model, where a block's deadline is shorter
FINISH_RATE = 4e6  # pixels a second, on top of the deadline: a twentieth of what pyramid and exports of a whole image were seen to reach
STOP_S = 120.0  # for blocks in flight, once the run is stopping


def run(work: Work) -> None:
    """Carry out the schedule with actors, on the cluster that ``compute`` names.

    Raises:
        GigasegError: no actor lives, the output cannot be written, or the cluster has less than is asked for.
    """
    with join(work.compute, work.job.recipe, work.log) as cluster:
        work.arm()  # ray.init() replaces handlers that were set before it
        pool = _Pool(work, cluster)
        try:
            pool.run()
        finally:
            pool.kill_all()


@dataclass
class _Hand:
    """One actor as the driver sees it.

    Attributes:
        receipts: the stream of what it has done.
        held: blocks it was given and has not answered for, in order.
        since: when it last gave sign of life, seconds of the monotonic clock.
        ready: whether it has loaded the model.
        node: id of the machine it runs on; empty until it is ready.
        alone: whether it runs one suspect block by itself.
    """

    number: int
    actor: Any
    receipts: Any
    held: dict[tuple[str, str], Block] = field(default_factory=dict)
    since: float = field(default_factory=time.monotonic)
    ready: bool = False
    node: str = ""
    alone: bool = False

    def limit(self, deadline: float) -> float:
        """Seconds in which it must give sign of life: a deadline is a block's, and a finish is as large as its image."""
        if not self.ready:
            return max(deadline, START_S)
        images = [block.box.area * block.image.header.num_planes for block in self.held.values() if block.phase == "finish"]
        return deadline + max(images, default=0) / FINISH_RATE

    @property
    def pixels(self) -> int:
        """Size of what it holds."""
        return sum(block.box.area for block in self.held.values())


class _Pool:
    """The actors of one run."""

    def __init__(self, work: Work, cluster: Cluster) -> None:
        self.work, self.cluster = work, cluster
        self.hands: list[_Hand] = []
        self.numbers = itertools.count()
        self.failed_starts = 0
        self.losses: Counter[tuple[str, str]] = Counter()
        self.looked = 0.0
        self.wanted = 0
        self.stop_by: float | None = None

    def run(self) -> None:
        while not self.work.schedule.is_finished:
            if self.work.stopping():
                if self._stopped():
                    return
            else:
                self._start_missing()
                self._feed_all()
            self._collect()
            self._mind_deadlines()

    def kill_all(self) -> None:
        for hand in self.hands:
            ray.kill(hand.actor, no_restart=True)
        self.hands = []

    def _start_missing(self) -> None:
        """Keep as many actors as the cluster has room for, and no more than there is work."""
        now = time.monotonic()
        if now - self.looked > LOOK_S or not self.wanted:
            self.looked, self.wanted = now, self.cluster.num_actors()
        left = self.work.schedule.total_blocks - self.work.schedule.num_settled
        if self.failed_starts >= START_TRIES and self.hands:
            return  # the cluster has no more to give, or a machine of it is broken: those that live go on
        for _ in range(min(self.wanted, left) - len(self.hands)):
            actor = self.cluster.start(Actor, self.work.job)
            self.hands.append(_Hand(next(self.numbers), actor, actor.receipts.remote()))

    def _feed_all(self) -> None:
        schedule, pixels = self.work.schedule, self.work.lease_pixels
        able = [hand for hand in self.hands if hand.ready]
        for hand in able:
            if hand.alone:
                continue
            # Suspects wait for one actor to be empty: the last, which holds the least.
            if schedule.has_suspects and hand is able[-1]:
                if not hand.held and (block := schedule.suspect()):
                    hand.alone = True
                    self._feed(hand, [block])
            elif hand.pixels < pixels / 2 and len(hand.held) < LEASE_BLOCKS / 2:
                share = max(1, schedule.num_ready // (2 * len(able)))
                self._feed(hand, schedule.lease(pixels - hand.pixels, min(LEASE_BLOCKS - len(hand.held), share)))

    def _feed(self, hand: _Hand, blocks: Sequence[Block]) -> None:
        if not blocks:
            return
        if not hand.held:
            hand.since = time.monotonic()
        hand.held.update(((block.phase, block.id), block) for block in blocks)
        hand.actor.feed.remote(list(blocks))

    def _collect(self) -> None:
        """Take one message from every actor that has one; wait a moment when none has."""
        streams: dict[Any, _Hand] = {hand.receipts: hand for hand in self.hands}
        if not streams:
            time.sleep(TICK_S)
            return
        ready, _ = ray.wait(list(streams), num_returns=1, timeout=TICK_S, fetch_local=False)
        if ready:
            ready, _ = ray.wait(list(streams), num_returns=len(streams), timeout=0, fetch_local=False)
        stream: Any
        for stream in ready:
            hand = streams[stream]
            try:
                self._take(hand, ray.get(next(stream)))
            except StopIteration:
                self.hands.remove(hand)
            except RayTaskError as error:
                self._raised(hand, error)
            except RayError as error:  # the actor is dead, or what it gave went down with its node
                self._died(hand, f"its process died: {_brief(error)}", node_lost=self.cluster.is_lost(hand.node, error))

    def _take(self, hand: _Hand, message: Any) -> None:
        hand.since = time.monotonic()
        if not hand.ready:
            hand.ready, hand.node = True, str(message)
            self.work.log(f"actor {hand.number} ready on node {hand.node[:8]}")
            return
        hand.alone, self.failed_starts = False, 0
        self.work.settle(hand.held.pop((message.phase, message.block)), message)

    def _raised(self, hand: _Hand, error: RayTaskError) -> None:
        """What escapes an actor is not a block's fault: our own errors end the run, others are a failed actor."""
        cause = error.cause if isinstance(error.cause, BaseException) else error
        if isinstance(cause, GigasegError):
            raise cause
        self._died(hand, f"its actor failed: {type(cause).__name__}: {_brief(cause)}", node_lost=False)

    def _died(self, hand: _Hand, cause: str, *, node_lost: bool) -> None:
        self.hands.remove(hand)
        ray.kill(hand.actor, no_restart=True)
        blocks = list(hand.held.values())
        self.work.log(f"actor {hand.number} lost with {len(blocks)} blocks: {cause}{' (its machine is gone)' if node_lost else ''}")
        if node_lost:
            blocks = self._pardon(blocks)
        elif not blocks:
            self._start_failed(cause)
        if hand.alone and blocks:
            self._charge(blocks[0], cause)
        else:
            self.work.schedule.give_back(blocks, alone=True)

    def _pardon(self, blocks: Sequence[Block]) -> list[Block]:
        """Give back what a lost machine held, which is no block's fault; unless machines go away with the same one again and again."""
        self.losses.update((block.phase, block.id) for block in blocks)
        suspects = [block for block in blocks if self.losses[block.phase, block.id] > PARDONS]
        self.work.schedule.give_back([block for block in blocks if block not in suspects])
        return suspects

    def _charge(self, block: Block, cause: str) -> None:
        tried = replace(block, attempt=block.attempt + 1)
        if tried.attempt < self.work.compute.attempts:
            self.work.schedule.give_back([tried], alone=True)
        else:
            self.work.commit(block, failure(block, cause))

    def _start_failed(self, cause: str) -> None:
        self.failed_starts += 1
        if self.failed_starts >= START_TRIES and not any(hand.ready for hand in self.hands):
            raise GigasegError(f"{self.failed_starts} actors in a row died before they did a block; the last one because {cause}")

    def _mind_deadlines(self) -> None:
        for hand in list(self.hands):
            limit = hand.limit(self.work.compute.deadline)
            if (hand.held or not hand.ready) and time.monotonic() - hand.since > limit:
                self._died(hand, f"it ran past its deadline of {limit:g} s", node_lost=False)

    def _stopped(self) -> bool:
        """Ask every actor once to finish what is in flight; say whether all have, or had long enough."""
        if self.stop_by is None:
            self.stop_by = time.monotonic() + STOP_S
            for hand in list(self.hands):
                if hand.held:
                    hand.actor.drain.remote()
                else:
                    self.hands.remove(hand)
                    ray.kill(hand.actor, no_restart=True)
        return not self.hands or time.monotonic() > self.stop_by


def _brief(error: BaseException) -> str:
    """The line that says something, without Ray's advice; its messages run over a dozen lines."""
    lines = [line.partition(" Some common causes")[0].strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if "exit" in line.lower() or "died" in line.lower()]
    return (told or lines or ["no message"])[-1][:300]
