"""What every backend promises, run over every file in pipeline/backends; a new file is tested without an edit here."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from pipeline.backends import Backend
from pipeline.config import Recipe
from pipeline.errors import BlockError, InputError
from pipeline.models import as_predictor
from pipeline.plugins import available, build, find
from pipeline.tiling.stitching import argmax_into
from tests.conftest import NORMALIZE, blobs
from tests.contracts.plugin_examples import example_in

torch = pytest.importorskip("torch")
nn = torch.nn

BACKENDS = available("backends")
SLOW = {"inductor"}  # compiles for tens of seconds what the others load in one
every = pytest.mark.parametrize("name", BACKENDS)
each = pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in BACKENDS])


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def opened(name, network, normalize=None, **recipe):
    """The backend with a copy of a network; skipped where it cannot run here."""
    recipe = Recipe(backend=name, **recipe)
    if problems := find("backends", name).problems(recipe.device, recipe.precision):
        pytest.skip(f"cannot run here: {problems[0]}")
    return build("backends", {"name": name}).open(copy.deepcopy(network), recipe, normalize)


def bare(network, values_BCYX):
    """Logits of the network alone, without any backend."""
    with torch.no_grad():
        return network.eval()(torch.from_numpy(np.ascontiguousarray(values_BCYX, np.float32))).numpy()


def tiles(batch=2, channels=3, sides=(64, 96), dtype=np.uint8, seed=0):
    """Raw, smooth tiles over the whole range of a type."""
    return np.stack([blobs(sides, seed=seed + at, dtype=dtype, channels=channels) for at in range(batch)])


def centred(values_BCYX):
    return (values_BCYX.astype(np.float32) - NORMALIZE["mean"][0]) / NORMALIZE["std"][0]


def assert_near(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.fixture(scope="session")
def network(networks):
    """A decided U-Net of three channels and three classes."""
    return build("models", networks["same3"]).load().eval()


@every
def test_example_names_the_backend(name):
    """The example in a backend's docstring is a mapping of the YAML with its own name, and the value travels."""
    spec = example_in("backends", name)["backend"]
    backend = build("backends", spec)
    assert isinstance(backend, Backend)
    assert spec == {"name": name}
    assert pickle.loads(pickle.dumps(backend)) == backend


@every
def test_options_are_strict(name):
    """An unknown option is refused by its name."""
    with pytest.raises(InputError, match="no_such_option"):
        build("backends", {"name": name, "no_such_option": 1})


@every
def test_says_what_it_cannot_do(name):
    """A device or a precision that a backend does not have is refused before anything is loaded, both at once."""
    backend = find("backends", name)
    found = {problem.where for problem in backend.problems("abacus", "fp8")}
    assert {"compute.device", "compute.precision"} <= found
    with pytest.raises(InputError, match="abacus"), build("backends", {"name": name}).open(nn.Identity(), Recipe(device="abacus"), None):
        pass


@every
def test_says_what_to_install(name, monkeypatch):
    """A backend whose package is not installed says the command that installs it."""
    backend = find("backends", name)
    monkeypatch.setattr("pipeline.backends.find_spec", lambda _: None)
    told = "; ".join(str(problem) for problem in backend.problems("cpu", "fp32"))
    assert (f"pip install {' '.join(backend.needs)}" in told) == bool(backend.needs)


@each
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", ">u2"])
def test_any_type_of_pixels_is_normalised_per_image(name, dtype, network):
    """Raw pixels of any type come in as stored; each tile has the numbers of its own image, exactly."""
    # A background of 30,000 with a little on top would be one value in bfloat16.
    offset = 0 if dtype == "uint8" else 30_000
    pixels_BCYX = (tiles().astype(np.int64) + offset).astype(dtype)
    numbers = [
        {"mean": [offset + 128.0], "std": [64.0]},
        {"mean": [offset + 90.0, offset + 100.0, offset + 110.0], "std": [50.0, 60.0, 70.0]},
    ]
    values = [
        (pixels_BCYX[at].astype(np.float32) - np.float32(one["mean"])[:, None, None]) / np.float32(one["std"])[:, None, None]
        for at, one in enumerate(numbers)
    ]
    with opened(name, network) as predict:
        found = np.asarray(predict(pixels_BCYX, [{"normalize": one} for one in numbers]))
    assert found.dtype == np.float32
    assert_near(found, bare(network, np.stack(values)))


@each
def test_numbers_may_be_fixed_or_absent(name, network):
    """Fixed numbers win over those of the image; without either the network gets raw values."""
    pixels_BCYX = tiles()
    with opened(name, network, NORMALIZE) as predict:
        assert_near(predict(pixels_BCYX, [{"normalize": {"mean": [0.0], "std": [1.0]}}] * 2), bare(network, centred(pixels_BCYX)))
    with opened(name, network) as predict:
        assert_near(predict(pixels_BCYX, [{}] * 2), bare(network, pixels_BCYX))


@each
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_sixteen_bits_agree(name, precision, network):
    """With 16 bits all pixels that were sure of their class keep it, and 99 % of all, in a network that is seldom sure."""
    pixels_BCYX = tiles(batch=1, sides=(192, 192))
    expected = bare(network, centred(pixels_BCYX))
    with opened(name, network, NORMALIZE, precision=precision) as predict:
        found = np.asarray(predict(pixels_BCYX, [{}]))
    ordered = np.sort(expected, axis=1)
    sure = ordered[:, -1] - ordered[:, -2] > 0.1 * expected.std()
    agrees = found.argmax(1) == expected.argmax(1)
    assert sure.mean() > 0.5
    assert len(np.unique(expected.argmax(1))) == 3
    assert not np.array_equal(found, expected)
    assert agrees[sure].all()
    assert agrees.mean() >= 0.99


@each
def test_neither_layout_nor_company_changes_a_byte(name, network):
    """A tile gives the same bytes in any place of a batch, planar and interleaved, before and after tiles of other sizes.

    Alone it may be rounded otherwise, as kernels are chosen by the size of a batch: that is part of the recipe.
    """
    pixels_BCYX = tiles(batch=3)
    interleaved = np.ascontiguousarray(pixels_BCYX.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    inside = np.pad(pixels_BCYX, ((0, 0), (0, 0), (5, 3), (2, 7)))[:, :, 5:-3, 2:-7]
    frozen = pixels_BCYX.copy()
    frozen.flags.writeable = False
    with opened(name, network, NORMALIZE) as predict:
        first = np.array(predict(pixels_BCYX, [{}] * 3))
        for sides in ((32, 64), (128, 32)):
            assert_near(predict(other := tiles(1, sides=sides), [{}]), bare(network, centred(other)))
        for at in range(3):
            moved = np.array(predict(np.roll(pixels_BCYX, at, axis=0), [{}] * 3))
            assert moved.tobytes() == np.roll(first, at, axis=0).tobytes()
            assert_near(predict(pixels_BCYX[at : at + 1], [{}]), first[at : at + 1])
        for layout in (pixels_BCYX[::-1][::-1], interleaved, inside, frozen):
            assert np.array(predict(layout, [{}] * 3)).tobytes() == first.tobytes()
    with opened(name, network, NORMALIZE) as predict:
        # Loaded anew, and with another size first.
        predict(tiles(1, sides=(32, 64)), [{}])
        assert np.array(predict(pixels_BCYX, [{}] * 3)).tobytes() == first.tobytes()


@each
def test_logits_are_the_callers(name, network):
    """Logits are writable and contiguous, and the next tile does not overwrite them."""
    pixels_BCYX = tiles()
    with opened(name, network, NORMALIZE) as predict:
        first = predict(pixels_BCYX[:1], [{}])
        kept = np.array(first)
        predict(pixels_BCYX[1:], [{}])
        assert np.array_equal(first, kept)
        assert first.flags.c_contiguous
        first += 1


@each
def test_one_logit_is_two_classes(name):
    """With K = 1, class 1 is where the logit is above 0, and a logit of 0 is class 0."""
    network = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.ones_(network.weight)
    pixels_BCYX = np.tile(np.array([-2, -1, 0, 1, 2], np.int16), (1, 1, 4, 1))
    with opened(name, network) as predict:
        logits = np.asarray(predict(pixels_BCYX, [{}]))
        assert logits[0, :, 0].tolist() == [[0, 0, 0, 0, 0], [-2, -1, 0, 1, 2]]
        assert classes_of(predict, pixels_BCYX)[0, 0].tolist() == [0, 0, 0, 1, 1]


@each
def test_valid_padding_loses_its_margin(name, networks):
    """A network without padding gives the logits of the middle, at any size that it takes."""
    network = build("models", networks["valid3"]).load()
    with opened(name, network, NORMALIZE) as predict:
        for sides in ((96, 128), (128, 96)):
            pixels_BCYX = tiles(1, sides=sides)
            expected = bare(network, centred(pixels_BCYX))
            assert expected.shape[-2:] < sides
            assert_near(predict(pixels_BCYX, [{}]), expected)


def classes_of(predict, pixels_BCYX):
    """What the engine would get where it needs no scores."""
    found = np.asarray(as_predictor(predict).classes(pixels_BCYX, [{}] * len(pixels_BCYX)))
    return found.argmax(1) if found.ndim == 4 else found


@each
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_classes_are_those_of_the_scores(name, precision, network):
    """Asked for classes alone, a backend gives exactly those that the engine would make of its scores."""
    pixels_BCYX = tiles(sides=(96, 96))
    with opened(name, network, NORMALIZE, precision=precision) as predict:
        scores_BKYX = np.asarray(predict(pixels_BCYX, [{}] * 2))
        classes_BYX = classes_of(predict, pixels_BCYX)
    for scores_KYX, classes_YX in zip(scores_BKYX, classes_BYX, strict=True):
        mask_YX = np.empty(classes_YX.shape, np.uint8)
        argmax_into(scores_KYX, mask_YX)
        assert np.array_equal(classes_YX, mask_YX)


@each
@pytest.mark.parametrize("classes", [3, 300])
def test_ties_go_to_the_lowest_class(name, classes):
    """Where several classes have the largest logit, the lowest of them wins, above 255 classes too."""
    network = nn.Conv2d(1, classes, 1, bias=False)
    nn.init.zeros_(network.weight)
    network.weight.data[[1, -1]] = 1
    with opened(name, network) as predict:
        assert classes_of(predict, np.array([[[[0, 1, 7, 0]] * 4]], np.uint8))[0, 0].tolist() == [0, 1, 1, 0]
        network.weight.data[-1] = 2
    with opened(name, network) as predict:
        assert classes_of(predict, np.array([[[[0, 1, 7, 0]] * 4]], np.uint8))[0, 0].tolist() == [0, classes - 1, classes - 1, 0]


class Spoilt(nn.Sequential):
    """A network whose ReLU might hide what came before it."""

    def __init__(self, value=None):
        super().__init__(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1))
        if value is not None:
            self[0].weight.data[0, 0, 1, 1] = value


class Overflows(nn.Conv2d):
    """Gives infinite logits of one class only, where a pixel is 9."""

    def __init__(self):
        super().__init__(1, 2, 1)

    def forward(self, x):
        return super().forward(x) + torch.exp((x - 5) * 100)


def is_refused(predict, pixels_BCYX):
    """Whether the backend, or the engine that looks at what it gave, refuses both scores and classes."""
    for ask in (predict, as_predictor(predict).classes):
        try:
            scores = np.asarray(ask(pixels_BCYX, [{}]))
            assert scores.ndim == 4
            argmax_into(scores[0], np.empty(scores.shape[2:], np.uint8))
        except BlockError:
            continue
        return False
    return True


@each
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_never_a_class(name, value):
    """NaN or infinity in pixels, weights or logits never ends as a class: the block is refused. Other tiles go on."""
    plain = blobs((64, 64))[None, None].astype(np.float32)
    pixels_BCYX = plain.copy()
    pixels_BCYX[..., 30, 40] = value
    with opened(name, Spoilt()) as predict:
        assert is_refused(predict, pixels_BCYX)
        assert classes_of(predict, plain).shape == (1, 64, 64)
    with opened(name, Spoilt(value)) as predict:
        assert is_refused(predict, plain)
    with opened(name, Overflows()) as predict:
        assert is_refused(predict, np.full((1, 1, 64, 64), 9, np.uint8))
        assert classes_of(predict, np.full((1, 1, 64, 64), 3, np.uint8)).shape == (1, 64, 64)


class Sized(nn.Conv2d):
    """A network whose code turns a size into a number, so that what is recorded holds for that size alone."""

    def __init__(self):
        super().__init__(1, 2, 3, padding=1)

    def forward(self, x):
        return super().forward(x) * float(x.shape[-1])


@each
def test_sizes_that_the_code_looks_at_are_respected(name):
    """A network that computes with its tile's size is right at every size."""
    network = Sized()
    with opened(name, network) as predict:
        for sides in ((64, 96), (32, 64), (64, 96)):
            pixels_BCYX = tiles(1, 1, sides)
            assert_near(predict(pixels_BCYX, [{}]), bare(network, pixels_BCYX))


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_graphs_of_one_size_are_let_go_of(name):
    """Of a network that needs a graph for each size, only those used last are kept, and what they gave comes again."""
    from pipeline.backends._graph import MAX_SIZED_GRAPHS

    network = Sized()
    with opened(name, network) as predict:
        for side in (64, *range(32, 32 + 8 * MAX_SIZED_GRAPHS, 8), 64):
            for _ in range(2):
                assert_near(predict(tiles(1, 1, (64, side)), [{}]), bare(network, tiles(1, 1, (64, side))))
            assert len(predict.sized) <= MAX_SIZED_GRAPHS
        predict.prepare = None  # what was used last needs nothing to be made
        for side in (64, 24 + 8 * MAX_SIZED_GRAPHS):
            predict(tiles(1, 1, (64, side)), [{}])


class AnyChannels(nn.Conv2d):
    """A network that takes any number of channels."""

    def __init__(self):
        super().__init__(1, 2, 3, padding=1)

    def forward(self, x):
        return super().forward(x.mean(1, keepdim=True))


@each
@pytest.mark.parametrize("is_interleaved", [True, False])
def test_images_may_have_other_channels(name, is_interleaved):
    """A network that takes any number of channels takes them one after the other, as pictures with and without alpha come."""
    network = AnyChannels()
    with opened(name, network) as predict:
        for channels in (3, 4, 1, 3):
            pixels_BCYX = tiles(1, channels)
            given = np.moveaxis(np.ascontiguousarray(np.moveaxis(pixels_BCYX, 1, -1)), -1, 1) if is_interleaved else pixels_BCYX
            assert_near(predict(given, [{}]), bare(network, pixels_BCYX))
            assert np.array_equal(classes_of(predict, given), bare(network, pixels_BCYX).argmax(1))


class Looks(nn.Conv2d):
    """A network whose code looks at pixels."""

    def __init__(self):
        super().__init__(1, 2, 1)

    def forward(self, x):
        return super().forward(x) if float(x[..., 0, 0].sum()) > 0 else -super().forward(x)


@each
def test_code_that_looks_at_pixels_is_followed_or_refused(name):
    """A network that decides by a pixel's value is computed rightly, or refused with a way out; never wrongly."""
    network = Looks()
    with opened(name, network, NORMALIZE) as predict:
        told = []
        for value in (10, 250):
            pixels_BCYX = np.full((1, 1, 64, 64), value, np.uint8)
            try:
                found = predict(pixels_BCYX, [{}])
            except InputError as refused:
                told.append(str(refused))
            else:
                assert_near(found, bare(network, centred(pixels_BCYX)))
    assert all("compute.backend" in one and "expected auto" in one for one in told)


@each
def test_threads_are_the_recipes(name):
    """Torch's number of threads is the recipe's inside the context, and the former one afterwards."""
    before = torch.get_num_threads()
    with opened(name, nn.Conv2d(1, 2, 1), threads=before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
