"""Compare what a disturbed run left with what an undisturbed one did: every pixel, every figure, every row of the ledger."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import numpy as np

from pipeline.records import latest, read_rows
from tests.faults.scene import masks_in, report_in

__all__ = ["wrong_in"]

FOLDERS = ("instances", "objects")  # compared as bytes, and masks as pixels


def wrong_in(output: Path, reference: Path, *, replaced: bool = False, gone: Collection[str] = ()) -> list[str]:
    """Return one line for each way in which an output differs from the reference; empty where they agree.

    Args:
        output: of the run to judge, which has ended.
        reference: output of an undisturbed serial run over the same images.
        replaced: whether images were replaced or repaired during the run, so that their blocks may rightly have been done twice.
        gone: names of images that were removed during the run: their masks and rows stay.
    """
    wrong = [*_wrong_pixels(output, reference, gone), *_wrong_files(output, reference, gone), *_wrong_report(output, reference)]
    return wrong + _wrong_rows(output, reference, gone, replaced=replaced)


def _wrong_pixels(output: Path, reference: Path, gone: Collection[str]) -> list[str]:
    found = {name: mask for name, mask in masks_in(output).items() if _image_of(name) not in gone}
    expected = masks_in(reference)
    wrong = [f"{name} is in one output alone" for name in sorted(found.keys() ^ expected.keys())]
    for name in sorted(found.keys() & expected.keys()):
        same = found[name].shape == expected[name].shape
        number = int(np.count_nonzero(found[name] != expected[name])) if same else max(found[name].size, expected[name].size)
        wrong += [f"{name}: {number} wrong pixels"] if number else []
    return wrong


def _wrong_files(output: Path, reference: Path, gone: Collection[str]) -> list[str]:
    one = {name: content for name, content in _files(output).items() if _image_of(name.partition("/")[2]) not in gone}
    other = _files(reference)
    return [f"{name} differs" for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name)]


def _files(output: Path) -> dict[str, bytes]:
    """Every file of the folders by its path; a write that was cut short leaves a hidden file for a minute."""
    paths = [path for one in FOLDERS for path in (output / one).rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {str(path.relative_to(output)): path.read_bytes() for path in paths}


def _wrong_report(output: Path, reference: Path) -> list[str]:
    found, expected = report_in(output), report_in(reference)
    keys = [key for key in sorted(found.keys() | expected.keys()) if found.get(key) != expected.get(key)]
    return [f"report {key}: {_short(found.get(key))}, expected {_short(expected.get(key))}" for key in keys]


def _wrong_rows(output: Path, reference: Path, gone: Collection[str], *, replaced: bool) -> list[str]:
    rows = [row for row in read_rows(output / "ledger") if row.image not in gone]
    found = {key: row.ok for key, row in latest(rows).items()}
    expected = {key: row.ok for key, row in latest(read_rows(reference / "ledger")).items()}
    wrong = [f"block {key} is missing from the ledger" for key in sorted(expected.keys() - found.keys())]
    wrong += [f"block {key} is in the ledger and not of the run" for key in sorted(found.keys() - expected.keys())]
    wrong += [f"block {key}: ok is {found[key]}" for key in sorted(found.keys() & expected.keys()) if found[key] != expected[key]]
    times = Counter((row.phase, row.block, row.key) for row in rows if row.ok)
    twice = [] if replaced else [key for key, number in times.items() if number > 1]
    return wrong + [f"block {key[:2]} was committed {times[key]} times" for key in sorted(twice)]


def _image_of(path: str) -> str:
    return path.partition(".")[0]


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) < 160 else f"{text[:160]}..."
