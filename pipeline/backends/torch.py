"""Eager torch: runs every network without compiling it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.backends import Backend
from pipeline.backends._process import keep_freed_memory, torch_threads
from pipeline.config import Recipe
from pipeline.errors import InputError, Problem
from pipeline.models import Predictor
from pipeline.statistics import mean_and_std
from pipeline.tiling import argmax_into

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pipeline.statistics import ImageFit
    from pipeline.tiling.torch_ops import TorchOps

__all__ = ["Torch"]

BAND = 1 << 18  # logits that are rearranged at a time, so that they stay in the processor's cache

Numbers = tuple[NDArray[np.float32], NDArray[np.float32]]  # mean and std (B, C)


class Torch(Backend):
    """Evaluation mode, batch norms folded, channels last; bfloat16 and float16 by converting the weights.

    Logits come back as float32: on a CPU as contiguous numpy (B, K, Y, X); on a GPU as tensors there, where pixels may lie
    already (:mod:`pipeline.tiling.torch_ops`).

    Example::

        backend: {name: torch}
    """

    @contextmanager
    def open(self, network: nn.Module, recipe: Recipe, normalize: Mapping[str, Any] | None) -> Iterator[Predictor]:
        """Take the network over and change it in place; see :class:`pipeline.backends.Backend`."""
        self.require(recipe)
        import torch

        keep_freed_memory()
        if recipe.device == "cuda" and not torch.cuda.is_available():
            raise InputError(Problem("compute.device", "cuda, where torch finds no GPU", "cpu or auto", "See `gigaseg doctor`."))
        # fp32 excludes TF32, whose inputs have 10 bits. Benchmarking may choose another kernel in another process.
        exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=recipe.precision != "fp32")
        with torch_threads(recipe.threads), exact:
            yield (_HostPredictor if recipe.device == "cpu" else _DevicePredictor)(network, recipe, normalize)


class _TorchPredictor(Predictor):
    """A loaded network."""

    def __init__(self, network: nn.Module, recipe: Recipe, normalize: Mapping[str, Any] | None) -> None:
        import torch

        from pipeline.backends._batch_norm_folding import fold_batch_norms

        super().__init__()
        network = network.eval()
        fold_batch_norms(network)
        self.dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[recipe.precision]
        self.network = network.to(torch.device(recipe.device), self.dtype).to(memory_format=torch.channels_last)
        self.normalize = normalize
        self.batch: int | None = None  # the largest that fits into device memory; None: not limited so far

    def run(self, pixels_BCYX: Any, fits: Sequence[ImageFit]) -> torch.Tensor:
        """Return logits (B, K, Y, X) in the network's dtype and layout, with at least two classes."""
        import torch

        while True:
            step = self.batch or len(pixels_BCYX)
            starts = range(0, len(pixels_BCYX), step)
            try:
                parts = [self._forward(pixels_BCYX[start : start + step], fits[start : start + step]) for start in starts]
            except torch.OutOfMemoryError:
                if step == 1:
                    raise
            else:
                return parts[0] if len(parts) == 1 else torch.cat(parts)
            # Outside the handler, because the exception keeps the tensors alive that must be freed.
            self.batch = min(step, len(pixels_BCYX)) // 2
            self.notes.append(f"batch {step} did not fit into device memory; {self.batch} from here on")
            torch.cuda.empty_cache()

    def _forward(self, pixels_BCYX: Any, fits: Sequence[ImageFit]) -> torch.Tensor:
        import torch

        numbers = mean_and_std(self.normalize, fits, pixels_BCYX.shape[1])
        # no_grad, not inference_mode, so that the caller may change the logits in place.
        with torch.no_grad():
            logits_BKYX: torch.Tensor = self.network(self.prepare(pixels_BCYX, numbers).to(self.dtype))
            return torch.cat([torch.zeros_like(logits_BKYX), logits_BKYX], 1) if logits_BKYX.shape[1] == 1 else logits_BKYX

    @abstractmethod
    def prepare(self, pixels_BCYX: Any, numbers: Numbers | None) -> torch.Tensor:
        """Return normalised float32 pixels, channels last."""


class _HostPredictor(_TorchPredictor):
    """Numpy in, numpy out."""

    has_own_classes = True

    def __call__(self, pixels_BCYX: NDArray[Any], fits: Sequence[ImageFit]) -> NDArray[np.float32]:
        """Return logits (B, K, Y, X), float32."""
        logits_BKYX = self.run(pixels_BCYX, fits)
        planes_BKYX = np.empty(logits_BKYX.shape, np.float32)
        for logits_KYX, planes_KYX in zip(logits_BKYX, planes_BKYX, strict=True):
            for rows, band_KYX in _bands(logits_KYX):
                planes_KYX[:, rows] = band_KYX
        return planes_BKYX

    def classes(self, pixels_BCYX: NDArray[Any], fits: Sequence[ImageFit]) -> NDArray[Any]:
        """Return class ids (B, Y, X) of the largest logits, the lowest in ties, without rearranging whole planes of logits.

        Raises:
            BlockError: a logit is NaN or infinite.
        """
        logits_BKYX = self.run(pixels_BCYX, fits)
        batch, num_classes, *sides = logits_BKYX.shape
        classes_BYX = np.empty((batch, *sides), np.uint8 if num_classes <= 255 else np.uint16)
        for logits_KYX, classes_YX in zip(logits_BKYX, classes_BYX, strict=True):
            for rows, band_KYX in _bands(logits_KYX):
                argmax_into(band_KYX, classes_YX[rows])
        return classes_BYX

    def prepare(self, pixels_BCYX: NDArray[Any], numbers: Numbers | None) -> torch.Tensor:
        """Convert with numpy, which is five times faster than torch on interleaved pixels."""
        import torch

        batch, channels, height, width = pixels_BCYX.shape
        values_BYXC = np.empty((batch, height, width, channels), np.float32)
        for channel in range(channels) if pixels_BCYX.strides[3] == pixels_BCYX.itemsize else (slice(None),):
            values_BYXC[..., channel] = np.moveaxis(pixels_BCYX, 1, -1)[..., channel]
        if numbers is not None:
            # Whole rows, because an inner loop over a few channels costs more than the arithmetic.
            rows = values_BYXC.reshape(batch, height, width * channels)
            mean_BC, std_BC = numbers
            rows -= np.tile(mean_BC, (1, width))[:, None]
            rows /= np.tile(std_BC, (1, width))[:, None]
        return torch.from_numpy(values_BYXC).permute(0, 3, 1, 2)


def _bands(logits_KYX: torch.Tensor) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yield bands of rows and their logits as float32 planes; networks leave the logits of a pixel side by side.

    With many classes, bands that fit into the cache take a quarter of the time of the whole tile.
    """
    import torch

    num_classes, height, width = logits_KYX.shape
    step = max(1, BAND // (num_classes * width))
    for top in range(0, height, step):
        rows = slice(top, top + step)
        yield rows, logits_KYX[:, rows].to(torch.float32).contiguous().numpy()


class _DevicePredictor(_TorchPredictor):
    """Pixels may be on the device already, and logits stay there."""

    ops: TorchOps

    def __init__(self, network: nn.Module, recipe: Recipe, normalize: Mapping[str, Any] | None) -> None:
        from pipeline.tiling.torch_ops import TorchOps

        super().__init__(network, recipe, normalize)
        self.ops = TorchOps(recipe.device)

    def __call__(self, pixels_BCYX: Any, fits: Sequence[ImageFit]) -> torch.Tensor:
        """Return logits (B, K, Y, X), float32, of a numpy array or a tensor of the device, without waiting for them."""
        import torch

        device_BCYX = self.ops.put(pixels_BCYX) if isinstance(pixels_BCYX, np.ndarray) else pixels_BCYX
        return self.run(device_BCYX, fits).to(torch.float32)

    def prepare(self, pixels_BCYX: torch.Tensor, numbers: Numbers | None) -> torch.Tensor:
        """Convert on the device."""
        import torch

        x_BCYX = pixels_BCYX.to(torch.float32, memory_format=torch.channels_last, copy=True)
        if numbers is not None:
            mean_BC, std_BC = (self.ops.send(number_BC)[:, :, None, None] for number_BC in numbers)
            x_BCYX.sub_(mean_BC).div_(std_BC)
        return x_BCYX
