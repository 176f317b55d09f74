"""The same image, the same network, one tool after the other: ``python -m tests.benchmarks.peers [SIDE] [ROUNDS] [TOOL...]``.

The work (4096 3): an RGB image of SIDE^2 bytes as Zarr (TIAToolbox: PNG, which it reads faster) in; the mask of a
U-Net-ResNet18 of segmentation-models-pytorch with four classes, random weights and no class below 5 % on disk, out.
Tiles of 512 with a context of 64. In two settings:

``as it comes``: what a user gets who sets nothing: float32 eager torch with all cores for the others, and gigaseg's own
choice of backend, precision and actors.
``one thread``: what all of them can use: bfloat16 autocast (float32 where the processor has no bfloat16), channels-last, eager
torch, one thread and one worker, so that what the tools themselves cost can be compared (gigaseg with ``backend: torch``); two
more rows are gigaseg with tiles of its own choice, and with its own backend.

Each tool runs in a virtual environment of its own below the cache folder, made by the first call; torch, zarr and all else
that is here already is shared by a .pth file, so that only the tool and what it lacks is fetched. What cannot be
installed is left out, with the reason. Rounds alternate. Columns: wall seconds of the whole process, and of the work without
imports and loading (gigaseg: without imports and plan); CPU seconds and peak memory (proportional set size) of the process
and its children; pixels of the class that one float32 pass over a window gives them. Medians, with the least and the
greatest of the rounds.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import zarr

from tests.benchmarks.images import zarr_image
from tests.benchmarks.memory import pss_bytes
from tests.benchmarks.network import MEAN, STD, check_shares

JOBS = Path(__file__).with_name("peer_jobs.py")
ROOT = Path(__file__).parents[2]
SAMPLE_S = 0.2
MARGIN = 320  # the network's field, rounded up: what a window needs around it to be exact

# What each tool needs besides what is installed here; `--no-deps`, as torch would be fetched again otherwise.
PACKAGES = {
    "monai": [["monai==1.6.1"]],
    "dask": [["dask==2026.8.0", "partd", "toolz", "locket", "cloudpickle", "importlib_metadata==8.7.0", "zipp"]],
    "tiatoolbox": [
        ["tiatoolbox==2.1.3", "dask==2026.7.0", "partd", "toolz", "locket", "cloudpickle", "importlib_metadata==8.7.0", "zipp"],
        ["numpy<2.4.4", "scipy<1.17.1", "numba", "llvmlite", "umap-learn", "pynndescent", "matplotlib", "cycler", "kiwisolver"],
        ["fonttools", "defusedxml", "flask", "flask-cors", "werkzeug", "blinker", "itsdangerous", "glymur", "pydicom", "shapely"],
        ["opencv-python-headless", "openslide-python", "openslide-bin", "wsidicom", "SimpleITK", "universal_pathlib", "pathlib_abc"],
        ["transformers==5.14.0", "tokenizers==0.22.2", "huggingface_hub==1.23.0", "regex"],
    ],
}
MODULES = {"tiatoolbox": "tiatoolbox.models.engine.semantic_segmentor", "dask": "dask.array"}
TOOLS = ("naive", "monai", "dask", "tiatoolbox", "ray_data", "gigaseg")


@dataclass
class Seen:
    """Results of the rounds of one row."""

    wall: list[float] = field(default_factory=list)
    work: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak: list[float] = field(default_factory=list)
    agreement: float = float("nan")
    refused: str = ""


def python_of(tool: str, packages: Mapping[str, Sequence[Sequence[str]]] = PACKAGES, module: str = "") -> str:
    """Return the Python of a tool's environment, and create the environment where it is missing.

    Args:
        tool: its name.
        packages: what pip installs for each tool, group by group.
        module: what must then be importable; empty: as ``MODULES`` says.

    Raises:
        SystemExit: pip cannot install it, or it cannot be imported; the message is the reason.
    """
    if tool not in packages:
        return sys.executable
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gigaseg" / "peers" / tool
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        venv.create(folder, clear=True, with_pip=False, symlinks=True)
        site = next(folder.glob("lib/python*/site-packages"))
        (site / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
        for group in packages[tool]:
            pip = [sys.executable, "-m", "pip", "--quiet", "--python", str(python), "install", "--no-deps", *group]
            checked(pip)
        checked([str(python), "-W", "ignore", "-c", f"import {module or MODULES.get(tool, tool)}"])
        (folder / "complete").touch()
    return str(python)


def checked(command: list[str]) -> str:
    """What a command prints; its last line of complaint ends this tool's part."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise SystemExit(((done.stderr or done.stdout).strip().splitlines() or ["no reason given"])[-1][:200])
    return done.stdout


class Watch(threading.Thread):
    """Samples a process and its children: peak memory, and the CPU seconds of each."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.process, self.peak, self.over = psutil.Process(pid), 0, threading.Event()
        self.seconds: dict[int, float] = {}

    def run(self) -> None:
        while not self.over.wait(SAMPLE_S):
            try:
                self.peak = max(self.peak, pss_bytes(self.process))
                for one in [self.process, *self.process.children(recursive=True)]:
                    times = one.cpu_times()
                    self.seconds[one.pid] = times.user + times.system
            except psutil.Error:
                continue  # it ended while it was looked at


def measure(command: list[str], environment: dict[str, str], seen: Seen) -> str:
    """Run a command, add a round to a row, and return what the command printed."""
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = subprocess.Popen(command, stdout=out, stderr=err, env={**os.environ, **environment}, cwd=ROOT)
        watch = Watch(child.pid)
        watch.start()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        watch.over.set()
        watch.join()
        out.seek(0)
        err.seek(0)
        if child.returncode:
            raise SystemExit((err.read().strip().splitlines() or [f"exit code {child.returncode}"])[-1][:200])
        seen.wall.append(time.monotonic() - start)
        # Children that were waited for are in the first, those of Ray, which outlive their parents, in the second.
        seen.cpu.append(max(usage.ru_utime + usage.ru_stime, sum(watch.seconds.values())))
        seen.peak.append(watch.peak / 2**20)
        return out.read()


@dataclass(frozen=True)
class Scene:
    """The inputs of all tools."""

    folder: Path
    image: Path
    side: int
    precision: str

    def job(self, name: str, settings: dict[str, Any]) -> Path:
        """Write the file that describes the job of a tool."""
        content = {"image": str(self.image), "png": str(self.folder / "image.png"), "network": str(self.folder / "network.pt")}
        content |= {"out": str(self.folder / f"{name}.zarr"), "mean": MEAN, "std": STD, "cores": len(os.sched_getaffinity(0)), **settings}
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(content))
        return path

    def run(self, tool: str, setting: str, number: int, seen: Seen) -> np.ndarray:
        """One round of one tool; its mask."""
        cores, one = len(os.sched_getaffinity(0)), setting != "as it comes"
        environment = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} if one or tool == "ray_data" else {}
        ray = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64, "RAY_TMPDIR": str(self.folder)}
        if tool == "gigaseg":
            output = self.folder / f"run {setting} {number}"
            measure([sys.executable, "-m", "pipeline.cli", "run", str(self.yaml(setting)), "--set", f"output={output}"], ray, seen)
            seen.work.append(json.loads((output / "run.json").read_text())["seconds"])
            return zarr.open_array(output / "masks" / "image.ome.zarr" / "0", mode="r")[...]
        workers = 1 if one else cores
        threads = 1 if one or tool in ("dask", "ray_data") else 0  # those two have a worker for each core
        precision = self.precision if one else "fp32"
        path = self.job(tool, {"precision": precision, "channels_last": one, "threads": threads, "workers": workers})
        said = measure([python_of(tool), "-W", "ignore", str(JOBS), tool, str(path)], environment | ray, seen)
        found = json.loads(said.strip().splitlines()[-1])
        seen.work.append(found["seconds"])
        return zarr.open_array(found["mask"], mode="r")[...]

    def yaml(self, setting: str) -> Path:
        """The YAML of gigaseg."""
        model = {"name": "tests.benchmarks.network", "weights": str(self.folder / "network.safetensors")}
        config: dict[str, Any] = {"images": [str(self.image)], "model": model, "normalize": {"mean": [MEAN] * 3, "std": [STD] * 3}}
        if setting != "as it comes":
            backend = "auto" if setting == "one thread, its own backend" else "torch"
            config["compute"] = {"runner": "serial", "backend": backend, "precision": self.precision, "threads": 1}
            config["tiling"] = {"core": 384, "halo": 64} if setting == "one thread" else {"halo": 64}
        path = self.folder / f"{setting}.yaml"
        path.write_text(json.dumps({**config, "output": "out"}))
        return path


def make_scene(folder: Path, side: int) -> Scene:
    """Image, PNG and network."""
    import torch
    from PIL import Image
    from safetensors.torch import save_file

    from pipeline.backends import bf16_supported
    from pipeline.plugins import build

    image = zarr_image(folder / "image.zarr", side, channels=3)
    pixels_CYX = zarr.open_array(image, mode="r")[...]
    Image.fromarray(np.moveaxis(pixels_CYX, 0, -1)).save(folder / "image.png", compress_level=1)
    network = build("models", {"name": "tests.benchmarks.network"}).load()
    torch.save(network, folder / "network.pt")
    save_file(network.state_dict(), folder / "network.safetensors")
    return Scene(folder, image, side, "bf16" if bf16_supported() else "fp32")


def one_pass(scene: Scene) -> tuple[slice, np.ndarray]:
    """Classes of a square in the middle by one float32 pass over it and all that reaches into it, and where it lies."""
    import torch

    network = torch.load(scene.folder / "network.pt", weights_only=False).eval()
    inner = min(1024, scene.side // 2)
    start = (scene.side - inner) // 64 * 32
    low, high = max(0, start - MARGIN), min(scene.side, start + inner + MARGIN)
    pixels_CYX = zarr.open_array(scene.image, mode="r")[:, low:high, low:high]
    with torch.inference_mode():
        logits_NKYX = network((torch.from_numpy(pixels_CYX[None]).float() - MEAN) / STD)
    here = slice(start - low, start - low + inner)
    return slice(start, start + inner), logits_NKYX.argmax(1)[0, here, here].numpy().astype(np.uint8)


def spread(values: list[float], digits: int = 1) -> str:
    """Median and range."""
    if not values:
        return "-"
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def main() -> None:
    """Print the table."""
    numbers = [int(text) for text in sys.argv[1:] if text.isdigit()]
    side, rounds = (numbers + [4096, 3][len(numbers) :])[:2]
    tools = [text for text in sys.argv[1:] if not text.isdigit()] or list(TOOLS)
    settings = ("as it comes", "one thread")
    rows = {(tool, setting): Seen() for setting in settings for tool in tools}
    if "gigaseg" in tools:
        rows |= {("gigaseg", f"one thread, its own {part}"): Seen() for part in ("tiles", "backend")}
    with tempfile.TemporaryDirectory(prefix="gsp-") as text:
        scene = make_scene(Path(text), side)
        where, expected_YX = one_pass(scene)
        print(f"{side}^2 RGB; {scene.precision}; classes in the mask: {check_shares(expected_YX)}", flush=True)
        for number in range(rounds):
            for (tool, setting), seen in rows.items():
                if seen.refused:
                    continue
                try:
                    mask_YX = scene.run(tool, setting, number, seen)
                except SystemExit as reason:
                    seen.refused = str(reason)
                    print(f"{tool}, {setting}: left out: {reason}", file=sys.stderr, flush=True)
                    continue
                seen.agreement = float((mask_YX.squeeze()[where, where] == expected_YX).mean())
                print(f"round {number + 1}: {tool}, {setting}: {seen.wall[-1]:.1f} s", file=sys.stderr, flush=True)
    print(f"{'':<42}{'wall, s':<22}{'of it work, s':<22}{'CPU, s':<22}{'peak, MiB':<20}as one pass")
    for (tool, setting), seen in rows.items():
        label = f"{setting:<28}{tool:<14}"
        if seen.refused:
            print(f"{label}left out: {seen.refused}")
            continue
        print(f"{label}{spread(seen.wall):<22}{spread(seen.work):<22}{spread(seen.cpu):<22}{spread(seen.peak, 0):<20}{seen.agreement:.3%}")


if __name__ == "__main__":
    main()
