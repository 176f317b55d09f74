"""Names of the outputs of networks that tell objects apart, StarDist's, Cellpose's and HoVer-Net's, and of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, Strict

from pipeline.errors import one_of

__all__ = ["METHODS", "NamedOutputs", "NamedTensor", "Output", "Outputs", "check_outputs", "method_of", "suggested_outputs"]


class NamedTensor(BaseModel):
    """A tensor that the network returns under a name, of a file that does not say how many channels it has."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    tensor: str
    channels: int = Field(ge=1)


NamedOutputs = dict[str, int | Annotated[tuple[int, int], Strict(strict=False)] | str | NamedTensor]
"""A channel, or the first and the last of several, or a tensor by its name, by name of the output."""


class Output(NamedTuple):
    """What a method asks of an output.

    Attributes:
        least: number of channels.
        most: number of channels; None: any.
        is_class: whether its channels are the classes of the mask; such an output is optional.
    """

    least: int
    most: int | None
    is_class: bool = False

    @property
    def size(self) -> str:
        """The number of channels, for messages."""
        if self.most is None:
            return f"{self.least} or more"
        return str(self.least) if self.most == self.least else f"{self.least} or {self.most}"


METHODS: Mapping[str, Mapping[str, Output]] = {
    "radial": {"object_probability": Output(1, 1), "distances": Output(3, None), "class_probability": Output(2, None, is_class=True)},
    "flows": {"flows": Output(2, 2), "cell_probability": Output(1, 1)},
    "hover": {"nuclear_pixels": Output(1, 2), "horizontal_vertical": Output(2, 2), "nuclear_types": Output(2, None, is_class=True)},
    "": {"classes": Output(1, None, is_class=True)},
}
"""The outputs of each method of the YAML's ``instances``; without a method, those of a network that gives classes alone.

``object_probability`` and ``class_probability`` are probabilities already; ``cell_probability``, ``nuclear_pixels``, ``nuclear_types``
and ``classes`` are logits. ``distances`` are pixels of the network's input, ``flows`` steps along rows and along columns,
``horizontal_vertical`` the place in the nucleus along columns and along rows, from -1 to 1.
"""


def method_of(outputs: Mapping[str, object]) -> str | None:
    """Return the name of the method that uses these outputs; empty: they are classes alone; None: no method uses them."""
    for name, known in METHODS.items():
        needed = {key for key, output in known.items() if not (name and output.is_class)}
        if needed <= outputs.keys() <= known.keys():
            return name
    return None


def check_outputs(outputs: NamedOutputs) -> NamedOutputs:
    """Return the outputs, if a method can use them.

    Raises:
        ValueError: the names are not those of a method, or a name has too few or too many channels.
    """
    method = method_of(outputs)
    if method is None:
        words = [_words(name, known) for name, known in METHODS.items()]
        raise ValueError(f"{one_of(words)}, each with its channels")
    if len({isinstance(given, str | NamedTensor) for given in outputs.values()}) > 1:
        raise ValueError("names of tensors alone, or numbers of channels alone")
    tensors = [given if isinstance(given, str) else given.tensor for given in outputs.values() if isinstance(given, str | NamedTensor)]
    if len(set(tensors)) < len(tensors):
        raise ValueError("each tensor once; parts of a tensor are numbers of channels, counted over all tensors")
    ranges = sorted((_first(given), _first(given) + (_count(given) or 1)) for given in outputs.values() if isinstance(given, int | tuple))
    if any(after < end for (_, end), (after, _) in pairwise(ranges)):
        raise ValueError("each channel once; [first, last] takes in both")
    for name, given in outputs.items():
        output = METHODS[method][name]
        count = _count(given)
        if count is not None and (count < output.least or count > (output.most or count) or _first(given) < 0):
            raise ValueError(f"{output.size} channels for {name}, counted from 0: a number, or [first, last]; or the name of a tensor")
    return outputs


@dataclass(frozen=True)
class Outputs:
    """Where the outputs are in what a network returns.

    Attributes:
        channels: numbers of the channels by name, counted over all tensors, or over those that are named in ``tensors``.
        tensors: names of the tensors, in order, and how many channels each has; empty: all that have four axes, in their order.
    """

    channels: Mapping[str, Sequence[int]]
    tensors: Mapping[str, int]

    @property
    def num_classes(self) -> int | None:
        """Number of channels that hold classes; None: there are none, so that classes are background and object."""
        class_names = {name for known in METHODS.values() for name, output in known.items() if output.is_class}
        return next((len(at) for name, at in self.channels.items() if name in class_names), None)

    @classmethod
    def of(cls, outputs: NamedOutputs, declared: Mapping[str, int | None], num_classes: int | None = None) -> Outputs:
        """Find the channels of each name.

        Args:
            outputs: as :func:`check_outputs` accepts them.
            declared: tensors that the file declares, with their numbers of channels.
            num_classes: K, if it is known; an output of classes has as many channels.

        Raises:
            ValueError: the number of channels of a tensor is not known.

        Example:
            >>> Outputs.of({"object_probability": 0, "distances": (1, 3)}, {}).channels
            {'object_probability': [0], 'distances': [1, 2, 3]}
            >>> found = Outputs.of({"distances": "dist", "object_probability": "prob"}, {"prob": 1, "dist": 3})
            >>> found.channels, found.tensors
            ({'distances': [0, 1, 2], 'object_probability': [3]}, {'dist': 3, 'prob': 1})
        """
        channels, tensors, first = dict[str, Sequence[int]](), dict[str, int](), 0
        for name, given in outputs.items():
            if isinstance(given, str | NamedTensor):
                tensor = given if isinstance(given, str) else given.tensor
                count = _channels_of(name, given, declared, num_classes)
                channels[name], tensors[tensor], first = list(range(first, first + count)), count, first + count
            else:
                start, last = (given, given) if isinstance(given, int) else given
                channels[name] = list(range(start, last + 1))
        return cls(channels, tensors)


def _channels_of(name: str, given: str | NamedTensor, declared: Mapping[str, int | None], num_classes: int | None) -> int:
    if isinstance(given, NamedTensor):
        return given.channels
    output = next(known[name] for known in METHODS.values() if name in known)
    fixed = output.most or (num_classes if output.is_class else None)
    count = declared.get(given) or fixed
    if count is None:
        raise ValueError(f"{name}: {{tensor: {given}, channels: N}}, as the file does not say how many channels {given} has")
    return count


def suggested_outputs(tensors: Sequence[tuple[str, int | None]]) -> str:
    """Return what ``model.outputs`` may be for a network that returns these tensors (N, C, H, W); empty: unknown.

    Args:
        tensors: name, empty if it has none, and C of each, in the order in which they are returned.

    Returns:
        Outputs of StarDist, Cellpose or HoVer-Net where numbers of channels fit them, else the first tensor as classes.

    Example:
        >>> suggested_outputs([("prob", 1), ("dist", 32)])
        'outputs: {object_probability: prob, distances: dist}'
        >>> suggested_outputs([("", 3)])
        'outputs: {flows: [0, 1], cell_probability: 2}'
    """
    names, counts = [name for name, _ in tensors], [count or 0 for _, count in tensors]
    if set(names) in ({"np", "hv"}, {"np", "hv", "tp"}):
        known = {"nuclear_pixels": "np", "horizontal_vertical": "hv", "nuclear_types": "tp"}
        return _as_yaml({output: name for output, name in known.items() if name in names})
    if "out" in names:
        return _as_yaml({"classes": "out"})
    if counts == [3]:
        return _as_yaml({"flows": [0, 1], "cell_probability": 2})
    if len(counts) in (2, 3) and counts.count(1) == 1 and max(counts) >= 3:  # StarDist: one probability, rays, and classes where it has any
        single, rays = counts.index(1), counts.index(max(counts))
        places = {"object_probability": single, "distances": rays}
        if len(counts) == 3:
            places["class_probability"] = 3 - single - rays
        return _as_yaml({output: names[at] or _range_at(counts, at) for output, at in places.items()})
    if counts[:2] == [2, 2] and len(counts) in (2, 3):
        branches = ("nuclear_pixels", "horizontal_vertical", "nuclear_types")[: len(counts)]
        return _as_yaml({output: names[at] or _range_at(counts, at) for at, output in enumerate(branches)})
    return _as_yaml({"classes": names[0] or _range_at(counts, 0)}) if counts and counts[0] else ""


def _range_at(counts: Sequence[int], at: int) -> int | list[int]:
    first = sum(counts[:at])
    return first if counts[at] == 1 else [first, first + counts[at] - 1]


def _as_yaml(outputs: Mapping[str, object]) -> str:
    return f"outputs: {{{', '.join(f'{name}: {value}' for name, value in outputs.items())}}}"


def _words(method: str, known: Mapping[str, Output]) -> str:
    needed = [name for name, output in known.items() if not (method and output.is_class)]
    optional = [name for name in known if name not in needed]
    return " and ".join(needed) + (f" (and {optional[0]})" if optional else "")


def _count(given: int | tuple[int, int] | str | NamedTensor) -> int | None:
    if isinstance(given, int | tuple):
        return 1 if isinstance(given, int) else given[1] - given[0] + 1
    return None if isinstance(given, str) else given.channels


def _first(given: int | tuple[int, int] | str | NamedTensor) -> int:
    return given if isinstance(given, int) else given[0] if isinstance(given, tuple) else 0
