"""Google as far as Slipway knows it, scripted: token endpoints and the Container API, over HTTPS.

One server on loopback plays both; what it was asked is kept. Its certificate is of a CA of its own,
and the API server in front of which it stands has another, as on GKE.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

PROJECT, LOCATION, CLUSTER = "acme-ml", "asia-northeast1", "serving"
ACCOUNT = "deployer@acme-ml.iam.gserviceaccount.com"
SECRET = "the-subject-token"
"""What an external account proves itself with: it must stand in no message."""


class Authority:
    """A certificate authority with one server certificate, for 127.0.0.1."""

    def __init__(self, folder: Path, name: str) -> None:
        """Write `<name>.pem` (the CA) and the server's certificate and key into `folder`."""
        key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        issuer = _name(f"{name} CA")
        ca = (
            _certificate(issuer, issuer, key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        server = (
            _certificate(_name(name), issuer, server_key)
            .add_extension(address, critical=False)
            .sign(key, hashes.SHA256())
        )
        self.pem = ca.public_bytes(serialization.Encoding.PEM).decode()
        self.file = folder / f"{name}.pem"
        self.file.write_text(self.pem)
        self._server = folder / f"{name}-server.pem"
        self._server.write_bytes(
            _private(server_key) + server.public_bytes(serialization.Encoding.PEM)
        )

    @property
    def tls(self) -> ssl.SSLContext:
        """A server's side of TLS."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._server)
        return context


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
    )


def _private(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


@dataclass
class Google:
    """The scripted service. Fields say how it behaves from now on."""

    folder: Path
    life_s: float = 3600.0
    """Life of the tokens that it gives."""
    exchanges: list[float] = field(default_factory=list)
    """When it gave a token."""
    asked: list[str] = field(default_factory=list)
    """Paths that the Container API was asked for."""
    tokens: dict[str, float] = field(default_factory=dict)
    """Token → when it ends."""
    token_answer: tuple[int, dict[str, Any]] | None = None
    """What the token endpoint answers instead of a token."""
    api_answer: tuple[int, dict[str, Any]] | None = None
    """What the Container API answers instead of the facts."""
    slow_s: float = 0.0
    """How long every answer takes."""
    clusters: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    """(location, name) → description."""
    port: int = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"https://127.0.0.1:{self.port}"

    @cached_property
    def authority(self) -> Authority:
        """The CA of its own certificate."""
        return Authority(self.folder, "google")

    def takes(self, authorization: str) -> bool:
        """Whether a token of ours still holds: what the API server asks Google."""
        ends = self.tokens.get(authorization.removeprefix("Bearer "), 0.0)
        return time.monotonic() < ends

    def revoke(self) -> None:
        """End every token now."""
        self.tokens.clear()

    def adds(self, endpoint: str, ca_pem: str, name: str = CLUSTER, **more: Any) -> None:
        """Describe a cluster as the Container API does."""
        self.clusters[LOCATION, name] = {
            "name": name,
            "location": LOCATION,
            "status": "RUNNING",
            "endpoint": endpoint,
            "masterAuth": {"clusterCaCertificate": base64.b64encode(ca_pem.encode()).decode()},
            "workloadIdentityConfig": {"workloadPool": f"{PROJECT}.svc.id.goog"},
            "currentMasterVersion": "1.34.1-gke.100",
            **more,
        }

    # ── Credentials ───────────────────────────────────────────────────────────────────────────

    def service_account(self) -> Path:
        """A service account's key file, as `GOOGLE_APPLICATION_CREDENTIALS` names it."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        return self._credentials(
            "service-account",
            {
                "type": "service_account",
                "project_id": PROJECT,
                "private_key_id": "1",
                "private_key": _private(key).decode(),
                "client_email": ACCOUNT,
                "client_id": "1",
                "token_uri": f"{self.url}/token",
            },
        )

    def external_account(self) -> Path:
        """Workload Identity Federation, as google-github-actions/auth writes it."""
        subject = self.folder / "subject"
        subject.write_text(SECRET)
        pool = "projects/1/locations/global/workloadIdentityPools/github/providers/github"
        return self._credentials(
            "external-account",
            {
                "type": "external_account",
                "audience": f"//iam.googleapis.com/{pool}",
                "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
                "token_url": f"{self.url}/sts",
                "credential_source": {"file": str(subject)},
            },
        )

    def _credentials(self, name: str, said: dict[str, Any]) -> Path:
        file = self.folder / f"{name}.json"
        file.write_text(json.dumps(said))
        return file

    def environment(self, credentials: Path) -> dict[str, str]:
        """What a process needs to take this for Google."""
        return {
            "GOOGLE_APPLICATION_CREDENTIALS": str(credentials),
            "REQUESTS_CA_BUNDLE": str(self.authority.file),
            "NO_PROXY": "127.0.0.1",
            "SLIPWAY_GOOGLE__CONTAINER_API": self.url,
        }

    # ── Answers ───────────────────────────────────────────────────────────────────────────────

    def token_reply(self) -> tuple[int, dict[str, Any]]:
        """A new token, or what the script says."""
        if self.token_answer is not None:
            return self.token_answer
        self.exchanges.append(time.monotonic())
        token = f"ya29.{len(self.exchanges)}"
        self.tokens[token] = time.monotonic() + self.life_s
        return 200, {
            "access_token": token,
            "expires_in": int(self.life_s),
            "token_type": "Bearer",
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
        }

    def api_reply(self, path: str, authorization: str) -> tuple[int, dict[str, Any]]:
        """What the Container API says to whom."""
        self.asked.append(path)
        if not self.takes(authorization):
            return _error(401, "Request had invalid authentication credentials.")
        if self.api_answer is not None:
            return self.api_answer
        match path.removeprefix("/v1/").split("/"):
            case ["projects", project, "locations", "-", "clusters"] if project == PROJECT:
                return 200, {"clusters": list(self.clusters.values())}
            case ["projects", project, "locations", location, "clusters", name] if (
                project == PROJECT and (location, name) in self.clusters
            ):
                return 200, self.clusters[location, name]
            case _:
                return _error(404, f"Not found: {path.removeprefix('/v1/')}.")


def _error(status: int, message: str, reason: str = "") -> tuple[int, dict[str, Any]]:
    details = [{"reason": reason}] if reason else []
    return status, {"error": {"code": status, "message": message, "details": details}}


error = _error
"""An answer in the form of Google's errors."""


class _Handler(BaseHTTPRequestHandler):
    google: Google

    def do_GET(self) -> None:
        time.sleep(self.google.slow_s)
        self._answer(self.google.api_reply(self.path, self.headers.get("Authorization", "")))

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        time.sleep(self.google.slow_s)
        self._answer(self.google.token_reply())

    def _answer(self, said: tuple[int, dict[str, Any]]) -> None:
        body = json.dumps(said[1]).encode()
        self.send_response(said[0])
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base's name)
        """Keep quiet."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that gave up waiting is part of the script."""


@contextmanager
def listening(folder: Path) -> Iterator[Google]:
    """Google on loopback until the block ends."""
    google = Google(folder)
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"google": google}))
    server.socket = google.authority.tls.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    google.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="google", daemon=True)
    thread.start()
    try:
        yield google
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
