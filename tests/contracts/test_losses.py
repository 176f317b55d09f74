"""What every loss promises, run over every file in pipeline/losses; a new file is tested without an edit here."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest

from pipeline.losses import ClassAreas, Loss
from pipeline.plugins import available, build, find
from tests.contracts.plugin_examples import check_options, example_in

torch = pytest.importorskip("torch")

LOSSES = available("losses")
LOGITS = [1, 2, 5]
each = pytest.mark.parametrize("name", LOSSES)
each_size = pytest.mark.parametrize("num_logits", LOGITS)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def example_of(name):
    """The mapping that the docstring shows."""
    return example_in("losses", name)["loss"]


def built(name, num_logits=2):
    """The loss of the example, fitted to classes of unlike size."""
    classes = max(2, num_logits)
    areas = ClassAreas(tuple(100 * (one + 1) for one in range(classes)), (10_000,) * classes)
    return build("losses", example_of(name)).with_class_weights(areas)


def batch(num_logits, *, size=(4, 6, 7), seed=0, dtype=torch.float64):
    """Random logits (B, K, Y, X) and truth (B, Y, X), a tenth of it ignored."""
    rng = np.random.default_rng(seed)
    truth_BYX = rng.integers(0, max(2, num_logits), size)
    truth_BYX[rng.random(size) < 0.1] = 255
    logits_BKYX = rng.normal(size=(size[0], num_logits, *size[1:]))
    return torch.from_numpy(logits_BKYX).to(dtype), torch.from_numpy(truth_BYX)


def gradient(loss, logits_BKYX, *rest):
    """The loss and its gradient by the logits."""
    logits_BKYX = logits_BKYX.clone().requires_grad_()
    value = loss(logits_BKYX, *rest)
    value.backward()
    return value.detach(), logits_BKYX.grad


@each
def test_example_names_the_loss(name):
    """The example in a loss's docstring is a mapping of the YAML with the loss's own name."""
    assert example_of(name)["name"] == name
    assert issubclass(find("losses", name), Loss)


@each
def test_options_are_strict_and_described(name):
    """An unknown option is refused by its name, and every option says what it means."""
    check_options("losses", "loss", name)


@each
def test_a_loss_is_a_value(name):
    """It is frozen, travels to other processes, and is built again from its options, fitted or not."""
    for loss in (build("losses", example_of(name)), built(name)):
        assert pickle.loads(pickle.dumps(loss)) == loss
        dumped = json.loads(json.dumps(loss.model_dump(mode="json"), allow_nan=False))
        assert build("losses", {"name": name, **dumped}) == loss
        with pytest.raises(ValueError, match="frozen"):
            loss.anything = 1


@each
def test_fitting_again_changes_nothing(name):
    """A fitted loss is fitted: other areas leave it as it is."""
    loss = built(name)
    assert loss.with_class_weights(ClassAreas((1, 2), (3, 3))) is loss


@each
def test_plans_without_torch(name):
    """Building and fitting a loss, and asking what it needs, imports no torch."""
    code = (
        "import json, sys; from pipeline.plugins import build; from pipeline.losses import ClassAreas\n"
        "loss = build('losses', json.loads(sys.argv[1])).with_class_weights(ClassAreas((1, 2), (3, 3)))\n"
        "loss.needs_instances, loss.model_dump(mode='json')\n"
        "print(*{'torch', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, json.dumps(example_of(name))], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


@each
@each_size
def test_terms_are_quotients(name, num_logits):
    """Totals are scalars with a gradient, counts scalars without one, and the loss is the sum of the quotients."""
    logits_BKYX, truth_BYX = batch(num_logits)
    loss, logits_BKYX = built(name, num_logits), logits_BKYX.requires_grad_()
    terms = loss.terms(logits_BKYX, truth_BYX)
    assert terms
    for term in terms:
        assert term.total.shape == term.count.shape == ()
        assert term.total.dtype == term.count.dtype == torch.float64
        assert term.total.requires_grad
        assert not term.count.requires_grad
    expected = sum(term.factor * term.total / term.count for term in terms)
    torch.testing.assert_close(loss(logits_BKYX, truth_BYX), expected, rtol=1e-12, atol=0)


@each
@each_size
def test_gradients_are_right(name, num_logits):
    """The gradient is that of finite differences, ignored pixels and pixel weights included."""
    logits_BKYX, truth_BYX = batch(num_logits, size=(2, 3, 3), seed=3)
    assert (truth_BYX == 255).any()
    weights_BYX = torch.from_numpy(np.random.default_rng(1).uniform(1, 3, truth_BYX.shape))
    loss = built(name, num_logits)
    for rest in ((truth_BYX,), (truth_BYX, weights_BYX)):
        assert torch.autograd.gradcheck(lambda logits_BKYX, rest=rest: loss(logits_BKYX, *rest), logits_BKYX.requires_grad_())


@each
@each_size
def test_halves_add_up(name, num_logits):
    """Numerators and denominators of two parts of a batch add up to those of the whole, also where a part has fewer classes."""
    logits_BKYX, truth_BYX = batch(num_logits)
    truth_BYX[0] = 0
    loss = built(name, num_logits)
    whole = loss.terms(logits_BKYX, truth_BYX)
    parts = [loss.terms(logits_BKYX[cut], truth_BYX[cut]) for cut in (slice(0, 1), slice(1, None))]
    for term, *pieces in zip(whole, *parts, strict=True):
        torch.testing.assert_close(sum(piece.total for piece in pieces), term.total, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(sum(piece.count for piece in pieces), term.count, rtol=1e-12, atol=0)
        assert {piece.factor for piece in pieces} == {term.factor}


@each
@each_size
def test_ignored_pixels_do_nothing(name, num_logits):
    """Ignored pixels have a gradient of exactly zero, whatever their logits and values are; so have those of weight 0."""
    logits_BKYX, truth_BYX = batch(num_logits)
    ignored_BYX = truth_BYX == 255
    loss = built(name, num_logits)
    value, slope_BKYX = gradient(loss, logits_BKYX, truth_BYX)
    per_logit = ignored_BYX[:, None].expand_as(slope_BKYX)
    assert not slope_BKYX[per_logit].any()
    assert slope_BKYX[~per_logit].any()
    for other in (-1, 77, max(2, num_logits)):
        assert torch.equal(loss(logits_BKYX.masked_fill(per_logit, float("nan")), truth_BYX.masked_fill(ignored_BYX, other)), value)
    weights_BYX = (~ignored_BYX).double()
    nan_BKYX = logits_BKYX.masked_fill(per_logit, float("nan"))
    weighted, slope_weighted_BKYX = gradient(loss, nan_BKYX, truth_BYX.masked_fill(ignored_BYX, 1), weights_BYX)
    assert torch.equal(weighted, value)
    assert torch.equal(slope_weighted_BKYX, slope_BKYX)


@each
@each_size
def test_nothing_to_learn_from_is_zero(name, num_logits):
    """Where every pixel is ignored the loss is 0 and so is its gradient."""
    logits_BKYX, truth_BYX = batch(num_logits)
    value, slope_BKYX = gradient(built(name, num_logits), logits_BKYX, torch.full_like(truth_BYX, 255))
    assert value == 0
    assert not slope_BKYX.any()


@each
@each_size
def test_an_ignored_image_is_no_image(name, num_logits):
    """An image of ignored pixels alone changes neither the loss of the others nor their gradient."""
    logits_BKYX, truth_BYX = batch(num_logits)
    truth_BYX[1] = 255
    loss = built(name, num_logits)
    value, slope_BKYX = gradient(loss, logits_BKYX, truth_BYX)
    others = [0, 2, 3]
    expected, slope_others_BKYX = gradient(loss, logits_BKYX[others], truth_BYX[others])
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(slope_BKYX[others], slope_others_BKYX, rtol=1e-12, atol=1e-15)
    assert not slope_BKYX[1].any()


@each
@each_size
def test_a_weight_of_two_is_two_pixels(name, num_logits):
    """A pixel that weighs 2 counts as two equal pixels that weigh 1, in value and in gradient."""
    loss = built(name, num_logits)
    if loss.needs_instances:
        pytest.skip("its pixel weights are added to those of classes")
    logits_BKYX, truth_BYX = batch(num_logits)
    weights_BYX = torch.ones(truth_BYX.shape)
    weights_BYX[..., -2:] = 2
    weighted, slope_BKYX = gradient(loss, logits_BKYX, truth_BYX, weights_BYX)
    twice = [torch.cat([part, part[..., -2:]], -1) for part in (logits_BKYX, truth_BYX)]
    doubled, slope_doubled_BKYX = gradient(loss, *twice)
    torch.testing.assert_close(weighted, doubled, rtol=1e-12, atol=1e-12)
    both_BKYX = slope_doubled_BKYX[..., :-2].clone()
    both_BKYX[..., -2:] += slope_doubled_BKYX[..., -2:]
    torch.testing.assert_close(slope_BKYX, both_BKYX, rtol=1e-9, atol=1e-12)


@each
@each_size
def test_extreme_logits_stay_finite(name, num_logits):
    """Logits of 10,000 either way, right or wrong, give a finite loss and a finite gradient, in float32 and in half precision."""
    _, truth_BYX = batch(num_logits, size=(2, 4, 4))
    rng = np.random.default_rng(5)
    logits_BKYX = torch.from_numpy(rng.choice([-1e4, 1e4], (2, num_logits, 4, 4)))
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        value, slope_BKYX = gradient(built(name, num_logits), logits_BKYX.to(dtype), truth_BYX)
        assert value.isfinite()
        assert slope_BKYX.isfinite().all()


@each
@each_size
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(name, num_logits, dtype):
    """16-bit logits give what the same numbers give in float32; the gradient comes back in their type."""
    logits_BKYX, truth_BYX = batch(num_logits, dtype=dtype)
    loss = built(name, num_logits)
    value, slope_BKYX = gradient(loss, logits_BKYX, truth_BYX)
    assert value.dtype == torch.float32
    assert slope_BKYX.dtype == dtype
    assert torch.equal(value, loss(logits_BKYX.float(), truth_BYX))


@each
@each_size
def test_truth_of_any_integer_type(name, num_logits):
    """Truth may be of any integer type: the type does not change the loss."""
    logits_BKYX, truth_BYX = batch(num_logits)
    loss = built(name, num_logits)
    expected = loss(logits_BKYX, truth_BYX)
    for dtype in (torch.uint8, torch.int16, torch.uint16, torch.int32):
        assert torch.equal(loss(logits_BKYX, truth_BYX.to(dtype)), expected)


@each
@each_size
@pytest.mark.parametrize("size", [(1, 1, 1), (2, 1, 5)])
def test_a_better_mask_loses_less(name, num_logits, size):
    """The truth loses less than chance and chance less than its opposite, down to one pixel and to one class."""
    truth_BYX = torch.from_numpy(np.random.default_rng(2).integers(0, 2, size))
    for target_BYX in (truth_BYX, torch.ones_like(truth_BYX)):
        right_BKYX = torch.zeros(size[0], num_logits, *size[1:], dtype=torch.float64)
        if num_logits == 1:
            right_BKYX[:, 0] = target_BYX * 8.0 - 4
        else:
            right_BKYX.scatter_(1, target_BYX[:, None], 4.0)
        loss = built(name, num_logits)
        good, chance, bad = (loss(factor * right_BKYX, target_BYX) for factor in (1, 0, -1))
        assert good < chance < bad


@each
def test_pixel_weights_are_made_of_instances(name):
    """A loss that wants instances gives each pixel a weight, float32 of at least 1; any other gives none."""
    instances_YX = np.zeros((9, 12), np.uint16)
    instances_YX[2:6, 1:5], instances_YX[3:8, 6:11] = 7, 300
    loss = built(name)
    weights_YX = loss.pixel_weights(instances_YX)
    if not loss.needs_instances:
        assert weights_YX is None
        return
    assert weights_YX.dtype == np.float32
    assert weights_YX.shape == instances_YX.shape
    assert (weights_YX >= 1).all()
    logits_BKYX, truth_BYX = batch(2, size=(1, 9, 12))
    assert loss(logits_BKYX, truth_BYX, torch.from_numpy(weights_YX)[None]) != loss(logits_BKYX, truth_BYX)
