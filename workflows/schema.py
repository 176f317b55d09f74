"""Print the schema that YAMLs follow."""

from __future__ import annotations

import json

from pipeline.config import RUN_YAML, json_schema
from pipeline.training import TRAINING_YAML

__all__ = ["schema"]


def schema(*, training: bool = False) -> int:
    """Print the JSON schema of the YAML of a run, or of a training, for editors. Returns 0."""
    print(json.dumps(json_schema(TRAINING_YAML if training else RUN_YAML), indent=2))
    return 0
