"""The traces on an MLflow server, as the documents that the format ``mlflow`` reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tasks.errors import InputError, NotFoundError
from tasks.stores.models import asking, connect

PAGE_TRACES = 100
_UNFINISHED = "IN_PROGRESS"


@dataclass(frozen=True, slots=True)
class Traces:
    """Traces on one MLflow server.

    Args:
        url: Tracking URL of the server; it is only read.
    """

    url: str

    def documents(
        self, experiment: str, start: datetime, end: datetime, *, page: int = PAGE_TRACES
    ) -> Iterator[tuple[str, bytes]]:
        """Read the traces of a window in the order in which they began.

        Args:
            experiment: Its name.
            start: When the window begins, with a zone.
            end: When it ends; a trace that begins then is not in it.
            page: Traces asked for at once, 1 to 500.

        Yields:
            The id of each trace and its JSON; one that is still running is left for later.

        Raises:
            NotFoundError: There is no such experiment.
            DeliveryError: A time has no zone, or the server does not do it.
        """
        for name, time in (("start", start), ("end", end)):
            if time.tzinfo is None:
                raise InputError.of(f"window.{name}", time.isoformat(), "a time with a zone")
        window = f"timestamp_ms >= {_milliseconds(start)} AND timestamp_ms < {_milliseconds(end)}"
        found, token = self._page(experiment, window, page, None)
        while True:
            for trace in found:
                if trace.info.state.name != _UNFINISHED:
                    yield str(trace.info.trace_id), str(trace.to_json()).encode()
            if not token:
                return
            found, token = self._page(experiment, window, page, token)

    def _page(self, experiment: str, window: str, page: int, token: str | None) -> tuple[list[Any], str | None]:
        with asking(self.url, f"list the traces of {experiment}"):
            client = connect(self.url)
            held = client.get_experiment_by_name(experiment)
            if held is None:
                raise NotFoundError(f"there is no experiment {experiment!r} at {self.url}; check its name")
            found = client.search_traces(
                locations=[held.experiment_id],
                filter_string=window,
                max_results=page,
                order_by=["timestamp_ms ASC"],
                page_token=token,
            )
            return list(found), found.token or None


def _milliseconds(time: datetime) -> int:
    return round(time.timestamp() * 1000)
