"""One login for Prefect and MLflow: drawn or given, kept for its owner only, never shown."""

from __future__ import annotations

import configparser
import stat
from pathlib import Path

import pytest

from deployments.stack import auth, services
from deployments.stack.auth import Login, is_wanted, prepare_login, read_login
from deployments.stack.services import Layout, Ports, mlflow_service
from tasks.errors import InputError, StackError

LOGIN = Login(user="delivery", password="p" * 12, key="k" * 32)
PORTS = Ports(prefect=1, mlflow=2, data=3)


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "find_spec", lambda _: object())


def test_nothing_asks_for_a_login_unless_told_to() -> None:
    assert not is_wanted({})
    assert not is_wanted({"DELIVERY_AUTH": "none"})
    assert is_wanted({"DELIVERY_AUTH": "basic"})
    with pytest.raises(InputError, match="DELIVERY_AUTH: 'on' is not allowed; allowed: none, basic"):
        is_wanted({"DELIVERY_AUTH": "on"})


def test_a_login_is_drawn_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    first = prepare_login(tmp_path, {})
    assert (first.user, len(first.password) >= 24) == ("delivery", True)
    assert prepare_login(tmp_path, {}) == first == read_login(tmp_path)
    assert prepare_login(tmp_path / "..", {}) != first
    (tmp_path / ".." / "auth.json").unlink()
    for name in ("auth.json", "mlflow-auth.ini"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert first.password not in (tmp_path / "mlflow-auth.ini").read_text(encoding="utf-8")


def test_the_environment_gives_a_login(tmp_path: Path) -> None:
    given = {"DELIVERY_AUTH_USER": "ops", "DELIVERY_AUTH_PASSWORD": "correct horse battery"}
    login = prepare_login(tmp_path, given)
    assert (login.user, login.password) == ("ops", "correct horse battery")
    assert prepare_login(tmp_path, {}) == login
    with pytest.raises(StackError, match="keeps another login, which MLflow knows; unset DELIVERY_AUTH_USER") as caught:
        prepare_login(tmp_path, {**given, "DELIVERY_AUTH_PASSWORD": "another one entirely"})
    assert "another one" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"DELIVERY_AUTH_USER": "a:b"}, "DELIVERY_AUTH_USER: 'a:b' is no name"),
        ({"DELIVERY_AUTH_PASSWORD": "short"}, "DELIVERY_AUTH_PASSWORD is too short: 5 characters, at least 12"),
    ],
)
def test_a_login_that_cannot_be_used_is_refused(tmp_path: Path, given: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        prepare_login(tmp_path, given)
    assert list(tmp_path.iterdir()) == []


def test_without_what_mlflow_needs_the_way_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "find_spec", lambda _: None)
    with pytest.raises(StackError, match="pip install 'flask-wtf<2'"):
        prepare_login(tmp_path, {})


def test_a_login_is_never_shown() -> None:
    layout = Layout(state=Path("/s"), ports=PORTS, mark="m", login=LOGIN)
    assert LOGIN.password not in repr(layout)
    assert LOGIN.key not in repr(layout)


def test_servers_ask_for_the_login_and_clients_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_AUTH_STRING", raising=False)
    without, with_login = (Layout(state=Path("/s"), ports=PORTS, mark="m", login=login) for login in (None, LOGIN))
    assert with_login.variables().items() - without.variables().items() == LOGIN.for_clients().items()
    environment = with_login.environment()
    assert (
        environment["PREFECT_SERVER_API_AUTH_STRING"]
        == environment["PREFECT_API_AUTH_STRING"]
        == "delivery:" + "p" * 12
    )
    assert environment["MLFLOW_AUTH_CONFIG_PATH"] == "/s/mlflow-auth.ini"
    assert mlflow_service(with_login).command[-2:] == ("--app-name", "basic-auth")
    assert "--app-name" not in mlflow_service(without).command
    assert services.WORK_POOL == with_login.variables()["DELIVERY_WORK_POOL"] == "local"


def test_mlflow_reads_its_configuration(tmp_path: Path) -> None:
    folder = tmp_path / "50%"
    folder.mkdir()
    prepare_login(folder, {})
    read = configparser.ConfigParser()
    read.read(folder / "mlflow-auth.ini")
    assert read["mlflow"]["database_uri"] == f"sqlite:///{folder}/mlflow-auth.db"
