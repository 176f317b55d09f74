"""Which reader opens the truth of an image: masks, a mosaic of masks, or polygons on the image's grid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.config import TruthSpec, is_glob, split_glob
from pipeline.inputs.truth import TRUTH_READER
from pipeline.raster import Header

__all__ = ["POLYGON_SUFFIXES", "mosaic_reader", "on_grid", "template_of", "truth_reader"]

POLYGON_SUFFIXES = (".geojson", ".json", ".gpkg", ".shp", ".fgb", ".parquet", ".geoparquet")


def template_of(truth: TruthSpec | str | None) -> str | None:
    """Return the path or the template of the YAML's ``truth``; None: there is none, or it is a mosaic."""
    return truth.path if isinstance(truth, TruthSpec) else truth


def mosaic_reader(pattern: str, **options: Any) -> tuple[str, dict[str, Any]]:
    """Return the folder of a mosaic's tiles, and the reader that opens it as one image.

    Example:
        >>> mosaic_reader("/data/masks/*.tif")
        ('/data/masks', {'name': 'mosaic', 'tiles': '*.tif'})
    """
    folder, tiles = split_glob(pattern) if is_glob(pattern) else (pattern, "*")
    return folder, {"name": "mosaic", "tiles": tiles, **options}


def truth_reader(path: str, truth: TruthSpec | str | None) -> Mapping[str, Any]:
    """Return the reader of one truth file and its options, as the YAML's ``truth`` sets them; polygons still need :func:`on_grid`."""
    if not path.lower().endswith(POLYGON_SUFFIXES):
        return TRUTH_READER
    options = {key: getattr(truth, key) for key in ("layer", "attribute", "all_touched")} if isinstance(truth, TruthSpec) else {}
    return {"name": "polygons", **options}


def on_grid(reader: Mapping[str, Any], header: Header) -> Mapping[str, Any]:
    """Return the reader of a truth with the grid of its image, on which polygons are drawn."""
    if reader["name"] != "polygons":
        return reader
    grid = {"shape": list(header.shape), "planes": dict(header.planes), "georeference": dict(header.georeference)}
    return {**reader, "grid": grid}
