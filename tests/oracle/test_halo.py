"""A halo smaller than the field is chosen, or accepted, by what it costs on the user's own pixels."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import Recipe
from pipeline.plugins import build
from pipeline.raster import ArrayRaster, Header
from pipeline.tuning.halo_trial import ExactCore, find_smallest_halo
from tests.conftest import NORMALIZE, blobs, engine_yaml, save_tiff

FIELD, STRIDE = 24, 4  # of the small U-Net: 22, rounded up to its stride


@pytest.mark.parametrize("name", ["same", "valid"])
def test_the_smallest_halo_flips_no_sure_pixel_and_one_step_less_does(networks, name):
    """Zero-padded or not, the halo that is found is enough, and it is the smallest one that is."""
    model = build("models", networks[name])
    least = -(-model.margin // STRIDE) * STRIDE
    with model.open(Recipe(), NORMALIZE) as predict:
        core = ExactCore(predict, ArrayRaster(blobs((300, 260))), {}, STRIDE, FIELD)
        found = find_smallest_halo(core, STRIDE, least, FIELD)
        assert core.difference(FIELD).largest < 1e-4
        assert found.num_sure_flipped == 0
        assert least <= found.halo <= FIELD
        if found.halo > least:
            assert core.difference(found.halo - STRIDE).num_sure_flipped > 0
        if name == "same":
            assert core.difference(0).num_sure_flipped > 0, "a control: without a halo, sure pixels change class"


def test_the_zoos_network_errs_as_it_was_published_to():
    """On its own picture: a halo of 16 moves logits visibly, 32 hardly, 48 not at all."""
    if "GIGASEG_TEST_DATA" not in os.environ:
        pytest.skip("GIGASEG_TEST_DATA is not set")
    folder = Path(os.environ["GIGASEG_TEST_DATA"]) / "models" / "unet2d_nuclei_broad"
    pixels_YX = np.load(folder / "test_input.npy")[0, 0]
    spec = {"name": "torchscript", "path": folder / "weights.pt", "trust": True, "classes": 2, "stride": 8, "field": 54}
    fixed = {"mean": [float(pixels_YX.mean())], "std": [float(pixels_YX.std())]}
    with build("models", spec).open(Recipe(), fixed) as predict:
        core = ExactCore(predict, ArrayRaster(pixels_YX), {}, 8, 56)
        errors = {halo: core.difference(halo).largest for halo in (16, 32, 48)}
        found = find_smallest_halo(core, 8, 0, 56)
    assert errors[16] > 0.02
    assert errors[32] < errors[16] / 4
    assert errors[48] < 1e-4
    assert found.halo <= 32


def test_a_run_says_what_its_halo_costs(networks, tmp_path, monkeypatch, capsys):
    """`auto` takes the measured halo when the run is worth a trial; a smaller one is accepted with its error."""
    from pipeline.tuning import halo_trial
    from workflows.run import run

    monkeypatch.setattr(halo_trial, "WORTHWHILE", 0)
    save_tiff(tmp_path / "a.tif", blobs((300, 260)))
    yaml = engine_yaml(tmp_path, model=networks["same"], tiling={"halo": "auto"})
    assert run(yaml) == 0
    assert "by measurement: logits differ by up to" in capsys.readouterr().err
    assert run(engine_yaml(tmp_path, model=networks["same"], tiling={"halo": 4}, output="four")) == 0
    assert "4 is less than the field of 22: logits differ by up to" in capsys.readouterr().err


def test_a_small_run_takes_the_exact_halo(networks, tmp_path, capsys):
    """Where a trial would cost more than it saves, nothing is tried: the field, rounded up to the stride."""
    import json

    from workflows.run import run

    save_tiff(tmp_path / "a.tif", blobs((300, 260)))
    assert run(engine_yaml(tmp_path, model=networks["same"], tiling={"halo": "auto"})) == 0
    assert json.loads((tmp_path / "out" / "run.json").read_text())["recipe"]["halo"] == FIELD
    assert "by measurement" not in capsys.readouterr().err


@pytest.mark.parametrize("hole", ["blank", "nan", "nodata"])
def test_a_middle_without_anything_to_see_halves_no_halo(networks, hole):
    """Glass, NaN or nodata in the middle of an image: a place with something in it is looked at, and finds that no halo is too little."""
    model = build("models", networks["same"])
    pixels_YX = blobs((600, 600), dtype=np.float32)
    pixels_YX[200:400, 200:400] = {"blank": 100.0, "nan": np.nan, "nodata": -3.4e38}[hole]
    header = Header(pixels_YX.shape, 1, "float32", nodata=-3.4e38 if hole == "nodata" else None)
    with model.open(Recipe(), NORMALIZE) as predict:
        core = ExactCore(predict, ArrayRaster(pixels_YX, header), {}, STRIDE, FIELD)
        assert core.is_telling
        assert core.difference(0).num_sure_flipped > 0
        assert 0 < find_smallest_halo(core, STRIDE, 0, FIELD).halo <= FIELD
        blank = ExactCore(predict, ArrayRaster(np.full((300, 300), 100, np.uint8)), {}, STRIDE, FIELD)
        assert not blank.is_telling


def test_an_image_that_shows_nothing_gets_the_exact_halo(networks, tmp_path, monkeypatch):
    """A trial on a blank image tells nothing of others, so that the halo is the field."""
    import json

    from pipeline.tuning import halo_trial
    from workflows.run import run

    monkeypatch.setattr(halo_trial, "WORTHWHILE", 0)
    save_tiff(tmp_path / "a.tif", np.full((300, 260), 100, np.uint8))
    assert run(engine_yaml(tmp_path, model=networks["same"], tiling={"halo": "auto"})) == 0
    assert json.loads((tmp_path / "out" / "run.json").read_text())["recipe"]["halo"] == FIELD
