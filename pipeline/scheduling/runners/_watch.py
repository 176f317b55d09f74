"""What a run sees of its cluster while it goes on. Two threads look, because calls to a head that is gone take minutes to fail."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import ray
from ray._private.state import state
from ray.exceptions import RayError

from pipeline.errors import GigasegError
from pipeline.scheduling.runners._head import knock

__all__ = ["View", "Watch", "watching"]

LOOK_S = 2.0  # between two looks
KNOCK_S = 2.0
END_S = 5.0  # for calls that are under way at the end
KNOCKS = 3  # in a row that fail before head or node count as gone
NOT_PLACED = ("DEPENDENCIES_UNREADY", "PENDING_CREATION")


@dataclass(frozen=True)
class View:
    """The cluster at one moment.

    Attributes:
        nodes: total resources of each living node, by id, also of those that are draining.
        free: resources that nobody uses, by node.
        draining: nodes that will go away: a preemption notice, or ``ray drain-node``.
        unplaced: actors of this run, by id, that Ray has found no room for yet.
        hosts: names of the nodes' machines.
    """

    nodes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    free: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    draining: frozenset[str] = frozenset()
    unplaced: frozenset[str] = frozenset()
    hosts: Mapping[str, str] = field(default_factory=dict)

    def places(self, needs: Mapping[str, float], avoided: Sequence[str] = (), *, free: bool = False) -> dict[str, int]:
        """Return how many actors each node can hold at once, or hold beside what already runs there; nodes with room alone."""
        nodes = (self.free if free else self.nodes).items()
        usable = {node: has for node, has in nodes if node in self.nodes and node not in self.draining and node not in avoided}
        numbers = {node: min(int(has.get(name, 0) / amount + 1e-6) for name, amount in needs.items()) for node, has in usable.items()}
        return {node: number for node, number in numbers.items() if number}

    def room(self, needs: Mapping[str, float], avoided: Sequence[str] = (), *, free: bool = False) -> int:
        """Return how many actors all nodes can hold."""
        return sum(self.places(needs, avoided, free=free).values())

    def total(self, name: str, *, free: bool = False) -> float:
        """Return the amount of a resource on all nodes."""
        return sum(has.get(name, 0.0) for has in (self.free if free else self.nodes).values())


class Watch:
    """The latest view of the cluster, and whether it is still there."""

    def __init__(self, doors: Mapping[str, str], look: Callable[[], View]) -> None:
        """``doors`` are the host:port at which parts of Ray listen, by the sentence that says that the part is gone."""
        self.view = look()
        self.gone = ""
        self._doors, self._look = doors, look
        self._over = threading.Event()

    def look_again(self) -> None:
        """Renew the view every two seconds."""
        while not self._over.wait(LOOK_S):
            with suppress(RayError, RuntimeError, OSError):  # the other thread says when nothing answers any more
                self.view = self._look()

    def knock_again(self) -> None:
        """Set ``gone`` once a door was closed several times in a row."""
        failed = dict.fromkeys(self._doors, 0)
        while not self._over.wait(LOOK_S):
            for sentence, address in self._doors.items():
                failed[sentence] = 0 if _answers(address) else failed[sentence] + 1
                self.gone = self.gone or (sentence if failed[sentence] >= KNOCKS else "")

    def raise_if_gone(self, *, at_once: bool = False) -> None:
        """Raise GigasegError where a part of Ray that every run needs is gone; ``at_once``: knock now."""
        if at_once and not self.gone:
            self.gone = next((sentence for sentence, address in self._doors.items() if not _answers(address)), "")
        if self.gone:
            raise GigasegError(
                f"{self.gone}; what is committed stays. Once Ray runs again, the same command goes on where this one stopped"
            )

    def stop(self) -> None:
        """Let both threads end."""
        self._over.set()


@contextmanager
def watching() -> Iterator[Watch]:
    """Watch the cluster that this process has joined."""
    context = ray.get_runtime_context()
    own = next(node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
    raylet = f"{own['NodeManagerAddress']}:{own['NodeManagerPort']}"
    doors = {
        f"Ray's head at {context.gcs_address} is gone": context.gcs_address,
        f"Ray's node on this machine is gone (its raylet at {raylet} does not answer)": raylet,
    }
    watch = Watch(doors, look)
    threads = [threading.Thread(target=loop, daemon=True, name=loop.__name__) for loop in (watch.look_again, watch.knock_again)]
    for thread in threads:
        thread.start()
    try:
        yield watch
    finally:
        watch.stop()
        for thread in threads:
            thread.join(END_S)  # a call that is under way while Ray shuts down may never return, and keep the process


def _answers(address: str) -> bool:
    try:
        knock(address, KNOCK_S)
    except OSError:
        return False
    return True


def look() -> View:
    """Ask the head what there is."""
    alive = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    free = state.available_resources_per_node()
    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
    return View(
        nodes={name: node["Resources"] for name, node in alive.items()},
        free={name: free.get(name, node["Resources"]) for name, node in alive.items()},  # a node that is new has told nothing yet
        draining=frozenset(state.get_draining_nodes()),
        unplaced=frozenset(name for kind in NOT_PLACED for name in state.actor_table(None, job, kind)),
        hosts={name: node["NodeManagerHostname"] for name, node in alive.items()},
    )
