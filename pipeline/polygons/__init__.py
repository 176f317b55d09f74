"""Polygons of files, in the pixels of an image, and the pixels that they cover.

Owns: reading layers of polygons, repair, transformation to the grid of an image, rasterisation by box.
May import: raster and base modules. Never touches: the YAML, classes, images.
"""

from __future__ import annotations

__all__: list[str] = []
