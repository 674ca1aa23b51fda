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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import yaml
from row10_thousand_services import stub
from run import Bench, Table, spread

from services import rollout
from services.cluster import APPLY_PATCH, Cluster
from services.domain import (
    Intent,
    Mode,
    Outcome,
    Package,
    PackageKind,
    Plan,
    Resources,
    VersionDetails,
    VersionRef,
)
from services.errors import SlipwayError
from services.gcs import GcsPackager
from services.journal import ClusterJournal
from services.kserve import KServeServing
from services.kubeconfig import contexts
from tests.apiserver import SERVING
from tests.cluster.conftest import SIGNATURE, ClusterOps, _emulator, add, train
from tests.memory import MemoryRegistry

TITLE = "deploy and roll-back overhead"
GOAL = "p95 at most 0.5 s over an apply and a wait for Ready; at most 3 writes"
EXAMPLE = json.dumps(
    {
        "dataframe_split": {
            "columns": [spec.name for spec in SIGNATURE.inputs],
            "data": [[13.0, 1.7, 2.4, 15.6]],
        }
    }
)


def ops_on(cluster: Cluster, namespace: str, registry: MemoryRegistry, folder: Path) -> ClusterOps:
    journal = ClusterJournal(cluster, namespace)
    return ClusterOps(
        registry=registry,
        packager=GcsPackager("gs://unused/models", registry, folder),
        serving=KServeServing(cluster, namespace, journal),
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


def on_stub(bench: Bench, folder: Path) -> tuple[list[float], list[float], int, int]:
    """Seconds from the moment it was ready to being settled, and to being seen Ready; calls."""
    low, high, trials = (1, 3, 3) if bench.quick else (3, 20, 20)
    ours: list[float] = []
    theirs: list[float] = []
    with stub(folder, "roll", str(low), str(high)) as (at, process):
        cluster = Cluster(target="stub", context="stub", kubeconfig=at.kubeconfig)
        ops = ops_on(cluster, "models", MemoryRegistry(), folder)
        writes = reads = 0
        for trial in range(trials):
            name = f"svc-{trial}"
            intent = Intent(
                name,
                VersionRef("wine", 1),
                Package(PackageKind.GCS, f"gs://models/{name}/2"),
                Mode.STANDARD,
                signature=SIGNATURE,
                example=EXAMPLE,
            )
            plan = rollout.plan_deploy(None, intent, target="stub", namespace="models")
            asked = calls(process)
            settled(ops, plan)
            live = json.load(urllib.request.urlopen(f"{at.url}{SERVING}/{name}", timeout=10))
            ours.append(time.time() - live["status"]["readyAt"])
            made = calls(process)[len(asked) :]
            writes = max(writes, len(counted_writes(made)))
            reads = max(
                reads, sum(1 for how, path, _ in made if how == "GET" and "pro" not in path)
            )
            manifest = manifest_of(
                ops,
                replace(
                    plan, service=f"{name}-peer", after=replace(intent, service=f"{name}-peer")
                ),
            )
            seen = raw_apply_and_wait(cluster, manifest, f"{name}-peer")
            live = json.load(urllib.request.urlopen(f"{at.url}{SERVING}/{name}-peer", timeout=10))
            theirs.append(seen - live["status"]["readyAt"])
            bench.say(
                f"stub {trial + 1} of {trials}: ours {ours[-1]:.2f} s, raw {theirs[-1]:.2f} s"
            )
    return ours, theirs, writes, reads


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


def on_cluster(bench: Bench, folder: Path) -> tuple[list[float], list[float]] | str:
    """Seconds of ours and of kubectl's, by turns; or why there are none."""
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
    ref = add(registry, 1, train(folder)[1])
    packager = GcsPackager(bucket, registry, folder / "staging", emulator=emulator)
    package = packager.make(registry.version(ref))
    details = registry.details(ref)
    with namespace_on(cluster) as namespace:
        ops = replace(ops_on(cluster, namespace, registry, folder), packager=packager)
        return by_turns(bench, cluster, ops, package, details)


def by_turns(
    bench: Bench, cluster: Cluster, ops: ClusterOps, package: Package, details: VersionDetails
) -> tuple[list[float], list[float]]:
    ours: list[float] = []
    theirs: list[float] = []
    order = "ab" if bench.quick else "abba" * 4
    for turn, who in enumerate(order):
        name = f"wine-{turn}"
        intent = ops.serving.default_intent(
            Intent(
                name,
                VersionRef("wine", 1),
                package,
                Mode.STANDARD,
                resources=Resources("200m", "700Mi"),
                signature=SIGNATURE,
                example=EXAMPLE,
                requirements=details.requirements,
            )
        )
        plan = rollout.plan_deploy(None, intent, target="bench", namespace=ops.namespace)
        if who == "a":
            ours.append(settled(ops, plan))
        else:
            manifest = manifest_of(ops, plan)
            theirs.append(kubectl_apply_and_wait(ops.namespace, manifest, name))
        bench.say(
            f"cluster {turn + 1} of {len(order)}: {(ours if who == 'a' else theirs)[-1]:.1f} s"
        )
        path = f"/apis/serving.kserve.io/v1beta1/namespaces/{ops.namespace}/inferenceservices"
        cluster.send("DELETE", f"{path}/{name}", doing="clean up")
        while ops.serving.service(name) is not None:
            time.sleep(0.5)
    return ours, theirs


def run(bench: Bench) -> Table:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours, theirs, writes, reads = on_stub(bench, folder)
        lines: list[list[object]] = [
            ["scripted, ready → settled and verified", spread(ours), p95(ours)],
            ["scripted, ready → seen by a raw apply and watch", spread(theirs), p95(theirs)],
        ]
        notes = [f"Our reads of the API until settled: at most {reads} in one deploy."]
        extra = p95(ours) - statistics.median(theirs)
        verdict = (
            f"p95 over the raw wait: {extra:.2f} s (goal 0.5), {writes} writes (goal 3):"
            f" goal {'met' if extra <= 0.5 and writes <= 3 else 'missed'}."
        )
        found = on_cluster(bench, folder)
        if isinstance(found, str):
            notes.append(f"Not measured on a cluster: {found}.")
        else:
            mine, kubectl = found
            lines += [
                ["cluster, click → settled and verified", spread(mine), p95(mine)],
                ["cluster, kubectl apply → kubectl wait", spread(kubectl), p95(kubectl)],
            ]
            more = statistics.median(mine) - statistics.median(kubectl)
            verdict += f" On the cluster, medians: {more:+.2f} s."
            notes.append(
                "On the cluster both start a new service; ours ends with a test inference on the"
                " new pod, kubectl's with KServe's Ready."
            )
    return Table(["", "s", "p95, s"], lines, verdict, notes)
