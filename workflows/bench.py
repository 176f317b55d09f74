"""How fast is it here: the model by itself, the engine around it, and how far the two are apart."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.backends import Backend
from pipeline.config import Config, Recipe, config_from, load_config
from pipeline.engine import Job
from pipeline.errors import InputError, Problem
from pipeline.inputs import Catalogue, build_catalogue
from pipeline.models import parse_model
from pipeline.plugins import find
from pipeline.records import hardware
from pipeline.scheduling import make_job
from pipeline.tuning import BackendChoice, TriedBackend, choose_recipe, choose_runner, is_trial_worthwhile, measure_halo, num_gpus
from workflows._forward import again, fastest, largest_tile, try_all
from workflows._piece import Timing, choose_piece, overhead, run_piece

__all__ = ["bench"]

FORMAT = "gigaseg.bench/1"
IMAGE, MODEL = "sample:nuclei", "nuclei"
MOST_RATE = 2e7  # pixels a second of an actor, where the model itself costs nothing
WORK_S = 12.0  # of computing, about, that the piece of a run is sized for


def bench(what: str | None, model: str | None, overrides: Sequence[str] = (), *, as_json: bool = False) -> int:
    """Time the model and the engine on this machine, on the user's own image; no output folder is touched.

    A fresh run is meant: what an earlier one in the output folder was done with is not looked at.

    Args:
        what: a YAML, an image, or None for a sample.
        model: for an image: a model's name, a trained bundle or a mapping.
        overrides: keys of a run's YAML.
        as_json: one object for machines.

    Returns:
        0.

    Raises:
        GigasegError: wrong input, or nothing runs the model here.
    """
    found = build_catalogue(_config(what, model, overrides))
    if not found.images:
        raise InputError([Problem(one.path, one.cause, "an image that can be read") for one in found.rejected])
    found.model.check()
    with TemporaryDirectory(prefix="gigaseg-bench-") as folder:
        content = _measure(found, Path(folder), lambda line: print(line, file=sys.stderr, flush=True))
    if as_json:
        print(json.dumps(content, indent=1))
    else:
        _print(content)
    return 0


def _config(what: str | None, model: str | None, overrides: Sequence[str]) -> Config:
    if what is not None and Path(what).suffix.lower() in (".yaml", ".yml"):
        if model is not None:
            raise InputError(Problem("--model", repr(model), "", f"{what} names its own; change it with --set model=..."))
        return load_config(Path(what), overrides)
    if what is not None and model is None:
        raise InputError(Problem("--model", None, "a model's name or a bundle", "`gigaseg models` lists them."))
    output = str(Path.cwd() / "bench")  # only a name: everything is written to a temporary folder
    mapping = {"images": [what or IMAGE], "model": parse_model(model or MODEL, "--model"), "output": output}
    return config_from(mapping, Path.cwd(), "command line", overrides)


def _measure(found: Catalogue, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Time forward passes at the tile of a run, then a piece of that run."""
    choice = choose_recipe(found, measured=measure_halo(found), outcome=_likely(found))
    job = make_job(found, choice.recipe)
    image = max(found.images, key=lambda one: one.header.shape[0] * one.header.shape[1])
    tile = largest_tile(image, job)
    side = " x ".join(map(str, tile.pixels_BCYX.shape[2:]))
    tried = try_all(found, job, tile, lambda name: say(f"forward pass over a tile of {side}: {name}"))
    best = fastest(tried)
    notes = [*found.notes, *(note for note in choice.notes if not note.startswith("compute.backend:"))]
    recipe = choice.recipe
    if found.model.takes_backend and found.config.compute.backend == "auto":
        recipe = replace(recipe, backend=best.backend, precision=best.precision)
        if recipe.device == "cpu" and not is_trial_worthwhile(found, recipe):
            notes.append(
                f"a run of so few pixels tries no backends and takes torch; compute.backend: {best.backend} asks for what is timed here"
            )
    runner, actors = _runner(found, recipe, notes)
    rate = min(1e6 / (best.seconds or 1.0) / overhead([image], job), MOST_RATE)
    images, recipe = choose_piece(found, recipe, int(rate * WORK_S * actors), actors)
    piece = replace(found, images=images, rejected=())
    job = replace(make_job(piece, recipe), output=folder)
    say(f"a piece of the run: {sum(i.header.shape[0] * i.header.shape[1] for i in images) / 1e6:.1f} Mpx, {runner}, {actors} actors")
    timing = run_piece(piece, job, found.config.compute, runner, folder)
    tried = again(found, job, tile, tried)
    return _content(found, job, tile.pixels_BCYX.shape[2:], tried, timing, overhead(images, job), runner, notes)


def _likely(found: Catalogue) -> BackendChoice | None:
    """The backend that a long run would probably take, which decides the tile; None: the YAML or the model says."""
    start = choose_recipe(found).recipe
    if found.config.compute.backend != "auto" or not found.model.takes_backend or start.device != "cpu":
        return None
    for name in ("openvino", "torch"):
        plugin = find("backends", name)
        if issubclass(plugin, Backend) and not plugin.problems(start.device, start.precision):
            return BackendChoice(name, start.precision)
    return None


def _runner(found: Catalogue, recipe: Recipe, notes: list[str]) -> tuple[str, int]:
    """Who runs the piece: what the run would take on this machine, and how many actors."""
    compute = found.config.compute
    address = compute.address or os.environ.get("RAY_ADDRESS")
    if address:
        notes.append(f"the Ray at {address} is not asked: one actor on this machine is timed, which is a share of the run's speed")
    if address or choose_runner(found) == "serial":
        return "serial", 1
    room = len(os.sched_getaffinity(0)) // recipe.threads if recipe.device == "cpu" else num_gpus()
    return "ray", max(1, room) if compute.actors == "auto" else compute.actors


def _content(
    found: Catalogue,
    job: Job,
    tile: Sequence[int],
    tried: Sequence[TriedBackend],
    timing: Timing,
    halo: float,
    runner: str,
    notes: Sequence[str],
) -> dict[str, Any]:
    """What was measured, and what follows from it; seconds, megapixels a second."""
    best = fastest(tried)
    limit = timing.actors / (best.seconds or 1.0) / halo
    total = sum(timing.stages.values())
    rate = timing.pixels_s / 1e6
    return {
        "format": FORMAT,
        "hardware": hardware(),
        "model": found.config.model,
        "images": len(found.images),
        "pixels": found.pixels,
        "tile": list(tile),
        "backends": [{**asdict(one), "tile_mpx_s": one.seconds and 1 / one.seconds} for one in tried],
        "recipe": job.recipe.to_dict(),
        "runner": runner,
        "actors": timing.actors,
        "piece": {"pixels": timing.pixels, "blocks": timing.blocks, "seconds": timing.seconds},
        "image_mpx_s": rate,
        "stages": {name: seconds / total for name, seconds in sorted(timing.stages.items(), key=lambda one: -one[1])},
        "fastest": best.backend,
        "halo_overhead": halo,
        "limit_mpx_s": limit,
        "share_of_limit": rate / limit,
        "start_s": timing.start_s,
        "projected_s": timing.start_s + found.pixels / 1e6 / rate,
        "notes": list(notes),
    }


def _print(content: Mapping[str, Any]) -> None:
    """The same for people."""
    recipe, tile = content["recipe"], " x ".join(map(str, content["tile"]))
    takes_backend = any(one["agreement"] is not None for one in content["backends"])
    name = content["model"].get("path") or content["model"]["name"]
    print(
        f"{Path(str(name)).name} on {content['hardware']['cores']} cores; device {recipe['device']}, threads an actor {recipe['threads']}"
    )
    print(f"\n{f'forward pass alone, a tile of {tile}':<42}{'tile Mpx/s':<13}pixels of the class that eager fp32 gives them")
    for one in content["backends"]:
        label = f"{one['backend']} {one['precision']}" if takes_backend else "the model"
        agreement = "" if one["agreement"] is None else f"{one['agreement']:.3%}"
        told = f"{one['tile_mpx_s']:<13.3g}{agreement}" if one["seconds"] else f"not used: {one['refused']}"
        print(f"  {label:<40}{told}")
    piece, rate = content["piece"], content["image_mpx_s"]
    how = f"{recipe['backend']} {recipe['precision']}, core {recipe['core']}, halo {recipe['halo']}, stitch {recipe['stitch']}"
    print(f"\nthe whole pipeline on {piece['pixels'] / 1e6:.1f} Mpx in {piece['blocks']} blocks")
    print(f"  {how if takes_backend else how.partition(', ')[2]}; runner {content['runner']}, actors {content['actors']}")
    print(f"  {rate:.3g} image Mpx/s once it is under way; {content['start_s']:.1f} s to start")
    print(
        f"  busy with: {', '.join(f'{stage} {share:.0%}' for stage, share in content['stages'].items())} (reading and writing go on beside)"
    )
    print("\nlimit: what no tool can beat with this model, halo and number of actors")
    alone = f"forward passes of {content['fastest']} alone" if takes_backend else "the model alone"
    print(f"  {alone}, {content['halo_overhead']:.2f} pixels computed for each one: {content['limit_mpx_s']:.3g} image Mpx/s;", end=" ")
    print(f"the pipeline is at {content['share_of_limit']:.0%} of it")
    print(f"\nall {content['images']} images, {content['pixels'] / 1e6:.4g} Mpx: about {duration(content['projected_s'])}")
    for note in content["notes"]:
        print(f"note: {note}")


def duration(seconds: float) -> str:
    """A time for people.

    Example:
        >>> duration(4.24), duration(75), duration(7260)
        ('4.2 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
