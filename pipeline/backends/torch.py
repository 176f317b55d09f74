"""Eager torch: runs every network, compiles nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.backends import Backend
from pipeline.backends._threads import torch_threads
from pipeline.errors import InputError, Problem
from pipeline.normalize import constants
from pipeline.recipe import Recipe

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pipeline.fits import Fit
    from pipeline.models import Predict

__all__ = ["Torch"]


class Torch(Backend):
    """Evaluation mode, batch norms folded, channels last; bfloat16 and float16 by their weights.

    Logits come back as float32: numpy, contiguous (B, K, Y, X), on the CPU; the tensor itself on a GPU.

    Example::

        backend: {name: torch}
    """

    @contextmanager
    def open(self, network: nn.Module, recipe: Recipe, normalize: Mapping[str, Any] | None) -> Iterator[Predict]:
        """Take the network over (it is changed in place); see :class:`pipeline.backends.Backend`."""
        self.require(recipe)
        import torch

        if recipe.device == "cuda" and not torch.cuda.is_available():
            raise InputError(Problem("compute.device", "cuda, where torch finds no GPU", "cpu, auto", "See `gigaseg doctor`."))
        # TF32 would make fp32 a name only; benchmarking could pick another kernel in another process.
        exact = torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=recipe.precision != "fp32")
        with torch_threads(recipe.threads), exact:
            yield _Predictor(network, recipe, normalize)


class _Predictor:
    """A loaded network. ``batch`` is the largest batch that has fitted into memory so far; ``notes`` says when it shrank."""

    def __init__(self, network: nn.Module, recipe: Recipe, normalize: Mapping[str, Any] | None) -> None:
        import torch

        from pipeline.backends._fold import fold_batch_norms

        network = network.eval()
        fold_batch_norms(network)
        self.dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[recipe.precision]
        self.device, self.normalize = torch.device(recipe.device), normalize
        self.network = network.to(self.device, self.dtype).to(memory_format=torch.channels_last)
        self.batch: int | None = None
        self.notes: list[str] = []

    def __call__(self, pixels_BCYX: NDArray[Any], fits: Sequence[Fit]) -> Any:
        """Return logits (B, K, Y, X), float32."""
        import torch

        while True:
            step = self.batch or len(pixels_BCYX)
            try:
                parts = [
                    self._forward(pixels_BCYX[start : start + step], fits[start : start + step])
                    for start in range(0, len(pixels_BCYX), step)
                ]
            except torch.OutOfMemoryError:
                if step == 1:
                    raise
            else:
                logits_BKYX = parts[0] if len(parts) == 1 else torch.cat(parts)
                return logits_BKYX if self.device.type == "cuda" else logits_BKYX.numpy()
            # Outside the handler: the exception holds on to the very tensors that must go.
            self.batch = min(step, len(pixels_BCYX)) // 2
            self.notes.append(f"batch {step} did not fit into device memory; {self.batch} from here on")
            torch.cuda.empty_cache()

    def _forward(self, pixels_BCYX: NDArray[Any], fits: Sequence[Fit]) -> torch.Tensor:
        import torch

        numbers = constants(self.normalize, fits, pixels_BCYX.shape[1])
        # no_grad, not inference_mode: whoever gets the logits may change them in place.
        with torch.no_grad():
            prepare = _upload if self.device.type == "cuda" else _prepare
            x_BCYX = prepare(pixels_BCYX, numbers, self.device).to(self.dtype)
            logits_BKYX: torch.Tensor = self.network(x_BCYX).to(torch.float32)
            if logits_BKYX.shape[1] == 1:
                logits_BKYX = torch.cat([torch.zeros_like(logits_BKYX), logits_BKYX], 1)
            return logits_BKYX.contiguous()


def _prepare(
    pixels_BCYX: NDArray[Any], numbers: tuple[NDArray[np.float32], NDArray[np.float32]] | None, _device: torch.device
) -> torch.Tensor:
    """Convert to float32, channels last, and normalise: numpy does it five times faster than torch on interleaved pixels."""
    import torch

    batch, channels, height, width = pixels_BCYX.shape
    values_BYXC = np.empty((batch, height, width, channels), np.float32)
    for channel in range(channels) if pixels_BCYX.strides[3] == pixels_BCYX.itemsize else (slice(None),):
        values_BYXC[..., channel] = np.moveaxis(pixels_BCYX, 1, -1)[..., channel]
    if numbers is not None:
        # Whole rows at a time: an inner loop over a few channels would cost more than the arithmetic.
        rows = values_BYXC.reshape(batch, height, width * channels)
        mean_BC, std_BC = numbers
        rows -= np.tile(mean_BC, (1, width))[:, None]
        rows /= np.tile(std_BC, (1, width))[:, None]
    return torch.from_numpy(values_BYXC).permute(0, 3, 1, 2)


def _upload(
    pixels_BCYX: NDArray[Any], numbers: tuple[NDArray[np.float32], NDArray[np.float32]] | None, device: torch.device
) -> torch.Tensor:
    """Send raw values through pinned memory; convert and normalise on the device."""
    import torch

    pixels_BYXC = np.moveaxis(pixels_BCYX, 1, -1)
    native = pixels_BYXC.dtype.newbyteorder("=")
    pinned = torch.empty(pixels_BYXC.shape, dtype=torch.from_numpy(np.empty(0, native)).dtype, pin_memory=True)
    pinned.numpy()[...] = pixels_BYXC
    x_BCYX = pinned.to(device, non_blocking=True).permute(0, 3, 1, 2).to(torch.float32)
    if numbers is not None:
        mean_BC, std_BC = (torch.from_numpy(one).to(device)[:, :, None, None] for one in numbers)
        x_BCYX.sub_(mean_BC).div_(std_BC)
    return x_BCYX


def bf16_supported(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this processor computes in bfloat16 itself; elsewhere bf16 is slower than fp32.

    Args:
        cpuinfo: the kernel's description of the processor; a missing file means no.
    """
    try:
        flags = set(cpuinfo.read_text(encoding="ascii", errors="replace").split())
    except OSError:
        return False
    return not flags.isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})
