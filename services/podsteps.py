"""How far a roll-out's newest pod has come, step by step, by what its kubelet wrote. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from services.domain import (
    TEST_STEP,
    Action,
    Json,
    Outcome,
    Protocol,
    Release,
    Step,
    StepState,
    judged,
)
from services.inferenceservice import Facts, Look
from services.kubeobject import (
    CONTAINER,
    condition_of,
    server_status_of,
    time_of,
    value_at,
    written_at,
)
from services.manifests import ready_path

NOT_STARTED = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
"""Why a container waits whose image is there and which cannot be started."""


def kubelet_asks_the_model(pod: Json, name: str, protocol: Protocol = Protocol.V2) -> bool:
    """Whether the pod's readiness is the model's: it is then what the kubelet last heard of it.

    Knative moves the probe into the environment of its queue-proxy.
    """
    path = ready_path(name, protocol)
    for container in (pod.get("spec") or {}).get("containers") or ():
        if value_at(container, ("readinessProbe", "httpGet", "path")) == path:
            return True
        for env in container.get("env") or ():
            if env.get("name") == "SERVING_READINESS_PROBE" and path in str(env.get("value")):
                return True
    return False


def steps_of(
    facts: Facts, look: Look, *, model_ready: bool | None, pulled_at: datetime | None = None
) -> tuple[Step, ...]:
    """The steps of the wanted release's roll-out with their times, from the newest of its pods.

    Each ends when its evidence says so: the object's write, the pod's conditions, the ends of the
    initializer, the start of the server, the pod's readiness (whose probe asks the model), the
    record of the test. `pulled_at`: when the node had the server's image, by its event; None when
    nobody knows. () where nothing rolls out.
    """
    release = facts.wanted
    if facts.stopped or release is None or release.action is Action.ADOPT:
        return ()
    ends = _Ends([("applied", written_at(look.service))])
    pod = rollout_pod(facts)
    done = facts.asleep or release.outcome in {Outcome.VERIFIED, Outcome.SERVING}
    if pod is not None or not done:  # of pods that are gone nobody knows more than that
        _add_pod_steps(ends, pod or {}, release, model_ready=model_ready, pulled_at=pulled_at)
    steps = ends.steps(release.created_at)
    return (*steps, _test_step(release, steps))


def rollout_pod(facts: Facts) -> Json | None:
    """The newest pod of the wanted release's roll-out; those that came after it are not its."""
    settled = facts.wanted.settled_at if facts.wanted else None
    if settled is None or facts.wanted is None or facts.wanted.outcome is Outcome.FAILED:
        return next(iter(facts.pods), None)
    created = ((pod, time_of(pod["metadata"].get("creationTimestamp"))) for pod in facts.pods)
    return next((pod for pod, at in created if at is None or at <= settled), None)


def pulled_at(events: Iterable[Json]) -> datetime | None:
    """When the node had the server's image for the first time, by the pod's events."""
    times = [
        time_of(event.get("firstTimestamp") or event.get("eventTime"))
        for event in events
        if f"{{{CONTAINER}}}" in str(value_at(event, ("involvedObject", "fieldPath")))
    ]
    return min((time for time in times if time), default=None)


@dataclass
class _Ends:
    """When each step ended; None while it has not."""

    known: list[tuple[str, datetime | None]]
    untimed: set[str] = field(default_factory=set)
    """Steps that are over, and of which nobody knows how long they took."""

    def add(self, name: str, ended: datetime | None, *, timed: bool = True) -> None:
        self.known.append((name, ended))
        if not timed:
            self.untimed.add(name)

    def steps(self, began: datetime) -> tuple[Step, ...]:
        return _as_steps(self.known, began, self.untimed)


def _add_pod_steps(
    ends: _Ends,
    pod: Json,
    release: Release,
    *,
    model_ready: bool | None,
    pulled_at: datetime | None,
) -> None:
    ends.add("reconciled", time_of(value_at(pod, ("metadata", "creationTimestamp"))))
    ends.add("scheduled", _passed_at(pod, "PodScheduled"))
    if value_at(pod, ("spec", "initContainers")):
        initializers = value_at(pod, ("status", "initContainerStatuses")) or ()
        over = value_at(next(iter(initializers), {}), ("state", "terminated")) or {}
        ends.add(
            "files downloaded",
            time_of(over.get("finishedAt")) if not over.get("exitCode") else None,
        )
    server = server_status_of(pod)
    started = _first_start(server)
    # Of a server that restarted more than once, the first start is known no more: no time is made
    # up for what came before it.
    first = int(server.get("restartCount") or 0) <= 1
    pulled = pulled_at or started
    if pulled is None and value_at(server, ("state", "waiting", "reason")) in NOT_STARTED:
        pulled = ends.known[-1][1]
    ends.add("image pulled", pulled, timed=pulled_at is not None or (first and started is not None))
    ends.add("server up", started, timed=first)
    ready = _passed_at(pod, "Ready") if model_ready else None
    ended = release.settled_at
    proven = kubelet_asks_the_model(pod, release.service, release.intent.package.protocol)
    again = ready is not None and ended is not None and ready > ended
    ends.add("model loaded", ready, timed=proven and not again)


def _test_step(release: Release, steps: Sequence[Step]) -> Step:
    """The test inference: what is recorded of it, once everything before it is over."""
    if any(step.state is not StepState.DONE for step in steps):
        return Step(TEST_STEP, StepState.PENDING)
    ends = [
        step.started_at + timedelta(seconds=step.took_s)
        for step in steps
        if step.started_at is not None and step.took_s is not None
    ]
    since = max(ends, default=release.created_at)
    running = Step(TEST_STEP, StepState.RUNNING, since)
    why = release.cause.why if release.cause else ""
    match release.outcome:
        case Outcome.VERIFIED:
            return judged(running, StepState.DONE, release.settled_at)
        case Outcome.SERVING:
            return judged(running, StepState.SKIPPED, None, why)
        case Outcome.FAILED:
            return judged(running, StepState.FAILED, release.settled_at, why)
        case _:
            return running


def _first_start(container: Json) -> datetime | None:
    """When a container started first; of one that restarts, the earliest start that is known.

    Kubernetes keeps the present instance and the one before.
    """
    known = [
        time_of(value_at(container, (*state, "startedAt")))
        for state in (("state", "running"), ("state", "terminated"), ("lastState", "terminated"))
    ]
    return min((start for start in known if start), default=None)


def _as_steps(
    ends: Sequence[tuple[str, datetime | None]], began: datetime, untimed: Collection[str] = ()
) -> tuple[Step, ...]:
    steps: list[Step] = []
    since: datetime | None = began
    for name, ended in ends:
        if ended is not None:
            start = since if since is not None and since < ended else ended
            took = max(0.0, (ended - start).total_seconds())
            steps.append(Step(name, StepState.DONE, start, None if name in untimed else took))
            since = ended
        elif since is not None:
            steps.append(Step(name, StepState.RUNNING, since))
            since = None
        else:
            steps.append(Step(name, StepState.PENDING))
    return tuple(steps)


def _passed_at(pod: Json | None, kind: str) -> datetime | None:
    condition = condition_of(pod, kind) if pod else None
    if condition and condition.get("status") == "True":
        return time_of(condition.get("lastTransitionTime"))
    return None
