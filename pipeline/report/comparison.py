"""Two runs compared: the difference of each IoU, with an interval that is paired over the images that both have.

A pure function of two reports. Only images with truth in both runs are compared, so that both are judged by the same pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError, Problem
from pipeline.report.intervals import Interval, difference_intervals_of, ious_of
from pipeline.report.object_differences import compare_objects
from pipeline.report.setting_differences import differing_settings

__all__ = ["CHANGED", "compare_reports"]

CHANGED = 0.01
"""An image is better or worse if its mean IoU differs by this much or more."""

Row = Mapping[str, Any]
_COUNTS = ("true_positives", "false_positives", "false_negatives")


def compare_reports(
    first: Row, second: Row, outputs: tuple[str, str], *, seed: int = 0, settings: tuple[Row, Row] | None = None, kind: str = "run"
) -> dict[str, Any]:
    """Return the content of comparison.json: run A, which is ``first``, against run B.

    Args:
        first: the content of A's report.json.
        second: that of B's. Its classes are matched by name; their order may differ, and is A's in the result.
        outputs: path or URL of A and of B, as they are shown.
        seed: of the intervals.
        settings: the YAMLs of A and of B, as mappings, without what must differ; None: unknown.
        kind: what A and B are, ``run`` or ``training``.

    Returns:
        Plain JSON. ``a``, ``b`` and ``difference`` (b - a) of an IoU are None where it is undefined. ``classes`` and ``mean`` are pooled
        over the compared images. ``per_image`` begins with the image that lost most. ``left_out`` says why an image of both runs is not
        compared, ``warnings`` where the two were not judged by the same truth, ``settings`` which keys of the YAMLs differ, ``objects`` how
        scores of objects do, and ``same_images`` whether all images of both are compared, judged by the same truth.

    Raises:
        InputError: the classes differ, no image has truth in both, or a report does not count pixels of each image.
    """
    order = _order_of_classes(first, second, outputs)
    images_a, images_b = ({image["name"]: image for image in report["per_image"]} for report in (first, second))
    shared = [name for name in images_a if name in images_b]
    counts = {name: (_counts(images_a[name], outputs[0]), _counts(images_b[name], outputs[1], order)) for name in shared}
    compared = {name: (a, b) for name, (a, b) in counts.items() if a is not None and b is not None}
    if not compared:
        found = f"no image with truth in both ({len(images_a)} and {len(images_b)} images, of which {len(shared)} have the same name)"
        raise InputError(Problem(f"{outputs[0]} and {outputs[1]}", found, "two runs over the same images, with truth"))
    names = [spec["name"] for spec in first["classes"]]
    a_NK3, b_NK3 = (np.stack(list(some)) for some in zip(*compared.values(), strict=True))
    intervals = difference_intervals_of(a_NK3, b_NK3, seed=seed)
    pooled = _differences(ious_of(a_NK3.sum(axis=0)), ious_of(b_NK3.sum(axis=0)), [*intervals.classes, intervals.mean])
    rows = [_image_row(name, a, b, names) for name, (a, b) in compared.items()]
    verdicts = [row["verdict"] for row in rows]
    apart = _not_compared(images_a, images_b, counts, names)
    return {
        "format": "gigaseg.comparison/1",
        "kind": kind,
        "a": _run(first, outputs[0]),
        "b": _run(second, outputs[1]),
        "images": len(compared),
        "same_images": not any(apart.values()),
        "mean": pooled[-1],
        "classes": [{"id": index, "name": name, **row} for index, (name, row) in enumerate(zip(names, pooled, strict=False))],
        "objects": compare_objects(images_a, images_b, list(compared), seed=seed),
        "settings": None if settings is None else differing_settings(*settings),
        "intervals": intervals.describe(),
        "changed_from": CHANGED,
        **{verdict: verdicts.count(verdict) for verdict in ("better", "worse", "similar")},
        "per_image": sorted(rows, key=lambda row: (row["difference"] is None, row["difference"], row["name"])),
        **apart,
    }


def _not_compared(
    images_a: Mapping[str, Row],
    images_b: Mapping[str, Row],
    counts: Mapping[str, tuple[NDArray[np.int64] | None, NDArray[np.int64] | None]],
    names: Sequence[str],
) -> dict[str, list[Any]]:
    """Return which images only one run has, which are not compared, and which were judged by other truth."""
    return {
        "only_in_a": [name for name in images_a if name not in images_b],
        "only_in_b": [name for name in images_b if name not in images_a],
        "left_out": [{"name": name, "reason": _reason(a, b)} for name, (a, b) in counts.items() if a is None or b is None],
        "warnings": [
            {"name": name, "reason": reason}
            for name, (a, b) in counts.items()
            if a is not None and b is not None and (reason := _other_truth(images_a[name], images_b[name], a, b, names))
        ],
    }


def _run(report: Row, output: str) -> dict[str, Any]:
    """Return what tells a run apart; its mean IoU, with its interval, is that of all its images."""
    return {
        "output": output,
        "state": report["state"],
        "model": report["model"],
        "images": report["images"],
        "mean_iou": report.get("mean_iou"),
        "mean_iou_interval": report.get("mean_iou_interval"),
    }


def _order_of_classes(first: Row, second: Row, outputs: tuple[str, str]) -> list[int]:
    """Return the id in ``second`` of each class of ``first``."""
    names_a, names_b = ([spec["name"] for spec in report["classes"]] for report in (first, second))
    extras = [[name for name in some if name not in other] for some, other in ((names_a, names_b), (names_b, names_a))]
    if any(extras) or len(names_a) != len(names_b):
        only = [f"only in {output}: {', '.join(extra)}" for output, extra in zip(outputs, extras, strict=True) if extra]
        found = f"{len(names_a)} and {len(names_b)} classes{''.join(f'; {one}' for one in only)}"
        raise InputError(Problem(f"{outputs[0]} and {outputs[1]}", found, "the same classes, by name, in any order"))
    return [names_b.index(name) for name in names_a]


def _counts(image: Row, output: str, order: Sequence[int] | None = None) -> NDArray[np.int64] | None:
    """Return the pixels of each class of an image (K, 3), as :func:`ious_of` takes them; None: it has no truth."""
    classes = image["classes"] if order is None else [image["classes"][index] for index in order]
    if any(key not in spec for spec in classes for key in _COUNTS):
        way_out = f"Write it again, from the ledger: gigaseg report {output}"
        expected = "one of this version, with the metric semantic"
        raise InputError(Problem(output, "a report.json without true positives of each image", expected, way_out))
    if any(spec[key] is None for spec in classes for key in _COUNTS):
        return None
    return np.array([[spec[key] for key in _COUNTS] for spec in classes], np.int64).reshape(-1, 3)


def _differences(ious_a: NDArray[Any], ious_b: NDArray[Any], intervals: Sequence[Interval | None]) -> list[dict[str, Any]]:
    rows = zip(ious_a, ious_b, intervals, strict=True)
    return [{**_difference(a, b), "interval": None if ends is None else list(ends)} for a, b, ends in rows]


def _difference(a: float, b: float) -> dict[str, float | None]:
    values = {"a": a, "b": b, "difference": b - a}
    return {key: None if np.isnan(value) else float(value) for key, value in values.items()}


def _image_row(name: str, a_K3: NDArray[np.int64], b_K3: NDArray[np.int64], names: Sequence[str]) -> dict[str, Any]:
    """Return the differences of one image, and whether B is ``better``, ``worse`` or ``similar`` on it."""
    *classes, mean = (_difference(a, b) for a, b in zip(ious_of(a_K3), ious_of(b_K3), strict=True))
    change = mean["difference"] or 0.0
    verdict = "similar" if abs(change) < CHANGED else "better" if change > 0 else "worse"
    return {"name": name, **mean, "verdict": verdict, "classes": [{"name": one, **row} for one, row in zip(names, classes, strict=True)]}


def _reason(a_K3: NDArray[np.int64] | None, b_K3: NDArray[np.int64] | None) -> str:
    return f"no truth was counted in {'A and B' if a_K3 is None and b_K3 is None else 'A' if a_K3 is None else 'B'}"


def _other_truth(image_a: Row, image_b: Row, a_K3: NDArray[np.int64], b_K3: NDArray[np.int64], names: Sequence[str]) -> str:
    """Return how the truth that judged one image differs between the runs; empty if it does not."""
    if image_a["pixels"] != image_b["pixels"]:
        return f"{image_a['pixels']:,} px in A, {image_b['pixels']:,} px in B: another resolution, or another image"
    truth_K2 = np.stack([a_K3[:, [0, 2]].sum(axis=1), b_K3[:, [0, 2]].sum(axis=1)], axis=1)
    for name, (in_a, in_b) in zip(names, truth_K2.tolist(), strict=True):
        if in_a != in_b:
            why = "" if image_a["no_prediction"] == image_b["no_prediction"] else "; only pixels with a prediction are counted"
            return f"the truth of {name} is {in_a:,} px in A, {in_b:,} px in B{why}"
    return ""
