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
from pathlib import Path
from typing import Any

from pipeline.errors import InputError, Problem, nearest
from pipeline.system import say as say_on_stderr
from pipeline.viewer.pyramids import DrawnLayer, Written, places_of, write_layer
from pipeline.viewer.runs import ViewedRun
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
PAGE = Path(__file__).parent / "page"
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
    _announce(runs, names, max_size, root, say)
    _empty(root)
    written, folders = Written(), {}
    _mark(root, is_complete=False)
    (root / "index.html").write_text(UNFINISHED, encoding="utf-8")
    try:
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1), "export") as pool:
            for number, name in enumerate(names, start=1):
                folders[name] = f"{number:04}"
                _write_image(runs, name, folders[name], max_size, root, pool, written)
                say(f"{number} of {len(names)}: {name}; {in_digits(written.files)} files, {in_bytes(written.bytes)} so far")
        _write_page(runs, folders, root)
    except BaseException:
        say(f"The copy in {root} is not complete. Run the same command again: it begins anew.")
        raise
    _mark(root, is_complete=True)
    if written.missing:
        say(f"{in_digits(written.missing)} tiles could not be drawn and are left out: {written.cause}")
    say(f"Open {root / 'index.html'}: {in_digits(written.files)} tiles and descriptors, {in_bytes(written.bytes)}")


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


def _layers(runs: Mapping[str, ViewedRun], run: str, name: str) -> tuple[dict[str, Any], list[DrawnLayer]]:
    """Return what is known of an image of a run, and the layers that are drawn of it."""
    other = runs.get("b") if run == "a" else None
    facts = runs[run].image(name, other)
    classes = tuple(runs[run].run()["classes"])
    split = classes if len(classes) <= MOST_CLASSES else ()
    plane = facts["num_planes"] // 2
    return facts, [DrawnLayer(runs[run], name, layer, plane, split, other) for layer in facts["layers"]]


def _announce(runs: Mapping[str, ViewedRun], names: Sequence[str], max_size: int, root: Path, say: Say) -> None:
    """Tell about how many files of which size will be written, judged by some tiles of the first image; refuse if there is no room."""
    if not names:
        raise InputError(Problem("--export", "a run without an image that can be opened", "a run that has segmented one"))
    shapes = {one["name"]: (int(one["shape"][0]), int(one["shape"][1])) for one in runs["a"].progress.plan["images"]}
    num_tiles = sum(sum(map(len, places_of(shapes[name], _finest(shapes[name], max_size)))) for name in names)
    files, size = 0.0, 0.0
    for run in runs:
        if names[0] not in runs[run].names:
            continue
        facts, layers = _layers(runs, run, names[0])
        shape = facts["shape"][0], facts["shape"][1]
        places = places_of(shape, _finest(shape, max_size))[-1]
        sampled = places[:: max(1, len(places) // NUM_SAMPLES)]
        found = [len(data) for layer in layers for place in sampled for data in layer.draw(shape, place).values()]
        files, size = files + num_tiles * len(found) / len(sampled), size + num_tiles * sum(found) / len(sampled)
    limit = "at full size" if not max_size else f"at most {in_digits(max_size)} pixels a side (--max-size)"
    say(f"Copies {in_digits(len(names))} images, {limit}: about {in_digits(round(files))} files, {in_bytes(size)}, into {root}")
    above = next(one for one in (root, *root.parents) if one.exists())
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


def _write_image(
    runs: Mapping[str, ViewedRun], name: str, folder: str, max_size: int, root: Path, pool: ThreadPoolExecutor, written: Written
) -> None:
    """Write the pyramids of an image, of each run that has it, and what the page must know of it."""
    (root / "images" / folder).mkdir(parents=True)
    content: dict[str, Any] = {}
    for run, viewed in runs.items():
        if name not in viewed.names:
            continue
        facts, layers = _layers(runs, run, name)
        shape, plane = (facts["shape"][0], facts["shape"][1]), facts["num_planes"] // 2
        finest = _finest(shape, max_size)
        step = 1 << (facts["levels"] - 1 - finest)
        pyramids = {
            one.layer: [made.facts() for made in write_layer(one, shape, finest, root, f"images/{folder}/{run}-{one.layer}", pool, written)]
            for one in layers
        }
        notes = [*facts["notes"], *_notes(step, facts["num_planes"], plane)]
        content[run] = {**facts, "notes": notes, "levels": finest + 1, "step": step, "num_planes": 1, "planes": {}, "pyramids": pyramids}
    plane = runs["a"].image(name)["num_planes"] // 2
    content["worst"] = _worst(runs["a"], name, plane)
    content["objects"] = _objects(runs["a"], name)
    (root / "images" / folder / "data.js").write_text(f"gigasegCopy.loaded[{json.dumps(folder)}]={_json(content)};\n", encoding="ascii")


def _notes(step: int, num_planes: int, plane: int) -> list[str]:
    """Say what a copy does not show."""
    coarse = [f"This copy shows one of {step} × {step} pixels."] if step > 1 else []
    return [*coarse, f"Of {num_planes} planes it shows number {plane + 1}."] if num_planes > 1 else coarse


def _worst(run: ViewedRun, name: str, plane: int) -> dict[str, list[dict[str, Any]]]:
    """Return the worst blocks of an image in the plane that is shown, by what they are ranked."""
    return {by: [{**one, "plane": 0} for one in run.worst(by, name, MOST_WORST) if one["plane"] == plane] for by in run.run()["worst_by"]}


def _objects(run: ViewedRun, name: str) -> dict[str, Any]:
    """Return the largest objects of an image, and the columns of their table."""
    found = run.objects(name, sort="area", descending=True, limit=MOST_OBJECTS) if "outlines" in run.image(name)["layers"] else {}
    return {"columns": found.get("columns", []), "rows": found.get("rows", [])}


def _write_page(runs: Mapping[str, ViewedRun], folders: Mapping[str, str], root: Path) -> None:
    """Write the page, its files and what it must know of the runs; the page comes last."""
    static = root / "static"
    static.mkdir()
    licence = VENDOR / "openseadragon.license.txt"
    files = [*PAGE.glob("*.js"), *PAGE.glob("*.css"), VENDOR.parent / "colors.css", VENDOR / "openseadragon.min.js", licence]
    for path in files:
        if path.name != "server.js":
            (static / path.name).write_bytes(path.read_bytes())
    known = {key: run.run() for key, run in runs.items()}
    for facts in known.values():
        facts["images"] = [one for one in facts["images"] if one["name"] in folders]
        facts |= {"other": "b" in runs, "can_switch_classes": len(facts["classes"]) <= MOST_CLASSES}
    worst = {by: _worst_of_all(runs["a"], folders, by) for by in known["a"]["worst_by"]}
    content = {"runs": known, "folders": folders, "worst": worst, "loaded": {}}
    (root / "data.js").write_text(f"window.gigasegCopy={_json(content)};\n", encoding="ascii")
    page = (PAGE / "index.html").read_text(encoding="utf-8")
    if SERVER_SCRIPT not in page:
        raise AssertionError(f"index.html does not load {SERVER_SCRIPT}")
    (root / "index.html").write_text(page.replace(SERVER_SCRIPT, COPY_SCRIPTS), encoding="utf-8")


def _worst_of_all(run: ViewedRun, folders: Mapping[str, str], by: str) -> list[dict[str, Any]]:
    found = [one for name in folders for one in _worst(run, name, run.image(name)["num_planes"] // 2)[by]]
    return sorted(found, key=lambda one: (-one["pixels"], one["image"], one["block"]))[:MOST_WORST]


def _json(value: Any) -> str:
    """Return JSON as a script can hold it."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
