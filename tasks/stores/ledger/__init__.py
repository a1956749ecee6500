"""The ledger: what was decided, and what is in force, in SQL (SQLite or PostgreSQL).

Two rules make it safe to be killed at any moment. A traffic plan is written by compare-and-swap: its revision is
the next one, or nothing is written. And a rollout writes only while it holds the lease of its application: every
lease has a token that grows, and a write with an older token is refused.
"""

from tasks.stores.ledger.alerts import Alerts
from tasks.stores.ledger.database import LEASE_S
from tasks.stores.ledger.experiments import Experiments
from tasks.stores.ledger.history import Histories
from tasks.stores.ledger.verdicts import Verdicts

__all__ = ["LEASE_S", "Ledger"]


class Ledger(Experiments, Verdicts, Alerts, Histories):
    """Leases, traffic plans, rollouts, experiments, quarantine, verdicts, alerts and history of one database.

    Args:
        url: SQLAlchemy URL of the database; its tables are created where they are missing.
    """

    __slots__ = ()
