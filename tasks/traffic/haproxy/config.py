"""The configuration of HAProxy as data path, rendered from what is served.

One backend a release, with one server for every replica there may be, and one map an application:
bucket → ``digest12:revision``. The frontend draws the bucket the same way ``plan.bucket_of`` does, and sets every
header that says who answers whom itself: what a client sends under those names is thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence

from tasks.traffic.plan import BUCKETS, Plan
from tasks.traffic.servers import Server

LONGEST_UNIT_BYTES = 200
"""Longer names of users and sessions are refused; the interaction log takes no longer ones either."""
MAX_CALLS = 1000
"""So many calls at once a release server may have; as many as it opens to its endpoint. More wait in the queue."""
_HEAD = """\
# Written by the HAProxy driver; edits are lost at the next release.
global
  stats socket unix@admin.sock mode 600 level admin expose-fd listeners
  maxconn 4096
  hard-stop-after 60s

defaults
  mode http
  timeout connect 2s
  timeout client 60s
  timeout server 600s
  # Who waits for a free replica waits as long as he would for its answer.
  timeout queue 600s
  timeout http-request 10s
  retries 2
  retry-on conn-failure
  option redispatch
  # A caller who left is not waited for, so that a release that hangs is seen by those who gave it up.
  option abortonclose
  # A reload must not close an idle connection while a request is on its way to it.
  option idle-close-on-response
  option http-ignore-probes

frontend data
  bind {bind}
  http-request return status 200 content-type text/plain string ok if {{ path /health }}
  http-request set-var(txn.application) path,field(2,/)
  http-request return status 400 content-type application/json lf-string '{{"error":{{"message":"X-User-Id and \
X-Session-Id have at most {longest} bytes","type":"invalid_request_error"}}}}' \
if {{ req.fhdr(X-User-Id) -m len gt {longest} }} or {{ req.fhdr(X-Session-Id) -m len gt {longest} }}
  http-request set-var(txn.id) uuid()
  http-request set-var(txn.unit) var(txn.id)
  http-request set-var(txn.unit_kind) str(request)
  # fhdr takes the whole header: a name may hold a comma. An empty one is as good as none.
  http-request set-var(txn.unit) req.fhdr(X-Session-Id) if {{ req.fhdr(X-Session-Id) -m len gt 0 }}
  http-request set-var(txn.unit_kind) str(session) if {{ req.fhdr(X-Session-Id) -m len gt 0 }}
  http-request set-var(txn.unit) req.fhdr(X-User-Id) if {{ req.fhdr(X-User-Id) -m len gt 0 }}
  http-request set-var(txn.unit_kind) str(user) if {{ req.fhdr(X-User-Id) -m len gt 0 }}
  http-request set-var(txn.bucket) var(txn.application),concat(:,txn.unit),xxh32,mod({buckets})
"""
_LOOKUP = (
    "  http-request set-var(txn.assigned) var(txn.bucket),map_str({map}) if {{ var(txn.application) -m str {name} }}\n"
)
_TAIL = """\
  http-request return status 404 content-type application/json lf-string '{{"error":{{"message":"there is no \
application of this name here; the path is /<application>/v1/chat/completions","type":"not_found"}}}}' \
unless {{ var(txn.assigned) -m found }}
  http-request set-var(txn.release) var(txn.assigned),field(1,:)
  http-request set-var(txn.revision) var(txn.assigned),field(2,:)
  http-request del-header X-Purpose unless {{ req.hdr(X-Probe-Token) -m str {token} }}
  http-request del-header X-Probe-Token
  http-request set-header X-Request-Id %[var(txn.id)]
  http-request set-header X-Unit %[var(txn.unit)]
  http-request set-header X-Unit-Kind %[var(txn.unit_kind)]
  http-request set-header X-Bucket %[var(txn.bucket)]
  http-request set-header X-Plan-Revision %[var(txn.revision)]
  http-request replace-path /[^/]+/?(.*) /\\1
  http-response set-header X-Request-Id %[var(txn.id)]
  http-response set-header X-Bucket %[var(txn.bucket)]
  http-response set-header X-Plan-Revision %[var(txn.revision)]
  use_backend r-%[var(txn.release)]
"""
_BACKEND = """
backend r-{short}
  # The answer must name the release: on this port could be anybody.
  option httpchk GET /release
  http-check expect string {digest}
  # Who is gone refuses at once; who is only busy may take its time, and its users wait rather than be refused.
  timeout check 5s
  default-server inter 1s fall 2 rise 1 maxconn {max_calls}
"""
_SEVERAL = """\
  balance leastconn
  # A replica that is gone costs its callers no wait: the first retry goes to another one.
  option redispatch 1
"""
_SERVER = "  server {name} 127.0.0.1:{port} check{disabled}\n"


def map_name(application: str) -> str:
    """Return the file name of an application's map."""
    return f"buckets-{application}.map"


def map_rows(plan: Plan) -> list[str]:
    """Return the rows of a plan's map, one a bucket."""
    return [f"{bucket} {digest[:12]}:{plan.revision}" for bucket, digest in enumerate(plan.buckets)]


def render(bind: str, token: str, applications: Sequence[str], servers: Sequence[Server]) -> str:
    """Return the configuration.

    Args:
        bind: ``host:port`` the data path listens on.
        token: What a probe must know so that its requests count as nobody's.
        applications: Those that have a map file.
        servers: The release servers to route to.
    """
    head = _HEAD.format(bind=bind, buckets=BUCKETS, longest=LONGEST_UNIT_BYTES)
    lookups = "".join(_LOOKUP.format(map=map_name(name), name=name) for name in applications)
    return head + lookups + _TAIL.format(token=token) + "".join(_backend(server) for server in servers)


def slot_name(number: int) -> str:
    """Return what the server of a replica is called in its backend; replicas count from 0."""
    return f"s{number + 1}"


def _backend(server: Server) -> str:
    """Return a backend; a replica that gets no calls yet stands in it switched off, so that none needs a reload."""
    slots = (
        _SERVER.format(name=slot_name(number), port=port, disabled="" if number < server.serving else " disabled")
        for number, port in enumerate(server.ports)
    )
    head = _BACKEND.format(short=server.short, digest=server.digest, max_calls=MAX_CALLS)
    return head + (_SEVERAL if len(server.ports) > 1 else "") + "".join(slots)
