"""Two nodes as one data path: the same plan at both, and what happens where one is away or fails."""

from __future__ import annotations

from typing import Any

import pytest
from nodes_stage import NOW, TOKEN, A, B, Node, on_record, plan_of, until
from pydantic import SecretStr

from tasks.errors import ConflictError, InputError, ServingError, UnsupportedError
from tasks.release import acting
from tasks.release.model import Autoscaling
from tasks.settings import Settings
from tasks.traffic.choose import choose_driver
from tasks.traffic.conformance import check_driver
from tasks.traffic.driver import Driver, Routed
from tasks.traffic.haproxy.driver import HaproxyDriver
from tasks.traffic.nodes.driver import NodesDriver, ask_every
from tasks.traffic.nodes.remote import RemoteNode, read_nodes

Two = tuple[Node, Node]


@pytest.mark.stack
def test_it_keeps_what_a_rollout_relies_on(nodes: Two, driver: NodesDriver, said: list[str]) -> None:
    findings = check_driver(driver, (A, B), NOW)
    assert [finding for finding in findings if finding.method != "scale"] == []
    for node in nodes:
        assert node.driver.observe("faq") == (B.digest,) * 1000
        assert node.driver.running("faq") == (B.digest,)
        assert node.asked() == B.digest
    assert said == []


@pytest.mark.stack
def test_a_rollback_reaches_the_living_node_and_the_other_comes_back_with_it(
    nodes: Two, driver: NodesDriver, said: list[str]
) -> None:
    living, dead = nodes
    ledger = living.follower.ledger
    for each in (A, B):
        driver.ensure(each)
    on_record(ledger, plan_of(1, A, B), A, B)
    driver.apply(plan_of(1, A, B))
    dead.stop_agent()
    dead.kill_haproxy()

    back = plan_of(2, A)
    on_record(ledger, back)
    driver.apply(back)
    assert living.asked() == A.digest
    (line,) = said
    assert line == (
        f"a node is behind: revision 2 of faq is not in effect there as far as anybody knows: node {dead.url} does "
        "not answer: ConnectError; is its agent up?"
    )
    assert driver.observe("faq") == back.buckets
    asked = driver.ask_every("faq", ["u1", "u2"], "Who?", 5)
    assert {url: [answer.release_digest for answer in answers] for url, answers in asked.items()} == {
        living.url: [A.digest, A.digest]
    }

    dead.start_haproxy()
    assert {dead.asked(f"u{number}") for number in range(20)} == {A.digest}
    assert dead.said == ["revision 2 of faq is taken from the ledger"]
    dead.start_agent()
    assert set(driver.ask_every("faq", ["u1"], "Who?", 5)) == {living.url, dead.url}
    assert driver.observe("faq") == back.buckets


@pytest.mark.stack
def test_a_node_whose_agent_is_away_catches_up_by_itself(nodes: Two, driver: NodesDriver) -> None:
    told, alone = nodes
    for each in (A, B):
        driver.ensure(each)
    on_record(told.follower.ledger, plan_of(1, B), A, B)
    driver.apply(plan_of(1, B))
    alone.stop_agent()
    on_record(told.follower.ledger, plan_of(2, A))
    driver.apply(plan_of(2, A))
    assert (told.asked(), alone.asked()) == (A.digest, B.digest)
    with alone.follower.following(period_s=0.05):
        until(lambda: alone.asked() == A.digest, "the plan on record is in effect")
    assert alone.said == ["revision 2 of faq was on record and not in effect: applied"]


@pytest.mark.stack
def test_a_node_without_haproxy_is_away_and_its_map_is_right_when_it_starts(
    nodes: Two, driver: NodesDriver, said: list[str]
) -> None:
    living, half = nodes
    for each in (A, B):
        driver.ensure(each)
    driver.apply(plan_of(1, B))
    half.kill_haproxy()
    driver.apply(plan_of(2, A))
    (line,) = said
    assert f"node {half.url}: its data path is down: HAProxy does not answer on admin.sock" in line
    assert set(driver.ask_every("faq", ["u"], "Who?", 5)) == {living.url}
    half.start_haproxy()  # nothing is on record: it is the map that the agent has written
    assert half.asked() == A.digest


@pytest.mark.stack
def test_a_node_that_was_away_while_a_release_was_deployed_deploys_it_with_the_plan(
    nodes: Two, driver: NodesDriver, said: list[str]
) -> None:
    _, late = nodes
    late.stop_agent()
    driver.ensure(A)
    late.start_agent()
    with pytest.raises(ServingError, match=f"node {late.url}: release {A.short} has no server; deploy it first"):
        driver.apply(plan_of(1, A))
    late.follower.ledger.remember(A)
    driver.apply(plan_of(1, A))
    assert (late.started, late.asked()) == ({A.digest}, A.digest)
    assert len(said) == 1


@pytest.mark.stack
def test_a_node_that_refuses_is_an_error_and_the_others_have_the_plan(nodes: Two, driver: NodesDriver) -> None:
    first, second = nodes
    for each in (A, B):
        driver.ensure(each)
    first.driver.apply(plan_of(5, B))
    with pytest.raises(ConflictError, match=f"node {first.url}: revision 5 of the plan of faq is in effect"):
        driver.apply(plan_of(4, A))
    assert (first.asked(), second.asked()) == (B.digest, A.digest)
    assert driver.observe("faq") is None
    assert driver.running("faq") == (*sorted((A.digest, B.digest)),)
    with pytest.raises(UnsupportedError, match=f"node {first.url}: autoscaling of bot 1: max_replicas 1000 > "):
        driver.scale(A, Autoscaling(max_replicas=1000))


@pytest.mark.stack
def test_requests_are_added_up_over_nodes_that_come_and_go(nodes: Two, driver: NodesDriver) -> None:
    first, second = nodes
    driver.ensure(A)
    driver.apply(plan_of(1, A))
    for node, count in ((first, 2), (second, 3)):
        assert {node.asked() for _ in range(count)} == {A.digest}
    before = driver.routed(A.digest)
    assert before == Routed(requests=5, failed=0, unanswered=0, waiting=0, is_up=True)
    second.stop_agent()
    first.asked()
    assert driver.routed(A.digest).since(before).requests == 1
    second.kill_haproxy()
    second.start_haproxy()
    second.asked()
    second.start_agent()
    until(lambda: driver.routed(A.digest).is_up, "the release is up on both")
    assert driver.routed(A.digest).since(before).requests == 2


@pytest.mark.stack
def test_where_no_node_answers_nothing_is_done(nodes: Two, driver: NodesDriver, said: list[str]) -> None:
    for node in nodes:
        node.stop_agent()
    calls = (
        lambda: driver.apply(plan_of(1, A)),
        lambda: driver.observe("faq"),
        lambda: driver.probe(A, "Who?", 5),
        lambda: driver.ask_every("faq", ["u"], "Who?", 5),
        lambda: acting.verify_answers(driver, "faq", A.digest),
    )
    for call in calls:
        with pytest.raises(ServingError, match=f"none of the 2 nodes answers; node {nodes[0].url} does not answer"):
            call()
    assert said == []


@pytest.mark.stack
def test_every_node_is_verified(nodes: Two, driver: NodesDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    class Log:
        lines: list[str] = []  # noqa: RUF012

        def info(self, line: str) -> None:
            self.lines.append(line)

    monkeypatch.setattr(acting, "get_run_logger", Log)
    for each in (A, B):
        driver.ensure(each)
    driver.apply(plan_of(1, A))
    acting.verify_answers(driver, "faq", A.digest)
    assert Log.lines == [
        f"20 of 20 answers of the data path of node {node.url} are from release {A.short}" for node in nodes
    ]
    nodes[1].driver.apply(plan_of(2, B))
    with pytest.raises(ServingError) as caught:
        acting.verify_answers(driver, "faq", A.digest)
    assert str(caught.value) == (
        f"20 of 20 answers of the data path of node {nodes[1].url} are not from release {A.short}: status 200, release "
        f"{B.short}"
    )


@pytest.mark.stack
def test_questions_of_a_suite_meet_every_node(nodes: Two, driver: NodesDriver) -> None:
    driver.ensure(A)
    nodes[1].follower.driver.retire("faq", A.digest)
    seen = list[int | str]()
    for _ in range(4):
        try:
            seen.append(driver.probe(A, "Who?", 5).status)
        except ServingError as error:
            seen.append(str(error))
    missing = f"node {nodes[1].url}: release {A.short} has no server; deploy it first"
    assert seen == [200, missing, 200, missing]
    nodes[1].stop_agent()
    assert [driver.probe(A, "Who?", 5).status for _ in range(2)] == [200, 200]


def test_a_plain_data_path_is_asked_as_it_is() -> None:
    class Plain:
        def ask(self, *asked: Any) -> Any:
            return asked

    path: Driver = Plain()  # type: ignore[assignment]
    found: dict[str, Any] = dict(ask_every(path, "faq", ["u1", "u2"], "Who?", 5))
    assert found == {"the data path": [("faq", "u1", "Who?", 5), ("faq", "u2", "Who?", 5)]}


def test_nodes_are_chosen_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELIVERY_NODES", "http://10.0.0.1:7070, https://b.example:7070/ ,")
    monkeypatch.setenv("DELIVERY_NODE_TOKEN", TOKEN.get_secret_value())
    made = choose_driver(Settings())
    assert made == NodesDriver((RemoteNode("http://10.0.0.1:7070", TOKEN), RemoteNode("https://b.example:7070", TOKEN)))
    assert acting.driver(Settings()) == made
    assert TOKEN.get_secret_value() not in f"{Settings()!r} {made!r}"
    monkeypatch.setenv("DELIVERY_DRIVER", "kubernetes")
    with pytest.raises(InputError) as caught:
        choose_driver(Settings())
    assert str(caught.value) == (
        "DELIVERY_NODES is set, and DELIVERY_DRIVER is 'kubernetes'; nodes have HAProxy: unset one of the two"
    )
    monkeypatch.delenv("DELIVERY_NODES")
    monkeypatch.delenv("DELIVERY_DRIVER")
    assert isinstance(choose_driver(Settings()), HaproxyDriver)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("10.0.0.1:7070", "'10.0.0.1:7070' is not allowed; allowed: http(s)://host:port of each node's agent"),
        ("http://a:7070/v1", "'http://a:7070/v1' is not allowed"),
        ("ftp://a", "'ftp://a' is not allowed"),
        ("http://", "'http://' is not allowed"),
        ("http://a:no", "'http://a:no' is not allowed"),
        ("http://me:secret@a:7070", "a has a login or a query; the token is DELIVERY_NODE_TOKEN"),
        ("http://a:7070,http://a:7070/", "http://a:7070 stands there twice; name each node once"),
    ],
)
def test_a_list_that_names_no_nodes_is_refused(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        read_nodes(text, TOKEN)
    assert f"DELIVERY_NODES: {said}" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_nodes_without_a_token_or_without_nodes_are_refused() -> None:
    with pytest.raises(InputError, match="DELIVERY_NODES is set and DELIVERY_NODE_TOKEN is not"):
        read_nodes("http://a:7070", None)
    with pytest.raises(InputError, match="DELIVERY_NODES names no node"):
        choose_driver(Settings(nodes=" , ", node_token=SecretStr("x" * 16)))
