"""The steps of alerts: raise, tell, try again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any, cast

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.states import Completed, Failed

from tasks.errors import InputError
from tasks.monitors.alerts import Alert, News, Signal
from tasks.monitors.notices import (
    Message,
    Notice,
    alert_event,
    describe_failure,
    next_delay,
    read_alert_policy,
    route_by,
)
from tasks.settings import Settings
from tasks.stores.ledger import Ledger
from tasks.tracking.breaches import find_signals, read_breaches


@task(cache_policy=NO_CACHE, retries=2, retry_delay_seconds=1)
def raise_alerts(config: Settings, signals: Sequence[Signal]) -> tuple[Alert, ...]:
    """Bring the alerts up to what the monitors said; the notices about it wait in the ledger from then on."""
    route = route_by(read_alert_policy(config.state_dir))
    with closing(Ledger(config.ledger)) as ledger:
        told = ledger.signal_alerts(signals, route, datetime.now(UTC))
    for alert, news in told:
        _announce(alert, news)
    return tuple(alert for alert, _ in told)


@task(cache_policy=NO_CACHE)
def find_call_signals(config: Settings) -> tuple[Signal, ...]:
    """Return what single calls say of their alerts, as the trackers of applications saw them break limits."""
    now = datetime.now(UTC)
    broken = read_breaches(config.log_dir, now)
    if broken.left_out:
        get_run_logger().warning("%d more monitors broke limits than alerts are made of", broken.left_out)
    with closing(Ledger(config.ledger)) as ledger:
        return find_signals(broken, ledger.alerts(), now)


@task(cache_policy=NO_CACHE)
def wake(config: Settings) -> int:
    """Open the alerts whose silence is over; return how many."""
    route = route_by(read_alert_policy(config.state_dir))
    with closing(Ledger(config.ledger)) as ledger:
        woken = ledger.wake_alerts(route, datetime.now(UTC))
    for alert, news in woken:
        _announce(alert, news)
    return len(woken)


@task(cache_policy=NO_CACHE)
def deliver(config: Settings) -> tuple[Notice, ...]:
    """Send what is due; what does not arrive is tried again later, for as long as the policy names its channel.

    Returns:
        The notices that still wait.
    """
    blocks = {channel.block for channel in read_alert_policy(config.state_dir).channels}
    with closing(Ledger(config.ledger)) as ledger:
        ledger.drop_notices(blocks)
        for notice in ledger.claim_notices(datetime.now(UTC)):
            _deliver(ledger, notice)
        return tuple(ledger.notices())


def conclude(waiting: Sequence[Notice]) -> State[int]:
    """Return the state of a delivery: failed while anything could not be delivered, so that people see it."""
    failed = [notice for notice in waiting if notice.error]
    if not failed:
        return Completed(name="Delivered", message=f"{len(waiting)} notices wait", data=0)
    said = sorted({f"{notice.message.block}: {notice.error}" for notice in failed})
    return Failed(message=f"{len(failed)} notices could not be delivered yet and are tried again: {'; '.join(said)}")


def send(message: Message) -> None:
    """Send a message through its notification block, which holds the address and the secrets.

    Raises:
        Exception: Whatever the block raises; it has not arrived.
    """
    import prefect.blocks.notifications  # noqa: F401 - makes its types known
    from prefect.blocks.abstract import NotificationBlock
    from prefect.blocks.core import Block

    block = cast("Any", Block.load(message.block))
    if not isinstance(block, NotificationBlock):
        raise InputError.of("channel", message.block, "a notification block of Prefect")
    with block.raise_on_failure():
        cast("Any", block).notify(message.body, message.subject)


def _deliver(ledger: Ledger, notice: Notice) -> None:
    try:
        send(notice.message)
    except Exception as error:  # noqa: BLE001 - whatever a channel raises, the others go on and it is tried again
        said = describe_failure(error)
        get_run_logger().warning("%s: attempt %d failed: %s", notice.message.block, notice.attempts, said)
        ledger.notice_failed(notice.notice_id, said, datetime.now(UTC) + next_delay(notice.attempts))
    else:
        ledger.notice_delivered(notice.notice_id, datetime.now(UTC))


def _announce(alert: Alert, news: News) -> None:
    emit_event(**alert_event(alert, news))
