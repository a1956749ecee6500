"""The calls of the Kubernetes drivers to an API server: server-side apply, strict about fields. Beta."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tasks.errors import ConflictError, ServingError, UnreachableError
from tasks.traffic.kubernetes.objects import MANAGER, Document

_RESOURCES = {
    "Deployment": ("apps", "v1", "deployments"),
    "HorizontalPodAutoscaler": ("autoscaling", "v2", "horizontalpodautoscalers"),
    "HTTPRoute": ("gateway.networking.k8s.io", "v1", "httproutes"),
    "ScaledObject": ("keda.sh", "v1alpha1", "scaledobjects"),
    "InferenceService": ("serving.kserve.io", "v1beta1", "inferenceservices"),
}
_TIMEOUT_S = 30
_NOT_FOUND, _CONFLICT = 404, 409
_APPLY = "application/apply-patch+yaml"


@dataclass(frozen=True)
class Api:
    """One namespace of a cluster, reached as the environment says: a pod's service account, or ``KUBECONFIG``.

    Nothing is loaded, read or connected before the first call.

    Args:
        namespace: Of every object.
    """

    namespace: str
    timeout_s: int = field(default=_TIMEOUT_S)

    def get(self, kind: str, name: str) -> Document | None:
        """Return an object, None where there is none."""
        with self._said(f"{kind} {name}") as found:
            found.append(self._objects.get_namespaced_custom_object(*self._place(kind), name, **self._limit))
        return found[0] if found else None

    def found(self, kind: str, selector: str) -> list[Document]:
        """Return the objects of a kind that carry the labels of a selector."""
        with self._said(f"the list of {kind}") as found:
            call = self._objects.list_namespaced_custom_object
            found.extend(call(*self._place(kind), label_selector=selector, **self._limit)["items"])
        return found

    def apply(self, document: Document) -> Document:
        """Write an object by server-side apply; only the fields it names are this project's.

        Force takes those fields, and no others, from whoever else set them. A ``resourceVersion`` in the document makes
        the write fail if somebody wrote since it was read.

        Raises:
            ConflictError: Somebody wrote since.
            ServingError: The API server refuses the object.
        """
        kind, name = document["kind"], document["metadata"]["name"]
        options = {"field_manager": MANAGER, "field_validation": "Strict", "force": True, "_content_type": _APPLY}
        with self._said(f"{kind} {name}", missing=False) as found:
            if kind == "Service":
                call = self._core.patch_namespaced_service
                call(name, self.namespace, document, **options, **self._limit)
                found.append(document)
            else:
                call = self._objects.patch_namespaced_custom_object
                found.append(call(*self._place(kind), name, document, **options, **self._limit))
        return found[0]

    def create(self, document: Document) -> None:
        """Create an object; one that is there already stays as it is."""
        kind, name = document["kind"], document["metadata"]["name"]
        options = {"field_manager": f"{MANAGER}-create", "field_validation": "Strict"}
        try:
            with self._said(f"{kind} {name}", missing=False):
                call = self._objects.create_namespaced_custom_object
                call(*self._place(kind), document, **options, **self._limit)
        except ConflictError:
            pass  # somebody was faster

    def delete(self, kind: str, name: str) -> None:
        """Delete an object and what it made; one that is not there is no error."""
        with self._said(f"{kind} {name}"):
            options = {"propagation_policy": "Background", **self._limit}
            if kind == "Service":
                self._core.delete_namespaced_service(name, self.namespace, **options)
            else:
                self._objects.delete_namespaced_custom_object(*self._place(kind), name, **options)

    def _place(self, kind: str) -> tuple[str, str, str, str]:
        group, version, plural = _RESOURCES[kind]
        return group, version, self.namespace, plural

    @property
    def _limit(self) -> dict[str, int]:
        return {"_request_timeout": self.timeout_s}

    @contextmanager
    def _said(self, what: str, *, missing: bool = True) -> Iterator[list[Document]]:
        """Turn what the client raises into this project's errors; what is not there is left out."""
        from kubernetes.client.exceptions import ApiException, OpenApiException
        from urllib3.exceptions import HTTPError

        try:
            yield []
        except ApiException as error:
            if error.status == _NOT_FOUND and missing:
                return
            if error.status == _CONFLICT:
                raise ConflictError(f"{what} was written by somebody else since it was read") from error
            raise ServingError(
                f"the Kubernetes API refuses {what} in namespace {self.namespace} with status {error.status}: "
                f"{_reason(error)}"
            ) from error
        except (HTTPError, OpenApiException, OSError) as error:
            raise ServingError(
                f"the Kubernetes API does not answer ({type(error).__name__}) about {what}; see that the cluster is up "
                "and that KUBECONFIG, or the pod's service account, leads to it"
            ) from error

    @cached_property
    def _client(self) -> Any:
        try:
            from kubernetes import client
            from kubernetes import config as configuration
        except ImportError:
            raise ServingError("the Kubernetes client is missing; install it: pip install 'kubernetes>=34'") from None
        settings = client.Configuration()
        config: Any = configuration  # its functions carry no types
        path = os.environ.get("KUBECONFIG")
        try:
            if path is None and "KUBERNETES_SERVICE_HOST" in os.environ:
                config.load_incluster_config(client_configuration=settings)
            else:
                config.load_kube_config(config_file=path, client_configuration=settings)
        except (config.ConfigException, OSError) as error:
            raise UnreachableError(
                f"no cluster is configured ({type(error).__name__}); run in a pod with a service account, or set "
                "KUBECONFIG to a file"
            ) from error
        settings.retries = False
        return client.ApiClient(settings)

    @cached_property
    def _objects(self) -> Any:
        connected = self._client
        from kubernetes.client import CustomObjectsApi

        return CustomObjectsApi(connected)

    @cached_property
    def _core(self) -> Any:
        connected = self._client
        from kubernetes.client import CoreV1Api

        return CoreV1Api(connected)


def _reason(error: Any) -> str:
    """Return the API server's own reason, in one line."""
    try:
        text = str(json.loads(error.body)["message"])
    except (KeyError, TypeError, ValueError):
        text = str(error.reason)
    return " ".join(text.split())[:400]
