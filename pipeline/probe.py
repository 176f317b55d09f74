"""Finding out by trial what a network does not say of itself: its total stride and its field.

The answers are kept in a small cache by the hash of the weights file, so that a plan can read them without torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.geometry import ceil_to

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Probe", "cached", "file_sha256", "probe", "probe_field", "probe_stride", "remember"]

STRIDES = (1, 2, 4, 8, 16, 32, 64)
_CANVASES = (256, 512, 1024)  # sides tried in turn, pixels: small ones are quick, large ones hold wide fields
_SEEDS = (0, 1)


@dataclass(frozen=True)
class Probe:
    """What was found.

    Attributes:
        stride: total stride, pixels.
        field: radius in pixels, as :attr:`pipeline.models.Model.field`; None: wider than the largest canvas, or the whole tile.
    """

    stride: int
    field: int | None


def probe(network: nn.Module, channels: int) -> Probe:
    """Find stride and field of a network.

    Args:
        network: float32 (N, C, H, W) in, (N, K, H', W') out, in evaluation mode on the CPU.
        channels: C.

    Raises:
        ValueError: no stride up to 64 will do.
    """
    stride = probe_stride(network, channels)
    return Probe(stride, probe_field(network, channels, stride))


def probe_stride(network: nn.Module, channels: int) -> int:
    """Return the smallest stride whose multiples the network takes as sizes, and whose shifts move its output along.

    The output is compared in float64 in the middle of a canvas, where the border does not reach. A network that sees
    its whole input is never moved exactly: there, the smallest stride that is no worse than the largest.

    Raises:
        ValueError: no stride up to 64 will do.
    """
    import torch

    forward = _forward(network, torch.float64)
    accepted = [stride for stride in STRIDES if _accepts(forward, channels, stride)]
    if not accepted:
        raise ValueError(f"the network accepts none of the sizes {_CANVASES[0]}+d for d in {STRIDES}")
    errors: dict[int, float] = {}
    for side in _CANVASES[:2]:
        errors = {}
        for stride in accepted:
            errors[stride] = _shift_error(forward, channels, stride, side)
            if errors[stride] < 1e-9:
                return stride
    return next(stride for stride in accepted if errors[stride] <= 2 * errors[accepted[-1]])


def probe_field(network: nn.Module, channels: int, stride: int) -> int | None:
    """Return how far an input pixel outside a cell of the stride can change the cell's output, pixels.

    One pixel in the middle is set to NaN, which passes through every weight that is not left out altogether, and to
    a large finite value, which moves what only comparisons see; every position in a cell is tried along the diagonal.

    Returns:
        The radius; None where it reaches the border of the largest canvas, as in networks that see their whole input.
    """
    import torch

    forward = _forward(network, torch.float32)
    for side in _CANVASES:
        field = _field_on(forward, channels, stride, ceil_to(side, stride))
        if field is not None:
            return field
    return None


Forward = Callable[["torch.Tensor"], "torch.Tensor"]


def _forward(network: nn.Module, dtype: torch.dtype) -> Forward:
    """A copy of the network as a function in one precision."""
    import copy

    import torch

    with torch.no_grad():  # a TorchScript module copied with gradients on would no longer own its weights
        moved = copy.deepcopy(network).eval().to(dtype)

    def forward(x_NCYX: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            output_NKYX: torch.Tensor = moved(x_NCYX.to(dtype))
        return output_NKYX

    return forward


def _random(channels: int, side: int, seed: int) -> torch.Tensor:
    import torch

    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, channels, side, side, generator=generator, dtype=torch.float64)


def _accepts(forward: Forward, channels: int, stride: int) -> bool:
    """Whether a size that is a multiple of this stride, and of no larger one, goes in and loses an even margin."""
    import torch

    side = _CANVASES[0] + stride
    try:
        output = forward(torch.zeros(1, channels, side, side, dtype=torch.float64))
    except (RuntimeError, ValueError, AssertionError):
        return False
    return output.shape[-1] <= side and (side - output.shape[-1]) % 2 == 0 and output.shape[-1] == output.shape[-2]


def _shift_error(forward: Forward, channels: int, stride: int, side: int) -> float:
    """Largest difference, in standard deviations, between a window's output and the same window's after a shift."""
    window = side // 8
    pixels = _random(channels, side + STRIDES[-1], seed=0)
    here = forward(pixels[..., :side, :side])
    there = forward(pixels[..., stride : stride + side, stride : stride + side])
    start = (here.shape[-1] - window) // 2
    one = here[..., start + stride : start + stride + window, start + stride : start + stride + window]
    other = there[..., start : start + window, start : start + window]
    return float((one - other).abs().max() / (one.std() + 1e-300))


def _field_on(forward: Forward, channels: int, stride: int, side: int) -> int | None:
    """The field on one canvas; None where it touches the canvas's border."""
    import torch

    worst, middle = 0, ceil_to(side // 2, stride)
    for seed in _SEEDS:
        pixels = _random(channels, side, seed)
        plain = forward(pixels)
        margin = (side - plain.shape[-1]) // 2
        for pixel in range(middle, middle + stride):
            changed = torch.zeros(plain.shape[-2:], dtype=torch.bool)
            for value in (float("nan"), 1e4):
                touched = pixels.clone()
                touched[..., pixel, pixel] = value
                changed |= (forward(touched) != plain).any(0).any(0)  # NaN differs from everything
            for axis in (0, 1):
                hit = torch.nonzero(changed.any(axis)).flatten()
                if not len(hit):
                    continue
                if hit[0] == 0 or hit[-1] == plain.shape[-1] - 1:
                    return None
                first, last = int(hit[0]) + margin, int(hit[-1]) + margin
                # Distances from the pixel to the nearer edges of the outermost cells that it changes.
                worst = max(worst, pixel - (first // stride * stride + stride - 1), last // stride * stride - pixel)
    return worst


def cached(weights: Path) -> Probe | None:
    """Return what was found for a weights file before; None: nothing, or the file is not there."""
    if not weights.is_file():
        return None
    try:
        found = json.loads(_entry(weights).read_text(encoding="utf-8"))
        return Probe(stride=int(found["stride"]), field=None if found["field"] is None else int(found["field"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a cache that cannot be read is an empty one


def remember(weights: Path, found: Probe) -> None:
    """Keep what was found for a weights file; readers see the old answer or the new one, never half of it."""
    entry = _entry(weights)
    entry.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=entry.parent, suffix=".tmp", delete=False, encoding="utf-8") as file:
        json.dump(asdict(found), file)
    Path(file.name).replace(entry)


def _entry(weights: Path) -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return folder / "gigaseg" / "probe" / f"{file_sha256(weights)}.json"


def file_sha256(path: Path) -> str:
    """Return the hash of a file's bytes; it is read again only after it has changed.

    Raises:
        OSError: the file cannot be read.
    """
    facts = path.stat()
    return _sha256(path, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: Path, _size: int, _mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
