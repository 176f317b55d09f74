"""Failures grouped by cause: one damaged image is one line, however many of its blocks fail."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.errors import counted, printable

__all__ = ["describe_group", "group_failures"]

SHOWN_IMAGES = 3
NUMBER = re.compile(r"\d+")


def group_failures(failures: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Group failures whose causes differ in nothing but numbers and the name of the image.

    Args:
        failures: ``{"image", "block", "phase", "cause", "attempts"}`` each, as report.json lists them.

    Returns:
        Groups in the order of their first failure, ``{"failures", "unit", "units", "images", "names", "phases", "cause",
        "first", "attempts"}`` each. ``units`` is how many different blocks failed, or images where ``unit`` is ``image``; a
        block may fail in several ``phases``. ``images`` is how many images they are of, and ``names`` the first three of these.
        ``cause`` and ``first`` (``{"image", "block"}``) are those of the first failure; ``attempts`` is the largest.

    Example:
        >>> failure = {"image": "a", "phase": "predict", "attempts": 1}
        >>> rows = [{**failure, "block": f"a:0.0.{n}", "cause": f"a.tif: tile {n} cannot be decoded"} for n in (4, 7)]
        >>> [(one["failures"], one["cause"]) for one in group_failures(rows)]
        [(2, 'a.tif: tile 4 cannot be decoded')]
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for failure in failures:
        unit = "image" if failure["block"] is None else "block"
        groups.setdefault((unit, _without_details(failure["cause"], failure["image"])), []).append(failure)
    return [_group(unit, members) for (unit, _), members in groups.items()]


def _group(unit: str, members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first, images = members[0], list(dict.fromkeys(one["image"] for one in members))
    return {
        "failures": len(members),
        "unit": unit,
        "units": len({one[unit] for one in members}),
        "images": len(images),
        "names": images[:SHOWN_IMAGES],
        "phases": list(dict.fromkeys(one["phase"] for one in members)),
        "cause": first["cause"],
        "first": {"image": first["image"], "block": first["block"]},
        "attempts": max(one["attempts"] for one in members),
    }


def describe_group(group: Mapping[str, Any]) -> str:
    """Return a group as one line.

    Example:
        >>> failure = {"image": "a", "phase": "predict", "cause": "no memory", "attempts": 3}
        >>> describe_group(group_failures([{**failure, "block": "a:0.0.4"}])[0])
        'predict a:0.0.4 after 3 tries: no memory'
        >>> describe_group(group_failures([{**failure, "block": f"a:0.0.{n}"} for n in (4, 7)])[0])
        'predict 2 blocks of a after 3 tries, first a:0.0.4: no memory'
    """
    cause = " ".join(group["cause"].split())
    phases, tries = ", ".join(group["phases"]), f"after {counted(group['attempts'], 'try', 'tries')}"
    first = group["first"]["block"] or group["first"]["image"]
    if group["units"] == 1:
        return printable(f"{phases} {first} {tries}: {cause}")
    more = ", ..." if group["images"] > len(group["names"]) else ""
    names = group["names"][0] if group["images"] == 1 else f"{group['images']} images ({', '.join(group['names'])}{more})"
    what = names if group["unit"] == "image" else f"{group['units']} blocks of {names}"
    return printable(f"{phases} {what} {tries}, first {first}: {cause}")


def _without_details(cause: str, image: str) -> str:
    """Return a cause without the path of its image and without numbers, such as positions."""
    return NUMBER.sub("0", re.sub(rf"\S*{re.escape(image)}\S*", "IMAGE", cause)) if image else NUMBER.sub("0", cause)
