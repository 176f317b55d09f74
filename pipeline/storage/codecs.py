"""Faster codecs for Zarr, where they are installed."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import zarr

__all__ = ["with_fast_codecs"]


def with_fast_codecs(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """Return the array with zarrs as its decoder, where zarrs is installed: the same pixels for half the processor time.

    Arrays of Zarr v2 are returned as they are: zarrs cannot read some of their byte orders, and says so only when it reads.
    """
    if array.metadata.zarr_format != 3 or find_spec("zarrs") is None:
        return array
    import zarr

    # The setting holds only while this array is opened: other arrays of the program keep their codecs.
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarrs warns where it leaves an array to Zarr
        return zarr.Array.from_dict(array.store_path, array.metadata.to_dict())
