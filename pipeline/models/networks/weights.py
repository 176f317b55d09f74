"""Weights: read from a file that cannot run code, or drawn from a seed; names and shapes of their tensors."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pipeline.errors import InputError, Problem

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Shapes", "channels_and_classes", "first_line", "load_weights", "read_pickle", "read_weights", "refuse_mismatch"]

Shapes = Mapping[str, tuple[int, ...]]
"""The shape of each tensor of a state dict, by name."""

_MAX_NAMES = 3  # in a message; a wrong file differs in hundreds


def load_weights(build: Callable[[], nn.Module], weights: Path | None, seed: int = 0) -> nn.Module:
    """Build a module in evaluation mode, float32, on the CPU, and load its weights.

    Args:
        build: makes the module.
        weights: a ``.safetensors`` file, or a ``.pt``/``.pth`` state dict; None: random weights.
        seed: of the random weights; the global random state does not change.

    Raises:
        InputError: the file is missing or damaged, or its keys or shapes do not match.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = build().eval()
    if weights is not None:
        state = read_weights(weights)
        refuse_mismatch(module.state_dict(), state, weights)
        module.load_state_dict(state)
    return module


def read_weights(weights: Path) -> dict[str, torch.Tensor]:
    """Read a state dict, without running code in the file.

    Raises:
        InputError: the file is missing, of another kind, truncated or tampered with.
    """
    if not weights.is_file():
        raise InputError(Problem(str(weights), "no such file", "a .safetensors file, or a .pt or .pth state dict"))
    state: Any
    if weights.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            state = load_file(weights)
        except (SafetensorError, ValueError, OSError) as error:
            raise InputError(Problem(str(weights), f"a damaged file ({error})", "safetensors", "Copy it again.")) from error
    elif weights.suffix in (".pt", ".pth"):
        state = read_pickle(weights)
    else:
        raise InputError(Problem(str(weights), f"a file ending in {weights.suffix!r}", "a .safetensors, .pt or .pth file"))
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]  # most trainers save the state dict under this key
    if not isinstance(state, Mapping) or not all(hasattr(value, "shape") for value in state.values()):
        raise InputError(Problem(str(weights), "something other than tensors by name", "a state dict"))
    return dict(state)


def read_pickle(weights: Path | BinaryIO, where: str = "") -> Any:
    """Read tensors and plain values that ``torch.save`` wrote; ``where`` is the name of an open file in messages.

    Raises:
        InputError: the file is damaged, or loading it would run code.
    """
    import torch

    try:
        return torch.load(weights, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError, zipfile.BadZipFile) as error:
        way_out = "A whole pickled module is refused, since loading it runs its code: save module.state_dict() as .safetensors."
        raise InputError(
            Problem(where or str(weights), f"no readable state dict ({first_line(error)})", "tensors by name", way_out)
        ) from error


def refuse_mismatch(wanted: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor], weights: Path) -> None:
    """Refuse tensors of a file that do not fit the tensors of a model, by name.

    Raises:
        InputError: names or shapes differ; the message has the number and the first few of each kind of difference, and the
            network that the weights belong to.
    """
    shapes = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in wanted
        if name in found and found[name].shape != wanted[name].shape
    ]
    differences = {
        "missing": [name for name in wanted if name not in found],
        "unknown": [name for name in found if name not in wanted],
        "of another shape": shapes,
    }
    parts = [
        f"{len(names)} {kind}: {', '.join(names[:_MAX_NAMES])}{', ...' * (len(names) > _MAX_NAMES)}"
        for kind, names in differences.items()
        if names
    ]
    if parts:
        from pipeline.models.networks.recognition import advise

        way_out = advise({name: tuple(value.shape) for name, value in found.items()}, weights)
        raise InputError(Problem(str(weights), "; ".join(parts), f"the {len(wanted)} tensors of the model", way_out))


def channels_and_classes(shapes: Shapes, first: str, last: str) -> dict[str, int] | None:
    """Read ``channels`` and ``classes`` off the weights of a network's first and last convolution; None where these are no convolutions."""
    stem, head = shapes.get(first, ()), shapes.get(last, ())
    return {"channels": stem[1], "classes": head[0]} if len(stem) == len(head) == 4 else None


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type without a message."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
