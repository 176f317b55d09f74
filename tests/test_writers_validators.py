"""What others say of our files: published models and readers open them, and see what was meant."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from ome_zarr_models.v04.image_label import ImageLabel as ImageLabel04
from ome_zarr_models.v05.image import Image
from ome_zarr_models.v05.image_label import ImageLabel
from PIL import Image as Picture

from pipeline.geometry import Box
from pipeline.plugins import build
from pipeline.raster import ArrayRaster, Header, PlaneStep
from pipeline.storage import BlockStore, LocalStorage
from pipeline.tiling import Grid
from pipeline.writers import MaskMeta
from pipeline.writers._pyramid import mean, mode, nearest
from pipeline.writers.geojson import GeoJson
from pipeline.writers.ome_tiff import OmeTiff
from pipeline.writers.ome_zarr import OmeZarr
from pipeline.writers.overlay import Overlay
from pipeline.writers.png import Png
from pipeline.writers.tiff import Tiff
from tests.writers.objects_by_hand import view_of

CLASSES = ({"id": 0, "name": "background", "color": "#000000"}, {"id": 1, "name": "nucleus", "color": "#e6194b"})
UTM = {
    "33550": {"type": 12, "value": [0.5, 0.5, 0.0]},
    "33922": {"type": 12, "value": [0.0, 0.0, 0.0, 691000.0, 5334000.0, 0.0]},
    "34735": {"type": 3, "value": [1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32632]},
    "34737": {"type": 2, "value": "WGS 84 / UTM zone 32N|"},
    "42113": {"type": 2, "value": "0"},
}


def mask_of(shape, seed=0):
    """Patches of two classes, some pixels without prediction."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 2, (-(-shape[-2] // 8), -(-shape[-1] // 8)))
    mask = np.kron(coarse, np.ones((8, 8), int))[: shape[-2], : shape[-1]].astype(np.uint8)
    mask[rng.random(mask.shape) < 0.01] = 255
    return np.broadcast_to(mask, shape).copy()


def written(path, meta, pixels, block=512, writer=None):
    """A group written block by block, as a run does, and finished."""
    level = (writer or OmeZarr()).create(path, meta, block)
    raster = ArrayRaster(pixels, level.header)
    for plane in range(level.header.num_planes):
        for box in Grid(level.header.shape, core=block, halo=0, block=block).blocks():
            level.write(box, raster.read(box, plane), plane)
    (writer or OmeZarr()).finish(path, meta)
    return zarr.open_group(path, mode="r")


def naive_mode(mask_YX):
    """The most frequent value of each 2x2 square, ties to the lowest, by counting."""
    padded = np.pad(mask_YX, [(0, side % 2) for side in mask_YX.shape], mode="edge")
    squares = padded.reshape(padded.shape[0] // 2, 2, padded.shape[1] // 2, 2).swapaxes(1, 2).reshape(-1, 4)
    return np.array([np.bincount(square).argmax() for square in squares]).reshape(padded.shape[0] // 2, -1)


def test_levels_keep_the_number_of_a_plane(tmp_path):
    """Where a file lists z before t, every level still holds the plane that level 0 holds."""
    meta = MaskMeta((600, 20), planes={"z": 3, "t": 2}, classes=CLASSES)
    mask = np.stack([mask_of((600, 20), seed) for seed in range(6)]).reshape(3, 2, 600, 20)
    group = written(tmp_path / "a.ome.zarr", meta, mask)
    np.testing.assert_array_equal(group["0"][...], mask.swapaxes(0, 1))
    np.testing.assert_array_equal(group["1"][...], mask.swapaxes(0, 1)[..., ::2, ::2])


@pytest.mark.parametrize("planes", [{}, {"t": 2}, {"t": 2, "z": 3}], ids=str)
def test_a_mask_is_a_valid_label_image(tmp_path, planes):
    """A mask satisfies the OME-Zarr 0.5 model of label images, and says classes, colours, axes and scale of every level."""
    steps = {
        axis: step for axis, step in {"t": PlaneStep(30.0, "second", 5.0), "z": PlaneStep(2.0, "micrometer")}.items() if axis in planes
    }
    scale = {"pixel_size": (0.5, 0.25), "unit": "micrometer", "offset": (10.0, 20.0), "plane_steps": steps}
    meta = MaskMeta((1300, 700), planes=planes, classes=CLASSES, **scale)
    mask = mask_of((*planes.values(), 1300, 700))
    group = written(tmp_path / "a.ome.zarr", meta, mask)
    ImageLabel.from_zarr(group)
    ome = group.attrs["ome"]
    assert ome["version"] == "0.5"
    assert ome["image-label"]["colors"] == [
        {"label-value": 0, "rgba": [0, 0, 0, 0]},
        {"label-value": 1, "rgba": [0xE6, 0x19, 0x4B, 255]},
        {"label-value": 255, "rgba": [0, 0, 0, 0]},
    ]
    assert [(one["label-value"], one["name"]) for one in ome["image-label"]["properties"][:2]] == [(0, "background"), (1, "nucleus")]
    (scales,) = ome["multiscales"]
    axes = [*planes, "y", "x"]
    units = [axis.get("unit") for axis in scales["axes"]]
    assert (scales["name"], [axis["name"] for axis in scales["axes"]], units) == (
        "a",
        axes,
        [*(steps[axis].unit for axis in planes), *["micrometer"] * 2],
    )
    for level, dataset in enumerate(scales["datasets"]):
        scale, move = dataset["coordinateTransformations"]
        ones, zeros = [steps[axis].step for axis in planes], [steps[axis].offset for axis in planes]
        assert scale["scale"] == [*ones, 0.5 * 2**level, 0.25 * 2**level]
        assert move["translation"] == [*zeros, 10 + 0.5 * (2**level - 1) / 2, 20 + 0.25 * (2**level - 1) / 2]
        array = group[dataset["path"]]
        assert (array.metadata.dimension_names, array.fill_value, array.shards is not None) == (tuple(axes), 255, True)
        np.testing.assert_array_equal(array[...], mask[..., :: 2**level, :: 2**level])
    assert sorted(group.array_keys()) == ["0", "1", "2"]


@pytest.mark.parametrize(
    "header",
    [
        Header((700, 1100), 3, "uint8", pixel_size=(0.5, 0.5), unit="micrometer"),
        Header((700, 1100), 2, "uint16", {"t": 2, "z": 2}, channel_names=("DAPI", "GFP")),
        Header((90, 110), 1, "float32", pixel_size=(1e-4, 1e-4), unit="degree", nodata=-9999.0),
        Header((90, 110), 1, "uint16", channel_names=("DAPI",)),
        Header((90, 110), 1, "uint8", nodata=-1.0),
    ],
    ids=["rgb", "stack", "map", "one named channel", "nodata that the type cannot hold"],
)
def test_an_image_is_a_valid_ome_zarr(tmp_path, header):
    """An image of channels keeps pixels and type, satisfies the OME-Zarr 0.5 model, and names its channels."""
    shape = (*header.planes.values(), header.channels, *header.shape)
    pixels = np.random.default_rng(0).integers(0, 200, shape).astype(header.dtype)
    group = written(tmp_path / "a.ome.zarr", header, pixels)
    Image.from_zarr(group)
    named = header.channels > 1 or header.channel_names
    axes = "".join(axis for axis in "tczyx" if axis in header.planes or axis in "yx" or (axis == "c" and named))
    (scales,) = group.attrs["ome"]["multiscales"]
    assert "".join(axis["name"] for axis in scales["axes"]) == axes
    assert [axis.get("unit", "") for axis in scales["axes"]][-1] == header.unit
    array = group["0"]
    assert array.dtype == header.dtype
    in_order = pixels if named else pixels[..., 0, :, :]
    np.testing.assert_array_equal(array[...], np.einsum(f"{''.join(header.planes)}{'c' if named else ''}yx->{axes}", in_order))
    channels = group.attrs["ome"].get("omero", {"channels": []})["channels"]
    assert len(channels) == (header.channels if named else 0)
    if header.channel_names:
        assert tuple(one["label"] for one in channels) == header.channel_names
        smallest = BlockStore.open(tmp_path / "a.ome.zarr" / scales["datasets"][-1]["path"])
        plane_CYX = smallest.read(Box(0, 0, *smallest.header.shape), header.num_planes // 2)
        assert [one["window"]["end"] for one in channels] == plane_CYX.max(axis=(1, 2)).tolist()


def test_levels_of_an_image_are_means(tmp_path):
    """A smaller level of an image holds the mean of each square, rounded, whatever the block side."""
    pixels = np.random.default_rng(0).integers(0, 65535, (2, 1031, 1101), np.uint16)
    group = written(tmp_path / "a.ome.zarr", Header((1031, 1101), 2, "uint16"), pixels, block=300)
    padded = np.pad(pixels, [(0, 0), (0, 1), (0, 1)], mode="edge").astype(np.int64)
    sums = padded[:, ::2, ::2] + padded[:, 1::2, ::2] + padded[:, ::2, 1::2] + padded[:, 1::2, 1::2]
    np.testing.assert_array_equal(group["1"][...], (sums + 2) // 4)


@settings(max_examples=80, deadline=None)
@given(height=st.integers(1, 9), width=st.integers(1, 9), values=st.sampled_from([2, 3, 5, 256]), seed=st.integers(0, 9999))
def test_mode_is_the_most_frequent_value(height, width, values, seed):
    """The mode of a square is what counting gives, ties to the lowest value, so that no prediction loses them."""
    mask_YX = np.random.default_rng(seed).integers(0, values, (height, width)).astype(np.uint8)
    np.testing.assert_array_equal(mode(mask_YX), naive_mode(mask_YX))


@pytest.mark.parametrize("block", [97, 128, 300, 2048])
@pytest.mark.parametrize("how", ["nearest", "mode"])
def test_levels_do_not_depend_on_the_block(tmp_path, block, how):
    """A pyramid made block by block is the one of the whole mask, for odd shapes and odd blocks."""
    mask = mask_of((1037, 603))
    group = written(tmp_path / "a.ome.zarr", MaskMeta((1037, 603), classes=CLASSES), mask, block, OmeZarr(downsample=how))
    halve = {"nearest": nearest, "mode": mode}[how]
    np.testing.assert_array_equal(group["1"][...], halve(mask))
    np.testing.assert_array_equal(group["2"][...], halve(halve(mask)))


def test_means_spread_nodata():
    """A square with any nodata is nodata: an average of a height and -9999 is no height."""
    pixels = np.array([[1, 3, -9999, 8], [3, 1, 8, 8]], np.float32)
    assert mean(-9999.0)(pixels).tolist() == [[2, -9999]]
    assert np.isnan(mean(float("nan"))(np.array([[1, np.nan]], np.float32))).all()


def test_a_half_written_pyramid_is_replaced(tmp_path):
    """Whatever a killed process left behind (torn and temporary files, another cut, no metadata), finishing again gives the same folder."""
    meta, mask = MaskMeta((2100, 1500), classes=CLASSES), mask_of((2100, 1500))
    whole, broken = tmp_path / "w" / "a.ome.zarr", tmp_path / "b" / "a.ome.zarr"
    for path in (whole, broken):
        written(path, meta, mask)
    (broken / "1" / "c" / "0" / "0").write_bytes(b"torn")
    (broken / "1" / "c" / "0" / "1.0123.partial").write_bytes(b"half")
    os.utime(broken / "1" / "c" / "0" / "1.0123.partial", (0, 0))
    (broken / "2" / "zarr.json").unlink()
    BlockStore(broken / "3", Header((9, 9), 1, "uint8"), 64).create(replace=True)
    (broken / "zarr.json").unlink()
    OmeZarr().export(BlockStore.open(broken / "0"), meta, LocalStorage(broken.parent), broken.name)
    files = [{str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()} for path in (whole, broken)]
    assert files[0] == files[1]


def test_what_is_being_written_is_left_alone(tmp_path):
    """Another process may be finishing the same image: its temporary files, which are young, stay."""
    meta, path = MaskMeta((600, 600), classes=CLASSES), tmp_path / "a.ome.zarr"
    written(path, meta, mask_of((600, 600)))
    (path / "1" / "c" / "0" / "1.0123.partial").write_bytes(b"half")
    OmeZarr().finish(path, meta)
    assert (path / "1" / "c" / "0" / "1.0123.partial").exists()


def test_a_source_that_is_ome_zarr_is_linked(tmp_path):
    """A mask of an OME-Zarr image names that image, relative to itself; of any other image, nothing."""
    found = []
    for source in (str(tmp_path / "in" / "a.ome.zarr"), "/data/a.tif", "s3://bucket/a.ome.zarr"):
        path = tmp_path / str(len(found)) / "a.ome.zarr"
        OmeZarr().create(path, MaskMeta((9, 9), classes=CLASSES, source=source), 512)
        found.append(zarr.open_group(path, mode="r").attrs["ome"]["image-label"].get("source"))
        OmeZarr().export(
            ArrayRaster(mask_of((9, 9))), MaskMeta((9, 9), classes=CLASSES, source=source), LocalStorage(path.parent), path.name
        )
        assert zarr.open_group(path, mode="r").attrs["ome"]["image-label"].get("source") == found[-1]
    assert found == [{"image": "../../in/a.ome.zarr"}, None, None]


def test_our_own_reader_sees_scale_and_classes(tmp_path):
    """What is written is read back by the readers: shape, pixel size, unit, offset and channel names."""
    header = Header((700, 600), 2, "uint8", pixel_size=(0.5, 0.25), unit="micrometer", offset=(3.0, 4.0), channel_names=("a", "b"))
    path = tmp_path / "i.ome.zarr"
    pixels = np.random.default_rng(0).integers(0, 9, (2, 700, 600), np.uint8)
    written(path, header, pixels)
    with build("readers", {"name": "auto"}).open(str(path)) as raster:
        found = raster.header
        np.testing.assert_array_equal(raster.read(Box(0, 0, 700, 600)), pixels)
    for name in ("shape", "channels", "dtype", "pixel_size", "unit", "offset", "channel_names"):
        assert getattr(found, name) == getattr(header, name)


@pytest.mark.parametrize("shape", [(1, 1), (5, 3003), (300, 200), (1024, 1025), (2600, 1500)], ids=str)
@pytest.mark.parametrize("compression", ["deflate", "lzw", "zstd", "none"])
def test_tiff_levels_are_pixel_equal(tmp_path, shape, compression):
    """Every level of a TIFF is the mask with a stride, marked as reduced and tiled; small masks have one page."""
    mask = mask_of(shape)
    Tiff(compression=compression).export(ArrayRaster(mask), MaskMeta(shape, classes=CLASSES), LocalStorage(tmp_path), "a.tif")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert len(file.pages) == {1: 1, 5: 3, 300: 1, 1024: 2, 2600: 3}[shape[0]]
        assert len(file.series[0].levels) == len(file.pages)
        for level, page in enumerate(file.pages):
            assert (page.is_tiled, page.is_reduced) == (True, level > 0)
            np.testing.assert_array_equal(page.asarray(), mask[:: 2**level, :: 2**level])


def test_pillow_reads_the_tiff(tmp_path):
    """A reader that shares no code with the writer's library sees the same pixels, and the fill value as nodata."""
    mask = mask_of((700, 600))
    for compression in ("deflate", "lzw", "none"):
        Tiff(compression=compression).export(ArrayRaster(mask), MaskMeta((700, 600), classes=CLASSES), LocalStorage(tmp_path), "a.tif")
        with Picture.open(tmp_path / "a.tif") as picture:
            np.testing.assert_array_equal(np.asarray(picture), mask)
            assert picture.tag_v2[42113] == "255"


def test_georeference_and_scale_survive(tmp_path):
    """GeoTIFF tags are copied as they are, the source's nodata is not, and micrometres become pixels per centimetre of each level."""
    meta = MaskMeta((1100, 1100), classes=CLASSES, georeference=UTM, pixel_size=(0.5, 0.25), unit="micrometer")
    Tiff().export(ArrayRaster(mask_of((1100, 1100))), meta, LocalStorage(tmp_path), "a.tif")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        first, second = file.pages
        for code in ("33550", "33922", "34735"):
            assert list(first.tags[int(code)].value) == UTM[code]["value"]
        assert first.tags[34737].value == UTM["34737"]["value"]
        assert first.tags[42113].value == "255"
        assert not {33550, 42113} & {tag.code for tag in second.tags}
        assert file.geotiff_metadata["ProjectedCSTypeGeoKey"] == 32632
        assert (first.resolutionunit, first.resolution, second.resolution) == (3, (40000.0, 20000.0), (20000.0, 10000.0))


def test_gdal_reads_place_and_levels(tmp_path):
    """GDAL sees the coordinate system, the transform, the overviews and the nodata value."""
    rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
    mask = mask_of((1100, 1100))
    Tiff().export(ArrayRaster(mask), MaskMeta((1100, 1100), classes=CLASSES, georeference=UTM), LocalStorage(tmp_path), "a.tif")
    with rasterio.open(tmp_path / "a.tif") as opened:
        np.testing.assert_array_equal(opened.read(1), mask)
        assert (opened.crs.to_epsg(), opened.nodata, opened.overviews(1)) == (32632, 255, [2])
        assert opened.transform.c == 691000.0


def test_openslide_reads_every_level(tmp_path):
    """OpenSlide, and so QuPath, sees the levels of a single-plane mask."""
    openslide = pytest.importorskip("openslide", reason="openslide is not installed")
    mask = mask_of((2600, 1500))
    Tiff().export(ArrayRaster(mask), MaskMeta((2600, 1500), classes=CLASSES), LocalStorage(tmp_path), "a.tif")
    with openslide.OpenSlide(tmp_path / "a.tif") as slide:
        assert slide.level_dimensions == ((1500, 2600), (750, 1300), (375, 650))
        shown_YXS = np.asarray(slide.read_region((0, 0), 0, (1500, 2600)))[..., :3]
        np.testing.assert_array_equal(shown_YXS, np.array([[0, 0, 0], [0xE6, 0x19, 0x4B], *[[0, 0, 0]] * 254], np.uint8)[mask])


def test_a_stack_is_an_ome_tiff(tmp_path):
    """A (t, z) stack is an OME-TIFF with named axes, physical sizes, and its levels in SubIFDs."""
    planes = {"t": 2, "z": 3}
    meta = MaskMeta((1100, 70), planes=planes, classes=CLASSES, pixel_size=(0.5, 0.25), unit="micrometer")
    mask = np.stack([mask_of((1100, 70), seed) for seed in range(6)]).reshape(2, 3, 1100, 70)
    Tiff().export(ArrayRaster(mask, meta.header), meta, LocalStorage(tmp_path), "a.tif")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        (series,) = file.series
        assert (file.is_ome, series.axes, len(series.levels)) == (True, "TZYX", 2)
        np.testing.assert_array_equal(series.asarray(), mask)
        np.testing.assert_array_equal(series.levels[1].asarray(), mask[..., ::2, ::2])
        assert 'PhysicalSizeX="0.25"' in file.ome_metadata


def test_a_large_mask_gets_large_offsets(tmp_path, monkeypatch):
    """A mask that could pass 4 GiB is a BigTIFF, and any smaller one a classic TIFF."""
    found = []
    for limit in (10**4, 10**9):
        monkeypatch.setattr("pipeline.writers.tiff.CLASSIC_BYTES", limit)
        Tiff().export(ArrayRaster(mask_of((300, 300))), MaskMeta((300, 300), classes=CLASSES), LocalStorage(tmp_path), "a.tif")
        with tifffile.TiffFile(tmp_path / "a.tif") as file:
            found.append(file.is_bigtiff)
    assert found == [True, False]


GROWTH = """
import resource, sys
from pathlib import Path
import numpy as np
from pipeline.geometry import Box
from pipeline.storage import LocalStorage
from pipeline.tiling import Grid
from pipeline.writers import MaskMeta
from pipeline.writers.ome_zarr import OmeZarr
from pipeline.writers.tiff import Tiff

def export(folder, side, block):
    meta = MaskMeta((side, side))
    level = OmeZarr().create(folder / "a.ome.zarr", meta, 2048)
    for box in Grid(meta.shape, 2048, 0, 2048).blocks():
        level.write(box, block)
    OmeZarr(downsample="mode").finish(folder / "a.ome.zarr", meta)
    Tiff(compression="zstd").export(level, meta, LocalStorage(folder), "a.tif")

block = np.kron(np.random.default_rng(0).integers(0, 3, (64, 64), np.uint8), np.ones((32, 32), np.uint8))
folder = Path(sys.argv[1])
export(folder / "small", 4096, block)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
export(folder / "large", 16384, block)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_memory_does_not_grow_with_the_image(tmp_path):
    """Sixteen times the pixels (256 MiB of mask) take at most 48 MiB more: pyramid and TIFF hold rows of tiles, never the image."""
    (tmp_path / "small").mkdir()
    (tmp_path / "large").mkdir()
    done = subprocess.run([sys.executable, "-c", GROWTH, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= 48


def test_no_writer_warns(tmp_path):
    """Exports are silent: nothing that a user would have to interpret reaches the terminal."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        for number, writer in enumerate((OmeZarr(), Tiff())):
            writer.export(ArrayRaster(mask_of((70, 70))), MaskMeta((70, 70), classes=CLASSES), LocalStorage(tmp_path), str(number))
    assert not heard


def test_waiting_tiles_may_spill_to_disk(tmp_path, monkeypatch):
    """Tiles of smaller levels that outgrow memory wait beside the output, unseen, and come back in order."""
    mask, meta = mask_of((2600, 1500)), MaskMeta((2600, 1500), classes=CLASSES)
    Tiff().export(ArrayRaster(mask), meta, LocalStorage(tmp_path), "memory.tif")
    monkeypatch.setattr("pipeline.writers._tiff_levels.SPOOL_BYTES", 100)
    Tiff().export(ArrayRaster(mask), meta, LocalStorage(tmp_path), "disk.tif")
    assert (tmp_path / "memory.tif").read_bytes() == (tmp_path / "disk.tif").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk.tif", "memory.tif"]


@pytest.mark.parametrize("planes", [{}, {"t": 2, "z": 3}], ids=str)
def test_version_04_is_a_valid_label_image(tmp_path, planes):
    """The same mask as OME-Zarr 0.4 satisfies that model, in Zarr v2, with the pixels of every level of 0.5."""
    meta = MaskMeta((1300, 700), planes=planes, classes=CLASSES, pixel_size=(0.5, 0.25), unit="micrometer", offset=(10.0, 20.0))
    mask = mask_of((*planes.values(), 1300, 700))
    OmeZarr(version=0.4).export(ArrayRaster(mask, meta.header), meta, LocalStorage(tmp_path), "a.ome.zarr")
    old = zarr.open_group(tmp_path / "a.ome.zarr", mode="r")
    assert (old.metadata.zarr_format, old["0"].metadata.zarr_format) == (2, 2)
    ImageLabel04.from_zarr(old)
    new = written(tmp_path / "b.ome.zarr", meta, mask)
    levels = [dataset["path"] for dataset in new.attrs["ome"]["multiscales"][0]["datasets"]]
    assert len(levels) == 3
    for level in levels:
        np.testing.assert_array_equal(old[level][...], new[level][...])
    assert old.attrs["multiscales"][0]["datasets"] == new.attrs["ome"]["multiscales"][0]["datasets"]
    with build("readers", {"name": "auto"}).open(str(tmp_path / "a.ome.zarr")) as raster:
        assert (raster.header.pixel_size, raster.header.unit) == ((0.5, 0.25), "micrometer")


def test_a_tiff_has_colours_and_names(tmp_path):
    """GDAL reads the class ids, a colour for each, and the names in the metadata."""
    rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
    mask = mask_of((300, 200))
    Tiff().export(ArrayRaster(mask), MaskMeta((300, 200), classes=CLASSES, georeference=UTM), LocalStorage(tmp_path), "a.tif")
    with rasterio.open(tmp_path / "a.tif") as opened:
        np.testing.assert_array_equal(opened.read(1), mask)
        assert opened.colormap(1)[1] == (0xE6, 0x19, 0x4B, 255)
        assert opened.tags()["class_1"] == "nucleus"


def test_a_png_is_a_picture_of_class_ids(tmp_path):
    """Pillow reads the ids, the colours, the scale and the names; above 255 classes the ids are 16-bit grey."""
    mask = mask_of((1037, 751))
    meta = MaskMeta((1037, 751), classes=CLASSES, pixel_size=(0.5, 0.25), unit="micrometer")
    Png().export(ArrayRaster(mask), meta, LocalStorage(tmp_path), "a.png")
    with Picture.open(tmp_path / "a.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), mask)
        assert (picture.mode, picture.getpalette()[3:6]) == ("P", [0xE6, 0x19, 0x4B])
        assert picture.info["transparency"] == 255
        assert picture.info["dpi"] == pytest.approx((4e6 * 0.0254, 2e6 * 0.0254))
        assert picture.text["classes"] == "0: background\n1: nucleus"
    wide = mask_of((70, 50)).astype(np.uint16) * 257
    Png().export(ArrayRaster(wide), MaskMeta((70, 50), dtype="uint16", classes=CLASSES), LocalStorage(tmp_path), "b.png")
    with Picture.open(tmp_path / "b.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), wide)


def test_an_ome_tiff_has_its_pyramid_in_subifds(tmp_path):
    """A single plane too is an OME-TIFF with named axes, sizes, classes, and smaller levels that are no images of their own."""
    meta = MaskMeta((1100, 700), classes=CLASSES, pixel_size=(0.5, 0.25), unit="micrometer")
    mask = mask_of((1100, 700))
    OmeTiff().export(ArrayRaster(mask), meta, LocalStorage(tmp_path), "a.ome.tif")
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as file:
        (series,) = file.series
        assert (file.is_ome, series.axes, len(series.levels), len(file.pages)) == (True, "YX", 2, 1)
        np.testing.assert_array_equal(series.asarray(), mask)
        np.testing.assert_array_equal(series.levels[1].asarray(), mask[::2, ::2])
        for text in ('PhysicalSizeY="0.5"', 'PhysicalSizeX="0.25"', "nucleus #e6194b"):
            assert text in file.ome_metadata


@contextmanager
def opened(raster):
    """An image that is open already."""
    yield raster


def test_an_overlay_outlines_classes_over_the_image(tmp_path):
    """Outlines lie where classes meet, in the colour of the class; everything else is the image, darker without prediction."""
    rng = np.random.default_rng(0)
    image_CYX = np.full((3, 400, 600), 180, np.uint8)
    image_CYX[:, 100:200, 100:300] = rng.integers(60, 70, (3, 1, 1), np.uint8)
    mask = np.zeros((400, 600), np.uint8)
    mask[100:200, 100:300] = 1
    mask[:, 500:] = 255
    header = Header((400, 600), 3, "uint8", is_color=True)
    size = {"pixel_size": (0.5, 0.25), "unit": "micrometer"}
    meta = MaskMeta((400, 600), classes=CLASSES, **size, open_image=lambda _: opened(ArrayRaster(image_CYX, header)))
    Overlay(size=300, width=1, quality=100).export(ArrayRaster(mask), meta, LocalStorage(tmp_path), "a.jpg")
    with Picture.open(tmp_path / "a.jpg") as picture:
        drawn = np.asarray(picture).astype(int)
        assert json.loads(picture.info["comment"]) == {"classes": list(CLASSES), "pixel_size": [1.0, 0.5], "unit": "micrometer"}
    assert drawn.shape == (200, 300, 3)
    color = np.array([0xE6, 0x19, 0x4B])
    assert np.abs(drawn[[50, 99], 100] - color).max() < 12  # upper and lower edge
    assert np.abs(drawn[75, [50, 149]] - color).max() < 12
    assert np.abs(drawn[75, 100] - image_CYX[:, 150, 200]).max() < 12
    assert np.abs(drawn[20, 100] - 180).max() < 12
    assert np.abs(drawn[20, 270] - 90).max() < 12


def test_an_overlay_separates_touching_objects(tmp_path):
    """A line of one pixel lies where two objects of a class meet, and nowhere else inside them."""
    ids_YX = np.zeros((200, 300), np.uint32)
    ids_YX[50:150, 50:150], ids_YX[50:150, 150:250] = 1, 2
    image_CYX = np.full((3, 200, 300), 180, np.uint8)
    header = Header((200, 300), 3, "uint8", is_color=True)
    meta = MaskMeta((200, 300), classes=CLASSES, objects=view_of(ids_YX), open_image=lambda _: opened(ArrayRaster(image_CYX, header)))
    Overlay(width=1, quality=100).export(ArrayRaster((ids_YX > 0).astype(np.uint8)), meta, LocalStorage(tmp_path), "a.jpg")
    with Picture.open(tmp_path / "a.jpg") as picture:
        drawn_YXS = np.asarray(picture).astype(int)
    is_line_X = np.abs(drawn_YXS[100, 55:245] - np.array([0xE6, 0x19, 0x4B])).max(axis=1) < 20
    assert np.nonzero(is_line_X)[0].tolist() == [149 - 55]


def test_an_overlay_of_a_pyramid_reads_a_small_level(tmp_path):
    """The image is asked for at the size of the picture, and 16-bit grey is stretched."""
    asked = []
    small = np.linspace(1000, 3000, 100 * 150).reshape(1, 100, 150).astype(np.uint16)

    def open_image(side):
        asked.append(side)
        return opened(ArrayRaster(small, Header((100, 150), 1, "uint16")))

    meta = MaskMeta((4000, 6000), classes=CLASSES, open_image=open_image)
    Overlay(size=150).export(ArrayRaster(np.zeros((4000, 6000), np.uint8)), meta, LocalStorage(tmp_path), "a.jpg")
    with Picture.open(tmp_path / "a.jpg") as picture:
        drawn = np.asarray(picture)
    assert (asked, drawn.shape) == ([150], (100, 150, 3))
    assert drawn[0, 0].max() < 10
    assert drawn[-1, -1].min() > 245


@pytest.mark.parametrize("georeference", [{}, UTM], ids=["pixels", "map"])
def test_polygons_are_the_mask(tmp_path, georeference):
    """Every polygon is valid, and drawn again they give every pixel of every class but 0, whatever blocks the mask has."""
    rasterio = pytest.importorskip("rasterio", reason="rasterio is not installed")
    features = pytest.importorskip("rasterio.features", reason="rasterio is not installed")
    shapely = pytest.importorskip("shapely", reason="shapely is not installed")
    mask = mask_of((1037, 651), 3)
    mask[40:700, 300:320] = 2  # longer than a block
    mask[700:800, 300:400] = 2
    mask[720:740, 320:360] = 0  # a hole
    classes = (*CLASSES, {"id": 2, "name": "vessel", "color": "#3cb44b"})
    meta = MaskMeta((1037, 651), classes=classes, georeference=georeference, source="/a.tif")
    GeoJson().export(ArrayRaster(mask), meta, LocalStorage(tmp_path), "a.geojson")
    content = json.loads((tmp_path / "a.geojson").read_text())
    ids = {"nucleus": 1, "vessel": 2}
    shapes = [(shapely.geometry.shape(one["geometry"]), ids[one["properties"]["classification"]["name"]]) for one in content["features"]]
    assert all(shape.is_valid for shape, _ in shapes)
    transform = rasterio.Affine(0.5, 0, 691000, 0, -0.5, 5334000) if georeference else rasterio.Affine.identity()
    drawn = features.rasterize(shapes, out_shape=mask.shape, transform=transform, dtype="uint8")
    np.testing.assert_array_equal(drawn, np.where(mask == 255, 0, mask))
    assert content.get("crs", {}).get("properties", {}).get("name") == ("urn:ogc:def:crs:EPSG::32632" if georeference else None)
    first = content["features"][0]
    assert first["properties"]["objectType"] == "annotation"
    assert len({one["id"] for one in content["features"]}) == len(content["features"])


def test_polygons_are_in_pixels_of_the_image(tmp_path):
    """A mask of every fourth pixel has polygons of the image's own pixels; simplified ones are valid and hardly smaller."""
    shapely = pytest.importorskip("shapely", reason="shapely is not installed")
    yy, xx = np.mgrid[:200, :200]
    mask = (np.hypot(yy - 90, xx - 110) < 60).astype(np.uint8)
    areas = {}
    for simplify in (0, 2):
        meta = MaskMeta((200, 200), classes=CLASSES, own_factor=(4.0, 4.0), pixel_size=(1.0, 2.0), unit="micrometer")
        GeoJson(simplify=simplify).export(ArrayRaster(mask), meta, LocalStorage(tmp_path), "a.geojson")
        content = json.loads((tmp_path / "a.geojson").read_text())
        assert content["pixel_size"] == {"size": [0.5, 0.25], "unit": "micrometer"}
        (feature,) = content["features"]
        shape = shapely.geometry.shape(feature["geometry"])
        areas[simplify] = shape.area, len(feature["geometry"]["coordinates"][0])
        assert shape.is_valid
        assert np.abs(np.array(shape.centroid.coords[0]) - [442, 362]).max() < 4
    assert areas[0][0] == 16 * mask.sum()
    assert areas[2][0] == pytest.approx(areas[0][0], rel=0.02)
    assert areas[2][1] < areas[0][1] / 3


def test_polygons_of_a_stack_know_their_plane(tmp_path):
    """Each annotation says its z and t, as QuPath reads them."""
    pytest.importorskip("rasterio", reason="rasterio is not installed")
    meta = MaskMeta((40, 50), planes={"t": 2, "z": 3}, classes=CLASSES)
    mask = np.zeros((2, 3, 40, 50), np.uint8)
    mask[1, 2, 10:20, 10:20] = 1
    GeoJson().export(ArrayRaster(mask, meta.header), meta, LocalStorage(tmp_path), "a.geojson")
    (feature,) = json.loads((tmp_path / "a.geojson").read_text())["features"]
    assert feature["geometry"]["plane"] == {"c": -1, "z": 2, "t": 1}


def test_a_copy_of_a_colour_image_is_a_colour_image(tmp_path):
    """RGB that went through a conversion is still read as colours, and other channels are not."""
    pixels = np.random.default_rng(0).integers(0, 255, (3, 60, 70), np.uint8)
    for is_color in (True, False):
        header = Header((60, 70), 3, "uint8", is_color=is_color)
        Image.from_zarr(written(tmp_path / f"{is_color}.ome.zarr", header, pixels))
        with build("readers", {"name": "auto"}).open(str(tmp_path / f"{is_color}.ome.zarr")) as raster:
            assert raster.header.is_color == is_color
