"""A Prefect server of its own for the flows of one file; it sends nothing anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

DRAIN_S = 10.0
"""How long events are waited for: Prefect itself tries each of them for a minute where their server is gone."""


@pytest.fixture(scope="module")
def prefect_server() -> Iterator[None]:
    """Run the flows of a file against a temporary server."""
    from prefect.events.worker import EventsWorker
    from prefect.testing.utilities import prefect_test_harness

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        patch.setenv("DO_NOT_TRACK", "1")
        patch.setattr(EventsWorker, "drain_all", partial(EventsWorker.drain_all, timeout=DRAIN_S))
        # What still speaks to the server of an earlier file would be given the events of this one.
        EventsWorker.drain_all(at_exit=False)
        with prefect_test_harness(server_startup_timeout=120):
            yield
