"""Judges objects as a strict API server does: by the schemas of Kubernetes itself, and of the three CRDs used."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
from referencing import Registry, Resource

FOLDER = Path(__file__).parent
VERSION = "1.37"
CUSTOM = {
    "HTTPRoute": "httproute-v1",
    "ScaledObject": "scaledobject-v1alpha1",
    "InferenceService": "inferenceservice-v1beta1",
}


class RefusedError(Exception):
    """An object that a strict API server would not take."""


VALIDATE: Any = kubernetes_validate.validate  # its functions carry no types


def check(document: dict[str, Any]) -> None:
    """Raise ``RefusedError`` with the place and the reason if an object is not valid, or names a field nobody knows."""
    try:
        if document.get("kind") in CUSTOM:
            validator(document["kind"]).validate(document)
        else:
            VALIDATE(document, VERSION, strict=True)
    except jsonschema.ValidationError as error:
        raise RefusedError(f"{error.json_path}: {error.message[:200]}") from error
    rule = RULES.get(document["kind"])
    if rule is not None:
        rule(document)


def strict(schema: Any) -> Any:
    """Return a schema that allows no property it does not name."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if "properties" in made and "additionalProperties" not in made and isinstance(made["properties"], dict):
        made["additionalProperties"] = False
    return made


@cache
def validator(kind: str) -> jsonschema.Draft202012Validator:
    """Return the strict validator of a custom kind."""
    schema = strict(json.loads((FOLDER / f"{CUSTOM[kind]}.json").read_text(encoding="utf-8")))
    folder = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema" / f"v{VERSION}.0-local-strict"
    core = json.loads((folder / "_definitions.json").read_text(encoding="utf-8"))
    base = core["$id"].rsplit("/", 1)[0]
    registry = Registry().with_resource(core["$id"], Resource.from_contents(core))
    return jsonschema.Draft202012Validator({**schema, "$id": f"{base}/{kind}.json"}, registry=registry)


def _route(document: dict[str, Any]) -> None:
    """The rules of the HTTPRoute CRD that are written in CEL, as far as they touch what is sent."""
    for rule in document["spec"].get("rules", []):
        kinds = [item["type"] for item in rule.get("filters", [])]
        if len(set(kinds)) != len(kinds):
            raise RefusedError("a filter cannot be repeated in a rule")
        rewrites = [item["urlRewrite"]["path"]["type"] for item in rule.get("filters", []) if "urlRewrite" in item]
        paths = [match["path"]["type"] for match in rule.get("matches", [])]
        if "ReplacePrefixMatch" in rewrites and paths != ["PathPrefix"]:
            raise RefusedError("ReplacePrefixMatch needs exactly one match, of a path's prefix")


def _inference_service(document: dict[str, Any]) -> None:
    """The rules of KServe's webhook for canaries."""
    spec = document["spec"]
    canaries = spec.get("canary", [])
    names = [item["predictor"]["name"] for item in canaries] + [spec["predictor"].get("name")]
    if canaries and document["metadata"]["annotations"].get("serving.kserve.io/deploymentMode") != "Standard":
        raise RefusedError("spec.canary is for Standard mode only")
    if len(set(names)) != len(names):
        raise RefusedError(f"the names of predictors are not unique: {names}")
    if sum(item["trafficPercent"] for item in canaries) > 100:
        raise RefusedError("the canaries have more than 100 percent")
    for item in [spec["predictor"], *(canary["predictor"] for canary in canaries)]:
        if "canaryTrafficPercent" in item:
            raise RefusedError("canaryTrafficPercent is not read in Standard mode")
    for canary in canaries:
        if {"scaleMetric", "scaleTarget", "autoScaling", "maxReplicas"} & set(canary["predictor"]):
            raise RefusedError("a canary has no autoscaling")


RULES: dict[str, Callable[[dict[str, Any]], None]] = {"HTTPRoute": _route, "InferenceService": _inference_service}


def broken(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return a copy of an object with one value set; numbers in the path are places in a list."""
    made = copy.deepcopy(document)
    place: Any = made
    *steps, last = [int(step) if step.isdecimal() else step for step in path.split(".")]
    for step in steps:
        place = place[step]
    place[last] = value
    return made
