"""Which backend is fastest for a network that no trial was held with: from measurements on processors of the same class.

``backend_table.yaml`` holds the measurements, and where each comes from. ``python -m tests.benchmarks.backend_table --write`` adds
those of a machine. A network is compared with the measured ones of its kind. Where the kind or the processor was not measured, the
choice costs least in the worst case: its seconds, divided by the fewest, are smallest over all that may be like it.
"""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml

from pipeline.models import Model

__all__ = ["TABLE", "BackendRow", "BackendTable", "Work", "least_worst", "network_kind", "processor_class", "read_table", "worst_ratios"]

TABLE = Path(__file__).with_suffix(".yaml")
PROCESSOR_CLASSES = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")  # flags of x86 processors, the first that is there
LIGHT_BASE = 24  # feature maps of a U-Net's first level up to which its work is small beside moving memory
PLAIN = ("unet", "frrn")  # plug-ins whose networks are plain 3x3 convolutions
UNPOOLING = ("segnet", "segnet_basic")  # and those whose decoder needs the indices of poolings
DILATED = ("DeepLabV3", "DeepLabV3Plus", "PAN", "PSPNet")
SEPARABLE = ("mobile", "efficientnet", "xception", "mnasnet", "ghostnet")  # in names of encoders of depthwise convolutions
TRANSFORMERS = ("mit_", "swin", "vit", "maxvit", "pvt")
RESIDUAL = ("resnet", "resnext", "res2net", "resnest", "regnet", "dpn", "densenet", "vgg")

Option = TypeVar("Option")


def processor_class(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the widest arithmetic of this processor that backends use: a value of :data:`PROCESSOR_CLASSES`, ``arm`` or ``other``."""
    try:
        flags = set(cpuinfo.read_text(encoding="ascii", errors="replace").split())
    except OSError:
        flags = set()
    is_arm = "asimd" in flags or platform.machine().lower() in ("arm64", "aarch64")
    return "arm" if is_arm else next((name for name in PROCESSOR_CLASSES if name in flags), "other")


def network_kind(model: Model) -> str:
    """Return what kind of network a model is, from its options alone; empty: not known.

    ``light``: a U-Net of few feature maps; ``plain``: 3x3 convolutions of many; ``unpooling``: a SegNet; ``residual``: a ResNet or the
    like with a decoder; ``separable``: depthwise convolutions; ``dilated``: a DeepLab; ``dilated separable``: both; ``transformer``:
    attention.
    """
    kinds = {_kind_of(getattr(model, "architecture", None), part) for part in model.constituents}
    return kinds.pop() if len(kinds) == 1 else ""


def _kind_of(architecture: Any, model: Model) -> str:
    network = architecture if isinstance(architecture, Model) else model  # a bundle names its network
    name = type(network).__module__.rpartition(".")[2]
    encoder = str(getattr(network, "encoder", "")).lower()
    if name in PLAIN:
        return "light" if getattr(network, "base", LIGHT_BASE + 1) // getattr(network, "patch", 1) <= LIGHT_BASE else "plain"
    if name in UNPOOLING:
        return "unpooling"
    if name == "deeplabv3plus":
        return "dilated" if "resnet" in encoder else "dilated separable"
    if name != "smp":
        return ""
    architecture = getattr(network, "architecture", "")
    if architecture in ("Segformer", "DPT") or any(part in encoder for part in TRANSFORMERS):
        return "transformer"
    is_separable = any(part in encoder for part in SEPARABLE)
    if not is_separable and not any(part in encoder for part in RESIDUAL):
        return ""
    words = [*(["dilated"] if architecture in DILATED else []), *(["separable"] if is_separable else [])]
    return " ".join(words) or "residual"


@dataclass(frozen=True)
class BackendRow:
    """What was measured of one network with one backend.

    Attributes:
        processor: its class.
        network: its name in the measurement.
        kind: of the network, as :func:`network_kind` says it.
        backend: name.
        precision: of the recipe.
        prepare_s: from the loaded network to its first answer, without computing it; None: not measured.
        seconds: of wall time a megapixel, by the number of threads in one process.
    """

    processor: str
    network: str
    kind: str
    backend: str
    precision: str
    prepare_s: float | None
    seconds: Mapping[int, float]

    def rate(self, threads: int) -> float:
        """Return seconds a megapixel with so many threads, by Amdahl's law where others were measured.

        Example:
            >>> row = BackendRow("avx2", "net", "plain", "torch", "fp32", 0.0, {1: 1.0, 2: 0.6})
            >>> [round(row.rate(threads), 3) for threads in (1, 2, 4)]
            [1.0, 0.6, 0.4]
        """
        if threads in self.seconds:
            return self.seconds[threads]
        most = max(self.seconds)
        share = 1.0  # of the work that threads divide among themselves
        if 1 in self.seconds and most > 1:
            share = min(max((1 - self.seconds[most] / self.seconds[1]) * most / (most - 1), 0.0), 1.0)
        one = self.seconds.get(1) or self.seconds[most] * most
        return one * (1 - share + share / threads)


@dataclass(frozen=True)
class Work:
    """What a run computes on a CPU.

    Attributes:
        pixels: that the network computes, all passes counted.
        threads: of each process.
        processes: that compute beside each other.
        prepared: backends that have the network prepared on this disk, and need neither torch nor preparing.
        keeping: backends that keep on this disk what they prepare of the network, for later runs.
        unchecked: backends whose answers must be compared with eager torch's first; where nothing is kept, that prepares it twice.
        rates: seconds a megapixel that a trial measured for this network, by backend; they take the place of the table's.
    """

    pixels: float
    threads: int = 1
    processes: int = 1
    prepared: Collection[str] = ()
    keeping: Collection[str] = ()
    unchecked: Collection[str] = ()
    rates: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class BackendTable:
    """All measurements.

    Attributes:
        rows: of every processor and network.
        start_s: of a run with any backend, from the command to its end, but for what the following count.
        import_s: that importing torch takes, which a prepared network saves.
        ray_s: that starting Ray and its actors takes more than one process.
        other_s: a megapixel of reading, stitching and writing.
        efficiency: speed that each further process adds, as a share of one process's.
    """

    rows: tuple[BackendRow, ...]
    start_s: float
    import_s: float
    ray_s: float
    other_s: float
    efficiency: float

    def like(self, processor: str, kind: str, precision: str) -> list[dict[str, BackendRow]]:
        """Return what may be like this network here, each as rows by backend: measured as such, else what shares kind or processor."""
        rows = [row for row in self.rows if row.precision == precision]
        exact = [row for row in rows if row.processor == processor and row.kind == kind]
        partly = [row for row in rows if row.processor == processor or row.kind == kind]
        cases: dict[tuple[str, str], dict[str, BackendRow]] = {}
        for row in exact or partly or rows:
            cases.setdefault((row.processor, row.network), {})[row.backend] = row
        return list(cases.values())

    def seconds(self, row: BackendRow, work: Work) -> float:
        """Return the seconds that a run takes with the backend of a row."""
        rate = work.rates.get(row.backend, row.rate(work.threads)) + self.other_s
        is_prepared, is_unchecked = row.backend in work.prepared, row.backend in work.unchecked
        import_s = self.import_s if is_unchecked or not is_prepared else 0.0
        times_prepared = 0 if is_prepared else 2 if is_unchecked and row.backend not in work.keeping else 1
        start_s = self.start_s + import_s + times_prepared * self.prepare_s(row)
        return start_s + rate * work.pixels / 1e6 / (1 + (work.processes - 1) * self.efficiency)

    def prepare_s(self, row: BackendRow) -> float:
        """Return the seconds of preparing; where they were not measured, the most that this kind took elsewhere, or any."""
        if row.prepare_s is not None:
            return row.prepare_s
        known = [other for other in self.rows if other.backend == row.backend and other.prepare_s is not None]
        same = [other for other in known if other.kind == row.kind] or known
        return max((other.prepare_s or 0.0 for other in same), default=0.0)


def least_worst(cases: Sequence[Mapping[Option, float]]) -> tuple[Option, float] | None:
    """Return the option whose seconds, divided by the fewest of the same case, are least in the worst case; and that ratio.

    Only options of every case count. None: there are none.

    Example:
        >>> least_worst([{"torch": 1.0, "openvino": 1.5}, {"torch": 4.0, "openvino": 2.0}])
        ('openvino', 1.5)
    """
    worst = worst_ratios(cases)
    return min(worst.items(), key=lambda item: item[1]) if worst else None


def worst_ratios(cases: Sequence[Mapping[Option, float]]) -> dict[Option, float]:
    """Return the seconds of each option, divided by the fewest of the same case, in the worst case; only options of every case."""
    common = [option for option in (cases[0] if cases else {}) if all(option in case for case in cases)]
    return {option: max(case[option] / min(case[other] for other in common) for case in cases) for option in common}


@cache
def read_table(path: Path = TABLE) -> BackendTable:
    """Return the table that comes with the package."""
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    rows = tuple(_rows(measured) for measured in data.pop("measurements"))
    return BackendTable(tuple(row for some in rows for row in some), **data)


def _rows(measured: Mapping[str, Any]) -> list[BackendRow]:
    return [BackendRow(measured["processor_class"], **row) for row in measured["rows"]]
