"""Finding the network that a weights file belongs to, by the names and shapes of its tensors."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from torch.overrides import TorchFunctionMode

from pipeline.errors import InputError
from pipeline.plugins import available, build, find

if TYPE_CHECKING:
    from pipeline.models.networks.weights import Shapes

__all__ = ["advise", "nearest_network", "weightless"]

_MIN_SHARE = 0.1  # of tensors that agree; below it a network is not worth naming
_NOT_IN_SHAPES = "What shapes do not show, such as padding, must be as in training."


# Functions that initialise weights; on the meta device they take time and change nothing.
_FILLS = {"uniform_", "normal_", "trunc_normal_", "kaiming_uniform_", "kaiming_normal_", "constant_", "erfinv_"}
_FILLS |= {"mul_", "add_", "clamp_", "fill_", "zero_"}


def advise(shapes: Shapes, weights: Path) -> str:
    """Return a sentence that names the network of a weights file, with options to paste, or says that there is none."""
    # A wrapper puts a prefix before every name, such as ``module.``, ``model.`` or ``_orig_mod.``.
    common = os.path.commonpath([name.rpartition(".")[0].replace(".", "/") for name in shapes] or [""])
    prefix = f"{common.replace('/', '.')}." if common else ""
    names = f" once {prefix!r} is cut off its names" if prefix else ""
    shapes = {name.removeprefix(prefix): shape for name, shape in shapes.items()}
    spec, share = nearest_network(shapes)
    text = yaml.safe_dump({**spec, "weights": str(weights)}, default_flow_style=True, sort_keys=False, width=10**6).strip()
    if share == 1:
        return f"Use model: {text}: every tensor agrees{names}. {_NOT_IN_SHAPES}"
    if share >= _MIN_SHARE:
        return f"The nearest is model: {text}: {int(100 * share)} % of the tensors agree in name and shape{names}."
    return f"No network here has tensors of these names and shapes.{_clue(shapes)}"


def nearest_network(shapes: Shapes) -> tuple[dict[str, Any], float]:
    """Find the network whose tensors agree best with those of a file.

    Returns:
        Name and options of the network, as in the YAML's ``model``, and the share of all tensors, the file's and the network's,
        that agree in name and shape. No options and 0.0 where none agrees; 1.0 where the file would load.
    """
    best: tuple[dict[str, Any], float] = {}, 0.0
    for spec in _candidates(shapes):
        try:
            wanted = _shapes_of(spec)
        except InputError:
            continue  # the options that the shapes suggest do not exist
        share = sum(shapes.get(name) == shape for name, shape in wanted.items()) / len(shapes.keys() | wanted.keys())
        if share > best[1]:
            best = spec, share
        if share == 1:
            break
    return best


def _candidates(shapes: Shapes) -> Iterator[dict[str, Any]]:
    for name in available("models"):
        try:
            plugin = find("models", name)
        except InputError:
            continue  # the model needs a package that is not installed
        if guess_options := getattr(plugin, "guess_options", None):
            yield from ({"name": name, **options} for options in guess_options(shapes))


def _shapes_of(spec: dict[str, Any]) -> Shapes:
    with weightless(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated names of a library, which the user did not write
        module = build("models", spec).build()
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def _clue(shapes: Shapes) -> str:
    """Return a hint at the library that the names come from; empty without one."""
    if any(name.startswith("backbone.") for name in shapes):
        return " They look like torchvision's: export the module, and use model: {name: torchscript, path: FILE, trust: true}."
    if "segmentation_head.0.weight" in shapes:
        return " They look like segmentation-models-pytorch's with an encoder of timm: name it, as in model: {name: smp, encoder: tu-NAME}."
    return ""


class _Unfilled(TorchFunctionMode):
    """Skips functions that fill tensors, and keeps on the CPU the numbers that some encoders read while they are built."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if getattr(func, "__name__", "") in _FILLS:
            return args[0] if args else kwargs["tensor"]
        if func is torch.linspace:
            kwargs.setdefault("device", "cpu")
        return func(*args, **kwargs)


@contextmanager
def weightless() -> Iterator[None]:
    """Build modules inside this context with shapes, but without memory or values."""
    with torch.device("meta"), _Unfilled():
        yield
