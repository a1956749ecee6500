"""Kubernetes as data path: request weights in a Gateway's HTTPRoute. Beta: no one has run it on a cluster yet.

Weights draw for every request anew: a user is not kept with one release, and no bucket is told to the release.
What the API server cannot know, and what follows for a rollout, is in docs/drivers.md.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from tasks.errors import ConflictError, ServingError, UnsupportedError
from tasks.release.model import Autoscaling, Release
from tasks.traffic.asking import ask
from tasks.traffic.driver import Answer, Question, Routed
from tasks.traffic.kubernetes.api import Api
from tasks.traffic.kubernetes.objects import (
    APPLICATION,
    DIGEST,
    MANAGER,
    PORT,
    Cluster,
    Document,
    application_name,
    deployment,
    no_standby,
    release_name,
    service,
)
from tasks.traffic.kubernetes.route import plan_revision, route, route_buckets, route_skeleton, route_token
from tasks.traffic.kubernetes.scaling import Scaler, autoscaler
from tasks.traffic.plan import Plan, overtaken

WRITES = 20
"""How often a write is tried that others, such as a Gateway's controller, came in between."""
_AUTOSCALERS = {"hpa": "HorizontalPodAutoscaler", "keda": "ScaledObject"}
_PROBE = {"X-Purpose": "smoke"}
_IN_A_ROW = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayDriver:
    """Releases as Deployments behind an HTTPRoute of the Gateway API.

    Args:
        cluster: Where and how releases are run.
        scaler: What counts requests for autoscaling.
        api: The API server.
        url: Where users reach the Gateway.
        probe_url: Of a release, past the plan; ``{service}``, ``{namespace}`` and ``{port}`` are filled in.
        wait_s: How long a release, or a route, may take until it is ready, seconds.
        poll_s: Time between two looks, seconds.
    """

    cluster: Cluster
    scaler: Scaler
    api: Api
    url: str
    probe_url: str
    wait_s: float = 300.0
    poll_s: float = 1.0

    def ensure(self, release: Release) -> None:
        """Apply the release's Deployment and Service and wait until a pod of it is available."""
        self.api.apply(deployment(release, self.cluster, release.spec.autoscaling))
        self.api.apply(service(release, self.cluster))
        await_deployment(self.api, release_name(release.digest), self.wait_s, self.poll_s)

    def probe(self, release: Release, question: Question, timeout_s: float) -> Answer:
        """Ask the release's Service, past the route."""
        return ask(self._service_url(release_name(release.digest)), question, timeout_s, _PROBE)

    def _service_url(self, name: str) -> str:
        base = self.probe_url.format(service=name, namespace=self.cluster.namespace, port=PORT)
        return f"{base}/v1/chat/completions"

    def apply(self, plan: Plan) -> None:
        """Write weights and plan in one server-side apply that fails if anybody wrote since the revision was read."""
        name = application_name(plan.application)
        written = write_plan(plan, lambda: self._route(plan.application), lambda now: self._written(plan, now))
        if route_buckets(written) != plan.buckets:
            raise ServingError(
                f"HTTPRoute {name} did not take revision {plan.revision}; is another controller at work?"
            )
        deadline = time.monotonic() + self.wait_s
        while not _is_accepted(written, name):
            if time.monotonic() > deadline:
                raise ServingError(
                    f"no Gateway took HTTPRoute {name} within {self.wait_s:g} s; see: kubectl -n "
                    f"{self.cluster.namespace} describe httproute {name}"
                )
            time.sleep(self.poll_s)
            written = self._route(plan.application)
            refuse_older(plan, written)
        wanted = {str(plan.revision)}
        await_answers(f"{self.url}/{plan.application}/release", "X-Plan-Revision", wanted, self.wait_s, self.poll_s)

    def _route(self, application: str) -> Document:
        """Return the route, made empty where there is none: only what exists has a version to compare."""
        name = application_name(application)
        found = self.api.get("HTTPRoute", name)
        if found is None:
            self.api.create(route_skeleton(application, self.cluster))
            found = self.api.get("HTTPRoute", name)
        if found is None:
            raise ServingError(f"HTTPRoute {name} was deleted by somebody else; apply the plan again")
        return found

    def _written(self, plan: Plan, now: Document) -> Document:
        for digest in plan.counts():
            if not is_available(self.api.get("Deployment", release_name(digest))):
                raise ServingError(f"release {digest[:12]} has no pod that is available; deploy it first")
        token = route_token(now) or secrets.token_hex(16)
        return self.api.apply(route(plan, self.cluster, token, now["metadata"]["resourceVersion"]))

    def observe(self, application: str) -> tuple[str, ...] | None:
        """Return the plan beside the weights, if the weights agree with it and the Gateway took them.

        The buckets are the plan's: the Gateway draws by weight and knows no buckets.
        """
        name = application_name(application)
        found = self.api.get("HTTPRoute", name)
        return route_buckets(found) if found is not None and _is_accepted(found, name, strict=False) else None

    def ask(self, application: str, unit: str, question: Question, timeout_s: float) -> Answer:
        """Ask through the Gateway; ``unit`` is sent along and decides nothing."""
        found = self.api.get("HTTPRoute", application_name(application)) or {}
        headers = {"X-User-Id": unit, "X-Probe-Token": route_token(found), **_PROBE}
        return ask(f"{self.url}/{application}/v1/chat/completions", question, timeout_s, headers)

    def scale(self, release: Release, spec: Autoscaling) -> None:
        """Give the Deployment its fixed number of replicas, or an autoscaler."""
        name = release_name(release.digest)
        wanted = ""
        if spec.min_replicas != spec.max_replicas:
            document, wanted = autoscaler(release, spec, self.scaler, self.cluster.namespace), self.scaler.kind
            self.api.apply(deployment(release, self.cluster, spec))
            self.api.apply(document)
        for kind, resource in _AUTOSCALERS.items():
            if kind != wanted:
                self.api.delete(resource, name)
        if not wanted:
            self.api.apply(deployment(release, self.cluster, spec))

    def stand_by(self, application: str, proven: Sequence[str]) -> None:
        """Say that nobody stands in for another one."""
        del proven
        raise no_standby(application)

    def routed(self, digest: str) -> Routed:
        """Say that nobody counts."""
        raise uncounted(digest)

    def running(self, application: str) -> tuple[str, ...]:
        """Return the releases that have a Deployment."""
        selector = f"app.kubernetes.io/managed-by={MANAGER},app.kubernetes.io/part-of={application_name(application)}"
        notes = [item["metadata"].get("annotations") or {} for item in self.api.found("Deployment", selector)]
        return tuple(sorted(note[DIGEST] for note in notes if note.get(APPLICATION) == application and DIGEST in note))

    def retire(self, application: str, digest: str) -> None:
        """Delete what the release consists of, its Deployment last: what is left of a killed run is still found."""
        name = release_name(digest)
        found = self.api.get("HTTPRoute", application_name(application)) or {}
        rules = found.get("spec", {}).get("rules") or ()
        if any(ref["name"] == name and ref.get("weight", 1) for rule in rules for ref in rule.get("backendRefs") or ()):
            raise ServingError(f"release {digest[:12]} still has traffic; move it away before retiring it")
        for kind in (*_AUTOSCALERS.values(), "Service", "Deployment"):
            self.api.delete(kind, name)


def uncounted(digest: str) -> UnsupportedError:
    """Return the error that says why requests are not counted here."""
    return UnsupportedError(
        f"requests to release {digest[:12]} are not counted by this data path: Kubernetes knows pods, not requests; "
        "what the release logs itself is all there is"
    )


def refuse_older(plan: Plan, now: Document) -> None:
    """Keep a flow that was overtaken from putting its plan over the one that overtook it.

    Raises:
        ConflictError: A later revision is in effect.
    """
    newest = plan_revision(now)
    if newest > plan.revision:
        raise overtaken(plan, newest)


def write_plan(plan: Plan, read: Callable[[], Document], write: Callable[[Document], Document]) -> Document:
    """Read, compare the revisions, write; again where somebody wrote in between.

    Args:
        plan: What is to be in effect.
        read: Returns the object as it is.
        write: Writes the plan over just that object; raises ``ConflictError`` if it is another one by now.

    Returns:
        What was written.

    Raises:
        ConflictError: A later revision is in effect already; nothing was changed.
        ServingError: Somebody else writes all the time.
    """
    for _ in range(WRITES):
        now = read()
        refuse_older(plan, now)
        try:
            return write(now)
        except ConflictError:
            continue  # often only its status was written, by a controller
    raise ServingError(f"the plan of {plan.application} is written by somebody else all the time; see who it is")


def await_deployment(api: Api, name: str, wait_s: float, poll_s: float) -> None:
    """Wait until a Deployment has a pod that is available.

    Raises:
        ServingError: It has none in time.
    """
    deadline = time.monotonic() + wait_s
    while not is_available(found := api.get("Deployment", name)):
        if time.monotonic() > deadline:
            state = "is missing" if found is None else f"has no pod that is available: {_conditions(found)}"
            where = f"kubectl -n {api.namespace}"
            raise ServingError(
                f"Deployment {name} {state} after {wait_s:g} s; see: {where} describe deployment {name}, and "
                f"{where} logs deployment/{name}"
            )
        time.sleep(poll_s)


def await_answers(url: str, header: str, wanted: Collection[str], wait_s: float, poll_s: float) -> None:
    """Ask until the answers come by the new plan, several times in a row: there may be several proxies.

    Args:
        url: Through the data path, of a release's description; asking it is nobody's interaction.
        header: Of the answer.
        wanted: What it may say.
        wait_s: How long that may take, seconds.
        poll_s: Time between two tries, seconds.

    Raises:
        ServingError: They do not come in time.
    """
    deadline, row, said = time.monotonic() + wait_s, 0, ""
    # A connection for each request: one that is kept leads to the same proxy again.
    with httpx.Client(timeout=5, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)) as client:
        while row < _IN_A_ROW:
            try:
                said = client.get(url).headers.get(header, "nothing")
            except httpx.HTTPError as error:
                said = type(error).__name__
            row = row + 1 if said in wanted else 0
            if row == 0:
                if time.monotonic() > deadline:
                    raise ServingError(
                        f"{url} does not answer by the new plan after {wait_s:g} s: {header} {said[:64]}"
                    )
                time.sleep(poll_s)


def is_available(document: Document | None) -> bool:
    """Return whether a Deployment has a pod of its present template that is available."""
    status = (document or {}).get("status") or {}
    if document is None or status.get("observedGeneration", 0) < document["metadata"].get("generation", 0):
        return False
    return bool(status.get("availableReplicas") and status.get("updatedReplicas"))


def _conditions(document: Document) -> str:
    found = (document.get("status") or {}).get("conditions") or ()
    return (
        "; ".join(str(item.get("message", "")) for item in found if item.get("status") != "True")[:300] or "no reason"
    )


def _is_accepted(document: Document, name: str, *, strict: bool = True) -> bool:
    """Return whether every Gateway took the route as it is now; one that refused it is an error where strict."""
    parents: list[dict[str, Any]] = (document.get("status") or {}).get("parents") or []
    for parent in parents:
        for kind in ("Accepted", "ResolvedRefs"):
            item = next((item for item in parent.get("conditions") or () if item["type"] == kind), None)
            if item is None or item.get("observedGeneration", 0) < document["metadata"]["generation"]:
                return False
            if item["status"] != "True":
                if strict:
                    raise ServingError(
                        f"a Gateway refuses HTTPRoute {name}: {kind} is {item['status']}, {item['reason']}"
                    )
                return False
    return bool(parents)
