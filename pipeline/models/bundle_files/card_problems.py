"""What can be wrong with a card besides single keys: whether its parts fit each other and the network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.errors import InputError, Problem, one_of
from pipeline.models.bundle_files.spec import ModelCard
from pipeline.plugins import build
from pipeline.statistics import check_mean_std

__all__ = ["channel_problems", "instances_problems"]


def channel_problems(card: ModelCard, channels: int | None) -> list[Problem]:
    """Return the problems of keys that hold something for each channel of the input; ``channels`` is their number, None: any."""
    problems = []
    if card.channel_names and channels not in (None, len(card.channel_names)):
        problems.append(Problem("channel_names", f"{len(card.channel_names)} names", f"{channels}, one for each channel"))
    if card.chosen_channels is not None and channels not in (None, len(card.chosen_channels.numbers)):
        found = f"{len(card.chosen_channels.numbers)} numbers"
        problems.append(Problem("chosen_channels.numbers", found, f"{channels}, one for each channel"))
    if isinstance(card.normalize, dict):
        problems += check_mean_std(card.normalize, channels)
    return problems


def instances_problems(card: ModelCard, class_names: Sequence[str], maps: Iterable[str]) -> list[Problem]:
    """Return the problems of ``instances``: the method's name and options, its classes, and the maps that it needs."""
    if card.instances is None:
        return []
    try:
        method: Any = build("instances", card.instances, "instances")
    except InputError as error:
        return [problem if isinstance(problem, Problem) else Problem("instances", problem) for problem in error.problems]
    problems = [Problem("instances.of", repr(name), one_of(class_names)) for name in method.of or () if name not in class_names]
    given = list(maps)
    if missing := [name for name in method.maps if name not in given]:
        problems.append(Problem("maps", one_of(given) if given else "none", f"{', '.join(missing)}, as instances needs"))
    return problems
