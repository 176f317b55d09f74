"""Changes of raw pixels: stains move as their densities do, JPEG is what a file would be, and nothing is drawn that is off."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from skimage.color import combine_stains, rgb_from_hed

from pipeline.geometry import Box
from pipeline.training.augmentation import Augment
from pipeline.training.crops import Crops, ImageCache
from pipeline.training.raw_augmentation import RawChange
from tests.training.scene import OFF, planned, refusal, write_scene

RGB = arrays.arrays(np.uint8, (3, 24, 24))


def draw(seed, **keys):
    """The raw change of a crop where all else is off."""
    return Augment.model_validate({**OFF, **keys}).draw(32, np.random.default_rng(seed)).raw


def densities(factors=(1, 1, 1), summands=(0, 0, 0)):
    return RawChange(densities=np.array([factors, summands], np.float32))


def stained(densities_CYX):
    """What scikit-image makes of densities of haematoxylin, eosin and DAB: 8-bit (3, Y, X)."""
    # Its unit of density is a millionth of the light.
    light_YXC = combine_stains(np.moveaxis(densities_CYX, 0, -1) / 6, rgb_from_hed)
    return np.clip(np.rint(256 * np.moveaxis(light_YXC, -1, 0) - 1), 0, 255).astype(np.uint8)


@given(RGB)
def test_stains_that_do_not_change_leave_every_colour(pixels_CYX):
    """Times 1 plus 0 gives back every pixel, also of colours that no stain has."""
    np.testing.assert_array_equal(densities().apply(pixels_CYX, is_color=True), pixels_CYX)


@given(
    arrays.arrays(np.float64, (3, 8, 8), elements=st.floats(0, 0.5)),
    st.lists(st.floats(0.7, 1.3), min_size=3, max_size=3),
    st.lists(st.floats(0, 0.2), min_size=3, max_size=3),
)
def test_densities_change_as_scikit_image_has_them(densities_CYX, factors, summands):
    """A tissue of known densities looks as scikit-image draws the changed densities, but for the rounding to 8 bits."""
    found_CYX = densities(factors, summands).apply(stained(densities_CYX), is_color=True)
    changed_CYX = densities_CYX * np.reshape(factors, (3, 1, 1)) + np.reshape(summands, (3, 1, 1))
    np.testing.assert_allclose(found_CYX.astype(int), stained(changed_CYX).astype(int), atol=3)


def test_more_haematoxylin_is_more_blue():
    """More of a stain darkens the colour that it absorbs most: green of eosin, red and green of haematoxylin; glass stays white."""
    white_CYX, grey_CYX = np.full((3, 4, 4), 255, np.uint8), stained(np.full((3, 4, 4), 0.3))
    more = densities(factors=(1.5, 1, 1))
    np.testing.assert_array_equal(more.apply(white_CYX, is_color=True), white_CYX)
    darker_C = grey_CYX.astype(int).mean((1, 2)) - more.apply(grey_CYX, is_color=True).mean((1, 2))
    assert darker_C[2] < darker_C[0]
    assert (darker_C > 0).all()


def test_factors_fill_what_was_asked():
    """Factors and summands of each stain are uniform and independent, as far as the YAML says."""
    drawn = np.array([draw(seed, stain=0.2).densities.ravel() for seed in range(600)]) - [1, 1, 1, 0, 0, 0]
    assert np.abs(drawn).max() <= 0.2 + 1e-6
    np.testing.assert_allclose(drawn.mean(0), 0, atol=0.025)
    np.testing.assert_allclose(drawn.std(0), 0.2 / np.sqrt(3), rtol=0.1)
    assert np.abs(np.corrcoef(drawn.T) - np.eye(6)).max() < 0.2


def smooth(channels, dtype=np.uint8, side=48):
    """Something that JPEG can do."""
    y, x = np.mgrid[:side, :side] / side
    planes = [0.5 + 0.4 * np.sin(5 * x + one) * np.cos(4 * y) for one in range(channels)]
    top = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1
    return (np.stack(planes) * top).astype(dtype)


def test_a_color_jpeg_is_that_of_a_file():
    """Red, green and blue become one JPEG: what Pillow reads of a file that it wrote at that quality."""
    pixels_CYX, file = smooth(3), BytesIO()
    Image.fromarray(np.moveaxis(pixels_CYX, 0, -1)).save(file, "jpeg", quality=60)
    found_CYX = RawChange(jpeg=60).apply(pixels_CYX, is_color=True)
    np.testing.assert_array_equal(found_CYX, np.moveaxis(np.asarray(Image.open(file)), -1, 0))
    assert (found_CYX != pixels_CYX).any()


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_other_channels_are_jpegs_of_their_own(channels):
    """Channels that are no colours are grey JPEGs, none of which depends on another."""
    pixels_CYX = smooth(channels)
    found_CYX = RawChange(jpeg=50).apply(pixels_CYX, is_color=False)
    for one, pixels_YX in zip(found_CYX, pixels_CYX, strict=True):
        np.testing.assert_array_equal(one, RawChange(jpeg=50).apply(pixels_YX[None], is_color=False)[0])


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "u4", "f4", "f8"])
def test_every_type_keeps_its_range(dtype):
    """Any type comes back in its type, close to what it was, its least and greatest values as before to a few of 255 steps."""
    dtype = np.dtype(dtype)
    pixels_CYX = smooth(2, dtype) // 2 if dtype.kind in "ui" else smooth(2, dtype) * 1e-3 - 5
    found_CYX = RawChange(jpeg=95).apply(pixels_CYX, is_color=False)
    assert found_CYX.dtype == dtype
    assert found_CYX.shape == pixels_CYX.shape
    step = np.ptp(pixels_CYX.astype(np.float64)) / 255
    assert np.abs(found_CYX.astype(np.float64) - pixels_CYX).max() <= 8 * step
    flat_CYX = np.full((1, 16, 16), 128).astype(dtype)  # a value that JPEG keeps
    np.testing.assert_array_equal(RawChange(jpeg=50).apply(flat_CYX, is_color=False), flat_CYX)


def test_half_of_the_crops_are_compressed():
    """Half of the crops are; their quality is uniform from the least one to 100."""
    found = [draw(seed, jpeg=50).jpeg for seed in range(2000)]
    qualities = [one for one in found if one is not None]
    assert 900 < len(qualities) < 1100
    assert min(qualities) == 50
    assert max(qualities) == 100
    assert np.mean(qualities) == pytest.approx(75, abs=1.5)


@pytest.mark.parametrize(("dtype", "white"), [("u1", 255), ("u2", 9000), ("f4", 0.75)])
def test_haze_is_a_share_of_light(dtype, white):
    """Dark pixels brighten towards one light colour by the share, and contrast falls by it."""
    pixels_CYX = np.zeros((4, 8, 8), dtype)
    pixels_CYX[:, ::2] = white
    for seed in range(50):
        change = draw(seed, haze=0.6)
        assert 0 <= change.haze <= 0.6
        found_CYX = change.apply(pixels_CYX, is_color=False).astype(np.float64) / white
        assert found_CYX.shape == pixels_CYX.shape
        dark_C, light_C = found_CYX[:, 1, 0], found_CYX[:, 0, 0]
        np.testing.assert_allclose(light_C - dark_C, 1 - change.haze, atol=0.005)
        assert ((dark_C > 0.69 * change.haze - 0.005) & (dark_C < change.haze + 0.005)).all()


@given(RGB, st.integers(0, 2**32 - 1))
def test_equal_changes_give_equal_pixels(pixels_CYX, seed):
    """Equal generators give equal bits, applied once or again, and the input is never written to."""
    kept_CYX = pixels_CYX.copy()
    pixels_CYX.flags.writeable = False
    one, other = (draw(seed, stain=0.1, haze=0.2, jpeg=40, padding=1.0) for _ in range(2))
    expected = one.apply(pixels_CYX, is_color=True)
    for change in (one, other):
        np.testing.assert_array_equal(change.apply(pixels_CYX, is_color=True), expected)
    np.testing.assert_array_equal(pixels_CYX, kept_CYX)


@given(st.integers(0, 2**32 - 1), st.sampled_from([{"stain": 0.1}, {"haze": 0.3}, {"jpeg": 60}, {"padding": 0.5}]))
def test_all_else_is_drawn_as_before(seed, keys):
    """With all off there is no change of raw pixels and nothing is drawn for it; with one on, every other change is as without it."""
    augment = Augment(elastic=3, blur=1, gamma=0.5)
    plain_rng, other_rng = (np.random.default_rng(seed) for _ in range(2))
    plain = augment.draw(32, plain_rng)
    other = augment.model_copy(update=keys).draw(32, other_rng)
    assert plain.raw is None
    assert other.raw is not None
    for change in (plain, replace(other, raw=None)):
        np.testing.assert_array_equal(change.offsets_YXD, plain.offsets_YXD)
    assert replace(other, raw=None, offsets_YXD=None).__dict__ == replace(plain, offsets_YXD=None).__dict__
    assert plain_rng.random() != other_rng.random()


def test_crops_are_changed_before_they_are_normalised(tmp_path):
    """A crop of a training is its raw region, changed, then normalised; labels stay."""
    write_scene(tmp_path, 3, channels=3)
    keys = {"normalize": {"mean": [100.0] * 3, "std": [50.0] * 3}, "crop": 32}
    plain = Crops(planned(tmp_path, augment=OFF, **keys), ImageCache(2**28))
    for options in ({"stain": 0.3}, {"jpeg": 1}, {"haze": 0.5}):
        plan = planned(tmp_path, augment={**OFF, **options}, **keys)
        crops, changed = Crops(plan, ImageCache(2**28)), 0
        for index in range(8):
            rng = np.random.default_rng([0, index])
            rng.random()
            change = plan.config.augment.draw(32, rng)
            crop = crops[index]
            box = eval(crop.where.partition(" at ")[2], {"Box": Box})  # noqa: S307 - our own text
            name = crop.where.partition(" at ")[0]
            raw_CYX = np.moveaxis(np.asarray(Image.open(tmp_path / "images" / f"{name}.png"))[box.slices], -1, 0)
            wanted_CYX = (change.raw.apply(raw_CYX, is_color=True).astype(np.float32) - 100) / 50
            np.testing.assert_array_equal(crop.pixels_CYX, wanted_CYX)
            truth_YX = np.asarray(Image.open(tmp_path / "truth" / f"{name}.png"))[box.slices]
            np.testing.assert_array_equal(crop.target_YX, truth_YX > 0)
            changed += not np.array_equal(wanted_CYX, (raw_CYX.astype(np.float32) - 100) / 50)
        assert changed >= 2
    assert plain[0].pixels_CYX.shape == (3, 32, 32)


def test_padding_is_black_or_white_on_any_side():
    """Most paddings are 0, the others white; each side has one in half of the crops, of half of the crop at most; some have none."""
    pixels_CYX = np.full((1, 100, 100), 7, np.uint8)
    changes = [change for change in (draw(seed, padding=0.5) for seed in range(400)) if change.padding is not None]
    assert 160 < len(changes) < 240
    assert 0.25 < np.mean([change.is_white for change in changes]) < 0.42
    sides = np.array([change.padding for change in changes])
    assert (np.abs((sides > 0).mean(axis=0) - 0.5) < 0.12).all()
    assert 0.45 < sides.max() <= 0.5
    for change in changes[:20]:
        padded_YX = change.padded((100, 100))
        assert (~padded_YX[round(100 * change.padding[0]), round(100 * change.padding[2])]) or padded_YX.all()
        found_YX = change.apply(pixels_CYX, is_color=False)[0]
        assert (found_YX[padded_YX] == (255 if change.is_white else 0)).all()
        assert (found_YX[~padded_YX] == 7).all()


@pytest.mark.parametrize(("first", "label"), [("background", 0), ("ground", 255)])
def test_padding_is_background_or_ignored(tmp_path, first, label):
    """The truth of padding is class 0 where that is called background, else ignored; no object reaches into it."""
    write_scene(tmp_path, 3, channels=1)
    classes = [{"name": first, "values": [0]}, {"name": "disc", "values": "other"}]
    plan = planned(tmp_path, augment={**OFF, "padding": 1.0}, crop=48, classes=classes, normalize="none", border={"of": "disc", "width": 1})
    crops = Crops(plan, ImageCache(2**28))
    padded = [crop for crop in map(crops.__getitem__, range(30)) if (crop.pixels_CYX == 0).all(axis=2).any()]
    assert len(padded) > 5
    for crop in padded:
        rows = (crop.pixels_CYX[0] == 0).all(axis=1)
        assert (crop.target_YX[rows] == label).all()


@pytest.mark.parametrize(("channels", "found"), [(1, "1 channel of uint8"), (2, "2 channels of uint8")])
def test_stains_of_other_images_are_refused(tmp_path, channels, found):
    """Images without red, green and blue are refused before anything is read, with the line of the key and the way out."""
    text = refusal(write_scene(tmp_path, 3, channels=channels), augment={"stain": 0.05})
    assert "augment.stain: found a" in text
    assert found in text
    assert "expected RGB images of 8 bits" in text
    assert "brightness, contrast and color change any image" in text
