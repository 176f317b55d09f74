"""Names of the output channels of StarDist's and Cellpose's networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Strict

from pipeline.errors import one_of

__all__ = ["METHODS", "NamedOutputs", "channels_of", "check_outputs", "method_of"]

NamedOutputs = dict[str, int | Annotated[tuple[int, int], Strict(strict=False)]]
"""A channel, or the first and the last of several, by name."""

METHODS: Mapping[str, Mapping[str, tuple[int, int | None]]] = {
    "radial": {"object_probability": (1, 1), "distances": (3, None)},
    "flows": {"flows": (2, 2), "cell_probability": (1, 1)},
}
"""The outputs that each method of the YAML's ``instances`` needs, with their least and greatest number of channels.

``object_probability`` is a probability already, ``cell_probability`` a logit; ``distances`` are pixels of the network's input,
``flows`` are steps along rows and along columns.
"""


def channels_of(outputs: NamedOutputs) -> dict[str, list[int]]:
    """Return the channels of each name.

    Example:
        >>> channels_of({"object_probability": 0, "distances": (1, 4)})
        {'object_probability': [0], 'distances': [1, 2, 3, 4]}
    """
    ends = {name: (given, given) if isinstance(given, int) else given for name, given in outputs.items()}
    return {name: list(range(first, last + 1)) for name, (first, last) in ends.items()}


def method_of(outputs: NamedOutputs) -> str:
    """Return the name of the method that needs these outputs; empty: none does."""
    return next((name for name, needed in METHODS.items() if set(needed) == set(outputs)), "")


def check_outputs(outputs: NamedOutputs) -> NamedOutputs:
    """Return the outputs, if a method can use them.

    Raises:
        ValueError: the names are not those of a method, or a name has too few or too many channels.
    """
    method, channels = method_of(outputs), channels_of(outputs)
    if not method:
        raise ValueError(f"{one_of([' and '.join(needed) for needed in METHODS.values()])}, each with its channels")
    for name, (least, most) in METHODS[method].items():
        count = len(channels[name])
        if count < least or (most is not None and count > most) or channels[name][0] < 0:
            size = f"{least} or more" if most is None else str(least)
            raise ValueError(f"{size} channels for {name}, counted from 0: a number, or [first, last]")
    return outputs
