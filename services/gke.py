"""Clusters of Google Kubernetes Engine, reached without a kubeconfig and without a plugin.

Address and CA come from Google's Container API, the token from google-auth's Application Default
Credentials: a person's login, a service account, an external account (Workload Identity
Federation). Nothing is kept but in memory.

Read against container.googleapis.com v1 and google-auth 2.62. Google's own service was never
reached from the tests: they script both of its interfaces (tests/google.py).
"""

from __future__ import annotations

import base64
import binascii
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlsplit

import google.auth
import orjson
from google.auth import exceptions as auth_errors
from google.auth.credentials import with_scopes_if_required
from google.auth.transport import requests as google_requests

from services.access import KeptToken, Token
from services.domain import Json
from services.errors import (
    ConfigError,
    Denied,
    NotFound,
    SlipwayError,
    Unreachable,
    one_line,
)

CONTAINER_API = "https://container.googleapis.com"
TIMEOUT_S = 8.0
"""Per request to Google. google-auth itself tries a token endpoint that stumbles three times."""

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_USABLE = frozenset({"RUNNING", "RECONCILING", "DEGRADED"})
"""Statuses in which the API server answers; DEGRADED has sick nodes or an upgrade that failed."""
_LOG_IN = (
    "Log in again: gcloud auth application-default login. In CI, let google-github-actions/auth run"
    " before."
)
_ENDPOINT = re.compile(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:]+\](:[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class GkeCluster:
    """One cluster as the Container API describes it."""

    project: str
    location: str
    name: str
    status: str
    """PROVISIONING, RUNNING, RECONCILING, STOPPING, ERROR or DEGRADED."""
    message: str
    endpoint: str
    """Address of the API server, host or host:port; "" when it has none but its DNS name."""
    ca_pem: str
    private: bool
    """True when the address is one of the cluster's own network only."""
    workload_pool: str
    """Pool of Workload Identity, PROJECT.svc.id.goog; "" when it is off."""
    version: str

    @property
    def usable(self) -> bool:
        """Whether its API server answers in this status."""
        return self.status in _USABLE

    @property
    def place(self) -> str:
        """As Google writes it."""
        return f"{self.project}/{self.location}/{self.name}"

    @property
    def get_credentials(self) -> str:
        """The gcloud line that puts it into the kubeconfig, by its DNS name."""
        return f"{self._gcloud('get-credentials')} --dns-endpoint"

    @property
    def describe(self) -> str:
        """The gcloud line that shows all that Google knows of it."""
        return self._gcloud("describe")

    def _gcloud(self, verb: str) -> str:
        return gcloud_cluster(verb, self.project, self.location, self.name)


def gcloud_cluster(verb: str, project: str, location: str, name: str) -> str:
    """A gcloud line about one cluster, quoted for a shell."""
    words = ("container", "clusters", verb, name, "--location", location, "--project", project)
    return shlex.join(("gcloud", *words))


class ContainerApi:
    """Google's Container API as one identity. Thread-safe, bounded, reads only."""

    def __init__(self, address: str = "") -> None:
        """`address` replaces Google's own. ConfigError for one without TLS off this machine."""
        self._address = (address or CONTAINER_API).rstrip("/")
        parts = urlsplit(self._address)
        if parts.scheme != "https" and parts.hostname not in {"127.0.0.1", "localhost"}:
            raise ConfigError(
                f"google.container_api is {one_line(address)}.",
                why="Tokens are only sent over TLS.",
                fix="Write an address that begins with https://.",
            )
        self._request = _Bounded()
        self._credentials: Any = None
        self._kept = KeptToken(self._fetched)

    def token(self) -> str:
        """A token that holds for a while yet. Denied, Unreachable."""
        return self._kept.value()

    def forget(self) -> None:
        """Read the credentials from their place again, and have a new token."""
        self._credentials = None
        self._kept = KeptToken(self._fetched)

    def clusters(self, project: str) -> tuple[GkeCluster, ...]:
        """Every cluster of a project, all locations, by name. Denied, NotFound, Unreachable."""
        path = f"projects/{quote(project, safe='')}/locations/-/clusters"
        found = self._get(path, f"list the clusters of {one_line(project)}", project)
        described = (_described(project, each) for each in found.get("clusters") or ())
        return tuple(sorted(described, key=lambda each: (each.name, each.location)))

    def cluster(self, project: str, location: str, name: str) -> GkeCluster:
        """One cluster. Denied, NotFound, Unreachable."""
        parts = (quote(part, safe="") for part in (project, location, name))
        path = "projects/{}/locations/{}/clusters/{}".format(*parts)
        doing = f"look up the cluster {one_line(f'{project}/{location}/{name}')}"
        return _described(project, self._get(path, doing, project))

    # ── Asking ────────────────────────────────────────────────────────────────────────────────

    def _get(self, path: str, doing: str, project: str) -> Json:
        for attempt in (1, 2):
            headers = {"Accept": "application/json"}
            token = self.token()
            with _google_errors(doing):
                # Besides the token: the project that a person's quota is taken from.
                self._credentials.apply(headers, token=token)
                response = self._request(f"{self._address}/v1/{path}", headers=headers)
            if response.status != 401 or attempt == 2:
                break
            self.forget()
        try:
            said = orjson.loads(response.data)
        except orjson.JSONDecodeError:
            said = {}
        if response.status == 200 and isinstance(said, dict):
            return said
        raise _refused(doing, project, response.status, said)

    def _fetched(self) -> Token:
        with _google_errors("get a token of Google"):
            if self._credentials is None:
                # With scopes, `default` would look up the project's name for external accounts, at
                # one more service of Google's and with a right that deployers need not have.
                found, _ = google.auth.default(request=self._request)
                self._credentials = with_scopes_if_required(found, [_SCOPE])
            try:
                self._credentials.refresh(self._request)
            except auth_errors.GoogleAuthError as error:
                # google-auth has one error for a token service that refuses and one that stumbles
                # (oauth2/sts.py); the second is no reason to log in again.
                status = self._request.last_status
                if status == 429 or status >= 500:
                    raise auth_errors.TransportError(f"It answered with HTTP {status}.") from error
                raise
            token, expiry = self._credentials.token, self._credentials.expiry
        if not token:
            raise Denied(
                "Could not get a token of Google.",
                why="These credentials give none.",
                fix=_LOG_IN,
            )
        # google-auth's expiry is UTC without a zone.
        life_s = (
            None
            if expiry is None
            else (expiry.replace(tzinfo=UTC) - datetime.now(UTC)).total_seconds()
        )
        return Token(str(token), life_s)


class _Bounded:
    """google-auth's way to send a request, with a bound on its time."""

    def __init__(self) -> None:
        self._send = google_requests.Request()
        self.last_status = 0

    def __call__(self, url: str, method: str = "GET", **kwargs: Any) -> Any:  # noqa: ANN401
        self.last_status = 0
        kwargs["timeout"] = min(kwargs.get("timeout") or TIMEOUT_S, TIMEOUT_S)
        response = self._send(url, method=method, **kwargs)
        self.last_status = response.status
        return response


class GkeAccess:
    """The way to one cluster of GKE by its public or private address."""

    inside = False

    def __init__(
        self, *, target: str, project: str, location: str, cluster: str, container_api: str = ""
    ) -> None:
        """`target` is only for messages; `container_api` replaces Google's own address."""
        self._target = target
        self._project = project
        self._location = location
        self._name = cluster
        self._api = ContainerApi(container_api)
        self._described: GkeCluster | None = None

    @property
    def words(self) -> str:
        """The way in words."""
        return f"GKE cluster {one_line(f'{self._project}/{self._location}/{self._name}')}"

    @property
    def workload_pool(self) -> str | None:
        """The cluster's pool of Workload Identity; "" when that is off, None before connecting."""
        return self._described.workload_pool if self._described else None

    @property
    def look(self) -> str:
        """What to do when the API server does not answer."""
        found = self._described
        if found is not None and found.private:
            return (
                "Its address is private: run Slipway inside its network, or reach it by its DNS"
                f' name: {found.get_credentials}, then a target of kind = "kubernetes".'
            )
        return "Is this machine among its authorized networks? " + gcloud_cluster(
            "describe", self._project, self._location, self._name
        )

    @property
    def log_in(self) -> str:
        """What to do when the API server does not take the credentials."""
        return f"{_LOG_IN} The account needs roles/container.viewer or more on the project."

    def configure(self, configuration: Any) -> None:  # noqa: ANN401 (the client has no types)
        """Look the cluster up and have a new token. ConfigError, Denied, NotFound, Unreachable."""
        self._api.forget()
        found = self._described = self._looked_up()
        if not found.usable:
            raise Unreachable(
                f"The cluster {found.place} of target {self._target} cannot be used now.",
                why=f"Its status is {found.status}{found.message and f': {found.message}'}.",
                fix="It is being made: try again in some minutes."
                if found.status == "PROVISIONING"
                else f"Look at it: {found.describe}",
            )
        if not found.endpoint or not found.ca_pem:
            raise ConfigError(
                f"The cluster {found.place} of target {self._target} has no IP endpoint.",
                why="Kind gke connects to the API server's address with the cluster's own CA; this"
                " one is reached by its DNS name only.",
                fix=f'Run {found.get_credentials}, and set kind = "kubernetes" with context ='
                f' "gke_{found.project}_{found.location}_{found.name}" for {self._target}.',
            )
        api = self._api

        def renew(configuration: Any) -> None:  # noqa: ANN401 (as above)
            configuration.api_key["BearerToken"] = f"Bearer {api.token()}"

        configuration.host = f"https://{found.endpoint}"
        configuration.ca_cert_data = found.ca_pem
        renew(configuration)
        configuration.refresh_api_key_hook = renew

    def _looked_up(self) -> GkeCluster:
        try:
            return self._api.cluster(self._project, self._location, self._name)
        except NotFound as error:
            there = self._others()
            raise NotFound(
                f"There is no cluster {one_line(self._name)} at {one_line(self._location)} in"
                f" {one_line(self._project)}.",
                why=f"The project has {there}." if there else error.why,
                fix=f"Correct `cluster` and `location` of {self._target} in slipway.toml. `slipway"
                f" targets --project {one_line(self._project)}` lists what there is.",
            ) from error

    def _others(self) -> str:
        try:
            found = self._api.clusters(self._project)
        except SlipwayError:
            return ""
        return one_line(", ".join(f"{each.name} at {each.location}" for each in found) or "none")


def _described(project: str, said: Json) -> GkeCluster:
    """The facts of one answer. Unreachable for an answer that is no cluster."""
    if not isinstance(said, dict) or not said.get("name"):
        raise Unreachable("The Container API's answer is no cluster.", fix="Try again in a moment.")
    endpoints = (said.get("controlPlaneEndpointsConfig") or {}).get("ipEndpointsConfig") or {}
    old_private = said.get("privateClusterConfig") or {}
    private = bool(old_private.get("enablePrivateEndpoint")) or (
        endpoints.get("enabled") is True and endpoints.get("enablePublicEndpoint") is False
    )
    address = str(
        (private and (endpoints.get("privateEndpoint") or old_private.get("privateEndpoint")))
        or said.get("endpoint")
        or ""
    )
    if endpoints.get("enabled") is False or not _ENDPOINT.fullmatch(address):
        address = ""
    return GkeCluster(
        project=project,
        location=one_line(said.get("location") or said.get("zone") or "", 100),
        name=one_line(said["name"], 100),
        status=one_line(said.get("status") or "STATUS_UNSPECIFIED", 60),
        message=one_line(said.get("statusMessage") or "").rstrip("."),
        endpoint=address,
        ca_pem=_pem((said.get("masterAuth") or {}).get("clusterCaCertificate")),
        private=private,
        workload_pool=one_line((said.get("workloadIdentityConfig") or {}).get("workloadPool", "")),
        version=one_line(said.get("currentMasterVersion") or "", 60),
    )


def _pem(encoded: Json) -> str:
    try:
        return base64.b64decode(str(encoded or ""), validate=True).decode("ascii")
    except (binascii.Error, UnicodeDecodeError):
        return ""


# ── The door for errors ───────────────────────────────────────────────────────────────────────


@contextmanager
def _google_errors(doing: str) -> Iterator[None]:
    what = f"Could not {doing}."
    try:
        yield
    except auth_errors.DefaultCredentialsError as error:
        # Its words name the file and what is wrong with it, never what is in it.
        missing = "were not found" in str(error)
        raise Denied(
            what,
            why="There are no Application Default Credentials." if missing else one_line(error),
            fix="Run gcloud auth application-default login; in CI, use Workload Identity"
            " Federation (google-github-actions/auth).",
        ) from error
    except auth_errors.TransportError as error:
        fix = "Is this machine online, and may it reach googleapis.com (proxy, firewall)?"
        raise Unreachable(what, why=_reason(error), fix=fix) from error
    except auth_errors.GoogleAuthError as error:
        # RefreshError, OAuthError and their like; `retryable` is the token endpoint's stumbling.
        why = one_line(error.args[0] if error.args else error)
        if error.retryable:
            raise Unreachable(what, why=why, fix="Try again in a moment.") from error
        raise Denied(what, why=why, fix=_LOG_IN) from error
    except (OSError, ValueError) as error:
        # A credentials file, or the file that an external account reads its token from.
        raise Denied(what, why=one_line(error), fix=_LOG_IN) from error


def _reason(error: Exception) -> str:
    """What went wrong on the way, without the wrappings of three libraries."""
    wrapped = getattr(error, "reason", None) or next(iter(error.args), None)
    return _reason(wrapped) if isinstance(wrapped, Exception) else one_line(error)


def _refused(doing: str, project: str, status: int, said: Json) -> SlipwayError:
    told = said.get("error") if isinstance(said, dict) else None
    told = told if isinstance(told, dict) else {}
    what, why = f"Could not {doing}.", one_line(told.get("message") or f"HTTP {status}")
    reasons = {str(each.get("reason")) for each in told.get("details") or () if "reason" in each}
    match status:
        case 401:
            return Denied(what, why=why, fix=_LOG_IN)
        case 403 if "SERVICE_DISABLED" in reasons:
            fix = f"gcloud services enable container.googleapis.com --project {one_line(project)}"
            return Denied(what, why=why, fix=fix)
        case 403:
            fix = f"Give the account roles/container.clusterViewer on {one_line(project)}."
            return Denied(what, why=why, fix=fix)
        case 404:
            return NotFound(what, why=why, fix=f"Is {one_line(project)} the project's id?")
        case _:
            return Unreachable(what, why=why, fix="Try again in a moment.")
