"""The losses against their formulas in numpy and against the libraries of the field."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from segmentation_models_pytorch.losses import DiceLoss, FocalLoss, LovaszLoss
from segmentation_models_pytorch.losses._functional import focal_loss_with_logits, softmax_focal_loss_with_logits
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional
from torchmetrics.functional.segmentation import dice_score

from pipeline.errors import InputError
from pipeline.losses import ClassAreas
from pipeline.plugins import build

IGNORE = 255


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def loss_of(name, **options):
    return build("losses", {"name": name, **options}, "loss")


def batch(num_logits, *, size=(3, 8, 9), seed=0, ignored=0.2):
    """Random logits (B, K, Y, X), float64, and truth (B, Y, X) in which the last class is missing from the first image."""
    rng = np.random.default_rng(seed)
    classes = max(2, num_logits)
    truth_BYX = rng.integers(0, classes, size)
    truth_BYX[0][truth_BYX[0] == classes - 1] = 0
    truth_BYX[rng.random(size) < ignored] = IGNORE
    return torch.from_numpy(rng.normal(0, 2, (size[0], num_logits, *size[1:]))), torch.from_numpy(truth_BYX)


def probabilities(logits_BKYX):
    """Of every class, (B, K, Y, X) with K >= 2, numpy, by the definitions of sigmoid and softmax."""
    z_BKYX = logits_BKYX.numpy()
    if z_BKYX.shape[1] == 1:
        p_BYX = 1 / (1 + np.exp(-z_BKYX[:, 0]))
        return np.stack([1 - p_BYX, p_BYX], 1)
    return np.exp(z_BKYX) / np.exp(z_BKYX).sum(1, keepdims=True)


def counted_pixels(logits_BKYX, truth_BYX):
    """Image, class and probabilities of each pixel that is not ignored."""
    probs_BKYX = probabilities(logits_BKYX)
    for place in np.argwhere(truth_BYX.numpy() != IGNORE):
        b, y, x = map(int, place)
        yield b, int(truth_BYX[b, y, x]), probs_BKYX[b, :, y, x]


@pytest.mark.parametrize("num_logits", [1, 2, 5])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_and_cross_entropy_are_their_formulas(num_logits, gamma):
    """Each pixel has -w (1 - p)^gamma log p, the sum divided by that of w; gamma 0 is cross-entropy."""
    logits_BKYX, truth_BYX = batch(num_logits)
    weights = np.linspace(0.5, 2, max(2, num_logits)).tolist()
    above = below = 0.0
    for _, truth, probs in counted_pixels(logits_BKYX, truth_BYX):
        above += -weights[truth] * (1 - probs[truth]) ** gamma * np.log(probs[truth])
        below += weights[truth]
    found = loss_of("focal", gamma=gamma, class_weights=weights)(logits_BKYX, truth_BYX).item()
    assert found == pytest.approx(above / below, rel=1e-12)
    if gamma == 0:
        assert loss_of("cross_entropy", class_weights=weights)(logits_BKYX, truth_BYX).item() == pytest.approx(found, rel=1e-12)


@pytest.mark.parametrize("num_logits", [2, 5])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_is_torchs(num_logits, weighted):
    """With and without class weights and ignored pixels it is torch's weighted mean."""
    logits_BKYX, truth_BYX = batch(num_logits)
    weights = np.linspace(0.5, 2, num_logits).tolist() if weighted else "none"
    expected = functional.cross_entropy(
        logits_BKYX, truth_BYX, weight=torch.tensor(weights, dtype=torch.float64) if weighted else None, ignore_index=IGNORE
    )
    torch.testing.assert_close(loss_of("cross_entropy", class_weights=weights)(logits_BKYX, truth_BYX), expected, rtol=1e-12, atol=0)


def test_one_logit_is_two_classes():
    """A logit z gives what the logits (0, z) give, and cross-entropy of one is binary cross-entropy."""
    logits_BKYX, truth_BYX = batch(1)
    pair_BKYX = torch.cat([torch.zeros_like(logits_BKYX), logits_BKYX], 1)
    for spec in (("cross_entropy", {}), ("focal", {}), ("dice", {}), ("border", {"class_weights": [1.0, 3.0]})):
        loss = loss_of(spec[0], **spec[1])
        torch.testing.assert_close(loss(logits_BKYX, truth_BYX), loss(pair_BKYX, truth_BYX), rtol=1e-12, atol=0)
    torch.testing.assert_close(
        loss_of("cross_entropy")(logits_BKYX, truth_BYX), loss_of("binary_cross_entropy")(logits_BKYX, truth_BYX), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("num_logits", [1, 2, 5])
def test_binary_cross_entropy_is_its_formula(num_logits):
    """Each logit is a yes or no of its own; the positive weight multiplies what a yes costs."""
    logits_BKYX, truth_BYX = batch(num_logits)
    costs = []
    for b, y, x in np.argwhere(truth_BYX.numpy() != IGNORE):
        for k, logit in enumerate(logits_BKYX[b, :, y, x].numpy()):
            p = 1 / (1 + np.exp(-logit))
            is_class = truth_BYX[b, y, x] == (1 if num_logits == 1 else k)
            costs.append(-3 * np.log(p) if is_class else -np.log(1 - p))
    found = loss_of("binary_cross_entropy", positive_weight=3.0)(logits_BKYX, truth_BYX).item()
    assert found == pytest.approx(np.mean(costs), rel=1e-12)


@pytest.mark.parametrize("num_logits", [1, 2, 5])
@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_dice_is_its_formula(num_logits, smooth):
    """-(2 sum p g + smooth) / (sum p + sum g + smooth) of each image and class, absent classes left out, then the mean."""
    logits_BKYX, truth_BYX = batch(num_logits)
    sums = {}
    for b, truth, probs in counted_pixels(logits_BKYX, truth_BYX):
        for k, p in enumerate(probs):
            both, every_p, every_g = sums.get((b, k), (0.0, 0.0, 0))
            sums[b, k] = both + p * (k == truth), every_p + p, every_g + (k == truth)
    scores = [-(2 * both + smooth) / (every_p + every_g + smooth) for both, every_p, every_g in sums.values() if every_g]
    assert len(scores) < len(sums)
    assert loss_of("dice", smooth=smooth)(logits_BKYX, truth_BYX).item() == pytest.approx(np.mean(scores), rel=1e-12)


@pytest.mark.parametrize("num_logits", [2, 5])
def test_dice_is_that_of_the_libraries(num_logits):
    """It is smp's Dice loss less 1, image by image where no class is absent; of decided logits, minus torchmetrics' Dice of the mask."""
    logits_BKYX, truth_BYX = batch(num_logits)
    logits_BKYX, truth_BYX = logits_BKYX[1:], truth_BYX[1:]
    expected = [
        DiceLoss("multiclass", ignore_index=IGNORE)(one_KYX[None], one_YX[None]) - 1
        for one_KYX, one_YX in zip(logits_BKYX, truth_BYX, strict=True)
    ]
    torch.testing.assert_close(loss_of("dice")(logits_BKYX, truth_BYX), torch.stack(expected).mean(), rtol=1e-9, atol=0)
    logits_BKYX, truth_BYX = batch(num_logits, ignored=0.0)
    logits_BKYX, truth_BYX = logits_BKYX[1:], truth_BYX[1:]
    mask_BYX = logits_BKYX.argmax(1)
    decided_BKYX = 100.0 * functional.one_hot(mask_BYX, num_logits).movedim(-1, 1).double()
    expected = dice_score(mask_BYX, truth_BYX, num_classes=num_logits, input_format="index").double().mean()
    torch.testing.assert_close(loss_of("dice")(decided_BKYX, truth_BYX), -expected, rtol=1e-6, atol=0)


def test_dice_goes_from_zero_to_minus_one():
    """All right is -1, all wrong is 0, in one class as in both; an empty class neither helps nor hurts."""
    truth_BYX = torch.tensor([[[0, 0, 1]], [[1, 1, 1]]])
    right_BKYX = 1e4 * functional.one_hot(truth_BYX, 3).movedim(-1, 1).double()
    wrong_BKYX = 1e4 * functional.one_hot((truth_BYX + 1) % 3, 3).movedim(-1, 1).double()
    assert loss_of("dice")(right_BKYX, truth_BYX) == -1
    terms = loss_of("dice").terms(wrong_BKYX, truth_BYX)
    assert [(term.total.item(), term.count.item()) for term in terms] == [(-2 * 0.0, 3)]
    sigmoid_BKYX = 1e4 * (2 * truth_BYX[:, None] - 1).double()
    assert loss_of("dice")(sigmoid_BKYX, truth_BYX) == -1
    assert loss_of("dice")(-sigmoid_BKYX, truth_BYX) == 0


def test_focal_is_that_of_the_libraries():
    """It is smp's: softmax of several classes; sigmoid of one logit, where alpha only changes what the sum is divided by."""
    for num_logits, gamma in itertools.product((2, 5), (1.0, 2.0, 3.5)):
        logits_BKYX, truth_BYX = batch(num_logits, ignored=0.0)
        expected = softmax_focal_loss_with_logits(logits_BKYX, truth_BYX, gamma=gamma)
        torch.testing.assert_close(loss_of("focal", gamma=gamma)(logits_BKYX, truth_BYX), expected, rtol=1e-12, atol=0)
    logits_BKYX, truth_BYX = batch(1)
    expected = FocalLoss("binary", gamma=2.0, ignore_index=IGNORE)(logits_BKYX, truth_BYX)
    torch.testing.assert_close(loss_of("focal")(logits_BKYX, truth_BYX), expected, rtol=1e-12, atol=0)
    is_counted_BYX = truth_BYX != IGNORE
    (term,) = loss_of("focal", class_weights=[0.75, 0.25]).terms(logits_BKYX, truth_BYX)
    expected = focal_loss_with_logits(logits_BKYX[:, 0][is_counted_BYX], truth_BYX[is_counted_BYX], alpha=0.25, reduction="sum")
    torch.testing.assert_close(term.total, expected, rtol=1e-12, atol=0)


def test_focal_has_a_slope_where_a_root_has_none():
    """With gamma below 1 a pixel that is certain and right has a gradient of 0, not NaN."""
    logits_BKYX = torch.tensor([[[[1e4, 3.0]]]], requires_grad=True)
    loss_of("focal", gamma=0.5)(logits_BKYX, torch.ones(1, 1, 2, dtype=torch.int64)).backward()
    certain, other = logits_BKYX.grad.flatten().tolist()
    assert certain == 0
    assert other < 0


@pytest.mark.parametrize("num_logits", [1, 2, 5])
@pytest.mark.parametrize("ignored", [0.0, 0.2])
def test_lovasz_is_its_authors(num_logits, ignored):
    """It is the authors' code, per image, in value and gradient: hinge of one logit, softmax over the classes present of several."""
    logits_BKYX, truth_BYX = batch(num_logits, size=(3, 20, 21), ignored=ignored)
    mode = "binary" if num_logits == 1 else "multiclass"
    theirs = LovaszLoss(mode, per_image=True, ignore_index=IGNORE)
    slopes = []
    for loss in (loss_of("lovasz"), lambda scores, truth: theirs(scores.float(), truth)):
        scores_BKYX = logits_BKYX.clone().requires_grad_()
        value = loss(scores_BKYX, truth_BYX)
        value.backward()
        slopes.append((value.detach().double(), scores_BKYX.grad))
    torch.testing.assert_close(*[value for value, _ in slopes], rtol=1e-5, atol=0)
    torch.testing.assert_close(*[slope for _, slope in slopes], rtol=1e-2, atol=1e-7)


@pytest.mark.parametrize("empty", [0, 1])
def test_lovasz_hinge_of_one_class_is_its_authors(empty):
    """An image without class 1, or of nothing else, is scored as the authors' code does."""
    logits_BKYX, _ = batch(1)
    truth_BYX = torch.full((3, 8, 9), empty)
    expected = LovaszLoss("binary", per_image=True)(logits_BKYX.float(), truth_BYX)
    torch.testing.assert_close(loss_of("lovasz")(logits_BKYX, truth_BYX).float(), expected, rtol=1e-5, atol=0)


def test_lovasz_of_a_mask_is_one_minus_iou():
    """At the corners of the cube the extension is what it extends: of decided logits it is 1 - IoU, the mean over classes present."""
    logits_BKYX, truth_BYX = batch(5)
    mask_BYX = logits_BKYX.argmax(1)
    scores = []
    for truth_YX, mask_YX in zip(truth_BYX.numpy(), mask_BYX.numpy(), strict=True):
        is_counted_YX = truth_YX != IGNORE
        pairs = [((truth_YX == k) & is_counted_YX, (mask_YX == k) & is_counted_YX) for k in range(5)]
        scores.append(np.mean([1 - (t & m).sum() / (t | m).sum() for t, m in pairs if t.any()]))
    decided_BKYX = 1e4 * functional.one_hot(mask_BYX, 5).movedim(-1, 1).double()
    assert loss_of("lovasz")(decided_BKYX, truth_BYX).item() == pytest.approx(np.mean(scores), rel=1e-12)


def discs(size, count, seed):
    """Instance ids of overlapping discs, far from 1, 2, 3."""
    rng = np.random.default_rng(seed)
    y_YX, x_YX = np.mgrid[: size[0], : size[1]]
    instances_YX = np.zeros(size, np.int64)
    for number in range(count):
        y, x, radius = rng.integers(0, size[0]), rng.integers(0, size[1]), rng.integers(2, 7)
        instances_YX[(y_YX - y) ** 2 + (x_YX - x) ** 2 <= radius**2] = 1000 + 7 * number
    return instances_YX


def border_by_force(instances_YX, w0, sigma):
    """Equation 2 of the U-Net paper with the distance from every pixel to every pixel of every instance."""
    ids = [one for one in np.unique(instances_YX) if one]
    places = np.indices(instances_YX.shape).reshape(2, -1).T
    if len(ids) < 2:
        return np.ones(instances_YX.shape)
    distances = []
    for one in ids:
        inside = np.argwhere(instances_YX == one)
        distances.append(np.sqrt(((places[:, None] - inside[None]) ** 2).sum(-1)).min(1))
    first, second = np.sort(distances, axis=0)[:2]
    return (1 + w0 * np.exp(-((first + second) ** 2) / (2 * sigma**2))).reshape(instances_YX.shape)


@pytest.mark.parametrize(
    ("size", "count", "options"),
    [
        ((40, 61), 9, {}),
        ((64, 64), 25, {}),
        ((70, 30), 6, {"w0": 3.0, "sigma": 1.5}),
        ((31, 33), 4, {"w0": 1e-3, "sigma": 20.0}),
        ((20, 20), 1, {}),
        ((5, 5), 0, {}),
    ],
)
def test_border_weights_are_those_of_brute_force(size, count, options):
    """The window around each instance changes no weight: it equals the formula over all instances to float32."""
    loss = loss_of("border", **options)
    for seed in range(3):
        instances_YX = discs(size, count, seed)
        expected_YX = border_by_force(instances_YX, loss.w0, loss.sigma)
        np.testing.assert_allclose(loss.pixel_weights(instances_YX), expected_YX, rtol=2e-7, atol=0)


def test_border_weights_of_a_crop_without_background():
    """Where instances cover every pixel, none of them is taken for background; ids may be of any integer type."""
    instances_YX = np.array([[3, 3, 900, 900]], np.uint16)
    expected_YX = border_by_force(instances_YX, 10, 5)
    assert (expected_YX > 5).all()
    np.testing.assert_allclose(loss_of("border").pixel_weights(instances_YX), expected_YX, rtol=2e-7)
    empty_YX = np.array([[-1, 0, 4, 0]])
    assert (loss_of("border").pixel_weights(empty_YX) == 1).all(), "one instance has no second; neither 0 nor less is one"


@pytest.mark.parametrize("num_logits", [1, 2])
def test_border_is_equation_1(num_logits):
    """Each pixel weighs its class's weight plus w0 exp(..), and no pixel of unknown class weighs anything."""
    logits_BKYX, truth_BYX = batch(num_logits, size=(1, 20, 20))
    instances_YX = discs((20, 20), 4, seed=1)
    loss = loss_of("border", w0=4.0, sigma=3.0, class_weights=[0.25, 2.0])
    border_YX = border_by_force(instances_YX, 4.0, 3.0) - 1
    above = below = 0.0
    probs_BKYX = probabilities(logits_BKYX)
    for y, x in np.argwhere(truth_BYX[0].numpy() != IGNORE):
        truth = int(truth_BYX[0, y, x])
        weight = loss.class_weights[truth] + border_YX[y, x]
        above -= weight * np.log(probs_BKYX[0, truth, y, x])
        below += weight
    weights_BYX = torch.from_numpy(loss.pixel_weights(instances_YX))[None]
    assert loss(logits_BKYX, truth_BYX, weights_BYX).item() == pytest.approx(above / below, rel=1e-6)


def areas_of(images, classes):
    """Count the areas of classes as the loop over training images does."""
    pixels, present = [0] * classes, [0] * classes
    for truth_YX in images:
        for k in range(classes):
            pixels[k] += int((truth_YX == k).sum())
            present[k] += int((truth_YX != IGNORE).sum()) if (truth_YX == k).any() else 0
    return ClassAreas(tuple(pixels), tuple(present))


def test_class_weights_are_fitted():
    """Median frequencies follow the definition over images, inverse ones scikit-learn; a class that never occurs weighs 1."""
    _, truth_BYX = batch(5, size=(3, 30, 30))
    images = [truth_YX[: 10 * (index + 1)].numpy() for index, truth_YX in enumerate(truth_BYX)]
    areas = areas_of(images, 6)
    shares = []
    for k in range(5):
        holding = [truth_YX for truth_YX in images if (truth_YX == k).any()]
        shares.append(sum((truth_YX == k).sum() for truth_YX in holding) / sum((truth_YX != IGNORE).sum() for truth_YX in holding))
    assert len({len([1 for truth_YX in images if (truth_YX == k).any()]) for k in range(5)}) > 1
    every = np.concatenate([truth_YX[truth_YX != IGNORE] for truth_YX in images])
    expected = {
        "median_frequency": [*(np.median(shares) / shares), 1.0],
        "inverse": [*compute_class_weight("balanced", classes=np.arange(5), y=every), 1.0],
    }
    for (kind, numbers), name in itertools.product(expected.items(), ("cross_entropy", "focal", "border")):
        fitted = loss_of(name, class_weights=kind).with_class_weights(areas)
        assert fitted.class_weights == pytest.approx(numbers, rel=1e-12)
        parts = loss_of("combined", losses=[{"name": "dice"}, {"name": name, "class_weights": kind}]).with_class_weights(areas).losses
        assert parts[1]["class_weights"] == pytest.approx(numbers, rel=1e-12)
    nothing = ClassAreas((0, 0), (0, 0))
    assert {loss_of("focal", class_weights=kind).with_class_weights(nothing).class_weights for kind in expected} == {(1.0, 1.0)}


def test_class_weights_that_do_not_fit_are_refused():
    """Too few numbers, or zeros alone, are the YAML's mistake, told with their place; names that are not fitted are the program's."""
    logits_BKYX, truth_BYX = batch(5)
    with pytest.raises(InputError, match="2 numbers; expected 5, one for each class"):
        loss_of("cross_entropy", class_weights=[1.0, 2.0]).with_class_weights(ClassAreas((1,) * 5, (5,) * 5))
    parts = [{"name": "dice"}, {"name": "focal", "class_weights": [1.0, 2.0]}]
    with pytest.raises(InputError, match=r"^loss\.losses\.1\.class_weights: found 2 numbers"):
        loss_of("combined", losses=parts).with_class_weights(ClassAreas((1,) * 5, (5,) * 5))
    with pytest.raises(TypeError, match="inverse has no numbers yet"):
        loss_of("cross_entropy", class_weights="inverse")(logits_BKYX, truth_BYX)
    for wrong in ([1.0], [0.0, 0.0], [1.0, -1.0], [1.0, float("inf")], "median"):
        with pytest.raises(InputError, match=r"loss\.class_weights"):
            loss_of("cross_entropy", class_weights=wrong)


def test_combined_is_the_weighted_sum():
    """It is the sum of weight times loss, in value and in gradient; weights multiply through a sum of sums."""
    logits_BKYX, truth_BYX = batch(5)
    parts = [(2.0, loss_of("cross_entropy")), (0.5, loss_of("dice")), (0.5 * 3, loss_of("lovasz"))]
    inner = {"name": "combined", "losses": [{"name": "dice"}, {"name": "lovasz", "weight": 3}], "weight": 0.5}
    combined = loss_of("combined", losses=[{"name": "cross_entropy", "weight": 2}, inner])
    slopes = []
    for loss in (combined, lambda *given: sum(weight * part(*given) for weight, part in parts)):
        scores_BKYX = logits_BKYX.clone().requires_grad_()
        value = loss(scores_BKYX, truth_BYX)
        value.backward()
        slopes.append((value.detach(), scores_BKYX.grad))
    torch.testing.assert_close(*slopes, rtol=1e-12, atol=1e-15)


def test_combined_keeps_border_weights_apart():
    """What one part makes of instances weighs its pixels alone; where no part does, pixel weights are everybody's."""
    logits_BKYX, truth_BYX = batch(2, size=(1, 20, 20))
    weights_BYX = torch.from_numpy(loss_of("border").pixel_weights(discs((20, 20), 4, seed=0)))[None]
    combined = loss_of("combined", losses=[{"name": "border", "sigma": 4.0}, {"name": "dice"}])
    assert combined.needs_instances
    expected = loss_of("border")(logits_BKYX, truth_BYX, weights_BYX) + loss_of("dice")(logits_BKYX, truth_BYX)
    torch.testing.assert_close(combined(logits_BKYX, truth_BYX, weights_BYX), expected, rtol=1e-12, atol=0)
    np.testing.assert_array_equal(
        combined.pixel_weights(discs((9, 9), 3, seed=0)), loss_of("border", sigma=4.0).pixel_weights(discs((9, 9), 3, seed=0))
    )
    plain = loss_of("combined", losses=[{"name": "cross_entropy"}, {"name": "dice"}])
    expected = sum(loss_of(name)(logits_BKYX, truth_BYX, weights_BYX) for name in ("cross_entropy", "dice"))
    torch.testing.assert_close(plain(logits_BKYX, truth_BYX, weights_BYX), expected, rtol=1e-12, atol=0)


def test_combined_refuses_every_mistake_at_once():
    """Unknown losses, options and weights inside are named with their places, all together; defaults are filled in."""
    with pytest.raises(InputError) as refused:
        loss_of(
            "combined",
            losses=[{"name": "dise"}, {"name": "dice", "smoth": 1}, {"name": "lovasz", "weight": 0}, {"name": "lovasz", "weight": "1"}],
        )
    places = ["loss.losses.0.name", "loss.losses.1.smoth", "loss.losses.2.weight", "loss.losses.3.weight"]
    assert [problem.where for problem in refused.value.problems] == places
    assert "Did you mean 'dice'?" in str(refused.value)
    with pytest.raises(InputError, match=r"losses\.0\.name is missing; expected .*, dice, .*\. Did you mean 'name' by 'nam'\?"):
        loss_of("combined", losses=[{"nam": "dice"}])
    with pytest.raises(InputError, match="at most one loss"):
        loss_of("combined", losses=[{"name": "border"}, {"name": "border", "sigma": 2.0}])
    with pytest.raises(InputError, match=r"loss\.losses"):
        loss_of("combined", losses=[])
    assert loss_of("combined", losses=[{"name": "dice"}]).losses == ({"name": "dice", "smooth": 0.0, "weight": 1.0},)


@pytest.mark.parametrize("name", ["cross_entropy", "binary_cross_entropy", "dice", "focal", "lovasz", "border"])
@pytest.mark.parametrize("num_logits", [1, 3])
def test_a_loss_can_be_learnt_from(name, num_logits):
    """Descending from random logits finds the truth at every pixel that counts."""
    logits_BKYX, truth_BYX = batch(num_logits, size=(2, 6, 6))
    loss, scores_BKYX = loss_of(name), logits_BKYX.float().requires_grad_()
    optimizer = torch.optim.Adam([scores_BKYX], lr=0.2)
    for _ in range(150):
        optimizer.zero_grad()
        loss(scores_BKYX, truth_BYX).backward()
        optimizer.step()
    mask_BYX = scores_BKYX[:, 0] > 0 if num_logits == 1 else scores_BKYX.argmax(1)
    is_counted_BYX = truth_BYX != IGNORE
    assert torch.equal(mask_BYX[is_counted_BYX].long(), truth_BYX[is_counted_BYX])
