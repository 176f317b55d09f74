"""`gigaseg bench`: how fast the model runs by itself on this machine, and how close the whole pipeline comes to that."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.config import Config, Recipe, config_from_mapping, load_config
from pipeline.errors import InputError, Problem
from pipeline.inputs import Catalogue, build_catalogue
from pipeline.models.bundle_files import parse_model
from pipeline.records import hardware
from pipeline.scheduling import make_job
from pipeline.tuning import (
    RunTiming,
    TriedBackend,
    choose_piece,
    choose_recipe,
    choose_runner,
    expect_backend,
    fastest_backend,
    halo_overhead,
    is_trial_worthwhile,
    likely_backend,
    measure_halo,
    num_gpus,
    read_largest_tile,
    time_backend_again,
    time_backends,
    time_piece,
)

__all__ = ["bench"]

FORMAT = "gigaseg.bench/1"
IMAGE, MODEL = "sample:nuclei", "nuclei"
MOST_PIXELS_S = 2e7  # pixels a second of an actor, where the model itself costs nothing
WORK_S = 12.0  # of computing, about, that the piece of a run is sized for


def bench(what: str | None, model: str | None, overrides: Sequence[str] = (), *, as_json: bool = False) -> int:
    """Time the model and the pipeline on this machine, on the user's own image. Returns 0.

    What is timed is a fresh run: the output folder is neither read nor written.

    Args:
        what: a YAML or an image; None: a sample.
        model: for an image: a model's name, a trained bundle or a mapping.
        overrides: keys of a run's YAML.
        as_json: print one JSON object.

    Raises:
        GigasegError: the input is wrong, or nothing runs the model here.
    """
    catalogue = build_catalogue(_config(what, model, overrides))
    if not catalogue.images:
        raise InputError([Problem(image.path, image.cause, "an image that can be read") for image in catalogue.rejected])
    catalogue.model.check()
    with TemporaryDirectory(prefix="gigaseg-bench-") as folder:
        content = _measure(catalogue, Path(folder), lambda line: print(line, file=sys.stderr, flush=True))
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
    return config_from_mapping(mapping, Path.cwd(), "command line", overrides)


def _measure(catalogue: Catalogue, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Time forward passes over one tile of the run, then a piece of the run, then the fastest forward pass again."""

    def has_gpu() -> bool:  # of this machine, where everything is timed, also where a run would go to a cluster
        return num_gpus() > 0

    choice = choose_recipe(catalogue, has_gpu, halo=measure_halo(catalogue), backend=likely_backend(catalogue, has_gpu))
    notes = [*catalogue.notes, *(note for note in choice.notes if not note.startswith("compute.backend:"))]
    job = make_job(catalogue, choice.recipe)
    largest = max(catalogue.images, key=lambda image: image.header.shape[0] * image.header.shape[1])
    tile = read_largest_tile(largest, job)
    height, width = tile.pixels_BCYX.shape[2:]
    tried = time_backends(catalogue, job, tile, lambda name: say(f"forward pass over a tile of {height} x {width}: {name}"))
    fastest = _fastest(tried)

    recipe = _with_backend(catalogue, choice.recipe, fastest, notes)
    runner, actors = _runner(catalogue, recipe, notes)
    pixels_s = min(1e6 / (fastest.seconds or 1.0) / halo_overhead([largest], job), MOST_PIXELS_S)
    images, recipe = choose_piece(catalogue, recipe, int(pixels_s * WORK_S * actors), actors)
    piece = replace(catalogue, images=images, rejected=())
    job = replace(make_job(piece, recipe), output=folder)
    say(f"a piece of the run: {piece.pixels / 1e6:.1f} Mpx, {runner}, {actors} actors")
    timing = time_piece(piece, job, runner)

    tried = [time_backend_again(catalogue, job, tile, backend) if backend is fastest else backend for backend in tried]
    measured = _speeds(tried, timing, halo_overhead(images, job), catalogue.pixels)
    facts = {"hardware": hardware(), "model": catalogue.config.model, "images": len(catalogue.images), "pixels": catalogue.pixels}
    how = {"tile": [height, width], "recipe": job.recipe.to_dict(), "runner": runner}
    return {"format": FORMAT, **facts, **how, **measured, "notes": notes}


def _speeds(tried: Sequence[TriedBackend], timing: RunTiming, overhead: float, pixels: int) -> dict[str, Any]:
    """Return what was measured, and what follows from it for a run of so many pixels; seconds, and megapixels a second."""
    fastest = _fastest(tried)
    limit, rate, busy = timing.actors / (fastest.seconds or 1.0) / overhead, timing.pixels_s / 1e6, sum(timing.stages.values())
    return {
        "backends": [{**asdict(backend), "tile_mpx_s": backend.seconds and 1 / backend.seconds} for backend in tried],
        "actors": timing.actors,
        "piece": {"pixels": timing.pixels, "blocks": timing.blocks, "seconds": timing.seconds},
        "image_mpx_s": rate,
        "stages": {name: seconds / busy for name, seconds in sorted(timing.stages.items(), key=lambda stage: -stage[1])},
        "fastest": fastest.backend,
        "halo_overhead": overhead,
        "limit_mpx_s": limit,
        "share_of_limit": rate / limit,
        "start_s": timing.start_s,
        "projected_s": timing.start_s + pixels / 1e6 / rate,
    }


def _fastest(tried: Sequence[TriedBackend]) -> TriedBackend:
    fastest = fastest_backend(tried)
    assert fastest is not None, "time_backends raises where nothing runs the model"
    return fastest


def _with_backend(catalogue: Catalogue, recipe: Recipe, fastest: TriedBackend, notes: list[str]) -> Recipe:
    """The recipe with the fastest backend, where the YAML leaves the choice open; a note where a run would not find it."""
    if not catalogue.model.takes_backend or catalogue.config.compute.backend != "auto":
        return recipe
    recipe = replace(recipe, backend=fastest.backend, precision=fastest.precision)
    if recipe.device == "cpu" and not is_trial_worthwhile(catalogue, recipe):
        expected = expect_backend(catalogue, lambda: False)
        taken = expected.backend if expected else "torch"
        if taken != fastest.backend:
            what = f"compute.backend: {fastest.backend} asks for what is timed here"
            notes.append(f"a run of so few pixels tries no backends and takes {taken}; {what}")
    return recipe


def _runner(catalogue: Catalogue, recipe: Recipe, notes: list[str]) -> tuple[str, int]:
    """The runner of the piece, as the run would choose it on this machine, and its number of actors."""
    compute = catalogue.config.compute
    address = compute.address or os.environ.get("RAY_ADDRESS")
    if address:
        notes.append(f"the Ray at {address} is not asked: one actor on this machine is timed, which is a share of the run's speed")
    if address or choose_runner(catalogue) == "serial":
        return "serial", 1
    room = len(os.sched_getaffinity(0)) // recipe.threads if recipe.device == "cpu" else num_gpus()
    return "ray", max(1, room) if compute.actors == "auto" else compute.actors


def _print(content: Mapping[str, Any]) -> None:
    """Print the content for people."""
    recipe, tile = content["recipe"], " x ".join(map(str, content["tile"]))
    takes_backend = any(backend["agreement"] is not None for backend in content["backends"])
    name = content["model"].get("path") or content["model"]["name"]
    print(
        f"{Path(str(name)).name} on {content['hardware']['cores']} cores; device {recipe['device']}, threads an actor {recipe['threads']}"
    )
    print(f"\n{f'forward pass alone, a tile of {tile}':<42}{'tile Mpx/s':<13}pixels of the class that eager fp32 gives them")
    for backend in content["backends"]:
        label = f"{backend['backend']} {backend['precision']}" if takes_backend else "the model"
        agreement = "" if backend["agreement"] is None else f"{backend['agreement']:.3%}"
        result = f"{backend['tile_mpx_s']:<13.3g}{agreement}" if backend["seconds"] else f"not used: {backend['refused']}"
        print(f"  {label:<40}{result}")
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
    print(f"\nall {content['images']} images, {content['pixels'] / 1e6:.4g} Mpx: about {_duration(content['projected_s'])}")
    for note in content["notes"]:
        print(f"note: {note}")


def _duration(seconds: float) -> str:
    """A time for people.

    Example:
        >>> _duration(4.24), _duration(75), _duration(7260)
        ('4.2 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
