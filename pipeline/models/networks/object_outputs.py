"""Outputs of networks that tell objects apart, as logits of classes and maps; the tensors that hold them, by name and by axis.

Schmidt et al., "Cell Detection with Star-convex Polygons" (2018, arXiv:1806.03535); Stringer et al., "Cellpose: a generalist algorithm
for cellular segmentation", Nature Methods 18 (2021); Graham et al., "HoVer-Net", Medical Image Analysis 58 (2019).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["ChannelsLast", "ObjectOutputs", "PickedTensors", "interpolate_grid", "join_tensors", "tensors_of"]

CELLPOSE_FLOW = 5  # length of the flows that Cellpose's networks were trained with
LOGITS = ("nuclear_types", "classes")  # outputs that are logits of the classes of the mask


class ObjectOutputs(nn.Module):
    """Turns the outputs of a network into logits of classes, and maps on request.

    Classes are those of ``class_probability``, ``nuclear_types`` or ``classes``; without such an output, background and object.

    Args:
        network: returns a tensor (N, C, Y, X), or several, whose channels are counted together.
        channels: of each output, by name: ``object_probability`` and ``class_probability`` are probabilities, ``cell_probability``,
            ``nuclear_pixels``, ``nuclear_types`` and ``classes`` are logits.
        maps: names of the outputs that follow the K logits, in this order.
        grid: pixels from one output to the next.
    """

    def __init__(self, network: nn.Module, channels: Mapping[str, Sequence[int]], maps: Sequence[str], grid: int) -> None:
        super().__init__()
        self.network, self.channels, self.maps, self.grid = network, {name: list(at) for name, at in channels.items()}, list(maps), grid

    def forward(self, pixels_NCYX: Tensor) -> Tensor:
        """Return logits (N, K, Y, X), and the maps: probabilities, distances in pixels, flows of length 1 at most, places from -1 to 1.

        Raises:
            ValueError: the network returns too few channels.
        """
        returned = self.network(pixels_NCYX)
        values_NCYX = join_tensors(returned)
        last = max(max(channels) for channels in self.channels.values())
        if values_NCYX.shape[1] <= last:
            raise ValueError(f"it returns {values_NCYX.shape[1]} channels{_in_several(returned)}, and model.outputs names channel {last}")
        values_NCYX = interpolate_grid(values_NCYX, self.grid).float()
        given = {name: values_NCYX[:, at] for name, at in self.channels.items()}
        maps = [self._map(name, given[name]) for name in self.maps]
        return torch.cat([_class_logits(given), *maps], 1)

    def _map(self, name: str, given_NCYX: Tensor) -> Tensor:
        if name == "flows":
            return given_NCYX / CELLPOSE_FLOW
        if name == "nuclear_pixels" and given_NCYX.shape[1] == 2:
            return given_NCYX.softmax(1)[:, 1:]
        return given_NCYX.sigmoid() if name in ("cell_probability", "nuclear_pixels") else given_NCYX


def _class_logits(given: Mapping[str, Tensor]) -> Tensor:
    """Return the logits of the classes: of an output that holds them, else of background and object."""
    for name in LOGITS:
        if name in given:
            return given[name]
    if "class_probability" in given:
        return given["class_probability"].clamp(1e-6, 1).log()
    if "nuclear_pixels" in given and given["nuclear_pixels"].shape[1] == 2:
        return given["nuclear_pixels"]
    (name,) = {"cell_probability", "object_probability", "nuclear_pixels"} & given.keys()
    logit = _logit(given[name]) if name == "object_probability" else given[name]
    return torch.cat([torch.zeros_like(logit), logit], 1)


def _logit(probability: Tensor) -> Tensor:
    """Return finite logits; written out, because OpenVINO does not support ``torch.logit``."""
    inside = probability.clamp(1e-6, 1 - 1e-6)
    return inside.log() - (1 - inside).log()


class PickedTensors(nn.Module):
    """Joins tensors that a network returns under names.

    Args:
        graph: returns a mapping of tensors (N, C, Y, X).
        tensors: names of those that are joined, in order, with their numbers of channels.
    """

    def __init__(self, graph: Callable[[Tensor], Any], tensors: Mapping[str, int]) -> None:
        super().__init__()
        self.graph, self.tensors = graph, dict(tensors)

    def forward(self, pixels_NCYX: Tensor) -> Tensor:
        """Return (N, C, Y, X).

        Raises:
            ValueError: the network returns no such names, or other numbers of channels.
        """
        returned = self.graph(pixels_NCYX)
        if not isinstance(returned, Mapping):
            raise ValueError(f"it returns {_shapes(returned)} without names, and model.outputs names {', '.join(self.tensors)}")  # noqa: TRY004 - of the file, not of an argument
        for name, count in self.tensors.items():
            if name not in returned:
                raise ValueError(f"it returns {_shapes(returned)}, and model.outputs names {name}")
            if returned[name].ndim != 4 or returned[name].shape[1] != count:
                raise ValueError(f"it returns {_shapes({name: returned[name]})}, and model.outputs means (N, {count}, H, W)")
        return torch.cat([returned[name] for name in self.tensors], 1)


class ChannelsLast(nn.Module):
    """Adapts a network whose channels come last, as those of Keras do.

    Args:
        graph: the network.
        takes_last: whether it takes (N, H, W, C).
        gives_last: whether each of its outputs of four axes is (N, H, W, K), in order; one value is for all.
    """

    def __init__(self, graph: Callable[[Tensor], Any], takes_last: bool, gives_last: Sequence[bool]) -> None:
        super().__init__()
        self.graph, self.takes_last, self.gives_last = graph, takes_last, list(gives_last)

    def forward(self, pixels_NCYX: Tensor) -> Any:
        """Return what the network returns, each tensor of four axes as (N, K, H, W)."""
        returned = self.graph(pixels_NCYX.permute(0, 2, 3, 1) if self.takes_last else pixels_NCYX)
        if isinstance(returned, Tensor):
            return self._turned([returned])[0]
        if isinstance(returned, Mapping):
            return dict(zip(returned, self._turned(list(returned.values())), strict=True))
        return self._turned(list(returned))

    def _turned(self, tensors: Sequence[Any]) -> list[Any]:
        flags = iter(self.gives_last if len(self.gives_last) > 1 else self.gives_last * len(tensors))
        has_axes = [isinstance(tensor, Tensor) and tensor.ndim == 4 for tensor in tensors]
        return [one.permute(0, 3, 1, 2) if four and next(flags) else one for one, four in zip(tensors, has_axes, strict=True)]


def join_tensors(outputs: Any) -> Tensor:
    """Join the tensors (N, C, Y, X) that a network returns, along C; others, such as the style of Cellpose's networks, are left out.

    Raises:
        ValueError: there is none, or they differ in height or width.
    """
    if isinstance(outputs, Tensor):
        return outputs
    tensors = [tensor for _, tensor in tensors_of(outputs) if tensor.ndim == 4]
    if not tensors:
        raise ValueError(f"it returns {_shapes(outputs) or type(outputs).__name__}, and no tensor (N, C, H, W)")
    try:
        return torch.cat(tensors, 1)
    except RuntimeError as error:
        raise ValueError(f"it returns {_shapes(outputs)}, of several sizes: name tensors of one size in model.outputs") from error


def tensors_of(outputs: Any) -> list[tuple[str, Tensor]]:
    """Return the tensors among what a network returns, with their names, which are empty where it returns a tuple or a list."""
    if isinstance(outputs, Tensor):
        return [("", outputs)]
    if isinstance(outputs, Mapping):
        return [(str(name), tensor) for name, tensor in outputs.items() if isinstance(tensor, Tensor)]
    return [("", tensor) for tensor in outputs if isinstance(tensor, Tensor)] if isinstance(outputs, Sequence) else []


def _shapes(outputs: Any) -> str:
    return ", ".join(f"{name} {tuple(map(int, tensor.shape))}".strip() for name, tensor in tensors_of(outputs))


def _in_several(outputs: Any) -> str:
    return "" if isinstance(outputs, Tensor) else f" in {_shapes(outputs)}"


def interpolate_grid(values_NCYX: Tensor, grid: int) -> Tensor:
    """Interpolate from every ``grid``-th row and column to every pixel; given values stay, and the last ones are repeated."""
    if grid == 1:
        return values_NCYX
    size = [(side - 1) * grid + 1 for side in values_NCYX.shape[2:]]
    between_NCYX = functional.interpolate(values_NCYX, size, mode="bilinear", align_corners=True)
    return functional.pad(between_NCYX, (0, grid - 1, 0, grid - 1), mode="replicate")
