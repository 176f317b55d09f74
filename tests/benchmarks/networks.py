"""Size, work, time and memory of each network: ``python -m tests.benchmarks.networks [SIDE] [NAME...]``.

Each measurement is a process of its own, on one thread, in float32 and with the memory layout that the backend uses.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time

NETWORKS = {
    "unet": {"name": "unet", "channels": 3},
    "segnet": {"name": "segnet"},
    "segnet_basic": {"name": "segnet_basic"},
    "frrn-a": {"name": "frrn", "variant": "a"},
    "frrn-b": {"name": "frrn", "variant": "b"},
    "deeplabv3plus-xception65": {"name": "deeplabv3plus"},
    "deeplabv3plus-resnet101": {"name": "deeplabv3plus", "encoder": "resnet101"},
    "deeplabv3plus-resnet50": {"name": "deeplabv3plus", "encoder": "resnet50"},
    "deeplabv3plus-mobilenet_v2": {"name": "deeplabv3plus", "encoder": "mobilenet_v2"},
    "smp-unet-resnet18": {"name": "smp", "architecture": "Unet", "encoder": "resnet18"},
    "smp-segformer-mit_b0": {"name": "smp", "architecture": "Segformer", "encoder": "mit_b0"},
}
BATCHES = (1, 4)


def multiply_adds(name: str, side: int) -> int:
    """Multiply-adds of one forward pass over ``side`` x ``side`` pixels, counted without computing them."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from pipeline.plugins import build

    model = build("models", NETWORKS[name])
    network = model.build().to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.empty(1, model.num_channels, side, side, device="meta"))
    return int(counter.get_total_flops()) // 2


def measure(name: str, side: int, batch: int) -> dict[str, float]:
    """Seconds of a forward pass, and peak bytes above the loaded network, beside what the model projects."""
    import numpy as np
    import torch

    from pipeline.plugins import build
    from pipeline.recipe import Recipe

    torch.set_num_threads(1)
    model = build("models", NETWORKS[name])
    pixels_BCYX = np.random.default_rng(0).integers(0, 256, (batch, model.num_channels, side, side), np.uint8)
    with model.open(Recipe()) as predict:
        predict(pixels_BCYX[:1, :, : 2 * model.stride, : 2 * model.stride], [{}])
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:  # noqa: PTH123 - not a file that pathlib could replace
            file.write("5")  # the peak starts anew
        before, start = _status("VmRSS"), time.perf_counter()
        predict(pixels_BCYX, [{}] * batch)
        seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "peak": _status("VmHWM") - before,
        "projected": batch * model.projected_bytes((side, side), model.num_channels),
    }


def _status(key: str) -> int:
    """A size from the kernel's account of this process, bytes."""
    with open("/proc/self/status", encoding="ascii") as file:  # noqa: PTH123 - as above
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))


def main() -> None:
    """Print one line a network and batch."""
    from pipeline.models import num_parameters
    from pipeline.plugins import build

    side = int(sys.argv[1]) if len(sys.argv) > 1 else 1024
    print(f"{side} x {side} pixels, one thread, fp32; GMAC a tile; MiB above the loaded network")
    print(f"{'network':<28}{'parameters':>12}{'GMAC':>9}{'batch':>7}{'seconds':>9}{'MiB':>8}{'projected':>11}")
    for name in sys.argv[2:] or NETWORKS:
        parameters, work = num_parameters(build("models", NETWORKS[name])), multiply_adds(name, side)
        for batch in BATCHES:
            command = [sys.executable, "-m", __spec__.name, "--measure", name, str(side), str(batch)]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print(
                f"{name:<28}{parameters:>12,}{work / 1e9:>9.1f}{batch:>7}{found['seconds']:>9.2f}"
                f"{found['peak'] / 2**20:>8.0f}{found['projected'] / 2**20:>11.0f}",
                flush=True,
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        print(json.dumps(measure(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
    else:
        main()
