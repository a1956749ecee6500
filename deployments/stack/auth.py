"""Who may use Prefect and MLflow: one setting, ``DELIVERY_AUTH=basic``, and one login for both.

The login comes from ``DELIVERY_AUTH_USER`` and ``DELIVERY_AUTH_PASSWORD``, or is drawn at the first start; it is kept
in the state folder, readable by its owner only, so that commands of the same person find it.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, TypeAdapter

from tasks.errors import InputError, StackError
from tasks.traffic.servers import write_whole

SETTING: Final = "DELIVERY_AUTH"
_USER, _PASSWORD = f"{SETTING}_USER", f"{SETTING}_PASSWORD"
_FILE: Final = "auth.json"
_MLFLOW_FILE: Final = "mlflow-auth.ini"
_SHORTEST: Final = 12
_MLFLOW: Final = """\
# Written by the stack at every start.
[mlflow]
default_permission = READ
database_uri = sqlite:///{database}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 60
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """A name and its password; neither the password nor the key is ever shown by ``repr``.

    Attributes:
        key: What MLflow signs its forms with.
    """

    user: Annotated[str, Field(pattern=r"^[A-Za-z0-9._@-]{1,64}$")]
    password: Annotated[str, Field(min_length=_SHORTEST)] = field(repr=False)
    key: Annotated[str, Field(min_length=_SHORTEST)] = field(repr=False)

    def for_clients(self) -> dict[str, str]:
        """Return the variables with which Prefect's and MLflow's clients log in."""
        return {
            "PREFECT_API_AUTH_STRING": f"{self.user}:{self.password}",
            "MLFLOW_TRACKING_USERNAME": self.user,
            "MLFLOW_TRACKING_PASSWORD": self.password,
        }

    def for_servers(self, state: Path) -> dict[str, str]:
        """Return the variables that make both servers ask for it."""
        return {
            "PREFECT_SERVER_API_AUTH_STRING": f"{self.user}:{self.password}",
            "MLFLOW_AUTH_CONFIG_PATH": str(state / _MLFLOW_FILE),
            "MLFLOW_AUTH_ADMIN_USERNAME": self.user,
            "MLFLOW_AUTH_ADMIN_PASSWORD": self.password,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": self.key,
        }


_LOGIN = TypeAdapter(Login)


def is_wanted(environment: Mapping[str, str] | None = None) -> bool:
    """Return whether the servers shall ask for a login.

    Raises:
        InputError: The setting is neither ``none`` nor ``basic``.
    """
    value = (os.environ if environment is None else environment).get(SETTING, "none")
    if value not in {"", "none", "basic"}:
        raise InputError.of(SETTING, value, ("none", "basic"))
    return value == "basic"


def read_login(state: Path) -> Login | None:
    """Return the login a stack keeps, None where it has none that can be read."""
    try:
        return _LOGIN.validate_json((state / _FILE).read_bytes())
    except (OSError, ValueError):
        return None


def prepare_login(state: Path, environment: Mapping[str, str]) -> Login:
    """Return the login of a stack, kept from now on, with the configuration of MLflow written.

    Args:
        state: The stack's folder, which only its owner may read.
        environment: May give name and password; what is missing is drawn.

    Raises:
        InputError: The name or the password cannot be used.
        StackError: MLflow's login is not installed, or another one is in use already.
    """
    if find_spec("flask_wtf") is None:
        raise StackError(f"{SETTING}=basic needs the login of MLflow: pip install 'flask-wtf<2', or {SETTING}=none")
    kept = read_login(state)
    login = kept if kept is not None and not _given(environment, kept) else _new_login(environment)
    if kept is not None and login is not kept:
        raise StackError(
            f"{state / _FILE} keeps another login, which MLflow knows; unset {_USER} and {_PASSWORD}, or give the "
            f"servers a new one: delete {_FILE} and mlflow-auth.db from {state} while the stack is down"
        )
    if kept is None:
        write_whole(state / _FILE, _LOGIN.dump_json(login).decode())
    write_whole(state / _MLFLOW_FILE, _MLFLOW.format(database=str(state / "mlflow-auth.db").replace("%", "%%")))
    return login


def _given(environment: Mapping[str, str], kept: Login) -> bool:
    """Return whether the environment gives another login than the one that is kept."""
    user, password = environment.get(_USER), environment.get(_PASSWORD)
    return (user or kept.user, password or kept.password) != (kept.user, kept.password)


def _new_login(environment: Mapping[str, str]) -> Login:
    user = environment.get(_USER) or "delivery"
    password = environment.get(_PASSWORD) or secrets.token_urlsafe(24)
    if not re.fullmatch(r"[A-Za-z0-9._@-]{1,64}", user):
        raise InputError(f"{_USER}: {user!r} is no name; use letters, digits and . _ @ -, at most 64")
    if len(password) < _SHORTEST:
        raise InputError(f"{_PASSWORD} is too short: {len(password)} characters, at least {_SHORTEST} are needed")
    return Login(user=user, password=password, key=secrets.token_urlsafe(32))
