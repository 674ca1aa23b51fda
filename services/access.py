"""What being let in to an API server takes: an address, a CA, credentials that are renewed.

Three ways in are one thing to cluster.py: a kubeconfig's context and a pod's own account
(kubeconfig.py), and a cluster of Google Kubernetes Engine by Google's own interfaces (gke.py).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from services.errors import SlipwayError

RENEW_AFTER = 0.8
"""Part of a token's life after which it is renewed: what is sent has a fifth of its life left."""

RETRY_S = 5.0
"""While an old token still holds, a renewal that failed is tried again after this."""


class Access(Protocol):
    """One way to one API server. Asked again when what it gave was refused."""

    @property
    def words(self) -> str:
        """The way in words, for messages: "context minikube"."""

    @property
    def inside(self) -> bool:
        """True when Slipway runs in a pod of this cluster."""

    @property
    def workload_pool(self) -> str | None:
        """The cluster's pool of Workload Identity; "" when that is off, None when not known."""

    @property
    def look(self) -> str:
        """What to do when the API server does not answer."""

    @property
    def log_in(self) -> str:
        """What to do when the API server does not take the credentials."""

    def configure(self, configuration: Any) -> None:  # noqa: ANN401 (the client has no types)
        """Fill a client's configuration with address, CA and credentials that are read anew.

        ConfigError, Denied, NotFound, Unreachable.
        """


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token and how long it lives from now, in seconds; None = until it is refused."""

    value: str
    life_s: float | None = None


@dataclass(frozen=True, slots=True)
class _Held:
    value: str
    renew_at: float
    ends_at: float


class KeptToken:
    """A token that is renewed before it ends. Thread-safe.

    `fetch` gives a new one and raises our errors. While the old one holds, a renewal that fails is
    no error, and no caller waits for another's renewal.
    """

    def __init__(
        self, fetch: Callable[[], Token], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._fetch = fetch
        self._clock = clock
        self._lock = threading.Lock()
        self._held: _Held | None = None

    def value(self) -> str:
        """A token that holds. Raises what `fetch` raises when there is none to be had."""
        held = self._held
        if held is None or self._clock() >= held.ends_at:
            with self._lock:
                held = self._held
                if held is None or self._clock() >= held.ends_at:
                    held = self._renewed()
        elif self._clock() >= held.renew_at and self._lock.acquire(blocking=False):
            try:
                held = self._renewed()
            except SlipwayError:
                self._held = _Held(held.value, self._clock() + RETRY_S, held.ends_at)
            finally:
                self._lock.release()
        return held.value

    def _renewed(self) -> _Held:
        asked_at = self._clock()
        token = self._fetch()
        life_s = float("inf") if token.life_s is None else token.life_s
        self._held = _Held(token.value, asked_at + life_s * RENEW_AFTER, asked_at + life_s)
        return self._held
