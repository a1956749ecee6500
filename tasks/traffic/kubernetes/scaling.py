"""From the autoscaling of a release to an autoscaler: HorizontalPodAutoscaler, or KEDA's ScaledObject. Beta."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tasks.errors import UnsupportedError
from tasks.release.model import Autoscaling, Release
from tasks.traffic.kubernetes.objects import Document, labels, release_name

_MAX_WINDOW_S = 3600  # of the autoscaling API
_STEP_S = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaler:
    """What counts the requests that wait.

    Attributes:
        kind: ``hpa`` needs an adapter for custom metrics, ``keda`` needs KEDA and Prometheus.
        metric: HPA: the name of the metric of a pod: requests it has taken and not answered.
        prometheus_url: KEDA: the server, as KEDA reaches it.
        query: KEDA: the sum of the ongoing requests of ``{service}`` in ``{namespace}``.
    """

    kind: Literal["hpa", "keda"] = "hpa"
    metric: str = ""
    prometheus_url: str = ""
    query: str = ""


def autoscaler(release: Release, spec: Autoscaling, scaler: Scaler, namespace: str) -> Document:
    """Return the autoscaler of a release.

    Args:
        release: Whose replicas.
        spec: Between how many, and how many requests may be under way in each.
        scaler: What counts them.
        namespace: Of the release.

    Raises:
        UnsupportedError: There is nothing to count with, or a delay is longer than Kubernetes allows.
    """
    return _hpa(release, spec, scaler, namespace) if scaler.kind == "hpa" else _keda(release, spec, scaler, namespace)


def _hpa(release: Release, spec: Autoscaling, scaler: Scaler, namespace: str) -> Document:
    if not scaler.metric:
        raise UnsupportedError(
            f"autoscaling of {release.label}: no metric of ongoing requests is known; set DELIVERY_KUBERNETES_METRIC "
            "to the pods' metric of your adapter, or give min_replicas and max_replicas the same value"
        )
    name = release_name(release.digest)
    target = {"type": "AverageValue", "averageValue": _quantity(spec.target_ongoing_requests)}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, "namespace": namespace, "labels": labels(release.application, release.digest)},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "minReplicas": spec.min_replicas,
            "maxReplicas": spec.max_replicas,
            "metrics": [{"type": "Pods", "pods": {"metric": {"name": scaler.metric}, "target": target}}],
            "behavior": _behavior(release, spec),
        },
    }


def _keda(release: Release, spec: Autoscaling, scaler: Scaler, namespace: str) -> Document:
    if not scaler.prometheus_url or not scaler.query:
        raise UnsupportedError(
            f"autoscaling of {release.label}: KEDA is not told what to count; set DELIVERY_KUBERNETES_PROMETHEUS_URL "
            "and DELIVERY_KUBERNETES_PROMETHEUS_QUERY, or give min_replicas and max_replicas the same value"
        )
    name = release_name(release.digest)
    query = scaler.query.replace("{service}", name).replace("{namespace}", namespace)
    threshold = f"{spec.target_ongoing_requests:g}"
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": name, "namespace": namespace, "labels": labels(release.application, release.digest)},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            # Never 0: a release that is given users must be there for the first of them.
            "minReplicaCount": spec.min_replicas,
            "maxReplicaCount": spec.max_replicas,
            "pollingInterval": _STEP_S,
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _behavior(release, spec)}},
            "triggers": [
                {
                    "type": "prometheus",
                    "metricType": "AverageValue",
                    "metadata": {"serverAddress": scaler.prometheus_url, "query": query, "threshold": threshold},
                }
            ],
        },
    }


def _behavior(release: Release, spec: Autoscaling) -> Document:
    step = [{"type": "Percent", "value": 100, "periodSeconds": _STEP_S}]
    return {
        "scaleUp": {"stabilizationWindowSeconds": _window(release, "upscale_delay_s", spec), "policies": step},
        "scaleDown": {"stabilizationWindowSeconds": _window(release, "downscale_delay_s", spec), "policies": step},
    }


def _window(release: Release, name: Literal["upscale_delay_s", "downscale_delay_s"], spec: Autoscaling) -> int:
    seconds = math.ceil(spec.upscale_delay_s if name == "upscale_delay_s" else spec.downscale_delay_s)
    if seconds > _MAX_WINDOW_S:
        raise UnsupportedError(
            f"autoscaling of {release.label}: {name} {seconds} is longer than the {_MAX_WINDOW_S} s Kubernetes allows"
        )
    return seconds


def _quantity(value: float) -> str:
    """Return a number as Kubernetes writes it; thousandths are the smallest, and none is ever rounded to nothing."""
    thousandths = max(1, round(value * 1000))
    return f"{thousandths}m" if thousandths % 1000 else str(thousandths // 1000)
