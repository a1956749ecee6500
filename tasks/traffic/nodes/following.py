"""A node follows the ledger: it comes up with the plans on record, and catches up with those it was not told of."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from tasks.errors import ConflictError, DeliveryError, NotFoundError, UnreachableError
from tasks.stores.ledger import Ledger
from tasks.traffic.haproxy.config import map_name, map_rows
from tasks.traffic.haproxy.driver import HaproxyDriver
from tasks.traffic.haproxy.folder import locked, read_proven, refuse_older, write_proven
from tasks.traffic.plan import Plan
from tasks.traffic.replicas import wish_for
from tasks.traffic.servers import delete_server, read_servers, write_server, write_whole

PERIOD_S = 1.0
"""A node whose agent is away serves a plan that is not in force any more for about so long."""
_END_S = 70.0


@dataclass(frozen=True, slots=True)
class Follower:
    """Keeps the data path of one machine as the ledger has it.

    Args:
        driver: The data path.
        ledger: The plans, the same for every node.
        say: Prints one line of progress.
    """

    driver: HaproxyDriver
    ledger: Ledger
    say: Callable[[str], None]

    def prepare(self) -> bool:
        """Write the plans on record, and the wishes for their releases, for a data path that does not run yet.

        A release in quarantine that no plan names is not started again.

        Returns:
            Whether anything was written.

        Raises:
            UnreachableError: The ledger cannot be read.
        """
        try:
            plans = [plan for name in self.ledger.applications() if (plan := self.ledger.plan(name)) is not None]
            with locked(self.driver.folder):
                return True in [self._prepare(plan) for plan in plans]
        except SQLAlchemyError as error:
            raise UnreachableError(
                f"the ledger cannot be read ({type(error).__name__}): a node starts with the plans on record, so it "
                f"does not start without them; see DELIVERY_LEDGER_URL"
            ) from None

    def _prepare(self, plan: Plan) -> bool:
        try:
            refuse_older(self.driver.folder, plan)
        except ConflictError as error:
            self.say(f"the plan of {plan.application} on record is older than the node's, which is kept: {error}")
            return False
        changed = [self._wish(plan.application, digest) for digest in plan.counts()]
        path, text = self.driver.folder / map_name(plan.application), "\n".join(map_rows(plan)) + "\n"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_whole(path, text)
            self.say(f"revision {plan.revision} of {plan.application} is taken from the ledger")
            changed.append(True)
        for digest in self._outcasts(plan):
            delete_server(self.driver.servers, digest)
            self.say(f"release {digest[:12]} of {plan.application} is in quarantine and not started again")
            changed.append(True)
        return any(changed) | self._stand_by(plan.application)

    def _wish(self, application: str, digest: str) -> bool:
        known = read_servers(self.driver.servers)
        if any(server.digest == digest for server in known):
            return False
        release = self.ledger.recall(application, digest)
        write_server(self.driver.servers, wish_for(release, release.spec.autoscaling, known))
        return True

    def _stand_by(self, application: str) -> bool:
        """Put on file who may stand in for whom: nobody who was quarantined while this machine was away."""
        proven = self.ledger.proven(application)
        is_new = read_proven(self.driver.folder, application) != proven
        if is_new:
            write_proven(self.driver.folder, application, proven)
        return is_new

    def _outcasts(self, plan: Plan) -> list[str]:
        idle = set(self.driver.running(plan.application)) - set(plan.counts())
        return [digest for digest in sorted(idle) if self.ledger.quarantined(plan.application, digest)]

    def look(self) -> None:
        """Have the plans on record in effect.

        Raises:
            DeliveryError: The last one that could not be put into effect, once all were tried.
        """
        trouble: DeliveryError | None = None
        for application in self.ledger.applications():
            try:
                self._look(application)
            except DeliveryError as error:
                trouble = error
        if trouble is not None:
            raise trouble

    def _look(self, application: str) -> None:
        plan, seen = self.ledger.plan(application), None
        if plan is None:
            return
        with suppress(DeliveryError):  # silent: then its map must be right when it starts
            seen = self.driver.observe(application)
        if seen == plan.buckets:
            return
        with suppress(DeliveryError):  # who gets what comes first; a release that does not come up is seen elsewhere
            self.deploy(plan)
        latest = self.ledger.plan(application) or plan
        self.driver.apply(latest)
        self.say(f"revision {latest.revision} of {application} was on record and not in effect: applied")
        self.driver.stand_by(application, self.ledger.proven(application))

    def deploy(self, plan: Plan) -> None:
        """Deploy the releases of a plan that do not run here; one that the ledger does not know is left out.

        Raises:
            ServingError: One does not come up.
        """
        for digest in sorted(set(plan.counts()) - set(self.driver.running(plan.application))):
            with suppress(NotFoundError):
                self.driver.ensure(self.ledger.recall(plan.application, digest))

    @contextmanager
    def following(self, period_s: float = PERIOD_S) -> Iterator[None]:
        """Look again and again in the background while the block runs; each trouble is said once."""
        stop = threading.Event()
        thread = threading.Thread(target=self._follow, args=(stop, period_s), name="follower", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(timeout=_END_S)

    def _follow(self, stop: threading.Event, period_s: float) -> None:
        said = ""
        while not stop.wait(period_s):
            said = self.try_to_look(said)

    def try_to_look(self, said: str = "") -> str:
        """Have the plans on record in effect, and say what hinders it, unless that was said.

        Returns:
            What hinders it; empty where nothing does.
        """
        trouble = ""
        try:
            self.look()
        except DeliveryError as error:
            trouble = f"a plan on record is not in effect: {error}"
        except (SQLAlchemyError, OSError) as error:  # their texts may hold the ledger's address
            trouble = f"the ledger cannot be read, what is served stays as it is: {type(error).__name__}"
        if trouble and trouble != said:
            self.say(trouble)
        return trouble
