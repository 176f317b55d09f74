"""Real files of many programs: pixels as their tags mean them, damage without a crash, memory by region.

They are looked for in ``$GIGASEG_TEST_DATA/formats``, with an ``INDEX.tsv`` that holds shape, axes, type and
a hash of the pixels of each.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image, ImageCms, ImageOps

from pipeline.errors import InputError
from pipeline.geometry import Box
from pipeline.plugins import build
from pipeline.readers._layout import DTYPES

ROOT = Path(os.environ.get("GIGASEG_TEST_DATA", "no test data")) / "formats"
LISTED = (ROOT / "INDEX.tsv").read_text() if (ROOT / "INDEX.tsv").is_file() else ""
INDEX = list(csv.DictReader(LISTED.splitlines(), delimiter="\t"))
LOSSY = ("JPEG", "OJPEG", "WEBP")  # other builds of these decoders may differ by 2
JPEG2000 = ["9bit.j2k", "int8_4bit.j2k", "rgb24.jp2", "test-card-lossless.jp2", "test-card-lossy-tiled.jp2", "ycbc.j2k"]
DICOM = ["boxes_0.dcm", "boxes_1.dcm", "sm_image_dots.dcm"]
HELD_BYTES = 1 << 28  # larger ones are read by region only

pytestmark = [
    pytest.mark.skipif(not INDEX, reason="GIGASEG_TEST_DATA names no folder with formats/INDEX.tsv"),
    pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3 specification"),
]


def is_pixels(row):
    """Whether tifffile could decode the file and its numbers are of a type that an image can have."""
    return row["tifffile"] == "ok" and row["dtype"] in DTYPES


def num_bytes(row):
    """Decoded size of the first series."""
    return math.prod(map(int, row["shape"].split("x"))) * np.dtype(row["dtype"]).itemsize


WHOLE = [row for row in INDEX if is_pixels(row) and num_bytes(row) <= HELD_BYTES]
LARGE = [row for row in INDEX if is_pixels(row) and num_bytes(row) > HELD_BYTES]
REFUSED = [row for row in INDEX if row["tifffile"] == "ok" and row["dtype"] not in DTYPES]
BROKEN = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "broken").glob("*"))] + ["geotiff/corrupt.tif"] if INDEX else []


def by_boxes(raster, plane, step=(301, 517)):
    """All pixels (C, Y, X) of a plane, and where there is data (Y, X), put together from boxes that match no strip or tile."""
    height, width = raster.header.shape
    pixels_CYX = np.empty((raster.header.channels, height, width), raster.header.dtype)
    declared_YX = np.ones((height, width), bool)
    for y in range(0, height, step[0]):
        for x in range(0, width, step[1]):
            box = Box(y, x, y + step[0], x + step[1]).clip((height, width))
            pixels_CYX[:, *box.slices], declared = raster.read_masked(box, plane)
            declared_YX[box.slices] = True if declared is None else declared
    return pixels_CYX, declared_YX


def tifffiles_pixels(path, row):
    """What tifffile decodes as planes (P, C, Y, X), pages I being planes; it converts no colour and turns nothing."""
    letters = row["axes"].lower().replace("i", "z")
    ours = [letter for letter in "tzcsyx" if letter in letters]
    pixels = tifffile.imread(path).transpose([letters.index(letter) for letter in ours])
    sizes = dict(zip(ours, pixels.shape, strict=True))
    planes, channels = (math.prod(sizes.get(letter, 1) for letter in kind) for kind in ("tz", "cs"))
    pixels_PCYX = pixels.reshape(planes, channels, *pixels.shape[-2:])
    return pixels_PCYX.astype(np.uint8) if pixels.dtype == bool else pixels_PCYX


def as_declared(path, stored_PCYX):
    """The same pixels as the file's tags mean them, by Pillow, LittleCMS or the definition: (expected, alpha or None, tolerance)."""
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[0]
        kind, turned, extra = page.photometric.name, page.tags.valueof(274, 1), page.extrasamples
    alpha_PYX, tolerance = None, 0
    if extra and extra[-1] in (1, 2):
        stored_PCYX, alpha_PYX = stored_PCYX[:, :-1], stored_PCYX[:, -1]
        assert extra[-1] == 2 or set(np.unique(alpha_PYX)) <= {0, np.iinfo(alpha_PYX.dtype).max}  # nothing to divide by
    if kind == "MINISWHITE":
        stored_PCYX = 1 - stored_PCYX  # these are all of one bit
    elif kind == "PALETTE":
        stored_PCYX = np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1)[np.newaxis]
    elif kind == "SEPARATED" and stored_PCYX.dtype.kind == "u":
        light = 1 - stored_PCYX / np.iinfo(stored_PCYX.dtype).max
        stored_PCYX = np.rint(light[:, :3] * light[:, 3:] * np.iinfo(stored_PCYX.dtype).max).astype(stored_PCYX.dtype)
    elif kind == "CIELAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        to_rgb = ImageCms.buildTransform(*profiles, "LAB", "RGB", flags=ImageCms.Flags.NOOPTIMIZE)
        stored_PCYX = np.asarray(ImageCms.applyTransform(Image.open(path), to_rgb)).transpose(2, 0, 1)[np.newaxis]
        tolerance = 3
    if turned in range(2, 9):
        image = Image.fromarray(stored_PCYX[0, 0])
        image.getexif()[274] = turned
        stored_PCYX = np.asarray(ImageOps.exif_transpose(image))[np.newaxis, np.newaxis]
    return stored_PCYX, alpha_PYX, tolerance


@pytest.mark.parametrize("row", WHOLE, ids=lambda row: row["file"])
def test_pixels_are_as_declared(row):
    """Every file that tifffile decodes gives its pixels, read by boxes, as the tags mean them: upright, RGB, without alpha."""
    path = ROOT / row["file"]
    stored_PCYX = tifffiles_pixels(path, row)
    if row["compression"] not in LOSSY:  # the oracle decodes what it decoded when the index was made
        digest = hashlib.sha256(np.ascontiguousarray(tifffile.imread(path)).tobytes()).hexdigest()
        assert digest.startswith(row["pixels_sha256_12"])
    expected_PCYX, alpha_PYX, tolerance = as_declared(path, stored_PCYX)
    tolerance = max(tolerance, 2 if row["compression"] in LOSSY else 0)
    with build("readers", {"name": "auto"}).open(str(path)) as raster:
        assert raster.header.dtype == expected_PCYX.dtype
        read = [by_boxes(raster, plane) for plane in range(raster.header.num_planes)]
        assert raster.header.has_mask or alpha_PYX is None
    pixels_PCYX, declared_PYX = (np.stack(one) for one in zip(*read, strict=True))
    if tolerance:
        assert pixels_PCYX.shape == expected_PCYX.shape
        assert np.abs(pixels_PCYX.astype(int) - expected_PCYX.astype(int)).max() <= tolerance
    else:
        np.testing.assert_array_equal(pixels_PCYX, expected_PCYX)
    if alpha_PYX is not None:
        np.testing.assert_array_equal(declared_PYX, alpha_PYX > 0)


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row["file"])
def test_numbers_that_are_no_pixels(row):
    """Complex numbers and 64-bit integers are refused at open."""
    with pytest.raises(InputError, match=row["dtype"]), build("readers", {"name": "auto"}).open(str(ROOT / row["file"])):
        pass


def zarr_nodes(kind):
    """Folders of the Zarr arrays, or groups, below the test data."""
    v2 = {"array": ".zarray", "group": ".zgroup"}[kind]
    v3 = [path.parent for path in ROOT.rglob("zarr.json") if json.loads(path.read_text()).get("node_type") == kind]
    return sorted({*v3, *(path.parent for path in ROOT.rglob(v2))})


def zarr_outcome(path):
    """Read an array by its own path, its axes being t, c, z, y, x: ``equal`` to what zarr-python reads, or why it is refused."""
    array = zarr.open_array(path, mode="r")
    axes = "tczyx"[-array.ndim :] if 1 < array.ndim < 6 and array.dtype.name in DTYPES else None
    try:
        with build("readers", {"name": "auto", "axes": axes}).open(str(path)) as raster:
            read_PCYX = np.stack([by_boxes(raster, plane)[0] for plane in range(raster.header.num_planes)])
    except InputError as error:
        if "which is not installed" in str(error):
            return "codec"
        if axes or str(path) not in str(error):
            raise
        return "no image"
    expected = array[...].reshape([1] * (5 - array.ndim) + list(array.shape)).swapaxes(1, 2)
    np.testing.assert_array_equal(read_PCYX, expected.reshape(read_PCYX.shape))
    return "equal"


@pytest.mark.filterwarnings("ignore:Both zarr.json")
def test_every_file_has_its_promise():
    """All 383 files are held to one: pixels of the index or of another reader, a refusal, a store's part, or no image at all."""
    became = Counter(zarr_outcome(path) for path in zarr_nodes("array"))
    assert became["equal"] >= 15, became
    assert became["codec"] <= 2, became
    stores = {path for kind in ("array", "group") for path in zarr_nodes(kind)}
    for store in sorted({*(ROOT / "ome-zarr" / "invalid-v05").iterdir()} - stores):  # attributes alone, no pixels
        with pytest.raises(InputError, match=store.name), build("readers", {"name": "auto"}).open(str(store)):
            pass
        stores.add(store)
    promised = {row["file"] for row in (*WHOLE, *LARGE, *REFUSED)} | set(BROKEN)
    promised |= {f"jpeg2000/{name}" for name in JPEG2000} | {f"dicom/{name}" for name in (*DICOM, "seg_image_sm_dots.dcm")}
    left = []
    for path in (path for path in ROOT.rglob("*") if path.is_file()):
        name = path.relative_to(ROOT).as_posix()
        is_part = any(parent in stores for parent in path.parents)
        is_about = name in ("INDEX.tsv", "README.md") or name.startswith("ome-zarr/spec-suites")
        left += [] if name in promised or is_part or is_about else [name]
    assert not left


@pytest.mark.parametrize("name", DICOM)
def test_dicom_of_other_programs(name):
    """Every level of a slide, whichever of its files is named, has openslide's pixels."""
    openslide = pytest.importorskip("openslide")
    path = ROOT / "dicom" / name
    with openslide.OpenSlide(path) as slide:
        for level, (width, height) in enumerate(slide.level_dimensions):
            expected_YXA = np.asarray(slide.read_region((0, 0), level, (width, height)))
            with build("readers", {"name": "auto", "level": level}).open(str(path)) as raster:
                assert raster.header.shape == (height, width)
                pixels_YXC = np.moveaxis(by_boxes(raster, 0)[0], 0, -1)
            assert np.abs(pixels_YXC.astype(int) - expected_YXA[..., :3]).max() <= 2  # other builds of libjpeg may differ


LOOK = """
import sys
from pipeline.errors import BlockError, InputError
from pipeline.geometry import Box
from pipeline.plugins import build
for path in sys.argv[1:]:
    try:
        with build("readers", {"name": "auto"}).open(path) as raster:
            shape = raster.header.shape
            for plane in range(min(raster.header.num_planes, 3)):
                assert raster.read(Box(0, 0, *shape).clip((4000, 4000)), plane).size
        print("read", path)
    except (InputError, BlockError) as error:
        assert path in str(error)
        print(type(error).__name__, path)
"""


def look(paths):
    """What became of each file, ``read`` or the error's name, found out in a process of its own."""
    command = [sys.executable, "-c", LOOK, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return dict(reversed(line.split(" ", 1)) for line in done.stdout.splitlines())


def test_broken_files_end_cleanly():
    """A broken file is refused or fails its blocks, by name: no traceback, no hang, no dead process."""
    became = look([ROOT / name for name in BROKEN])
    assert len(became) == len(BROKEN)
    decoded = {row["file"] for row in INDEX if row["tifffile"] == "ok"}
    for name in BROKEN:
        assert became[str(ROOT / name)] == "read" or name not in decoded, name
    assert sum(outcome != "read" for outcome in became.values()) >= 7


def test_truncated_files_end_cleanly(tmp_path):
    """Every kind of file, cut anywhere, is refused or fails its blocks; what is left of it may be read."""
    cut = []
    for row in INDEX:
        if not row["shape"] or num_bytes(row) > 1 << 23:
            continue
        content = (ROOT / row["file"]).read_bytes()
        for share in (0.3, 0.9):
            path = tmp_path / f"{share}-{row['file'].replace('/', '-')}"
            path.write_bytes(content[: int(len(content) * share)])
            cut.append(path)
    became = look(cut)
    assert len(became) == len(cut) > 200
    assert sum(outcome != "read" for outcome in became.values()) > len(cut) // 2


@pytest.mark.parametrize("name", ["grey10kx5k.tif", "yb10kx5k.zstd.tiff"])
def test_memory_is_bounded_by_the_region(name):
    """A box of a 10000 x 5000 image decodes the strips or tiles that it touches, and takes memory for no more."""
    with build("readers", {"name": "tiff"}).open(str(ROOT / "big-dims" / name)) as raster:
        page, decoded = raster.page, []
        raster.segments._decode = lambda *args, decode=raster.segments._decode: decoded.append(args) or decode(*args)
        box = Box(2000, 3000, 2256, 3256)
        tracemalloc.start()
        raster.read(box)
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        height, width = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
        touched = ((box.y1 - 1) // height - box.y0 // height + 1) * ((box.x1 - 1) // width - box.x0 // width + 1)
        assert len(decoded) == touched < math.prod(page.chunked) // 4
        segment_bytes = height * width * raster.header.channels
        assert peak_bytes < 3 * segment_bytes + 4 * box.area * raster.header.channels + (1 << 20)


def test_absent_tiles_of_a_sparse_map():
    """All 1600 tiles of a 20480 x 20480 map are absent: any box is nodata, at once."""
    with build("readers", {"name": "auto"}).open(str(ROOT / "cog" / "sparse.tiff")) as raster:
        assert (raster.header.shape, raster.header.unit, raster.header.pixel_size) == ((20480, 20480), "meter", (0.35, 0.35))
        assert not raster.read(Box(19000, 18000, 20480, 20000)).any()


def test_facts_of_known_files():
    """Scale, planes and levels of files whose makers say what they are."""
    reader = {"name": "auto"}
    with build("readers", reader).open(str(ROOT / "svs" / "CMU-1-Small-Region.svs")) as raster:
        assert (raster.header.shape, raster.header.pixel_size, raster.header.unit) == ((2967, 2220), (0.499, 0.499), "micrometer")
    with build("readers", reader).open(str(ROOT / "ome-tiff" / "multi-channel-z-series.ome.tif")) as raster:
        assert (raster.header.channels, raster.header.planes) == (3, {"z": 5})
    with build("readers", reader | {"level": 4}).open(str(ROOT / "big-dims" / "yb10kx5k.zstd.tiff")) as raster:
        assert max(raster.header.shape) == 10000 // 16
        assert raster.read(Box(0, 0, *raster.header.shape)).shape == (3, *raster.header.shape)
    with build("readers", reader).open(str(ROOT / "geotiff" / "RGB.byte.tif")) as raster:
        assert raster.header.nodata == 0.0
        assert raster.header.pixel_size == pytest.approx((300.0418, 300.0379), abs=1e-4)
        assert raster.header.offset == pytest.approx((2826915.0, 101985.0))


def test_zarrs_of_other_programs():
    """Arrays written by another implementation, one a codec, hold 0..99; a codec that is not installed is named."""
    for path in sorted((ROOT / "zarr-v3" / "v3").glob("array_*.zarr")):
        try:
            with build("readers", {"name": "auto"}).open(str(path)) as raster:
                pixels_YX = raster.read(Box(0, 0, 10, 10))[0]
        except InputError as error:
            assert f"codec 'numcodecs.{path.stem.removeprefix('array_')}', which is not installed" in str(error)  # noqa: PT017 - may be
        else:
            np.testing.assert_array_equal(pixels_YX, np.arange(100).reshape(10, 10))


@pytest.mark.parametrize("folder", ["valid", "invalid", "warning"])
def test_ome_zarr_examples(folder):
    """Every published OME-Zarr example, and each field of a plate, is read as zarr-python reads it; invalid ones may be refused by name."""
    reader = build("readers", {"name": "auto"})
    stores = sorted((ROOT / "ome-zarr" / "examples" / folder).glob("*.zarr"))
    for path in [Path(one) for store in stores for one in [member.path for member in reader.members(str(store))] or [store]]:
        try:
            with reader.open(str(path)) as raster:
                read = np.stack([by_boxes(raster, plane)[0][0] for plane in range(raster.header.num_planes)])
                np.testing.assert_array_equal(np.squeeze(read), np.squeeze(zarr.open_array(path / "0", mode="r")[...]))
        except InputError as error:
            assert str(path) in str(error)  # noqa: PT017 - both ends are allowed, each with its own promise
            assert folder == "invalid"


@pytest.mark.parametrize("name", JPEG2000)
def test_jpeg2000_of_other_programs(name):
    """JPEG 2000 of 9 bits, of 4 bits with a sign, with a profile, tiled and subsampled is what OpenJPEG decodes as a whole, within 1."""
    path = ROOT / "jpeg2000" / name
    expected_CYX = np.moveaxis(np.atleast_3d(imagecodecs.jpeg2k_decode(path.read_bytes())), -1, 0)
    with build("readers", {"name": "auto"}).open(str(path)) as raster:
        header, pixels_CYX = raster.header, by_boxes(raster, 0, (77, 91))[0]
        assert (header.dtype, header.bits) == (expected_CYX.dtype.name, {"9bit.j2k": 9, "int8_4bit.j2k": 4}.get(name, 0))
        assert header.is_color == (len(expected_CYX) == 3)
    assert np.abs(pixels_CYX.astype(int) - expected_CYX).max() <= (1 if name == "ycbc.j2k" else 0)
    for level in range(1, len(header.levels)):
        with build("readers", {"name": "auto", "level": level}).open(str(path)) as raster:
            assert raster.header.shape == header.levels[level]
            assert raster.read(Box(0, 0, *raster.header.shape)).shape == (header.channels, *header.levels[level])


def test_pictures_of_data_sets():
    """Pictures of published data sets have Pillow's pixels: grey, colour and palette, PNG and JPEG."""
    paths = sorted(path for path in ROOT.parent.glob("microscopy/*/*/*") if path.suffix in (".png", ".jpg", ".bmp"))[::37]
    for path in paths:
        with Image.open(path) as image, build("readers", {"name": "picture", "palette": "index"}).open(str(path)) as raster:
            assert image.mode in ("1", "L", "P", "RGB", "RGBA", "I;16"), path
            expected_CYX = np.moveaxis(np.atleast_3d(np.asarray(image)), -1, 0)[: raster.header.channels]
            np.testing.assert_array_equal(raster.read(Box(0, 0, *raster.header.shape)), expected_CYX, str(path))
    assert len(paths) > 20
