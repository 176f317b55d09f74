"""Rasters that GDAL writes, and VRTs of them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio import Affine

UTM, NORTH_UP = "EPSG:32633", Affine(10.0, 0.0, 500_000.0, 0.0, -10.0, 4_000_000.0)
ROTATED = Affine(8.0, 3.0, 500_000.0, 4.0, -9.0, 4_000_000.0)
SOUTH_UP = Affine(10.0, 0.0, 500_000.0, 0.0, 10.0, 4_000_000.0)


def pixels(channels: int = 1, height: int = 150, width: int = 130, dtype: str = "uint8", seed: int = 0) -> NDArray[Any]:
    """Noise (C, Y, X) without 0."""
    return np.random.default_rng(seed).integers(1, 200, (channels, height, width)).astype(dtype)


def write(path: Path | str, pixels_CYX: NDArray[Any], driver: str = "GTiff", **options: Any) -> str:
    """Write an image by a driver of GDAL, through a GeoTIFF where the driver only copies; ``names``: of the bands. Return its path."""
    names, colors, mask, tags = (options.pop(key, None) for key in ("names", "colors", "mask", "tags"))
    profile = {"crs": UTM, "transform": NORTH_UP} | {
        key: options.pop(key) for key in ("crs", "transform", "gcps", "rpcs", "nodata") if key in options
    }
    if profile["transform"] == Affine.identity():
        del profile["transform"]
    shape = {"count": len(pixels_CYX), "height": pixels_CYX.shape[1], "width": pixels_CYX.shape[2], "dtype": pixels_CYX.dtype.name}
    copied = {} if driver == "GTiff" else {"driver": driver, **options}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    first = str(path) if not copied else f"{path}.source.tif"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(first, "w", driver="GTiff", **shape, **profile, **({} if copied else options)) as file:
            file.write(pixels_CYX)
            for band, name in enumerate(names or (), 1):
                file.set_band_description(band, name)
            if colors:
                file.colorinterp = colors
            if mask is not None:
                file.write_mask(mask)
            for band, one in (tags or {}).items():
                file.update_tags(band, **one)
        if copied:
            rasterio.shutil.copy(first, str(path), **copied)
            for file_path in (first, f"{first}.aux.xml", f"{first}.msk") if driver != "VRT" else ():
                Path(file_path).unlink(missing_ok=True)
    return str(path)


def vrt(path: Path, sources: Sequence[tuple[str, tuple[int, int], tuple[int, int]]], shape: tuple[int, int], **options: Any) -> str:
    """Write a VRT of one band from files, each with its place (y, x) and its shape; return its path.

    ``band``: XML in the band; ``head``: XML in the data set; ``dtype``: GDAL's name of the type; ``relative``: whether paths are.
    """
    relative = int(options.get("relative", True))
    parts = "".join(
        f'<SimpleSource><SourceFilename relativeToVRT="{relative}">{name}</SourceFilename><SourceBand>1</SourceBand>'
        f'<SrcRect xOff="0" yOff="0" xSize="{w}" ySize="{h}"/><DstRect xOff="{x}" yOff="{y}" xSize="{w}" ySize="{h}"/></SimpleSource>'
        for name, (y, x), (h, w) in sources
    )
    head = options.get("head", f"<SRS>{UTM}</SRS><GeoTransform>500000, 10, 0, 4000000, 0, -10</GeoTransform>")
    band = f'<VRTRasterBand dataType="{options.get("dtype", "Byte")}" band="1">{options.get("band", "")}{parts}</VRTRasterBand>'
    path.write_text(f'<VRTDataset rasterXSize="{shape[1]}" rasterYSize="{shape[0]}">{head}{band}</VRTDataset>')
    return str(path)
