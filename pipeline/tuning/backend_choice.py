"""Choosing the backend of a run: by a trial where the run is long, else by an earlier trial of this network, else by measurements.

A short run cannot repay a trial, and a graph that takes a second to compile may cost it more than eager torch's slower pixels. Its
backend is the one of the fewest seconds, preparing included: seconds a megapixel are those of an earlier trial of this network on
this machine, or of networks of its kind on processors of this class (:mod:`pipeline.tuning.backend_table`). A backend that keeps its
graph, so that later runs start sooner, may cost up to a fifth more in the run that makes it. A backend that is chosen so without a trial
computes two tiles of the user's images once for each network, and is taken only if it agrees with eager float32. For networks that come
with the package, in float32, tests show that.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipeline.backends import can_keep_graph, find_backend, has_prepared_graph
from pipeline.config import Recipe
from pipeline.engine import cause_of
from pipeline.inputs import Catalogue, hash_values
from pipeline.models.bundle_files import is_shipped
from pipeline.storage import recall, remember
from pipeline.tuning.backend_table import (
    BackendRow,
    BackendTable,
    Work,
    least_worst,
    network_kind,
    processor_class,
    read_table,
    worst_ratios,
)
from pipeline.tuning.backend_trial import (
    EAGER,
    LIKELY_BACKENDS,
    NUM_TILES,
    BackendChoice,
    disagreement,
    expect_trial,
    is_open,
    is_passing,
    is_trial_worthwhile,
    largest_side,
    network_facts,
    recall_trial,
    try_backends,
)
from pipeline.tuning.compute_choice import choose_runner, first_recipe, num_passes
from pipeline.tuning.sample_tiles import Comparison, predict_tiles, read_sample_tiles

__all__ = ["choose_backend", "expect_backend", "table_backend"]

CHECKS = "backend_checks"  # of the user's cache
NUM_LOCATIONS = 16  # that the tiles of a check are chosen from
FIRST_RUN = 1.2  # times the fewest seconds that a run may take where it makes later ones faster
VERSION = 1  # of remembered checks: raise it when earlier results must not be used


def choose_backend(catalogue: Catalogue, has_gpu: Callable[[], bool] | None = None, *, anew: bool = False) -> BackendChoice | None:
    """Choose the backend of a run on CPUs, and make sure that it runs this network.

    Args:
        catalogue: the run's images, model and config.
        has_gpu: whether actors will find a GPU; None: whether this machine has one.
        anew: hold a trial, where this run repays one, even if an earlier result is known.

    Returns:
        None: eager torch, or what the YAML names, without a choice.
    """
    if held := try_backends(catalogue, has_gpu, anew=anew):
        return held
    recipe = first_recipe(catalogue, has_gpu)
    chosen = _for_short_run(catalogue, recipe)
    if chosen is None or chosen.tried or chosen.backend == EAGER:
        return chosen
    taken = replace(recipe, backend=chosen.backend, precision=chosen.precision)
    refused = _refusal(catalogue, taken) if _needs_check(catalogue, taken) else _known_refusal(catalogue, taken)
    return _eager(recipe, chosen.backend, refused) if refused else chosen


def expect_backend(catalogue: Catalogue, has_gpu: Callable[[], bool] | None = None) -> BackendChoice | None:
    """Return what :func:`choose_backend` will choose, or probably choose, without computing anything."""
    recipe = first_recipe(catalogue, has_gpu)
    if is_trial_worthwhile(catalogue, recipe):
        return expect_trial(catalogue, recipe)
    chosen = _for_short_run(catalogue, recipe)
    if chosen is None or chosen.tried or chosen.backend == EAGER:
        return chosen
    refused = _known_refusal(catalogue, replace(recipe, backend=chosen.backend, precision=chosen.precision))
    return _eager(recipe, chosen.backend, refused) if refused else chosen


def _eager(recipe: Recipe, backend: str, refused: str) -> BackendChoice:
    return BackendChoice(EAGER, recipe.precision, reason=f"as {backend} does not serve this network: {refused}")


def _for_short_run(catalogue: Catalogue, recipe: Recipe) -> BackendChoice | None:
    """Return the backend of the fewest seconds for a run that holds no trial; None: there is nothing to choose."""
    if not is_open(catalogue, recipe):
        return None
    known = recall_trial(catalogue, recipe)
    precision = known.precision if known else recipe.precision
    names = [name for name in LIKELY_BACKENDS if not find_backend(name).problems(recipe.device, precision)]
    if known and known.backend not in names:
        return replace(known, reason="the fastest")  # what preparing it takes is not in the table
    rates = {one.backend: one.seconds for one in known.tried if one.seconds and one.precision == precision} if known else {}
    names = [name for name in names if name in rates] if known else names
    if len(names) < 2:
        return replace(known, reason="the only one that agrees") if known else None
    recipes = [replace(recipe, backend=name, precision=precision) for name in names]
    prepared = [one.backend for one in recipes if has_prepared_graph(catalogue.model, one)]
    unchecked = [one.backend for one in recipes if not known and _needs_check(catalogue, one)]
    keeping = [one.backend for one in recipes if can_keep_graph(catalogue.model, one)]
    work = replace(_work(catalogue, recipe), prepared=prepared, keeping=keeping, unchecked=unchecked, rates=rates)
    found = table_backend(read_table(), processor_class(), network_kind(catalogue.model), precision, work, names)
    if found is None:
        return replace(known, reason="the fastest") if known else None
    name, reason = found
    return replace(known, backend=name, reason=reason) if known else BackendChoice(name, precision, reason=reason)


def table_backend(
    table: BackendTable, processor: str, kind: str, precision: str, work: Work, names: Sequence[str]
) -> tuple[str, str] | None:
    """Return the backend of the fewest seconds by the table, and why; None: nothing like it was measured.

    Args:
        table: of measurements.
        processor: class of the processor.
        kind: of the network; empty: not known.
        precision: of the recipe.
        work: what the run computes.
        names: the backends to choose from.
    """
    like = table.like(processor, kind, precision)
    seconds = _seconds(table, like, work, names)
    best = least_worst(seconds)
    if best is None or len(seconds[0]) < 2:
        return None
    later = _faster_later(table, like, work, names)
    is_measured = any(row.processor == processor and row.kind == kind for row in table.rows if row.precision == precision)
    what = f"{kind or 'all kinds of'} networks" if is_measured or not kind else f"{kind} and other networks"
    where = f"on processors with {processor}" if any(row.processor == processor for row in table.rows) else "on other processors"
    if work.rates:
        why = "the fastest by the speed of a trial and by seconds of preparing"
    elif later and later != best[0]:
        why = f"with which later runs start sooner, and {work.pixels / 1e6:.2g} megapixels take at most {FIRST_RUN} times as long now"
    else:
        why = f"the fastest for {work.pixels / 1e6:.2g} megapixels"
    return later or best[0], f"{why}, as measured with {what} {where}"


def _seconds(table: BackendTable, like: Sequence[Mapping[str, BackendRow]], work: Work, names: Sequence[str]) -> list[dict[str, float]]:
    return [{name: table.seconds(row, work) for name, row in case.items() if name in names} for case in like]


def _faster_later(table: BackendTable, like: Sequence[Mapping[str, BackendRow]], work: Work, names: Sequence[str]) -> str:
    """Return the backend that would be chosen if its graph were kept, where this run may pay for making it; empty: there is none."""
    ratios = worst_ratios(_seconds(table, like, work, names))
    for name in (name for name in work.keeping if ratios.get(name, FIRST_RUN + 1) <= FIRST_RUN):
        next_work = replace(work, prepared=[*work.prepared, name], unchecked=[other for other in work.unchecked if other != name])
        if (best := least_worst(_seconds(table, like, next_work, names))) and best[0] == name:
            return name
    return ""


def _needs_check(catalogue: Catalogue, recipe: Recipe) -> bool:
    """Whether the answers of a backend are still to be compared with eager torch's."""
    is_known = recipe.backend == EAGER or (recipe.precision == "fp32" and is_shipped(catalogue.model.files()))
    return not is_known and recall(CHECKS, _check_key(catalogue, recipe)) is None


def _work(catalogue: Catalogue, recipe: Recipe) -> Work:
    """Return what a run computes, and in how many processes beside each other on this machine."""
    actors = catalogue.config.compute.actors
    cores = max(1, len(os.sched_getaffinity(0)) // recipe.threads)
    processes = 1 if choose_runner(catalogue) == "serial" else cores if actors == "auto" else actors
    return Work(catalogue.pixels * num_passes(catalogue.model), recipe.threads, processes)


def _refusal(catalogue: Catalogue, recipe: Recipe) -> str:
    """Say why a backend must not run this network; empty: it agrees with eager float32 on two tiles of the images.

    The result is remembered, unless it may be otherwise next time: the failure may pass, or the tiles show a single class, which
    says nothing of fewer bits than float32.
    """
    passing = False
    try:
        tiles = read_sample_tiles(catalogue, catalogue.images, NUM_TILES, largest_side(catalogue), NUM_LOCATIONS)
        expected = [logits for logits, *_ in predict_tiles(catalogue, Recipe(threads=recipe.threads), tiles)[0]]
    except Exception:  # noqa: BLE001 - the run will meet the same failure and report where it is
        return ""
    try:
        comparison = Comparison.of(predict_tiles(catalogue, recipe, tiles)[0], expected)
        refused = disagreement(comparison)
        passing = not refused and recipe.precision != "fp32" and not comparison.is_telling
    except Exception as error:  # noqa: BLE001 - a runtime may raise anything, and is then not the one to use
        refused, passing = cause_of(error)[:300], is_passing(error)
    if not passing:
        remember(CHECKS, _check_key(catalogue, recipe), {"refused": refused})
    return refused


def _known_refusal(catalogue: Catalogue, recipe: Recipe) -> str:
    """Return what an earlier check found; empty: nothing, or that the backend agrees."""
    return str((recall(CHECKS, _check_key(catalogue, recipe)) or {}).get("refused") or "")


def _check_key(catalogue: Catalogue, recipe: Recipe) -> str:
    """Fingerprint what the result of a check depends on: the network, the runtimes, and the backend."""
    facts: list[Any] = [recipe.backend, recipe.precision, recipe.device]
    return hash_values(VERSION, network_facts(catalogue), facts)
