"""One pass of a watch, in a process of its own: segment what has settled, and say of each image how it went.

A process that ends gives back all memory. The watch writes a job on the pass' stdin and keeps it open: where it closes, the watch
is gone, and the pass ends as after SIGTERM.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config import Config, load_written_config
from pipeline.errors import GigasegError, InputError, StoreError, lines_of
from pipeline.inputs import build_catalogue, first_of, hash_values
from pipeline.records import RunFolder, compact_ledger, latest, read_rows
from pipeline.scheduling import EXIT_INTERRUPTED
from pipeline.storage import Storage
from pipeline.system import remember_interrupts
from workflows.run import execute_config

__all__ = ["do_pass"]

TOLD = "told.json"


def do_pass(job: Mapping[str, Any], segmented: Callable[[], None] = lambda: None) -> int:
    """Run the config over the accepted images and print a line for each image that is new.

    Args:
        job: ``config``, as YAML; ``known``, paths of images that were accepted before; ``new`` ones; ``answer``, a file that gets
            the refused paths, each with the reason, as JSON; ``json``: whether to print JSON.
        segmented: called when nothing is left but to tell.

    Returns:
        The exit code of the run; 0 where every image was refused.
    """
    config = load_written_config(job["config"], job["origin"])
    compact_ledger(RunFolder(config.output).ledger)
    RunFolder(config.output).shorten_log()
    show = print_json if job["json"] else print_text
    told = Told(RunFolder(config.output).watch)
    refused: dict[str, str] = {}
    try:
        code, report = execute_config(config, accepted={*job["known"], *job["new"]})
    except InputError:
        accepted = {*job["known"], *fitting(config, job["known"], job["new"], refused)}
        if not refused:
            raise
        code, report = execute_config(config, accepted=accepted) if accepted else (0, {"per_image": [], "failures": []})
    Path(job["answer"]).write_text(json.dumps(refused))
    if code != EXIT_INTERRUPTED:  # else the next pass goes on, and tells
        segmented()
        lines = [*summaries(RunFolder(config.output), report), *(refusal(config, path, why) for path, why in refused.items())]
        told.tell(lines, show)
    return code


def fitting(config: Config, known: Sequence[str], new: Sequence[str], refused: dict[str, str]) -> list[str]:
    """Return the new images that a run accepts together with the known ones; the others are added to ``refused``.

    A run refuses all of its images where one has, say, other channels than the model wants. Which one is found by halving.

    Raises:
        StoreError: the folder is gone: nothing can be said of an image.
    """
    folder = str(config.images[0])
    if not new:
        return []
    try:
        build_catalogue(config, {*known, *new})
    except InputError as error:
        if folder.startswith("/") and not os.path.isdir(folder):  # noqa: PTH112 - as everywhere for folders of images
            raise StoreError(f"{folder} is gone: is its file system mounted?") from error
        if len(new) == 1:
            refused[new[0]] = str(error).replace("\n", "; ")
            return []
    else:
        return list(new)
    half = len(new) // 2
    first = fitting(config, known, new[:half], refused)
    return [*first, *fitting(config, [*known, *first], new[half:], refused)]


def summaries(folder: RunFolder, report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what is said of each image; ``key`` is another one after each change of its results."""
    seconds: dict[str, float] = {}
    keys: dict[str, list[Any]] = {}
    for receipt in latest(read_rows(folder.ledger)).values() if folder.ledger.exists() else ():
        seconds[receipt.image] = seconds.get(receipt.image, 0.0) + sum(receipt.seconds.values())
        keys.setdefault(receipt.image, []).append((receipt.phase, receipt.block, receipt.key, receipt.count_key, receipt.digest))
    causes: dict[str, list[str]] = {}
    for failure in report["failures"]:
        causes.setdefault(failure["image"], []).append(failure["cause"])
    for image in report["per_image"]:
        name = image["name"]
        failed = causes.get(name, [])
        predicted = {one["name"]: one["predicted"] for one in image["classes"]}
        total = sum(predicted.values())
        yield {
            "name": name,
            "key": hash_values(sorted(keys.get(name, [])), failed),
            "pixels": image["pixels"],
            "seconds": round(seconds.get(name, 0.0), 3),
            "shares": {label: count / total for label, count in predicted.items()} if total else {},
            "mean_iou": image.get("mean_iou"),
            "failures": len(failed),
            "causes": list(dict.fromkeys(failed)),
            "warnings": image.get("warnings", []),
        }


def refusal(config: Config, path: str, why: str) -> dict[str, Any]:
    """Return what is said of an image that no run can take."""
    name = path.removeprefix(str(config.images[0]).rstrip("/") + "/")
    nothing = {"pixels": 0, "seconds": 0.0, "shares": {}, "mean_iou": None}
    return {"name": name, "key": hash_values(why), **nothing, "failures": 1, "causes": [why], "warnings": []}


class Told:
    """What has been said of which image, kept in the output: each is told once, also after a restart."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._keys: dict[str, str] = json.loads(storage.get(TOLD) or b"{}") if storage.exists() else {}

    def tell(self, lines: Sequence[Mapping[str, Any]], show: Callable[[Mapping[str, Any]], None]) -> None:
        """Show the lines that are new, and forget the images that are gone."""
        for line in lines:
            if self._keys.get(line["name"]) != line["key"]:
                show(line)
        sys.stdout.flush()
        keys = {line["name"]: line["key"] for line in lines}
        if keys != self._keys:
            self._keys = keys
            self._storage.make()
            self._storage.put(TOLD, json.dumps(keys).encode())


def print_json(line: Mapping[str, Any]) -> None:
    """Print a line as JSON."""
    print(json.dumps({name: value for name, value in line.items() if name != "key"}))


def print_text(line: Mapping[str, Any]) -> None:
    """Print a line for people.

    Example:
        >>> shares = {"background": 0.75, "cell": 0.25}
        >>> print_text({"name": "a", "pixels": 4096, "seconds": 0.5, "shares": shares, "mean_iou": 0.9, "failures": 0, "causes": []})
        a: 4,096 pixels, 0.5 s, background 75.0 %, cell 25.0 %, mean IoU 0.900
    """
    parts = [f"{line['pixels']:,} pixels", f"{line['seconds']:.1f} s"] if line["pixels"] else []
    parts += [f"{label} {share:.1%}".replace("%", " %") for label, share in line["shares"].items()]
    if line["mean_iou"] is not None:
        parts.append(f"mean IoU {line['mean_iou']:.3f}")
    if line["failures"]:
        parts.append(f"{line['failures']} failed: {first_of(line['causes'], 2)}")
    parts += line.get("warnings", ())
    print(f"{line['name']}: {', '.join(parts)}")


def ignore(kind: signal.Signals) -> None:
    """Let a signal have no effect any more."""
    signal.signal(kind, signal.SIG_IGN)


def iter_line() -> Iterator[bytes]:
    """Yield the pieces of the line on stdin."""
    while piece := os.read(0, 1 << 16):
        yield piece
        if piece.endswith(b"\n"):
            return


def end_with_parent() -> None:
    """Interrupt this process once stdin is closed."""
    while os.read(0, 1 << 16):  # a buffered reader would hold a lock when the interpreter ends
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> int:
    """Do the pass whose job stands on stdin; return its exit code."""
    job = json.loads(b"".join(iter_line()))
    threading.Thread(target=end_with_parent, daemon=True).start()
    with remember_interrupts():
        try:
            return do_pass(job, lambda: ignore(signal.SIGTERM))
        except KeyboardInterrupt:
            return EXIT_INTERRUPTED
        except Exception as error:  # noqa: BLE001 - the watch tells the lines, and tries again
            sys.stderr.write("".join(f"{line}\n" for line in lines_of(error)))
            return error.exit_code if isinstance(error, GigasegError) else 1


if __name__ == "__main__":
    sys.exit(main())
