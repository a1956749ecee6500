"""The one settings object. Flows and commands read it once and pass its values on."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
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
    content: Literal["off", "hash", "full"] = Field(default="full", description="What the lake keeps of texts.")
    redact: bool = Field(default=False, description="Take personal data and secrets out of texts before they are kept.")
    report_examples: bool = Field(
        default=False, description="Write the texts of example interactions into a file beside the report."
    )
    driver: str = Field(default="haproxy", description="The data path: haproxy, kubernetes, or module:callable.")
    nodes: str = Field(default="", description="URLs of the agents of several HAProxy nodes, separated by commas.")
    node_token: SecretStr | None = Field(default=None, description="What the agents of nodes ask for.")
    node_listen: str = Field(
        default="127.0.0.1:7070", pattern=r"^[^\s/:]+:[0-9]{1,5}$", description="Where this node's agent listens."
    )

    shards: Literal["here", "pool", "dask"] = Field(default="here", description="Where shards are done.")
    shards_at_once: int = Field(default=4, ge=1, le=200, description="How many shards of a run are out at once.")
    shard_calls: int = Field(default=100_000, ge=1, description="Calls of a slice of a window, about.")
    shard_bytes: int = Field(default=256_000_000, ge=1, description="Bytes of log files in a shard, about.")
    shard_retries: int = Field(default=2, ge=0, le=20, description="How often a lost shard is sent out again.")
    shard_wait_s: float = Field(default=300.0, gt=0, description="How long shards may wait for a worker, seconds.")
    shard_silent_s: float = Field(default=60.0, gt=2, description="Without a sign of life it is lost, seconds.")
    dask_address: str = Field(default="", description="Of a Dask scheduler; empty: a cluster of this machine.")

    kubernetes_split: Literal["gateway", "kserve"] = "gateway"
    kubernetes_namespace: str = Field(default="default", pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")
    kubernetes_image: str = Field(default="", description="Image of release servers; its user is not root.")
    kubernetes_gateway: str = Field(default="", description="The Gateway routes attach to: name, or namespace/name.")
    kubernetes_secret: str = Field(default="", description="Secret with the endpoints' keys, by endpoint_key_env.")
    kubernetes_log_claim: str = Field(default="", description="Volume claim of the interaction log.")
    kubernetes_cpu: str = "250m"
    kubernetes_memory: str = "1Gi"
    kubernetes_probe_url: str = Field(
        default="http://{service}.{namespace}.svc:{port}", description="Where a release is reached past the plan."
    )
    kubernetes_autoscaler: Literal["hpa", "keda"] = "hpa"
    kubernetes_metric: str = Field(default="", description="HPA: the pods' metric of ongoing requests.")
    kubernetes_prometheus_url: str = Field(default="", description="KEDA: the Prometheus server.")
    kubernetes_prometheus_query: str = Field(default="", description="KEDA: ongoing requests of {service}.")
    kubernetes_wait_s: float = Field(default=300.0, gt=0, le=3600, description="How long a release may take, seconds.")

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
