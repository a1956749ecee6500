"""Which data path is used: the one the settings name."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable

from tasks.errors import InputError
from tasks.settings import Settings
from tasks.traffic.driver import Driver
from tasks.traffic.haproxy.driver import HaproxyDriver

ALLOWED = "haproxy, kubernetes, or module:callable of your own, which takes the settings and returns a driver"
_OWN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_PLACE = "DELIVERY_DRIVER"


def choose_driver(where: Settings, say: Callable[[str], None] | None = None) -> Driver:
    """Return the data path.

    Args:
        where: The settings; ``driver`` says which, ``nodes`` on which machines.
        say: Is told which of several nodes is behind; None: the log.

    Raises:
        InputError: The setting names none, or what it names is none.
    """
    if where.nodes:
        return _several(where, say)
    if where.driver == "haproxy":
        return HaproxyDriver(folder=where.haproxy_dir, servers=where.servers_dir, url=where.data_url)
    if where.driver == "kubernetes":
        return _kubernetes(where)
    return _own(where)


def _several(where: Settings, say: Callable[[str], None] | None) -> Driver:
    from tasks.traffic.nodes.driver import NodesDriver, say_in_log
    from tasks.traffic.nodes.remote import read_nodes

    if where.driver != "haproxy":
        raise InputError(
            f"DELIVERY_NODES is set, and {_PLACE} is {where.driver!r}; nodes have HAProxy: unset one of the two"
        )
    return NodesDriver(read_nodes(where.nodes, where.node_token), say or say_in_log)


def _own(where: Settings) -> Driver:
    if not _OWN.fullmatch(where.driver):
        raise InputError.of(_PLACE, where.driver, ALLOWED)
    module, _, name = where.driver.partition(":")
    try:
        make = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"{InputError.of(_PLACE, where.driver, ALLOWED)}; it cannot be imported: {error}") from error
    made = make(where)
    names = [name for name in vars(Driver) if not name.startswith("_")]
    missing = [name for name in names if not callable(getattr(made, name, None))]
    if missing:
        raise InputError(
            f"{_PLACE}: {where.driver} returned a {type(made).__name__} without {', '.join(missing)}; a driver has "
            f"{', '.join(names)} (docs/drivers.md)"
        )
    driver: Driver = made
    return driver


def _kubernetes(where: Settings) -> Driver:
    from tasks.traffic.kubernetes.api import Api
    from tasks.traffic.kubernetes.driver import GatewayDriver
    from tasks.traffic.kubernetes.kserve_driver import KserveDriver
    from tasks.traffic.kubernetes.objects import Cluster
    from tasks.traffic.kubernetes.scaling import Scaler

    cluster = Cluster(
        namespace=where.kubernetes_namespace,
        image=where.kubernetes_image,
        mlflow_url=where.mlflow_url,
        gateway=where.kubernetes_gateway,
        secret=where.kubernetes_secret,
        log_claim=where.kubernetes_log_claim,
        cpu=where.kubernetes_cpu,
        memory=where.kubernetes_memory,
        content=where.content,
        redact=where.redact,
    )
    api, probe_url, wait_s = Api(where.kubernetes_namespace), where.kubernetes_probe_url, where.kubernetes_wait_s
    if where.kubernetes_split == "kserve":
        return KserveDriver(cluster=cluster, api=api, probe_url=probe_url, wait_s=wait_s)
    scaler = Scaler(
        kind=where.kubernetes_autoscaler,
        metric=where.kubernetes_metric,
        prometheus_url=where.kubernetes_prometheus_url,
        query=where.kubernetes_prometheus_query,
    )
    return GatewayDriver(
        cluster=cluster, scaler=scaler, api=api, url=where.data_url, probe_url=probe_url, wait_s=wait_s
    )
