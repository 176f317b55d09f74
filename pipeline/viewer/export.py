"""A copy of what the viewer shows, as files that a browser opens from disk: `gigaseg view DIR --export FOLDER`.

The copy is a folder: ``index.html``, the page's scripts, and the layers of each image as Deep Zoom pyramids. It needs no server, and so
holds no raw pixel values: channels are drawn as usual, and of a stack the middle plane is shown.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.errors import InputError, Problem, counted, nearest, printable
from pipeline.system import say as say_on_stderr
from pipeline.viewer.pyramids import DrawnLayer, Written, places_of, write_layer
from pipeline.viewer.runs import ViewedRun
from pipeline.viewer.server import PAGE, SHARED
from pipeline.viewer.tiles import num_levels
from pipeline.web import VENDOR, in_bytes, in_digits

__all__ = ["MAX_SIZE", "export_run"]

MAX_SIZE = 8192  # longer side of the finest level, pixels
MOST_CLASSES = 12  # that get a pyramid each; with more, classes cannot be switched off
MOST_WORST = 50  # blocks of an image that are listed
MOST_OBJECTS = 1000  # of an image that are listed, the largest ones
NUM_SAMPLES = 6  # tiles of a layer from which sizes are estimated
MARKER = "gigaseg-view.json"
FORMAT = "gigaseg.view/1"
OWN = ("images", "static", "index.html", "data.js", MARKER)  # what a copy consists of
SERVER_SCRIPT = '<script src="static/server.js" defer></script>'
COPY_SCRIPTS = '<script src="data.js" defer></script>\n<script src="static/copy.js" defer></script>'
UNFINISHED = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>Not finished</title>
<p>This copy is being written, or was interrupted. Run the same command again: <code>gigaseg view ... --export ...</code></p></html>
"""
Say = Callable[[str], None]


def export_run(
    runs: Mapping[str, ViewedRun], folder: Path, *, names: Sequence[str] = (), max_size: int = MAX_SIZE, say: Say = say_on_stderr
) -> None:
    """Write a copy of a run, and of another one beside it, into a folder.

    Args:
        runs: by ``a`` and ``b``; b is compared with a.
        folder: is made; one that holds an earlier copy is emptied of it.
        names: images to copy; empty: all that can be opened.
        max_size: the finest level of an image is the largest one whose longer side is at most this, in pixels; 0: its full size.
        say: is told how far the copy is.

    Raises:
        InputError: the folder holds something else or lies in a run, an image is unknown, or there is not enough room.
        OSError: the folder cannot be written.
    """
    root = _checked_folder(folder, runs)
    names = _checked_names(runs["a"], names)

    def tell(text: str) -> None:
        say(printable(text))

    copy = _Copy(runs, root, max_size, tell)
    _announce(copy, names, tell)
    _empty(root)
    _mark(root, is_complete=False)
    (root / "index.html").write_text(UNFINISHED, encoding="utf-8")
    try:
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1), "export") as pool:
            for number, name in enumerate(names, start=1):
                copy.write_image(name, f"{number:04}", pool)
                tell(f"{number} of {len(names)}: {name}; {copy.written} so far")
        copy.write_page()
    except BaseException:
        tell(f"The copy in {root} is not complete. Run the same command again: it begins anew.")
        raise
    _mark(root, is_complete=True)
    if copy.written.missing:
        tell(f"{counted(copy.written.missing, 'tile')} could not be drawn, and are left out: {copy.written.cause}")
    tell(f"Open {root / 'index.html'}: {copy.written}")


def _checked_folder(folder: Path, runs: Mapping[str, ViewedRun]) -> Path:
    """Return the folder as an absolute path; refuse one that would be mixed with something else."""
    if "://" in str(folder):
        raise InputError(Problem("--export", str(folder), "a folder of this machine", "Copy it from there with the tools of the store."))
    root = folder.expanduser().resolve()
    for run in runs.values():
        url = run.folder.storage.url
        where = None if "://" in url else Path(url).resolve()
        if where is not None and (where in (root, *root.parents) or root in where.parents):
            raise InputError(Problem("--export", str(root), f"a folder beside the run {where}, not in or around it"))
    if root.exists() and not root.is_dir():
        raise InputError(Problem("--export", f"the file {root}", "a folder"))
    if root.is_dir() and any(root.iterdir()) and not _is_copy(root):
        raise InputError(Problem("--export", f"{root}, which holds other files", "a new or empty folder, or an earlier copy"))
    return root


def _is_copy(root: Path) -> bool:
    try:
        content = json.loads((root / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def _checked_names(run: ViewedRun, names: Sequence[str]) -> list[str]:
    """Return the images to copy, each once, in the order of the run."""
    known = list(run.names)
    problems = [Problem("--images", repr(name), "an image of the run", nearest(name, known)) for name in names if name not in known]
    if problems:
        raise InputError(problems)
    return [name for name in known if name in set(names)] if names else known


def _finest(shape: tuple[int, int], max_size: int) -> int:
    """Return the finest level that is copied.

    Example:
        >>> _finest((65536, 40000), 8192), _finest((1000, 500), 8192), _finest((65536, 40000), 0)
        (13, 10, 16)
    """
    finest = num_levels(shape) - 1
    while max_size and -(-max(shape) >> (num_levels(shape) - 1 - finest)) > max(1, max_size):
        finest -= 1
    return finest


def _announce(copy: _Copy, names: Sequence[str], say: Say) -> None:
    """Tell about how many files of which size will be written, judged by some tiles of the first image; refuse if there is no room."""
    if not names:
        raise InputError(Problem("--export", "a run without an image that can be opened", "a run that has segmented one"))
    shapes = {one["name"]: (int(one["shape"][0]), int(one["shape"][1])) for one in copy.runs["a"].progress.plan["images"]}
    num_tiles = sum(len(places) for name in names for places in places_of(shapes[name], _finest(shapes[name], copy.max_size)))
    places = places_of(shapes[names[0]], _finest(shapes[names[0]], copy.max_size))[-1]
    sampled = places[:: max(1, len(places) // NUM_SAMPLES)]
    found: list[int] = []
    for run in copy.runs_with(names[0]):
        facts, layers = copy.layers(run, names[0])
        for layer in layers:
            with suppress(Exception):  # told when the tile is left out
                found += [len(data) for place in sampled for data in layer.draw(tuple(facts["shape"]), place).values()]
    files, size = num_tiles * len(found) // len(sampled), num_tiles * sum(found) / len(sampled)
    limit = "at full size" if not copy.max_size else f"at most {in_digits(copy.max_size)} pixels a side (--max-size)"
    say(f"Copies {counted(len(names), 'image')}, {limit}: about {in_digits(files)} files, {in_bytes(size)}, into {copy.root}")
    above = next(one for one in (copy.root, *copy.root.parents) if one.exists())
    free = shutil.disk_usage(above).free
    if size > free:
        problem = Problem(
            "--export", f"{in_bytes(free)} free in {above}", f"about {in_bytes(size)}", "Give a smaller --max-size, or --images."
        )
        raise InputError(problem)


def _empty(root: Path) -> None:
    """Make the folder, and take an earlier copy out of it; links are removed, not followed."""
    root.mkdir(parents=True, exist_ok=True)
    for name in OWN:
        path = root / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _mark(root: Path, *, is_complete: bool) -> None:
    (root / MARKER).write_text(json.dumps({"format": FORMAT, "complete": is_complete}) + "\n", encoding="utf-8")


class _Copy:
    """What is copied of runs, and what has been written of it."""

    def __init__(self, runs: Mapping[str, ViewedRun], root: Path, max_size: int, tell: Say) -> None:
        self.runs, self.root, self.max_size = runs, root, max_size
        self.known = {key: run.run() for key, run in runs.items()}
        self.written = Written(tell)
        self._folders: dict[str, str] = {}
        self._worst: dict[str, list[dict[str, Any]]] = {by: [] for by in self.known["a"]["worst_by"]}

    def runs_with(self, name: str) -> list[str]:
        """Return which of the runs have an image."""
        return [key for key, run in self.runs.items() if name in run.names]

    def layers(self, key: str, name: str) -> tuple[dict[str, Any], list[DrawnLayer]]:
        """Return what is known of an image of a run, and the layers that are drawn of it."""
        run, other = self.runs[key], self.runs.get("b") if key == "a" else None
        facts, classes = run.image(name, other), tuple(self.known[key]["classes"])
        split = classes if len(classes) <= MOST_CLASSES else ()
        return facts, [DrawnLayer(run, name, layer, facts["num_planes"] // 2, split, other) for layer in facts["layers"]]

    def write_image(self, name: str, folder: str, pool: ThreadPoolExecutor) -> None:
        """Write the pyramids of an image, of each run that has it, and what the page must know of it."""
        self._folders[name] = folder
        (self.root / "images" / folder).mkdir(parents=True)
        content: dict[str, Any] = {key: self._write_layers(key, name, f"images/{folder}/{key}", pool) for key in self.runs_with(name)}
        content["worst"] = {by: self._worst_of(name, by) for by in self._worst}
        content["objects"] = _objects(self.runs["a"], name)
        text = f"gigasegCopy.loaded[{json.dumps(folder)}]={_json(content)};\n"
        (self.root / "images" / folder / "data.js").write_text(text, encoding="ascii")

    def _write_layers(self, key: str, name: str, stem: str, pool: ThreadPoolExecutor) -> dict[str, Any]:
        facts, layers = self.layers(key, name)
        shape = facts["shape"][0], facts["shape"][1]
        finest = _finest(shape, self.max_size)
        step = 1 << (facts["levels"] - 1 - finest)
        pyramids = {
            one.layer: [made.facts() for made in write_layer(one, shape, finest, self.root, f"{stem}-{one.layer}", pool, self.written)]
            for one in layers
        }
        notes = [*facts["notes"], *_notes(step, facts["num_planes"])]
        return {**facts, "notes": notes, "levels": finest + 1, "step": step, "num_planes": 1, "planes": {}, "pyramids": pyramids}

    def _worst_of(self, name: str, by: str) -> list[dict[str, Any]]:
        """Return the worst blocks of an image in the plane that is shown, and keep those that are among the worst of all."""
        run = self.runs["a"]
        plane = run.image(name)["num_planes"] // 2
        found = [{**one, "plane": 0} for one in run.worst(by, name, MOST_WORST) if one["plane"] == plane]
        self._worst[by] = sorted(self._worst[by] + found, key=lambda one: (-one["pixels"], one["image"], one["block"]))[:MOST_WORST]
        return found

    def write_page(self) -> None:
        """Write the page, its files and what it must know of the runs; the page comes last."""
        static = self.root / "static"
        static.mkdir()
        for path in (*PAGE.glob("*.js"), *PAGE.glob("*.css"), *SHARED, VENDOR / "openseadragon.license.txt"):
            if path.name != "server.js":
                (static / path.name).write_bytes(path.read_bytes())
        for facts in self.known.values():
            facts["images"] = [one for one in facts["images"] if one["name"] in self._folders]
            facts |= {"other": "b" in self.runs, "can_switch_classes": len(facts["classes"]) <= MOST_CLASSES}
        content = {"runs": self.known, "folders": self._folders, "worst": self._worst, "loaded": {}}
        (self.root / "data.js").write_text(f"window.gigasegCopy={_json(content)};\n", encoding="ascii")
        page = (PAGE / "index.html").read_text(encoding="utf-8")
        if SERVER_SCRIPT not in page:
            raise AssertionError(f"index.html does not load {SERVER_SCRIPT}")
        (self.root / "index.html").write_text(page.replace(SERVER_SCRIPT, COPY_SCRIPTS), encoding="utf-8")


def _notes(step: int, num_planes: int) -> list[str]:
    """Say what a copy does not show."""
    coarse = [f"This copy shows one of {step} × {step} pixels."] if step > 1 else []
    return [*coarse, f"Of {num_planes} planes it shows number {num_planes // 2 + 1}."] if num_planes > 1 else coarse


def _objects(run: ViewedRun, name: str) -> dict[str, Any]:
    """Return the largest objects of an image, and the columns of their table."""
    found = run.objects(name, sort="area", descending=True, limit=MOST_OBJECTS) if run.image(name)["objects"] else {}
    return {"columns": found.get("columns", []), "rows": found.get("rows", [])}


def _json(value: Any) -> str:
    """Return JSON as a script can hold it."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
