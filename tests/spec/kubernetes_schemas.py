"""Validate objects of Kubernetes without a cluster: KubeRay's kinds against its definitions, the others against Kubernetes' schemas.

An API server refuses unknown fields (``kubectl apply`` asks it to), so they are refused here, too. What only a server can check,
such as rules in CEL, is not: no test here talks to one.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

FOLDER = Path(os.environ.get("GIGASEG_TEST_DATA", "/nowhere"), "kuberay")
FILES = {"RayJob": "ray.io_rayjobs.yaml", "RayCronJob": "ray.io_raycronjobs.yaml"}

needs_definitions = pytest.mark.skipif(not FOLDER.is_dir(), reason="no kuberay/ in GIGASEG_TEST_DATA: KubeRay's definitions are not here")


def strict(schema):
    """Return a schema of a custom resource as JSON Schema that refuses unknown fields."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if isinstance(made.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string") is True:
        made.pop("type", None)
        made["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if schema.get("nullable") is True and isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]
    return made


@cache
def validator(kind):
    """Return the validator of one of KubeRay's kinds."""
    definition = yaml.load((FOLDER / FILES[kind]).read_text(), Loader=yaml.CSafeLoader)
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return jsonschema.Draft202012Validator(strict(schema))


def problems_of(thing):
    """Return what is wrong with an object, as texts that name the field."""
    if thing["kind"] in FILES:
        return [f"{error.json_path}: {error.message[:300]}" for error in validator(thing["kind"]).iter_errors(thing)]
    try:
        kubernetes_validate.validate(thing, kubernetes_validate.latest_version(), strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{error.path}: {error.message}"]
    return []
