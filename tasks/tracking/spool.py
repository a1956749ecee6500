"""Lines onto the disk for good: whole lines only, whatever is killed or full in the middle of it."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Final, Literal, NamedTuple
from urllib.parse import quote

Kind = Literal["interactions", "feedback", "breaches"]
_SUFFIXES: Final = {"interactions": ".jsonl", "feedback": ".feedback.jsonl", "breaches": ".breaches"}
ROTATE_BYTES: Final = 64 * 2**20
_LONGEST_FOLDER: Final = 120


class Line(NamedTuple):
    """One line for a log: what it is, whose it is, and its bytes without the end of line."""

    kind: Kind
    application: str
    content: bytes


class Appended(NamedTuple):
    """How many lines are on the disk for good, and why the others are not."""

    stored: int
    problem: OSError | None


def append_lines(path: Path, lines: Sequence[bytes]) -> Appended:
    """Append lines to a file and see them onto the disk before returning.

    Half a line that a killed writer left is ended first, so that it spoils no other. Where the disk takes only a part,
    the half line at the end is cut off again. A lock on the file keeps other writers and ``end_half_line`` out.

    Args:
        path: The file; it and its folders are made if missing, for their owner alone.
        lines: Bytes without ends of line.
    """
    try:
        is_new = not path.exists()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(path, os.O_CREAT) as descriptor:
            appended = _append(descriptor, lines)
        if is_new:
            _sync_folder(path.parent)
    except OSError as error:
        return Appended(0, error)
    return appended


def _append(descriptor: int, lines: Sequence[bytes]) -> Appended:
    ended = _is_ended(descriptor)
    data = (b"" if ended else b"\n") + b"".join(line + b"\n" for line in lines)
    start, done, problem = os.fstat(descriptor).st_size, 0, None
    try:
        while done < len(data):
            done += os.write(descriptor, memoryview(data)[done:])
    except OSError as error:
        # Readers take whole lines only: what is cut off, nobody has read.
        problem, whole = error, data.rfind(b"\n", 0, done) + 1
        os.ftruncate(descriptor, start + whole)
        done = whole
    os.fsync(descriptor)
    return Appended(data.count(b"\n", 0, done) - (0 if ended or not done else 1), problem)


def end_half_line(path: Path) -> bool:
    """End the half line a killed writer left, so that it is read as one broken line.

    Returns:
        Whether there was one; no where somebody is writing just now.
    """
    try:
        with _locked(path, fcntl.LOCK_NB) as descriptor:
            if _is_ended(descriptor):
                return False
            os.write(descriptor, b"\n")
            os.fsync(descriptor)
    except OSError:
        return False
    return True


@contextmanager
def _locked(path: Path, how: int) -> Iterator[int]:
    flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | (how & os.O_CREAT)
    descriptor = os.open(path, flags, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (how & fcntl.LOCK_NB))
        except OSError:
            # Some shared file systems have no locks; there a file still has one writer, and nobody repairs it.
            if how & fcntl.LOCK_NB:
                raise
        yield descriptor
    finally:
        os.close(descriptor)


def _is_ended(descriptor: int) -> bool:
    size = os.fstat(descriptor).st_size
    return not size or os.pread(descriptor, 1, size - 1) == b"\n"


def _sync_folder(folder: Path) -> None:
    """See the name of a new file onto the disk too."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def folder_name(application: str) -> str:
    """Return the folder of an application: its name where that is a plain one, and never a path.

    >>> folder_name("support"), folder_name("../etc"), folder_name("..")
    ('support', '..%2Fetc', '%2E.')
    """
    name = quote(application, safe=" ")
    if len(name) > _LONGEST_FOLDER:
        name = f"{name[:40]}-{sha256(application.encode(errors='replace')).hexdigest()[:16]}"
    return name.replace(".", "%2E", 1) if not name.strip(".") else name


class Spool:
    """The log files of one process: ``{folder}/{application}/{UTC date}/{prefix}-{host}-{pid}-{start}-{part}.jsonl``.

    Every file is of one process, ends with the day, and with its size; feedback and breaches have files of their own.
    It holds no file open between two calls. It is not safe for threads: whoever has it calls it from one at a time.

    Args:
        folder: Where all applications log.
        prefix: Who writes: ``tracked`` or ``received``.
        clock: Returns the time now.
        rotate_bytes: A file is not continued beyond this size.
    """

    def __init__(
        self, folder: Path, prefix: str, clock: Callable[[], datetime], rotate_bytes: int = ROTATE_BYTES
    ) -> None:
        self.folder = folder
        self._prefix = prefix
        self._clock = clock
        self._rotate_bytes = rotate_bytes
        self.renew()

    def renew(self) -> None:
        """Begin new files, as a process does that was forked off another."""
        host = folder_name(socket.gethostname())[:40]
        self._name = f"{self._prefix}-{host}-{os.getpid()}-{self._clock().astimezone(UTC):%Y%m%dT%H%M%S%fZ}"
        self._parts: dict[tuple[Kind, str], int] = {}

    def store(self, lines: Sequence[Line]) -> tuple[list[Line], OSError | None]:
        """Append lines, each to the file of its application.

        Returns:
            The lines that are not on the disk, and why.
        """
        groups: dict[tuple[Kind, str], list[Line]] = {}
        for line in lines:
            groups.setdefault((line.kind, line.application), []).append(line)
        left: list[Line] = []
        problem = None
        for (kind, application), group in groups.items():
            appended = append_lines(self._path(kind, application), [line.content for line in group])
            left += group[appended.stored :]
            problem = appended.problem or problem
        return left, problem

    def end_half_lines(self) -> int:
        """End what killed writers of the same prefix left unfinished, and return in how many files."""
        found = self.folder.glob(f"*/*/{self._prefix}-*.jsonl") if self.folder.is_dir() else ()
        return sum(end_half_line(path) for path in found)

    def close(self) -> bool:
        """Return that nothing waits; no file is open."""
        return True

    def _path(self, kind: Kind, application: str) -> Path:
        day = self._clock().astimezone(UTC).date().isoformat()
        part = self._parts.get((kind, application), 0)
        path = self.folder / folder_name(application) / day / f"{self._name}-{part}{_SUFFIXES[kind]}"
        if path.exists() and path.stat().st_size >= self._rotate_bytes:
            self._parts[kind, application] = part + 1
            return self._path(kind, application)
        return path
