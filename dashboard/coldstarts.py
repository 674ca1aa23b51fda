"""Cold starts that are measured while nobody looks: one thread each, and never a call of `st.*`.

Waiting until a service sleeps takes minutes, in which a tab may be closed and come back to. What
was measured is kept here, apart from every load test: as long as this dashboard runs.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from dashboard.worker import told_error
from services import coldstart
from services.domain import Endpoint, InferRequest, Service
from services.errors import Conflict, SlipwayError
from services.ports import Ops

_MEASURED_KEPT = 10


@dataclass(frozen=True, slots=True)
class Measured:
    """One cold start."""

    at: datetime
    took_s: float
    """From the request that woke the service to its answer."""


@dataclass(frozen=True, slots=True)
class ColdStart:
    """What is known of a service's cold starts: the one under way, and those measured before."""

    service: str
    running: bool = True
    waited_s: float = 0.0
    waking: bool = False
    """True once it sleeps and its first request is under way."""
    cancelled: bool = False
    error: SlipwayError | None = None
    measured: tuple[Measured, ...] = ()
    """Newest first."""


class ColdStarts:
    """Begins, watches and cancels measurements; the same for every tab."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str, str], ColdStart] = {}
        self._cancels: dict[tuple[str, str, str], threading.Event] = {}

    def start(self, ops: Ops, service: Service, request: InferRequest) -> None:
        """Wait until `service` sleeps, then wake it with `request` and time that.

        Raises:
            Conflict: it is being measured already.
            SlipwayError: there is no way to it; nothing was begun.
        """
        key = (ops.target, ops.namespace, service.name)
        endpoint = ops.serving.endpoint(service.name)  # later, asking for it might wake the service
        with self._lock:
            known = self._known.get(key, ColdStart(service.name, running=False))
            if known.running:
                raise Conflict(
                    f"A cold start of {service.name} is being measured.",
                    fix="Wait for it, or cancel it.",
                )
            self._known[key] = ColdStart(service.name, measured=known.measured)
            cancel = self._cancels[key] = threading.Event()
        threading.Thread(
            target=self._measure,
            args=(key, ops, service),
            kwargs={"endpoint": endpoint, "request": request, "cancel": cancel},
            name="slipway-cold-start",
            daemon=True,  # nothing is lost with it: it writes nothing
        ).start()

    def of(self, target: str, namespace: str, service: str) -> ColdStart | None:
        """What is known of a service's cold starts, or None."""
        with self._lock:
            return self._known.get((target, namespace, service))

    def cancel(self, target: str, namespace: str, service: str) -> None:
        """Wait no longer; a request that wakes the service already is not called back."""
        with self._lock:
            cancel = self._cancels.get((target, namespace, service))
        if cancel is not None:
            cancel.set()

    def _measure(
        self,
        key: tuple[str, str, str],
        ops: Ops,
        service: Service,
        *,
        endpoint: Endpoint,
        request: InferRequest,
        cancel: threading.Event,
    ) -> None:
        with ExitStack() as ending:
            ending.push(lambda _kind, error, _trace: self._ended(key, error))
            for waited_s in coldstart.fall_asleep(ops, service, sleep=cancel.wait):
                self._note(key, waited_s=waited_s)
                if cancel.is_set():
                    self._note(key, cancelled=True)
                    return
            self._note(key, waking=True)
            took_s = coldstart.wake(ops.predictor, endpoint, request).timing.total_s
            made = Measured(datetime.now(UTC), took_s)
            with self._lock:
                known = self._known[key]
                kept = (made, *known.measured)[:_MEASURED_KEPT]
                self._known[key] = replace(known, measured=kept)

    def _ended(self, key: tuple[str, str, str], error: BaseException | None) -> bool:
        """Whatever ended the measuring is told to who looks; True: and to nobody else."""
        self._note(key, running=False, waking=False, error=told_error(error) if error else None)
        return True

    def _note(self, key: tuple[str, str, str], **changes: object) -> None:
        with self._lock:
            self._known[key] = replace(self._known[key], **changes)  # type: ignore[arg-type]  # fields by name
