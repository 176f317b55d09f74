"""The loop that feeds Ray actors: start them, feed them, collect receipts, and replace those that died.

Ray never restarts an actor and never retries a call here, so a block runs twice only when this loop says so. When an actor
dies, every block that it held runs again alone. Only a block whose actor dies while it runs alone is charged with a failure.
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

from pipeline.engine import phase
from pipeline.errors import GigasegError
from pipeline.records import Block
from pipeline.scheduling.runners import LEASE_BLOCKS, Work, failure
from pipeline.scheduling.runners._actor import Actor
from pipeline.scheduling.runners._cluster import Cluster, join

__all__ = ["run"]

START_TRIES = 3  # actors in a row that may die with nothing in actor: it is not a block that kills them
NODE_LOSSES = 2  # machines that may go away with a block in actor before the block is suspected
LOOK_S = 2.0  # between two looks at the cluster, for nodes that joined
TICK_S = 0.1
START_S = 300.0  # for an actor to load the model, where a block's deadline is shorter
IMAGE_RATE = 4e6  # pixels a second, on top of the deadline: a twentieth of what pyramid and exports of a whole image were seen to reach
STOP_S = 120.0  # for blocks in flight, once the run is stopping


def run(work: Work) -> None:
    """Carry out the blocks of a run with actors, on the cluster that ``compute`` names.

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
class _ActorHandle:
    """One actor as the driver sees it.

    Attributes:
        number: for the log.
        receipts: the stream of its receipts.
        held: blocks that it was given and has returned no receipt for, in order.
        since: when it last sent a message, seconds of the monotonic clock.
        ready: whether it has loaded the model.
        node: id of its node; empty until it is ready.
        alone: whether it runs one suspect block alone.
    """

    number: int
    handle: Any
    receipts: Any
    held: dict[tuple[str, str], Block] = field(default_factory=dict)
    since: float = field(default_factory=time.monotonic)
    ready: bool = False
    node: str = ""
    alone: bool = False

    def limit(self, deadline: float) -> float:
        """Return the seconds in which it must send a message; the work of a phase per image grows with the image."""
        if not self.ready:
            return max(deadline, START_S)
        images = [block.box.area * block.image.header.num_planes for block in self.held.values() if phase(block.phase).is_per_image]
        return deadline + max(images, default=0) / IMAGE_RATE

    @property
    def pixels(self) -> int:
        """Pixels of the blocks that it holds."""
        return sum(block.box.area for block in self.held.values())


class _Pool:
    """The actors of one run."""

    def __init__(self, work: Work, cluster: Cluster) -> None:
        self.work, self.cluster = work, cluster
        self.actors: list[_ActorHandle] = []
        self.numbers = itertools.count()
        self.failed_starts = 0
        self.losses: Counter[tuple[str, str]] = Counter()
        self.looked = 0.0
        self.wanted = 0
        self.stop_by: float | None = None
        work.monitor.actors = lambda: sum(actor.ready for actor in self.actors)

    def run(self) -> None:
        while not self.work.queue.is_finished:
            if self.work.stopping():
                if self._stopped():
                    return
            else:
                self._start_missing()
                self._feed_all()
            self._collect()
            self._kill_late_actors()

    def kill_all(self) -> None:
        for actor in self.actors:
            ray.kill(actor.handle, no_restart=True)
        self.actors = []

    def _start_missing(self) -> None:
        """Start actors until the cluster is full, but no more than there are blocks left."""
        now = time.monotonic()
        if now - self.looked > LOOK_S or not self.wanted:
            self.looked, self.wanted = now, self.cluster.num_actors()
        left = self.work.queue.total_blocks - self.work.queue.num_settled
        if self.failed_starts >= START_TRIES and self.actors:
            return  # the cluster is full or a node is broken: go on with the actors that live
        for _ in range(min(self.wanted, left) - len(self.actors)):
            handle = self.cluster.start(Actor, self.work.job)
            self.actors.append(_ActorHandle(next(self.numbers), handle, handle.receipts.remote()))

    def _feed_all(self) -> None:
        queue, pixels = self.work.queue, self.work.lease_pixels
        ready = [actor for actor in self.actors if actor.ready]
        for actor in ready:
            if actor.alone:
                continue
            # A suspect block needs an empty actor. The last one holds the least, so it is not fed while there are suspects.
            if queue.has_suspects and actor is ready[-1]:
                if not actor.held and (block := queue.suspect()):
                    actor.alone = True
                    self._feed(actor, [block])
            elif actor.pixels < pixels / 2 and len(actor.held) < LEASE_BLOCKS / 2:
                share = max(1, queue.num_ready // (2 * len(ready)))
                self._feed(actor, queue.lease(pixels - actor.pixels, min(LEASE_BLOCKS - len(actor.held), share)))

    def _feed(self, actor: _ActorHandle, blocks: Sequence[Block]) -> None:
        if not blocks:
            return
        if not actor.held:
            actor.since = time.monotonic()
        actor.held.update(((block.phase, block.id), block) for block in blocks)
        actor.handle.feed.remote(list(blocks))

    def _collect(self) -> None:
        """Take one message from every actor that has one; wait a moment when none has."""
        streams: dict[Any, _ActorHandle] = {actor.receipts: actor for actor in self.actors}
        if not streams:
            time.sleep(TICK_S)
            return
        ready, _ = ray.wait(list(streams), num_returns=1, timeout=TICK_S, fetch_local=False)
        if ready:
            ready, _ = ray.wait(list(streams), num_returns=len(streams), timeout=0, fetch_local=False)
        stream: Any
        for stream in ready:
            actor = streams[stream]
            try:
                self._take(actor, ray.get(next(stream)))
            except StopIteration:
                self.actors.remove(actor)
            except RayTaskError as error:
                self._raised(actor, error)
            except RayError as error:  # the actor is dead, or what it gave went down with its node
                self._died(actor, f"its process died: {_brief(error)}", node_lost=self.cluster.is_lost(actor.node, error))

    def _take(self, actor: _ActorHandle, message: Any) -> None:
        actor.since = time.monotonic()
        if not actor.ready:
            actor.ready, actor.node = True, str(message)
            self.work.log(f"actor {actor.number} ready on node {actor.node[:8]}")
            return
        actor.alone, self.failed_starts = False, 0
        self.work.settle(actor.held.pop((message.phase, message.block)), message)

    def _raised(self, actor: _ActorHandle, error: RayTaskError) -> None:
        """Handle an error that left an actor, which no block causes: our own errors end the run, others fail the actor."""
        cause = error.cause if isinstance(error.cause, BaseException) else error
        if isinstance(cause, GigasegError):
            raise cause
        self._died(actor, f"its actor failed: {type(cause).__name__}: {_brief(cause)}", node_lost=False)

    def _died(self, actor: _ActorHandle, cause: str, *, node_lost: bool) -> None:
        self.actors.remove(actor)
        ray.kill(actor.handle, no_restart=True)
        blocks = list(actor.held.values())
        self.work.log(f"actor {actor.number} lost with {len(blocks)} blocks: {cause}{' (its node is lost)' if node_lost else ''}")
        if node_lost:
            blocks = self._give_back_lost(blocks)
        elif not blocks:
            self._start_failed(cause)
        if actor.alone and blocks:
            self._charge(blocks[0], cause)
        else:
            self.work.queue.give_back(blocks, alone=True)

    def _give_back_lost(self, blocks: Sequence[Block]) -> list[Block]:
        """Give back the blocks of a lost node, and return those whose nodes were lost too often: these may be to blame."""
        self.losses.update((block.phase, block.id) for block in blocks)
        suspects = [block for block in blocks if self.losses[block.phase, block.id] > NODE_LOSSES]
        self.work.queue.give_back([block for block in blocks if block not in suspects])
        return suspects

    def _charge(self, block: Block, cause: str) -> None:
        tried = replace(block, attempt=block.attempt + 1)
        if tried.attempt < self.work.compute.attempts:
            self.work.queue.give_back([tried], alone=True)
        else:
            self.work.book(block, failure(block, cause))

    def _start_failed(self, cause: str) -> None:
        self.failed_starts += 1
        if self.failed_starts >= START_TRIES and not any(actor.ready for actor in self.actors):
            raise GigasegError(f"{self.failed_starts} actors in a row died before they did a block; the last one because {cause}")

    def _kill_late_actors(self) -> None:
        for actor in list(self.actors):
            limit = actor.limit(self.work.compute.deadline)
            if (actor.held or not actor.ready) and time.monotonic() - actor.since > limit:
                self._died(actor, f"it ran past its deadline of {limit:g} s", node_lost=False)

    def _stopped(self) -> bool:
        """Ask every actor once to finish its blocks in flight; return whether all have finished or the time is over."""
        if self.stop_by is None:
            self.stop_by = time.monotonic() + STOP_S
            for actor in list(self.actors):
                if actor.held:
                    actor.handle.drain.remote()
                else:
                    self.actors.remove(actor)
                    ray.kill(actor.handle, no_restart=True)
        return not self.actors or time.monotonic() > self.stop_by


def _brief(error: BaseException) -> str:
    """Return the telling line of Ray's message, which has a dozen lines, without its advice."""
    lines = [line.partition(" Some common causes")[0].strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "exit" in line.lower() or "died" in line.lower()]
    return (telling or lines or ["no message"])[-1][:300]
