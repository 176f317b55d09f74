"""A run says which images are unlike those that its model was trained on, and this changes nothing else."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

from pipeline.engine.phases import all_phases
from pipeline.models.bundle_files import save_bundle
from pipeline.plugins import build
from pipeline.records import latest, read_rows
from pipeline.statistics import Window, describe_windows, learn_appearance
from tests.conftest import engine_yaml, mask_at, report_at, save_tiff
from tests.oracle.interrupted_runs import ending_after

TINY = {"name": "unet", "channels": 1, "classes": 2, "depth": 1, "base": 4, "padding": "same"}
CLASSES = [{"name": "ground", "color": "#000000"}, {"name": "cell", "color": "#ff0000"}]
SAID = "unlike what cells was trained on (brightness): treat its mask with care"


def cells(seed, side=200):
    """Bright discs on dark noisy ground."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    light = np.full((side, side), 30.0)
    for _ in range(30):
        row, col, size = *rng.integers(0, side, 2), rng.uniform(7, 11)
        light[(y - row) ** 2 + (x - col) ** 2 < size**2] = rng.uniform(120, 200)
    return np.clip(light + rng.normal(0, 4, light.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def appearance():
    """What a model knows that has seen a dozen pictures of cells."""
    return learn_appearance([[describe_windows([Window(cells(seed)[None])])] for seed in range(12)]).to_json()


@pytest.fixture
def bundle(tmp_path, appearance):
    """Write a bundle; ``more`` are further keys of its model.yaml."""

    def write(name="cells", seed=0, **more):
        network = build("models", {**TINY, "seed": seed}).load()
        about = {"architecture": TINY, "classes": CLASSES, "normalize": "percentile", "appearance": appearance, **more}
        return {"name": "bundle", "path": str(save_bundle(tmp_path / "bundles" / name, network, **about))}

    return write


@pytest.fixture
def images(tmp_path):
    """Two pictures of cells, and two negatives of them."""
    for seed, name in enumerate(("one", "two")):
        save_tiff(tmp_path / "img" / f"{name}.tif", cells(50 + seed))
        save_tiff(tmp_path / "img" / f"{name}_negative.tif", 255 - cells(60 + seed))
    return ["img/*.tif"]


def run(folder, output="out", **keys):
    """Run, and return exit code and report; None: there is none yet."""
    from workflows.run import run

    code = run(engine_yaml(folder, **{"normalize": None, "tiling": {"halo": 16}, "output": output, **keys}))
    return code, report_at(folder / output) if code != 130 else None


def said(report):
    return {image["name"]: image["warnings"] for image in report["per_image"] if "warnings" in image}


def test_an_unlike_image_is_named_everywhere(tmp_path, bundle, images, capsys):
    """On the terminal in one line for all images of one reason, in the log, in report.json, in per_image.csv and on the page."""
    code, report = run(tmp_path, images=images, model=bundle())
    assert code == 0
    assert said(report) == {"one_negative": [SAID], "two_negative": [SAID]}
    lines = capsys.readouterr().out.splitlines()
    assert lines.count("one_negative, two_negative: unlike what cells was trained on (brightness): treat their masks with care") == 1
    assert "trained on" not in "".join(line for line in lines if "negative" not in line)
    out = tmp_path / "out"
    assert f"one_negative: {SAID}" in (out / "log.txt").read_text()
    rows = (out / "report" / "per_image.csv").read_text().splitlines()
    assert [row.endswith(SAID) for row in rows[1:]] == ["negative" in row for row in rows[1:]]
    page = (out / "report" / "index.html").read_text()
    assert page.count(f"negative: {SAID}") == 0
    assert "one_negative, two_negative: unlike what cells" in page
    assert json.loads((out / "run.json").read_text())["recipe_kept"] is True


def test_nothing_is_said_of_images_of_the_kind(tmp_path, bundle, images, capsys):
    """Neither terminal nor report have a word of it, and tables have no column."""
    code, report = run(tmp_path, images=["img/one.tif", "img/two.tif"], model=bundle())
    assert (code, said(report)) == (0, {})
    assert "trained on" not in capsys.readouterr().out
    assert "warnings" not in (tmp_path / "out" / "report" / "per_image.csv").read_text()


def test_what_a_model_is_not_for_is_repeated(tmp_path, bundle, images):
    """If it is short: a long list would hide what matters."""
    _, report = run(tmp_path, images=images, model=bundle(not_for=["negatives: use positives"]))
    assert said(report)["one_negative"] == [f"{SAID}; not for negatives: use positives"]
    _, report = run(tmp_path, images=images, model=bundle(not_for=["x" * 100]), output="again")
    assert said(report)["one_negative"] == [SAID]


def test_masks_and_keys_do_not_depend_on_it(tmp_path, bundle, images):
    """With and without the statistics all masks and all receipts of other phases are the same; a run goes on when they are added."""
    done, rows = {}, {}
    for name, appearance in (("without", {"appearance": None}), ("with", {})):
        run(tmp_path, images=images, model=bundle(**appearance), output=name)
        done[name] = [mask_at(tmp_path / name, image).tolist() for image in ("one", "one_negative")]
        some = latest(read_rows(tmp_path / name / "ledger"))
        rows[name] = {key: (row.key, row.digest) for key, row in some.items() if row.phase != "appearance"}
    assert done["without"] == done["with"]
    assert rows["without"] == rows["with"]
    _, report = run(tmp_path, images=images, model=bundle(), output="without")
    assert set(said(report)) == {"one_negative", "two_negative"}
    repeated = [row for row in read_rows(tmp_path / "without" / "ledger") if row.phase != "appearance"]
    assert len(repeated) == len(rows["without"])


def test_a_resumed_run_says_the_same(tmp_path, bundle, images):
    """Stopped after any of the first blocks and run again, the report is that of an uninterrupted run."""
    model = bundle()
    _, whole = run(tmp_path, images=images, model=model, output="whole")
    for count in (1, 4):
        keys = {"images": images, "model": model, "output": f"cut{count}"}
        with ending_after(count, None):
            assert run(tmp_path, **keys)[0] == 130
        assert run(tmp_path, **keys)[1]["per_image"] == whole["per_image"]
    assert said(whole)


def test_ray_says_the_same(tmp_path, ray, bundle, images):
    """Actors find what the serial runner finds."""
    model = bundle()
    _, one = run(tmp_path, images=images, model=model, output="serial")
    _, other = run(tmp_path, images=images, model=model, output="ray", compute={"runner": "ray", "actors": 2})
    assert one["per_image"] == other["per_image"]
    assert said(one)


def test_each_member_of_an_ensemble_speaks_for_itself(tmp_path, bundle, images):
    """The message names the member that has learnt from other images."""
    members = [bundle(), bundle("others", seed=1, appearance=None)]
    _, report = run(tmp_path, images=images, model={"name": "ensemble", "members": members})
    assert said(report) == {name: [SAID] for name in ("one_negative", "two_negative")}


@pytest.mark.parametrize("error", [ValueError("planted"), MemoryError("planted")])
def test_a_comparison_that_fails_costs_no_image(tmp_path, bundle, images, monkeypatch, error):
    """The image is done, and the report says that it was not compared."""

    def fail(*arguments):
        raise error

    monkeypatch.setattr("pipeline.engine.appearance_check.describe_windows", fail)
    code, report = run(tmp_path, images=images, model=bundle())
    assert code == 0
    assert said(report)["one"] == [f"not compared with what cells was trained on ({type(error).__name__}: planted)"]


def test_an_image_that_cannot_be_read_fails_once(tmp_path, bundle):
    """Damage is reported by the blocks of the mask alone."""
    save_tiff(tmp_path / "img" / "one.tif", cells(1))
    data = bytearray((tmp_path / "img" / "one.tif").read_bytes())
    (tmp_path / "img" / "one.tif").write_bytes(data[: len(data) // 2])
    save_tiff(tmp_path / "img" / "two.tif", cells(2))
    _, report = run(tmp_path, images=["img/*.tif"], model=bundle())
    assert {failure["phase"] for failure in report["failures"]} <= {"predict", "plan", "fit", "finish"}
    assert said(report) == {}


def test_the_user_normalises_otherwise(tmp_path, bundle, appearance, images):
    """Levels are those of the model's normalisation: they do not count under another one."""
    levels = {"mean": [80.0], "std": [40.0]}
    numbers = learn_appearance([[describe_windows([Window(cells(seed)[None])], (0, 255))] for seed in range(12)], (0, 255)).to_json()
    model = bundle(normalize=levels, appearance=numbers)
    save_tiff(tmp_path / "img" / "dim.tif", cells(70) // 4)
    assert set(said(run(tmp_path, images=["img/dim.tif"], model=model)[1])) == {"dim"}
    assert said(run(tmp_path, images=["img/dim.tif"], model=model, normalize="percentile", output="again")[1]) == {}


def test_no_phase_waits_for_it():
    """It is no part of what others rest on, and never the last phase of an image, by which finished images are known."""
    names = [one.name for one in all_phases()]
    assert names.index("appearance") < names.index("predict")
    assert not any("appearance" in (*one.after, *one.before, *one.reads) for one in all_phases())


def test_a_bundle_with_other_numbers_is_refused(tmp_path, bundle, appearance):
    """Numbers that cannot be compared are a fault of model.yaml, which the message names."""
    model = bundle()
    file = tmp_path / "bundles" / "cells" / "model.yaml"
    content = yaml.safe_load(file.read_text())
    content["appearance"]["sharpness"]["limit"] = 0
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(Exception, match=r"model\.yaml: appearance.*sharpness: a limit above 0"):
        build("models", model)
