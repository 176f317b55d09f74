"""Size, work, time and memory of each network: ``python -m tests.benchmarks.networks [NAME...] [--side 1024] [--batch 1 4]``.

Each measurement is a process of its own, on one thread, in float32 and with the memory layout that the backend uses: the peak
is that of one network and one batch. Multiply-adds are those of convolutions and matrix products, as torch counts them.
"""

from __future__ import annotations

import argparse
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


def multiply_adds(name: str, side: int) -> int:
    """Multiply-adds of one forward pass over ``side`` x ``side`` pixels, counted without computing them."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from pipeline.models.networks.recognition import weightless
    from pipeline.plugins import build

    model = build("models", NETWORKS[name])
    with weightless():
        network = model.build().eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.empty(1, model.num_channels, side, side, device="meta"))
    return int(counter.get_total_flops()) // 2


def measure(name: str, side: int, batch: int) -> dict[str, float]:
    """Seconds a megapixel of a forward pass; peak bytes of the process, and above the loaded network, beside what the model projects."""
    import numpy as np
    import torch

    from pipeline.config import Recipe
    from pipeline.plugins import build

    torch.set_num_threads(1)
    model = build("models", NETWORKS[name])
    pixels_BCYX = np.random.default_rng(0).integers(0, 256, (batch, model.num_channels, side, side), np.uint8)
    with model.open(Recipe()) as predict:
        predict(pixels_BCYX[:1, :, : 2 * model.stride, : 2 * model.stride], [{}])
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:  # noqa: PTH123 - not a file that pathlib could replace
            file.write("5")  # the peak starts anew
        before, start = _status("VmRSS"), time.perf_counter()
        predict(pixels_BCYX, [{}] * batch)
        seconds, peak = time.perf_counter() - start, _status("VmHWM")
    return {
        "seconds": seconds / (batch * side**2 / 1e6),
        "peak": peak,
        "above": peak - before,
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

    parser = argparse.ArgumentParser(description="Size, work, time and memory of each network.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which; all if none is named: {', '.join(NETWORKS)}")
    parser.add_argument("--side", type=int, default=1024, help="of a tile, pixels")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4], help="tiles at once")
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(NETWORKS):
        parser.error(f"no network named {', '.join(sorted(unknown))}; there are {', '.join(NETWORKS)}")
    print(f"{asked.side} x {asked.side} pixels, one thread, fp32; GMAC a tile; MiB of the process, above the loaded network, as projected")
    print(f"{'network':<28}{'parameters':>12}{'GMAC':>9}{'batch':>7}{'s/Mpx':>9}{'MiB':>8}{'above':>8}{'projected':>11}")
    for name in asked.names or NETWORKS:
        parameters, work = num_parameters(build("models", NETWORKS[name])), multiply_adds(name, asked.side)
        for batch in asked.batch:
            command = [sys.executable, "-m", __spec__.name, "--measure", name, str(asked.side), str(batch)]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            sizes = "".join(f"{found[key] / 2**20:>{width}.0f}" for key, width in (("peak", 8), ("above", 8), ("projected", 11)))
            print(f"{name:<28}{parameters:>12,}{work / 1e9:>9.1f}{batch:>7}{found['seconds']:>9.2f}{sizes}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        print(json.dumps(measure(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
    else:
        main()
