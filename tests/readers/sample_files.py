"""One small file of every format and dialect, all of the same scene: bright shapes on dark, grey, 0.25 micrometres a pixel."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from tests.readers import dicom_files, slide_files, zarr_stores
from tests.readers.czi_files import Tile, write_czi
from tests.readers.lif_files import Image as LifImage
from tests.readers.lif_files import write_lif
from tests.readers.nd2_files import write_nd2
from tests.readers.test_dv import write_dv

MPP = slide_files.MPP
Scene = NDArray[np.uint8]
OME = {"axes": "CYX", "PhysicalSizeX": MPP, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": MPP, "PhysicalSizeYUnit": "µm"}
NAMES = ["DAPI", "GFP"]
CZI_XML = f"""<ImageDocument><Metadata><Information><Image><Dimensions><Channels>
<Channel Id="Channel:0" Name="DAPI"/><Channel Id="Channel:1" Name="GFP"/></Channels></Dimensions></Image></Information><Scaling><Items>
<Distance Id="X"><Value>{MPP / 1e6}</Value></Distance><Distance Id="Y"><Value>{MPP / 1e6}</Value></Distance>
</Items></Scaling></Metadata></ImageDocument>"""


def scene(height: int, width: int) -> Scene:
    """Return ellipses of 170..230 on a ground of 20..80, (Y, X): the middle of the range separates them."""
    y, x = np.mgrid[:height, :width]
    is_bright = (((y % 48) - 22) / 15) ** 2 + (((x % 80) - 37 + y // 48 * 5) / 24) ** 2 < 1
    ground = np.random.default_rng(0).integers(20, 80, (height, width))
    return np.where(is_bright, ground + 150, ground).astype(np.uint8)


def color(scene_YX: Scene) -> NDArray[np.uint8]:
    """Return the scene as equal red, green and blue, (Y, X, 3)."""
    return np.stack([scene_YX] * 3, axis=-1)


def two(scene_YX: Scene) -> NDArray[np.uint8]:
    """Return the scene and its negative as two channels, (C, Y, X)."""
    return np.stack([scene_YX, 255 - scene_YX])


def tiff(**options: Any) -> Callable[[Path, Scene], None]:
    """Return a writer of a tiled TIFF of the scene in colour, or in grey where ``photometric`` says so."""

    def write(path: Path, scene_YX: Scene) -> None:
        said = {"tile": (64, 64), "photometric": "rgb", "metadata": None} | options
        tifffile.imwrite(path, color(scene_YX) if said["photometric"] == "rgb" else scene_YX, **said)

    return write


def ome_tiff(path: Path, scene_YX: Scene) -> None:
    """BigTIFF with a pyramid in SubIFDs and named channels."""
    levels = [two(scene_YX), two(scene_YX)[:, ::2, ::2]]
    tiled = {"tile": (64, 64), "photometric": "minisblack", "compression": "zlib"}
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        writer.write(levels[0], subifds=1, metadata={**OME, "Channel": {"Name": NAMES}}, **tiled)
        writer.write(levels[1], subfiletype=1, **tiled)


def imagej(path: Path, scene_YX: Scene) -> None:
    """ImageJ's hyperstack of two channels."""
    tifffile.imwrite(
        path,
        two(scene_YX),
        imagej=True,
        resolution=(1 / MPP, 1 / MPP),
        metadata={"axes": "CYX", "unit": "um", "Labels": NAMES},
    )


def masked_tiff(path: Path, scene_YX: Scene) -> None:
    """LZW, with a mask as the second directory."""
    with tifffile.TiffWriter(path) as writer:
        writer.write(scene_YX, tile=(64, 64), photometric="minisblack", compression="lzw", metadata=None)
        mask = np.ones(scene_YX.shape, bool)
        mask[:10, :10] = False
        writer.write(mask, photometric="mask", subfiletype=4, compression="packbits", rowsperstrip=32, metadata=None)


def geotiff(path: Path, scene_YX: Scene) -> None:
    """A cloud-optimised GeoTIFF of colours, 0.25 metres a pixel, with an overview."""
    import rasterio
    from rasterio import Affine

    height, width = scene_YX.shape
    plain = {"width": width, "height": height, "count": 3, "dtype": "uint8", "crs": "EPSG:32632", "photometric": "RGB"}
    tiles = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate", "transform": Affine(MPP, 0, 5e5, 0, -MPP, 5e6)}
    with rasterio.open(path, "w", driver="GTiff", **plain, **tiles) as file:
        file.write(np.moveaxis(color(scene_YX), -1, 0))
        file.descriptions = ("red", "green", "blue")
        file.build_overviews([2])


def by_gdal(driver: str, **options: Any) -> Callable[[Path, Scene], None]:
    """Return a writer of a map of colours, 0.25 metres a pixel, by a driver of GDAL; a VRT is one of a GeoTIFF beside it."""

    def write(path: Path, scene_YX: Scene) -> None:
        import rasterio
        import rasterio.shutil

        source = path.with_name("source.tif")
        geotiff(source, scene_YX)
        rasterio.shutil.copy(source, path, driver=driver, **options)
        if driver != "VRT":
            source.unlink()
        if driver == "HFA":
            with rasterio.open(path, "r+") as file:
                file.build_overviews([2])

    return write


def picture(**options: Any) -> Callable[[Path, Scene], None]:
    """Return a writer of a colour picture of the kind that the suffix names."""

    def write(path: Path, scene_YX: Scene) -> None:
        Image.fromarray(color(scene_YX)).save(path, **options)

    return write


def with_world_file(write: Callable[[Path, Scene], None], suffix: str) -> Callable[[Path, Scene], None]:
    """Return a writer that adds a world file, 0.25 metres a pixel."""

    def write_both(path: Path, scene_YX: Scene) -> None:
        write(path, scene_YX)
        path.with_suffix(suffix).write_text(f"{MPP}\n0\n0\n{-MPP}\n500000\n5000000\n", encoding="ascii")

    return write_both


def palette_png(path: Path, scene_YX: Scene) -> None:
    """PNG of two colours, interlaced rows of few bits, with a transparent one."""
    image = Image.fromarray((scene_YX > 125).astype(np.uint8), "P")
    image.putpalette([20, 20, 20, 200, 200, 200])
    image.save(path, transparency=0, bits=1)


def jpeg2000(path: Path, scene_YX: Scene) -> None:
    """JP2 of colours, without loss."""
    path.write_bytes(imagecodecs.jpeg2k_encode(color(scene_YX), reversible=True, codecformat="jp2", resolutions=3))


def ome_zarr(zarr_format: int) -> Callable[[Path, Scene], None]:
    """Return a writer of OME-Zarr 0.4 or 0.5: two named channels, two levels."""

    def write(path: Path, scene_YX: Scene) -> None:
        levels = two(scene_YX), two(scene_YX)[:, ::2, ::2]
        colors = ["0000FF", "00FF00"]
        window = {"start": 0, "end": 255, "min": 0, "max": 255}
        channels = [{"label": name, "color": color, "window": window} for name, color in zip(NAMES, colors, strict=True)]
        zarr_stores.image(path, *levels, axes="cyx", scale=[1, MPP, MPP], zarr_format=zarr_format, omero={"channels": channels})

    return write


def zipped(path: Path, scene_YX: Scene) -> None:
    """An OME-Zarr 0.5 in a zip."""
    folder = path.with_suffix(".ome.zarr")
    ome_zarr(3)(folder, scene_YX)
    zarr_stores.zip_store(folder, path)
    shutil.rmtree(folder)


def array_zarr(**options: Any) -> Callable[[Path, Scene], None]:
    """Return a writer of a Zarr array of colours that is no OME-Zarr."""

    def write(path: Path, scene_YX: Scene) -> None:
        zarr_stores.array(path, color(scene_YX), **({"chunks": (32, 32, 3)} | options))

    return write


def of_levels(write: Callable[[Path, list[NDArray[np.uint8]]], Any], count: int = 2) -> Callable[[Path, Scene], None]:
    """Return a writer of the scene as a slide of some levels."""
    return lambda path, scene_YX: write(path, slide_files.halves(color(scene_YX), count))


def leica(path: Path, scene_YX: Scene) -> None:
    """SCN of one area on a slide a little larger."""
    height, width = scene_YX.shape
    slide_files.leica(path, [(0, 0, slide_files.halves(color(scene_YX), 2))], (height + 64, width + 64))


def dicom(codec: str) -> Callable[[Path, Scene], None]:
    """Return a writer of a DICOM slide of two levels, a file each, in the folder of the path."""

    def write(path: Path, scene_YX: Scene) -> None:
        uids = dicom_files.series()
        for level, pixels in enumerate(slide_files.halves(color(scene_YX), 2)):
            file = path if level == 0 else path.with_name(f"{path.stem}-{level}.dcm")
            dicom_files.slide(file, pixels[None, None], uids, codec=codec, level=level)

    return write


def dicom_channels(path: Path, scene_YX: Scene) -> None:
    """DICOM slide of two optical paths with names."""
    dicom_files.slide(path, two(scene_YX)[None, ..., None], dicom_files.series(), codec="rle", names=NAMES)


def czi(compression: str) -> Callable[[Path, Scene], None]:
    """Return a writer of a CZI of two channels in tiles, with a pyramid."""

    def write(path: Path, scene_YX: Scene) -> None:
        tiles = []
        for number, pixels in enumerate(two(scene_YX)):
            small = pixels[::2, ::2]
            tiles += [
                Tile(pixels[:, x : x + 64], 0, x, {"C": number, "M": x // 64}, compression=compression)
                for x in range(0, pixels.shape[1], 64)
            ]
            tiles.append(Tile(small, 0, 0, {"C": number}, size=pixels.shape, compression=compression, pyramid=2))
        write_czi(path, tiles, CZI_XML)

    return write


def color_czi(path: Path, scene_YX: Scene) -> None:
    """A CZI of colours, written by pylibCZIrw."""
    from pylibCZIrw import czi as pyczi

    with pyczi.create_czi(str(path), compression_options="zstd1:ExplicitLevel=2") as file:
        for x in range(0, scene_YX.shape[1], 64):
            file.write(color(scene_YX[:, x : x + 64]), location=(x, 0))
        file.write_metadata("scene", scale_x=MPP / 1e6, scale_y=MPP / 1e6)


def lif(path: Path, scene_YX: Scene) -> None:
    """A LIF of a named pair of channels and a smaller image of colours."""
    steps = {"x": MPP / 1e6, "y": MPP / 1e6}
    dyes = [{"name": "Blue", "dye": NAMES[0]}, {"name": "Green", "dye": NAMES[1]}]
    write_lif(path, [LifImage("Series001", two(scene_YX), "cyx", steps, dyes)])


def color_lif(path: Path, scene_YX: Scene) -> None:
    """A LIF of colours."""
    names = [{"name": name, "tag": index + 1} for index, name in enumerate(("Red", "Green", "Blue"))]
    write_lif(path, [LifImage("Series001", color(scene_YX), "yxc", {"x": MPP / 1e6, "y": MPP / 1e6}, names)])


def nd2(path: Path, scene_YX: Scene) -> None:
    """An ND2 of two named channels."""
    write_nd2(path, [np.moveaxis(two(scene_YX), 0, -1)], channels=NAMES, pixel_um=MPP)


def color_nd2(path: Path, scene_YX: Scene) -> None:
    """An ND2 of colours, compressed."""
    write_nd2(path, [color(scene_YX)], channels=["RGB"], pixel_um=MPP, lossless=True)


def dv(path: Path, scene_YX: Scene) -> None:
    """A DeltaVision file of two channels."""
    write_dv(path, two(scene_YX)[:, None, None], 0)


@dataclass(frozen=True)
class Sample:
    """One dialect."""

    row: str  # of the table of formats
    file: str  # what is opened, in a folder of its own
    write: Callable[[Path, Scene], Any]

    def make(self, folder: Path, scene_YX: Scene) -> Path:
        """Write the file, and what belongs to it, into a new folder; return its path."""
        folder.mkdir(parents=True)
        self.write(folder / self.file, scene_YX)
        return folder / self.file


TIFFS = "TIFF, BigTIFF, OME-TIFF, ImageJ"
GEOTIFFS, APERIO = "GeoTIFF, COG", "SVS"
SLIDES = "NDPI, MRXS, SCN, BIF, VMS, VMU, SVSlide, TIFF of Philips, Ventana, Trestle"
DICOM, CZI, LIF, ND2, DV = "DICOM whole slides", "CZI", "LIF, LOF", "ND2", "DeltaVision"
GDAL = "VRT, GeoPackage, Imagine, ENVI, ASCII grids and other rasters of GDAL"
ZARRS, PICTURES, JPEG2000 = "Zarr v2 and v3, OME-Zarr 0.1 to 0.5, zipped as well", "PNG, JPEG, WebP, BMP", "JPEG 2000"

SAMPLES = {
    "tiff": Sample(TIFFS, "a.tif", tiff(compression="deflate", resolution=(1e4 / MPP, 1e4 / MPP), resolutionunit="CENTIMETER")),
    "tiff-plain": Sample(TIFFS, "a.tif", tiff(photometric="minisblack", tile=None, rowsperstrip=16)),
    "tiff-jpeg": Sample(TIFFS, "a.tif", tiff(compression="jpeg", compressionargs={"level": 95})),
    "tiff-mask": Sample(TIFFS, "a.tif", masked_tiff),
    "ome-tiff": Sample(TIFFS, "a.ome.tif", ome_tiff),
    "imagej": Sample(TIFFS, "a.tif", imagej),
    "geotiff": Sample(GEOTIFFS, "a.tif", geotiff),
    "svs": Sample(APERIO, "a.svs", of_levels(slide_files.aperio)),
    "ndpi": Sample(SLIDES, "a.ndpi", of_levels(slide_files.hamamatsu_ndpi)),
    "philips": Sample(SLIDES, "a.tiff", of_levels(slide_files.philips)),
    "mrxs": Sample(SLIDES, "a.mrxs", of_levels(slide_files.mirax)),
    "scn": Sample(SLIDES, "a.scn", leica),
    "bif": Sample(SLIDES, "a.bif", of_levels(slide_files.ventana)),
    "svslide": Sample(SLIDES, "a.svslide", of_levels(slide_files.sakura)),
    "vms": Sample(SLIDES, "a.vms", lambda path, scene_YX: slide_files.hamamatsu_vms(path, [[color(scene_YX)]], color(scene_YX[::2, ::2]))),
    "vmu": Sample(SLIDES, "a.vmu", of_levels(slide_files.hamamatsu_vmu)),
    "dicom": Sample(DICOM, "a.dcm", dicom("jpegls")),
    "dicom-channels": Sample(DICOM, "a.dcm", dicom_channels),
    "czi": Sample(CZI, "a.czi", czi("zstd1")),
    "czi-xr": Sample(CZI, "a.czi", czi("jpegxr")),
    "czi-color": Sample(CZI, "a.czi", color_czi),
    "lif": Sample(LIF, "a.lif", lif),
    "lif-color": Sample(LIF, "a.lif", color_lif),
    "nd2": Sample(ND2, "a.nd2", nd2),
    "nd2-color": Sample(ND2, "a.nd2", color_nd2),
    "dv": Sample(DV, "a.dv", dv),
    "ome-zarr-0.4": Sample(ZARRS, "a.ome.zarr", ome_zarr(2)),
    "ome-zarr-0.5": Sample(ZARRS, "a.ome.zarr", ome_zarr(3)),
    "ome-zarr-zip": Sample(ZARRS, "a.ozx", zipped),
    "zarr-v2": Sample(ZARRS, "a.zarr", array_zarr(zarr_format=2)),
    "zarr-v3": Sample(ZARRS, "a.zarr", array_zarr(shards=(64, 64, 3))),
    "png": Sample(PICTURES, "a.png", picture()),
    "png-map": Sample(PICTURES, "a.png", with_world_file(picture(), ".pgw")),
    "png-palette": Sample(PICTURES, "a.png", palette_png),
    "jpeg": Sample(PICTURES, "a.jpg", picture(quality=98, subsampling=0)),
    "webp": Sample(PICTURES, "a.webp", picture(lossless=True)),
    "bmp": Sample(PICTURES, "a.bmp", picture()),
    "jpeg2000": Sample(JPEG2000, "a.jp2", jpeg2000),
    "jpeg2000-map": Sample(JPEG2000, "a.jp2", with_world_file(jpeg2000, ".j2w")),
    "vrt": Sample(GDAL, "a.vrt", by_gdal("VRT")),
    "geopackage": Sample(GDAL, "a.gpkg", by_gdal("GPKG", TILE_FORMAT="PNG", BLOCKSIZE="64")),
    "imagine": Sample(GDAL, "a.img", by_gdal("HFA")),
    "envi": Sample(GDAL, "a.bsq", by_gdal("ENVI")),
}
