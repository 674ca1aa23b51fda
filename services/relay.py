"""A door on loopback through the API server: requests reach one pod or service, no credential.

Kubeconfigs of minikube, kind and many clusters hold client certificates, which an HTTP client that
only knows an address and headers cannot present. So the relay presents them: it takes requests on
127.0.0.1 and hands them to `…/pods/NAME:PORT/proxy` or `…/services/NAME:PORT/proxy`, and the
endpoint given out holds no credential of the cluster. Where the proxy may not be used, it forwards
a port of the pod. It reaches only what `route` and `forward` opened, and only for callers that send
its header: a web page in a browser cannot.

One more hop (this process, then the API server, then the pod): named wherever it is timed.
"""

from __future__ import annotations

import secrets
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import urllib3

from services.cluster import Cluster
from services.errors import SlipwayError, Unreachable, one_line

HEADER = "X-Slipway-Relay"
MAX_BODY_BYTES = 64 * 1024 * 1024
CHUNK_BYTES = 64 * 1024
READ_TIMEOUT_S = 120.0
"""Above the longest request that a predictor waits for; the predictor's own limit comes first."""

_ANSWERED = ("Content-Type", "Content-Length", "Content-Encoding")


Send = Callable[[str, str, bytes | None, dict[str, str]], urllib3.BaseHTTPResponse]
"""Passes a request on: method, path with query, body, headers. SlipwayError when it cannot."""


class Relay:
    """Loopback to API paths of one cluster. Starts on first use, ends with the process."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._secret = secrets.token_urlsafe(24)
        self._routes: dict[str, Send] = {}
        self._names: dict[str, str] = {}
        self._server: ThreadingHTTPServer | None = None
        self._lock = threading.Lock()

    def route(self, api_path: str) -> str:
        """Open the way to `api_path` (which ends in /proxy); gives the base URL on loopback."""

        def send(
            method: str, path: str, body: bytes | None, headers: dict[str, str]
        ) -> urllib3.BaseHTTPResponse:
            return self._cluster.raw(
                method,
                f"{api_path}/{path}",
                doing="pass a request on",
                body=body,
                headers=headers,
                read_timeout_s=READ_TIMEOUT_S,
            )

        return self._opened(api_path, send)

    def forward(self, pod_path: str, port: int) -> str:
        """Open a port-forward to a pod (`…/pods/NAME`); gives the base URL on loopback.

        Connections are made at the first request, kept, and made again when one broke.
        """
        pool = _ForwardedPool(self._cluster, pod_path, port)

        def send(
            method: str, path: str, body: bytes | None, headers: dict[str, str]
        ) -> urllib3.BaseHTTPResponse:
            try:
                return pool.urlopen(
                    method,
                    f"/{path}",
                    body=body,
                    headers=headers,
                    timeout=READ_TIMEOUT_S,
                    retries=False,
                    preload_content=False,
                )
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise Unreachable("The port-forward broke.", why=one_line(error)) from error

        return self._opened(f"{pod_path}:{port}", send)

    def _opened(self, key: str, send: Send) -> str:
        with self._lock:
            if self._server is None:
                self._server = self._started()
            if key not in self._names:
                name = secrets.token_hex(4)
                self._names[key] = name
                self._routes[name] = send
            return f"http://127.0.0.1:{self._server.server_port}/{self._names[key]}"

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """What a request has to carry; a secret, to be masked where it is shown."""
        return ((HEADER, self._secret),)

    def close(self) -> None:
        """Stop listening."""
        with self._lock:
            if self._server is not None:
                self._server.shutdown()
                self._server.server_close()
                self._server = None

    def _started(self) -> ThreadingHTTPServer:
        relay = self

        class Handler(_Handler):
            secret = relay._secret
            routes = relay._routes

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, name="relay", daemon=True).start()
        return server


class _ForwardedPool(urllib3.HTTPConnectionPool):
    """HTTP connections whose sockets are port-forwards to one pod."""

    def __init__(self, cluster: Cluster, pod_path: str, port: int) -> None:
        def tunnel() -> socket.socket:
            return cluster.tunnel(pod_path, port, doing="forward a port")

        class _Connection(urllib3.connection.HTTPConnection):
            def _new_conn(self) -> socket.socket:
                return tunnel()

        # A class of its own per pool, because urllib3 makes connections from a class.
        self.ConnectionCls = _Connection
        super().__init__("127.0.0.1", port, maxsize=8)


class _Handler(BaseHTTPRequestHandler):
    secret: str
    routes: dict[str, Send]
    protocol_version = "HTTP/1.1"
    timeout = 300
    # Without it, head and body leave in two packets and wait for each other's ACK (40 ms).
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_GET(self) -> None:
        self._relay()

    def do_POST(self) -> None:
        self._relay()

    def _relay(self) -> None:
        if not secrets.compare_digest(self.headers.get(HEADER, ""), self.secret):
            self._answer(403, b'{"error": "This relay serves its own Slipway only."}')
            return
        parts = urlsplit(self.path)
        name, _, rest = parts.path.lstrip("/").partition("/")
        send = self.routes.get(name)
        if send is None or any(part in {".", ".."} for part in unquote(rest).split("/")):
            self._answer(404, b'{"error": "This relay has no such way."}')
            return
        length = int(self.headers.get("Content-Length") or 0)
        if length > MAX_BODY_BYTES or "Transfer-Encoding" in self.headers:
            self.close_connection = True
            self._answer(413, b'{"error": "The body is too large, or its length is not given."}')
            return
        body = self.rfile.read(length) if length else None
        sent = {
            key: value
            for key in ("Content-Type", "Accept", "Accept-Encoding")
            if (value := self.headers.get(key))
        }
        path = rest + (f"?{parts.query}" if parts.query else "")
        try:
            response = send(self.command, path, body, sent)
        except SlipwayError as error:
            text = one_line(error.why or error.what).replace('"', "'")
            self._answer(502, f'{{"error": "relay: {text}"}}'.encode())
            return
        try:
            self.send_response(response.status)
            for key in _ANSWERED:
                if key in response.headers:
                    self.send_header(key, response.headers[key])
            chunked = "Content-Length" not in response.headers
            if chunked:
                self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for chunk in response.stream(CHUNK_BYTES, decode_content=False):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunked else chunk)
            if chunked:
                self.wfile.write(b"0\r\n\r\n")
            self.wfile.flush()
        finally:
            response.release_conn()

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base's name)
        """Keep quiet: requests are the caller's to count."""
