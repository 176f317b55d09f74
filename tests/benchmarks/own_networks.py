"""Small networks of the forms of StarDist, Cellpose and HoVer-Net, trained on the spot, exported, and run as anybody's own network.

    python -m tests.benchmarks.own_networks FOLDER [stardist cellpose hovernet] [--steps 400]

FOLDER gets for each form a file of the network as TorchScript and as ONNX, the YAML beside each, images with truth that were not trained
on, and the output of `gigaseg run`. Printed is a row a file: AP of the objects at IoU 0.5, and seconds of training.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional

from pipeline.config import load_config
from tests.benchmarks.drawn_cells import RAYS, draw_cells, flow_targets, hover_targets, star_targets
from tests.conftest import save_tiff
from workflows.run import run_config

__all__ = ["FORMS", "Form", "export", "score", "train"]

GRID = 2  # of the network in StarDist's form
FLOW = 5  # length of the flows that Cellpose's networks learn
MEAN, STD = 100.0, 40.0
SIDE = 128  # of the pictures that are trained on, pixels


class SmallUNet(nn.Module):
    """Three levels of two convolutions; each head is one more, at every pixel, or at every second one of ``grid`` 2."""

    def __init__(self, heads: Mapping[str, int], grid: int = 1, base: int = 16) -> None:
        super().__init__()
        self.grid = grid
        wide = [base, 2 * base, 4 * base]
        self.down = nn.ModuleList([_block(before, after) for before, after in zip([1, *wide], wide, strict=False)])
        self.up = nn.ModuleList([_block(wide[2] + wide[1], wide[1]), _block(wide[1] + wide[0], wide[0])])
        self.heads = nn.ModuleDict({name: nn.Conv2d(wide[1] if grid == 2 else wide[0], count, 1) for name, count in heads.items()})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the output of each head by name."""
        first = self.down[0](x)
        second = self.down[1](functional.max_pool2d(first, 2))
        third = self.down[2](functional.max_pool2d(second, 2))
        last = self.up[0](torch.cat([functional.interpolate(third, scale_factor=2.0), second], 1))
        if self.grid == 1:
            last = self.up[1](torch.cat([functional.interpolate(last, scale_factor=2.0), first], 1))
        return {name: head(last) for name, head in self.heads.items()}


def _block(before: int, after: int) -> nn.Sequential:
    layers = [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.Conv2d(after, after, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers)


class AsStarDist(nn.Module):
    """Returns what StarDist's networks return: a probability and distances."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (N, 1, Y / 2, X / 2) and (N, RAYS, Y / 2, X / 2)."""
        found = self.network(x)
        return found["prob"].sigmoid(), found["dist"]


class AsCellpose(nn.Module):
    """Returns what Cellpose's networks return: flows and a logit in one tensor, and a vector that describes the style."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (N, 3, Y, X) and (N, 1)."""
        return self.network(x)["y"], x.mean((2, 3))


def star_loss(found: Mapping[str, Tensor], target: Tensor) -> Tensor:
    """Return cross-entropy of the probability, and the error of distances weighted by it, as published."""
    target = target[:, :, ::GRID, ::GRID]
    probability, distances = target[:, :1], target[:, 1:]
    error = (found["dist"] - distances).abs().mean(1, keepdim=True) * probability
    return functional.binary_cross_entropy_with_logits(found["prob"], probability) + 0.2 * error.mean()


def flow_loss(found: Mapping[str, Tensor], target: Tensor) -> Tensor:
    """Return half the squared error of five times the flows, and cross-entropy of the cell, as published."""
    error = functional.mse_loss(found["y"][:, :2], FLOW * target[:, :2]) / 2
    return error + functional.binary_cross_entropy_with_logits(found["y"][:, 2:], target[:, 2:])


def hover_loss(found: Mapping[str, Tensor], target: Tensor) -> Tensor:
    """Return cross-entropy of nuclear pixels and of types, and the squared error of the maps; published is also that of their slopes."""
    kinds = target[:, 0].long()
    pixels = functional.cross_entropy(found["np"], (kinds > 0).long()) + functional.cross_entropy(found["tp"], kinds)
    return pixels + 2 * functional.mse_loss(found["hv"], target[:, 1:])


@dataclass(frozen=True)
class Form:
    """One form of network: how it learns and what the YAML beside its files says.

    Attributes:
        heads: channels of each head by name.
        targets: what it learns, from labels.
        loss: of outputs and targets.
        wrapper: turns the heads into what networks of this form return.
        torchscript: outputs in the YAML beside the TorchScript file.
        onnx: outputs in the YAML beside the ONNX file.
        names: of the ONNX file's outputs.
        card: other keys of the YAML.
    """

    heads: Mapping[str, int]
    targets: Callable[[np.ndarray], np.ndarray]
    loss: Callable[[Mapping[str, Tensor], Tensor], Tensor]
    wrapper: Callable[[nn.Module], nn.Module]
    torchscript: Mapping[str, Any]
    onnx: Mapping[str, Any]
    names: tuple[str, ...]
    card: Mapping[str, Any]
    grid: int = 1


TWO = [{"name": "background"}, {"name": "cell", "color": "#e6194b"}]
THREE = [{"name": "background"}, {"name": "dark", "color": "#4363d8"}, {"name": "bright", "color": "#ffe119"}]
TYPES = {"nuclear_pixels": "np", "horizontal_vertical": "hv", "nuclear_types": "tp"}
FORMS = {
    "stardist": Form(
        heads={"prob": 1, "dist": RAYS},
        targets=star_targets,
        loss=star_loss,
        wrapper=AsStarDist,
        torchscript={"object_probability": 0, "distances": [1, RAYS]},
        onnx={"object_probability": "prob", "distances": "dist"},
        names=("prob", "dist"),
        card={"classes": TWO, "grid": GRID, "instances": {"name": "radial", "min_area": 15}},
        grid=GRID,
    ),
    "cellpose": Form(
        heads={"y": 3},
        targets=flow_targets,
        loss=flow_loss,
        wrapper=AsCellpose,
        torchscript={"flows": [0, 1], "cell_probability": 2},
        onnx={"flows": [0, 1], "cell_probability": 2},
        names=("y", "style"),
        card={"classes": TWO, "instances": {"name": "flows", "min_area": 15}},
    ),
    "hovernet": Form(
        heads={"np": 2, "hv": 2, "tp": 3},
        targets=hover_targets,
        loss=hover_loss,
        wrapper=nn.Sequential,
        torchscript=TYPES,
        onnx=TYPES,
        names=("np", "hv", "tp"),
        card={"classes": THREE, "instances": {"name": "hover", "kernel": 11, "min_area": 15}},
    ),
}


def train(form: Form, steps: int, *, base: int = 16, batch: int = 4, num_pictures: int = 32, seed: int = 0) -> nn.Module:
    """Return a network that has learnt from drawn pictures, turned at random by quarters of a circle before their targets are made."""
    torch.manual_seed(seed)
    network, random = SmallUNet(form.heads, form.grid, base), np.random.default_rng(seed)
    pictures = [draw_cells(1000 + number) for number in range(num_pictures)]
    pairs = [(np.rot90(pixels, turn), np.rot90(labels, turn)) for pixels, labels in pictures for turn in (0, 1)]
    inputs = torch.stack([torch.from_numpy((pixels.astype(np.float32) - MEAN) / STD)[None] for pixels, _ in pairs])
    targets = torch.stack([torch.from_numpy(form.targets(np.ascontiguousarray(labels))) for _, labels in pairs])
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        chosen = torch.from_numpy(random.choice(len(pairs), batch, replace=False))
        optimizer.zero_grad()
        form.loss(network(inputs[chosen]), targets[chosen]).backward()
        optimizer.step()
        schedule.step()
    return form.wrapper(network).eval()


def export(network: nn.Module, form: Form, folder: Path, name: str) -> list[Path]:
    """Write NAME.pt and NAME.onnx, each with the YAML beside it, and return both files."""
    folder.mkdir(parents=True, exist_ok=True)
    x, files = torch.zeros(1, 1, SIDE, SIDE), [folder / f"{name}.pt", folder / f"{name}.onnx"]
    torch.jit.trace(network, x, strict=False).save(str(files[0]))
    axes = {at: {0: "n", 2: "h", 3: "w"} if at != "style" else {0: "n"} for at in ("x", *form.names)}
    torch.onnx.export(network, (x,), str(files[1]), input_names=["x"], output_names=list(form.names), dynamic_axes=axes, dynamo=False)
    for file, outputs in zip(files, (form.torchscript, form.onnx), strict=True):
        card = {
            "outputs": dict(outputs),
            **form.card,
            "channels": 1,
            "normalize": {"mean": [MEAN], "std": [STD]},
            "samples": {"dtype": "uint8", "range": [0, 255]},
            "diameter": 17,
            "kinds": ["drawn cells"],
            "licence": "CC0",
        }
        file.with_name(f"{file.name}.yaml").write_text(yaml.safe_dump(card, sort_keys=False))
    return files


def score(file: Path, folder: Path, *, num_pictures: int = 3, side: int = 320, **keys: Any) -> dict[str, Any]:
    """Run a file on pictures that were not trained on, as `gigaseg run` does, and return its report; ``keys`` are keys of the YAML."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(num_pictures):
        pixels_YX, labels_YX = draw_cells(number, side)
        save_tiff(folder / f"image{number}.tif", pixels_YX)
        save_tiff(folder / f"image{number}-truth.tif", labels_YX.astype(np.uint16))
    named = yaml.safe_load(file.with_name(f"{file.name}.yaml").read_text())["classes"]
    most = max(int(draw_cells(number, side)[1].max()) for number in range(num_pictures))
    values = [[0], "other"] if len(named) == 2 else [[0], list(range(1, most + 1, 2)), "other"]
    config = {
        "images": [str(folder / f"image{number}.tif") for number in range(num_pictures)],
        "truth": str(folder / "{stem}-truth.tif"),
        "model": {"name": "torchscript" if file.suffix == ".pt" else "onnx", "path": str(file)},
        "classes": [{**one, "values": value} for one, value in zip(named, values, strict=True)],
        "instances": "auto",
        "output": str(folder / f"{file.name}-out"),
        **keys,
    }
    if file.suffix == ".pt":
        config["model"]["trust"] = True
    path = folder / f"{file.name}-run.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    code = run_config(load_config(path), fresh=True)
    if code:
        raise SystemExit(code)
    report: dict[str, Any] = json.loads((Path(config["output"]) / "report" / "report.json").read_text())
    return report


def main() -> None:
    """Train, export and score each form that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("forms", nargs="*", default=list(FORMS), metavar="FORM", help=", ".join(FORMS))
    parser.add_argument("--steps", type=int, default=400)
    arguments = parser.parse_args()
    for name in arguments.forms:
        form, begin = FORMS[name], time.monotonic()
        network = train(form, arguments.steps)
        seconds = time.monotonic() - begin
        for file in export(network, form, arguments.folder / name, "cells"):
            found = score(file, arguments.folder / name)["instances"]
            scores = ", ".join(f"{row['class']} {row['ap50']:.3f} ({row['truth']} objects)" for row in found)
            print(f"{name}: {file.name}: AP at IoU 0.5: {scores}; trained in {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
