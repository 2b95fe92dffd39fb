"""Clients that send too slowly, or nothing at all, which would keep others out."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

# A request must send this many bytes in each interval, or end.
INTERVAL_SECONDS = 10.0
MIN_INTERVAL_BYTES = 10_000


async def in_time(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Yield the chunks of a body as long as they arrive fast enough.

    Raises:
        TimeoutError: If fewer than MIN_INTERVAL_BYTES arrive in INTERVAL_SECONDS, and
            the body does not end.
    """
    loop = asyncio.get_running_loop()
    deadline, size_bytes = loop.time() + INTERVAL_SECONDS, 0
    while True:
        async with asyncio.timeout_at(deadline):
            chunk = await anext(chunks, None)
        if chunk is None:
            return
        size_bytes += len(chunk)
        if size_bytes >= MIN_INTERVAL_BYTES:
            deadline, size_bytes = loop.time() + INTERVAL_SECONDS, 0
        yield chunk


class ClosingProtocol(H11Protocol):
    """Connections that are closed after an interval without a request.

    uvicorn waits for the head of a request for ever.
    """

    def connection_made(self, transport: Any) -> None:
        """Start to watch a connection."""
        super().connection_made(transport)
        self._watch(None)

    def _watch(self, last: object) -> None:
        self.loop.call_later(INTERVAL_SECONDS, self._close_if_idle, last)

    def _close_if_idle(self, last: object) -> None:
        """Close the connection if its last request was already answered before."""
        if self.transport.is_closing():
            return
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle and self.cycle is last:
            self.transport.close()
        else:
            self._watch(self.cycle if is_idle else self)
