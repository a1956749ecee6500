"""The changes of the ledger's tables, in order; ``migrate.py`` applies them.

A change only adds: programs of the version before go on working while an upgrade is under way, also the rollback.
What is no longer used is dropped one version later.
"""

HEAD = "0003"
"""The level this program was written for; here too, so that reading it needs no Alembic."""
VERSION_TABLE = "ledger_version"
"""Not ``alembic_version``: MLflow and Prefect may keep theirs in the same database."""
