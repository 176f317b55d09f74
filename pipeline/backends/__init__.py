"""Backends: how a torch module is run. One file is one name under ``compute.backend``.

Owns: preparing a network for a runtime, and what the process needs for it: threads, memory, bfloat16. May import: models and below.
Never touches: images, blocks, runs. torch and the runtimes are imported where they run a network.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.backends._process import MALLOC_VARIABLES, bf16_supported, keep_freed_memory, libc
from pipeline.config import Recipe
from pipeline.errors import InputError, Problem, one_of
from pipeline.plugins import Plugin, find

if TYPE_CHECKING:
    from torch import nn

    from pipeline.models import Model, PredictFunction

__all__ = [
    "MALLOC_VARIABLES",
    "Backend",
    "bf16_supported",
    "can_keep_graph",
    "find_backend",
    "has_prepared_graph",
    "keep_freed_memory",
    "libc",
]


class Backend(Plugin):
    """Base of the backends.

    Attributes:
        needs: packages that must be installed, by the name under which they are imported and installed.
        devices: values of ``compute.device`` that the backend runs on.
        precisions: values of ``compute.precision`` that the backend computes in.
        keeps_casts: whether a network's own casts and constants keep their type in fewer bits than float32, as one from a file needs.
        keeps_graphs: whether the backend keeps what it makes of a network in the user's cache.
        compiles: whether the backend fuses layers, so that large tiles are as fast per pixel as small ones.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16", "fp16")
    keeps_casts: ClassVar[bool] = False
    keeps_graphs: ClassVar[bool] = False
    compiles: ClassVar[bool] = False

    @classmethod
    def missing(cls) -> list[str]:
        """Return the needed packages that are not installed, without importing any."""
        return [name for name in cls.needs if find_spec(name) is None]

    @classmethod
    def problems(cls, device: str, precision: str) -> Sequence[Problem]:
        """Return what keeps the backend from running here; empty: it runs."""
        name, problems = cls.__module__.rpartition(".")[2], []
        if missing := cls.missing():
            way_out = f"It needs packages that are not installed: pip install {' '.join(missing)}"
            problems.append(Problem("compute.backend", repr(name), "", way_out))
        if device not in cls.devices:
            problems.append(Problem("compute.device", f"{device} with backend {name}", one_of(cls.devices)))
        if precision not in cls.precisions:
            problems.append(Problem("compute.precision", f"{precision} with backend {name}", one_of(cls.precisions)))
        return problems

    def require(self, recipe: Recipe) -> None:
        """Refuse a recipe that the backend cannot run here.

        Raises:
            InputError: a package is missing, or the backend has no such device or precision; every problem at once.
        """
        if problems := self.problems(recipe.device, recipe.precision):
            raise InputError(problems)

    @abstractmethod
    def open(self, network: nn.Module, recipe: Recipe, normalize: Mapping[str, Any] | None) -> AbstractContextManager[PredictFunction]:
        """Prepare a network; the context yields a plain function (:data:`pipeline.models.Predict`).

        A :class:`pipeline.models.Predictor` can do more: return class ids where nothing needs scores, keep its arrays on a device,
        and note what differs from the recipe.

        Args:
            network: maps float32 (N, C, H, W) to logits (N, K, H, W); K = 1 means two classes, class 1 where the logit > 0. The
                backend takes the network over and may change it.
            recipe: device, precision, threads.
            normalize: fixed ``{"mean": [..], "std": [..]}`` in raw units; None: raw values, or ``fit["normalize"]`` of each tile.
        """

    @classmethod
    def has_kept(cls, network_key: str | None) -> bool:
        """Whether the backend has kept what it once made of a network; most keep nothing."""
        del network_key
        return False

    def open_kept(
        self, load: Callable[[], nn.Module], network_key: str | None, recipe: Recipe, normalize: Mapping[str, Any] | None
    ) -> AbstractContextManager[PredictFunction]:
        """Prepare a network as :meth:`open` does; a backend that keeps what it makes of networks need not load it.

        Args:
            load: returns the network; imports torch.
            network_key: see :func:`pipeline.models.network_key`; None: nothing can be kept.
            recipe: as in :meth:`open`.
            normalize: as in :meth:`open`.
        """
        del network_key
        return self.open(load(), recipe, normalize)


def find_backend(name: str) -> type[Backend]:
    """Return the class of a backend; see :func:`pipeline.plugins.find`."""
    plugin = find("backends", name, "compute.backend")
    assert issubclass(plugin, Backend)
    return plugin


def has_prepared_graph(model: Model, recipe: Recipe) -> bool:
    """Whether a run of this model and recipe probably needs no torch: the backend has kept a graph of each network of the model.

    A graph takes the channels and type of the pixels that it was made for; for other images it is made anew.
    """
    has_kept = find_backend(recipe.backend).has_kept
    return can_keep_graph(model, recipe) and all(has_kept(key) for key in _network_keys(model))


def can_keep_graph(model: Model, recipe: Recipe) -> bool:
    """Whether a run of this model and recipe leaves graphs with which later runs need no torch."""
    keys = _network_keys(model) if find_backend(recipe.backend).keeps_graphs and recipe.precision != "int8" else []
    return bool(keys) and None not in keys


def _network_keys(model: Model) -> list[str | None]:
    from pipeline.models import TorchModel, network_key

    return [network_key(part) for part in model.constituents if isinstance(part, TorchModel)]
