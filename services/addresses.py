"""Which addresses and headers requests to an endpoint may have: one rule for all that send them.

A target names its endpoints, but what a cluster's objects say can be written by others. Slipway
must not become a way to a cloud's metadata service, to this machine, or to whatever a name server
answers the second time it is asked: resolve once, ask `forbidden_because` about each address, and
connect to what was checked.

Pure: nothing is resolved or sent here. The predictor and the load engine are the callers.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping

from services.domain import Endpoint, WayIn
from services.errors import ConfigError, one_line

_CARRIED = re.compile(r"authorization|x-slipway-[a-z-]+|x-request-id|traceparent")
"""Headers that an endpoint may add. `Metadata-Flavor` and its like open metadata services."""

_LOOPBACK_WAYS = frozenset({WayIn.LOOPBACK, WayIn.PORT_FORWARD, WayIn.SERVICE_PROXY})
"""Ways in whose address is this machine's own making: our gateway, our port-forward, or the API
server that the kubeconfig names (127.0.0.1 for kind and minikube). An address that a cluster's
objects name is none of these."""

_METADATA_NAMES = frozenset(
    {
        "metadata",
        "metadata.google.internal",
        "metadata.goog",
        "instance-data",
        "instance-data.ec2.internal",
    }
)
_METADATA_ADDRESSES = frozenset(
    map(
        ipaddress.ip_address,
        (
            "169.254.169.254",  # Google Cloud, AWS, Azure: also link-local
            "fd00:ec2::254",  # AWS, IPv6
            "fd20:ce::254",  # Google Cloud, IPv6
            "100.100.100.200",  # Alibaba Cloud
            "168.63.129.16",  # Azure's wire server
            "192.0.0.192",  # Oracle Cloud
        ),
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def forbidden_name(host: str) -> str:
    """Why no request may go to a host of this name, as a sentence; "" when its addresses decide."""
    if host.rstrip(".").lower() in _METADATA_NAMES:
        return "It is the name of the cloud's metadata service."
    return ""


def forbidden_because(address: Address, via: WayIn, *, named: bool = False) -> str:
    """Why no request may go to an address, as a sentence; "" when it may.

    `named`: the operator's own settings name this host, so it may be on this machine.
    """
    real = _unwrapped(address)
    if real in _METADATA_ADDRESSES or real.is_link_local:
        return "It is an address of the cloud's metadata service (link-local)."
    if real.is_unspecified or real.is_multicast:
        return "It is no address of one server."
    if real.is_loopback and via not in _LOOPBACK_WAYS and not named:
        return f"It is on this machine, where a way in by {via} never ends."
    if via is WayIn.LOOPBACK and not real.is_loopback:
        return "It is not on this machine, where this way in always ends."
    return ""


def _unwrapped(address: Address) -> Address:
    """The IPv4 address inside an IPv6 one: mapped, compatible, 6to4, Teredo, NAT64."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    number = int(address)
    if address in _NAT64 or 1 < number < 2**32:
        return ipaddress.IPv4Address(number & 0xFFFFFFFF)
    return address


def headers_of(endpoint: Endpoint) -> Mapping[str, str]:
    """The headers that the endpoint adds. ConfigError for one that may open other doors."""
    for name, _ in endpoint.headers:
        if _CARRIED.fullmatch(name.lower()) is None:
            raise ConfigError(
                f"The header {one_line(name, 60)} is not sent to endpoints.",
                why="Only Authorization, X-Request-Id, traceparent and X-Slipway-… are.",
                fix="Remove it from the target.",
            )
    return dict(endpoint.headers)
