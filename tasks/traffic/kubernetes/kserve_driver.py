"""KServe as data path: one InferenceService an application. Beta: no one has run it on a cluster yet."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tasks.errors import ConflictError, ServingError
from tasks.release.model import Autoscaling, Release
from tasks.traffic.asking import ask
from tasks.traffic.driver import Answer, Question, Routed
from tasks.traffic.kubernetes.api import Api
from tasks.traffic.kubernetes.driver import (
    WRITES,
    await_answers,
    await_deployment,
    is_available,
    refuse_older,
    uncounted,
    write_plan,
)
from tasks.traffic.kubernetes.kserve import (
    Shares,
    inference_service,
    kserve_name,
    read_shares,
    shares_buckets,
    with_plan,
    with_release,
    without_release,
)
from tasks.traffic.kubernetes.objects import Cluster, Document, application_name, no_standby
from tasks.traffic.plan import Plan

_PORT = 80  # of the Services that KServe makes
_PROBE = {"X-Purpose": "smoke"}


@dataclass(frozen=True, slots=True, kw_only=True)
class KserveDriver:
    """Releases as the predictor and the canaries of an InferenceService.

    Args:
        cluster: Where and how releases are run.
        api: The API server.
        probe_url: Of a release, past the plan; ``{service}``, ``{namespace}`` and ``{port}`` are filled in.
        wait_s: How long a release, or a change of shares, may take, seconds.
        poll_s: Time between two looks, seconds.
    """

    cluster: Cluster
    api: Api
    probe_url: str
    wait_s: float = 300.0
    poll_s: float = 1.0

    def ensure(self, release: Release) -> None:
        """Add the release as a canary without traffic; the first release of an application is its predictor at once."""
        spec = release.spec.autoscaling
        self._change(release.application, lambda now: with_release(now, release, self.cluster, spec))
        name = kserve_name(release.application, release.digest)
        await_deployment(self.api, name, self.wait_s, self.poll_s)

    def _change(self, application: str, change: Callable[[Shares | None], Shares]) -> None:
        for _ in range(WRITES):
            shares = change(read_shares(self._read(application)))
            try:
                self.api.apply(inference_service(application, shares, self.cluster))
            except ConflictError:
                continue
            return
        raise ServingError(f"InferenceService {application_name(application)} is written by somebody else all the time")

    def _read(self, application: str) -> Document | None:
        return self.api.get("InferenceService", application_name(application))

    def _known(self, application: str) -> Document:
        found = self._read(application)
        if found is None:
            raise ServingError(f"{application} has no InferenceService; deploy a release first")
        return found

    def probe(self, release: Release, question: Question, timeout_s: float) -> Answer:
        """Ask the release's own Service."""
        name = kserve_name(release.application, release.digest)
        base = self.probe_url.format(service=name, namespace=self.cluster.namespace, port=_PORT)
        return ask(f"{base}/v1/chat/completions", question, timeout_s, _PROBE)

    def apply(self, plan: Plan) -> None:
        """Write shares and plan in one server-side apply that fails if anybody wrote since the revision was read."""
        write_plan(plan, lambda: self._known(plan.application), lambda now: self._written(plan, now))
        deadline = time.monotonic() + self.wait_s
        while self.observe(plan.application) != plan.buckets:
            if time.monotonic() > deadline:
                name = application_name(plan.application)
                raise ServingError(
                    f"KServe did not give the shares of revision {plan.revision} within {self.wait_s:g} s; see: "
                    f"kubectl -n {self.cluster.namespace} describe inferenceservice {name}"
                )
            time.sleep(self.poll_s)
            refuse_older(plan, self._known(plan.application))
        await_answers(f"{self._url(plan.application)}/release", "X-Release", plan.counts(), self.wait_s, self.poll_s)

    def _written(self, plan: Plan, now: Document) -> Document:
        shares = read_shares(now)
        for digest in plan.counts():
            name = kserve_name(plan.application, digest)
            known = shares is not None and digest in shares.predictors
            if not known or not is_available(self.api.get("Deployment", name)):
                raise ServingError(f"release {digest[:12]} has no pod that is available; deploy it first")
        if shares is None:
            raise ServingError(f"{plan.application} has no InferenceService; deploy a release first")
        return self.api.apply(inference_service(plan.application, with_plan(shares, plan), self.cluster))

    def observe(self, application: str) -> tuple[str, ...] | None:
        """Return the plan beside the shares, if the shares and KServe's own word on them agree with it."""
        found = self._read(application)
        return None if found is None else shares_buckets(found)

    def ask(self, application: str, unit: str, question: Question, timeout_s: float) -> Answer:
        """Ask the URL that KServe names; ``unit`` is sent along and decides nothing."""
        headers = {"X-User-Id": unit, **_PROBE}
        return ask(f"{self._url(application)}/v1/chat/completions", question, timeout_s, headers)

    def _url(self, application: str) -> str:
        url = (self._known(application).get("status") or {}).get("url")
        if not url:
            raise ServingError(
                f"KServe names no URL for {application_name(application)} yet; see that it has an ingress"
            )
        return str(url)

    def scale(self, release: Release, spec: Autoscaling) -> None:
        """Give a release its fixed number of replicas."""
        self._change(release.application, lambda now: with_release(now, release, self.cluster, spec))

    def stand_by(self, application: str, proven: Sequence[str]) -> None:
        """Say that nobody stands in for another one."""
        del proven
        raise no_standby(application)

    def routed(self, digest: str) -> Routed:
        """Say that nobody counts."""
        raise uncounted(digest)

    def running(self, application: str) -> tuple[str, ...]:
        """Return the releases the InferenceService holds."""
        shares = read_shares(self._read(application))
        return tuple(sorted(shares.predictors)) if shares else ()

    def retire(self, application: str, digest: str) -> None:
        """Take a canary without traffic away; KServe deletes what it made for it."""
        shares = read_shares(self._read(application))
        if shares is None or digest not in shares.predictors:
            return
        self._change(application, lambda now: _without(now, digest))


def _without(now: Shares | None, digest: str) -> Shares:
    if now is None:
        raise ServingError("the InferenceService was deleted by somebody else")
    if now.percents.get(digest) or digest == now.stable:
        raise ServingError(f"release {digest[:12]} still has traffic; move it away before retiring it")
    return without_release(now, digest)
