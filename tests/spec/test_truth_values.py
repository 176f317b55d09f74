"""Truth: exact values and colours to class ids; what belongs to no class is named with its first position."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import ClassSpec
from pipeline.errors import TruthError
from pipeline.geometry import Box
from pipeline.inputs import TruthMap
from pipeline.raster import Header

DTYPES = ["bool", "uint8", "int8", "uint16", ">u2", "int16", "uint32", "int32", "int64", "uint64", "float16", "float32", "float64"]
VALUES = [-(2**63), -(2**31), -129, -1, 0, 1, 2, 3, 4, 127, 128, 254, 255, 256, 300, 2047, 65535, 65536, 70000, 2**24 + 1, 2**31, 2**63 - 1]
BOX = Box(100, 200, 200, 300)


def spec(name, values=None, color=None):
    return ClassSpec(name=name, values=values, color=color)


@st.composite
def value_maps(draw):
    """A map over values: class ids, disjoint lists, or lists and one `other`."""
    classes = draw(st.integers(1, 5))
    ignore = draw(st.none() | st.sampled_from(VALUES))
    if draw(st.booleans()):
        return TruthMap(classes, None, ignore)
    owners = draw(st.lists(st.integers(0, classes), min_size=len(VALUES), max_size=len(VALUES)))
    listed = [[value for value, owner in zip(VALUES, owners, strict=True) if owner == index] for index in range(classes)]
    other = draw(st.none() | st.integers(0, classes - 1))
    return TruthMap(classes, tuple(spec(str(i), "other" if i == other else listed[i]) for i in range(classes)), ignore)


@st.composite
def rasters(draw):
    """One channel of any type, of values that some class may list."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    if dtype.kind == "f":
        exact = [value for value in VALUES if abs(value) < 2**11 or (dtype.itemsize > 2 and float(dtype.type(value)) == value)]
        pool = [*(value for value in exact if abs(value) < 2**62), 1.5, np.nan, np.inf]
    elif dtype.kind == "b":
        pool = [0, 1]
    else:
        pool = [value for value in VALUES if np.iinfo(dtype).min <= value <= np.iinfo(dtype).max]
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    some = draw(st.lists(st.sampled_from(pool), min_size=1, max_size=3))
    cells = draw(st.lists(st.sampled_from(some), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
    return np.array(cells, dtype=object).astype(dtype).reshape(1, *shape)


def class_of(truth, value):
    """The rule, one pixel at a time; None: no class."""
    if isinstance(value, float) and value != np.floor(value):
        return None
    if np.isinf(value):
        return None
    if truth.ignore is not None and value == truth.ignore:
        return 255
    if not truth.classes:
        return int(value) if 0 <= value < truth.num_classes else None
    for index, one in enumerate(truth.classes):
        if one.values != "other" and int(value) in one.values:
            return index
    return next((index for index, one in enumerate(truth.classes) if one.values == "other"), None)


@settings(deadline=None)
@given(value_maps(), rasters())
def test_values_follow_the_rule_pixel_by_pixel(truth, raw_CYX):
    """For every type and every map: ignore first, then values, then other; else an error at the first position."""
    expected = [class_of(truth, value) for value in raw_CYX[0].ravel().tolist()]
    if None in expected:
        with pytest.raises(TruthError) as caught:
            truth.apply(raw_CYX, BOX)
        y, x = divmod(expected.index(None), raw_CYX.shape[2])
        assert (caught.value.y, caught.value.x) == (100 + y, 200 + x)
        value = raw_CYX[0, y, x].item()
        assert caught.value.value == value or np.isnan([caught.value.value, value]).all()
    else:
        found = truth.apply(raw_CYX, BOX)
        assert found.dtype == np.uint8
        assert found.ravel().tolist() == expected


@settings(deadline=None)
@given(value_maps(), rasters(), st.integers(0, 2**32 - 1))
def test_pixels_without_data_are_left_out_whatever_their_value(truth, raw_CYX, seed):
    """Where the truth holds no data it is ignored, even a value that belongs to no class; every other pixel is as without it."""
    valid_YX = np.random.default_rng(seed).random(raw_CYX.shape[1:]) < 0.5
    expected = [class_of(truth, value) if valid else 255 for value, valid in zip(raw_CYX[0].ravel().tolist(), valid_YX.flat, strict=True)]
    if None in expected:
        with pytest.raises(TruthError):
            truth.apply(raw_CYX, BOX, valid_YX)
    else:
        assert truth.apply(raw_CYX, BOX, valid_YX).ravel().tolist() == expected


@settings(deadline=None)
@given(st.integers(2, 40), st.sampled_from([3, 4]), st.booleans(), st.integers(0, 2**32 - 1))
def test_colors_match_exactly(classes, channels, ignores, seed):
    """Every colour of the list is its class, a stored view included; alpha is not looked at; one step off belongs to no class."""
    rng = np.random.default_rng(seed)
    palette = rng.choice(2**24 - 1, classes + 1, replace=False)
    specs = tuple(spec(str(i), color=f"#{color:06X}") for i, color in enumerate(palette[:classes]))
    truth = TruthMap(classes, specs, ignore=f"#{palette[classes]:06x}" if ignores else None)
    ids_YX = rng.integers(0, classes + ignores, (5, 6))
    pixels_YXC = np.stack([palette[ids_YX] >> shift & 255 for shift in (16, 8, 0)] + [ids_YX] * (channels - 3), axis=-1).astype(np.uint8)
    raw_CYX = np.moveaxis(pixels_YXC, -1, 0)
    assert truth.apply(raw_CYX, BOX).tolist() == np.where(ids_YX == classes, 255, ids_YX).tolist()
    wrong = next(color for color in range(2**24) if color not in palette)
    pixels_YXC[3, 4, :3] = wrong >> 16 & 255, wrong >> 8 & 255, wrong & 255
    with pytest.raises(TruthError) as caught:
        truth.apply(raw_CYX, BOX)
    assert (caught.value.value, caught.value.y, caught.value.x) == (tuple(pixels_YXC[3, 4, :3].tolist()), 103, 204)


def test_instance_ids_are_one_class():
    """Instance labels above 65535 with `values: other` are the class, and `ignore` wins over it."""
    truth = TruthMap(2, (spec("background", [0]), spec("nucleus", "other")), ignore=4_000_000_000)
    raw_CYX = np.array([[[0, 1, 70_000, 4_000_000_000]]], np.uint32)
    assert truth.apply(raw_CYX, Box(0, 0, 1, 4)).tolist() == [[0, 1, 1, 255]]


@pytest.mark.parametrize(
    ("classes", "dtype", "ignored"), [(254, "uint8", 255), (255, "uint8", 255), (256, "uint16", 65535), (1000, "uint16", 65535)]
)
def test_ignored_is_the_fill_value_of_the_mask(classes, dtype, ignored):
    """Class ids have the mask's own type, up to the last class, and ignored pixels its fill value."""
    truth = TruthMap(classes, None, ignore=5000)
    ids_YX = truth.apply(np.array([[[0, classes - 1, 5000]]], np.uint16), Box(0, 0, 1, 3))
    assert (ids_YX.dtype, ids_YX.tolist(), truth.ignored) == (np.dtype(dtype), [[0, classes - 1, ignored]], ignored)
    with pytest.raises(TruthError, match=rf"truth value {classes} at \(y=7, x=9\) belongs to no class"):
        truth.apply(np.array([[[classes]]], np.uint16), Box(7, 9, 8, 10))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "int64", "float32"])
def test_ignore_wins_over_everything(dtype):
    """A value that is ignored is left out though a class lists it, though it is a class id, and though `other` takes the rest."""
    raw_CYX = np.array([[[0, 1, 2]]], dtype)
    listed = (spec("a", [0, 1]), spec("b", "other"))
    for classes in (listed, None):
        for ignore in (0, 1, 2):
            ids = TruthMap(3 if classes is None else 2, classes, ignore).apply(raw_CYX, BOX)[0].tolist()
            assert [at for at, one in enumerate(ids) if one == 255] == [ignore]


@pytest.mark.parametrize("value", [65535, 65536, 2**24, 2**32, 2**32 + 1])
def test_wide_values_do_not_wrap_around(value):
    """A value past 16 bits is itself, never its lower bits: it is no class 0, and its own class where it is listed."""
    raw_CYX = np.array([[[value]]], np.int64)
    assert TruthMap(2, (spec("a", [0, 1]), spec("b", [value]))).apply(raw_CYX, BOX).tolist() == [[1]]
    with pytest.raises(TruthError, match=f"truth value {value} "):
        TruthMap(2).apply(raw_CYX, BOX)


def test_a_truth_map_travels():
    """The map works the same in another process, and so does its error."""
    truth = pickle.loads(pickle.dumps(TruthMap(2, (spec("a", [0]), spec("b", [7])), ignore=3)))
    assert truth.apply(np.array([[[0, 7, 3]]], np.int64), Box(0, 0, 1, 3)).tolist() == [[0, 1, 255]]
    error = pickle.loads(pickle.dumps(TruthError(1.5, 2, 3)))
    assert str(error) == "truth value 1.5 at (y=2, x=3) belongs to no class"


RED, GREEN = spec("a", color="#ff0000"), spec("b", color="#00ff00")
CHECKS = [  # truth header (channels, dtype), classes, ignore -> what the messages must say; nothing: readable
    (1, "uint8", None, None, []),
    (1, "float32", None, 255, []),
    (3, "uint8", (RED, GREEN), None, []),
    (4, "uint8", (RED, GREEN), "#000000", []),
    (2, "uint8", None, None, ["t.png: found 2 channels; expected 1 channel of values, or 3 or 4 of colour"]),
    (5, "uint8", (RED, GREEN), None, ["t.png: found 5 channels"]),
    (1, "complex64", None, None, ["t.png: found pixels of type complex64"]),
    (1, "uint8", None, "#000000", ["ignore: found '#000000'; expected a number. t.png holds one channel"]),
    (3, "uint8", None, None, ["classes: found colour truth t.png, and no color for any class"]),
    (3, "uint8", (RED, spec("b")), None, ["no color for b; expected a color for each class"]),
    (
        3,
        "uint16",
        (RED, GREEN),
        255,
        ["t.png: found colours of type uint16; expected uint8", "ignore: found 255; expected a colour '#rrggbb'"],
    ),
    (3, "uint8", (RED, GREEN), "black", ["ignore: found 'black'; expected a colour '#rrggbb'"]),
]


@pytest.mark.parametrize(("channels", "dtype", "classes", "ignore", "messages"), CHECKS)
def test_headers_are_checked_before_any_pixel_is_read(channels, dtype, classes, ignore, messages):
    """Truth that cannot fit the classes is named while planning, every problem at once."""
    problems = TruthMap(2, classes, ignore).check(Header((4, 4), channels, dtype), "t.png")
    assert len(problems) == len(messages)
    for problem, message in zip(problems, messages, strict=True):
        assert message in str(problem)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_what_belongs_to_no_class_is_left_out_of_what_is_looked_at(dtype):
    """To look at a truth, its strange values are ignored and all others stay; counting refuses it."""
    truth_map = TruthMap(2, (spec("a", values=[0]), spec("b", values=[1])), 9)
    raw_CYX = np.array([[[0, 1, 9], [7, 1, 0]]], dtype)
    valid_YX = np.array([[True, True, True], [True, False, True]])
    assert truth_map.apply_known(raw_CYX, valid_YX).tolist() == [[0, 1, 255], [255, 255, 0]]
    with pytest.raises(TruthError):
        truth_map.apply(raw_CYX, Box(0, 0, 2, 3), valid_YX)
