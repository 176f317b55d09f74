"""A CSV list of images: ``image[,name,truth,pixel_size,channels,level]``, paths relative to the CSV."""

from __future__ import annotations

import csv
import io
import posixpath
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config import absolute_path, as_spelled, exists, is_sample, is_url
from pipeline.errors import InputError, Problem, nearest, one_of
from pipeline.readers import exists_at, is_remote
from pipeline.storage import open_storage, refuse_secrets

__all__ = ["CSV_COLUMNS", "Row", "read_csv_list"]

CSV_COLUMNS = ("image", "name", "truth", "pixel_size", "channels", "level")


@dataclass(frozen=True)
class Row:
    """One line of a CSV list, with absolute paths."""

    where: str  # file and line
    image: str
    name: str = ""  # NAME as the list gives it; empty: the name of the file
    truth: str | None = None  # None: the YAML's `truth` decides
    overrides: Mapping[str, Any] = field(default_factory=dict)  # reader options of this image: `pixel_size`, `channels`, `level`


def _parse_integer(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError
    return int(text)


def _parse_size(text: str) -> float:
    size = float(text)
    if not 1e-4 < size < 1e6:  # as reader.pixel_size
        raise ValueError
    return size


def _parse_channels(text: str) -> tuple[int | str, ...]:
    """Return numbers and names of channels, separated by commas or semicolons, or by spaces if there are neither.

    Example:
        >>> _parse_channels("0 2"), _parse_channels("DAPI GFP"), _parse_channels("Alexa 488; DAPI"), _parse_channels("1,0")
        ((0, 2), ('DAPI', 'GFP'), ('Alexa 488', 'DAPI'), (1, 0))
    """
    parts = [part.strip() for part in (re.split(r"[,;]", text) if re.search(r"[,;]", text) else text.split())]
    if not all(parts):
        raise ValueError
    return tuple(int(part) if re.fullmatch(r"[0-9]{1,9}", part) else part for part in parts)


_OPTIONS: Mapping[str, tuple[Callable[[str], Any], str]] = {
    "pixel_size": (_parse_size, "a number above 0.0001 and below 1000000"),
    "channels": (_parse_channels, "numbers or names, such as 0 2 or DAPI; GFP"),
    "level": (_parse_integer, "a whole number of at least 0"),
}


def read_csv_list(path: str) -> list[Row]:
    """Read a CSV list; an empty cell means what a missing column means. An InputError holds every mistake, with its line."""
    try:
        data = _read_url(path) if is_url(path) else Path(path).read_bytes()
        lines = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True, skipinitialspace=True)
        columns = [cell.strip() for cell in next(lines, [])]
        problems = _check_columns(columns, f"{path}:1")
        if problems:
            raise InputError(problems)
        given = [(f"{path}:{lines.line_num}", [cell.strip() for cell in cells]) for cells in lines if any(cells)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(Problem(path, f"no readable list ({error})", "a CSV list in UTF-8")) from error
    rows = [_row(where, cells, columns, path.rpartition("/")[0], problems) for where, cells in given]
    if not rows:
        problems.append(Problem(path, "no images", "a line for each image below the column names"))
    if problems:
        raise InputError(problems)
    return rows


def _check_columns(columns: list[str], where: str) -> list[Problem]:
    expected = one_of(CSV_COLUMNS)
    if len(columns) == 1 and ";" in columns[0]:
        return [Problem(where, repr(columns[0]), ", ".join(CSV_COLUMNS), "Separate columns by commas.")]
    unknown = [column for column in dict.fromkeys(columns) if column not in CSV_COLUMNS]
    problems = [Problem(where, f"the column {column!r}", expected, nearest(column, CSV_COLUMNS)) for column in unknown]
    problems += [Problem(where, f"the column {name!r} twice", "each column once") for name in CSV_COLUMNS if columns.count(name) > 1]
    if "image" not in columns:
        problems.append(Problem(f"{where}: the column 'image'", None, f"a first line such as {','.join(CSV_COLUMNS)}"))
    return problems


def _row(where: str, cells: list[str], columns: list[str], folder: str, problems: list[Problem]) -> Row:
    if len(cells) > len(columns):
        problems.append(Problem(where, f"{len(cells)} cells", f"{len(columns)}, as in the first line", "Put a cell with commas in quotes."))
    given = {column: cell for column, cell in zip(columns, cells, strict=False) if cell}
    if "image" not in given:
        problems.append(Problem(f"{where}: image", None, "a file or a URL"))
    overrides: dict[str, Any] = {}
    for option, (parse, expected) in _OPTIONS.items():
        if option in given:
            try:
                overrides[option] = parse(given[option])
            except ValueError:
                problems.append(Problem(f"{where}: {option}", repr(given[option]), expected))
    for column in ("image", "truth"):
        try:
            refuse_secrets(given.get(column, ""), f"{where}: {column}")
        except InputError as error:
            problems += [problem for problem in error.problems if isinstance(problem, Problem)]
            return Row(where, "")
    truth = _absolute(given["truth"], folder) if "truth" in given else None
    if truth and not (is_sample(truth) or (exists_at(truth) if is_remote(truth) else is_url(truth) or exists(truth))):
        problems.append(Problem(f"{where}: truth", f"{truth!r}, which does not exist", "a file, or an empty cell"))
    return Row(where, _absolute(given.get("image", ""), folder), given.get("name", ""), truth, overrides)


def _absolute(text: str, folder: str) -> str:
    """Return a path or a URL with the folder of the list, itself a path or a URL, in front of a relative one."""
    if not text or is_url(text) or is_sample(text):
        return text
    if is_remote(folder) and not text.startswith(("/", "~/")):
        scheme, _, place = folder.partition("://")
        return f"{scheme}://{posixpath.normpath(f'{place}/{text}')}"
    return as_spelled(absolute_path(text, Path(folder or "/")))


def _read_url(url: str) -> bytes:
    folder, _, name = url.rpartition("/")
    data = open_storage(folder).get(name)
    if data is None:
        raise FileNotFoundError("no file at this URL")
    return data
