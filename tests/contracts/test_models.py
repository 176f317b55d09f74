"""What every model promises, run over every file in pipeline/models; a new file is tested without an edit here."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest

from pipeline.config import Recipe
from pipeline.errors import InputError
from pipeline.geometry import Box, ceil_to
from pipeline.models import Model
from pipeline.plugins import available, build, find
from tests.contracts.plugin_examples import check_options, example_in

MODELS = available("models")


def example_of(name):
    """The mapping that the docstring shows."""
    return example_in("models", name)["model"]


def built(name):
    """The model of the example; skipped where it needs a file that only a user has."""
    try:
        model = build("models", example_of(name))
    except InputError as error:
        pytest.skip(f"the example needs what is not here: {error}")
    if missing := [path for path in model.files() if not path.exists()]:
        pytest.skip(f"the example needs a file: {missing[0]}")
    return model


def tiles(model, *, batch, seed=0):
    """Raw uint8 tiles (B, C, Y, X) of two different, odd multiples of the stride, wide enough for valid padding."""
    least = ceil_to(2 * model.margin + 16, 2 * model.stride) + model.stride
    sides = (model.fixed_size,) * 2 if model.fixed_size else (least, least + 2 * model.stride)
    shape = batch, model.num_channels or 2, *sides
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def fit_of(model, pixels_CYX):
    """What the fit phase would hand over for an image of these pixels."""
    fitter = model.fitter()
    if fitter is None:
        return {}
    around_CYX = np.pad(pixels_CYX, [(0, 0), (fitter.halo, fitter.halo), (fitter.halo, fitter.halo)], mode="reflect")
    return {"model": fitter.fit(fitter.observe(around_CYX, None, Box(0, 0, *pixels_CYX.shape[1:]), 0))}


@pytest.mark.parametrize("name", MODELS)
def test_example_names_the_model(name):
    """The example in a model's docstring is a mapping of the YAML with the model's own name."""
    assert example_of(name)["name"] == name
    assert issubclass(find("models", name), Model)


@pytest.mark.parametrize("name", MODELS)
def test_options_are_strict_and_described(name):
    """An unknown option is refused by its name, and every option says what it means."""
    check_options("models", "model", name)


@pytest.mark.parametrize("name", MODELS)
def test_says_what_it_needs(name):
    """Classes, stride, field, margin and memory are known before anything is loaded, and travel."""
    model = built(name)
    assert model.num_classes >= 2
    assert model.num_channels is None or model.num_channels >= 1
    assert model.stride >= 1
    assert model.field is None or model.field >= model.margin >= 0
    assert len(model.class_list) in {0, model.num_classes}
    assert model.projected_bytes((256, 256), 3) > 0
    assert pickle.loads(pickle.dumps(model)) == model


@pytest.mark.parametrize("name", MODELS)
def test_a_dumped_model_builds_again(name):
    """The options of the resolved config make the same model."""
    model = built(name)
    assert build("models", {"name": name, **model.model_dump(mode="json")}) == model


@pytest.mark.parametrize("name", MODELS)
def test_predicts_what_it_declares(name):
    """Scores are float (B, K, Y, X); classes are unsigned integers (B, Y, X) below K, or the type's largest value, no prediction.

    Y and X lose the margin on both sides.
    """
    model = built(name)
    pixels_BCYX = tiles(model, batch=2)
    fits = [fit_of(model, pixels_CYX) for pixels_CYX in pixels_BCYX]
    with model.open(Recipe()) as predict:
        out = np.asarray(predict(pixels_BCYX, fits))
    if model.gives_scores:
        assert out.dtype.kind == "f"
        assert out.shape[:2] == (2, model.num_classes)
        assert np.isfinite(out).all()
    else:
        assert out.dtype.kind == "u"
        assert out.ndim == 3
        assert ((out < model.num_classes) | (out == np.iinfo(out.dtype).max)).all()
    lost = {whole - part for whole, part in zip(pixels_BCYX.shape[-2:], out.shape[-2:], strict=True)}
    assert lost == {2 * model.margin}


@pytest.mark.parametrize("name", MODELS)
def test_is_deterministic(name):
    """The same tile gives the same bytes again, also after another tile and from a model loaded anew."""
    model = built(name)
    one, other = tiles(model, batch=1), tiles(model, batch=1, seed=1)
    fits = [fit_of(model, one[0])]
    with model.open(Recipe()) as predict:
        first = np.array(predict(one, fits))
        predict(other, fits)
        again = np.array(predict(one, fits))
    with model.open(Recipe()) as predict:
        anew = np.array(predict(one, fits))
    assert first.tobytes() == again.tobytes() == anew.tobytes()


@pytest.mark.parametrize("name", MODELS)
def test_tiles_of_a_batch_do_not_mix(name):
    """Two tiles of two images in one batch are predicted as each alone, whatever the memory layout."""
    model = built(name)
    pixels_BCYX = tiles(model, batch=2)
    fits = [fit_of(model, pixels_CYX) for pixels_CYX in pixels_BCYX]
    interleaved = np.ascontiguousarray(pixels_BCYX.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    with model.open(Recipe()) as predict:
        together = np.array(predict(interleaved, fits))
        alone = np.concatenate([np.array(predict(pixels_BCYX[at : at + 1], fits[at : at + 1])) for at in (0, 1)])
    # Raw values give a network large logits, and sums are rounded by their size.
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6 * max(100.0, float(np.abs(alone).max())))


@pytest.mark.parametrize("name", MODELS)
def test_plans_without_torch(name):
    """Naming a model and asking what it needs imports no torch and no scikit-image."""
    code = (
        "import json, sys; from pipeline.errors import InputError; from pipeline.plugins import build\n"
        "try:\n"
        "    model = build('models', json.loads(sys.argv[1]))\n"
        "    model.num_classes, model.stride, model.field, model.class_list, model.normalize, model.fitter()\n"
        "except InputError: pass\n"
        "print(*{'torch', 'skimage', 'sklearn'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, json.dumps(example_of(name))], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")
