"""What an output shows of its run or training, and how that is said to people."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from typing import Any

from pipeline.errors import counted
from pipeline.records import LedgerTail, Pulse, RunFolder, SignOfLife, wait_for_sign
from pipeline.report import RunState, describe_group, group_failures
from pipeline.scheduling import busy_text, pace_text, read_metrics

__all__ = ["ENDED", "LOOK_S", "WAITING", "RunView", "describe", "described_state", "numbers_of", "pace_of"]

WAITING = "waiting"  # state of an output that is watched, while no run goes on
LOOK_S = 4.0  # for a sign of life of a process on another machine
ENDED = {
    "done": (0, "all done"),
    "partial": (3, "done but for what is quarantined"),
    "failed": (1, "the run could not go on"),
    "interrupted": (130, "interrupted; run again to resume"),
}
"""What the command of a run ended with, by the state that it left."""


class RunView:
    """What an output shows of its run or training; each look reads only what is new."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.run = RunState()
        self._tail, self._pulse, self._watcher = LedgerTail(folder.ledger), Pulse(folder.ledger), Pulse(folder.watch)
        self._failures: tuple[int, list[dict[str, Any]]] = (-1, [])

    def look(self, wait_s: float = 0.0) -> dict[str, Any]:
        """Return what is known now, as ``status --json`` prints it.

        ``wait_s`` is how long to wait for a sign of life of a process on another machine.

        Raises:
            InputError: no run is here.
        """
        recorded, sign = self._recorded(wait_s)
        common = {"format": "gigaseg.status/1", "output": self.folder.storage.url, **_life(recorded, sign)}
        if recorded.get("kind") == "training":
            return {**common, **self._training(recorded)}
        self.run.take(self._tail.new_rows())
        is_live = common["state"] == "running" and (sign is None or sign.is_alive is not False)
        return {**common, **self._summary(recorded, is_live=is_live)}

    def _recorded(self, wait_s: float) -> tuple[dict[str, Any], SignOfLife | None]:
        """Return run.json, and the sign of life of the process that holds a run that is said to be running.

        Where none runs and a watch lives, the state is ``waiting``, and the sign is the watch's.
        """
        recorded, sign = self.folder.read(), None
        if recorded.get("state") == "running":
            sign = wait_for_sign(self._pulse, wait_s)
            if sign and sign.is_alive is not False:
                return recorded, sign
        watcher = wait_for_sign(self._watcher, wait_s)
        if watcher and watcher.is_alive is not False:
            return {**self.folder.read(), "state": WAITING}, watcher
        recorded = self.folder.require()  # the run may have ended meanwhile
        return recorded, sign if recorded["state"] == "running" else None

    def _summary(self, recorded: Mapping[str, Any], *, is_live: bool) -> dict[str, Any]:
        """Return the numbers of a run; those that only a living driver can know are None where it is dead, or silent for long."""
        run, totals = self.run, recorded.get("phases", {})
        metrics = read_metrics(self.folder.storage) if is_live else {}
        failures = self._known_failures()
        phases = {name: {**row, "total": totals.get(name)} for name, row in run.phases.items()}
        unbegun = {name: {"blocks": 0, "failed": 0, "seconds": 0.0, "total": total} for name, total in totals.items()}
        current = None if run.current is None else dict(zip(("phase", "image", "settled", "blocks"), run.current, strict=True))
        return {
            "kind": "run",
            "images": run.num_images,
            "pixels": run.pixels,
            "predicted": run.predicted,
            "blocks": run.num_blocks,
            "blocks_scored": run.blocks["scored"],
            "blocks_done": run.blocks["done"],
            "blocks_settled": run.num_settled,
            "blocks_total": recorded.get("blocks"),
            "phases": {**phases, **{name: row for name, row in unbegun.items() if name not in phases}},
            "current": current,
            **speed_of(recorded, run, metrics),
            "actors": metrics.get("actors"),
            "busy_share": _busy_share(metrics) if is_live else recorded.get("busy_share"),
            "retries": run.retries,
            "stage_seconds": {stage: round(seconds, 3) for stage, seconds in sorted(run.seconds.items())},
            "written_bytes": run.written_bytes,
            "peak_actor_bytes": run.peak_bytes,
            "failures": failures,
            "failure_groups": group_failures(failures),
            **{name: recorded.get(name) for name in ("started", "ended", "recipe")},
        }

    def _known_failures(self) -> list[dict[str, Any]]:
        """Return the failures; computed again only when the ledger has grown."""
        if self._failures[0] != self.run.num_rows:
            self._failures = self.run.num_rows, self.run.failures()
        return self._failures[1]

    def _training(self, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """Return step, loss and best mean IoU of a training, from the rows of its history."""
        rows = list(csv.DictReader((self.folder.storage.get("history.csv") or b"").decode().splitlines()))
        last: dict[str, str] = next((row for row in reversed(rows) if row["loss"]), {})
        best = max((row for row in rows if row["mean_iou"]), key=lambda row: float(row["mean_iou"]), default={})
        numbers = {"loss": last.get("loss"), "best": best.get("mean_iou")}
        floats = {key: text if text is None else float(text) for key, text in numbers.items()}
        best_step = {"best_step": int(best["step"]) if best else None}
        return {"kind": "training", "step": int(last.get("step", 0)), "steps": recorded["training"]["steps"], **floats, **best_step}


def _life(recorded: Mapping[str, Any], sign: SignOfLife | None) -> dict[str, Any]:
    """Return the state, the exit code that it stands for, who holds the run, and what is known of whether that process lives."""
    state = recorded["state"]
    is_gone = sign is None or (sign.is_process and not sign.is_alive)
    if state == "running" and is_gone:  # a process that is killed cannot record it
        state = "interrupted"
    life = (
        {"alive": sign.is_alive, "age_seconds": round(sign.age_s, 1), "seen": "process" if sign.is_process else "counter"} if sign else None
    )
    holder = {name: getattr(sign.holder, name) for name in ("host", "pid", "since")} if sign and sign.holder else None
    code = ENDED[state][0] if state in ENDED else None
    return {"state": state, "exit_code": code, "holder": holder, "sign_of_life": life}


def speed_of(recorded: Mapping[str, Any], run: RunState, metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """Return pixels a second and seconds left, from the blocks that the last execution settled; None if it settled none.

    Of a run that goes on, the driver's own count and clock of the same moment are taken: clocks of two machines may differ.
    """
    total, before = recorded.get("blocks"), recorded.get("blocks_before")
    is_running = recorded["state"] == "running"
    settled: float = (
        sum(sum(metrics.get(name, {}).values()) for name in ("blocks_done", "blocks_failed")) if is_running else run.num_settled
    )
    seconds = metrics.get("elapsed_seconds") if is_running else recorded.get("seconds")
    if not total or before is None or not seconds or settled <= before:
        return {"pixels_per_second": None, "seconds_left": None}
    rate = (settled - before) / seconds
    left = max(0, total - run.num_settled) / rate if is_running else None
    return {"pixels_per_second": rate * run.pixels / total, "seconds_left": left}


def describe(summary: Mapping[str, Any]) -> list[str]:
    """Return what :meth:`RunView.look` found as lines for people."""
    if summary["kind"] == "training":
        steps = "?" if summary["steps"] is None else f"{summary['steps']:,}"
        loss, best, at = ("-" if summary[name] is None else summary[name] for name in ("loss", "best", "best_step"))
        what = f"training {described_state(summary)}, step {summary['step']:,} of {steps}"
        return [f"{summary['output']}: {what}", f"loss {loss}, best mean IoU {best} at step {at}"]
    numbers = [counted(summary["images"], "image"), *numbers_of(summary), *pace_of(summary)]
    lines = [f"{summary['output']}: {described_state(summary)}", ", ".join(numbers)]
    if phases := [f"{name} {row['blocks']}{_of(row)}" for name, row in summary["phases"].items()]:
        lines.append(f"blocks by phase: {', '.join(phases)}")
    return [*lines, *map(describe_group, summary["failure_groups"])]


def described_state(summary: Mapping[str, Any]) -> str:
    """Return the state, and of a run or a watch that goes on where it is and when it last showed a sign of life."""
    life, holder = summary["sign_of_life"], summary["holder"]
    where = f" on host {holder['host']} (pid {holder['pid']})" if holder else ""
    if life is None:
        return str(summary["state"])
    if summary["state"] == "interrupted":
        return f"{summary['state']}: the process{where} is gone; run it again to resume"
    where = f"{'waiting for images, watched' if summary['state'] == WAITING else 'running'}{where}"
    if life["seen"] == "process":
        return where
    age = _age(life["age_seconds"])
    if life["alive"]:
        return f"{where}, last sign of life {age} ago"
    if life["alive"] is None:
        return f"{where}, no sign of life for {age}: if there is none for 30 s, it is probably dead"
    return f"{where}, no sign of life for {age}: probably dead; run it again to resume"


def numbers_of(summary: Mapping[str, Any]) -> list[str]:
    """Return how much of a run is done, each number with its unit."""
    share = summary["predicted"] / summary["pixels"] if summary["pixels"] else 0.0
    parts = [f"{share:.1%} of {summary['pixels'] / 1e6:.1f} Mpx predicted"]
    return parts + [f"{count} of {summary['blocks']} blocks {word}" for word in ("scored", "done") if (count := summary[f"blocks_{word}"])]


def pace_of(summary: Mapping[str, Any]) -> list[str]:
    """Return speed, time left, number of actors and how busy they are, as far as they are known, each with its unit."""
    pace = pace_text(summary["pixels_per_second"], summary["seconds_left"] or None)
    return [*pace, *busy_text(summary["actors"], summary["busy_share"])]


def _busy_share(metrics: Mapping[str, Any]) -> float | None:
    """Return the share of the lifetime of the actors in which they computed; None where none is known to have lived."""
    lived = metrics.get("actor_seconds")
    return min(1.0, metrics["stage_seconds"].get("compute", 0.0) / lived) if lived else None


def _of(row: Mapping[str, Any]) -> str:
    """Return of how many blocks some are done, and how many failed."""
    return ("" if row["total"] is None else f" of {row['total']}") + (f" ({row['failed']} failed)" if row["failed"] else "")


def _age(seconds: float) -> str:
    """Return a time as people say it."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.0f} h"
