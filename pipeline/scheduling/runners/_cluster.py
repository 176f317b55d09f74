"""A Ray to run on: one of our own on this machine, or one that is there."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray._private.state import state
from ray.exceptions import ActorUnavailableError, RayError

from pipeline.config import Compute, Recipe
from pipeline.errors import GigasegError, InputError, Problem, counted
from pipeline.scheduling.runners._head import look_at, refused
from pipeline.scheduling.runners._nodes import tell
from pipeline.scheduling.runners._watch import Watch, watching

__all__ = ["Cluster", "join", "start"]

STORE_BYTES = 100 * 2**20  # receipts are small and pixels never pass through Ray


@dataclass
class Cluster:
    """A joined Ray, and how actors for a recipe are placed on it.

    Attributes:
        compute: what the YAML says.
        recipe: what actors run.
        watch: sees nodes come and go.
        spreads: whether actors that take a part of a GPU get more of it while there are GPUs enough.
    """

    compute: Compute
    recipe: Recipe
    watch: Watch
    spreads: bool = True

    @property
    def needs(self) -> dict[str, float]:
        """Resources of one actor; on a GPU the share of one, which Ray pins."""
        if self.recipe.device == "cuda":
            share = 1.0 if self.compute.gpus_per_actor == "auto" else float(self.compute.gpus_per_actor)
            return {"GPU": share, "CPU": 1.0}
        return {"CPU": float(self.recipe.threads)}

    def num_actors(self, avoided: Sequence[str] = ()) -> int:
        """Return how many actors to keep: what the YAML says, else what the nodes have room for; at least one, which may wait."""
        return max(1, self.watch.view.room(self.needs, avoided)) if self.compute.actors == "auto" else self.compute.actors

    def usable(self, avoided: Sequence[str]) -> list[str]:
        """Return the nodes that could hold an actor if nothing else ran there."""
        return list(self.watch.view.places(self.needs, avoided))

    def check(self, log: Callable[[str], None], *, queues: bool) -> None:
        """Say which GPUs stay idle; raise InputError where there is no room now and the run may not wait for it."""
        view, needs = self.watch.view, self.needs
        if why := self._why_idle():
            tell(log, why)
        room, wanted = view.room(needs, free=True), 1 if self.compute.actors == "auto" else self.compute.actors
        if not queues and room < wanted:
            free = ", ".join(f"{view.total(name, free=True):g} of {view.total(name):g} {name}" for name in needs)
            found = f"room for {room} of {counted(wanted, 'actor')} now: each needs {_text(needs)}, and {free} are free"
            fix = f"Use compute.actors: {room}, or leave out --no-queue to wait." if room else "Leave out --no-queue to wait."
            raise InputError(Problem("compute.actors", found, "", fix))

    def _why_idle(self) -> str:
        """Return which GPUs of the cluster this run cannot use, and why; empty: it can use all."""
        view, actors = self.watch.view, self.compute.actors
        gpus = view.total("GPU")
        if gpus and self.recipe.device == "cpu":
            why = "compute.device is cpu" if self.compute.device == "cpu" else "this model or backend does not use them"
            return f"{gpus:g} GPU of the cluster stay idle: {why}"
        room = view.room(self.needs)
        idle = gpus - min(room, gpus if actors == "auto" else actors)
        if self.recipe.device != "cuda" or idle <= 0:
            return ""
        why = (
            f"compute.actors is {actors}" if actors != "auto" and actors < room else f"there is room for {room} of {_text(self.needs)} each"
        )
        return f"{idle:g} of {gpus:g} GPU of the cluster stay idle: {why}"

    def is_full(self, avoided: Sequence[str]) -> bool:
        """Whether there is no room for an actor now."""
        return not self.watch.view.room(self.needs, avoided, free=True)

    def awaited(self) -> str:
        """Return what actors that are not placed wait for."""
        view = self.watch.view
        for name, amount in self.needs.items():
            total, free = view.total(name), view.total(name, free=True)
            if free < amount:
                return f"{amount:g} {name}: {f'{total - free:g} of {total:g} are used' if total else 'the cluster has none yet'}"
        return f"{_text(self.needs)} on one node"

    def start(self, actor: type, *args: Any, needs: Mapping[str, float], avoided: Sequence[str] = ()) -> Any:
        """Start an actor on a node that is not avoided; it is pinned to its share of the machine, and never restarted by Ray."""
        options: dict[str, Any] = {
            "num_cpus": needs["CPU"],
            "num_gpus": needs.get("GPU", 0),
            "scheduling_strategy": "SPREAD",  # over the nodes, as each has its own disk and network to share
            "max_restarts": 0,
            "max_task_retries": 0,
            "max_concurrency": 2,
            "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(self.recipe.threads)}},
        }
        if avoided:
            options["label_selector"] = {"ray.io/node-id": f"!in({','.join(avoided)})"}
        return ray.remote(actor).options(**options).remote(*args)

    def needs_of(self, number: int, avoided: Sequence[str] = ()) -> dict[str, float]:
        """Return the resources to ask for when so many actors are started together.

        Ray fills one GPU with parts before it uses the next. So an actor asks for the largest part, 1 or 1/2 or 1/3 ... down to
        its own, at which all find room: then as few as possible share a GPU.
        """
        needs = self.needs
        own = needs.get("GPU", 0.0)
        larger = [1 / parts for parts in range(1, round(1 / own))] if 0 < own < 1 and self.spreads else []
        choices = [{**needs, "GPU": share} for share in larger]
        return next((one for one in choices if self.watch.view.room(one, avoided, free=True) >= number), needs)

    def node_of(self, actor: str) -> str:
        """Return the node that an actor was started on, by its id; empty where it was not."""
        try:
            return str(state.actor_table(actor)["Address"]["NodeID"])
        except (KeyError, RayError, RuntimeError):
            return ""

    def is_lost(self, node: str, error: BaseException) -> bool:
        """Whether an actor died because its node did; out of reach is what Ray says until it is sure."""
        gone = node and node not in self.watch.view.nodes
        told = "node has died" in str(error) or "node was terminated" in str(error)
        return bool(gone) or told or isinstance(error, ActorUnavailableError)


def _text(needs: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in needs.items())


@contextmanager
def join(compute: Compute, recipe: Recipe, log: Callable[[str], None], *, queues: bool = True) -> Iterator[Cluster]:
    """Join the cluster that ``address`` names, or the one that is already joined; else start one on this machine.

    Raises:
        InputError: the cluster cannot be joined; or it has no room now, and the run may not wait (``queues`` False).
        GigasegError: the head or this machine's node went away.
    """
    address = compute.address or os.environ.get("RAY_ADDRESS")
    ours = not ray.is_initialized()
    if ours:
        cores = len(os.sched_getaffinity(0))
        if compute.actors != "auto" and recipe.device == "cpu":
            cores = max(cores, compute.actors * recipe.threads)
        start(address, cores)
    log(f"ray {ray.__version__}: {'joined ' + address if address else 'on this machine'}")
    try:
        with watching() as watch:
            cluster = Cluster(compute, recipe, watch)
            cluster.check(log, queues=queues)
            try:
                yield cluster
            except (RayError, GigasegError):
                watch.raise_if_gone(at_once=True)  # what else went wrong is then a consequence
                raise
    finally:
        if ours:
            ray.shutdown()


def start(address: str | None, cores: int) -> None:
    """Join the cluster at an address, or raise InputError; without one, start Ray on loopback with so many cores."""
    if address:
        _connect(address)
    else:
        with _told_start():
            ray.init(
                address="local",
                num_cpus=cores,
                include_dashboard=False,
                object_store_memory=STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _node_ip_address="127.0.0.1",
            )
    # Ray prints a page to stdout, where results go, for every process that dies: one line of the log says it.
    ray._private.worker._worker_logs_enabled = False  # noqa: SLF001 - the switch that its own debugger uses


@contextmanager
def _told_start() -> Iterator[None]:
    """Tell why a Ray of our own does not start: its sockets would have too long paths (InputError), or the machine is too slow."""
    try:
        yield
    except OSError as error:
        if "AF_UNIX" not in str(error):
            raise
        variable = next((name for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ), "TMPDIR")
        folder, fix = os.environ.get(variable, tempfile.gettempdir()), "Set RAY_TMPDIR to a short one: RAY_TMPDIR=/tmp gigaseg ..."
        found = f"{folder}, a path too long for Ray's sockets"
        raise InputError(Problem(f"the environment variable {variable}", found, "a folder for temporary files", fix)) from error
    except Exception as error:
        if "timed out during startup" not in str(error):  # Ray has no class of its own for it
            raise
        raise GigasegError("Ray did not start on this machine within 30 s; where it is busy or short of memory, run again later") from error


def _connect(address: str) -> None:
    look_at(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, OverflowError, RuntimeError, ValueError, RayError) as error:
        raise refused(address, error) from error
