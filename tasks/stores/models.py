"""The MLflow server as both registries reach it, and the registry of scikit-learn models.

This module and registry.py alone import MLflow.
"""

from __future__ import annotations

import os
import socket
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tasks.errors import DeliveryError, InputError, NotFoundError, UnreachableError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

TRUSTED_TYPES = ("scipy.sparse._csr.csr_matrix",)
"""What a model may hold beside the types of scikit-learn and NumPy: the index of a retrieval model."""
_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # A server that hangs is noticed within about half a minute, not after the hour of MLflow's own defaults.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
_REACH_S = 5.0
_KEY_TAG = "delivery.key"
_SKOPS_FILE = "model.skops"
_MISSING = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
_TAKEN = "RESOURCE_ALREADY_EXISTS"


@dataclass(frozen=True, slots=True)
class ModelStore:
    """Scikit-learn models on one MLflow server, stored and loaded without pickle.

    Args:
        url: Tracking URL of the server; nothing is written anywhere else.
    """

    url: str

    def log_sklearn_model(self, name: str, model: object, *, key: str = "", description: str = "") -> str:
        """Log a scikit-learn model without pickle (skops) and register it.

        Args:
            name: Registered model that gets a new version.
            model: The estimator; it may hold only types of scikit-learn, NumPy and ``TRUSTED_TYPES``.
            key: The caller's name for exactly this model; a key registered before is not registered again.
            description: What people read beside the version.

        Returns:
            Its address, ``models:/{name}/{version}``.

        Raises:
            InputError: The model holds a type that skops may not load.
            DeliveryError: The registry does not do it.
        """
        with asking(self.url, f"store the model {name}"):
            client = connect(self.url)
            ensure_model(client, name)
            found = client.search_model_versions(f"name = '{name}' and tag.`{_KEY_TAG}` = '{key}'") if key else []
            if found:
                return f"models:/{name}/{min(int(row.version) for row in found)}"
            model_id = self._log_skops(name, model, description or name)
            version = client.create_model_version(
                name,
                source=f"models:/{model_id}",
                model_id=model_id,
                description=description,
                tags={_KEY_TAG: key} if key else None,
                await_creation_for=0,
            )
            return f"models:/{name}/{version.version}"

    def load_sklearn_model(self, uri: str) -> Any:
        """Load a scikit-learn model from the registry, without pickle.

        A model lists in its own files which types may be loaded; that list is not believed, ``TRUSTED_TYPES`` is.

        Raises:
            NotFoundError: The address names nothing in the registry.
            InputError: The model is not stored with skops, or holds a type that may not be loaded.
            DeliveryError: The registry does not do it.
        """
        import mlflow.artifacts
        import skops.io
        from skops.io.exceptions import UntrustedTypesFoundException

        with asking(self.url, f"load {uri}"), tempfile.TemporaryDirectory() as folder:
            connect(self.url)
            with missing_is(f"{uri} is not in the registry"):
                path = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder)) / _SKOPS_FILE
            if not path.is_file():
                raise InputError(f"{uri} is no scikit-learn model stored with skops; log it with log_sklearn_model")
            try:
                return skops.io.load(path, trusted=list(TRUSTED_TYPES))
            except UntrustedTypesFoundException as error:
                raise InputError(f"{uri} holds types that may not be loaded: {one_line(error)}") from error

    def _log_skops(self, name: str, model: object, title: str) -> str:
        import mlflow
        from skops.io.exceptions import UntrustedTypesFoundException

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # mlflow warns about its own type hints while it is imported
            import mlflow.pyfunc
            import mlflow.sklearn
        experiment = ensure_experiment(connect(self.url), f"{name}-training")
        try:
            with mlflow.start_run(experiment_id=experiment, run_name=title):
                info = mlflow.sklearn.log_model(
                    model,
                    name=name,
                    serialization_format="skops",
                    skops_trusted_types=list(TRUSTED_TYPES),
                    # Given, so that nothing is inferred by loading the model in another process.
                    pip_requirements=["scikit-learn", "skops"],
                )
        except mlflow_error() as error:
            if not isinstance(error.__context__, UntrustedTypesFoundException):
                raise
            raise InputError(f"{name}: the model cannot be stored without pickle: {one_line(error)}") from error
        return str(info.model_id)


def connect(url: str) -> MlflowClient:
    """Return a client of the server, after making sure in a moment that somebody listens.

    Raises:
        UnreachableError: Nobody does; MLflow's own client would try for minutes before it says so.
    """
    _reach(url)
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    import mlflow

    mlflow.set_tracking_uri(url)
    mlflow.set_registry_uri(url)
    return mlflow.MlflowClient(url, url)


@contextmanager
def asking(url: str, what: str) -> Iterator[None]:
    """Say in one line what the server was asked, what it said and what to do, where it did not do it.

    Args:
        url: The server.
        what: What it is asked to do, after "did not".

    Raises:
        DeliveryError: It did not do it. Errors of this project pass as they are.
    """
    try:
        yield
    except (mlflow_error(), OSError) as error:
        advice = "choose another name, or try again" if error_code(error) == _TAKEN else "see its log, then try again"
        raise DeliveryError(f"the registry at {url} did not {what}: {one_line(error)}; {advice}") from error


@contextmanager
def missing_is(message: str) -> Iterator[None]:
    """Turn MLflow's word for something that does not exist into the project's; other errors pass.

    Raises:
        NotFoundError: With the message and what MLflow said.
    """
    try:
        yield
    except mlflow_error() as error:
        if error_code(error) not in _MISSING:
            raise
        raise NotFoundError(f"{message}: {one_line(error)}") from error


def ensure_model(client: MlflowClient, name: str) -> None:
    """Create a registered model unless it exists."""
    if not _has_model(client, name):
        try:
            client.create_registered_model(name)
        except mlflow_error():
            if not _has_model(client, name):  # otherwise somebody else created it meanwhile
                raise


def ensure_experiment(client: MlflowClient, name: str) -> str:
    """Return the id of an experiment, which is created unless it exists."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    try:
        return str(client.create_experiment(name))
    except mlflow_error():
        again = client.get_experiment_by_name(name)  # somebody else created it meanwhile
        if again is None:
            raise
        return str(again.experiment_id)


def mlflow_error() -> type[Exception]:
    """Return the base of MLflow's errors; MLflow is imported only where it is needed."""
    from mlflow.exceptions import MlflowException

    return MlflowException


def error_code(error: Exception) -> str:
    """Return MLflow's code of an error, such as ``RESOURCE_DOES_NOT_EXIST``; empty where it has none."""
    return str(getattr(error, "error_code", ""))


def one_line(error: Exception) -> str:
    """Return what an error says in one line of at most 300 characters."""
    return " ".join(str(error).split())[:300]


def _has_model(client: MlflowClient, name: str) -> bool:
    try:
        client.get_registered_model(name)
    except mlflow_error() as error:
        if error_code(error) not in _MISSING:
            raise
        return False
    return True


def _reach(url: str) -> None:
    address = urlsplit(url)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), timeout=_REACH_S).close()
    except OSError as error:
        raise UnreachableError(
            f"the registry at {url} does not answer ({error}); start the stack (make up), or set DELIVERY_MLFLOW_URL"
        ) from error
