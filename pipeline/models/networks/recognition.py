"""Which network a file of weights belongs to, told by the names and shapes of its tensors."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import yaml

from pipeline.errors import InputError
from pipeline.models.networks.tensor_shapes import Shapes
from pipeline.plugins import available, build, find

if TYPE_CHECKING:
    from torch import nn

__all__ = ["advice", "nearest_network"]

_LEAST = 0.1  # share of tensors that agree below which a network is not worth naming
_HIDDEN = "What shapes do not show, such as padding, must be as in training."


@runtime_checkable
class Recognizable(Protocol):
    """A network that is built here; :class:`pipeline.models.Network` says what its methods do."""

    @classmethod
    def guesses(cls, shapes: Shapes) -> Iterable[dict[str, Any]]:
        """Read options off the tensors of a file."""
        ...

    def build(self) -> nn.Module:
        """Build the module, without weights."""
        ...


def advice(found: Shapes, weights: Path) -> str:
    """Say which network's weights these are, with options to paste, or that they are nobody's.

    Args:
        found: tensors of the file.
        weights: the file.
    """
    prefix = _common_prefix(found)
    names = f" once {prefix!r} is cut off its names" if prefix else ""
    found = {name.removeprefix(prefix): shape for name, shape in found.items()}
    spec, share = nearest_network(found)
    text = yaml.safe_dump({**spec, "weights": str(weights)}, default_flow_style=True, sort_keys=False, width=10**6).strip()
    if share == 1:
        return f"Use model: {text}: every tensor agrees{names}. {_HIDDEN}"
    if share >= _LEAST:
        return f"The nearest is model: {text}: {int(100 * share)} % of the tensors agree in name and shape{names}."
    return f"No network here has tensors of these names and shapes.{_clue(found)}"


def nearest_network(found: Shapes) -> tuple[dict[str, Any], float]:
    """Find the network whose tensors agree best with those of a file.

    Args:
        found: tensors of the file.

    Returns:
        Its name and options, as in the YAML's ``model``, and the share of all tensors, of both, that agree in name and shape.
        No options and 0.0 where none does; 1.0 where the file would load.
    """
    best: tuple[dict[str, Any], float] = {}, 0.0
    for spec in _guesses(found):
        try:
            wanted = _shapes_of(spec)
        except InputError:
            continue  # the shapes promised options that do not exist
        share = sum(found.get(name) == shape for name, shape in wanted.items()) / len(found.keys() | wanted.keys())
        if share > best[1]:
            best = spec, share
        if share == 1:
            break
    return best


def _guesses(found: Shapes) -> Iterator[dict[str, Any]]:
    for name in available("models"):
        try:
            plugin = find("models", name)
        except InputError:
            continue  # a package that it needs is not installed
        if issubclass(plugin, Recognizable):
            yield from ({"name": name, **options} for options in plugin.guesses(found))


def _shapes_of(spec: dict[str, Any]) -> Shapes:
    from pipeline.models.networks.weightless import weightless

    network: Recognizable = build("models", spec)
    with weightless(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that a library will drop one day: the user has not asked for them
        module = network.build()
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def _common_prefix(found: Shapes) -> str:
    """What wrappers put before every name: ``module.``, ``model.``, ``_orig_mod.``."""
    prefix = ""
    while True:
        firsts = {name.removeprefix(prefix).partition(".")[::2] for name in found}
        heads = {head for head, _ in firsts}
        if len(heads) != 1 or not all(rest for _, rest in firsts):
            return prefix
        prefix += f"{heads.pop()}."


def _clue(found: Shapes) -> str:
    """Where the names come from, for networks that have no name here."""
    if any(name.startswith("backbone.") for name in found):
        return " They look like torchvision's: export the module, and use model: {name: torchscript, path: FILE, trust: true}."
    if "segmentation_head.0.weight" in found:
        return " They look like segmentation-models-pytorch's with an encoder of timm: name it, as in model: {name: smp, encoder: tu-NAME}."
    return ""
