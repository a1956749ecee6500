"""Follow the load of every release with the number of its replicas; whoever runs the processes calls it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tasks.traffic.asking import answers_as
from tasks.traffic.autoscaling import Load, Scaling, decide
from tasks.traffic.haproxy.driver import HaproxyDriver
from tasks.traffic.haproxy.statistics import Backend
from tasks.traffic.replicas import followed
from tasks.traffic.servers import Server, read_servers

_ASK_S = 1.0


@dataclass(slots=True)
class Scaler:
    """Scales the releases of one data path.

    Args:
        driver: The data path.
        say: Prints one line of progress.
        clock: Never goes back, seconds.
    """

    driver: HaproxyDriver
    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    _states: dict[str, Scaling] = field(default_factory=dict)

    def look(self) -> None:
        """Look at the load of every release once, and take the next step where one is due.

        Raises:
            ServingError: The data path does not answer; then everything stays as it is.
        """
        servers = [server for server in read_servers(self.driver.servers) if len(server.ports) > 1]
        digests = {server.digest for server in servers}
        self._states = {digest: state for digest, state in self._states.items() if digest in digests}
        backends = self.driver.backends() if servers else {}
        for server in servers:
            backend = backends.get(server.short)
            if backend is not None and backend.ports == server.ports:
                self._scale(server, backend)  # the others are not deployed to the end yet

    def _scale(self, server: Server, backend: Backend) -> None:
        state = self._states.get(server.digest, Scaling(replicas=server.replicas))
        decided = decide(backend.load, server.autoscaling, state, self.clock())
        self._states[server.digest] = decided
        if decided.replicas != state.replicas:
            self._report(server, state.replicas, decided.replicas, backend.load)
        after = followed(server, backend, decided.replicas, _answering(server, decided.replicas))
        is_switched = [slot.is_on for slot in backend.slots] == [
            number < after.serving for number in range(len(backend.slots))
        ]
        if after != server or not is_switched:
            self.driver.rescale(server, after)

    def _report(self, server: Server, before: int, after: int, load: Load) -> None:
        self.say(
            f"release {server.short} of {server.application}: {before} -> {after} replicas ({load.sessions} calls and "
            f"{load.queued} in the queue, {server.autoscaling.target_ongoing_requests:g} a replica wanted)"
        )


def _answering(server: Server, wanted: int) -> int:
    """Return how many of the first replicas may serve: those that do, and those after them that answer."""
    count = server.serving
    for url in server.urls[server.serving : wanted]:
        if not answers_as(url, server.digest, _ASK_S):
            break
        count += 1
    return count
