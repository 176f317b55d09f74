"""Hostile and damaged TIFFs: refused when they are opened, or block by block, in little memory and time; never a hang."""

from __future__ import annotations

import lzma
import struct
import subprocess
import sys
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile

from tests.readers.damage import damaged_copies
from tests.readers.tiff_files import GREY, RGB, noise, ome_image, ome_text, write_pages

LOOK = """
import resource
import sys
import time
import warnings
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
warnings.simplefilter("ignore")
import imagecodecs, skimage.color, tifffile
from pipeline.errors import BlockError, InputError
from pipeline.geometry import Box
from pipeline.plugins import build
reader = build("readers", {"name": "tiff"})
def megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
for path in sys.argv[1:]:
    before, start = megabytes(), time.monotonic()
    try:
        reader.companions(path)
        with reader.open(path) as raster:
            height, width = raster.header.shape
            for y, x in ((0, 0), (height - 1, width - 1)):
                box = Box(y, x, y + 200, x + 200).clip((height, width))
                for plane in range(min(raster.header.num_planes, 2)):
                    pixels, valid = raster.read_valid(box, plane)
                    assert pixels.shape == (raster.header.channels, *box.shape)
                    assert valid is None or valid.shape == box.shape
        became = "read"
    except (InputError, BlockError) as error:
        assert path in str(error), str(error)
        became = f"{type(error).__name__} {error}".replace("\\n", " ").replace("\\t", " ")
    print(path, round(time.monotonic() - start, 3), megabytes() - before, became, sep="\\t")
"""


def look(*paths):
    """What became of each file, in a process with bounds: path -> (seconds, megabytes more, outcome)."""
    command = [sys.executable, "-c", LOOK, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    return {path: (float(seconds), int(megabytes), became) for path, seconds, megabytes, became in rows}


def directory(tags, following, big=False):
    """One image directory: tags (code, type, count, value) with their values inside, and the offset of the next."""
    number, tag, pointer = ("<Q", "<HHQQ", "<Q") if big else ("<H", "<HHII", "<I")
    return struct.pack(number, len(tags)) + b"".join(struct.pack(tag, *one) for one in tags) + struct.pack(pointer, following)


def grey_tags(height=8, width=8, offset=8, **more):
    """Tags of an uncompressed grey image of one strip."""
    tags = {256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 273: (4, 1, offset)}
    tags |= {277: (3, 1, 1), 278: (4, 1, height), 279: (4, 1, min(height * width, 2**32 - 1))}
    tags |= {int(code[1:]): value for code, value in more.items()}
    return [(code, *value) for code, value in sorted(tags.items())]


def chain(path, number, last=0, heights=(8,)):
    """A file of many directories, the last of which points to ``last``, or to itself where that is negative."""
    size = len(directory(grey_tags(), 0))
    start = 8 + 64
    content = bytearray(struct.pack("<2sHI", b"II", 42, start) + bytes(64))
    for index in range(number):
        following = start + (index + 1) * size if index + 1 < number else start + (number + last) * size if last < 0 else last
        content += directory(grey_tags(heights[index % len(heights)]), following)
    path.write_bytes(content)
    return path


def zeros(shape, compression, path, claimed, **options):
    """A file whose tiles of 64 x 64 hold pictures of ``shape``."""
    encode = {
        "zlib": lambda pixels: zlib.compress(pixels.tobytes()),
        "zstd": lambda pixels: imagecodecs.zstd_encode(pixels.tobytes()),
        "lzma": lambda pixels: lzma.compress(pixels.tobytes(), preset=0),
        "jpeg": imagecodecs.jpeg_encode,
        "png": imagecodecs.png_encode,
        "webp": imagecodecs.webp_encode,
        "jpegxl": lambda pixels: imagecodecs.jpegxl_encode(pixels, effort=1),
        "jpegxr": imagecodecs.jpegxr_encode,
        "jpeg2000": lambda pixels: imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", reversible=True),
        "lerc": imagecodecs.lerc_encode,
    }[compression]
    tile = bytes(encode(np.zeros(shape, np.uint8)))
    numbers = {"zlib": 8, "zstd": 50000, "lzma": 34925, "png": 34933, "webp": 50001, "jpegxl": 50002, "jpegxr": 34934, "jpeg2000": 34712}
    numbers |= {"jpeg": 7, "lerc": 34887}
    kind = RGB if claimed[2:] else GREY
    tifffile.imwrite(path, iter([tile]), shape=claimed, dtype="u1", tile=(64, 64), compression=numbers[compression], **kind, **options)
    return path


def test_directories_without_end_are_refused(tmp_path):
    """Circles of any length, and more directories than any image has, are refused by name in seconds."""
    files = {f"circle of {number}": chain(tmp_path / f"c{number}.tif", number, -number) for number in (1, 2, 99, 150, 3000)}
    files["tail"] = chain(tmp_path / "tail.tif", 200, -20)
    files["many"] = chain(tmp_path / "many.tif", 100_000)
    files["mixed"] = chain(tmp_path / "mixed.tif", 20_000, heights=(7, 8))
    found = look(*files.values())
    for name, path in files.items():
        seconds, megabytes, became = found[str(path)]
        assert became.startswith("InputError"), name
        assert ("more than" if name in ("many", "mixed") else "returns to") in became
        assert seconds < 5
        assert megabytes < 300


def test_many_directories_below_the_limit_are_read(tmp_path):
    """Ten thousand planes are an image."""
    seconds, megabytes, became = look(chain(tmp_path / "a.tif", 10_000))[str(tmp_path / "a.tif")]
    assert (became, seconds < 20, megabytes < 500) == ("read", True, True)


@pytest.mark.parametrize(("height", "width"), [(10**9, 10**9), (2**32 - 1, 2**32 - 1), (3_000_000, 3_000_000)])
def test_an_absurd_size_is_refused(height, width, tmp_path):
    """A billion pixels a side is damage, whatever the file says of its strips."""
    for index, more in enumerate(({}, {"t259": (3, 1, 8)}, {"t278": (4, 1, 16)})):
        content = struct.pack("<2sHI", b"II", 42, 72) + bytes(64) + directory(grey_tags(height, width, **more), 0)
        (tmp_path / f"{index}.tif").write_bytes(content)
    for seconds, megabytes, became in look(*sorted(tmp_path.iterdir())).values():
        assert became.startswith("InputError")
        assert seconds < 5
        assert megabytes < 200


@pytest.mark.parametrize(("height", "width"), [(10**9, 64), (64, 10**9), (2_000_000, 2_000_000)])
def test_a_claimed_size_without_its_bytes_ends_cleanly(height, width, tmp_path):
    """A large image of a tiny file opens or not; what is missing is a block error, in memory for no more than a region."""
    for index, more in enumerate(
        ({}, {"t278": (4, 1, 16)}, {"t322": (4, 1, 256), "t323": (4, 1, 256), "t324": (4, 1, 8), "t325": (4, 1, 64)})
    ):
        content = struct.pack("<2sHI", b"II", 42, 72) + bytes(64) + directory(grey_tags(height, width, **more), 0)
        (tmp_path / f"{index}.tif").write_bytes(content)
    for seconds, megabytes, became in look(*sorted(tmp_path.iterdir())).values():
        assert became.startswith(("InputError", "BlockError"))
        assert seconds < 5
        assert megabytes < 300


def test_tiles_larger_than_they_claim_are_refused(tmp_path):
    """A tile of 64 x 64 that holds 8000 x 8000 pixels fails its block before it takes the memory; the right size is read."""
    names = ("zlib", "zstd", "lzma", "jpeg", "png", "webp", "jpegxl", "jpegxr", "jpeg2000", "lerc")
    samples = {name: (3,) if name in ("webp", "jpeg") else () for name in names}
    fair = {name: zeros((64, 64, *samples[name]), name, tmp_path / f"fair.{name}.tif", (64, 64, *samples[name])) for name in names}
    bomb = {name: zeros((8000, 8000, *samples[name]), name, tmp_path / f"bomb.{name}.tif", (64, 64, *samples[name])) for name in names}
    found = look(*fair.values(), *bomb.values())
    for name in names:
        assert found[str(fair[name])][2] == "read", name
        seconds, megabytes, became = found[str(bomb[name])]
        # lzma stops where the tile is full, and says nothing of what is left.
        assert became.startswith("BlockError") or name == "lzma", (name, became)
        assert seconds < 5, name
        assert megabytes < 40, name


BOMB = "".join(f'<!ENTITY {name} "{f"&{before};" * 10}">' for before, name in zip("abcdefghi", "bcdefghij", strict=True))


XML = (
    f'<?xml version="1.0"?><!DOCTYPE OME [<!ENTITY a "aaaaaaaaaa">{BOMB}]><OME>&j;</OME>',
    f'<!DOCTYPE OME [<!ENTITY a "{"a" * 100000}">]><OME>{"&a;" * 10000}</OME>',
    '<!DOCTYPE OME SYSTEM "file:///etc/passwd"><OME></OME>',
    f'<!-- {"x" * 5000} --><!DOCTYPE scn [<!ENTITY a "a">]><scn>&a;</scn>',
)


def test_xml_that_expands_is_refused(tmp_path):
    """A document type in the description, in a companion file or in GDAL's metadata is refused before anything expands."""
    paths = []
    for index, xml in enumerate(XML):
        paths.append(write_pages(tmp_path / f"{index}.ome.tif", noise(20, 30), description=xml))
        (tmp_path / f"{index}.companion.ome").write_text(xml, encoding="utf-8")
        bare = ome_text(f'<BinaryOnly MetadataFile="{index}.companion.ome" UUID="urn:uuid:7"/>')
        paths.append(write_pages(tmp_path / f"{index}.bare.ome.tif", noise(20, 30), description=bare))
        paths.append(tmp_path / f"{index}.tif")
        tags = [(42112, 2, 0, xml.replace("OME", "GDALMetadata"), True)]
        tifffile.imwrite(paths[-1], noise(20, 30), extratags=tags, **GREY)
    found = look(*paths)
    assert len(found) == 3 * len(XML)
    for seconds, megabytes, became in found.values():
        assert became.startswith("InputError")
        assert "document type" in became
        assert seconds < 5
        assert megabytes < 100


def test_metadata_that_is_damaged_costs_the_metadata_alone(tmp_path):
    """XML that is cut off, deep or of the wrong kind leaves the pixels readable, or is refused by name."""
    texts = [
        "<OME>",
        "<OME><Image></OME>",
        "<a>" * 50_000 + "OME>",
        ome_text("<Image/>"),
        ome_text(ome_image(0, "a", (20, 30)).replace('SizeC="1"', 'SizeC="x"')),
    ]
    paths = [write_pages(tmp_path / f"{index}.ome.tif", noise(20, 30), description=text) for index, text in enumerate(texts)]
    for seconds, megabytes, became in look(*paths).values():
        assert became.startswith(("read", "InputError"))
        assert seconds < 5
        assert megabytes < 300


def test_tags_of_absurd_length_are_refused(tmp_path):
    """A tag that claims more values than any image has is refused before they are read."""
    path = tmp_path / "a.tif"
    with path.open("wb") as stream:
        stream.write(struct.pack("<2sHI", b"II", 42, 72) + bytes(64))
        stream.write(directory(grey_tags(t324=(4, 200_000_000, 4096), t325=(4, 200_000_000, 4096), t322=(4, 1, 16), t323=(4, 1, 16)), 0))
        stream.truncate(2_000_000_000)
    seconds, megabytes, became = look(path)[str(path)]
    assert became.startswith("InputError")
    assert "324" in became or "325" in became
    assert seconds < 5
    assert megabytes < 100


def small_files(folder):
    """One file of each kind that a tag can make different."""
    folder.mkdir()
    colors, mask = np.tile(np.arange(256, dtype=np.uint16), (3, 1)), noise(64, 96) > 99
    options = {
        "raw": (noise(64, 96), GREY),
        "tiles": (noise(64, 96, 3), {**RGB, "tile": (32, 32), "compression": "zlib"}),
        "strips": (noise(64, 96), {**GREY, "rowsperstrip": 7, "compression": "lzw", "predictor": True}),
        "jpeg": (noise(64, 96, 3), {**RGB, "tile": (32, 32), "compression": "jpeg"}),
        "jpeg2000": (noise(64, 96, 3), {**RGB, "tile": (32, 32), "compression": "jpeg2000"}),
        "png": (noise(64, 96, 3), {**RGB, "tile": (32, 32), "compression": "png"}),
        "webp": (noise(64, 96, 3), {**RGB, "tile": (32, 32), "compression": "webp"}),
        "palette": (noise(64, 96), {"photometric": "palette", "colormap": colors, "metadata": None}),
        "lab": (noise(64, 96, 3), {"photometric": "cielab", "metadata": None}),
        "ycbcr": (noise(64, 96, 3), {"photometric": "ycbcr", "subsampling": (1, 1), "metadata": None, "compression": "zlib"}),
        "alpha": (noise(64, 96, 4), {**RGB, "extrasamples": ["assocalpha"]}),
        "packed": (noise(64, 96, dtype="uint16"), {**GREY, "bitspersample": 12}),
        "turned": (noise(64, 96), {**GREY, "extratags": [(274, 3, 1, 6, True)], "compression": "zstd"}),
        "nodata": (noise(64, 96, dtype="float32"), {**GREY, "extratags": [(42113, 2, 0, "7", True)]}),
        "ome": (noise(2, 3, 64, 96), {"ome": True, "photometric": "minisblack", "metadata": {"axes": "ZCYX", "PhysicalSizeX": 0.5}}),
        "imagej": (noise(2, 3, 64, 96), {"imagej": True, "metadata": {"axes": "ZCYX", "unit": "um"}, "resolution": (2, 2)}),
    }
    for name, (image, how) in options.items():
        tifffile.imwrite(folder / f"{name}.tif", image, **how)
    with tifffile.TiffWriter(folder / "mask.tif") as writer:
        writer.write(noise(64, 96, 3), tile=(32, 32), compression="zlib", subifds=1, **RGB)
        writer.write(noise(32, 48, 3), tile=(32, 32), compression="zlib", subfiletype=1, **RGB)
        writer.write(mask, photometric="mask", subfiletype=4, tile=(32, 32), metadata=None)
    return sorted(folder.iterdir())


def test_damaged_files_end_cleanly(tmp_path):
    """Bytes flipped anywhere, files cut anywhere: read, or refused by name; no other error, no hang, no dead process."""
    became = look(*damaged_copies(small_files(tmp_path / "small"), 300, tmp_path, seed=7, head=600))
    assert len(became) == 300
    outcomes = [outcome.split()[0] for _, _, outcome in became.values()]
    assert {"read", "InputError", "BlockError"} == set(outcomes)
    assert max(seconds for seconds, _, _ in became.values()) < 5
    assert sum(megabytes for _, megabytes, _ in became.values()) < 1500
