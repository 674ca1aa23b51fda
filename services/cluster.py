"""The way to one API server: one connection pool, raw JSON, one error door.

Who is asked, as whom, is an Access's matter (access.py): a kubeconfig's context, the pod's own
account, a cluster of GKE. Nothing here knows KServe. Callers are kserve.py and journal.py.

Read against kubernetes 37.0.2 (the Python client) and Kubernetes 1.34. The client's typed calls are
passed by: its connection pool, certificates and token refresh are used, its models are not (a typed
list costs several times the parse of its JSON; kubernetes-client/python#1921).
"""

from __future__ import annotations

import json
import math
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

import orjson
import urllib3
import websocket
from kubernetes import client as kubernetes_client
from kubernetes.client.exceptions import ApiException
from kubernetes.stream.ws_client import portforward_call

from services.access import Access
from services.domain import Json
from services.errors import (
    Conflict,
    Denied,
    NotDeployable,
    NotFound,
    Unreachable,
    one_line,
)
from services.kubeconfig import IN_CLUSTER, KubeconfigAccess, PodAccess
from services.network import network_cause

if TYPE_CHECKING:
    from urllib3._base_connection import BaseHTTPConnection

CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 15.0
"""An apply passes KServe's webhooks, which have 10 s each."""

RENEW_EVERY_S = 5.0
"""Credentials that were refused are read again once, and then not before this."""


class _ReadOnceMore(urllib3.Retry):
    """A kept-alive connection that the server closed meanwhile fails on its first use.

    Reading once more is safe, writing again is the caller's decision; and who was silent for the
    whole timeout is not asked for as long again.
    """

    def _is_read_error(self, err: Exception) -> bool:  # urllib3 2.8, util/retry.py
        return isinstance(err, urllib3.exceptions.ProtocolError)


_TUNNELS = threading.Lock()

PAGE_SIZE = 500
"""Objects per list call, as kubectl asks for: keeps one answer in the megabytes."""

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
"""A server-side apply; JSON is valid YAML, so the body is sent as JSON."""

_FORBIDDEN = re.compile(
    r'User "(?P<who>[^"]*)" cannot (?P<verb>[a-z]+) resource "(?P<what>[^"]*)"'
    r'( in API group "[^"]*")?(?P<where> in the namespace "[^"]*"| at the cluster scope)?'
    r"[ :]*(?P<rest>.*)",
    re.DOTALL,
)
"""How RBAC refuses (Kubernetes 1.34, apiserver's responsewriters.ForbiddenMessage)."""

OPTIONAL_ROLES = {
    ("delete", "inferenceservices"): "slipway-delete",
    ("create", "servingruntimes"): "slipway-environments",
    ("patch", "servingruntimes"): "slipway-environments",
    ("get", "pods/portforward"): "slipway-forward",
    ("create", "pods/portforward"): "slipway-forward",
}
"""(verb, resource) → the Role of deploy/rbac.yaml that grants it; the others are in `slipway`."""


def right_fix(verb: str, resource: str, *, everywhere: bool = False) -> str:
    """How to come by a right that is missing; `everywhere` for one that is no namespace's."""
    role = OPTIONAL_ROLES.get((verb, resource), "slipway")
    kind = "ClusterRole slipway-reader" if everywhere else f"Role {role}"
    return f"Apply the {kind} of deploy/rbac.yaml for this account, or ask its owner for the right."


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer of the API server that the caller asked to judge itself."""

    status: int
    body: Json
    at: datetime | None = None
    """When it was given, by the API server's own clock, to the second; None when it did not say."""

    @property
    def ok(self) -> bool:
        """True for 2xx."""
        return 200 <= self.status < 300

    @property
    def message(self) -> str:
        """The API server's own words, one line; "" when it gave none."""
        return one_line(self.body.get("message", "")) if isinstance(self.body, dict) else ""

    @property
    def causes(self) -> tuple[tuple[str, str, str], ...]:
        """(reason, message, field) of each cause of a refusal."""
        if not isinstance(self.body, dict):
            return ()
        details = self.body.get("details") or {}
        return tuple(
            (
                str(cause.get("reason", "")),
                one_line(cause.get("message", "")),
                one_line(cause.get("field", "")),
            )
            for cause in details.get("causes") or ()
        )


@dataclass(frozen=True, slots=True)
class Listing:
    """A whole collection as it was at one moment."""

    items: list[Json]
    version: str
    """The collection's resourceVersion at that moment; "" when the kind does not exist."""


Wrote = Callable[[str, str, Json], None]
"""Is told of a write: method, path, answer."""


class _WrongCertificate(Unreachable):
    """The TLS handshake failed: somebody else answers, or the CA is an old one."""

    @property
    def kind(self) -> str:
        """To the operator it is the same as no answer."""
        return Unreachable.__name__


def _access(target: str, context: str, kubeconfig: Path | None) -> Access:
    if context == IN_CLUSTER:
        return PodAccess(target=target)
    return KubeconfigAccess(target=target, context=context, kubeconfig=kubeconfig)


class _Unverified(urllib3.HTTPSConnectionPool):
    """Connections whose certificate the kubeconfig says not to check: told once, by the checks.

    urllib3 (2.8) warns of it at each request, on standard error; only these are spared that.
    """

    def _validate_conn(self, conn: BaseHTTPConnection) -> None:
        if conn.is_closed:
            conn.connect()


class Cluster:
    """One API server as one identity. Thread-safe; keeps at most one client.

    Every call is bounded (`CONNECT_TIMEOUT_S`, `READ_TIMEOUT_S`) and raises Unreachable, Denied,
    NotFound, Conflict or NotDeployable, unless the caller accepts the HTTP status as an answer.
    """

    def __init__(
        self,
        *,
        target: str,
        context: str = "",
        kubeconfig: Path | None = None,
        access: Access | None = None,
    ) -> None:
        """Name a context of the kubeconfig, "in-cluster", or give another access.

        Connects on the first call. `target` is only for messages.
        """
        self.target = target
        self.access = access or _access(target, context, kubeconfig)
        self._client: Any = None
        self._lock = threading.RLock()
        self._renewed_at = -math.inf
        self._told: tuple[Wrote, ...] = ()

    def tell(self, wrote: Wrote) -> None:
        """Call `wrote` after every write that was accepted."""
        with self._lock:
            self._told = (*self._told, wrote)

    def tell_no_more(self, wrote: Wrote) -> None:
        """Call `wrote` no longer; nothing happens when it was not called."""
        with self._lock:
            self._told = tuple(told for told in self._told if told != wrote)

    # ── Connecting ────────────────────────────────────────────────────────────────────────────

    @property
    def inside(self) -> bool:
        """True when Slipway runs in a pod of this cluster."""
        return self.access.inside

    @property
    def host(self) -> str:
        """host:port of the API server; ConfigError when the kubeconfig does not say."""
        return urlsplit(str(self._api().configuration.host)).netloc

    @property
    def verified(self) -> bool:
        """False when the API server's certificate is not checked. ConfigError."""
        return bool(self._api().configuration.verify_ssl)

    def _api(self) -> Any:  # noqa: ANN401 (the client has no types)
        with self._lock:
            if self._client is None:
                self._client = self._connected()
            return self._client

    def _renew(self, refused: Any) -> bool:  # noqa: ANN401 (as above)
        """Drop the client that was refused, so that address and credentials are read again.

        False when that was done a moment ago and did not help: dead credentials are not hammered.
        """
        with self._lock:
            if self._client is not refused:
                return True  # another thread did it meanwhile
            if time.monotonic() - self._renewed_at < RENEW_EVERY_S:
                return False
            self._renewed_at = time.monotonic()
            self._client = None
            return True

    def _connected(self) -> Any:  # noqa: ANN401 (the client has no types)
        configuration = kubernetes_client.Configuration()
        configuration.connection_pool_maxsize = 16
        self.access.configure(configuration)
        api = kubernetes_client.ApiClient(configuration)
        if not configuration.verify_ssl:
            pools = api.rest_client.pool_manager
            pools.pool_classes_by_scheme = {**pools.pool_classes_by_scheme, "https": _Unverified}
        return api

    # ── Asking ────────────────────────────────────────────────────────────────────────────────

    def get(self, path: str, *, doing: str, **query: str | int) -> Json | None:
        """One object as JSON; None when there is none (404)."""
        reply = self.send("GET", path, doing=doing, query=query, accept=(404,))
        return None if reply.status == 404 else reply.body

    def items(self, path: str, *, doing: str, selector: str = "", fields: str = "") -> list[Json]:
        """Every object of a list, all pages; empty when the kind does not exist (404)."""
        return self.listed(path, doing=doing, selector=selector, fields=fields).items

    def count(self, path: str, *, doing: str) -> int:
        """How many objects a list has, without reading them; 0 when the kind does not exist (404).

        The API server may count a list that changes meanwhile a little wrong.
        """
        body = self.send("GET", path, doing=doing, query={"limit": 1}, accept=(404,)).body
        unread = (body.get("metadata") or {}).get("remainingItemCount") or 0
        return len(body.get("items") or ()) + int(unread)

    def listed(self, path: str, *, doing: str, selector: str = "", fields: str = "") -> Listing:
        """Every object of a list, all pages, and the version from which a watch can go on."""
        found: list[Json] = []
        asked: dict[str, str | int] = {"limit": PAGE_SIZE}
        if selector:
            asked["labelSelector"] = selector
        if fields:
            asked["fieldSelector"] = fields
        while True:
            reply = self.send("GET", path, doing=doing, query=asked, accept=(404, 410))
            if reply.status == 404:
                return Listing(found, "")
            if reply.status == 410:
                # The list changed under a slow reader: begin again, from one consistent snapshot.
                found.clear()
                asked.pop("continue", None)
                continue
            found.extend(reply.body.get("items") or ())
            metadata = reply.body.get("metadata") or {}
            token = metadata.get("continue")
            if not token:
                return Listing(found, str(metadata.get("resourceVersion", "")))
            asked["continue"] = token

    def send(
        self,
        method: str,
        path: str,
        *,
        doing: str,
        query: Mapping[str, str | int] | None = None,
        body: Json = None,
        content_type: str = JSON,
        accept: Sequence[int] = (),
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> Reply:
        """Send one request. Statuses outside 2xx and `accept` are translated into our errors.

        `doing` completes "Could not … on <target>."
        """
        response = self.raw(
            method,
            path,
            doing=doing,
            query=query,
            body=None if body is None else orjson.dumps(body),
            headers={"Content-Type": content_type, "Accept": JSON},
            read_timeout_s=read_timeout_s,
        )
        try:
            text = response.read()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self._unreachable(doing, error, read_timeout_s) from error
        finally:
            response.release_conn()
        reply = Reply(response.status, _parsed(text), _date(response.headers.get("Date")))
        if method != "GET" and reply.ok and "dryRun" not in (query or {}):
            for told in self._told:
                told(method, path, reply.body)
        if reply.ok or reply.status in accept:
            return reply
        raise self.refused(doing, reply)

    def raw(
        self,
        method: str,
        path: str,
        *,
        doing: str,
        query: Mapping[str, str | int] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> urllib3.BaseHTTPResponse:
        """Send one request and give the unread response, whatever its status; Unreachable.

        For log streams and the proxy of pods. The caller reads and releases it.
        """
        url = path + ("?" + urlencode(query) if query else "")

        def once(api: Any) -> urllib3.BaseHTTPResponse:  # noqa: ANN401 (as above)
            return self._once(
                api,
                method,
                url,
                doing,
                body=body,
                headers=headers or {},
                read_timeout_s=read_timeout_s,
            )

        api = self._api()
        try:
            response = once(api)
        except _WrongCertificate:
            # The cluster may have a new CA, or another address. Nothing was sent: no handshake.
            if not self._renew(api):
                raise
            return once(self._api())
        if response.status == 401 and self._renew(api):
            response.release_conn()
            response = once(self._api())
        return response

    def _once(
        self,
        api: Any,  # noqa: ANN401 (as above)
        method: str,
        url: str,
        doing: str,
        *,
        body: bytes | None,
        headers: Mapping[str, str],
        read_timeout_s: float,
    ) -> urllib3.BaseHTTPResponse:
        sent = dict(headers)
        token = api.configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        if token:
            sent["Authorization"] = token
        began = time.monotonic()
        try:
            response: urllib3.BaseHTTPResponse = api.rest_client.pool_manager.request(
                method,
                api.configuration.host + url,
                body=body,
                headers=sent,
                timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=read_timeout_s),
                retries=_ReadOnceMore(
                    total=1,
                    connect=0,
                    read=1,
                    redirect=0,
                    status=0,
                    other=0,
                    allowed_methods={"GET"},
                ),
                redirect=False,
                preload_content=False,
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self._unreachable(doing, error, time.monotonic() - began) from error
        return response

    def tunnel(self, path: str, port: int, *, doing: str) -> socket.socket:
        """A connection to one port of a pod (`path`), through the API server. Denied, Unreachable.

        By the client's websocket port-forward; each has a thread of its own until it is closed.
        """
        api = self._api()
        token = api.configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        with _TUNNELS:
            # The client sets no time limit for the handshake; the websocket library has one for
            # all of the process, and nobody else uses it.
            websocket.setdefaulttimeout(CONNECT_TIMEOUT_S)
            try:
                forward = portforward_call(
                    api.configuration,
                    "GET",
                    f"{api.configuration.host}{path}/portforward",
                    query_params=[("ports", str(port))],
                    headers={"authorization": token} if token else {},
                )
            except ApiException as error:
                raise self._no_tunnel(doing, error) from error
            finally:
                websocket.setdefaulttimeout(None)
        forward.websocket.settimeout(None)
        opened: socket.socket = forward.socket(port)
        return opened

    def _no_tunnel(self, doing: str, error: ApiException) -> Denied | Unreachable:
        said = one_line(error.reason)
        if "403" in said or "401" in said:
            return Denied(
                f"Could not {doing} on {self.target}.",
                why=said,
                fix=right_fix("create", "pods/portforward"),
            )
        return self._silent(doing, said)

    # ── Who we are ────────────────────────────────────────────────────────────────────────────

    def identity(self) -> str:
        """The user that the API server takes us for. Denied when that is nobody."""
        reply = self.send(
            "POST",
            "/apis/authentication.k8s.io/v1/selfsubjectreviews",
            doing="ask who we are",
            body={"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"},
        )
        name = str(((reply.body.get("status") or {}).get("userInfo") or {}).get("username", ""))
        if name in {"", "system:anonymous"}:
            raise self._anonymous("ask who we are")
        return one_line(name)

    def may(
        self, verb: str, group: str, resource: str, namespace: str, subresource: str = ""
    ) -> bool:
        """Whether this identity may do that, by the cluster's own access review."""
        attributes = {
            "verb": verb,
            "group": group,
            "resource": resource,
            "subresource": subresource,
            "namespace": namespace,
        }
        reply = self.send(
            "POST",
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            doing=f"ask for the right to {verb} {resource}",
            body={
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SelfSubjectAccessReview",
                "spec": {"resourceAttributes": attributes},
            },
        )
        return bool((reply.body.get("status") or {}).get("allowed"))

    def rules(self, namespace: str) -> list[Json]:
        """The rules of this identity in a namespace, in one answer; those that are told.

        Authorizers other than RBAC (GKE's by IAM) keep theirs to themselves: ask `may` about what
        is not here.
        """
        reply = self.send(
            "POST",
            "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews",
            doing="ask for our rights",
            body={
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SelfSubjectRulesReview",
                "spec": {"namespace": namespace},
            },
            accept=(403, 404, 405),
        )
        return list((reply.body.get("status") or {}).get("resourceRules") or ()) if reply.ok else []

    def version(self) -> str:
        """The API server's version, for example v1.34.4."""
        found = self.get("/version", doing="read the server's version")
        return one_line((found or {}).get("gitVersion", "unknown"))

    # ── The door for errors ───────────────────────────────────────────────────────────────────

    def _unreachable(self, doing: str, error: Exception, waited_s: float) -> Unreachable:
        reason = getattr(error, "reason", error)
        if isinstance(reason, urllib3.exceptions.SSLError):
            return _WrongCertificate(
                f"Could not {doing} on {self.target}: what answers at {self.host} is not the"
                " cluster that was asked for. Nothing was sent.",
                why=one_line(reason),
                fix="Has the cluster been made anew, or does a proxy stand between? Write its"
                " address and CA again with your cluster's tool.",
            )
        return self._silent(doing, network_cause(error, round(waited_s)))

    def _silent(self, doing: str, why: str) -> Unreachable:
        return Unreachable(
            f"Could not {doing} on {self.target}: {self.host} did not answer.",
            why=why,
            fix=self.access.look,
        )

    def _anonymous(
        self, doing: str, why: str = "The API server takes us for system:anonymous: no credentials"
    ) -> Denied:
        return Denied(
            f"Could not {doing} on {self.target}.",
            why=f"{why} were sent, or they are not valid any more.",
            fix=self.access.log_in,
        )

    def refused(
        self, doing: str, reply: Reply
    ) -> Denied | NotFound | Conflict | NotDeployable | Unreachable:
        """The error for an answer that is none of ours to judge."""
        what = f"Could not {doing} on {self.target}."
        why = reply.message or f"HTTP {reply.status}"
        if "system:anonymous" in why:
            return self._anonymous(doing)
        if "denied the request" in why or "exceeded quota" in why or reply.status in {400, 422}:
            return NotDeployable(
                f"{what} Nothing was changed.", why=_words(reply), fix="Change the plan."
            )
        match reply.status:
            case 401:
                error: Denied | NotFound | Conflict | Unreachable = self._anonymous(
                    doing, "It answered 401: no credentials"
                )
            case 403:
                error = self._forbidden(what, reply)
            case 404:
                error = NotFound(what, why=why)
            case 409:
                error = Conflict(f"{what} Nothing was changed.", why=why, fix="Look again.")
            case _:
                error = Unreachable(what, why=why, fix="Try again in a moment.")
        return error

    def refusal(self, doing: str, response: urllib3.BaseHTTPResponse) -> Denied:
        """The error for an unread answer of `raw` that says 401 or 403. Reads it."""
        try:
            said = _parsed(response.read(8192))
        except (urllib3.exceptions.HTTPError, OSError):
            said = None
        if response.status == 401:
            return self._anonymous(doing)
        return self._forbidden(f"Could not {doing} on {self.target}.", Reply(403, said))

    def _forbidden(self, what: str, reply: Reply) -> Denied:
        """A refusal in words that begin with the right that is missing."""
        said = reply.body.get("message", "") if isinstance(reply.body, dict) else ""
        found = _FORBIDDEN.search(str(said))
        if found is None:
            fix = "Ask the cluster's owner for the right."
            return Denied(what, why=reply.message or f"HTTP {reply.status}", fix=fix)
        verb, resource = one_line(found["verb"], 40), one_line(found["what"], 80)
        where = one_line((found["where"] or "").replace("the namespace ", "").replace('"', ""), 80)
        rest = one_line(found["rest"], 200)
        why = f"You ({one_line(found['who'], 160)}) may not {verb} {resource} {where}"
        fix = right_fix(verb, resource, everywhere=where == "at the cluster scope")
        return Denied(what, why=f"{why.rstrip()}.{rest and f' It {rest}'}", fix=fix)


def _words(reply: Reply) -> str:
    causes = "; ".join(f"{field}: {text}" if field else text for _, text, field in reply.causes)
    return one_line(reply.message if not causes else f"{reply.message} ({causes})", 512)


def _date(header: str | None) -> datetime | None:
    try:
        return parsedate_to_datetime(header).astimezone(UTC) if header else None
    except ValueError:
        return None


def _parsed(text: bytes) -> Json:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        # A proxy or load balancer between: its words, not its page.
        return {"message": one_line(text[:512].decode("utf-8", "replace"))}


def quantity(text: object) -> Decimal:
    """A Kubernetes quantity ("500m", "1Gi") as a number; 0 for what is none."""
    from kubernetes.utils.quantity import parse_quantity

    try:
        return Decimal(parse_quantity(text))
    except ValueError:
        return Decimal(0)


def path_part(text: str) -> str:
    """`text` as one segment of an API path: nothing in it can climb to another path."""
    return quote(text, safe="")


def pretty(value: Json) -> str:
    """JSON text with a stable order, for comparing and hashing."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
