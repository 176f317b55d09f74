"""The files of a mosaic: its tiles, what lies beside them, and whether they are as they were."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path, PurePosixPath

from pipeline.config import expand_glob
from pipeline.errors import InputError, Problem
from pipeline.readers import Reader
from pipeline.readers._file_states import State, files_in, state_of
from pipeline.readers._files import asking, bare_path, is_remote
from pipeline.readers._remote_folders import expand_url, folder_at, is_web

__all__ = ["TileFile", "list_tiles"]


@dataclass(frozen=True, slots=True)
class TileFile:
    """One tile of a mosaic."""

    name: str  # path below the folder of the mosaic
    path: str
    states: tuple[State, ...]  # of the tile, then of the files beside it that belong to it

    @property
    def written(self) -> int | str:
        """When the tile was written."""
        return self.states[0][2]


def list_tiles(folder: str, pattern: str, reader: Reader) -> list[TileFile]:
    """Return the tiles below a folder that a glob matches, sorted by name; files that ``reader`` does not claim are no tiles.

    Outputs of runs are no tiles either: what lies in a folder beside a ``run.json``, unless the glob names that folder.

    Raises:
        InputError: no file is a tile.
        OSError: the server failed.
    """
    folder = bare_path(folder).rstrip("/") or "/"
    where = f"{folder.rstrip('/')}/{pattern}"
    if is_web(folder):
        expected = "a folder of a disk or a bucket"
        raise InputError(Problem(where, "tiles of a web server, which does not say which files it has", expected, "Copy them to a disk."))
    with asking(folder):
        found = expand_url(folder, pattern) if is_remote(folder) else expand_glob(f"{escape(folder)}/{pattern}")
    kinds = {PurePosixPath(path).suffix.lower(): path for path in found}
    read = {suffix for suffix, path in kinds.items() if reader.claims(path)}  # asking for each of thousands of files is slow
    paths = [path for path in found if PurePosixPath(path).suffix.lower() in read]
    if "/" in pattern:
        paths = _without_outputs(paths, folder, pattern)
    beside = _Beside(reader)
    below = len(folder.rstrip("/")) + 1
    tiles = [TileFile(path[below:], path, states) for path in paths if (states := beside.states(path))]
    if not tiles:
        other = f"{len(found)} files, none of which is an image" if found else "no file"
        raise InputError(Problem(where, other, "a glob that matches the tiles of the mosaic, such as tiles/*.tif"))
    return tiles


def _without_outputs(paths: Sequence[str], folder: str, pattern: str) -> list[str]:
    named, runs = set(pattern.split("/")), dict[str, bool]()

    def is_run(parent: str) -> bool:
        if parent not in runs:
            there = folder_at(parent).files if is_remote(parent) else (name for name in ["run.json"] if Path(parent, name).is_file())
            runs[parent] = "run.json" in there
        return runs[parent]

    def is_output(path: str) -> bool:
        parent = folder
        for part in path[len(folder.rstrip("/")) + 1 :].split("/")[:-1]:
            if part not in named and is_run(parent):
                return True
            parent = f"{parent.rstrip('/')}/{part}"
        return False

    return [path for path in paths if not is_output(path)]


class _Beside:
    """Finds the files beside tiles by the names in their folders: asking for each of ten names a tile would take a request each."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._endings: dict[str, tuple[str, ...] | None] = {}  # by suffix, added to a tile's stem; None: each tile is asked
        self._folders: dict[str, Mapping[str, State]] = {}

    def states(self, path: str) -> tuple[State, ...]:
        """Return the state of a tile and of the files beside it; empty where it is no file."""
        folder, _, name = path.rpartition("/")
        there = self._listed(folder)
        if name not in there:
            return ()
        suffix = PurePosixPath(name).suffix
        stem = name.removesuffix(suffix)
        if suffix not in self._endings:
            self._endings[suffix] = self._ask(path, suffix)
        endings = self._endings[suffix]
        if endings is not None:
            return (there[name], *(there[f"{stem}{ending}"] for ending in endings if f"{stem}{ending}" in there))
        return (there[name], *_states(self._reader.companions(path)))

    def _ask(self, path: str, suffix: str) -> tuple[str, ...] | None:
        stem = path.removesuffix(suffix)
        names = [name for name in self._reader.companions(path) if name != path]
        if not all(name.startswith(f"{stem}.") for name in names):
            return None
        return tuple(dict.fromkeys(name.removeprefix(stem) for name in names))

    def _listed(self, folder: str) -> Mapping[str, State]:
        if folder not in self._folders:
            self._folders[folder] = files_in(folder)
        return self._folders[folder]


def _states(paths: Iterable[str]) -> list[State]:
    return [state for path in dict.fromkeys(paths) if (state := state_of(path))]
