"""What judges used is kept over runs, threads and processes."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tasks.errors import InputError
from tasks.judging.budget import Budget, BudgetSpec
from tasks.judging.purse import Purse, Used
from tasks.scoring.pool import NotRunError

SPEND = """
import sys
from pathlib import Path
from tasks.judging.budget import Budget, BudgetSpec
from tasks.judging.purse import Purse
Budget(BudgetSpec(tokens=1000), (), Purse(Path(sys.argv[1])), "helpful night").reserve(100, 36)
import os; os._exit(9)
"""


def test_what_a_killed_run_set_aside_stays_spent(tmp_path: Path) -> None:
    path = tmp_path / "state" / "judges.sqlite"
    done = subprocess.run([sys.executable, "-c", SPEND, str(path)], cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == 9
    with Purse(path) as purse:
        assert purse.used("helpful night") == Used(calls=1, tokens=200, pusd=0, uncounted=0)
        budget = Budget(BudgetSpec(tokens=1000), (), purse, "helpful night")
        for _ in range(4):
            budget.settle(budget.reserve(100, 36), 100, 100)
        with pytest.raises(NotRunError, match="the token budget of 1000 is spent"):
            budget.reserve(100, 36)
        assert Budget(BudgetSpec(tokens=1000), (), purse, "helpful other night").spent.tokens == 0


def test_two_runs_at_once_never_spend_more_than_the_budget(tmp_path: Path) -> None:
    refused = []
    purses = [Purse(tmp_path / "judges.sqlite") for _ in range(4)]

    def spend(purse: Purse) -> None:
        budget = Budget(BudgetSpec(tokens=2000), (), purse, "night")
        for _ in range(10):
            try:
                budget.reserve(100, 36)
            except NotRunError:
                refused.append(1)

    threads = [threading.Thread(target=spend, args=(purse,)) for purse in purses]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert purses[0].used("night") == Used(calls=10, tokens=2000, pusd=0, uncounted=0)
    assert len(refused) == 30
    for purse in purses:
        purse.close()


def test_money_is_exact_beyond_64_bits(tmp_path: Path) -> None:
    with Purse(tmp_path / "judges.sqlite") as purse:
        purse.change("night", lambda used: used.plus(pusd=10**30))
        purse.change("night", lambda used: used.plus(pusd=1))
    with Purse(tmp_path / "judges.sqlite") as purse:
        assert purse.used("night").pusd == 10**30 + 1


def test_a_file_that_is_no_purse_is_refused(tmp_path: Path) -> None:
    (tmp_path / "judges.sqlite").write_bytes(b"no database, but long enough to be looked at" * 40)
    with pytest.raises(InputError, match="it does not say what judges used \\(DatabaseError\\); move it away"):
        Purse(tmp_path / "judges.sqlite")
    assert sqlite3.sqlite_version
