"""Which nodes are behind is said until they are not."""

from __future__ import annotations

from pathlib import Path

import pytest
from nodes_stage import NOW, A, B, Node, plan_of
from pydantic import SecretStr

from tasks.monitors.verdict import Outcome
from tasks.traffic.haproxy.driver import HaproxyDriver
from tasks.traffic.nodes.behind import find_behind, judge_nodes
from tasks.traffic.nodes.driver import NodesDriver
from tasks.traffic.nodes.remote import RemoteNode


@pytest.mark.stack
def test_the_alert_of_nodes_names_each_that_is_behind(nodes: tuple[Node, Node], driver: NodesDriver) -> None:
    first, second = nodes
    for each in (A, B):
        driver.ensure(each)
    driver.apply(plan_of(1, A))
    signal = judge_nodes(driver, plan_of(1, A), NOW)
    assert (signal.outcome, signal.reason) == (Outcome.PASS, "every node has revision 1 in effect")
    first.driver.apply(plan_of(2, B))
    second.stop_agent()
    signal = judge_nodes(driver, plan_of(1, A), NOW)
    assert (signal.monitor, signal.release_digest, signal.outcome) == ("nodes", "", Outcome.ERROR)
    assert signal.reason == (
        f"node {first.url}: revision 1 of faq is not in effect; node {second.url} does not answer: ConnectError; is "
        "its agent up?"
    )
    stranger = NodesDriver((RemoteNode(first.url, SecretStr("another-token-that-is-wrong")),))
    (wrong,) = find_behind(stranger, plan_of(2, B))
    assert wrong.startswith(f"revision 2 is not known to be in effect: node {first.url}: the token is missing or wrong")


def test_a_data_path_without_nodes_has_none_that_is_behind(tmp_path: Path) -> None:
    path = HaproxyDriver(tmp_path, tmp_path, "http://127.0.0.1:9")
    assert find_behind(path, plan_of(1, A)) == ()
    assert judge_nodes(path, plan_of(1, A), NOW).outcome is Outcome.PASS
