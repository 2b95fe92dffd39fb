"""Requests that another web page makes with a user's browser.

A service that only this machine can reach, and that requires no token, can still be
reached by each page that the user visits: the page sends a form to it, or makes the
name of its site point to this machine (DNS rebinding).
"""

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

# How this machine calls itself.
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
OWN_SITES = ("same-origin", "none")  # none: the user has typed the address


class OwnOrigin:
    """An application that refuses requests which other web pages make.

    Programs other than browsers send neither of the headers Sec-Fetch-Site and Origin.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        is_harmless = scope["type"] != "http" or scope["method"] in SAFE_METHODS
        if is_harmless or is_own_request(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        detail = (
            "a web page of another site made this request; use the page of this "
            "service, or start it with --token-file"
        )
        await JSONResponse({"detail": detail}, 403)(scope, receive, send)


def is_own_request(headers: Headers) -> bool:
    """Return whether a program or a page of this service made a request."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in OWN_SITES
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2] == headers.get("host")
