"""The ports in memory: for tests only, held to the same contract suites as the real adapters.

A `World` is the state behind them and implements Ops. Nothing happens by itself: `world.settle_now`
and the `fails`, `slow` sets say what a target would do, so that a test decides what is seen.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from services import checks
from services.domain import (
    LATEST,
    TEST_STEP,
    Action,
    AliasRef,
    Answering,
    Applied,
    AuditEntry,
    Cause,
    ColumnSpec,
    Drift,
    Endpoint,
    Finding,
    InferRequest,
    Intent,
    Load,
    LoadMode,
    LoadSummary,
    LogLine,
    Mode,
    ModelVersion,
    Objective,
    Observed,
    Outcome,
    Output,
    OwnedField,
    Package,
    PackageKind,
    Percentiles,
    Phase,
    Plan,
    Prediction,
    RegisteredModel,
    Rehearsal,
    Release,
    Service,
    Signature,
    Step,
    StepState,
    TargetKind,
    TestResult,
    Tick,
    Timing,
    Trailing,
    ValueKind,
    Verdict,
    VersionDetails,
    VersionRef,
    WayIn,
    may_follow,
    spec_differences,
)
from services.errors import Conflict, InferenceFailed, NotFound, NotOffered, SlipwayError
from services.histogram import Histogram
from services.latency import Recorder, Slice
from services.manifests import canary_not_offered
from services.ports import (
    Journal,
    LoadEngine,
    Packager,
    Predictor,
    Registry,
    Report,
    Run,
    Serving,
    Store,
    StoredRuns,
    no_report,
)
from services.tally import Answerer

START = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)

WINE = Signature(
    inputs=(ColumnSpec("alcohol", ValueKind.DOUBLE), ColumnSpec("hue", ValueKind.DOUBLE)),
    outputs=(ColumnSpec("cultivar", ValueKind.LONG),),
)
WINE_EXAMPLE = json.dumps(
    {"dataframe_split": {"columns": ["alcohol", "hue"], "data": [[13.2, 1.05]]}}
)


@dataclass
class Clock:
    """A clock that moves when told to, or when somebody sleeps."""

    at: datetime = START

    def now(self) -> datetime:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


class MemoryRegistry:
    """ports.Registry over dicts."""

    def __init__(self) -> None:
        self.by_model: dict[str, dict[int, ModelVersion]] = {}
        self.details_of: dict[VersionRef, VersionDetails] = {}
        self.aliases: dict[str, dict[str, int]] = {}
        self.files: dict[VersionRef, dict[str, bytes]] = {}
        self.broken: SlipwayError | None = None
        self.calls = 0

    def add(
        self,
        model: str,
        number: int | None = None,
        *,
        signature: Signature | None = WINE,
        example: str | None = WINE_EXAMPLE,
        metrics: dict[str, float] | None = None,
        aliases: tuple[str, ...] = (),
        version: ModelVersion | None = None,
    ) -> VersionRef:
        versions = self.by_model.setdefault(model, {})
        ref = VersionRef(model, number or max(versions, default=0) + 1)
        versions[ref.number] = replace(
            version or ModelVersion(ref, source=f"models:/m-{ref.number}"),
            ref=ref,
            metrics=metrics or {"accuracy": 0.9 + ref.number / 100},
            params={"C": str(ref.number)},
            created_at=START + timedelta(days=ref.number),
            run_id=f"run{ref.number}",
        )
        self.details_of[ref] = VersionDetails(
            ref=ref,
            signature=signature,
            example=example,
            requirements=("scikit-learn==1.9.1",),
            python_version="3.11.7",
            mlflow_version="3.17.2",
            flavors={"sklearn": {"serialization_format": "skops"}},
            files=(),
        )
        self.files[ref] = {"MLmodel": f"flavors: {{}} # {ref}".encode()}
        for alias in aliases:
            self.aliases.setdefault(model, {})[alias] = ref.number
        return ref

    def _look(self) -> None:
        self.calls += 1
        if self.broken is not None:
            raise self.broken

    def models(self) -> Sequence[RegisteredModel]:
        self._look()
        return tuple(
            RegisteredModel(
                name,
                aliases=dict(self.aliases.get(name, {})),
                latest_number=max(versions, default=None),
                version_count=len(versions),
                created_at=START,
                updated_at=START,
            )
            for name, versions in sorted(self.by_model.items())
        )

    def versions(self, model: str) -> Sequence[ModelVersion]:
        self._look()
        if model not in self.by_model:
            raise NotFound(
                f"There is no registered model {model!r}.", fix="Look at `slipway models`."
            )
        return tuple(self._with_aliases(v) for _, v in sorted(self.by_model[model].items())[::-1])

    def version(self, ref: VersionRef | AliasRef) -> ModelVersion:
        versions = {v.ref.number: v for v in self.versions(ref.model)}
        if isinstance(ref, VersionRef):
            number: int | None = ref.number
        elif ref.alias == LATEST:
            number = max(versions, default=None)
        else:
            number = self.aliases.get(ref.model, {}).get(ref.alias)
        if number is None or number not in versions:
            there = ", ".join(sorted(self.aliases.get(ref.model, {}))) or "none"
            raise NotFound(f"There is no {ref}.", why=f"Aliases: {there}.")
        return versions[number]

    def details(self, ref: VersionRef) -> VersionDetails:
        self._look()
        if ref not in self.details_of:
            raise NotFound(f"There is no {ref}.")
        return self.details_of[ref]

    def download(self, ref: VersionRef, into: Path, report: Report = no_report) -> None:
        self._look()
        if ref not in self.files:
            raise NotFound(f"There is no {ref}.")
        for name, content in self.files[ref].items():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            (into / name).write_bytes(content)
        report("downloaded", 1.0)

    def set_alias(self, alias: AliasRef, number: int) -> None:
        self.version(VersionRef(alias.model, number))
        self.aliases.setdefault(alias.model, {})[alias.alias] = number

    def check(self) -> Sequence[Finding]:
        if self.broken is not None:
            return (Finding("registry", Verdict.FAIL, self.broken.what, self.broken.fix),)
        return (Finding("registry", Verdict.PASS, "in memory"),)

    def _with_aliases(self, version: ModelVersion) -> ModelVersion:
        pointing = self.aliases.get(version.ref.model, {}).items()
        names = tuple(sorted(a for a, number in pointing if number == version.ref.number))
        return replace(version, aliases=names)


class MemoryPackager:
    """ports.Packager: a package is a name and a digest of the version's."""

    def __init__(self) -> None:
        self.made: list[VersionRef] = []
        self.gone: set[str] = set()
        self.fails: Finding | None = None
        """What an outlook finds instead of the truth."""
        self.found: tuple[Finding, ...] = ()
        """What a check of the packages' place finds."""
        self.asked: list[tuple[PackageKind | None, bool]] = []
        """What packages were asked for as: kind, own environment."""

    def propose(self, version: ModelVersion) -> Package:
        digest = f"{abs(hash(str(version.ref))):064x}"[:64]
        return Package(PackageKind.FOLDER, f"/packages/{version.ref}", digest, 1024)

    def make(self, version: ModelVersion, report: Report = no_report) -> Package:
        if version.ref not in self.made:
            self.made.append(version.ref)
            report(f"copied {version.ref}", 1.0)
        return self.propose(version)

    def check(self) -> Sequence[Finding]:
        return self.found

    def outlook(self, version: ModelVersion) -> Finding:
        if self.fails is not None:
            return self.fails
        package = self.propose(version)
        made = version.ref in self.made and package.uri not in self.gone
        said = "Copied already." if made else f"Will be copied: {package.size_bytes:,} bytes."
        return Finding("package", Verdict.PASS, said)

    def exists(self, package: Package) -> Finding:
        if package.uri in self.gone:
            return Finding(
                "package", Verdict.FAIL, f"{package.uri} is gone.", "Deploy the version."
            )
        return Finding("package", Verdict.PASS, f"{package.uri} is whole.")


@dataclass
class _Held:
    """What the memory target knows of one service."""

    intent: Intent
    release: int
    workload: int
    stable: int | None
    generation: int
    answering: tuple[Answering, ...] = ()
    failure: Cause | None = None
    settled: bool = False
    settled_at: datetime | None = None
    managed: bool = True
    owner: str = ""


class MemoryServing:
    """ports.Serving: rolls out when looked at, unless told to hold or to fail."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.held: dict[str, _Held] = {}
        self.applied: list[Plan] = []
        self.fails: dict[VersionRef, Cause] = {}
        self.hold: set[str] = set()
        self.via = WayIn.LOOPBACK
        self.asleep: set[str] = set()
        """Services without pods; a request to their own address wakes them."""
        self.leaving: set[str] = set()
        """Services of which a pod is on its way out."""
        self.owned: tuple[OwnedField, ...] = ()
        """What the next plan sets of what others own."""
        self.wakes = True
        self.edited: dict[str, Intent] = {}
        """Service → what somebody else's edit made of it since; the next plan's write restores."""
        self.without_url = 0
        """So many looks find no URL yet."""
        self.broken: SlipwayError | None = None

    def _look(self) -> None:
        if self.broken is not None:
            raise self.broken

    def services(self) -> Sequence[Service]:
        self._look()
        return tuple(self._service(name) for name in sorted(self.held))

    def service(self, name: str) -> Service | None:
        self._look()
        return self._service(name) if name in self.held else None

    def _service(self, name: str) -> Service:
        held = self.held[name]
        seen = self.observe(name)
        self.without_url -= 1
        release = next(
            (r for r in self.world.journal.history(name) if r.number == held.release), None
        )
        if seen.stopped:
            phase = Phase.STOPPED
        elif seen.failure:
            phase = Phase.FAILED
        else:
            phase = Phase.READY if seen.model_ready else Phase.ROLLING_OUT
        return Service(
            name=name,
            target=self.world.target,
            namespace=self.world.namespace,
            mode=held.intent.mode,
            managed=held.managed,
            object_version=str(held.generation),
            intent=self.edited.get(name, held.intent),
            recorded=held.intent if release else None,
            release=held.release or None,
            phase=phase,
            message=seen.failure.what if seen.failure else "",
            answering=seen.answering,
            stable=held.stable,
            url="http://127.0.0.1:1234" if self.without_url < 0 else None,
            since=START,
            actor=release.actor if release else "",
            verified=bool(release and release.verified),
            drift=tuple(
                Drift(change.field, change.before, change.after, "kubectl-edit")
                for change in spec_differences(held.intent, self.edited.get(name, held.intent))
            ),
            owner=held.owner,
            asleep=name in self.asleep,
            leaving=name in self.leaving,
        )

    def default_intent(self, intent: Intent) -> Intent:
        if self.world.kind is TargetKind.LOCAL:
            return replace(intent, mode=Mode.LOCAL, port=intent.port or 1234)
        known = self.held.get(intent.service)
        asked = self.world.mode if intent.mode is Mode.LOCAL else intent.mode
        mode = known.intent.mode if known else asked
        if intent.canary_percent is not None and mode is not Mode.KNATIVE:
            raise canary_not_offered(intent.service)
        return replace(intent, mode=mode, port=None)

    def rehearse(self, plan: Plan) -> Rehearsal:
        self._look()
        findings = [Finding("target", Verdict.PASS, "in memory")]
        if self.owned and set(self.owned) <= set(plan.takes):
            findings.append(Finding(checks.OWNERSHIP, Verdict.WARN, "Taken over."))
        elif self.owned:
            findings.append(
                Finding(checks.DRY_RUN, Verdict.FAIL, "Others own what it sets.", refusal=Conflict)
            )
        return Rehearsal(
            manifest=f"metadata: {{name: {plan.service}, namespace: {plan.namespace}}}\n",
            findings=tuple(findings),
            owned=self.owned,
        )

    def apply(self, plan: Plan, release: Release) -> Applied:
        self._look()
        held = self.held.get(plan.service)
        if held is not None and held.release == release.number:
            return Applied(release.number, str(held.generation))
        seen = str(held.generation) if held else None
        if seen != plan.based_on:
            raise Conflict(
                f"{plan.service} changed while you were looking. Nothing was changed.",
                fix="Look at the new plan and confirm it again.",
            )
        if not set(self.owned) <= set(plan.takes):
            raise Conflict(f"{plan.service} has fields that others own. Nothing was changed.")
        self.owned = ()
        self.edited.pop(plan.service, None)
        self.applied.append(plan)
        if plan.action is Action.ADOPT and held is not None:
            held.managed, held.release, held.workload = True, release.number, release.workload
            return Applied(release.number, str(held.generation))
        if plan.after is None:
            del self.held[plan.service]
            return Applied(release.number, "")
        self.held[plan.service] = _Held(
            intent=plan.after,
            release=release.number,
            workload=release.workload,
            stable=plan.stable,
            generation=(held.generation if held else 0) + 1,
            answering=held.answering if held else (),
        )
        return Applied(release.number, str(self.held[plan.service].generation))

    def observe(self, name: str) -> Observed:
        self._look()
        held = self.held.get(name)
        at = self.world.clock.now()
        if held is None:
            return Observed(name, at, exists=False)
        if held.intent.stopped:
            held.answering = ()
            return Observed(name, at, wanted_release=held.release, caught_up=True, stopped=True)
        ref = held.intent.version
        if not held.settled and name not in self.hold and ref is not None:
            held.settled, held.settled_at = True, at
            held.failure = self.fails.get(ref)
            if held.failure is None:
                held.answering = self._split(held)
        ready = held.settled and held.failure is None
        done = StepState.DONE if ready else StepState.RUNNING
        return Observed(
            service=name,
            seen_at=at,
            wanted_release=held.release,
            wanted_version=ref,
            caught_up=True,
            desired=1,
            updated=1 if ready else 0,
            total=1,
            available=1 if ready else 0,
            model_ready=ready,
            traffic_as_wanted=ready,
            failure=held.failure,
            asleep=name in self.asleep,
            test=self._test(held),
            test_detail="" if held.intent.example else "the version has no input example",
            answering=held.answering,
            steps=(
                Step("model loaded", done, held.settled_at or at, 1.0 if ready else None),
                Step(TEST_STEP, self._test_state(held) if ready else StepState.PENDING, at),
            ),
        )

    def _test_state(self, held: _Held) -> StepState:
        """What is known of the test of a release that is ready: on a cluster, what is recorded."""
        if self.via is WayIn.LOOPBACK:
            return StepState.DONE if held.intent.example else StepState.SKIPPED
        history = self.world.journal.history(held.intent.service)
        outcome = next((r.outcome for r in history if r.number == held.release), None)
        return {
            Outcome.VERIFIED: StepState.DONE,
            Outcome.SERVING: StepState.SKIPPED,
            Outcome.FAILED: StepState.FAILED,
        }.get(outcome or Outcome.OPEN, StepState.RUNNING)

    def _test(self, held: _Held) -> TestResult:
        """Behind an ingress it is a cluster, which leaves the test inference to rollout."""
        if self.via is not WayIn.LOOPBACK:
            return TestResult.NOT_RUN
        return TestResult.PASS if held.intent.example else TestResult.COULD_NOT_MEASURE

    def _split(self, held: _Held) -> tuple[Answering, ...]:
        share = held.intent.canary_percent
        mine = Answering(held.intent.version, held.workload, 100 if share is None else share)
        if share is None:
            return (mine,)
        other = next((a for a in held.answering if a.release == held.stable), None)
        # As in Knative, where only the version before has a tag until the newest one is given it.
        local = self.world.kind is TargetKind.LOCAL
        named = "" if local else f"http://prev-{held.intent.service}.test"
        rest = replace(other, percent=100 - share, address=named) if other else None
        return (rest, mine) if rest else (mine,)

    def logs(
        self,
        name: str,
        *,
        container: str | None = None,
        previous: bool = False,
        tail: int = 200,
        follow: bool = False,
    ) -> Iterator[LogLine]:
        self._need(name)
        yield LogLine(START, name, "Uvicorn running on http://127.0.0.1:8080")

    def containers(self, name: str) -> Sequence[str]:
        self._need(name)
        local = self.world.kind is TargetKind.LOCAL
        return () if local else ("storage-initializer", "kserve-container")

    def events(self, name: str) -> Sequence[LogLine]:
        self._need(name)
        return (LogLine(START, name, "started"),)

    def endpoint(self, name: str, release: int | None = None) -> Endpoint:
        held = self._need(name)
        if not held.answering and release is None:
            raise NotFound(f"{name} has no way in yet.", fix=f"Look at `slipway status {name}`.")
        if name in self.asleep and release is not None:
            raise NotFound(f"No pod of release {release} of {name} is ready.")
        return Endpoint("http://127.0.0.1:1234", name, self.via, release=release)

    def check(self) -> Sequence[Finding]:
        if self.broken is not None:
            return (Finding("target", Verdict.FAIL, self.broken.what, self.broken.fix),)
        return (Finding("target", Verdict.PASS, "in memory"),)

    def _need(self, name: str) -> _Held:
        self._look()
        if name not in self.held:
            raise NotFound(f"There is no service {name!r}.", fix="Look at `slipway status`.")
        return self.held[name]


class MemoryJournal:
    """ports.Journal over lists."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.by_service: dict[str, list[Release]] = {}

    def history(self, service: str) -> Sequence[Release]:
        return tuple(reversed(self.by_service.get(service, [])))

    def histories(self) -> Mapping[str, Sequence[Release]]:
        return {service: self.history(service) for service in self.by_service}

    def begin(self, plan: Plan, actor: str, reason: str) -> Release:
        releases = self.by_service.setdefault(plan.service, [])
        same = next((r for r in releases if r.operation == plan.nonce), None)
        if same is not None:
            return same
        if releases and releases[-1].outcome is Outcome.OPEN:
            holder = releases[-1]
            raise Conflict(
                f"Another operation on {plan.service} is open. Nothing was changed.",
                why=f"{holder.actor} began release {holder.number} ({holder.intent.version}).",
                fix="Wait for it, then look at the new plan.",
            )
        intent = plan.after or plan.before
        assert intent is not None
        number = len(releases) + 1
        release = Release(
            number=number,
            service=plan.service,
            action=plan.action,
            intent=intent,
            actor=actor,
            reason=reason,
            created_at=self.clock.now(),
            operation=plan.nonce,
            workload=plan.workload or number,
            rolled_back_from=plan.rolled_back_from,
            rolled_back_to=plan.rolled_back_to,
            alias=plan.alias,
            rollback_on_failure=plan.rollback_on_failure,
        )
        releases.append(release)
        return release

    def close(
        self, release: Release, outcome: Outcome, cause: Cause | None = None, *, late: bool = False
    ) -> Release:
        releases = self.by_service[release.service]
        place = release.number - 1
        kept = releases[place]
        if may_follow(kept.outcome, outcome, late=late):
            releases[place] = replace(
                kept,
                outcome=outcome,
                cause=cause,
                settled_at=self.clock.now(),
                late=late and outcome is not Outcome.FAILED,
            )
        return releases[place]


class MemoryPredictor:
    """ports.Predictor that answers every request with one number."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.fails: InferenceFailed | None = None
        self.cut = False
        """Answers are longer than is read."""
        self.behind: VersionRef | InferenceFailed | None = None
        """What the service's own address answers while it lags behind the pods."""
        self.pods_answer_as: VersionRef | None = None
        """The version that a release's own pods name, where it is not theirs."""
        self.sent: list[InferRequest] = []
        self.tells: Signature | None = None
        """What servers say that their model takes."""

    def ready(self, endpoint: Endpoint, timeout_s: float = 2.0) -> bool:
        return True

    def signature(self, endpoint: Endpoint, timeout_s: float = 2.0) -> Signature | None:
        return self.tells

    def infer(
        self, endpoint: Endpoint, request: InferRequest, timeout_s: float = 30.0
    ) -> Prediction:
        if self.fails is not None:
            raise self.fails
        self.sent.append(request)
        if self.world.serving.wakes:
            self.world.serving.asleep.discard(endpoint.model_name)
        behind = self.behind if endpoint.release is None else self.pods_answer_as
        if isinstance(behind, InferenceFailed):
            raise behind
        held = self.world.serving.held.get(endpoint.model_name)
        sides = [s for s in held.answering if endpoint.release in {None, s.release}] if held else []
        side = max(sides, key=lambda a: a.percent, default=None)
        return Prediction(
            outputs=()
            if self.cut
            else (Output("output-1", "INT64", (request.rows, 1), (1,) * request.rows),),
            cut=self.cut,
            http_status=200,
            timing=Timing(0.001, 0.004, 0.0005),
            url=endpoint.base_url + request.path,
            via=endpoint.via,
            protocol=request.protocol,
            raw=b'{"outputs": []}',
            version=behind or (side.version if side else None),
            release=endpoint.release or (side.release if side else None),
        )


LOAD_BEGAN_AT = datetime(2026, 3, 1, 14, 30, tzinfo=UTC)
_FAST = Percentiles(0.004, 0.006, 0.007, 0.009, None, 0.012, 0.0045)


class MemoryLoad:
    """ports.RunningLoad: even traffic, as fast as it is read."""

    def __init__(
        self,
        load: Load,
        objective_met: bool | None = None,
        answered: Sequence[Mapping[str, int]] = (),
        taking: Mapping[str, float] | None = None,
    ) -> None:
        self.stopped = False
        self.objective_met = objective_met
        self.answered = answered
        self.taking = taking or {}
        self._coming = self._told(load)

    def __iter__(self) -> Iterator[Tick | LoadSummary]:
        return self

    def __next__(self) -> Tick | LoadSummary:
        return next(self._coming)

    def stop(self) -> None:
        self.stopped = True

    def close(self) -> None:
        self._coming = iter(())

    def _told(self, load: Load) -> Iterator[Tick | LoadSummary]:
        rate = load.rate or 100.0
        for second in range(int(load.duration_s)):
            if self.stopped:
                break
            # The last one's goes on.
            by_version = self.answered[min(second, len(self.answered) - 1)] if self.answered else {}
            yield Tick(
                float(second + 1),
                int(rate),
                {},
                rate,
                _FAST,
                _FAST,
                {1: int(rate)},
                by_version=by_version,
                so_far=_FAST,
                trailing={"p50": Trailing(0.005, 1.0)},
            )
        count = min(int(rate * load.duration_s), load.max_requests)
        mixed = Counter[str]()
        for second_answers in self.answered:
            mixed.update(second_answers)
        summary = LoadSummary(
            requests=count,
            ok=count,
            errors={},
            duration_s=load.duration_s,
            rate=rate,
            target_rate=load.rate if load.mode is LoadMode.STEADY_RATE else None,
            response=_FAST,
            service=_FAST,
            lateness_p99_s=0.0002,
            client_limited=False,
            verdict="The load engine was not the limit.",
            objective_met=self.objective_met,
            by_release={1: count},
            by_version=dict(mixed),
            histogram=((0.005, count // 2), (0.012, count - count // 2)),
            began_at=LOAD_BEGAN_AT,
        )
        if self.taking:
            recorded = self._recorded()
            summary = replace(
                summary,
                response_by_version=recorded.response_by_version,
                response_blocks_by_version=recorded.response_blocks_by_version,
            )
        yield summary

    def _recorded(self) -> LoadSummary:
        """The answers as the real arithmetic tells them, each version's spread evenly by 20 %."""
        recorder = Recorder()
        for second, by_version in enumerate(self.answered):
            piece = Slice(float(second + 1))
            for version, count in by_version.items():
                times = Histogram()
                spread = (0.9 + 0.2 * at / count for at in range(count))
                times.record_all([round(self.taking[version] * each * 1e9) for each in spread])
                piece.response[Answerer(version=version)] = times
                piece.service.merge(times)
            recorder.add(piece)
        return recorder.summary(span_s=float(len(self.answered)))


class MemoryEngine:
    """ports.LoadEngine that reports even traffic."""

    def __init__(self) -> None:
        self.loads: list[Load] = []
        self.objective_met: bool | None = None
        self.answered: Sequence[Mapping[str, int]] = ()
        """Answers by version, second by second; without it answers name releases alone."""
        self.taking: Mapping[str, float] = {}
        """Seconds that a version takes; without them a run tells no times by version."""

    def run(self, load: Load) -> MemoryLoad:
        self.loads.append(load)
        return MemoryLoad(load, self.objective_met, self.answered, self.taking)


class MemoryStore:
    """ports.Store over lists."""

    def __init__(self) -> None:
        self.audit: list[AuditEntry] = []
        self.kept: list[Run] = []
        self.kept_examples: dict[str, dict[str, str]] = {}
        self.objectives: dict[tuple[str, str, str], Objective] = {}
        self.broken: SlipwayError | None = None

    def intend(self, entry: AuditEntry) -> int:
        if self.broken is not None:
            raise self.broken
        known = self.open_entry(entry.nonce) if entry.nonce else None
        if known is not None and known.id is not None:
            return known.id
        self.audit.append(replace(entry, id=len(self.audit) + 1))
        return len(self.audit)

    def outcome(
        self,
        audit_id: int,
        outcome: Outcome,
        detail: str = "",
        release: int | None = None,
        *,
        late: bool = False,
    ) -> None:
        entry = self.audit[audit_id - 1]
        late = late or entry.outcome is Outcome.TIMEOUT
        if not may_follow(entry.outcome, outcome, late=late):
            return
        self.audit[audit_id - 1] = replace(
            entry, outcome=outcome, detail=detail, release=release, settled_at=entry.at
        )

    def entries(
        self, *, service: str | None = None, target: str | None = None, limit: int = 200
    ) -> Sequence[AuditEntry]:
        if self.broken is not None:
            raise self.broken
        found = [
            entry
            for entry in reversed(self.audit)
            if (service is None or entry.service == service)
            and (target is None or entry.target == target)
        ]
        return tuple(found[:limit])

    def open_entry(self, nonce: str) -> AuditEntry | None:
        return next((entry for entry in self.audit if entry.nonce == nonce), None)

    def save_run(self, run: Run) -> int:
        self.kept.append(replace(run, id=len(self.kept) + 1))
        return len(self.kept)

    def runs(
        self,
        *,
        service: str | None = None,
        target: str | None = None,
        namespace: str | None = None,
        limit: int = 100,
        ids: Collection[int] = (),
    ) -> StoredRuns:
        mine = [
            run
            for run in reversed(self.kept)
            if service in (None, run.service)
            and target in (None, run.target)
            and namespace in (None, run.namespace)
        ]
        return StoredRuns(tuple(run for at, run in enumerate(mine) if at < limit or run.id in ids))

    def objective(self, target: str, namespace: str, service: str) -> Objective:
        return self.objectives.get((target, namespace, service), Objective())

    def keep_objective(
        self, target: str, namespace: str, service: str, objective: Objective
    ) -> None:
        self.objectives[target, namespace, service] = objective

    def save_example(self, model: str, name: str, body: str) -> None:
        self.kept_examples.setdefault(model, {})[name] = body

    def examples(self, model: str) -> Mapping[str, str]:
        return dict(sorted(self.kept_examples.get(model, {}).items()))

    def check(self) -> Sequence[Finding]:
        verdict = Verdict.FAIL if self.broken else Verdict.PASS
        return (Finding("store", verdict, self.broken.what if self.broken else "in memory"),)


@dataclass
class World:
    """The state behind the ports, and Ops for the pages, the CLI and the journeys."""

    target: str = "local"
    kind: TargetKind = TargetKind.LOCAL
    namespace: str = ""
    server: str = "test-machine"
    protected: bool = False
    mode: Mode = Mode.STANDARD
    """Of new services, unless the kind is `local`."""
    clock: Clock = field(default_factory=Clock)
    registry: MemoryRegistry = field(default_factory=MemoryRegistry)
    packager: MemoryPackager = field(default_factory=MemoryPackager)
    engine: MemoryEngine = field(default_factory=MemoryEngine)
    store: MemoryStore = field(default_factory=MemoryStore)

    def __post_init__(self) -> None:
        self.journal = MemoryJournal(self.clock)
        self.serving = MemoryServing(self)
        self.predictor = MemoryPredictor(self)

    def serves(self, service: str, verified: Sequence[int] = (1,), *, model: str = "") -> None:
        """Deploy the given version numbers one after the other, each verified."""
        from services import preparing, rollout

        for number in verified:
            ref = VersionRef(model or service, number)
            if ref not in self.registry.details_of:
                self.registry.add(ref.model, number)
            prepared = preparing.prepare_deploy(self, str(ref), name=service)
            rollout.apply(prepared.plan, self, actor="ana", version=prepared.version)
            rollout.settle(self, service, now=self.clock.now)

    def foreign(self, service: str, owner: str = "") -> None:
        """A service that others made: it answers, and nothing of it is on record."""
        package = Package(PackageKind.GCS, f"gs://elsewhere/{service}")
        intent = Intent(service, None, package, self.mode)
        self.serving.held[service] = _Held(
            intent=intent, release=0, workload=0, stable=None, generation=1, settled=True,
            answering=(Answering(None, None, 100),), managed=False, owner=owner,
        )  # fmt: skip

    def following(self, _service: str) -> AbstractContextManager[None]:
        return nullcontext()

    def packaging(
        self, kind: PackageKind | None = None, *, own_environment: bool = False
    ) -> MemoryPackager:
        if self.kind is TargetKind.LOCAL and (
            kind not in {None, PackageKind.FOLDER} or own_environment
        ):
            raise NotOffered(f"The target {self.target} loads folders of this machine.")
        self.packager.asked.append((kind, own_environment))
        return self.packager

    def wanted_version(self, service: str) -> VersionRef | None:
        """The version that the service is wanted to serve."""
        held = self.serving.held.get(service)
        return held.intent.version if held else None


def _twins_fit_their_ports(world: World) -> None:
    """Checked by mypy alone: each twin has its port's form."""
    registry: Registry = world.registry
    packager: Packager = world.packager
    serving: Serving = world.serving
    journal: Journal = world.journal
    predictor: Predictor = world.predictor
    engine: LoadEngine = world.engine
    store: Store = world.store
    del registry, packager, serving, journal, predictor, engine, store
