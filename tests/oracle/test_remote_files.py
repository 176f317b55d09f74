"""Images at URLs: the pixels and headers that the same files have on a disk, by few requests, of one version."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import tifffile

from pipeline.errors import BlockError, InputError
from pipeline.geometry import Box
from pipeline.plugins import build
from pipeline.readers._files import ServerError
from pipeline.storage import open_storage
from tests.oracle.web_server import web_server
from tests.readers.sample_files import DICOM, GDAL, SAMPLES, SLIDES, scene

READER = build("readers", {"name": "auto"})
REFUSED, SOME_REFUSED = (SLIDES, DICOM, GDAL), ("ndpi", "philips", "mrxs", "dicom", "vrt", "imagine")


@pytest.fixture
def web(tmp_path):
    """A web server on the folder of the test."""
    with web_server(tmp_path) as server:
        yield server


def upload(path: Path, url: str) -> str:
    """Copy a file or a folder, and what lies beside it, to a storage; return its URL."""
    storage = open_storage(url)
    for file in sorted(path.parent.rglob("*")):
        if file.is_file():
            storage.put(file.relative_to(path.parent).as_posix(), file.read_bytes())
    return f"{url}/{path.name}"


def noise(*shape: int) -> np.ndarray:
    """Pixels that no codec makes smaller."""
    return np.random.default_rng(0).integers(0, 255, shape, np.uint8)


@pytest.mark.parametrize("name", [name for name, sample in SAMPLES.items() if sample.row not in REFUSED or name in SOME_REFUSED])
def test_every_dialect_reads_as_from_a_disk(name, tmp_path, web, s3):
    """Header and pixels are equal from a bucket and from a web server; a format that needs a disk is refused with the way out."""
    path = Path(SAMPLES[name].make(tmp_path / "in", scene(128, 256)))
    urls = upload(path, s3), f"{web.url}/in/{path.name}"
    if SAMPLES[name].row in REFUSED:
        for url in urls:
            with pytest.raises(InputError, match=f"{url}.* at a URL.*Copy .* to a disk, or convert it"), READER.open(url):
                pass
        return
    with READER.open(str(path)) as raster:
        header, pixels = raster.header, raster.read_masked(Box(3, 5, *raster.header.shape))
    for url in urls:
        with READER.open(url) as raster:
            assert raster.header == header
            for one, other in zip(raster.read_masked(Box(3, 5, *header.shape)), pixels, strict=True):
                np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("options", "at_opening", "at_reading", "most_bytes"),
    [
        ({"tile": (128, 128), "compression": "zlib"}, 1, 3, 2.3),  # a request for each row of tiles
        ({"rowsperstrip": 8, "compression": "zlib"}, 1, 1, 8.5),  # whole strips, of which a part is in the box
        ({}, 1, 1, 8.5),  # rows that lie closer together than a request costs
        ({"tile": (128, 128)}, 1, 3, 2.3),
    ],
)
def test_few_requests_read_a_box(options, at_opening, at_reading, most_bytes, tmp_path, web):
    """Neighbouring segments are read by one request; beside the header, little more than the segments of the box is read."""
    tifffile.imwrite(tmp_path / "a.tif", noise(1024, 2048), **options)
    with READER.open(f"{web.url}/a.tif") as raster:
        opened = [answer for answer in web.take() if answer[0] == "GET"]
        raster.read(Box(300, 400, 556, 656))
        read = web.take()
    assert len(opened) == at_opening
    assert len(read) <= at_reading
    assert sum(size for _, _, size in read) <= most_bytes * 256 * 256


@pytest.mark.parametrize("compress", ["NONE", "DEFLATE"])
def test_what_a_cloud_optimised_geotiff_costs(compress, tmp_path, web):
    """Opening takes the size and 128 KiB, places and levels included; a box takes one request a row of tiles and no byte beside them."""
    import rasterio.shutil

    from tests.readers.geo_files import write

    write(tmp_path / "source.tif", noise(3, 2560, 2560))
    rasterio.shutil.copy(tmp_path / "source.tif", tmp_path / "a.tif", driver="COG", COMPRESS=compress, BLOCKSIZE=512)
    with READER.open(f"{web.url}/a.tif") as raster:
        opened = [answer for answer in web.take() if answer[1].endswith("/a.tif")]
        assert (raster.header.pixel_size, raster.header.unit) == ((10.0, 10.0), "meter")
        assert raster.header.levels == ((2560, 2560), (1280, 1280), (640, 640), (320, 320))
        costs = {}
        for side in (512, 1024, 2048):
            raster.read(Box(0, 0, side, side))
            read = web.take()
            costs[side] = len(read), sum(size for *_, size in read) / (3 * side * side)
    assert [method for method, *_ in opened].count("GET") == 1
    assert sum(size for *_, size in opened) <= 1 << 17
    assert [requests for requests, _ in costs.values()] == [1, 2, 4]
    assert all(share < 1.001 for _, share in costs.values())


def test_a_vrt_of_urls_is_refused(tmp_path, web):
    """GDAL asks no server: a VRT that names URLs is refused before a request is made, with the way out."""
    from tests.readers.geo_files import vrt

    tifffile.imwrite(tmp_path / "a.tif", noise(64, 64))
    path = vrt(tmp_path / "a.vrt", [(f"/vsicurl/{web.url}/a.tif", (0, 0), (64, 64))], (64, 64), relative=False)
    with pytest.raises(InputError, match="a VRT that names '/vsicurl/http.*list the URLs of the images themselves"), READER.open(path):
        pass
    assert web.take() == []


def test_rows_far_apart_are_not_read_with_their_gaps(tmp_path, web):
    """Where rows are long, only the part of each row in the box is read, several at once."""
    tifffile.imwrite(tmp_path / "a.tif", noise(64, 200_000))
    with READER.open(f"{web.url}/a.tif") as raster:
        web.take()
        np.testing.assert_array_equal(raster.read(Box(10, 1000, 40, 1256))[0], noise(64, 200_000)[10:40, 1000:1256])
        read = web.take()
    assert sum(size for _, _, size in read) == 30 * 256


def test_a_replaced_file_is_never_mixed_with_the_old_one(tmp_path, web, s3):
    """An image that is replaced while it is open fails with a message, from both kinds of server; opened again, it is the new one."""
    old, new = noise(512, 512), 255 - noise(512, 512)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, old, tile=(64, 64))
    for url in (upload(path, s3), f"{web.url}/a.tif"):
        tifffile.imwrite(path, old, tile=(64, 64))
        with READER.open(url) as raster:
            np.testing.assert_array_equal(raster.read(Box(0, 0, 64, 64))[0], old[:64, :64])
            tifffile.imwrite(path, new, tile=(64, 64))
            upload(path, s3)
            with pytest.raises(BlockError, match=r"a\.tif: changed while it was read"):
                raster.read(Box(64, 64, 128, 128))
        with READER.open(url) as raster:
            np.testing.assert_array_equal(raster.read(Box(0, 0, 512, 512))[0], new)
        upload(path, s3)


def test_files_that_are_not_there_or_not_whole(tmp_path, web, s3):
    """A URL without a file, and a file that is cut off, are refused by name."""
    tifffile.imwrite(tmp_path / "a.tif", noise(512, 512), tile=(64, 64))
    whole = (tmp_path / "a.tif").read_bytes()
    for base in (s3, web.url):
        with pytest.raises(InputError, match=rf"{base}/b\.tif: found no file at this URL"), READER.open(f"{base}/b.tif"):
            pass
        with pytest.raises(InputError, match=rf"{base}/b\.ome\.zarr: found (nothing|no Zarr metadata) at this URL"):
            READER.open(f"{base}/b.ome.zarr").__enter__()
    (tmp_path / "a.tif").write_bytes(whole[:200_000])
    with READER.open(f"{web.url}/a.tif") as raster, pytest.raises(BlockError, match="truncated"):
        raster.read(Box(0, 0, 512, 512))


def test_a_server_that_fails_is_a_failure_that_may_pass(tmp_path, monkeypatch):
    """A server that does not answer is an error of the system: another try may succeed."""
    monkeypatch.setattr("pipeline.storage._object_client.FIRST_RETRY_S", 0.1)
    with pytest.raises(ServerError, match="no answer from the server"), READER.open("http://127.0.0.1:9/a.tif"):
        pass


def test_side_files_of_a_folder_cost_one_listing(tmp_path, s3, monkeypatch):
    """Masks and world files beside the images of a bucket are looked for in one listing of the folder."""
    from pipeline.storage._object_store import ObjectStorage

    for number in range(5):
        tifffile.imwrite(tmp_path / f"{number}.tif", noise(64, 64))
    (tmp_path / "3.tfw").write_text("2\n0\n0\n-2\n100\n200\n")
    upload(tmp_path / "0.tif", s3)
    asked = []
    real = ObjectStorage._request
    monkeypatch.setattr(ObjectStorage, "_request", lambda *args, **options: asked.append(args[1]) or real(*args, **options))
    sizes = []
    for number in range(5):
        with READER.open(f"{s3}/{number}.tif") as raster:
            sizes.append(raster.header.pixel_size)
    assert sizes == [None, None, None, (2.0, 2.0), None]
    assert asked.count("") == 1
    assert len(asked) == 5 * 2 + 2 + 1  # size and header of each image, those of the world file, the listing


def test_threads_read_at_once(tmp_path, web):
    """Boxes that several threads read at once are those of the file."""
    pixels = noise(600, 600)
    tifffile.imwrite(tmp_path / "a.tif", pixels, tile=(64, 64), compression="zlib")
    wrong = []
    with READER.open(f"{web.url}/a.tif") as raster:

        def read(start: int) -> None:
            box = Box(start, start, start + 200, start + 300)
            if not np.array_equal(raster.read(box)[0], pixels[box.slices]):
                wrong.append(box)

        threads = [threading.Thread(target=read, args=(start,)) for start in range(0, 300, 40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
