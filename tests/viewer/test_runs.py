"""Runs that go on, that were interrupted, that have lost their images, that only scored masks; none is changed."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import tifffile

from pipeline.records import Ledger, read_rows_of
from pipeline.viewer import ViewedRun, progress
from pipeline.viewer.images import error_keys
from tests.conftest import blobs, mask_at, save_tiff
from tests.viewer.conftest import SHAPE, run_scene


def rewind(folder, kept):
    """Take a finished run back to where ``kept`` blocks were committed; returns the receipts of the others."""
    rows = list(read_rows_of(folder / "ledger", "receipt"))
    plan = next(read_rows_of(folder / "ledger", "plan"))
    shutil.rmtree(folder / "ledger")
    predicted = [row for row in rows if row["phase"] == "predict"]
    recorded = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**recorded, "state": "running"}))
    with Ledger.open(folder / "ledger") as ledger:
        ledger.append_row("plan", plan)
        for row in predicted[:kept]:
            ledger.append_row("receipt", row)
    return predicted[kept:]


def test_a_run_that_goes_on_shows_what_is_committed(moved, opened, monkeypatch):
    """Other blocks are transparent, though their pixels lie on the disk; a look later there is more, under another version."""
    monkeypatch.setattr(progress, "LOOK_S", 0.0)
    left = rewind(moved, 7)
    for level in "12":
        shutil.rmtree(moved / "masks" / "scan.ome.zarr" / level / "c")  # a pyramid of before counts no more
    with Ledger.open(moved / "ledger") as ledger:
        page = opened(moved)
        state = page.json("/api/state")
        assert (state["state"], state["blocks_done"], state["blocks_total"]) == ("running", 7, 18)
        picture = page.picture("mask", 1)
        expected = np.zeros(SHAPE, bool)
        expected[:256] = expected[256:512, :256] = True  # 6 blocks a row
        np.testing.assert_array_equal(picture[..., 3] > 0, expected)
        np.testing.assert_array_equal(page.picture("mask", 4)[..., 3] > 0, expected[::4, ::4])
        assert page.get("/tile/a/mask/11/0_0.png", name="scan").headers["cache-control"] == "no-store"
        assert page.json("/api/run")["images"][0]["state"] == "running"
        version = page.json("/api/image", name="scan")["version"]
        assert state["images"] == {"scan": version}
        for row in left:
            ledger.append_row("receipt", row)
        ledger.flush()
        state = page.json("/api/state", since=version)
        assert (state["blocks_done"], list(state["images"])) == (18, ["scan"])
        assert (page.picture("mask", 1)[..., 3] == 255).all()
        assert page.json("/api/state", since=state["images"]["scan"])["images"] == {}


def test_a_run_that_was_killed_is_interrupted(moved, opened):
    """Its process is gone: what it committed is shown."""
    rewind(moved, 3)
    state = opened(moved).json("/api/state")
    assert (state["state"], state["blocks_done"]) == ("interrupted", 3)


def test_a_failed_block_is_named_and_transparent(moved, opened):
    """The image has failed; the other blocks are shown."""
    left = rewind(moved, 17)
    with Ledger.open(moved / "ledger") as ledger:
        ledger.append_row("receipt", {**left[0], "cause": "no memory"})
    page = opened(moved)
    assert page.json("/api/run")["images"][0]["state"] == "failed"
    assert (page.picture("mask", 1)[..., 3] == 0).sum() == (700 - 512) * (1300 - 1280)


def contents(folder):
    """Path, size and time of change of everything below a folder."""
    return sorted((str(path), path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.rglob("*"))


def test_nothing_is_changed(moved, opened):
    """Neither in the run nor beside its inputs, whatever is asked; a folder that cannot be written is shown as any other."""
    before = contents(moved.parent)
    for path in [moved, *moved.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    page = opened(moved, moved.parent / "other")
    for layer in page.json("/api/image", name="scan")["layers"]:
        page.picture(layer, 4)
    for path in ("/api/run", "/api/worst", "/api/state"):
        page.json(path)
    page.json("/api/objects", name="scan")
    for path in [moved, *moved.rglob("*")]:
        path.chmod(0o755)
    assert contents(moved.parent) == before


def test_an_image_that_has_gone_costs_its_layer_alone(moved, opened):
    """Mask and objects are still shown, and why the image is not; so it is with an image of another size."""
    config = (moved / "config.yaml").read_text()
    image, scene = moved.parent / "scan.tif", str(moved.parent)
    (moved / "config.yaml").write_text(config.replace(config[config.index("- /") + 2 : config.index("/scan.tif")], scene))
    assert "image" in opened(moved).json("/api/image", name="scan")["layers"]
    save_tiff(image, np.zeros((64, 64, 3), np.uint8), photometric="rgb")
    page = opened(moved)
    found = page.json("/api/image", name="scan")
    assert found["layers"] == ["mask", "outlines"]
    assert "another size" in found["notes"][0]
    image.unlink()
    found = opened(moved).json("/api/image", name="scan")
    assert found["layers"] == ["mask", "outlines"]
    assert len(found["notes"]) == 1
    assert page.get("/tile/a/image/11/0_0.png", name="scan").status_code == 400


def test_masks_that_were_scored_are_shown_with_their_truth(scene, opened, tmp_path, monkeypatch):
    """The output of `evaluate` has no image; classes and values are those that it was given."""
    from pipeline.records import RunFolder
    from workflows.evaluate import evaluate
    from workflows.view import catalogue_of

    monkeypatch.chdir(tmp_path)
    ids = mask_at(scene / "out", "scan")
    save_tiff(tmp_path / "pred" / "scan.tif", ids)
    classes = tmp_path / "classes.yaml"
    classes.write_text("- {name: low, values: [0, 1]}\n- {name: high, values: [2]}\n- {name: other, values: other}\n")
    evaluate("pred", str(scene / "truth"), classes, "9", "scores")
    monkeypatch.chdir("/")
    page = opened(tmp_path / "scores", scored=catalogue_of(RunFolder(tmp_path / "scores")))
    found = page.json("/api/image", name="scan")
    assert found["layers"] == ["mask", "truth", "error"]
    assert (page.picture("mask", 1)[..., 3] == 255).all()
    truth = page.json("/api/at", name="scan", y=600, x=600)["truth"]
    import tifffile

    assert truth == [0, 0, 1][tifffile.imread(scene / "truth" / "scan.tif")[600, 600]]


@pytest.mark.parametrize(
    "keys", [{"resolution": {"scale": 0.5}}, {"resolution": {"scale": 0.5}, "masks": "native"}], ids=["grid", "native"]
)
def test_all_layers_lie_on_the_working_grid(scene, opened, tmp_path, keys):
    """At half the resolution, the image, its truth and the mask have the working grid's size, also where masks are native."""
    from tests.viewer.conftest import run_scene

    shutil.copy(scene / "scan.tif", tmp_path)
    shutil.copytree(scene / "truth", tmp_path / "truth")
    folder = run_scene(tmp_path, "half", **keys)
    page = opened(folder)
    found = page.json("/api/image", name="scan")
    assert (found["shape"], found["layers"]) == ([350, 650], ["image", "mask", "truth", "error"])
    for layer in found["layers"]:
        assert page.picture(layer, 1, (350, 650)).shape[:2] == (350, 650)
    wrong = sum(one["pixels"] for one in page.json("/api/worst"))
    assert (page.picture("error", 1, (350, 650))[..., 3] > 0).sum() == wrong > 0


def test_exports_of_an_image_of_one_block_are_shown(scene, opened, tmp_path):
    """A mask that is a PNG alone is read as one; the same for a stack, plane by plane."""
    from tests.conftest import engine_yaml
    from workflows.run import run

    stack = blobs((200, 300), channels=3)
    save_tiff(tmp_path / "a.tif", stack[0])
    keys = {"model": {"name": "histogram", "classes": 2}, "normalize": None, "tiling": {"core": 512, "halo": 0, "block": 512}}
    assert run(engine_yaml(tmp_path, writers=[{"name": "png"}], **keys)) == 0
    page = opened(tmp_path / "out")
    assert (tmp_path / "out" / "masks" / "a.png").exists()
    assert (page.picture("mask", 1, (200, 300), name="a")[..., 3] == 255).all()
    save_tiff(tmp_path / "a.tif", stack, photometric="minisblack")
    assert run(engine_yaml(tmp_path, reader={"name": "auto", "axes": "zyx"}, output="stack", **keys)) == 0
    page, mask = opened(tmp_path / "stack"), mask_at(tmp_path / "stack")
    assert page.json("/api/image", name="a")["planes"] == {"z": 3}
    pictures = [page.picture("mask", 1, (200, 300), name="a", plane=plane) for plane in range(3)]
    colors = [picture[mask[plane] == 1] for plane, picture in enumerate(pictures)]
    assert all((one == colors[0][0]).all() for one in colors)
    assert {one["plane"] for one in page.json("/api/worst")} <= {0, 1, 2}


def test_a_run_in_another_storage_is_shown(scene, opened, tmp_path):
    """Nothing needs a folder of a disk: masks, objects and ledger are read through the storage."""
    from tests.viewer.conftest import run_scene

    shutil.copy(scene / "scan.tif", tmp_path)
    shutil.copytree(scene / "truth", tmp_path / "truth")
    output = f"memory://{tmp_path.name}"
    run_scene(tmp_path, output, instances={"name": "components", "of": ["<b>nucleus</b>"]})
    page = opened(output)
    assert page.json("/api/image", name="scan")["layers"] == ["image", "mask", "truth", "error", "outlines"]
    assert page.json("/api/run")["title"] == tmp_path.name
    here = opened(scene / "out")
    np.testing.assert_array_equal(page.picture("error", 4), here.picture("error", 4))
    assert page.json("/api/objects", name="scan", limit=3) == here.json("/api/objects", name="scan", limit=3)


def test_label_images_that_were_scored_show_their_objects(scene, opened, tmp_path):
    """Their objects are the mask, outlined; the truth's objects are its class 1."""
    from pipeline.records import RunFolder
    from workflows.evaluate import evaluate
    from workflows.view import catalogue_of

    ids = np.zeros((300, 400), np.uint16)
    ids[20:60, 30:80], ids[60:90, 30:80] = 1, 300
    save_tiff(tmp_path / "pred" / "a.tif", ids)
    save_tiff(tmp_path / "truth" / "a.tif", (ids == 1).astype(np.uint8))
    evaluate(str(tmp_path / "pred"), str(tmp_path / "truth"), None, None, str(tmp_path / "scores"), instances=True)
    page = opened(tmp_path / "scores", scored=catalogue_of(RunFolder(tmp_path / "scores")))
    assert page.json("/api/image", name="a")["layers"] == ["mask", "truth", "error", "outlines"]
    found = page.json("/api/at", name="a", y=70, x=40)
    assert (found["class"], found["truth"], found["object"]) == (1, 0, 300)
    error = page.picture("error", 1, (300, 400), name="a")[..., 3] > 0
    np.testing.assert_array_equal(error, ids == 300)
    outlines = page.picture("outlines", 1, (300, 400), name="a")[..., 3] > 0
    assert outlines[59, 40]
    assert outlines[60, 40]
    assert not outlines[40, 40]


def test_blocks_whose_tiles_disagree_are_shown_and_ranked(opened, engine, networks, tmp_path):
    """A layer colours each block by the share of pixels on which its tiles disagree, the stronger the more."""
    save_tiff(tmp_path / "a.tif", blobs((200, 300)))
    done = engine(model=networks["same"], tiling={"core": 32, "halo": 8, "block": 64})
    page = opened(done.folder)
    assert page.json("/api/run")["worst_by"] == ["overlap"]
    worst = page.json("/api/worst", by="overlap", count=99)
    assert sum(one["pixels"] for one in worst) > 0
    agreement = 1 - sum(one["pixels"] for one in worst) / sum(one["pixels"] / one["share"] for one in worst)
    assert agreement == pytest.approx(done.report["overlap_agreement"], abs=0.02)  # blocks without a difference are not listed
    opacity = page.picture("overlap", 1, (200, 300), name="a")[..., 3]
    by_share = sorted(worst, key=lambda one: one["share"])
    shown = [int(opacity[one["box"][0], one["box"][1]]) for one in by_share]
    assert shown == sorted(shown)
    for one in worst:
        y0, x0, y1, x1 = one["box"]
        assert len(np.unique(opacity[y0:y1, x0:x1])) == 1
        assert opacity[y0, x0] > 0


def test_the_scale_of_a_web_mercator_map_is_that_of_the_ground(tmp_path):
    """At 60 degrees north two metres of the map are one of the ground, which the scale bar measures."""
    tags = [(33550, "d", 3, (2.0, 2.0, 0.0), True), (33922, "d", 6, (0.0, 0.0, 0.0, 0.0, 8399737.0, 0.0), True)]
    tags.append((34735, "H", 12, (1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 3857), True))
    tifffile.imwrite(tmp_path / "scan.tif", blobs((64, 80)), extratags=tags)
    viewed = ViewedRun(str(run_scene(tmp_path, "out", model="histogram", truth=None, ignore=None, classes=None)))
    try:
        facts = viewed.image("scan")
        assert (facts["pixel_size"], facts["unit"]) == (pytest.approx([1.0005, 1.0029], abs=5e-4), "meter")
        (tmp_path / "scan.tif").unlink()  # what the plan says of it remains
    finally:
        viewed.close()
    viewed = ViewedRun(str(tmp_path / "out"))
    try:
        facts = viewed.image("scan")
        assert ("image" not in facts["layers"], facts["pixel_size"]) == (True, pytest.approx([1.0017, 1.0017], rel=1e-4))
    finally:
        viewed.close()


@pytest.mark.parametrize(("names", "number"), [("ab", 2), ("abc", 3), ("abcde", 3)])
def test_errors_are_named_as_in_the_report(names, number):
    """The colours of errors are explained by the first class; of two classes, none can be taken for a third."""
    keys = error_keys([{"name": name} for name in names])
    assert len(keys) == number
    assert [one["name"].partition(":")[0] for one in keys] == ["false", "missed", "wrong class"][:number]
    assert len({one["color"] for one in keys}) == number


def test_a_mask_whose_file_took_the_place_of_its_blocks_is_shown(scene, opened, tmp_path):
    """At every step the picture is that of a run which keeps its blocks; smaller ones come from the overviews of the file."""
    pytest.importorskip("rasterio")
    shutil.copytree(scene, tmp_path / "scene")
    folder = run_scene(tmp_path / "scene", "cog", writers=[{"name": "cog"}])
    assert not list(folder.rglob("*.ome.zarr"))
    plain = opened(run_scene(tmp_path / "scene", "modes", writers=[{"name": "ome_zarr", "downsample": "mode"}]))
    page = opened(folder)
    for step in (1, 2):
        np.testing.assert_array_equal(page.picture("mask", step), plain.picture("mask", step))
