"""A file of weights that does not fit says whose it is."""

from __future__ import annotations

import re

import pytest
import torch
import yaml
from safetensors.torch import save_file

from pipeline.errors import InputError
from pipeline.models import Network
from pipeline.models.networks.recognition import _shapes_of, nearest_network
from pipeline.plugins import available, build, find

UNET = {"name": "unet", "depth": 2, "base": 4, "channels": 3}
SMALL = {"name": "smp", "architecture": "Unet", "encoder": "resnet18", "channels": 1, "classes": 3}


def refusal(tmp_path, state, asked):
    """What a model says of a state dict that is not its own, on one line."""
    file = tmp_path / "weights.safetensors"
    save_file({name: value.contiguous() for name, value in state.items()}, file)
    with pytest.raises(InputError) as caught:
        build("models", {**asked, "weights": file}).load()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("made", "asked"),
    [
        (UNET, {"name": "segnet"}),
        (UNET, {**UNET, "base": 8}),
        ({**UNET, "norm": "none", "classes": 5}, UNET),
        ({**UNET, "patch": 2}, UNET),
        ({"name": "segnet_basic", "channels": 1, "classes": 2}, {"name": "segnet", "channels": 1, "classes": 2}),
        ({"name": "frrn", "variant": "b"}, {"name": "frrn", "variant": "a"}),
        ({"name": "deeplabv3plus", "encoder": "mobilenet_v2"}, UNET),
        (SMALL, UNET),
        (SMALL, {**SMALL, "architecture": "FPN"}),
        ({**SMALL, "options": {"encoder_depth": 3, "decoder_channels": [64, 32, 16], "decoder_attention_type": "scse"}}, SMALL),
    ],
)
def test_the_model_to_paste_loads_the_file(tmp_path, made, asked):
    """The model that the message names, pasted into a YAML, takes every tensor of the file."""
    state = build("models", made).load().state_dict()
    message = refusal(tmp_path, state, asked)
    pasted = re.search(r"Use (model: \{.*\}): every tensor agrees\.", message)
    assert pasted, message
    spec = yaml.safe_load(pasted[1])["model"]
    assert {key: spec[key] for key in made} == made
    loaded = build("models", spec).load().state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in loaded.items())


def test_a_wrapped_module_is_seen_through(tmp_path):
    """Names that all begin with what a wrapper adds are compared without it, and the message says so."""
    state = {f"module._orig_mod.{name}": value for name, value in build("models", UNET).load().state_dict().items()}
    message = refusal(tmp_path, state, UNET)
    assert "every tensor agrees once 'module._orig_mod.' is cut off its names" in message


def test_a_near_miss_has_its_share(tmp_path):
    """Where tensors are missing or added the nearest network is named with the share of both that agree, never with all."""
    state = build("models", UNET).load().state_dict()
    del state["head.bias"]
    state |= {f"extra.{number}": torch.zeros(1) for number in range(10)}
    share = int(100 * (len(state) - 10) / (len(state) + 1))
    assert f"The nearest is model: {{name: unet, channels: 3, classes: 2, norm: batch, depth: 2, base: 4, weights: {tmp_path}" in (
        message := refusal(tmp_path, state, UNET)
    )
    assert f"{share} % of the tensors agree" in message


@pytest.mark.parametrize(
    ("names", "clue"),
    [
        (["layer.0.kernel", "scale"], r"No network here has tensors of these names and shapes\.$"),
        (["backbone.conv1.weight", "classifier.4.weight"], "They look like torchvision's: .*torchscript"),
        (["encoder.model.stem.weight", "segmentation_head.0.weight"], "They look like segmentation-models-pytorch's .*encoder: tu-NAME"),
    ],
)
def test_strangers_are_called_strangers(tmp_path, names, clue):
    """Of tensors of no network here the message says just that, and where the names come from if they tell."""
    assert re.search(clue, refusal(tmp_path, {name: torch.zeros(2, 2) for name in names}, UNET))


NETWORKS = [name for name in available("models") if issubclass(find("models", name), Network)]
FAMILIES = ["resnext50_32x4d", "se_resnet50", "vgg11_bn", "mobilenet_v2", "inceptionv4", "densenet121", "dpn68", "inceptionresnetv2"]
FAMILIES += ["efficientnet-b2", "timm-efficientnet-b1", "mit_b3", "mobileone_s1", "xception"]
ARCHITECTURES = ["UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus", "PAN", "UPerNet", "Segformer"]


@pytest.mark.parametrize(
    "spec",
    [
        *({"name": name} for name in NETWORKS if name != "smp"),
        {"name": "frrn", "variant": "b"},
        {"name": "unet", "channels": 4, "patch": 8},
        *({**SMALL, "encoder": encoder} for encoder in FAMILIES),
        *({**SMALL, "architecture": architecture} for architecture in ARCHITECTURES),
    ],
    ids=lambda spec: "-".join(str(value) for value in spec.values()),
)
def test_every_network_is_known_by_its_tensors(spec):
    """Names and shapes of each network here, and of each family of encoders, lead back to one that has exactly these tensors."""
    shapes = _shapes_of(spec)
    found, share = nearest_network(shapes)
    assert share == 1
    assert _shapes_of(found) == shapes
    assert found["name"] == spec["name"]
