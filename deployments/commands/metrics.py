"""The commands on what was measured: SQL over the metrics store, and the evaluation's own."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from deployments.commands.shell import STATE, State, follow, parse_moment, plain_errors, use_stack
from tasks.errors import NotFoundError

evaluate_app = typer.Typer(help="Judge what was answered.", no_args_is_help=True)


def sql(
    statement: Annotated[str, typer.Argument(help="One SELECT over the view metrics.")],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a row.")] = False,
    state: State = STATE,
) -> None:
    """Ask the metrics store in SQL; it is only read."""
    from tasks.settings import settings
    from tasks.stores.lake import Lake
    from tasks.stores.metrics import Metrics

    with plain_errors():
        use_stack(state)
        print_rows(Metrics(Lake(settings().lake_dir)).query(statement).to_pylist(), as_json=as_json)


@evaluate_app.command()
def run(  # noqa: PLR0917 - typer reads the options from the signature
    application: Annotated[str | None, typer.Argument(help="What users call; empty: every application.")] = None,
    start: Annotated[
        str | None, typer.Option(help="First moment: an age (36h, 7d) or a time, UTC; empty: yesterday.")
    ] = None,
    end: Annotated[str | None, typer.Option(help="First moment after: an age (36h, 7d) or a time, UTC.")] = None,
    nights: Annotated[int | None, typer.Option(help="So many UTC days one by one; 0: all between.", min=0)] = None,
    deployment: Annotated[str, typer.Option(help="The Prefect deployment to start.")] = "evaluation/nightly",
    state: State = STATE,
) -> None:
    """Judge a window or many nights, follow it, and exit 0 pass, 3 inconclusive, 4 fail, 1 error."""
    with plain_errors():
        now = datetime.now(UTC)
        if nights is not None:
            now = now.replace(hour=0, minute=0, second=0, microsecond=0)  # nights begin at midnight, 7d ago as well
        asked = {"start": parse_moment("--start", start, now), "end": parse_moment("--end", end, now)}
        times = {name: time.isoformat() for name, time in asked.items() if time is not None}
        use_stack(state)
        given: dict[str, object] = {"application": application, "nights": nights}
        follow(deployment, given | times, {"Verdict pass": 0, "Verdict inconclusive": 3, "Verdict fail": 4})


@evaluate_app.command("self-test")
def self_test(
    application: Annotated[str, typer.Argument(help="What users call.")],
    baseline: Annotated[str, typer.Argument(help="Name of a baseline of two weeks or more.")],
    rounds: Annotated[int, typer.Option(help="How often nights are drawn anew.", min=10)] = 100,
    seed: Annotated[int, typer.Option(help="The same seed gives the same figures.")] = 0,
    state: State = STATE,
) -> None:
    """Show how often the alarms would be false on your own nights, and what they would find."""
    from tasks.drift.named import BASELINES, latest_baseline, try_alarms
    from tasks.settings import settings
    from tasks.stores.lake import Lake

    with plain_errors():
        use_stack(state)
        keys = {"application": application, "name": baseline}
        found = latest_baseline(Lake(settings().lake_dir).read(BASELINES, keys))
        if found is None:
            raise NotFoundError(f"{application} has no baseline {baseline}; make one: the flow baseline/baseline")
        for line in try_alarms(found, rounds, seed).lines:
            typer.echo(line)


@evaluate_app.command()
def calibrate(  # noqa: PLR0917 - typer reads the options from the signature
    application: Annotated[str, typer.Argument(help="What users call.")],
    labels: Annotated[Path, typer.Argument(help="JSON lines of interaction_id and label: good or bad.")],
    name: Annotated[str, typer.Option(help="What the calibration is called.")] = "people",
    days: Annotated[int, typer.Option(help="How far back the labelled calls may be, days.", min=1, max=3660)] = 90,
    ask: Annotated[bool, typer.Option(help="Ask judges about answers they have not seen, within budget.")] = False,
    state: State = STATE,
) -> None:
    """Make the quality a probability by 50 to 200 labels of people, and show which judges and checks agree."""
    from tasks.judging.labelling import Labels, learn_from
    from tasks.scoring.labels import read_labels
    from tasks.settings import settings

    with plain_errors():
        use_stack(state)
        now = datetime.now(UTC)
        given = Labels(application=application, good=read_labels(labels), since=now - timedelta(days=days), until=now)
        for line in learn_from(settings(), given, name, now, ask=ask).lines:
            typer.echo(line)


@evaluate_app.command()
def anchors(
    judge: Annotated[str, typer.Argument(help="A judge of evaluation.yaml that names a file of anchors.")],
    items: Annotated[Path, typer.Argument(help="JSON lines of question, context and response, 20 or more.")],
    state: State = STATE,
) -> None:
    """Ask a judge for the scores of fixed answers and remember them: later nights tell by them whether it changed."""
    from tasks.judging.steps import make_anchors
    from tasks.scoring.extra import find_judge
    from tasks.settings import settings

    with plain_errors():
        use_stack(state)
        plan = find_judge(settings().state_dir, judge)
        found = make_anchors(settings(), plan, items)
        typer.echo(f"{len(found.anchors)} anchors of judge {found.judge[:12]} remembered in {plan.anchors}")


def print_rows(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    """Print rows for people, or as one JSON object a line."""
    if as_json:
        for row in rows:
            typer.echo(json.dumps(row, default=str))
        return
    table = Table(*(list(rows[0]) if rows else ["no rows"]))
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    Console(highlight=False).print(table)
