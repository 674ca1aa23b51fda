"""Release history beside the InferenceService, and the Lease that makes operations exclusive.

A release is one ControllerRevision (apps/v1): the API server refuses any change of its `data`, so a
record cannot be rewritten; outcome, cause and time of settling are annotations. Its name carries
the number, which makes creating it a compare-and-set. It has no owner reference: history outlives
the service. Nothing here ever writes to an InferenceService.

The Lease (coordination.k8s.io/v1) lives as long as the process that began the operation renews it:
a killed process frees the service within `LEASE_DURATION_S`.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import orjson

from services import inferenceservice as objects
from services import kubeobject, records
from services.cluster import MERGE_PATCH, Cluster, path_part
from services.domain import (
    Action,
    Cause,
    Json,
    Outcome,
    Plan,
    Release,
    may_follow,
    never_applied,
)
from services.errors import Conflict, NotDeployable, NotFound, SlipwayError, one_line
from services.kubepaths import Paths
from services.watched import Reads, same_things

SERVICE_LABEL = kubeobject.RELEASE_LABEL

LEASE_DURATION_S = 30
RENEW_EVERY_S = 10.0
"""Three tries before the Lease lapses."""
RENEW_FOR_S = 1200.0
"""A front end that never settles its operation must not lock the service for ever."""

CLOCK_GRACE_S = 1.0
"""The API server's times are whole seconds."""

MAX_RECORD_BYTES = 1_000_000
"""etcd takes objects of 1.5 MiB; the rest is for managed fields and annotations."""

_OUTCOME = f"{kubeobject.DOMAIN}/outcome"
_CAUSE = f"{kubeobject.DOMAIN}/cause"
_SETTLED_AT = f"{kubeobject.DOMAIN}/settled-at"
_LATE = f"{kubeobject.DOMAIN}/late"
_ACTOR = f"{kubeobject.DOMAIN}/actor"
_SUBJECT = f"{kubeobject.DOMAIN}/subject"


class ClusterJournal:
    """Releases and locks of the services of one namespace. Implements ports.Journal."""

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        *,
        lease_duration_s: int = LEASE_DURATION_S,
        reads: Reads | None = None,
    ) -> None:
        """Keep history in `namespace`, where the InferenceServices are.

        `reads`: where history is read, when it is not the cluster itself.
        """
        self._cluster = cluster
        self._reads: Reads = reads or cluster
        self._namespace = namespace
        self._duration_s = lease_duration_s
        self._renewals: dict[str, threading.Event] = {}
        self._parsed: dict[str, tuple[list[Json], Sequence[Release]]] = {}
        """What `histories` made of the same records the last time."""
        self._seen: dict[str, tuple[str, float]] = {}

    # ── History ───────────────────────────────────────────────────────────────────────────────

    def history(self, service: str) -> Sequence[Release]:
        """Releases, newest first; empty for an unknown service. Outlives the service."""
        return self._history(service, self._reads)

    def _history(self, service: str, reads: Reads) -> Sequence[Release]:
        found = reads.items(
            self._revisions(),
            doing=f"read the history of {one_line(service)}",
            selector=f"{SERVICE_LABEL}={_label(service)}",
        )
        return _newest_first(found)

    def histories(self) -> dict[str, Sequence[Release]]:
        """Every service's history by name, in one list: for views of the whole namespace."""
        found = self._reads.items(
            self._revisions(), doing="read the releases", selector=SERVICE_LABEL
        )
        by_service: dict[str, list[Json]] = {}
        for item in found:
            by_service.setdefault(item["metadata"]["labels"][SERVICE_LABEL], []).append(item)
        kept, self._parsed = self._parsed, {}
        for name, items in by_service.items():
            same = kept.get(name)
            if same is None or not same_things(same[0], items):
                same = (items, _newest_first(items))
            self._parsed[name] = same
        return {name: history for name, (_, history) in self._parsed.items()}

    def begin(self, plan: Plan, actor: str, reason: str) -> Release:
        """Take the lock and record the release with outcome OPEN, before the write.

        The same nonce again gives the same release. Conflict names who holds the service.
        """
        for known in self._history(plan.service, self._cluster):
            if known.operation == plan.nonce:
                return known
        self._acquire(plan, actor)
        try:
            release = self._record(plan, actor, reason)
        except SlipwayError:
            with contextlib.suppress(SlipwayError):  # it lapses by itself
                self._let_go(plan.service, plan.nonce)
            raise
        self._keep_renewing(plan.service, plan.nonce)
        return release

    def close(
        self, release: Release, outcome: Outcome, cause: Cause | None = None, *, late: bool = False
    ) -> Release:
        """Record the outcome and let go of the lock. Idempotent; the first outcome stands.

        Only with `late` may a later one take its place; see `may_follow`.
        """
        settled = self._settle(release, outcome, cause, late=late)
        self._let_go(release.service, release.operation)
        return settled

    def _record(self, plan: Plan, actor: str, reason: str) -> Release:
        history = self._history(plan.service, self._cluster)
        number = history[0].number + 1 if history else 1
        intent = plan.after or plan.before
        if intent is None:
            raise NotDeployable("This plan is about nothing. Nothing was changed.")
        release = Release(
            number=number,
            service=plan.service,
            action=plan.action,
            intent=intent,
            actor=actor,
            reason=reason,
            created_at=datetime.now(UTC),
            operation=plan.nonce,
            workload=plan.workload or number,
            rolled_back_from=plan.rolled_back_from,
            rolled_back_to=plan.rolled_back_to,
            alias=plan.alias,
            rollback_on_failure=plan.rollback_on_failure,
        )
        text = records.dump(release)
        if len(text) > MAX_RECORD_BYTES:
            raise NotDeployable(
                f"{plan.service} cannot be recorded. Nothing was changed.",
                why=f"Its intent takes {len(text)} bytes; {MAX_RECORD_BYTES} are the most.",
                fix="Register the version with a smaller input example.",
            )
        reply = self._cluster.send(
            "POST",
            self._revisions(),
            doing=f"record release {number} of {plan.service}",
            body={
                "apiVersion": "apps/v1",
                "kind": "ControllerRevision",
                "metadata": {
                    "name": _revision_name(plan.service, number),
                    "namespace": self._namespace,
                    "labels": {SERVICE_LABEL: _label(plan.service)},
                    "annotations": {_OUTCOME: Outcome.OPEN.value},
                },
                "revision": number,
                "data": orjson.loads(text),
            },
            accept=(409,),
        )
        if reply.status == 409:
            raise Conflict(
                f"{plan.service} changed while you were looking. Nothing was changed.",
                why=f"Somebody else recorded release {number} just now.",
                fix="Look at the new plan and confirm it again.",
            )
        for earlier in history:
            if earlier.outcome is Outcome.OPEN:
                # Its process went away: we hold the lock now, so nobody drives it any more.
                self._settle(earlier, *self._left_behind(earlier, history, release), late=False)
        return release

    def _left_behind(
        self, earlier: Release, history: Sequence[Release], by: Release
    ) -> tuple[Outcome, Cause]:
        """What the cluster says of an operation whose process went away, before ours writes."""
        live = self._cluster.get(
            Paths(self._namespace).service(earlier.service),
            doing=f"read {one_line(earlier.service)}",
        )
        wanted = None if live is None else objects.wanted_release(live, history)
        deletes = earlier.action is Action.DELETE
        applied = (
            live is None if deletes else wanted is not None and wanted.number == earlier.number
        )
        if not applied:
            return Outcome.NOT_APPLIED, never_applied(earlier, there=live is not None)
        return Outcome.DELETED if deletes else Outcome.TIMEOUT, Cause(
            what=f"Release {by.number} took over before this one had settled.",
            why="The process that began this operation went away.",
        )

    def _settle(
        self, release: Release, outcome: Outcome, cause: Cause | None, *, late: bool
    ) -> Release:
        path = f"{self._revisions()}/{_revision_name(release.service, release.number)}"
        doing = f"record the outcome of release {release.number} of {release.service}"
        while True:
            found = self._cluster.get(path, doing=doing)
            if found is None:
                raise NotFound(
                    f"{release.service} has no release {release.number}.",
                    why="Its record is gone from the cluster.",
                )
            known = _release(found)
            if not may_follow(known.outcome, outcome, late=late):
                return known
            settled_at = datetime.now(UTC)
            annotations = {
                _OUTCOME: outcome.value,
                _SETTLED_AT: settled_at.isoformat(),
                _LATE: "true" if late and outcome is not Outcome.FAILED else None,
                _CAUSE: None if cause is None else records.dump(cause),
            }
            reply = self._cluster.send(
                "PATCH",
                path,
                doing=doing,
                body={
                    "metadata": {
                        "annotations": annotations,
                        "resourceVersion": found["metadata"]["resourceVersion"],
                    }
                },
                content_type=MERGE_PATCH,
                accept=(409,),
            )
            if reply.ok:
                return _release(reply.body)
            # Another front end settled it in this moment: read its outcome, which stands.

    # ── The lock ──────────────────────────────────────────────────────────────────────────────

    def _acquire(self, plan: Plan, actor: str) -> None:
        deadline = time.monotonic() + 2 * self._duration_s
        while True:
            lease = self._lease(plan.service)
            if lease is None or lease.holder in {"", plan.nonce} or self._lapsed(lease, plan):
                method = "POST" if lease is None else "PUT"
                if self._write_lease(method, plan, actor, lease):
                    return
                continue  # somebody else was a moment earlier: read who
            unrenewed_s = lease.age_s if lease.unchanged_s is None else lease.unchanged_s
            if unrenewed_s < self._duration_s / 2 or time.monotonic() > deadline:
                raise self._held(plan.service, lease)
            # Nobody renewed it for longer than a living process would let pass: wait for its end.
            time.sleep(1.0)

    def _lapsed(self, lease: _Lease, plan: Plan) -> bool:
        """Whether nobody renewed it for its whole duration.

        By the API server's clock alone, which stamps both the write and the answer. Where it does
        not tell, no clocks are compared: it has to be seen unchanged for so long.
        """
        if lease.unchanged_s is not None:
            return lease.unchanged_s >= lease.duration_s + CLOCK_GRACE_S
        mark, since = self._seen.get(plan.service, ("", 0.0))
        if mark != lease.object_version:
            self._seen[plan.service] = (lease.object_version, time.monotonic())
            return False
        return time.monotonic() - since >= lease.duration_s

    def _held(self, service: str, lease: _Lease) -> Conflict:
        return Conflict(
            f"Another operation on {service} is open. Nothing was changed.",
            why=f"{lease.actor or 'Somebody'} began it {lease.held_for_s:.0f} s ago:"
            f" {lease.subject or 'unknown'}.",
            fix=f"Watch it: slipway status {service}. If its process died, the lock lapses"
            f" {lease.duration_s} s after its last sign of life.",
        )

    def _lease(self, service: str) -> _Lease | None:
        reply = self._cluster.send(
            "GET",
            f"{self._leases()}/{_lease_name(service)}",
            doing=f"read the lock of {service}",
            accept=(404,),
        )
        return None if reply.status == 404 else _Lease.read(reply.body, reply.at)

    def _write_lease(self, method: str, plan: Plan, actor: str, known: _Lease | None) -> bool:
        now = _micro(datetime.now(UTC))
        metadata: dict[str, Json] = {
            "name": _lease_name(plan.service),
            "namespace": self._namespace,
            "labels": {SERVICE_LABEL: _label(plan.service)},
            "annotations": {_ACTOR: one_line(actor), _SUBJECT: _subject(plan)},
        }
        path = self._leases()
        if known is not None:
            metadata["resourceVersion"] = known.object_version
            path += f"/{_lease_name(plan.service)}"
        reply = self._cluster.send(
            method,
            path,
            doing=f"lock {plan.service}",
            body={
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": metadata,
                "spec": {
                    "holderIdentity": plan.nonce,
                    "leaseDurationSeconds": self._duration_s,
                    "acquireTime": now,
                    "renewTime": now,
                },
            },
            accept=(409,),
        )
        return reply.ok

    def _keep_renewing(self, service: str, nonce: str) -> None:
        stop = threading.Event()
        self._renewals[nonce] = stop
        interval = min(RENEW_EVERY_S, self._duration_s / 3)

        def renew() -> None:
            until = time.monotonic() + RENEW_FOR_S
            while not stop.wait(interval) and time.monotonic() < until:
                # An unreachable cluster is the moment to keep trying, not to give up.
                with contextlib.suppress(SlipwayError):
                    if not self._renew(service, nonce):
                        return

        threading.Thread(target=renew, name=f"lease {service}", daemon=True).start()

    def _renew(self, service: str, nonce: str) -> bool:
        lease = self._lease(service)
        if lease is None or lease.holder != nonce:
            return False
        return self._touch_lease(service, lease, {"renewTime": _micro(datetime.now(UTC))})

    def _let_go(self, service: str, nonce: str) -> None:
        stop = self._renewals.pop(nonce, None)
        if stop is not None:
            stop.set()
        for _attempt in range(3):
            lease = self._lease(service)
            if lease is None or lease.holder != nonce:
                return
            if self._touch_lease(service, lease, {"holderIdentity": None}):
                return

    def _touch_lease(self, service: str, lease: _Lease, spec: dict[str, Json]) -> bool:
        reply = self._cluster.send(
            "PATCH",
            f"{self._leases()}/{_lease_name(service)}",
            doing=f"renew the lock of {service}",
            body={"metadata": {"resourceVersion": lease.object_version}, "spec": spec},
            content_type=MERGE_PATCH,
            accept=(404, 409),
        )
        return reply.ok

    def _revisions(self) -> str:
        return Paths(self._namespace).releases

    def _leases(self) -> str:
        return f"/apis/coordination.k8s.io/v1/namespaces/{path_part(self._namespace)}/leases"


@dataclass(frozen=True, slots=True)
class _Lease:
    holder: str
    duration_s: int
    age_s: float
    """Since the last renewal, by our clock: only good for guessing who is alive."""
    unchanged_s: float | None
    """Since the last write, by the API server's clock; None when it does not tell."""
    held_for_s: float
    actor: str
    subject: str
    object_version: str

    @staticmethod
    def read(lease: Json, at: datetime | None) -> _Lease:
        """`at`: when the API server gave it, by its own clock."""
        spec, metadata = lease.get("spec") or {}, lease["metadata"]
        annotations = metadata.get("annotations") or {}
        now = datetime.now(UTC)
        return _Lease(
            holder=str(spec.get("holderIdentity") or ""),
            duration_s=int(spec.get("leaseDurationSeconds") or LEASE_DURATION_S),
            age_s=_since(spec.get("renewTime"), now),
            unchanged_s=_unchanged_s(metadata, at),
            held_for_s=_since(spec.get("acquireTime"), now),
            actor=one_line(annotations.get(_ACTOR, "")),
            subject=one_line(annotations.get(_SUBJECT, "")),
            object_version=metadata["resourceVersion"],
        )


def _unchanged_s(metadata: Json, at: datetime | None) -> float | None:
    """Kubernetes 1.34, managedFields: `time` is the API server's, and moves with every change."""
    times = [
        found
        for entry in metadata.get("managedFields") or ()
        if (found := kubeobject.time_of(entry.get("time"))) is not None
    ]
    return (at - max(times)).total_seconds() if at is not None and times else None


def _since(text: str | None, now: datetime) -> float:
    return (now - datetime.fromisoformat(text)).total_seconds() if text else 0.0


def _micro(time_: datetime) -> str:
    return time_.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _subject(plan: Plan) -> str:
    version = plan.after.version if plan.after else None
    return one_line(f"{plan.action} {version or plan.service}")


def _label(service: str) -> str:
    # A service's name is a DNS label, hence a valid label value; anything else is no service.
    return path_part(service)[:63]


def _revision_name(service: str, number: int) -> str:
    return path_part(f"slipway.{service}.{number}")


def _lease_name(service: str) -> str:
    return path_part(f"slipway.{service}")


def _newest_first(items: Sequence[Json]) -> tuple[Release, ...]:
    return tuple(sorted((_release(item) for item in items), key=lambda release: -release.number))


def _release(item: Json) -> Release:
    release = records.load(Release, orjson.dumps(item.get("data") or {}))
    annotations = item["metadata"].get("annotations") or {}
    settled_at = annotations.get(_SETTLED_AT)
    cause = annotations.get(_CAUSE)
    return replace(
        release,
        outcome=Outcome(annotations.get(_OUTCOME, Outcome.OPEN)),
        cause=None if cause is None else records.load(Cause, cause),
        settled_at=None if settled_at is None else datetime.fromisoformat(settled_at),
        late=annotations.get(_LATE) == "true",
    )
