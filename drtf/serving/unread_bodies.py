"""Answers to a client before the service has read its whole request."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from drtf.serving.limits import Limits
from drtf.serving.slow_clients import in_time


class UnreadBodies:
    """An application that reads the rest of a request before it ends an answer.

    Some answers, such as a refusal, do not need the body of the request. If a server
    then closes the connection while the client is still sending, the client's system
    reports a reset connection and drops the answer. So the answer is sent, the rest of
    the body is read and dropped, and only then the answer ends.

    A body is read up to the size and the time that a request may have.
    """

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        """Wrap an application.

        Args:
            app: The application.
            limits: What a request may have.
        """
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Such a client sends no body until it is asked for one.
        is_complete = "expect" in Headers(scope=scope)

        async def receive_part() -> Message:
            nonlocal is_complete
            message = await receive()
            is_complete = not message.get("more_body", False)
            return message

        async def send_part(message: Message) -> None:
            is_last = message["type"] == "http.response.body" and not message.get(
                "more_body", False
            )
            if is_last and not is_complete:
                await send({**message, "more_body": True})
                await self._read_rest(receive)
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        await self._app(scope, receive_part, send_part)

    async def _read_rest(self, receive: Receive) -> None:
        size_bytes = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.timeout_seconds):
                async for chunk in in_time(_body_parts(receive)):
                    size_bytes += len(chunk)
                    if size_bytes > self._limits.max_request_bytes:
                        return


async def _body_parts(receive: Receive) -> AsyncGenerator[bytes, None]:
    is_complete = False
    while not is_complete:
        message = await receive()
        yield message.get("body", b"")
        is_complete = not message.get("more_body", False)
