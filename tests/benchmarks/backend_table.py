"""Which backend is fastest on this machine, network by network: what ``pipeline/tuning/backend_table.yaml`` holds.

Run: ``python -m tests.benchmarks.backend_table [NETWORK...] [--rounds 2] [--write]`` prints seconds a megapixel of eager torch and OpenVINO
in one and in two threads, in float32 and, where the processor has it, bfloat16, and the seconds of preparing the network; ``--write``
puts them into the table, in place of earlier rows of this class of processors and these networks. Each is the lesser of wall and CPU
seconds, least of all rounds, each of which is a process of its own: other work on the machine changes them little.

``--check`` compares what a run would choose with the best there is, for images of 512^2 to 8192^2, by the measured seconds: at most 1.2
times the fewest are wanted. It does so also as if the network had not been measured, or its kind were unknown, which may cost more.
``--check --run`` runs some of them.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import yaml

from pipeline.backends import bf16_supported
from pipeline.config import Recipe
from pipeline.plugins import build
from pipeline.tuning.backend_choice import table_backend
from pipeline.tuning.backend_table import TABLE, Work, network_kind, processor_class, read_table
from pipeline.tuning.backend_trial import processor_name
from tests.benchmarks.images import tile

BACKENDS, THREADS = ("torch", "openvino"), (1, 2)
SIDE = 512  # of the tile, pixels
ENOUGH_S, FEWEST = 1.5, 2  # a tile is computed at least so long and so often
SIDES = (512, 1024, 2048, 4096, 8192)  # of the images that choices are compared for, pixels
RUN_NETWORKS, RUN_SIDES = ("nuclei", "aerial-landcover"), (512, 1024, 2048)
WANTED = 1.2  # times the fewest seconds, at most
NETWORKS: dict[str, dict[str, Any]] = {
    "nuclei": {"name": "bundle", "path": "nuclei"},
    "unet": {"name": "unet", "channels": 3},
    "segnet": {"name": "segnet"},
    "smp-unet-resnet18": {"name": "smp", "architecture": "Unet", "encoder": "resnet18"},
    "smp-unet-resnet50": {"name": "smp", "architecture": "Unet", "encoder": "resnet50"},
    "aerial-landcover": {"name": "bundle", "path": "aerial-landcover"},
    "deeplabv3plus-resnet50": {"name": "deeplabv3plus", "encoder": "resnet50"},
    "deeplabv3plus-mobilenet_v2": {"name": "deeplabv3plus", "encoder": "mobilenet_v2"},
    "smp-segformer-mit_b0": {"name": "smp", "architecture": "Segformer", "encoder": "mit_b0"},
}


class Stopwatch:
    """Seconds since it was made: the lesser of wall time and this process's CPU time."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def seconds(self) -> float:
        """Seconds so far."""
        return min(time.perf_counter() - self.wall, time.process_time() - self.cpu)


def measure(name: str, backend: str, precision: str, threads: int) -> dict[str, float]:
    """Return seconds of importing torch, of preparing the loaded network, and of a megapixel."""
    importing = Stopwatch()
    import torch  # noqa: F401 - this is what is timed

    import_s = importing.seconds()
    model = build("models", NETWORKS[name])
    network = model.load()
    pixels_BYXC = np.random.default_rng(0).integers(0, 256, (1, SIDE, SIDE, model.num_channels or 3), np.uint8)
    given = np.moveaxis(pixels_BYXC, -1, 1), [{}]
    preparing = Stopwatch()
    plugin = build("backends", {"name": backend})
    with plugin.open(network, Recipe(backend, precision=precision, threads=threads), None) as predict:
        predict.classes(*given)
        first_s = preparing.seconds()
        laps: list[float] = []
        while len(laps) < FEWEST or sum(laps) < ENOUGH_S:
            lap = Stopwatch()
            predict.classes(*given)
            laps.append(lap.seconds())
    return {"import_s": import_s, "prepare_s": max(first_s - min(laps), 0.0), "seconds": min(laps) * 1e6 / SIDE**2}


def measure_apart(*arguments: object) -> dict[str, float]:
    """Do as :func:`measure` does in a process of its own.

    Raises:
        ValueError: the backend cannot run the network.
    """
    command = [sys.executable, "-m", "tests.benchmarks.backend_table", "--measure", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(done.stderr.strip().splitlines()[-1][:200])
    result: dict[str, float] = json.loads(done.stdout)
    return result


def rows_of(name: str, rounds: int) -> tuple[list[dict[str, Any]], float]:
    """Return the rows of one network, printed as they come, and the seconds of importing torch; a backend that fails has no row."""
    rows, imports = [], []
    kind = network_kind(build("models", NETWORKS[name]))
    for precision in ("fp32", "bf16") if bf16_supported() else ("fp32",):
        found: dict[tuple[str, int], list[dict[str, float]]] = {}
        for _ in range(rounds):
            for backend, threads in ((backend, threads) for backend in BACKENDS for threads in THREADS):
                try:
                    found.setdefault((backend, threads), []).append(measure_apart(name, backend, precision, threads))
                except ValueError as error:
                    print(f"{name:<28}{backend:<10}{precision:<6}{error}", flush=True)
                    found.pop((backend, threads), None)
        for backend in (backend for backend in BACKENDS if (backend, THREADS[0]) in found):
            seconds = {threads: round(min(one["seconds"] for one in found[backend, threads]), 4) for threads in THREADS}
            prepare_s = round(min(one["prepare_s"] for threads in THREADS for one in found[backend, threads]), 3)
            rows.append(
                {"network": name, "kind": kind, "backend": backend, "precision": precision, "prepare_s": prepare_s, "seconds": seconds}
            )
            rates = "".join(f"{seconds[threads]:>10.3f}" for threads in THREADS)
            imports += [one["import_s"] for threads in THREADS for one in found[backend, threads]]
            print(f"{name:<28}{kind:<20}{backend:<10}{precision:<6}{prepare_s:>10.2f}{rates}", flush=True)
    return rows, min(imports)


def merge(rows: list[dict[str, Any]], import_s: float, other_s: float, path: Path = TABLE) -> None:
    """Put rows of this machine into the table, in place of those of this class of processors, network, backend and precision."""
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    own, new = processor_class(), {(row["network"], row["backend"], row["precision"]) for row in rows}
    for measured in (one for one in data["measurements"] if one["processor_class"] == own):
        measured["rows"] = [row for row in measured["rows"] if (row["network"], row["backend"], row["precision"]) not in new]
    versions = {package: metadata.version(package) for package in ("torch", "openvino")}
    facts = {"processor_class": own, "processor": processor_name(), "cores": len(os.sched_getaffinity(0)), "versions": versions}
    source = {"date": dt.datetime.now(tz=dt.UTC).date().isoformat(), "source": f"python -m {__spec__.name} --write"}
    groups = [one for one in data["measurements"] if one["rows"]]
    same = next((one for one in groups if {**one, "rows": []} == {**facts, **source, "rows": []}), None)
    if same is None:
        groups.append({**facts, **source, "rows": rows})
    else:
        same["rows"] = [*same["rows"], *rows]
    data |= {"import_s": round(import_s, 2), "other_s": round(other_s, 3)}
    header = "".join(line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.startswith("#"))
    path.write_text(header + _dumped(data, groups), encoding="utf-8")


def _dumped(data: dict[str, Any], groups: list[dict[str, Any]]) -> str:
    """The table as YAML, a row a line."""
    text = yaml.safe_dump({key: value for key, value in data.items() if key != "measurements"}, sort_keys=False) + "measurements:\n"
    for group in groups:
        facts = yaml.safe_dump({key: value for key, value in group.items() if key != "rows"}, sort_keys=False, width=200)
        text += "".join(f"{'- ' if at == 0 else '  '}{line}\n" for at, line in enumerate(facts.splitlines())) + "  rows:\n"
        lines = (yaml.safe_dump(row, sort_keys=False, default_flow_style=True, width=400).strip() for row in group["rows"])
        text += "".join(f"  - {line}\n" for line in lines)
    return text


def check() -> float:
    """Print how much longer than with the best backend a run takes with the chosen one, by the measured seconds; return the worst."""
    table, own = read_table(), processor_class()
    cases = sorted({(row.network, row.kind, row.precision) for row in table.rows if row.processor == own})
    print(f"{'network':<28}{'':<6}{'threads':<9}{'size':<8}{'fewest s':>10}{'  with':<12}times it: measured; kind measured; nothing known")
    worst = worst_guess = 0.0
    for name, kind, precision in cases:
        rows = {row.backend: row for row in table.rows if (row.processor, row.network, row.precision) == (own, name, precision)}
        if len(rows) < 2:
            continue
        others = replace(table, rows=tuple(row for row in table.rows if row not in rows.values()))
        for threads, side in ((threads, side) for threads in THREADS for side in SIDES):
            work = Work(side**2, threads)
            seconds = {backend: table.seconds(row, work) for backend, row in rows.items()}
            best = min(seconds, key=lambda backend: seconds[backend])
            found = [
                table_backend(known, own, of, precision, work, BACKENDS) for known, of in ((table, kind), (others, kind), (others, ""))
            ]
            ratios = [seconds[one[0] if one else "torch"] / seconds[best] for one in found]
            worst, worst_guess = max(worst, ratios[0]), max(worst_guess, *ratios)
            told = "; ".join(f"{ratio:.2f}" for ratio in ratios)
            print(f"{name:<28}{precision:<6}{threads:<9}{side}^2{'':<{6 - len(str(side))}}{seconds[best]:>10.2f}  {best:<10}{told}")
    print(f"worst: {worst:.2f}; of networks as if they had not been measured: {worst_guess:.2f}")
    return worst


def time_runs(names: Sequence[str], rounds: int) -> None:
    """Print the seconds of whole runs with each backend and with the one that is chosen; the first chosen run also checks its backend."""
    with tempfile.TemporaryDirectory() as text:
        for name, side in ((name, side) for name in names for side in RUN_SIDES):
            folder = Path(text) / f"{name}-{side}"
            image = folder / "a.tif"
            folder.mkdir()
            tifffile.imwrite(image, np.tile(np.moveaxis(tile(3), 0, -1), (-(-side // 1024),) * 2 + (1,))[:side, :side], tile=(256, 256))
            seconds: dict[str, list[float]] = {}
            for number in range(rounds):
                for backend in (*BACKENDS, "auto"):
                    seconds.setdefault(backend, []).append(_run_seconds(folder, NETWORKS[name], backend, number))
            first = seconds["auto"].pop(0) if rounds > 1 else None
            least = {backend: min(some) for backend, some in seconds.items()}
            chosen = json.loads((folder / f"auto-{rounds - 1}" / "run.json").read_text())["recipe"]["backend"]
            told = ", ".join(f"{backend} {value:.2f}" for backend, value in least.items())
            ratio = least["auto"] / min(least.values())
            print(
                f"{name} {side}^2: CPU seconds {told} (chose {chosen}; first {first or least['auto']:.2f}): {ratio:.2f} of the least",
                flush=True,
            )


def other_seconds(rounds: int) -> float:
    """CPU seconds a megapixel of a run around its network: a large image against a small one, with a model that costs nothing."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        seconds: dict[int, float] = {}
        for side in (1024, 4096):
            (folder / str(side)).mkdir()
            tifffile.imwrite(
                folder / str(side) / "a.tif", np.tile(np.moveaxis(tile(3), 0, -1), (side // 1024,) * 2 + (1,)), tile=(256, 256)
            )
            model = {"name": "tests.benchmarks.stub"}
            seconds[side] = min(_run_seconds(folder / str(side), model, "torch", number) for number in range(rounds))
    return (seconds[4096] - seconds[1024]) * 1e6 / (4096**2 - 1024**2)


def _run_seconds(folder: Path, model: dict[str, Any], backend: str, number: int) -> float:
    """CPU seconds of one run in one thread; every backend has a cache of its own, which later runs find filled."""
    compute = {"runner": "serial", "threads": 1, "backend": backend, "precision": "fp32"}
    yaml_file, output = folder / f"{backend}.yaml", folder / f"{backend}-{number}"
    config = {"images": [str(folder / "a.tif")], "model": model, "compute": compute, "output": str(output)}
    yaml_file.write_text(json.dumps(config))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "pipeline.cli", "run", str(yaml_file)]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "XDG_CACHE_HOME": str(folder / f"cache-{backend}")})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure and print, or compare choices with what was measured."""
    parser = argparse.ArgumentParser(description="Which backend is fastest on this machine, network by network.")
    parser.add_argument("names", nargs="*", metavar="NETWORK", help=f"which; all if none is named: {', '.join(NETWORKS)}")
    parser.add_argument("--rounds", type=int, default=2, help="processes for each measurement")
    parser.add_argument("--write", action="store_true", help="put the rows into the table")
    parser.add_argument("--check", action="store_true", help="compare the choice with the best backend, by the table")
    parser.add_argument("--run", action="store_true", help="with --check: run some networks with each backend as well")
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(NETWORKS):
        parser.error(f"no network named {', '.join(sorted(unknown))}; there are {', '.join(NETWORKS)}")
    if asked.check:
        worst = check()
        if asked.run:
            time_runs(asked.names or RUN_NETWORKS, asked.rounds)
        raise SystemExit(worst > WANTED)
    print(f"{'network':<28}{'kind':<20}{'backend':<10}{'':<6}{'prepare s':>10}{'s/Mpx, 1':>10}{'2 threads':>10}")
    other_s, imports = other_seconds(asked.rounds), list[float]()
    for name in asked.names or NETWORKS:
        rows, import_s = rows_of(name, asked.rounds)
        imports.append(import_s)
        if asked.write:
            merge(rows, min(imports), other_s)
    print(f"importing torch: {min(imports):.2f} s; reading, stitching and writing: {other_s:.3f} s a megapixel")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(*sys.argv[2:5], int(sys.argv[5]))))
    else:
        main()
