"""The loop that feeds Ray actors: start them, feed them, collect receipts, and replace those that died.

Ray never restarts an actor and never retries a call here, so a block runs twice only when this loop says so. When an actor
dies, every block that it held runs again alone. Only a block whose actor dies while it runs alone is charged with a failure.
The loop costs time for each actor and each receipt, and none for blocks that wait.
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
from pipeline.errors import GigasegError, InputError, StoreError, counted
from pipeline.records import Block, Receipt
from pipeline.scheduling.runners import LEASE_BLOCKS, Work, failure
from pipeline.scheduling.runners._actor import READY, Actor
from pipeline.scheduling.runners._cluster import Cluster, join
from pipeline.scheduling.runners._node_check import NodeReport, expectations
from pipeline.scheduling.runners._nodes import START_TRIES, Nodes, tell
from pipeline.scheduling.runners._second_runs import Held, SecondRuns, key_of

__all__ = ["run"]

NODE_LOSSES = 2  # machines that may go away with a block in hand before the block is suspected
TICK_S = 0.1
PACE_S = 5e-5  # between two turns of the loop, for each actor: with a thousand of them a turn then finds many messages
START_S = 300.0  # for an actor to load the model, where a block's deadline is shorter
IMAGE_RATE = 4e6  # pixels a second, on top of the deadline: a twentieth of what pyramid and exports of a whole image were seen to reach
STOP_S = 120.0  # for blocks in flight, once the run is stopping
PLACED_S = 10.0  # before an actor that has no place is told of: a worker process takes seconds to start
SPREAD_S = 10.0  # before actors that wait for a larger part of a GPU are content with theirs
WAIT_LINE_S = 60.0  # between two lines on what is waited for


def run(work: Work) -> None:
    """Carry out the blocks of a run with actors, on the cluster that ``compute`` names.

    Raises:
        GigasegError: no actor lives, the output cannot be written, the cluster cannot be joined, or it went away.
    """
    with join(work.compute, work.job.recipe, work.log, queues=work.queues) as cluster:
        work.arm()  # ray.init() replaces handlers that were set before it
        pool = _Pool(work, cluster)
        try:
            pool.run()
        finally:
            if not cluster.watch.gone:
                pool.kill_all()


@dataclass(eq=False)
class _ActorHandle(Held):
    """One actor as the driver sees it.

    Attributes:
        number: for the log.
        id: Ray's id of it.
        receipts: the stream of its receipts.
        ready: whether it has loaded the model.
        node: id of its node; empty until it has a place and has looked around.
        alone: whether it runs one suspect block alone.
        drained: whether it begins no more blocks.
        begun: when it was asked for, seconds of the monotonic clock.
        has_room: whether there was room for it then; it may still take seconds to start.
        removed: whether it was ended.
    """

    number: int = 0
    handle: Any = None
    receipts: Any = None
    id: str = ""
    ready: bool = False
    node: str = ""
    alone: bool = False
    drained: bool = False
    begun: float = field(default_factory=time.monotonic)
    has_room: bool = False
    removed: bool = False

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
        self.nodes = Nodes(work.log)
        self.second_runs = SecondRuns(work.queue, work.log, lambda actor: actor.handle.answer.remote(), _is_done)
        self.expected = expectations(work.job, work.queue.images)
        self.actors: list[_ActorHandle] = []
        self.numbers = itertools.count()
        self.failed_starts = 0
        self.losses: Counter[tuple[str, str]] = Counter()
        self.most_placed = 0
        self.told_waiting = float("-inf")
        self.stop_by: float | None = None
        work.monitor.actors = lambda: sum(actor.ready for actor in self.actors)

    def run(self) -> None:
        while not self.work.queue.is_finished:
            self.cluster.watch.raise_if_gone()
            if self.work.stopping():
                if self._stopped():
                    return
            else:
                self._leave_draining_nodes()
                self._start_missing()
                self._feed_all()
                self.second_runs.offer(self.actors)
            self._collect()
            self._look_at_unplaced()
            self._kill_late_actors()

    def kill_all(self) -> None:
        for actor in self.actors:
            ray.kill(actor.handle, no_restart=True)
        self.actors = []

    def _start_missing(self) -> None:
        """Start actors until the cluster is full, but no more than there are blocks left."""
        left = self.work.queue.total_blocks - self.work.queue.num_settled
        if self.failed_starts >= START_TRIES and self.actors:
            return  # the cluster is full or a node is broken: go on with the actors that live
        avoided = list(self.nodes.avoided)
        if avoided and not self.cluster.usable(avoided) and not any(actor.node for actor in self.actors):
            raise self.nodes.refusal()  # actors without a place could only get one on these nodes
        number = min(self.cluster.num_actors(avoided), left) - sum(not actor.drained for actor in self.actors)
        if number > 0 and not self.actors and self.cluster.is_full(avoided) and self.told_waiting < 0:
            self._tell_waiting(0)
        if number > 0:
            self._start(number, avoided)

    def _start(self, number: int, avoided: Sequence[str]) -> None:
        """Ask for actors. Places of actors that died are free again, which the view of the cluster shows seconds later."""
        view, needs = self.cluster.watch.view, self.cluster.needs_of(number, avoided)
        places = max(min(self.most_placed, view.room(needs, avoided)), len(self.actors) + view.room(needs, avoided, free=True))
        for _ in range(number):
            handle = self.cluster.start(Actor, self.work.job, self.expected, needs=needs, avoided=avoided)
            actor = _ActorHandle(number=next(self.numbers), handle=handle, receipts=handle.receipts.remote(), id=_id_of(handle))
            actor.has_room = len(self.actors) < places
            self.actors.append(actor)

    def _feed_all(self) -> None:
        queue, pixels, share = self.work.queue, self.work.lease_pixels, self._share()
        goal = max(1 + self.work.job.recipe.io_threads[0], share)  # what is computed and read at a time
        ready = [actor for actor in self.actors if actor.ready and not actor.drained and not actor.is_late]
        for actor in ready:
            if actor.alone:
                continue
            # A suspect block needs an empty actor. The last one holds the least, so it is not fed while there are suspects.
            if queue.has_suspects and actor is ready[-1]:
                if not actor.held and (block := self.second_runs.suspect()):
                    actor.alone = True
                    self._feed(actor, [block])
            elif queue.num_ready and len(actor.held) <= goal / 2 and actor.pixels < pixels / 2:
                self._feed(actor, self.second_runs.lease(pixels - actor.pixels, min(share, goal - len(actor.held))))

    def _share(self) -> int:
        """Return how many blocks an actor takes: half of its share of what is left, so that all have work to the end.

        Actors that will be ready soon have a share as well.
        """
        num_soon = sum((actor.ready or actor.has_room) and not actor.drained and not actor.is_late for actor in self.actors)
        return max(1, min(LEASE_BLOCKS, self.work.queue.num_ready // (2 * max(1, num_soon))))

    def _feed(self, actor: _ActorHandle, blocks: Sequence[Block]) -> None:
        blocks = [block for block in blocks if key_of(block) not in actor.held]  # it was late with these, and is not any more
        if not blocks:
            return
        if not actor.held:
            actor.since = time.monotonic()
        actor.held.update((key_of(block), block) for block in blocks)
        actor.handle.feed.remote(blocks)

    def _collect(self) -> None:
        """Take one message from every actor that has one; wait a moment when none has."""
        streams: dict[Any, _ActorHandle] = {actor.receipts: actor for actor in self.actors}
        if not streams:
            time.sleep(TICK_S)
            return
        time.sleep(min(TICK_S, PACE_S * len(streams)))
        ready, _ = ray.wait(list(streams), num_returns=1, timeout=TICK_S, fetch_local=False)
        if ready:
            ready, _ = ray.wait(list(streams), num_returns=len(streams), timeout=0, fetch_local=False)
        stream: Any
        for stream in ready:
            actor = streams[stream]
            if actor.removed:
                continue  # a message of another actor showed that this one is of no use
            try:
                self._take(actor, ray.get(next(stream)))
            except StopIteration:  # it was asked to begin no more blocks
                self._let_go(actor)
            except RayTaskError as error:
                self._raised(actor, error)
            except RayError as error:  # the actor is dead, or what it gave went down with its node
                self._died(actor, f"its process died: {_brief(error)}", node_lost=self.cluster.is_lost(actor.node, error))

    def _take(self, actor: _ActorHandle, message: Any) -> None:
        actor.since, actor.is_late, actor.asked = time.monotonic(), False, None
        if isinstance(message, NodeReport):
            actor.node = message.node
            self.most_placed = max(self.most_placed, sum(bool(one.node) for one in self.actors))
            self.nodes.add(message)
            if message.node in self.nodes.avoided:
                self._let_go(actor)
        elif isinstance(message, str) and message == READY:
            actor.ready = True
            self.work.monitor.count_actors()
            self.work.log(f"actor {actor.number} ready on node {self.nodes.name(actor.node)}", event="actor ready", actor=actor.number)
        else:
            self._settle(actor, *message)

    def _settle(self, actor: _ActorHandle, receipt: Receipt, unseen: Sequence[str]) -> None:
        """Book the first receipt of a block; a failure counts only where no other actor has the block."""
        actor.alone, self.failed_starts = False, 0
        self.nodes.worked(actor.node)
        block = actor.held.pop((receipt.phase, receipt.block))
        if receipt.ok:
            if self.work.queue.awaits(receipt):
                self.second_runs.measure(block, receipt)
                self.work.settle(block, receipt)
        elif self.second_runs.is_open(block, self.actors):
            others = self.cluster.usable([*self.nodes.avoided]) if unseen else []
            if unseen and self.nodes.may_be_elsewhere(unseen, actor.node, others):
                self.work.queue.give_back([block])
                self._leave(actor.node)
            else:
                self.work.settle(block, receipt)

    def _leave(self, node: str) -> None:
        """Let the actors of a node finish their blocks in flight; what they have not begun is given back."""
        for actor in list(self.actors):
            if actor.node == node and not actor.drained:
                actor.drained = True
                if actor.ready:
                    actor.handle.drain.remote()
                else:
                    self._let_go(actor)

    def _leave_draining_nodes(self) -> None:
        draining = self.cluster.watch.view.draining
        for node in {actor.node for actor in self.actors if not actor.drained and actor.node in draining}:
            tell(self.work.log, f"node {self.nodes.name(node)} will go away: its actors finish their blocks and get no more")
            self._leave(node)

    def _let_go(self, actor: _ActorHandle) -> None:
        """End an actor that is of no more use, and give back what it holds."""
        self.work.queue.give_back(self._remove(actor))

    def _remove(self, actor: _ActorHandle) -> list[Block]:
        """End an actor; return the blocks that it held and that nobody else has."""
        self.actors.remove(actor)
        actor.removed = True
        self.work.monitor.count_actors()
        ray.kill(actor.handle, no_restart=True)
        return [block for block in actor.held.values() if self.second_runs.is_open(block, self.actors)]

    def _raised(self, actor: _ActorHandle, error: RayTaskError) -> None:
        """Handle an error that left an actor, which no block causes: it is the node's where another node may do better."""
        cause = error.cause if isinstance(error.cause, BaseException) else error
        if not isinstance(cause, GigasegError):
            self._died(actor, f"its actor failed: {type(cause).__name__}: {_brief(cause)}", node_lost=False)
            return
        is_nodes_fault = type(cause) is StoreError or (isinstance(cause, InputError) and not actor.ready)
        if not is_nodes_fault or not self.cluster.usable([*self.nodes.avoided, actor.node]):
            raise cause
        problems = cause.problems if isinstance(cause, InputError) else [str(cause)]
        self.nodes.avoid(actor.node, problems, is_input=isinstance(cause, InputError))
        self._let_go(actor)

    def _died(self, actor: _ActorHandle, cause: str, *, node_lost: bool) -> None:
        num_held = len(actor.held)
        actor.node = actor.node or self.cluster.node_of(actor.id)
        blocks = self._remove(actor)
        self.work.monitor.actors_lost += 1
        told = f"actor {actor.number} lost with {num_held} blocks: {cause}{' (its node is lost)' if node_lost else ''}"
        self.work.log(told, event="actor lost", level="warning", actor=actor.number, blocks=num_held, cause=cause)
        if node_lost:
            blocks = self._give_back_lost(blocks)
        else:
            self._suspect_node(actor, cause, num_held)
        if actor.alone and blocks:
            self._charge(blocks[0], cause)
        else:
            self.work.queue.give_back(blocks, alone=True)

    def _suspect_node(self, actor: _ActorHandle, cause: str, num_held: int) -> None:
        """Avoid a node whose actors die again and again while another may do better; end the run where actors die everywhere."""
        what = next(iter(actor.held.values())).id if num_held else f"start of actor {actor.number}"
        others = self.cluster.usable([*self.nodes.avoided, actor.node])
        if self.nodes.died(actor.node, what) and others and (not num_held or any(one.ready and one.node in others for one in self.actors)):
            self.nodes.avoid(actor.node, [f"its actors die: {cause}"], is_input=False)
        elif not num_held:
            self.failed_starts += 1
            if self.failed_starts >= START_TRIES * max(1, min(len(others) + 1, START_TRIES)) and not any(one.ready for one in self.actors):
                died = f"{self.failed_starts} actors in a row died before they did a block"
                raise GigasegError(f"{died}; the last one because {cause}")

    def _give_back_lost(self, blocks: Sequence[Block]) -> list[Block]:
        """Give back the blocks of a lost node, and return those whose nodes were lost too often: these may be to blame."""
        self.losses.update(key_of(block) for block in blocks)
        suspects = [block for block in blocks if self.losses[key_of(block)] > NODE_LOSSES]
        self.work.queue.give_back([block for block in blocks if block not in suspects])
        return suspects

    def _charge(self, block: Block, cause: str) -> None:
        tried = replace(block, attempt=block.attempt + 1)
        if tried.attempt < self.work.compute.attempts:
            self.work.monitor.retried(block)
            self.work.queue.give_back([tried], alone=True)
        else:
            self.work.book(block, failure(block, cause))

    def _look_at_unplaced(self) -> None:
        """Say what actors without a place wait for. Their time to start has not begun."""
        now, unplaced = time.monotonic(), self.cluster.watch.view.unplaced
        waiting = [actor for actor in self.actors if actor.id in unplaced and not actor.node] if unplaced else []
        for actor in waiting:
            actor.since = now
        longest = max((now - actor.begun for actor in waiting), default=0.0)
        if longest > SPREAD_S and self.cluster.spreads:
            self.cluster.spreads = False
            for actor in waiting:
                self._let_go(actor)
        elif longest > PLACED_S and now - self.told_waiting > WAIT_LINE_S and not all(actor.has_room for actor in waiting):
            self._tell_waiting(len(self.actors) - len(waiting))

    def _tell_waiting(self, num_placed: int) -> None:
        """Print once a minute what is waited for; where some actors have a place, once."""
        self.told_waiting = float("inf") if num_placed else time.monotonic()
        going_on = f"; going on with {counted(num_placed, 'actor')} until then" if num_placed else ""
        tell(self.work.log, f"waiting for {self.cluster.awaited()}{going_on}")

    def _kill_late_actors(self) -> None:
        now, deadline = time.monotonic(), self.work.compute.deadline
        for actor in list(self.actors):
            waited = now - actor.since
            if waited > deadline and (actor.held or not actor.ready) and waited > (limit := actor.limit(deadline)):
                self._died(actor, f"it ran past its deadline of {limit:g} s", node_lost=False)

    def _stopped(self) -> bool:
        """Ask every actor once to finish its blocks in flight; return whether all have finished or the time is over."""
        if self.stop_by is None:
            self.stop_by = time.monotonic() + STOP_S
            for actor in list(self.actors):
                if actor.held:
                    actor.handle.drain.remote()
                else:
                    self._remove(actor)
        return not self.actors or time.monotonic() > self.stop_by


def _is_done(call: Any) -> bool:
    return bool(ray.wait([call], timeout=0, fetch_local=False)[0])


def _id_of(handle: Any) -> str:
    return str(handle._actor_id.hex())  # noqa: SLF001 - Ray has no public name for it


def _brief(error: BaseException) -> str:
    """Return the telling line of Ray's message, which has a dozen lines, without its advice."""
    lines = [line.partition(" Some common causes")[0].strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "exit" in line.lower() or "died" in line.lower()]
    return (telling or lines or ["no message"])[-1][:300]
