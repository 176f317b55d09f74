"""Augmentation: pixels and labels move by one map, as far as the YAML says, and the same way from the same generator."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.ndimage import correlate1d, map_coordinates, maximum_filter, minimum_filter

from pipeline.training.augmentation import Augment
from pipeline.validation import problems_of

OFF = Augment(flips=False, turns=False, scale=(1, 1), brightness=0, contrast=0, color=0, noise=0).model_dump()
SEEDS = st.integers(0, 2**32 - 1)
CROPS = st.integers(1, 48)
GEOMETRIES = st.builds(
    lambda flips, turns, zooms, rotate, elastic: off(
        flips=flips, turns=turns, scale=sorted(zooms), rotate=float(rotate), elastic=float(elastic)
    ),
    st.booleans(),
    st.booleans(),
    st.tuples(st.floats(0.25, 4), st.floats(0.25, 4)),
    st.sampled_from([0, 15, 180]),
    st.sampled_from([0, 2, 10]),
)


def off(**keys):
    """Nothing but what is named."""
    return Augment.model_validate(OFF | keys)


def draw(augment, crop=32, seed=0):
    return augment.draw(crop, np.random.default_rng(seed))


def noise(change, channels=3, seed=0):
    """A region without structure."""
    return np.random.default_rng(seed).standard_normal((channels, change.side, change.side), dtype=np.float32)


def places(change):
    """A region whose pixels hold their own y and x, counted from its middle."""
    along = np.arange(change.side, dtype=np.float32) - (change.side - 1) / 2
    return np.stack(np.meshgrid(along, along, indexing="ij"))


def symmetries(array):
    """The eight ways a square can lie."""
    return [np.rot90(one, turns, axes=(-2, -1)) for one in (array, array[..., ::-1]) for turns in range(4)]


@pytest.mark.parametrize("augment", [Augment(), Augment(rotate=20, elastic=10, blur=1.5)], ids=["default", "all"])
def test_the_same_generator_gives_the_same_crop(augment):
    """Equal generators give equal bits, applied once or again, here or in any thread."""
    change = draw(augment, seed=5)
    pixels_CYX = noise(change)
    ids_YX = np.arange(change.side**2, dtype=np.int32).reshape(change.side, change.side)
    expected_CYX, (expected_YX,) = change.apply(pixels_CYX, [ids_YX])
    with ThreadPoolExecutor(4) as threads:
        crops = list(threads.map(lambda _: draw(augment, seed=5).apply(pixels_CYX, [ids_YX]), range(20)))
    for found_CYX, (found_YX,) in [*crops, change.apply(pixels_CYX, [ids_YX])]:
        assert found_CYX.tobytes() == expected_CYX.tobytes()
        assert found_YX.tobytes() == expected_YX.tobytes()
    other = draw(augment, seed=6)
    assert other.apply(noise(other))[0].tobytes() != expected_CYX.tobytes()


def test_global_generators_are_left_alone():
    """Neither NumPy's nor torch's global generator is read or moved."""
    import torch

    change, crops = draw(Augment(elastic=10, blur=1)), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - the global generator is what must not matter
        before = torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes()  # noqa: NPY002 - as above
        crops.append(draw(Augment(elastic=10, blur=1)).apply(noise(change))[0].tobytes())
        assert (torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes()) == before  # noqa: NPY002 - as above
    assert crops[0] == crops[1]


@given(CROPS, SEEDS)
def test_no_augmentation_changes_nothing(crop, seed):
    """With everything off, the region is the crop, to the bit."""
    change = draw(off(), crop, seed)
    assert change.side == crop
    pixels_CYX, ids_YX = noise(change), np.arange(crop**2).reshape(crop, crop)
    found_CYX, (found_YX,) = change.apply(pixels_CYX, [ids_YX])
    assert found_CYX.tobytes() == pixels_CYX.tobytes()
    np.testing.assert_array_equal(found_YX, ids_YX)


@pytest.mark.parametrize(
    ("flips", "turns", "ways"),
    [(True, True, range(8)), (True, False, (0, 2, 4, 6)), (False, True, range(4)), (False, False, [0]), ("horizontal", False, (0, 4))],
)
def test_flips_and_turns_are_exact(flips, turns, ways):
    """A crop lies in one of the allowed ways, each equally often, pixels and labels alike, and no value changes."""
    counts = [0] * 8
    for seed in range(800):
        change = draw(off(flips=flips, turns=turns), 5, seed)
        pixels_CYX, ids_YX = noise(change), np.arange(25, dtype=np.uint16).reshape(5, 5)
        found_CYX, (found_YX,) = change.apply(pixels_CYX, [ids_YX])
        way = next(way for way, lying in enumerate(symmetries(pixels_CYX)) if np.array_equal(lying, found_CYX))
        np.testing.assert_array_equal(found_YX, symmetries(ids_YX)[way])
        counts[way] += 1
    expected = 800 / len(ways)
    assert [way for way, count in enumerate(counts) if count] == list(ways)
    assert all(abs(counts[way] - expected) < 5 * math.sqrt(expected) for way in ways)


@given(GEOMETRIES, CROPS, SEEDS, st.sampled_from(["u1", "u2", "i4", "i8", "?"]))
def test_ids_are_never_mixed(augment, crop, seed, dtype):
    """Labels keep their dtype and hold only values that they held, however large."""
    change = draw(augment, crop, seed)
    top = 1 if dtype == "?" else min(np.iinfo(dtype).max, 2**40)
    rng = np.random.default_rng(seed)
    ids_YX = (top - rng.integers(0, min(top, 40_000), (change.side, change.side), endpoint=True)).astype(dtype)
    _, (found_YX,) = change.apply(noise(change, 1), [ids_YX])
    assert found_YX.dtype == ids_YX.dtype
    assert found_YX.shape == (crop, crop)
    assert set(found_YX.flat) <= set(ids_YX.flat)


@given(GEOMETRIES, CROPS, SEEDS)
def test_pixels_and_labels_move_together(augment, crop, seed):
    """Every label is the one nearest to where its pixel was read."""
    change = draw(augment, crop, seed)
    places_CYX = places(change)
    index_YX = np.arange(change.side**2).reshape(change.side, change.side)
    from_CYX, (found_YX, again_YX) = change.apply(places_CYX, [index_YX, index_YX])
    middle = (change.side - 1) / 2
    nearest_CYX = np.stack(np.divmod(found_YX, change.side)) - middle
    assert np.abs(nearest_CYX - from_CYX).max() <= 0.5 + 1e-3
    np.testing.assert_array_equal(found_YX, again_YX)


@pytest.mark.parametrize("seed", range(5))
def test_an_image_of_its_labels_stays_so(seed):
    """Pixels that hold the ids of objects still hold them, away from the objects' edges."""
    change = draw(off(flips=True, turns=True, scale=(0.5, 2), rotate=180, elastic=10), 96, seed)
    ids_YX = np.kron(np.random.default_rng(seed).integers(1, 40_000, (20, 20)), np.ones((30, 30), int))[: change.side, : change.side]
    ids_YX = ids_YX.astype(np.uint16)
    inside_YX = maximum_filter(ids_YX, 3) == minimum_filter(ids_YX, 3)
    found_CYX, (found_YX, found_inside_YX) = change.apply(ids_YX[None].astype(np.float32), [ids_YX, inside_YX])
    assert found_inside_YX.mean() > 0.5
    np.testing.assert_allclose(found_CYX[0][found_inside_YX], found_YX[found_inside_YX], rtol=1e-6)


@given(GEOMETRIES, CROPS, SEEDS)
def test_one_resampling_bilinear(augment, crop, seed):
    """Pixels are what SciPy's linear interpolation gives at the places they come from."""
    change = draw(augment, crop, seed)
    pixels_CYX = noise(change, 1)
    from_CYX, _ = change.apply(places(change), [])
    expected_YX = map_coordinates(pixels_CYX[0], from_CYX + (change.side - 1) / 2, order=1, mode="nearest")
    np.testing.assert_allclose(change.apply(pixels_CYX, [])[0][0], expected_YX, atol=2e-3)


@pytest.mark.parametrize("zoom", [0.5, 0.8, 1.25, 2.0])
@pytest.mark.parametrize("rotate", [0.0, 180.0])
def test_zoom_makes_objects_larger(zoom, rotate):
    """At zoom s a disc of radius 20 has radius 20 s, turned or not, and neighbours come from 1 / s pixels apart."""
    change = draw(off(scale=(zoom, zoom), rotate=rotate), 128, seed=3)
    places_CYX = places(change)
    disc_YX = (np.hypot(*places_CYX) < 20).astype(np.uint8)
    from_CYX, (found_YX,) = change.apply(places_CYX, [disc_YX])
    assert found_YX.sum() == pytest.approx(math.pi * (20 * zoom) ** 2, rel=0.02)
    np.testing.assert_allclose(np.hypot(*np.diff(from_CYX, axis=1)), 1 / zoom, atol=1e-4)
    np.testing.assert_allclose(np.hypot(*np.diff(from_CYX, axis=2)), 1 / zoom, atol=1e-4)


def test_zoom_is_log_uniform_and_rotation_uniform():
    """Zooms of 1/2 to 2 shrink as often as they grow; angles fill the range that was asked, and no more."""
    logs, angles = [], []
    for seed in range(1000):
        change = draw(off(scale=(0.5, 2), rotate=30), 3, seed)
        from_CYX, _ = change.apply(places(change), [])
        down, right = from_CYX[:, 2, 1] - from_CYX[:, 0, 1]
        logs.append(math.log2(2 / math.hypot(down, right)))
        angles.append(math.degrees(math.atan2(right, down)))
    for values, bound in ((logs, 1), (angles, 30)):
        assert max(map(abs, values)) <= bound * 1.001
        assert np.mean(values) == pytest.approx(0, abs=0.08 * bound)
        assert np.std(values) == pytest.approx(bound / math.sqrt(3), rel=0.06)


def test_elastic_displacements_are_those_of_the_paper():
    """On a grid of 3 by 3 displacements are independent and normal with the stated deviation; between nodes they are bicubic."""
    import torch

    nodes = []
    for seed in range(400):
        change = draw(off(elastic=10), 33, seed)
        from_CYX, _ = change.apply(places(change), [])
        along = np.arange(33) - 16
        moved_CYX = from_CYX - np.stack(np.meshgrid(along, along, indexing="ij"))
        nodes.append(moved_CYX[:, ::16, ::16])
        bicubic_BCYX = torch.nn.functional.interpolate(
            torch.from_numpy(nodes[-1])[None].float(), size=33, mode="bicubic", align_corners=True
        )
        np.testing.assert_allclose(moved_CYX, bicubic_BCYX[0], atol=2e-3)
    values = np.reshape(nodes, (400, 18))
    assert values.std() == pytest.approx(10, rel=0.05)
    assert values.mean() == pytest.approx(0, abs=0.5)
    np.testing.assert_allclose(values.std(axis=0), 10, rtol=0.2)
    assert np.abs(np.corrcoef(values.T) - np.eye(18)).max() < 0.25
    assert (np.abs(values) < 10).mean() == pytest.approx(0.683, abs=0.03)


@given(GEOMETRIES, CROPS, SEEDS, st.sampled_from([0.0, 0.4, 3.0]))
def test_the_region_suffices(augment, crop, seed, blur):
    """Whatever lies outside the region of `side` pixels would not change the crop: nothing in it is made up."""
    change = draw(augment.model_copy(update={"blur": blur}), crop, seed)
    wider = replace(change, side=change.side + 20)
    pixels_CYX = noise(wider)
    ids_YX = np.arange(wider.side**2).reshape(wider.side, wider.side)
    inner = np.s_[..., 10:-10, 10:-10]
    expected_CYX, (expected_YX,) = wider.apply(pixels_CYX, [ids_YX])
    found_CYX, (found_YX,) = change.apply(pixels_CYX[inner], [ids_YX[inner]])
    np.testing.assert_allclose(found_CYX, expected_CYX, atol=2e-3)
    # A place half-way between two pixels may round to either.
    steps = np.abs(np.subtract(np.divmod(found_YX, wider.side), np.divmod(expected_YX, wider.side)))
    assert steps.max() <= 1
    assert np.count_nonzero(steps) <= 0.02 * found_YX.size + 4


@given(GEOMETRIES, CROPS, SEEDS, st.floats(0, 3))
def test_the_largest_region_is_known(augment, crop, seed, blur):
    """No change reads a larger region than the largest one; without elastic deformation, zoom and turn together reach it."""
    plain = augment.model_copy(update={"elastic": 0.0, "blur": blur})
    assert draw(plain, crop, seed).side <= plain.largest_side(crop)
    farthest = off(scale=(0.5, 0.5), rotate=0.0)
    assert draw(farthest, crop, seed).side == farthest.largest_side(crop)
    assert off(elastic=5.0).largest_side(crop) == crop + 40


@pytest.mark.parametrize("crop", [1, 31, 32])
@pytest.mark.parametrize("zoom", [0.25, 0.8, 1.0, 1.25, 4.0])
def test_no_more_is_read_than_needed(crop, zoom):
    """The region is the crop at that zoom and at most two pixels, and their middles are one."""
    side = draw(off(scale=(zoom, zoom)), crop).side
    assert (crop - 1) / zoom + 1 <= side <= (crop - 1) / zoom + 3
    assert side % 2 == crop % 2


def test_brightness_shifts_all_channels():
    """A shift is the same for every pixel, and uniform up to the stated number of standard deviations either way."""
    shifts = []
    for seed in range(1000):
        found_CYX, _ = draw(off(brightness=0.5), 4, seed).apply(np.zeros((3, 4, 4), np.float32), [])
        assert np.ptp(found_CYX) == 0
        shifts.append(found_CYX[0, 0, 0])
    assert np.abs(shifts).max() <= 0.5
    assert np.mean(shifts) == pytest.approx(0, abs=0.05)
    assert np.std(shifts) == pytest.approx(0.5 / math.sqrt(3), rel=0.06)


def test_contrast_stretches_about_the_mean():
    """Values are multiplied by 1/1.5 to 1.5, as often below 1 as above; 0, the mean, stays."""
    factors = []
    pixels_CYX = np.stack([np.linspace(-2, 2, 9, dtype=np.float32).reshape(3, 3)] * 2)
    for seed in range(1000):
        found_CYX, _ = draw(off(contrast=0.5), 3, seed).apply(pixels_CYX, [])
        factors.append(found_CYX[0, 2, 2] / 2)
        np.testing.assert_allclose(found_CYX, pixels_CYX * factors[-1], rtol=1e-6)
    logs = np.log(factors) / math.log(1.5)
    assert np.abs(logs).max() <= 1.001
    assert logs.mean() == pytest.approx(0, abs=0.1)
    assert logs.std() == pytest.approx(1 / math.sqrt(3), rel=0.06)


def test_color_changes_each_channel_on_its_own():
    """Each channel, however many there are, has a gain and a shift of its own, within the stated bounds."""
    gains, shifts = [], []
    pixels_CYX = np.stack([np.array([[-1, 0], [0, 1]], np.float32)] * 5)
    for seed in range(500):
        found_CYX, _ = draw(off(color=0.3), 2, seed).apply(pixels_CYX, [])
        shifts.append(found_CYX[:, 0, 1])
        gains.append((found_CYX[:, 1, 1] - found_CYX[:, 0, 0]) / 2)
    assert np.abs(shifts).max() <= 0.3
    assert np.abs(np.log(gains)).max() <= math.log(1.3) * 1.001
    assert np.std(shifts) == pytest.approx(0.3 / math.sqrt(3), rel=0.06)
    drawn = np.concatenate([shifts, gains], axis=1).T
    assert np.abs(np.corrcoef(drawn) - np.eye(10)).max() < 0.25


def test_gamma_is_a_power_that_keeps_signs():
    """Values go to one power for the whole crop, log-uniform about 1; their signs and zeros stay."""
    pixels_CYX = np.array([-2, -0.25, 0, 0.25, 1, 4] * 6, np.float32).reshape(1, 6, 6)
    powers = []
    for seed in range(200):
        change = draw(off(gamma=0.5), 6, seed)
        found_CYX, _ = change.apply(pixels_CYX, [])
        np.testing.assert_allclose(found_CYX, np.sign(pixels_CYX) * np.abs(pixels_CYX) ** change.gamma, rtol=1e-5)
        powers.append(np.log(change.gamma) / np.log(1.5))
    assert -1 <= min(powers) < -0.9
    assert 0.9 < max(powers) <= 1
    assert abs(np.mean(powers)) < 0.15


def test_noise_is_white_and_normal():
    """Noise is normal, independent between pixels and channels, and its deviation is uniform up to the stated one."""
    deviations = []
    for seed in range(300):
        found_CYX, _ = draw(off(noise=0.4), 64, seed).apply(np.zeros((2, 64, 64), np.float32), [])
        deviations.append(found_CYX.std())
        one = (found_CYX / found_CYX.std()).astype(np.float64)
        assert (one[0] * one[1]).mean() == pytest.approx(0, abs=0.08)
        assert (one[:, 1:] * one[:, :-1]).mean() == pytest.approx(0, abs=0.06)
        assert (one**4).mean() == pytest.approx(3, abs=0.35)
    assert max(deviations) <= 0.4 * 1.03
    assert np.mean(deviations) == pytest.approx(0.2, rel=0.1)
    assert np.std(deviations) == pytest.approx(0.4 / math.sqrt(12), rel=0.12)


def test_blur_is_gaussian():
    """Blur is the correlation with a Gaussian along each axis, its deviation uniform up to the stated one."""
    deviations = []
    for seed in range(200):
        change = draw(off(blur=2.0), 21, seed)
        pixels_CYX = noise(change, 2)
        reach = (change.side - 21) // 2
        weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / change.blur) ** 2)
        expected_CYX = pixels_CYX.astype(np.float64)
        for axis in (1, 2):
            expected_CYX = correlate1d(expected_CYX, weights / weights.sum(), axis)
        np.testing.assert_allclose(change.apply(pixels_CYX, [])[0], expected_CYX[:, reach : reach + 21, reach : reach + 21], atol=1e-5)
        assert reach >= 3 * change.blur
        deviations.append(change.blur)
    assert max(deviations) <= 2
    assert np.mean(deviations) == pytest.approx(1, abs=0.15)


def test_labels_keep_out_of_what_changes_brightness():
    """Changes of brightness, contrast, colour, noise and blur leave labels as they are."""
    change = draw(off(brightness=1, contrast=1, color=1, noise=1, blur=1))
    ids_YX = np.arange(change.side**2).reshape(change.side, change.side)
    _, (found_YX,) = change.apply(noise(change), [ids_YX])
    margin = (change.side - 32) // 2
    np.testing.assert_array_equal(found_YX, ids_YX[margin : margin + 32, margin : margin + 32])


@given(GEOMETRIES, SEEDS, st.integers(1, 6), st.integers(0, 3), st.booleans(), st.sampled_from([0.0, 0.5]))
def test_any_channels_and_any_labels(augment, seed, channels, count, strided, blur):
    """Any number of channels and label arrays goes through, read-only or strided; inputs are never written to."""
    change = draw(augment.model_copy(update={"noise": 0.1, "blur": blur, "color": 0.1}), 16, seed)
    pixels_CYX = noise(change, channels)
    pixels_CYX = np.asfortranarray(pixels_CYX) if strided else pixels_CYX
    ids_YX = np.arange(change.side**2).reshape(change.side, change.side).T
    kept_CYX, kept_YX = pixels_CYX.copy(), ids_YX.copy()
    pixels_CYX.flags.writeable = ids_YX.flags.writeable = False
    found_CYX, found = change.apply(pixels_CYX, [ids_YX] * count)
    assert found_CYX.shape == (channels, 16, 16)
    assert found_CYX.dtype == np.float32
    assert all(array.flags.c_contiguous for array in (found_CYX, *found))
    assert [one.shape for one in found] == [(16, 16)] * count
    np.testing.assert_array_equal(pixels_CYX, kept_CYX)
    np.testing.assert_array_equal(ids_YX, kept_YX)


def test_a_region_of_another_size_is_refused():
    """Pixels or labels of another size than the change needs are refused."""
    change = draw(Augment())
    side = change.side
    for pixels, labels in (((side + 1, side), (side, side)), ((side, side), (side, side - 1))):
        with pytest.raises(ValueError, match=f"{side} x {side} pixels was given"):
            change.apply(np.zeros((1, *pixels), np.float32), [np.zeros(labels, np.uint8)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flip: true", "augment.flip: found unknown key 'flip'; expected flips, turns, scale, rotate, elastic, brightness,"),
        ("turns: 2", "augment.turns: found 2 (a whole number); expected true or false"),
        ("scale: 1.5", "augment.scale: found 1.5 (a number); expected two numbers from 0.25 to 4, the smaller first"),
        ("scale: [1.25, 0.8]", "augment.scale: found [1.25, 0.8]; expected two numbers from 0.25 to 4, the smaller first"),
        ("scale: [0, 1]", "augment.scale: found [0, 1]; expected two numbers from 0.25 to 4, the smaller first"),
        ("scale: [1, 2, 3]", "augment.scale: found [1, 2, 3] (a list); expected two numbers from 0.25 to 4, the smaller first"),
        ("scale: ['1', 2]", "augment.scale.0: found '1' (text); expected a number. Write 1, without quotes."),
        ("noise: -0.1", "augment.noise: found -0.1; expected a number of at least 0"),
        ("elastic: true", "augment.elastic: found true; expected a number of at least 0"),
        ("blur: .inf", "augment.blur: found inf (a number); expected a number of at least 0"),
        ("stain: 2", "augment.stain: found 2; expected a number of at least 0 and at most 1"),
        ("haze: 1", "augment.haze: found 1; expected a number of at least 0 and below 1"),
        ("jpeg: 0", "augment.jpeg: found 0; expected a whole number of at least 1 and at most 100"),
        ("jpeg: true", "augment.jpeg: found true; expected a whole number of at least 1 and at most 100"),
    ],
)
def test_wrong_values_are_refused(text, message):
    """A wrong option is refused with its key, what was found and what is expected."""
    with pytest.raises(ValidationError) as error:
        Augment.model_validate(yaml.safe_load(text))
    assert [str(one)[: len(message)] for one in problems_of(error.value, Augment, "augment")] == [message]


def test_every_option_can_be_set_in_the_yaml():
    """An augmentation written to YAML and read again is the same, and every key says what it means."""
    augment = Augment(scale=(0.5, 2), rotate=10, elastic=10, flips=False)
    assert Augment.model_validate(yaml.safe_load(yaml.safe_dump(augment.model_dump(mode="json")))) == augment
    assert all(field.description for field in Augment.model_fields.values())
