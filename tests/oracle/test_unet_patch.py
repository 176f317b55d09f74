"""A U-Net that takes pixels in patches: what it says of its reach is what is measured, and the cut does not show."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.config import Recipe
from pipeline.errors import InputError
from pipeline.models import num_parameters
from pipeline.models.networks.stride_and_field import probe
from pipeline.plugins import build

SPEC = {"name": "unet", "channels": 1, "classes": 2, "depth": 2, "base": 4}


@pytest.mark.parametrize("patch", [2, 3, 4])
def test_stride_and_field_are_as_measured(patch):
    """Total stride and field of a patched U-Net, by trial."""
    import torch

    model = build("models", {**SPEC, "patch": patch})
    assert (model.stride, model.field) == (4 * patch, 22 * patch)
    torch.manual_seed(0)
    if patch != 3:  # trials are of powers of two
        found = probe(model.load(), 1)
        assert found.stride == model.stride
        assert found.field <= model.field
        assert found.field > model.field - patch  # the nearest pixel of the outermost patch


def test_only_the_first_and_the_last_layer_grow():
    """Patches of 2 x 2 have four times the channels in and out, and nothing else changes."""
    plain, patched = (num_parameters(build("models", {**SPEC, "patch": patch})) for patch in (1, 2))
    assert patched - plain == 3 * 1 * 9 * 4 + 3 * 2 * (4 + 1)


def test_tiles_agree_with_the_whole():
    """A tile with a halo of the field gives the logits of one pass over the image; half of that halo does not."""
    model = build("models", {**SPEC, "patch": 2})
    pixels = np.random.default_rng(0).integers(0, 256, (1, 1, 256, 256), np.uint8)
    off = {}
    with model.open(Recipe(), {"mean": [128.0], "std": [64.0]}) as predict:
        whole = np.array(predict(pixels, [{}]))
        for halo in (48, 8):
            part = np.array(predict(pixels[..., 128 - halo : 160 + halo, 128 - halo : 160 + halo], [{}]))
            off[halo] = np.abs(part[..., halo : halo + 32, halo : halo + 32] - whole[..., 128:160, 128:160]).max()
    assert off[48] < 1e-5
    assert off[8] > 10 * off[48]


def test_patches_need_padding():
    """Valid padding cuts single pixels, which patches cannot: refused with the way out."""
    with pytest.raises(InputError, match="padding: same"):
        build("models", {**SPEC, "patch": 2, "padding": "valid"})
