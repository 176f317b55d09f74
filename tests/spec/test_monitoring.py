"""What Prometheus gets of a run: valid text, the numbers of the ledger, on a port of this machine only where it is asked for."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import urllib.request
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.errors import InputError, StoreError
from pipeline.geometry import Box
from pipeline.records import Receipt, RunFolder
from pipeline.scheduling import MetricsAddress, read_metrics
from pipeline.scheduling.block_queue import BlockQueue
from pipeline.scheduling.monitoring import Monitor
from pipeline.scheduling.stage_state import KnownStages, Stage
from pipeline.storage import MemoryStorage, open_storage
from tests.spec.test_block_queue import block as queued_block
from tests.spec.test_block_queue import drain, queue_of


@pytest.fixture
def monitor():
    """Six blocks of two images in two phases: three done before, one of them failed; then one more is done and one fails."""
    stages = {name: [Stage("predict", [block(name, n) for n in range(2)]), Stage("finish", [block(name, 0, "finish")])] for name in "ab"}
    queue = BlockQueue(stages)
    done = drain(queue_of({"a": stages["a"]}))
    before = [Receipt(one.phase, "a", one.id, one.key, cause="no memory" * (one.phase == "finish")) for one in done]
    queue.begin(KnownStages(stages).add(before))
    it = Monitor('runs/"a\\b\n')
    it.begin(stages, queue)
    it.retried(block("b", 0))
    it.settled(block("b", 0), Receipt("predict", "b", "b:0.0.0", seconds={"read": 0.5}, files={"x": 10, "y": 5}, peak_bytes=7))
    it.settled(block("b", 1), Receipt("predict", "b", "b:0.0.1", cause="no memory", seconds={"read": 0.25, "write": 1.0}))
    it.actors = lambda: 3
    it.actors_lost = 1
    return it


def block(name, number, phase="predict"):
    one = queued_block(phase, name, number)
    return replace(one, box=Box(0, 10 * number, 4, 10 * number + 5))


def told(monitor):
    storage = open_storage("memory://told")
    storage.put("metrics.prom", monitor.text())
    return read_metrics(storage)


def test_the_numbers_are_those_of_the_run(monitor):
    """Blocks and pixels by phase, planned, done and failed; retries, actors, seconds by stage, bytes."""
    found = told(monitor)
    assert found["blocks_planned"] == {"predict": 4, "finish": 2}
    assert found["blocks_done"] == {"predict": 3, "finish": 0}
    assert found["blocks_failed"] == {"predict": 1, "finish": 1}
    assert (found["pixels_planned"], found["pixels_done"]) == ({"predict": 80, "finish": 40}, {"predict": 60, "finish": 0})
    assert found["block_retries"] == {"predict": 1, "finish": 0}
    assert (found["actors"], found["actors_lost"], found["queue_blocks"]) == (3, 1, 2)
    assert found["stage_seconds"] == {"read": 0.75, "write": 1.0}
    assert (found["written_bytes"], found["actor_peak_memory_bytes"]) == (15, 7)
    assert found["run_state"] == {"running": 1, "done": 0, "partial": 0, "failed": 0, "interrupted": 0}
    assert found["elapsed_seconds"] >= 0


def test_every_sample_names_its_run(monitor):
    """The label `run` keeps runs apart that one node_exporter collects, whatever characters the folder's name has."""
    samples = [sample for family in text_string_to_metric_families(monitor.text().decode()) for sample in family.samples]
    assert {sample.labels["run"] for sample in samples} == {'runs/"a\\b\n'}
    assert all(sample.name.startswith("gigaseg_") and sample.timestamp is None for sample in samples)


def test_names_follow_the_conventions(monitor):
    """What only grows ends in `_total` and nothing else does; units are seconds and bytes; every metric has a help text."""
    for family in text_string_to_metric_families(monitor.text().decode()):
        assert family.documentation
        assert not re.search(r"_(ms|milliseconds|minutes|mb|megapixels|percent)\b", family.name)
        assert family.type in ("counter", "gauge")
        assert all(sample.name.endswith("_total") == (family.type == "counter") for sample in family.samples)


def test_promtool_has_no_complaint(monitor):
    """Prometheus' own linter accepts the text."""
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("no promtool: apt-get install prometheus")
    checked = subprocess.run([tool, "check", "metrics"], input=monitor.text(), capture_output=True, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_the_file_is_kept_up_to_date_and_says_how_the_run_ended(monitor, tmp_path, monkeypatch):
    """The file is there when the run begins, changes while it goes on, and ends with the state of run.json and no actor."""
    monkeypatch.setattr("pipeline.scheduling.monitoring.WRITE_S", 0.01)
    folder = RunFolder(tmp_path)
    folder.write(state="running")
    with monitor.written(folder):
        assert read_metrics(folder.storage)["actors"] == 3
        monitor.actors_lost = 2
        for _ in range(500):
            if (found := read_metrics(folder.storage))["actors_lost"] == 2:
                break
        assert found["actors_lost"] == 2
        folder.write(state="partial")
    found = read_metrics(folder.storage)
    assert (found["run_state"]["partial"], found["run_state"]["running"], found["actors"]) == (1, 0, 0)


def test_a_file_that_cannot_be_written_ends_no_run(monitor):
    """A full disk or a lost store costs the file, not the run."""

    class Full(MemoryStorage):
        def put(self, *_, **__):
            raise StoreError("full")

    with monitor.written(RunFolder(Full("memory://full"))):
        pass


@pytest.mark.parametrize("text", [b"", b"gigaseg_actors{", b"\xff\x00", b"gigaseg_actors x"])
def test_a_damaged_file_says_nothing(text):
    """Text that is no metrics is as good as none."""
    storage = open_storage("memory://damaged")
    storage.put("metrics.prom", text)
    assert read_metrics(storage) == {}


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_the_port_is_on_loopback_and_closed_afterwards(monitor):
    """The same text over HTTP, from 127.0.0.1 alone; nothing listens when the run has ended."""
    address = MetricsAddress(free_port())
    with monitor.served(address):
        with urllib.request.urlopen(f"http://127.0.0.1:{address.port}/metrics") as answer:
            text = answer.read().decode()
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((another_address(), address.port), 2)
    assert next(family.name for family in text_string_to_metric_families(text)) == "gigaseg_run_state"
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", address.port), 2)


def another_address():
    """An address of this machine, on which a server of loopback does not listen."""
    return "127.0.0.2"


def test_a_port_that_is_taken_is_refused(monitor):
    """The message names the option and the address."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        address = MetricsAddress(one.getsockname()[1])
        with pytest.raises(InputError, match=rf"--metrics-port: found 127.0.0.1:{address.port}, which cannot be listened on"):
            monitor.served(address).__enter__()


def test_without_an_address_nothing_listens(monitor, monkeypatch):
    """No server is started unless it is asked for."""
    monkeypatch.setattr("prometheus_client.start_http_server", lambda *_: pytest.fail("started"))
    with monitor.served(None):
        pass


def test_a_run_counts_what_its_ledger_holds(engine, tmp_path, traced):
    """After a run that was stopped and resumed, the metrics are the blocks of the plan, and run.json knows how many each phase has."""
    from tests.conftest import blobs, save_tiff

    save_tiff(tmp_path / "a.tif", blobs((100, 200)))
    done = engine(model={"name": "traced.model"}, normalize=None)
    found = read_metrics(open_storage(done.folder))
    assert found["blocks_planned"] == json.loads((done.folder / "run.json").read_text())["phases"]
    assert found["blocks_done"] == found["blocks_planned"]
    assert found["run_state"]["done"] == 1
    assert found["written_bytes"] > 0


def test_the_busy_share_is_that_of_the_life_of_actors(monkeypatch):
    """Seconds in which actors computed, over those that each has lived; the most at once are remembered."""
    clock = [100.0]
    monkeypatch.setattr("pipeline.scheduling.monitoring.time.monotonic", lambda: clock[0])
    it, living = Monitor("out"), [0]
    it.actors = lambda: living[0]
    assert it.busy_share is None
    for seconds, number in ((50, 2), (10, 4), (10, 1)):  # two actors after 50 s, four 10 s later, then one
        clock[0] += seconds
        living[0] = number
        it.count_actors()
    clock[0] += 20
    it._planned["predict"] = 1
    it.settled(block("a", 0), Receipt("predict", "a", "a:0.0.0", seconds={"read": 9.0, "compute": 40.0}))
    assert it.busy_share == 40 / (2 * 10 + 4 * 10 + 1 * 20)
    assert it.most_actors == 4
    assert told(it)["actor_seconds"] == 80
    assert it.result_pixels == 20
