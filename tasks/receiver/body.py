"""Bodies of requests, unpacked and held to a limit while they arrive."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Final

from starlette.requests import Request

_PACKED: Final = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""What a packed body begins with, as zlib has it."""
_BUSY_RETRY_S: Final = 1
Take = Callable[[int], None]


class RefusedBodyError(Exception):
    """A request that is not accepted, whoever sent it.

    Args:
        status: Of the answer.
        reason: For people; it names no content.
        retry_after_s: When to come again, seconds; None where that is no use.
    """

    def __init__(self, status: int, reason: str, retry_after_s: int | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.retry_after_s = retry_after_s


class Room:
    """The memory that all requests share.

    Args:
        total_bytes: Most bytes of bodies at once.
    """

    def __init__(self, total_bytes: int) -> None:
        self._free_bytes = total_bytes

    @contextmanager
    def share(self) -> Iterator[Take]:
        """Yield a function that takes bytes; they are given back at the end of the block."""
        taken = 0

        def take(size: int) -> None:
            nonlocal taken
            if size > self._free_bytes:
                raise RefusedBodyError(429, "too many requests at once", _BUSY_RETRY_S)
            self._free_bytes -= size
            taken += size

        try:
            yield take
        finally:
            self._free_bytes += taken


async def read_body(request: Request, limit_bytes: int, take: Take) -> bytes:
    """Return the body of a request, unpacked.

    Args:
        request: Its ``Content-Encoding`` is gzip, deflate, identity or missing.
        limit_bytes: Most bytes, packed and unpacked.
        take: Told how much memory it needs.

    Raises:
        RefusedBodyError: It is larger (413), packed otherwise (415), does not unpack (400), or is too much now (429).
    """
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit_bytes:
        raise _too_large(limit_bytes)
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding == "identity":
        return await _collect(request.stream(), limit_bytes, take)
    if encoding not in _PACKED:
        raise RefusedBodyError(415, "Content-Encoding is not allowed; allowed: gzip, deflate, identity")
    body = _unpacked(await _collect(request.stream(), limit_bytes, take), _PACKED[encoding], limit_bytes)
    take(len(body))
    return body


async def _collect(parts: AsyncIterator[bytes], limit_bytes: int, take: Take) -> bytes:
    body = bytearray()
    async for part in parts:
        take(len(part))
        body += part
        if len(body) > limit_bytes:
            raise _too_large(limit_bytes)
    return bytes(body)


def _unpacked(packed: bytes, bits: int, limit_bytes: int) -> bytes:
    # With a limit, because a thousandth of it can unpack to more than there is memory.
    reader = zlib.decompressobj(bits)
    try:
        body = reader.decompress(packed, limit_bytes + 1)
    except zlib.error:
        raise RefusedBodyError(400, "the body does not unpack") from None
    if len(body) > limit_bytes:
        raise _too_large(limit_bytes)
    if not reader.eof:
        raise RefusedBodyError(400, "the body does not unpack: it ends early")
    return body


def _too_large(limit_bytes: int) -> RefusedBodyError:
    return RefusedBodyError(413, f"the body is larger than {limit_bytes} bytes; send smaller batches")
