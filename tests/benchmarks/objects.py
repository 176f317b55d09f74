"""Objects at scale: dense cells that touch, of any number, drawn where they are read; nothing holds the image.

Run: ``python -m tests.benchmarks.objects WHAT [ARGUMENT ...]``

- ``seams [SIDE] [SPACING]`` (4096 52): watershed in blocks of 1024 against one block that is the whole image. Splits and merges that
  seams add must be 0; 16384 has about 80,000 objects. Beside it the two rules of other programs.
- ``cost [SIDE] [SPACING ...]`` (8192, 260 82 26 9): seconds by phase for about 10^3 to 10^6 cells in one image. The seconds of the phases
  that follow from objects should grow no faster than the objects, and not at all where there are few.
- ``memory [SIDE ...]`` (2048 8192): peak resident bytes of a run in one process. Equal for all sides is wanted: 16384 65536 is the claim.
- ``network [SIDE]`` (2048): the bundle `nuclei` with its own method. All phases of objects should take at most 15 % of the prediction.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from typing_extensions import override

from pipeline.geometry import Box
from pipeline.raster import Header, Raster
from pipeline.readers import Reader
from pipeline.statistics import ObjectCounts, count_objects, pair_ids, sum_pairs

__all__ = ["Cells"]

BAND = 1024
OBJECT_PHASES = ("label", "match", "join", "measure", "tabulate", "count_objects")
WATERSHED = {"name": "watershed", "halo": 64}


class Cells(Reader):
    """Ellipses on a jittered grid, most of which touch, and long bars; a file ``SIDE-SPACING.cells`` stands for them.

    Example::

        reader: {name: tests.benchmarks.objects, shows: mask}
    """

    shows: str = "mask"  # `mask`: 1 in a cell; `light`: as under a microscope; `ids`: the number of the cell

    @contextmanager
    @override
    def open(self, path: str) -> Iterator[Raster]:
        side, spacing = map(int, Path(path).stem.split("-"))
        yield _CellRaster(side, spacing, self.shows)


class _CellRaster(Raster):
    def __init__(self, side: int, spacing: int, shows: str) -> None:
        self.header = Header((side, side), 1, "uint32" if shows == "ids" else "uint8")
        self.spacing, self.count, self.shows = spacing, side // spacing, shows

    def read(self, box: Box, plane: int = 0) -> np.ndarray:
        margin = 2 * self.spacing
        ids_YX, inside_YX = np.zeros(box.shape, np.uint32), np.full(box.shape, 1.0, np.float32)
        for row in range(max(0, (box.y0 - margin) // self.spacing), min(self.count, (box.y1 + margin) // self.spacing + 1)):
            if row % 16 in (7, 8, 9):  # a bar from side to side, by itself
                top, bottom = (np.array([row + 0.25, row + 0.75]) * self.spacing).astype(int) - box.y0
                ids_YX[max(top, 0) : max(bottom, 0)] = (row * self.count + 1) * (row % 16 == 8)
                inside_YX[max(top, 0) : max(bottom, 0)] = 0
                continue
            rng = np.random.default_rng([7, row])
            shift, size = rng.normal(0, 0.12, (self.count, 2)), rng.uniform([0.4, 0.8, 0], [0.62, 1, np.pi], (self.count, 3))
            cols = range(max(0, (box.x0 - margin) // self.spacing), min(self.count, (box.x1 + margin) // self.spacing + 1))
            for col in cols:
                centre = (np.array([row, col]) + 0.5 + shift[col]) * self.spacing
                draw(ids_YX, inside_YX, row * self.count + col + 1, centre - (box.y0, box.x0), size[col] * (self.spacing, 1, 1))
        if self.shows == "ids":
            return ids_YX[None]
        if self.shows == "mask":
            return (ids_YX > 0).astype(np.uint8)[None]
        light_YX = np.where(ids_YX > 0, 90 + 110 * np.sqrt(np.maximum(1 - inside_YX, 0)), 20)
        return (light_YX + (ids_YX * 37 % 29)).astype(np.uint8)[None]


def draw(ids_YX: np.ndarray, inside_YX: np.ndarray, number: int, centre: np.ndarray, size: np.ndarray) -> None:
    """Draw one ellipse where it is nearer to its own middle, in units of its size, than what is there."""
    radius, ratio, angle = size
    low, high = np.maximum(np.floor(centre - radius).astype(int), 0), np.minimum(np.ceil(centre + radius).astype(int) + 1, ids_YX.shape)
    if (high <= low).any():
        return
    around = slice(low[0], high[0]), slice(low[1], high[1])
    down, right = np.arange(low[0], high[0])[:, None] - centre[0], np.arange(low[1], high[1]) - centre[1]
    along, across = down * np.cos(angle) + right * np.sin(angle), right * np.cos(angle) - down * np.sin(angle)
    distance = ((along / radius) ** 2 + (across / radius / ratio) ** 2).astype(np.float32)
    nearer = distance < inside_YX[around]
    inside_YX[around][nearer], ids_YX[around][nearer] = distance[nearer], number


def run(folder: Path, side: int, spacing: int, block: int, **keys: Any) -> Path:
    """Run in a process of its own, and return the output folder."""
    marker = folder / f"{side}-{spacing}.cells"
    marker.touch()
    output = folder / f"out-{side}-{spacing}-{block}"
    config = {
        "images": [str(marker)],
        "reader": {"name": "tests.benchmarks.objects"},
        "model": {"name": "identity", "classes": 2},
        "classes": [{"name": "glass"}, {"name": "cell"}],
        "instances": WATERSHED,
        "metrics": ["semantic", "instances"],
        "tiling": {"core": block, "halo": 0, "block": block},
        "compute": {"runner": "serial", "memory": "64GiB"},
        "output": str(output),
    }
    yaml = folder / f"{output.name}.yaml"
    yaml.write_text(json.dumps({name: value for name, value in (config | keys).items() if value is not None}))
    done = subprocess.run([sys.executable, "-m", "pipeline.cli", "run", str(yaml), "--fresh"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return output


def ids_at(output: Path) -> Any:
    """The label image of a run."""
    (group,) = (output / "instances").glob("*.ome.zarr")
    return zarr.open_array(group / "0", mode="r")


def timing_of(output: Path) -> tuple[dict[str, float], int]:
    """Seconds by phase, and the peak resident bytes."""
    timing = json.loads((output / "report" / "report.json").read_text())["timing"]
    return {name: row["seconds"] for name, row in timing["phases"].items()}, timing["peak_actor_bytes"]


def compared(found: Any, wanted: Any, side: int) -> ObjectCounts:
    """Compare two label images band by band."""
    bands = (np.s_[top : top + BAND] for top in range(0, side, BAND))
    pairs_N3 = sum_pairs([pair_ids(one := np.asarray(found[at]), np.asarray(wanted[at]), np.ones(one.shape, np.bool_)) for at in bands])
    ids = [np.unique(column[column > 0]) for column in pairs_N3[:, :2].T]
    return count_objects(pairs_N3, *((one, np.ones(len(one), np.int32)) for one in ids))[1]


class TrueCells:
    """The truth ids, by slices of rows."""

    def __init__(self, side: int, spacing: int) -> None:
        self.raster, self.side = _CellRaster(side, spacing, "ids"), side

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Draw some rows."""
        return self.raster.read(Box(rows.start, 0, min(rows.stop, self.side), self.side))[0]


def seams(folder: Path, side: int = 4096, spacing: int = 52) -> None:
    """What seams add to the errors of one pass."""
    block = min(BAND, side // 4)
    cut, whole = run(folder, side, spacing, block), run(folder, side, spacing, side)
    truth = TrueCells(side, spacing)
    same = all(np.array_equal(ids_at(cut)[at : at + BAND], ids_at(whole)[at : at + BAND]) for at in range(0, side, BAND))
    print(f"{side}^2; blocks of {block} and one pass: {'the same ids' if same else 'other ids'}")
    rows = {"blocks": (ids_at(cut), truth), "one pass": (ids_at(whole), truth), "blocks against one pass": (ids_at(cut), ids_at(whole))}
    if side <= 4096:
        from tests.oracle.object_phases import joined_where_touching, kept_by_centroid

        mask_YX = _CellRaster(side, spacing, "mask").read(Box(0, 0, side, side))[0]
        for rule in (joined_where_touching, kept_by_centroid):
            rows[f"{rule.__name__} against one pass"] = rule(mask_YX, block, WATERSHED), ids_at(whole)
    for name, pair in rows.items():
        found = compared(*pair, side).matches
        assert found is not None
        print(f"  {name}: {found.predicted:,} of {found.truth:,} objects, {found.splits} splits, {found.merges} merges, ", end="")
        print(f"{found.matched[0]:,} match at 0.5, {found.matched[-1]:,} at 0.95")


def cost(folder: Path, side: int = 8192, *spacings: int) -> None:
    """Seconds of each phase, by the number of objects."""
    for spacing in spacings or (260, 82, 26, 9):
        seconds, peak = timing_of(output := run(folder, side, spacing, 2048, instances={"name": "watershed", "depth": 0.0, "blur": 0.5}))
        report = json.loads((output / "report" / "report.json").read_text())
        objects = report["instances"][0]["predicted"]
        told = ", ".join(f"{name} {seconds[name]:.1f}" for name in (*OBJECT_PHASES, "finish"))
        print(f"{objects:9,} objects: {told} s; joining {1e6 * seconds['join'] / objects:.1f} us each; {peak / 2**20:.0f} MiB", flush=True)


def memory(folder: Path, *sides: int) -> None:
    """Peak resident bytes of a run, by the side of the image; cells of one size."""
    for side in sides or (2048, 8192):
        _, peak = timing_of(run(folder, side, 52, BAND))
        print(f"{side}^2: {peak / 2**20:.0f} MiB", flush=True)


def network(folder: Path, side: int = 2048) -> None:
    """What objects cost beside a network."""
    shown = {"name": "tests.benchmarks.objects", "shows": "light"}
    own = {"model": "nuclei", "classes": None, "instances": "auto", "tiling": {"block": BAND}, "resolution": {"scale": 1.0}}
    seconds, peak = timing_of(run(folder, side, 26, BAND, reader=shown, **own))
    objects = sum(seconds[name] for name in OBJECT_PHASES)
    told = ", ".join(f"{name} {seconds[name]:.1f}" for name in ("predict", *OBJECT_PHASES, "finish"))
    print(f"{side}^2: {told} s; objects take {100 * objects / seconds['predict']:.1f} % of the prediction; {peak / 2**20:.0f} MiB")


def main(what: str, *arguments: str) -> None:
    """Run one of the studies."""
    studies: dict[str, Any] = {one.__name__: one for one in (seams, cost, memory, network)}
    with tempfile.TemporaryDirectory() as text:
        studies[what](Path(text), *map(int, arguments))


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["seams"]))
