"""Row 10: a thousand InferenceServices: their list, and what keeping it current costs."""

from __future__ import annotations

import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from run import Bench, Table, spread

from dashboard import views
from services.cluster import Cluster
from services.journal import ClusterJournal
from services.kserve import KServeServing, collections
from services.watched import Watched
from tests.apiserver import PODS, SERVING, kubeconfig

TITLE = "1,000 InferenceServices"
GOAL = (
    "list at most 1.5 × the raw parse; typed pods at least 10 × slower; watching at most 1/20 of"
    " the CPU of asking every 2 s; a change is known within 1 s"
)
SERVICES = 1_000
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Stub:
    url: str
    list_bytes: int
    kubeconfig: Path


@contextmanager
def stub(folder: Path, *arguments: str) -> Iterator[tuple[Stub, subprocess.Popen[str]]]:
    """The API server of kube_stub.py until the block ends."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "kube_stub.py"), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        told = json.loads(process.stdout.readline())
        yield Stub(told["url"], told["list_bytes"], kubeconfig(folder, told["url"])), process
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


def cpu_of(act: Callable[[], Any]) -> float:
    began = time.process_time()
    act()
    return time.process_time() - began


def child_cpu_of(command: list[str]) -> float | None:
    """CPU seconds of a command; None when it failed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent if done.returncode == 0 else None


def peer_cpu(python: str, name: str, file: Path) -> float | None:
    done = subprocess.run(
        [python, str(HERE / "kube_peers.py"), name, str(file)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode:
        return None
    spent, count = json.loads(done.stdout)
    assert count >= SERVICES - 1, f"{name} saw {count} objects"
    return float(spent)


def rows(serving: KServeServing) -> list[Any]:
    """The list as a page and `slipway status` show it."""
    found = [views.service_row(service) for service in serving.services()]
    assert len(found) == SERVICES
    return found


def lists(bench: Bench, at: Stub, cluster: Cluster, reads: Watched) -> list[list[object]]:
    """CPU of one list: raw, ours, peers."""
    raw = cluster.raw("GET", SERVING, doing="read the raw list")
    body = raw.read()
    raw.release_conn()
    direct = KServeServing(cluster, "models", ClusterJournal(cluster, "models"))
    kept = KServeServing(
        cluster, "models", ClusterJournal(cluster, "models", reads=reads), reads=reads
    )
    rows(kept)
    ways: dict[str, Callable[[], Any]] = {
        "json.loads of the raw list": lambda: json.loads(body),
        "ours: the list of InferenceServices": lambda: cluster.items(SERVING, doing="list"),
        "ours: the list of pods": lambda: cluster.items(PODS, doing="list"),
        "ours: table, all read anew (four lists)": lambda: rows(direct),
        "ours: table, watched": lambda: rows(kept),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(2 if bench.quick else 8):
        for name, way in (*ways.items(), *reversed(ways.items())):
            times[name].append(cpu_of(way))
    python = shutil.which("kube-peers")
    foreign: dict[str, Callable[[], float | None]] = {
        "kubernetes 37: custom objects": lambda: peer_cpu(
            sys.executable, "kubernetes", at.kubeconfig
        ),
        "kubernetes 37: typed pods": lambda: peer_cpu(
            sys.executable, "kubernetes-pods", at.kubeconfig
        ),
    }
    if shutil.which("kubectl"):
        ask = ["kubectl", f"--kubeconfig={at.kubeconfig}", "get", "--raw", SERVING]
        foreign["kubectl get --raw (its whole process)"] = lambda: child_cpu_of(ask)
    if python:
        for name in ("lightkube", "kr8s"):
            foreign[name] = lambda name=name: peer_cpu(python, name, at.kubeconfig)  # type: ignore[misc]
    for name, measure in foreign.items():
        spent = [found for _ in range(1 if bench.quick else 3) if (found := measure()) is not None]
        if spent:
            times[name] = spent
        else:
            bench.say(f"{name} failed, so it is left out")
    base = statistics.median(times["json.loads of the raw list"])
    return [
        [name, spread([t * 1e3 for t in taken]), statistics.median(taken) / base]
        for name, taken in times.items()
    ]


def steady(bench: Bench, serving: KServeServing) -> float:
    """CPU per second of a process that lists every 2 s, while one object a second changes."""
    seconds = 8 if bench.quick else 40
    rows(serving)
    began, cpu = time.monotonic(), time.process_time()
    while time.monotonic() - began < seconds:
        time.sleep(2)
        serving.services()
    return (time.process_time() - cpu) / (time.monotonic() - began)


def freshness(bench: Bench, serving: KServeServing) -> list[float]:
    """Seconds from a change to the first read that shows it; reads every 50 ms."""
    found: list[float] = []
    last = ""
    until = time.monotonic() + (8 if bench.quick else 30)
    while time.monotonic() < until:
        time.sleep(0.05)
        service = serving.service("changing")
        assert service is not None
        assert service.intent is not None
        (told,) = (value for name, value in service.intent.env if name == "CHANGED_AT")
        if told != last and last:
            found.append(time.time() - float(told))
        last = told
    return found


def run(bench: Bench) -> Table:
    with tempfile.TemporaryDirectory() as name, stub(Path(name), "list", str(SERVICES)) as (at, _):
        cluster = Cluster(target="stub", context="stub", kubeconfig=at.kubeconfig)
        reads = Watched(cluster, collections("models"))
        journal = ClusterJournal(cluster, "models", reads=reads)
        try:
            lines = lists(bench, at, cluster, reads)
            bench.say("lists are done; now watching and asking")
            watching = steady(bench, KServeServing(cluster, "models", journal, reads=reads))
            asking = steady(
                bench, KServeServing(cluster, "models", ClusterJournal(cluster, "models"))
            )
            late = freshness(bench, KServeServing(cluster, "models", journal, reads=reads))
        finally:
            reads.close()
    listed = next(float(str(line[2])) for line in lines if "InferenceServices" in str(line[0]))
    pods = {str(line[0]): float(str(line[2])) for line in lines}
    slow = pods.get("kubernetes 37: typed pods")
    typed = "–" if slow is None else f"{slow / pods['ours: the list of pods']:.1f}"
    ratio = watching / asking
    return Table(
        ["one list of 1,000", "CPU, ms", "of json.loads"],
        lines,
        f"Our list costs {listed:.2f} × the raw parse (goal 1.5); typed pods cost {typed} × ours"
        f" (goal 10). Kept current, with the table made every 2 s, one change a second:"
        f" {watching * 100:.2f} % of a core by watches, {asking * 100:.1f} % by asking every 2 s,"
        f" 1/{1 / ratio:.0f} (goal 1/20). A change is known after {spread(late)} s (goal 1 s).",
        [
            f"The raw list has {at.list_bytes / 1e6:.1f} MB.",
            "CPU of our process, socket included; the scripted API server runs in another.",
            "What a page adds to the age of a change is its own period of drawing.",
        ],
    )
