"""Runs over images and truth at URLs: masks, report and exit codes are those of the same files on a disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from pipeline.cli import main
from pipeline.inputs.identity import identify
from pipeline.plugins import build
from pipeline.storage import open_storage
from tests.oracle.web_server import web_server

SIDE = 600


def pixels(seed: int) -> np.ndarray:
    """Pixels of which some are bright."""
    return (np.random.default_rng(seed).random((SIDE, SIDE + 50)) ** 3 * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of three kinds with truth; a world file makes one a map, and one file is broken."""
    root = tmp_path_factory.mktemp("remote")
    (root / "in").mkdir()
    (root / "truth").mkdir()
    tifffile.imwrite(root / "in/a.tif", pixels(0), tile=(128, 128), compression="zlib")
    (root / "in/a.tfw").write_text("2\n0\n0\n-2\n100\n200\n")
    from PIL import Image

    Image.fromarray(pixels(1)).save(root / "in/b.png")
    zarr.create_array(str(root / "in/c.zarr"), data=pixels(2), chunks=(100, 100), shards=(300, 300), dimension_names=["y", "x"])
    for number, name in enumerate("abc"):
        tifffile.imwrite(root / f"truth/{name}.tif", (pixels(number) > 100).astype(np.uint8), compression="zlib")
    (root / "in/broken.tif").write_bytes(b"II*\0 nothing")
    return root


@pytest.fixture
def web(folder):
    """A web server on the folder."""
    with web_server(folder) as server:
        yield server


@pytest.fixture
def bucket(folder, s3):
    """The URL of a copy of the folder."""
    storage = open_storage(s3)
    for file in folder.rglob("*"):
        if file.is_file():
            storage.put(file.relative_to(folder).as_posix(), file.read_bytes())
    return s3


def config(path: Path, images: list[str], truth: str | None = None, **keys) -> str:
    """Write the YAML of a serial run; return its path."""
    compute = {"runner": "serial", "device": "cpu"}
    text = {"images": images, "truth": truth, "model": {"name": "histogram", "classes": 2}, "output": "out", "compute": compute, **keys}
    path.mkdir(exist_ok=True)
    (path / "run.yaml").write_text(json.dumps(text))
    return str(path / "run.yaml")


def result(path: Path) -> tuple[dict, dict[str, bytes]]:
    """Return the report without what differs between runs, and the masks."""
    report = json.loads((path / "out/report/report.json").read_text())
    masks = {name.name: zarr.open_array(str(name), path="0")[...].tobytes() for name in sorted((path / "out/masks").glob("*.ome.zarr"))}
    keys = ("state", "images", "pixels", "confusion", "per_image", "no_prediction", "quarantined")
    return {key: report[key] for key in keys}, masks


def test_a_bucket_gives_the_masks_and_the_report_of_a_disk(folder, bucket, tmp_path):
    """A folder with a TIFF, a PNG, a Zarr store and a broken file: the same result, and exit code 3 for the broken one."""
    outcomes = []
    for number, root in enumerate((folder, bucket)):
        yaml = config(
            tmp_path / str(number), [f"{root}/in/"], f"{root}/truth/{{name}}.tif", writers=[{"name": "ome_zarr"}, {"name": "tiff"}]
        )
        assert main(["plan", yaml]) == 3
        assert main(["run", yaml]) == 3
        outcomes.append(result(tmp_path / str(number)))
        failures = json.loads((tmp_path / str(number) / "out/report/report.json").read_text())["failures"]
        assert [failure["cause"] for failure in failures] == [f"{root}/in/broken.tif: found a TIFF without an image"]
        assert main(["run", yaml]) == 3  # at once, as nothing has changed
    assert outcomes[0] == outcomes[1]
    with tifffile.TiffFile(tmp_path / "1/out/masks/a.tif") as mask:
        assert mask.pages.first.tags[33550].value == (2.0, 2.0, 0.0)  # from the world file in the bucket


def test_a_web_server_gives_the_masks_and_the_report_of_a_disk(folder, web, tmp_path):
    """Files and a Zarr store by their URLs, in a CSV list at a URL; `plan` reads headers alone."""
    rows = [f"in/{name},truth/{name[0]}.tif" for name in ("a.tif", "b.png", "c.zarr")]
    (folder / "list.csv").write_text("\n".join(["image,truth", *rows]))
    outcomes = []
    for number, root in enumerate((folder, web.url)):
        yaml = config(tmp_path / str(number), [f"{root}/list.csv"])
        web.take()
        assert main(["plan", yaml]) == 0
        planned = web.take()
        assert main(["run", yaml]) == 0
        outcomes.append(result(tmp_path / str(number)))
    assert outcomes[0] == outcomes[1]
    headers = sum(size for _, name, size in planned if name.startswith("/in/"))
    assert headers <= 4 * (1 << 17)  # of 1.2 MB of pixels
    assert not any("/c/" in name for _, name, _ in planned)


def test_other_commands_take_urls(folder, bucket, tmp_path, monkeypatch):
    """`segment`, `convert` and `evaluate` read what `run` reads."""
    monkeypatch.chdir(tmp_path)
    assert main(["segment", f"{bucket}/in/a.tif", "--model", "histogram", "-o", "segmented"]) == 0
    assert main(["convert", f"{bucket}/in/a.tif", f"{bucket}/in/c.zarr", "-o", "converted"]) == 0
    np.testing.assert_array_equal(zarr.open_array("converted/a.ome.zarr", path="0")[...].squeeze(), pixels(0))
    np.testing.assert_array_equal(zarr.open_array("converted/c.ome.zarr", path="0")[...].squeeze(), pixels(2))
    assert main(["evaluate", "--pred", f"{bucket}/truth/", "--truth", f"{bucket}/truth/{{stem}}.tif", "-o", "scores"]) == 0
    assert json.loads(Path("scores/report/report.json").read_text())["mean_iou"] == 1.0


@pytest.mark.parametrize("entry", ["in/gone.tif", "gone/", "in/*.jp2", "in/gone.zarr"])
def test_a_url_that_is_not_there_is_the_users_mistake(bucket, entry, tmp_path, capsys):
    """What the YAML names and is not there ends with code 2, with its URL, and without an output folder."""
    assert main(["run", config(tmp_path, [f"{bucket}/in/a.tif", f"{bucket}/{entry}"])]) == 2
    assert f"{bucket}/{entry}".rstrip("/") in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_image_that_is_replaced_is_another_image(folder, bucket, tmp_path):
    """The identity follows the version in the bucket: of a file, of its world file, of the chunks of an array; not the time of copying."""
    reader = build("readers", {"name": "auto"})
    storage = open_storage(bucket)

    def identity(name: str) -> str:
        return identify(f"{bucket}/in/{name}", {}, reader)[0]

    before = {name: identity(name) for name in ("a.tif", "b.png", "c.zarr")}
    assert {name: identity(name) for name in before} == before
    storage.put("in/b.png", (folder / "in/b.png").read_bytes() + b"more")
    chunk = next(key for key in storage.list("in/c.zarr/") if "/c/" in key)
    storage.put(chunk, storage.get(chunk)[::-1])
    assert identity("a.tif") == before["a.tif"]
    assert identity("b.png") != before["b.png"]
    assert identity("c.zarr") != before["c.zarr"]


def test_an_image_replaced_mid_run_is_never_mixed(bucket, tmp_path, monkeypatch):
    """Blocks after the change fail with the reason, the image is quarantined, and a second run gives the mask of the new image."""
    from pipeline.readers._tiff_raster import TiffRaster

    real, reads = TiffRaster.read_masked, []

    def read(self, box, plane=0):
        reads.append(box)
        if len(reads) == 2:
            tifffile.imwrite(tmp_path / "new.tif", 255 - pixels(0), tile=(128, 128), compression="zlib")
            open_storage(bucket).put("in/a.tif", (tmp_path / "new.tif").read_bytes())
        return real(self, box, plane)

    monkeypatch.setattr(TiffRaster, "read_masked", read)
    yaml = config(tmp_path, [f"{bucket}/in/a.tif"], tiling={"core": 128})
    assert main(["run", yaml]) == 3
    failures = json.loads((tmp_path / "out/report/report.json").read_text())["failures"]
    assert failures
    assert all("a.tif: changed while it was read" in failure["cause"] for failure in failures)
    monkeypatch.setattr(TiffRaster, "read_masked", real)
    assert main(["run", yaml]) == 0
    tifffile.imwrite(tmp_path / "new.tif", 255 - pixels(0))
    other = config(tmp_path / "other", [str(tmp_path / "new.tif")], tiling={"core": 128})
    assert main(["run", other]) == 0
    assert list(result(tmp_path)[1].values()) == list(result(tmp_path / "other")[1].values())
