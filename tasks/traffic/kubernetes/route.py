"""The traffic plan of an application as an HTTPRoute, and the plan itself in its annotations. Beta.

The plan stands in the annotations of the object that holds the weights, so that one write changes both and neither
can be newer than the other.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import zlib
from collections.abc import Mapping
from typing import Any

from tasks.errors import UnsupportedError
from tasks.traffic.kubernetes.objects import (
    APPLICATION,
    PORT,
    Cluster,
    Document,
    application_name,
    labels,
    release_name,
)
from tasks.traffic.plan import BUCKETS, Plan

MAX_BACKENDS = 16  # of a rule of an HTTPRoute
REVISION = "delivery/plan-revision"
_SALT = "delivery/plan-salt"
_BUCKETS = "delivery/plan-buckets"
_SHA256 = "delivery/plan-buckets-sha256"
_LIES = ("X-Unit", "X-Unit-Kind", "X-Bucket", "X-Request-Id", "X-Probe-Token")
"""Headers by which a caller could claim to be somebody else, or to be a probe."""
_MAX_MAP_BYTES = 100_000


def route(plan: Plan, cluster: Cluster, token: str, resource_version: str) -> Document:
    """Return the HTTPRoute of a plan: a rule for probes, which know the token, and one for users.

    Args:
        plan: Who gets what; the weights are its buckets.
        cluster: Where.
        token: Only probes and the route know it; without it nobody can keep a call off the log.
        resource_version: What was read before: the write fails if somebody wrote since.

    Raises:
        UnsupportedError: More releases than a rule can have backends, or there is no Gateway.
    """
    if len(plan.counts()) > MAX_BACKENDS:
        raise UnsupportedError(
            f"a route shares traffic among at most {MAX_BACKENDS} releases, not {len(plan.counts())}"
        )
    if not cluster.gateway:
        raise UnsupportedError("a route needs a Gateway; set DELIVERY_KUBERNETES_GATEWAY to its name or namespace/name")
    namespace, _, name = cluster.gateway.rpartition("/")
    head = route_skeleton(plan.application, cluster)["metadata"]
    path = {"path": {"type": "PathPrefix", "value": f"/{plan.application}"}}
    probe = {**path, "headers": [{"type": "Exact", "name": "X-Probe-Token", "value": token}]}
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {
            **head,
            "resourceVersion": resource_version,
            "annotations": {**head["annotations"], **plan_annotations(plan)},
        },
        "spec": {
            "parentRefs": [{"name": name, **({"namespace": namespace} if namespace else {})}],
            "rules": [_rule(plan, probe, purpose=True), _rule(plan, path, purpose=False)],
        },
    }


def route_skeleton(application: str, cluster: Cluster) -> Document:
    """Return an HTTPRoute that is attached to nothing: it is only there to have a version that can be compared."""
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {
            "name": application_name(application),
            "namespace": cluster.namespace,
            "labels": labels(application),
            "annotations": {APPLICATION: application},
        },
        "spec": {},
    }


def _rule(plan: Plan, match: Document, *, purpose: bool) -> Document:
    headers = {
        "set": [{"name": "X-Plan-Revision", "value": str(plan.revision)}],
        "remove": [*_LIES] if purpose else [*_LIES, "X-Purpose"],
    }
    return {
        "matches": [match],
        "filters": [
            {"type": "RequestHeaderModifier", "requestHeaderModifier": headers},
            # A proxy follows some time after its Gateway took the route: the answers tell when.
            {"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": headers["set"]}},
            {"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}}},
        ],
        "backendRefs": [
            {"name": release_name(digest), "port": PORT, "weight": count} for digest, count in plan.counts().items()
        ],
    }


def route_token(document: Mapping[str, Any]) -> str:
    """Return the probes' token of a route, empty where it has none yet."""
    for rule in document.get("spec", {}).get("rules", ()):
        for match in rule.get("matches", ()):
            for header in match.get("headers", ()):
                if header["name"] == "X-Probe-Token":
                    return str(header["value"])
    return ""


def route_buckets(document: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return who has which bucket, if the weights of every rule agree with the plan beside them; else None."""
    buckets = plan_buckets(document)
    if buckets is None:
        return None
    wanted = {release_name(digest): buckets.count(digest) for digest in set(buckets)}
    rules = document.get("spec", {}).get("rules", [])
    found = [{ref["name"]: ref.get("weight", 1) for ref in rule.get("backendRefs", ())} for rule in rules]
    return buckets if found and all(weights == wanted for weights in found) else None


def plan_annotations(plan: Plan) -> dict[str, str]:
    """Return a plan as annotations; the map is packed, because 1,000 digests are 64 KB."""
    digests = sorted(plan.counts())
    index = {digest: at for at, digest in enumerate(digests)}
    packed = base64.b64encode(zlib.compress(bytes(index[digest] for digest in plan.buckets), 9)).decode()
    return {
        REVISION: str(plan.revision),
        _SALT: plan.salt,
        _BUCKETS: json.dumps({"digests": digests, "map": packed}, separators=(",", ":")),
        _SHA256: buckets_sha256(plan.buckets),
    }


def plan_revision(document: Mapping[str, Any]) -> int:
    """Return the revision that an object holds, 0 where it holds none."""
    text = (document["metadata"].get("annotations") or {}).get(REVISION, "")
    return int(text) if text.isdecimal() else 0


def plan_buckets(document: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the map that an object holds, None where it holds none that is whole."""
    notes = document["metadata"].get("annotations") or {}
    try:
        held = json.loads(notes[_BUCKETS])
        unpacked = zlib.decompressobj().decompress(base64.b64decode(held["map"], validate=True), _MAX_MAP_BYTES)
        buckets = tuple(str(held["digests"][at]) for at in unpacked)
    except (KeyError, IndexError, TypeError, ValueError, binascii.Error, zlib.error):
        return None
    whole = len(buckets) == BUCKETS and buckets_sha256(buckets) == notes.get(_SHA256)
    return buckets if whole else None


def buckets_sha256(buckets: tuple[str, ...]) -> str:
    """Return the SHA-256 of a map, digests in order of bucket with a line break after each."""
    return hashlib.sha256("".join(f"{digest}\n" for digest in buckets).encode()).hexdigest()
