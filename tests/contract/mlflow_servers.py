"""Real and faulty servers for the registry's tests, all on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def tracking_server(
    folder: Path, *, environment: dict[str, str] | None = None, host: str = "127.0.0.1"
) -> Iterator[str]:
    """A real `mlflow server` with proxied artifacts; its address. The database is mlflow.db."""
    port = free_port()
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "server", "--host", host),
                *("--port", str(port), "--workers", "1"),
                *("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
                *("--artifacts-destination", str(folder / "artifacts")),
            ],
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # MLflow's job runners have nothing to do with a registry, and take long to start.
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"} | (environment or {}),
        )
    try:
        address = f"http://{host}:{port}"
        for _ in range(600):
            assert process.poll() is None, log.read_text(errors="replace")[-2000:]
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=5):
                    break
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        else:
            raise AssertionError(log.read_text(errors="replace")[-2000:])
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(20)


@contextmanager
def counting_proxy(upstream: str) -> Iterator[tuple[str, list[str]]]:
    """An address that forwards to `upstream`, and the paths that were asked for, in order."""
    seen: list[str] = []

    class Forwarding(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _forward(self) -> None:
            seen.append(self.path.partition("?")[0])
            length = int(self.headers.get("Content-Length") or 0)
            request = urllib.request.Request(
                upstream + self.path,
                data=self.rfile.read(length) if length else None,
                headers={"Content-Type": self.headers.get("Content-Type") or "application/json"},
                method=self.command,
            )
            try:
                with urllib.request.urlopen(request, timeout=120) as answer:
                    status, content = answer.status, answer.read()
            except urllib.error.HTTPError as error:
                status, content = error.code, error.read()
                error.close()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _forward  # noqa: N815 - the base class looks for these names

        def log_message(self, *_: object) -> None:
            pass

    with served(Forwarding) as address:
        yield address, seen


Answer = tuple[int, str | bytes | dict[str, object]]


@contextmanager
def scripted(answer: Callable[[str], Answer]) -> Iterator[tuple[str, list[str]]]:
    """An address where `answer` decides for each path; and the paths that were asked for."""
    seen: list[str] = []

    class Scripted(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            seen.append(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            self.rfile.read(length)
            status, content = answer(self.path)
            if isinstance(content, dict):
                content = json.dumps(content)
            body = content.encode() if isinstance(content, str) else content
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", "/login")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = _answer  # noqa: N815 - the base class looks for these names

        def log_message(self, *_: object) -> None:
            pass

    with served(Scripted) as address:
        yield address, seen


@contextmanager
def served(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


@contextmanager
def raw(speak: Callable[[socket.socket, threading.Event], None]) -> Iterator[str]:
    """An address where `speak` talks to each connection until it returns or the event is set."""
    stopped = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.2)
    threads: list[threading.Thread] = []

    def one(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):  # the client hung up, as it should
            speak(connection, stopped)

    def accept() -> None:
        while not stopped.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            thread = threading.Thread(target=one, args=(connection,))
            thread.start()
            threads.append(thread)

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        stopped.set()
        accepting.join(10)
        listener.close()
        for thread in threads:
            thread.join(10)


def black_hole(_connection: socket.socket, stopped: threading.Event) -> None:
    stopped.wait(60)


def dripping_headers(connection: socket.socket, stopped: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while not stopped.wait(0.1):
        connection.sendall(b"x")


def dripping_body(connection: socket.socket, stopped: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n{")
    while not stopped.wait(0.1):
        connection.sendall(b" ")


def truncated(connection: socket.socket, _stopped: threading.Event) -> None:
    connection.recv(65536)
    connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{"registered_models": [{')


def hanging_up(connection: socket.socket, _stopped: threading.Event) -> None:
    connection.recv(65536)
