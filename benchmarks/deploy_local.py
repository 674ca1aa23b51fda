"""Click to verified on this machine, against a bare `mlserver start` of the same model.

    python benchmarks/deploy_local.py [--rounds 5]

Bare: from starting `mlserver start` to the answer of the first inference. Slipway: from `apply` of
a first deployment (no supervisor runs yet) to the release recorded as verified, which includes the
same first inference. Rounds alternate A B B A, so that a machine that gets slower meets both.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from services.domain import Outcome
from services.local.process import free_ports, run_files
from tests.machine import EXAMPLE, Machine, eventually, save_models


def bare_s(machine: Machine) -> float:
    """Seconds from `mlserver start` to the first inference."""
    http, grpc, metrics = free_ports(3)
    folder = Path(tempfile.mkdtemp(dir=machine.root))
    for name, text in run_files(machine.intent(1), http, grpc, metrics).items():
        (folder / name).write_text(text)
    start = time.perf_counter()
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("mlserver")), "start", "."],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    base = f"http://127.0.0.1:{http}"
    while not _answers(f"{base}/v2/models/wine/ready"):
        assert process.poll() is None, "mlserver ended"
        time.sleep(0.05)
    request = urllib.request.Request(
        f"{base}/invocations", EXAMPLE.encode(), {"content-type": "application/json"}
    )
    urllib.request.urlopen(request).read()
    took_s = time.perf_counter() - start
    process.terminate()
    process.wait()
    return took_s


def slipway_s(machine: Machine, name: str) -> float:
    """Seconds from `apply` of a first deployment to its release being verified."""
    plan = machine.deploy_plan(1, name)
    start = time.perf_counter()
    release = machine.apply(plan)
    path = machine.root / "services" / name / "releases" / "000001.json"
    while '"open"' in path.read_text():
        time.sleep(0.01)
    took_s = time.perf_counter() - start
    assert machine.outcome(release).outcome is Outcome.VERIFIED
    machine.end()
    return took_s


def idle_cpu_ratio(machine: Machine, over_s: float = 20.0) -> float:
    """Share of one core that the supervisor of a service takes while nobody asks."""
    machine.deploy(1, "idle")
    process = machine.supervisor("idle")
    before = process.cpu_times()
    time.sleep(over_s)
    after = process.cpu_times()
    machine.end()
    return (after.user + after.system - before.user - before.system) / over_s


def _answers(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
        return bool(answer.status == 200)
    return False


def _row(name: str, times: list[float]) -> str:
    return (
        f"| {name} | {statistics.median(times):.2f} s | {min(times):.2f}–{max(times):.2f} s |"
        f" {', '.join(f'{value:.2f}' for value in times)} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        models = save_models(Path(folder) / "models")
        machine = Machine(Path(folder) / "state", models)
        machine.root.mkdir()
        bare_s(machine)  # the first start reads the libraries from the disk
        bare: list[float] = []
        slipway: list[float] = []
        for turn in range(rounds):
            first = turn % 2 == 0
            if first:
                bare.append(bare_s(machine))
            slipway.append(slipway_s(machine, f"wine-{turn}"))
            if not first:
                bare.append(bare_s(machine))
            print(f"round {turn + 1}: bare {bare[-1]:.2f} s, slipway {slipway[-1]:.2f} s")
        idle = idle_cpu_ratio(machine)
        eventually(lambda: not machine.processes("idle"), 30)
    print(f"\n{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print("| | median | range | rounds |\n|---|---|---|---|")
    print(_row("bare `mlserver start`", bare))
    print(_row("Slipway, click to verified", slipway))
    extra = [ours - theirs for ours, theirs in zip(slipway, bare, strict=True)]
    print(_row("difference by round", extra))
    print(f"\nIdle supervisor with its gateway: {idle:.2%} of one core.")


if __name__ == "__main__":
    main()
