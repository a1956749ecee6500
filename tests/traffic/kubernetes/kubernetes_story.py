"""The releases, plans and drivers that the tests of this folder tell their stories with."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial

from kubernetes_fake import Fake
from sample_release import release_of

from tasks.release.model import Autoscaling
from tasks.traffic.kubernetes.api import Api
from tasks.traffic.kubernetes.driver import GatewayDriver
from tasks.traffic.kubernetes.kserve_driver import KserveDriver
from tasks.traffic.kubernetes.objects import Cluster
from tasks.traffic.kubernetes.scaling import Scaler
from tasks.traffic.plan import BUCKETS, Plan, reassign

CLUSTER = Cluster(
    namespace="models",
    image="registry.example/llm-delivery:1",
    mlflow_url="http://mlflow.platform:5000",
    gateway="edge/public",
    secret="endpoint-keys",  # noqa: S106 - the name of one
    log_claim="interactions",
)
HPA = Scaler(kind="hpa", metric="ongoing_requests")
KEDA = Scaler(kind="keda", prometheus_url="http://prometheus:9090", query='sum(ongoing{service="{service}"})')
ELASTIC = Autoscaling(min_replicas=2, max_replicas=6, target_ongoing_requests=2.5, downscale_delay_s=600)
release = partial(release_of, endpoint="http://model.example/v1")
A, B, C = release(1), release(2), release(3)
ALL_A, ALL_B = (A.digest,) * BUCKETS, (B.digest,) * BUCKETS
SPLIT = reassign(ALL_A, {A.digest: 700, B.digest: 300}, "s")


def plan(revision: int, buckets: tuple[str, ...]) -> Plan:
    return Plan(
        application="faq",
        revision=revision,
        salt="s",
        buckets=buckets,
        author="t",
        reason="r",
        time=datetime(2026, 1, 1, tzinfo=UTC),
    )


def gateway_driver(fake: Fake, cluster: Cluster = CLUSTER, scaler: Scaler = HPA, wait_s: float = 30) -> GatewayDriver:
    return GatewayDriver(
        cluster=cluster,
        scaler=scaler,
        api=Api("models"),
        url=fake.url,
        probe_url=f"{fake.url}/api/v1/namespaces/{{namespace}}/services/{{service}}:{{port}}/proxy",
        wait_s=wait_s,
        poll_s=0.01,
    )


def kserve_driver(fake: Fake, cluster: Cluster = CLUSTER, wait_s: float = 30) -> KserveDriver:
    probe_url = f"{fake.url}/api/v1/namespaces/{{namespace}}/services/{{service}}:{{port}}/proxy"
    return KserveDriver(cluster=cluster, api=Api("models"), probe_url=probe_url, wait_s=wait_s, poll_s=0.01)
