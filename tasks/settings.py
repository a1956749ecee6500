"""The one settings object. Flows and commands read it once and pass its values on."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Where things live; every value can be set in the environment as ``DELIVERY_<NAME>``.

    Attributes:
        state_dir: The one folder that holds everything the local stack writes.
        mlflow_url: The tracking server and registry.
        data_url: Where users reach the applications: the data path.
    """

    model_config = SettingsConfigDict(env_prefix="DELIVERY_", frozen=True, extra="ignore")

    state_dir: Path = Path(".state")
    mlflow_url: str = "http://127.0.0.1:5000"
    data_url: str = "http://127.0.0.1:8080"
    ledger_url: str | None = Field(default=None, description="SQLAlchemy URL; the default is SQLite in the state.")
    price_book: Path = Path(__file__).parent / "costs" / "prices.yaml"

    @property
    def ledger(self) -> str:
        """SQLAlchemy URL of the ledger."""
        return self.ledger_url or f"sqlite:///{(self.state_dir / 'ledger.db').absolute()}"

    @property
    def lake_dir(self) -> Path:
        """Folder of the Delta tables."""
        return self.state_dir.absolute() / "lake"

    @property
    def log_dir(self) -> Path:
        """Folder the applications write their interaction logs to: ``{application}/*.jsonl``."""
        return self.state_dir.absolute() / "interactions"

    @property
    def servers_dir(self) -> Path:
        """Folder of wishes for release servers."""
        return self.state_dir.absolute() / "servers"

    @property
    def haproxy_dir(self) -> Path:
        """Folder of the data path's configuration, maps and sockets."""
        return self.state_dir.absolute() / "haproxy"


@cache
def settings() -> Settings:
    """Return the settings, read once from the environment."""
    return Settings()
