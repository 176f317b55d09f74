"""Measure again what the shipped bundles state: scores on the validation images, and how far their masks change with the image.

Run: ``GIGASEG_TEST_DATA=FOLDER python -m tests.benchmarks.bundle_scores [BUNDLE ...] [--write] [--images N]``. It says which figures of
``model.yaml`` are found again, and which are not: an IoU within 0.002, what counts objects within 0.01, for other processors round
otherwise. ``--write`` writes what was measured: ``scores``, and under ``limits`` the sentence on changes below the goal. ``--from FILE``
measures nothing: it writes the changes that ``robustness --json FILE`` has measured of one bundle. Nor does ``--table``: it prints what the
cards say of changes, as ``tests/benchmarks/README.md`` has it.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from pipeline.models.bundle_files import find_bundle, read_spec, rewrite_card
from tests.benchmarks.bundle_examples import write_card
from tests.benchmarks.robustness import TASKS, measure, table

__all__ = ["LIMIT", "OWN_MASK", "card_table", "limit_of", "measured_scores", "robustness_scores"]

OWN_MASK = "iou_with_own_mask"
LIMIT = "IoU with the mask of the unchanged image"  # begins the sentence of `limits` that is measured here
WITHIN, OBJECTS_WITHIN = 0.002, 0.01


def measured_scores(name: str, bundle: Path, images: int | None = None) -> dict[str, Any]:
    """Return ``scores`` of a bundle as measured now, on the validation images of the shipped bundle of a name.

    Args:
        name: of the shipped bundle.
        bundle: folder of the bundle that is measured; it is not changed.
        images: pieces of images whose masks are compared with those of changed images; 0: all; None: the usual number.
    """
    with tempfile.TemporaryDirectory() as text:
        copy = Path(text, bundle.name)
        shutil.copytree(bundle, copy)
        with redirect_stdout(io.StringIO()):
            write_card(name, copy)
        scores = dict(read_spec(copy).scores)
    return {**scores, "robustness": robustness_scores(measure(bundle, name, images))}


def robustness_scores(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a card holds of a table of changes; the control is left out."""
    rows = {change: round(row["iou"], 4) for change, row in found["rows"].items() if change != "saved again"}
    return {OWN_MASK: rows, "images": found["images"], "pixels": found["pixels"]}


def limit_of(scores: Mapping[str, Any], goal: float) -> str:
    """Return the sentence on changes below the goal; empty: there are none.

    Example:
        >>> limit_of({"robustness": {OWN_MASK: {"gain 1.4": 0.467, "RGBA, opaque": 1.0}}}, 0.85)
        'IoU with the mask of the unchanged image: 0.47 after gain 1.4.'
    """
    rows = scores.get("robustness", {}).get(OWN_MASK, {})
    low = [f"{iou:.2f} after {change}" for change, iou in rows.items() if iou < goal]
    return f"{LIMIT}: {'; '.join(low)}." if low else ""


def card_table() -> str:
    """Return what the cards of the shipped bundles say of changes, as a Markdown table."""
    found = {}
    for name, task in TASKS.items():
        stated = read_spec(find_bundle(name)).scores["robustness"]
        found[name] = {"goal": task.goal, "images": stated["images"], "rows": {key: {"iou": iou} for key, iou in stated[OWN_MASK].items()}}
    return table(found)


def leaves(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each figure of nested scores with its path; intervals as they are."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{above}{key}: ")
        else:
            yield f"{above}{key}", list(value) if isinstance(value, tuple) else value


def differences(stated: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return a line for each figure that is not stated as it is found."""
    old, new = dict(leaves(stated)), dict(leaves(found))
    lines = [f"{key}: stated {old.get(key)}, found {new[key]}" for key in new if not _is_equal(key, old.get(key), new[key])]
    return lines + [f"{key}: stated {old[key]}, not measured here" for key in old if key not in new]


def _is_equal(key: str, stated: Any, found: Any) -> bool:
    if isinstance(stated, list) and isinstance(found, list) and len(stated) == len(found):
        return all(_is_equal(key, *both) for both in zip(stated, found, strict=True))
    if isinstance(stated, float) and isinstance(found, float):
        return abs(stated - found) <= (OBJECTS_WITHIN if "objects: " in key or OWN_MASK in key else WITHIN)
    return bool(stated == found)


def write_scores(bundle: Path, scores: Mapping[str, Any], goal: float) -> None:
    """Write measured scores and the limit that follows from them into a bundle; what else it states stays."""
    limits = [one for one in read_spec(bundle).limits if not one.startswith(LIMIT)]
    measured = limit_of(scores, goal)
    rewrite_card(bundle, scores=dict(scores), limits=[*limits, *([measured] if measured else [])])


def main() -> None:
    """Compare, and write where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("bundles", nargs="*", help="names of shipped bundles; left out: all")
    parser.add_argument("--images", type=int, help="pieces of images for the changes; 0: all")
    parser.add_argument("--write", action="store_true", help="write what was measured into model.yaml")
    parser.add_argument("--from", dest="measured", type=Path, help="write the changes of this file into the one bundle")
    parser.add_argument("--table", action="store_true", help="print what the cards say of changes, and measure nothing")
    options = parser.parse_args()
    if options.table:
        print(card_table())
        return
    if unknown := [name for name in options.bundles if name not in TASKS]:
        parser.error(f"{', '.join(unknown)}: no shipped bundle; there are {', '.join(TASKS)}")
    if options.measured:
        (name,), (found,) = options.bundles, json.loads(options.measured.read_text(encoding="utf-8")).values()
        bundle = find_bundle(name)
        write_scores(bundle, {**read_spec(bundle).scores, "robustness": robustness_scores(found)}, TASKS[name].goal)
        return
    for name in options.bundles or TASKS:
        bundle = find_bundle(name)
        scores = measured_scores(name, bundle, options.images)
        different = differences(read_spec(bundle).scores, scores)
        print(
            f"{name}: {f'{len(different)} figures differ' if different else 'every figure is found again'}",
            *different,
            sep="\n  ",
            flush=True,
        )
        if options.write:
            write_scores(bundle, scores, TASKS[name].goal)


if __name__ == "__main__":
    main()
