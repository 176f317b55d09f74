"""One scene in fourteen formats, one of them broken, in one run: each mask lies on its source as another library reads it."""

from __future__ import annotations

import csv
import json
from contextlib import ExitStack

import imagecodecs
import numpy as np
import ome_types
import ome_zarr_models
import openslide
import pytest
import rasterio
import tifffile
import wsidicom
import yaml
import zarr
from PIL import Image

from pipeline.cli import main
from tests.readers.sample_files import MPP, SAMPLES, scene

SHAPE = (192, 256)
FILES = {  # name in the folder -> dialect
    "tiff.tif": "tiff",
    "bigtiff.ome.tif": "ome-tiff",
    "geotiff.tif": "geotiff",
    "png.png": "png",
    "jpeg.jpg": "jpeg",
    "webp.webp": "webp",
    "jpeg2000.jp2": "jpeg2000",
    "v04.ome.zarr": "ome-zarr-0.4",
    "v05.ome.zarr": "ome-zarr-0.5",
    "zipped.ozx": "ome-zarr-zip",
    "czi.czi": "czi",
    "dicom/a.dcm": "dicom",
    "philips.tiff": "philips",
    "broken.nd2": "nd2",
}
LOSSY_SHARE = 0.002  # of pixels that JPEG may carry over the threshold
CORNER = (5e6, 5e5)  # of the map, metres


def mask_name(name):
    """What a run calls the mask of a file; a DICOM slide has the name of its folder."""
    return name.partition("/")[0].partition(".")[0]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run over one folder of fourteen formats: its exit code, its folder, and that of the images."""
    folder = tmp_path_factory.mktemp("fourteen")
    images = folder / "images"
    (images / "dicom").mkdir(parents=True)
    for name, sample in FILES.items():
        SAMPLES[sample].write(images / name, scene(*SHAPE))
    content = (images / "broken.nd2").read_bytes()
    (images / "broken.nd2").write_bytes(content[: len(content) // 2])
    config = {
        "images": ["images"],
        "model": {"name": "histogram", "classes": 2, "channel": 0},
        "tiling": {"core": 64, "halo": 0, "block": 128},
        "compute": {"runner": "serial"},
        "output": "out",
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    return main(["run", str(folder / "run.yaml")]), folder / "out", images


def test_thirteen_are_done_and_one_is_named(done):
    """Exit 3: the broken file is quarantined with its cause, and every other has a mask."""
    code, output, images = done
    assert code == 3
    with (output / "report" / "failures.csv").open(newline="") as file:
        assert {(row["image"], str(images / "broken.nd2") in row["cause"]) for row in csv.DictReader(file)} == {("broken", True)}
    found = {path.relative_to(output / "masks").as_posix() for path in (output / "masks").rglob("*.ome.zarr")}
    assert found == {f"{mask_name(name)}.ome.zarr" for name in FILES if name != "broken.nd2"}


def read_tiff(path):
    """Resolution tags are pixels a centimetre."""
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[0]
        sizes = [1e4 * page.tags[code].value[1] / page.tags[code].value[0] for code in (283, 282)]
        return page.asarray()[..., 0], sizes, "micrometer"


def read_ome_tiff(path):
    """OME-XML, by ome-types."""
    pixels = ome_types.from_tiff(path).images[0].pixels
    sizes = [size * {"µm": 1.0}[unit.value] for size, unit in ((pixels.physical_size_y, pixels.physical_size_y_unit),) * 2]
    return tifffile.imread(path)[0], sizes, "micrometer"


def read_geotiff(path):
    """Rasterio's transform."""
    with rasterio.open(path) as file:
        assert (file.transform.f, file.transform.c) == CORNER
        return file.read(1), (-file.transform.e, file.transform.a), "meter"


def read_picture(path):
    """Pillow; pictures have no size."""
    return np.asarray(Image.open(path))[..., 0], None, None


def read_jp2(path):
    """OpenJPEG as a whole."""
    return imagecodecs.jpeg2k_decode(path.read_bytes())[..., 0], None, None


def read_zarr(path):
    """Level 0 by zarr-python, its scale by ome-zarr-models."""
    with ExitStack() as stack:
        store = stack.enter_context(zarr.storage.ZipStore(path)) if path.is_file() else path
        group = zarr.open_group(store, mode="r")
        image = ome_zarr_models.open_ome_zarr(group)
        multiscale = image.attributes.multiscales[0] if hasattr(image.attributes, "multiscales") else image.attributes.ome.multiscales[0]
        return group["0"][0], multiscale.datasets[0].coordinateTransformations[0].scale[1:], multiscale.axes[1].unit


def read_czi(path):
    """pylibCZIrw: blue, green, red; metres."""
    pyczi = pytest.importorskip("pylibCZIrw.czi")
    with pyczi.open_czi(str(path)) as file:
        items = file.metadata["ImageDocument"]["Metadata"]["Scaling"]["Items"]["Distance"]
        sizes = {item["@Id"]: float(item["Value"]) * 1e6 for item in items}
        return file.read(plane={"C": 0})[..., 0], (sizes["Y"], sizes["X"]), "micrometer"


def read_dicom(path):
    """Level 0 by wsidicom."""
    with wsidicom.WsiDicom.open(path.parent) as slide:
        size = slide.levels[0].size
        pixels = slide.read_region((0, 0), 0, (size.width, size.height), as_array=True)
        return pixels[..., 0], (slide.mpp.height, slide.mpp.width), "micrometer"


def read_slide(path):
    """Level 0 by openslide."""
    with openslide.OpenSlide(path) as slide:
        sizes = [float(slide.properties[f"openslide.mpp-{axis}"]) for axis in "yx"]
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., 0], sizes, "micrometer"


OTHERS = {"tiff": read_tiff, "ome-tiff": read_ome_tiff, "geotiff": read_geotiff, "jpeg2000": read_jp2, "czi": read_czi, "dicom": read_dicom}
OTHERS |= {"philips": read_slide, **dict.fromkeys(("png", "jpeg", "webp"), read_picture)}
OTHERS |= dict.fromkeys(("ome-zarr-0.4", "ome-zarr-0.5", "ome-zarr-zip"), read_zarr)


@pytest.mark.parametrize("name", [name for name in FILES if name != "broken.nd2"])
def test_a_mask_lies_on_its_source(name, done):
    """Pixel by pixel on what another library reads, and in micrometres with the size that it says; the mask is read without our code."""
    _, output, images = done
    source_YX, sizes, unit = OTHERS[FILES[name]](images / name)
    group = zarr.open_group(output / "masks" / f"{mask_name(name)}.ome.zarr", mode="r")
    label = ome_zarr_models.open_ome_zarr(group)
    multiscale = label.ome_attributes.multiscales[0] if hasattr(label, "ome_attributes") else label.attributes.ome.multiscales[0]
    scale, *translation = multiscale.datasets[0].coordinateTransformations
    mask_YX = group["0"][...]
    assert mask_YX.shape == source_YX.shape == SHAPE
    differing = {"source": (mask_YX != (source_YX > 125)).mean(), "scene": (mask_YX != (scene(*SHAPE) > 125)).mean()}
    assert max(differing.values()) <= (LOSSY_SHARE if FILES[name] == "jpeg" else 0), differing
    assert np.allclose(scale.scale, sizes or (1, 1), rtol=1e-6)
    assert sizes is None or np.allclose(sizes, (MPP, MPP), rtol=1e-6)
    assert [axis.unit for axis in multiscale.axes] == [unit, unit]
    north, east = CORNER  # y points down: minus the northing, of the first pixel's centre
    assert [one.translation for one in translation] in ([], [[sizes[0] / 2 - north, east + sizes[1] / 2] if unit == "meter" else [0, 0]])
    assert {row["name"] for row in json.loads((output / "report" / "report.json").read_text())["per_image"]} >= {mask_name(name)}
