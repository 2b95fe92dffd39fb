"""Forward to a local server as if it were far away: late, and with a limited rate.

    python benchmarks/slow_proxy.py PORT SERVER_PORT --latency-ms 20 --rate-mb 40

Each request is delayed by the latency, and each connection has the given rate, as in
object stores, where several connections are faster than one.
"""

import argparse
import contextlib
import re
import socket
import threading
import time

HOST = "127.0.0.1"
CHUNK_BYTES = 64 << 10
REQUEST = re.compile(rb"(GET|HEAD|PUT|POST|DELETE) \S+ HTTP/1\.1\r\n")


def serve(port: int, server_port: int, *, latency: float, rate: float) -> None:
    """Forward every connection to a port, until the process is stopped.

    Args:
        port: Port to listen on.
        server_port: Port of the server.
        latency: Delay of each request, in seconds.
        rate: Bytes per second and direction of each connection; 0: no limit.
    """
    with socket.create_server((HOST, port), backlog=128) as listener:
        while True:
            client, _ = listener.accept()
            server = socket.create_connection((HOST, server_port))
            for source, target, delay in (
                (client, server, latency),
                (server, client, 0.0),
            ):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(
                    target=forward, args=(source, target, delay, rate), daemon=True
                ).start()


def forward(
    source: socket.socket, target: socket.socket, latency: float, rate: float
) -> None:
    """Forward all bytes of one direction, then close it."""
    with contextlib.suppress(OSError):
        while data := source.recv(CHUNK_BYTES):
            started = time.perf_counter()
            if REQUEST.match(data):
                time.sleep(latency)
            target.sendall(data)
            if rate:
                left = len(data) / rate - (time.perf_counter() - started)
                time.sleep(max(0.0, left))
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def main() -> None:
    """Parse the arguments, and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("server_port", type=int)
    parser.add_argument("--latency-ms", type=float, default=0.0)
    parser.add_argument("--rate-mb", type=float, default=0.0)
    options = parser.parse_args()
    serve(
        options.port,
        options.server_port,
        latency=options.latency_ms / 1000,
        rate=options.rate_mb * 1e6,
    )


if __name__ == "__main__":
    main()
