"""Ways in: how a request gets from here to the pods of a service, and whether it comes through.

Ingresses and the API server's proxy are tried before they are named; an address inside the cluster
and a port-forward are not. What was found is believed for some seconds: whoever watches a roll-out
asks again and again. Read against Kubernetes 1.34, KServe v0.20.0. Called by kserve.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import urllib3

from services import kubeobject
from services.cluster import Cluster, path_part
from services.domain import Endpoint, Json, Release, WayIn
from services.errors import Denied, NotFound, SlipwayError, Unreachable
from services.inferenceservice import Look, is_stopped, read
from services.kubepaths import Paths

if TYPE_CHECKING:
    from services.relay import Relay

GATEWAY_TIMEOUT_S = 1.5
GATEWAY_KEPT_S = 30.0
"""For so long an ingress found reachable is believed."""
GATEWAY_LOOK_AGAIN_S = 3.0
"""One that did not answer may only have been a moment behind a new route."""

# Where well-known ingresses put their LoadBalancer Service, by their own install manifests.
_GATEWAYS = (
    ("kourier-system", "kourier"),
    ("knative-serving", "kourier"),
    ("istio-system", "istio-ingressgateway"),
    ("projectcontour", "envoy"),
    ("contour-external", "envoy"),
    ("ingress-nginx", "ingress-nginx-controller"),
)


class WaysIn:
    """The ways into the services of one namespace."""

    def __init__(self, cluster: Cluster, paths: Paths, ingress: str = "") -> None:
        """`ingress`: address of the cluster's ingress, http://host:port; "" = found."""
        self._cluster = cluster
        self._paths = paths
        self._ingress = ingress
        self._reachable: dict[tuple[str, str], tuple[bool, float]] = {}
        self._gateway_address: dict[str, str] = {}
        self._gateways_denied: Denied | None = None
        """Why the cluster's ingresses may not be looked for."""
        self._refused_proxies: dict[str, Denied] = {}
        """Where the API server's proxy is closed to us for want of a right: path → which."""

    @cached_property
    def _relay(self) -> Relay:
        from services.relay import Relay

        return Relay(self._cluster)

    def to(self, look: Look, name: str, history: Callable[[], Sequence[Release]]) -> Endpoint:
        """The way to wherever the traffic goes. NotFound until there is one; Denied.

        In this order: in-cluster address, ingress with Host, the API server's proxy, port-forward.
        `history`: reads the service's releases, newest first, where the last two have to be tried.
        """
        if is_stopped(look.service):
            raise NotFound(f"{name} is stopped.", fix=f"Start it: slipway start {name}.")
        status = look.service.get("status") or {}
        if self._cluster.inside:
            address = (status.get("address") or {}).get("url")
            if address:
                return Endpoint(
                    str(address).rstrip("/"),
                    name,
                    WayIn.IN_CLUSTER,
                    why="Slipway runs in this cluster.",
                )
        # KServe copies the Knative Service's address into its own status a moment later.
        known = status.get("url") or ((look.knative or {}).get("status") or {}).get("url")
        host = urlsplit(str(known or "")).netloc
        tried = []
        if host:
            for gateway in self._gateways(look):
                if self._answers(gateway, host, name):
                    return Endpoint(
                        gateway,
                        name,
                        WayIn.INGRESS,
                        why=f"The ingress at {gateway} answers for Host {host}.",
                        host=host,
                    )
                tried.append(gateway)
        return self._proxied(look, name, tried, history)

    def to_release(self, look: Look, name: str, workload: int) -> Endpoint:
        """The way to exactly one release's pods. NotFound while none is ready."""
        pods = [
            pod
            for pod in look.pods
            if kubeobject.workload_of(pod) == workload and kubeobject.pod_ready(pod)
        ]
        if not pods:
            raise NotFound(
                f"No pod of release {workload} of {name} is ready.",
                fix=f"Look at slipway status {name}.",
            )
        pod = max(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp")))
        return self._pod_endpoint(name, pod, workload)

    def _pod_endpoint(self, name: str, pod: Json, workload: int | None) -> Endpoint:
        pod_name, address = pod["metadata"]["name"], (pod.get("status") or {}).get("podIP")
        if self._cluster.inside and address:
            host = f"[{address}]" if ":" in address else address
            return Endpoint(
                f"http://{host}:{kubeobject.port_of(pod)}",
                name,
                WayIn.IN_CLUSTER,
                why=f"Straight to pod {pod_name}: Slipway runs in this cluster.",
                release=workload,
            )
        if self._proxy_open(f"{self._paths.pod_proxy(pod)}/v2/models/{path_part(name)}/ready"):
            return Endpoint(
                self._relay.route(self._paths.pod_proxy(pod)),
                name,
                WayIn.SERVICE_PROXY,
                why=f"Exactly pod {pod_name}, through the API server's proxy: two more hops.",
                headers=self._relay.headers,
                release=workload,
            )
        return self._forwarded(name, pod, workload)

    def _forwarded(self, name: str, pod: Json, workload: int | None) -> Endpoint:
        """The last way in: a port-forward to one pod. Denied where it is not allowed either."""
        pod_name = pod["metadata"]["name"]
        try:
            allowed = self._cluster.may("create", "", "pods", self._paths.namespace, "portforward")
        except SlipwayError:
            allowed = False
        if not allowed:
            refused = self._refused_proxies.get(self._paths.pod_proxy(pod))
            why = (
                refused.why.rstrip(".")
                if refused
                else "The API server's proxy does not reach its pods"
            )
            raise Denied(
                f"There is no way in to {name} from here.",
                why=f"{why}; nor may you create pods/portforward, and no ingress answers.",
                fix="Set `ingress` of the target in slipway.toml, or apply the Role slipway of"
                " deploy/rbac.yaml (slipway-forward for port-forwards).",
            )
        return Endpoint(
            self._relay.forward(self._paths.pod(pod_name), kubeobject.port_of(pod)),
            name,
            WayIn.PORT_FORWARD,
            why=f"The API server's proxy is closed to us: a port-forward to pod {pod_name}. It"
            " reaches this one pod, and its speed is not the service's.",
            headers=self._relay.headers,
            release=workload,
        )

    def _proxy_open(self, path: str) -> bool:
        """Whether a request comes through the API server's proxy to whatever answers there."""
        way = path.partition("/proxy/")[0] + "/proxy"
        key = ("proxy", way)
        known = self._reachable.get(key)
        kept_s = GATEWAY_KEPT_S if known and known[0] else GATEWAY_LOOK_AGAIN_S
        if known and time.monotonic() - known[1] < kept_s:
            return known[0]
        try:
            response = self._cluster.raw("GET", path, doing="try the proxy", read_timeout_s=3)
        except Unreachable:
            return True  # silent: slow, or a cluster that is away, and then a tunnel is no help
        # 403: no right. 502 to 504: the API server does not reach the node's pods.
        found = response.status not in {401, 403, 502, 503, 504}
        self._refused_proxies.pop(way, None)
        if response.status in {401, 403}:
            refused = self._cluster.refusal("use the API server's proxy", response)
            self._refused_proxies[way] = refused
        response.drain_conn()
        response.release_conn()
        self._reachable[key] = (found, time.monotonic())
        return found

    def _proxied(
        self,
        look: Look,
        name: str,
        tried: Sequence[str],
        history: Callable[[], Sequence[Release]],
    ) -> Endpoint:
        why = "No ingress was found" if not tried else f"No answer from {', '.join(tried)}"
        if look.deployment is not None:
            path = self._paths.service_proxy(name)
            if self._proxy_open(f"{path}/v2/models/{path_part(name)}/ready"):
                return Endpoint(
                    self._relay.route(path),
                    name,
                    WayIn.SERVICE_PROXY,
                    why=f"{why}; through the API server's service proxy: two more hops.",
                    headers=self._relay.headers,
                )
            refused = self._refused_proxies.get(path)
            why += f". {refused.why.rstrip('.')}" if refused else ""
        facts = read(look, history())
        pods = [pod for pod in (*facts.pods, *look.pods) if kubeobject.pod_ready(pod)]
        if not pods:
            raise NotFound(
                f"There is no way in to {name} from here.",
                why=f"{why}, and none of its pods is awake.",
                fix="Set `ingress` of the target in slipway.toml to the address of its ingress.",
            )
        found = self._pod_endpoint(name, pods[0], None)
        return replace(found, why=f"{why}; {found.why}")

    def _gateways(self, look: Look) -> list[str]:
        """Addresses at which this service's ingress may listen, likeliest first."""
        if self._ingress:
            return [self._ingress.rstrip("/")]
        found = []
        if look.deployment is not None:
            name = look.service["metadata"]["name"]
            with suppress(Denied):  # there are other ways in; `check` names the right
                ingress = self._cluster.get(
                    self._paths.ingress(name), doing=f"read the Ingress of {name}"
                )
                found += _balancer_urls(ingress or {}, 80)
        return list(dict.fromkeys([*found, *self._known_gateways()]))

    def _known_gateways(self) -> list[str]:
        """The set ingress, else the load balancers of well-known ingresses."""
        if self._ingress:
            return [self._ingress.rstrip("/")]
        found = []
        for namespace, name in _GATEWAYS:
            key = f"{namespace}/{name}"
            if key not in self._gateway_address:
                try:
                    service = self._cluster.get(
                        f"/api/v1/namespaces/{namespace}/services/{name}",
                        doing="look for an ingress",
                    )
                except Denied as error:
                    self._gateways_denied = error
                    continue
                except SlipwayError:
                    continue
                urls = _balancer_urls(service or {}, 80)
                self._gateway_address[key] = urls[0] if urls else ""
            if self._gateway_address.get(key):
                found.append(self._gateway_address[key])
        return found

    def _answers(self, gateway: str, host: str, name: str) -> bool:
        """Whether the model server, and not just a gateway's 404, answers there for `host`."""
        key = (gateway, host)
        known = self._reachable.get(key)
        kept_s = GATEWAY_KEPT_S if known and known[0] else GATEWAY_LOOK_AGAIN_S
        if known and time.monotonic() - known[1] < kept_s:
            return known[0]
        found = False
        try:
            response = urllib3.PoolManager(num_pools=1).request(
                "GET",
                f"{gateway}/v2/models/{path_part(name)}/ready",
                headers={"Host": host},
                timeout=GATEWAY_TIMEOUT_S,
                retries=False,
                redirect=False,
            )
            # A gateway without a route answers 404 with an empty body, or as itself (E12).
            found = response.status == 200 or b"{" in response.data[:64]
        except urllib3.exceptions.ReadTimeoutError:
            found = True  # connected, but slow: a service that wakes up
        except urllib3.exceptions.HTTPError:
            found = False
        self._reachable[key] = (found, time.monotonic())
        return found

    def listening(self) -> list[str]:
        """Addresses of ingresses that answer from here.

        Raises:
            Denied: none does that is known, but those of the cluster may not be looked at.
        """
        found = [url for url in self._known_gateways() if _listens(url)]
        if not found and self._gateways_denied is not None:
            raise self._gateways_denied
        return found


def _listens(url: str) -> bool:
    """Whether somebody takes connections at an http:// address."""
    parts = urlsplit(url)
    try:
        with socket.create_connection((parts.hostname, parts.port or 80), GATEWAY_TIMEOUT_S):
            return True
    except OSError:
        return False


def _balancer_urls(thing: Json, port: int) -> list[str]:
    """http:// addresses in the load balancer's status of a Kubernetes Service or an Ingress."""
    balancer = (thing.get("status") or {}).get("loadBalancer") or {}
    hosts = [entry.get("ip") or entry.get("hostname") for entry in balancer.get("ingress") or ()]
    return [f"http://{host}" if port == 80 else f"http://{host}:{port}" for host in hosts if host]
