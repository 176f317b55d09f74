"""Runs on a Ray of several hosts whose nodes and drivers die, are cut off, join and lack a mount; by seed.

Each seed starts hosts, and lets a run meet every scene at a moment that the seed draws::

    python -m tests.cluster.rays --seeds 10             about four minutes a seed
    python -m tests.cluster.rays --first 7 --seeds 1    seed 7 alone

Every result must be that of the serial runner, and each block must be committed once. Needs root. A seed that fails keeps its folder.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from tests.cluster.hosts import Fleet, Hosts, missing, send
from tests.cluster.judge import wrong_in
from tests.faults.scene import CORE, Scene, log_of, rows, run, run_json, wait_for

__all__ = ["SCENES", "Stage", "main", "play"]

IMAGES = 4  # 64 blocks
LIMIT_S = 240
HELD_S = 18.0  # in which actors do the blocks that they hold, where one takes 2 s


class Stage:
    """Hosts with a Ray of two nodes with two make-believe GPUs each, images, and what a serial run makes of them."""

    def __init__(self, root: Path, hosts: Hosts, *, seconds: float = 0.3) -> None:
        self.root, self.hosts = root, hosts
        self.scene = Scene(root, images=IMAGES, tiling={"core": CORE, "block": CORE, "halo": 1})
        (root / "trace").mkdir()
        self.model = {"name": "tests.cluster.steady", "seconds": seconds, "trace": str(root / "trace")}
        serial = {"runner": "serial"}
        ended = run(self.scene.yaml("reference", model={**self.model, "seconds": 0.0}, compute=serial))
        assert ended.code == 0, ended.told
        self.fleet = Fleet(hosts, gpus=2)

    @property
    def num_blocks(self) -> int:
        """Rows of the ledger of a run whose blocks were each committed once."""
        return rows(self.root / "reference")

    def start(self, name: str, *args: str, model: Mapping[str, object] | None = None) -> psutil.Popen:
        """Start a driver on host 0; ``model`` changes options of the model."""
        on = {"runner": "ray", "address": self.fleet.address, "device": "cuda"}
        config = self.scene.yaml(name, model={**self.model, **(model or {})}, compute=on)
        command = [sys.executable, "-m", "pipeline", "run", config, *args]
        return self.hosts.start(0, command, self.root / f"{name}.told")

    def told(self, name: str) -> str:
        """Return what the drivers of a run have said."""
        return (self.root / f"{name}.told").read_text(errors="replace")

    def wait_for_rows(self, name: str, driver: psutil.Popen, number: int) -> None:
        """Wait until so many blocks are committed."""
        folder = self.root / name

        def check() -> bool:
            assert driver.poll() is None or rows(folder) >= number, self.told(name)
            return rows(folder) >= number

        wait_for(check, lambda: f"{number} rows: {self.told(name)}", LIMIT_S)

    def end(self, name: str, driver: psutil.Popen) -> None:
        """Wait for the end of a driver, which must be a good one."""
        try:
            code = driver.wait(LIMIT_S)
        except psutil.TimeoutExpired:
            send(driver, signal.SIGKILL)
            raise AssertionError(f"still running after {LIMIT_S} s: {log_of(self.root / name)}") from None
        assert code == 0, f"exit {code}: {self.told(name)}"

    def judge(self, name: str) -> None:
        """Assert that a run left what the serial one did."""
        assert run_json(self.root / name)["state"] == "done"
        wrong = wrong_in(self.root / name, self.root / "reference")
        assert not wrong, wrong

    def pins(self) -> list[tuple[str, str]]:
        """Return host and ``CUDA_VISIBLE_DEVICES`` of every actor that has loaded the model, in the order of loading; forget them."""
        files = sorted((self.root / "trace").iterdir(), key=lambda file: file.name.rpartition("-")[2])
        found = [(file.name.partition("-")[0], file.read_text()) for file in files]
        for file in files:
            file.unlink()
        return found

    def assert_pinned(self) -> None:
        """The first actors had a GPU each, and used all of both hosts."""
        found = self.pins()[:4]
        assert sorted(found) == [(f"h{host}", gpu) for host in sorted(self.fleet.workers) for gpu in "01"], found


def undisturbed(stage: Stage, name: str, rng: random.Random) -> None:
    """Each actor has a GPU of its own: both hosts use both of theirs."""
    stage.pins()
    stage.end(name, stage.start(name))
    stage.assert_pinned()


def node_killed(stage: Stage, name: str, rng: random.Random) -> None:
    """A worker host is gone with all that runs on it."""
    stage.pins()
    driver = stage.start(name)
    stage.wait_for_rows(name, driver, rng.randint(10, stage.num_blocks - 20))
    stage.assert_pinned()
    stage.fleet.lose(rng.choice(stage.fleet.workers))
    stage.end(name, driver)


def raylet_killed(stage: Stage, name: str, rng: random.Random) -> None:
    """The node of a worker host dies, while its actors may live on for a moment."""
    driver = stage.start(name)
    stage.wait_for_rows(name, driver, rng.randint(1, stage.num_blocks - 20))
    host = rng.choice(stage.fleet.workers)
    stage.hosts.kill_raylet(host)
    stage.end(name, driver)
    stage.fleet.lose(host)


def driver_killed(stage: Stage, name: str, rng: random.Random) -> None:
    """The driver is killed, more than once; the same command goes on while actors of the killed one may still write."""
    for number in sorted(rng.sample(range(stage.num_blocks - 15), rng.randint(1, 3))):
        driver = stage.start(name)
        stage.wait_for_rows(name, driver, number)
        send(driver, signal.SIGKILL)
        driver.wait(20)
    stage.end(name, stage.start(name))


def network_cut(stage: Stage, name: str, rng: random.Random) -> None:
    """A worker host is off the network, for less or more time than it takes Ray to notice; what it writes then lands late."""
    driver = stage.start(name)
    stage.wait_for_rows(name, driver, rng.randint(1, stage.num_blocks - 25))
    host = rng.choice(stage.fleet.workers)
    stage.hosts.cut(host)
    mend_at = time.monotonic() + rng.choice([2, 5, 15, 60])
    while driver.poll() is None and time.monotonic() < mend_at:
        time.sleep(0.1)
    if driver.poll() is not None:
        stage.judge(name)
    stage.hosts.mend(host)
    stage.end(name, driver)
    time.sleep(3)  # for what the actors on the host that was cut off may still write
    stage.fleet.lose(host)


def fresh_after_kill(stage: Stage, name: str, rng: random.Random) -> None:
    """A host is cut off, the driver is killed, and a `--fresh` run of the opposite classes begins while actors of the old one write."""
    driver = stage.start(name, model={"parity": 1, "seconds": 2.0})
    stage.wait_for_rows(name, driver, rng.randint(4, 8))
    host = rng.choice(stage.fleet.workers)
    stage.hosts.cut(host)
    send(driver, signal.SIGKILL)
    driver.wait(20)
    over_at = time.monotonic() + HELD_S
    stage.end(name, stage.start(name, "--fresh", model={"seconds": 0.02}))
    time.sleep(max(0.0, over_at - time.monotonic()))
    stage.judge(name)
    stage.hosts.mend(host)
    stage.fleet.lose(host)


def node_joins(stage: Stage, name: str, rng: random.Random) -> None:
    """A host joins in the middle, and blocks are done there."""
    stage.pins()
    host = stage.hosts.add()
    driver = stage.start(name, model={"seconds": 2.0})
    stage.wait_for_rows(name, driver, rng.randint(1, 8))
    stage.hosts.join(host)
    stage.end(name, driver)
    used = {where for where, _ in stage.pins()}
    assert f"h{host}" in used, used
    stage.fleet.lose(host)


def node_without_input(stage: Stage, name: str, rng: random.Random) -> None:
    """One host does not see the images: nothing is quarantined, and the log names the node."""
    host = stage.hosts.join(hidden=[stage.root / "images"])
    if rng.random() < 0.5:
        stage.hosts.wait_for_node(host)
    driver = stage.start(name)
    stage.end(name, driver)
    stage.hosts.wait_for_node(host)
    stage.fleet.lose(host)


Play = Callable[[Stage, str, random.Random], None]
SCENES: dict[str, Play] = {
    one.__name__: one
    for one in (
        undisturbed,
        node_killed,
        raylet_killed,
        driver_killed,
        network_cut,
        fresh_after_kill,
        node_joins,
        node_without_input,
    )
}


def play(root: Path, seed: int, names: Sequence[str] = tuple(SCENES)) -> dict[str, str]:
    """Let runs meet scenes at moments that the seed draws; return what was wrong, by scene, empty where nothing was."""
    wrong = {}
    with Hosts(3) as hosts:
        stage = Stage(root, hosts)
        for name in names:
            began = time.monotonic()
            stage.fleet.make_ready()
            try:
                SCENES[name](stage, name, random.Random(f"{seed} {name}"))
                stage.judge(name)
                wrong[name] = ""
            except AssertionError as error:
                wrong[name] = str(error)
                stage.fleet.lose_all()
            print(f"seed {seed}: {name}: {wrong[name] or 'as the serial run'} ({time.monotonic() - began:.0f} s)", flush=True)
    return wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Play all scenes for each seed; exit 1 where anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="how many")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--scenes", nargs="*", choices=SCENES, default=list(SCENES))
    chosen = parser.parse_args(arguments)
    if lacking := missing():
        print(lacking, file=sys.stderr)
        return 2
    failed = 0
    for seed in range(chosen.first, chosen.first + chosen.seeds):
        root = Path(tempfile.mkdtemp(prefix=f"rays-{seed}-", dir="/tmp"))
        wrong = [name for name, found in play(root, seed, chosen.scenes).items() if found]
        failed += len(wrong)
        if wrong:
            print(f"seed {seed}: {', '.join(wrong)} wrong; kept in {root}; again: python -m tests.cluster.rays --first {seed} --seeds 1")
        else:
            shutil.rmtree(root)
    print(f"{chosen.seeds * len(chosen.scenes) - failed} of {chosen.seeds * len(chosen.scenes)} runs as the serial one")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
