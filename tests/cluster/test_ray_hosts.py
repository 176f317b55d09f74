"""Runs on a Ray of several hosts: whatever happens to them, masks, report and ledger are those of the serial runner."""

from __future__ import annotations

import random

import pytest

from tests.cluster.hosts import Hosts, missing
from tests.cluster.rays import SCENES, Stage, play

pytestmark = [pytest.mark.root, pytest.mark.skipif(bool(missing()), reason=missing())]


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """Two hosts with two make-believe GPUs each, beside the one of the driver."""
    with Hosts(3) as hosts:
        yield Stage(tmp_path_factory.mktemp("hosts"), hosts, seconds=0.15)


@pytest.mark.parametrize(("name", "seed"), [("node_killed", 1), ("driver_killed", 2)])
def test_a_run_on_hosts_is_the_serial_run(stage, name, seed):
    """Each actor has a GPU of its own; a host that dies and a driver that is killed change no pixel and no count."""
    stage.fleet.make_ready()
    SCENES[name](stage, name, random.Random(seed))
    stage.judge(name)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_runs_on_hosts_are_the_serial_run(tmp_path, seed):
    """Hosts that die, are cut off, join, or lack a mount, and drivers that are killed, at moments that a seed draws."""
    wrong = {name: found for name, found in play(tmp_path, seed).items() if found}
    assert not wrong
