"""The faults of chaos: each takes a round, disturbs it, and returns whether there was anything to disturb."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

import psutil

from tests.cluster.chaos_round import DONE, LIMIT_S, Round, Wrong
from tests.cluster.drivers import LocalDriver

__all__ = ["FAULTS", "Fault", "faults_of"]

Fault = Callable[[Round], bool]
END_S = 15.0  # from the release of the run to the end of its process
LOCK_LOST, ALREADY_RUNNING, INTERRUPTED, KILLED = 1, 4, 130, -9


def actor(one: Round) -> bool:
    """An actor is killed in the middle of whatever it does."""
    one.wait_for_begin(with_actors=True)
    found = [process for process in processes(one) if named(process, "ray::Actor")]
    return kill_one(one, found)


def node(one: Round) -> bool:
    """A worker host is gone with all that runs on it; another one joins."""
    if one.fleet is None or not one.is_running:
        return False
    one.fleet.lose(one.rng.choice(one.fleet.workers))
    one.fleet.make_ready()
    return True


def raylet(one: Round) -> bool:
    """The node of a worker host dies, while the host lives on; on one machine, Ray itself dies, and the run cannot go on."""
    found = [process for process in processes(one) if named(process, "raylet")]
    if one.fleet is None:
        one.allowed |= {LOCK_LOST}
        return kill_one(one, found)
    hit = one.rng.choice(one.fleet.workers)
    one.fleet.hosts.kill_raylet(hit)
    one.pass_time(0.5)
    one.fleet.lose(hit)
    one.fleet.make_ready()
    return True


def kill_driver(one: Round) -> bool:
    """Kill the driver; return whether there was one."""
    if not one.is_running:
        return False
    assert one.driver is not None
    one.allowed |= {KILLED}
    one.driver.send(signal.SIGKILL)
    one.driver.wait(20)
    one.collect()
    return True


def driver(one: Round) -> bool:
    """The driver is killed; the same command goes on."""
    if not kill_driver(one):
        return False
    one.start()
    return True


def fresh(one: Round) -> bool:
    """The driver is killed, and at once `--fresh` begins a run of other classes, while actors of the old one may still write."""
    if not kill_driver(one):
        return False
    one.restart_with_other_classes()
    return True


def terminate(one: Round) -> bool:
    """The driver is asked to end, as by a scheduler."""
    if not one.is_running:
        return False
    assert one.driver is not None
    one.allowed |= {INTERRUPTED, -signal.SIGTERM}  # before Python listens, the signal ends the process
    one.driver.send(signal.SIGTERM)
    return True


def stop(one: Round) -> bool:
    """`gigaseg stop` from elsewhere."""
    if not one.is_running or not one.read("run.json"):
        return False
    one.allowed |= {INTERRUPTED}
    command = LocalDriver(["stop", one.output])
    code = command.wait(LIMIT_S)
    told = command.told()
    command.end()
    if code != 0 and one.is_running:
        raise Wrong(f"gigaseg stop: exit {code}: {told}")
    return True


def disk(one: Round) -> bool:
    """The disk is full for a while."""
    if not one.is_running or not os.path.ismount(one.root.parent):
        return False
    one.allowed |= {1}
    filler = one.root / "filler"
    state = os.statvfs(one.root)
    with filler.open("wb") as file, suppress(OSError):
        free = state.f_bavail
        while free > 0:
            try:
                os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), free * state.f_frsize)
            except OSError:
                free //= 2
    assert one.driver is not None
    one.driver.wait(one.rng.uniform(0.2, 2.0))
    filler.unlink()
    return True


def bad_image(one: Round) -> bool:
    """A file appears in the folder that is called an image, and is none."""
    name = f"bad{one.version}"
    good = one.path(one.rng.choice(sorted(one.shapes))).read_bytes()
    content = one.rng.choice([good[: len(good) // 2], b"", bytes(range(256)) * 8, good[:100]])
    (one.root / "images" / f"{name}.tif").write_bytes(content)
    one.version += 1
    return True


def replaced(one: Round) -> bool:
    """An image gets other pixels, in place or by another file."""
    one.write_image(one.rng.choice(sorted(one.shapes)), in_place=one.rng.random() < 0.5)
    one.version += 1
    one.replaced = True
    return True


def removed(one: Round) -> bool:
    """An image is gone."""
    if len(one.shapes) < 2:
        return False
    name = one.rng.choice(sorted(one.shapes))
    one.path(name).unlink()
    del one.shapes[name]
    one.gone.add(name)
    one.version += 1
    return True


def duplicate(one: Round) -> bool:
    """The same run is begun a second time while it goes on: the second one is refused, and disturbs nothing."""
    if not one.is_running or not has_begun(one):
        return False
    planned = one.planned
    second = one.new_driver()
    one.planned = planned if one.is_running else one.planned
    code = second.wait(LIMIT_S)
    told = second.told()
    second.end()
    is_over = code in DONE and one.driver is not None and one.driver.wait(END_S) is not None  # it had released the run
    if code != ALREADY_RUNNING and not is_over:
        raise Wrong(f"a second run: exit {code}: {told}")
    return True


def taken_over(one: Round) -> bool:
    """The driver stands still, another takes over, and the first one wakes up."""
    if not one.is_running or not has_begun(one):
        return False
    first = one.driver
    assert first is not None
    first.send(signal.SIGSTOP)
    one.driver, one.is_fresh = None, False
    allowed = one.allowed | {LOCK_LOST}
    one.start("--take-over")
    time.sleep(one.rng.uniform(0.0, 2.0))
    first.send(signal.SIGCONT)
    code = first.wait(LIMIT_S)
    told = first.told()
    first.end()
    if code not in allowed or "Traceback" in told:
        raise Wrong(f"a run that was taken over: exit {code}: {told}")
    return True


def cut(one: Round) -> bool:
    """A worker host is off the network for a while, for less or more time than it takes Ray to notice."""
    if one.fleet is None or not one.is_running:
        return False
    hit = one.rng.choice(one.fleet.workers)
    one.fleet.hosts.cut(hit)
    one.pass_time(one.rng.choice([0.5, 2.0, 4.0, 12.0]))
    one.fleet.hosts.mend(hit)
    one.pass_time(1.0)
    one.fleet.lose(hit)
    one.fleet.make_ready()
    return True


def store(one: Round) -> bool:
    """The store is slow and fails for a while: answers are errors, come late, are cut off, or do not come."""
    if one.proxy is None or not one.is_running:
        return False
    one.allowed |= {1}
    one.proxy.rate = one.rng.choice([0.1, 0.3, 0.9])
    assert one.driver is not None
    one.driver.wait(one.rng.uniform(0.5, 4.0))
    one.proxy.rate = 0.0
    return True


FAULTS: dict[str, Fault] = {
    one.__name__: one
    for one in (actor, node, raylet, driver, fresh, terminate, stop, disk, bad_image, replaced, removed, duplicate, taken_over, cut, store)
}
ONLY = {
    "actor": ("ray", "hosts"),
    "raylet": ("ray", "hosts"),
    "node": ("hosts",),
    "cut": ("hosts",),
    "store": ("s3",),
    "disk": ("serial", "ray", "hosts"),
}
SPECIAL, OFTEN = ("actor", "node", "cut", "store"), 3


def faults_of(runner: str) -> list[str]:
    """Return the faults that a runner can meet; those that it alone can meet are named more often."""
    return [name for name in FAULTS if runner in ONLY.get(name, (runner,)) for _ in range(OFTEN if name in SPECIAL else 1)]


def processes(one: Round) -> list[psutil.Process]:
    """Return every process of the run's Ray."""
    if one.fleet is not None:
        return [process for host in one.fleet.workers for process in one.fleet.hosts.processes(host)]
    return one.driver.tree() if isinstance(one.driver, LocalDriver) else []


def named(process: psutil.Process, name: str) -> bool:
    """Whether a process shows a name."""
    with suppress(psutil.Error):
        return process.name() == name or "".join(process.cmdline()[:1]).startswith(name)
    return False


def kill_one(one: Round, found: list[psutil.Process]) -> bool:
    """Kill one of the processes; return whether there was one."""
    if not found or not one.is_running:
        return False
    with suppress(psutil.NoSuchProcess):
        one.rng.choice(found).kill()
    return True


def has_begun(one: Round) -> bool:
    """Wait until the driver holds the run; return whether it still runs."""
    one.wait_for_begin()
    return one.is_running
