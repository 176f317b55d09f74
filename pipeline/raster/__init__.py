"""An opened image: header, pixels and validity by region; resampling to another grid; georeference; sizes on the ground.

Owns: :class:`Raster` and :class:`Header`, resampling, the interpretation of GeoTIFF tags.
May import: ``geometry`` and ``errors``. Never touches: files, models, the YAML.
"""

from __future__ import annotations

from pipeline.raster.aligned import align, aligned_header
from pipeline.raster.alignment import Alignment, alignment_of
from pipeline.raster.georeference import METERS, Scale, affine, coarsened, coordinate_system, map_scale, shifted
from pipeline.raster.ground import (
    beyond_pole,
    center_latitude,
    ground_area,
    ground_size,
    ground_sizes,
    has_equal_rows,
    pixel_shares,
    row_areas,
)
from pipeline.raster.map_tags import GEOTIFF_TAGS, MapGrid, map_grid, map_tags
from pipeline.raster.opened import ArrayRaster, Header, Part, PlaneStep, Raster, valid_pixels
from pipeline.raster.resampling import NearestRaster, ResampledRaster, RescaledRaster, SampleRange, resampled_header, resampled_shape

__all__ = [
    "GEOTIFF_TAGS",
    "METERS",
    "Alignment",
    "ArrayRaster",
    "Header",
    "MapGrid",
    "NearestRaster",
    "Part",
    "PlaneStep",
    "Raster",
    "ResampledRaster",
    "RescaledRaster",
    "SampleRange",
    "Scale",
    "affine",
    "align",
    "aligned_header",
    "alignment_of",
    "beyond_pole",
    "center_latitude",
    "coarsened",
    "coordinate_system",
    "ground_area",
    "ground_size",
    "ground_sizes",
    "has_equal_rows",
    "map_grid",
    "map_scale",
    "map_tags",
    "pixel_shares",
    "resampled_header",
    "resampled_shape",
    "row_areas",
    "shifted",
    "valid_pixels",
]
