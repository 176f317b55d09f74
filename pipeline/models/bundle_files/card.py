"""The card of a bundle: what people want to know before they use it. No mask depends on it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from pipeline.models.bundle_files.spec import ModelCard

__all__ = ["OWN_MASK", "Score", "card_of", "hash_without_card", "list_scores"]

OWN_MASK = "IoU with its own mask after"
"""Begins the name of a score that compares the masks of an image and of a changed one."""

WORDS_ALONE = frozenset({"not_for", "limits", "examples", "licence", "trained_on", "training_data", "scores", "citation"})
"""Keys of ``model.yaml`` that only people read."""

SHOWN = WORDS_ALONE | {
    *("classes", "kinds", "pixel_size", "unit", "diameter", "samples", "channels", "channel_names", "chosen_channels", "merge_channels"),
    *("normalize", "instances"),
}

NAMES = {
    "mean_iou": "mean IoU",
    "mean_dice": "mean Dice",
    "pixel_accuracy": "pixels that are right",
    "ap50": "AP at IoU 0.5",
    "mean_ap": "mean AP, IoU 0.5 to 0.95",
    "pq": "panoptic quality",
    "truth": "number in the truth",
    "predicted": "number that it finds",
}
PAIRS = {"iou": "IoU of", "iou_with_own_mask": OWN_MASK}  # mappings from a name to a score
NO_SCORES = {"intervals", "images", "pixels", "val"}  # how much was scored, and how
INTERVAL = "_interval"  # end of the key of a score's interval


class Score(NamedTuple):
    """One measured score.

    Attributes:
        data: what was scored, such as ``validation``; empty: not said.
        what: the measure, in words.
        value: a number; where it is a mapping or a text, as text.
        interval: its ends; None: there is none.
    """

    data: str
    what: str
    value: float | str
    interval: tuple[float, float] | None = None


def card_of(spec: ModelCard) -> dict[str, Any]:
    """Return the card as plain JSON: the keys of ``model.yaml`` that people ask for, without those that are not set."""
    return spec.model_dump(mode="json", include=set(SHOWN), exclude_defaults=True)


def hash_without_card(spec: ModelCard) -> str:
    """Return the SHA-256 of what masks depend on: a corrected card, or another `appearance`, belongs to the same model."""
    numbers = spec.model_dump(mode="json", exclude={*WORDS_ALONE, "appearance"}, exclude_defaults=True)
    return hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()


def list_scores(scores: Mapping[str, Any]) -> list[Score]:
    """Return the scores of a card one by one, with their intervals.

    A training writes ``{"validation": {"mean_iou", "mean_iou_interval", "iou": {class}, "objects": {class: {"ap50", ...}}, ...}}``;
    what people write otherwise is listed by its keys.

    Example:
        >>> for score in list_scores({"validation": {"mean_iou": 0.8, "mean_iou_interval": [0.7, 0.9], "iou": {"axon": 0.9}, "images": 5}}):
        ...     print(*score)
        validation mean IoU 0.8 (0.7, 0.9)
        validation IoU of axon 0.9 None
    """
    found = list[Score]()
    for data, values in scores.items():
        if isinstance(values, Mapping):
            found += [Score(str(data), *score) for score in _scores_of(values, ())]
        else:
            found += [Score("", *score) for score in _scores_of({data: values}, ())]
    return found


def _scores_of(
    values: Mapping[Any, Any], above: Sequence[str], intervals: Mapping[Any, Any] = MappingProxyType({})
) -> Iterator[tuple[str, float | str, tuple[float, float] | None]]:
    """Yield measure, value and interval of each leaf of a mapping; ``intervals`` are those of its keys, besides those that it holds."""
    beside = {key: values[f"{key}{INTERVAL}"] for key in values if f"{key}{INTERVAL}" in values}
    intervals = {**intervals, **beside}
    for key, value in values.items():
        if value is None or str(key).removesuffix(INTERVAL) in beside.keys() - {key} or (not above and key in NO_SCORES):
            continue
        path, ends = (*above, str(key)), intervals.get(key)
        if isinstance(value, Mapping):
            yield from _scores_of(value, path, ends if isinstance(ends, Mapping) else {})
        else:
            number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)
            yield _in_words(path), number, _ends(ends)


def _in_words(path: Sequence[str]) -> str:
    """Return a measure in words.

    Example:
        >>> _in_words(["objects", "axon", "ap50"]), _in_words(["iou", "axon"]), _in_words(["objects", "truth"])
        ('objects of axon: AP at IoU 0.5', 'IoU of axon', 'objects: number in the truth')
    """
    last = NAMES.get(path[-1], path[-1].replace("_", " "))
    if len(path) == 2 and path[0] in PAIRS:
        return f"{PAIRS[path[0]]} {path[1]}"
    if len(path) == 1:
        return last
    return f"{' of '.join([path[0], *path[1:-1]])}: {last}"


def _ends(value: Any) -> tuple[float, float] | None:
    """Return the ends of an interval; None where there are not two numbers."""
    if not isinstance(value, (list, tuple)) or len(value) != 2 or not all(isinstance(end, (int, float)) for end in value):
        return None
    return float(value[0]), float(value[1])
