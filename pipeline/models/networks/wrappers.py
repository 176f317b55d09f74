"""Wrappers that adapt a network to an image: any size, any number of channels, output channels merged into classes, a fixed batch.

Networks for objects have outputs besides classes: Schmidt et al., "Cell Detection with Star-convex Polygons" (2018, arXiv:1806.03535);
Stringer et al., "Cellpose: a generalist algorithm for cellular segmentation", Nature Methods 18 (2021).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["FixedBatch", "MergedChannels", "MergedOutputs", "ObjectOutputs", "interpolate_grid", "join_tensors", "pad_to_multiple"]

CELLPOSE_FLOW = 5  # length of the flows that Cellpose's networks were trained with


def pad_to_multiple(x_NCYX: Tensor, stride: int) -> Tensor:
    """Append zeros at the bottom and right up to multiples of the stride."""
    below, right = -x_NCYX.shape[-2] % stride, -x_NCYX.shape[-1] % stride
    return functional.pad(x_NCYX, (0, right, 0, below)) if below or right else x_NCYX


class MergedChannels(nn.Module):
    """Gives a network of three channels the mean, minimum and maximum over any number of channels, in any order."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels_NCYX: Tensor) -> Tensor:
        """Return the network's logits."""
        merged = (pixels_NCYX.mean(1, keepdim=True), pixels_NCYX.amin(1, keepdim=True), pixels_NCYX.amax(1, keepdim=True))
        logits: Tensor = self.network(torch.cat(merged, 1))
        return logits


class MergedOutputs(nn.Module):
    """Merges output channels of a network into classes, so that the probability of a class is the sum of its channels'.

    Args:
        network: returns logits (N, outputs, Y, X).
        outputs: class of each output channel; each class has at least one.
        maps: output channels whose own probabilities follow the logits.
    """

    def __init__(self, network: nn.Module, outputs: Sequence[int], maps: Sequence[int] = ()) -> None:
        super().__init__()
        self.network, self.maps = network, list(maps)
        self.channels = [[at for at, owner in enumerate(outputs) if owner == class_id] for class_id in range(max(outputs) + 1)]

    def forward(self, pixels_NCYX: Tensor) -> Tensor:
        """Return logits (N, K, Y, X), the log of the sum of the exponentials of a class's channels, and after them the probabilities."""
        logits = self.network(pixels_NCYX)
        # Softmax over these equals the sum of softmax over the channels of a class.
        merged = [torch.logsumexp(logits[:, channels], 1, keepdim=True) for channels in self.channels]
        probs = [logits.float().softmax(1)[:, self.maps]] if self.maps else []
        return torch.cat([*merged, *probs], 1)


class ObjectOutputs(nn.Module):
    """Turns the outputs of a StarDist or Cellpose network into logits of two classes, background and object, and maps on request.

    Args:
        network: returns a tensor (N, C, Y, X), or several, whose channels are counted together.
        channels: by name: of ``object_probability``, a probability, and ``distances``; or of ``cell_probability``, a logit, and ``flows``.
        maps: names of the outputs that follow the two logits, in this order.
        grid: pixels from one output to the next.
    """

    def __init__(self, network: nn.Module, channels: Mapping[str, Sequence[int]], maps: Sequence[str], grid: int) -> None:
        super().__init__()
        self.network, self.channels, self.maps, self.grid = network, {name: list(at) for name, at in channels.items()}, list(maps), grid
        self.has_logit = "cell_probability" in channels
        (self.foreground,) = channels["cell_probability" if self.has_logit else "object_probability"]

    def forward(self, pixels_NCYX: Tensor) -> Tensor:
        """Return logits (N, 2, Y, X), and the maps: probabilities, distances in pixels, flows of length 1 at most.

        Raises:
            ValueError: the network returns too few channels.
        """
        values_NCYX = join_tensors(self.network(pixels_NCYX))
        last = max(max(channels) for channels in self.channels.values())
        if values_NCYX.shape[1] <= last:
            raise ValueError(f"it returns {values_NCYX.shape[1]} channels, and model.outputs names channel {last}")
        values_NCYX = interpolate_grid(values_NCYX, self.grid).float()
        given = values_NCYX[:, self.foreground : self.foreground + 1]
        logit, probability = (given, given.sigmoid()) if self.has_logit else (_logit(given), given)
        maps = {name: values_NCYX[:, at] for name, at in self.channels.items()}
        maps |= {"cell_probability": probability} if self.has_logit else {"object_probability": probability}
        if "flows" in maps:
            maps["flows"] = maps["flows"] / CELLPOSE_FLOW
        return torch.cat([torch.zeros_like(logit), logit, *(maps[name] for name in self.maps)], 1)


def _logit(probability: Tensor) -> Tensor:
    """Return finite logits; written out, because OpenVINO does not support ``torch.logit``."""
    inside = probability.clamp(1e-6, 1 - 1e-6)
    return inside.log() - (1 - inside).log()


def join_tensors(outputs: Any) -> Tensor:
    """Join the tensors (N, C, Y, X) that a network returns, along C; others, such as the style of Cellpose's networks, are left out."""
    if isinstance(outputs, Tensor):
        return outputs
    given = outputs.values() if isinstance(outputs, Mapping) else outputs
    return torch.cat([output for output in given if isinstance(output, Tensor) and output.ndim == 4], 1)


def interpolate_grid(values_NCYX: Tensor, grid: int) -> Tensor:
    """Interpolate from every ``grid``-th row and column to every pixel; given values stay, and the last ones are repeated."""
    if grid == 1:
        return values_NCYX
    size = [(side - 1) * grid + 1 for side in values_NCYX.shape[2:]]
    between_NCYX = functional.interpolate(values_NCYX, size, mode="bilinear", align_corners=True)
    return functional.pad(between_NCYX, (0, grid - 1, 0, grid - 1), mode="replicate")


class FixedBatch(nn.Module):
    """A graph as a module that divides a batch into pieces of the graph's size, and fills the last piece up.

    Args:
        graph: maps float32 (N, C, H, W) to logits; several tensors are joined (:func:`join_tensors`); its errors become RuntimeError.
        batch: N; None: any.
    """

    def __init__(self, graph: Callable[[Tensor], Any], batch: int | None) -> None:
        super().__init__()
        self.graph, self.batch = graph, batch

    def train(self, mode: bool = True) -> FixedBatch:
        """Change nothing: an exported graph has one mode, and raises an error when it is asked to change."""
        return self

    def forward(self, pixels_NCYX: Tensor) -> Tensor:
        """Return logits (N, K, H, W)."""
        try:
            if self.batch is None or self.batch == len(pixels_NCYX):
                return join_tensors(self.graph(pixels_NCYX))
            return torch.cat([self._run_piece(piece_NCYX, self.batch) for piece_NCYX in torch.split(pixels_NCYX, self.batch)])
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise RuntimeError(str(error)) from error

    def _run_piece(self, piece_NCYX: Tensor, batch: int) -> Tensor:
        filled: Any = torch.cat([piece_NCYX, piece_NCYX[-1:].expand(batch - len(piece_NCYX), -1, -1, -1)])
        return join_tensors(self.graph(filled))[: len(piece_NCYX)]
