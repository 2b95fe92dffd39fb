"""A server that runs until it is stopped."""

import functools
import math
import re
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from drtf.errors import DrtfError
from drtf.files import read_regular
from drtf.scoring.scorer import Scorer
from drtf.serving.app import build_app
from drtf.serving.limits import Limits
from drtf.serving.model_service import open_service
from drtf.serving.origins import LOOPBACK_NAMES
from drtf.serving.slow_clients import ClosingProtocol

# Connections without a request that counts as waiting: pages, health, idle ones, and
# requests that are arriving.
FURTHER_CONNECTIONS = 1000
MIN_TOKEN_LENGTH = 16


def serve(
    scorer: Scorer,
    *,
    host: str,
    port: int,
    limits: Limits,
    token: str = "",
    on_ready: Callable[[str], None],
) -> None:
    """Serve a run until SIGTERM or Ctrl-C arrives.

    Requests that have arrived are then answered first.

    Args:
        scorer: The run, with the settings to score with.
        host: The address to listen on.
        port: The port to listen on; 0 takes any free one.
        limits: What to accept.
        token: The bearer token that requests must have; empty for none.
        on_ready: Called with the URL when requests are accepted.

    Raises:
        RunError: If the network cannot be loaded.
        DrtfError: If the address cannot be used, or the machine cannot score.
    """
    with _bound_socket(host, port) as bound, open_service(scorer) as service:
        name, number = bound.getsockname()[:2]
        is_private = is_loopback(host) and not token
        app = build_app(
            service,
            limits=limits,
            token=token,
            hosts=LOOPBACK_NAMES if is_private else ("*",),
        )
        url = f"http://[{name}]:{number}" if ":" in name else f"http://{name}:{number}"
        server = _Server(
            uvicorn.Config(
                app,
                http=ClosingProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,  # it would have paths
                server_header=False,
                limit_concurrency=limits.max_waiting + FURTHER_CONNECTIONS,
                # To receive the requests that have begun, and to answer them.
                timeout_graceful_shutdown=math.ceil(2 * limits.timeout_seconds),
            ),
            on_ready=functools.partial(on_ready, url),
        )
        with _ending_at_sigterm():
            server.run(sockets=[bound])


def load_token(path: Path) -> str:
    """Load the bearer token in a file.

    Raises:
        DrtfError: If it is short or has characters that a header cannot have.
    """
    token = read_regular(path).decode(errors="replace").strip()
    if not re.fullmatch(rf"[!-~]{{{MIN_TOKEN_LENGTH},}}", token):
        raise DrtfError(
            f"{path} must have one word of at least {MIN_TOKEN_LENGTH} ASCII "
            "characters; make one with: openssl rand -hex 32"
        )
    return token


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    return host in ("127.0.0.1", "::1", "localhost")


class _Server(uvicorn.Server):
    """A server that calls a function as soon as it listens."""

    def __init__(self, config: uvicorn.Config, *, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._on_ready()


@contextmanager
def _bound_socket(host: str, port: int) -> Iterator[socket.socket]:
    """Take an address. Connections are refused until the server listens.

    Raises:
        DrtfError: If it cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host, port))
        except OSError as error:
            raise DrtfError(
                f"cannot listen on {host}, port {port}: {error.strerror}; choose "
                "another --port or --host"
            ) from error
        yield bound


@contextmanager
def _ending_at_sigterm() -> Iterator[None]:
    """End the server at SIGTERM without an error.

    uvicorn sends itself the signal again after it has stopped.
    """
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
