"""The registry of releases, prompts and evaluation runs: MLflow, and the only module that imports it.

One registered model an application. A release is a logged model whose parameters are write-once; its digest is
repeated in a tag of the model version, because the registry has no key that would make creating it idempotent.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
import time
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tasks.errors import DeliveryError, InputError, NotFoundError, UnreachableError
from tasks.release.model import Prompt, PromptRef, Release, ReleaseSpec, release_digest, text_sha256

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

TRUSTED_TYPES = ("scipy.sparse._csr.csr_matrix",)
"""What a model may hold beside the types of scikit-learn and NumPy: the index of a retrieval model."""
ALIASES = ("champion", "challenger", "previous")
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_REACH_S = 5.0
_DIGEST_TAG = "delivery.digest"
_PROMPT_TAG = "delivery.sha256"
_KEY_TAG = "delivery.key"
_SKOPS_FILE = "model.skops"
_RECORD_PARAM = "delivery.release"


@dataclass(frozen=True, slots=True)
class Registry:
    """Releases and prompts on one MLflow server.

    Args:
        url: Tracking URL of the server; nothing is written anywhere else.
    """

    url: str

    def register(self, spec: ReleaseSpec) -> tuple[Release, bool]:
        """Store a release with its prompt; the same content registered twice is the same release.

        Returns:
            The release, and whether it is new.

        Raises:
            NotFoundError: The prompt version, or the ``models:/`` endpoint, is not registered.
            InputError: The prompt version was changed after it was registered.
        """
        prompt = self._prompt(spec.prompt)
        digest = release_digest(spec, prompt.sha256)
        self._check_endpoint(spec.endpoint)
        found = self._versions(spec.application, digest)
        if found:
            return self.release(spec.application, min(found)), False
        client = self._client()
        logged = self._create_record(spec, prompt, digest)
        self._ensure_model(spec.application)
        version = client.create_model_version(
            spec.application,
            source=f"models:/{logged}",
            model_id=logged,
            tags={_DIGEST_TAG: digest, "delivery.version": spec.version, "delivery.owner": spec.owner},
            await_creation_for=0,
        )
        return Release(spec=spec, prompt=prompt, registry_version=int(version.version)), True

    def release(self, application: str, version: int) -> Release:
        """Return one release of an application by its registry version.

        Raises:
            NotFoundError: There is no such version, or it is no release.
            DeliveryError: The stored record no longer has the digest it was registered with.
        """
        client = self._client()
        try:
            row = client.get_model_version(application, str(version))
            record = json.loads(client.get_logged_model(_logged_id(row)).params[_RECORD_PARAM])
        except (self._mlflow_error(), KeyError, TypeError) as error:
            raise NotFoundError(f"{application} has no release {version} in the registry: {_line(error)}") from error
        spec = ReleaseSpec.model_validate(record["spec"])
        prompt = self._load_prompt(record["prompt"]["name"], record["prompt"]["version"])
        release = Release(spec=spec, prompt=prompt, registry_version=version)
        if release.digest != row.tags.get(_DIGEST_TAG) or prompt.sha256 != record["prompt"]["sha256"]:
            raise DeliveryError(
                f"release {version} of {application} is not what was registered: its record or prompt "
                f"{prompt.name}@{prompt.version} was changed in the registry; register it again"
            )
        return release

    def find(self, application: str, digest: str) -> Release:
        """Return a release by its digest.

        Raises:
            NotFoundError: The application has no release of this digest.
        """
        found = self._versions(application, digest)
        if not found:
            raise NotFoundError(f"{application} has no release {digest[:12]} in the registry")
        return self.release(application, min(found))

    def set_aliases(self, application: str, aliases: Mapping[str, int | None]) -> None:
        """Write aliases of an application: a readable projection of the traffic plan, never its truth."""
        client = self._client()
        current = client.get_registered_model(application).aliases
        for alias, version in aliases.items():
            if alias not in ALIASES:
                raise InputError.of("alias", alias, ALIASES)
            if version is not None:
                client.set_registered_model_alias(application, alias, str(version))
            elif alias in current:
                client.delete_registered_model_alias(application, alias)

    def aliases(self, application: str) -> dict[str, int]:
        """Return the aliases of an application and the registry versions they point at."""
        return {name: int(v) for name, v in self._client().get_registered_model(application).aliases.items()}

    def tag(self, release: Release, tags: Mapping[str, str]) -> None:
        """Write tags on a release's model version, for people who look at the registry."""
        for key, value in tags.items():
            self._client().set_model_version_tag(
                release.application, str(release.registry_version), f"delivery.{key}", value[:4900]
            )

    def log_evaluation(
        self, release: Release, name: str, metrics: Mapping[str, float], tags: Mapping[str, str], step: int = 0
    ) -> str:
        """Record one evaluation as a run whose metrics are linked to the release.

        Returns:
            The id of the run.
        """
        from mlflow.entities import Metric, RunTag

        client = self._client()
        row = client.get_model_version(release.application, str(release.registry_version))
        experiment = self._experiment(release.application)
        run = client.create_run(experiment, run_name=name, tags=dict(tags))
        now = time.time_ns() // 1_000_000
        rows = [Metric(key, float(value), now, step, model_id=_logged_id(row)) for key, value in metrics.items()]
        client.log_batch(run.info.run_id, metrics=rows, tags=[RunTag("delivery.digest", release.digest)])
        client.set_terminated(run.info.run_id)
        return str(run.info.run_id)

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
        """
        client = self._client()
        self._ensure_model(name)
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
        """
        import mlflow.artifacts
        import skops.io
        from skops.io.exceptions import UntrustedTypesFoundException

        self._client()
        with tempfile.TemporaryDirectory() as folder:
            try:
                path = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder)) / _SKOPS_FILE
            except self._mlflow_error() as error:
                raise NotFoundError(f"{uri} cannot be loaded from the registry: {_line(error)}") from error
            if not path.is_file():
                raise InputError(f"{uri} is no scikit-learn model stored with skops; log it with log_sklearn_model")
            try:
                return skops.io.load(path, trusted=list(TRUSTED_TYPES))
            except UntrustedTypesFoundException as error:
                raise InputError(f"{uri} holds types that may not be loaded: {_line(error)}") from error

    def _log_skops(self, name: str, model: object, title: str) -> str:
        import mlflow

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # mlflow warns about its own type hints while it is imported
            import mlflow.pyfunc
            import mlflow.sklearn
        experiment = self._experiment(f"{name}-training")
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
        except self._mlflow_error() as error:
            raise InputError(f"{name}: the model cannot be stored without pickle: {_line(error)}") from error
        return str(info.model_id)

    def _prompt(self, ref: PromptRef) -> Prompt:
        if ref.version is not None:
            return self._load_prompt(ref.name, ref.version)
        import mlflow

        text = ref.text or ""
        sha256 = text_sha256(text)
        for version in self._prompt_versions(ref.name):
            if version.tags.get(_PROMPT_TAG) == sha256 and version.template == text:
                return Prompt(name=ref.name, version=int(version.version), text=text, sha256=sha256)
        stored = mlflow.genai.register_prompt(name=ref.name, template=text, tags={_PROMPT_TAG: sha256})
        return Prompt(name=ref.name, version=int(stored.version), text=text, sha256=sha256)

    def _prompt_versions(self, name: str) -> Iterable[Any]:
        client = self._client()
        if client.get_prompt(name) is None:
            return []
        return list(client.search_prompt_versions(name))

    def _load_prompt(self, name: str, version: int) -> Prompt:
        try:
            stored = self._client().get_prompt_version(name, version)
        except self._mlflow_error() as error:
            raise NotFoundError(f"prompt {name}@{version} is not registered: {_line(error)}") from error
        if stored is None:
            raise NotFoundError(f"prompt {name}@{version} is not registered")
        text = str(stored.template)
        sha256 = text_sha256(text)
        pinned = stored.tags.get(_PROMPT_TAG)
        if pinned is not None and pinned != sha256:
            raise InputError(f"prompt {name}@{version} was changed after it was registered; register a new version")
        return Prompt(name=name, version=version, text=text, sha256=sha256)

    def _check_endpoint(self, endpoint: str) -> None:
        if not endpoint.startswith("models:/"):
            return
        import mlflow

        self._client()
        try:
            mlflow.models.get_model_info(endpoint)
        except self._mlflow_error() as error:
            raise NotFoundError(f"endpoint {endpoint} is not in the registry: {_line(error)}") from error

    def _create_record(self, spec: ReleaseSpec, prompt: Prompt, digest: str) -> str:
        import mlflow

        self._client()
        pinned = prompt.model_dump(exclude={"text"})
        stripped = spec.model_dump(mode="json", exclude={"prompt"})
        stripped["prompt"] = {"name": prompt.name, "version": prompt.version}
        record = json.dumps({"spec": stripped, "prompt": pinned}, sort_keys=True)
        model = mlflow.create_external_model(
            name=f"{spec.model_id}-{spec.version}".replace(".", "-"),
            model_type="llm-release",
            experiment_id=self._experiment(spec.application),
            params={_RECORD_PARAM: record, _DIGEST_TAG: digest},
            tags={_DIGEST_TAG: digest},
        )
        return str(model.model_id)

    def _versions(self, application: str, digest: str) -> list[int]:
        rows = self._client().search_model_versions(f"name = '{application}' and tag.`{_DIGEST_TAG}` = '{digest}'")
        return [int(row.version) for row in rows]

    def _ensure_model(self, name: str) -> None:
        client = self._client()
        try:
            client.get_registered_model(name)
        except self._mlflow_error():
            try:
                client.create_registered_model(name)
            except self._mlflow_error():
                client.get_registered_model(name)  # somebody else created it meanwhile

    def _experiment(self, name: str) -> str:
        client = self._client()
        found = client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        try:
            return str(client.create_experiment(name))
        except self._mlflow_error():
            again = client.get_experiment_by_name(name)
            if again is None:
                raise
            return str(again.experiment_id)

    def _client(self) -> MlflowClient:
        _reach(self.url)
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        import mlflow

        mlflow.set_tracking_uri(self.url)
        mlflow.set_registry_uri(self.url)
        return mlflow.MlflowClient(self.url, self.url)

    @staticmethod
    def _mlflow_error() -> type[Exception]:
        from mlflow.exceptions import MlflowException

        return MlflowException


def _reach(url: str) -> None:
    """Find out in a moment that nobody listens; MLflow's client would try for minutes before it says so."""
    address = urlsplit(url)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), timeout=_REACH_S).close()
    except OSError as error:
        raise UnreachableError(
            f"the registry at {url} does not answer ({error}); start the stack (make up), or set DELIVERY_MLFLOW_URL"
        ) from error


def _logged_id(row: Any) -> str:
    # Over REST a version does not carry its model_id; its source, models:/<id>, is what was registered.
    return str(row.source).rpartition("/")[2]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
