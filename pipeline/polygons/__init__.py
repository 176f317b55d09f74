"""Polygons of files, in the pixels of an image, and the pixels that they cover.

Owns: reading layers of polygons, repair, transformation to the grid of an image, rasterisation by box.
May import: raster, storage and base modules. Never touches: the YAML, classes, images.
"""

from __future__ import annotations

from pipeline.polygons.layer import PolygonLayer
from pipeline.polygons.reading import read_polygons
from pipeline.polygons.vector_files import POLYGON_SUFFIXES, companions, is_polygons, missing_packages

__all__ = ["POLYGON_SUFFIXES", "PolygonLayer", "companions", "is_polygons", "missing_packages", "read_polygons"]
