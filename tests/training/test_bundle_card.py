"""What a training writes into the card of its bundle: scores with intervals, sizes of objects, examples."""

from __future__ import annotations

import io

import numpy as np
import pytest
import yaml
from PIL import Image
from skimage.measure import regionprops

from pipeline.geometry import Box
from pipeline.models.bundle_files import read_spec, rewrite_card
from pipeline.plugins import build
from pipeline.training import training as training_module
from pipeline.training.examples import MOST_BYTES, SIDE, _choose, _cut, _Place
from tests.training.scene import discs, planned, report_of, train_yaml, write_scene
from workflows.train import train

NAMES = [f"a{at}" for at in range(6)]
ABOUT = {"kinds": ["fluorescence"], "not_for": ["stained tissue: use another"], "limits": ["Blur of 2 pixels takes 0.1 from the IoU."]}
KEYS = {"border": {"of": "disc", "width": 1}, "val": {"names": NAMES}, "steps": 60, "optimizer": {"rate": 0.01}, "about": ABOUT}


def files_of(bundle):
    """The bytes of a bundle's files, by name."""
    return {path.name: path.read_bytes() for path in bundle.iterdir()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The output of a training on numbered objects with six validation images."""
    folder = write_scene(tmp_path_factory.mktemp("numbered"), 10)
    assert train(train_yaml(folder, **KEYS)) == 0
    return folder / "out"


def test_scores_are_those_of_the_run_with_their_intervals(trained):
    """IoU of each class, AP and panoptic quality of its objects, each with the interval of the bootstrap over images."""
    stated, report = read_spec(trained / "bundle").scores["validation"], report_of(trained)
    assert stated["mean_iou"] == report["mean_iou"]
    assert stated["mean_iou_interval"] == report["mean_iou_interval"]
    assert stated["iou_interval"] == {row["name"]: row["iou_interval"] for row in report["classes"]}
    assert stated["intervals"]["images"] == 6
    (row,) = report["instances"]
    objects = stated["objects"]["disc"]
    assert {key: objects[key] for key in ("ap50", "mean_ap", "pq", "truth", "predicted")}.items() <= row.items()
    for key in ("ap50", "pq"):
        low, high = objects[f"{key}_interval"]
        of_images = [image["instances"][0][key] for image in report["per_image"]]
        assert min(of_images) <= low < objects[key] < high <= max(of_images)


def test_the_diameter_is_measured_in_the_truth(trained):
    """The median over the whole objects of the training images, as scikit-image measures them."""
    diameters = []
    for at in range(6, 10):
        for one in regionprops(discs(at)[1].astype(int)):
            top, left, bottom, right = one.bbox
            if min(top, left) > 0 and max(bottom, right) < 96:
                diameters.append(one.equivalent_diameter_area)
    spec = read_spec(trained / "bundle")
    assert spec.diameter == round(float(np.median(diameters)), 1)
    assert (spec.training_data.images, spec.training_data.pixels) == (4, 4 * 96 * 96)


def test_words_of_the_yaml_are_in_the_card(trained):
    """Kinds, what the model is not for, and its limits."""
    spec = read_spec(trained / "bundle")
    assert {key: list(getattr(spec, key)) for key in ABOUT} == ABOUT


def test_examples_are_spread_over_the_scores(trained):
    """Three small pictures of different images, the better one first; each caption states the IoU of the report."""
    spec, report = read_spec(trained / "bundle"), report_of(trained)
    ious = {row["name"]: row["mean_iou"] for row in report["per_image"]}
    captions = [one.caption for one in spec.examples]
    assert [caption.partition(":")[0] for caption in captions] == ["among the best", "typical", "among the worst"]
    shown = [caption.partition(": ")[2].partition(",")[0] for caption in captions]
    assert len(set(shown)) == 3
    assert [ious[name] for name in shown] == sorted((ious[name] for name in shown), reverse=True)
    for name, caption, example in zip(shown, captions, spec.examples, strict=True):
        assert caption.endswith(f"{name}, mean IoU {ious[name]:.3f}")
        data = (trained / "bundle" / example.file).read_bytes()
        assert len(data) <= MOST_BYTES
        assert max(Image.open(io.BytesIO(data)).size) <= SIDE


def test_outlines_have_the_colour_of_the_class(trained):
    """A picture of grey discs has red outlines around them, and nowhere else."""
    spec = read_spec(trained / "bundle")
    assert spec.classes[1].color == "#e6194b"
    name = spec.examples[0].caption.partition(": ")[2].partition(",")[0]
    picture_YXS = np.asarray(Image.open(trained / "bundle" / spec.examples[0].file).convert("RGB")).astype(int)
    redness_YX = picture_YXS[..., 0] - picture_YXS[..., 2]
    with build("readers", {"name": "zarr"}).open(str(trained / "val" / "masks" / f"{name}.ome.zarr")) as mask:
        mask_YX = np.array(mask.read(Box(0, 0, *mask.header.shape))[0])
    padded_YX = np.pad(mask_YX, 1, mode="edge")
    is_edge_YX = (mask_YX == 1) & ((padded_YX[:-2, 1:-1] == 0) | (padded_YX[2:, 1:-1] == 0))
    assert redness_YX[is_edge_YX].mean() > 100
    far_YX = mask_YX == 0
    for _ in range(6):
        grown = np.pad(far_YX, 1, constant_values=True)
        far_YX = grown[:-2, 1:-1] & grown[2:, 1:-1] & grown[1:-1, :-2] & grown[1:-1, 2:] & far_YX
    assert abs(redness_YX[far_YX]).mean() < 10


def test_training_again_changes_nothing(trained):
    """A finished training that is called again leaves the bundle byte by byte, and its validation run goes with it still."""
    before = files_of(trained / "bundle")
    assert train(trained.parent / "train.yaml") == 0
    assert files_of(trained / "bundle") == before


def test_a_card_that_was_interrupted_is_completed(trained, monkeypatch):
    """Killed after its validation run and called again, a training ends with the bundle of one that was not."""

    def killed(*_args):
        raise KeyboardInterrupt

    path = train_yaml(trained.parent, "killed.yaml", **{**KEYS, "output": "killed"})
    with monkeypatch.context() as patch:
        patch.setattr(training_module, "complete_card", killed)
        with pytest.raises(KeyboardInterrupt):
            train(path)
    bundle = trained.parent / "killed" / "bundle"
    assert "model.yaml" in files_of(bundle)
    assert "example_1.jpg" not in files_of(bundle)
    assert train(path) == 0
    assert files_of(bundle) == files_of(trained / "bundle")


def test_one_validation_image_has_no_interval(mine):
    """One image says nothing about others: no interval, with the reason. Its examples are parts of it, as many as fit."""
    keys = {**KEYS, "val": {"names": ["a0"]}, "steps": 2, "about": {"diameter": 30}}
    assert train(train_yaml(mine, **keys)) == 0
    spec = read_spec(mine / "out" / "bundle")
    stated = spec.scores["validation"]
    assert stated["mean_iou_interval"] is None
    assert "at least 5 images" in stated["intervals"]["note"]
    assert stated["objects"]["disc"]["ap50_interval"] is None
    assert [one.caption.partition(":")[0] for one in spec.examples] == ["typical"]
    assert spec.diameter == 30


def test_classes_without_numbers_have_no_diameter(mine):
    """Where the truth numbers no objects, areas of a class may be many objects that touch: none is measured."""
    assert train(train_yaml(mine, steps=1)) == 0
    spec = read_spec(mine / "out" / "bundle")
    assert spec.diameter is None
    assert "objects" not in spec.scores["validation"]


def test_places_are_spread_and_lie_inside(mine):
    """Squares of an area do not overlap, lie inside of it, and are at most as many as asked for."""
    for shape, side, number in (((1000, 3000), 192, 48), ((100, 100), 192, 5), ((400, 90), 100, 9)):
        boxes = _cut(Box(7, 9, 7 + shape[0], 9 + shape[1]), side, number)
        taken = np.zeros(shape, int)
        for box in boxes:
            taken[box.y0 - 7 : box.y1 - 7, box.x0 - 9 : box.x1 - 9] += 1
            assert box.y1 <= 7 + shape[0]
            assert box.x1 <= 9 + shape[1]
        assert taken.max() == 1
        assert len(boxes) <= number + 4


def test_the_chosen_places_are_of_different_images(mine):
    """Among places of several images, near the wanted ranks, those of an image that is not shown yet come first."""
    images = planned(mine).train
    places = [_Place(images[at % 3], 0.5, Box(at, 0, at + 1, 1), at / 40) for at in range(40)]
    chosen = _choose(places)
    assert len({place.image.name for place in chosen.values()}) == 3
    assert chosen["among the worst"].iou < chosen["typical"].iou < chosen["among the best"].iou
    assert list(_choose(places[:1])) == ["typical"]


def test_the_card_is_no_part_of_the_model(trained, tmp_path):
    """Words for people may change while a run goes on; what masks depend on may not."""
    bundle = tmp_path / "mine"
    bundle.mkdir()
    for name, data in files_of(trained / "bundle").items():
        (bundle / name).write_bytes(data)

    def hashes():
        return list(build("models", {"name": "bundle", "path": str(bundle)}).file_hashes())

    before = hashes()
    rewrite_card(bundle, limits=["None is known."], scores={}, examples=[])
    assert hashes() == before
    assert sorted(files_of(bundle)) == ["model.yaml", "weights.safetensors"]
    content = yaml.safe_load((bundle / "model.yaml").read_text(encoding="utf-8"))
    (bundle / "model.yaml").write_text(yaml.safe_dump({**content, "normalize": "percentile"}), encoding="utf-8")
    assert hashes()[0] != before[0]
    assert hashes()[1] == before[1]
