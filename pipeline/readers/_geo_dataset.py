"""How GDAL is used: which drivers open a file, how much it caches, and that it runs no code and asks no server; needs rasterio."""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import rasterio

__all__ = ["CACHE_BYTES", "driver_of", "gdal", "lacking_driver", "open_dataset"]

CACHE_BYTES = 1 << 26  # GDAL's cache of decoded blocks, which all open images of a process share
NETWORK_DRIVERS = ("DAAS", "EEDA", "EEDAI", "GTI", "HTTP", "KMLSUPEROVERLAY", "MRF", "PLMOSAIC", "STACIT", "STACTA", "WCS", "WMS", "WMTS")
"""Drivers of files that may name a server, or files anywhere: a file on a disk must not make GDAL ask for them."""
OTHER_DRIVERS = ("DERIVED", "MEM", "Memory", "PNM")  # of no file; and the last leaves numbers unset that GDAL gives as its transform
RARE_DRIVERS = {".ecw": "ECW", ".kea": "KEA", ".sid": "MrSID"}  # by suffix; of formats that few builds of GDAL read
OPTIONS = {
    "GDAL_NUM_THREADS": "1",  # threads are the run's own
    "VRT_NUM_THREADS": "1",
    "GDAL_VRT_ENABLE_PYTHON": "NO",
    "GDAL_VRT_RAWRASTERBAND_ALLOWED_SOURCE": "SIBLING_OR_CHILD_OF_VRT_PATH",
    "CPL_VSIL_CURL_ALLOWED_FILENAME": "none",
}
_opening = threading.Lock()  # catching warnings is not safe in several threads


@contextmanager
def gdal() -> Iterator[None]:
    """Set GDAL's options in this thread."""
    import rasterio

    _prepare()
    with rasterio.Env(**OPTIONS):
        yield


@cache
def _prepare() -> None:
    """Bound GDAL's cache, once for the process; what rasterio logs is in its exceptions as well."""
    from rasterio.env import set_gdal_config

    set_gdal_config("GDAL_CACHEMAX", CACHE_BYTES)
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)


def lacking_driver(path: str) -> str:
    """Return the driver that a file needs by its suffix, and that this GDAL lacks; empty where nothing is lacking."""
    name = RARE_DRIVERS.get(path.lower()[-4:], "")
    return name if name not in _drivers() else ""


@cache
def _drivers() -> list[str]:
    """Return GDAL's drivers that may open a file of a user."""
    import rasterio

    with rasterio.Env() as env:
        return [name for name in env.drivers() if name not in NETWORK_DRIVERS + OTHER_DRIVERS]


def open_dataset(target: str, overview: int | None = None) -> rasterio.DatasetReader:
    """Open a file, the text of a VRT, or a subdataset, for one thread at a time.

    Args:
        target: absolute path, VRT text, or name of a subdataset that GDAL gave.
        overview: which overview is read; None: the full size.

    Raises:
        rasterio.errors.RasterioIOError: GDAL does not recognise the file, or it is damaged.
    """
    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.io import DatasetReader

    options: dict[str, Any] = {} if overview is None else {"overview_level": overview}
    place = Path(target) if target.startswith("/") else target  # a Path is never taken for a connection string
    with _opening, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return DatasetReader(place, driver=_drivers(), sharing=False, **options)


def driver_of(path: str) -> str:
    """Return GDAL's driver of a local raster, such as ``ENVI``; empty where GDAL recognises none."""
    if not os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises where a name is too long
        return ""
    try:
        with gdal(), open_dataset(os.path.abspath(path)) as dataset:  # noqa: PTH100 - side files lie beside a link, not its target
            return str(dataset.driver) if dataset.count or dataset.subdatasets else ""
    except Exception:  # noqa: BLE001 - drivers raise many kinds on what is not theirs
        return ""
