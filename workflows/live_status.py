"""Watch a run from its output, until it ends: a table on a terminal, elsewhere one line a change."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline.errors import GigasegError, InputError, counted, printable
from pipeline.report import RunState, describe_group
from pipeline.scheduling import LiveTable, busy_text, pace_text
from workflows.run_view import ENDED, LOOK_S, WAITING, RunView, described_state, numbers_of, pace_of

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["RecentSpeed", "watch_run"]

TERMINAL_S, LINES_S = 2.0, 10.0  # between two looks
RECENT_S = 60.0  # over which the speed is measured
MOST_GROUPS = 5  # causes of failures on the terminal


def watch_run(view: RunView, *, as_json: bool, every: float | None) -> int:
    """Show a run or a training until it ends; return the exit code that it ended with."""
    is_terminal = sys.stdout.isatty() and not as_json
    looks = _looks(view, every or (TERMINAL_S if is_terminal else LINES_S))
    last = _draw(view.run, looks) if is_terminal else _print_changes(looks, as_json=as_json)
    code, meaning = ENDED[last["state"]]
    if not as_json:
        print(f"{last['output']}: {last['state']}: the run ended with exit code {code} ({meaning})")
    return code


def _looks(view: RunView, every: float) -> Iterator[dict[str, Any]]:
    """Yield what is known, again and again, until the run has ended.

    A store that cannot be reached for a while does not end the watch: ``unread`` then says why.
    """
    speed = RecentSpeed()
    last = view.look(wait_s=LOOK_S)
    while True:
        yield speed.put_into(last)
        if last["state"] in ENDED:
            return
        time.sleep(every)
        try:
            last = view.look()
        except GigasegError as error:
            if last["state"] == WAITING and isinstance(error, InputError):  # a watch that ended before an image came leaves nothing
                raise
            last = {**last, "unread": str(error)}


class RecentSpeed:
    """The speed over the last minute, as seen from here."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, int]] = []  # time, settled blocks
        self._holder: Any = None

    def put_into(self, summary: dict[str, Any]) -> dict[str, Any]:
        """Return the summary with the speed that was measured here, where blocks were settled meanwhile."""
        if summary["kind"] != "run" or summary["state"] != "running" or not summary["blocks_total"]:
            return summary
        if summary["holder"] != self._holder or not _lives(summary):
            self._holder, self._seen = summary["holder"], []
        now, settled, total = time.monotonic(), summary["blocks_settled"], summary["blocks_total"]
        if [count for _, count in self._seen] == [settled]:
            self._seen = []  # measured from the look after which the first block was settled: actors took time to start
        recent = [(when, count) for when, count in self._seen if now - when <= RECENT_S and count <= settled]
        self._seen = [*(recent or self._seen[-1:]), (now, settled)]
        when, count = self._seen[0]
        if not count < settled or now <= when or not _lives(summary):
            return summary
        rate = (settled - count) / (now - when)
        return {**summary, "pixels_per_second": rate * summary["pixels"] / total, "seconds_left": max(0, total - settled) / rate}


def _lives(summary: Mapping[str, Any]) -> bool:
    return bool(summary["sign_of_life"]) and summary["sign_of_life"]["alive"] is not False


def _print_changes(looks: Iterator[dict[str, Any]], *, as_json: bool) -> dict[str, Any]:
    """Print a line for each look that found something new; return the last."""
    last: dict[str, Any] = {}
    before, told = (), ""
    for last in looks:
        if (now := _what_counts(last)) == before:
            continue
        before = now
        if as_json:
            print(json.dumps(last), flush=True)
            continue
        state = last["unread"] if "unread" in last else _kind_of_state(last)
        if state != told:
            told = state
            print(last.get("unread", f"{last['output']}: {described_state(last)}"), flush=True)
        print(_line(last), flush=True)
    return last


def _draw(run: RunState, looks: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """Redraw the terminal at each look; return the last."""
    from rich.console import Console
    from rich.live import Live

    last: dict[str, Any] = {}
    with Live(console=Console(), auto_refresh=False) as live:
        for last in looks:
            live.update(_page(last, run), refresh=True)
    return last


def _page(summary: Mapping[str, Any], run: RunState) -> RenderableType:
    """Return the state of the run, the table of its images, and the causes of failures."""
    from rich.console import Group
    from rich.text import Text

    def line(text: str, style: str = "") -> Text:
        return Text(printable(text), style=style, overflow="ellipsis", no_wrap=True)

    head = line(f"{summary['output']}: {described_state(summary)}", "bold")
    notes = [line(summary["unread"], "yellow")] if "unread" in summary else []
    if summary["kind"] == "training":
        return Group(head, Text(_line(summary)), *notes)
    groups, total = summary["failure_groups"], summary["blocks_total"]
    failed = [line(describe_group(group), "red") for group in groups[:MOST_GROUPS]]
    if len(groups) > MOST_GROUPS:
        failed.append(line(f"and {len(groups) - MOST_GROUPS} other causes", "red"))
    totals = {name: row["total"] for name, row in summary["phases"].items()}
    return LiveTable(
        num_images=summary["images"],
        share=summary["blocks_settled"] / total if total else None,
        pace=pace_text(summary["pixels_per_second"], summary["seconds_left"]),
        load=busy_text(summary["actors"], summary["busy_share"], summary["peak_actor_bytes"]),
        rows=partial(run.newest, totals),
        above=(head,),
        below=(line(", ".join(numbers_of(summary))), *failed, *notes),
    )


def _line(summary: Mapping[str, Any]) -> str:
    """Return one line of what changes."""
    if summary["kind"] == "training":
        return f"step {summary['step']:,}, loss {summary['loss']}, best mean IoU {summary['best']}"
    settled, total = summary["blocks_settled"], summary["blocks_total"]
    parts = [f"{settled} of {total} blocks ({settled / total:.0%})" if total else f"{settled} blocks"]
    parts += pace_of(summary)
    if failed := sum(group["failures"] for group in summary["failure_groups"]):
        parts.append(counted(failed, "failure"))
    if current := summary["current"]:
        parts.append(f"{current['phase']} {current['image']}")
    return printable(", ".join(parts))


def _what_counts(summary: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what a line is printed for when it changes: not clocks and speeds."""
    numbers = ("blocks_settled", "blocks_total", "step", "loss", "best", "unread")
    failed = sum(group["failures"] for group in summary.get("failure_groups", ()))
    return _kind_of_state(summary), failed, *(summary.get(name) for name in numbers)


def _kind_of_state(summary: Mapping[str, Any]) -> str:
    """Return state and whether a sign of life was seen: not when, which changes with every look."""
    life = summary["sign_of_life"] or {}
    return f"{summary['state']} {life.get('alive')} {summary['holder']}"
