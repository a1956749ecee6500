"""Lines for a receiver elsewhere: first onto the disk, then sent, and kept until the receiver has them."""

from __future__ import annotations

import errno
import fcntl
import itertools
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tasks.tracking.spool import Kind, Line, append_lines

if TYPE_CHECKING:
    import httpx

MAX_POST_BYTES: Final = 4 * 2**20
MAX_OUTBOX_BYTES: Final = 2**30
"""So much waits on the disk of the application while its receiver is away; then the folder counts as a full disk."""
_MEASURE_S: Final = 1.0
_LONGEST_WAIT_S: Final = 30.0
_FIRST_WAIT_S: Final = 0.5
_TIMEOUT_S: Final = 10.0
_REFUSED: Final = (400, 413, 415, 422)
"""Statuses that say the same again whenever they are asked."""
_NOT_FOUND: Final = 404
_KINDS: Final = (".interactions", ".feedback", ".breaches")
_LOGGER = logging.getLogger("tasks.tracking")


class Outbox:
    """Keeps each batch as a file of its own and sends them, oldest first, until they are taken.

    A batch is sent again where no answer came, so a receiver may see a line twice; its id tells. What a receiver
    refuses for good is moved to ``refused/``. Several processes may share a folder: one of them sends at a time, and
    what a killed one left is sent by the next.

    Args:
        folder: Where batches wait.
        url: The receiver, for example ``http://127.0.0.1:4318``.
        token: Its token; None where it asks for none.
        clock: Returns the time now.
        max_bytes: Most bytes that wait or were refused; beyond it nothing is kept, as on a full disk. The folder is
            measured once a second, so that a burst may exceed it by what comes in one.
    """

    _thread: threading.Thread | None
    _client: httpx.Client | None

    def __init__(
        self,
        folder: Path,
        url: str,
        token: str | None,
        clock: Callable[[], datetime],
        max_bytes: int = MAX_OUTBOX_BYTES,
    ) -> None:
        self._folder = folder
        self._url = url.rstrip("/")
        self._headers = {"Content-Type": "application/x-ndjson"} | (
            {"Authorization": f"Bearer {token}"} if token else {}
        )
        self._clock = clock
        self._max_bytes = max_bytes
        self.renew()

    def renew(self) -> None:
        """Begin anew in a process that was forked off."""
        # Nobody else's, whatever the clock says: what is sent is removed, and must not be written to again.
        self._name = f"{self._clock().astimezone(UTC):%Y%m%dT%H%M%S%fZ}-{uuid.uuid4().hex}"
        self._numbers = itertools.count()
        self._wake = threading.Event()
        self._ended = threading.Event()
        self._thread = None
        self._client = None
        self._said: set[str] = set()
        self._measured_s, self._is_full = -_MEASURE_S, False

    def store(self, lines: Sequence[Line]) -> tuple[list[Line], OSError | None]:
        """Keep lines on the disk, in files small enough to be sent; return those that are not, and why."""
        left: list[Line] = []
        problem = self._lack_of_room()
        if problem is not None:
            self._wake.set()
            return list(lines), problem
        for kind, batch in _batches(lines):
            path = self._folder / f"{self._name}-{next(self._numbers):06d}.{kind}"
            appended = append_lines(path, [line.content for line in batch])
            left += batch[appended.stored :]
            problem = appended.problem or problem
        self._start()
        self._wake.set()
        return left, problem

    def end_half_lines(self) -> int:
        """Begin to send what other processes left; the receiver is told half a line as it is."""
        self._start()
        self._wake.set()
        return 0

    def send(self) -> bool:
        """Send what waits, and return whether nothing waits any more."""
        import httpx

        with self._only_sender() as is_mine:
            if not is_mine:
                return False
            if self._client is None:
                # Kept, and without certificates where they are not needed: to load them takes 20 ms.
                verifies = not self._url.startswith("http://")
                self._client = httpx.Client(timeout=_TIMEOUT_S, trust_env=False, verify=verifies, headers=self._headers)
            return self._send_all(self._client)

    def close(self) -> bool:
        """End the thread, send once more, and return whether nothing waits; what does, the next process sends."""
        thread, self._thread = self._thread, None
        self._ended.set()
        self._wake.set()
        if thread is not None:
            thread.join(timeout=_TIMEOUT_S)
        is_idle = thread is None or not thread.is_alive()
        is_sent = is_idle and self.send()
        if is_idle and self._client is not None:
            self._client.close()
            self._client = None
        if not is_sent:
            self._warn("waiting", f"calls wait in {self._folder} for the receiver; the next process sends them")
        return is_sent

    def _send_all(self, client: httpx.Client) -> bool:
        while waiting := self._waiting():
            for path in waiting:
                if not self._send(client, path):
                    return False
        return True

    def _send(self, client: httpx.Client, path: Path) -> bool:
        import httpx

        try:
            if (content := _read_whole(path)) is None:
                return False
            answer = client.post(f"{self._url}/v1/{path.suffix.removeprefix('.')}", content=content)
        except (httpx.HTTPError, OSError) as error:
            self._warn(
                type(error).__name__, f"the receiver cannot be reached and is tried again: {type(error).__name__}"
            )
            return False
        if answer.is_success:
            path.unlink(missing_ok=True)
            return True
        # A receiver from before there were breaches does not know their path; calls must not wait behind them.
        is_older = answer.status_code == _NOT_FOUND and path.suffix == ".breaches"
        if answer.status_code in _REFUSED or is_older:
            refused = self._folder / "refused"
            refused.mkdir(exist_ok=True, mode=0o700)
            path.rename(refused / path.name)
            self._warn("refused", f"the receiver refused a batch with status {answer.status_code}; it is in {refused}")
            return True
        self._warn(str(answer.status_code), f"the receiver answers {answer.status_code} and is tried again")
        return False

    def _lack_of_room(self) -> OSError | None:
        if time.monotonic() - self._measured_s >= _MEASURE_S:
            files = (path for path in self._folder.rglob("*") if path.suffix in _KINDS)
            self._is_full = sum(_size_of(path) for path in files) >= self._max_bytes
            self._measured_s = time.monotonic()
        if not self._is_full:
            return None
        what = f"{self._max_bytes} bytes wait for the receiver {self._url}"
        return OSError(errno.EDQUOT, what, str(self._folder))

    def _waiting(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("*") if path.suffix in _KINDS and path.stat().st_size)

    @contextmanager
    def _only_sender(self) -> Iterator[bool]:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self._folder / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield False
                return
            yield True

    def _start(self) -> None:
        if self._thread is None:
            self._ended = threading.Event()
            self._thread = threading.Thread(target=self._run, args=(self._ended,), name="outbox", daemon=True)
            self._thread.start()

    def _run(self, ended: threading.Event) -> None:
        wait_s = _FIRST_WAIT_S
        while not ended.is_set():
            self._wake.wait()
            self._wake.clear()
            try:
                is_sent = self.send()
            except OSError as error:
                self._warn("disk", f"the outbox cannot be read and is tried again: {error.strerror}")
                is_sent = False
            if is_sent:
                wait_s = _FIRST_WAIT_S
            else:
                ended.wait(wait_s)
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
                self._wake.set()

    def _warn(self, kind: str, text: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            _LOGGER.warning("%s (said once)", text)


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0  # sent meanwhile


def _read_whole(path: Path) -> bytes | None:
    """Return a batch; None while it is being written."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return None
        return file.read()


def _batches(lines: Sequence[Line]) -> Iterator[tuple[Kind, list[Line]]]:
    for kind in ("interactions", "feedback", "breaches"):
        batch: list[Line] = []
        size = 0
        for line in lines:
            if line.kind != kind:
                continue
            if batch and size + len(line.content) >= MAX_POST_BYTES:
                yield line.kind, batch
                batch, size = [], 0
            batch.append(line)
            size += len(line.content) + 1
        if batch:
            yield batch[0].kind, batch
