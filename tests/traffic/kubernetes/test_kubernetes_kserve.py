"""The KServe driver against an API server on loopback whose controller does what KServe's does."""

from __future__ import annotations

import copy

import pytest
from kubernetes_fake import Fake
from kubernetes_story import ALL_A, ALL_B, SPLIT, A, B, C, kserve_driver, plan

from tasks.errors import ConflictError, ServingError, UnsupportedError
from tasks.release.model import Autoscaling
from tasks.traffic.conformance import check_driver
from tasks.traffic.driver import Driver
from tasks.traffic.kubernetes.route import REVISION

SERVICE = ("inferenceservices", "faq")


def shares(fake: Fake) -> dict[str, int]:
    spec = fake.objects[SERVICE]["spec"]
    canaries = {item["predictor"]["name"]: item["trafficPercent"] for item in spec.get("canary", [])}
    return {spec["predictor"]["name"]: 100 - sum(canaries.values()), **canaries}


def test_a_rollout_from_the_first_release_to_the_second(fake: Fake) -> None:
    driver: Driver = kserve_driver(fake)
    driver.ensure(A)
    driver.apply(plan(1, ALL_A))
    driver.ensure(B)
    assert shares(fake) == {f"r-{A.short}": 100, f"r-{B.short}": 0}
    assert driver.observe("faq") == ALL_A
    assert driver.probe(B, "Who?", 5).release_digest == B.digest
    driver.apply(plan(2, SPLIT))
    assert shares(fake) == {f"r-{A.short}": 70, f"r-{B.short}": 30}
    assert {driver.ask("faq", f"u{at}", "?", 5).release_digest for at in range(40)} == {A.digest, B.digest}
    before = copy.deepcopy(fake.objects["deployments", f"faq-r-{B.short}-predictor"])
    driver.apply(plan(3, ALL_B))
    assert shares(fake) == {f"r-{B.short}": 100, f"r-{A.short}": 0}
    assert fake.objects["deployments", f"faq-r-{B.short}-predictor"] == before  # promoted without a restart
    driver.retire("faq", A.digest)
    driver.retire("faq", A.digest)
    assert driver.running("faq") == (B.digest,)
    assert driver.observe("faq") == ALL_B
    with pytest.raises(ServingError, match=f"release {B.short} still has traffic"):
        driver.retire("faq", B.digest)


def test_it_keeps_what_a_rollout_relies_on_except_what_the_documentation_says(fake: Fake) -> None:
    findings = check_driver(kserve_driver(fake), (A, B), plan(1, ALL_A).time)
    assert [finding for finding in findings if finding.breaks] == []
    assert [finding.method for finding in findings] == ["ask", "routed", "scale", "stand_by"]


def test_an_older_revision_and_one_that_is_overtaken_are_refused(fake: Fake) -> None:
    driver = kserve_driver(fake)
    driver.ensure(A)
    driver.ensure(B)
    driver.apply(plan(2, SPLIT))
    with pytest.raises(ConflictError, match="revision 2 of the plan of faq is in effect, revision 1 came too late"):
        driver.apply(plan(1, ALL_A))

    def overtake() -> None:
        found = copy.deepcopy(fake.objects[SERVICE])
        found["metadata"]["annotations"][REVISION] = "9"
        fake.write(SERVICE, found)

    fake.between = overtake
    with pytest.raises(ConflictError, match="revision 9 of the plan of faq is in effect, revision 3 came too late"):
        driver.apply(plan(3, ALL_B))
    assert shares(fake) == {f"r-{A.short}": 70, f"r-{B.short}": 30}


def test_a_release_that_joins_while_a_plan_is_written_takes_no_plan_back(fake: Fake) -> None:
    driver = kserve_driver(fake)
    driver.ensure(A)
    driver.ensure(B)
    driver.apply(plan(1, ALL_A))
    other = kserve_driver(fake)

    def shift() -> None:
        found = copy.deepcopy(fake.objects[SERVICE])
        found["spec"]["canary"][0]["trafficPercent"] = 50
        fake.write(SERVICE, found)

    fake.between = shift
    other.ensure(C)
    assert shares(fake) == {f"r-{A.short}": 50, f"r-{B.short}": 50, f"r-{C.short}": 0}


def test_a_release_that_nobody_ensured_gets_no_user(fake: Fake) -> None:
    driver = kserve_driver(fake)
    with pytest.raises(ServingError, match="faq has no InferenceService; deploy a release first"):
        driver.apply(plan(1, ALL_A))
    driver.ensure(A)
    with pytest.raises(ServingError, match=f"release {B.short} has no pod that is available"):
        driver.apply(plan(1, SPLIT))


def test_shares_that_kserve_does_not_give_are_an_error(fake: Fake) -> None:
    driver = kserve_driver(fake)
    driver.ensure(A)
    driver.ensure(B)
    fake.stuck = True
    with pytest.raises(ServingError, match=r"KServe did not give the shares of revision 1 within 0\.1 s"):
        kserve_driver(fake, wait_s=0.1).apply(plan(1, SPLIT))
    assert driver.observe("faq") is None


def test_a_plan_is_in_effect_when_the_answers_come_by_it(fake: Fake) -> None:
    driver = kserve_driver(fake)
    driver.ensure(A)
    driver.ensure(B)
    driver.apply(plan(1, ALL_A))
    fake.slow = 3
    driver.apply(plan(2, ALL_B))
    assert driver.ask("faq", "u", "?", 5).release_digest == B.digest
    fake.slow = 1_000_000
    with pytest.raises(ServingError, match=f"does not answer by the new plan after 0.1 s: X-Release {B.digest}"):
        kserve_driver(fake, wait_s=0.1).apply(plan(3, ALL_A))


def test_what_kserve_cannot_do_is_said(fake: Fake) -> None:
    driver = kserve_driver(fake)
    driver.ensure(A)
    driver.ensure(B)
    driver.scale(B, Autoscaling(min_replicas=3, max_replicas=3))
    assert fake.objects[SERVICE]["spec"]["canary"][0]["predictor"]["minReplicas"] == 3
    with pytest.raises(UnsupportedError, match="KServe scales no canary"):
        driver.scale(B, Autoscaling(min_replicas=1, max_replicas=3))
    odd = (B.digest, *ALL_A[1:])
    with pytest.raises(UnsupportedError, match="KServe shares traffic in whole percent"):
        driver.apply(plan(1, odd))
    with pytest.raises(UnsupportedError, match="are not counted by this data path"):
        driver.routed(A.digest)


def test_an_inference_service_of_somebody_else_is_left_alone(fake: Fake) -> None:
    foreign = {"metadata": {"name": "faq"}, "spec": {"predictor": {"model": {}}}}
    fake.write(SERVICE, foreign)
    with pytest.raises(ServingError, match="InferenceService faq was not made by this driver; use another namespace"):
        kserve_driver(fake).ensure(A)
    assert fake.objects[SERVICE]["spec"] == {"predictor": {"model": {}}}
