"""Servers for tests: a store, a web server, and one with a single answer."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Prints its port, which the system has chosen, and ends with the test's process.
SERVER = """
import sys
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(sys.argv[1], 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""
HOST = "127.0.0.1"


@contextlib.contextmanager
def running_s3() -> Iterator[dict[str, str]]:
    """Run an S3 server; yield the environment variables with which drtf finds it."""
    # In a separate process: warnings are errors in this one.
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, HOST],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    port = server.stdout.readline().strip()
    assert port, f"the server ended with exit code {server.wait()}"
    try:
        yield {
            "S3_ENDPOINT": f"http://{HOST}:{port}",
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
        }
    finally:
        server.kill()
        server.communicate()


def connect(environment: dict[str, str]):
    """Return boto3's client of a server."""
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=environment["S3_ENDPOINT"],
        aws_access_key_id="x",
        aws_secret_access_key="x",
        region_name="us-east-1",
    )


class Proxy:
    """Forward to a server, and cut every n-th answer to some requests.

    Attributes:
        start: What these requests start with.
        every: The n.
        num_kept: The number of bytes before the cut.
        loses_requests: Whether the server does not even get the request.
        wait_seconds: Time before one of these requests is forwarded.
        num_asked: The number of these requests so far.
        requests: All requests so far, such as `GET /bucket/name`.
    """

    def __init__(
        self,
        port: int,
        start: bytes,
        *,
        every: int,
        num_kept: int = 600,
        loses_requests: bool = False,
        wait_seconds: float = 0.0,
    ) -> None:
        self.target = port
        self.start = start
        self.every = every
        self.num_kept = num_kept
        self.loses_requests = loses_requests
        self.wait_seconds = wait_seconds
        self.num_asked = 0
        self.requests: list[str] = []
        self.listener = socket.create_server((HOST, 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            client, _ = self.listener.accept()
            threading.Thread(target=self._forward, args=(client,), daemon=True).start()

    def _forward(self, client: socket.socket) -> None:
        server = socket.create_connection((HOST, self.target))
        cut = threading.Event()
        with client, server, contextlib.suppress(OSError):
            answer = (server, client, cut)
            threading.Thread(target=self._answer, args=answer, daemon=True).start()
            while request := client.recv(65536):
                self.requests.append(request.partition(b" HTTP/")[0].decode("latin-1"))
                if request.startswith(self.start):
                    self.num_asked += 1
                    time.sleep(self.wait_seconds)
                    if self.num_asked % self.every == 0:
                        cut.set()
                        if self.loses_requests:
                            break
                server.sendall(request)

    def _answer(
        self, server: socket.socket, client: socket.socket, cut: threading.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if cut.is_set():
                    client.sendall(data[: self.num_kept])
                    break
                client.sendall(data)
            # Ends the wait for the next request, which closing it would not.
            client.shutdown(socket.SHUT_RDWR)


class _FileHandler(BaseHTTPRequestHandler):
    server: "FileServer"

    def do_HEAD(self) -> None:
        path = self._local_path()
        if path.is_file():
            self._answer(200, path.stat().st_size)
        else:
            self.send_error(404)

    def do_GET(self) -> None:
        path = self._local_path()
        wanted = self.headers.get("Range")
        if not path.is_file():
            self.send_error(404)
            return
        if self.headers.get("If-Match"):  # which a weak etag never satisfies
            self.send_error(412)
            return
        self.server.requests.append(f"GET {self.path}{' part' if wanted else ''}")
        data = path.read_bytes()
        if wanted and self.server.has_parts:
            start, stop = map(int, wanted.removeprefix("bytes=").split("-"))
            part = data[start : stop + 1]
            content_range = f"bytes {start}-{start + len(part) - 1}/{len(data)}"
            self._answer(206, len(part), content_range)
            self.wfile.write(part)
        else:
            if "tfrecord" in path.name:
                self.server.may_send_shards.wait()
            self._answer(200, len(data))
            self.wfile.write(data)

    def _local_path(self) -> Path:
        return self.server.folder / unquote(urlsplit(self.path).path).lstrip("/")

    def _answer(self, status: int, size_bytes: int, content_range: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(size_bytes))
        self.send_header("ETag", 'W/"1"')
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


class FileServer(ThreadingHTTPServer):
    """A web server of the files of a folder.

    Attributes:
        folder: The folder.
        has_parts: Whether it can send parts of files.
        may_send_shards: Clear it to send no shard as a whole for a while.
        requests: The requests so far, such as `GET /name` and `GET /name part`.
        location: Its address.
    """

    daemon_threads = True

    def __init__(self, folder: Path, *, has_parts: bool = True) -> None:
        super().__init__((HOST, 0), _FileHandler)
        self.folder = folder
        self.has_parts = has_parts
        self.may_send_shards = threading.Event()
        self.may_send_shards.set()
        self.requests: list[str] = []
        self.location = f"http://{HOST}:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def __exit__(self, *exception: object) -> None:
        self.may_send_shards.set()
        self.shutdown()
        self.server_close()


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """Answer every request with the same bytes; without bytes, never answer."""
    listener = socket.create_server((HOST, 0))
    silent: list[socket.socket] = []

    def serve() -> None:
        with contextlib.suppress(OSError):  # once the listener is shut down
            while True:
                client, _ = listener.accept()
                if not answer:
                    silent.append(client)
                    continue
                with client, contextlib.suppress(OSError):
                    client.recv(65536)
                    client.sendall(answer)
                    client.shutdown(socket.SHUT_WR)
                    # Closing it before all is read would discard the answer.
                    while client.recv(65536):
                        pass

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://{HOST}:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)  # ends the wait for a client
        listener.close()
        for client in silent:
            client.close()


def error_answer(status: str, code: str, message: str = "Because") -> bytes:
    """Return what an S3 server answers when it fails."""
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Content-Type: application/xml\r\n\r\n".encode() + body


def without_store_variables() -> dict[str, str]:
    """Return this process's environment without what names a store."""
    starts = ("AWS_", "S3_", "GOOGLE_", "AZURE_", "STORAGE_")
    return {k: v for k, v in os.environ.items() if not k.startswith(starts)}
