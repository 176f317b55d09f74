"""The ledger under real faults: killed, stopped and racing processes, and a disk that fills up."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import pipeline
from pipeline.errors import InputError, StoreError
from pipeline.records import Ledger, Receipt, read_rows

REPOSITORY = Path(pipeline.__file__).parents[1]

# appends for ever, and prints the number of each row once it is committed
WRITER = """
import itertools, sys
from pipeline.errors import LockLost
from pipeline.records import Ledger, Receipt

try:
    with Ledger.open(sys.argv[1], stale_s=600) as ledger:
        for number in itertools.count():
            ledger.append(Receipt("predict", "a", f"{ledger.epoch}:{number}"))
            if number % 5 == 0:
                ledger.flush()
                print(f"{ledger.epoch}:{number}", flush=True)
except LockLost as lost:
    print("lost", lost, flush=True)
"""

# commits a row, and another one when it is told to, as if it had been stopped between its check and its write
LATE = """
import dataclasses, sys
from pipeline.records import ledger as module
from pipeline.errors import LockLost
from pipeline.records import Holder, Receipt

module.COMMIT_S = 3600
try:
    with module.Ledger.open(sys.argv[1], holder=dataclasses.replace(Holder.here(), boot="another machine")) as ledger:
        ledger.append(Receipt("predict", "a", "early"))
        ledger.flush()
        print("committed", flush=True)
        sys.stdin.readline()
        ledger._guarded = ledger._storage
        ledger.append(Receipt("predict", "a", "late"))
        ledger.flush()
        print("committed", flush=True)
except LockLost as lost:
    print("lost", flush=True)
"""

# takes part in a race at every line it reads, and holds the run until the next line
RACER = """
import contextlib, sys
from pipeline.errors import InputError
from pipeline.records import Ledger, Receipt

print("ready", flush=True)
for line in sys.stdin:
    with contextlib.ExitStack() as held:
        try:
            ledger = held.enter_context(Ledger.open(sys.argv[1], stale_s=600))
            ledger.append(Receipt("predict", "a", line.strip()))
            ledger.flush()
            print("won", flush=True)
        except InputError as refused:
            print("refused", refused, flush=True)
        sys.stdin.readline()
    print("ready", flush=True)
"""


@contextmanager
def python(script, *args):
    """A child that is dead and reaped at the end, whatever happens."""
    child = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, args)], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        try:
            yield child
        finally:
            child.kill()


def blocks(folder):
    return [row.block for row in read_rows(folder)]


def prepared(folder):
    """The ledger's folder, made beforehand."""
    folder.mkdir()
    return folder


def test_committed_rows_survive_kill_9(tmp_path):
    """Twelve writers are killed at random moments: each next one starts at once and finds every row that was committed."""
    rng = random.Random(7)
    committed = []
    for epoch in range(1, 13):
        with python(WRITER, tmp_path) as writer:
            heard = [writer.stdout.readline()]  # it holds the run, without waiting for the dead one
            threading.Timer(rng.uniform(0, 0.15), writer.kill).start()
            heard += [line for line in writer.stdout if line.endswith("\n")]
        assert writer.returncode == -signal.SIGKILL
        last = int(heard[-1].split(":")[1])
        committed += [f"{epoch}:{number}" for number in range(last + 1)]
        rows = blocks(tmp_path)
        assert set(committed) <= set(rows)
        assert len(set(rows)) == len(rows)
        assert rows == sorted(rows, key=lambda block: [int(part) for part in block.split(":")])
    with Ledger.open(tmp_path, stale_s=600) as ledger:
        assert ledger.epoch == 13
        assert [row.block for row in ledger.rows()] == rows


def test_a_live_process_is_not_taken_over_by_accident(tmp_path):
    """While a process lives, even stopped, another one is refused; with `--take-over` it is served and the first one learns it."""
    with python(WRITER, tmp_path) as writer:
        writer.stdout.readline()
        for stop in (signal.SIGCONT, signal.SIGSTOP):
            writer.send_signal(stop)
            with pytest.raises(InputError, match=rf"pid {writer.pid}, since .*--take-over") as refused, Ledger.open(tmp_path, stale_s=0.1):
                pass
            assert refused.value.exit_code == 4
        with Ledger.open(tmp_path, take_over=True) as ledger:
            before = [row.block for row in ledger.rows()]
            writer.send_signal(signal.SIGCONT)
            *heard, lost = writer.stdout.read().splitlines()
            assert writer.wait() == 0
            assert lost.startswith(f"lost the run was taken over by host {os.uname().nodename}, pid {os.getpid()}")
            assert set(heard) <= set(before)
            assert [row.block for row in ledger.rows()] == before


def test_a_stopped_host_is_taken_over_and_its_late_rows_do_not_count(tmp_path):
    """A holder on another host is safe while it counts, loses the run when it stands still, and cannot add rows when it wakes."""
    with python(LATE, tmp_path) as writer:
        assert writer.stdout.readline() == "committed\n"
        with pytest.raises(InputError, match=f"pid {writer.pid}"), Ledger.open(tmp_path, stale_s=60):
            pass
        writer.send_signal(signal.SIGSTOP)
        tell(writer, "go on")
        start = time.monotonic()
        with Ledger.open(tmp_path, stale_s=2) as ledger:
            assert time.monotonic() - start >= 2
            ledger.append(Receipt("predict", "a", "taken over"))
            ledger.flush()
            writer.send_signal(signal.SIGCONT)
            assert writer.stdout.read() == "lost\n"
            assert b"late" in (tmp_path / "000001.jsonl").read_bytes()
            assert [row.block for row in ledger.rows()] == ["early", "taken over"]
    assert blocks(tmp_path) == ["early", "taken over"]


def test_of_many_processes_exactly_one_wins(tmp_path):
    """Eight processes start on one folder: one holds it, seven are refused, after an orderly end and after the winner's death alike."""
    folder = prepared(tmp_path / "ledger")
    with ExitStack() as stack:
        racers = [stack.enter_context(python(RACER, folder)) for _ in range(8)]
        for turn in range(15):
            winner = race(racers, f"turn {turn}")
            if turn >= 8:  # from here on the winner dies, and one fewer races each time
                winner.kill()
                os.waitid(os.P_PID, winner.pid, os.WEXITED | os.WNOWAIT)  # dead, and still in the process table
                racers.remove(winner)
            for racer in racers:
                tell(racer, "end")
    assert blocks(folder) == [f"turn {turn}" for turn in range(15)]


def race(racers, word):
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        tell(racer, word)
    answers = [racer.stdout.readline() for racer in racers]
    (winner,) = [racer for racer, answer in zip(racers, answers, strict=True) if answer == "won\n"]
    named = [re.search(r"pid (\d+)", answer) for answer in answers if answer.startswith("refused")]
    assert len(named) == len(racers) - 1
    assert {int(name[1]) for name in named} <= {winner.pid}
    return winner


def tell(racer, word):
    racer.stdin.write(word + "\n")
    racer.stdin.flush()


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 256 KiB of its own."""
    folder = prepared(tmp_path / "disk")
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def append_until_full(ledger):
    for number in range(100_000):
        ledger.append(Receipt("predict", "a", str(number), digest="d" * 100))
        if number % 10 == 0:
            ledger.flush()
    return pytest.fail("the disk did not fill up")


@pytest.mark.root
def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_space(small_disk):
    """On a full disk the commit fails with the way out; with space again the same run loses none of the rows it took."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 150_000)
    with Ledger.open(small_disk / "ledger") as ledger:
        with pytest.raises(StoreError, match="No space left on device; free space and run again: it resumes"):
            append_until_full(ledger)
        rows = blocks(small_disk / "ledger")
        assert rows == [str(number) for number in range(len(rows))]
        ballast.unlink()
        ledger.flush()
        rows = [row.block for row in ledger.rows()]
        assert rows == [str(number) for number in range(len(rows))]
        assert len(rows) > 100


@pytest.mark.root
def test_a_run_that_ended_on_a_full_disk_resumes(small_disk):
    """A run that a full disk ended leaves whole rows and no claim: it resumes as soon as there is space, in any process."""
    ballast, folder = small_disk / "ballast", small_disk / "ledger"
    ballast.write_bytes(b"x" * 150_000)
    with pytest.raises(StoreError, match="free space"), Ledger.open(folder) as ledger:
        append_until_full(ledger)
    rows = blocks(folder)
    assert rows == [str(number) for number in range(len(rows))]
    with pytest.raises(StoreError, match="free space"), Ledger.open(folder, stale_s=600):
        pass
    ballast.unlink()
    with Ledger.open(folder, stale_s=600) as ledger:
        ledger.append(Receipt("predict", "a", "more"))
        assert [row.block for row in ledger.rows()] == [*rows, "more"]
