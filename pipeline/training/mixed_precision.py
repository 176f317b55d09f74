"""The precision of a training's arithmetic: which one ``auto`` is, and the torch contexts that apply it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from pipeline.training.schema import TrainConfig

if TYPE_CHECKING:
    import torch

__all__ = ["autocast", "gradient_scaler", "resolve_precision"]


def resolve_precision(config: TrainConfig, device: str) -> str:
    """Return ``fp32``, ``bf16`` or ``fp16``; ``auto`` is bf16 where the processor or the GPU has it."""
    if config.precision != "auto":
        return config.precision
    from pipeline.backends import bf16_supported

    return "bf16" if device != "cpu" or bf16_supported() else "fp32"


def autocast(precision: str, device: str) -> AbstractContextManager[Any]:
    """Return the context in which a network computes with this precision."""
    import torch

    if precision == "fp32":
        return nullcontext()
    return torch.autocast(_device_type(device), torch.bfloat16 if precision == "bf16" else torch.float16)


def gradient_scaler(precision: str, device: str) -> torch.amp.GradScaler:
    """Return a scaler that keeps small float16 gradients above 0; other precisions have the range of float32 and need no scaling."""
    import torch

    return torch.amp.GradScaler(_device_type(device), enabled=precision == "fp16")


def _device_type(device: str) -> str:
    """Return ``cuda`` for ``cuda:1``."""
    return device.partition(":")[0]
