"""The output folder of a run: its small files, which run it belongs to, and what may not be written over."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline import __version__
from pipeline.config import CALIBRATED_FOLDER, Config, is_sample, load_written_config, replace_auto
from pipeline.errors import InputError, Problem
from pipeline.records.ledger import Ledger, read_rows_of
from pipeline.records.run_lock import forget_rows, own_names
from pipeline.storage import Storage, StorageLike, open_storage
from pipeline.system import record
from pipeline.validation import quote

__all__ = ["METRICS_FILE", "RunFolder", "hardware", "refuse_overwriting", "versions"]

FORMAT = "gigaseg.run/1"
NEVER_FRESH = {"evaluate", "convert"}  # begun by commands that have no --fresh
RUN_JSON, LOG, CONFIG, LEDGER, REPORT = "run.json", "log.txt", "config.yaml", "ledger", "report"
METRICS_FILE = "metrics.prom"
REPORT_PARTS = (
    "report.json",
    "index.html",
    "per_class.csv",
    "per_image.csv",
    "areas.csv",
    "zones.csv",
    "instances.csv",
    "failures.csv",
    "failure_groups.csv",
    "comparison.json",
    "comparison.csv",
    "comparison.html",
    "examples",
    "skips",
)
STOP = f"{LEDGER}/stop"
MOST_LOG_BYTES = 16 << 20
PACKAGES = ("numpy", "torch", "openvino", "onnxruntime", "zarr", "tifffile", "ray", "segmentation-models-pytorch")
SHOWN = 3  # files that would be overwritten, in a message


class RunFolder:
    """A run's output folder, wherever it is stored; made when the run begins."""

    def __init__(self, where: StorageLike) -> None:
        self.storage = open_storage(where)

    @property
    def ledger(self) -> Storage:
        """Storage of the receipts; it exists once a run has begun."""
        return self.storage.below(LEDGER)

    @property
    def watch(self) -> Storage:
        """Storage of the lock of a watch, and of what it has told of which image."""
        return self.ledger.below("watch")

    @property
    def report(self) -> Storage:
        """Storage of the report."""
        return self.storage.below(REPORT)

    def read(self) -> dict[str, Any]:
        """Return the content of run.json; empty when there is none.

        Raises:
            InputError: there is one that is not ours or is damaged, or a file stands where the folder would be.
            StoreError: the storage cannot be read.
        """
        try:
            data = self.storage.get(RUN_JSON) if self.storage.exists() else None
            content = None if data is None else json.loads(data)
        except ValueError as error:
            way_out = "Choose another output folder; `run` can start over with --fresh."
            found = f"a file that cannot be read ({error})"
            raise InputError(Problem(f"{self.storage}/{RUN_JSON}", found, "the run.json of gigaseg", way_out)) from error
        if data is None:
            return {}
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            way_out = "Choose another output folder."
            raise InputError(Problem(f"{self.storage}/{RUN_JSON}", "no run.json of gigaseg", FORMAT, way_out))
        return content

    def require(self) -> dict[str, Any]:
        """Return the content of run.json; raises InputError where no run has begun."""
        content = self.read()
        if not content:
            raise InputError(Problem(str(self.storage), "no run.json", "the output folder of a run", "Is the path right?"))
        return content

    def write(self, **changes: Any) -> None:
        """Change fields of run.json, all at once; the folder is made where it is missing."""
        content = {"format": FORMAT, **self.read(), **changes}
        self.storage.make()
        self.storage.put(RUN_JSON, json.dumps(content, indent=1, default=str).encode() + b"\n")

    def read_config(self) -> Config:
        """Return the config of the run; its output is this folder, which may have been moved.

        Raises:
            InputError: there is no config.yaml, or it is damaged.
        """
        data = self.storage.get(CONFIG)
        if data is None:
            found = "no config.yaml, as beside scores of masks that existed"
            raise InputError(Problem(str(self.storage), found, "the output of a run, which has images of its own"))
        config = load_written_config(data.decode(errors="replace"), f"{self.storage}/{CONFIG}")
        return config.model_copy(update={"output": self.storage.url})

    def read_config_text(self) -> str:
        """Return config.yaml as it was written; empty where there is none, as beside scores of masks that existed."""
        return (self.storage.get(CONFIG) or b"").decode(errors="replace")

    def write_config(self, text: str) -> None:
        """Write config.yaml: the YAML as it was resolved."""
        self.storage.put(CONFIG, text.encode())

    def log(self, *lines: str, event: str = "log", level: str = "info", **fields: Any) -> None:
        """Append lines to log.txt, all at once: local time with its zone, then what happened.

        ``event``, ``level`` and ``fields`` are what :func:`pipeline.system.record` writes of each line.
        """
        stamp = datetime.now().astimezone().isoformat(" ", "milliseconds")
        text = "".join(f"{stamp} {' '.join(line.split())}\n" for line in lines)
        for line in lines:
            record(line, event=event, level=level, **fields)
        if text:
            self.storage.append(LOG, text.encode(errors="backslashreplace"), durable=False)

    def shorten_log(self, most_bytes: int = MOST_LOG_BYTES) -> None:
        """Remove the older half of a log.txt that has grown beyond so many bytes; nobody may be writing it."""
        size = (self.storage.size(LOG) if self.storage.exists() else None) or 0
        if size > most_bytes:
            kept = self.storage.get(LOG, size - most_bytes // 2) or b""
            self.storage.put(LOG, kept.partition(b"\n")[2])

    def ask_to_stop(self) -> None:
        """Ask whichever process executes the run to stop after the blocks in hand."""
        self.storage.put(STOP, b"")

    def is_asked_to_stop(self) -> bool:
        """Return whether :meth:`ask_to_stop` was called since the run was last begun."""
        return self.storage.size(STOP) is not None

    def forget_stop(self) -> None:
        """Withdraw :meth:`ask_to_stop`."""
        self.storage.delete(STOP)

    def refuse_other(self, identity: Mapping[str, Any]) -> None:
        """Raise InputError with every difference where the folder holds another run."""
        content = self.read()
        before = content.get("identity")
        if before is None:
            return
        ways_out = ["Choose another output folder", "go back to the old value", "start over with --fresh of `run`, `segment` or `train`"]
        ways_out = ways_out[:-1] if identity.keys() & NEVER_FRESH else ways_out
        recipe = content.get("recipe", {})  # a config that was written here has the chosen value where another one has `auto`
        now = json.loads(json.dumps(identity, default=str))
        pairs = differences(replace_auto(before, recipe), replace_auto(now, recipe))
        problems = [
            Problem(f"{self.storage}: {key}", quote(new), f"{quote(old)}, as this folder was begun with") for key, old, new in pairs
        ]
        if problems:
            raise InputError([*problems, f"{', '.join(ways_out[:-1])}, or {ways_out[-1]}."])

    def clear(self, *, take_over: bool = False) -> None:
        """Remove what earlier runs wrote here, and nothing else; raises AlreadyRunning where a live process holds the run.

        Processes of an earlier run that still live cannot write any more: taking the ledger ends their right to.
        """
        if not self.storage.exists():
            return
        # The outputs of every plan: an image that is missing from a later plan has left its mask here.
        outputs = dict.fromkeys(name for plan in self._plans() for name in plan.get("outputs", []))
        if self.ledger.exists():
            with Ledger.open(self.ledger, take_over=take_over):
                pass
        reports = (f"{REPORT}/{name}" for name in REPORT_PARTS)
        for name in (*outputs, *reports, CALIBRATED_FOLDER, RUN_JSON, CONFIG, LOG, METRICS_FILE):
            with suppress(InputError):  # a name that leads out of the folder is none of its files
                self.storage.delete(name)
                self.storage.delete_tree(name)
        if self.ledger.exists():
            forget_rows(self.ledger)

    def discard(self) -> None:
        """Remove what earlier runs wrote here, and the folder unless it holds something else."""
        self.clear()
        if self.ledger.exists():
            for name in own_names(self.ledger):
                self.storage.delete(f"{LEDGER}/{name}")
            self.ledger.remove_if_empty()
        self.storage.remove_if_empty()

    def other_versions(self) -> list[str]:
        """Return a note for people where an unfinished run goes on with other versions than before; empty otherwise."""
        content, now = self.read(), versions()
        before = content.get("versions", {})
        changed = [f"{name} {now.get(name, 'none')} instead of {before[name]}" for name in before if now.get(name) != before[name]]
        return [f"what is left to do is done with {', '.join(changed)}"] if changed and content.get("state") != "done" else []

    def last_plan(self) -> dict[str, Any]:
        """Return the plan that the last execution recorded in the ledger; empty when there is none."""
        last: dict[str, Any] = {}
        for plan in self._plans():
            last = plan
        return last

    def _plans(self) -> Iterator[dict[str, Any]]:
        return read_rows_of(self.ledger, "plan") if self.ledger.exists() else iter(())


def differences(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield what differs between two trees, by dotted key.

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
    """Return the versions of gigaseg, Python and the packages that can change the numbers."""
    found = {"gigaseg": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Return the host, system, cores and memory of the machine that the driver runs on."""
    import psutil

    return {
        "host": platform.node(),
        "system": platform.platform(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
    }


def refuse_overwriting(
    output: StorageLike, where: str, *, reads: Iterable[str], outputs: Sequence[str], command: str, is_begun: bool
) -> None:
    """Refuse a command that would write over what it reads, or over what was in its output folder before.

    Args:
        output: storage of the output, or its URL or path; it need not exist.
        where: the key of the YAML that names it, for messages.
        reads: paths, URLs and samples that the command reads.
        outputs: names of files and folders that it writes in the output folder.
        command: what writes them, for messages: run, training.
        is_begun: whether such a command has begun in the folder before, so that outputs in it are its own.

    Raises:
        InputError: the folder is a file, or something would be lost; the first few are named.
    """
    storage = open_storage(output)
    existing = [name for name in outputs if storage.has(name)] if storage.exists() else []
    folder = Path(storage.url)  # a URL's parts compare as those of a path do
    names = {root / name: name for name in outputs for root in (folder.absolute(), folder.resolve())}
    names |= {(folder / name).resolve(): name for name in existing}
    lost: dict[str, str] = {}
    for path in sorted({_with_small_scheme(text).removeprefix("file://") for text in reads if not is_sample(text)}):
        if name := next(_replaced_by(path, folder, names), None):
            lost.setdefault(name, f"{path}, which is read, where the {command} would write {name}")
    if not is_begun:
        for name in existing:
            lost.setdefault(name, f"{storage}/{name}, which no {command} has written")
    if lost:
        expected, way_out = "a folder without it", "Choose another output folder."
        raise InputError([Problem(where, found, expected, way_out) for found in list(lost.values())[:SHOWN]])


def _with_small_scheme(text: str) -> str:
    """Return a path as it is, and a URL as storages write it: ``S3://`` is ``s3://``."""
    scheme, colon, rest = text.partition("://")
    return f"{scheme.lower()}{colon}{rest}" if colon else text


def _replaced_by(path: str, folder: Path, names: Mapping[Path, str]) -> Iterator[str]:
    """Yield the outputs that would replace an input: they lie there or above, or inside a Zarr store in the output folder.

    Links count both as they are named and as what they lead to: either may be what is lost.
    """
    for form in (Path(path).absolute(), Path(path).resolve()):
        yield from (names[parent] for parent in (form, *form.parents) if parent in names)
        if form.suffix == ".zarr" and form.is_relative_to(folder.resolve()):
            yield from (name for output, name in names.items() if output.is_relative_to(form))
