"""Members of an ensemble are what they are alone: their normalisation, and their files beside the YAML."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.config import Recipe, load_config, to_yaml
from pipeline.geometry import Box
from pipeline.inputs import build_catalogue
from pipeline.models.bundle_files import save_bundle
from pipeline.plugins import build
from pipeline.scheduling.plan import make_job
from pipeline.statistics import NormalizationFitter
from tests.conftest import blobs, engine_yaml, save_tiff

RAW = {"name": "unet", "channels": 1, "classes": 2, "depth": 1, "base": 8, "seed": 2}
CLASSES = [{"name": "ground"}, {"name": "cell"}]


def probs_of(model, pixels_BCYX, fit, normalize=None):
    with model.open(Recipe(), normalize) as predict:
        logits = np.asarray(predict(pixels_BCYX, [fit] * len(pixels_BCYX)))
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


@pytest.fixture
def asking(tmp_path):
    """A bundle that asks for a normalisation by percentiles."""
    network = build("models", {**RAW, "seed": 3}).load()
    folder = save_bundle(tmp_path / "mine", network, architecture=RAW, classes=CLASSES, normalize="percentile")
    return {"name": "bundle", "path": f"{folder}/"}


@pytest.mark.parametrize("asked", [None, "zscore", {"mean": [99.0], "std": [9.0]}])
@pytest.mark.parametrize("nested", [False, True])
def test_raw_members_see_raw_values_unless_the_yaml_asks(tmp_path, asking, asked, nested):
    """A member's wish is its own: only what the YAML asks for reaches the members that work on raw values."""
    pixels_CYX = blobs((64, 64))[None]
    save_tiff(tmp_path / "a.tif", pixels_CYX[0])
    pair = {"name": "ensemble", "members": [asking, RAW]}
    members = [pair, asking] if nested else pair["members"]
    found = build_catalogue(load_config(engine_yaml(tmp_path, model={"name": "ensemble", "members": members}, normalize=asked)))
    job = make_job(found, Recipe())
    fit = job.fitters.conclude(job.fitters.observe(pixels_CYX, None, Box(0, 0, 64, 64), 0))
    wish = NormalizationFitter("percentile")
    percentiles = {"normalize": wish.fit(wish.observe(pixels_CYX, None, Box(0, 0, 64, 64), 0))}
    for_asking, for_raw = (percentiles, {}) if asked is None else (fit, fit)
    alone = build("models", RAW)
    one = probs_of(build("models", asking), pixels_CYX[None], for_asking, job.normalize)
    other = probs_of(alone, pixels_CYX[None], for_raw, job.normalize)
    share = 0.75 if nested else 0.5
    np.testing.assert_allclose(probs_of(found.model, pixels_CYX[None], fit, job.normalize), share * one + (1 - share) * other, atol=1e-5)
    # A control: what the raw member must not be given would show.
    assert np.abs(probs_of(alone, pixels_CYX[None], percentiles) - probs_of(alone, pixels_CYX[None], {})).max() > 0.01


def test_members_that_all_ask_share_one_fit(asking):
    """Where every member asks for the same, it is the ensemble's own wish, gathered once."""
    both = build("models", {"name": "ensemble", "members": [asking, asking]})
    assert (both.normalize, both.fitter()) == ("percentile", None)


def test_paths_of_members_count_from_the_file(tmp_path, monkeypatch, asking):
    """Files of members lie beside the YAML, however deep, names of bundles stay names, and the written config works elsewhere."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("GIGASEG_MODELS", str(tmp_path))
    deep = {"name": "ensemble", "members": [{**RAW, "weights": "w/deep.safetensors"}, {"name": "bundle", "path": "./mine"}]}
    members = [{**RAW, "weights": "w.safetensors"}, {"name": "bundle", "path": "mine"}, deep]
    path = engine_yaml(tmp_path, model={"name": "ensemble", "members": members}, normalize=None)
    config = load_config(path, ["model.members.2.members.0.weights=set.safetensors"])
    one, named, deep = config.model["members"]
    assert (one["weights"], one["padding"]) == (f"{tmp_path}/w.safetensors", "same")
    assert (named["path"], deep["members"][1]["path"]) == ("mine", f"{tmp_path}/mine")
    assert deep["members"][0]["weights"] == f"{tmp_path}/elsewhere/set.safetensors"
    (tmp_path / "elsewhere" / "config.yaml").write_text(to_yaml(config))
    assert load_config(tmp_path / "elsewhere" / "config.yaml") == config
