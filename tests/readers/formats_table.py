"""The README's table of formats, made by reading one small file of every dialect: ``python -m tests.readers.formats_table`` prints it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pipeline.geometry import Box
from pipeline.plugins import available, build
from pipeline.readers import Header, Reader
from tests.readers.sample_files import SAMPLES, Sample, Scene, scene

HEAD = "| read | extra | by region | levels | pixel size from | channels by name | colour |\n|---|---|---|---|---|---|---|"


def table() -> str:
    """Return the table, Markdown, a row for each group of dialects in SAMPLES."""
    rows: dict[str, list[tuple[Header, str, bool, bool]]] = {}
    scene_YX = scene(128, 256)
    with tempfile.TemporaryDirectory() as folder:
        for name, sample in SAMPLES.items():
            rows.setdefault(sample.row, []).append(_facts(sample, Path(folder) / name, scene_YX))
    return "\n".join([HEAD, *(_row(row, facts) for row, facts in rows.items())])


def _facts(sample: Sample, folder: Path, scene_YX: Scene) -> tuple[Header, str, bool, bool]:
    """Return the header of a sample, the extra that reads it, whether a level is read by number, and a channel by its name."""
    path = str(sample.make(folder, scene_YX))
    with build("readers", {"name": "auto"}).open(path) as raster:
        header = raster.header
        pixels_CYX = raster.read(Box(0, 0, *header.shape))
    has_levels = len(header.levels) > 1
    if has_levels:
        with build("readers", {"name": "auto", "level": 1}).open(path) as raster:
            assert raster.header.shape == header.levels[1], path
            assert raster.read(Box(0, 0, *raster.header.shape)).any(), path
    if header.channel_names:
        with build("readers", {"name": "auto", "channels": [header.channel_names[1]]}).open(path) as raster:
            np.testing.assert_array_equal(raster.read(Box(0, 0, *header.shape)), pixels_CYX[1:2])
    return header, _reader_of(path).extra, has_levels, bool(header.channel_names)


def _reader_of(path: str) -> Reader:
    readers: Iterable[Reader] = (build("readers", {"name": name}) for name in available("readers") if name != "auto")
    return next(reader for reader in readers if reader.claims(path) and not reader.missing(path))


def _row(row: str, facts: list[tuple[Header, str, bool, bool]]) -> str:
    headers = [header for header, *_ in facts]
    whole = [header.whole_bytes > 0 for header in headers]
    by_region = "no" if all(whole) else "partly" if any(whole) else "yes"
    sources = ", ".join(dict.fromkeys(header.pixel_size_from for header in headers if header.pixel_size)) or "`reader.pixel_size`"
    extra = "".join({f"`{extra}`" for _, extra, *_ in facts if extra})
    flags = [any(one[2] for one in facts), any(one[3] for one in facts), any(header.is_color for header in headers)]
    levels, names, colors = ("yes" if flag else "no" for flag in flags)
    return f"| {row} | {extra} | {by_region} | {levels} | {sources} | {names} | {colors} |"


if __name__ == "__main__":
    print(table())
