"""The Python API: the command line's masks, reports and messages, as objects; arrays as input."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import yaml
import zarr
from scipy.ndimage import label

import pipeline
from pipeline.cli import main
from pipeline.config import load_config
from pipeline.errors import GigasegError, InputError
from tests.conftest import blobs, engine_yaml, mask_at, report_at, save_tiff

HISTOGRAM = {"name": "histogram", "classes": 2}
SMALL = {"model": HISTOGRAM, "normalize": None, "tiling": {"core": 64, "halo": 0, "block": 64}}
TILING = {"tiling": SMALL["tiling"], "compute.runner": "serial"}
PUBLIC = {"run", "segment", "plan", "evaluate", "train", "open_run", "Run", "Report", "Plan", "LazyArray", "TrainingRun"}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with an image of 150 x 130 pixels and its truth."""
    monkeypatch.chdir(tmp_path)
    save_tiff(tmp_path / "a.tif", blobs((150, 130)))
    save_tiff(tmp_path / "truth" / "a.tif", (blobs((150, 130), seed=1) > 120).astype(np.uint8))
    return tmp_path


def serial(images, output, **options):
    """Segment by a threshold, in small blocks."""
    return pipeline.segment(images, HISTOGRAM, output, set=TILING, **options)


def by_command(folder, *arguments):
    """Run the command line; the masks that it leaves are the ones to expect."""
    more = [
        f"--set={key}={yaml.safe_dump(value, default_flow_style=True).strip().removesuffix('...').strip()}" for key, value in TILING.items()
    ]
    assert main(["segment", *arguments, "-m", yaml.safe_dump(HISTOGRAM, default_flow_style=True).strip(), "-o", str(folder), *more]) == 0


def lower_half_fails(pixels_CYX):
    """Fail where a marker lies."""
    if (pixels_CYX == 7).any():
        raise ValueError("a marker")


# What is imported


def test_importing_loads_nothing_heavy():
    """`import pipeline` and `import gigaseg` load no library; their public names are listed before anything is loaded."""
    code = (
        "import sys, pipeline, gigaseg; print(sorted({name.partition('.')[0] for name in sys.modules} & "
        "{'numpy', 'yaml', 'pydantic', 'dask', 'pandas', 'torch', 'ray', 'zarr', 'rich', 'workflows'})); "
        "print(dir(pipeline) == dir(gigaseg) == sorted(pipeline.__all__)); print(*dir(gigaseg))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[:2] == ["[]", "True"]
    assert set(said[2].split()) == PUBLIC | {"GigasegError", "InputError", "__version__"}


def test_every_public_name_is_there():
    """Each name of `__all__` can be used, by either name of the package, and any other is an AttributeError."""
    import gigaseg

    assert all(getattr(gigaseg, name) is getattr(pipeline, name) for name in pipeline.__all__)
    assert pipeline.InputError is InputError
    with pytest.raises(AttributeError, match="nonsense"):
        _ = gigaseg.nonsense


# Runs


def test_a_run_is_the_commands(here, capsys):
    """From a file, a dict and a Config come the masks and the report of the command; stdout stays empty."""
    path = engine_yaml(here, **SMALL, truth="truth/{stem}.tif", output="by_command")
    assert main(["run", str(path)]) == 0
    capsys.readouterr()
    mapping = {**yaml.safe_load(path.read_text()), "images": [here / "a.tif"]}
    configs = {"file": path, "text": str(path), "dict": mapping, "config": load_config(path)}
    for name, config in configs.items():
        run = pipeline.run(config, set={"output": here / name})
        assert (run.path, run.state, run.images) == (here / name, "done", ("a",))
        assert np.array_equal(run.mask("a"), mask_at(here / "by_command"))
        assert run.report.content == json.loads((here / name / "report" / "report.json").read_text())
        assert report_at(here / name) == report_at(here / "by_command")
    assert capsys.readouterr().out == ""


def test_the_report_is_numbers_and_tables(here):
    """Fields of report.json are attributes; classes, images and confusion are DataFrames that hold the same numbers."""
    run = serial("a.tif", "out", truth="truth/{stem}.tif")
    report, content = run.report, report_at(here / "out")
    assert report.mean_iou == content["mean_iou"]
    assert list(report.classes["iou"]) == [one["iou"] for one in content["classes"]]
    assert report.confusion.to_numpy().tolist() == content["confusion"]
    assert report.per_image.loc[0, "name"] == "a"
    assert report.per_image.loc[0, f"iou {content['classes'][1]['name']}"] == content["classes"][1]["iou"]
    assert {"mean_iou", "classes", "per_image"} <= set(dir(report))
    with pytest.raises(AttributeError, match="mean_iuo"):
        _ = report.mean_iuo
    assert pickle.loads(pickle.dumps(report)).mean_iou == report.mean_iou


def test_masks_images_and_truth_are_lazy(here):
    """A mask, its image and its truth as class ids are dask arrays with pixel size and class names; nothing is read before."""
    save_tiff(here / "b.ome.tif", blobs((150, 130)), metadata={"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "axes": "YX"}, ome=True)
    classes = [{"name": "low", "values": [0]}, {"name": "high", "values": "other"}]
    save_tiff(here / "truth" / "b.tif", np.full((150, 130), 9, np.uint8))
    run = serial(["b.ome.tif"], "out", truth="truth/{stem}.tif").path
    run = pipeline.segment("b.ome.tif", HISTOGRAM, "other", truth="truth/{stem}.tif", set={**TILING, "classes": classes})
    mask, image, truth = run.mask(), run.image(), run.truth("b")
    assert all(isinstance(one.data, da.Array) for one in (mask, image, truth))
    assert (mask.shape, mask.axes, mask.dtype, mask.classes) == ((150, 130), "yx", np.uint8, ("low", "high"))
    assert (image.shape, image.axes, image.pixel_size, image.unit) == ((1, 150, 130), "cyx", (0.5, 0.5), "micrometer")
    assert mask.pixel_size == (0.5, 0.5)
    assert np.array_equal(image, blobs((150, 130))[None])
    assert np.array_equal(truth.compute(), np.ones((150, 130), np.uint8))
    assert np.array_equal(mask.data[100:, :7].compute(), mask.compute()[100:, :7])
    (here / "b.ome.tif").unlink()
    with pytest.raises(GigasegError, match="b.ome.tif"):
        image.compute()


def test_objects_are_an_array_of_ids_and_a_table(here):
    """The label image, the table and the scores of objects are those of the output; a run without objects says so."""
    run = pipeline.segment("a.tif", HISTOGRAM, "out", truth="truth/{stem}.tif", instances="components", set=TILING)
    ids_YX, expected = np.asarray(run.instances()), label(np.asarray(run.mask()) == 1, np.ones((3, 3)))
    assert np.array_equal(ids_YX, expected[0])
    assert list(run.objects("a")["id"]) == list(range(1, expected[1] + 1))
    assert list(run.objects("a")["area_px"]) == np.bincount(ids_YX.ravel())[1:].tolist()
    assert run.report.instances.loc[0, "predicted"] == expected[1]
    assert "instances" not in run.report.per_image
    per_image = run.report.instances_per_image
    assert per_image[["image", "class", "predicted"]].to_numpy().tolist() == [["a", "class 1", expected[1]]]
    assert per_image.columns[1:].tolist() == run.report.instances.columns.tolist()
    again = pipeline.evaluate(run, "truth", instances=True).instances
    assert (again.loc[0, "class"], again.loc[0, "ap50"]) == ("object", run.report.instances.loc[0, "ap50"])
    with pytest.raises(InputError, match="no objects of 'a'.*Set `instances` in its YAML"):
        serial("a.tif", "without").objects()
    with pytest.raises(InputError, match="The model histogram declares no method"):
        pipeline.segment("a.tif", HISTOGRAM, "own", instances=True, set=TILING)


def test_stacks_keep_their_planes(here):
    """Of a stack, mask and image have the planes in front."""
    pixels_ZYX = blobs((70, 60), channels=3)
    save_tiff(here / "s.ome.tif", pixels_ZYX, metadata={"axes": "ZYX"}, photometric="minisblack")
    run = serial("s.ome.tif", "out")
    assert (run.mask().axes, run.image().axes) == ("zyx", "zcyx")
    assert np.array_equal(run.mask(), mask_at(here / "out", "s"))
    assert np.array_equal(run.image(), pixels_ZYX[:, None])


def test_other_writers_have_masks_too(here):
    """Where only a TIFF was written, that is the mask."""
    run = pipeline.segment("a.tif", HISTOGRAM, "out", set={**TILING, "writers": ["tiff"], "tiling": {"core": 256, "halo": 0, "block": 256}})
    assert not (here / "out" / "masks" / "a.ome.zarr").exists()
    assert np.array_equal(run.mask(), mask_at(here / "out"))


def test_an_unknown_image_is_told_with_the_nearest(here):
    """A name that no image has, and no name where there are several, list those that there are."""
    save_tiff(here / "slide.tif", blobs((40, 40)))
    run = serial(["a.tif", "slide.tif"], "out")
    with pytest.raises(InputError, match="expected a or slide. Did you mean 'slide'"):
        run.mask("slid")
    with pytest.raises(InputError, match="found None; expected a or slide"):
        run.image()
    with pytest.raises(InputError, match="no truth of 'a'"):
        run.truth("a")


def test_a_partial_run_raises_nothing(here, traced):
    """Quarantined blocks: the state is partial, failures is a table, and the mask has no prediction there."""
    pixels = np.full((150, 130), 100, np.uint8)
    pixels[140, 120] = 7
    save_tiff(here / "a.tif", pixels)
    traced.on_call = lower_half_fails
    run = pipeline.run(engine_yaml(here, model={"name": "traced.model"}, normalize=None, tiling={"core": 64, "halo": 1, "block": 64}))
    assert run.state == run.report.state == "partial"
    assert run.failures[["image", "block", "phase"]].to_numpy().tolist() == [["a", "a:0.2.1", "predict"]]
    assert "a marker" in run.failures.loc[0, "cause"]
    assert (run.mask().compute() == 255).sum() == 22 * 64
    assert pipeline.open_run("out").state == "partial"


def test_max_failed_gives_up(here, traced):
    """Above so many quarantined blocks the run raises, as the command ends with 1."""
    traced.on_call = lambda pixels_CYX: lower_half_fails(np.full(1, 7))
    keys = {"model": {"name": "traced.model"}, "normalize": None, "tiling": {"core": 64, "halo": 1, "block": 64}}
    with pytest.raises(GigasegError, match="--max-failed") as error:
        pipeline.run(engine_yaml(here, **keys), max_failed=1)
    assert error.value.exit_code == 1
    assert pipeline.open_run("out").state == "failed"
    assert len(pipeline.open_run("out").failures) == 2


@pytest.mark.parametrize(
    "keys", [{"model": {"name": "histgram"}, "tilling": 1}, {"images": ["nothing.tif"]}, {"tiling": {"core": "large"}}], ids=str
)
def test_wrong_input_has_the_commands_text(here, capsys, keys):
    """What the command says of a YAML, line by line, is the text of the error; nothing is written."""
    path = engine_yaml(here, **{**SMALL, **keys})
    assert main(["run", str(path)]) == 2
    said = [line.removeprefix("gigaseg: ") for line in capsys.readouterr().err.splitlines()]
    for call in (pipeline.run, pipeline.plan):
        with pytest.raises(GigasegError) as error:
            call(path)
        assert str(error.value).splitlines() == said
        assert error.value.exit_code == 2
    with pytest.raises(InputError):
        pipeline.run({**yaml.safe_load(path.read_text()), "output": "out"})
    assert not (here / "out").exists()


def test_a_training_is_not_a_run(here):
    """The YAML of a training is refused, with the command that is meant."""
    (here / "train.yaml").write_text("images: a.tif\ntruth: truth/{stem}.tif\nminutes: 1\noutput: out\nmodel: unet\n")
    with pytest.raises(InputError, match="gigaseg train"):
        pipeline.run("train.yaml")


def test_fresh_starts_over(here):
    """Another model in the same folder is refused, and taken with fresh=True."""
    serial("a.tif", "out")
    with pytest.raises(InputError, match="model.method"):
        pipeline.segment("a.tif", {**HISTOGRAM, "method": "li"}, "out", set=TILING)
    assert pipeline.segment("a.tif", {**HISTOGRAM, "method": "li"}, "out", set=TILING, fresh=True).state == "done"


def test_a_finished_run_returns_at_once(here, traced):
    """A second call computes nothing."""
    keys = {"model": {"name": "traced.model"}, "normalize": None, "tiling": {"core": 64, "halo": 1, "block": 64}}
    path = engine_yaml(here, **keys)
    pipeline.run(path)
    calls = traced.calls
    assert pipeline.run(path).state == "done"
    assert traced.calls == calls > 0


def test_an_interrupt_stays_one_and_the_run_goes_on(here, traced):
    """Ctrl-C raises KeyboardInterrupt; the folder opens as interrupted, and the same call finishes it."""
    path = engine_yaml(here, model={"name": "traced.model"}, normalize=None, tiling={"core": 32, "halo": 1, "block": 32})
    traced.on_call = lambda pixels_CYX: traced.calls == 3 and os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="the same call goes on"):
        pipeline.run(path)
    run = pipeline.open_run(here / "out")
    assert run.state == "interrupted"
    assert 0 < run.report.no_prediction < 150 * 130
    assert run.report.mean_iou is None
    traced.on_call = lambda pixels_CYX: None
    assert pipeline.run(path).state == "done"
    assert run.state == "done"
    assert run.report.no_prediction == 0


def test_opening_what_is_no_run_is_told(here):
    """A folder without a run, and a run that had not begun with any block, say so."""
    with pytest.raises(InputError, match="no run.json"):
        pipeline.open_run(here)


# Arrays


def pixels_of(kind, pixels, folder):
    """The same pixels as one kind of array."""
    if kind == "dask":
        return da.from_array(pixels, chunks=(*(1,) * (pixels.ndim - 2), 70, 50))
    if kind == "zarr in memory":
        return zarr.array(pixels, chunks=(*(1,) * (pixels.ndim - 2), 64, 64))
    if kind == "zarr on a disk":
        names = {2: "yx", 3: "cyx"}[pixels.ndim]
        array = zarr.create_array(folder / "img.zarr", shape=pixels.shape, chunks=pixels.shape, dtype=pixels.dtype, dimension_names=names)
        array[...] = pixels
        return array
    return pixels


@pytest.mark.parametrize("kind", ["numpy", "dask", "zarr in memory", "zarr on a disk"])
@pytest.mark.parametrize("channels", [None, 5], ids=["grey", "5 channels"])
def test_an_array_gives_the_mask_of_its_file(here, kind, channels):
    """Whatever the kind of array, the mask is that of the command on a file of the same pixels, and the image reads back."""
    pixels = blobs((150, 130), channels=channels)
    save_tiff(here / "b.ome.tif", pixels, photometric="minisblack", metadata={"axes": "CYX" if channels else "YX"}, ome=True)
    by_command(here / "by_command", "b.ome.tif")
    run = serial({"img": pixels_of(kind, pixels, here)}, "out")
    assert run.images == ("img",)
    assert np.array_equal(run.mask("img"), mask_at(here / "by_command", "b"))
    assert np.array_equal(run.image("img"), pixels.reshape(-1, 150, 130))
    assert np.array_equal(pipeline.open_run("out").image("img"), pixels.reshape(-1, 150, 130))


def test_a_last_axis_of_at_most_four_is_channels(here):
    """(Y, X, 3) is read as colours, as the rule for unnamed axes says, and reader.axes says otherwise."""
    pixels = blobs((150, 130), channels=3)
    by_axes = pipeline.segment(pixels, HISTOGRAM, "cyx", set={**TILING, "reader.axes": "cyx"})
    assert np.array_equal(by_axes.image(), pixels)
    by_rule = serial(np.moveaxis(pixels, 0, -1), "yxc")
    assert np.array_equal(by_rule.image(), pixels)
    stack = pipeline.segment(pixels, HISTOGRAM, "zyx", set={**TILING, "reader.axes": "zyx"})
    assert stack.mask().shape == (3, 150, 130)
    with pytest.raises(InputError, match="Set reader.axes"):
        serial(np.zeros((2, 2, 9, 9), np.uint8), "four")


def test_names_of_images(here):
    """Arrays are named by a mapping or by pairs, with folders too, else array0, array1, ...; files stand before them."""
    one, two = blobs((20, 30)), blobs((20, 30), seed=1)
    assert serial([one, "a.tif", two], "out").images == ("a", "array0", "array1")
    run = serial([("day 1/x.tif", one), ("day 2/x.tif", two)], "pairs")
    assert run.images == ("day 1/x.tif", "day 2/x.tif")
    assert np.array_equal(run.mask("day 2/x.tif"), mask_at(here / "pairs", "day 2/x.tif"))
    assert serial({"b": two, "renamed/c": here / "a.tif"}, "files").images == ("b", "renamed/c")
    with pytest.raises(InputError, match="'x'"):
        serial([("x", one), ("x", two)], "twice")
    with pytest.raises(InputError, match="images.1: found a value of type dict; expected a path"):
        serial([one, {}], "none")
    assert not {"twice", "none"} & {path.name for path in here.iterdir()}


def test_an_image_may_be_a_mosaic(here):
    """A mapping as in the YAML is a mosaic, alone, in a list or under a name; masks to be evaluated are none."""
    from tests.readers.map_tiles import save_quarters

    save_quarters(here / "tiles", blobs((64, 80)), (32, 40))
    tiles = {"mosaic": "tiles/*.tif", "name": "county"}
    for number, images in enumerate((tiles, [tiles], {"county": {"mosaic": "tiles/*.tif"}})):
        run = pipeline.segment(images, model={"name": "histogram", "classes": 2}, output=f"mosaic{number}")
        assert run.mask("county").shape == (64, 80)
    with pytest.raises(InputError, match="found a value of type dict; expected a path"):
        pipeline.evaluate([tiles], truth="tiles/*.tif")


def test_truth_may_be_arrays(here):
    """Truth as an array, or by name, is counted as truth in a file is."""
    save_tiff(here / "b.tif", blobs((150, 130), seed=3))
    truth = (blobs((150, 130), seed=1) > 120).astype(np.uint8)
    expected = serial(["a.tif"], "file", truth="truth/{stem}.tif").report.mean_iou
    assert serial("a.tif", "one", truth=truth).report.mean_iou == expected
    run = serial({"x": blobs((150, 130)), "y": blobs((150, 130))}, "named", truth={"x": truth, "y": da.from_array(truth)})
    assert run.report.mean_iou == pytest.approx(expected)
    assert np.array_equal(run.truth("y"), truth)
    with pytest.raises(InputError, match="truth of the image's size"):
        serial("a.tif", "small", truth=truth[:9])


@pytest.mark.parametrize("missing", [np.nan, np.inf, "masked"])
def test_arrays_hold_no_data_where_they_say_so(here, missing):
    """NaN, infinity and masked elements are no data, in images and in truth; written to files for other processes they stay so."""
    pixels, hole = blobs((150, 130)).astype(np.float32), np.zeros((150, 130), bool)
    hole[20:30, 90:] = True
    truth = (pixels > 128).astype(np.float32)
    arrays = [np.ma.array(one, mask=mask) for one, mask in ((pixels, hole), (truth, hole[::-1]))]
    if missing != "masked":
        arrays = [one.filled(missing) for one in arrays]
    for store in (False, True):
        run = serial({"a": arrays[0]}, f"out{store}", truth={"a": arrays[1]}, store_arrays=store)
        assert np.array_equal(run.mask("a").data.compute() == 255, hole)
        assert np.array_equal(run.truth("a").data.compute() == 255, hole[::-1])
        assert run.report.confusion.to_numpy().sum() == np.sum(~(hole | hole[::-1]))


def test_masked_integers_are_refused(here):
    """No value of integers stands for no data, so that a masked array of them would lose its mask."""
    with pytest.raises(InputError, match=r"images: found a masked array of uint8; expected a float type.*Give array.astype\('float32'\)"):
        serial(np.ma.array(blobs((50, 60)), mask=np.eye(50, 60)), "out")
    assert serial(np.ma.array(blobs((50, 60))), "out").state == "done"


def test_a_dask_array_is_computed_block_by_block(here):
    """Chunks are computed where they are needed, never the whole array at once."""
    lock, running, most = threading.Lock(), [0], [0]

    def chunk(block_info=None):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.001)
        (top, bottom), (left, right) = block_info[None]["array-location"]
        with lock:
            running[0] -= 1
        return blobs((640, 640))[top:bottom, left:right]

    array = da.map_blocks(chunk, chunks=((64,) * 10, (64,) * 10), dtype=np.uint8, meta=np.empty((0, 0), np.uint8))
    assert serial(array, "out").report.pixels == 640 * 640
    assert 0 < most[0] < 50


def test_equal_pixels_resume_and_other_pixels_do_not(here, traced):
    """A second call with equal pixels computes nothing, with others all blocks again."""
    settings = {"tiling": {"core": 64, "halo": 1, "block": 64}, "compute.runner": "serial"}

    def calls(pixels):
        before = traced.calls
        pipeline.segment({"x": pixels}, {"name": "traced.model"}, "out", set=settings)
        return traced.calls - before

    blocks = calls(blobs((150, 130)))
    assert blocks == 9
    assert calls(blobs((150, 130)).copy()) == 0
    assert calls(da.from_array(blobs((150, 130), seed=4), chunks=64)) == blocks
    assert calls(da.from_array(blobs((150, 130), seed=4), chunks=64)) == 0


def test_stored_arrays_resume_in_another_process(here):
    """With store_arrays=True the arrays lie below the output folder, and its config.yaml runs anywhere; without, it says why not."""
    pixels = blobs((150, 130), channels=5)
    truth = (pixels[0] > 120).astype(np.uint8)
    stored = serial({"x/y": pixels}, "stored", store_arrays=True, truth={"x/y": truth})
    held = serial({"x/y": pixels}, "held", truth={"x/y": truth})
    assert np.array_equal(stored.mask(), held.mask())
    assert stored.report.content["confusion"] == held.report.content["confusion"]
    assert np.array_equal(stored.image(), pixels)
    assert serial({"x/y": pixels}, "stored", store_arrays=True, truth={"x/y": truth}).state == "done"

    def run_again(folder):
        command = [sys.executable, "-m", "pipeline.cli", "run", str(here / folder / "config.yaml"), "--fresh"]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(pipeline.__file__).parents[1])

    again = run_again("stored")
    assert again.returncode == 0, again.stderr
    assert np.array_equal(pipeline.open_run("stored").mask(), held.mask())
    other = run_again("held")
    assert other.returncode == 2
    assert "an array of another process" in other.stderr
    assert pipeline.open_run("held").state == "done"


def test_types_that_are_no_pixels_are_refused(here):
    """Complex numbers and unknown values are the caller's mistake, and leave no folder."""
    with pytest.raises(InputError, match="pixels of type complex128"):
        serial(np.zeros((9, 9), complex), "out")
    with pytest.raises(InputError, match="found a value of type int"):
        serial([3], "out")
    with pytest.raises(InputError, match="images"):
        serial([], "out")
    assert not (here / "out").exists()


@pytest.mark.xdist_group("ray")
def test_ray_reads_arrays_from_files(here):
    """With Ray, arrays are written to OME-Zarr first, which `plan` says; the masks are the serial ones."""
    pixels = {"x": blobs((150, 130)), "y": da.from_array(blobs((90, 70), seed=2), chunks=40)}
    serial_run = serial(pixels, "serial")
    settings = {**TILING, "compute.runner": "ray", "compute.actors": 1}
    planned = pipeline.plan({"images": pixels, "model": HISTOGRAM, "output": "ray"}, set=settings)
    assert any("are written to" in note and note.endswith("x, y") for note in planned.notes)
    run = pipeline.segment(pixels, HISTOGRAM, "ray", set=settings)
    assert sorted(path.name for path in (here / "ray" / "inputs").glob("*.ome.zarr")) == ["x.ome.zarr", "y.ome.zarr"]
    for name in pixels:
        assert np.array_equal(run.mask(name), serial_run.mask(name))


# Plans, scores and trainings


def test_a_plan_is_the_commands(here, capsys):
    """A plan holds what `gigaseg plan --json` prints, its images as a table; nothing is written."""
    path = engine_yaml(here, **SMALL, truth="truth/{stem}.tif")
    assert main(["plan", str(path), "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)
    plan = pipeline.plan(path)
    assert json.loads(json.dumps(plan.content)) == expected
    assert {"name", "shape", "channels", "pixel_size", "blocks", "truth"} <= set(plan.images.columns)
    assert (plan.images.loc[0, "name"], plan.images.loc[0, "blocks"]) == ("a", 9)
    assert plan.memory_bytes_per_actor == expected["memory_bytes_per_actor"]
    assert plan.unreadable.empty
    assert pipeline.plan({**yaml.safe_load(path.read_text()), "images": {"x": blobs((150, 130))}, "truth": None}).blocks == 9
    assert not (here / "out").exists()


@pytest.mark.parametrize("output", [None, "scores"])
def test_an_evaluation_is_the_commands(here, output, capsys):
    """Scores of masks in files, of a run and of arrays are those of the command's report.json."""
    run = serial("a.tif", "out")
    assert main(["evaluate", "--pred", "out", "--truth", "truth", "-o", "by_command"]) == 0
    capsys.readouterr()
    expected = report_at(here / "by_command")

    def scores(report):
        return {key: value for key, value in report.content.items() if key != "timing"}

    assert scores(pipeline.evaluate(run, "truth", output=output)) == expected
    assert scores(pipeline.evaluate(here / "out", here / "truth")) == expected
    truth = (blobs((150, 130), seed=1) > 120).astype(np.uint8)
    assert scores(pipeline.evaluate({"a": run.mask().data}, {"a": truth})) == expected
    named = pipeline.evaluate({"b": np.asarray(run.mask())}, truth, classes=[{"name": "low"}, {"name": "high"}])
    assert list(named.classes["name"]) == ["low", "high"]
    assert named.mean_iou == expected["mean_iou"]
    assert capsys.readouterr().out == ""
    if output:
        assert pipeline.open_run(output).report.mean_iou == expected["mean_iou"]
        with pytest.raises(InputError, match="scores of masks that existed"):
            pipeline.open_run(output).mask()


def test_a_training_returns_its_bundle_and_scores(here):
    """A training from a dict: the bundle works as a model, history and report are tables, and its folder opens again."""
    for name in ("b.tif", "truth/b.tif"):
        save_tiff(here / name, (blobs((90, 80), seed=5) > 120).astype(np.uint8))
    config = {
        "images": ["a.tif", "b.tif"],
        "val": ["b.tif"],
        "truth": "truth/{stem}.tif",
        "classes": [{"name": "low", "values": [0]}, {"name": "high", "values": "other"}],
        "model": {"name": "unet", "depth": 1, "base": 4},
        "steps": 2,
        "crop": 32,
        "batch": 2,
        "output": "trained",
    }
    training = pipeline.train(config)
    assert training.state == "done"
    assert training.report.mean_iou == report_at(here / "trained" / "val")["mean_iou"]
    assert {"step", "loss"} <= set(training.history.columns)
    assert pipeline.segment("a.tif", str(training.bundle), "out").state == "done"
    assert type(pipeline.open_run("trained")).__name__ == "TrainingRun"


# Notebooks


def test_hostile_names_are_escaped(here):
    """What a notebook shows of a class or an image named as markup is text."""
    evil = "<script>alert(1)</script>"
    classes = [{"name": evil, "values": [0]}, {"name": "b & c", "values": "other"}]
    settings = {**TILING, "classes": classes}
    config = {"images": {"<b>x": blobs((80, 80))}, "model": HISTOGRAM, "output": "out", "truth": {"<b>x": np.zeros((80, 80), np.uint8)}}
    run, plan = pipeline.run(config, set=settings), pipeline.plan(config, set=settings)
    for shown in (run, run.report, run.mask(), plan):
        text = shown._repr_html_()
        assert evil not in text
        assert "<b>x" not in text
        assert "<table" in text
    assert "&lt;script&gt;" in run._repr_html_()
    assert "b &amp; c" in run._repr_html_()
    assert repr(run).endswith("out', done)")
    assert "mean IoU" in repr(run.report)
