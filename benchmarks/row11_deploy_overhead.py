"""Row 11: from the click to "settled", beside an apply and a wait for Ready of the same object."""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
import statistics
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import yaml
from row10_thousand_services import stub
from run import Bench, Table, spread

from services import planning, preparing, rollout
from services.bench import request_for_example
from services.cluster import APPLY_PATCH, Cluster
from services.domain import (
    Action,
    Intent,
    Load,
    LoadMode,
    LoadSummary,
    Mode,
    Outcome,
    Package,
    PackageKind,
    Plan,
    Resources,
    VersionRef,
)
from services.engine.run import ProcessEngine
from services.errors import SlipwayError
from services.gcs import GcsPackager
from services.journal import ClusterJournal
from services.kserve import KServeServing
from services.kubeconfig import contexts
from services.ports import RunningLoad
from services.watched import Direct
from tests.apiserver import SERVING
from tests.cluster.conftest import SIGNATURE, ClusterOps, _emulator, add, train
from tests.memory import MemoryRegistry

TITLE = "deploy and roll-back overhead"
GOAL = (
    "p95 at most 0.5 s over an apply and a wait for Ready; at most 3 writes; no failed request at"
    " 50/s during a roll-back"
)
EXAMPLE = json.dumps(
    {
        "dataframe_split": {
            "columns": [spec.name for spec in SIGNATURE.inputs],
            "data": [[13.0, 1.7, 2.4, 15.6]],
        }
    }
)


def ops_on(cluster: Cluster, namespace: str, registry: MemoryRegistry, folder: Path) -> ClusterOps:
    reads = Direct(cluster)
    journal = ClusterJournal(cluster, namespace, reads=reads)
    return ClusterOps(
        registry=registry,
        packager=GcsPackager("gs://unused/models", registry, folder),
        serving=KServeServing(cluster, namespace, journal, reads=reads),
        reads=reads,
        journal=journal,
        namespace=namespace,
        server="",
    )


def manifest_of(ops: ClusterOps, plan: Plan) -> dict[str, Any]:
    """What apply sends, for the peer to send."""
    made: dict[str, Any] = yaml.safe_load(ops.serving.rehearse(plan).manifest)
    return made


def settled(ops: ClusterOps, plan: Plan) -> float:
    """Click to settled, in seconds."""
    began = time.perf_counter()
    rollout.apply(plan, ops, actor="bench")
    outcome = Outcome.OPEN
    for progress in rollout.follow(ops, plan.service, timeout_s=90):
        outcome = progress.outcome
    assert outcome is Outcome.VERIFIED, outcome
    return time.perf_counter() - began


def p95(values: list[float]) -> float:
    ordered = sorted(values)
    return ordered[math.ceil(0.95 * len(ordered)) - 1]


# ── On the scripted API server ────────────────────────────────────────────────────────────────


def raw_apply_and_wait(cluster: Cluster, manifest: dict[str, Any], name: str) -> float:
    """What kubectl apply and kubectl wait send: a PATCH and a watch. Gives when Ready was seen."""
    began = time.time()
    cluster.send(
        "PATCH",
        f"{SERVING}/{name}",
        doing="apply",
        query={"fieldManager": "kubectl"},
        body=manifest,
        content_type=APPLY_PATCH,
    )
    response = cluster.raw(
        "GET",
        SERVING,
        doing="wait",
        query={"watch": "true", "timeoutSeconds": 60, "resourceVersion": "0"},
        read_timeout_s=60,
    )
    try:
        for chunk in response.stream(65536):
            for line in chunk.splitlines():
                thing = orjson.loads(line)["object"]
                status = thing.get("status") or {}
                conditions = status.get("conditions") or ()
                ready = {c["type"]: c["status"] for c in conditions}.get("Ready")
                mine = thing["metadata"]["name"] == name
                if mine and ready == "True" and status["readyAt"] > began:
                    return time.time()
    finally:
        response.close()
    raise AssertionError("the stub's controller did not make it ready")


@dataclass(frozen=True)
class Scripted:
    """Seconds after Ready on the scripted API server: ours to settled, the peer's to seen."""

    deploys: list[float]
    rollbacks: list[float]
    raw: list[float]
    raw_back: list[float]
    writes: int
    reads: int


AT_ONCE = 5
"""Services that roll at a time: the waits are seconds to tens of seconds, the work is none."""


def on_stub(bench: Bench, folder: Path) -> Scripted:
    low, high, services = (1, 3, 1) if bench.quick else (3, 20, 10)
    found = Scripted([], [], [], [], *counted(folder, low, high))
    with stub(folder, "roll", str(low), str(high)) as (at, _):
        cluster = Cluster(target="stub", context="stub", kubeconfig=at.kubeconfig)

        def roll(number: int) -> None:
            name = f"svc-{number}"
            ops = ops_on(cluster, "models", MemoryRegistry(), folder)
            plans = []
            for make in journey(ops, name):
                plan = make()
                settled(ops, plan)
                kept = found.rollbacks if plan.action is Action.ROLLBACK else found.deploys
                kept.append(time.time() - ready_at(at.url, name))
                plans.append(plan)
            peer = f"{name}-peer"
            for plan in plans:
                assert plan.after is not None
                mine = replace(plan, service=peer, after=replace(plan.after, service=peer))
                seen = raw_apply_and_wait(cluster, manifest_of(ops, mine), peer)
                kept = found.raw_back if plan.action is Action.ROLLBACK else found.raw
                kept.append(seen - ready_at(at.url, peer))
            bench.say(f"stub: {name} was deployed twice and rolled back twice, by both")

        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(roll, range(services)))
    return found


def journey(ops: ClusterOps, name: str) -> Iterator[Callable[[], Plan]]:
    """Two deploys and two roll-backs of one service, each planned when its turn comes."""
    for number in (1, 2):
        intent = Intent(
            name,
            VersionRef("wine", number),
            Package(PackageKind.GCS, f"gs://models/{name}/{number}"),
            Mode.STANDARD,
            signature=SIGNATURE,
            example=EXAMPLE,
        )
        yield partial(deploy_plan, ops, intent)
    for _ in range(2):
        yield partial(back_plan, ops, name)


def deploy_plan(ops: ClusterOps, intent: Intent) -> Plan:
    current = ops.serving.service(intent.service)
    return planning.plan_deploy(current, intent, target="bench", namespace=ops.namespace)


def back_plan(ops: ClusterOps, name: str) -> Plan:
    """To the newest verified release that is not live: the other one of two."""
    return planning.plan_rollback(preparing.require(ops, name), ops.journal.history(name))


def ready_at(url: str, name: str) -> float:
    """When the scripted controller made the service ready, seconds since the epoch."""
    live = json.load(urllib.request.urlopen(f"{url}{SERVING}/{name}", timeout=10))
    return float(live["status"]["readyAt"])


def counted(folder: Path, low: int, high: int) -> tuple[int, int]:
    """Most writes up to the object's own, and most reads until settled, of one operation alone."""
    writes = reads = 0
    with stub(folder, "roll", str(low), str(high)) as (at, process):
        cluster = Cluster(target="stub", context="stub", kubeconfig=at.kubeconfig)
        ops = ops_on(cluster, "models", MemoryRegistry(), folder)
        for make in journey(ops, "svc"):
            plan = make()
            asked = calls(process)
            settled(ops, plan)
            made = calls(process)[len(asked) :]
            writes = max(writes, len(counted_writes(made)))
            reads = max(
                reads, sum(1 for how, path, _ in made if how == "GET" and "pro" not in path)
            )
    return writes, reads


def calls(process: subprocess.Popen[str]) -> list[Any]:
    """Every request so far, as the stub counted it."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("calls\n")
    process.stdin.flush()
    found: list[Any] = json.loads(process.stdout.readline())
    return found


def counted_writes(made: list[Any]) -> list[str]:
    """Writes up to the object's own: Lease, release, PATCH; renewals and outcome come after."""
    writes = [
        path
        for how, path, query in made
        if how != "GET" and "proxy" not in path and "dryRun" not in query
    ]
    last = max((i for i, path in enumerate(writes) if "inferenceservices" in path), default=-1)
    return writes[: last + 1]


# ── On a cluster ──────────────────────────────────────────────────────────────────────────────


@contextmanager
def namespace_on(cluster: Cluster) -> Iterator[str]:
    name = f"slipway-bench-{secrets.token_hex(3)}"
    body = {"metadata": {"name": name, "labels": {"slipway.dev/test": "true"}}}
    cluster.send("POST", "/api/v1/namespaces", doing="make a namespace", body=body)
    try:
        yield name
    finally:
        cluster.send("DELETE", f"/api/v1/namespaces/{name}", doing="remove the namespace")


def kubectl_apply_and_wait(namespace: str, manifest: dict[str, Any], name: str) -> float:
    base = ["kubectl", f"--context={context_given()}", f"--namespace={namespace}"]
    began = time.perf_counter()
    subprocess.run(
        [*base, "apply", "--server-side", "-f", "-"],
        input=json.dumps(manifest),
        text=True,
        check=True,
        capture_output=True,
        timeout=60,
    )
    subprocess.run(
        [*base, "wait", "--for=condition=Ready", f"inferenceservice/{name}", "--timeout=180s"],
        check=True,
        capture_output=True,
        timeout=200,
    )
    return time.perf_counter() - began


def context_given() -> str:
    """The context of the cluster tier, else the kubeconfig's current one; "" without any."""
    current = (found.name for found in contexts() if found.current)
    return os.environ.get("SLIPWAY_TEST_CONTEXT") or next(current, "")


@dataclass(frozen=True)
class OnCluster:
    """Seconds from click to settled of ours, of kubectl's apply and wait, and of roll-backs."""

    ours: list[float]
    kubectl: list[float]
    rollbacks: list[float]
    load: LoadSummary
    """The stream while the roll-backs went on."""


def on_cluster(bench: Bench, folder: Path) -> OnCluster | str:
    """The figures; or why there are none."""
    context = context_given()
    if not context or not shutil.which("kubectl"):
        return "no context was given" if not context else "kubectl is not installed"
    cluster = Cluster(target="bench", context=context)
    try:
        cluster.identity()
    except SlipwayError as error:
        return str(error)
    bucket, emulator = os.environ.get("SLIPWAY_TEST_BUCKET", ""), ""
    if not bucket:
        emulator = _emulator(cluster)
        if not emulator:
            return "no bucket: set SLIPWAY_TEST_BUCKET"
        bucket = f"gs://slipway-bench-{secrets.token_hex(3)}/models"
        body = json.dumps({"name": bucket.split("/")[2]}).encode()
        ask = urllib.request.Request(f"{emulator}/storage/v1/b", body, method="POST")
        ask.add_header("Content-Type", "application/json")
        urllib.request.urlopen(ask, timeout=10).close()
    registry = MemoryRegistry()
    packager = GcsPackager(bucket, registry, folder / "staging", emulator=emulator)
    with namespace_on(cluster) as namespace:
        ops = replace(ops_on(cluster, namespace, registry, folder), packager=packager)
        intents = []
        for number, saved in train(folder).items():
            ref = add(registry, number, saved)
            intents.append(intent_of(ops, ref, packager.make(registry.version(ref))))
        ours, kubectl = by_turns(bench, ops, intents[0])
        rollbacks, load = rolled_back_under_load(bench, ops, intents)
        return OnCluster(ours, kubectl, rollbacks, load)


def intent_of(ops: ClusterOps, ref: VersionRef, package: Package) -> Intent:
    return ops.serving.default_intent(
        Intent(
            "wine",
            ref,
            package,
            Mode.STANDARD,
            resources=Resources(CPU, "700Mi"),
            signature=SIGNATURE,
            example=EXAMPLE,
            requirements=ops.registry.details(ref).requirements,
        )
    )


def by_turns(bench: Bench, ops: ClusterOps, like: Intent) -> tuple[list[float], list[float]]:
    ours: list[float] = []
    theirs: list[float] = []
    order = "ab" if bench.quick else "abba" * 3
    for turn, who in enumerate(order):
        name = f"wine-{turn}"
        plan = deploy_plan(ops, replace(like, service=name))
        if who == "a":
            ours.append(settled(ops, plan))
        else:
            manifest = manifest_of(ops, plan)
            theirs.append(kubectl_apply_and_wait(ops.namespace, manifest, name))
        bench.say(
            f"cluster {turn + 1} of {len(order)}: {(ours if who == 'a' else theirs)[-1]:.1f} s"
        )
        remove(ops, name)
    return ours, theirs


def remove(ops: ClusterOps, name: str) -> None:
    rollout.apply(planning.plan_delete(preparing.require(ops, name)), ops, actor="bench")
    while ops.serving.service(name) is not None:
        time.sleep(0.5)


STREAM_RATE = 50.0
CPU = "600m"
"""Of each server. One of 200m answers 40/s, and what waits in a full server is cut when it ends."""
BEFORE_S, AFTER_S = 3.0, 5.0
"""The stream goes on around each roll-back: old pods leave after it has settled."""


def rolled_back_under_load(
    bench: Bench, ops: ClusterOps, intents: list[Intent]
) -> tuple[list[float], LoadSummary]:
    """Seconds of each roll-back, and the stream to the service's address meanwhile."""
    took: list[float] = []
    for intent in intents:
        settled(ops, deploy_plan(ops, intent))
    run = ProcessEngine().run(stream_to(ops, "wine"))
    with ThreadPoolExecutor(1) as pool:
        summary = pool.submit(summary_of, run)
        time.sleep(BEFORE_S)
        for turn in range(1 if bench.quick else 3):
            took.append(settled(ops, back_plan(ops, "wine")))
            bench.say(f"cluster: roll-back {turn + 1} under load took {took[-1]:.1f} s")
            time.sleep(AFTER_S)
        run.stop()
        return took, summary.result(60)


def stream_to(ops: ClusterOps, name: str) -> Load:
    """A steady stream to the service's own address, longer than any roll-back."""
    endpoint = ops.serving.endpoint(name)
    request = request_for_example(SIGNATURE, EXAMPLE, model_name=endpoint.model_name)
    return Load(
        endpoint,
        (request,),
        LoadMode.STEADY_RATE,
        duration_s=600,
        rate=STREAM_RATE,
        concurrency=32,
    )


def summary_of(run: RunningLoad) -> LoadSummary:
    (found,) = [item for item in run if isinstance(item, LoadSummary)]
    return found


def run(bench: Bench) -> Table:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scripted = on_stub(bench, folder)
        lines: list[list[object]] = [
            line("scripted, deploy: ready → settled and verified", scripted.deploys),
            line("scripted, deploy: ready → seen by a raw apply and watch", scripted.raw),
            line("scripted, roll-back: ready → settled and verified", scripted.rollbacks),
            line("scripted, roll-back: ready → seen by a raw apply and watch", scripted.raw_back),
        ]
        notes = [
            f"Our reads of the API until settled: at most {scripted.reads} in one operation.",
            f"Scripted services rolled {AT_ONCE} at a time; writes and reads are of one alone.",
            "Not installed here: KServe's SDK. Its wait_isvc_ready polls every 10 s.",
        ]
        extra = p95(scripted.deploys) - statistics.median(scripted.raw)
        back = p95(scripted.rollbacks) - statistics.median(scripted.raw_back)
        met = max(extra, back) <= 0.5 and scripted.writes <= 3
        verdict = (
            f"p95 over the raw wait: deploy {extra:.2f} s, roll-back {back:.2f} s (goal 0.5),"
            f" {scripted.writes} writes (goal 3)"
        )
        found = on_cluster(bench, folder)
        if isinstance(found, str):
            notes.append(f"Not measured on a cluster: {found}.")
        else:
            lines += [
                line("cluster, click → settled and verified", found.ours),
                line("cluster, kubectl apply → kubectl wait", found.kubectl),
                line(f"cluster, roll-back at {STREAM_RATE:g} requests/s", found.rollbacks),
            ]
            more = statistics.median(found.ours) - statistics.median(found.kubectl)
            load, failed = found.load, sum(found.load.errors.values())
            met = met and not failed
            kinds = ", ".join(f"{count} {kind}" for kind, count in load.errors.items())
            verdict += (
                f"; {failed} of {load.requests} requests failed while rolling back"
                f" ({kinds or 'none'}; goal 0). On the cluster, medians: {more:+.2f} s"
            )
            if load.stopped or load.client_limited:
                notes.append(f"Of the stream: {load.stopped or load.verdict}")
            notes.append(
                "On the cluster both start a new service; ours ends with a test inference on the"
                " new pod, kubectl's with KServe's Ready. A roll-back by kubectl is not timed:"
                " Ready stays true from before, so its wait ends at once."
            )
        verdict += f": goal {'met' if met else 'missed'}."
    return Table(["", "n", "s", "p95, s"], lines, verdict, notes)


def line(what: str, seconds: list[float]) -> list[object]:
    return [what, len(seconds), spread(seconds), p95(seconds)]
