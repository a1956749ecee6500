"""The files that deploy it for real: each is valid, names only what exists, keeps secrets out and binds to loopback."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import mlflow.environment_variables
import pytest
import yaml
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.settings.models.root import Settings as PrefectSettings

from deployments.commands import operations
from tasks.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "deployments"
COMPOSE_FILE = FILES / "compose" / "docker-compose.yml"
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_FILE.read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OBJECTS: list[dict[str, Any]] = [
    one
    for path in sorted((FILES / "kubernetes").glob("*.yaml"))
    for one in yaml.safe_load_all(path.read_text(encoding="utf-8"))
    if one["kind"] != "Kustomization"
]
REDIS_SETTINGS = {"PREFECT_REDIS_MESSAGING_URL", "PREFECT_REDIS_MESSAGING_PUBLISHER_BATCH_SIZE"}
OWN = {"DELIVERY_WORK_POOL", "DELIVERY_AUTH", "DELIVERY_AUTH_USER", "DELIVERY_AUTH_PASSWORD", "DELIVERY_SUMMARY"}
OTHERS = {"DO_NOT_TRACK", "HOME", "PATH", "OPENBLAS_NUM_THREADS", "GIT_PYTHON_REFRESH", "PYTHONUNBUFFERED"}


def known_settings() -> set[str]:
    from prefect.settings.legacy import _get_valid_setting_names

    own = {f"DELIVERY_{name.upper()}" for name in Settings.model_fields} | OWN
    mlflows = {name for name in dir(mlflow.environment_variables) if name.startswith("MLFLOW_")}
    return own | mlflows | mlflow_options() | _get_valid_setting_names(PrefectSettings) | REDIS_SETTINGS | OTHERS


def mlflow_options() -> set[str]:
    # Read as text: importing its command takes ten seconds.
    source = Path(mlflow.environment_variables.__file__).parent / "cli" / "__init__.py"
    return set(re.findall(r'envvar="(MLFLOW_\w+)"', source.read_text(encoding="utf-8")))


KNOWN = known_settings()
python_services = pytest.mark.parametrize(
    "name", [name for name, one in SERVICES.items() if "DELIVERY" in one["image"]]
)
every_service = pytest.mark.parametrize("name", SERVICES)


def vendored(name: str) -> dict[str, Any]:
    """Return a schema that the package check-jsonschema ships."""
    found = find_spec("check_jsonschema")
    if found is None or found.origin is None:
        pytest.skip("check-jsonschema is not installed; it ships the schema")
    path = Path(found.origin).parent / "builtin_schemas" / "vendor" / f"{name}.json"
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def workflow(name: str) -> dict[Any, Any]:
    text = (FILES / "ci" / name).read_text(encoding="utf-8")
    loaded: dict[Any, Any] = yaml.safe_load(text.replace("\non:", '\n"on":'))  # YAML 1.1 reads a bare on as true
    return loaded


@pytest.mark.parametrize(
    ("document", "schema"),
    [
        (COMPOSE, "compose-spec"),
        (workflow("github-plan.yml"), "github-workflows"),
        (workflow("github-rollout.yml"), "github-workflows"),
        (workflow("gitlab-ci.yml"), "gitlab-ci"),
    ],
    ids=["compose", "github plan", "github rollout", "gitlab"],
)
def test_a_file_is_valid_by_the_schema_of_its_kind(document: dict[Any, Any], schema: str) -> None:
    jsonschema.Draft7Validator(vendored(schema)).validate(document)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(vendored(schema)).validate({**document, "services": 7, "jobs": 7, "stages": 7})


# --- compose ---


@every_service
def test_what_a_service_refers_to_exists(name: str) -> None:
    service = SERVICES[name]
    assert set(service.get("secrets", [])) <= COMPOSE["secrets"].keys()
    assert set(service.get("networks", [])) <= COMPOSE["networks"].keys()
    for other, condition in service.get("depends_on", {}).items():
        wanted = condition["condition"]
        assert other in SERVICES
        assert wanted != "service_healthy" or "healthcheck" in SERVICES[other]
        assert wanted != "service_completed_successfully" or SERVICES[other]["restart"] == "on-failure"
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        assert source in COMPOSE["volumes"] or (COMPOSE_FILE.parent / source).is_file()
    given = re.findall(r"/run/secrets/(\w+)", json.dumps(service))
    assert set(given) <= set(service["secrets"]), "a secret is read that the service is not given"


def test_secrets_are_drawn_before_the_first_start(tmp_path: Path) -> None:
    script = tmp_path / "make-secrets"
    shutil.copy(FILES / "compose" / "make-secrets", script)
    subprocess.run([str(script)], check=True, capture_output=True)
    drawn = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "secrets").iterdir()}
    assert drawn.keys() == COMPOSE["secrets"].keys()
    assert drawn["postgres_password"] in drawn["ledger_database"]
    assert drawn["redis_password"] in drawn["redis_config"]
    assert (tmp_path / "secrets").stat().st_mode & 0o077 == 0
    subprocess.run([str(script)], check=True, capture_output=True)
    assert {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "secrets").iterdir()} == drawn


def test_a_secret_reaches_the_program_and_a_missing_one_is_said(tmp_path: Path) -> None:
    text = (FILES / "compose" / "with-secrets").read_text(encoding="utf-8").replace("/run/secrets", str(tmp_path))
    script = tmp_path / "with-secrets"
    script.write_text(text.replace(r"\/run\/secrets\/", str(tmp_path).replace("/", r"\/") + r"\/"), encoding="utf-8")
    (tmp_path / "login").write_text("a:b$c", encoding="utf-8")
    (tmp_path / "endpoint_keys").write_text("# ours\nOPENAI_API_KEY=sk=1\n", encoding="utf-8")
    show = [
        sys.executable,
        "-c",
        "import os; print(os.environ['LOGIN'], os.environ['OPENAI_API_KEY'], 'LOGIN_FILE' in os.environ)",
    ]
    environment = {"PATH": os.environ["PATH"], "LOGIN_FILE": str(tmp_path / "login")}
    done = subprocess.run(["sh", str(script), *show], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "a:b$c sk=1 False\n"
    environment["LOGIN_FILE"] = str(tmp_path / "none")
    done = subprocess.run(["sh", str(script), *show], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        1,
        f"error: {tmp_path}/none for LOGIN cannot be read; see docs/operations.md\n",
    )


@every_service
def test_a_service_is_held_to_what_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["user"].split(":")[0] not in {"0", "root"}
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] in {"unless-stopped", "on-failure"}
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    assert not service.get("privileged")


def test_ports_are_published_on_loopback_only() -> None:
    ports = {name: one["ports"] for name, one in SERVICES.items() if "ports" in one}
    assert ports.keys() == {"prefect", "mlflow", "node"}
    assert all(port.startswith("${DELIVERY_BIND:-127.0.0.1}:") for found in ports.values() for port in found)
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    assert all(SERVICES[name]["networks"] == ["inside"] for name in ("postgres", "redis"))


def test_what_compose_fills_in_has_an_example() -> None:
    example = (FILES / "compose" / ".env.example").read_text(encoding="utf-8")
    names = set(re.findall(r"\$\{(\w+)", COMPOSE_FILE.read_text(encoding="utf-8")))
    assert names == set(re.findall(r"^(\w+)=", example, re.MULTILINE))


@python_services
def test_the_command_of_a_service_is_one_that_exists(name: str) -> None:
    program = SERVICES[name]["command"][0]
    assert program in {"prefect", "mlflow", "delivery", "python", "sh"}
    if program == "python":
        assert find_spec(SERVICES[name]["command"][2]) is not None
    for path in re.findall(r"deployments/[\w./-]+", json.dumps(SERVICES[name]["command"])):
        assert (ROOT / path).exists()


def test_node_and_worker_share_loopback_and_state() -> None:
    node, worker = SERVICES["node"], SERVICES["worker"]
    assert worker["network_mode"] == "service:node"
    assert node["volumes"] == worker["volumes"] == ["state:/state"]
    assert node["environment"]["DELIVERY_DATA_URL"] == worker["environment"]["DELIVERY_DATA_URL"]


# --- names of settings, wherever they stand ---


def named_settings() -> Iterator[tuple[str, str]]:
    for path in sorted(FILES.rglob("*")):
        if path.suffix in {".yml", ".yaml", ".json", ".service", ".example"} or path.name in {
            "Dockerfile",
            "changed-releases",
        }:
            for name in re.findall(r"\b(?:DELIVERY|PREFECT|MLFLOW)_[A-Z0-9_]+\b", path.read_text(encoding="utf-8")):
                yield path.name, name


COMPOSE_ONLY = {"DELIVERY_IMAGE", "DELIVERY_BIND", "DELIVERY_PREFECT_UI_API_URL", "DELIVERY_MLFLOW_HOSTS"}
COMPOSE_ONLY |= {"DELIVERY_PREFECT_PORT", "DELIVERY_MLFLOW_PORT", "DELIVERY_DATA_PORT", "DELIVERY_RELEASES"}


def test_every_setting_that_is_named_is_one_that_is_read() -> None:
    unknown = {
        (file, name) for file, name in named_settings() if name.removesuffix("_FILE") not in KNOWN | COMPOSE_ONLY
    }
    assert unknown == set()
    assert "PREFECT_SERVER_API_AUTH_STRING" in KNOWN
    assert "PREFECT_SERVER_API_AUTH_STRINGS" not in KNOWN


@pytest.mark.skipif(find_spec("prefect_redis") is None, reason="prefect-redis is not installed")
def test_the_settings_of_redis_are_read_by_prefect_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect_redis.client import RedisMessagingSettings  # type: ignore[import-not-found, unused-ignore]
    from prefect_redis.messaging import RedisMessagingPublisherSettings  # type: ignore[import-not-found, unused-ignore]

    environment = SERVICES["prefect"]["environment"]
    given = environment["PREFECT_REDIS_MESSAGING_PUBLISHER_BATCH_SIZE"]
    monkeypatch.setenv("PREFECT_REDIS_MESSAGING_PUBLISHER_BATCH_SIZE", given)
    monkeypatch.setenv("PREFECT_REDIS_MESSAGING_URL", "redis://redis:6379/0")
    assert RedisMessagingPublisherSettings().batch_size == 1
    assert RedisMessagingSettings().url == "redis://redis:6379/0"
    for name in ("PREFECT_MESSAGING_BROKER", "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING"):
        assert find_spec(environment[name]) is not None


# --- Kubernetes ---


@pytest.mark.parametrize("one", OBJECTS, ids=lambda one: f"{one['kind']} {one['metadata']['name']}")
def test_an_object_is_valid_strictly(one: dict[str, Any]) -> None:
    kubernetes_validate.validate(one, "1.32", strict=True)


def pods() -> list[dict[str, Any]]:
    return [one["spec"]["template"]["spec"] for one in OBJECTS if one["kind"] in {"Deployment", "Job"}]


def test_every_container_runs_under_the_restricted_profile_and_with_limits() -> None:
    for pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in (*pod["containers"], *pod.get("initContainers", [])):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"].keys() == {"requests", "limits"}
    assert len(pods()) == 5


def test_every_server_has_probes_and_a_disruption_budget() -> None:
    kept = {one["metadata"]["name"] for one in OBJECTS if one["kind"] == "PodDisruptionBudget"}
    for one in OBJECTS:
        if one["kind"] == "Deployment" and one["spec"]["replicas"] > 1:
            (container,) = one["spec"]["template"]["spec"]["containers"]
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()
            assert one["metadata"]["name"] in kept


def test_secrets_are_referred_to_and_never_written_down() -> None:
    assert not [one for one in OBJECTS if one["kind"] == "Secret"]
    text = "".join(path.read_text(encoding="utf-8") for path in (FILES / "kubernetes").glob("*.yaml"))
    named = set(re.findall(r"(?:secretRef: \{name: |secretName: )([\w-]+)", text))
    explained = set(re.findall(r"^#   (delivery-\w+) ", text, re.MULTILINE))
    assert named == explained - {"delivery-endpoints"}


def test_only_who_needs_the_api_has_an_account_and_it_allows_what_the_driver_does() -> None:
    with_account = [pod["serviceAccountName"] for pod in pods() if pod["automountServiceAccountToken"]]
    assert with_account == ["delivery-worker"]
    roles = {one["metadata"]["name"]: one["rules"] for one in OBJECTS if one["kind"] == "Role"}
    flow = {resource: rule["verbs"] for rule in roles["delivery-flow"] for resource in rule["resources"]}
    said = (ROOT / "docs" / "drivers.md").read_text(encoding="utf-8").replace("\n", " ")
    found = re.search(r"It needs (.*?) of its namespace", said)
    assert found is not None
    words = re.findall(r"`(\w+)`", found[1])
    verbs = ["get", "list", "create", "patch", "delete"]
    assert words[:5] == verbs
    assert set(words[5:]) == flow.keys()
    assert all(given == verbs for given in flow.values())
    assert not [
        rule for rules in roles.values() for rule in rules if "secrets" in rule["resources"] or "*" in str(rule)
    ]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kustomize_puts_them_together() -> None:
    done = subprocess.run(
        ["kubectl", "kustomize", str(FILES / "kubernetes")], capture_output=True, text=True, check=True
    )
    built = list(yaml.safe_load_all(done.stdout))
    assert len(built) == len(OBJECTS)
    assert "image: registry.example/llm-delivery:0.1.0" in done.stdout
    assert {one["metadata"].get("namespace") for one in built if one["kind"] != "Namespace"} == {"llm-delivery"}


# --- work pools, systemd, pipelines ---


@pytest.mark.parametrize("kind", ["process", "docker", "kubernetes"])
def test_a_pool_template_is_one_prefect_takes(kind: str) -> None:
    template = json.loads((FILES / "pools" / f"{kind}.json").read_text(encoding="utf-8"))
    WorkPoolCreate(name="pool", type=kind, base_job_template=template)
    environment = template["variables"]["properties"]["env"]["default"]
    assert environment["DO_NOT_TRACK"] == "1"
    assert not [value for value in environment.values() if "password" in value and "prefect.blocks.secret" not in value]
    if kind == "kubernetes":
        job = template["job_configuration"]["job_manifest"]
        names = {one["metadata"]["name"] for one in OBJECTS}
        assert template["variables"]["properties"]["service_account_name"]["default"] in names
        assert job["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"] is True


UNITS = sorted((FILES / "systemd").iterdir())


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_understands_the_units(tmp_path: Path) -> None:
    for unit in UNITS:
        text = unit.read_text(encoding="utf-8").replace("/opt/llm-delivery/.venv/bin/delivery", "/bin/true")
        (tmp_path / unit.name).write_text(text, encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *sorted(map(str, tmp_path.iterdir()))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert [line for line in done.stderr.splitlines() if "llm-delivery" in line] == []


def test_units_run_as_their_own_user_and_see_little() -> None:
    services = [unit for unit in UNITS if unit.suffix == ".service"]
    assert [unit.name for unit in services] == [
        *("llm-delivery-backup.service", "llm-delivery-health.service", "llm-delivery-node.service"),
        "llm-delivery.service",
    ]
    for unit in services:
        lines = set(unit.read_text(encoding="utf-8").splitlines())
        assert {"User=llm-delivery", "NoNewPrivileges=yes", "ProtectSystem=strict", "UMask=0077"} <= lines


def test_the_commands_that_are_called_exist() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in (*UNITS, COMPOSE_FILE, *(FILES / "ci").iterdir()))
    called = set(re.findall(r"(?:bin/|^\s+)delivery (\w+)", text, re.MULTILINE)) - {"what"}
    assert called == {"up", "node", "health", "backup", "migrate"}
    assert all(callable(getattr(operations, name)) for name in called - {"up", "node"})


def pipeline(tmp_path: Path, what: str, codes: dict[str, int]) -> subprocess.CompletedProcess[str]:
    """Run ``changed-releases`` in a repository of its own, with a ``delivery`` that ends as told."""
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", "-C", str(tmp_path)]
    (tmp_path / "releases").mkdir()
    (tmp_path / "bin").mkdir()
    cases = "".join(f"releases/{name}.yaml) exit {code};;\n" for name, code in codes.items())
    delivery = tmp_path / "bin" / "delivery"
    delivery.write_text(f'#!/bin/sh\necho "$1 $2"\ncase "$2" in\n{cases}esac\n', encoding="utf-8")
    delivery.chmod(0o755)
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "one"]):
        subprocess.run([*git, *command], check=True, capture_output=True)
    for name in codes:
        (tmp_path / "releases" / f"{name}.yaml").write_text("x", encoding="utf-8")
    for command in (["add", "releases"], ["commit", "-q", "-m", "two", "--allow-empty"]):
        subprocess.run([*git, *command], check=True, capture_output=True)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "DELIVERY_SUMMARY": "summary.md"}
    script = [str(FILES / "ci" / "changed-releases"), what, "HEAD^", "HEAD"]
    return subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("code", [0, 1, 3, 4, 5, 6])
def test_a_pipeline_ends_with_the_code_of_the_rollout(tmp_path: Path, code: int) -> None:
    done = pipeline(tmp_path, "rollout", {"a": 0, "b": code, "c": 0})
    assert done.returncode == code
    ran = ["rollout releases/a.yaml", "rollout releases/b.yaml", "rollout releases/c.yaml"]
    assert done.stdout.splitlines() == (ran if code == 0 else ran[:2])
    assert f"`releases/b.yaml`: exit {code}" in (tmp_path / "summary.md").read_text(encoding="utf-8")


def test_a_plan_looks_at_every_file(tmp_path: Path) -> None:
    done = pipeline(tmp_path, "plan", {"a": 1, "b": 0})
    assert (done.returncode, done.stdout.splitlines()) == (1, ["plan releases/a.yaml", "plan releases/b.yaml"])


def test_a_pipeline_with_no_release_changed_does_nothing(tmp_path: Path) -> None:
    done = pipeline(tmp_path, "rollout", {})
    assert (done.returncode, done.stdout) == (0, "no release file changed in releases/\n")
