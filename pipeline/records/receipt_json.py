"""A receipt as plain JSON, in few bytes: a ledger has a row a block, and a run may have a million blocks.

What has its default is left out, and so is the image where the block's id begins with it. Other fields have a short name where
their value has a short form, and their own name where it has not, as in ledgers of earlier versions::

    k, c, w, d   key, count_key, written, digest: base64 in place of hexadecimal digits
    s            seconds: whole microseconds, by the first letter of the stage
    M            peak_bytes in KiB
    f            files: `//` stands for `/NAME`
    n            counts: `p` are pixels by predicted class, or the number of classes where the matrix sums to them; `i` place in
                 the matrix, row by row, and pixels of each pair of classes; `b` number, pixels, right pixels and summed confidence
                 of each bin; numbers by the letters of COUNTED
    a            actor

Earlier versions wrote `m`, peak_bytes in bytes, and in `n` a `t`: truth, prediction and pixels of each pair.
"""

from __future__ import annotations

import sys
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import fields
from functools import lru_cache
from typing import Any

import numpy as np

from pipeline.statistics import CONFIDENCE_BINS, Counts, ObjectCounts

__all__ = ["decode", "encode"]

HASHES = {"key": "k", "count_key": "c", "written": "w", "digest": "d"}
COUNTED = {"cross_entropy": "e", "cross_entropy_pixels": "x", "overlap_equal": "q", "overlap_pixels": "o", "no_prediction": "u"}
STAGES = {"read": "r", "compute": "c", "stitch": "s", "count": "n", "write": "w"}
ARRAYS = ("predicted", "confusion", "confidence")
FULL = {letter: name for name, letter in COUNTED.items()}
LETTERS = {letter: stage for stage, letter in STAGES.items()}
MICRO = 1e6
KIB = 1024


def encode(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a receipt, by name, as plain JSON."""
    row = {name: value for name, value in values.items() if value or name in ("phase", "image", "block")}
    if row["block"].rpartition(":")[0] == row["image"]:
        del row["image"]
    if row.get("attempts") == 1:
        del row["attempts"]
    for name, short in HASHES.items():
        if name in row and (packed := _pack(row[name])):
            row[short] = packed
            del row[name]
    if row.get("peak_bytes", 1) % KIB == 0:
        row["M"] = row.pop("peak_bytes") // KIB
    if "actor" in row:
        row["a"] = row.pop("actor")
    if "seconds" in row and (seconds := _short_seconds(row["seconds"])):
        row["s"] = seconds
        del row["seconds"]
    if "files" in row and (files := _short_files(row["files"], values["image"])):
        row["f"] = files
        del row["files"]
    if values["counts"] is not None:
        row.pop("counts", None)
        row["n"] = _counts_to_json(values["counts"])
    if values["objects"] is not None:
        row["objects"] = {str(class_id): counts.to_json() for class_id, counts in values["objects"].items()}
    return row


def decode(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the receipt that :func:`encode` wrote."""
    values = dict(row)
    image = values.get("image")
    values["image"] = image = sys.intern(values["block"].rpartition(":")[0] if image is None else image)
    if "k" in values:
        values["key"] = _unpack_shared(values.pop("k"))
    if "c" in values:
        values["count_key"] = _unpack_shared(values.pop("c"))
    if "w" in values:
        values["written"] = _unpack_shared(values.pop("w"))
    if "d" in values:
        values["digest"] = b64decode(values.pop("d") + "==").hex()
    if "M" in values:
        values["peak_bytes"] = KIB * values.pop("M")
    elif "m" in values:
        values["peak_bytes"] = values.pop("m")
    if "a" in values:
        values["actor"] = sys.intern(values.pop("a"))
    if "s" in values:
        values["seconds"] = {LETTERS.get(stage, stage): number / MICRO for stage, number in values.pop("s").items()}
    if "f" in values:
        name = f"/{image}"
        values["files"] = {key.replace("//", name, 1): size for key, size in values.pop("f").items()}
    if "n" in values:
        values["counts"] = _counts_from_json(values.pop("n"))
    elif "counts" in values:
        values["counts"] = _old_counts(values["counts"])
    if "objects" in values:
        values["objects"] = {int(class_id): ObjectCounts.from_json(one) for class_id, one in values["objects"].items()}
    for name in ("notes", "warnings"):
        if name in values:
            values[name] = tuple(values[name])
    return values


def _pack(text: str) -> str:
    """Return hexadecimal digits as base64 without padding; empty where the text is anything else."""
    try:
        data = bytes.fromhex(text)
    except ValueError:
        return ""
    return b64encode(data).decode().rstrip("=") if data.hex() == text else ""


@lru_cache(maxsize=4096)
def _unpack_shared(text: str) -> str:
    """Return the digits again: one text for all blocks that have it, which saves memory."""
    return b64decode(text + "==").hex()


def _short_seconds(seconds: Mapping[str, float]) -> dict[str, int] | None:
    """Return whole microseconds; None where that would change them, or two stages have one name."""
    short = {STAGES.get(stage, stage): round(value * MICRO) for stage, value in seconds.items()}
    is_exact = all(number / MICRO == value for number, value in zip(short.values(), seconds.values(), strict=False))
    return short if is_exact and not seconds.keys() & LETTERS.keys() else None


def _short_files(files: Mapping[str, int], image: str) -> dict[str, int] | None:
    """Return files whose keys are without the name; None where a key could not be restored."""
    name = f"/{image}"
    short = {key.replace(name, "//", 1): size for key, size in files.items()}
    return short if [key.replace("//", name, 1) for key in short] == list(files) else None


def _counts_to_json(counts: Counts) -> dict[str, Any]:
    row = {one.name: getattr(counts, one.name) for one in fields(counts)}
    row = {name: value for name, value in row.items() if name not in ARRAYS and (value or name == "cross_entropy")}
    if row["cross_entropy"] is None:
        del row["cross_entropy"]
    row = {COUNTED.get(name, name): value for name, value in row.items()}
    row["p"] = counts.predicted.tolist()
    if counts.confusion is not None:
        if np.array_equal(counts.confusion.sum(axis=0), counts.predicted):
            row["p"] = len(counts.predicted)
        flat = counts.confusion.ravel()
        places = np.flatnonzero(flat)
        row["i"] = np.stack([places, flat[places]], axis=1).ravel().tolist()
    if counts.confidence is not None:
        bins = np.flatnonzero(counts.confidence[0])
        row["b"] = np.stack([bins, *counts.confidence[:, bins]], axis=1).ravel().tolist()
    return row


def _counts_from_json(row: Mapping[str, Any]) -> Counts:
    rest = {FULL.get(name, name): value for name, value in row.items()}
    predicted = rest.pop("p")
    num_classes = predicted if isinstance(predicted, int) else len(predicted)
    if (bins := rest.pop("b", None)) is not None:
        rest["confidence"] = np.zeros((3, CONFIDENCE_BINS), np.int64)
        for index in range(0, len(bins), 4):
            rest["confidence"][:, bins[index]] = bins[index + 1 : index + 4]
    pairs, triples = rest.pop("i", None), rest.pop("t", None)
    if pairs is None and triples is None:
        return Counts(np.array(predicted, np.int64), **rest)
    matrix = np.zeros((num_classes, num_classes), np.int64)
    if pairs is not None:
        matrix.flat[pairs[::2]] = pairs[1::2]
    else:
        matrix[triples[::3], triples[1::3]] = triples[2::3]
    if isinstance(predicted, int):
        predicted = matrix.sum(axis=0)
    return Counts(np.array(predicted, np.int64), confusion=matrix, **rest)


def _old_counts(row: Mapping[str, Any]) -> Counts:
    """Return counts of an earlier version, with the names of their fields and a list for each pair of classes."""
    rest = {name: value for name, value in row.items() if name not in ("predicted", "confusion")}
    flat = {"t": [number for pair in row["confusion"] for number in pair]} if "confusion" in row else {}
    return _counts_from_json({"p": row["predicted"], **flat, **rest})
