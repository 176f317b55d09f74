"""A card in words: for a terminal and for the page of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.errors import counted
from pipeline.models.bundle_files.card import OWN_MASK, Score, list_scores
from pipeline.web import in_digits, in_pixels

__all__ = ["CardPart", "ScoreTable", "card_parts", "score_tables", "summary_of"]

MINOR = ("mean Dice", "pixels that are right")  # scores that say little beside the IoU
LOWEST = 3  # changes of images that are named, of those after which the masks differ most
UNITS = {"micrometer": "µm", "meter": "m"}


class CardPart(NamedTuple):
    """One part of a card: its heading, and what it says; several entries are a list."""

    word: str
    entries: tuple[str, ...]


class ScoreTable(NamedTuple):
    """Scores on one set of images.

    Attributes:
        title: what was scored, and how much of it.
        rows: measure, value and 95 % interval, as text; an empty text where there is no interval.
        note: how the intervals were made, or why there are none; empty: nothing is known.
    """

    title: str
    rows: tuple[tuple[str, str, str], ...]
    note: str


def card_parts(card: Mapping[str, Any]) -> list[CardPart]:
    """Return what a card says, scores aside, without what it does not know: :func:`pipeline.models.bundle_files.card_of` makes cards.

    Example:
        >>> for part in card_parts({"kinds": ["aerial"], "not_for": ["street views"], "pixel_size": 0.3, "unit": "meter"}):
        ...     print(part.word, part.entries)
        For ('aerial images',)
        Not for ('street views',)
        Scale ('0.3 m a pixel; images of another pixel size are resampled to it',)
    """
    kinds = list(card.get("kinds", ()))
    parts = {
        "For": [f"{', '.join(kinds)} images"] if kinds else [],
        "Not for": card.get("not_for", ()),
        "Finds": _finds(card),
        "Takes": _takes(card),
        "Scale": _scale(card),
        "Limits": card.get("limits", ()),
        "Trained on": _trained_on(card),
        "Licence": [card["licence"]] if card.get("licence") else [],
        "Cite": [card["citation"]] if card.get("citation") else [],
    }
    return [CardPart(word, tuple(" ".join(str(entry).split()) for entry in entries)) for word, entries in parts.items() if entries]


def summary_of(card: Mapping[str, Any]) -> str:
    """Return what a model is for in one line.

    Example:
        >>> summary_of({"classes": [{"name": "ground"}, {"name": "roof"}], "kinds": ["aerial"], "not_for": ["street views: use another"]})
        'ground, roof; for aerial images; not for street views'
    """
    kinds, not_for = list(card.get("kinds", ())), [str(one).partition(":")[0] for one in card.get("not_for", ())]
    parts = [", ".join(str(one["name"]) for one in card.get("classes", ()))]
    parts += [f"for {', '.join(kinds)} images"] if kinds else []
    parts += [f"not for {', '.join(not_for)}"] if not_for else []
    return "; ".join(part for part in parts if part)


def score_tables(card: Mapping[str, Any]) -> list[ScoreTable]:
    """Return the scores of a card, a table for each set of images.

    Of many changes of images, only those are listed after which the masks differ most.
    """
    found, scores = list_scores(card.get("scores", {})), card.get("scores", {})
    return [
        ScoreTable(_title(data, scores.get(data)), tuple(_rows([one for one in found if one.data == data])), _note(scores.get(data)))
        for data in dict.fromkeys(one.data for one in found)
    ]


def _title(data: str, values: Any) -> str:
    known = values if isinstance(values, Mapping) else {}
    images, val = known.get("images"), str(known.get("val") or "")
    amount = [counted(images, "image")] if isinstance(images, int) else []
    how = "" if not val else f" ({val})"
    if amount and val.startswith(amount[0]):
        amount, how = [val], ""
    amount += [in_pixels(known["pixels"])] if isinstance(known.get("pixels"), int) else []
    name = {"validation": "Validation", "": "Scores"}.get(data, data[:1].upper() + data[1:].replace("_", " "))
    return f"{name}: {', '.join(amount)}{how}" if amount else f"{name}{how}"


def _rows(scores: Sequence[Score]) -> list[tuple[str, str, str]]:
    numbers = [one for one in scores if one.what not in MINOR]
    of_changes = [one for one in numbers if one.what.startswith(OWN_MASK) and not isinstance(one.value, str)]
    changed = sorted(of_changes, key=lambda one: one.value)
    shown = [one for one in numbers if one not in changed[LOWEST:]]
    rows = [(one.what, _number(one.value), "" if one.interval is None else " to ".join(map(in_digits, one.interval))) for one in shown]
    left = len(changed) - LOWEST
    return [*rows, (f"{OWN_MASK} {counted(left, 'other change')}", f"at least {_number(changed[LOWEST].value)}", "")] if left > 0 else rows


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else in_digits(value)


def _note(values: Any) -> str:
    how = values.get("intervals") if isinstance(values, Mapping) else None
    if not isinstance(how, Mapping):
        return ""
    made = f"95 % intervals: {how.get('method')}" if how.get("resamples") else "No intervals"
    return f"{made}{': ' if not how.get('resamples') else '; '}{how['note']}" if how.get("note") else made


def _finds(card: Mapping[str, Any]) -> list[str]:
    names = ", ".join(str(one["name"]) for one in card.get("classes", ()))
    method = card.get("instances") or {}
    of = " and ".join(map(str, method.get("of") or ())) or "object"
    return [f"{names}; tells each {of} apart ({method.get('name')})" if method else names] if names else []


def _takes(card: Mapping[str, Any]) -> list[str]:
    """Return channels, samples and normalisation in one sentence."""
    parts = []
    if card.get("merge_channels"):
        parts.append("any number of channels, merged")
    elif card.get("channel_names"):
        parts.append(f"channels {', '.join(map(str, card['channel_names']))}")
    elif card.get("channels"):
        parts.append(counted(card["channels"], "channel"))
    if samples := card.get("samples"):
        ends = samples.get("range")
        parts.append(f"{samples['dtype']}{f' samples of {ends[0]:g} to {ends[1]:g}' if ends else ' samples'}")
    if normalize := card.get("normalize"):
        parts.append(f"normalised by {normalize}" if isinstance(normalize, str) else "normalised by fixed mean and deviation")
    return ["; ".join(parts)] if parts else []


def _scale(card: Mapping[str, Any]) -> list[str]:
    size, unit = card.get("pixel_size"), UNITS[card.get("unit", "micrometer")]
    diameter, parts = card.get("diameter"), []
    if size:
        parts.append(f"{size:g} {unit} a pixel; images of another pixel size are resampled to it")
    if diameter:
        parts.append(f"objects of {diameter:g} pixels in diameter{f', {diameter * size:.3g} {unit}' if size else ''}")
    return ["; ".join(parts)] if parts else []


def _trained_on(card: Mapping[str, Any]) -> list[str]:
    amount = card.get("training_data")
    much = f"{counted(amount['images'], 'image')}, {in_pixels(amount['pixels'])}" if amount else ""
    text = str(card.get("trained_on", ""))
    return [f"{text} ({much})" if text and much else text or much] if text or much else []
