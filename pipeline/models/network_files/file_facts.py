"""What a file declares of its network: derived from the shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipeline.errors import InputError, Problem

__all__ = ["Axes", "FileFacts", "facts_of_shapes"]

Sides = Sequence[int | None]
Axes = Literal["NCHW", "NHWC"]


@dataclass(frozen=True)
class FileFacts:
    """What a file declares of its network; None: not declared, or any value."""

    batch: int | None = None  # number of tiles that the network takes at once
    channels: int | None = None  # C
    size: int | None = None  # height and width of the input, pixels
    classes: int | None = None  # K, channels of the output, of all tensors together
    tensors: Mapping[str, int | None] = field(default_factory=dict)  # names of the outputs of four axes, with their numbers of channels
    num_outputs: int = 1  # of any axes
    margin: int = 0  # as of :class:`~pipeline.models.Model`; known only where the size is
    stride: int | None = None  # as of the model
    field: int | None = None  # as of the model
    takes_last: bool = False  # whether the input is (N, H, W, C)
    gives_last: tuple[bool, ...] = (False,)  # whether each output of four axes is (N, H, W, K)


def facts_of_shapes(
    path: Path, taken: Sides, given: Mapping[str, Sides], *, axes: Axes | None = None, stride: int | None = None, field: int | None = None
) -> FileFacts:
    """Derive facts from the shapes of a graph's input and of its outputs.

    Outputs without four axes, such as the style of Cellpose's networks, have no channels.

    Args:
        path: of the file, for messages.
        taken: lengths of the input's axes; None: any length.
        given: those of each output, by its name.
        axes: of all tensors; None: as their lengths say. Channels come last where the last axis has a fixed length and the second one
            has none, or that of the third; else they come second.
        stride: declared total stride.
        field: declared field.

    Raises:
        InputError: the input or every output lacks four axes, or a fixed size is not square.
    """
    maps = {name: sides for name, sides in given.items() if len(sides) == 4}
    if len(taken) != 4 or not maps:
        found = f"a network from {_shape(taken)} to {', '.join(map(_shape, given.values()))}"
        raise InputError(Problem(str(path), found, "pixels (N, C, H, W) in, logits (N, K, H, W) out"))
    takes_last = _is_last(taken, axes)
    gives_last = tuple(_is_last(sides, axes) for sides in maps.values())
    taken = _channels_second(taken, takes_last)
    if taken[2] != taken[3]:
        found = f"input of {_shape(taken)}" + (", channels second" if takes_last else "")
        way_out = "If channels come last, set model.axes: NHWC."
        raise InputError(Problem(str(path), found, "a fixed height equal to a fixed width, or any size", way_out))
    tensors = {name: _channels_second(sides, last) for (name, sides), last in zip(maps.items(), gives_last, strict=True)}
    size, left = taken[2], next(iter(tensors.values()))[2]
    counts = {name: sides[1] for name, sides in tensors.items()}
    known = [count for count in counts.values() if count is not None]
    return FileFacts(
        batch=taken[0],
        channels=taken[1],
        size=size,
        classes=sum(known) if len(known) == len(counts) else None,
        tensors=counts,
        num_outputs=len(given),
        margin=(size - left) // 2 if size and left else 0,
        stride=stride,
        field=field,
        takes_last=takes_last,
        gives_last=gives_last,
    )


def _is_last(sides: Sides, axes: Axes | None) -> bool:
    """Whether channels are the last axis of a tensor."""
    if axes is not None:
        return axes == "NHWC"
    _, second, third, last = sides
    return last is not None and second == third and (second is None or second != last)


def _channels_second(sides: Sides, is_last: bool) -> list[int | None]:
    return [sides[at] for at in (0, 3, 1, 2)] if is_last else list(sides)


def _shape(sides: Sides) -> str:
    return f"({', '.join('any' if side is None else str(side) for side in sides)})"
