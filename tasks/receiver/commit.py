"""Many requests onto the disk with one wait for it."""

from __future__ import annotations

import asyncio
import errno
import logging
import shutil
from collections.abc import Sequence
from typing import Final

from tasks.receiver.body import RefusedBodyError
from tasks.tracking.spool import Line, Spool

RETRY_S: Final = 30
MIN_FREE_BYTES: Final = 64 * 2**20
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LOGGER = logging.getLogger(__name__)


class Committer:
    """Writes what requests brought; those that come while the disk is busy go together in the next write.

    Args:
        spool: The files.
        min_free_bytes: Less free space than this on their disk refuses requests.
    """

    def __init__(self, spool: Spool, min_free_bytes: int = MIN_FREE_BYTES) -> None:
        self._spool = spool
        self._min_free_bytes = min_free_bytes
        self._waiting: list[tuple[Sequence[Line], asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None

    def check_room(self) -> None:
        """See whether a request can be taken at all.

        Raises:
            RefusedBodyError: The disk is full, or the folder cannot be made (503).
        """
        folder = self._spool.folder
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            free = shutil.disk_usage(folder).free
        except OSError as error:
            raise _refusal(error) from None
        if free < self._min_free_bytes:
            raise RefusedBodyError(503, "the disk of the interaction log is full", RETRY_S)

    async def commit(self, lines: Sequence[Line]) -> None:
        """Return once all lines are on the disk for good.

        Raises:
            RefusedBodyError: They are not (503); sent again, those that are count once.
        """
        if not lines:
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((lines, done))
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())
        await done

    async def _write(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            lines = [line for part, _ in group for line in part]
            try:
                left, problem = await asyncio.to_thread(self._spool.store, lines)
            except Exception as error:
                _LOGGER.exception("the interaction log cannot be written")
                left, problem = lines, OSError(errno.EIO, type(error).__name__)
            missing = {id(line) for line in left}
            if problem is not None:
                _LOGGER.error("the interaction log cannot be written: %s", problem.strerror)
            for part, done in group:
                if done.done():  # whoever sent it has left
                    continue
                if any(id(line) in missing for line in part):
                    done.set_exception(_refusal(problem))
                else:
                    done.set_result(None)
        self._writer = None


def _refusal(problem: OSError | None) -> RefusedBodyError:
    if problem is not None and problem.errno in _FULL:
        return RefusedBodyError(503, "the disk of the interaction log is full", RETRY_S)
    return RefusedBodyError(503, "the interaction log cannot be written", RETRY_S)
