"""Files in folders and globs that are no images of the run, with the reason, so that nobody believes that they were segmented.

Not named are hidden files, what operating systems leave in folders, and files that belong to an image.
"""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.config import CALIBRATED_FOLDER
from pipeline.errors import GigasegError
from pipeline.plugins import build
from pipeline.readers import Reader, advice, folder_at, has_file, is_remote, known_suffixes, read_start

__all__ = ["NO_FILE", "OF_RUN", "ImageFiles", "LeftOut", "describe_left_out", "is_litter", "is_special", "outputs_in"]

NO_IMAGE = "no image to this installation"
NO_FILE = "a pipe, a socket or a device"
LITTER = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx"}
SHOWN_KINDS = 6
STORE_FILES = ("zarr.json", ".zgroup", ".zarray")
RUN_JSON = "run.json"
MOST_BYTES = 1 << 26  # of a run.json
FORMAT = "gigaseg.run/"
BUNDLE_FILES = {"model.yaml", "weights.safetensors"}
_FILES = (RUN_JSON, "config.yaml", "log.txt", "metrics.prom")
OF_RUN = (
    "masks",
    "working",
    "probs",
    "parts",
    "instances",
    "objects",
    "polygons",
    "overlays",
    "thumbnails",
    "report",
    "ledger",
    CALIBRATED_FOLDER,
    *_FILES,
)
_OF_TRAINING = (
    "ledger",
    "bundle",
    "candidate",
    "val",
    "val_regions",
    "events",
    "ray",
    "checkpoint.pt",
    "history.csv",
    "val.csv",
    "training.html",
    "worst.csv",
    *_FILES,
)


@dataclass(frozen=True)
class LeftOut:
    """A file that is no image of the run, or a folder of such files; a folder's path ends in a slash."""

    path: str
    reason: str


def describe_left_out(left_out: Sequence[LeftOut]) -> str:
    """Return one line: the number of files and folders left out by kind, and why.

    Example:
        >>> needs = 'not installed: pip install "gigaseg[bio]"'
        >>> files = [LeftOut("a.czi", needs), LeftOut("b.CZI", needs), LeftOut("c.docx", NO_IMAGE), LeftOut("README", NO_IMAGE)]
        >>> describe_left_out(files)
        '4 files: 2 .czi (not installed: pip install "gigaseg[bio]"), 1 .docx, 1 without a suffix'
        >>> describe_left_out([LeftOut("runs/demo/", "outputs of an earlier run")])
        '1 folder: outputs of an earlier run'
    """
    folders = Counter(one.reason for one in left_out if one.path.endswith("/"))
    kinds = Counter((PurePosixPath(one.path).suffix.lower(), one.reason) for one in left_out if not one.path.endswith("/"))
    of_files = [
        f"{count} {suffix or 'without a suffix'}" + ("" if reason == NO_IMAGE else f" ({reason})")
        for (suffix, reason), count in sorted(kinds.items(), key=lambda item: (item[0][1] == NO_IMAGE, -item[1]))
    ]
    num_shown = max(SHOWN_KINDS, sum(reason != NO_IMAGE for _, reason in kinds))  # what could be read is always named
    of_folders = [reason if len(folders) == 1 else f"{count} x {reason}" for reason, count in folders.most_common()]
    parts = [_counted(kinds.total(), "file", of_files, num_shown), _counted(folders.total(), "folder", of_folders)]
    return "; ".join(part for part in parts if part)


def _counted(total: int, word: str, kinds: Sequence[str], shown: int = SHOWN_KINDS) -> str:
    more = [f"{len(kinds) - shown} other kinds"] if len(kinds) > shown else []
    return f"{total} {word}{'' if total == 1 else 's'}: {', '.join([*kinds[:shown], *more])}" if total else ""


def is_litter(name: str) -> bool:
    """Whether a file or folder is hidden or made by an operating system."""
    return name.startswith(".") or name.lower() in LITTER


def is_special(path: str) -> bool:
    """Whether a path is a pipe, a socket or a device: reading it may never end."""
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


class ImageFiles:
    """Decides which files are images, by their names and the installed packages."""

    def __init__(self, reader: Mapping[str, Any]) -> None:
        self._reader: Reader = build("readers", reader, "reader")
        self.suffixes = tuple(sorted({*known_suffixes(), *self._reader.suffixes}, key=lambda suffix: (-len(suffix), suffix)))
        self._missing: dict[str, str] = {}

    def is_image_folder(self, path: str) -> bool:
        """Whether a folder is one image: a Zarr store, or a folder that a reader recognises by its files."""
        lower = path.lower()
        if is_remote(path):
            return lower.endswith(".zarr") or not folder_at(path).files.keys().isdisjoint(STORE_FILES)
        is_zarr = lower.endswith(".zarr") or any(os.path.exists(f"{path}/{name}") for name in STORE_FILES)  # noqa: PTH110 - quick
        return (is_zarr or (not lower.endswith(self.suffixes) and self._reader.claims(path))) and Path(path).is_dir()

    def why_not(self, path: str) -> str:
        """Return why a file is no image to this installation; empty if it is one."""
        lower = path.lower()
        if not lower.endswith(self.suffixes):
            return advice(PurePosixPath(lower).suffix) or NO_IMAGE
        if is_special(path):
            return NO_FILE
        suffix = next(suffix for suffix in self.suffixes if lower.endswith(suffix))
        if suffix not in self._missing:
            command = self._reader.missing(path)
            self._missing[suffix] = f"not installed: {command}" if command else ""
        return self._missing[suffix] or self._reader.why_not(path)


@lru_cache(maxsize=4096)
def _recorded(run_json: str, version: str) -> tuple[tuple[str, ...], tuple[str, ...], str]:  # noqa: ARG001 - cache key: a changed file is read again
    """Return what a command of ours wrote beside its run.json (images, other files) and the reason to leave them out; empty if not ours."""
    try:
        recorded = json.loads(read_start(run_json, MOST_BYTES) or b"")
    except (OSError, ValueError, GigasegError):
        return (), (), ""
    if not isinstance(recorded, dict) or not str(recorded.get("format", "")).startswith(FORMAT):
        return (), (), ""
    if recorded.get("kind") == "training":
        return (), _OF_TRAINING, "outputs of an earlier training"
    copies = recorded.get("copies")
    if isinstance(copies, list):
        return tuple(map(str, copies)), ("ledger", *_FILES), "copies that `convert` made; name the folder itself to take them"
    return (), OF_RUN, "outputs of an earlier run"


def outputs_in(folder: str, *, is_named: bool = False) -> tuple[frozenset[str], str]:
    """Return the paths in a folder that a command of ours wrote, and the reason to leave them out; empty if there are none.

    Args:
        folder: path without a trailing slash.
        is_named: whether the user named this folder: the copies of a conversion are then images.
    """
    run_json = f"{folder}/{RUN_JSON}"
    try:
        copies, names, what = _recorded(run_json, _version(run_json))
    except (OSError, KeyError):
        copies, names, what = (), (), ""
    if names:
        return frozenset(f"{folder}/{name}" for name in (*names, *(() if is_named else copies))), what
    is_bundle = all(has_file(f"{folder}/{name}") for name in BUNDLE_FILES)
    return (frozenset(f"{folder}/{name}" for name in BUNDLE_FILES), "a model bundle") if is_bundle else (frozenset(), "")


def _version(file: str) -> str:
    """Return what changes with a file; raises OSError or KeyError where there is none."""
    if is_remote(file):
        folder, _, name = file.rpartition("/")
        return folder_at(folder).files[name].version
    return str(os.stat(file).st_mtime_ns)  # noqa: PTH116 - called for every folder of a search
