"""The YAML as one frozen, strict tree, and what is resolved from it.

Owns: the schema, loading with line numbers, ``--set``, paths as the YAML writes them, the recipe.
May import: plug-in names and base modules. Never touches: images, models, the output folder.
"""

from __future__ import annotations

from pipeline.config.colors import checked_colors, default_colors
from pipeline.config.loading import (
    config_from_mapping,
    load_classes,
    load_config,
    load_written_config,
    load_yaml,
    resolve_mapping,
    to_yaml,
)
from pipeline.config.paths import (
    absolute_path,
    as_spelled,
    check_exists,
    exists,
    expand_glob,
    is_glob,
    is_sample,
    is_url,
    normal_form,
    split_glob,
)
from pipeline.config.recipe import CALIBRATED_FOLDER, Recipe, replace_auto
from pipeline.config.schema import (
    DEFAULT_PLUGINS,
    RUN_YAML,
    Auto,
    ByteSize,
    Classes,
    ClassSpec,
    Compute,
    Config,
    PixelSize,
    PluginSpec,
    PositiveInteger,
    Resolution,
    ResolutionKey,
    Tiling,
    YamlKind,
    json_schema,
    parse_bytes,
)
from pipeline.config.sources import PATH_KEYS, Mosaic, Source, Sources, Truth, TruthSpec, Zones
from pipeline.config.strict_model import NonEmptyText, StrictModel
from pipeline.config.yaml_document import KeyLocations, read_yaml

__all__ = [
    "CALIBRATED_FOLDER",
    "DEFAULT_PLUGINS",
    "PATH_KEYS",
    "RUN_YAML",
    "Auto",
    "ByteSize",
    "ClassSpec",
    "Classes",
    "Compute",
    "Config",
    "KeyLocations",
    "Mosaic",
    "NonEmptyText",
    "PixelSize",
    "PluginSpec",
    "PositiveInteger",
    "Recipe",
    "Resolution",
    "ResolutionKey",
    "Source",
    "Sources",
    "StrictModel",
    "Tiling",
    "Truth",
    "TruthSpec",
    "YamlKind",
    "Zones",
    "absolute_path",
    "as_spelled",
    "check_exists",
    "checked_colors",
    "config_from_mapping",
    "default_colors",
    "exists",
    "expand_glob",
    "is_glob",
    "is_sample",
    "is_url",
    "json_schema",
    "load_classes",
    "load_config",
    "load_written_config",
    "load_yaml",
    "normal_form",
    "parse_bytes",
    "read_yaml",
    "replace_auto",
    "resolve_mapping",
    "split_glob",
    "to_yaml",
]
