"""Pages of example interactions go with the texts that they show."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from tasks.interactions.counts import Cared
from tasks.interactions.schema import REJECTED_SCHEMA, Interaction, as_table
from tasks.stores.example_pages import PAGES, drop_old_pages, drop_pages_of, name_page
from tasks.stores.lake import Lake
from tasks.stores.lake_care import retain, vacuum
from tasks.stores.lake_forget import forget_user, hash_user

DAY = datetime(2024, 3, 1, tzinfo=UTC)


def write_page(state: Path, day: datetime, *calls: str, application: str = "faq") -> Path:
    path = state / "reports" / application / name_page(day, day + timedelta(days=1))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"<tr><td>bot 1</td><td>{name}</td><td>text</td></tr>" for name in calls))
    return path


def test_pages_whose_window_begins_too_early_go_and_nothing_else_does(tmp_path: Path) -> None:
    root = tmp_path / "lake"
    old, new = write_page(tmp_path, DAY, "a", "b"), write_page(tmp_path, DAY + timedelta(days=1), "c")
    other = write_page(tmp_path, DAY, "d", application="other")
    report = old.with_name(old.name.replace("-examples", ""))
    by_hand = old.with_name("my-examples.html")
    for path in (report, by_hand):
        path.write_text("stays")
    dry = drop_old_pages(root, date(2024, 3, 2), dry_run=True)
    assert dry == Cared(table=PAGES, files_before=2, files_after=0, rows=3)
    assert old.exists()
    assert drop_old_pages(root, date(2024, 3, 2), dry_run=False) == dry
    assert [path.exists() for path in (old, other, new, report, by_hand)] == [False, False, True, True, True]


@pytest.mark.parametrize(("keep_days", "text_days"), [(3, None), (None, 3), (9, 3), (3, 9)])
def test_either_limit_of_retention_reaches_them(tmp_path: Path, keep_days: int | None, text_days: int | None) -> None:
    old, new = write_page(tmp_path, DAY, "a"), write_page(tmp_path, DAY + timedelta(days=1), "b")
    found = retain(tmp_path / "lake", date(2024, 3, 5), keep_days=keep_days, text_days=text_days, dry_run=False)
    assert found == (Cared(table=PAGES, files_before=1, rows=1),)
    assert [old.exists(), new.exists()] == [False, True]
    assert retain(tmp_path / "lake", date(2024, 3, 9), keep_days=None, text_days=None, dry_run=False) == ()
    assert new.exists(), "no limit, no retention"


def test_a_page_that_shows_a_call_goes_whatever_signs_its_id_has(tmp_path: Path) -> None:
    root, odd = tmp_path / "lake", "a&b<1>"
    hers = write_page(tmp_path, DAY, "x", "a&amp;b&lt;1&gt;")
    his = write_page(tmp_path, DAY + timedelta(days=1), f"{odd}2", "12")
    assert drop_pages_of(root, {odd, "1"}, dry_run=True).rows == 2
    assert drop_pages_of(root, {odd, "1"}, dry_run=False).files_before == 1
    assert [hers.exists(), his.exists()] == [False, True], "12 is not 1"


def test_a_user_who_is_forgotten_is_on_no_page_also_not_on_one_written_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.stores import lake_forget

    lake = Lake(tmp_path / "lake")
    hers = Interaction(interaction_id="hers", application="faq", time=DAY, status=200, unit="alice", unit_kind="user")
    his = hers.model_copy(update={"interaction_id": "his", "unit": "bob"})
    lake.append("a", expected=0, offset=1, interactions=as_table([hers, his]), rejected=REJECTED_SCHEMA.empty_table())
    page, other = write_page(tmp_path, DAY, "his", "hers"), write_page(tmp_path, DAY + timedelta(days=1), "his")
    monkeypatch.setattr(
        lake_forget, "vacuum", lambda *a, **b: (vacuum(*a, **b), write_page(tmp_path, DAY, "his", "hers"))[0]
    )
    found = forget_user(lake.root, hash_user("alice"), dry_run=False)
    assert [(one.table, one.rows) for one in found] == [(PAGES, 2), ("interactions", 1)]
    assert [page.exists(), other.exists()] == [False, True]
