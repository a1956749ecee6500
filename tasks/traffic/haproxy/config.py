"""The configuration of HAProxy as data path, rendered from what is served.

One backend a release, with one server for every replica there may be, and one map an application:
bucket → ``digest12:revision``. The frontend draws the bucket the same way ``plan.bucket_of`` does, and sets every
header that says who answers whom itself: what a client sends under those names is thrown away.

Behind a release's own servers stand those of its standbys: releases that are proven and answer once none of its own
does. Their health and whether they are switched on is that of their own backends, so nobody is checked twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
  default-server inter 1s fastinter 200ms fall 2 rise 1 maxconn {max_calls}
"""
_SEVERAL = """\
  balance leastconn
  # A replica that is gone costs its callers no wait: the first retry goes to another one.
  option redispatch 1
"""
_STANDBYS = """\
  # The request that meets a server which is gone waits as long as a connection may take, then a standby answers it.
  timeout connect 500ms
  retries 3
"""
_ALL_AT_ONCE = "  option allbackups\n"
_SERVER = "  server {name} 127.0.0.1:{port} check{watch}{disabled}\n"
_WATCH = " observe layer4 error-limit 1 on-error mark-down"
_STANDBY = "  server {name} 127.0.0.1:{port} track r-{short}/{slot} backup\n"


def map_name(application: str) -> str:
    """Return the file name of an application's map."""
    return f"buckets-{application}.map"


def map_rows(plan: Plan) -> list[str]:
    """Return the rows of a plan's map, one a bucket."""
    return [f"{bucket} {digest[:12]}:{plan.revision}" for bucket, digest in enumerate(plan.buckets)]


def render(
    bind: str,
    token: str,
    applications: Sequence[str],
    servers: Sequence[Server],
    proven: Mapping[str, Sequence[str]],
) -> str:
    """Return the configuration.

    Args:
        bind: ``host:port`` the data path listens on.
        token: What a probe must know so that its requests count as nobody's.
        applications: Those that have a map file.
        servers: The release servers to route to.
        proven: Of an application the releases that may stand in for another one, the best first.
    """
    head = _HEAD.format(bind=bind, buckets=BUCKETS, longest=LONGEST_UNIT_BYTES)
    lookups = "".join(_LOOKUP.format(map=map_name(name), name=name) for name in applications)
    backends = (_backend(one, standbys_of(one, servers, proven.get(one.application, ()))) for one in servers)
    return head + lookups + _TAIL.format(token=token) + "".join(backends)


def slot_name(number: int) -> str:
    """Return what the server of a replica is called in its backend; replicas count from 0."""
    return f"s{number + 1}"


def standbys_of(server: Server, servers: Sequence[Server], proven: Sequence[str]) -> tuple[Server, ...]:
    """Return the releases that answer in place of one whose own servers are all gone, the best first.

    Args:
        server: The release.
        servers: All that run, of whatever application.
        proven: Digests that may answer for its application, the best first.
    """
    others = {one.digest: one for one in servers if one.application == server.application and one != server}
    return tuple(others[digest] for digest in dict.fromkeys(proven) if digest in others)


def _backend(server: Server, standbys: Sequence[Server]) -> str:
    """Return a backend; a replica that gets no calls yet stands in it switched off, so that none needs a reload."""
    head = _BACKEND.format(short=server.short, digest=server.digest, max_calls=MAX_CALLS)
    slots = (
        _SERVER.format(
            name=slot_name(number),
            port=port,
            watch=_WATCH if standbys else "",
            disabled="" if number < server.serving else " disabled",
        )
        for number, port in enumerate(server.ports)
    )
    several = _SEVERAL if standbys or len(server.ports) > 1 else ""
    return head + several + _behind(standbys) + "".join(slots) + _standby_slots(standbys)


def _behind(standbys: Sequence[Server]) -> str:
    """Return how standbys are used: one with all its replicas; of several the first that is up, for order counts."""
    if not standbys:
        return ""
    return _STANDBYS + (_ALL_AT_ONCE if len(standbys) == 1 else "")


def _standby_slots(standbys: Sequence[Server]) -> str:
    slots = [(one.short, number, port) for one in standbys for number, port in enumerate(one.ports)]
    return "".join(
        _STANDBY.format(name=f"b{place}", port=port, short=short, slot=slot_name(number))
        for place, (short, number, port) in enumerate(slots, start=1)
    )
