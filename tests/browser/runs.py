"""What pages are made of: a real run on drawn images, and reports of any size from drawn counts."""

from __future__ import annotations

import io

import numpy as np
import yaml
from PIL import Image

from pipeline.engine import Thumbnails, pack_thumbnails, thumbnail_key
from pipeline.metrics.instances import ObjectQuality
from pipeline.metrics.semantic import Semantic
from pipeline.report.content import Failure, ImageCounts, build_report
from pipeline.statistics import CONFIDENCE_BINS, CONFIDENCE_STEPS, Counts, ObjectCounts

__all__ = ["CARD", "CLASSES", "HOSTILE", "draw_counts", "draw_examples", "draw_provenance", "draw_report", "draw_run", "draw_thumbnails"]

CLASSES = [
    {"name": "background", "color": "#202428"},
    {"name": "cell", "color": "#e6194b"},
    {"name": "bright spot", "color": "#4363d8"},
]

CARD = {
    "classes": CLASSES,
    "kinds": ["fluorescence"],
    "not_for": ["stained tissue: use nuclei-stained", "brightfield"],
    "pixel_size": 0.5,
    "diameter": 19.5,
    "samples": {"dtype": "uint8", "range": [0.0, 255.0]},
    "normalize": "contrast",
    "limits": ["Images of half the size have an IoU of 0.81 with their own masks."],
    "licence": "CC0-1.0",
    "trained_on": "Training images of somebody, CC0",
    "training_data": {"images": 580, "pixels": 86_000_000},
    "citation": "Somebody et al., Journal 16 (2019) 1247-1253",
    "scores": {
        "validation": {
            "mean_iou": 0.92,
            "mean_iou_interval": [0.905, 0.934],
            "iou": {"background": 0.974, "cell": 0.867},
            "iou_interval": {"background": [0.968, 0.98], "cell": [0.842, 0.888]},
            "objects": {"cell": {"ap50": 0.77, "ap50_interval": [0.73, 0.81], "truth": 4305}},
            "intervals": {"method": "percentile bootstrap over images", "resamples": 9999, "note": None},
            "images": 90,
            "pixels": 13_364_928,
        }
    },
    "examples": [
        {"file": f"example_{at}.jpg", "caption": f"{word}: slide {at}, mean IoU 0.9"} for at, word in enumerate(("best", "worst"))
    ],
}
"""The card of a model, as report.json has it."""

RUNS = "<img src=x onerror='window.ran = 1'><script>window.ran = 1</script>"
HOSTILE = {
    "tags": f"{RUNS}</script>{RUNS}</style>{RUNS}<!--",
    "quotes": '"\'` onmouseover=window.ran=1 x="',
    "right to left": "abc\u202efdp.exe\u2066\u0007",
    "long": "x" * 300,
    "lines": "first\nsecond\tthird",
    "emoji": "cells 🔬👩‍🔬 ﷽ Z̸͓͠ä",
    "template": "{{ 7 * 7 }} {% raw %} ${7 * 7} \\u003cb\\u003e &lt;b&gt; %3Cb%3E",
}
"""Names and causes that a page must show as they are. One that is taken for markup sets ``window.ran``."""


def draw_run(folder, names, *, classes=CLASSES, side=192):
    """Write images of discs with truth, and one file that is no image; return the YAML of a run on them, as a mapping.

    The images get harder: the truth of each one has more pixels of another class.
    """
    (folder / "images").mkdir(parents=True)
    (folder / "truth").mkdir()
    for index, name in enumerate(names):
        rng = np.random.default_rng(index)
        truth_YX = draw_discs(rng, side, 12)
        grey_YX = np.array([40, 120, 220])[truth_YX] + rng.normal(0, 6, truth_YX.shape)
        Image.fromarray(np.clip(grey_YX, 0, 255).astype(np.uint8)).save(folder / "images" / f"{name}.png")
        Image.fromarray(np.roll(truth_YX, 3 * index, axis=1)).save(folder / "truth" / f"{name}.png")
    (folder / "images" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    return {
        "images": ["images/"],
        "truth": "truth/{stem}.png",
        "classes": classes,
        "model": {"name": "histogram", "classes": 3},
        "instances": {"name": "components", "of": [classes[1]["name"]]},
        "reader": {"pixel_size": 0.5},
        "tiling": {"core": 64, "block": 64},
        "compute": {"runner": "serial"},
        "output": "out",
    }


def draw_discs(rng, side, count):
    """Return class ids (Y, X): discs of class 1, each with a spot of class 2."""
    ids_YX = np.zeros((side, side), np.uint8)
    rows, cols = np.ogrid[:side, :side]
    for y, x, radius in zip(*rng.integers(0, side, (2, count)), rng.integers(6, side // 8, count), strict=True):
        away_YX = (rows - y) ** 2 + (cols - x) ** 2
        ids_YX[away_YX < radius**2] = 1
        ids_YX[away_YX < (radius // 3) ** 2] = 2
    return ids_YX


def draw_thumbnails(names, *, side=512, kinds=12):
    """Return thumbnails of images as a run leaves them, by their keys in its output; there are so many kinds of them."""
    packed = []
    for kind in range(min(kinds, len(names))):
        truth_YX = draw_discs(np.random.default_rng(kind), side, 30)
        rows, cols = np.ogrid[:side, :side]
        grey_YX = np.array([40, 120, 220])[truth_YX] + 16 * np.sin(rows / 9) * np.sin(cols / 9)
        image_YXS = np.clip(grey_YX[..., None] * [1, 0.9, 0.95], 0, 255).astype(np.uint8)
        mask_YX = np.roll(truth_YX, 4 * kind + 3, axis=1)
        mask_YX[: side // 4, : side // 4] = 255 if kind % 2 else mask_YX[0, 0]
        packed.append(pack_thumbnails(Thumbnails((4 * side, 4 * side), image_YXS, mask_YX, truth_YX), CLASSES))
    return {thumbnail_key(name): packed[index % len(packed)] for index, name in enumerate(names)}


def draw_examples():
    """Return the pictures of the card by the names of their files."""
    files = {}
    for at, one in enumerate(CARD["examples"]):
        grey_YX = np.array([40, 120, 220], np.uint8)[draw_discs(np.random.default_rng(at), 192, 20)]
        file = io.BytesIO()
        Image.fromarray(grey_YX).convert("RGB").save(file, "JPEG", quality=90)
        files[one["file"]] = file.getvalue()
    return files


def draw_counts(rng, classes, pixels=262_144, missing=0):
    """Return counts of an image whose classes are confused at random, some images more than others."""
    shares_K = rng.dirichlet(np.full(classes, 2.0))
    right = rng.beta(9, 1.5)
    matrix_KK = np.outer(shares_K, np.full(classes, (1 - right) / classes)) + np.diag(shares_K * right)
    confusion = np.floor(matrix_KK * (pixels - missing)).astype(np.int64)
    confusion[0, 0] += pixels - missing - confusion.sum()
    counted = int(confusion.sum())
    agreeing = int(rng.integers(pixels // 20, pixels // 10))
    return Counts(
        confusion.sum(axis=0), missing, confusion, 0.2 * counted, counted, agreeing, pixels // 10, 0, missing, draw_confidence(counted)
    )


def draw_confidence(pixels):
    """Return counts of pixels by confidence, of a model that is a little too sure of itself."""
    shares = np.linspace(0.05, 0.95, CONFIDENCE_BINS)
    counts = np.diff(np.round(pixels * np.linspace(0, 1, CONFIDENCE_BINS + 1) ** 3)).astype(np.int64)
    return np.array([counts, (0.9 * shares * counts).astype(np.int64), (shares * counts * CONFIDENCE_STEPS).astype(np.int64)])


def draw_report(images, *, classes=CLASSES, names=None, failures=(), objects=False, seed=0, card=None):
    """Return the content of report.json of so many images, as a run would leave it; ``names`` are those of the first images."""
    rng = np.random.default_rng(seed)
    named = [*(names or [])] + [f"slide {index:05}" for index in range(images)]
    found = {1: ObjectCounts(12, (3, 5, 4))} if objects else None
    area = {"seen_area": (65536.0, "micrometer"), "pixel_area": (0.25, "micrometer")}
    missing = [16_384 if index % 5 == 4 else 0 for index in range(images)]
    rows = [
        ImageCounts(name, draw_counts(rng, len(classes), missing=some), found, has_truth=True, **area)
        for name, some in zip(named, missing, strict=False)
    ]
    metrics = [Semantic(), ObjectQuality()] if objects else [Semantic()]
    seconds = {"read": 12.5, "compute": 80.25, "count": 4.5, "write": 7.0}
    timing = {
        "stage_seconds": seconds,
        "phases": {"predict": {"blocks": images, "failed": len(failures), "seconds": 104.25}},
        "peak_actor_bytes": 966_090_752,
        "actors": [
            {"actor": f"host/{pid}", "blocks": images // 2, "seconds": {key: value / 2 for key, value in seconds.items()}}
            for pid in (71, 72)
        ],
    }
    model = {"name": "bundle", "sha256": "0" * 64, **({"card": card} if card else {})}
    return build_report("partial" if failures else "done", classes, metrics, rows, failures=failures, model=model, timing=timing)


def hostile_failures():
    """Return a failure of each hostile name, with a hostile cause."""
    return [Failure(name, f"{name}:0.0.0", "predict", f"ValueError: {name}", 3) for name in HOSTILE.values()]


def draw_provenance(**more):
    """Return what a run records of how it was made, the same on every machine."""
    run = {
        "state": "partial",
        "seconds": 61.5,
        "started": "2026-01-02T03:04:05+00:00",
        "ended": "2026-01-02T03:05:06+00:00",
        "hardware": {"host": "vm", "cores": 2, "memory_bytes": 24 << 30, "system": "Linux", "gpus": []},
        "recipe": {"backend": "openvino", "device": "cpu", "precision": "bf16", "core": 512, "halo": 64, "block": 2048, "stitch": "crop"},
        "versions": {"gigaseg": "1.0", "python": "3.11.7", "torch": "2.9.0"},
        "notes": ["halo 64: the smallest one that flips no pixel"],
    }
    config = yaml.safe_dump({"images": ["slides/"], "classes": CLASSES, "output": "runs/demo"}, sort_keys=False)
    return {"output": "runs/demo", "run": run, "config": config, "colors": [one["color"] for one in CLASSES], **more}
