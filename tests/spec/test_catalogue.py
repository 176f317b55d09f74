"""What makes a run this run, and an image this image: changes are noticed, and nothing else looks like one."""

from __future__ import annotations

import errno
import json

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from pipeline.config import load_config
from pipeline.errors import InputError
from pipeline.inputs import build_catalogue
from pipeline.scheduling.plan import count_key
from tests.conftest import UNET, blobs, engine_yaml, save_tiff
from workflows.evaluate import evaluate


@pytest.fixture
def surveyed(tmp_path):
    """Survey a YAML: ``surveyed(**keys)``."""
    return lambda **keys: build_catalogue(load_config(engine_yaml(tmp_path, **keys)))


def test_members_with_files_of_one_name_are_told_apart(tmp_path, surveyed):
    """Any member's new weights make another run of an ensemble, whatever its files are called; names that are unique stay as they are."""
    save_tiff(tmp_path / "a.tif", blobs((70, 70)))
    files = [tmp_path / "one" / "w.safetensors", tmp_path / "two" / "w.safetensors", tmp_path / "v.safetensors"]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"1")
    model = {"name": "ensemble", "members": [{**UNET, "weights": str(file)} for file in files]}
    seen = [surveyed(model=model).identity["weights"]]
    for file in files:
        file.write_bytes(b"trained again")
        seen.append(surveyed(model=model).identity["weights"])
    assert all(list(one) == ["0/w.safetensors", "1/w.safetensors", "v.safetensors"] for one in seen)
    assert len({tuple(one.values()) for one in seen}) == 4
    assert list(surveyed(model={**UNET, "weights": str(files[0])}).identity["weights"]) == ["w.safetensors"]


def multiscale(path, pixels, **options):
    """An OME-Zarr image of two levels."""
    datasets = [{"path": name} for name in "01"]
    axes = [{"name": "y"}, {"name": "x"}]
    zarr.create_group(path, attributes={"ome": {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}})
    for level, name in enumerate("01"):
        zarr.create_array(path / name, data=pixels[:: 2**level, :: 2**level].copy(), **options)


def write_over(path, *, in_place):
    """Write the first chunk of an array anew, as most programs do or into its old file, and nothing else."""
    if in_place:
        file = next(file for name in ("c/0/0", "0.0") if (file := path / name).exists())
        with file.open("r+b") as opened:
            opened.write(file.read_bytes())
    else:
        zarr.open_array(path, mode="r+")[:32, :32] = 1


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("options", [{"zarr_format": 2}, {"zarr_format": 3}, {"zarr_format": 3, "shards": (64, 64)}], ids=str)
def test_a_chunk_that_was_written_anew_is_noticed(tmp_path, surveyed, options, in_place):
    """Zarr whose pixels change is another image, or other truth, though its metadata is the same."""
    for name in ("a.zarr", "t.zarr"):
        zarr.create_array(tmp_path / name, data=np.zeros((70, 70), np.uint8), chunks=(32, 32), fill_value=9, **options)

    def keys():
        found = surveyed(images=["a.zarr"], truth="t.zarr")
        return found.images[0].identity, count_key(found, found.images[0])

    before = keys()
    assert keys() == before
    write_over(tmp_path / "t.zarr", in_place=in_place)
    recounted = keys()
    assert recounted[0] == before[0]
    assert recounted[1] != before[1]
    write_over(tmp_path / "a.zarr", in_place=in_place)
    assert keys()[0] != before[0]


def test_only_the_array_that_is_read_counts(tmp_path, surveyed):
    """Labels and other levels that are written below an image leave it as it was; its own level does not."""
    multiscale(tmp_path / "a.zarr", np.zeros((70, 70), np.uint8), chunks=(32, 32))

    def identity():
        return surveyed(images=["a.zarr"], reader={"name": "auto", "level": 1}).images[0].identity

    before = identity()
    multiscale(tmp_path / "a.zarr" / "labels" / "cells", np.ones((70, 70), np.uint8))
    zarr.open_array(tmp_path / "a.zarr" / "0", mode="r+")[:] = 3
    assert identity() == before
    zarr.open_array(tmp_path / "a.zarr" / "1", mode="r+")[:] = 3
    assert identity() != before


def test_masks_that_were_mended_in_place_are_counted_anew(tmp_path):
    """Evaluating again what was written anew gives the figures of what is there now."""
    for name, value in (("pred", 0), ("truth", 1)):
        zarr.create_array(tmp_path / f"{name}.zarr", data=np.full((70, 70), value, np.uint8), chunks=(32, 32), fill_value=9)
    for value in (0, 1):
        zarr.open_array(tmp_path / "pred.zarr", mode="r+")[:] = value
        assert evaluate(str(tmp_path / "pred.zarr"), str(tmp_path / "truth.zarr"), None, None, tmp_path / "out") == 0
        assert json.loads((tmp_path / "out" / "report" / "report.json").read_text())["pixel_accuracy"] == value


def test_what_cannot_be_opened_now_is_told(tmp_path, surveyed, monkeypatch):
    """A failure of the system while headers are read is told of each file: of a folder's images, of one that was named, and of truth."""

    def fail(path):
        if path.startswith(str(broken)):
            raise OSError(errno.ESTALE, "Stale file handle")
        return look(path)

    look, broken = tifffile.TiffFile, tmp_path / "img"
    save_tiff(tmp_path / "a.tif", blobs((70, 70)))
    save_tiff(tmp_path / "img" / "b.tif", blobs((70, 70)))
    save_tiff(tmp_path / "t.tif", blobs((70, 70)))
    monkeypatch.setattr(tifffile, "TiffFile", fail)
    (rejected,) = surveyed(images=["a.tif", "img"]).rejected
    assert "b.tif: Stale file handle" in rejected.cause
    for name, keys in {"b": {"images": ["img/b.tif"]}, "t": {"truth": "t.tif"}}.items():
        broken = tmp_path / ("img" if name == "b" else "t.tif")
        with pytest.raises(InputError, match=rf"{name}\.tif: found a file that cannot be opened .*{name}\.tif: Stale file handle"):
            surveyed(**keys)


def test_samples_become_colours_and_what_is_made_of_them_is_told(tmp_path, surveyed):
    """Palettes and ink are colours, opacity is no channel but says where there is data; a note names the images whose ink was converted."""
    rgba_YXS = np.random.default_rng(0).integers(0, 255, (70, 60, 4), dtype=np.uint8)
    Image.fromarray(rgba_YXS[..., :3]).save(tmp_path / "rgb.png")
    Image.fromarray(rgba_YXS[..., :3]).quantize(8).save(tmp_path / "palette.png")
    Image.fromarray(rgba_YXS).save(tmp_path / "rgba.png")
    Image.fromarray(rgba_YXS[..., :2]).save(tmp_path / "la.png")
    Image.fromarray(rgba_YXS, "CMYK").save(tmp_path / "cmyk.jpg")
    colors = np.zeros((3, 256), np.uint16)
    tifffile.imwrite(tmp_path / "palette.tif", rgba_YXS[..., 0], photometric="palette", colormap=colors)
    tifffile.imwrite(tmp_path / "cmyk.tif", rgba_YXS, photometric="separated")
    tifffile.imwrite(tmp_path / "rgba.tif", rgba_YXS, photometric="rgb", extrasamples=["unassalpha"])
    model = {"name": "histogram", "classes": 2}
    found = surveyed(images=["*.png", "*.tif", "*.jpg"], model=model, normalize=None)
    assert {image.name: image.header.channels for image in found.images if image.header.channels != 3} == {"la": 1}
    assert {image.name for image in found.images if image.header.has_mask} == {"la", "rgba.png", "rgba.tif"}
    ink = {name for note in found.notes if "cyan, magenta, yellow and black" in note for name in note.partition(": ")[0].split(", ")}
    assert ink == {"cmyk.jpg", "cmyk.tif"}


@pytest.mark.parametrize(("nodata", "is_told"), [(300, True), (0.5, True), (-1, True), (0, False), ("none", False)])
def test_a_value_of_no_data_that_no_sample_can_have_is_told(tmp_path, surveyed, nodata, is_told):
    """A `reader.nodata` that leaves nothing out is a mistake of the user's, or of another file's type."""
    save_tiff(tmp_path / "a.tif", np.ones((70, 70), np.uint8))
    notes = surveyed(reader={"name": "auto", "nodata": nodata}).notes
    assert any("has no effect" in note for note in notes) is is_told


@pytest.mark.parametrize(("method", "halo", "is_told"), [("border", 8, True), ("border", 64, False), ("components", 1, False)])
def test_a_halo_narrower_than_an_object_is_told(tmp_path, surveyed, method, halo, is_told):
    """A block that sees less than an object around itself may cut it; connected components need no context."""
    save_tiff(tmp_path / "a.tif", np.ones((70, 70), np.uint8))
    notes = surveyed(model="nuclei", normalize=None, tiling=None, instances={"name": method, "halo": halo}).notes
    assert any(f"instances.halo: {halo} is less than 19.5 px" in note for note in notes) is is_told
