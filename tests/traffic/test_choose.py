"""The setting that names the data path, and what is said about one that names none."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest
from pydantic import ValidationError

from tasks.errors import InputError
from tasks.release import acting
from tasks.settings import Settings
from tasks.traffic.choose import choose_driver
from tasks.traffic.haproxy.driver import HaproxyDriver
from tasks.traffic.kubernetes.driver import GatewayDriver
from tasks.traffic.kubernetes.kserve_driver import KserveDriver


def test_haproxy_is_the_default(tmp_path: Path) -> None:
    where = Settings(state_dir=tmp_path)
    made = choose_driver(where)
    assert made == HaproxyDriver(folder=where.haproxy_dir, servers=where.servers_dir, url=where.data_url)
    assert acting.driver(where) == made


def test_kubernetes_is_set_up_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "DRIVER": "kubernetes",
        "DATA_URL": "http://gateway.example",
        "MLFLOW_URL": "http://mlflow:5000",
        "KUBERNETES_NAMESPACE": "models",
        "KUBERNETES_IMAGE": "registry.example/delivery:1",
        "KUBERNETES_GATEWAY": "edge/public",
        "KUBERNETES_AUTOSCALER": "keda",
        "KUBERNETES_PROMETHEUS_URL": "http://prometheus:9090",
        "KUBERNETES_PROMETHEUS_QUERY": "up",
    }.items():
        monkeypatch.setenv(f"DELIVERY_{name}", value)
    made = choose_driver(Settings())
    assert isinstance(made, GatewayDriver)
    assert (made.cluster.namespace, made.cluster.image) == ("models", "registry.example/delivery:1")
    assert (made.cluster.gateway, made.cluster.mlflow_url) == ("edge/public", "http://mlflow:5000")
    assert (made.url, made.api.namespace) == ("http://gateway.example", "models")
    assert (made.scaler.kind, made.scaler.query) == ("keda", "up")
    monkeypatch.setenv("DELIVERY_KUBERNETES_SPLIT", "kserve")
    assert isinstance(choose_driver(Settings()), KserveDriver)
    monkeypatch.setenv("DELIVERY_KUBERNETES_SPLIT", "istio")
    with pytest.raises(ValidationError, match="Input should be 'gateway' or 'kserve'"):
        Settings()


@pytest.mark.parametrize("name", ["nginx", "", "HAProxy", "module:", ":callable", "os.path", "a b:c", "a:b:c"])
def test_a_name_that_is_none_is_told_what_is_allowed(name: str) -> None:
    with pytest.raises(InputError) as caught:
        choose_driver(Settings(driver=name))
    assert str(caught.value) == (
        f"DELIVERY_DRIVER: {name!r} is not allowed; allowed: haproxy, kubernetes, or module:callable of your own, "
        "which takes the settings and returns a driver"
    )


@pytest.mark.parametrize("name", ["no_such_module_at_all:make", "tasks.settings:no_such_callable"])
def test_what_cannot_be_imported_is_told_why(name: str) -> None:
    with pytest.raises(InputError, match=r"it cannot be imported: .*no_such"):
        choose_driver(Settings(driver=name))


def test_a_team_brings_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("our_driver")
    module.make = lambda where: HaproxyDriver(where.state_dir, where.state_dir, "http://own")  # type: ignore[attr-defined]
    module.half = lambda _: types.SimpleNamespace(ensure=print, probe=print, apply=print)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "our_driver", module)
    made = choose_driver(Settings(driver="our_driver:make"))
    assert isinstance(made, HaproxyDriver)
    assert made.url == "http://own"
    missing = "SimpleNamespace without observe, ask, scale, stand_by, routed, running, retire"
    with pytest.raises(InputError, match=missing):
        choose_driver(Settings(driver="our_driver:half"))


def test_the_kubernetes_library_is_loaded_only_by_a_call() -> None:
    code = (
        "import sys; from tasks.settings import Settings; from tasks.traffic.choose import choose_driver;"
        "choose_driver(Settings(driver='kubernetes')); assert 'kubernetes' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
