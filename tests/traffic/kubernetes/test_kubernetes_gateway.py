"""The Gateway driver against an API server on loopback: a rollout, its crashes, and everything that is refused."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from kubernetes_fake import Fake
from kubernetes_story import (
    ALL_A,
    ALL_B,
    CLUSTER,
    ELASTIC,
    KEDA,
    SPLIT,
    A,
    B,
    C,
    gateway_driver,
    plan,
    release,
)

from tasks.errors import ConflictError, ServingError, UnreachableError, UnsupportedError
from tasks.release.model import Autoscaling
from tasks.traffic.conformance import check_driver
from tasks.traffic.driver import Driver
from tasks.traffic.kubernetes.route import REVISION, route, route_token

ROUTE = ("httproutes", "faq")


def test_a_rollout_from_the_first_release_to_the_second(fake: Fake) -> None:
    driver: Driver = gateway_driver(fake)
    driver.ensure(A)
    assert driver.running("faq") == (A.digest,)
    assert driver.observe("faq") is None
    driver.apply(plan(1, ALL_A))
    driver.ensure(B)
    assert driver.observe("faq") == ALL_A
    assert driver.probe(B, "Who?", 5).release_digest == B.digest
    driver.apply(plan(2, SPLIT))
    assert driver.observe("faq") == SPLIT
    heard = Counter(driver.ask("faq", f"user-{number}", "?", 5).release_digest for number in range(60))
    assert set(heard) == {A.digest, B.digest}
    assert 30 < heard[A.digest] < 55
    with pytest.raises(ServingError, match=f"release {B.short} still has traffic"):
        driver.retire("faq", B.digest)
    driver.apply(plan(3, ALL_B))
    driver.retire("faq", A.digest)
    driver.retire("faq", A.digest)
    assert driver.running("faq") == (B.digest,)
    assert sorted(fake.objects) == [("deployments", f"r-{B.short}"), ROUTE, ("services", f"r-{B.short}")]


def test_it_keeps_what_a_rollout_relies_on_except_what_the_documentation_says(fake: Fake) -> None:
    findings = check_driver(gateway_driver(fake), (A, B), plan(1, ALL_A).time)
    assert [finding for finding in findings if finding.breaks] == []
    assert [finding.method for finding in findings] == ["ask", "routed", "stand_by"]
    assert "not sticky" in findings[0].statement


def test_an_older_revision_is_refused_and_changes_nothing(fake: Fake) -> None:
    driver = gateway_driver(fake)
    driver.ensure(A)
    driver.ensure(B)
    driver.apply(plan(5, SPLIT))
    before = copy.deepcopy(fake.objects[ROUTE])
    with pytest.raises(ConflictError, match="revision 5 of the plan of faq is in effect, revision 4 came too late"):
        driver.apply(plan(4, ALL_A))
    assert fake.objects[ROUTE] == before
    driver.apply(plan(5, SPLIT))
    assert fake.objects[ROUTE] == before  # the same once more is no new version


def test_a_plan_that_is_overtaken_between_reading_and_writing_is_refused(fake: Fake) -> None:
    driver = gateway_driver(fake)
    driver.ensure(A)
    driver.ensure(B)
    driver.apply(plan(1, ALL_A))

    def overtake() -> None:
        found = copy.deepcopy(fake.objects[ROUTE])
        found["metadata"]["annotations"][REVISION] = "9"
        fake.write(ROUTE, found)

    fake.between = overtake
    with pytest.raises(ConflictError, match="revision 9 of the plan of faq is in effect, revision 2 came too late"):
        driver.apply(plan(2, SPLIT))
    weights = fake.objects[ROUTE]["spec"]["rules"][1]["backendRefs"]
    assert weights == [{"name": f"r-{A.short}", "port": 8080, "weight": 1000}]


def test_a_status_that_a_controller_writes_in_between_is_no_conflict(fake: Fake) -> None:
    driver = gateway_driver(fake)
    driver.ensure(A)
    driver.apply(plan(1, ALL_A))
    fake.between = lambda: fake.write(ROUTE, copy.deepcopy(fake.objects[ROUTE]))
    driver.apply(plan(2, ALL_A))
    assert fake.objects[ROUTE]["metadata"]["annotations"][REVISION] == "2"
    assert fake.calls.count("PATCH /apis/gateway.networking.k8s.io/v1/namespaces/models/httproutes/faq") == 3


def test_two_first_plans_at_once_are_one_route(fake: Fake) -> None:
    driver = gateway_driver(fake)
    driver.ensure(A)
    driver.ensure(B)
    fake.between = lambda: fake.apply(ROUTE, route(plan(3, ALL_B), CLUSTER, "t", _version(fake)))
    with pytest.raises(ConflictError, match="revision 3"):
        driver.apply(plan(1, ALL_A))
    assert driver.observe("faq") == ALL_B


def _version(fake: Fake) -> str:
    return str(fake.objects[ROUTE]["metadata"]["resourceVersion"])


def test_what_others_wrote_on_the_route_stays(fake: Fake) -> None:
    driver = gateway_driver(fake)
    driver.ensure(A)
    driver.apply(plan(1, ALL_A))
    fake.objects[ROUTE]["metadata"]["annotations"]["team.example/owner"] = "search"
    driver.apply(plan(2, ALL_A))
    assert fake.objects[ROUTE]["metadata"]["annotations"]["team.example/owner"] == "search"


def test_weights_that_somebody_else_set_are_seen_and_put_right(fake: Fake) -> None:
    driver = gateway_driver(fake)
    driver.ensure(A)
    driver.ensure(B)
    driver.apply(plan(1, SPLIT))
    fake.objects[ROUTE]["spec"]["rules"][1]["backendRefs"][0]["weight"] = 1
    assert driver.observe("faq") is None
    driver.apply(plan(1, SPLIT))
    assert driver.observe("faq") == SPLIT


@pytest.mark.parametrize("at", range(1, 12))
def test_a_run_that_is_killed_after_any_write_ends_the_same_when_it_is_run_again(fake: Fake, at: int) -> None:
    def story() -> None:
        driver = gateway_driver(fake)
        for each in (A, B):
            driver.ensure(each)
        driver.apply(plan(1, ALL_A))
        driver.apply(plan(2, ALL_B))
        driver.retire("faq", A.digest)

    writes = 0

    def dies(method: str, _: str) -> bool:
        nonlocal writes
        writes += method != "GET"
        return method != "GET" and writes == at

    fake.fails = dies
    with pytest.raises(ServingError, match=r"refuses .* with status 500: etcd is away"):
        story()
    fake.fails = lambda _method, _path: False
    is_left = any(A.short in name for _, name in fake.objects)
    assert (A.digest in gateway_driver(fake).running("faq")) == is_left  # so that somebody takes it away
    if fake.objects.get(ROUTE, {}).get("metadata", {}).get("annotations", {}).get(REVISION) == "2":
        again = gateway_driver(fake)
        again.ensure(B)
        again.apply(plan(2, ALL_B))
        again.retire("faq", A.digest)
    else:
        story()
    driver = gateway_driver(fake)
    assert driver.observe("faq") == ALL_B
    assert driver.running("faq") == (B.digest,)
    assert sorted(fake.objects) == [("deployments", f"r-{B.short}"), ROUTE, ("services", f"r-{B.short}")]


def test_a_release_that_nobody_ensured_gets_no_user(fake: Fake) -> None:
    driver = gateway_driver(fake)
    driver.ensure(A)
    driver.apply(plan(1, ALL_A))
    with pytest.raises(ServingError, match=f"release {B.short} has no pod that is available; deploy it first"):
        driver.apply(plan(2, SPLIT))
    assert driver.observe("faq") == ALL_A


def test_a_release_that_does_not_come_up_is_named_with_where_to_look(fake: Fake) -> None:
    fake.stuck = True
    with pytest.raises(ServingError, match=r"does not have minimum availability") as caught:
        gateway_driver(fake, wait_s=0.1).ensure(A)
    assert f"kubectl -n models logs deployment/r-{A.short}" in str(caught.value)


def test_a_release_that_takes_its_time_is_waited_for(fake: Fake) -> None:
    fake.lag = 3
    driver = gateway_driver(fake)
    driver.ensure(A)
    driver.apply(plan(1, ALL_A))
    assert driver.observe("faq") == ALL_A


def test_a_gateway_that_refuses_or_never_takes_a_route_is_an_error(fake: Fake) -> None:
    driver = gateway_driver(fake)
    driver.ensure(A)
    fake.refuses = "NotAllowedByListeners"
    with pytest.raises(ServingError, match="refuses HTTPRoute faq: Accepted is False, NotAllowedByListeners"):
        driver.apply(plan(1, ALL_A))
    assert driver.observe("faq") is None
    fake.refuses, fake.lag = "", 10_000
    with pytest.raises(ServingError, match=r"no Gateway took HTTPRoute faq within 0\.1 s; see: kubectl -n models"):
        gateway_driver(fake, wait_s=0.1).apply(plan(2, ALL_A))


def test_a_plan_is_in_effect_when_the_proxies_answer_by_it(fake: Fake) -> None:
    driver = gateway_driver(fake)
    driver.ensure(A)
    driver.ensure(B)
    driver.apply(plan(1, ALL_A))
    fake.slow = 3
    driver.apply(plan(2, ALL_B))
    assert driver.ask("faq", "u", "?", 5).release_digest == B.digest
    fake.slow = 1_000_000
    words = r"/faq/release does not answer by the new plan after 0\.1 s: X-Plan-Revision 2"
    with pytest.raises(ServingError, match=words):
        gateway_driver(fake, wait_s=0.1).apply(plan(3, ALL_A))


def test_only_who_knows_the_token_is_a_probe(fake: Fake) -> None:
    driver = gateway_driver(fake)
    driver.ensure(A)
    driver.apply(plan(1, ALL_A))
    token = route_token(fake.objects[ROUTE])
    driver.apply(plan(2, ALL_A))
    assert route_token(fake.objects[ROUTE]) == token
    assert len(token) == 32
    got = json.loads(driver.ask("faq", "ada", "?", 5).text)
    assert (got["x-purpose"], got["x-plan-revision"], got["x-user-id"]) == ("smoke", "2", "ada")
    assert "x-probe-token" not in got
    lies = {"x-purpose": "smoke", "x-probe-token": "guess", "x-unit": "lie", "x-bucket": "7", "x-plan-revision": "99"}
    _, kept, _ = fake.backend("/faq/v1/chat/completions", lies)
    assert kept == {"x-plan-revision": "2"}


def test_replicas_are_fixed_or_counted_by_one_autoscaler(fake: Fake) -> None:
    driver, name = gateway_driver(fake), f"r-{A.short}"
    driver.ensure(A)
    driver.scale(A, Autoscaling(min_replicas=3, max_replicas=3))
    assert fake.objects["deployments", name]["spec"]["replicas"] == 3
    driver.scale(A, ELASTIC)
    assert ("horizontalpodautoscalers", name) in fake.objects
    assert "replicas" not in fake.objects["deployments", name]["spec"]
    gateway_driver(fake, scaler=KEDA).scale(A, ELASTIC)
    assert ("scaledobjects", name) in fake.objects
    assert ("horizontalpodautoscalers", name) not in fake.objects
    driver.scale(A, Autoscaling())
    assert ("scaledobjects", name) not in fake.objects
    driver.retire("faq", A.digest)
    assert fake.objects == {}


def test_an_autoscaler_that_cannot_be_made_changes_nothing(fake: Fake) -> None:
    driver = gateway_driver(fake)
    driver.ensure(A)
    before = copy.deepcopy(fake.objects)
    slow = ELASTIC.model_copy(update={"upscale_delay_s": 4000.0})
    with pytest.raises(UnsupportedError, match="upscale_delay_s 4000 is longer than the 3600 s"):
        driver.scale(A, slow)
    assert fake.objects == before


def test_requests_are_not_counted_and_nothing_is_invented(fake: Fake) -> None:
    with pytest.raises(UnsupportedError, match="Kubernetes knows pods, not requests"):
        gateway_driver(fake).routed(A.digest)


def test_what_the_api_server_refuses_is_told_in_its_words(fake: Fake) -> None:
    wrong = replace(CLUSTER, cpu="a lot")
    driver = gateway_driver(fake, cluster=replace(wrong, namespace="Models"))
    with pytest.raises(ServingError, match=r"the Kubernetes API refuses Deployment r-.* with status 400: "):
        driver.ensure(A)


def test_an_api_server_that_is_away_is_said_with_what_to_do(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway_driver(fake).ensure(A)
    text = (tmp_path / "kubeconfig").read_text(encoding="utf-8")
    (tmp_path / "dead").write_text(text.replace(fake.url, "http://127.0.0.1:1"), encoding="utf-8")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "dead"))
    driver = gateway_driver(fake)
    calls: tuple[Callable[[], object], ...] = (
        lambda: driver.observe("faq"),
        lambda: driver.ensure(A),
        lambda: driver.apply(plan(1, ALL_A)),
        lambda: driver.retire("faq", A.digest),
        lambda: driver.running("faq"),
    )
    for call in calls:
        with pytest.raises(ServingError, match=r"the Kubernetes API does not answer .* see that the cluster is up"):
            call()
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "missing"))
    with pytest.raises(UnreachableError, match=r"no cluster is configured .*set KUBECONFIG to a file"):
        gateway_driver(fake).observe("faq")


def test_a_key_is_in_no_object_and_in_no_call(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    keyed = release(5, endpoint_key_env="OPENAI_API_KEY")
    driver = gateway_driver(fake)
    driver.ensure(keyed)
    driver.apply(plan(1, (keyed.digest,) * 1000))
    assert "sk-very-secret" not in json.dumps([list(fake.objects.values()), fake.calls])
    assert "hello" not in json.dumps(list(fake.objects.values()))  # nor is the prompt


def test_releases_of_another_application_are_not_its_own(fake: Fake) -> None:
    driver = gateway_driver(fake)
    driver.ensure(A)
    driver.ensure(C)
    assert driver.running("faq") == tuple(sorted((A.digest, C.digest)))
    assert driver.running("other") == ()
    assert driver.observe("other") is None
