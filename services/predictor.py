"""Requests to model servers over HTTP: bounded in time and bytes, only to where a target points.

Implements ports.Predictor for V2, V1 and /invocations. It is not a general HTTP client, on purpose:
no redirects, no proxies, no cookies, no credentials but those that the endpoint carries. A name is
resolved once, the addresses are checked, and the connection goes to the checked address, so a name
server cannot move the request elsewhere in between.

Built on http.client and sockets rather than on a larger library: a wall-clock limit must bound
every single read (the usual clients' timeouts are per read, psf/requests#4276), and connect, wait
and read are told apart where the bytes pass. Encoding requests and reading outputs is bench.py's
part.
"""

from __future__ import annotations

import http.client
import ipaddress
import math
import queue
import re
import selectors
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import quote, urlsplit

import orjson

from services import addresses, bench
from services.domain import (
    AliasRef,
    Endpoint,
    InferRequest,
    Json,
    Prediction,
    Protocol,
    Signature,
    Timing,
    VersionRef,
    WayIn,
    parse_ref,
)
from services.errors import (
    ConfigError,
    Denied,
    InferenceFailed,
    NotFound,
    SlipwayError,
    Unreachable,
    one_line,
)

DEFAULT_MAX_BYTES = 8 * 2**20
"""Decoded bytes of an answer that are kept; what is longer is cut and marked."""
SAID_BYTES = 64 * 1024
"""So much of a refusal is kept for who looks at it."""
_PIECE_BYTES = 64 * 1024
_IDLE_S = 4.0
"""uvicorn, which MLServer runs on, closes idle connections after 5 s: let go of them before it."""
_IDLE_PER_PLACE = 4

RELEASE_HEADER = "x-slipway-release"
VERSION_HEADER = "x-slipway-version"


# ── Sockets with a deadline ───────────────────────────────────────────────────────────────────


class _Bounded:
    """Bounds every send and receive of a socket by one moment, and notes the first answer byte."""

    deadline: float = math.inf
    """On time.perf_counter()'s clock."""
    first_byte_at: float | None = None

    def _arm(self) -> None:
        left_s = self.deadline - time.perf_counter()
        if left_s <= 0:
            raise TimeoutError
        self.settimeout(left_s)  # type: ignore[attr-defined]  # the socket that this is mixed into

    def recv_into(self, *args: object) -> int:
        self._arm()
        count: int = super().recv_into(*args)  # type: ignore[misc]  # as above
        if count and self.first_byte_at is None:
            self.first_byte_at = time.perf_counter()
        return count

    def send(self, *args: object) -> int:
        self._arm()
        count: int = super().send(*args)  # type: ignore[misc]  # as above
        return count

    def sendall(self, *args: object) -> None:
        # CPython bounds a plain socket's sendall as a whole; TLS goes through send.
        self._arm()
        super().sendall(*args)  # type: ignore[misc]  # as above


class _PlainSocket(_Bounded, socket.socket):
    """A TCP connection with a deadline."""


class _TlsSocket(_Bounded, ssl.SSLSocket):
    """A TLS connection with a deadline."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a connection goes, and by which rules; connections are shared per place only."""

    scheme: str
    host: str
    port: int
    via: WayIn
    ca_file: str | None

    @property
    def authority(self) -> str:
        """The Host header that the URL asks for."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = {"http": 80, "https": 443}[self.scheme]
        return host if self.port == usual else f"{host}:{self.port}"


@dataclass(slots=True)
class _Connection:
    """One open connection; `wire` is the socket that `http` speaks over."""

    place: _Place
    wire: _PlainSocket | _TlsSocket
    http: http.client.HTTPConnection
    reused: bool = False
    idle_since: float = 0.0

    def close(self) -> None:
        self.http.close()
        self.wire.close()

    @property
    def usable(self) -> bool:
        """False when it idled too long, or when the server closed or wrote in the meantime."""
        if time.perf_counter() - self.idle_since > _IDLE_S or self.wire.fileno() < 0:
            return False
        # Not select.select: it refuses file descriptors above 1,023.
        with selectors.DefaultSelector() as selector:
            selector.register(self.wire, selectors.EVENT_READ)
            return not selector.select(0)


@dataclass(frozen=True, slots=True)
class _Answer:
    """A whole HTTP answer, its body decoded and perhaps cut."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    cut: bool
    timing: Timing

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key.lower() == name), "")


@dataclass(slots=True)
class _Clock:
    """One request's wall-clock limit, and how far it has come: for the message when it runs out."""

    timeout_s: float
    phase: str = "connecting"
    started_at: float = field(default_factory=time.perf_counter)

    @property
    def deadline(self) -> float:
        return self.started_at + self.timeout_s

    @property
    def left_s(self) -> float:
        left_s = self.deadline - time.perf_counter()
        if left_s <= 0:
            raise TimeoutError
        return left_s


# ── Where requests may go ─────────────────────────────────────────────────────────────────────


def place_of(endpoint: Endpoint) -> tuple[_Place, str]:
    """The endpoint's place and the path below it. ConfigError when the address is no plain one."""
    try:
        url = urlsplit(endpoint.base_url)
        port = url.port
    except ValueError as error:
        raise _bad_address(endpoint, one_line(error)) from error
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise _bad_address(endpoint, "It has no http:// or https:// and host.")
    if url.username is not None or url.password is not None:
        raise _bad_address(endpoint, "It holds a user name or password.")
    if url.query or url.fragment:
        raise _bad_address(endpoint, "It has a query or fragment.")
    place = _Place(
        url.scheme,
        url.hostname,
        port or {"http": 80, "https": 443}[url.scheme],
        endpoint.via,
        endpoint.ca_file,
    )
    return place, url.path.rstrip("/")


def _bad_address(endpoint: Endpoint, why: str) -> ConfigError:
    return ConfigError(
        f"{one_line(endpoint.base_url, 120)} is no address that requests can go to.",
        why=why,
        fix="Check the target's way in in slipway.toml.",
    )


def _resolved(host: str, port: int, left_s: float) -> list[tuple[Any, ...]]:
    """The resolver's answers within the time left: getaddrinfo has no limit of its own."""
    answers: queue.SimpleQueue[list[tuple[Any, ...]] | OSError | UnicodeError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
        except (OSError, UnicodeError) as error:
            answers.put(error)

    threading.Thread(target=ask, name="resolve", daemon=True).start()
    try:
        found = answers.get(timeout=left_s)
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(found, UnicodeError):
        raise socket.gaierror(socket.EAI_NONAME, "no host name") from found
    if isinstance(found, OSError):
        raise found
    return found


# ── The predictor ─────────────────────────────────────────────────────────────────────────────


class HttpPredictor:
    """ports.Predictor over HTTP. Safe to share between threads.

    `max_bytes`: decoded bytes of an answer that are kept. `allow_hosts`: hosts that the operator's
    own settings name (an ingress on 127.0.0.1, for example); they may be on this machine, but never
    a metadata service.
    """

    def __init__(
        self, *, max_bytes: int = DEFAULT_MAX_BYTES, allow_hosts: Collection[str] = ()
    ) -> None:
        self._max_bytes = max_bytes
        self._allow_hosts = frozenset(host.lower() for host in allow_hosts)
        self._idle: dict[_Place, list[_Connection]] = {}
        self._contexts: dict[str | None, ssl.SSLContext] = {}
        self._lock = threading.Lock()

    def ready(self, endpoint: Endpoint, timeout_s: float = 2.0) -> bool:
        """Whether the model server says that the model is ready; False when there is no answer.

        Denied when no request may go to the endpoint; ConfigError when its address is no address.
        """
        path = f"/v2/models/{quote(endpoint.model_name, safe='')}/ready"
        try:
            return self._exchange(endpoint, "GET", path, None, timeout_s).status == 200
        except (Unreachable, InferenceFailed):
            return False

    def signature(self, endpoint: Endpoint, timeout_s: float = 2.0) -> Signature | None:
        """What a V2 server says that its model takes; None where it does not say.

        Denied when no request may go to the endpoint.
        """
        path = f"/v2/models/{quote(endpoint.model_name, safe='')}"
        try:
            answer = self._exchange(endpoint, "GET", path, None, timeout_s)
            told: Json = orjson.loads(answer.body) if answer.status == 200 else None
        except (Unreachable, InferenceFailed, orjson.JSONDecodeError):
            return None
        return bench.signature_told(told)

    def infer(
        self, endpoint: Endpoint, request: InferRequest, timeout_s: float = 30.0
    ) -> Prediction:
        """One request. `timeout_s` bounds connect, wait and read together, on the wall clock.

        An answer longer than `max_bytes` comes back cut, marked, without outputs. InferenceFailed
        with status and cause for an answer that is no prediction; Unreachable when nothing, or only
        a gateway, answered; Denied when no request may go there, or the server says so.
        """
        answer = self._exchange(endpoint, "POST", request.path, request, timeout_s)
        if answer.status != 200:
            raise _as_met(self._failure(endpoint, request, answer), endpoint, answer)
        try:
            outputs = () if answer.cut else bench.outputs_of(request.protocol, answer.body)
        except InferenceFailed as failure:
            _as_met(failure, endpoint, answer)
            raise
        version, release = _answered_by(endpoint, request.protocol, answer)
        return Prediction(
            outputs=outputs,
            http_status=answer.status,
            timing=answer.timing,
            url=endpoint.base_url + request.path,
            via=endpoint.via,
            protocol=request.protocol,
            raw=answer.body,
            cut=answer.cut,
            headers=answer.headers,
            version=version,
            release=release,
        )

    def close(self) -> None:
        """Close the connections that are kept open."""
        with self._lock:
            kept = [one for idle in self._idle.values() for one in idle]
            self._idle.clear()
        for connection in kept:
            connection.close()

    # One request and its answer.

    def _exchange(
        self,
        endpoint: Endpoint,
        method: str,
        path: str,
        request: InferRequest | None,
        timeout_s: float,
    ) -> _Answer:
        clock = _Clock(timeout_s)
        place, prefix = place_of(endpoint)
        if re.fullmatch(r"/[!-~]*", prefix + path) is None:
            raise _bad_address(
                endpoint, f"The path {one_line(path, 80)} holds unprintable characters."
            )
        ask = partial(
            self._asked,
            clock=clock,
            method=method,
            target=prefix + path,
            body=request.body if request is not None else None,
            headers=_sent_headers(endpoint, place, request),
        )
        with _connection_errors(endpoint, clock):
            connection = self._connected(place, clock)
            try:
                return ask(connection)
            except ConnectionError:
                # The server closed a kept connection while we wrote: MLServer does so after a 500,
                # uvicorn after 5 idle seconds. Nothing was answered, so the request goes once more.
                if not connection.reused or connection.wire.first_byte_at is not None:
                    raise
            connection = self._connected(place, clock, fresh=True)
            return ask(connection)

    def _asked(
        self,
        connection: _Connection,
        clock: _Clock,
        *,
        method: str,
        target: str,
        body: bytes | None,
        headers: Mapping[str, str],
    ) -> _Answer:
        keep = False
        try:
            connected_at = time.perf_counter()
            clock.phase = "waiting for the answer"
            with suppress(BrokenPipeError, ConnectionResetError):
                # A server may refuse a large body (413) before it has read it: look at its answer.
                connection.http.request(method, target, body, dict(headers))
            response = connection.http.getresponse()
            first_at = connection.wire.first_byte_at or time.perf_counter()
            clock.phase = "reading the answer"
            content, cut = self._body(response)
            response.close()  # read1 leaves it open, and http.client then sends nothing more
            done_at = time.perf_counter()
            # After a 5xx MLServer closes the connection without saying so.
            keep = not cut and not response.will_close and response.status < 500
            return _Answer(
                status=response.status,
                headers=tuple(
                    (one_line(name), one_line(value)) for name, value in response.getheaders()
                ),
                body=content,
                cut=cut,
                timing=Timing(
                    # On a kept connection nothing was connected: what passed is our own overhead.
                    connect_s=0.0 if connection.reused else connected_at - clock.started_at,
                    wait_s=first_at - connected_at,
                    read_s=done_at - first_at,
                ),
            )
        finally:
            self._give_back(connection, keep=keep)

    def _body(self, response: http.client.HTTPResponse) -> tuple[bytes, bool]:
        """The decoded body, and whether it was cut. Never holds more than the limit and a piece."""
        encoding = (response.getheader("Content-Encoding") or "identity").strip().lower()
        if encoding not in {"identity", "gzip", "deflate"}:
            raise InferenceFailed(
                f"The answer is encoded as {one_line(encoding, 40)}, which was not asked for.",
                fix="Turn that encoding off at the server or the ingress.",
            )
        # 32 + 15: zlib or gzip, told apart by their first bytes.
        unzip = None if encoding == "identity" else zlib.decompressobj(32 + zlib.MAX_WBITS)
        content = bytearray()
        while piece := response.read1(_PIECE_BYTES):
            room = self._max_bytes - len(content)
            content += piece[: room + 1] if unzip is None else unzip.decompress(piece, room + 1)
            if len(content) > self._max_bytes:
                del content[self._max_bytes :]
                return bytes(content), True
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)
        return bytes(content), False

    # Connections.

    def _connected(self, place: _Place, clock: _Clock, *, fresh: bool = False) -> _Connection:
        connection = None if fresh else self._kept(place)
        if connection is None:
            connection = self._opened(place, clock)
        connection.wire.deadline = clock.deadline
        connection.wire.first_byte_at = None
        return connection

    def _kept(self, place: _Place) -> _Connection | None:
        while True:
            with self._lock:
                idle = self._idle.get(place)
                if not idle:
                    return None
                connection = idle.pop()
            if connection.usable:
                connection.reused = True
                return connection
            connection.close()

    def _give_back(self, connection: _Connection, *, keep: bool) -> None:
        connection.idle_since = time.perf_counter()
        with self._lock:
            idle = self._idle.setdefault(connection.place, [])
            if keep and len(idle) < _IDLE_PER_PLACE:
                idle.append(connection)
                return
        connection.close()

    def _opened(self, place: _Place, clock: _Clock) -> _Connection:
        last: OSError | None = None
        for family, kind, protocol, _, address in self._allowed(place, clock):
            wire: _PlainSocket | _TlsSocket = _PlainSocket(family, kind, protocol)
            try:
                wire.settimeout(clock.left_s)
                wire.connect(address)
                # http.client writes head and body apart: with Nagle's algorithm that costs 40 ms.
                wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if place.scheme == "https":
                    wire = self._secured(wire, place, clock)
            except TimeoutError:
                wire.close()
                raise
            except OSError as error:
                wire.close()
                last = error
                continue
            speaker = http.client.HTTPConnection(place.host, place.port)
            speaker.auto_open = 0  # it may never connect by itself, to an address nobody checked
            speaker.sock = wire
            return _Connection(place, wire, speaker)
        raise last or ConnectionRefusedError("no address")

    def _secured(self, wire: socket.socket, place: _Place, clock: _Clock) -> _TlsSocket:
        with self._lock:
            context = self._contexts.get(place.ca_file)
        if context is None:
            try:
                context = ssl.create_default_context(cafile=place.ca_file)
            except (FileNotFoundError, ssl.SSLError) as error:
                raise ConfigError(
                    f"The certificates in {one_line(place.ca_file)} cannot be read.",
                    why=one_line(error),
                    fix="Check the target's CA file.",
                ) from error
            context.sslsocket_class = _TlsSocket
            with self._lock:
                self._contexts[place.ca_file] = context
        wire.settimeout(clock.left_s)
        secured = context.wrap_socket(wire, server_hostname=place.host)
        assert isinstance(secured, _TlsSocket)
        return secured

    def _allowed(self, place: _Place, clock: _Clock) -> list[tuple[Any, ...]]:
        """The addresses that may be connected to. Denied when any of the name's is forbidden."""
        host = place.host.rstrip(".").lower()
        if why := addresses.forbidden_name(host):
            raise _forbidden(place, why)
        found = _resolved(place.host, place.port, clock.left_s)
        for *_, address in found:
            literal = ipaddress.ip_address(str(address[0]).partition("%")[0])
            why = addresses.forbidden_because(literal, place.via, named=host in self._allow_hosts)
            if why:
                raise _forbidden(place, why, literal)
        return found

    # What went wrong, in words.

    def _failure(self, endpoint: Endpoint, request: InferRequest, answer: _Answer) -> SlipwayError:
        error = _failure_of(endpoint, request, answer)
        if error is not None:
            return error
        known = self._models_served(endpoint)
        names = ", ".join(one_line(name, 60) for name in known[:10])
        return InferenceFailed(
            f"{_called(endpoint)}: the model server does not know this model (HTTP 404).",
            why=f"It said: {_said(answer)}",
            fix=f"The server serves {names}: use that name."
            if known
            else "Check the name in the request's path; on KServe it is the service's name.",
        )

    def _models_served(self, endpoint: Endpoint) -> list[str]:
        """The names that a V2 server knows, to propose one; empty when it does not say."""
        index = InferRequest(Protocol.V2, "/v2/repository/index", b"{}")
        try:
            answer = self._exchange(endpoint, "POST", index.path, index, timeout_s=2.0)
            models: Json = orjson.loads(answer.body) if answer.status == 200 else []
        except (SlipwayError, orjson.JSONDecodeError):
            return []
        if not isinstance(models, list):
            return []
        listed = [one for one in models if isinstance(one, dict)]
        return sorted({str(one.get("name")) for one in listed if one.get("state") != "UNAVAILABLE"})


def _sent_headers(
    endpoint: Endpoint, place: _Place, request: InferRequest | None
) -> Mapping[str, str]:
    headers = {
        "Host": endpoint.host or place.authority,
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "User-Agent": "slipway",
    }
    if request is not None:
        headers["Content-Type"] = request.content_type
    headers.update(addresses.headers_of(endpoint))
    if any(not value.isascii() or not value.isprintable() for value in headers.values()):
        raise ConfigError(
            "A header of the endpoint holds characters that headers cannot carry.",
            fix="Check the target's host name and token.",
        )
    return headers


def _called(endpoint: Endpoint) -> str:
    return one_line(endpoint.model_name, 80)


def _forbidden(place: _Place, why: str, address: addresses.Address | None = None) -> Denied:
    shown = "" if address is None or str(address) == place.host else f" ({address})"
    return Denied(
        f"The request was not sent: {one_line(place.host, 80)}{shown} is not allowed.",
        why=why,
        fix="Check the address that the service reports; it should be a gateway's or a server's.",
    )


@contextmanager
def _connection_errors(endpoint: Endpoint, clock: _Clock) -> Iterator[None]:
    """The one door for what sockets, TLS and HTTP raise."""
    name, where = _called(endpoint), one_line(endpoint.base_url, 120)
    try:
        yield
    except TimeoutError as error:
        raise Unreachable(
            f"{name} did not finish within {clock.timeout_s:g} s.",
            why=f"The time ran out while {clock.phase} at {where}.",
            fix="Raise the time limit, or look at the server's logs; a service that scaled to zero"
            " needs longer for its first answer.",
        ) from error
    except socket.gaierror as error:
        raise Unreachable(
            f"{name} cannot be reached: the name of {where} does not resolve.",
            why=one_line(error.strerror or error),
            fix=_unresolved_fix(endpoint),
        ) from error
    except ssl.SSLError as error:
        raise Unreachable(
            f"{name} cannot be reached: no trusted TLS connection to {where}.",
            why=one_line(getattr(error, "verify_message", "") or error.reason or error),
            fix="Set the target's CA file, or the host name that the certificate is for.",
        ) from error
    except (http.client.HTTPException, zlib.error) as error:
        if isinstance(error, ConnectionError):  # RemoteDisconnected is both
            raise _not_answered(endpoint, error, clock) from error
        closed = isinstance(error, http.client.IncompleteRead)
        raise InferenceFailed(
            f"{name}: the answer is broken.",
            why="The connection closed before the whole answer had come."
            if closed
            else f"{type(error).__name__}: {one_line(error)}",
            fix="Look at the server's logs, and at the gateway in front of it.",
        ) from error
    except OSError as error:
        raise _not_answered(endpoint, error, clock) from error


def _not_answered(endpoint: Endpoint, error: OSError, clock: _Clock) -> Unreachable:
    return Unreachable(
        f"{_called(endpoint)} did not answer at {one_line(endpoint.base_url, 120)}.",
        why=_reason(error, clock),
        fix="Check that the service is running (Endpoints page, `slipway status`).",
    )


def _reason(error: OSError, clock: _Clock) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "The connection was refused: nothing listens there."
    if isinstance(error, ConnectionError):
        return f"The connection was closed while {clock.phase}."
    return one_line(error.strerror or error) + "."


def _unresolved_fix(endpoint: Endpoint) -> str:
    # E14: KServe's default domain is example.com, which nobody can resolve.
    if ".example.com" in endpoint.base_url or ".svc.cluster.local" in endpoint.base_url:
        return (
            "Set the target's way in: the ingress' address with this name as Host, or the service"
            " proxy."
        )
    return "Check the name server, or set the target's way in."


_BROKEN_SCHEMA = ("enforce schema", "missing inputs", "InferenceRequest", "schema")


def _failure_of(endpoint: Endpoint, request: InferRequest, answer: _Answer) -> SlipwayError | None:
    """The error that a status stands for (kserve.md E12 to E17); None: the model is not known."""
    name, status, said = _called(endpoint), answer.status, _said(answer)
    if 300 <= status < 400:
        return InferenceFailed(
            f"{name} answered with a redirect (HTTP {status}), which is not followed.",
            why=f"It points to {one_line(answer.header('location'), 120) or 'nowhere'}.",
            fix="Set the target's way in to the address that answers itself.",
        )
    if status in {401, 403}:
        by_proxy = endpoint.via is WayIn.SERVICE_PROXY
        return Denied(
            f"{name} refused the request (HTTP {status}).",
            why=said,
            fix="Apply the Role slipway of deploy/rbac.yaml: requests take the API server's proxy."
            if by_proxy
            else "Log in again, or ask for access to the service.",
        )
    if status == 404:
        return _not_found(endpoint, request, answer)
    if status in {502, 503, 504}:
        return _nobody_behind(name, status, said)
    if status in {400, 413, 422, 500}:
        return _refused_rows(name, request, status, said)
    return InferenceFailed(
        f"{name} answered with HTTP {status}.", why=said, fix="Look at the server's logs."
    )


def _not_found(
    endpoint: Endpoint, request: InferRequest, answer: _Answer
) -> InferenceFailed | None:
    said = _json_of(answer)
    if isinstance(said, dict) and isinstance(said.get("error"), str):
        return None
    name = _called(endpoint)
    if isinstance(said, dict) and "detail" in said:
        return InferenceFailed(
            f"{name}: the model server has no path {one_line(request.path, 80)} (HTTP 404).",
            why="It does not speak this protocol, or its model has another name.",
            fix="Send the request by /invocations."
            if request.protocol is Protocol.V2
            else "Send the request by V2.",
        )
    return InferenceFailed(
        f"{name}: the gateway knows no such route (HTTP 404).",
        why="The answer is not a model server's: the Host header or the ingress' class is wrong, or"
        " the service has no route (yet).",
        fix="Check the service's address on Endpoints, or take another way in (service proxy).",
    )


def _nobody_behind(name: str, status: int, said: str) -> Unreachable:
    if status == 504:
        return Unreachable(
            f"The gateway gave up on {name} (HTTP 504).",
            why=said,
            fix="Raise the timeout of the service and of the ingress in front of it.",
        )
    return Unreachable(
        f"Nothing behind the gateway answers for {name} (HTTP {status}).",
        why=f"{said} The service is stopped, asleep, or starting.".strip(),
        fix="Look at its phase (Endpoints page, `slipway status`); start it, or send again.",
    )


def _refused_rows(name: str, request: InferRequest, status: int, said: str) -> InferenceFailed:
    if status == 413:
        fix = "Send fewer rows at a time, or raise the limit of the ingress."
    elif any(word in said for word in _BROKEN_SCHEMA) or status == 422:
        fix = "Build the request from the version's signature (`slipway predict --example`)."
    else:
        fix = (
            "Read the server's logs: the model failed on these rows, or the server could not write"
            " down what it gave."
        )
        if request.protocol is Protocol.V2:
            fix += " /invocations writes some outputs that V2 cannot: ask by it."
    return InferenceFailed(
        f"{name} could not answer {request.rows} row{'s' if request.rows != 1 else ''}"
        f" (HTTP {status}).",
        why=f"It said: {said}",
        fix=fix,
    )


def _json_of(answer: _Answer) -> Json:
    try:
        return orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        return None


def _said(answer: _Answer) -> str:
    """What an error's body says, in one line: its error field, or a traceback's last line."""
    said = _json_of(answer)
    if isinstance(said, dict):
        for key in ("error", "message", "detail"):
            if said.get(key):
                return _in_short(str(said[key]))
    text = answer.body[-4096:].decode("utf-8", "replace").strip()
    if not text:
        return "Nothing: the answer is empty."
    if text.endswith("</html>"):
        return "An HTML page, not a model server's answer."
    return _in_short(_last_statement(text))


_STATEMENT = re.compile(r"[\w.]+(?:Error|Exception|Warning|Exit|Interrupt|Conversion): ")
# MLflow repeats rows and schema before it says what is wrong (mlflow/pyfunc/__init__.py).
_SCHEMA_PREFACE = re.compile(r"(Failed to enforce schema) of data .*\bError: ", re.DOTALL)


def _last_statement(text: str) -> str:
    """A traceback ends in `module.Error: message`, and the message may have several lines."""
    lines = [line for line in text.splitlines() if line.strip()]
    for at in range(len(lines) - 1, -1, -1):
        if _STATEMENT.match(lines[at]):
            return "\n".join(lines[at:])
    return lines[-1]


def _in_short(text: str) -> str:
    return one_line(_SCHEMA_PREFACE.sub(r"\1: ", text))


def _answered_by(
    endpoint: Endpoint, protocol: Protocol, answer: _Answer
) -> tuple[VersionRef | None, int | None]:
    """The version and release that answered: by our gateway's headers, else by the V2 answer."""
    version, release = _named_by_headers(endpoint, answer)
    if version is not None or protocol is not Protocol.V2 or answer.cut:
        return version, release
    body = bench.answer_of(answer.body)
    number = _number(str(body.get("model_version") or ""))
    model = endpoint.registered_model or endpoint.model_name
    return (VersionRef(model, number) if number else None), release


def _named_by_headers(endpoint: Endpoint, answer: _Answer) -> tuple[VersionRef | None, int | None]:
    release = _number(answer.header(RELEASE_HEADER)) or endpoint.release
    named = answer.header(VERSION_HEADER)
    if _number(named or ""):
        return VersionRef(endpoint.registered_model or endpoint.model_name, int(named)), release
    if named:
        with suppress(NotFound):
            ref = parse_ref(named)
            if isinstance(ref, VersionRef) and not isinstance(ref, AliasRef):
                return ref, release
    return None, release


def _as_met(failure: SlipwayError, endpoint: Endpoint, answer: _Answer) -> SlipwayError:
    """The failure, told what was answered, and by whom, which way and how soon."""
    failure.said = answer.body[:SAID_BYTES]
    version, release = _named_by_headers(endpoint, answer)
    who = ", ".join(filter(None, (str(version or ""), f"release {release}" if release else "")))
    took = answer.timing
    spans = {"to connect": took.connect_s, "waiting": took.wait_s, "reading": took.read_s}
    told = ", ".join(f"{seconds * 1e3:.3g} ms {doing}" for doing, seconds in spans.items())
    came = f"It was {f'answered by {one_line(who)}' if who else 'answered'} via {endpoint.via}"
    failure.met = f"{came}: {told}."
    return failure


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else None
