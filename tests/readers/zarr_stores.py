"""Zarr stores that tests make: images, plates, zips of them."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import zarr

from pipeline.plugins import build
from pipeline.storage import open_storage


def noise(*shape, dtype="uint8"):
    """The same noise every time."""
    return np.random.default_rng(0).integers(0, 250, shape).astype(dtype)


def header(path, **options):
    """The header of a store, by the ``auto`` reader."""
    with build("readers", {"name": "auto", **options}).open(str(path)) as raster:
        return raster.header


def whole(path, plane=0, **options):
    """All pixels (C, Y, X) of one plane, put together from boxes that match no chunk."""
    from pipeline.geometry import Box

    with build("readers", {"name": "auto", **options}).open(str(path)) as raster:
        height, width = raster.header.shape
        pixels_CYX = np.empty((raster.header.channels, height, width), raster.header.dtype)
        for y in range(0, height, 13):
            for x in range(0, width, 29):
                box = Box(y, x, min(y + 13, height), min(x + 29, width))
                pixels_CYX[:, *box.slices] = raster.read(box, plane)
        return pixels_CYX


def members(path, **options):
    """Names of the images of a path that stands for several."""
    return [member.name for member in build("readers", {"name": "auto", **options}).members(str(path))]


def array(path, pixels, zarr_format=3, **options):
    """A Zarr array of this content in chunks of 16."""
    names = {"chunks": tuple(min(size, 16) for size in pixels.shape), "zarr_format": zarr_format, **options}
    return zarr.create_array(str(path), data=pixels, **names)


def image(path, *arrays, axes="yx", units=None, scale=None, zarr_format=2, content=None, **attributes):
    """An OME-Zarr 0.4 (Zarr v2) or 0.5 (v3) image whose levels are the arrays; ``content`` goes into its multiscales."""
    units = units or ("micrometer" if letter in "zyx" else None for letter in axes)
    named = [{"name": letter, "unit": unit} if unit else {"name": letter} for letter, unit in zip(axes, units, strict=True)]
    kinds = {"t": "time", "c": "channel"}
    named = [{**axis, "type": kinds.get(axis["name"], "space")} for axis in named]
    datasets = []
    for level in range(len(arrays)):
        numbers = [number * (2**level if letter in "yx" else 1) for letter, number in zip(axes, scale or [0.5] * len(axes), strict=True)]
        datasets.append({"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": numbers}]})
    content = {"axes": named, "datasets": datasets, **({"version": "0.4"} if zarr_format == 2 else {}), **(content or {})}
    group(path, zarr_format, multiscales=[content], **attributes)
    for level, pixels in enumerate(arrays):
        array(f"{path}/{level}", pixels, zarr_format, **({"dimension_names": list(axes)} if zarr_format == 3 else {}))
    return path


def group(path, zarr_format=2, **attributes):
    """A group with OME-Zarr attributes, which lie below ``ome`` in Zarr v3."""
    attributes = attributes if zarr_format == 2 else {"ome": {"version": "0.5", **attributes}}
    zarr.create_group(str(path), zarr_format=zarr_format, attributes=attributes, overwrite=False)
    return path


def plate(path, wells, fields, zarr_format=2, size=(20, 30)):
    """An HCS plate; the pixels of field f of well w are 10 w + f."""
    rows, columns = (list(dict.fromkeys(well.split("/")[part] for well in wells)) for part in (0, 1))
    listed = [
        {"path": well, "rowIndex": rows.index(well.split("/")[0]), "columnIndex": columns.index(well.split("/")[1])} for well in wells
    ]
    named = {"rows": [{"name": name} for name in rows], "columns": [{"name": name} for name in columns], "wells": listed}
    version = {"version": "0.4"} if zarr_format == 2 else {}  # of the well; that of the plate has one in either
    group(path, zarr_format, plate={"name": "test", **named, "version": "0.4" if zarr_format == 2 else "0.5"})
    for number, well in enumerate(wells):
        group(f"{path}/{well}", zarr_format, well={"images": [{"path": str(field)} for field in range(fields)], **version})
        for field in range(fields):
            image(f"{path}/{well}/{field}", np.full(size, (10 * number + field) % 256, np.uint8), zarr_format=zarr_format)
    return path


def zip_store(store, path, folder="", compression=zipfile.ZIP_STORED, separator="/"):
    """Zip a store, its files at the zip's root or in a folder."""
    with zipfile.ZipFile(path, "w", compression) as packed:
        for file in sorted(store.rglob("*")):
            if file.is_file():
                info = zipfile.ZipInfo("x")
                info.filename, info.compress_type = folder + file.relative_to(store).as_posix().replace("/", separator), compression
                packed.writestr(info, file.read_bytes())
    return path


def to_memory(store, url):
    """Copy a folder or a file to a storage in memory; return the URL."""
    files = [store] if store.is_file() else [file for file in store.rglob("*") if file.is_file()]
    for file in files:
        key = store.name if store.is_file() else f"{store.name}/{file.relative_to(store).as_posix()}"
        open_storage(url).put(key, file.read_bytes())
    return f"{url}/{store.name}"


def edit_json(path, edit):
    """Change a metadata file in place."""
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
