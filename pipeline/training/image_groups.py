"""Groups of images that belong together, such as those of one animal, slide or scene: a whole group trains or validates, never both.

Images of one animal are more alike than those of two, so a score on an animal that was trained on is too good for the next one.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.errors import InputError, Problem, counted, nearest
from pipeline.inputs import Image, first_of

__all__ = ["FOLDER", "GroupSplit", "choose_groups", "group_images", "straddling_note"]

FOLDER = "folder"  # the value of `by` that takes the folder of an image for its group
SHOWN = 4  # names in a message

# What names suggest, from coarse to fine: a first part that holds a digit ("rat3" of "rat3_data9"), all that stands before a last number.
_SUGGESTED = (r"^([^_\W]*\d[^_\W]*)[_\W]", r"^(.*\D)\d+$")


@dataclass(frozen=True)
class GroupSplit:
    """The names of the groups that train and of those that validate, each sorted."""

    by: str
    train: tuple[str, ...]
    val: tuple[str, ...]

    def describe(self) -> str:
        r"""Return which groups validate, for users.

        Example:
            >>> GroupSplit(r"rat\d+", ("rat1", "rat2"), ("rat3",)).describe()
            "1 of 3 groups (rat3) by 'rat\\d+'"
        """
        total = counted(len(self.train) + len(self.val), "group")
        return f"{len(self.val)} of {total} ({first_of(self.val, SHOWN)}) by '{self.by}'"


def group_images(images: Sequence[Image], by: str, where: str) -> dict[str, list[str]]:
    """Return the names of the images of each group, groups in the order of their first images.

    A group is what the regular expression ``by`` finds first in the name of an image, or, if nothing, in its path below the folder that
    all images share: its first group that is not empty, or the whole match where it has no groups. ``folder`` takes the folder of
    that path.

    Args:
        images: with unique names.
        by: ``folder``, or a regular expression.
        where: file, line and key, for messages.

    Raises:
        InputError: an image belongs to no group. One that trains by mistake would go unnoticed, so none is a group of its own.
    """
    shared = _shared_folder([image.path for image in images])
    groups: dict[str, list[str]] = {}
    without = []
    for image in images:
        below = image.path[len(shared) :]
        group = posixpath.dirname(below) or "." if by == FOLDER else _found(by, image.name) or _found(by, below)
        if group:
            groups.setdefault(group, []).append(image.name)
        else:
            without.append(image.name)
    if without:
        found = f"'{by}', which finds nothing in {len(without)} of {counted(len(images), 'name')} ({first_of(without, SHOWN)})"
        way_out = f"Extend it, such as '{_extended(by)}', or leave these images out with `exclude`."
        if len(without) == len(images):
            way_out = f"{nearest(by, ('region', FOLDER))} `by` may also be region or {FOLDER}.".strip()
        raise InputError(Problem(where, found, "a regular expression that finds the group of every image", way_out))
    return groups


def choose_groups(groups: Mapping[str, Sequence[str]], by: str, *, fraction: float, seed: int, where: str) -> GroupSplit:
    """Choose the groups that validate in the order of a hash, at least one and not all.

    Args:
        groups: of :func:`group_images`.
        by: how they were made.
        fraction: share of the groups, above 0 and below 1.
        seed: of the training.
        where: file, line and key, for messages.

    Raises:
        InputError: there is one group only.
    """
    if len(groups) == 1:
        name, images = next(iter(groups.items()))
        found = f"'{by}', which puts all {counted(len(images), 'image')} into one group, {name!r}"
        way_out = "Use an expression that tells them apart, or parts of each image: val: {fraction: 0.2, by: region}."
        raise InputError(Problem(where, found, "at least two groups, one to train on and one to validate with", way_out))
    ranked = sorted(groups, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
    number = min(max(1, round(fraction * len(groups))), len(groups) - 1)
    return GroupSplit(by, tuple(sorted(ranked[number:])), tuple(sorted(ranked[:number])))


def straddling_note(train: Iterable[Image], val: Iterable[Image]) -> str | None:
    """Return a note where names suggest that images of one animal or scene both train and validate; None where they do not.

    Names suggest groups if they begin alike, and there are two such beginnings or more: ``rat3_1``, ``rat3_2``, ``rat5_1``.
    """
    names = [[image.name for image in part] for part in (train, val)]
    for pattern in _SUGGESTED:
        groups_train, groups_val = ({found for name in part if (found := _found(pattern, name))} for part in names)
        both = sorted(groups_train & groups_val)
        if both and len(groups_train | groups_val) > 1:
            matches_all = all(_found(pattern, name) for part in names for name in part)
            shown = first_of([f"{name}..." for name in both], SHOWN)
            return (
                f"training and validation both hold images named {shown}: if they show one animal, slide or scene, scores are too good "
                f"for others; val: {{by: '{pattern if matches_all else f'{pattern}|(.+)'}'}} keeps them apart"
            )
    return None


def _found(pattern: str, text: str) -> str:
    """Return the first group of the first match that is not empty, or the whole match of a pattern without groups; empty: none."""
    match = re.search(pattern, text)
    if match is None:
        return ""
    return next(filter(None, match.groups()), "") if match.re.groups else match.group()


def _extended(pattern: str) -> str:
    r"""Return a pattern that finds what another one does, and the whole of a text in which that finds nothing.

    Example:
        >>> [_found(_extended(r"rat\d+"), name) for name in ("left_rat3_1", "hippocampus_1")]
        ['rat3', 'hippocampus_1']
    """
    return f"^.*?(?:{pattern})|(.+)" if re.compile(pattern).groups else f"^.*?({pattern})|(.+)"


def _shared_folder(paths: Sequence[str]) -> str:
    """Return the folder that all paths lie in, with a slash at its end; empty: none."""
    folders = [path.rpartition("/")[0].split("/") for path in paths]
    shared = []
    for parts in zip(*folders, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return "".join(f"{part}/" for part in shared)
