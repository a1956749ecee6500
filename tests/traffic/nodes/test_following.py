"""A node follows the ledger: what it comes up with, and what it does not start again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from nodes_stage import A, B, Node, condemned, on_record, plan_of, promoted, until
from sample_release import release_of
from sqlalchemy import text
from typer.testing import CliRunner

from deployments.cli import app
from tasks.errors import UnreachableError
from tasks.stores.ledger import Ledger
from tasks.traffic.haproxy.config import map_name, map_rows
from tasks.traffic.haproxy.folder import read_proven
from tasks.traffic.nodes.following import Follower
from tasks.traffic.servers import free_port, read_servers

C = release_of(3)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """Yield a node that does not run."""
    made = Node(tmp_path / "n", f"sqlite:///{tmp_path / 'ledger.db'}")
    made.driver.folder.mkdir(parents=True)
    yield made
    made.follower.ledger.close()


def served_map(node: Node) -> list[str]:
    return (node.driver.folder / map_name("faq")).read_text().splitlines()


def test_a_new_node_comes_up_with_the_plan_on_record(node: Node) -> None:
    ledger, plan = node.follower.ledger, plan_of(1, A, B)
    assert not node.follower.prepare()
    on_record(ledger, plan, A, B)
    assert node.follower.prepare()
    assert served_map(node) == map_rows(plan)
    assert sorted(node.driver.running("faq")) == sorted((A.digest, B.digest))
    assert len({server.port for server in read_servers(node.driver.servers)}) == 2
    assert not node.follower.prepare()
    assert node.said == ["revision 1 of faq is taken from the ledger"]


def test_a_release_in_quarantine_is_not_started_again_and_stands_in_for_nobody(node: Node) -> None:
    ledger = node.follower.ledger
    for revision, good in enumerate((A, B), 1):
        promoted(ledger, good)
        on_record(ledger, plan_of(revision, good), good)
    assert node.follower.prepare()
    assert read_proven(node.driver.folder, "faq") == (B.digest, A.digest)
    condemned(ledger, B)
    on_record(ledger, plan_of(3, A), C)
    assert node.follower.prepare()
    assert node.driver.running("faq") == (A.digest,)
    assert read_proven(node.driver.folder, "faq") == (A.digest,)
    assert served_map(node) == map_rows(plan_of(3, A))
    assert node.said[-1] == f"release {B.short} of faq is in quarantine and not started again"


def test_a_release_in_quarantine_that_the_plan_names_goes_on_serving(node: Node) -> None:
    on_record(node.follower.ledger, plan_of(1, A), A)
    condemned(node.follower.ledger, A)
    node.follower.prepare()
    assert node.driver.running("faq") == (A.digest,)


def test_a_map_that_is_newer_than_the_ledger_is_kept(node: Node) -> None:
    on_record(node.follower.ledger, plan_of(1, A), A)
    newer = plan_of(4, B)
    (node.driver.folder / map_name("faq")).write_text("\n".join(map_rows(newer)) + "\n")
    assert not node.follower.prepare()
    assert served_map(node) == map_rows(newer)
    (line,) = node.said
    assert line == (
        "the plan of faq on record is older than the node's, which is kept: revision 4 of the plan of faq is in "
        "effect, revision 1 came too late and was not applied; if the ledger was brought back from a backup: "
        "delivery migrate --revisions-above 4"
    )
    migrated = CliRunner().invoke(
        app,
        ["migrate", "--revisions-above", "4", "--state", str(node.driver.folder)],
        env={"DELIVERY_LEDGER_URL": node.follower.ledger.url},
    )
    assert migrated.output.splitlines()[1:] == ["the plan of faq is revision 5 (it was 1)"], migrated.output
    assert node.follower.prepare()
    assert served_map(node) == map_rows(plan_of(5, A))


@pytest.mark.stack
def test_a_node_that_runs_deploys_and_applies_what_is_on_record(nodes: tuple[Node, Node]) -> None:
    node, _ = nodes
    ledger = node.follower.ledger
    on_record(ledger, plan_of(1, A), A, B)
    node.follower.look()
    assert (node.asked(), node.started) == (A.digest, {A.digest})
    promoted(ledger, A)
    node.driver.ensure(B)
    node.driver.stand_by("faq", (B.digest,))
    on_record(ledger, plan_of(2, B, A))
    node.follower.look()
    assert node.driver.observe("faq") == plan_of(2, B, A).buckets
    assert read_proven(node.driver.folder, "faq") == (A.digest,)
    before = list(node.said)
    node.follower.look()
    assert node.said == before


@pytest.mark.stack
def test_a_haproxy_that_is_down_while_it_follows_starts_with_the_plan_on_record(nodes: tuple[Node, Node]) -> None:
    node, _ = nodes
    on_record(node.follower.ledger, plan_of(1, A), A, B)
    node.follower.look()
    node.kill_haproxy()
    on_record(node.follower.ledger, plan_of(2, B))
    assert node.follower.try_to_look().startswith("a plan on record is not in effect: HAProxy does not answer")
    assert served_map(node) == map_rows(plan_of(2, B))
    assert sorted(node.driver.running("faq")) == sorted((A.digest, B.digest))


def test_a_ledger_that_cannot_be_read_is_said_once_and_without_its_address(node: Node) -> None:
    with node.follower.ledger._write() as db:
        db.execute(text("DROP TABLE plans"))
    lines = list[str]()
    follower = Follower(node.driver, node.follower.ledger, lines.append)
    with follower.following(period_s=0.01):
        until(lambda: lines, "it is said")
        for _ in range(3):
            assert follower.try_to_look(lines[0]) == lines[0]
    assert lines == ["the ledger cannot be read, what is served stays as it is: OperationalError"]


def test_a_node_does_not_start_without_its_ledger(node: Node) -> None:
    away = Follower(node.driver, Ledger(f"postgresql+psycopg://me:hidden@127.0.0.1:{free_port()}/ledger"), print)
    with pytest.raises(UnreachableError) as caught:
        away.prepare()
    assert str(caught.value).startswith("the ledger cannot be read (OperationalError): a node starts with the plans on")
    assert "hidden" not in str(caught.value)
