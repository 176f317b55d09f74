"""OpenVINO's graphs of a network in the user's cache, so that later processes need not import torch and build the network.

One folder is one graph, ``NETWORK-KIND``, and is written whole or not at all; its hashes are compared whenever it is read. A graph
holds the float32 weights unchanged, so it computes exactly what it computed where it was made, in any precision. What OpenVINO
compiles of it is not kept: it depends on the processor and takes the same space again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline.backends._graph import GraphKind
from pipeline.storage import cache_folder

__all__ = ["KeptGraphs", "core"]

CACHE = "graphs"
MOST_BYTES = 2 << 30  # of all graphs together; those that were used longest ago are removed
LOST_S = 86_400  # an unfinished folder that has not changed for so long belongs to nobody
GRAPH, WEIGHTS, HASHES = "graph.xml", "graph.bin", "sha256.json"  # files of a folder
ANY_SIZE = "any"
UNFINISHED = ".partial-"


@cache
def core() -> Any:
    """Return OpenVINO's runtime, which lives as long as the process.

    Each runtime installs a stack for signal handlers and restores the former one when it is freed. With two of them, the
    restored stack may be freed memory, and the next Ctrl-C would crash the process.
    """
    import openvino

    return openvino.Core()


class KeptGraphs:
    """The graphs of one network.

    Args:
        network_key: see :func:`pipeline.models.network_key`; None: nothing is read or kept.
    """

    def __init__(self, network_key: str | None) -> None:
        self.prefix = None if network_key is None else _prefix(network_key)

    def has_any(self) -> bool:
        """Whether there is any graph of the network."""
        if self.prefix is None or (root := _own_folder()) is None:
            return False
        with suppress(OSError):
            return any(folder.name.startswith(self.prefix) for folder in root.iterdir())
        return False

    def read(self, kind: GraphKind, shape: tuple[int, ...], dtype: str) -> tuple[Any, bool] | None:
        """Return a graph for such pixels, and whether it takes any size; None: there is none.

        A folder whose content has changed is removed.
        """
        if self.prefix is None or (root := _own_folder()) is None:
            return None
        for takes_any in (True, False):
            folder = root / (self.prefix + _name(kind, shape, dtype, takes_any=takes_any))
            with suppress(OSError, ValueError, RuntimeError):
                if not folder.is_dir():
                    continue
                # In memory, not mapped: another machine may remove a file of a shared home while it is in use.
                content = {name: (folder / name).read_bytes() for name in (GRAPH, WEIGHTS)}
                if json.loads((folder / HASHES).read_text()) == _hashes(content):
                    os.utime(folder)
                    return core().read_model(content[GRAPH], content[WEIGHTS]), takes_any
            shutil.rmtree(folder, ignore_errors=True)
        return None

    def keep(self, model: Any, kind: GraphKind, shape: tuple[int, ...], dtype: str, *, takes_any: bool) -> None:
        """Keep a graph; a cache that cannot be written costs the next process time, and this one nothing."""
        if self.prefix is None:
            return
        import openvino

        with suppress(OSError, RuntimeError):
            root = cache_folder(CACHE)
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            if _own_folder() is None:
                return
            scratch = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=root))  # readable by the user alone
            try:
                openvino.save_model(model, scratch / GRAPH, compress_to_fp16=False)
                (scratch / HASHES).write_text(json.dumps(_hashes({name: (scratch / name).read_bytes() for name in (GRAPH, WEIGHTS)})))
                _make_room(root, _size(scratch))
                scratch.rename(root / (self.prefix + _name(kind, shape, dtype, takes_any=takes_any)))  # fails where another was first
            finally:
                shutil.rmtree(scratch, ignore_errors=True)


def _prefix(network_key: str) -> str:
    """Return how the names of a network's folders begin: a hash of the network and of what makes graphs of it."""
    versions = [metadata.version("openvino"), _code_sha256()]
    return hashlib.sha256(json.dumps([network_key, versions]).encode()).hexdigest()[:40] + "-"


@cache
def _code_sha256() -> str:
    folder = Path(__file__).parent
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(folder.glob("*.py")))).hexdigest()


def _name(kind: GraphKind, shape: tuple[int, ...], dtype: str, *, takes_any: bool) -> str:
    """Return the rest of a folder's name: what comes in, and what goes out."""
    layout, output = "interleaved" if kind.interleaved else "planar", "classes" if kind.classes else "logits"
    size = ANY_SIZE if takes_any else "x".join(map(str, shape))
    return f"{output}-{layout}-{kind.channels(shape)}-{dtype}-{size}"


def _hashes(content: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}


def _own_folder() -> Path | None:
    """Return the folder of all graphs; None where it is missing, or others could write there: what they write would be run."""
    folder = cache_folder(CACHE)
    try:
        found = folder.stat()
    except OSError:
        return None
    is_own = found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return folder if is_own else None


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def _make_room(root: Path, size: int) -> None:
    """Remove the graphs that were used longest ago until there is room for one of ``size`` bytes, and what killed processes left."""
    folders = []
    for folder in root.iterdir():
        with suppress(OSError):  # another process removes it
            folders.append((folder.stat().st_mtime, _size(folder), folder))
    now = max((changed for changed, _, _ in folders), default=0.0)
    total = size + sum(taken for _, taken, folder in folders if not folder.name.startswith(UNFINISHED))
    for changed, taken, folder in sorted(folders):
        if folder.name.startswith(UNFINISHED):
            if changed < now - LOST_S:
                shutil.rmtree(folder, ignore_errors=True)
        elif total > MOST_BYTES:
            shutil.rmtree(folder, ignore_errors=True)
            total -= taken
