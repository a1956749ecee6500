"""The releases of an application as one InferenceService of KServe, 0.20 or newer, in Standard mode. Beta.

The predictor takes what the canaries leave. Each has a Deployment and a Service named after its release, so a
release becomes the predictor, or a canary, without any pod being started again. The older ``canaryTrafficPercent``
is never written: Standard mode does not read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tasks.errors import ServingError, UnsupportedError
from tasks.release.model import Autoscaling, Release
from tasks.traffic.kubernetes.objects import (
    APPLICATION,
    DIGEST,
    LABEL,
    Cluster,
    Document,
    application_name,
    labels,
    pod_spec,
    release_name,
)
from tasks.traffic.kubernetes.route import plan_annotations, plan_buckets
from tasks.traffic.plan import BUCKETS, Plan

_BUCKETS_A_PERCENT = BUCKETS // 100
_MODE = {"serving.kserve.io/deploymentMode": "Standard", "serving.kserve.io/autoscalerClass": "none"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """An InferenceService as this project sees it.

    Attributes:
        predictors: The predictor of each release, by digest.
        percents: The share of each, whole percent; they add up to 100.
        stable: Who is the predictor; the others are canaries.
        annotations: The plan, as annotations; empty where none was applied.
        resource_version: What was read; empty where nothing was there.
    """

    predictors: Mapping[str, Document]
    percents: Mapping[str, int]
    stable: str
    annotations: Mapping[str, str]
    resource_version: str = ""


def kserve_name(application: str, digest: str) -> str:
    """Return the name of the Deployment and of the Service that KServe makes for a release."""
    return f"{application_name(application)}-{release_name(digest)}-predictor"


def read_shares(document: Mapping[str, Any] | None) -> Shares | None:
    """Return what an InferenceService holds, None where there is none.

    Raises:
        ServingError: A predictor in it is none of this project's.
    """
    if document is None:
        return None
    spec = document["spec"]
    canaries = [(item["trafficPercent"], item["predictor"]) for item in spec.get("canary") or ()]
    left = 100 - sum(percent for percent, _ in canaries)
    predictors, percents = dict[str, Document](), dict[str, int]()
    for percent, predictor in [(left, spec["predictor"]), *canaries]:
        digest = (predictor.get("annotations") or {}).get(DIGEST)
        if digest is None:
            raise ServingError(
                f"InferenceService {document['metadata']['name']} was not made by this driver; use another namespace"
            )
        predictors[digest], percents[digest] = predictor, percent
    notes = document["metadata"].get("annotations") or {}
    return Shares(
        predictors=predictors,
        percents=percents,
        stable=next(iter(predictors)),
        annotations={key: value for key, value in notes.items() if key.startswith("delivery/plan-")},
        resource_version=document["metadata"]["resourceVersion"],
    )


def with_release(shares: Shares | None, release: Release, cluster: Cluster, spec: Autoscaling) -> Shares:
    """Return the shares with a release that has none yet; the first of an application is its predictor at once.

    Raises:
        UnsupportedError: The number of its replicas would have to change with the traffic.
    """
    if spec.min_replicas != spec.max_replicas:
        raise UnsupportedError(
            f"autoscaling of {release.label}: KServe scales no canary; give min_replicas and max_replicas the same "
            "value, or set DELIVERY_KUBERNETES_SPLIT=gateway"
        )
    own = {
        "name": release_name(release.digest),
        "labels": {LABEL: release.short},
        "annotations": {DIGEST: release.digest},
        "minReplicas": spec.min_replicas,
        **pod_spec(release, cluster, container="kserve-container"),
    }
    if shares is None:
        first = {release.digest: own}
        return Shares(predictors=first, percents={release.digest: 100}, stable=release.digest, annotations={})
    percents = {release.digest: 0, **shares.percents}
    return replace(shares, predictors={**shares.predictors, release.digest: own}, percents=percents)


def with_plan(shares: Shares, plan: Plan) -> Shares:
    """Return the shares as a plan wants them; the predictor stays who it is as long as it has any share.

    Raises:
        UnsupportedError: A share is no whole percent.
    """
    counts = plan.counts()
    for digest, count in counts.items():
        if count % _BUCKETS_A_PERCENT:
            raise UnsupportedError(
                f"KServe shares traffic in whole percent, and release {digest[:12]} would have {count / 10:g} %; use "
                "whole percents in the ramp, or set DELIVERY_KUBERNETES_SPLIT=gateway"
            )
    percents = {digest: counts.get(digest, 0) // _BUCKETS_A_PERCENT for digest in shares.predictors}
    stable = shares.stable if counts.get(shares.stable, 0) else next(iter(counts))
    return replace(shares, percents=percents, stable=stable, annotations=plan_annotations(plan))


def without_release(shares: Shares, digest: str) -> Shares:
    """Return the shares without a canary that has none."""
    left = {key: value for key, value in shares.predictors.items() if key != digest}
    return replace(shares, predictors=left, percents={key: shares.percents[key] for key in left})


def inference_service(application: str, shares: Shares, cluster: Cluster) -> Document:
    """Return the InferenceService that holds the shares."""
    version = {"resourceVersion": shares.resource_version} if shares.resource_version else {}
    canaries = [
        {"trafficPercent": shares.percents[digest], "predictor": predictor}
        for digest, predictor in sorted(shares.predictors.items())
        if digest != shares.stable
    ]
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": application_name(application),
            "namespace": cluster.namespace,
            "labels": labels(application),
            "annotations": {**_MODE, APPLICATION: application, **shares.annotations},
            **version,
        },
        "spec": {"predictor": shares.predictors[shares.stable], **({"canary": canaries} if canaries else {})},
    }


def shares_buckets(document: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return who has which bucket, if what was asked for and what KServe says it does agree with the plan.

    KServe gives a canary that is not ready no traffic, whatever was asked for; it says so in its status.
    """
    shares, buckets = read_shares(document), plan_buckets(document)
    if shares is None or buckets is None:
        return None
    wanted = {digest: buckets.count(digest) // _BUCKETS_A_PERCENT for digest in set(buckets)}
    asked = {digest: percent for digest, percent in shares.percents.items() if percent}
    said = {item["name"]: item for item in document.get("status", {}).get("canaryStatuses") or ()}
    canaries = [said.get(release_name(digest), {}) for digest in asked if digest != shares.stable]
    percents = [asked[digest] for digest in asked if digest != shares.stable]
    done = all(
        item.get("ready") and item.get("trafficPercent") == percent
        for item, percent in zip(canaries, percents, strict=True)
    )
    return buckets if asked == wanted and done else None
