"""Faults, one at a time and in pairs, at every step: the tables of ``docs/faults.md``.

Run it with ``python tests/bench/bench_faults.py [stack] [singles] [pairs] [--every N] [--write] [--results FOLDER]``;
without a part it does all three. ``--ledger postgresql`` instead tries faults one at a time on plain stages that have a
PostgreSQL server each. ``--every N`` tries each at every N-th of the steps; ``--write`` puts the tables into the
document; in ``--results`` every outcome is kept, and what is kept there is not tried again, so that the whole, an hour
or two on two cores, may be interrupted. ``tests/crash/test_faults.py`` tries a part of it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

sys.path.extend(str(Path(__file__).resolve().parents[1] / name) for name in ("crash", "ledgers"))
sys.path.append(str(Path(__file__).resolve().parents[2]))

from crash_stage import Scenario
from fault_cases import Kinds, Outcome, Whole, fault_stage, possible_kinds, trials_of, try_all
from fault_cases import Trial as Case
from fault_kinds import SERVER_KINDS
from fault_stack import stack_under_faults
from fault_stack_cases import MOMENTS, Trial, flow_of
from fault_table import PARTS, table, write_part
from postgres_server import running_postgres
from pydantic import TypeAdapter

STAGES = 3


_OUTCOMES = TypeAdapter(Outcome)


@dataclass
class Results:
    """Outcomes of one part, kept in a file from one run to the next.

    Args:
        path: One outcome a line.
    """

    path: Path
    lock: threading.Lock = field(default_factory=threading.Lock)

    def kept(self) -> list[Outcome]:
        """Return the outcomes there are."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        return [_OUTCOMES.validate_json(line) for line in lines]

    def has(self, flow: str, step: str, faults: tuple[str, ...]) -> bool:
        """Return whether a combination was tried."""
        return any((one.flow, one.step, one.faults) == (flow, step, faults) for one in self.kept())

    def keep(self, one: Outcome) -> None:
        """Keep an outcome, and show it."""
        users = f"{one.asked} asked, {one.failed} refused in {one.refused_s:.1f} s, {one.unlogged} not on the log"
        place = f"{' + '.join(one.faults):35.35} {one.flow}: {one.step:18.18}"
        with self.lock:
            print(f"{place} {one.left:15} runs {one.runs}  {users}  {'; '.join(one.problems)}", flush=True)  # noqa: T201
            with self.path.open("ab") as file:
                file.write(_OUTCOMES.dump_json(one) + b"\n")


def on_stack(folder: Path, every: int, results: Results) -> None:
    """Try single faults on the whole stack: each at another moment, then each at the moment after, and so on."""
    with stack_under_faults(folder, lambda _: None) as stack:
        for turn in range(-(-len(MOMENTS) // every)):
            for at, name in enumerate(sorted(stack.kinds)):
                moment = MOMENTS[(at + turn) % len(MOMENTS)]
                if not results.has(flow_of(moment), moment, (name,)):
                    results.keep(Trial(stack, name, moment).run())


def on_stages(folder: Path, every: int, results: Results, groups: list[Kinds], *, on_server: bool) -> None:
    """Try faults that begin together on plain stages; each may have a PostgreSQL server of its own."""

    def choose(scenario: Scenario, whole: Whole) -> list[Case]:
        trials = trials_of(scenario, whole, groups, every)
        return [one for one in trials if not results.has(scenario.flow, one.step, tuple(k.name for k in one.kinds))]

    with ExitStack() as opened:
        servers = [opened.enter_context(running_postgres()) if on_server else None for _ in range(STAGES)]
        assert all(servers) == on_server, "PostgreSQL is not installed"
        made = [fault_stage(folder / str(number), server) for number, server in enumerate(servers)]
        stages = [opened.enter_context(stage) for stage in made]
        try_all(stages, choose, results.keep)


def main() -> int:
    """Try what was asked for; return 1 where something is not as it must be."""
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*")
    parser.add_argument("--ledger", choices=("sqlite", PARTS[3]), default="sqlite")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--results", type=Path)
    words, wrong = parser.parse_args(), 0
    on_server = words.ledger == PARTS[3]
    for part in PARTS[3:] if on_server else words.parts or PARTS[:3]:
        with tempfile.TemporaryDirectory(prefix="faults", dir="/tmp") as folder:
            where = Path(folder)
            results = Results((words.results or where) / f"{part}.jsonl")
            kinds = possible_kinds(where / "probe")
            if part == "stack":
                on_stack(where / part, words.every, results)
            else:
                groups: list[Kinds] = list(combinations(kinds, 2 if part == "pairs" else 1))
                groups += [(kind,) for kind in SERVER_KINDS if on_server]
                on_stages(where / part, words.every, results, groups, on_server=on_server)
            outcomes = results.kept()
        text = table(outcomes, by_step=part == "stack")
        print(text)  # noqa: T201
        wrong += sum(bool(one.problems) for one in outcomes)
        if words.write:
            write_part(part, text)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
