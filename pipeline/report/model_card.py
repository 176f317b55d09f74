"""The card of the model on the page of a report: what it is for, its scores, and its examples as pictures that are safe to show.

A bundle may be that of somebody else: its texts are escaped by the page, and its pictures are decoded and encoded again.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.models.bundle_files import card_parts, score_tables
from pipeline.storage import Storage
from pipeline.web import data_uri

__all__ = ["ExamplePicture", "card_values", "keep_examples", "read_examples"]

EXAMPLES = "examples"  # folder below that of the report
MOST_EXAMPLES = 6
MOST_BYTES = 1 << 18  # of a file
MOST_SIDE = 512  # of a picture, pixels
MOST_ROWS = 200  # of a table, or of a list
FORMATS = ("PNG", "WEBP", "JPEG")
QUALITY = 90


@dataclass(frozen=True)
class ExamplePicture:
    """A picture of the card: its data URI, its size in pixels, and what is seen."""

    uri: str
    width: int
    height: int
    caption: str


def keep_examples(report: Storage, files: Iterable[Path]) -> None:
    """Copy the examples of a model beside the report, so that it can be made again without the model; large files are left out."""
    report.make()
    for file in list(files)[:MOST_EXAMPLES]:
        with suppress(OSError):  # a picture is missing then, and no result is
            if file.stat().st_size <= MOST_BYTES:
                report.put(f"{EXAMPLES}/{file.name}", file.read_bytes(), durable=False)


def read_examples(report: Mapping[str, Any], storage: Storage) -> list[ExamplePicture]:
    """Return the examples of the model's card that lie beside the report, as far as they are pictures.

    Args:
        report: the content of report.json.
        storage: of the report.
    """
    found = []
    for one in _card_of(report).get("examples", ())[:MOST_EXAMPLES]:
        if not re.fullmatch(r"[^/\\]+", str(one["file"])):
            continue
        with suppress(InputError):  # a name that leads out of the folder is none of its files
            data = storage.get(f"{EXAMPLES}/{one['file']}", 0, MOST_BYTES)
            picture = None if data is None else encode_again(data, str(one.get("caption", "")))
            found += [picture] if picture else []
    return found


def encode_again(data: bytes, caption: str) -> ExamplePicture | None:
    """Return a picture made of the pixels of a file alone; None: it is no small picture."""
    from PIL import Image

    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            if max(picture.size) > MOST_SIDE:  # the header says so before anything is decoded
                return None
            pixels = picture.convert("RGB")
        file = io.BytesIO()
        pixels.save(file, "JPEG", quality=QUALITY, subsampling=0)
    except Exception:  # noqa: BLE001 - a damaged file raises whatever its decoder raises
        return None
    return ExamplePicture(data_uri(file.getvalue(), "image/jpeg"), pixels.width, pixels.height, caption)


def card_values(report: Mapping[str, Any], run: Mapping[str, Any], examples: Sequence[ExamplePicture]) -> dict[str, Any] | None:
    """Return what the page shows of the card; None: the model has none.

    Args:
        report: the content of report.json.
        run: the content of run.json; may be empty.
        examples: of the card.
    """
    card = _card_of(report)
    if not card:
        return None
    tables = [
        {"title": one.title, "rows": one.rows[:MOST_ROWS], "note": one.note, "has_intervals": any(row[2] for row in one.rows)}
        for one in score_tables(card)
    ]
    parts = [part._replace(entries=part.entries[:MOST_ROWS]) for part in card_parts(card)]
    return {"name": _name_of(report, run), "parts": parts, "tables": tables, "examples": examples}


def _name_of(report: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    """Return the name of the bundle; of one in the output folder of a training, the folder's name."""
    path = str((run.get("identity") or {}).get("model", {}).get("path") or report["model"].get("name") or "")
    *above, last = path.rstrip("/").split("/")
    return above[-1] if above and last == "bundle" else last


def _card_of(report: Mapping[str, Any]) -> Mapping[str, Any]:
    card: Mapping[str, Any] = (report.get("model") or {}).get("card") or {}
    return card
