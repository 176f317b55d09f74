"""The output folder: what belongs to which run, and its small files. Pixels and receipts have files of their own."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline import __version__
from pipeline.config import CALIBRATED_FOLDER, replace_auto
from pipeline.errors import InputError, Problem
from pipeline.records.ledger import Ledger
from pipeline.records.segments import read_rows_of
from pipeline.storage import put_text, store_errors

__all__ = ["RunFolder"]

FORMAT = "gigaseg.run/1"
NEVER_FRESH = {"evaluate", "convert"}  # begun by commands that have no --fresh
PACKAGES = ("numpy", "torch", "openvino", "onnxruntime", "zarr", "tifffile", "ray", "segmentation-models-pytorch")


@dataclass(frozen=True)
class RunFolder:
    """A run's output folder.

    Attributes:
        path: absolute; made when the run begins.
    """

    path: Path

    @property
    def ledger(self) -> Path:
        """Folder of the receipts."""
        return self.path / "ledger"

    @property
    def report(self) -> Path:
        """Folder of the report."""
        return self.path / "report"

    @property
    def stop_flag(self) -> Path:
        """A file whose presence asks the run to stop."""
        return self.ledger / "stop"

    def read(self) -> dict[str, Any]:
        """Content of run.json; empty when there is none.

        Raises:
            InputError: there is one, and it is not ours; or the folder is none.
        """
        file = self.path / "run.json"
        try:
            found = json.loads(file.read_text())
        except FileNotFoundError:
            return {}
        except NotADirectoryError as error:
            place = next(path for path in file.parents if path.exists())
            raise InputError(Problem(str(place), "a file", "a folder, as the output is one", "Choose another output folder.")) from error
        except (OSError, ValueError) as error:
            way_out = "Choose another output folder; `run` can start over with --fresh."
            raise InputError(Problem(str(file), f"a file that cannot be read ({error})", "the run.json of gigaseg", way_out)) from error
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise InputError(Problem(str(file), "no run.json of gigaseg", FORMAT, "Choose another output folder."))
        return found

    def require(self) -> dict[str, Any]:
        """Content of run.json.

        Raises:
            InputError: no run has begun here.
        """
        found = self.read()
        if not found:
            raise InputError(Problem(str(self.path), "no run.json", "the output folder of a run", "Is the path right?"))
        return found

    def write(self, **changes: Any) -> None:
        """Change fields of run.json, at once."""
        content = {"format": FORMAT, **self.read(), **changes}
        put_text(self.path / "run.json", json.dumps(content, indent=1, default=str) + "\n")

    def log(self, line: str) -> None:
        """Append one line to log.txt: local time with its zone, then what happened."""
        stamp = datetime.now().astimezone().isoformat(" ", "milliseconds")
        with store_errors(self.path / "log.txt"), (self.path / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"{stamp} {' '.join(line.split())}\n")

    def refuse_other(self, identity: Mapping[str, Any]) -> None:
        """Refuse a folder that holds another run.

        Raises:
            InputError: with every difference.
        """
        before = self.read().get("identity")
        if before is None:
            return
        ways_out = ["Choose another output folder", "go back to the old value", "start over with --fresh"]
        ways_out = ways_out[:-1] if identity.keys() & NEVER_FRESH else ways_out
        recipe = self.read().get("recipe", {})  # the config that is written here says what was chosen, not `auto`
        now = json.loads(json.dumps(identity, default=str))
        pairs = differences(replace_auto(before, recipe), replace_auto(now, recipe))
        problems = [Problem(f"{self.path}: {key}", f"{new!r}", f"{old!r}, as this folder was begun with") for key, old, new in pairs]
        if problems:
            raise InputError([*problems, f"{', '.join(ways_out[:-1])}, or {ways_out[-1]}."])

    def clear(self, *, take_over: bool = False) -> None:
        """Remove what earlier runs wrote here, and nothing else.

        Raises:
            InputError: a live process holds the run.
        """
        # Of every plan: an image that left a later one has left its mask here.
        places = dict.fromkeys(place for plan in self._plans() for place in plan.get("outputs", []))
        if self.ledger.is_dir():
            with Ledger.open(self.ledger, take_over=take_over):
                pass
        with store_errors(self.path):
            for place in places:
                self._remove(self.path / place)
            for name in ("ledger", "report", CALIBRATED_FOLDER, "run.json", "config.yaml", "log.txt"):
                self._remove(self.path / name)

    def discard(self) -> None:
        """Remove what earlier runs wrote here, and the folder unless it holds something else."""
        self.clear()
        with suppress(OSError):
            self.path.rmdir()

    def _remove(self, path: Path) -> None:
        """Remove a file or folder, and the folders above that it leaves empty."""
        if not path.resolve().is_relative_to(self.path.resolve()):
            return
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        for parent in path.parents:
            if parent == self.path or not parent.is_dir() or any(parent.iterdir()):
                return
            parent.rmdir()

    def other_versions(self) -> list[str]:
        """A note of what is of another version than when an unfinished run was last gone on with; empty: nothing is."""
        found, now = self.read(), versions()
        before = found.get("versions", {})
        changed = [f"{name} {now.get(name, 'none')} instead of {before[name]}" for name in before if now.get(name) != before[name]]
        return [f"what is left to do is done with {', '.join(changed)}"] if changed and found.get("state") != "done" else []

    def last_plan(self) -> dict[str, Any]:
        """The plan that the last execution recorded in the ledger; empty when there is none."""
        last: dict[str, Any] = {}
        for last in self._plans():  # noqa: B007 - the last one holds
            pass
        return last

    def _plans(self) -> Iterator[dict[str, Any]]:
        return read_rows_of(self.ledger, "plan") if self.ledger.is_dir() else iter(())


def differences(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Walk two trees and give what differs, by dotted key.

    Example:
        >>> list(differences({"a": {"b": 1}}, {"a": {"b": 2}}))
        [('a.b', 1, 2)]
    """
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in dict.fromkeys([*old, *new]):
            yield from differences(old.get(name), new.get(name), f"{key}.{name}" if key else str(name))
    elif old != new:
        yield key, old, new


def versions() -> dict[str, str]:
    """Versions of gigaseg, Python and what fixes the numbers."""
    found = {"gigaseg": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """The machine that the driver runs on."""
    import psutil

    return {
        "host": platform.node(),
        "system": platform.platform(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
    }
