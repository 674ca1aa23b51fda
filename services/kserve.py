"""Services on a cluster: InferenceServices of one namespace, in Standard and Knative mode.

The one write is a server-side apply of the whole manifest by field manager `slipway`, without force
and with strict field validation, guarded by the resourceVersion of the object that the plan was
made from. Nothing else ever touches an InferenceService: its labels and annotations flow into the
pods and restart them. What is written stands in manifests.py, what the objects mean in
inferenceservice.py, how requests get to them in waysin.py; this module asks.

Read against KServe v0.20.0, Knative Serving v1.20, Kubernetes 1.34. Implements ports.Serving.
"""

from __future__ import annotations

import math
import re
import shlex
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

from services import checks, kubeobject, manifests, podsteps, servingruntime, symptoms
from services import inferenceservice as objects
from services.cluster import APPLY_PATCH, Cluster, Reply, path_part, right_fix
from services.domain import (
    Action,
    Applied,
    Cause,
    Drift,
    Endpoint,
    Finding,
    Intent,
    Json,
    LogLine,
    Mode,
    Observed,
    Outcome,
    OwnedField,
    PackageKind,
    Phase,
    Plan,
    Rehearsal,
    Release,
    Service,
    StepState,
    Verdict,
)
from services.domain import Protocol as InferenceProtocol
from services.errors import (
    Conflict,
    Denied,
    NotFound,
    NotOffered,
    Unreachable,
    one_line,
)
from services.facilities import Facilities, rights_to
from services.gcloud import CloudPlace
from services.kubepaths import Paths
from services.podlogs import MAX_LOG_STREAMS, PodLogs, containers_of
from services.watched import Collections, Reads, Scope, Watched, same_things
from services.waysin import WaysIn

WRITE_FOR_S = 60.0
"""A write whose answer was lost is looked for, and sent again, for so long: an API server's
restart takes about 20 s."""

FAILURE_LINES = 400
LOOK_AT_LOG_EVERY_S = 2.0

_UNDECLARED = re.compile(r"field not declared in schema|failed to create typed patch object")
"""How a server-side apply refuses a field that the kind does not have."""

KNATIVE_SERVICE_LABEL = "serving.knative.dev/service"

_OLD_MODES = {Mode.STANDARD: "RawDeployment", Mode.KNATIVE: "Serverless"}
"""As KServe up to v0.15 writes them; it refuses the new names (kserve/kserve#4701)."""


def collections(namespace: str, service: str | None = None) -> Collections:
    """What a process that stays up watches; of one service alone, what who follows it does."""
    paths = Paths(namespace)
    child = kubeobject.predictor_name(service) if service else ""

    def of(label: str, value: str | None) -> Scope:
        return Scope(label=f"{label}={value}" if value else label)

    return {
        paths.services: Scope(name=service or ""),
        paths.deployments: of(kubeobject.SERVICE_LABEL, service),
        paths.releases: of(kubeobject.RELEASE_LABEL, service),
        paths.pods: of(kubeobject.SERVICE_LABEL, service),
        paths.knative_services: Scope(name=child),
        paths.revisions: of(KNATIVE_SERVICE_LABEL, child),
    }


class Histories(Protocol):
    """What serving needs of the journal: reading."""

    def history(self, service: str) -> Sequence[Release]:
        """Releases of one service, newest first."""

    def histories(self) -> Mapping[str, Sequence[Release]]:
        """Every service's releases, newest first."""


@dataclass(frozen=True, slots=True)
class KServeOptions:
    """What a target's settings say for its services."""

    mode: Mode | None = None
    """Deployment mode of new services; None = the cluster's default."""
    runtime: str | None = None
    """ServingRuntime to use; None = chosen by the library check."""
    service_account: str | None = None
    ingress: str = ""
    """Address of the ingress, http://host:port; "" = found."""
    cloud: CloudPlace | None = None
    """The target's place in Google Cloud; None off GKE."""


class KServeServing:
    """The InferenceServices of one namespace. Implements ports.Serving."""

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        journal: Histories,
        options: KServeOptions = KServeOptions(),
        *,
        reads: Reads | None = None,
        ground: Callable[[], Iterable[Finding]] = tuple,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Serve from `namespace`. Connects on the first call.

        `reads`: where looks and lists are read, when it is not the cluster itself. Plans, writes
        and ways in are always read from the cluster. `ground`: what this machine needs before the
        cluster can be asked at all, looked at first by `check`.
        """
        self._ground = ground
        self._cluster = cluster
        self._reads: Reads = reads or cluster
        self._namespace = namespace
        self._paths = Paths(namespace)
        self._journal = journal
        self._options = options
        self._sleep = sleep
        self._facilities = Facilities(
            cluster,
            namespace,
            service_account=self._options.service_account,
            cloud=self._options.cloud,
        )
        self._ways = WaysIn(cluster, self._paths, options.ingress)
        self._logs = PodLogs(cluster, self._paths)
        self._listed: dict[str, tuple[tuple[Json, ...], Service]] = {}
        """What `services` made of the same objects the last time: watches leave most as they
        were."""
        self._log_looked: dict[str, float] = {}
        self._unplaced: dict[str, tuple[float, Sequence[Json]]] = {}
        """Events of pods without a node, and when they were read."""
        self._pulled: dict[str, datetime | None] = {}
        """When a pod's node had its server's image."""

    # ── Reading ───────────────────────────────────────────────────────────────────────────────

    def services(self) -> Sequence[Service]:
        """Every InferenceService of the namespace, by name; those that others made too.

        Five lists, whatever the number of services.
        """
        found = self._reads.items(self._paths.services, doing="list the services")
        if not found:
            return ()
        histories = self._journal.histories()
        deployments = _by_name(
            self._reads.items(
                self._paths.deployments, doing="list Deployments", selector=kubeobject.SERVICE_LABEL
            )
        )
        pods = _by_label(
            self._reads.items(
                self._paths.pods, doing="list pods", selector=kubeobject.SERVICE_LABEL
            ),
            kubeobject.SERVICE_LABEL,
        )
        knative, revisions = {}, {}
        if any(kubeobject.mode_of(service) is Mode.KNATIVE for service in found):
            knative = _by_name(
                self._reads.items(self._paths.knative_services, doing="list Knative Services")
            )
            revisions = _by_label(
                self._reads.items(
                    self._paths.revisions, doing="list Revisions", selector=KNATIVE_SERVICE_LABEL
                ),
                KNATIVE_SERVICE_LABEL,
            )
        listed = []
        kept, self._listed = self._listed, {}
        for service in found:
            name = service["metadata"]["name"]
            child = kubeobject.predictor_name(name)
            look = objects.Look(
                service,
                deployments.get(child),
                knative.get(child),
                tuple(revisions.get(child, ())),
                tuple(pods.get(name, ())),
            )
            history = histories.get(name, ())
            parts = (service, look.deployment, look.knative, *look.revisions, *look.pods, history)
            same = kept.get(name)
            if same is None or not same_things(same[0], parts):
                same = (parts, self._service(look, history))
            self._listed[name] = same
            listed.append(same[1])
        return tuple(sorted(listed, key=lambda service: service.name))

    def service(self, name: str) -> Service | None:
        """One service; absence is a value."""
        look = self._look(name, self._reads)
        return None if look is None else self._service(look, self._journal.history(name))

    def observe(self, name: str) -> Observed:
        """Look once; plain facts of the wanted release, no verdict."""
        seen_at = datetime.now(UTC)
        look = self._look(name, self._reads)
        if look is None:
            return Observed(name, seen_at, exists=False, message="there is no InferenceService")
        facts = objects.read(look, self._journal.history(name))
        model_ready = self._model_ready(name, facts)
        awaited = {} if facts.stopped else self._nodes_awaited(facts)
        failure = None if facts.stopped else self._failure(look, facts, model_ready, awaited)
        pulled_at = self._pulled_at(podsteps.rollout_pod(facts))
        steps = podsteps.steps_of(facts, look, model_ready=model_ready, pulled_at=pulled_at)
        if failure is not None:
            steps = tuple(
                replace(step, state=StepState.FAILED) if step.state is StepState.RUNNING else step
                for step in steps
            )
        wanted = facts.wanted
        return Observed(
            service=name,
            seen_at=seen_at,
            wanted_release=wanted.number if wanted else None,
            wanted_version=wanted.intent.version if wanted else None,
            caught_up=facts.caught_up,
            desired=facts.desired,
            updated=facts.updated,
            total=facts.total,
            available=facts.available,
            model_ready=model_ready,
            traffic_as_wanted=facts.traffic_as_wanted,
            stopped=facts.stopped,
            asleep=facts.asleep,
            failure=failure,
            answering=facts.answering,
            steps=steps,
            drift=self._drift(look, wanted),
            message=next(iter(awaited.values()), facts.message),
        )

    def _look(self, name: str, reads: Reads) -> objects.Look | None:
        service = reads.get(self._paths.service(name), doing=f"read {one_line(name)}")
        if service is None:
            return None
        child = kubeobject.predictor_name(name)
        pods = reads.items(
            self._paths.pods,
            doing=f"list the pods of {name}",
            selector=f"{kubeobject.SERVICE_LABEL}={name}",
        )
        if kubeobject.mode_of(service) is Mode.KNATIVE:
            return objects.Look(
                service,
                knative=reads.get(
                    self._paths.knative_service(name),
                    doing=f"read the Knative Service of {name}",
                ),
                revisions=tuple(
                    reads.items(
                        self._paths.revisions,
                        doing=f"list the Revisions of {name}",
                        selector=f"{KNATIVE_SERVICE_LABEL}={child}",
                    )
                ),
                pods=tuple(pods),
            )
        deployment = reads.get(self._paths.deployment(name), doing=f"read the Deployment of {name}")
        return objects.Look(service, deployment=deployment, pods=tuple(pods))

    def _service(self, look: objects.Look, history: Sequence[Release]) -> Service:
        facts = objects.read(look, history)
        service, wanted = look.service, facts.wanted
        drift = self._drift(look, wanted)
        intent = wanted.intent if wanted else objects.live_intent(service)
        if wanted and drift:
            intent = objects.with_drift(intent, service)
        phase, message = _phase(facts, wanted)
        return Service(
            name=service["metadata"]["name"],
            target=self._cluster.target,
            namespace=self._namespace,
            mode=facts.mode,
            managed=wanted is not None or facts.workload is not None,
            object_version=objects.object_version(service),
            intent=intent,
            release=wanted.number if wanted else None,
            phase=phase,
            message=message,
            answering=facts.answering,
            stable=facts.stable,
            url=(service.get("status") or {}).get("url"),
            since=wanted.settled_at or wanted.created_at if wanted else None,
            actor=wanted.actor if wanted else "",
            verified=bool(wanted and wanted.verified and objects.still_proven(drift)),
            drift=drift,
            owner=objects.owner_of(service),
            asleep=facts.asleep,
            leaving=any(pod["metadata"].get("deletionTimestamp") for pod in look.pods),
            recorded=wanted.intent if wanted else None,
        )

    def _drift(self, look: objects.Look, wanted: Release | None) -> tuple[Drift, ...]:
        if wanted is None:
            return ()
        around = (objects.pods_taken_away(look.deployment), objects.image_drift(look, wanted))
        return (*objects.drift_of(look.service, wanted), *(drift for drift in around if drift))

    def _model_ready(self, name: str, facts: objects.Facts) -> bool | None:
        """What the model servers of the wanted pods say; all of them have to say yes."""
        ready = [pod for pod in facts.pods if kubeobject.pod_ready(pod)]
        if not ready or not facts.caught_up:
            return None
        speaks = facts.wanted.intent.package.protocol if facts.wanted else InferenceProtocol.V2
        return all(self._pod_says_ready(name, pod, speaks) for pod in ready[:5])

    def _pod_says_ready(self, name: str, pod: Json, protocol: InferenceProtocol) -> bool:
        """What the server of a ready pod says; where it cannot be asked, what the kubelet heard."""
        path = f"{self._paths.pod_proxy(pod)}{manifests.ready_path(path_part(name), protocol)}"
        try:
            response = self._cluster.raw(
                "GET", path, doing="ask the model server", read_timeout_s=3
            )
        except Unreachable:
            return podsteps.kubelet_asks_the_model(pod, name, protocol)
        response.drain_conn()
        response.release_conn()
        if response.status in {401, 403, 502, 503, 504}:  # the way there, not the server
            return podsteps.kubelet_asks_the_model(pod, name, protocol)
        return response.status == 200

    def _pulled_at(self, pod: Json | None) -> datetime | None:
        """When the pod's node had the server's image, by its event; None when nobody knows."""
        server = kubeobject.server_status_of(pod) if pod else {}
        if pod is None or not server.get("containerID"):
            return None  # it is told once the container is there
        name = pod["metadata"]["name"]
        if name not in self._pulled:
            with suppress(Denied, Unreachable):  # a step's time is worth no roll-out
                events = self._cluster.items(
                    self._paths.events,
                    doing=f"read when the image of {name} was pulled",
                    fields=f"involvedObject.name={name},reason=Pulled",
                )
                self._pulled[name] = podsteps.pulled_at(events)
        return self._pulled.get(name)

    def _nodes_awaited(self, facts: objects.Facts) -> Mapping[str, str]:
        """New pods that an autoscaler may yet find a node for → what is waited for, in words."""
        awaited = {}
        now = datetime.now(UTC)
        for pod in facts.pods:
            if not symptoms.without_node(pod, now):
                continue
            name = pod["metadata"]["name"]
            said = symptoms.node_awaited(pod, self._said_of_nodes(name), now)
            if said:
                awaited[name] = said
        return awaited

    def _said_of_nodes(self, pod: str) -> Sequence[Json]:
        """The events of a pod without a node, read again every few seconds."""
        at, events = self._unplaced.get(pod, (-math.inf, ()))
        if time.monotonic() - at >= LOOK_AT_LOG_EVERY_S:
            with suppress(Denied):  # then nobody knows of an autoscaler
                events = self._cluster.items(
                    self._paths.events,
                    doing=f"read what is said of a node for {pod}",
                    fields=f"involvedObject.name={pod}",
                )
            self._unplaced[pod] = (time.monotonic(), events)
        return events

    def _failure(
        self,
        look: objects.Look,
        facts: objects.Facts,
        model_ready: bool | None,
        awaited: Collection[str],
    ) -> Cause | None:
        """The first concrete cause on the new pods, with the log lines that say so.

        `awaited`: names of pods that may still get a node.
        """
        wanted = facts.wanted
        if wanted is None:
            return None
        if wanted.outcome in {Outcome.OPEN, Outcome.TIMEOUT}:  # what comes later is drift
            other = objects.carries_another(look, wanted, facts.pods)
            if other is not None:
                return symptoms.another_model(other, wanted.intent)
        if facts.all_serve and model_ready:
            return None
        now = datetime.now(UTC)
        written_at = kubeobject.written_at(look.service) or wanted.created_at
        placed = [pod for pod in facts.pods if pod["metadata"]["name"] not in awaited]
        trouble = symptoms.trouble_of(placed, facts.stuck, now, written_at)
        if trouble is None and not facts.caught_up and not facts.pods:
            with suppress(Denied):  # a cause that only events tell stays unknown
                trouble = symptoms.refused_spec(self._events(look), written_at)
        if trouble is None:
            return self._loading_failure(facts, wanted, now)
        lines: Sequence[str] = ()
        unread = ""
        if trouble.has_log:
            try:
                lines = self._last_lines(trouble.pod, trouble.container, previous=trouble.previous)
            except Denied as error:
                unread = f" Its log was not read: {error.why}"
        cause = symptoms.cause_of(trouble, wanted.intent, lines)
        return replace(cause, why=f"{cause.why}{unread}".strip())

    def _last_lines(self, pod: str, container: str, *, previous: bool) -> Sequence[str]:
        lines = self._logs.lines(pod, container, previous=previous, tail=FAILURE_LINES)
        if not lines or (len(lines) == 1 and "unable to retrieve container logs" in lines[0].text):
            # The node keeps one earlier instance; when it is gone, the present one has to do.
            lines = self._logs.lines(pod, container, previous=not previous, tail=FAILURE_LINES)
        return [line.text for line in lines]

    def _loading_failure(
        self, facts: objects.Facts, wanted: Release, now: datetime
    ) -> Cause | None:
        """A server that stays up without its model says so only in its log."""
        for pod in facts.pods[:3]:
            started = kubeobject.server_started_at(pod)
            if started is None or kubeobject.pod_ready(pod) or (now - started).total_seconds() < 5:
                continue
            name = pod["metadata"]["name"]
            looked = self._log_looked.get(name, 0.0)
            if time.monotonic() - looked < LOOK_AT_LOG_EVERY_S:
                continue
            self._log_looked[name] = time.monotonic()
            try:
                lines = self._last_lines(name, kubeobject.CONTAINER, previous=False)
            except Denied:
                return None  # the roll-out is followed without it
            found = symptoms.loading_cause(name, wanted.intent, lines)
            if found is not None:
                return found
        return None

    # ── Planning ──────────────────────────────────────────────────────────────────────────────

    def default_intent(self, intent: Intent) -> Intent:
        """The intent with what this target fills in: mode, runtime, service account.

        NotOffered for a canary in Standard mode.
        """
        service = self._cluster.get(self._paths.service(intent.service), doing="read the service")
        if service is not None:
            mode = kubeobject.mode_of(service)
        elif intent.mode is Mode.LOCAL:
            mode = self._options.mode or self._facilities.default_mode()
        else:
            mode = intent.mode
        if intent.canary_percent is not None and mode is not Mode.KNATIVE:
            raise manifests.canary_not_offered(intent.service)
        runtime = intent.runtime or self._options.runtime
        known = {found.name: found for found in self._facilities.runtimes()}
        if runtime in known and known[runtime].environment:
            runtime = None  # of another package: never kept, never guessed
        if intent.package.kind is PackageKind.IMAGE:
            runtime = None
        elif intent.package.environment:
            runtime = servingruntime.environment_runtime(intent.package.environment)
        elif runtime is None or runtime == (
            objects.live_intent(service).runtime if service else None
        ):
            runtime = self._fitting_runtime(intent, runtime)
        return replace(
            intent,
            mode=mode,
            port=None,
            runtime=runtime,
            runtime_image=intent.package.environment or self._runtime_image(runtime),
            service_account=intent.service_account or self._options.service_account,
        )

    def _runtime_image(self, runtime: str | None) -> str:
        known = self._facilities.runtimes() if runtime else ()
        return next((found.image for found in known if found.name == runtime), "")

    def _fitting_runtime(self, intent: Intent, kept: str | None) -> str | None:
        """The runtime whose libraries fit; the one that the service has, unless that will fail."""
        runtimes = self._facilities.runtimes()
        known = next((runtime for runtime in runtimes if runtime.name == kept), None)
        if known is not None:
            verdict = checks.library_verdict(known, intent.requirements, intent.python_version)
            if verdict.fit in {checks.Fit.FITS, checks.Fit.UNKNOWN}:
                return kept
        chosen = checks.choose_runtime(runtimes, intent.requirements, intent.python_version)
        return chosen.name if chosen else kept

    def rehearse(self, plan: Plan) -> Rehearsal:
        """Manifest, dry run and preflight; writes nothing."""
        if plan.after is None:
            missing = tuple(self._facilities.right_findings(rights_to("delete", None)))
            note = f"# deletes InferenceService {plan.service}; its history stays\n"
            return Rehearsal(note, missing)
        live = self._cluster.get(self._paths.service(plan.service), doing=f"read {plan.service}")
        history = self._journal.history(plan.service)
        number = history[0].number + 1 if history else 1
        if plan.action is Action.ADOPT:
            missing = tuple(self._facilities.right_findings(rights_to("", None)))
            note = "# writes nothing on the InferenceService; records it as it is\n"
            return Rehearsal(note, missing)
        made = self._manifest(plan, plan.workload or number, live)
        takes_over = plan.for_others or self._takes_over(live)
        reply = self._send(made, plan.service, dry_run=True, force=takes_over)
        owned = _owned(reply) if reply.status == 409 else ()
        if owned and set(owned) <= set(plan.takes):
            reply = self._send(made, plan.service, dry_run=True, force=True)
        findings = (
            *self._rehearsed(plan, live, reply.body if reply.ok else made),
            *self._dry_run_findings(plan, reply, owned),
        )
        return Rehearsal(manifests.text_of(made), findings, owned)

    def _rehearsed(self, plan: Plan, live: Json | None, made: Json) -> Iterator[Finding]:
        """`made`: the object as it will be; what others set on it counts, too."""
        intent = plan.after
        assert intent is not None
        yield from self._facilities.plan_findings(
            intent,
            creates=plan.based_on is None,
            made=made,
            starts=plan.workload is None and not plan.nothing_to_do,
        )
        wished = manifests.wished_model_env(plan.before, intent)
        if wished:
            yield Finding(
                "environment variables",
                Verdict.FAIL,
                f"{', '.join(wished)} says which model the server loads and as what it answers:"
                f" with another value it would not be {intent.version}.",
                f"Leave {', '.join(wished)} out.",
            )
        takes_over = plan.for_others or self._takes_over(live)
        if takes_over and live is not None and not plan.for_others:
            yield Finding(
                checks.OWNERSHIP,
                Verdict.WARN,
                f"It was adopted: the fields of the manifest are taken over from"
                f" {objects.last_writer(live) or 'their owner'}.",
                "Do not apply it from there any more.",
            )
        image = self._runtime_image(intent.runtime)
        if image and intent.runtime_image and image != intent.runtime_image:
            yield Finding(
                "runtime image",
                Verdict.WARN,
                one_line(f"It was {intent.runtime_image}; {intent.runtime} has {image} now.", 512),
                "It is not restored: for the earlier one, put it into the runtime or choose"
                " another runtime.",
            )
        foreign = () if live is None or takes_over else objects.fields_of_others(live)
        if foreign:
            named = ", ".join(f"{field} ({manager})" for field, manager in foreign)
            yield Finding(
                "fields of others",
                Verdict.WARN,
                one_line(f"These stay as others set them: {named}.", 512),
                "If they should be otherwise, change them where they are owned.",
            )

    def _dry_run_findings(
        self, plan: Plan, reply: Reply, owned: Sequence[OwnedField]
    ) -> Iterator[Finding]:
        """What the API server and KServe's webhooks said of the manifest."""
        if owned and reply.status != 409:
            yield Finding(checks.OWNERSHIP, Verdict.WARN, f"Taken over: {_owners_in_words(owned)}.")
        if reply.ok:
            yield Finding(
                checks.DRY_RUN,
                Verdict.PASS,
                "The API server and KServe's webhooks accept the manifest.",
            )
        elif reply.status == 404:
            yield Finding(
                checks.DRY_RUN,
                Verdict.FAIL,
                reply.message or "The API server has no InferenceServices.",
                f"Create the namespace (kubectl create namespace {self._namespace}),"
                " or install KServe: slipway doctor.",
            )
        elif owned:
            said = f"Others own what it sets: {_owners_in_words(owned)}."
            yield Finding(checks.DRY_RUN, Verdict.FAIL, said, _owners_fix(owned), refusal=Conflict)
        elif _UNDECLARED.search(reply.message):
            # The API server says so with status 500 (Kubernetes 1.34).
            yield Finding(
                checks.DRY_RUN,
                Verdict.FAIL,
                one_line(reply.message, 512),
                "Correct the patch: the InferenceService of this cluster does not take that.",
            )
        elif reply.status >= 500:
            # The plan was not judged at all: a webhook or the API server was away for a moment.
            yield Finding(
                checks.DRY_RUN,
                Verdict.FAIL,
                one_line(reply.message or f"HTTP {reply.status}", 512),
                "Try again in a moment; slipway doctor says whether KServe's webhook is up.",
            )
        else:
            error = self._cluster.refused(f"deploy {plan.service}", reply)
            denied = isinstance(error, Denied)
            why = error.why if denied else one_line(reply.message, 512)
            fix = error.fix if denied else "Change the plan."
            yield Finding(checks.PERMISSION if denied else checks.DRY_RUN, Verdict.FAIL, why, fix)

    def _manifest(self, plan: Plan, workload: int, live: Json | None) -> dict[str, Json]:
        assert plan.after is not None
        old_names = live is None and self._facilities.names_old_modes()
        new = _OLD_MODES.get(plan.after.mode) if old_names else plan.after.mode.value
        mode_value = kubeobject.mode_value(live) if live else new
        return manifests.manifest(
            plan.after,
            namespace=self._namespace,
            workload=workload,
            mode_value=mode_value,
            hold_traffic=_goes_back_from_canary(plan, live),
            tag_routing=manifests.tags_routes(plan.after, workload, live),
        )

    # ── The one write ─────────────────────────────────────────────────────────────────────────

    def apply(self, plan: Plan, release: Release) -> Applied:
        """The one write. Conflict when the object is no longer the one that was planned from.

        A write whose answer was lost is looked up before it is sent again.
        """
        deadline = time.monotonic() + WRITE_FOR_S
        sent = False
        while True:
            try:
                live = self._cluster.get(
                    self._paths.service(plan.service), doing=f"read {plan.service}"
                )
                if self._is_applied(plan, release, live):
                    return _applied(release, live)
                self._must_be_as_planned(plan, live)
                if plan.action is Action.ADOPT:
                    self._must_be_adoptable(plan, live)
                    return _applied(release, live)
                sent = True
                done = self._write(plan, release, live)
                if done is not None:
                    return done
            except Unreachable:
                # Whether it was written is not known: look, and only then write again.
                if not sent or time.monotonic() > deadline:
                    raise
            self._sleep(0.5)

    def _write(self, plan: Plan, release: Release, live: Json | None) -> Applied | None:
        """Send the plan's one write; None when only the status changed since it was read."""
        if plan.after is None:
            return self._delete(plan, release, live)
        made = self._manifest(plan, release.workload, live)
        if live is not None:
            made["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"]
        reply = self._send(made, plan.service, dry_run=False, force=self._takes_over(live))
        if reply.status == 409:
            owned = _owned(reply)
            if not owned:
                return None
            if not set(owned) <= set(plan.takes):
                raise Conflict(
                    f"{plan.service} has fields that others own. Nothing was changed.",
                    why=f"{_owners_in_words(owned)}.",
                    fix=_owners_fix(owned),
                )
            # By consent, field by field; that nobody took another one is the resourceVersion's.
            reply = self._send(made, plan.service, dry_run=False, force=True)
            if reply.status == 409:
                return None
        if not reply.ok:
            raise self._cluster.refused(f"deploy {plan.service}", reply)
        if live is None and reply.status == 200:
            # An apply has no "must not exist": it merged into an object made in this moment.
            raise Conflict(
                f"Somebody else created {plan.service} at the same moment.",
                why="The two manifests were merged.",
                fix=f"Look at it: slipway status {plan.service}.",
            )
        return _applied(release, reply.body)

    def _delete(self, plan: Plan, release: Release, live: Json | None) -> Applied | None:
        if live is None:
            return Applied(release.number, "")
        metadata = live["metadata"]
        reply = self._cluster.send(
            "DELETE",
            self._paths.service(plan.service),
            doing=f"delete {plan.service}",
            body={
                "apiVersion": "v1",
                "kind": "DeleteOptions",
                "propagationPolicy": "Background",
                "preconditions": {
                    "uid": metadata["uid"],
                    "resourceVersion": metadata["resourceVersion"],
                },
            },
            accept=(404, 409),
        )
        return None if reply.status == 409 else Applied(release.number, "")

    def _send(
        self, made: Mapping[str, Json], name: str, *, dry_run: bool, force: bool = False
    ) -> Reply:
        query: dict[str, str | int] = {
            "fieldManager": kubeobject.FIELD_MANAGER,
            "fieldValidation": "Strict",
        }
        if dry_run:
            query["dryRun"] = "All"
        if force:
            query["force"] = "true"
        refusals = (400, 403, 404, 409, 422, 500) if dry_run else (409,)
        return self._cluster.send(
            "PATCH",
            self._paths.service(name),
            doing=f"deploy {name}",
            query=query,
            body=made,
            content_type=APPLY_PATCH,
            accept=refusals,
        )

    def _is_applied(self, plan: Plan, release: Release, live: Json | None) -> bool:
        if plan.after is None:
            return live is None
        if plan.action is Action.ADOPT:
            return False
        if live is None or kubeobject.workload_of(live) != release.workload:
            return False
        wished = self._manifest(plan, release.workload, live)
        may_hold = plan.action in {Action.ABORT, Action.ROLLBACK}
        return objects.carries(live, wished, may_hold=may_hold)

    def _must_be_adoptable(self, plan: Plan, live: Json | None) -> None:
        other = None if live is None else objects.foreign_format(live)
        if other:
            raise NotOffered(
                f"{plan.service} cannot be adopted. Nothing was changed.",
                why=f"It serves the format {one_line(other)}; Slipway deploys MLflow models and"
                " images, so it could not bring the present state back.",
                fix="Look at it and test it here; change it where it was made.",
            )

    def _takes_over(self, live: Json | None) -> bool:
        """Whether this is the first write after an adoption, which was the consent to own it."""
        if live is None or kubeobject.workload_of(live) is not None:
            return False
        history = self._journal.history(live["metadata"]["name"])
        return any(release.action is Action.ADOPT for release in history)

    def _must_be_as_planned(self, plan: Plan, live: Json | None) -> None:
        seen = None if live is None else objects.object_version(live)
        if seen == plan.based_on:
            return
        if live is None:
            why = "It was deleted meanwhile."
        elif plan.based_on is None:
            why = "It exists meanwhile."
        else:
            fields = ", ".join(
                f"{change.field} ({change.before or '–'} → {change.after or '–'})"
                for change in objects.edits(plan.before, live)
            )
            who = objects.last_writer(live)
            why = f"{who or 'Somebody'} changed {fields or 'its labels, annotations or spec'}."
        raise Conflict(
            f"{plan.service} changed while you were looking. Nothing was changed.",
            why=one_line(why, 512),
            fix="Look at the new plan and confirm it again.",
        )

    # ── Ways in ───────────────────────────────────────────────────────────────────────────────

    def endpoint(self, name: str, release: int | None = None) -> Endpoint:
        """The way in; with `release`, the one that reaches exactly that workload's pods.

        NotFound until there is one; Denied when the rights for it are what is missing.
        """
        look = self._look(name, self._cluster)
        if look is None:
            raise objects.missing(name, self._namespace)
        if release is None:
            found = self._ways.to(look, name, lambda: self._journal.history(name))
        else:
            found = self._ways.to_release(look, name, release)
        served = kubeobject.version_of(look.service)
        return replace(found, registered_model=served.model) if served else found

    # ── Logs and events ───────────────────────────────────────────────────────────────────────

    def logs(
        self,
        name: str,
        *,
        container: str | None = None,
        previous: bool = False,
        tail: int = 200,
        follow: bool = False,
    ) -> Iterator[LogLine]:
        """Lines of every pod of the service, merged by time, capped. NotFound.

        Without `container`: the initializer and the model server of each pod.
        """
        look = self._look(name, self._cluster)
        if look is None:
            raise objects.missing(name, self._namespace)
        streams = [
            (pod["metadata"]["name"], found)
            for pod in look.pods
            for found in containers_of(pod, container)
        ][:MAX_LOG_STREAMS]
        if not streams:
            if container is not None and look.pods:
                raise NotFound(
                    f"No pod of {name} has a container {one_line(container)!r}.",
                    why="There are: "
                    + ", ".join(sorted({c for pod in look.pods for c in containers_of(pod, "")})),
                )
            return iter(())
        if follow:
            return self._logs.followed(streams, tail)
        lines = [
            line
            for pod, found in streams
            for line in self._logs.lines(pod, found, previous=previous, tail=tail)
        ]
        lines.sort(key=lambda line: line.time or datetime.min.replace(tzinfo=UTC))
        return iter(lines[-tail:] if len(streams) == 1 else lines)

    def containers(self, name: str) -> Sequence[str]:
        """Names of the containers of its pods, those that start first ahead. NotFound."""
        look = self._look(name, self._reads)
        if look is None:
            raise objects.missing(name, self._namespace)
        return tuple(dict.fromkeys(each for pod in look.pods for each in containers_of(pod, "")))

    def events(self, name: str) -> Sequence[LogLine]:
        """Events of the object, its children and its pods in one timeline, oldest first."""
        look = self._look(name, self._cluster)
        if look is None:
            raise objects.missing(name, self._namespace)
        return tuple(_event_line(event) for event in self._events(look))

    def _events(self, look: objects.Look) -> list[Json]:
        """Events about anything that belongs to the service, oldest first."""
        name = look.service["metadata"]["name"]
        child = kubeobject.predictor_name(name)
        names = {name, child, *(pod["metadata"]["name"] for pod in look.pods)}
        names |= {revision["metadata"]["name"] for revision in look.revisions}

        def belongs(event: Json) -> bool:
            about = (event.get("involvedObject") or {}).get("name", "")
            return about in names or str(about).startswith(f"{child}-")

        found = self._cluster.items(
            self._paths.events,
            doing=f"list the events of {name}",
        )
        return sorted((event for event in found if belongs(event)), key=_event_time)

    # ── Health ────────────────────────────────────────────────────────────────────────────────

    def check(self) -> Sequence[Finding]:
        """Everything that must hold for this target. Never raises."""
        found = self._facilities.findings(self._ways.listening)
        return (*self._ground(), *found, *self._watch_finding())

    def _watch_finding(self) -> Iterator[Finding]:
        if not isinstance(self._reads, Watched):
            return
        if self._reads.refused:
            yield Finding(
                "watch",
                Verdict.WARN,
                f"You may not watch in {self._namespace}: every page asks the API server anew.",
                right_fix("watch", "inferenceservices"),
            )
        elif self._reads.confirmed_s_ago is not None:
            yield Finding(
                "watch",
                Verdict.PASS,
                f"Kinds of objects watched: {self._reads.watching}; the oldest answer is"
                f" {self._reads.confirmed_s_ago:.0f} s old.",
            )


_MANAGER = re.compile(r'conflict with "((?:[^"\\]|\\.)*)"')
"""structured-merge-diff v6, merge/conflict.go: how an apply names who owns a field."""


def _owned(reply: Reply) -> tuple[OwnedField, ...]:
    """The fields for which an apply was refused; () when it was refused for something else."""
    found = []
    for reason, message, field in reply.causes:
        manager = _MANAGER.search(message)
        if reason == "FieldManagerConflict" and manager:
            found.append(OwnedField(one_line(field), one_line(manager[1])))
    return tuple(sorted(set(found), key=str))


def _owners_in_words(owned: Sequence[OwnedField]) -> str:
    return one_line(", ".join(map(str, owned)), 512)


def _owners_fix(owned: Sequence[OwnedField]) -> str:
    managers = sorted({field.manager for field in owned})
    given = " ".join(f"--take-over {shlex.quote(manager)}" for manager in managers)
    return (
        "Change these fields where they are owned, or take them over: tick the box below the plan,"
        f" or add {given}."
    )


def _goes_back_from_canary(plan: Plan, live: Json | None) -> bool:
    """Whether the plan returns to pods that still run beside an open canary.

    With the percentage simply taken away, Knative would send everything to the latest *ready*
    revision, which is the canary, until the restored one is up. At 0 percent all of the traffic
    goes at once to the revision that had it before the canary.
    """
    return (
        live is not None
        and plan.after is not None
        and plan.after.canary_percent is None
        and plan.workload is not None
        and plan.workload != kubeobject.workload_of(live)
        and objects.live_percent(live) is not None
    )


def _applied(release: Release, live: Json | None) -> Applied:
    return Applied(release.number, "" if live is None else objects.object_version(live))


def _phase(facts: objects.Facts, wanted: Release | None) -> tuple[Phase, str]:
    if facts.stopped:
        return Phase.STOPPED, "stopped"
    if wanted is not None and wanted.outcome is Outcome.FAILED:
        return Phase.FAILED, wanted.cause.what if wanted.cause else "its roll-out failed"
    if facts.all_serve:
        return Phase.READY, facts.message
    if facts.stuck is not None and not facts.stuck.silent_webhook:
        said = (facts.stuck.reason, facts.stuck.message)
        return Phase.FAILED, one_line(": ".join(part for part in said if part))
    return Phase.ROLLING_OUT, facts.message


def _by_name(items: Sequence[Json]) -> dict[str, Json]:
    return {item["metadata"]["name"]: item for item in items}


def _by_label(items: Sequence[Json], label: str) -> dict[str, list[Json]]:
    grouped: dict[str, list[Json]] = {}
    for item in items:
        value = (item["metadata"].get("labels") or {}).get(label)
        if value:
            grouped.setdefault(value, []).append(item)
    return grouped


def _event_time(event: Json) -> str:
    return str(
        event.get("lastTimestamp")
        or event.get("eventTime")
        or event["metadata"].get("creationTimestamp")
    )


def _event_line(event: Json) -> LogLine:
    about = event.get("involvedObject") or {}
    count = int(event.get("count") or 1)
    times = f" ({count} times)" if count > 1 else ""
    return LogLine(
        kubeobject.time_of(_event_time(event)),
        one_line(f"{about.get('kind', '')}/{about.get('name', '')}"),
        one_line(f"{event.get('reason', '')}: {event.get('message', '')}{times}", 1024),
        warning=event.get("type") == "Warning",
    )
