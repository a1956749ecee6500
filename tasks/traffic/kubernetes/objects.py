"""The objects that run a release in Kubernetes, as documents: one Deployment and one Service each. Beta."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any

from tasks.errors import UnsupportedError
from tasks.release.model import Autoscaling, Release

Document = dict[str, Any]
PORT = 8080
MANAGER = "delivery"
APPLICATION = "delivery/application"
DIGEST = "delivery/release-digest"
LABEL = "delivery/release"
_MAX_SLUG = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Where and how releases are run.

    Attributes:
        namespace: Of every object.
        image: Container image that holds this project; its user must not be root.
        mlflow_url: The registry, as pods reach it.
        gateway: Name of the Gateway, or ``namespace/name``.
        secret: Secret whose keys are named like the ``endpoint_key_env`` of releases.
        log_claim: PersistentVolumeClaim for the interaction log; empty: the log ends with its pod.
        cpu, memory: What a pod asks for, as Kubernetes quantities; memory is its limit too.
        content, redact: What pods keep of texts in the interaction log, as the settings of the same names.
    """

    namespace: str
    image: str
    mlflow_url: str
    gateway: str = ""
    secret: str = ""
    log_claim: str = ""
    cpu: str = "250m"
    memory: str = "1Gi"
    content: str = "full"
    redact: bool = False


def no_standby(application: str) -> UnsupportedError:
    """Return the error that says why no release answers in place of another one here."""
    return UnsupportedError(
        f"no release of {application} answers in place of another one on this data path: Kubernetes starts pods that "
        "are gone again, and a Service has no backup; give a release two replicas"
    )


def application_name(application: str) -> str:
    """Return an application's name as a DNS label of at most 37 characters, told apart by a hash where it changed."""
    slug = re.sub(r"[^a-z0-9]+", "-", application.lower()).strip("-")[:_MAX_SLUG].strip("-")
    if slug == application and slug[0].isalpha():
        return slug
    return f"a-{slug[:22].strip('-')}-{hashlib.sha256(application.encode()).hexdigest()[:10]}"


def release_name(digest: str) -> str:
    """Return the name of a release's Deployment and Service."""
    return f"r-{digest[:12]}"


def labels(application: str, digest: str = "") -> dict[str, str]:
    """Return the labels of an object of an application, or of one of its releases."""
    found = {
        "app.kubernetes.io/managed-by": MANAGER,
        "app.kubernetes.io/part-of": application_name(application),
        "app.kubernetes.io/name": "release-server" if digest else "traffic-plan",
    }
    return {**found, LABEL: digest[:12]} if digest else found


def pod_spec(release: Release, cluster: Cluster, container: str = "release") -> Document:
    """Return the pod of a release: the release server under the restricted security profile.

    Raises:
        UnsupportedError: The endpoint needs a key and there is no Secret to take it from, or there is no image.
    """
    if not cluster.image:
        raise UnsupportedError("a release needs an image to run from; set DELIVERY_KUBERNETES_IMAGE")
    claim = {"persistentVolumeClaim": {"claimName": cluster.log_claim}} if cluster.log_claim else {"emptyDir": {}}
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 60,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [_container(release, cluster, container)],
        "volumes": [{"name": "tmp", "emptyDir": {}}, {"name": "interactions", **claim}],
    }


def server_arguments(release: Release) -> list[str]:
    """Return the command line of the release server, without the interpreter; the host is last."""
    named = ["--application", release.application, "--version", str(release.registry_version)]
    return ["-m", "tasks.serving", *named, "--port", str(PORT), "--host", "0.0.0.0"]


def _container(release: Release, cluster: Cluster, name: str) -> Document:
    ready = {"httpGet": {"path": "/release", "port": PORT}, "timeoutSeconds": 5}
    return {
        "name": name,
        "image": cluster.image,
        "command": ["python"],
        "args": server_arguments(release),
        "env": _environment(release, cluster),
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        "startupProbe": {**ready, "periodSeconds": 2, "failureThreshold": 90},
        "readinessProbe": {**ready, "periodSeconds": 5, "failureThreshold": 2},
        # Endpoints forget a pod some seconds after it is told to end: until then it goes on answering.
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", "10"]}}},
        "resources": {
            "requests": {"cpu": cluster.cpu, "memory": cluster.memory},
            "limits": {"memory": cluster.memory},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - in the pod
            {"name": "interactions", "mountPath": "/var/delivery/interactions"},
        ],
    }


def _environment(release: Release, cluster: Cluster) -> list[Document]:
    plain: list[Document] = [
        {"name": "DELIVERY_MLFLOW_URL", "value": cluster.mlflow_url},
        {"name": "DELIVERY_STATE_DIR", "value": "/var/delivery"},
        {"name": "DELIVERY_CONTENT", "value": cluster.content},
        {"name": "DELIVERY_REDACT", "value": str(cluster.redact).lower()},
        {"name": "PYTHONDONTWRITEBYTECODE", "value": "1"},
        {"name": "HOME", "value": "/tmp"},  # noqa: S108 - in the pod
    ]
    key = release.spec.endpoint_key_env
    if key is None:
        return plain
    if not cluster.secret:
        raise UnsupportedError(
            f"{release.label} needs {key}; put it under that key into a Secret of namespace {cluster.namespace} "
            "and set DELIVERY_KUBERNETES_SECRET to the Secret's name"
        )
    return [*plain, {"name": key, "valueFrom": {"secretKeyRef": {"name": cluster.secret, "key": key}}}]


def deployment(release: Release, cluster: Cluster, spec: Autoscaling) -> Document:
    """Return the Deployment of a release; where an autoscaler counts the replicas, it names none."""
    name, own = release_name(release.digest), {LABEL: release.short}
    replicas = {"replicas": spec.min_replicas} if spec.min_replicas == spec.max_replicas else {}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name,
            "namespace": cluster.namespace,
            "labels": labels(release.application, release.digest),
            "annotations": {APPLICATION: release.application, DIGEST: release.digest},
        },
        "spec": {
            **replicas,
            "selector": {"matchLabels": own},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {
                "metadata": {"labels": labels(release.application, release.digest)},
                "spec": pod_spec(release, cluster),
            },
        },
    }


def service(release: Release, cluster: Cluster) -> Document:
    """Return the Service of a release; it is the backend of the route."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": release_name(release.digest),
            "namespace": cluster.namespace,
            "labels": labels(release.application, release.digest),
        },
        "spec": {
            "type": "ClusterIP",
            "selector": {LABEL: release.short},
            "ports": [{"name": "http", "port": PORT, "targetPort": PORT, "protocol": "TCP"}],
        },
    }
