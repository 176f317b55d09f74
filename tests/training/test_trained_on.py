"""What a bundle says of the images that it was trained on, and training on a working grid."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import yaml
from PIL import Image

import pipeline
from pipeline.config import load_yaml
from pipeline.models.bundle_files import read_spec
from pipeline.training.crops import Crops, ImageCache
from pipeline.training.schema import TRAINING_YAML
from tests.training.scene import OFF, discs, planned, refusal, report_of, train_yaml
from workflows.train import train

LENGTH = {"steps": 2, "validate_every": 2}


def write_slides(folder, sizes=(0.25,) * 4, names=("red", "green"), dtype=np.uint8):
    """Write images of named channels with pixel sizes in micrometres, each pixel of the scene 2 x 2 pixels large, and their truth."""
    for name in ("images", "truth"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for seed, size in enumerate(sizes):
        pixels, truth = discs(seed, channels=max(len(names), 2))
        pixels_CYX = np.moveaxis(pixels, 2, 0)[: len(names)].repeat(2, 1).repeat(2, 2).astype(dtype)
        described = {"axes": "CYX", "Channel": {"Name": list(names)}}
        described |= {f"PhysicalSize{axis}": size for axis in "XY"} | {f"PhysicalSize{axis}Unit": "µm" for axis in "XY"}
        tifffile.imwrite(folder / "images" / f"a{seed}.ome.tif", pixels_CYX, photometric="minisblack", metadata=described)
        Image.fromarray(truth.repeat(2, 0).repeat(2, 1)).save(folder / "truth" / f"a{seed}.png")
    return folder


def test_a_bundle_says_what_it_was_trained_on(tmp_path):
    """Pixel size, type, range and names of the channels, as all images have them; kinds and diameter as the YAML says."""
    about = {"kinds": ["fluorescence"], "diameter": 16.0}
    assert train(train_yaml(write_slides(tmp_path), **LENGTH, about=about)) == 0
    spec = read_spec(tmp_path / "out" / "bundle")
    assert (spec.pixel_size, spec.unit, spec.diameter, spec.kinds) == (0.25, "micrometer", 16.0, ("fluorescence",))
    assert (spec.samples.dtype, spec.samples.range) == ("uint8", (0.0, 255.0))
    assert spec.channel_names == ("red", "green")
    assert spec.scores["validation"]["mean_iou"] == report_of(tmp_path / "out")["mean_iou"]


def test_what_images_disagree_in_is_not_said(tmp_path):
    """Two pixel sizes are none; 16 bits of which the files do not say how many are used have no range; merged channels have no names."""
    write_slides(tmp_path, sizes=(0.25, 0.5, 0.25, 0.5), dtype=np.uint16)
    assert train(train_yaml(tmp_path, **LENGTH, merge_channels=True)) == 0
    spec = read_spec(tmp_path / "out" / "bundle")
    assert (spec.pixel_size, spec.samples.dtype, spec.samples.range, spec.channel_names) == (None, "uint16", None, ())


def test_training_on_a_working_grid(tmp_path):
    """Images are brought to one pixel size: crops are of that grid, the bundle says it, and its run over the validation images follows."""
    write_slides(tmp_path)
    half = planned(tmp_path, augment=OFF, resolution={"pixel_size": 0.5}, normalize="none", crop=96)
    crop = Crops(half, ImageCache(2**28))[0]
    shown = {image.name: image.header.shape for image in half.train}
    assert set(shown.values()) == {(96, 96)}
    assert crop.pixels_CYX.shape == (2, 96, 96)
    scenes = [discs(int(image.name[1]), channels=2) for image in half.train]
    same = [np.array_equal(crop.pixels_CYX, np.moveaxis(pixels, 2, 0)) for pixels, _ in scenes]
    assert sum(same) == 1
    assert np.array_equal(crop.target_YX, scenes[same.index(True)][1] > 0)
    assert train(train_yaml(tmp_path, **LENGTH, resolution={"pixel_size": 0.5})) == 0
    spec = read_spec(tmp_path / "out" / "bundle")
    assert spec.pixel_size == 0.5
    report = report_of(tmp_path / "out")
    assert report["pixels"] == 96 * 96 * report["images"]
    assert spec.scores["validation"]["mean_iou"] == report["mean_iou"]


def test_a_grid_that_cannot_be_is_refused(tmp_path):
    """A training says as a run does what is wrong with `resolution`, with the line of the YAML."""
    write_slides(tmp_path)
    assert "does not declare the diameter of its objects" in refusal(tmp_path, resolution={"diameter": 30})
    told = refusal(tmp_path, resolution={"pixel_size": 0})
    assert "resolution.pixel_size: found 0; expected a number above 0.0001" in told
    config = load_yaml(TRAINING_YAML, train_yaml(tmp_path, resolution={"scale": 0.5}))
    assert yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))["resolution"] == {"scale": 0.5}


@pytest.mark.parametrize("chosen", [[3, 2, 1], [1, 0]])
def test_chosen_bands_are_chosen_again(tmp_path, chosen):
    """Trained on some bands of unnamed files, the bundle reads the same ones of such a file without an option."""
    for name in ("images", "truth"):
        (tmp_path / name).mkdir()
    for seed in range(3):
        pixels, truth = discs(seed, channels=5)
        tifffile.imwrite(tmp_path / "images" / f"a{seed}.tif", np.moveaxis(pixels[..., :4], 2, 0), photometric="minisblack")
        Image.fromarray(truth).save(tmp_path / "truth" / f"a{seed}.png")
    assert train(train_yaml(tmp_path, **LENGTH, reader={"name": "auto", "channels": chosen, "axes": "cyx"})) == 0
    bundle = tmp_path / "out" / "bundle"
    spec = read_spec(bundle)
    assert (spec.chosen_channels.numbers, spec.chosen_channels.of) == (tuple(chosen), 4)
    run = {"images": [str(tmp_path / "images")], "model": {"name": "bundle", "path": str(bundle)}}
    masks = []
    for name, channels in (("alone", {}), ("told", {"channels": chosen})):
        done = pipeline.run({**run, "reader": {"name": "auto", "axes": "cyx", **channels}, "output": str(tmp_path / name)})
        masks.append(np.asarray(done.mask("a1")))
    np.testing.assert_array_equal(*masks)


def test_all_bands_in_order_are_no_choice(tmp_path):
    """A bundle says nothing of a choice where none was made, or where it was all bands as they are."""
    write_slides(tmp_path)
    assert planned(tmp_path).chosen_channels is None
    assert planned(tmp_path, reader={"name": "auto", "channels": [0, 1]}).chosen_channels is None
    assert planned(tmp_path, reader={"name": "auto", "channels": ["green"]}).chosen_channels == {"numbers": [1], "of": 2}
