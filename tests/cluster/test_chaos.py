"""Rounds of chaos: faults that a seed draws, and results that are judged pixel by pixel."""

from __future__ import annotations

import random
import re
import subprocess
import sys

import numpy as np
import pytest

from pipeline.storage import open_storage
from tests.cluster.chaos_round import Round, Wrong
from tests.cluster.judge import wrong_in
from tests.faults.scene import REPOSITORY

SMALL = ["--side", "120", "--per-round", "1", "2", "--runners", "serial"]


def chaos(*options):
    """The command, with the numbers of the last line of its table: faults, rounds, wrong rounds, outputs judged."""
    command = [sys.executable, "-m", "tests.cluster.chaos", *options]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    found = re.search(r"^all +(\d+) +(\d+) +(\d+) +(\d+) outputs", ended.stdout, re.MULTILINE)
    assert found, ended.stdout + ended.stderr
    return ended, [int(number) for number in found.groups()]


@pytest.mark.parametrize("seed", [1, 6, 11, 16])
def test_five_rounds_leave_what_undisturbed_runs_do(seed):
    """Serial runs, each disturbed by a fault or two: no pixel is wrong, and no block lost or counted twice."""
    ended, (faults, rounds, wrong, judged) = chaos("--rounds", "5", "--seed", str(seed), *SMALL)
    assert (ended.returncode, rounds, wrong) == (0, 5, 0), ended.stdout
    assert faults >= rounds
    assert judged >= rounds


@pytest.mark.slow
def test_a_thousand_faults_leave_what_undisturbed_runs_do():
    """The whole of it, with hosts and a bucket where there are such."""
    ended, (faults, _, wrong, _) = chaos("--faults", "1000")
    assert (ended.returncode, wrong) == (0, 0), ended.stdout
    assert faults >= 1000


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A round whose run has ended undisturbed, and is judged to be right."""
    one = Round(tmp_path_factory.mktemp("chaos") / "round", random.Random(5), "serial", side=100)
    try:
        one.finish()
        yield one
    finally:
        one.end()


def test_the_judge_sees_one_wrong_pixel(ended):
    """A pixel of a mask that is changed afterwards is found, and counted."""
    import zarr

    mask = zarr.open_array(next((ended.local_output() / "masks").glob("*.ome.zarr")) / "0", mode="r+")
    before = mask[0, 0]
    mask[0, 0] = np.uint8(1 - before)
    with pytest.raises(Wrong, match="1 wrong pixels"):
        ended.judge()
    mask[0, 0] = before
    ended.judge()


def test_the_judge_sees_a_block_that_is_counted_twice(ended):
    """A row that is committed again is found, and so is one that is missing."""
    ledger = open_storage(str(ended.local_output() / "ledger"))
    (segment,) = [name for name in ledger.list() if name.endswith(".jsonl")]
    content = ledger.get(segment)
    lines = content.splitlines(keepends=True)
    row = next(line for line in reversed(lines) if b'"predict"' in line)
    ledger.put(segment, content + row)
    assert any("committed 2 times" in line for line in wrong_in(ended.local_output(), ended.reference()))
    ledger.put(segment, b"".join(line for line in lines if line != row))
    assert any("missing from the ledger" in line for line in wrong_in(ended.local_output(), ended.reference()))
    ledger.put(segment, content)
    ended.judge()
