"""What a model was trained on against what an image is: brought to it, refused with the way out, or told in one line."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import zarr

from pipeline.config import config_from_mapping
from pipeline.errors import InputError
from pipeline.geometry import Box
from pipeline.inputs import build_catalogue, open_image
from pipeline.models.bundle_files import read_spec, save_bundle
from pipeline.plugins import build
from tests.conftest import blobs

torch = pytest.importorskip("torch")
FIXED = {"mean": [127.5], "std": [64.0]}
CLASSES = [{"name": "background"}, {"name": "object"}]


def bundle(folder, channels=1, **spec):
    """Write a bundle of a small random network."""
    network = {"name": "unet", "channels": channels, "classes": 2, "depth": 1, "base": 4}
    return str(save_bundle(folder / "mine", build("models", network).load(), architecture=network, classes=CLASSES, **spec))


def channels_image(path, names, dtype=np.uint8, scale=None, unit="micrometer"):
    """Write an OME-Zarr image of channels, as a microscope's export does."""
    pixels = blobs((40, 50), channels=len(names), dtype=dtype)
    steps = [{"type": "scale", "scale": [1.0, *(scale or (1.0, 1.0))]}]
    axes = [{"name": "c", "type": "channel"}, *({"name": axis, "type": "space", **({"unit": unit} if scale else {})} for axis in "yx")]
    multiscale = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": steps}]}
    shown = {"channels": [{"label": name, "color": "FFFFFF", "window": {"start": 0, "end": 255, "min": 0, "max": 255}} for name in names]}
    zarr.create_group(path, attributes={"ome": {"version": "0.5", "multiscales": [multiscale], **({"omero": shown} if names[0] else {})}})
    zarr.create_array(path / "0", data=pixels, chunks=(1, 32, 32))
    return pixels


def catalogue(tmp_path, image, model, **keys):
    """Survey a run of a bundle over one image."""
    model = {"name": "bundle", "path": model} if isinstance(model, str) else model
    content = {"images": [str(tmp_path / image)], "model": model, "output": str(tmp_path / "out"), **keys}
    return build_catalogue(config_from_mapping(content, tmp_path, "run.yaml"))


def refused(*arguments, **keys):
    """Return why a run is refused."""
    with pytest.raises(InputError) as error:
        catalogue(*arguments, **keys)
    return str(error.value)


STAINS = ("DAPI", "GFP", "Actin", "Golgi", "ER")


def test_stains_are_merged_only_where_that_is_asked_for(tmp_path):
    """A bundle of merged channels refuses five stains and names them; one of them, or `merge: true`, is taken."""
    path = bundle(tmp_path, channels=3, merge_channels=True, normalize="percentile")
    channels_image(tmp_path / "a.ome.zarr", STAINS)
    told = refused(tmp_path, "a.ome.zarr", path)
    assert "5 channels (DAPI, GFP, Actin, Golgi, ER); expected one channel, or a colour image" in told
    assert "reader.channels: [DAPI]" in told
    assert "merge: true" in told
    one = catalogue(tmp_path, "a.ome.zarr", path, reader={"name": "auto", "channels": ["DAPI"]})
    assert one.images[0].header.channels == 1
    merged = catalogue(tmp_path, "a.ome.zarr", {"name": "bundle", "path": path, "merge": True})
    assert merged.images[0].header.channels == 5
    channels_image(tmp_path / "b.ome.zarr", ("",) * 4)
    assert "4 channels; expected one channel" in refused(tmp_path, "b.ome.zarr", path)


def test_colours_of_a_slide_are_merged(tmp_path):
    """Red, green and blue need no word: any three stains would."""
    path = bundle(tmp_path, channels=3, merge_channels=True, normalize="percentile")
    tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(blobs((40, 50), channels=3), 0, 2), photometric="rgb")
    assert catalogue(tmp_path, "a.tif", path).images[0].header.channels == 3
    channels_image(tmp_path / "b.ome.zarr", STAINS[:3])
    assert "3 channels (DAPI, GFP, Actin)" in refused(tmp_path, "b.ome.zarr", path)


def test_channels_are_chosen_and_ordered_by_name(tmp_path):
    """Where image and bundle name their channels, each gets its own, whatever their order; capital letters do not matter."""
    path = bundle(tmp_path, channels=2, channel_names=["GFP", "dapi"])
    pixels = channels_image(tmp_path / "a.ome.zarr", STAINS)
    found = catalogue(tmp_path, "a.ome.zarr", path)
    image = found.images[0]
    assert image.header.channel_names == ("GFP", "DAPI")
    assert any("channels GFP, DAPI are read in this order" in note for note in found.notes)
    with open_image(image) as raster:
        assert np.array_equal(raster.read(Box(0, 0, 40, 50)), pixels[[1, 0]])
    plain = catalogue(tmp_path, "a.ome.zarr", path, reader={"name": "auto", "channels": ["Golgi", "ER"]})
    assert plain.images[0].header.channel_names == ("Golgi", "ER")
    assert plain.images[0].identity != image.identity


def test_channels_of_other_names_are_refused(tmp_path):
    """As many channels with other names are not what the bundle knows; a user who lists them has chosen."""
    path = bundle(tmp_path, channels=2, channel_names=["GFP", "DAPI"])
    channels_image(tmp_path / "a.ome.zarr", STAINS[2:4])
    told = refused(tmp_path, "a.ome.zarr", path)
    assert "2 channels (Actin, Golgi); expected channels GFP, DAPI" in told
    assert "reader.channels: [Actin, Golgi]" in told
    assert catalogue(tmp_path, "a.ome.zarr", path, reader={"name": "auto", "channels": [0, 1]}).images
    channels_image(tmp_path / "b.ome.zarr", STAINS)
    assert "reader.channels: [DAPI, GFP]" in refused(tmp_path, "b.ome.zarr", bundle(tmp_path, channels=2))


def test_another_pixel_size_is_told_and_an_unknown_one_too(tmp_path):
    """Resampled with the way back; unknown: read as it is, with both ways to say it. As trained: not a word."""
    path = bundle(tmp_path, pixel_size=0.5)
    for name, scale in {"other": (0.25, 0.25), "same": (0.5, 0.5)}.items():
        channels_image(tmp_path / f"{name}.ome.zarr", ("DAPI",), scale=scale)
    tifffile.imwrite(tmp_path / "unknown.tif", blobs((40, 50)))
    other = catalogue(tmp_path, "other.ome.zarr", path)
    assert other.images[0].header.shape == (20, 25)
    (note,) = other.notes
    assert note.startswith("other: pixels of 0.25 um resampled to 0.5 um, as the model was trained")
    assert "resolution: {scale: 1}" in note
    (note,) = catalogue(tmp_path, "unknown.tif", path).notes
    assert "pixel size unknown, the model was trained at 0.5 um: pixels are read unchanged; set reader.pixel_size" in note
    known = catalogue(tmp_path, "unknown.tif", path, reader={"name": "auto", "pixel_size": 0.25})
    assert known.images[0].header.shape == (20, 25)
    same = catalogue(tmp_path, "same.ome.zarr", path)
    assert not same.notes
    assert same.images[0].grid is None
    own = catalogue(tmp_path, "other.ome.zarr", path, resolution={"scale": 1})
    assert own.images[0].header.shape == (40, 50)
    assert not own.notes


def test_an_image_that_is_as_trained_is_this_image_still(tmp_path):
    """Another resolution is another image to the ledger; the one that changes nothing leaves its identity and the run's."""
    path = bundle(tmp_path, pixel_size=0.5)
    channels_image(tmp_path / "a.ome.zarr", ("DAPI",), scale=(0.5, 0.5))
    asked = ("auto", {"scale": 0.5}, {"scale": 0.25})
    found = {str(resolution): catalogue(tmp_path, "a.ome.zarr", path, resolution=resolution) for resolution in asked}
    assert len({one.images[0].identity for one in found.values()}) == 3
    assert "resolution" not in found["auto"].identity
    assert found["{'scale': 0.5}"].identity["resolution"] == {"scale": 0.5}
    assert catalogue(tmp_path, "a.ome.zarr", path, masks="native").identity["masks"] == "native"


def deep(path, dtype, **tags):
    """Write a grey TIFF of another type."""
    tifffile.imwrite(path, blobs((40, 50), dtype=dtype), **tags)


def test_samples_of_another_range_are_scaled_or_refused(tmp_path):
    """A bundle of fixed numbers for bytes: 16 bits that a user or the file explains are scaled, others are refused with the way out."""
    path = bundle(tmp_path, normalize=FIXED, samples={"dtype": "uint8", "range": [0, 255]})
    deep(tmp_path / "a.tif", np.uint16)
    told = refused(tmp_path, "a.tif", path)
    assert "samples of type uint16, whose range the file does not say; expected uint8 from 0 to 255" in told
    assert "model.range to the least and greatest sample of the images, such as [0, 4095]" in told
    found = catalogue(tmp_path, "a.tif", {"name": "bundle", "path": path, "range": [0, 4095]})
    image = found.images[0]
    assert image.header.dtype == "uint8"
    assert any("samples of 0 to 4095 are scaled to 0 to 255" in note for note in found.notes)
    with open_image(image) as raster:
        expected_YX = np.clip(np.rint(blobs((40, 50), dtype=np.uint16) * (255 / 4095)), 0, 255)
        assert np.array_equal(raster.read(Box(0, 0, 40, 50))[0], expected_YX)
    deep(tmp_path / "f.tif", np.float32)
    assert "samples of type float32" in refused(tmp_path, "f.tif", path)
    assert catalogue(tmp_path, "f.tif", {"name": "bundle", "path": path, "range": [0.0, 1.0]}).images[0].header.dtype == "uint8"


def test_colours_of_16_bits_are_refused_where_nothing_says_their_range(tmp_path):
    """A satellite's RGB of 12 bits in 16 is no picture of 65,535 shades, on which a model would see black."""
    path = bundle(tmp_path, channels=3, normalize={"mean": [100.0] * 3, "std": [50.0] * 3}, samples={"dtype": "uint8", "range": [0, 255]})
    pixels_YXC = np.moveaxis(blobs((40, 50), channels=3), 0, 2).astype(np.uint16) << 4
    tifffile.imwrite(tmp_path / "a.tif", pixels_YXC, photometric="rgb")
    assert "samples of type uint16, whose range the file does not say" in refused(tmp_path, "a.tif", path)
    found = catalogue(tmp_path, "a.tif", {"name": "bundle", "path": path, "range": [0, 4080]})
    with open_image(found.images[0]) as raster:
        assert np.array_equal(raster.read(Box(0, 0, 40, 50)), np.moveaxis(pixels_YXC >> 4, 2, 0))


@pytest.mark.parametrize("normalize", ["percentile", "zscore"])
def test_a_normalisation_of_the_image_takes_any_range(tmp_path, normalize):
    """Where every image is normalised by its own values, or by numbers of the user's, its type does not matter."""
    path = bundle(tmp_path, normalize=normalize, samples={"dtype": "uint8", "range": [0, 255]})
    deep(tmp_path / "a.tif", np.uint16)
    found = catalogue(tmp_path, "a.tif", path)
    assert (found.images[0].samples, found.images[0].header.dtype) == (None, "uint16")
    fixed = bundle(tmp_path / "fixed", normalize=FIXED, samples={"dtype": "uint8", "range": [0, 255]})
    found = catalogue(tmp_path, "a.tif", fixed, normalize=normalize)
    assert found.images[0].samples is None
    assert any(f"normalize: {normalize} replaces the model's own normalisation, fixed mean and std" in note for note in found.notes)


def test_the_bundles_own_normalisation_is_no_news(tmp_path):
    """The same numbers in the YAML replace nothing, and nothing is told."""
    path = bundle(tmp_path, normalize=FIXED, samples={"dtype": "uint8", "range": [0, 255]})
    deep(tmp_path / "a.tif", np.uint8)
    assert not catalogue(tmp_path, "a.tif", path, normalize=FIXED).notes
    assert not catalogue(tmp_path, "a.tif", path).notes


def test_what_a_bundle_declares_is_checked(tmp_path):
    """As many names as channels, a range with its smaller end first, a pixel size that there is; options that fit the bundle."""
    for spec, told in {
        "names": ({"channel_names": ["a", "b"]}, "channel_names: found 2 names; expected 1"),
        "range": ({"samples": {"dtype": "uint8", "range": [255, 0]}}, "samples.range"),
        "dtype": ({"samples": {"dtype": "byte"}}, "samples.dtype"),
        "size": ({"pixel_size": 0.0}, "pixel_size: found 0.0; expected a number above 0.0001"),
    }.values():
        with pytest.raises(InputError, match=told):
            bundle(tmp_path, **spec)
    path = bundle(tmp_path)
    deep(tmp_path / "a.tif", np.uint8)
    assert "trained with merge_channels" in refused(tmp_path, "a.tif", {"name": "bundle", "path": path, "merge": True})
    assert "says the range" in refused(tmp_path, "a.tif", {"name": "bundle", "path": path, "range": [0, 1]})
    assert "a number above 0.0001" in refused(tmp_path, "a.tif", path, reader={"name": "auto", "pixel_size": 0})


def test_an_ensemble_expects_what_its_members_do(tmp_path):
    """One pixel size, which members that declare none follow; members of two sizes are refused."""
    fine, coarse, any_size = (bundle(tmp_path / f"{size}", **({"pixel_size": size} if size else {})) for size in (0.25, 0.5, None))
    deep(tmp_path / "a.tif", np.uint8)

    def members(*paths):
        return {"name": "ensemble", "members": [{"name": "bundle", "path": path} for path in paths]}

    assert build("models", members(any_size, fine)).expects.pixel_size == 0.25
    assert "trained at one pixel size" in refused(tmp_path, "a.tif", members(fine, coarse))


def test_the_shipped_bundles_say_what_they_know():
    """Nuclei: of 0.5 um; their diameter there is that of nuclei. The aerial scenes: of about 1 m on the ground, RGB of 8 bits."""
    from pipeline.models.bundle_files import list_bundles

    nuclei, aerial = (read_spec(list_bundles()[name]) for name in ("nuclei", "aerial-landcover"))
    assert 5 < nuclei.diameter * nuclei.pixel_size < 15
    assert (aerial.pixel_size, aerial.unit) == (1.0, "meter")
    assert aerial.channel_names == ("red", "green", "blue")
    assert {one.samples.dtype for one in (nuclei, aerial)} == {"uint8"}


BANDS = ("B02", "B03", "B04", "B08")


def read_as(tmp_path, image, path, **keys):
    """Return the pixels that the model gets, and the notes."""
    found = catalogue(tmp_path, image, path, **keys)
    with open_image(found.images[0]) as raster:
        return raster.read(Box(0, 0, 40, 50)), found.images[0], found.notes


@pytest.mark.parametrize("names", [("B04", "B03", "B02"), ("b02", "B03", "b04"), ("x", "B02", "B03", "y", "B04")])
def test_bands_are_found_by_their_names(tmp_path, names):
    """In another order, spelled otherwise, or among more bands, they are read as the model names them."""
    path = bundle(tmp_path, channels=3, channel_names=("B04", "B03", "B02"), chosen_channels={"numbers": [2, 1, 0], "of": 4})
    pixels = channels_image(tmp_path / "a.zarr", names)
    folded = [name.casefold() for name in names]
    found, image, notes = read_as(tmp_path, "a.zarr", path)
    np.testing.assert_array_equal(found, pixels[[folded.index(name) for name in ("b04", "b03", "b02")]])
    assert [name.casefold() for name in image.header.channel_names] == ["b04", "b03", "b02"]
    assert any("by the model's names" in note for note in notes) == (folded != ["b04", "b03", "b02"])


@pytest.mark.parametrize("recorded", [(), ("B08", "B04", "B03")])
def test_bands_without_names_are_read_by_number(tmp_path, recorded):
    """A file of as many bands as those of the training is read by the numbers of then, also if the bundle has names; a note says it."""
    path = bundle(tmp_path, channels=3, channel_names=recorded, chosen_channels={"numbers": [3, 2, 1], "of": 4})
    pixels = channels_image(tmp_path / "a.zarr", ("",) * 4)
    found, image, notes = read_as(tmp_path, "a.zarr", path)
    np.testing.assert_array_equal(found, pixels[[3, 2, 1]])
    assert image.header.channels == 3
    assert "channels 3, 2, 1 of 4, counted from 0, are read in this order, as from the files of the model's training" in "\n".join(notes)
    by_user, _, notes = read_as(tmp_path, "a.zarr", path, reader={"name": "auto", "channels": [0, 1, 2]})
    np.testing.assert_array_equal(by_user, pixels[:3])
    assert not any("counted from 0" in note for note in notes)


def test_an_order_of_all_bands_is_kept(tmp_path):
    """A model that was trained on all three bands in reverse reads them so, and not as they lie in the file."""
    path = bundle(tmp_path, channels=3, chosen_channels={"numbers": [2, 1, 0], "of": 3})
    pixels = channels_image(tmp_path / "a.zarr", ("",) * 3)
    np.testing.assert_array_equal(read_as(tmp_path, "a.zarr", path)[0], pixels[::-1])


def test_bands_that_cannot_be_told_are_refused(tmp_path):
    """Another number of bands, other names, or names where the model has numbers alone: each is refused with what would do."""
    path = bundle(tmp_path, channels=3, channel_names=("B08", "B04", "B03"), chosen_channels={"numbers": [3, 2, 1], "of": 4})
    channels_image(tmp_path / "five.zarr", ("",) * 5)
    channels_image(tmp_path / "other.zarr", ("red", "green", "blue", "nir"))
    message = refused(tmp_path, "five.zarr", path)
    assert "5 channels; expected 3, as the model takes, or files of 4 without names, as in its training" in message
    assert "reader.channels: [0, 1, 2]" in message
    message = refused(tmp_path, "other.zarr", path)
    assert "4 channels (red, green, blue, nir); expected channels B08, B04, B03, as the model names them" in message
    (tmp_path / "unnamed").mkdir()
    path = bundle(tmp_path / "unnamed", channels=4, chosen_channels={"numbers": [3, 2, 1, 0], "of": 4})
    channels_image(tmp_path / "named.zarr", BANDS)
    message = refused(tmp_path, "named.zarr", path)
    assert "4 channels (B02, B03, B04, B08); expected numbers 3, 2, 1, 0 of 4 without names" in message


def test_a_bundle_whose_numbers_do_not_fit_is_refused(tmp_path):
    """As many numbers as the network has channels."""
    with pytest.raises(InputError, match=r"chosen_channels\.numbers: found 2 numbers; expected 3, one for each channel"):
        bundle(tmp_path, channels=3, chosen_channels={"numbers": [3, 2], "of": 4})
