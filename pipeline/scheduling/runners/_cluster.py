"""A Ray to run on: one of our own on this machine, or one that is there."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayError

from pipeline.config import Compute, Recipe
from pipeline.engine import Job
from pipeline.errors import InputError, Problem

__all__ = ["Cluster", "join", "start"]

KNOCK_S = 10.0
STORE_BYTES = 100 * 2**20  # receipts are small and pixels never pass through Ray


@dataclass
class Cluster:
    """A joined Ray."""

    compute: Compute
    recipe: Recipe

    @property
    def needs(self) -> dict[str, float]:
        """Resources of one actor; on a GPU the share of one, which Ray pins."""
        if self.recipe.device == "cuda":
            share = 1.0 if self.compute.gpus_per_actor == "auto" else float(self.compute.gpus_per_actor)
            return {"GPU": share, "CPU": 1.0}
        return {"CPU": float(self.recipe.threads)}

    def num_actors(self) -> int:
        """Return how many actors to keep: what the living nodes have room for, and no more than the YAML says."""
        room = max(1, self.room())
        return room if self.compute.actors == "auto" else min(self.compute.actors, room)

    def room(self) -> int:
        """Return how many actors the living nodes can hold at once."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return sum(min(int(node.get(name, 0) / amount + 1e-6) for name, amount in self.needs.items()) for node in nodes)

    def check(self) -> None:
        """Raise InputError where more actors or GPUs are asked for than the cluster has: Ray would wait without end."""
        room = self.room()
        wanted = 1 if self.compute.actors == "auto" else self.compute.actors
        if wanted > room:
            total = ray.cluster_resources()
            have = ", ".join(f"{total.get(name, 0):g} {name}" for name in self.needs)
            each = ", ".join(f"{amount:g} {name}" for name, amount in self.needs.items())
            fix = f"Use compute.actors: {room}." if room else "Use compute.device: cpu, or a cluster that has them."
            raise InputError(Problem("compute.actors", f"{wanted} of {each} each", f"{room}, as the cluster has {have}", fix))

    def start(self, actor: type, job: Job) -> Any:
        """Start an actor; it is pinned to its share of the machine, and never restarted by Ray."""
        needs = self.needs
        options: dict[str, Any] = {
            "num_cpus": needs["CPU"],
            "num_gpus": needs.get("GPU", 0),
            "max_restarts": 0,
            "max_task_retries": 0,
            "max_concurrency": 2,
            "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(self.recipe.threads)}},
        }
        return ray.remote(actor).options(**options).remote(job)

    def is_lost(self, node: str, error: BaseException) -> bool:
        """Whether an actor died because its node did; out of reach is what Ray says until it is sure."""
        gone = node and not any(one["Alive"] and one["NodeID"] == node for one in ray.nodes())
        told = "node has died" in str(error) or "node was terminated" in str(error)
        return bool(gone) or told or isinstance(error, ActorUnavailableError)


@contextmanager
def join(compute: Compute, recipe: Recipe, log: Callable[[str], None]) -> Iterator[Cluster]:
    """Join the cluster that ``address`` names, or the one that is already joined; else start one on this machine.

    Raises:
        InputError: the cluster cannot be reached, or has less than is asked for.
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
        cluster = Cluster(compute, recipe)
        cluster.check()
        yield cluster
    finally:
        if ours:
            ray.shutdown()


def start(address: str | None, cores: int) -> None:
    """Join the cluster at an address, or raise InputError; without one, start Ray on loopback with so many cores."""
    if address:
        _connect(address)
    else:
        with _short_sockets():
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
def _short_sockets() -> Iterator[None]:
    """Raise InputError if the path of the temporary folder is too long for Ray's sockets."""
    try:
        yield
    except OSError as error:
        if "AF_UNIX" not in str(error):
            raise
        variable = next((name for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ), "TMPDIR")
        folder, fix = os.environ.get(variable, tempfile.gettempdir()), "Set RAY_TMPDIR to a short one: RAY_TMPDIR=/tmp gigaseg ..."
        found = f"{folder}, a path too long for Ray's sockets"
        raise InputError(Problem(f"the environment variable {variable}", found, "a folder for temporary files", fix)) from error


def _connect(address: str) -> None:
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, OverflowError, RuntimeError, ValueError, RayError) as error:
        cause = str(error).splitlines()[0]
        where, fix = "compute.address", "Check that it is running, and that RAY_AUTH_MODE and the token are the same on both machines."
        if address == os.environ.get("RAY_ADDRESS"):
            where, fix = "the environment variable RAY_ADDRESS", f"{fix} Or `unset RAY_ADDRESS` to run on this machine."
        raise InputError(Problem(where, f"{address}, where no Ray answers: {cause}", "host:port of a head, or auto", fix)) from error


def _knock(address: str) -> None:
    """Raise OSError where nothing listens at ``host:port``: Ray itself would try for minutes."""
    host, colon, port = address.rpartition("//")[2].rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_S).close()
