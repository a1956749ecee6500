"""A small API server on loopback: what the drivers use of Kubernetes, and a data path that follows what it is told.

It takes only server-side apply by the field manager ``delivery`` with strict fields, and creation; it knows resource
versions and generations, takes away what the manager no longer applies, keeps what others wrote, and judges every
body by the real schemas. Its controllers act when an object is read, ``lag`` readings later; its proxies
follow ``slow`` requests of users after a write.
"""

from __future__ import annotations

import copy
import json
import random
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml
from kubernetes_schemas import RefusedError, check

Document = dict[str, Any]
APPLY = "application/apply-patch+yaml"
PLACE = re.compile(r"/(?:api/v1|apis/[^/]+/[^/]+)/namespaces/models/([a-z]+)(?:/([a-z0-9-]+))?$")
PROXY = re.compile(r"/api/v1/namespaces/models/services/([a-z0-9-]+):(\d+)/proxy(/.*)")


@dataclass
class Fake:
    """The state of the cluster, and what may go wrong with it."""

    objects: dict[tuple[str, str], Document] = field(default_factory=dict)
    applied: dict[tuple[str, str], Document] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    version: int = 0
    lag: int = 0
    slow: int = 0
    stuck: bool = False
    refuses: str = ""
    between: Callable[[], object] | None = None
    fails: Callable[[str, str], bool] = lambda _method, _path: False
    draw: random.Random = field(default_factory=lambda: random.Random(1))
    url: str = ""
    _waits: dict[tuple[str, str], int] = field(default_factory=dict)
    _before: dict[tuple[str, str], Document] = field(default_factory=dict)
    _behind: int = 0

    def write(self, place: tuple[str, str], document: Document) -> Document:
        """Store an object under the next version; a new spec is a new generation."""
        self.version += 1
        old = self.objects.get(place)
        meta = document["metadata"]
        meta["resourceVersion"] = str(self.version)
        changed = old is None or old["spec"] != document["spec"]
        meta["generation"] = (old["metadata"]["generation"] if old else 0) + changed
        self.objects[place] = document
        if changed and old is not None and place[0] != "deployments":
            self._before[place], self._behind = old, self.slow
        if changed:
            self._waits[place] = self.lag
        return document

    def apply(self, place: tuple[str, str], sent: Document) -> Document:
        """Server-side apply by the one manager there is; ``KeyError`` where the version is an older one."""
        old = copy.deepcopy(self.objects.get(place))
        wanted = sent["metadata"].pop("resourceVersion", None)
        if wanted is not None and (old is None or old["metadata"]["resourceVersion"] != wanted):
            raise KeyError(place)
        new = _merged(_without(old or {}, self.applied.get(place, {})), sent)
        self.applied[place] = copy.deepcopy(sent)
        if old is not None and {**old, "status": 0} == {**new, "status": 0}:
            return old  # nothing changed, so no new version
        return self.write(place, new)

    def act(self, place: tuple[str, str]) -> None:
        """Do what a controller does."""
        found = self.objects.get(place)
        if found is None or self._waits.get(place, -1) < 0:
            return
        self._waits[place] -= 1
        if self._waits[place] < 0:
            {"deployments": self._run, "httproutes": self._take, "inferenceservices": self._serve}.get(
                place[0], lambda _: None
            )(found)
            self.version += 1
            found["metadata"]["resourceVersion"] = str(self.version)

    def _run(self, found: Document) -> None:
        count = 0 if self.stuck else found["spec"].get("replicas", 1)
        found["status"] = {"observedGeneration": found["metadata"]["generation"], "updatedReplicas": count or 1}
        if count:
            found["status"]["availableReplicas"] = count
        else:
            message = "Deployment does not have minimum availability."
            found["status"]["conditions"] = [{"type": "Available", "status": "False", "message": message}]

    def _take(self, found: Document) -> None:
        state = (
            {"status": "False", "reason": self.refuses} if self.refuses else {"status": "True", "reason": "Accepted"}
        )
        state["observedGeneration"] = found["metadata"]["generation"]
        parents = [
            {"parentRef": ref, "conditions": [{"type": kind, **state} for kind in ("Accepted", "ResolvedRefs")]}
            for ref in found["spec"].get("parentRefs", [])
        ]
        found["status"] = {"parents": parents}

    def _serve(self, found: Document) -> None:
        name, spec = found["metadata"]["name"], found["spec"]
        if "name" not in spec["predictor"]:
            return
        canaries = spec.get("canary", [])
        wanted = {
            f"{name}-{item['name']}-predictor": item
            for item in (spec["predictor"], *(c["predictor"] for c in canaries))
        }
        for key in [key for key in self.objects if key[0] == "deployments" and key[1].startswith(f"{name}-r-")]:
            if key[1] not in wanted:
                del self.objects[key]
        for made_name, item in wanted.items():
            if ("deployments", made_name) not in self.objects:
                made = {
                    "metadata": {"name": made_name, "annotations": item["annotations"]},
                    "spec": {"replicas": item["minReplicas"]},
                }
                self.write(("deployments", made_name), made)
        states = [
            {"name": item["predictor"]["name"], "trafficPercent": item["trafficPercent"], "ready": not self.stuck}
            for item in canaries
        ]
        found["status"] = {"url": f"{self.url}/isvc/{name}", "canaryStatuses": states}

    def digest(self, backend: str) -> str:
        """Return the release behind a Service, empty where nobody is."""
        found = self.objects.get(("deployments", backend))
        ready = found is not None and (found.get("status") or {}).get("availableReplicas")
        return found["metadata"]["annotations"]["delivery/release-digest"] if found is not None and ready else ""

    def backend(self, path: str, headers: dict[str, str]) -> tuple[str, dict[str, str], dict[str, str]]:
        """Return who is drawn for a user's request, the headers that the release gets, and those of the answer."""
        self._behind -= 1
        known = {**self.objects, **self._before} if self._behind >= 0 else self.objects
        if path.startswith("/isvc/"):
            found = known["inferenceservices", path.split("/")[2]]
            canaries = found["spec"].get("canary", [])
            weights = {item["predictor"]["name"]: item["trafficPercent"] for item in canaries}
            weights[found["spec"]["predictor"]["name"]] = 100 - sum(weights.values())
            name = self.draw.choices(list(weights), list(weights.values()))[0]
            return f"{found['metadata']['name']}-{name}-predictor", headers, {}
        routes = [found["spec"] for (plural, _), found in known.items() if plural == "httproutes"]
        rules = [rule for spec in routes for rule in spec.get("rules", [])]
        fits = [rule for rule in rules if _matches(rule["matches"][0], path, headers)]
        if not fits:
            return "", headers, {}
        rule = max(fits, key=lambda rule: len(rule["matches"][0].get("headers", [])))
        filters = {
            item["type"]: next(value for key, value in item.items() if key != "type") for item in rule["filters"]
        }
        gone = {name.lower() for name in filters["RequestHeaderModifier"]["remove"]}
        kept = {name: value for name, value in headers.items() if name not in gone}
        kept |= {item["name"].lower(): item["value"] for item in filters["RequestHeaderModifier"]["set"]}
        answered = {item["name"]: item["value"] for item in filters["ResponseHeaderModifier"]["set"]}
        refs = rule["backendRefs"]
        return self.draw.choices([ref["name"] for ref in refs], [ref["weight"] for ref in refs])[0], kept, answered


def _matches(match: Document, path: str, headers: dict[str, str]) -> bool:
    wanted = {item["name"].lower(): item["value"] for item in match.get("headers", [])}
    return path.startswith(f"{match['path']['value']}/") and all(headers.get(key) == wanted[key] for key in wanted)


def _without(old: Document, applied: Document) -> Document:
    made = {}
    for key, value in old.items():
        if key not in applied:
            made[key] = value
        elif isinstance(value, dict) and isinstance(applied[key], dict):
            left = _without(value, applied[key])
            if left:
                made[key] = left
    return made


def _merged(old: Document, sent: Document) -> Document:
    made = dict(old)
    for key, value in sent.items():
        both = isinstance(value, dict) and isinstance(made.get(key), dict)
        made[key] = _merged(made[key], value) if both else copy.deepcopy(value)
    return made


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    fake: Fake
    lock = threading.RLock()

    def _any(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body, parts = self.rfile.read(length), urlsplit(self.path)
        with self.lock:
            self.fake.calls.append(f"{self.command} {parts.path}")
            try:
                self._answer(parts.path, {key: values[0] for key, values in parse_qs(parts.query).items()}, body)
            except RefusedError as error:
                self._status(400, str(error))

    def do_GET(self) -> None:
        self._any()

    def do_POST(self) -> None:
        self._any()

    def do_PATCH(self) -> None:
        self._any()

    def do_DELETE(self) -> None:
        self._any()

    def _answer(self, path: str, query: dict[str, str], body: bytes) -> None:
        place = PLACE.match(path)
        if self.fake.fails(self.command, path):
            self._status(500, "etcd is away")
        elif place is None:
            self._chat(path)
        elif self.command == "GET":
            self._read(place[1], place[2], query)
        elif self.command == "PATCH":
            self._apply((place[1], place[2]), query, json.loads(body))
        elif self.command == "POST":
            self._create(place[1], query, json.loads(body))
        else:
            self._delete((place[1], place[2]))

    def _delete(self, place: tuple[str, str]) -> None:
        found = self.fake.objects.pop(place, None)
        self.fake.applied.pop(place, None)
        if found is None:
            self._status(404, "not found")
        else:  # of a Service the API server returns the Service itself
            self._send(200, found if place[0] == "services" else {"kind": "Status", "status": "Success"})

    def _read(self, plural: str, name: str | None, query: dict[str, str]) -> None:
        for key in list(self.fake.objects):
            if plural in (key[0], "deployments") or name is None:
                self.fake.act(key)
        if name is not None:
            found = self.fake.objects.get((plural, name))
            if found is None:
                self._status(404, "not found")
            else:
                self._send(200, found)
            return
        wanted = dict(item.split("=") for item in query["labelSelector"].split(","))
        every = [found for key, found in self.fake.objects.items() if key[0] == plural]
        items = [one for one in every if wanted.items() <= one["metadata"].get("labels", {}).items()]
        self._send(200, {"items": items})

    def _apply(self, place: tuple[str, str], query: dict[str, str], sent: Document) -> None:
        if self.headers["Content-Type"] != APPLY:
            raise RefusedError(f"content type {self.headers['Content-Type']}")
        if query != {"fieldManager": "delivery", "fieldValidation": "Strict", "force": "true"}:
            raise RefusedError(f"query {query}")
        if sent["metadata"]["name"] != place[1] or sent["metadata"]["namespace"] != "models":
            raise RefusedError("name or namespace do not agree with the path")
        check(sent)
        if self.fake.between is not None:
            hook, self.fake.between = self.fake.between, None
            hook()
        try:
            self._send(200, self.fake.apply(place, sent))
        except KeyError:
            self._status(409, "the object has been modified")

    def _create(self, plural: str, query: dict[str, str], sent: Document) -> None:
        if query != {"fieldManager": "delivery-create", "fieldValidation": "Strict"}:
            raise RefusedError(f"query {query}")
        check(sent)
        place = (plural, sent["metadata"]["name"])
        if place in self.fake.objects:
            self._status(409, "already exists")
        else:
            self._send(201, self.fake.write(place, sent))

    def _chat(self, path: str) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        proxied = PROXY.match(path)
        backend, kept, answered = (proxied[1], headers, {}) if proxied else self.fake.backend(path, headers)
        for key in [key for key in self.fake.objects if key[0] == "deployments"]:
            self.fake.act(key)
        digest = self.fake.digest(backend)
        if not digest:
            self._status(503, "no endpoints available")
        else:
            self._send(
                200, {"choices": [{"message": {"content": json.dumps(kept)}}]}, {**answered, "X-Release": digest}
            )

    def _status(self, status: int, message: str) -> None:
        self._send(status, {"kind": "Status", "status": "Failure", "message": message, "code": status})

    def _send(self, status: int, document: object, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[Fake]:
    """Yield a cluster that listens, and write the file that leads to it as ``folder/kubeconfig``."""
    fake = Fake()
    handler = type("Handler", (_Handler,), {"fake": fake})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "fake",
        "clusters": [{"name": "fake", "cluster": {"server": fake.url}}],
        "users": [{"name": "fake", "user": {}}],
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
    }
    (folder / "kubeconfig").write_text(yaml.safe_dump(config), encoding="utf-8")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
