"""The YAML as one frozen, strict tree, and what is resolved from it.

Owns: the schema, loading with line numbers, ``--set`` overrides, paths as the YAML writes them, the recipe.
May import: plug-in names and base modules. Never touches: images, models, the output folder.
"""

from __future__ import annotations

from pipeline.config.class_colors import palette
from pipeline.config.loading import RUN, Form, config_from, json_schema, load_classes, load_config, load_form, load_written_config, to_yaml
from pipeline.config.paths import expand, is_pattern, is_remote, is_sample, missing, plain, split_pattern
from pipeline.config.recipe import CALIBRATED, Recipe
from pipeline.config.schema import ClassSpec, Compute, Config, Tiling, parse_bytes, settled
from pipeline.config.yaml_lines import Places, read_yaml

__all__ = [
    "CALIBRATED",
    "RUN",
    "ClassSpec",
    "Compute",
    "Config",
    "Form",
    "Places",
    "Recipe",
    "Tiling",
    "config_from",
    "expand",
    "is_pattern",
    "is_remote",
    "is_sample",
    "json_schema",
    "load_classes",
    "load_config",
    "load_form",
    "load_written_config",
    "missing",
    "palette",
    "parse_bytes",
    "plain",
    "read_yaml",
    "settled",
    "split_pattern",
    "to_yaml",
]
