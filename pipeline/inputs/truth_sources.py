"""Which reader opens the truth of an image: masks, a mosaic of masks, or polygons on the image's grid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.config import Config, TruthSpec, is_glob, split_glob
from pipeline.inputs.truth import TRUTH_READER, TruthMap
from pipeline.models import Model
from pipeline.plugins import build
from pipeline.polygons import is_polygons
from pipeline.raster import Header

__all__ = ["mosaic_reader", "on_grid", "polygon_values", "template_of", "truth_reader"]

POLYGON_OPTIONS = ("layer", "attribute", "all_touched", "ignore")


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
    if not is_polygons(path):
        return TRUTH_READER
    options = {key: getattr(truth, key) for key in POLYGON_OPTIONS} if isinstance(truth, TruthSpec) else {}
    return {"name": "polygons", **{key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}}


def polygon_values(config: Config) -> dict[str, Any]:
    """Return the options of the reader of polygons that follow from the classes: the truth value of each name.

    Classes are those of the YAML, else of the model. A class whose ``values`` are ``other`` gives each polygon a value of its own, so
    that polygons that touch are separate objects.
    """
    truth_map = TruthMap(len(config.classes or ()), config.classes, config.ignore)
    names = [spec.name for spec in config.classes or ()]
    if not names:
        model: Model = build("models", config.model, "model")
        names = [str(spec["name"]) for spec in model.class_list]
    values = {name: truth_map.value_of(class_id) for class_id, name in enumerate(names)}
    free, background = truth_map.first_free, truth_map.value_of(0)
    return {
        "values": values,
        "value": None if truth_map.means_other(1) else 1,
        "background": free if background is None else background,
        "first_id": free + 1,
        "may_miss": True,  # by one of the images that have a file; `check_truth` refuses a file that all of them miss
    }


def on_grid(reader: Mapping[str, Any], header: Header, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the reader of a truth with the grid of its image, on which polygons are drawn, and the values of their names."""
    if reader["name"] != "polygons":
        return reader
    grid = {"shape": list(header.shape), "planes": dict(header.planes), "georeference": dict(header.georeference)}
    return {**reader, **options, "grid": {**grid, "levels": [list(level) for level in header.levels]}}
