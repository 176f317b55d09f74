"""How far a run is, for Prometheus: a text file in the output folder, and a port where one is asked for.

The driver counts, and writes ``metrics.prom`` every five seconds and when the run ends: node_exporter's textfile collector reads it,
and so does ``gigaseg status`` for what the ledger does not hold, such as the number of actors. The names follow Prometheus'
conventions: base units, ``_total`` for what only grows. Each has the label ``run``, the URL of the output folder, so that several
runs may be collected by one node_exporter.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.engine import phase
from pipeline.errors import GigasegError, InputError, Problem
from pipeline.records import METRICS_FILE, Block, Receipt, RunFolder, repeating
from pipeline.scheduling.block_queue import BlockQueue
from pipeline.scheduling.stage_state import DONE, FAILED, Stage
from pipeline.storage import Storage

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

__all__ = ["MetricsAddress", "Monitor", "read_metrics"]

WRITE_S = 5.0
STATES = ("running", "done", "partial", "failed", "interrupted")


@dataclass(frozen=True)
class MetricsAddress:
    """Where a run serves its metrics."""

    port: int
    host: str = "127.0.0.1"


class Monitor:
    """Counts of one execution of a run: the driver changes them, and a thread of its own reads them.

    Attributes:
        run: URL of the output folder.
        state: as run.json says it.
        actors_lost: actors that died or were killed.
        most_actors: most actors at once.
    """

    def __init__(self, run: str = "") -> None:
        self.run = run
        self.state = "running"
        self.actors_lost = self.most_actors = 0
        self._actors: Callable[[], int] = lambda: 0
        self._num_actors, self._actor_seconds, self._counted = 0, 0.0, time.monotonic()
        self._lock = threading.Lock()
        self._queue: BlockQueue | None = None
        self._begun = time.monotonic()
        self._planned, self._done, self._failed, self._retries = (Counter[str]() for _ in range(4))
        self._pixels_planned, self._pixels_done = Counter[str](), Counter[str]()
        self._seconds = Counter[str]()
        self._written = self._peak = self._result_pixels = 0

    @property
    def actors(self) -> Callable[[], int]:
        """Returns how many actors have loaded the model and live; 1 where the driver itself does the blocks."""
        return self._actors

    @actors.setter
    def actors(self, actors: Callable[[], int]) -> None:
        self._actors = actors
        self.count_actors()

    def count_actors(self) -> float:
        """Return the seconds that actors have lived. The driver calls this when an actor is ready or gone, so that each counts exactly."""
        with self._lock:
            now = time.monotonic()
            self._actor_seconds += self._num_actors * (now - self._counted)
            self._num_actors, self._counted = self._actors(), now
            self.most_actors = max(self.most_actors, self._num_actors)
            return self._actor_seconds

    @property
    def busy_share(self) -> float | None:
        """Share of the lifetime of the actors in which they computed, from the blocks that are settled; None before there is any."""
        lived = self.count_actors()
        return min(1.0, self._seconds["compute"] / lived) if lived and self._seconds else None

    @property
    def peak_bytes(self) -> int:
        """Largest resident size of an actor so far."""
        return self._peak

    @property
    def result_pixels(self) -> int:
        """Pixels that this execution has given a result."""
        return self._result_pixels

    @property
    def phases(self) -> dict[str, int]:
        """Blocks of each phase."""
        return dict(self._planned)

    def begin(self, stages: Mapping[str, Iterable[Stage]], queue: BlockQueue) -> None:
        """Count the blocks of a plan, and those that an earlier execution did."""
        self._queue = queue
        for stage in (stage for some in stages.values() for stage in some):
            self._planned[stage.phase] += len(stage.blocks)
            self._pixels_planned[stage.phase] += stage.area
            for block in stage.blocks if queue.num_settled else ():
                state = queue.state_of(block)
                if state == FAILED:
                    self._failed[stage.phase] += 1
                elif state == DONE:
                    self._done[stage.phase] += 1
                    self._pixels_done[stage.phase] += block.box.area
        for counter in (self._done, self._failed, self._retries, self._pixels_done):
            counter.update(dict.fromkeys(self._planned, 0))  # a metric that appears with its first value shows no increase

    def settled(self, block: Block, receipt: Receipt) -> None:
        """Count a block that is done or quarantined."""
        if receipt.ok:
            self._done[block.phase] += 1
            self._pixels_done[block.phase] += block.box.area
            self._result_pixels += block.box.area * phase(block.phase).is_result
        else:
            self._failed[block.phase] += 1
        self._seconds.update(receipt.seconds)
        self._written += sum(receipt.files.values())
        self._peak = max(self._peak, receipt.peak_bytes)

    def retried(self, block: Block) -> None:
        """Count a block that is given back for another try."""
        self._retries[block.phase] += 1

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics, as a collector of ``prometheus_client`` does."""
        yield _gauge(
            "gigaseg_run_state", "1 for the state that the run is in.", self.run, "state", {one: one == self.state for one in STATES}
        )
        yield _gauge("gigaseg_elapsed_seconds", "Time since this execution of the run began.", self.run, "", time.monotonic() - self._begun)
        yield _gauge("gigaseg_blocks_planned", "Blocks of the run.", self.run, "phase", self._planned)
        yield _counter("gigaseg_blocks_done", "Blocks that are done, earlier executions included.", self.run, "phase", self._done)
        yield _counter(
            "gigaseg_blocks_failed", "Blocks that are quarantined, those of earlier executions included.", self.run, "phase", self._failed
        )
        yield _counter("gigaseg_block_retries", "Blocks that were given back for another try.", self.run, "phase", self._retries)
        yield _gauge("gigaseg_pixels_planned", "Pixels of the blocks of the run.", self.run, "phase", self._pixels_planned)
        yield _counter("gigaseg_pixels_done", "Pixels of the blocks that are done.", self.run, "phase", self._pixels_done)
        ready = self._queue.num_ready if self._queue else 0
        yield _gauge("gigaseg_queue_blocks", "Blocks that wait for an actor and may be handed out now.", self.run, "", ready)
        yield _gauge("gigaseg_actors", "Actors that have loaded the model and live.", self.run, "", self.actors())
        yield _counter(
            "gigaseg_actor_seconds", "Seconds that actors have lived since they loaded the model.", self.run, "", self.count_actors()
        )
        yield _counter("gigaseg_actors_lost", "Actors that died or were killed.", self.run, "", self.actors_lost)
        yield _counter("gigaseg_stage_seconds", "Seconds of all actors by stage of the work.", self.run, "stage", self._seconds)
        yield _counter("gigaseg_written_bytes", "Bytes of the files that blocks wrote.", self.run, "", self._written)
        yield _gauge("gigaseg_actor_peak_memory_bytes", "Largest resident size of an actor so far.", self.run, "", self._peak)

    def text(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        from prometheus_client import generate_latest

        return generate_latest(self._registry())

    def _registry(self) -> CollectorRegistry:
        from prometheus_client import CollectorRegistry

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return registry

    @contextmanager
    def served(self, address: MetricsAddress | None) -> Iterator[None]:
        """Serve the metrics over HTTP inside the ``with`` block; nothing listens where ``address`` is None.

        Raises:
            InputError: the port cannot be had.
        """
        if address is None:
            yield
            return
        from prometheus_client import start_http_server

        try:
            server, thread = start_http_server(address.port, address.host, self._registry())
        except OSError as error:
            found = f"{address.host}:{address.port}, which cannot be listened on ({error.strerror or error})"
            raise InputError(Problem("--metrics-port", found, "a free port of this machine")) from error
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    @contextmanager
    def written(self, folder: RunFolder) -> Iterator[None]:
        """Keep ``metrics.prom`` of an output folder up to date inside the ``with`` block; afterwards it says how the run ended.

        A file that cannot be written is no reason to end a run: it grows old.
        """

        def write() -> None:
            with suppress(GigasegError):
                folder.storage.put(METRICS_FILE, self.text(), durable=False)

        write()
        try:
            with repeating(write, pause_s=WRITE_S):
                yield
        finally:
            self.actors = lambda: 0
            with suppress(GigasegError):
                self.state = folder.read().get("state", self.state)
            write()


def read_metrics(storage: Storage) -> dict[str, Any]:
    """Return what ``metrics.prom`` of an output folder says: numbers by name, or by label value below the name.

    Empty where there is no such file, or it is damaged. Names have no ``gigaseg_`` in front and no ``_total`` behind.

    Example:
        >>> from pipeline.storage import open_storage
        >>> storage = open_storage("memory://monitor-example")
        >>> storage.put("metrics.prom", Monitor("runs/demo").text())
        >>> found = read_metrics(storage)
        >>> found["actors"], found["run_state"]["running"], found["blocks_done"]
        (0.0, 1.0, {})
    """
    from prometheus_client.parser import text_string_to_metric_families

    found: dict[str, Any] = {}
    text = (storage.get(METRICS_FILE) or b"").decode(errors="replace")
    try:
        for family in text_string_to_metric_families(text):
            name = family.name.removeprefix("gigaseg_")
            for sample in family.samples:
                key = next((value for label, value in sample.labels.items() if label != "run"), None)
                if key is None:
                    found[name] = sample.value
                else:
                    found.setdefault(name, {})[key] = sample.value
            found.setdefault(name, {})
    except ValueError:
        return {}
    return found


def _gauge(name: str, text: str, run: str, label: str, values: Mapping[str, float] | float) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(name, text, labels=["run", label] if label else ["run"])
    _fill(family, run, values)
    return family


def _counter(name: str, text: str, run: str, label: str, values: Mapping[str, float] | float) -> Metric:
    from prometheus_client.core import CounterMetricFamily

    family = CounterMetricFamily(name, text, labels=["run", label] if label else ["run"])
    _fill(family, run, values)
    return family


def _fill(family: GaugeMetricFamily | CounterMetricFamily, run: str, values: Mapping[str, float] | float) -> None:
    """Add a sample of each label value, or the one sample without."""
    if isinstance(values, Mapping):
        for key, value in list(values.items()):  # the driver may add one meanwhile
            family.add_metric([run, key], float(value))
    else:
        family.add_metric([run], float(values))
