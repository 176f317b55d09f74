"""The output folder of a run: its small files, and which run it belongs to. Pixels and receipts have files of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.config import CALIBRATED_FOLDER, replace_auto
from pipeline.errors import InputError, Problem, StoreError
from pipeline.records.environment import versions
from pipeline.records.ledger import Ledger
from pipeline.records.segments import read_rows_of
from pipeline.storage import StorageLike, open_storage

__all__ = ["RunFolder"]

FORMAT = "gigaseg.run/1"
NEVER_FRESH = {"evaluate", "convert"}  # begun by commands that have no --fresh
RUN_JSON, LOG, CONFIG, LEDGER, REPORT = "run.json", "log.txt", "config.yaml", "ledger", "report"
STOP = f"{LEDGER}/stop"


class RunFolder:
    """A run's output folder, wherever it is stored.

    Args:
        where: storage of the run, or its URL or path; made when the run begins.
    """

    def __init__(self, where: StorageLike) -> None:
        self.storage = open_storage(where)

    @property
    def path(self) -> Path:
        """The folder; for callers that still work with paths."""
        return Path(self.storage.url)

    @property
    def ledger(self) -> Path:
        """Folder of the receipts; for callers that still work with paths."""
        return self.path / LEDGER

    @property
    def report(self) -> Path:
        """Folder of the report; for callers that still work with paths."""
        return self.path / REPORT

    @property
    def stop_flag(self) -> Path:
        """The file whose presence asks the run to stop; for callers that still work with paths."""
        return self.path / STOP

    def read(self) -> dict[str, Any]:
        """Return the content of run.json; empty when there is none.

        Raises:
            InputError: there is one that is not ours or cannot be read, or a file stands where the folder would be.
        """
        try:
            data = self.storage.get(RUN_JSON) if self.storage.exists() else None
            content = None if data is None else json.loads(data)
        except (StoreError, ValueError) as error:
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
        """Return the content of run.json.

        Raises:
            InputError: no run has begun here.
        """
        content = self.read()
        if not content:
            raise InputError(Problem(str(self.storage), "no run.json", "the output folder of a run", "Is the path right?"))
        return content

    def write(self, **changes: Any) -> None:
        """Change fields of run.json, all at once; the folder is made where it is missing."""
        content = {"format": FORMAT, **self.read(), **changes}
        self.storage.make()
        self.storage.put(RUN_JSON, json.dumps(content, indent=1, default=str).encode() + b"\n")

    def write_config(self, text: str) -> None:
        """Write config.yaml: the YAML as it was resolved."""
        self.storage.put(CONFIG, text.encode())

    def log(self, line: str) -> None:
        """Append one line to log.txt: local time with its zone, then what happened."""
        stamp = datetime.now().astimezone().isoformat(" ", "milliseconds")
        self.storage.append(LOG, f"{stamp} {' '.join(line.split())}\n".encode(), durable=False)

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
        """Refuse a folder that holds another run.

        Raises:
            InputError: with every difference.
        """
        content = self.read()
        before = content.get("identity")
        if before is None:
            return
        ways_out = ["Choose another output folder", "go back to the old value", "start over with --fresh of `run`, `segment` or `train`"]
        ways_out = ways_out[:-1] if identity.keys() & NEVER_FRESH else ways_out
        recipe = content.get("recipe", {})  # a config that was written here has the chosen value where another one has `auto`
        now = json.loads(json.dumps(identity, default=str))
        pairs = differences(replace_auto(before, recipe), replace_auto(now, recipe))
        problems = [Problem(f"{self.storage}: {key}", f"{new!r}", f"{old!r}, as this folder was begun with") for key, old, new in pairs]
        if problems:
            raise InputError([*problems, f"{', '.join(ways_out[:-1])}, or {ways_out[-1]}."])

    def clear(self, *, take_over: bool = False) -> None:
        """Remove what earlier runs wrote here, and nothing else.

        Raises:
            InputError: a live process holds the run.
        """
        if not self.storage.exists():
            return
        # The outputs of every plan: an image that is missing from a later plan has left its mask here.
        outputs = dict.fromkeys(name for plan in self._plans() for name in plan.get("outputs", []))
        ledger = self.storage.below(LEDGER)
        if ledger.exists():
            with Ledger.open(ledger, take_over=take_over):
                pass
        for name in (*outputs, LEDGER, REPORT, CALIBRATED_FOLDER, RUN_JSON, CONFIG, LOG):
            with suppress(InputError):  # a name that leads out of the folder is none of its files
                self.storage.delete(name)
                self.storage.delete_tree(name)

    def discard(self) -> None:
        """Remove what earlier runs wrote here, and the folder unless it holds something else."""
        self.clear()
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
        ledger = self.storage.below(LEDGER)
        return read_rows_of(ledger, "plan") if ledger.exists() else iter(())


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
