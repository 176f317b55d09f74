"""Choosing the backend of a run: by a trial where the run is long, else by an earlier trial of this network, else by measurements.

A short run cannot repay a trial, and a graph that takes a second to compile may cost it more than eager torch's slower pixels. Its
backend is the one of the fewest seconds, preparing included: seconds a megapixel are those of an earlier trial of this network on
this machine, or of networks of its kind on processors of this class (:mod:`pipeline.tuning.backend_table`). A backend that is chosen
so without a trial computes two tiles of the user's images once for each network, and is taken only if it agrees with eager float32.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from pipeline.backends import find_backend, has_prepared_graph
from pipeline.config import Recipe
from pipeline.engine import cause_of
from pipeline.inputs import Catalogue, hash_values
from pipeline.storage import recall, remember
from pipeline.tuning.backend_table import BackendTable, Work, least_worst, network_kind, processor_class, read_table
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
    refused = _refusal(catalogue, replace(recipe, backend=chosen.backend, precision=chosen.precision))
    return _eager(recipe, chosen.backend, refused) if refused else chosen


def expect_backend(catalogue: Catalogue, has_gpu: Callable[[], bool] | None = None) -> BackendChoice | None:
    """Return what :func:`choose_backend` will choose, or probably choose, without computing anything."""
    recipe = first_recipe(catalogue, has_gpu)
    if is_trial_worthwhile(catalogue, recipe):
        return expect_trial(catalogue, recipe)
    chosen = _for_short_run(catalogue, recipe)
    if chosen is None or chosen.tried or chosen.backend == EAGER:
        return chosen
    known = recall(CHECKS, _check_key(catalogue, replace(recipe, backend=chosen.backend, precision=chosen.precision)))
    return _eager(recipe, chosen.backend, known["refused"]) if known and known.get("refused") else chosen


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
    unchecked = [
        one.backend for one in recipes if not known and one.backend != EAGER and recall(CHECKS, _check_key(catalogue, one)) is None
    ]
    work = replace(_work(catalogue, recipe), prepared=prepared, unchecked=unchecked, rates=rates)
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
    seconds = [{name: table.seconds(row, work) for name, row in case.items() if name in names} for case in like]
    best = least_worst(seconds)
    if best is None or len(seconds[0]) < 2:
        return None
    is_measured = any(row.processor == processor and row.kind == kind for row in table.rows if row.precision == precision)
    what = f"{kind or 'all kinds of'} networks" if is_measured or not kind else f"{kind} and other networks"
    where = f"on processors with {processor}" if any(row.processor == processor for row in table.rows) else "on other processors"
    rates = "speed as in a trial, preparing" if work.rates else f"of the fewest seconds for {work.pixels / 1e6:.2g} megapixels"
    return best[0], f"{rates} as measured of {what} {where}"


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
    key = _check_key(catalogue, recipe)
    known = recall(CHECKS, key)
    if known is not None and isinstance(known.get("refused"), str):
        return str(known["refused"])
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
        remember(CHECKS, key, {"refused": refused})
    return refused


def _check_key(catalogue: Catalogue, recipe: Recipe) -> str:
    """Fingerprint what the result of a check depends on: the network, the runtimes, and the backend."""
    facts: list[Any] = [recipe.backend, recipe.precision, recipe.device]
    return hash_values(VERSION, network_facts(catalogue), facts)
