"""ports.Predictor on hostile and broken servers: bounded in time and bytes, and no proxy.

The first tests hold for the predictor in memory too; the rest is what only a wire can do.
"""

from __future__ import annotations

import gzip
import ipaddress
import re
import socket
import ssl
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from services import bench
from services.addresses import forbidden_because
from services.domain import Endpoint, InferRequest, Protocol, VersionRef, WayIn
from services.errors import ConfigError, Denied, InferenceFailed, SlipwayError, Unreachable
from services.ports import Predictor
from services.predictor import HttpPredictor
from tests.contract.scripted import Scripted, Visit, serving
from tests.memory import World

ANSWER = (
    b'{"model_name": "wine", "model_version": "3", "outputs": '
    b'[{"name": "output-1", "shape": [1, 1], "datatype": "INT64", "data": [2]}]}'
)
ASK = InferRequest(Protocol.V2, "/v2/models/wine/infer", b'{"inputs": []}')


def answers(visit: Visit) -> None:
    while visit.request():
        visit.answer(ANSWER)


def endpoint(server: Scripted, via: WayIn = WayIn.LOOPBACK) -> Endpoint:
    return Endpoint(server.url, "wine", via)


@pytest.fixture
def predictor() -> Iterator[HttpPredictor]:
    found = HttpPredictor(max_bytes=2**20)
    yield found
    found.close()


# ── Every predictor ───────────────────────────────────────────────────────────────────────────


@pytest.fixture(params=["memory", "http"])
def any_predictor(
    request: pytest.FixtureRequest, world: World
) -> Iterator[tuple[Predictor, Endpoint]]:
    if request.param == "memory":
        world.serves("wine", verified=[3])
        yield world.predictor, world.serving.endpoint("wine")
        return
    with serving(answers) as server:
        yield HttpPredictor(), endpoint(server)


def test_a_request_gives_one_value_per_row(any_predictor: tuple[Predictor, Endpoint]) -> None:
    predictor, place = any_predictor

    prediction = predictor.infer(place, ASK)

    assert [len(output.values) for output in prediction.outputs] == [ASK.rows]


def test_a_model_that_answers_is_ready(any_predictor: tuple[Predictor, Endpoint]) -> None:
    predictor, place = any_predictor

    assert predictor.ready(place)


def test_an_answer_says_how_it_was_reached(any_predictor: tuple[Predictor, Endpoint]) -> None:
    predictor, place = any_predictor

    prediction = predictor.infer(place, ASK)

    assert (prediction.via, prediction.http_status) == (place.via, 200)


# ── Who answered, and how long it took ────────────────────────────────────────────────────────


def test_a_v2_answer_names_its_version(predictor: HttpPredictor) -> None:
    with serving(answers) as server:
        assert predictor.infer(endpoint(server), ASK).version == VersionRef("wine", 3)


def test_the_gateways_headers_name_release_and_version(predictor: HttpPredictor) -> None:
    def script(visit: Visit) -> None:
        visit.request()
        visit.answer(ANSWER, headers="X-Slipway-Release: 12\r\nX-Slipway-Version: red wine/7\r\n")

    with serving(script) as server:
        prediction = predictor.infer(endpoint(server), ASK)

    assert (prediction.version, prediction.release) == (VersionRef("red wine", 7), 12)


def test_the_version_is_one_of_the_registered_model_and_not_of_the_service(
    predictor: HttpPredictor,
) -> None:
    def script(visit: Visit) -> None:
        visit.request()
        visit.answer(ANSWER, headers="X-Slipway-Release: 12\r\nX-Slipway-Version: 7\r\n")

    with serving(script) as server:
        asked = replace(endpoint(server), registered_model="red wine")
        prediction = predictor.infer(asked, ASK)

    assert prediction.version == VersionRef("red wine", 7)


def test_time_is_split_where_the_bytes_pass(predictor: HttpPredictor) -> None:
    def script(visit: Visit) -> None:
        visit.request()
        visit.pause(0.2)
        visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(ANSWER))
        visit.pause(0.3)
        visit.send(ANSWER)

    with serving(script) as server:
        timing = predictor.infer(endpoint(server), ASK).timing

    assert timing.connect_s > 0
    assert timing.wait_s >= 0.19
    assert timing.read_s >= 0.29


def test_a_kept_connection_takes_no_time_to_connect(predictor: HttpPredictor) -> None:
    with serving(answers) as server:
        predictor.infer(endpoint(server), ASK)
        second = predictor.infer(endpoint(server), ASK)

        assert (second.timing.connect_s, server.visits) == (0.0, 1)


# ── Connections that servers close ────────────────────────────────────────────────────────────


def test_after_a_server_error_the_next_request_takes_a_new_connection(
    predictor: HttpPredictor,
) -> None:
    # MLServer 1.7.1 answers a broken schema with a traceback, then resets the connection.
    def script(visit: Visit) -> None:
        visit.request()
        if visit.number == 1:
            visit.answer(b"Traceback:\nValueError: no\n", status="500 Internal Server Error")
            visit.request()
            return
        visit.answer(ANSWER)

    with serving(script) as server:
        with pytest.raises(InferenceFailed, match="500"):
            predictor.infer(endpoint(server), ASK)
        assert predictor.infer(endpoint(server), ASK).http_status == 200


def test_a_kept_connection_that_closes_unanswered_is_tried_once_more(
    predictor: HttpPredictor,
) -> None:
    def script(visit: Visit) -> None:
        visit.request()
        visit.answer(ANSWER)
        visit.request()  # takes the second request, and goes away without a byte

    with serving(script) as server:
        predictor.infer(endpoint(server), ASK)
        assert predictor.infer(endpoint(server), ASK).http_status == 200
        assert server.visits == 2


def test_a_new_connection_that_closes_unanswered_is_the_servers_failure(
    predictor: HttpPredictor,
) -> None:
    def script(visit: Visit) -> None:
        visit.request()

    with serving(script) as server:
        with pytest.raises(Unreachable, match="closed while waiting"):
            predictor.infer(endpoint(server), ASK)
        assert server.visits == 1


def test_nothing_listening_is_said(predictor: HttpPredictor) -> None:
    with serving(answers) as server:
        gone = endpoint(server)

    with pytest.raises(Unreachable, match="nothing listens"):
        predictor.infer(gone, ASK)
    assert not predictor.ready(gone)


# ── Bounded in time ───────────────────────────────────────────────────────────────────────────


def drips_its_body(visit: Visit) -> None:
    visit.request()
    visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(100):
        visit.send(b" ")
        visit.pause(0.1)


def drips_its_headers(visit: Visit) -> None:
    visit.request()
    for byte in b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 100:
        visit.send(bytes([byte]))
        visit.pause(0.1)


def never_answers(visit: Visit) -> None:
    visit.request()
    visit.pause(30)


def sends_informational_answers_for_ever(visit: Visit) -> None:
    visit.request()
    while not visit.server.stopped.is_set():
        visit.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        visit.pause(0.05)


def sends_empty_chunks_of_gzip_for_ever(visit: Visit) -> None:
    visit.request()
    visit.send(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n")
    zipper = zlib.compressobj(wbits=31)
    while not visit.server.stopped.is_set():
        piece = zipper.compress(b"") + zipper.flush(zlib.Z_FULL_FLUSH)
        visit.send(b"%x\r\n%s\r\n" % (len(piece), piece))
        visit.pause(0.05)


@pytest.mark.parametrize(
    "script",
    [
        drips_its_body,
        drips_its_headers,
        never_answers,
        sends_informational_answers_for_ever,
        sends_empty_chunks_of_gzip_for_ever,
    ],
)
def test_a_slow_server_cannot_hold_a_request_beyond_its_limit(
    predictor: HttpPredictor, script: Callable[[Visit], None]
) -> None:
    with serving(script) as server:
        started = time.monotonic()
        with pytest.raises(Unreachable, match="did not finish within 1 s"):
            predictor.infer(endpoint(server), ASK, timeout_s=1.0)
        assert 0.5 <= time.monotonic() - started <= 1.5


def test_a_tls_handshake_that_stalls_ends_at_the_limit(predictor: HttpPredictor) -> None:
    with serving(lambda visit: visit.pause(30)) as server:
        stalls = Endpoint(f"https://127.0.0.1:{server.port}", "wine", WayIn.LOOPBACK)
        started = time.monotonic()
        with pytest.raises(Unreachable, match="while connecting"):
            predictor.infer(stalls, ASK, timeout_s=1.0)
        assert 0.5 <= time.monotonic() - started <= 1.5


def test_a_server_that_never_reads_cannot_hold_a_large_request(predictor: HttpPredictor) -> None:
    large = InferRequest(Protocol.V2, ASK.path, b" " * 20_000_000)
    with serving(lambda visit: visit.pause(30)) as server:
        started = time.monotonic()
        with pytest.raises(Unreachable):
            predictor.infer(endpoint(server), large, timeout_s=1.0)
        assert time.monotonic() - started <= 1.5


# ── Bounded in bytes ──────────────────────────────────────────────────────────────────────────


def two_gibibytes(visit: Visit) -> None:
    visit.request()
    visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % 2**31)
    for _ in range(2**15):
        visit.send(b" " * 2**16)


def endless_chunks(visit: Visit) -> None:
    visit.request()
    visit.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not visit.server.stopped.is_set():
        visit.send(b"10000\r\n" + b" " * 2**16 + b"\r\n")


def gzip_bomb(visit: Visit) -> None:
    """Ten gigabytes of spaces in about ten megabytes."""
    visit.request()
    zipper = zlib.compressobj(9, wbits=31)
    visit.send(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n")
    for _ in range(10_000):
        visit.send(zipper.compress(b" " * 2**20))


MEASURE = """
import resource, sys
from services.domain import Endpoint, InferRequest, Protocol, WayIn
from services.predictor import HttpPredictor

predictor = HttpPredictor()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
prediction = predictor.infer(
    Endpoint(sys.argv[1], "wine", WayIn.LOOPBACK), InferRequest(Protocol.V2, "/x", b"{}"), 20.0
)
unit = 1 if sys.platform == "darwin" else 1024
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit
print(int(prediction.cut), len(prediction.raw), len(prediction.outputs), grown)
"""


@pytest.mark.parametrize("script", [two_gibibytes, endless_chunks, gzip_bomb])
def test_a_huge_answer_is_cut_and_marked_in_little_memory(script: Callable[[Visit], None]) -> None:
    # In a process of its own: the peak of this one's memory is no measure of one request.
    with serving(script) as server:
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, server.url],
            capture_output=True,
            check=True,
            text=True,
            timeout=120,
            cwd=Path(__file__).parents[2],
        )
    cut, kept, outputs, grown = map(int, done.stdout.split())

    assert (cut, kept, outputs) == (1, 8 * 2**20, 0)
    assert grown < 64 * 2**20


def test_json_nested_a_million_deep_is_refused_in_words() -> None:
    def script(visit: Visit) -> None:
        visit.request()
        visit.answer(b"[" * 1_000_000 + b"]" * 1_000_000)

    with serving(script) as server, pytest.raises(InferenceFailed, match="nested more than"):
        HttpPredictor().infer(endpoint(server), ASK)


def test_an_answer_that_ends_early_is_broken(predictor: HttpPredictor) -> None:
    def script(visit: Visit) -> None:
        visit.request()
        visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")

    with serving(script) as server, pytest.raises(InferenceFailed, match="before the whole"):
        predictor.infer(endpoint(server), ASK)


@pytest.mark.parametrize(
    "garbage", [b"SSH-2.0-OpenSSH_9\r\n", b"\x00" * 100_000, b"HTTP/1.1 abc\r\n\r\n"]
)
def test_an_answer_that_is_no_http_is_refused_in_words(
    predictor: HttpPredictor, garbage: bytes
) -> None:
    def script(visit: Visit) -> None:
        visit.request()
        visit.send(garbage)

    with serving(script) as server, pytest.raises(InferenceFailed, match="broken"):
        predictor.infer(endpoint(server), ASK)


def test_gzip_that_nobody_asked_for_is_read(predictor: HttpPredictor) -> None:
    def script(visit: Visit) -> None:
        visit.request()
        visit.answer(gzip.compress(ANSWER), headers="Content-Encoding: gzip\r\n")

    with serving(script) as server:
        prediction = predictor.infer(endpoint(server), ASK)
        assert prediction.outputs[0].values == (2,)
        assert b"accept-encoding: identity" in server.requests[0].lower()


# ── No proxy ──────────────────────────────────────────────────────────────────────────────────

ON_THIS_MACHINE = (
    "127.0.0.1",
    "localhost",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "127.1",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "0.0.0.0",
    "[::]",
)


@pytest.mark.parametrize("host", ON_THIS_MACHINE)
def test_an_address_on_this_machine_gets_no_packet_when_a_cluster_named_it(
    predictor: HttpPredictor, host: str
) -> None:
    with serving(answers) as server:
        named = Endpoint(f"http://{host}:{server.port}", "wine", WayIn.INGRESS)
        with pytest.raises((Denied, Unreachable)):
            predictor.infer(named, ASK, timeout_s=2.0)
        assert server.visits == 0


def test_a_host_that_the_settings_name_may_be_on_this_machine() -> None:
    with serving(answers) as server:
        predictor = HttpPredictor(allow_hosts=["127.0.0.1"])

        assert predictor.infer(endpoint(server, WayIn.INGRESS), ASK).http_status == 200


METADATA = (
    "169.254.169.254",
    "169.254.170.2",
    "fe80::1",
    "fd00:ec2::254",
    "fd20:ce::254",
    "::ffff:169.254.169.254",
    "::169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "100.100.100.200",
    "168.63.129.16",
)


@pytest.mark.parametrize("via", list(WayIn))
@pytest.mark.parametrize("address", METADATA)
def test_a_metadata_service_is_refused_by_every_way_in(address: str, via: WayIn) -> None:
    assert "metadata" in forbidden_because(ipaddress.ip_address(address), via, named=True)


@pytest.mark.parametrize(
    "host", ["metadata.google.internal", "METADATA.google.internal.", "metadata"]
)
def test_a_metadata_services_name_is_not_even_looked_up(
    predictor: HttpPredictor, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **_: asked.append(given))

    with pytest.raises(Denied, match="metadata"):
        predictor.infer(Endpoint(f"http://{host}", "wine", WayIn.INGRESS), ASK)
    assert not asked


@pytest.mark.parametrize("host", ["2852039166", "0xa9fea9fe", "[::ffff:169.254.169.254]"])
def test_other_spellings_of_the_metadata_address_are_refused(
    predictor: HttpPredictor, host: str
) -> None:
    with pytest.raises(Denied, match="metadata"):
        predictor.infer(Endpoint(f"http://{host}/", "wine", WayIn.INGRESS), ASK)


def test_a_name_that_is_rebound_after_the_check_moves_nothing(
    predictor: HttpPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(answers) as good, serving(answers, "127.0.0.2") as bad:
        turns = iter([("127.0.0.1", good.port), ("127.0.0.2", bad.port), ("127.0.0.2", bad.port)])

        def rebinding(*_: object, **__: object) -> list[tuple[object, ...]]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", next(turns))]

        monkeypatch.setattr(socket, "getaddrinfo", rebinding)
        moving = Endpoint("http://moving.test:80", "wine", WayIn.LOOPBACK)

        assert predictor.infer(moving, ASK).http_status == 200
        assert (good.visits, bad.visits) == (1, 0)
        assert b"\r\nHost: moving.test\r\n" in good.requests[0]


def test_a_name_with_one_forbidden_address_is_refused_whole(
    predictor: HttpPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(answers) as server:
        both = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.port)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 80)),
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)

        with pytest.raises(Denied, match="metadata"):
            predictor.infer(Endpoint("http://two.test", "wine", WayIn.LOOPBACK), ASK)
        assert server.visits == 0


def test_a_redirect_is_not_followed(predictor: HttpPredictor) -> None:
    with serving(answers) as other:

        def script(visit: Visit) -> None:
            visit.request()
            visit.answer(b"", status="302 Found", headers=f"Location: {other.url}/\r\n")

        with serving(script) as server, pytest.raises(InferenceFailed, match="redirect"):
            predictor.infer(endpoint(server), ASK)
        assert other.visits == 0


def test_proxies_and_a_netrc_of_the_environment_are_not_used(
    predictor: HttpPredictor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with serving(answers) as proxy, serving(answers) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)

        predictor.infer(endpoint(server), ASK)

        assert proxy.visits == 0
        assert b"authorization" not in server.requests[0].lower()


def test_a_cookie_is_not_sent_back(predictor: HttpPredictor) -> None:
    def script(visit: Visit) -> None:
        while visit.request():
            visit.answer(ANSWER, headers="Set-Cookie: session=1\r\n")

    with serving(script) as server:
        predictor.infer(endpoint(server), ASK)
        predictor.infer(endpoint(server), ASK)
        assert b"cookie" not in server.requests[1].lower()


@pytest.mark.parametrize("name", ["Metadata-Flavor", "Cookie", "Host", "X-Forwarded-For"])
def test_a_header_outside_the_list_is_refused(predictor: HttpPredictor, name: str) -> None:
    with serving(answers) as server:
        with pytest.raises(ConfigError, match="is not sent"):
            predictor.infer(
                Endpoint(server.url, "wine", WayIn.LOOPBACK, headers=((name, "x"),)), ASK
            )
        assert server.visits == 0


@pytest.mark.parametrize(
    ("base_url", "host"),
    [
        ("http://me:secret@127.0.0.1:1", None),
        ("file:///etc/passwd", None),
        ("http://127.0.0.1:99999", None),
        ("http://", None),
        ("http://127.0.0.1:1/a b", None),
        ("http://127.0.0.1:1", "wine\r\nX-Evil: 1"),
    ],
)
def test_an_address_that_is_no_plain_one_is_refused(
    predictor: HttpPredictor, base_url: str, host: str | None
) -> None:
    with pytest.raises(ConfigError):
        predictor.infer(Endpoint(base_url, "wine", WayIn.LOOPBACK, host=host), ASK)


# ── Errors in words ───────────────────────────────────────────────────────────────────────────


BROKEN_SCHEMA = b"""Traceback (most recent call last):
  File "x.py", line 1, in predict
mlflow.exceptions.MlflowException: Failed to enforce schema of data '   d
0 1' with schema '['d': double (required)]'. Error: Model is missing inputs ['f'].
"""


@pytest.mark.parametrize(
    ("status", "headers", "body", "kind", "words"),
    [
        ("404 Not Found", "server: istio-envoy\r\n", b"", InferenceFailed, "no such route"),
        ("404 Not Found", "", b"default backend - 404", InferenceFailed, "no such route"),
        ("404 Not Found", "", b'{"error":"Model x not found"}', InferenceFailed, "Model x not"),
        ("404 Not Found", "", b'{"detail":"Not Found"}', InferenceFailed, "has no path"),
        ("400 Bad Request", "", b'{"error":"Invalid shape"}', InferenceFailed, "Invalid shape"),
        (
            "422 Unprocessable Entity",
            "",
            b'{"detail":[{"msg":"Field required"}]}',
            InferenceFailed,
            "Field required",
        ),
        (
            "500 Internal Server Error",
            "",
            BROKEN_SCHEMA,
            InferenceFailed,
            r"Failed to enforce schema: Model is missing inputs \['f'\]",
        ),
        ("500 Internal Server Error", "", b"", InferenceFailed, "the answer is empty"),
        ("401 Unauthorized", "", b"{}", Denied, "refused the request"),
        ("403 Forbidden", "", b"RBAC: access denied", Denied, "RBAC"),
        ("503 Service Unavailable", "", b"no healthy upstream", Unreachable, "asleep"),
        ("502 Bad Gateway", "", b"<html></html>", Unreachable, "HTML page"),
        ("504 Gateway Timeout", "", b"upstream request timeout", Unreachable, "gave up"),
        ("429 Too Many Requests", "", b"slow down", InferenceFailed, "429"),
        ("200 OK", "", b"<html>log in</html>", InferenceFailed, "no JSON"),
        ("200 OK", "", b'{"predictions": [1]}', InferenceFailed, 'no "outputs"'),
        ("200 OK", "", b'{"outputs": [{}]}', InferenceFailed, "no shape or no data"),
    ],
)
def test_an_answer_that_is_no_prediction_is_explained(
    predictor: HttpPredictor,
    status: str,
    headers: str,
    body: bytes,
    *,
    kind: type[SlipwayError],
    words: str,
) -> None:
    def script(visit: Visit) -> None:
        visit.request()
        visit.answer(body, status=status, headers=headers)

    with serving(script) as server, pytest.raises(kind, match=words):
        predictor.infer(endpoint(server), ASK)


def test_a_failure_tells_who_answered_which_way_and_how_soon(predictor: HttpPredictor) -> None:
    def script(visit: Visit) -> None:
        visit.request()
        told = "X-Slipway-Release: 4\r\nX-Slipway-Version: 3\r\n"
        visit.answer(b"", status="500 Internal Server Error", headers=told)

    with serving(script) as server, pytest.raises(InferenceFailed) as failed:
        predictor.infer(endpoint(server), ASK)
    assert failed.value.met.startswith("It was answered by wine/3, release 4 via loopback: ")
    assert re.search("ms to connect, .* ms waiting, .* ms reading", failed.value.met)


def test_a_body_refused_before_it_was_read_is_said_to_be_too_large(
    predictor: HttpPredictor,
) -> None:
    def script(visit: Visit) -> None:
        visit.socket.recv(1000)
        visit.answer(b"too large", status="413 Content Too Large")
        visit.socket.shutdown(socket.SHUT_RDWR)

    large = InferRequest(Protocol.V2, ASK.path, b" " * 20_000_000)
    with serving(script) as server, pytest.raises(InferenceFailed, match="fewer rows"):
        predictor.infer(endpoint(server), large)


def test_an_unknown_model_brings_the_names_that_are_served(predictor: HttpPredictor) -> None:
    def script(visit: Visit) -> None:
        while asked := visit.request():
            if b"/v2/repository/index" in asked:
                visit.answer(b'[{"name": "red-wine", "state": "READY"}]')
            else:
                visit.answer(b'{"error": "Model wine not found"}', status="404 Not Found")

    with serving(script) as server, pytest.raises(InferenceFailed) as caught:
        predictor.infer(endpoint(server), ASK)
    assert "red-wine" in caught.value.fix


def test_what_a_server_says_cannot_forge_a_line(predictor: HttpPredictor) -> None:
    def script(visit: Visit) -> None:
        visit.request()
        visit.answer(b'{"error": "no\\n\\u001b[31mall good\\u202e"}', status="400 Bad Request")

    with serving(script) as server, pytest.raises(InferenceFailed) as caught:
        predictor.infer(endpoint(server), ASK)
    assert str(caught.value).isprintable()


def test_a_name_that_does_not_resolve_is_said(
    predictor: HttpPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)

    with pytest.raises(Unreachable) as caught:
        predictor.infer(Endpoint("http://wine.default.example.com", "wine", WayIn.INGRESS), ASK)
    assert "Host" in caught.value.fix


# ── TLS ───────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def tls_serving(folder: Path, name: str) -> Iterator[tuple[Scripted, Path]]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    ca_file, key_file = folder / "ca.pem", folder / "key.pem"
    ca_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(ca_file, key_file)

    def script(visit: Visit) -> None:
        with context.wrap_socket(visit.socket, server_side=True) as secured:
            answers(Visit(secured, visit.number, visit.server))

    with serving(script) as server:
        yield server, ca_file


def test_a_trusted_certificate_is_believed(predictor: HttpPredictor, tmp_path: Path) -> None:
    with tls_serving(tmp_path, "localhost") as (server, ca_file):
        place = Endpoint(
            f"https://localhost:{server.port}", "wine", WayIn.LOOPBACK, ca_file=str(ca_file)
        )

        assert predictor.infer(place, ASK).outputs[0].values == (2,)
        assert predictor.infer(place, ASK).timing.connect_s == 0.0


@pytest.mark.parametrize("trusted", [False, True])
def test_a_certificate_that_is_not_for_us_is_refused(
    predictor: HttpPredictor, tmp_path: Path, *, trusted: bool
) -> None:
    with tls_serving(tmp_path, "elsewhere.test") as (server, ca_file):
        place = Endpoint(
            f"https://localhost:{server.port}",
            "wine",
            WayIn.LOOPBACK,
            ca_file=str(ca_file) if trusted else None,
        )
        with pytest.raises(Unreachable, match="no trusted TLS"):
            predictor.infer(place, ASK)
        assert not server.requests


# ── Requests as text ──────────────────────────────────────────────────────────────────────────

HOSTILE = "it's; $(touch pwned) `id` \"x\" \\ \n '''\n@file %s {{ }} \u202e 🍷"


def run_curl(text: str, folder: Path) -> None:
    subprocess.run(["sh", "-c", text], check=True, cwd=folder, env=SECRET, timeout=60)


def run_python(text: str, folder: Path) -> None:
    subprocess.run([sys.executable, "-c", text], check=True, cwd=folder, env=SECRET, timeout=60)


SECRET = {
    "PATH": "/usr/bin:/bin:/usr/local/bin:/opt/homebrew/bin",
    "SLIPWAY_AUTHORIZATION": "Bearer s3cret",
}


@pytest.mark.parametrize(
    ("show", "run"),
    [(bench.as_curl, run_curl), (bench.as_python, run_python)],
    ids=["curl", "python"],
)
def test_a_shown_request_runs_as_pasted_and_sends_the_same(
    show: Callable[[Endpoint, InferRequest], str],
    run: Callable[[str, Path], None],
    tmp_path: Path,
) -> None:
    rows = bench.Rows(("x", HOSTILE), ((1.5, HOSTILE), (None, "@/etc/passwd")))
    request = bench.request_for(None, rows, model_name=HOSTILE, protocol=Protocol.V2)
    with serving(answers) as server:
        place = Endpoint(
            server.url,
            "wine",
            WayIn.LOOPBACK,
            host="wine.default.example.com",
            headers=(("Authorization", "Bearer s3cret"), ("X-Slipway-Release", "4")),
        )
        text = show(place, request)
        run(text, tmp_path)
        head, _, body = server.requests[0].partition(b"\r\n\r\n")

    assert "s3cret" not in text
    assert orjson.loads(body) == orjson.loads(request.body)
    assert f"POST {request.path} HTTP/1.1".encode() in head
    assert b"host: wine.default.example.com" in head.lower()
    assert b"authorization: bearer s3cret" in head.lower()
    assert b"x-slipway-release: 4" in head.lower()
    assert not list(tmp_path.iterdir())


def test_a_large_body_is_shown_as_a_files_name() -> None:
    request = InferRequest(Protocol.V2, "/x", b'{"inputs": [' + b"1," * 100_000 + b"1]}")
    place = Endpoint("http://127.0.0.1:1", "wine", WayIn.LOOPBACK)

    assert "@request.json" in bench.as_curl(place, request)
    assert 'open("request.json"' in bench.as_python(place, request)
