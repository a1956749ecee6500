"""What is sent to Kubernetes: valid by its own schemas, and saying what it ought to."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kubernetes_schemas import RefusedError, broken, check, strict, validator
from kubernetes_story import ALL_A, CLUSTER, ELASTIC, HPA, KEDA, SPLIT, A, B, C, plan, release

from tasks.errors import UnsupportedError
from tasks.release.model import Autoscaling
from tasks.serving.__main__ import _parser
from tasks.traffic.kubernetes.kserve import inference_service, read_shares, shares_buckets, with_plan, with_release
from tasks.traffic.kubernetes.objects import application_name, deployment, server_arguments, service
from tasks.traffic.kubernetes.route import (
    plan_annotations,
    plan_buckets,
    plan_revision,
    route,
    route_buckets,
    route_skeleton,
    route_token,
)
from tasks.traffic.kubernetes.scaling import Scaler, autoscaler
from tasks.traffic.plan import BUCKETS, reassign

ROUTE = route(plan(7, SPLIT), CLUSTER, "token", "12")
SHARES = with_plan(
    with_release(with_release(None, A, CLUSTER, Autoscaling()), B, CLUSTER, Autoscaling()), plan(7, SPLIT)
)
SERVICE = inference_service("faq", replace(SHARES, resource_version="12"), CLUSTER)
KEYED = release(4, endpoint_key_env="OPENAI_API_KEY")
OBJECTS: dict[str, dict[str, Any]] = {
    "deployment": deployment(A, CLUSTER, Autoscaling()),
    "deployment with a key": deployment(KEYED, CLUSTER, ELASTIC),
    "deployment without a claim": deployment(A, replace(CLUSTER, log_claim=""), Autoscaling()),
    "service": service(A, CLUSTER),
    "hpa": autoscaler(A, ELASTIC, HPA, "models"),
    "keda": autoscaler(A, ELASTIC, KEDA, "models"),
    "route": ROUTE,
    "empty route": route_skeleton("faq", CLUSTER),
    "inference service": SERVICE,
}


@pytest.mark.parametrize("name", OBJECTS)
def test_every_object_is_valid_by_the_strict_schema_of_its_kind(name: str) -> None:
    check(OBJECTS[name])


@pytest.mark.parametrize(
    ("name", "path", "value", "reason"),
    [
        ("deployment", "spec.replica", 2, "'replica' was unexpected"),
        ("deployment", "spec.template.spec.containers.0.readinesProbe", {}, "'readinesProbe' was unexpected"),
        ("hpa", "spec.behavior.scaleDown.stabilisationWindowSeconds", 1, "was unexpected"),
        ("keda", "spec.triggers.0.metadata.threshold", 2.5, "2.5 is not of type 'string'"),
        ("keda", "spec.minReplicas", 1, "'minReplicas' was unexpected"),
        ("keda", "spec.advanced.horizontalPodAutoscalerConfig.behavior.scaleDown.window", 1, "'window' was unexpected"),
        ("route", "spec.rules.0.backendRefs.0.weights", 1, "'weights' was unexpected"),
        ("route", "spec.rules.0.backendRefs.0.weight", 1_000_001, "greater than the maximum of 1000000"),
        ("route", "spec.rules.0.filters.1.type", "UrlRewrite", "'UrlRewrite' is not one of"),
        ("inference service", "spec.canary.0.canaryTrafficPercent", 10, "'canaryTrafficPercent' was unexpected"),
        ("inference service", "spec.predictor.canaryTrafficPercent", 10, "not read in Standard mode"),
        ("inference service", "spec.canary.0.trafficPercent", 101, "101 is greater than the maximum of 100"),
        ("inference service", "spec.canary.0.predictor.name", SHARES.stable and f"r-{A.short}", "not unique"),
        ("inference service", "spec.predictor.containers.0.imagee", "x", "'imagee' was unexpected"),
    ],
)
def test_the_schemas_would_see_a_mistake(name: str, path: str, value: object, reason: str) -> None:
    with pytest.raises(RefusedError, match=reason):
        check(broken(OBJECTS[name], path, value))


@pytest.mark.parametrize("kind", ["HTTPRoute", "ScaledObject", "InferenceService"])
def test_the_crd_schemas_are_whole_and_closed(kind: str) -> None:
    schema = validator(kind).schema
    validator(kind).check_schema(schema)
    assert schema["additionalProperties"] is False
    assert strict({"items": {"properties": {"a": {}}}})["items"]["additionalProperties"] is False


def test_a_pod_is_restricted_and_gets_its_key_from_a_secret_only() -> None:
    pod = OBJECTS["deployment with a key"]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert container["readinessProbe"]["httpGet"] == {"path": "/release", "port": 8080}
    assert container["env"][-1] == {
        "name": "OPENAI_API_KEY",
        "valueFrom": {"secretKeyRef": {"name": "endpoint-keys", "key": "OPENAI_API_KEY"}},
    }
    with pytest.raises(UnsupportedError, match="set DELIVERY_KUBERNETES_SECRET to the Secret's name"):
        deployment(KEYED, replace(CLUSTER, secret=""), ELASTIC)
    with pytest.raises(UnsupportedError, match="set DELIVERY_KUBERNETES_IMAGE"):
        deployment(A, replace(CLUSTER, image=""), ELASTIC)


def test_a_pod_runs_the_release_server() -> None:
    interpreter, module, *arguments = server_arguments(B)
    assert [interpreter, module] == ["-m", "tasks.serving"]
    assert arguments[-2:] == ["--host", "0.0.0.0"]
    options = _parser().parse_args(arguments)
    assert (options.application, options.version, options.port, options.host) == ("faq", 2, 8080, "0.0.0.0")


def test_names_are_dns_labels_and_different_applications_have_different_ones() -> None:
    names = ["faq", "FAQ", "faq.", "faq-", "9", "a" * 64, "a" * 63, "f_q", "f-q", "f.q"]
    made = [application_name(name) for name in names]
    assert made[0] == "faq"
    assert len(set(made)) == len(names)
    assert all(len(name) <= 37 and name[0].isalpha() and name.replace("-", "").isalnum() for name in made)
    assert all(len(f"{name}-r-{A.short}-predictor") <= 63 for name in made)


def test_the_weights_of_a_route_are_the_buckets_and_both_come_back() -> None:
    probe, users = ROUTE["spec"]["rules"]
    assert probe["backendRefs"] == users["backendRefs"]
    assert {ref["name"]: ref["weight"] for ref in users["backendRefs"]} == {f"r-{A.short}": 700, f"r-{B.short}": 300}
    assert ROUTE["spec"]["parentRefs"] == [{"name": "public", "namespace": "edge"}]
    assert route(plan(7, SPLIT), replace(CLUSTER, gateway="public"), "t", "1")["spec"]["parentRefs"] == [
        {"name": "public"}
    ]
    assert users["filters"][0]["requestHeaderModifier"] == {
        "set": [{"name": "X-Plan-Revision", "value": "7"}],
        "remove": ["X-Unit", "X-Unit-Kind", "X-Bucket", "X-Request-Id", "X-Probe-Token", "X-Purpose"],
    }
    assert "X-Purpose" not in probe["filters"][0]["requestHeaderModifier"]["remove"]
    assert (route_buckets(ROUTE), plan_revision(ROUTE), route_token(ROUTE)) == (SPLIT, 7, "token")
    assert len(json.dumps(ROUTE["metadata"]["annotations"])) < 2000


@pytest.mark.parametrize("rule", [0, 1])
def test_weights_that_somebody_changed_are_not_the_plan(rule: int) -> None:
    assert route_buckets(broken(ROUTE, f"spec.rules.{rule}.backendRefs.0.weight", 699)) is None
    assert route_buckets(broken(ROUTE, f"spec.rules.{rule}.backendRefs", [])) is None
    assert route_buckets(broken(ROUTE, "spec.rules", [])) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("delivery/plan-buckets", "{}"),
        ("delivery/plan-buckets", '{"digests":["a"],"map":"eJw="}'),
        ("delivery/plan-buckets", plan_annotations(plan(1, ALL_A))["delivery/plan-buckets"]),
        ("delivery/plan-buckets-sha256", "0" * 64),
    ],
)
def test_a_map_that_is_not_whole_is_no_map(key: str, value: str) -> None:
    notes = {**ROUTE["metadata"]["annotations"], key: value}
    assert plan_buckets({"metadata": {"annotations": notes}}) is None
    assert plan_buckets({"metadata": {}}) is None


def test_a_route_has_a_limit_and_needs_a_gateway() -> None:
    many = tuple(f"{number % 17:064d}" for number in range(BUCKETS))
    with pytest.raises(UnsupportedError, match="at most 16 releases, not 17"):
        route(plan(1, many), CLUSTER, "t", "1")
    with pytest.raises(UnsupportedError, match="set DELIVERY_KUBERNETES_GATEWAY"):
        route(plan(1, ALL_A), replace(CLUSTER, gateway=""), "t", "1")


def test_autoscaling_becomes_an_autoscaler() -> None:
    hpa, keda = OBJECTS["hpa"]["spec"], OBJECTS["keda"]["spec"]
    assert (hpa["minReplicas"], hpa["maxReplicas"]) == (2, 6)
    assert hpa["metrics"][0]["pods"] == {
        "metric": {"name": "ongoing_requests"},
        "target": {"type": "AverageValue", "averageValue": "2500m"},
    }
    assert hpa["behavior"]["scaleUp"]["stabilizationWindowSeconds"] == 30
    assert hpa["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 600
    assert (keda["minReplicaCount"], keda["maxReplicaCount"]) == (2, 6)
    assert keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == hpa["behavior"]
    assert keda["triggers"][0]["metadata"] == {
        "serverAddress": "http://prometheus:9090",
        "query": f'sum(ongoing{{service="r-{A.short}"}})',
        "threshold": "2.5",
    }
    assert "replicas" not in deployment(A, CLUSTER, ELASTIC)["spec"]
    assert deployment(A, CLUSTER, Autoscaling(min_replicas=3, max_replicas=3))["spec"]["replicas"] == 3


def test_what_cannot_be_counted_is_said_with_the_setting_that_is_missing() -> None:
    with pytest.raises(UnsupportedError, match="set DELIVERY_KUBERNETES_METRIC"):
        autoscaler(A, ELASTIC, Scaler(), "models")
    with pytest.raises(UnsupportedError, match="set DELIVERY_KUBERNETES_PROMETHEUS_URL and"):
        autoscaler(A, ELASTIC, Scaler(kind="keda", query="up"), "models")
    slow = ELASTIC.model_copy(update={"downscale_delay_s": 3600.5})
    with pytest.raises(UnsupportedError, match="downscale_delay_s 3601 is longer than the 3600 s Kubernetes allows"):
        autoscaler(A, slow, HPA, "models")
    tiny = ELASTIC.model_copy(update={"target_ongoing_requests": 0.0001})
    assert autoscaler(A, tiny, HPA, "models")["spec"]["metrics"][0]["pods"]["target"]["averageValue"] == "1m"


def test_the_shares_of_kserve_are_whole_percents_of_canaries() -> None:
    assert [item["trafficPercent"] for item in SERVICE["spec"]["canary"]] == [30]
    assert SERVICE["spec"]["predictor"]["name"] == f"r-{A.short}"
    assert SERVICE["spec"]["canary"][0]["predictor"]["name"] == f"r-{B.short}"
    assert "canaryTrafficPercent" not in json.dumps(SERVICE)
    back = read_shares(SERVICE)
    assert back is not None
    assert (back.percents, back.stable, back.resource_version) == ({A.digest: 70, B.digest: 30}, A.digest, "12")
    odd = reassign(ALL_A, {A.digest: 995, B.digest: 5}, "s")
    with pytest.raises(
        UnsupportedError, match=rf"release {B.short} would have 0\.5 %|release {A.short} would have 99\.5 %"
    ):
        with_plan(SHARES, plan(1, odd))
    with pytest.raises(UnsupportedError, match="KServe scales no canary"):
        with_release(SHARES, C, CLUSTER, ELASTIC)


def test_a_promotion_only_renames_the_predictor() -> None:
    promoted = with_plan(SHARES, plan(8, (B.digest,) * BUCKETS))
    made = inference_service("faq", promoted, CLUSTER)
    check(made)
    assert made["spec"]["predictor"] == SHARES.predictors[B.digest]
    assert made["spec"]["canary"] == [{"trafficPercent": 0, "predictor": SHARES.predictors[A.digest]}]


def test_kserve_is_believed_only_when_it_says_that_it_did_it() -> None:
    name = f"r-{B.short}"
    status = {"canaryStatuses": [{"name": name, "trafficPercent": 30, "ready": True}]}
    assert shares_buckets({**SERVICE, "status": status}) == SPLIT
    assert shares_buckets(SERVICE) is None
    for change in ({"trafficPercent": 20}, {"ready": False}, {"name": "r-other"}):
        said = {"canaryStatuses": [{**status["canaryStatuses"][0], **change}]}
        assert shares_buckets({**SERVICE, "status": said}) is None
    assert shares_buckets(broken({**SERVICE, "status": status}, "spec.canary.0.trafficPercent", 31)) is None


def test_the_schemas_say_where_they_are_from() -> None:
    text = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
    for name in ("httproute-v1.json", "scaledobject-v1alpha1.json", "inferenceservice-v1beta1.json"):
        assert name in text
    assert "Apache-2.0" in text
