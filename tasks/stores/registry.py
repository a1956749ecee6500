"""The registry of releases, prompts and evaluation runs, on MLflow.

One registered model an application. A release is a logged model whose parameters are write-once; its digest is
repeated in a tag of the model version, because the registry has no key that would make creating it idempotent.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from tasks.documents import describe
from tasks.errors import DeliveryError, InputError, NotFoundError
from tasks.release.model import Prompt, PromptRef, Release, ReleaseSpec, release_digest, text_sha256
from tasks.stores.models import asking, connect, ensure_experiment, ensure_model, missing_is

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

ALIASES = ("champion", "challenger", "previous")
_DIGEST_TAG = "delivery.digest"
_PROMPT_TAG = "delivery.sha256"
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
            DeliveryError: The registry does not do it.
        """
        with asking(self.url, f"register {spec.model_id} {spec.version} of {spec.application}"):
            prompt = self._prompt(spec.prompt)
            digest = release_digest(spec, prompt.sha256)
            self._check_endpoint(spec.endpoint)
            found = self._versions(spec.application, digest)
            if found:
                return self.release(spec.application, min(found)), False
            client = self._client()
            logged = self._create_record(spec, prompt, digest)
            ensure_model(client, spec.application)
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
            DeliveryError: The stored record no longer has the digest it was registered with, or can no longer be
                read, or the registry does not do it.
        """
        with asking(self.url, f"read release {version} of {application}"):
            row, record = self._record(application, version)
            try:
                spec = ReleaseSpec.model_validate(record["spec"])
            except ValidationError as error:
                raise DeliveryError(
                    f"release {version} of {application} is no longer allowed: {describe(error)}; register it anew"
                ) from error
            prompt = self._load_prompt(record["prompt"]["name"], record["prompt"]["version"])
            release = Release(spec=spec, prompt=prompt, registry_version=version)
            if release.digest != row.tags.get(_DIGEST_TAG) or prompt.sha256 != record["prompt"]["sha256"]:
                raise DeliveryError(
                    f"release {version} of {application} is not what was registered: its record or prompt "
                    f"{prompt.name}@{prompt.version} was changed in the registry; register it again"
                )
            return release

    def prompt(self, name: str, version: int) -> Prompt:
        """Return a registered prompt.

        Raises:
            NotFoundError: There is no such version.
            InputError: It was changed after it was registered.
        """
        with asking(self.url, f"read prompt {name}@{version}"):
            return self._load_prompt(name, version)

    def find(self, application: str, digest: str) -> Release:
        """Return a release by its digest.

        Raises:
            NotFoundError: The application has no release of this digest.
            DeliveryError: As ``release``.
        """
        with asking(self.url, f"find release {digest[:12]} of {application}"):
            found = self._versions(application, digest)
            if not found:
                raise NotFoundError(f"{application} has no release {digest[:12]} in the registry")
            return self.release(application, min(found))

    def set_aliases(self, application: str, aliases: Mapping[str, int | None]) -> None:
        """Write aliases of an application: a readable projection of the traffic plan, never its truth.

        Raises:
            InputError: An alias is none of ``ALIASES``.
            DeliveryError: The registry does not do it.
        """
        with asking(self.url, f"write the aliases of {application}"):
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
        """Return the aliases of an application and the registry versions they point at.

        Raises:
            DeliveryError: The registry does not do it.
        """
        with asking(self.url, f"read the aliases of {application}"):
            return {name: int(v) for name, v in self._client().get_registered_model(application).aliases.items()}

    def tag(self, release: Release, tags: Mapping[str, str]) -> None:
        """Write tags on a release's model version, for people who look at the registry.

        Raises:
            DeliveryError: The registry does not do it.
        """
        with asking(self.url, f"tag {release.label} of {release.application}"):
            client, version = self._client(), str(release.registry_version)
            for key, value in tags.items():
                client.set_model_version_tag(release.application, version, f"delivery.{key}", value[:4900])

    def log_evaluation(
        self, release: Release, name: str, metrics: Mapping[str, float], tags: Mapping[str, str], step: int = 0
    ) -> str:
        """Record one evaluation as a run whose metrics are linked to the release.

        Returns:
            The id of the run.

        Raises:
            DeliveryError: The registry does not do it.
        """
        from mlflow.entities import Metric, RunTag

        with asking(self.url, f"record the evaluation of {release.label} of {release.application}"):
            client = self._client()
            row = client.get_model_version(release.application, str(release.registry_version))
            experiment = ensure_experiment(client, release.application)
            run = client.create_run(experiment, run_name=name, tags=dict(tags))
            now = time.time_ns() // 1_000_000
            rows = [Metric(key, float(value), now, step, model_id=_logged_id(row)) for key, value in metrics.items()]
            client.log_batch(run.info.run_id, metrics=rows, tags=[RunTag("delivery.digest", release.digest)])
            client.set_terminated(run.info.run_id)
            return str(run.info.run_id)

    def replace_evaluation(
        self,
        release: Release,
        name: str,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        files: Iterable[Path] = (),
    ) -> str:
        """Record one evaluation as the only run of its release and window; an earlier run of the same is deleted.

        Args:
            release: What was evaluated.
            name: Of the run.
            metrics: By name.
            tags: With ``delivery.window``, which tells evaluations of a release apart.
            files: Become artifacts of the run.

        Returns:
            The address of the run, for people.

        Raises:
            DeliveryError: The registry does not do it.
        """
        with asking(self.url, f"replace the evaluation of {release.label} of {release.application}"):
            client = self._client()
            experiment = ensure_experiment(client, release.application)
            same = (
                f"tags.`delivery.digest` = '{release.digest}' and tags.`delivery.window` = '{tags['delivery.window']}'"
            )
            for run in client.search_runs([experiment], same):
                client.delete_run(run.info.run_id)
            run_id = self.log_evaluation(release, name, metrics, tags)
            for file in files:
                client.log_artifact(run_id, str(file))
            return f"{self.url.rstrip('/')}/#/experiments/{experiment}/runs/{run_id}"

    def _record(self, application: str, version: int) -> tuple[Any, dict[str, Any]]:
        client = self._client()
        with missing_is(f"{application} has no release {version} in the registry"):
            row = client.get_model_version(application, str(version))
            params = client.get_logged_model(_logged_id(row)).params
        if _RECORD_PARAM not in params:
            raise NotFoundError(f"{application} has no release {version} in the registry: its version is a model")
        return row, json.loads(params[_RECORD_PARAM])

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
        with missing_is(f"prompt {name}@{version} is not registered"):
            stored = self._client().get_prompt_version(name, version)
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
        with missing_is(f"endpoint {endpoint} is not in the registry"):
            mlflow.models.get_model_info(endpoint)

    def _create_record(self, spec: ReleaseSpec, prompt: Prompt, digest: str) -> str:
        import mlflow

        experiment = ensure_experiment(self._client(), spec.application)
        pinned = prompt.model_dump(exclude={"text"})
        stripped = spec.model_dump(mode="json", exclude={"prompt"})
        stripped["prompt"] = {"name": prompt.name, "version": prompt.version}
        record = json.dumps({"spec": stripped, "prompt": pinned}, sort_keys=True)
        model = mlflow.create_external_model(
            name=f"{spec.model_id}-{spec.version}".replace(".", "-"),
            model_type="llm-release",
            experiment_id=experiment,
            params={_RECORD_PARAM: record, _DIGEST_TAG: digest},
            tags={_DIGEST_TAG: digest},
        )
        return str(model.model_id)

    def _versions(self, application: str, digest: str) -> list[int]:
        rows = self._client().search_model_versions(f"name = '{application}' and tag.`{_DIGEST_TAG}` = '{digest}'")
        return [int(row.version) for row in rows]

    def _client(self) -> MlflowClient:
        return connect(self.url)


def _logged_id(row: Any) -> str:
    # Over REST a version does not carry its model_id; its source, models:/<id>, is what was registered.
    return str(row.source).rpartition("/")[2]
